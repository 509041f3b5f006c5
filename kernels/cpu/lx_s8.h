/*
 * lx_s8.h - exact products of signed bytes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   c[i, j] = sum_k a[i, k] b[j, k] in s32, exact for k < 2^17 (k = 2^17 if a has no -128)
 * Why       Without VNNI or AMX oneDNN multiplies u8 x s8 with pairs added in 16 bits, which
 *           saturates. Ours widens bytes to 16 bits and adds pairs of products in 32.
 * Tests     tests/kernels/test_s8.c: every path against sums in 64 bits, extremes included
 */
#ifndef LX_S8_H
#define LX_S8_H

#include <stdbool.h>
#include <stdint.h>

typedef enum lx_s8_path { LX_S8_LIBRARY, LX_S8_AVX2, LX_S8_PORTABLE, LX_S8_PATHS } lx_s8_path;

/* c [m, n] <- a [m, k] x b [n, k]^T; rows lda, ldb, ldc elements apart. */
typedef struct lx_s8_tile {
    int64_t m, n, k, lda, ldb, ldc;
    const int8_t *a, *b;
    int32_t *c;
} lx_s8_tile;

/** The best of our own paths on this processor. */
lx_s8_path lx_s8_own_path(void);
bool lx_s8_path_works(lx_s8_path path);

/** 0, or oneDNN's code. */
int lx_s8_multiply(lx_s8_path path, const lx_s8_tile *t);

#endif
