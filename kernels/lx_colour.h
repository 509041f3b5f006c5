/*
 * lx_colour.h - decoded RGB into what leaves the VAE: I420 video, 8-bit RGB, clamped planes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   R, G, B = (clamp(v, -1, 1) + 1) / 2, gamma-encoded as they come.
 *   I420    BT.709 limited range: Y' = 0.2126 R + 0.7152 G + 0.0722 B, Y = 16 + 219 Y',
 *           Cb = 128 + 224 (B - Y') / 1.8556, Cr = 128 + 224 (R - Y') / 1.5748, to nearest.
 *           Chroma sits left: the mean of two rows, taps 1/4 1/2 1/4 around the even column; the
 *           image's own edge is repeated.
 *   rgb8    floor(255 (v + 1) / 2 + 1/2)
 *   planes  v clamped, f32
 * Source    ITU-R BT.709; chroma sited left, as H.264 has it unless told otherwise
 * Tests     tests/kernels/test_colour.c: (255, 0, 0) is Y 63, U 102, V 240;
 *           tests/gpu/test_cuda_colour.c
 */
#ifndef LX_COLOUR_H
#define LX_COLOUR_H

#include "lx_conv.h"

/* A window of decoded frames and where it lands in the clip. The window may have neighbours in
 * `in` (the halo of a tile): chroma then reads them, so that tiles join without a seam. */
typedef struct lx_colour_args {
    const lx_image *in;                        /* 3 channels R, G, B; F32 or x->rows */
    int64_t y, x, height, width;               /* the window of in; all even for I420 */
    int64_t out_frame, out_y, out_x;           /* its first frame and corner in the output */
    int64_t out_frames, out_height, out_width; /* the output's size in pixels; even for I420 */
} lx_colour_args;

/* Outputs are in device memory. The definitions take F32 images on the host. */

/** out U8 [out_frames, out_height * 3/2, out_width]: per frame Y, then U, then V, tightly packed
 *  (U and V are [out_height/2, out_width/2]). LX_EJOB: odd sides, or a window outside. */
lx_status lx_colour_i420(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
void lx_colour_i420_ref(const lx_colour_args *args, uint8_t *out);

/** out U8 [3, out_frames, out_height, out_width]. */
lx_status lx_colour_rgb8(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
void lx_colour_rgb8_ref(const lx_colour_args *args, uint8_t *out);

/** out F32 [3, out_frames, out_height, out_width], in [-1, 1]. A NaN stays a NaN. */
lx_status lx_colour_planes(lx_exec *x, const lx_colour_args *args, float *out, lx_err *err);

#endif
