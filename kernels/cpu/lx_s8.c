/*
 * lx_s8.c - exact s8 products: AVX2 with 16-bit multiply-add, and plain C
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_s8.h"

#include "lx_dnnl.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static void multiply_portable(const lx_s8_tile *t)
{
    for (int64_t i = 0; i < t->m; i++)
        for (int64_t j = 0; j < t->n; j++) {
            const int8_t *a = t->a + i * t->lda, *b = t->b + j * t->ldb;
            int32_t sum = 0;
            for (int64_t k = 0; k < t->k; k++)
                sum += (int32_t)a[k] * b[k];
            t->c[i * t->ldc + j] = sum;
        }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

/* 16 bytes as 16-bit numbers: their products, added in pairs, are at most 2^15 and fit s32. */
AVX2 static inline __m256i load16(const int8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

AVX2 static inline int32_t lanes_sum(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

static int32_t tail_sum(const int8_t *a, const int8_t *b, int64_t k0, int64_t k)
{
    int32_t sum = 0;
    for (; k0 < k; k0++)
        sum += (int32_t)a[k0] * b[k0];
    return sum;
}

/* rows x 4 outputs; rows is 1 or 2, a constant at each call so that the sums stay in registers. */
AVX2 static inline __attribute__((always_inline)) void block(const lx_s8_tile *t, int64_t i,
                                                             int64_t j, int rows)
{
    const int8_t *a = t->a + i * t->lda, *b = t->b + j * t->ldb;
    __m256i sum[2][4];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++)
            sum[r][c] = _mm256_setzero_si256();
    int64_t k = 0;
    for (; k + 16 <= t->k; k += 16) {
        __m256i w[4];
        for (int c = 0; c < 4; c++)
            w[c] = load16(b + c * t->ldb + k);
        for (int r = 0; r < rows; r++) {
            __m256i v = load16(a + r * t->lda + k);
            for (int c = 0; c < 4; c++)
                sum[r][c] = _mm256_add_epi32(sum[r][c], _mm256_madd_epi16(v, w[c]));
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++)
            t->c[(i + r) * t->ldc + j + c] =
                lanes_sum(sum[r][c]) + tail_sum(a + r * t->lda, b + c * t->ldb, k, t->k);
}

AVX2 static void column(const lx_s8_tile *t, int64_t j)
{
    const int8_t *b = t->b + j * t->ldb;
    for (int64_t i = 0; i < t->m; i++) {
        const int8_t *a = t->a + i * t->lda;
        __m256i sum = _mm256_setzero_si256();
        int64_t k = 0;
        for (; k + 16 <= t->k; k += 16)
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(load16(a + k), load16(b + k)));
        t->c[i * t->ldc + j] = lanes_sum(sum) + tail_sum(a, b, k, t->k);
    }
}

/* Four rows of b stay in the first cache while a passes by. */
AVX2 static void multiply_avx2(const lx_s8_tile *t)
{
    int64_t j = 0;
    for (; j + 4 <= t->n; j += 4) {
        int64_t i = 0;
        for (; i + 2 <= t->m; i += 2)
            block(t, i, j, 2);
        if (i < t->m)
            block(t, i, j, 1);
    }
    for (; j < t->n; j++)
        column(t, j);
}

static bool has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2");
}
#else
static void multiply_avx2(const lx_s8_tile *t)
{
    multiply_portable(t);
}

static bool has_avx2(void)
{
    return false;
}
#endif

lx_s8_path lx_s8_own_path(void)
{
    return has_avx2() ? LX_S8_AVX2 : LX_S8_PORTABLE;
}

bool lx_s8_path_works(lx_s8_path path)
{
    switch (path) {
    case LX_S8_LIBRARY:
        return lx_dnnl_s8_is_exact();
    case LX_S8_AVX2:
        return has_avx2();
    default:
        return path == LX_S8_PORTABLE;
    }
}

int lx_s8_multiply(lx_s8_path path, const lx_s8_tile *t)
{
    lx_gemm g = {.b_is_transposed = true,
                 .m = t->m,
                 .n = t->n,
                 .k = t->k,
                 .lda = t->lda,
                 .ldb = t->ldb,
                 .ldc = t->ldc};
    switch (path) {
    case LX_S8_LIBRARY:
        return lx_dnnl_s8(&g, t->a, t->b, t->c);
    case LX_S8_AVX2:
        multiply_avx2(t);
        return 0;
    default:
        multiply_portable(t);
        return 0;
    }
}
