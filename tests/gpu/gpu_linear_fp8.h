/*
 * gpu_linear_fp8.h - FP8 linears of our own: what a card serves, and how fast: test_cuda_linear_fp8
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_TESTS_GPU_LINEAR_FP8_H
#define LX_TESTS_GPU_LINEAR_FP8_H

#include "cuda/lx_cuda_priv.h"
#include "gpu_linear.h"

#define SCRATCH_BYTES ((size_t)512 << 20)
#define BENCH_BYTES   ((size_t)3 << 30)

enum { FP8 = 2 }; /* among `variants` */

static void skip_without_fp8(void)
{
    lx_cuda *cuda = gpu_card();
    bool has_fp8 = lx_card_has_fp8(lx_cuda_card(cuda));
    lx_cuda_close(&cuda);
    if (has_fp8)
        return;
    printf("skipped: this card (or what it is held to) has no FP8\n");
    exit(77);
}

/* lx_cu_int8's number: as linear.c chooses. */
static int design_here(const gpu *g)
{
    return lx_card_has_wgmma(lx_cuda_card(g->cuda)) ? LX_CU_WGMMA_128x256 : LX_CU_MMA_192x256;
}

static bool is_served(const gpu *g, int64_t n, lx_dtype out)
{
    return n % (design_here(g) != LX_CU_WGMMA_128x256 ? 16 : out == LX_DTYPE_F32 ? 32 : 64) == 0;
}

/* --- speed ----------------------------------------------------------------------------------- */

typedef struct bench {
    lx_act in, act;
    lx_weight w, bias;
    lx_epilogue e;
    lx_mat out;
    bool is_act;
    int64_t m, n, k;
} bench;

static void call_linear(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    gpu_must(b->is_act ? lx_linear_to_act(&g->x, &b->in, &b->w, &b->e, &b->act, &err)
                       : lx_linear(&g->x, &b->in, &b->w, &b->e, &b->out, &err),
             &err);
}

/* q, k, v; the attention's output; the FFN's first; its second. */
typedef enum shape_kind { PLAIN, RESIDUAL, FIRST, SECOND } shape_kind;

static bench bench_of(gpu *g, shape_kind kind, int64_t m)
{
    int64_t n = kind == FIRST ? 13824 : 5120, k = kind == SECOND ? 13824 : 5120;
    bool is_added = kind == RESIDUAL || kind == SECOND;
    lx_dtype out = kind == FIRST ? LX_DTYPE_F8_E4M3 : is_added ? LX_DTYPE_F32 : LX_DTYPE_BF16;
    bench b = {.m = m, .n = n, .k = k, .is_act = kind == FIRST};
    b.w = (lx_weight){.name = "fp8", .dtype = LX_DTYPE_F8_E4M3, .shape = {2, {n, k}}};
    b.w.data = card_random(g, LX_DTYPE_F8_E4M3, n * k);
    b.w.scale = card_random(g, LX_DTYPE_F32, n);
    b.bias = (lx_weight){.name = "bias", .dtype = LX_DTYPE_BF16, .shape = {1, {n}}};
    b.bias.data = card_random(g, LX_DTYPE_BF16, n);
    b.in = (lx_act){.dtype = LX_DTYPE_F8_E4M3, .rows = m, .cols = k};
    b.in.data = card_random(g, LX_DTYPE_F8_E4M3, m * k);
    b.in.scale = card_random(g, LX_DTYPE_F32, m);
    b.act = (lx_act){.dtype = out, .rows = m, .cols = n};
    b.act.data = gpu_take(g, (size_t)(m * n) * lx_dtype_size(out));
    b.act.scale = kind == FIRST ? gpu_take(g, (size_t)m * 4) : NULL;
    b.out = (lx_mat){.dtype = out, .rows = m, .cols = n, .stride = n, .data = b.act.data};
    b.e.activation = kind == FIRST ? LX_ACTIVATION_GELU : LX_ACTIVATION_NONE;
    b.e.gate = is_added ? card_random(g, LX_DTYPE_F32, n) : NULL;
    b.e.add_to_out = is_added;
    if (is_added)
        gpu_ok(lx_zero(&g->x, b.out.data, (size_t)(m * n) * 4, err));
    return b;
}

/* Of the card that it is, whatever it is held to. */
static double sheet_of(const gpu *g)
{
    const lx_card_kind *card = lx_cuda_card(g->cuda);
    return card->is_from == 90 ? 15.0 * card->n_sm : gpu_roof_of(g).fp8;
}

/* By turns, so that a clock that wanders meets both. */
static void bench_shape(gpu *g, shape_kind kind, int64_t m)
{
    static const char *const kinds[] = {"-> bf16", "gate add -> f32", "gelu -> codes",
                                        "gate add -> f32"};
    enum { TURNS = 6 };
    char what[96];
    size_t mark = lx_arena_mark(g->store);
    bench b = bench_of(g, kind, m);
    b.e.bias = &b.bias;
    for (int i = 0; i < TURNS; i++) {
        bool is_own = i % 2 == 0;
        g->cuda->has_own_fp8 = is_own;
        snprintf(what, sizeof what, "%-8s M %5d %5d -> %5d %s", is_own ? "own" : "cuBLASLt", (int)m,
                 (int)b.k, (int)b.n, kinds[kind]);
        gpu_print_rate(what, gpu_time(g, call_linear, &b),
                       2e-12 * (double)m * (double)b.n * (double)b.k, sheet_of(g));
    }
    g->cuda->has_own_fp8 = false;
    lx_arena_reset(g->store, mark);
}

static int bench_all(void)
{
    static const int64_t rows[] = {32760, 16384, 4096, 1024, 512};
    gpu g;
    gpu_open(&g, BENCH_BYTES, SCRATCH_BYTES);
    printf("design: %s; share of %.0f T operations/s\n",
           design_here(&g) == LX_CU_WGMMA_128x256 ? "wgmma 128x256" : "mma 192x256", sheet_of(&g));
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
        for (int kind = PLAIN; kind <= SECOND; kind++)
            bench_shape(&g, (shape_kind)kind, rows[m]);
    gpu_close(&g);
    return 0;
}

#endif
