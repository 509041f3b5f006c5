/*
 * gpu_linear_int8.h - designs of INT8 linears by name, and what test_cuda_linear_int8 times
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_TESTS_GPU_LINEAR_INT8_H
#define LX_TESTS_GPU_LINEAR_INT8_H

#include <assert.h>

#include "cuda/lx_cuda_priv.h"
#include "gpu_linear_kernel.h"

#define SCRATCH_BYTES ((size_t)512 << 20)
#define BENCH_BYTES   ((size_t)3 << 30)

/* The last: F32's tiles end apart, codes are made apart. */
static const char *const names[] = {"mma 128x256", "mma 128x128", "wgmma 128x256", "mma 192x256",
                                    "mma 192 apart"};
static_assert(sizeof names / sizeof *names == LX_CU_INT8_DESIGNS, "by number");

static bool has_design(const gpu *g, int design, int64_t n)
{
    const lx_card_kind *card = lx_cuda_card(g->cuda);
    const char *only = getenv("LX2V_TEST_DESIGNS");
    if (only && !strchr(only, '0' + design))
        return false;
    return design != LX_CU_WGMMA_128x256 || (lx_card_has_wgmma(card) && n % 32 == 0);
}

/* --- speed ----------------------------------------------------------------------------------- */

typedef struct bench {
    lx_act in, act;
    lx_weight w, bias;
    lx_epilogue e;
    lx_mat out;
    bool is_act, is_half;  /* is_half: F16 before codes */
    int64_t m, n, k, rows; /* rows: of a band */
    int design;
    void *acc[2];
    uint32_t *most;
    lx_cu_product product; /* as cuBLASLt is asked */
    double rate_operations;
    /* print_line's roofs, of mma.sync alone: 1e12 operations a second; operations a clock, or 0 */
    double rate, rate_by_clocks;
} bench;

static void tell(const gpu *g, int code, const char *what)
{
    if (code)
        printf("%s: %s\n", what, g->cuda->module->error_text(code));
}

static void call_rate(gpu *g, void *self)
{
    bench *b = self;
    tell(g, g->cuda->module->linear->int8_rate(g->cuda->dev, &b->rate_operations), "rate");
}

/* As the model's code calls it, whatever is chosen. */
static void call_chosen(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    gpu_must(b->is_act ? lx_linear_to_act(&g->x, &b->in, &b->w, &b->e, &b->act, &err)
                       : lx_linear(&g->x, &b->in, &b->w, &b->e, &b->out, &err),
             &err);
}

static lx_cu_epilogue epilogue_for(const bench *b, int64_t row, int64_t rows)
{
    size_t size = lx_dtype_size(b->out.dtype);
    lx_cu_epilogue e = {.m = rows, .n = b->n, .acc_is_s32 = true, .x_scale = b->in.scale + row};
    e.w_scale = b->w.scale;
    e.bias = lx_cu_vec_of(&b->bias);
    e.activation = (int)b->e.activation;
    e.gate = b->e.gate;
    e.add_to_out = b->e.add_to_out;
    e.out = (lx_cu_mat){(int)b->out.dtype, rows, b->n, b->n, NULL};
    e.out.data = (unsigned char *)b->out.data + (size_t)(row * b->n) * size;
    e.out_scale = b->act.scale ? b->act.scale + row : NULL;
    return e;
}

/* Forced; codes in bands as linear_plan.c has them. */
static void call_design(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    const lx_cuda_linear_ops *ops = g->cuda->module->linear;
    lx_cu_codes before = {0};
    if (b->is_act)
        gpu_must(lx_zero(&g->x, b->most, (size_t)b->m * 4, &err), &err);
    for (int64_t row = 0, i = 0; row < b->m; row += b->rows, i++) {
        int64_t rows = b->m - row < b->rows ? b->m - row : b->rows;
        lx_cu_int8 p = {.design = b->design, .k = b->k, .w = b->w.data};
        p.x = (const int8_t *)b->in.data + row * b->k;
        p.e = epilogue_for(b, row, rows);
        if (b->is_act) {
            int dtype = b->is_half ? LX_CU_F16 : LX_CU_F32;
            p.e.out = (lx_cu_mat){dtype, rows, b->n, b->n, b->acc[i % 2]};
            p.most = b->most + row;
            p.codes = before;
            before = (lx_cu_codes){.rows = rows, .cols = b->n, .y = b->acc[i % 2]};
            before.most = p.most;
            before.scale = b->act.scale + row;
            before.is_half = b->is_half;
            before.out = (int8_t *)b->act.data + row * b->n;
        }
        tell(g, ops->int8(g->cuda->dev, &p), names[b->design]);
    }
    tell(g, ops->codes(g->cuda->dev, &before), "codes");
}

static void call_blas(gpu *g, void *self)
{
    bench *b = self;
    const lx_cuda_linear_ops *ops = g->cuda->module->linear;
    for (int64_t row = 0; row < b->m; row += b->rows) {
        int64_t rows = b->m - row < b->rows ? b->m - row : b->rows;
        lx_cu_product p = b->product;
        lx_cu_epilogue e = epilogue_for(b, row, rows);
        p.m = rows;
        p.x = (const int8_t *)b->in.data + row * b->k;
        e.acc = p.acc;
        tell(g, ops->product(g->cuda->dev, &p), "product");
        tell(g, ops->epilogue(g->cuda->dev, &e), "epilogue");
    }
}

/* q, k, v; the attention's output; the FFN's first; its second. */
typedef enum shape_kind { PLAIN, RESIDUAL, FIRST, SECOND } shape_kind;

static bench bench_of(gpu *g, shape_kind kind, int64_t m)
{
    int64_t n = kind == FIRST ? 13824 : 5120, k = kind == SECOND ? 13824 : 5120;
    bool is_added = kind == RESIDUAL || kind == SECOND;
    lx_dtype out = kind == FIRST ? LX_DTYPE_I8 : is_added ? LX_DTYPE_F32 : LX_DTYPE_BF16;
    bench b = {.m = m, .n = n, .k = k, .is_act = kind == FIRST};
    b.w = (lx_weight){.name = "i8", .dtype = LX_DTYPE_I8, .shape = {2, {n, k}}};
    b.w.data = card_random(g, LX_DTYPE_I8, n * k);
    b.w.scale = card_random(g, LX_DTYPE_F32, n);
    b.bias = (lx_weight){.name = "bias", .dtype = LX_DTYPE_BF16, .shape = {1, {n}}};
    b.bias.data = card_random(g, LX_DTYPE_BF16, n);
    b.in = (lx_act){.dtype = LX_DTYPE_I8, .rows = m, .cols = k};
    b.in.data = card_random(g, LX_DTYPE_I8, m * k);
    b.in.scale = card_random(g, LX_DTYPE_F32, m);
    b.act = (lx_act){.dtype = out, .rows = m, .cols = n};
    b.act.data = gpu_take(g, (size_t)(m * n) * lx_dtype_size(out));
    b.act.scale = kind == FIRST ? gpu_take(g, (size_t)m * 4) : NULL;
    b.out = (lx_mat){.dtype = out, .rows = m, .cols = n, .stride = n, .data = b.act.data};
    b.e.bias = &b.bias;
    b.e.activation = kind == FIRST ? LX_ACTIVATION_GELU : LX_ACTIVATION_NONE;
    b.e.gate = is_added ? card_random(g, LX_DTYPE_F32, n) : NULL;
    b.e.add_to_out = is_added;
    if (is_added)
        gpu_ok(lx_zero(&g->x, b.out.data, (size_t)(m * n) * 4, err));
    return b;
}

/* Clocks of one call, of many in a row, by one multiprocessor's counter; 0: it was told by two. */
static double clocks_of(gpu *g, void (*call)(gpu *g, void *self), bench *b)
{
    enum { CALLS = 8 };
    size_t mark = lx_arena_mark(g->store);
    lx_cu_clocks at[2], *d_at = gpu_take(g, sizeof at);
    const lx_cuda_linear_ops *linear = g->cuda->module->linear;
    call(g, b); /* the first count then waits in line, as those behind it do */
    tell(g, linear->clocks(g->cuda->dev, d_at), "clocks");
    for (int i = 0; i < CALLS; i++)
        call(g, b);
    tell(g, linear->clocks(g->cuda->dev, d_at + 1), "clocks");
    gpu_get(g, at, d_at, sizeof at);
    lx_arena_reset(g->store, mark);
    bool is_one = at[0].multiprocessor == at[1].multiprocessor;
    return is_one ? (double)(at[1].count - at[0].count) / CALLS : 0;
}

/* clocks: of the call, or 0. A card short of power lowers its clock, and lowers it more for what
 * moves operands than for mma.sync alone; clocks do not show that, but memory is quicker
 * by them. */
static void print_line(const bench *b, const char *how, shape_kind kind, double s, double clocks)
{
    static const char *const kinds[] = {"-> bf16", "gate add -> f32", "gelu -> codes",
                                        "gate add -> f32"};
    double tera = 2e-12 * (double)b->m * (double)b->n * (double)b->k;
    printf("%-14s M %5d %5d -> %5d %-16s %8.4f ms %7.1f T/s %6.1f %% of %.0f by mma.sync", how,
           (int)b->m, (int)b->k, (int)b->n, kinds[kind], 1e3 * s, tera / s,
           100 * tera / s / b->rate, b->rate);
    if (clocks > 0 && b->rate_by_clocks > 0)
        printf(", %.1f %% by clocks (%.2f GHz)", 1e14 * tera / clocks / b->rate_by_clocks,
               1e-9 * clocks / s);
    printf("\n");
}

#endif
