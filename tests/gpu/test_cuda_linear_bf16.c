/*
 * test_cuda_linear_bf16.c - BF16 linears by our own kernel, against the f64 definition
 * SPDX-License-Identifier: Apache-2.0
 *
 * --bench   milliseconds, operations and the share of the data sheet's BF16 rate: our own kernel,
 *           and cuBLASLt with what finishes its sums, by turns, as a model's linear calls either.
 *
 * The kernel is Hopper's (bf16_wgmma.cu). Other cards' BF16 linears are cuBLASLt's alone, which
 * test_cuda_linear tests.
 */
#include "gpu_linear_own_bench.h"

static void test_bf16_over_shapes(void **state)
{
    check_rng r = {61};
    check_shapes(*state, &r, variants[BF16]);
}

static void test_bf16_over_inputs(void **state)
{
    check_rng r = {62};
    check_inputs(*state, &r, variants[BF16]);
}

static void test_bf16_over_model_shapes(void **state)
{
    check_rng r = {63};
    check_model_shapes(*state, &r, variants[BF16]);
}

static void test_bf16_tells_squares(void **state)
{
    static const int64_t all[][3] = {
        {128, 256, 64}, {300, 576, 336}, {130, 64, 128}, {4100, 2560, 128}};
    check_rng r = {64};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!gpu_is_small() || all[i][0] <= 1000) /* beyond: several tiles a block */
            check_squares(*state, &r, variants[BF16], all[i]);
}

static void test_linear_by_our_own(void **state)
{
    check_rng r = {65};
    check_linear_by_our_own(*state, &r, variants[BF16], BF16_ROWS);
}

/* A row's squares by either way, from the model's call: those of rows before and after rounding. */
static void test_linear_squares_either_way(void **state)
{
    gpu *g = *state;
    check_rng r = {66};
    const int64_t m = BF16_ROWS, n = 320;
    problem p = make(g, &r, variants[BF16], CHECK_RANDOM, m, n, 208);
    finish f = {.bias = true, .out = LX_DTYPE_BF16};
    lx_epilogue e = epilogue_of(&p, &f);
    lx_mat out = {.dtype = LX_DTYPE_BF16, .rows = m, .cols = n, .stride = n};
    float square[2][BF16_ROWS];
    out.data = gpu_take(g, (size_t)(m * n) * 2);
    e.square = gpu_take(g, (size_t)m * sizeof(float));
    for (int i = 0; i < 2; i++) {
        *own(g, LX_DTYPE_BF16) = i != 0;
        gpu_ok(lx_linear(&g->x, &p.d_in, &p.d_w, &e, &out, err));
        gpu_get(g, square[i], e.square, sizeof square[i]);
    }
    for (int64_t i = 0; i < m; i++)
        if (!(fabsf(square[1][i] - square[0][i]) <= 2e-3f * square[0][i]))
            fail_msg("row %d: %.9g, and by cuBLASLt %.9g", (int)i, (double)square[1][i],
                     (double)square[0][i]);
    *own(g, LX_DTYPE_BF16) = false;
    destroy(g, &p);
}

/* A plan's scratch is what a call takes, and fewer rows never take more than the most. Bands of
 * few columns have more rows than go to cuBLASLt. */
static void test_scratch_is_what_was_planned(void **state)
{
    static const int64_t rows[] = {1, 9, 255, 256, 1000, BF16_ROWS - 1, BF16_ROWS, 4000},
                         cols[] = {64, 320, 1536, 13824};
    enum { N_ROWS = sizeof rows / sizeof *rows, N_COLS = sizeof cols / sizeof *cols };
    gpu *g = *state;
    check_rng r = {67};
    size_t before = 0;
    if (gpu_is_small())
        skip();
    for (int i = 0; i < N_COLS * N_ROWS; i++) {
        problem p =
            make(g, &r, variants[BF16], CHECK_RANDOM, rows[i % N_ROWS], cols[i / N_ROWS], 64);
        lx_act out = act_on_card(g, LX_DTYPE_F32, p.m, p.n);
        *own(g, LX_DTYPE_BF16) = true;
        const size_t now = scratch_of(g, &p, &out, SCRATCH_BYTES);
        *own(g, LX_DTYPE_BF16) = false;
        if (i % N_ROWS && now < before)
            fail_msg("%d rows of %d take %zu, fewer took %zu", (int)p.m, (int)p.n, now, before);
        before = now;
        destroy(g, &p);
    }
}

/* What is not served is refused, not computed wrongly. */
static void test_bf16_refuses(void **state)
{
    gpu *g = *state;
    check_rng r = {68};
    problem p = make(g, &r, variants[BF16], CHECK_RANDOM, 32, 64, 64);
    lx_cu_int8 good = served_call(g, &p), bad;
    check_refusals(g, &good);
    bad = good, bad.e.n = 48;
    assert_int_not_equal(launch(g, &bad), 0);
    bad.e.out.dtype = LX_CU_F32;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.e.activation = LX_CU_GELU;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.design = LX_CU_MMA_192x256;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.e.out.dtype = LX_CU_F16, bad.most = gpu_take(g, 32 * sizeof(uint32_t));
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.codes = (lx_cu_codes){.rows = 1, .cols = 64, .is_half = true};
    assert_int_not_equal(launch(g, &bad), 0);
    must(g, launch(g, &good), "what is left");
    destroy(g, &p);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a kernel that never ends still leaves the lines before */
    skip_without(lx_card_has_wgmma, "wgmma");
    if (gpu_wants_bench(argc, argv))
        return bench_all(variants[BF16]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16_refuses),
        cmocka_unit_test(test_bf16_over_shapes),
        cmocka_unit_test(test_bf16_over_inputs),
        cmocka_unit_test(test_bf16_tells_squares),
        cmocka_unit_test(test_linear_by_our_own),
        cmocka_unit_test(test_linear_squares_either_way),
        cmocka_unit_test(test_scratch_is_what_was_planned),
        cmocka_unit_test(test_bf16_over_model_shapes),
    };
    return cmocka_run_group_tests(tests, open_card, gpu_end_tests);
}
