/*
 * lx_conv_ops.h - what a device implements for the convolution and colour families
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The family's front (lx_conv.c, lx_colour.c) checks arguments, takes scratch from the
 *           arena and stops there in a dry run; what is called through this table may rely on all
 *           of it. Not for model code.
 */
#ifndef LX_CONV_OPS_H
#define LX_CONV_OPS_H

#include "lx_colour.h"
#include "lx_conv.h"

/* One checked convolution. */
typedef struct lx_conv_call {
    const lx_conv *conv;
    const lx_image *in;
    bool upsample;
    const lx_image *residual; /* or NULL */
    lx_image *out;
    void *scratch; /* as many bytes as ops->scratch said */
} lx_conv_call;

typedef struct lx_conv_ops {
    uint64_t (*packed)(const lx_conv *conv);                    /* bytes of conv->packed */
    uint64_t (*scratch)(const lx_exec *x, const lx_conv *conv); /* bytes of one run */
    /* The type that its input should have, from f32 weights and the gain of the norm before it;
     * both NULL: from its shape alone. The member itself NULL: always x->rows. */
    lx_dtype (*input)(const lx_exec *x, const lx_conv *conv, const float *weight,
                      const float *gain);
    /* Repack f32 weights of shape [o, i, kt, kh, kw], host memory to host memory. */
    void (*pack)(const lx_conv *conv, const float *weight, void *packed);
    lx_status (*run)(lx_exec *x, const lx_conv_call *call, lx_err *err);
    lx_status (*norm)(lx_exec *x, const lx_image *in, const float *gamma, bool silu, lx_image *out,
                      lx_err *err);
    /* Inside the device; must not overlap. */
    lx_status (*copy)(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err);
    lx_status (*crop)(lx_exec *x, const lx_image *in, int64_t y, int64_t x0, lx_image *out,
                      lx_err *err);
    lx_status (*from_planes)(lx_exec *x, const float *planes, int64_t n_frames, int64_t first,
                             const float *scale, const float *shift, lx_image *out, lx_err *err);
    lx_status (*i420)(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
    lx_status (*rgb8)(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err);
    lx_status (*planes)(lx_exec *x, const lx_colour_args *args, float *out, lx_err *err);
} lx_conv_ops;

extern const lx_conv_ops lx_conv_ops_cpu; /* kernels/cpu/conv.c */

#endif
