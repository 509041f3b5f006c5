/*
 * cu_conv.h - the module's convolutions, channel norm, moving of images, and colour
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      conv.c and colour.c check, choose and pack; these launch.
 * Packed    A convolution's weights are bf16 (f16 for an F16 image) blocks in the order in which a
 *           tile of `bn` outputs reads them, each block the image of shared memory:
 *               [tile of outputs][row of taps: kt x kh][32 inputs][column of taps: kw][bn][32]
 *           zeros where channels end. Within a block, input k of output n lies at lx_cu_conv_place.
 *           Under nearest x2 the four phases of the output (y odd, x odd) are convolutions of 2x2
 *           taps on the small image: four such arrays, one after the other, phase 2 * (y odd) +
 *           (x odd).
 * Both      This header is read by C17 and by C++17.
 */
#ifndef CU_CONV_H
#define CU_CONV_H

#include "lx_cuda_module.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    LX_CU_CONV_K = 32, /* input channels of a block */
    LX_CU_AFFINE = 64, /* channels of lx_cu_affine */
};

/* Frames in device memory, [frame][y][x][channel]. */
typedef struct lx_cu_image {
    int dtype;
    int64_t frames, height, width, channels;
    int64_t stride; /* elements from one frame to the next */
    void *data;     /* frame 0, or frame 2 if there is a history; NULL: no image */
    void *history[2];
} lx_cu_image;

typedef struct lx_cu_conv {
    lx_cu_image in;  /* BF16, or tiles alone: F16; frames = out's + kt - 1 */
    lx_cu_image out; /* BF16, F16 or F32 */
    lx_cu_image residual;
    const void *packed;
    const float *bias; /* [c_out] */
    int kt, kh, kw;    /* taps as packed: 2 and 2 in space for the four phases */
    bool upsample;
    int bn; /* outputs of a tile: 96, 48, 32 or 8 */
    int bm; /* pixels of a tile: 256, or 128 (bn 96 only) */
} lx_cu_conv;

/* One factor and summand per channel. */
typedef struct lx_cu_affine {
    float scale[LX_CU_AFFINE], shift[LX_CU_AFFINE];
} lx_cu_affine;

/* lx_colour_args on the card. */
typedef struct lx_cu_colour {
    lx_cu_image in; /* 3 channels, F32 or BF16 */
    int64_t y, x, height, width;
    int64_t out_frame, out_y, out_x;
    int64_t out_frames, out_height, out_width;
} lx_cu_colour;

typedef struct lx_cuda_conv_ops {
    /* Tensor cores; in has a multiple of 8 channels. F16: products of a row of taps and 32 inputs
     * are summed in F16, then in F32; three columns of taps, no upsample, bn not 8. */
    int (*tiles)(lx_cuda_dev *dev, const lx_cu_conv *conv);
    /* Any channels, one output a thread; packed is the form without phases. */
    int (*plain)(lx_cuda_dev *dev, const lx_cu_conv *conv);
    /* in BF16, out BF16 or F16. */
    int (*norm)(lx_cuda_dev *dev, const lx_cu_image *in, const float *gamma, bool silu,
                const lx_cu_image *out);
    int (*crop)(lx_cuda_dev *dev, const lx_cu_image *in, int64_t y, int64_t x,
                const lx_cu_image *out);
    int (*from_planes)(lx_cuda_dev *dev, const float *planes, int64_t n_frames, int64_t first,
                       const lx_cu_affine *affine, const lx_cu_image *out);
    int (*i420)(lx_cuda_dev *dev, const lx_cu_colour *args, uint8_t *out);
    int (*rgb8)(lx_cuda_dev *dev, const lx_cu_colour *args, uint8_t *out);
    int (*planes)(lx_cuda_dev *dev, const lx_cu_colour *args, float *out);
} lx_cuda_conv_ops;

/* Where input k (< 32) of output n lies in a block: rows of 64 bytes whose four 16-byte parts
 * change places from row to row, so that eight rows read at once come from all banks. */
#ifdef __CUDACC__
__host__ __device__
#endif
    static inline int
    lx_cu_conv_place(int n, int k)
{
    return n * LX_CU_CONV_K + (((k >> 3) ^ ((n >> 1) & 3)) << 3) + (k & 7);
}

#ifdef __cplusplus
}
#endif

#endif
