/*
 * test_cuda_attention_fp8.c - attention by mma.sync with values in FP8: cards of 8.9 and 12.0
 * SPDX-License-Identifier: Apache-2.0
 *
 * On Hopper `pretend` has that kernel run: its products are then made of F16 ones, exactly, so what
 * FP8 sums lose on the cards it is for (14 bits are kept) is not seen here.
 *
 * Reading   One tile of 64 keys wrong, also with zeros for q and k: operands of values. Two wrong:
 *           the second half of an image, or how o is scaled. Three wrong: buffers. Only F16 sums
 *           wrong: v_top or the packing of sums. Images themselves are looked at by
 *           test_cuda_attention_wgmma.c.
 */
#include "gpu_attention_kernel.h"

static lx_card_kind real;

static int begin(void **state)
{
    gpu *g = begin_with(state, lx_card_has_fp8, "FP8");
    real = lx_card_has_wgmma(&g->cuda->card) ? pretend(g, 8, 9) : g->cuda->card;
    return 0;
}

static int end(void **state)
{
    gpu *g = *state;
    g->cuda->card = real;
    return gpu_end_tests(state);
}

typedef int (*check)(gpu *g);

/* With sums of both kinds; all failures are told before it fails. */
static void with_both_sums(void **state, check one)
{
    gpu *g = *state;
    int n_bad = 0;
    for (int sums = LX_SUMS_F32; sums <= LX_SUMS_F16; sums++) {
        printf(" sums in %s\n", sums == LX_SUMS_F16 ? "F16" : "F32");
        g->x.sums = (lx_sums)sums;
        n_bad += one(g);
    }
    g->x.sums = LX_SUMS_AUTO;
    assert_int_equal(n_bad, 0);
}

static int around_tiles(gpu *g)
{
    static const int64_t n_k[] = {1,   2,   15,  16,  17,  31,  33,  63,  64,  65,  127,  128,
                                  129, 191, 193, 255, 256, 257, 319, 321, 385, 513, 1025, 1153};
    static const int64_t n_q[] = {1, 31, 32, 33, 127, 255, 256, 257, 300};
    int n_bad = 0;
    shape s = {.n_q = 64, .n_k = 64, .n_heads = 1, .head_dim = 128, .is_zero = true};
    s.kind = LX_ATTENTION_INT8_FP8;
    n_bad += is_bad(g, &s);
    s.n_k = 300;
    n_bad += is_bad(g, &s);
    for (int i = 0; i < 24; i++) {
        s = (shape){.n_q = n_q[i % 9], .n_k = n_k[i], .n_heads = 3, .head_dim = 128};
        s.kind = LX_ATTENTION_INT8_FP8;
        s.slack = i % 3 ? 0 : 8;
        n_bad += is_bad(g, &s);
    }
    s = (shape){.n_q = 32760, .n_k = 32760, .n_heads = 2, .head_dim = 128};
    s.kind = LX_ATTENTION_INT8_FP8;
    return n_bad + is_bad(g, &s);
}

static void test_fp8_around_tiles(void **state)
{
    with_both_sums(state, around_tiles);
}

static int within_bars(gpu *g)
{
    return n_beyond_bars(g, 800);
}

static void test_error_is_within_the_bars(void **state)
{
    with_both_sums(state, within_bars);
}

/* Keys far from zero, a channel of outliers, values of any size, logits of tens. */
static int extremes(gpu *g)
{
    static const float planted[][2] = {{10, 0}, {0, 60}, {10, 200}};
    static const float magnitude[] = {0.001f, 500, 20000};
    shape s = {.n_q = 300, .n_k = 1000, .n_heads = 3, .head_dim = 128};
    int n_bad = 0;
    s.kind = LX_ATTENTION_INT8_FP8;
    for (int i = 0; i < 3; i++) {
        s.k_offset = planted[i][0];
        s.k_outlier = planted[i][1];
        n_bad += is_bad(g, &s);
    }
    s.k_offset = s.k_outlier = 0;
    for (int i = 0; i < 3; i++) {
        s.v_magnitude = magnitude[i];
        n_bad += is_bad(g, &s);
    }
    s.v_magnitude = 0;
    s.n_k = 3001;
    s.scale = 12;
    s.allowed = 0.065; /* the same numbers computed in f64 from rounded operands: 0.043 */
    return n_bad + is_bad(g, &s);
}

static void test_fp8_of_extremes(void **state)
{
    with_both_sums(state, extremes);
}

/* Equal weights, each 448, and values as large as their channel's largest, all of one sign: F16
 * sums of 64 keys reach 64,512. */
static int fullest_sums(gpu *g)
{
    shape s = {.n_q = 40, .n_k = 640, .n_heads = 2, .head_dim = 128, .is_zero = true};
    s.kind = LX_ATTENTION_INT8_FP8;
    problem p = make(g, &s);
    int n_bad = 0;
    for (int64_t i = 0; i < s.n_k * p.width; i++)
        p.v[i] = (float)(i % p.width % 7 + 1) * (i % 2 ? 3 : -3);
    p.d_v = gpu_mat(g, LX_DTYPE_F16, p.v, s.n_k, p.width, p.width);
    float *out = run(g, &p);
    for (int64_t i = 0; i < s.n_q * p.width && !n_bad; i++)
        if (!(fabsf(out[i] - p.v[i % p.width]) <= 0x1p-8f * fabsf(p.v[i % p.width]))) {
            printf("  BAD query %d, column %d: %g for %g\n", (int)(i / p.width), (int)(i % p.width),
                   (double)out[i], (double)p.v[i % p.width]);
            n_bad = 1;
        }
    free(out);
    destroy(g, &p);
    return n_bad;
}

static void test_the_fullest_sums_stay_finite(void **state)
{
    with_both_sums(state, fullest_sums);
}

static int same_bits(gpu *g)
{
    char what[32];
    for (int i = 0; i < N_RUN_KEYS; i++) {
        snprintf(what, sizeof what, "%d keys", (int)RUN_KEYS[i]);
        check_runs(g, what, LX_ATTENTION_INT8_FP8, RUN_KEYS[i], g->cuda->module->attention->fp8);
    }
    return 0;
}

static void test_the_same_bits_however_it_runs(void **state)
{
    with_both_sums(state, same_bits);
}

/* What a dry run takes is what the real one takes; heads of 64 have values in F16, as ever. */
static void test_what_is_prepared(void **state)
{
    gpu *g = *state;
    for (int64_t dim = 64; dim <= 128; dim *= 2) {
        shape s = {.n_q = 65, .n_k = 700, .n_heads = 3, .head_dim = dim};
        s.kind = LX_ATTENTION_INT8_FP8;
        problem p = make(g, &s);
        lx_exec dry = gpu_plan_open(g);
        lx_kv kv, dry_kv;
        size_t mark = lx_arena_mark(g->scratch);
        gpu_ok(lx_kv_prepare(&dry, s.kind, &p.d_k, &p.d_v, 3, &dry_kv, err));
        gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, 3, &kv, err));
        assert_int_equal(kv.kind, dim == 128 ? LX_ATTENTION_INT8_FP8 : LX_ATTENTION_INT8);
        assert_int_equal(dry_kv.kind, kv.kind);
        assert_int_equal(kv.k_images != NULL, dim == 128);
        assert_int_equal(lx_arena_mark(g->scratch) - mark, lx_arena_mark(dry.arena));
        gpu_ok(lx_exec_wait(&g->x, err));
        lx_arena_reset(g->scratch, mark);
        gpu_plan_close(&dry);
        destroy(g, &p);
    }
}

/* The log of the sum is Hopper's alone, and says so. */
static void test_the_log_of_the_sum_is_refused(void **state)
{
    gpu *g = *state;
    lx_err why = {0};
    shape s = {.n_q = 10, .n_k = 20, .n_heads = 1, .head_dim = 128, .has_lse = true};
    s.kind = LX_ATTENTION_INT8_FP8;
    problem p = make(g, &s);
    lx_kv kv;
    size_t mark = lx_arena_mark(g->scratch);
    gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, 1, &kv, err));
    lx_attention_args args = args_of(&p, &kv);
    assert_int_equal(lx_attention(&g->x, &args, &why), LX_EJOB);
    assert_non_null(strstr(why.message, "log of the sum"));
    lx_arena_reset(g->scratch, mark);
    destroy(g, &p);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* if a kernel never ends, the last line tells which */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_prepared),
        cmocka_unit_test(test_fp8_around_tiles),
        cmocka_unit_test(test_error_is_within_the_bars),
        cmocka_unit_test(test_the_fullest_sums_stay_finite),
        cmocka_unit_test(test_fp8_of_extremes),
        cmocka_unit_test(test_the_same_bits_however_it_runs),
        cmocka_unit_test(test_the_log_of_the_sum_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
