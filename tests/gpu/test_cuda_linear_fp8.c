/*
 * test_cuda_linear_fp8.c - FP8 linears by our own kernels, against the f64 definition
 * SPDX-License-Identifier: Apache-2.0
 *
 * --bench   milliseconds, operations and the share of the data sheet's FP8 rate: our own kernel and
 *           cuBLASLt with the epilogue's kernel by turns, as a model's linear calls either.
 *
 * The design is the card's: wgmma on Hopper, else mma.sync (on Hopper too where LX2V_ARCH_MAX=89
 * holds the card to that: two products of F16 for each of FP8 there, so its speed says nothing).
 *
 * Sums      of E4M3 keep 14 bits: 2.5e-5 sqrt(K) where signs are mixed (fp8_wgmma.cu). Twice that
 *           is allowed; what codes themselves are off is measured beside it.
 */
#include "gpu_linear_own_bench.h"

/* --- tests ----------------------------------------------------------------------------------- */

static void test_fp8_over_shapes(void **state)
{
    check_rng r = {41};
    check_shapes(*state, &r, variants[FP8]);
}

static void test_fp8_over_inputs(void **state)
{
    check_rng r = {42};
    check_inputs(*state, &r, variants[FP8]);
}

static void test_fp8_over_model_shapes(void **state)
{
    check_rng r = {43};
    check_model_shapes(*state, &r, variants[FP8]);
}

/* Codes of one magnitude, whose signs follow from row and column. Each product is a multiple of
 * what the largest sum's 14 bits can tell apart, so nothing may be lost. */
static void check_magnitude(gpu *g, check_rng *r, float magnitude, int64_t k)
{
    problem p = make(g, r, variants[FP8], CHECK_RANDOM, 200, 192, k);
    uint8_t *x = p.in.data, *w = (uint8_t *)(uintptr_t)p.w.data;
    const uint8_t plus = lx_f8_e4m3_from_f32(magnitude), minus = plus | 0x80;
    for (int64_t i = 0; i < p.m * k; i++)
        x[i] = i / k % 3 == 1 ? minus : plus;
    for (int64_t i = 0; i < p.n * k; i++)
        w[i] = i / k % 2 ? minus : plus;
    gpu_ok(lx_upload(&g->x, p.d_in.data, x, (size_t)(p.m * k), err));
    gpu_ok(lx_upload(&g->x, (void *)(uintptr_t)p.d_w.data, w, (size_t)(p.n * k), err));
    check_finish(g, &p, &finishes[0], 0);
    destroy(g, &p);
}

static void test_fp8_largest_and_smallest_sums(void **state)
{
    check_rng r = {44};
    check_magnitude(*state, &r, 0.0625f, 16); /* sums below 1: they are no integers */
    check_magnitude(*state, &r, 448, 320);
    check_magnitude(*state, &r, 256, gpu_is_small() ? 528 : 8192);
}

/* --- what the sums lose, beside what codes lose ---------------------------------------------- */

/* Relative L2 of y against want. */
static double off_by(const float *y, const double *want, int64_t n)
{
    double square = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        square += ((double)y[i] - want[i]) * ((double)y[i] - want[i]);
        norm += want[i] * want[i];
    }
    return sqrt(square / norm);
}

static double *product_of(const float *x, const float *w, int64_t m, int64_t n, int64_t k)
{
    double *out = check_alloc(m * n, sizeof *out);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t c = 0; c < k; c++)
                sum += (double)x[i * k + c] * (double)w[j * k + c];
            out[i * n + j] = sum;
        }
    return out;
}

/* Rows of floats as codes on the host, and what these stand for in place of the floats. */
static lx_act codes_of_floats(float *x, int64_t m, int64_t k)
{
    lx_act a = {.dtype = LX_DTYPE_F8_E4M3, .rows = m, .cols = k, .data = check_alloc(m * k, 1)};
    a.scale = check_floats(m);
    lx_quantize_rows_ref(x, &a);
    for (int64_t i = 0; i < m * k; i++)
        x[i] = a.scale[i / k] * gpu_widen(a.data, LX_DTYPE_F8_E4M3, i);
    return a;
}

typedef struct losses {
    double codes, own, blas;    /* against the product of the numbers before they were codes */
    double own_sums, blas_sums; /* against the product of the codes */
} losses;

static float *linear_by(gpu *g, bool is_own, const lx_act *x, const lx_weight *w)
{
    int64_t m = x->rows, n = w->shape.dim[0];
    float *y = check_floats(m * n);
    lx_mat out = {.dtype = LX_DTYPE_F32, .rows = m, .cols = n, .stride = n};
    out.data = gpu_put(g, y, (size_t)(m * n) * sizeof *y);
    g->cuda->has_own_fp8 = is_own;
    gpu_ok(lx_linear(&g->x, x, w, NULL, &out, err));
    g->cuda->has_own_fp8 = false;
    gpu_get(g, y, out.data, (size_t)(m * n) * sizeof *y);
    return y;
}

/* is_positive: all products have one sign. */
static losses measure(gpu *g, check_rng *r, bool is_positive, int64_t k)
{
    const int64_t m = 256, n = 64;
    size_t mark = lx_arena_mark(g->store);
    float *x = check_input(r, CHECK_RANDOM, m * k), *w = check_input(r, CHECK_RANDOM, n * k);
    for (int64_t i = 0; i < m * k && is_positive; i++)
        x[i] = fabsf(x[i]);
    for (int64_t i = 0; i < n * k && is_positive; i++)
        w[i] = fabsf(w[i]);
    double *want = product_of(x, w, m, n, k);
    lx_act a = codes_of_floats(x, m, k), b = codes_of_floats(w, n, k), d = a;
    double *coded = product_of(x, w, m, n, k);
    lx_weight weight = {.name = "w", .dtype = LX_DTYPE_F8_E4M3, .shape = {2, {n, k}}};
    weight.data = gpu_put(g, b.data, (size_t)(n * k));
    weight.scale = gpu_put(g, b.scale, (size_t)n * sizeof(float));
    d.data = gpu_put(g, a.data, (size_t)(m * k));
    d.scale = gpu_put(g, a.scale, (size_t)m * sizeof(float));
    float *own = linear_by(g, true, &d, &weight), *blas = linear_by(g, false, &d, &weight);
    float *exact = check_floats(m * n);
    for (int64_t i = 0; i < m * n; i++)
        exact[i] = (float)coded[i];
    losses l = {off_by(exact, want, m * n), off_by(own, want, m * n), off_by(blas, want, m * n),
                off_by(own, coded, m * n), off_by(blas, coded, m * n)};
    printf("  K %5d %-8s codes %.4f, with our sums %.4f, cuBLASLt's %.4f; sums alone %.2e, %.2e\n",
           (int)k, is_positive ? "one sign" : "mixed", l.codes, l.own, l.blas, l.own_sums,
           l.blas_sums);
    free(x), free(w), free(want), free(coded), free(own), free(blas), free(exact);
    free(a.data), free(a.scale), free(b.data), free(b.scale);
    lx_arena_reset(g->store, mark);
    return l;
}

/* The error bar of quantized linears is 1.15 times what quantization itself is off. */
static void test_fp8_sums_beside_codes(void **state)
{
    static const int64_t depths[] = {64, 1536, 5120, 13824};
    check_rng r = {45};
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        if (gpu_is_small() && i > 0)
            break;
        losses l = measure(*state, &r, false, depths[i]);
        assert_true(l.own <= 1.15 * l.codes);
        assert_true(l.own_sums <= GPU_SUM_FP8_OWN(depths[i]));
    }
    if (gpu_is_small())
        return;
    losses l = measure(*state, &r, true, 5120); /* the worst case: told, and bounded */
    assert_true(l.own_sums <= 5120 * 0x1p-15);
}

/* --- sums of squares and maxima -------------------------------------------------------------- */

static void test_fp8_tells_squares(void **state)
{
    static const int64_t all[][3] = {{1, 64, 16},    {64, 64, 64},    {129, 192, 80},
                                     {300, 320, 64}, {1000, 576, 64}, {700, 5120, 128}};
    check_rng r = {46};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!gpu_is_small() || all[i][0] * all[i][1] <= 100000)
            check_squares(*state, &r, variants[FP8], all[i]);
}

/* --- codes ----------------------------------------------------------------------------------- */

typedef struct band {
    uint16_t *y; /* F16 */
    float *scale;
    uint32_t *most;
    uint8_t *codes;
} band;

static band take_band(gpu *g, int64_t m, int64_t n)
{
    band b = {.y = gpu_take(g, (size_t)(m * n) * 2), .scale = gpu_take(g, (size_t)m * 4)};
    b.most = gpu_take(g, (size_t)m * 4);
    b.codes = gpu_take(g, (size_t)(m * n));
    gpu_ok(lx_zero(&g->x, b.most, (size_t)m * 4, err));
    gpu_ok(lx_zero(&g->x, b.codes, (size_t)(m * n), err));
    return b;
}

static lx_cu_codes codes_of(const band *b, int64_t m, int64_t n)
{
    lx_cu_codes c = {m, n, b->y, b->most, (int8_t *)b->codes, b->scale, .is_half = true};
    c.is_fp8 = true;
    return c;
}

/* Codes and scales of y as it lies on the card, and its rows' maxima: the definition's bits. */
static void check_band(gpu *g, const char *what, const band *b, int64_t m, int64_t n)
{
    uint16_t *raw = check_alloc(m * n, 2);
    float *y = check_floats(m * n), *scale = check_floats(m), *most = check_floats(m);
    uint8_t *codes = check_alloc(m * n, 1);
    lx_act want = {.dtype = LX_DTYPE_F8_E4M3, .rows = m, .cols = n};
    want.data = check_alloc(m * n, 1);
    want.scale = check_floats(m);
    gpu_get(g, raw, b->y, (size_t)(m * n) * 2);
    gpu_get(g, scale, b->scale, (size_t)m * 4);
    gpu_get(g, codes, b->codes, (size_t)(m * n));
    gpu_get(g, most, b->most, (size_t)m * 4);
    lx_widen_to_f32(y, raw, LX_DTYPE_F16, (size_t)(m * n));
    lx_quantize_rows_ref(y, &want);
    for (int64_t i = 0; i < m; i++) {
        float largest = 0;
        for (int64_t j = 0; j < n; j++)
            largest = fmaxf(largest, fabsf(y[i * n + j]));
        if (most[i] != largest || scale[i] != want.scale[i])
            fail_msg("%s: row %d: told %.9g and scale %.9g, not %.9g and %.9g", what, (int)i,
                     (double)most[i], (double)scale[i], (double)largest, (double)want.scale[i]);
    }
    for (int64_t i = 0; i < m * n; i++)
        if (codes[i] != ((uint8_t *)want.data)[i])
            fail_msg("%s: [%d, %d]: code %02x, not %02x, for %.9g", what, (int)(i / n),
                     (int)(i % n), codes[i], ((uint8_t *)want.data)[i], (double)y[i]);
    printf("  %-56s %lld codes exact\n", what, (long long)(m * n));
    free(raw), free(y), free(scale), free(most), free(codes), free(want.data), free(want.scale);
}

/* One call into band b, which makes codes of another band meanwhile. */
static void call_band(gpu *g, const problem *p, const band *b, lx_activation activation,
                      const lx_cu_codes *meanwhile)
{
    finish f = {.bias = true, .activation = activation, .out = LX_DTYPE_F16};
    lx_cu_int8 call = call_of(g, p, &f);
    call.e.out = (lx_cu_mat){LX_CU_F16, p->m, p->n, p->n, b->y};
    call.most = b->most;
    if (meanwhile)
        call.codes = *meanwhile;
    must(g, launch(g, &call), "fp8");
}

/* Two bands: the second call makes the first one's codes, one call more the second one's. */
static void check_codes(gpu *g, check_rng *r, const int64_t shape[3], lx_activation activation)
{
    char what[96];
    problem p = make(g, r, variants[FP8], CHECK_RANDOM, shape[0], shape[1], shape[2]);
    band b[2] = {take_band(g, p.m, p.n), take_band(g, p.m, p.n)};
    lx_cu_codes codes[2] = {codes_of(&b[0], p.m, p.n), codes_of(&b[1], p.m, p.n)};
    call_band(g, &p, &b[0], activation, NULL);
    call_band(g, &p, &b[1], activation, &codes[0]);
    must(g, g->cuda->module->linear->codes(g->cuda->dev, &codes[1]), "codes");
    for (int i = 0; i < 2; i++) {
        snprintf(what, sizeof what, "%dx%dx%d%s: codes %s", (int)p.m, (int)p.n, (int)p.k,
                 activation ? " gelu" : "", i ? "afterwards" : "meanwhile");
        check_band(g, what, &b[i], p.m, p.n);
    }
    destroy(g, &p);
}

static void test_fp8_makes_codes(void **state)
{
    static const int64_t all[][3] = {
        {1, 64, 16},        {129, 256, 64},  {300, 1536, 64}, {33, 192, 640},     {700, 13824, 128},
        {896, 13824, 1024}, {2000, 64, 128}, {300, 320, 48},  {40, 13824, 13824}, {5, 20032, 32}};
    check_rng r = {47};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!gpu_is_small() || all[i][0] * all[i][1] * all[i][2] <= 50000000) {
            check_codes(*state, &r, all[i], LX_ACTIVATION_GELU);
            check_codes(*state, &r, all[i], LX_ACTIVATION_NONE);
        }
}

/* Row by row: zeros; the smallest numbers and zeros of both signs; the largest; ties between codes
 * with a scale of 1; then finite ones of all exponents. */
static uint16_t odd_half(int row, int i)
{
    if (row > 3)
        return (uint16_t)((row * 2048 + i) * 7919 % 0x7c00 | (i % 2 ? 0x8000 : 0));
    float v = 0;
    if (row == 1)
        v = i % 3 ? (float)(i % 5 - 2) * 0x1p-24f : -0.0f;
    else if (row == 2)
        v = i % 2 ? -65504.0f : 65504.0f / (float)(1 + i % 7);
    else if (row == 3)
        v = i ? (float)(2 * (i % 16) + 17) * (i % 2 ? -1.0f : 1.0f) : 448;
    return lx_f16_from_f32(v);
}

/* And what a NaN leaves must reach its row's scale. */
static void test_fp8_codes_of_odd_rows(void **state)
{
    gpu *g = *state;
    enum { M = 40, N = 2048 };
    uint16_t *y = check_alloc(M * N, 2);
    float *wide = check_floats(M * N), scale;
    uint32_t most[M + 1] = {0};
    band b = take_band(g, M + 1, N);
    for (int i = 0; i < M * N; i++)
        y[i] = odd_half(i / N, i % N);
    lx_widen_to_f32(wide, y, LX_DTYPE_F16, M * N);
    for (int i = 0; i < M * N; i++) {
        uint32_t bits;
        float v = fabsf(wide[i]);
        memcpy(&bits, &v, 4);
        most[i / N] = bits > most[i / N] ? bits : most[i / N];
    }
    most[M] = 0x7fc00000;
    gpu_ok(lx_upload(&g->x, b.y, y, (size_t)M * N * 2, err));
    gpu_ok(lx_zero(&g->x, b.y + M * N, N * 2, err));
    gpu_ok(lx_upload(&g->x, b.most, most, sizeof most, err));
    lx_cu_codes c = codes_of(&b, M + 1, N);
    must(g, g->cuda->module->linear->codes(g->cuda->dev, &c), "codes");
    check_band(g, "odd rows", &b, M, N);
    gpu_get(g, &scale, b.scale + M, sizeof scale);
    assert_true(isnan(scale));
    free(y), free(wide);
}

/* --- as the model calls it ------------------------------------------------------------------- */

static void test_linear_by_our_own(void **state)
{
    check_rng r = {48};
    check_linear_by_our_own(*state, &r, variants[FP8], 300);
}

/* In bands: codes of the same rows rounded to F16, to the bit. */
static void test_linear_to_act_in_bands(void **state)
{
    gpu *g = *state;
    check_rng r = {49};
    const int64_t m = 3000, n = 13824, k = 64;
    if (gpu_is_small())
        skip();
    problem p = make(g, &r, variants[FP8], CHECK_RANDOM, m, n, k);
    finish f = {.bias = true, .activation = LX_ACTIVATION_GELU};
    lx_epilogue e = epilogue_of(&p, &f);
    band whole = take_band(g, m, n);
    lx_act act = {.dtype = LX_DTYPE_F8_E4M3, .rows = m, .cols = n};
    act.data = whole.codes;
    act.scale = whole.scale;
    call_band(g, &p, &whole, LX_ACTIVATION_GELU, NULL);
    size_t scratch = lx_arena_mark(g->scratch);
    g->cuda->has_own_fp8 = true;
    gpu_ok(lx_linear_to_act(&g->x, &p.d_in, &p.d_w, &e, &act, err));
    g->cuda->has_own_fp8 = false;
    assert_int_equal(lx_arena_mark(g->scratch), scratch);
    check_band(g, "lx_linear_to_act in bands", &whole, m, n);
    destroy(g, &p);
}

static void test_scratch_is_what_was_planned(void **state)
{
    static const int64_t all[][3] = {{255, 512, 256}, {256, 512, 256}, {4000, 13824, 64}};
    gpu *g = *state;
    check_rng r = {50};
    if (gpu_is_small())
        skip();
    for (int i = 0; i < 12; i++) {
        const int64_t *s = all[i / 4];
        problem p = make(g, &r, variants[FP8], CHECK_RANDOM, s[0], s[1], s[2]);
        lx_act out = act_on_card(g, i % 2 ? LX_DTYPE_F8_E4M3 : LX_DTYPE_F32, p.m, p.n);
        *own(g, LX_DTYPE_F8_E4M3) = i / 2 % 2;
        (void)scratch_of(g, &p, &out, SCRATCH_BYTES);
        *own(g, LX_DTYPE_F8_E4M3) = false;
        destroy(g, &p);
    }
}

/* What is not served is refused, not computed wrongly. */
static void test_fp8_refuses(void **state)
{
    gpu *g = *state;
    check_rng r = {51};
    problem p = make(g, &r, variants[FP8], CHECK_RANDOM, 32, 64, 64);
    band b = take_band(g, 32, 64);
    lx_cu_int8 good = served_call(g, &p), bad;
    check_refusals(g, &good);
    bad = good, bad.e.n = 40;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.design = LX_CU_MMA_128x256;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.codes = codes_of(&b, 32, 64), bad.codes.is_fp8 = false;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.codes = codes_of(&b, 32, 64), bad.is_fp8 = false;
    assert_int_not_equal(launch(g, &bad), 0);
    lx_cu_codes wide = codes_of(&b, 32, 64);
    wide.is_half = false;
    assert_int_not_equal(g->cuda->module->linear->codes(g->cuda->dev, &wide), 0);
    must(g, launch(g, &good), "what is left");
    destroy(g, &p);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a kernel that never ends still leaves the lines before */
    skip_without(lx_card_has_fp8, "FP8");
    if (gpu_wants_bench(argc, argv))
        return bench_all(variants[FP8]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp8_codes_of_odd_rows),
        cmocka_unit_test(test_fp8_refuses),
        cmocka_unit_test(test_fp8_over_shapes),
        cmocka_unit_test(test_fp8_over_inputs),
        cmocka_unit_test(test_fp8_tells_squares),
        cmocka_unit_test(test_fp8_makes_codes),
        cmocka_unit_test(test_fp8_largest_and_smallest_sums),
        cmocka_unit_test(test_fp8_sums_beside_codes),
        cmocka_unit_test(test_linear_by_our_own),
        cmocka_unit_test(test_linear_to_act_in_bands),
        cmocka_unit_test(test_scratch_is_what_was_planned),
        cmocka_unit_test(test_fp8_over_model_shapes),
    };
    return cmocka_run_group_tests(tests, open_card, gpu_end_tests);
}
