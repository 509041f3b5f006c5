/*
 * lx_linear.h - matrix products with everything around them
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   acc[m,n] = sum_k x[m,k] w[n,k];  y = epilogue(scale * acc + bias)
 *   float   w BF16/F16/F32 widened to f32, x f32, f32 accumulation.
 *   INT8    x quantized per row (scale = absmax/127, half to even), exact s32 sums,
 *           y = s_x[m] * (s_w[n] * float(acc)) + bias[n], last multiply-add fused (vLLM semantics).
 *   FP8     x quantized per row to e4m3 (scale = absmax/448), f32 sums, same epilogue.
 * Epilogue, in this order; y is f32:
 *   bias -> gelu (tanh form) or silu -> mul (y *= mul[m,n]) -> gate (y *= gate[n]) -> residual
 *   (out[m,n] += y instead of out[m,n] = y)
 * Shapes    M, N, K >= 1, any value; K <= 2^17 for INT8 (the sums stay exact in s32).
 * Tests     tests/kernels/test_linear.c against lx_linear_ref
 */
#ifndef LX_LINEAR_H
#define LX_LINEAR_H

#include "lx_exec.h"
#include "weights/lx_weights.h"

/* Activations as a linear reads them: dense rows of numbers, or codes with one scale per row. */
typedef struct lx_act {
    lx_dtype dtype; /* F32, the exec's rows, I8 or F8_E4M3 */
    int64_t rows, cols;
    void *data;   /* [rows, cols] */
    float *scale; /* [rows] for I8 and F8_E4M3; else NULL */
} lx_act;

/** The activation dtype that a weight wants: I8 -> I8; F8_E4M3 with scale -> F8_E4M3 where the
 *  device multiplies it; else x->rows. A float weight also takes F32 (on a card: up to 8 rows, or
 *  up to 256 columns, are multiplied in f32; all else is rounded to x->rows). */
lx_dtype lx_linear_act_dtype(const lx_exec *x, const lx_weight *w);

/** Take an lx_act of the given kind from the arena. */
lx_status lx_act_take(lx_exec *x, lx_dtype dtype, int64_t rows, int64_t cols, lx_act *out,
                      lx_err *err);

/** out <- quantize (or convert) in, F32 or x->rows, per row into out's dtype. An all-zero row gets
 *  zero codes and scale 0 for I8/F8. */
lx_status lx_quantize_rows(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err);

/** `rows` as the linear of weight w wants to read them: themselves if they are dense and of the
 *  right dtype, else converted or quantized into the arena. */
lx_status lx_act_of(lx_exec *x, const lx_mat *rows, const lx_weight *w, lx_act *out, lx_err *err);

typedef enum lx_activation {
    LX_ACTIVATION_NONE,
    LX_ACTIVATION_GELU,
    LX_ACTIVATION_SILU
} lx_activation;

typedef struct lx_epilogue {
    const lx_weight *bias; /* [N] any float dtype; NULL: none */
    lx_activation activation;
    const lx_mat *mul; /* [M, N] of F32 or x->rows, or NULL */
    const float *gate; /* [N] or NULL */
    bool add_to_out;   /* residual: out += y */
    /* [M] or NULL: each row's sum of y^2, for lx_qk_norm. A card alone, and only where out is
     * x->rows and there is no mul, gate or residual. */
    float *square;
} lx_epilogue;

/**
 * out [M, N] <- epilogue(in [M, K] x w [N, K]^T); out is F32, x->rows or x->value, rounded once;
 * its stride lets q, k, v be written into one buffer. add_to_out needs F32. in->dtype must be
 * lx_linear_act_dtype(w), or F32 for a float weight. w may have more than two dims: [N, K...] is
 * flattened (patch embedding).
 */
lx_status lx_linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *epilogue,
                    const lx_mat *out, lx_err *err);

/** The same, with the result as the next linear reads it: out, taken before, says as what. mul,
 *  gate and add_to_out are not served. The result is f32 before it is quantized. */
lx_status lx_linear_to_act(lx_exec *x, const lx_act *in, const lx_weight *w,
                           const lx_epilogue *epilogue, lx_act *out, lx_err *err);

/** The definition, all F32: plain f64 loops (f32 rounding where the formula says so). */
void lx_linear_ref(const lx_act *in, const lx_weight *w, const lx_epilogue *epilogue, float *out,
                   int64_t out_stride);
void lx_quantize_rows_ref(const float *in, lx_act *out);

#endif
