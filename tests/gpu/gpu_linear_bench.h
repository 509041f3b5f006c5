/*
 * gpu_linear_bench.h - a linear to be timed: its operands on the card, and the call
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_TESTS_GPU_LINEAR_BENCH_H
#define LX_TESTS_GPU_LINEAR_BENCH_H

#include "gpu_linear.h"

typedef struct bench {
    lx_act in, act;
    lx_weight w, bias;
    lx_epilogue e;
    lx_mat out;
    bool is_act;
    lx_cu_product product; /* the halves of a band, where they are timed by themselves */
    lx_cu_epilogue epilogue;
} bench;

static inline bench bench_of(gpu *g, variant v, int64_t m, int64_t n, int64_t k)
{
    bench b = {.w = {.name = v.name, .dtype = v.dtype, .shape = {2, {n, k}}}};
    b.w.data = card_random(g, v.dtype, n * k);
    b.w.scale = v.is_scaled ? card_random(g, LX_DTYPE_F32, n) : NULL;
    b.bias = (lx_weight){.name = "bias", .dtype = LX_DTYPE_BF16, .shape = {1, {n}}};
    b.bias.data = card_random(g, LX_DTYPE_BF16, n);
    b.in = (lx_act){.dtype = lx_linear_act_dtype(&g->x, &b.w), .rows = m, .cols = k};
    if (v.has_f32_rows)
        b.in.dtype = LX_DTYPE_F32;
    b.in.data = card_random(g, b.in.dtype, m * k);
    b.in.scale = card_random(g, LX_DTYPE_F32, m);
    return b;
}

/* As the model's code calls it. */
static inline void call_linear(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    gpu_must(b->is_act ? lx_linear_to_act(&g->x, &b->in, &b->w, &b->e, &b->act, &err)
                       : lx_linear(&g->x, &b->in, &b->w, &b->e, &b->out, &err),
             &err);
}

#endif
