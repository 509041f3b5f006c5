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
    float *scratch; /* as many floats as ops->scratch said */
    int n_threads;
} lx_conv_call;

typedef struct lx_conv_ops {
    uint64_t (*packed)(const lx_conv *conv);                 /* floats of conv->packed */
    uint64_t (*scratch)(const lx_conv *conv, int n_threads); /* floats of one run */
    /* Repack from host memory; widened is room for shape elements of f32. */
    void (*pack)(const lx_weight *weight, const lx_weight *bias, lx_conv *conv, float *widened);
    void (*widen)(const lx_weight *weight, float *out);
    lx_status (*run)(const lx_conv_call *call, lx_err *err);
    void (*norm)(const lx_image *in, const float *gamma, bool silu, lx_image *out, int n_threads);
    void (*copy)(float *dst, const float *src, uint64_t n, int n_threads); /* must not overlap */
    void (*zero)(float *dst, uint64_t n);
    void (*crop)(const lx_image *in, int64_t y, int64_t x0, lx_image *out, int n_threads);
    void (*from_planes)(const float *planes, int64_t n_frames, int64_t first, const float *scale,
                        const float *shift, lx_image *out);
    void (*i420)(const lx_colour_args *args, uint8_t *out, int n_threads);
    void (*rgb8)(const lx_colour_args *args, uint8_t *out, int n_threads);
    void (*planes)(const lx_colour_args *args, float *out, int n_threads);
} lx_conv_ops;

extern const lx_conv_ops lx_conv_ops_cpu; /* kernels/cpu/conv.c */

/** Frame i of an image, its history included. */
static inline float *lx_image_frame(const lx_image *image, int64_t i)
{
    int64_t dense = image->height * image->width * image->channels;
    int64_t stride = image->frame_stride ? image->frame_stride : dense;
    if (!image->history[0])
        return image->data + i * stride;
    return i < 2 ? image->history[i] : image->data + (i - 2) * stride;
}

#endif
