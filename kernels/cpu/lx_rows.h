/*
 * lx_rows.h - loops over one row, compiled once per instruction set
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      lx_rows_impl.h holds the loops as plain C; lx_rows_base.c, _avx2.c and _avx512.c
 *           compile it with that instruction set and the processor decides which table is used.
 *           No intrinsics: the compilers vectorise these loops.
 * Promise   The same bits from every table: sums run in a fixed number of lanes that are added in
 *           a fixed order, nothing is contracted, the one fused multiply-add is written fmaf.
 * Tests     tests/kernels/test_rows.c compares the tables bit by bit
 */
#ifndef LX_ROWS_H
#define LX_ROWS_H

#include "lx_linear.h"

#define LX_LANES 32 /* partial sums of a dot product: four AVX2 or two AVX-512 registers */

/* What follows a product, for n consecutive outputs of one row. */
typedef struct lx_row_epilogue {
    float x_scale;        /* of the row; used only with w_scale */
    const float *w_scale; /* [n] or NULL */
    const float *bias;    /* [n] or NULL */
    lx_activation activation;
    const float *mul;  /* [n] or NULL */
    const float *gate; /* [n] or NULL */
    bool add_to_out;
} lx_row_epilogue;

/* y = (x - mean) * rstd * weight + bias, then * (1 + scale) + shift; NULL: left out. */
typedef struct lx_row_affine {
    double mean, rstd;
    const float *weight, *bias, *scale, *shift;
} lx_row_affine;

typedef struct lx_rows {
    const char *name;
    /* Any float dtype to f32, exact (F64 rounds). */
    void (*widen)(float *out, const void *in, lx_dtype dtype, int64_t n);

    /* Largest magnitude; NaN if there is a NaN. */
    float (*absmax)(const float *in, int64_t n);
    /* rint(in * inv), clamped to +-127; NaN becomes 0. */
    void (*quantize_i8)(int8_t *out, const float *in, int64_t n, float inv);
    /* e4m3(in / scale), clamped to +-448. */
    void (*quantize_e4m3)(uint8_t *out, const float *in, int64_t n, float scale);

    /* lanes[i % LX_LANES] += a[i] * b[i]: a dot product in pieces (of a multiple of LX_LANES). */
    void (*dot)(float *lanes, const float *a, const float *b, int64_t n);
    float (*lane_sum)(const float *lanes);

    /* acc, f32 or s32, becomes out; see lx_row_epilogue. acc is overwritten. */
    void (*finish_f32)(const lx_row_epilogue *e, float *acc, float *out, int64_t n);
    void (*finish_s32)(const lx_row_epilogue *e, int32_t *acc, float *out, int64_t n);
    void (*silu)(float *out, const float *in, int64_t n);
    void (*axpby)(float *out, float a, const float *in, float b, int64_t n);

    double (*sum)(const float *in, int64_t n);
    double (*sum_squares)(const float *in, int64_t n, double mean); /* of in - mean */
    void (*affine)(float *out, const float *in, int64_t n, const lx_row_affine *a);
    /* Pairs (a, b) -> (a c - b s, b c + a s); table [n/2] of (c, s). */
    void (*rotate)(float *x, const float *table, int64_t n);

    /* s += rel + key_bias (either may be NULL); returns the maximum. */
    float (*score_max)(float *s, const float *rel, const float *key_bias, int64_t n);
    /* s = exp(s - max); returns the sum. */
    float (*exp_sum)(float *s, int64_t n, float max);
    void (*scale)(float *x, int64_t n, float factor);
} lx_rows;

extern const lx_rows lx_rows_base, lx_rows_avx2, lx_rows_avx512;

/** The fastest table of this processor. */
const lx_rows *lx_rows_best(void);
/** Table i (0 base, 1 avx2, 2 avx512) or NULL if the processor or the build lacks it: for tests. */
const lx_rows *lx_rows_at(int i);

#endif
