/*
 * lx_cpu.c - the CPU's table, threads and scratch
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_cpu.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "lx_conv_ops.h"
#include "lx_dnnl.h"
#include "lx_rows.h"

/* libgomp comes with oneDNN even where our own loops are serial; weak, so that an oneDNN built on
 * another runtime still links. */
extern void omp_set_num_threads(int n) __attribute__((weak));

/* Where our loops are serial oneDNN is too: on a team of its own it would split sums by threads. */
#ifdef _OPENMP
#define IS_SERIAL 0
#else
#define IS_SERIAL 1
#endif

int lx_cpu_set_threads(int n_threads)
{
    int n = IS_SERIAL ? 1 : n_threads;
    if (omp_set_num_threads)
        omp_set_num_threads(n);
    return n;
}

/* oneDNN takes its packing buffers from the heap for every product. Kept there they cost nothing;
 * given back each time they would be faulted in again, and memory would go up and down with the
 * shapes. */
#define HEAP_BUFFER (4 << 20) /* larger than any of them */
#define HEAP_PIECE  ((size_t)480 << 10)

#ifdef __GLIBC__
static void keep_buffers_in_the_heap(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, HEAP_BUFFER);
    (void)mallopt(M_TRIM_THRESHOLD, 256 << 20);
}
#else
static void keep_buffers_in_the_heap(void) {}
#endif

/* The tiles of linear.c and attention.c and some remainders. */
static void warm_up_thread(const float *zeros, float *out, bool s8_in_library)
{
    static const int64_t tiles[][3] = {{512, 384, 512}, {256, 512, 128}, {256, 512, 384},
                                       {256, 384, 512}, {37, 192, 512},  {5, 192, 512}};
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
        lx_gemm g = {.m = tiles[i][0], .n = tiles[i][1], .k = tiles[i][2], .alpha = 1, .beta = 0};
        g.lda = g.k;
        g.ldc = g.n;
        for (int transposed = 0; transposed < 2; transposed++) {
            g.b_is_transposed = transposed;
            g.ldb = transposed ? g.k : g.n;
            lx_dnnl_sgemm(&g, zeros, zeros, out);
        }
        if (s8_in_library)
            lx_dnnl_s8(&g, (const int8_t *)zeros, (const int8_t *)zeros, (int32_t *)(void *)out);
    }
}

/* The heap has grown to hold those buffers, but they did not use all of it: touch the rest now, in
 * pieces that fit the holes. */
static void touch_heap(void)
{
    enum { PIECES = 16 };
    char *piece[PIECES];
    for (int i = 0; i < PIECES; i++) {
        piece[i] = malloc(HEAP_PIECE);
        for (size_t j = 0; piece[i] && j < HEAP_PIECE; j += 1024)
            ((volatile char *)piece[i])[j] = 1;
    }
    for (int i = 0; i < PIECES; i++)
        free(piece[i]);
}

void lx_cpu_warm_up(const lx_exec *x)
{
    enum { LARGEST = 512 * 512 }; /* elements of one operand */
    keep_buffers_in_the_heap();
    float *zeros = calloc(LARGEST, sizeof *zeros);
#pragma omp parallel num_threads(x->n_threads)
    {
        float *out = zeros ? malloc(LARGEST * sizeof *out) : NULL;
        if (out) /* without memory there is no warm-up, and the first job says what is missing */
            warm_up_thread(zeros, out, x->backend->s8_in_library);
        free(out);
    }
    free(zeros);
#pragma omp parallel num_threads(x->n_threads)
    touch_heap();
}

lx_status lx_cpu_take_per_thread(lx_exec *x, int64_t *n, float **out, lx_err *err)
{
    *n = lx_ceil_div(*n, 16) * 16;
    uint64_t total;
    if (*n < 0 || !lx_mul_u64((uint64_t)*n, (uint64_t)x->n_threads, &total))
        return lx_fail(err, LX_EJOB, "scratch of %d threads: size overflows", x->n_threads);
    return lx_arena_take_f32(x->arena, total, out, err);
}

lx_status lx_cpu_vector(lx_exec *x, const lx_weight *w, int64_t n, const float **out, lx_err *err)
{
    *out = NULL;
    if (!w)
        return LX_OK;
    if (w->dtype == LX_DTYPE_F32) {
        *out = w->data;
        return LX_OK;
    }
    float *wide;
    lx_status status = lx_arena_take_f32(x->arena, (uint64_t)n, &wide, err);
    if (status != LX_OK)
        return status;
    if (!x->is_dry)
        lx_rows_best()->widen(wide, w->data, w->dtype, n);
    *out = wide;
    return LX_OK;
}

/* Text for the log: the library's instruction set and who multiplies bytes. */
static const char *describe(const lx_exec *x)
{
    static const struct {
        const char *isa, *library, *own;
    } table[] = {
#define ROW(name)                                                                                  \
    {name, "oneDNN " name ", s8 products in oneDNN", "oneDNN " name ", s8 products in lx_s8"}
        ROW("avx512_core_amx"),
        ROW("avx512_core_bf16"),
        ROW("avx512_core_vnni"),
        ROW("avx512_core"),
        ROW("avx2_vnni"),
        ROW("avx2"),
        ROW("avx"),
        ROW("sse41"),
        ROW("generic"),
#undef ROW
    };
    const char *isa = lx_dnnl_isa();
    size_t i = 0;
    while (i + 1 < sizeof table / sizeof *table && strcmp(table[i].isa, isa) != 0)
        i++;
    return x->backend->s8_in_library ? table[i].library : table[i].own;
}

#define CPU_ENTRIES                                                                                \
    .name = "cpu", .describe = describe, .upload = lx_cpu_copy, .download = lx_cpu_copy,           \
    .copy = lx_cpu_copy, .zero = lx_cpu_zero, .mat_widen = lx_cpu_mat_widen,                       \
    .wait = lx_cpu_nothing, .pace = lx_cpu_nothing, .act_dtype = lx_cpu_act_dtype,                 \
    .quantize_rows = lx_cpu_quantize_rows, .linear = lx_cpu_linear, .norm_rows = lx_cpu_norm_rows, \
    .rope_table_build = lx_cpu_rope_table_build, .qk_norm_rope = lx_cpu_qk_norm_rope,              \
    .kv_prepare = lx_cpu_kv_prepare, .attention = lx_cpu_attention, .silu = lx_cpu_silu,           \
    .axpby = lx_cpu_axpby, .widen = lx_cpu_widen, .patchify = lx_cpu_patchify,                     \
    .unpatchify = lx_cpu_unpatchify, .find_nonfinite = lx_cpu_find_nonfinite,                      \
    .conv = &lx_conv_ops_cpu

const lx_backend *lx_backend_cpu(void)
{
    static const lx_backend with_library = {CPU_ENTRIES, .s8_in_library = true};
    static const lx_backend with_own = {CPU_ENTRIES, .s8_in_library = false};
    return lx_dnnl_s8_is_exact() ? &with_library : &with_own;
}
