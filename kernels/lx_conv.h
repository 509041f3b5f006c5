/*
 * lx_conv.h - the VAE's convolutions, channel-last
 * SPDX-License-Identifier: Apache-2.0
 *
 * Layout    activations are [frame][y][x][C] in device memory, F32 on the CPU and BF16 on a card
 *           (x->rows). A causal 3-tap convolution reads an image whose first two frames are history
 *           (zeros at clip start); it needs no other special case. The two may lie
 *           apart from the rest (lx_image.history), so that keeping them is a copy of two frames
 *           and never a copy of a chunk.
 * Formula   y[t,y,x,o] = b[o] + sum W[o,c,i,j,k] x[t + i, y - ph + j, x - pw + k, c], zero outside
 *           the image; then + residual[t,y,x,o] if given.
 * Numbers   sums in f32, rounded once to the output's type; order fixed by shapes and by even
 *           positions in space only: chunking, thread count and windows cut at even places change
 *           nothing. A card has weights in BF16, and sums the taps that fall on one pixel under
 *           `upsample` before it rounds them. Convolutions of what a norm made may be of F16
 *           images and weights there (lx_conv_load_normed): products of a row of taps and 32
 *           inputs are then summed in F16, these sums in f32.
 * Tests     tests/kernels/test_conv.c, tests/gpu/test_cuda_conv.c
 */
#ifndef LX_CONV_H
#define LX_CONV_H

#include "lx_exec.h"
#include "weights/lx_weights.h"

typedef struct lx_image {
    lx_dtype dtype; /* x->rows; also F32 or x->value for what a convolution makes, x->value for what
                       a norm makes and a convolution wants */
    int64_t frames, height, width, channels;
    void *data;           /* [frames, height, width, channels]; borrowed, usually from an arena */
    int64_t frame_stride; /* elements from one frame to the next; 0 = dense */
    /* Both NULL, or frames 0 and 1, [height, width, channels] each; data is then frame 2. */
    void *history[2];
} lx_image;

/* A convolution's weights, repacked once at load into the form that its device wants. */
typedef struct lx_conv {
    int64_t c_in, c_out, kt, kh, kw; /* 3x3x3, 3x1x1, 1x3x3, 1x1x1 */
    lx_dtype input;                  /* what it reads: x->rows, or F16 */
    void *packed;                    /* borrowed from the arena of lx_conv_load */
    float *bias;                     /* [c_out] */
} lx_conv;

/** Repack weight [o, i, kt, kh, kw] or [o, i, kh, kw] and bias [o], any float dtype, from host
 *  memory into the arena. LX_ECONFIG names the tensor and the shape that was expected. */
lx_status lx_conv_load(lx_exec *x, const lx_weight *weight, const lx_weight *bias, lx_conv *out,
                       lx_err *err);
/** The same for a convolution whose input is lx_channel_norm's, of this gain [c_in] (on the host,
 *  any float dtype). Where x->sums says so and the largest sums that can be stay finite, a card
 *  then wants that input in F16: out->input. */
lx_status lx_conv_load_normed(lx_exec *x, const lx_weight *weight, const lx_weight *bias,
                              const lx_weight *gain, lx_conv *out, lx_err *err);
/** A vector of n (the gain of a channel norm) from host memory into the arena as f32. LX_ECONFIG
 *  likewise. */
lx_status lx_gain_load(lx_exec *x, const lx_weight *weight, int64_t n, float **out, lx_err *err);

/**
 * in->frames = out->frames + kt - 1 (the history first); spatial zero padding (kh-1)/2, (kw-1)/2.
 * upsample: read in at half resolution through nearest x2 (out is 2H x 2W): the resamplers, 3x3.
 * residual: NULL, or of x->rows and out's size; it may be out itself. in must not overlap out.
 * in: of conv->input. out: of x->rows, x->value or F32.
 */
lx_status lx_conv_run(lx_exec *x, const lx_conv *conv, const lx_image *in, bool upsample,
                      const lx_image *residual, lx_image *out, lx_err *err);
/** The definition, in f64, from F32 weights as a checkpoint has them; images F32, on the host. */
void lx_conv_ref(const lx_weight *weight, const lx_weight *bias, const lx_image *in, bool upsample,
                 const lx_image *residual, lx_image *out);

/** Channel norm y = x / max(|x|_2, 1e-12) * sqrt(C) * gamma, then SiLU if asked. gamma [C].
 *  out may be in itself. in: of x->rows; out: of x->rows or x->value. Statistics in f64 (a card:
 *  f32), SiLU in f32. */
lx_status lx_channel_norm(lx_exec *x, const lx_image *in, const float *gamma, bool silu,
                          lx_image *out, lx_err *err);
void lx_channel_norm_ref(const lx_image *in, const float *gamma, bool silu, lx_image *out);

/* --- moving images --------------------------------------------------------------------------- */

/** An uninitialised dense image of x->rows from the arena. LX_EJOB: a size is not positive or too
 *  large. */
lx_status lx_image_take(lx_exec *x, int64_t frames, int64_t height, int64_t width, int64_t channels,
                        lx_image *out, lx_err *err);
/** The same of another type; shape is [frames, height, width, channels]. */
lx_status lx_image_take_as(lx_exec *x, lx_dtype dtype, const lx_shape *shape, lx_image *out,
                           lx_err *err);

/** The history of a convolution over images like `like`: two zero frames from the arena. */
lx_status lx_history_take(lx_exec *x, int64_t height, int64_t width, int64_t channels,
                          void *history[2], lx_err *err);
lx_status lx_history_clear(lx_exec *x, int64_t height, int64_t width, int64_t channels,
                           void *history[2], lx_err *err);
/** After a convolution has read `in`: keep the last two frames of its stream for the next chunk.
 *  in->history must be `history`; the two pointers may trade places. */
lx_status lx_history_keep(lx_exec *x, const lx_image *in, void *history[2], lx_err *err);

/** Copy the window of `in` whose corner is (y, x0) into out; out's size is the window's. */
lx_status lx_image_crop(lx_exec *x, const lx_image *in, int64_t y, int64_t x0, lx_image *out,
                        lx_err *err);

/**
 * Channel-first to channel-last with one multiply and add per channel:
 * out[t,y,x,c] = planes[c, first + t, y, x] * scale[c] + shift[c].
 * planes [C, n_frames, H, W] f32 in device memory; scale and shift [C] on the host, C <= 64.
 */
lx_status lx_image_from_planes(lx_exec *x, const float *planes, int64_t n_frames, int64_t first,
                               const float *scale, const float *shift, lx_image *out, lx_err *err);

#define LX_IMAGE_SLICE ((size_t)4 << 20)

/** Frame i (history included) as dense f32 [height, width, channels] in host memory. Waits. Scratch
 *  comes from the arena: on a card at most LX_IMAGE_SLICE bytes (or one pixel). */
lx_status lx_image_download(lx_exec *x, const lx_image *image, int64_t i, float *out, lx_err *err);

/** Frame i of an image, its history included. */
static inline void *lx_image_frame(const lx_image *image, int64_t i)
{
    int64_t dense = image->height * image->width * image->channels;
    int64_t stride = image->frame_stride ? image->frame_stride : dense;
    if (image->history[0] && i < 2)
        return image->history[i];
    int64_t element = (image->history[0] ? i - 2 : i) * stride;
    return (char *)image->data + element * (int64_t)lx_dtype_size(image->dtype);
}

/** The same of an F32 image, in host memory. */
static inline float *lx_image_f32(const lx_image *image, int64_t i)
{
    int64_t dense = image->height * image->width * image->channels;
    int64_t stride = image->frame_stride ? image->frame_stride : dense;
    if (image->history[0] && i < 2)
        return (float *)image->history[i];
    return (float *)image->data + (image->history[0] ? i - 2 : i) * stride;
}

#endif
