/*
 * lx_conv.h - the VAE's convolutions, channel-last
 * SPDX-License-Identifier: Apache-2.0
 *
 * Layout    activations are [frame][y][x][C] f32. A causal 3-tap convolution reads a buffer whose
 *           first two frames are history (zeros at clip start, vae.md 3.2); it needs no other
 *           special case.
 * Formula   y[t,y,x,o] = b[o] + sum W[o,c,i,j,k] x[t + i, y - ph + j, x - pw + k, c], zero outside
 *           the image; then + residual[t,y,x,o] if given.
 * Numbers   f32 products and sums, order fixed by shape only, so that chunking, tiling and thread
 *           count change nothing (or at most 1e-6).
 * Tests     tests/kernels/test_conv.c
 */
#ifndef LX_CONV_H
#define LX_CONV_H

#include "lx_exec.h"
#include "weights/lx_weights.h"

typedef struct lx_image {
    int64_t frames, height, width, channels;
    float *data; /* [frames, height, width, channels] */
} lx_image;

/* A convolution's weights, repacked once at load: [kt*kh*kw*Cin, Cout] f32, tap-major. */
typedef struct lx_conv {
    int64_t c_in, c_out, kt, kh, kw; /* 3x3x3, 3x1x1, 1x3x3, 1x1x1 */
    float *packed;                   /* borrowed from the arena of lx_conv_load */
    float *bias;                     /* [c_out] */
} lx_conv;

/** Repack weight [o, i, kt, kh, kw] or [o, i, kh, kw] and bias [o] into the arena (f32). */
lx_status lx_conv_load(lx_exec *x, const lx_weight *weight, const lx_weight *bias, lx_conv *out,
                       lx_err *err);

/**
 * in->frames = out->frames + kt - 1 (the history first); spatial zero padding (kh-1)/2, (kw-1)/2.
 * upsample: read in at half resolution through nearest x2 (out is 2H x 2W): the resamplers.
 * residual: NULL, or like out.
 */
lx_status lx_conv_run(lx_exec *x, const lx_conv *conv, const lx_image *in, bool upsample,
                      const lx_image *residual, lx_image *out, lx_err *err);
void lx_conv_ref(const lx_conv *conv, const lx_image *in, bool upsample, const lx_image *residual,
                 lx_image *out);

/** Channel norm y = x / max(|x|_2, 1e-12) * sqrt(C) * gamma, then SiLU if asked. gamma [C]. */
lx_status lx_channel_norm(lx_exec *x, const lx_image *in, const float *gamma, bool silu,
                          lx_image *out, lx_err *err);
void lx_channel_norm_ref(const lx_image *in, const float *gamma, bool silu, lx_image *out);

#endif
