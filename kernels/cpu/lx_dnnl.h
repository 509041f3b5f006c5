/*
 * lx_dnnl.h - the two oneDNN functions we use, and what it says about this processor
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      lx_dnnl.c is the only file that sees oneDNN's headers, so version 2 or 3 is its affair.
 *           Matrix products are oneDNN's plain functions, not its primitives: nothing is cached per
 *           shape, so memory stays flat over prompts of every length.
 * Threads   A product runs on the calling thread alone unless it asks for more, so that it has the
 *           same bits whatever the number of threads; parallel loops are ours, over products.
 * Tests     tests/kernels/test_linear.c
 */
#ifndef LX_DNNL_H
#define LX_DNNL_H

#include <stdbool.h>
#include <stdint.h>

#include "lx_status.h"

/* C [m, n] <- alpha op(A) op(B) + beta C, row-major; op(A) is [m, k], op(B) is [k, n]; a leading
 * dimension is the distance of rows as they lie in memory. */
typedef struct lx_gemm {
    bool a_is_transposed, b_is_transposed; /* stored as [k, m], [n, k] */
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    float alpha, beta;
    int n_threads; /* 0: the calling thread alone; inside a parallel region always so */
} lx_gemm;

/** f32 product. 0, or oneDNN's code for lx_dnnl_check: callers are often in a parallel region. */
int lx_dnnl_sgemm(const lx_gemm *g, const float *a, const float *b, float *c);

/** C [m, n] s32 <- A [m, k] s8 x B [n, k]^T s8; alpha and beta are ignored. Exact only where
 *  lx_dnnl_s8_is_exact(). */
int lx_dnnl_s8(const lx_gemm *g, const int8_t *a, const int8_t *b, int32_t *c);

/** LX_OK for 0; else LX_EAGAIN (no memory) or LX_ESTAGE, with what was asked for. */
lx_status lx_dnnl_check(int code, const char *what, lx_err *err);

/** The instruction set oneDNN uses: DNNL_MAX_CPU_ISA may lower it. "avx512_core_vnni", ... */
const char *lx_dnnl_isa(void);

/** True if s8 products are exact here: the processor (as oneDNN may use it) has VNNI or AMX, where
 *  sums never pass through 16 bits, and products of extreme values come out right. */
bool lx_dnnl_s8_is_exact(void);

#endif
