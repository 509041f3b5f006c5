/*
 * lx_norm.h - row norms, fused with modulation and quantization
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   rms:   y = g * x / sqrt(mean(x^2) + eps)
 *           layer: y = (x - mean) / sqrt(var + eps), population variance; then * weight + bias if
 *                  given, then * (1 + scale) + shift if given
 *           The result is written as the next linear wants it: f32, or quantized per row.
 * Numbers   statistics in f64 on the CPU; one rounding per element to f32, then quantization.
 * Source    Wan2.1 wan/modules/model.py and t5.py
 * Tests     tests/kernels/test_norm.c
 */
#ifndef LX_NORM_H
#define LX_NORM_H

#include "lx_linear.h"

typedef enum lx_norm_kind { LX_NORM_RMS, LX_NORM_LAYER } lx_norm_kind;

typedef struct lx_norm {
    lx_norm_kind kind;
    float eps;               /* 1e-6 everywhere in Wan2.1 */
    const lx_weight *weight; /* [cols] or NULL */
    const lx_weight *bias;   /* [cols] or NULL */
    const float *shift;      /* [cols] modulation or NULL */
    const float *scale;      /* [cols] modulation or NULL; applied as (1 + scale) */
} lx_norm;

/** in [rows, cols] f32 -> out (its dtype decides; F32, x->rows or codes). in and out->data may be
 *  the same for F32. shift and scale are f32 in device memory. */
lx_status lx_norm_rows(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out, lx_err *err);
void lx_norm_rows_ref(const float *in, const lx_norm *norm, lx_act *out);

#endif
