/*
 * gpu_linear_own.h - FP8 and BF16 linears by our own kernels: one call against the definition, as a
 *                    model's code calls them, and how fast: test_cuda_linear_fp8, _bf16
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every call runs twice: same bits. Outputs begin as all ones: what is not written shows.
 */
#ifndef LX_TESTS_GPU_LINEAR_OWN_H
#define LX_TESTS_GPU_LINEAR_OWN_H

#include "cuda/cu_rows.h"
#include "cuda/lx_cuda_priv.h"
#include "gpu_linear.h"

#define STORE_BYTES   ((size_t)1 << 30)
#define SCRATCH_BYTES ((size_t)512 << 20)
#define BENCH_BYTES   ((size_t)3 << 30)

enum { BF16 = 1, FP8 = 2 }; /* among `variants` */

/* lx_cu_int8's number: as linear.c chooses. */
static inline int design_here(const gpu *g)
{
    return lx_card_has_wgmma(lx_cuda_card(g->cuda)) ? LX_CU_WGMMA_128x256 : LX_CU_MMA_192x256;
}

static inline bool is_served(const gpu *g, const problem *p, const finish *f)
{
    const int unit = design_here(g) != LX_CU_WGMMA_128x256 ? 16 : f->out == LX_DTYPE_F32 ? 32 : 64;
    return p->n % unit == 0 && !(p->v.dtype == LX_DTYPE_BF16 && f->activation);
}

/* Whether a model's linears of such weights go to our own kernels. */
static inline bool *own(const gpu *g, lx_dtype dtype)
{
    return dtype == LX_DTYPE_BF16 ? &g->cuda->has_own_bf16 : &g->cuda->has_own_fp8;
}

/* --- one call -------------------------------------------------------------------------------- */

static lx_cu_int8 call_of(const gpu *g, const problem *p, const finish *f)
{
    lx_cu_int8 call = {.design = design_here(g), .k = p->k};
    call.is_bf16 = p->v.dtype == LX_DTYPE_BF16;
    call.is_fp8 = !call.is_bf16;
    call.x = p->d_in.data;
    call.w = p->d_w.data;
    call.e = (lx_cu_epilogue){.m = p->m, .n = p->n, .add_to_out = f->add};
    call.e.x_scale = p->d_in.scale;
    call.e.w_scale = p->d_w.scale;
    call.e.bias = f->bias ? lx_cu_vec_of(&p->d_bias) : (lx_cu_vec){0, NULL};
    call.e.activation = (int)f->activation;
    call.e.gate = f->gate ? p->d_gate : NULL;
    return call;
}

static int launch(const gpu *g, const lx_cu_int8 *call)
{
    return g->cuda->module->linear->int8(g->cuda->dev, call);
}

/* Fails if anything but 0xff lies between the rows. */
static void check_gaps(const unsigned char *out, int64_t m, size_t row, size_t used)
{
    for (int64_t i = 0; i < m; i++)
        for (size_t at = (size_t)i * row + used; at < (size_t)(i + 1) * row; at++)
            if (out[at] != 0xff)
                fail_msg("row %d: written beyond its columns", (int)i);
}

/* The output's bytes. */
static unsigned char *run(gpu *g, const problem *p, const finish *f)
{
    size_t size = lx_dtype_size(f->out), mark = lx_arena_mark(g->store);
    int64_t stride = p->n + f->gap;
    size_t bytes = (size_t)(p->m * stride) * size, row = (size_t)stride * size;
    unsigned char *out = check_alloc(1, bytes);
    memset(out, 0xff, bytes);
    for (int64_t m = 0; m < p->m && f->add; m++)
        memcpy(out + (size_t)m * row, p->out0 + m * p->n, (size_t)p->n * sizeof(float));
    lx_cu_int8 call = call_of(g, p, f);
    call.e.out = (lx_cu_mat){(int)f->out, p->m, p->n, stride, gpu_put(g, out, bytes)};
    must(g, launch(g, &call), p->v.name);
    gpu_get(g, out, call.e.out.data, bytes);
    check_gaps(out, p->m, row, (size_t)p->n * size);
    lx_arena_reset(g->store, mark);
    return out;
}

static void check_finish(gpu *g, const problem *p, const finish *f, double lost)
{
    char what[112];
    int64_t stride = p->n + f->gap;
    snprintf(what, sizeof what, "%s %dx%dx%d%s%s%s%s -> %s%s", p->v.name, (int)p->m, (int)p->n,
             (int)p->k, f->bias ? " bias" : "", f->activation ? " gelu" : "",
             f->gate ? " gate" : "", f->add ? " add" : "", lx_dtype_name(f->out),
             f->gap ? " strided" : "");
    unsigned char *out = run(g, p, f), *again = run(g, p, f);
    bool is_same = memcmp(out, again, (size_t)(p->m * stride) * lx_dtype_size(f->out)) == 0;
    sample s = sample_of(p);
    problem part = part_of(p, &s);
    float *want = defined(&part, f), *f32 = plain(&part, f), *got = check_floats(part.m * part.n);
    for (int64_t i = 0; i < part.m; i++)
        for (int64_t j = 0; j < part.n; j++)
            got[i * part.n + j] = gpu_widen(out, f->out, s.rows[i] * stride + s.cols[j]);
    gpu_report_allowed(what, got, want, f32, part.m * part.n, part.n, f->out, lost);
    if (!is_same)
        fail_msg("%s: other bits the second time", what);
    destroy_part(&part);
    free(s.rows), free(s.cols), free(want), free(f32), free(got), free(out), free(again);
}

/* What the model asks for, and what else is served. */
static const finish finishes[] = {
    {.out = LX_DTYPE_F32},
    {.bias = true, .out = LX_DTYPE_BF16},
    {.bias = true, .out = LX_DTYPE_F32, .gap = 8},
    {.bias = true, .out = LX_DTYPE_F16, .gap = 16},
    {.bias = true, .gate = true, .add = true, .out = LX_DTYPE_F32},
    {.bias = true, .activation = LX_ACTIVATION_GELU, .out = LX_DTYPE_F32},
    {.bias = true, .activation = LX_ACTIVATION_GELU, .gate = true, .out = LX_DTYPE_F16},
    {.add = true, .out = LX_DTYPE_F32, .gap = 24},
    {.bias = true, .activation = LX_ACTIVATION_GELU, .out = LX_DTYPE_BF16, .gap = 8},
    {.activation = LX_ACTIVATION_GELU, .gate = true, .add = true, .out = LX_DTYPE_F32},
};
enum { N_FINISHES = sizeof finishes / sizeof *finishes };

/* The simplest first: the first red line says most. One tile, then tails of each side, more tiles
 * than blocks, steps of K that are cut short. */
static const int64_t shapes[][3] = {
    {128, 256, 128}, {128, 256, 64},   {128, 256, 16},   {128, 256, 640},
    {64, 64, 64},    {1, 64, 16},      {17, 32, 48},     {127, 96, 80},
    {129, 272, 144}, {192, 256, 256},  {193, 320, 272},  {256, 512, 80},
    {300, 1024, 64}, {1000, 192, 336}, {383, 576, 1040}, {130, 320, 384},
};

/* What sums may lose: fp8_wgmma.cu. */
static double lost_in_sums(const problem *p)
{
    return p->v.dtype == LX_DTYPE_BF16 ? GPU_SUM_F32(p->k) : GPU_SUM_FP8_OWN(p->k);
}

static void each_finish(gpu *g, check_rng *r, variant v, const int64_t shape[3], int every)
{
    problem p = make(g, r, v, CHECK_RANDOM, shape[0], shape[1], shape[2]);
    p.out0 = random_elements(r, LX_DTYPE_F32, p.m * p.n, 1);
    for (int i = 0; i < N_FINISHES; i += every)
        if (is_served(g, &p, &finishes[i]))
            check_finish(g, &p, &finishes[i], lost_in_sums(&p));
    destroy(g, &p);
}

/* Every shape, the simplest first. */
static void check_shapes(gpu *g, check_rng *r, variant v)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!gpu_is_small() || shapes[i][0] * shapes[i][1] * shapes[i][2] <= 10000000)
            each_finish(g, r, v, shapes[i], 1);
}

/* Zero rows, large ones, planted outliers among small numbers. */
static void check_inputs(gpu *g, check_rng *r, variant v)
{
    for (int kind = 0; kind < CHECK_KINDS; kind++) {
        problem p = make(g, r, v, kind, 150, 192, 528);
        p.out0 = random_elements(r, LX_DTYPE_F32, p.m * p.n, 1);
        for (int i = 0; i < 5; i++)
            check_finish(g, &p, &finishes[i], lost_in_sums(&p));
        destroy(g, &p);
    }
}

/* Every block has several tiles, of one step of K, of two, of many; every column and row of tiles.
 */
static void check_model_shapes(gpu *g, check_rng *r, variant v)
{
    for (int i = 0; i < N_LARGE_SHAPES; i++)
        each_finish(g, r, v, LARGE_SHAPES[i], 3);
}

/* Parts that the kernel leaves, folded, against the rows it writes as F32; twice. */
static void check_squares(gpu *g, const problem *p)
{
    const lx_cuda_module *module = g->cuda->module;
    finish f = {.bias = true, .out = LX_DTYPE_BF16}, wide = {.bias = true, .out = LX_DTYPE_F32};
    const int64_t part = LX_CU_INT8_PART(design_here(g)), parts = (p->n + part - 1) / part;
    unsigned char *y = run(g, p, &wide);
    float *got[2];
    for (int i = 0; i < 2; i++) {
        size_t mark = lx_arena_mark(g->store), bytes = (size_t)(parts * p->m) * sizeof(float);
        float *sums = gpu_take(g, bytes), *square = gpu_take(g, (size_t)p->m * sizeof *square);
        void *out = gpu_take(g, (size_t)(p->m * p->n) * 2);
        lx_cu_int8 call = call_of(g, p, &f);
        call.e.out = (lx_cu_mat){LX_CU_BF16, p->m, p->n, p->n, out};
        call.squares = sums;
        must(g, launch(g, &call), p->v.name);
        must(g, module->rows->fold(g->cuda->dev, sums, (int)parts, p->m, square), "fold");
        got[i] = check_floats(p->m);
        gpu_get(g, got[i], square, (size_t)p->m * sizeof *square);
        lx_arena_reset(g->store, mark);
    }
    assert_memory_equal(got[0], got[1], (size_t)p->m * sizeof(float));
    for (int64_t i = 0; i < p->m; i++) {
        double want = 0;
        for (int64_t j = 0; j < p->n; j++) {
            double v = (double)gpu_widen(y, LX_DTYPE_F32, i * p->n + j);
            want += v * v;
        }
        if (!(fabs((double)got[0][i] - want) <= 1e-5 * want + 1e-30))
            fail_msg("%dx%dx%d: row %d: %.9g, not %.9g", (int)p->m, (int)p->n, (int)p->k, (int)i,
                     (double)got[0][i], want);
    }
    printf("  %dx%dx%d: squares\n", (int)p->m, (int)p->n, (int)p->k);
    free(y), free(got[0]), free(got[1]);
}

/* --- as the model calls it ------------------------------------------------------------------- */

/* The same bits as the kernel itself, and no scratch kept. rows: enough that it is chosen. */
static inline void check_linear_by_our_own(gpu *g, check_rng *r, variant v, int64_t rows)
{
    for (int i = 0; i < N_FINISHES; i++) {
        problem p = make(g, r, v, CHECK_RANDOM, rows, 320, 208);
        const finish *f = &finishes[i];
        if (!is_served(g, &p, f)) {
            destroy(g, &p);
            continue;
        }
        p.out0 = random_elements(r, LX_DTYPE_F32, p.m * p.n, 1);
        const int64_t stride = p.n + f->gap;
        const size_t size = lx_dtype_size(f->out), bytes = (size_t)(p.m * stride) * size;
        unsigned char *want = run(g, &p, f), *got = check_alloc(1, bytes);
        memset(got, 0xff, bytes);
        for (int64_t m = 0; m < p.m && f->add; m++)
            memcpy(got + (size_t)(m * stride) * size, p.out0 + m * p.n, (size_t)p.n * size);
        lx_mat out = {.dtype = f->out, .rows = p.m, .cols = p.n, .stride = stride};
        out.data = gpu_put(g, got, bytes);
        lx_epilogue e = epilogue_of(&p, f);
        size_t scratch = lx_arena_mark(g->scratch);
        *own(g, v.dtype) = true;
        gpu_ok(lx_linear(&g->x, &p.d_in, &p.d_w, &e, &out, err));
        *own(g, v.dtype) = false;
        assert_int_equal(lx_arena_mark(g->scratch), scratch);
        gpu_get(g, got, out.data, bytes);
        assert_memory_equal(got, want, bytes);
        free(want), free(got);
        destroy(g, &p);
    }
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

/* v; the attention's output; the FFN's first; its second; q and k. */
typedef enum shape_kind { PLAIN, RESIDUAL, FIRST, SECOND, SQUARES } shape_kind;

static bench bench_of(gpu *g, lx_dtype dtype, shape_kind kind, int64_t m)
{
    bool is_fp8 = dtype == LX_DTYPE_F8_E4M3;
    int64_t n = kind == FIRST ? 13824 : 5120, k = kind == SECOND ? 13824 : 5120;
    bool is_added = kind == RESIDUAL || kind == SECOND;
    lx_dtype out = is_added ? LX_DTYPE_F32 : kind == FIRST ? dtype : LX_DTYPE_BF16;
    bench b = {.m = m, .n = n, .k = k, .is_act = kind == FIRST && is_fp8};
    b.w = (lx_weight){.name = "weight", .dtype = dtype, .shape = {2, {n, k}}};
    b.w.data = card_random(g, dtype, n * k);
    b.w.scale = is_fp8 ? card_random(g, LX_DTYPE_F32, n) : NULL;
    b.bias = (lx_weight){.name = "bias", .dtype = LX_DTYPE_BF16, .shape = {1, {n}}};
    b.bias.data = card_random(g, LX_DTYPE_BF16, n);
    b.in = (lx_act){.dtype = dtype, .rows = m, .cols = k};
    b.in.data = card_random(g, dtype, m * k);
    b.in.scale = is_fp8 ? card_random(g, LX_DTYPE_F32, m) : NULL;
    b.act = (lx_act){.dtype = out, .rows = m, .cols = n};
    b.act.data = gpu_take(g, (size_t)(m * n) * lx_dtype_size(out));
    b.act.scale = b.is_act ? gpu_take(g, (size_t)m * 4) : NULL;
    b.out = (lx_mat){.dtype = out, .rows = m, .cols = n, .stride = n, .data = b.act.data};
    b.e.activation = kind == FIRST ? LX_ACTIVATION_GELU : LX_ACTIVATION_NONE;
    b.e.gate = is_added ? card_random(g, LX_DTYPE_F32, n) : NULL;
    b.e.add_to_out = is_added;
    b.e.square = is_fp8 || kind != SQUARES ? NULL : gpu_take(g, (size_t)m * 4);
    if (is_added)
        gpu_ok(lx_zero(&g->x, b.out.data, (size_t)(m * n) * 4, err));
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
static void bench_shape(gpu *g, lx_dtype dtype, shape_kind kind, int64_t m)
{
    static const char *const kinds[] = {"-> bf16", "gate add -> f32", "gelu", "gate add -> f32",
                                        "-> bf16, squares"};
    enum { TURNS = 6 };
    char what[96];
    size_t mark = lx_arena_mark(g->store);
    bench b = bench_of(g, dtype, kind, m);
    b.e.bias = &b.bias;
    for (int i = 0; i < TURNS; i++) {
        bool is_own = i % 2 == 0;
        *own(g, dtype) = is_own;
        snprintf(what, sizeof what, "%-8s M %5d %5d -> %5d %s", is_own ? "own" : "cuBLASLt", (int)m,
                 (int)b.k, (int)b.n, kinds[kind]);
        gpu_print_rate(what, gpu_time(g, call_linear, &b),
                       2e-12 * (double)m * (double)b.n * (double)b.k, sheet_of(g, dtype));
    }
    *own(g, dtype) = false;
    lx_arena_reset(g->store, mark);
}

static int bench_all(lx_dtype dtype)
{
    static const int64_t rows[] = {32760, 16384, 4096, 1024, 512};
    gpu g;
    gpu_open(&g, BENCH_BYTES, SCRATCH_BYTES);
    printf("design: %s; share of %.0f T operations/s\n",
           design_here(&g) == LX_CU_WGMMA_128x256 ? "wgmma 128x256" : "mma 192x256",
           sheet_of(&g, dtype));
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
        for (int kind = PLAIN; kind <= (dtype == LX_DTYPE_BF16 ? SQUARES : SECOND); kind++)
            bench_shape(&g, dtype, (shape_kind)kind, rows[m]);
    gpu_close(&g);
    return 0;
}

#endif
