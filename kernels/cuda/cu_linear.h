/*
 * cu_linear.h - the module's products, what follows a product, and conversions of rows
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A linear is a product into a band of sums, acc [m, n], and then one kernel that reads
 *           the sums once while they lie in the second-level cache: scale, bias, activation,
 *           factors, gate, residual, rounding or quantization. linear_plan.c cuts the bands.
 * INT8      The large INT8 linears finish their sums in registers instead: one kernel, no sums in
 *           memory (lx_cu_int8). Only a quantized output needs a second look at its rows, and that
 *           is work for idle warps of the next band's kernel.
 * FP8       The same by two of these designs, with E4M3 for I8: lx_cu_int8.is_fp8.
 * BF16      The same by one of them, Hopper's: lx_cu_int8.is_bf16.
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

enum { LX_CU_PLAIN, LX_CU_GELU, LX_CU_SILU }; /* as lx_activation */

typedef struct lx_cu_product {
    int dtype; /* of x and w: LX_CU_I8, LX_CU_BF16 or LX_CU_F8_E4M3; LX_CU_F32: not by cuBLASLt */
    int64_t m, n, k;
    const void *x; /* [m, k] */
    const void *w; /* [n, k] */
    void *acc;     /* [m, n], rows ld apart */
    int64_t ld;    /* elements */
    void *scratch; /* of cuBLASLt */
    size_t scratch_bytes;
    bool is_finished; /* acc is BF16, with bias (BF16 or absent) and activation: BF16 operands */
    lx_cu_vec bias;
    int activation; /* plain or gelu */
} lx_cu_product;

/* `product` of what is_finished: this cuBLASLt has no kernel, nothing was done. */
#define LX_CU_NOT_SERVED -1

/* Few rows of f32: reading the weights, once, is all the time there is. */
typedef struct lx_cu_few {
    int64_t m, n, k; /* m <= LX_CU_FEW_ROWS */
    const float *x;  /* [m, k] */
    lx_cu_vec w;     /* [n, k] of any float type */
    float *acc;      /* [m, n], rows ld apart */
    int64_t ld;
} lx_cu_few;

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

/* Kernels for INT8: rows x columns of a block's tile. int8_mma*, int8_wgmma.cuh */
enum {
    LX_CU_MMA_128x256,       /* mma.sync: 8.0 and later */
    LX_CU_MMA_128x128,       /* two blocks on a multiprocessor */
    LX_CU_WGMMA_128x256,     /* 9.0 alone, n % 32 == 0; a block pair shares the weights' tile */
    LX_CU_MMA_192x256,       /* mma.sync: 8.0 and later; warps of 96 x 64 */
    LX_CU_MMA_192x256_APART, /* the same; F32's blocks begin apart, codes are made apart: below */
    LX_CU_INT8_DESIGNS
};

/* LX_CU_MMA_192x256_APART: of F32 the blocks begin apart, so their tiles end apart and do not all
 * ask memory at once. Of 16 bits the codes of lx_cu_int8.codes are made apart, by a kernel before
 * the products, not beside them (I8 alone: FP8's stay beside). Same bits either way. Of INT8,
 * both 192x256 leave to LX_CU_MMA_128x256 what no model has: F32 with an activation or with `most`,
 * rows that are not wide, operands of 4 GiB and more. */

/* Those that there are for FP8. */
#define LX_CU_HAS_FP8(design) ((design) == LX_CU_WGMMA_128x256 || (design) >= LX_CU_MMA_192x256)

/* Columns of one part of a row's sum of squares. */
#define LX_CU_INT8_PART(design) ((design) == LX_CU_WGMMA_128x256 ? 256 : 64)

/* Where rows that become codes may be F16 in between: half the bytes, and 11 bits against a code's
 * 8. Beside the code's own rounding (half a unit) that is at most 1/16 of a unit, for the largest
 * codes; rows whose largest number is below 1e-4 (E4M3: 0.1, in its smallest codes) lose more.
 * Beyond 65,504 it saturates. */
#define LX_CU_INT8_HALF(design, n)                                                                 \
    ((design) >= LX_CU_MMA_192x256 || ((design) == LX_CU_WGMMA_128x256 && (n) % 64 == 0))

/* Rows whose largest magnitudes are known, as codes of I8 or, of F16 alone, E4M3. */
typedef struct lx_cu_codes {
    int64_t rows, cols;   /* rows 0: nothing to do; cols % 4 == 0, of F16 % 8 */
    const void *y;        /* [rows, cols] dense F32 (or F16), 16-byte aligned */
    const uint32_t *most; /* [rows]: bits of the largest magnitudes, as F32 */
    int8_t *out;          /* [rows, cols] dense, 4-byte aligned, of F16 8-byte */
    float *scale;         /* [rows] */
    bool is_half;         /* y is F16 */
    bool is_fp8;          /* out is E4M3 */
} lx_cu_codes;

/* Product and epilogue in one: n and k multiples of 16, k <= 2^17, x and w 16-byte aligned. FP8 and
 * BF16: out's rows 16-byte aligned too, its stride a multiple of 8; by wgmma n % 64 == 0 (F32: 32).
 */
typedef struct lx_cu_int8 {
    int design;
    bool is_fp8;  /* x, w and codes are E4M3, not I8; LX_CU_HAS_FP8 */
    bool is_bf16; /* x and w are BF16; LX_CU_WGMMA_128x256; no codes, `most` or gelu */
    int64_t k;
    const int8_t *x; /* [m, k] dense; or what is_fp8 and is_bf16 say */
    const int8_t *w; /* [n, k] dense */
    /* acc is none; plain or gelu, no mul; bias F32, BF16 or F16; out F32 (alone with add_to_out),
     * BF16 or F16 */
    lx_cu_epilogue e;
    /* [m] or NULL: raised to the largest magnitudes of the output's rows: F32, or F16 where
     * LX_CU_INT8_HALF, out is 16-byte aligned in all rows and, of I8 by 192 x 256, x and w are
     * smaller than 4 GiB */
    uint32_t *most;
    /* [parts, m] or NULL: sums of squares of 16-bit outputs' rows, as before rounding, over columns
     * of LX_CU_INT8_PART each, by design; not beside `most` */
    float *squares;
    lx_cu_codes codes; /* done meanwhile or before: an earlier call's rows, never this one's */
} lx_cu_int8;

/* What a multiprocessor's counter of clocks says; counters of two do not compare. */
typedef struct lx_cu_clocks {
    int64_t count;
    int64_t multiprocessor;
} lx_cu_clocks;

typedef struct lx_cuda_linear_ops {
    /* LX_CU_NOT_SERVED with is_finished alone */
    int (*product)(lx_cuda_dev *dev, const lx_cu_product *p);
    int (*few)(lx_cuda_dev *dev, const lx_cu_few *p);
    int (*epilogue)(lx_cuda_dev *dev, const lx_cu_epilogue *e);
    /* out (F32, BF16, F16, I8, F8_E4M3) <- in (F32, BF16); scale [rows] for codes */
    int (*quantize)(lx_cuda_dev *dev, const lx_cu_mat *in, const lx_cu_mat *out, float *scale);
    /* n numbers of any float type as BF16, rounded once */
    int (*to_bf16)(lx_cuda_dev *dev, lx_cu_vec in, int64_t n, void *out);
    int (*int8)(lx_cuda_dev *dev, const lx_cu_int8 *p);
    int (*codes)(lx_cuda_dev *dev, const lx_cu_codes *c); /* what no later call did meanwhile */
    /* Nothing but INT8 mma.sync from registers, to time: *operations of one call */
    int (*int8_rate)(lx_cuda_dev *dev, double *operations);
    /* What the counter is between two calls, to time them by: *at is in device memory */
    int (*clocks)(lx_cuda_dev *dev, lx_cu_clocks *at);
} lx_cuda_linear_ops;

#ifdef __cplusplus
}
#endif

#endif
