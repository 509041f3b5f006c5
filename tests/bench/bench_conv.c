/*
 * bench_conv.c - speed of the VAE's convolutions, as a share of a plain product of the same size
 * SPDX-License-Identifier: Apache-2.0
 *
 * Usage     bench_conv [THREADS]       default: one per core
 * Prints    per case: milliseconds (best of several), GFLOP/s of the 3x3x3 formula (2 per
 *           multiply-add; fast algorithms do fewer), GFLOP/s of one oneDNN product with the same
 *           M, N, K, and their ratio; then channel norm + SiLU in GB/s.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/lx_dnnl.h"
#include "lx_conv.h"

#define ARENA_BYTES ((size_t)3 << 30)

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct bench {
    lx_exec x;
    lx_err err;
} bench;

static void must(bench *b, lx_status status)
{
    if (status == LX_OK)
        return;
    fprintf(stderr, "bench_conv: %s\n", b->err.message);
    exit(lx_exit_code(status));
}

static float *take(bench *b, uint64_t n)
{
    float *out;
    must(b, lx_arena_take_f32(b->x.arena, n, &out, &b->err));
    for (uint64_t i = 0; i < n; i++)
        out[i] = (float)(i % 97) * 0.01f - 0.5f;
    return out;
}

static lx_image image(bench *b, int64_t frames, int64_t side_h, int64_t side_w, int64_t channels)
{
    lx_image out = {.dtype = LX_DTYPE_F32,
                    .frames = frames,
                    .height = side_h,
                    .width = side_w,
                    .channels = channels};
    out.data = take(b, (uint64_t)(frames * side_h * side_w * channels));
    return out;
}

/* One product [m, k] x [k, n] through the library's own threads. */
static double product_s(bench *b, int64_t m, int64_t n, int64_t k)
{
    double best = 1e9;
    size_t mark = lx_arena_mark(b->x.arena);
    float *a = take(b, (uint64_t)(m * k)), *w = take(b, (uint64_t)(k * n));
    float *c = take(b, (uint64_t)(m * n));
    lx_gemm g = {.m = m, .n = n, .k = k, .lda = k, .ldb = n, .ldc = n, .alpha = 1};
    for (int i = 0; i < 5; i++) {
        double from = now_s();
        must(b, lx_dnnl_check(lx_dnnl_sgemm(&g, a, w, c), "product", &b->err));
        double s = now_s() - from;
        best = s < best ? s : best;
    }
    lx_arena_reset(b->x.arena, mark);
    return best;
}

typedef struct bench_case {
    int64_t c_in, c_out, kt, ks, frames, height, width;
    bool upsample;
    const char *where;
} bench_case;

static void bench_one(bench *b, const bench_case *c)
{
    double best = 1e9;
    size_t mark = lx_arena_mark(b->x.arena);
    int64_t half = c->upsample ? 2 : 1, k = c->c_in * c->kt * c->ks * c->ks;
    lx_weight weight = {.name = "w", .dtype = LX_DTYPE_F32}, bias = {.name = "b"};
    lx_conv conv;
    weight.shape = LX_SHAPE(c->c_out, c->c_in, c->kt, c->ks, c->ks);
    weight.data = take(b, (uint64_t)(k * c->c_out));
    bias.dtype = LX_DTYPE_F32;
    bias.shape = LX_SHAPE(c->c_out);
    bias.data = take(b, (uint64_t)c->c_out);
    must(b, lx_conv_load(&b->x, &weight, &bias, &conv, &b->err));
    lx_image in = image(b, c->frames + c->kt - 1, c->height / half, c->width / half, c->c_in);
    lx_image out = image(b, c->frames, c->height, c->width, c->c_out);
    for (int i = 0; i < 5; i++) {
        double from = now_s();
        must(b, lx_conv_run(&b->x, &conv, &in, c->upsample, NULL, &out, &b->err));
        double s = now_s() - from;
        best = s < best ? s : best;
    }
    lx_arena_reset(b->x.arena, mark);
    double m = (double)(c->frames * c->height * c->width);
    double flops = 2e-9 * m * (double)(k * c->c_out);
    int64_t rows = 1 << 14; /* of the plain product: large enough for its best rate */
    double plain = 2e-9 * (double)(rows * k * c->c_out) / product_s(b, rows, c->c_out, k);
    printf("%-26s %4lld->%-4lld %8.2f ms %7.1f GFLOP/s  product %7.1f  %5.0f %%\n", c->where,
           (long long)c->c_in, (long long)c->c_out, best * 1e3, flops / best, plain,
           100 * flops / best / plain);
}

static void bench_norm(bench *b, int64_t channels, int64_t side)
{
    double best = 1e9;
    size_t mark = lx_arena_mark(b->x.arena);
    lx_image in = image(b, 2, side, side, channels), out = image(b, 2, side, side, channels);
    const float *gamma = take(b, (uint64_t)channels);
    for (int i = 0; i < 5; i++) {
        double from = now_s();
        must(b, lx_channel_norm(&b->x, &in, gamma, true, &out, &b->err));
        double s = now_s() - from;
        best = s < best ? s : best;
    }
    lx_arena_reset(b->x.arena, mark);
    printf("norm + SiLU                %4lld       %8.2f ms %7.1f GB/s\n", (long long)channels,
           best * 1e3, 8e-9 * (double)(2 * side * side * channels) / best);
}

int main(int argc, char **argv)
{
    static const bench_case cases[] = {
        {384, 384, 3, 3, 1, 60, 104, false, "stage 0, 60x104"},
        {384, 384, 3, 3, 1, 120, 208, false, "stage 1, 120x208"},
        {192, 384, 3, 3, 1, 120, 208, false, "upsamples.4, 120x208"},
        {192, 192, 3, 3, 1, 240, 416, false, "stage 2, 240x416"},
        {96, 96, 3, 3, 1, 480, 832, false, "stage 3, 480x832"},
        {96, 96, 3, 3, 1, 128, 128, false, "stage 3, 128x128"},
        {96, 3, 3, 3, 1, 480, 832, false, "head, 480x832"},
        {384, 384, 3, 1, 1, 120, 208, false, "time_conv half, 120x208"},
        {192, 96, 1, 3, 1, 480, 832, true, "upsample to 480x832"},
        {384, 1152, 1, 1, 1, 60, 104, false, "to_qkv, 60x104"},
    };
    bench b = {0};
    lx_arena *arena = NULL;
    must(&b, lx_arena_create(&arena, ARENA_BYTES, &b.err));
    must(&b, lx_exec_open_cpu(&b.x, arena, argc > 1 ? atoi(argv[1]) : 0, &b.err));
    printf("%s, %d threads\n", lx_exec_describe(&b.x), b.x.n_threads);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        bench_one(&b, &cases[i]);
    bench_norm(&b, 96, 640);
    bench_norm(&b, 384, 256);
    lx_arena_destroy(&arena);
    return 0;
}
