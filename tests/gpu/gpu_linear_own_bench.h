/*
 * gpu_linear_own_bench.h - how fast FP8 and BF16 linears are by our own kernels, beside cuBLASLt
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_TESTS_GPU_LINEAR_OWN_BENCH_H
#define LX_TESTS_GPU_LINEAR_OWN_BENCH_H

#include "gpu_linear_bench.h"
#include "gpu_linear_own.h"

#define BENCH_BYTES ((size_t)3 << 30)

/* v; the attention's output; the FFN's first; its second; q and k. */
typedef enum shape_kind { PLAIN, RESIDUAL, FIRST, SECOND, SQUARES, KINDS } shape_kind;

/* What linear_plan.c gives to our own kernels: of BF16 neither few rows nor what GELU follows.
 * Squares are timed of BF16 alone. */
static bool is_timed(lx_dtype dtype, shape_kind kind, int64_t m)
{
    return dtype == LX_DTYPE_BF16 ? kind != FIRST && m >= BF16_ROWS : kind != SQUARES;
}

static bench bench_of_kind(gpu *g, variant v, shape_kind kind, int64_t m)
{
    int64_t n = kind == FIRST ? 13824 : 5120, k = kind == SECOND ? 13824 : 5120;
    bool is_added = kind == RESIDUAL || kind == SECOND;
    bench b = bench_of(g, v, m, n, k);
    b.is_act = kind == FIRST;
    b.act = act_on_card(g, is_added ? LX_DTYPE_F32 : b.is_act ? v.dtype : LX_DTYPE_BF16, m, n);
    b.out = (lx_mat){b.act.dtype, m, n, n, b.act.data};
    b.e.activation = kind == FIRST ? LX_ACTIVATION_GELU : LX_ACTIVATION_NONE;
    b.e.gate = is_added ? card_random(g, LX_DTYPE_F32, n) : NULL;
    b.e.add_to_out = is_added;
    b.e.square = kind == SQUARES ? gpu_take(g, (size_t)m * sizeof(float)) : NULL;
    if (is_added)
        gpu_ok(lx_zero(&g->x, b.out.data, (size_t)(m * n) * sizeof(float), err));
    return b;
}

/* Of the card that it is, whatever it is held to. */
static double sheet_of(const gpu *g, lx_dtype dtype)
{
    const lx_card_kind *card = lx_cuda_card(g->cuda);
    const double fp8 = card->is_from == 90 ? 15.0 * card->n_sm : gpu_roof_of(g).fp8;
    return dtype == LX_DTYPE_BF16 ? gpu_roof_of(g).bf16 : fp8;
}

/* By turns, so that a clock that wanders meets both. */
static void bench_shape(gpu *g, variant v, shape_kind kind, int64_t m)
{
    static const char *const kinds[] = {"-> bf16", "gate add -> f32", "gelu", "gate add -> f32",
                                        "-> bf16, squares"};
    enum { TURNS = 6 };
    char what[96];
    size_t mark = lx_arena_mark(g->store);
    bench b = bench_of_kind(g, v, kind, m);
    int64_t n = b.w.shape.dim[0], k = b.in.cols;
    b.e.bias = &b.bias;
    for (int i = 0; i < TURNS; i++) {
        bool is_own = i % 2 == 0;
        *own(g, v.dtype) = is_own;
        snprintf(what, sizeof what, "%-8s M %5d %5d -> %5d %s", is_own ? "own" : "cuBLASLt", (int)m,
                 (int)k, (int)n, kinds[kind]);
        gpu_print_rate(what, gpu_time(g, call_linear, &b),
                       2e-12 * (double)m * (double)n * (double)k, sheet_of(g, v.dtype));
    }
    *own(g, v.dtype) = false;
    lx_arena_reset(g->store, mark);
}

static int bench_all(variant v)
{
    static const int64_t rows[] = {32760, 16384, 4096, 1024, 512};
    gpu g;
    gpu_open(&g, BENCH_BYTES, SCRATCH_BYTES);
    printf("design: %s; share of %.0f T operations/s\n",
           design_here(&g) == LX_CU_WGMMA_128x256 ? "wgmma 128x256" : "mma 192x256",
           sheet_of(&g, v.dtype));
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
        for (int kind = PLAIN; kind < KINDS; kind++)
            if (is_timed(v.dtype, (shape_kind)kind, rows[m]))
                bench_shape(&g, v, (shape_kind)kind, rows[m]);
    gpu_close(&g);
    return 0;
}

#endif
