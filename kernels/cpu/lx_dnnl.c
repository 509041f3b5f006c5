/*
 * lx_dnnl.c - oneDNN 2.6 or 3.x behind two functions
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_dnnl.h"

#include <oneapi/dnnl/dnnl.h>
#include <string.h>

/* oneDNN takes as many threads as OpenMP would give the caller. Weak: there may be an oneDNN built
 * on another runtime, and this file is not compiled for OpenMP where the compiler has none. */
extern int omp_get_max_threads(void) __attribute__((weak));
extern void omp_set_num_threads(int n) __attribute__((weak));

/* Returns what was set before. The number belongs to the calling thread. */
static int set_threads(int n)
{
    if (!omp_get_max_threads || !omp_set_num_threads)
        return 0;
    int before = omp_get_max_threads();
    if (n > 0 && before != n)
        omp_set_num_threads(n);
    return before;
}

int lx_dnnl_sgemm(const lx_gemm *g, const float *a, const float *b, float *c)
{
    int before = set_threads(g->n_threads > 1 ? g->n_threads : 1);
    dnnl_status_t code =
        dnnl_sgemm(g->a_is_transposed ? 'T' : 'N', g->b_is_transposed ? 'T' : 'N', g->m, g->n, g->k,
                   g->alpha, a, g->lda, b, g->ldb, g->beta, c, g->ldc);
    set_threads(before);
    return (int)code;
}

int lx_dnnl_s8(const lx_gemm *g, const int8_t *a, const int8_t *b, int32_t *c)
{
    const int32_t no_offset = 0;
    int before = set_threads(g->n_threads > 1 ? g->n_threads : 1);
    dnnl_status_t code = dnnl_gemm_s8s8s32('N', 'T', 'F', g->m, g->n, g->k, 1.0f, a, g->lda, 0, b,
                                           g->ldb, 0, 0.0f, c, g->ldc, &no_offset);
    set_threads(before);
    return (int)code;
}

lx_status lx_dnnl_check(int code, const char *what, lx_err *err)
{
    if (code == (int)dnnl_success)
        return LX_OK;
    if (code == (int)dnnl_out_of_memory)
        return lx_fail(err, LX_EAGAIN, "%s: oneDNN had no memory for its buffers", what);
    return lx_fail(err, LX_ESTAGE, "%s: oneDNN refused with code %d", what, code);
}

/* Flags contained in flags: later sets contain the earlier ones, in version 2 and in version 3. */
static bool isa_has(unsigned isa, unsigned wanted)
{
    return (isa & wanted) == wanted;
}

const char *lx_dnnl_isa(void)
{
    static const struct {
        unsigned isa;
        const char *name;
    } table[] = {
        {dnnl_cpu_isa_avx512_core_amx, "avx512_core_amx"},
        {dnnl_cpu_isa_avx512_core_bf16, "avx512_core_bf16"},
        {dnnl_cpu_isa_avx512_core_vnni, "avx512_core_vnni"},
        {dnnl_cpu_isa_avx512_core, "avx512_core"},
        {dnnl_cpu_isa_avx2_vnni, "avx2_vnni"},
        {dnnl_cpu_isa_avx2, "avx2"},
        {dnnl_cpu_isa_avx, "avx"},
        {dnnl_cpu_isa_sse41, "sse41"},
    };
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (isa_has(isa, table[i].isa))
            return table[i].name;
    return "generic";
}

/* Products of -128 and 127 in every pairing of signs, longer than any block of oneDNN's kernels:
 * 16-bit sums saturate on them. */
static bool extremes_are_exact(void)
{
    enum { M = 4, N = 4, K = 515 };
    static const int8_t value[4] = {-128, 127, -127, 1};
    int8_t a[M * K], b[N * K];
    int32_t c[M * N];
    for (int i = 0; i < 4; i++) {
        memset(a + i * K, value[i], K);
        memset(b + i * K, value[i], K);
    }
    lx_gemm g = {.b_is_transposed = true, .m = M, .n = N, .k = K, .lda = K, .ldb = K, .ldc = N};
    if (lx_dnnl_s8(&g, a, b, c) != 0)
        return false;
    for (int i = 0; i < M * N; i++)
        if (c[i] != K * value[i / N] * value[i % N])
            return false;
    return true;
}

bool lx_dnnl_s8_is_exact(void)
{
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    bool has_vnni =
        isa_has(isa, dnnl_cpu_isa_avx512_core_vnni) || isa_has(isa, dnnl_cpu_isa_avx2_vnni);
    return has_vnni && extremes_are_exact();
}
