/*
 * gpu_linear_own.h - FP8 and BF16 linears by our own kernels: one call against the definition, and
 *                    as a model's code calls them: test_cuda_linear_fp8, _bf16
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every call runs twice: same bits. Outputs begin as all ones: what is not written shows.
 */
#ifndef LX_TESTS_GPU_LINEAR_OWN_H
#define LX_TESTS_GPU_LINEAR_OWN_H

#include "cuda/lx_cuda_priv.h"
#include "gpu_linear_kernel.h"

#define STORE_BYTES   ((size_t)1 << 30)
#define SCRATCH_BYTES ((size_t)512 << 20)

enum { BF16 = 1, FP8 = 2 }; /* among `variants` */
enum { BF16_ROWS = 2048 };  /* from which on linear_plan.c takes our own kernel for BF16 */

/* Ends the program, as skipped, on a card without. */
static inline void skip_without(bool (*has)(const lx_card_kind *card), const char *what)
{
    lx_cuda *cuda = gpu_card();
    const bool is_there = has(lx_cuda_card(cuda));
    lx_cuda_close(&cuda);
    if (is_there)
        return;
    printf("skipped: this card (or what it is held to) has no %s\n", what);
    exit(77);
}

/* For a group of tests. */
static inline int open_card(void **state)
{
    return gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES);
}

/* lx_cu_int8's number: as linear_plan.c chooses. */
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
    lx_cu_int8 call = call_by(design_here(g), p, f);
    call.is_bf16 = p->v.dtype == LX_DTYPE_BF16;
    call.is_fp8 = !call.is_bf16;
    return call;
}

/* What sums may lose: fp8_wgmma.cu. */
static double lost_in_sums(const problem *p)
{
    return p->v.dtype == LX_DTYPE_BF16 ? GPU_SUM_F32(p->k) : GPU_SUM_FP8_OWN(p->k);
}

/* The output's bytes. */
static unsigned char *run(gpu *g, const problem *p, const finish *f)
{
    return run_call(g, p, f, call_of(g, p, f), p->v.name);
}

static void check_finish(gpu *g, const problem *p, const finish *f, double lost)
{
    char what[112];
    name_problem(what, sizeof what, p->v.name, p, f);
    unsigned char *out = run(g, p, f), *again = run(g, p, f);
    check_outs(what, p, f, out, again, lost);
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

/* Those of n finishes that are served. */
static void each_finish(gpu *g, check_rng *r, variant v, const int64_t shape[3], const finish *f,
                        int n)
{
    problem p = make(g, r, v, CHECK_RANDOM, shape[0], shape[1], shape[2]);
    p.out0 = random_elements(r, LX_DTYPE_F32, p.m * p.n, 1);
    for (int i = 0; i < n; i++)
        if (is_served(g, &p, &f[i]))
            check_finish(g, &p, &f[i], lost_in_sums(&p));
    destroy(g, &p);
}

/* Every shape, the simplest first. */
static void check_shapes(gpu *g, check_rng *r, variant v)
{
    for (int i = 0; i < N_TILE_SHAPES; i++)
        if (!gpu_is_small() || is_small_shape(TILE_SHAPES[i]))
            each_finish(g, r, v, TILE_SHAPES[i], finishes, N_FINISHES);
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

/* LARGE_SHAPES, with the finishes that a model asks of BF16, and of each kind one of FP8's. */
static void check_model_shapes(gpu *g, check_rng *r, variant v)
{
    static const finish bf16[] = {
        {.out = LX_DTYPE_F32},
        {.bias = true, .out = LX_DTYPE_BF16},
        {.bias = true, .gate = true, .add = true, .out = LX_DTYPE_F32},
    };
    static const finish fp8[] = {
        {.out = LX_DTYPE_F32},
        {.bias = true, .out = LX_DTYPE_F16, .gap = 16},
        {.bias = true, .activation = LX_ACTIVATION_GELU, .gate = true, .out = LX_DTYPE_F16},
        {.activation = LX_ACTIVATION_GELU, .gate = true, .add = true, .out = LX_DTYPE_F32},
    };
    const bool is_bf16 = v.dtype == LX_DTYPE_BF16;
    if (gpu_is_small())
        skip();
    for (int i = 0; i < N_LARGE_SHAPES; i++)
        each_finish(g, r, v, LARGE_SHAPES[i], is_bf16 ? bf16 : fp8,
                    is_bf16 ? sizeof bf16 / sizeof *bf16 : sizeof fp8 / sizeof *fp8);
}

/* Parts that the kernel leaves, folded, against the rows it writes as F32; twice. */
static void check_squares(gpu *g, check_rng *r, variant v, const int64_t shape[3])
{
    problem p = make(g, r, v, CHECK_RANDOM, shape[0], shape[1], shape[2]);
    finish f = {.bias = true, .out = LX_DTYPE_BF16}, wide = {.bias = true, .out = LX_DTYPE_F32};
    unsigned char *y = run(g, &p, &wide);
    float *got[2];
    for (int i = 0; i < 2; i++)
        got[i] = run_squares(g, &p, call_of(g, &p, &f), v.name);
    assert_memory_equal(got[0], got[1], (size_t)p.m * sizeof(float));
    for (int64_t i = 0; i < p.m; i++) {
        double want = 0;
        for (int64_t j = 0; j < p.n; j++) {
            double one = (double)gpu_widen(y, LX_DTYPE_F32, i * p.n + j);
            want += one * one;
        }
        if (!(fabs((double)got[0][i] - want) <= 1e-5 * want + 1e-30))
            fail_msg("%dx%dx%d: row %d: %.9g, not %.9g", (int)p.m, (int)p.n, (int)p.k, (int)i,
                     (double)got[0][i], want);
    }
    printf("  %dx%dx%d: squares\n", (int)p.m, (int)p.n, (int)p.k);
    free(y), free(got[0]), free(got[1]);
    destroy(g, &p);
}

/* What is served, 32 rows of 64 columns to BF16: but for one thing of it, what is refused. */
static lx_cu_int8 served_call(gpu *g, const problem *p)
{
    finish f = {.out = LX_DTYPE_BF16};
    lx_cu_int8 call = call_of(g, p, &f);
    call.e.out = (lx_cu_mat){LX_CU_BF16, 32, 64, 64, gpu_take(g, 32 * 72 * 4)};
    return call;
}

/* What neither FP8's kernels nor BF16's serve. */
static void check_refusals(const gpu *g, const lx_cu_int8 *served)
{
    lx_cu_int8 bad = *served;
    bad.k = 40;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = *served, bad.e.add_to_out = true;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = *served, bad.e.out.stride = 65; /* rows that are not aligned */
    assert_int_not_equal(launch(g, &bad), 0);
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
        size_t bytes;
        unsigned char *want = run(g, &p, f), *got = out_before(&p, f, &bytes);
        lx_mat out = {.dtype = f->out, .rows = p.m, .cols = p.n, .stride = p.n + f->gap};
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

#endif
