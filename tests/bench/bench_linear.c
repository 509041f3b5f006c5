/*
 * bench_linear.c - speed of linears and attention, as a share of oneDNN's best f32 product
 * SPDX-License-Identifier: Apache-2.0
 *
 * Usage     bench_linear [THREADS]     default: one per core
 * Prints    per case: milliseconds (best of several runs), GFLOP/s or GOP/s (2 per multiply-add),
 *           share of the peak that a large f32 product of oneDNN reaches on the same threads. For
 *           one row the bytes of weights read per second say more.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/lx_dnnl.h"
#include "lx_attention.h"
#include "lx_linear.h"

#define ARENA_BYTES ((size_t)1 << 30)

typedef struct bench {
    lx_exec x;
    double peak; /* GFLOP/s */
    lx_err err;
} bench;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(bench *b, lx_status status)
{
    if (status == LX_OK)
        return;
    fprintf(stderr, "bench_linear: %s\n", b->err.message);
    exit(lx_exit_code(status));
}

/* Pseudo-random bytes; as BF16 or F32 the values need not mean anything but must be finite. */
static void fill(float *out, int64_t n)
{
    uint32_t u = 1;
    for (int64_t i = 0; i < n; i++) {
        u = u * 1664525u + 1013904223u;
        out[i] = (float)(u >> 8) * 0x1p-23f - 1.0f;
    }
}

static float *take(bench *b, int64_t n)
{
    float *out;
    must(b, lx_arena_take_f32(b->x.arena, (uint64_t)n, &out, &b->err));
    return out;
}

static void measure_peak(bench *b)
{
    int64_t n = 1536;
    size_t mark = lx_arena_mark(b->x.arena);
    float *a = take(b, n * n), *w = take(b, n * n), *c = take(b, n * n);
    fill(a, n * n);
    fill(w, n * n);
    lx_gemm g = {.b_is_transposed = true, .m = n, .n = n, .k = n, .lda = n, .ldb = n, .ldc = n};
    g.alpha = 1;
    g.n_threads = b->x.n_threads;
    for (int i = 0; i < 10; i++) {
        double t = now_s();
        must(b, lx_dnnl_check(lx_dnnl_sgemm(&g, a, w, c), "peak", &b->err));
        t = now_s() - t;
        double rate = 2e-9 * (double)n * (double)n * (double)n / t;
        b->peak = rate > b->peak ? rate : b->peak;
    }
    lx_arena_reset(b->x.arena, mark);
}

static void print_row(const bench *b, const char *what, double seconds, double flop, double bytes)
{
    printf("%-44s %9.3f ms %8.1f G/s %6.1f %%", what, 1e3 * seconds, 1e-9 * flop / seconds,
           100e-9 * flop / seconds / b->peak);
    if (bytes > 0)
        printf("  %5.1f GB/s", 1e-9 * bytes / seconds);
    printf("\n");
}

static void bench_linear(bench *b, lx_dtype dtype, int64_t m, int64_t n, int64_t k)
{
    size_t mark = lx_arena_mark(b->x.arena);
    float *in = take(b, m * k), *out = take(b, m * n), *scale = take(b, n), *wide = take(b, n * k);
    fill(in, m * k);
    fill(wide, n * k);
    fill(scale, n);
    lx_weight w = {.name = "w", .dtype = dtype, .shape = {2, {n, k}}, .data = wide};
    for (int64_t i = 0; i < n * k;
         i++) { /* in place: the written index never passes the read one */
        float v = wide[i];
        if (dtype == LX_DTYPE_BF16)
            ((uint16_t *)(void *)wide)[i] = lx_bf16_from_f32(v);
        else if (dtype == LX_DTYPE_F8_E4M3)
            ((uint8_t *)(void *)wide)[i] = lx_f8_e4m3_from_f32(v * 448);
        else if (dtype == LX_DTYPE_I8)
            ((int8_t *)(void *)wide)[i] = (int8_t)(v * 127);
    }
    if (lx_dtype_is_code(dtype))
        w.scale = scale;
    lx_act act;
    must(b, lx_act_take(&b->x, lx_linear_act_dtype(&b->x, &w), m, k, &act, &b->err));
    lx_mat rows = lx_mat_f32(in, m, k), result = lx_mat_f32(out, m, n);
    lx_weight bias = {.name = "b", .dtype = LX_DTYPE_F32, .shape = {1, {n}}, .data = scale};
    lx_epilogue e = {.bias = &bias, .gate = scale, .add_to_out = true};
    double best = 1e9, spent = 0;
    for (int i = 0; i < 20 && (i < 3 || spent < 1); i++) {
        must(b, lx_quantize_rows(&b->x, &rows, &act, &b->err));
        double t = now_s();
        must(b, lx_linear(&b->x, &act, &w, &e, &result, &b->err));
        t = now_s() - t;
        best = t < best ? t : best;
        spent += t;
    }
    char what[80];
    snprintf(what, sizeof what, "%s M %d N %d K %d", lx_dtype_name(dtype), (int)m, (int)n, (int)k);
    print_row(b, what, best, 2.0 * (double)m * (double)n * (double)k,
              m == 1 ? (double)(n * k) * (double)lx_dtype_size(dtype) : 0);
    lx_arena_reset(b->x.arena, mark);
}

static void bench_attention(bench *b, int64_t n_q, int64_t n_k, int64_t heads, int64_t dim)
{
    size_t mark = lx_arena_mark(b->x.arena);
    int64_t width = heads * dim;
    float *in[3] = {take(b, n_q * width), take(b, n_k * width), take(b, n_k * width)};
    for (int i = 0; i < 3; i++)
        fill(in[i], (i ? n_k : n_q) * width);
    lx_mat k = lx_mat_f32(in[1], n_k, width), v = lx_mat_f32(in[2], n_k, width);
    lx_kv kv;
    must(b, lx_kv_prepare(&b->x, LX_ATTENTION_PLAIN, &k, &v, heads, &kv, &b->err));
    lx_attention_args a = {.q = lx_mat_f32(in[0], n_q, width),
                           .kv = &kv,
                           .scale = 0.1f,
                           .out = lx_mat_f32(take(b, n_q * width), n_q, width)};
    double best = 1e9, spent = 0;
    for (int i = 0; i < 10 && (i < 3 || spent < 2); i++) {
        double t = now_s();
        must(b, lx_attention(&b->x, &a, &b->err));
        t = now_s() - t;
        best = t < best ? t : best;
        spent += t;
    }
    char what[80];
    snprintf(what, sizeof what, "attention %d x %d, %d heads of %d", (int)n_q, (int)n_k, (int)heads,
             (int)dim);
    print_row(b, what, best, 4.0 * (double)n_q * (double)n_k * (double)width, 0);
    lx_arena_reset(b->x.arena, mark);
}

int main(int argc, char **argv)
{
    static const int64_t rows[] = {1, 37, 512, 2048}, sides[] = {1024, 2048, 5120};
    static const lx_dtype dtypes[] = {LX_DTYPE_BF16, LX_DTYPE_I8};
    bench b = {0};
    lx_arena *arena = NULL;
    must(&b, lx_arena_create(&arena, ARENA_BYTES, &b.err));
    must(&b, lx_exec_open_cpu(&b.x, arena, argc > 1 ? atoi(argv[1]) : 0, &b.err));
    measure_peak(&b);
    printf("%s, %d threads, peak f32 %.1f GFLOP/s\n", lx_exec_describe(&b.x), b.x.n_threads,
           b.peak);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (size_t s = 0; s < sizeof sides / sizeof *sides; s++)
            for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
                bench_linear(&b, dtypes[d], rows[m], sides[s], sides[s]);
    bench_linear(&b, LX_DTYPE_F8_E4M3, 512, 2048, 2048);
    bench_linear(&b, LX_DTYPE_F32, 512, 2048, 2048);
    bench_linear(&b, LX_DTYPE_BF16, 1560, 64, 5120);
    bench_attention(&b, 1560, 1560, 12, 128);
    bench_attention(&b, 1560, 60, 12, 128);
    bench_attention(&b, 8190, 8190, 2, 128);
    bench_attention(&b, 3000, 3000, 1, 384);
    bench_attention(&b, 60, 60, 64, 64);
    bench_attention(&b, 512, 512, 64, 64);
    lx_arena_destroy(&arena);
    return 0;
}
