/*
 * cu_linear.h - the module's products, what follows a product, and conversions of rows
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A linear is a product into a band of sums, acc [m, n], and then one kernel that reads
 *           the sums once while they lie in the second-level cache: scale, bias, activation,
 *           factors, gate, residual, rounding or quantization. linear.c cuts the bands.
 * Sums      acc[m][n] = sum_k x[m][k] w[n][k]: s32 (exact) for I8, else f32.
 * Both      This header is read by C17 and by C++17.
 */
#ifndef CU_LINEAR_H
#define CU_LINEAR_H

#include "lx_cuda_module.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LX_CU_FEW_ROWS  8   /* rows that `few` takes at most */
#define LX_CU_SHORT_ROW 256 /* columns up to which rows of F32 are multiplied as they are */

typedef struct lx_cu_product {
    int dtype; /* of x and w: LX_CU_I8, LX_CU_BF16 or LX_CU_F8_E4M3; LX_CU_F32: not by cuBLASLt */
    int64_t m, n, k;
    const void *x; /* [m, k] */
    const void *w; /* [n, k] */
    void *acc;     /* [m, n], rows ld apart */
    int64_t ld;    /* elements */
    void *scratch; /* of cuBLASLt */
    size_t scratch_bytes;
} lx_cu_product;

/* Few rows of f32: reading the weights, once, is all the time there is. */
typedef struct lx_cu_few {
    int64_t m, n, k; /* m <= LX_CU_FEW_ROWS */
    const float *x;  /* [m, k] */
    lx_cu_vec w;     /* [n, k] of any float type */
    float *acc;      /* [m, n], rows ld apart */
    int64_t ld;
} lx_cu_few;

enum { LX_CU_PLAIN, LX_CU_GELU, LX_CU_SILU }; /* as lx_activation */

/* y = x_scale[m] * (w_scale[n] * float(acc)) + bias[n], the last two steps one fused multiply-add;
 * then activation, mul, gate, residual or store. */
typedef struct lx_cu_epilogue {
    int64_t m, n;
    const void *acc; /* dense [m, n] */
    bool acc_is_s32;
    const float *x_scale; /* [m] or NULL: 1 */
    const float *w_scale; /* [n] or NULL: 1 */
    lx_cu_vec bias;       /* [n] or absent */
    int activation;
    lx_cu_mat mul;     /* [m, n] of F32 or BF16; data NULL: none */
    const float *gate; /* [n] or NULL */
    bool add_to_out;   /* out is F32 */
    lx_cu_mat out;     /* [m, n] of F32, BF16, F16, I8 or F8_E4M3; the last two need all columns */
    float *out_scale;  /* [m] for I8 and F8_E4M3 */
} lx_cu_epilogue;

typedef struct lx_cuda_linear_ops {
    int (*product)(lx_cuda_dev *dev, const lx_cu_product *p);
    int (*few)(lx_cuda_dev *dev, const lx_cu_few *p);
    int (*epilogue)(lx_cuda_dev *dev, const lx_cu_epilogue *e);
    /* out (F32, BF16, F16, I8, F8_E4M3) <- in (F32, BF16); scale [rows] for codes */
    int (*quantize)(lx_cuda_dev *dev, const lx_cu_mat *in, const lx_cu_mat *out, float *scale);
    /* n numbers of any float type as BF16, rounded once */
    int (*to_bf16)(lx_cuda_dev *dev, lx_cu_vec in, int64_t n, void *out);
} lx_cuda_linear_ops;

#ifdef __cplusplus
}
#endif

#endif
