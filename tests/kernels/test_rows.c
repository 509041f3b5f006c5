/*
 * test_rows.c - the row loops: every instruction set gives the same bits, number formats are exact
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"
#include "cpu/lx_rows.h"

#define N 1003 /* odd: every loop has a tail */

static void test_widen_is_exact_for_every_code(void **state)
{
    (void)state;
    static const lx_dtype small[] = {LX_DTYPE_F8_E4M3, LX_DTYPE_F8_E5M2};
    static const lx_dtype half[] = {LX_DTYPE_F16, LX_DTYPE_BF16};
    static uint16_t codes[65536];
    static uint8_t bytes[256];
    static float got[65536], want[65536];
    for (int i = 0; i < 65536; i++)
        codes[i] = (uint16_t)i;
    for (int i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    for (int t = 0; t < 3; t++) {
        const lx_rows *rows = lx_rows_at(t);
        for (int d = 0; d < 2 && rows; d++) {
            rows->widen(got, bytes, small[d], 256);
            lx_widen_to_f32(want, bytes, small[d], 256);
            assert_memory_equal(got, want, sizeof *got * 256);
            rows->widen(got, codes, half[d], 65536);
            lx_widen_to_f32(want, codes, half[d], 65536);
            assert_memory_equal(got, want, sizeof got);
        }
    }
}

/* Every representable value, the midpoints between them and their neighbours. */
static void test_e4m3_rounds_to_nearest_even(void **state)
{
    (void)state;
    enum { COUNT = 127 * 6 };
    static float in[COUNT];
    static uint8_t got[COUNT];
    for (int i = 0; i < 127; i++) {
        float a = lx_f32_from_f8_e4m3((uint8_t)i),
              b = i < 126 ? lx_f32_from_f8_e4m3((uint8_t)(i + 1)) : 480;
        float middle = (a + b) / 2, sign = i % 2 ? -1.0f : 1.0f;
        const float six[6] = {a,
                              middle,
                              nextafterf(middle, 0),
                              nextafterf(middle, 1000),
                              nextafterf(a, 0),
                              nextafterf(a, 1000)};
        for (int j = 0; j < 6; j++)
            in[i * 6 + j] = sign * six[j];
    }
    for (int t = 0; t < 3; t++) {
        const lx_rows *rows = lx_rows_at(t);
        if (!rows)
            continue;
        rows->quantize_e4m3(got, in, COUNT, 1.0f);
        for (int i = 0; i < COUNT; i++)
            assert_int_equal(got[i], lx_f8_e4m3_from_f32(in[i]));
    }
}

static void test_i8_rounds_half_to_even_and_clamps(void **state)
{
    (void)state;
    static const float in[] = {0.5f,   1.5f, 2.5f, -0.5f,   -1.5f, 126.5f,
                               127.4f, 500,  -500, -127.5f, 0};
    static const int8_t want[] = {0, 2, 2, 0, -2, 126, 127, 127, -127, -127, 0};
    int8_t got[11];
    for (int t = 0; t < 3; t++) {
        const lx_rows *rows = lx_rows_at(t);
        if (!rows)
            continue;
        rows->quantize_i8(got, in, 11, 1.0f);
        assert_memory_equal(got, want, sizeof want);
    }
}

static void test_exponential_is_accurate(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static float in[COUNT], got[COUNT];
    for (int t = 0; t < 3; t++) {
        const lx_rows *rows = lx_rows_at(t);
        if (!rows)
            continue;
        for (int i = 0; i < COUNT; i++)
            in[i] = got[i] = -80.0f + (float)i * (160.0f / COUNT);
        rows->exp_sum(got, COUNT, 0);
        for (int i = 0; i < COUNT; i++)
            assert_true(fabs((double)got[i] / exp((double)in[i]) - 1) < 2e-7);
        float edge[4] = {-HUGE_VALF, -88, 89, NAN};
        rows->exp_sum(edge, 4, 0);
        assert_true(edge[0] == 0 && edge[1] == 0 && isinf(edge[2]) && isnan(edge[3]));
    }
}

static void test_absmax_sees_every_place_and_nan(void **state)
{
    (void)state;
    for (int t = 0; t < 3; t++) {
        const lx_rows *rows = lx_rows_at(t);
        for (int64_t n = 1; n < 70 && rows; n++)
            for (int64_t i = 0; i < n; i++) {
                float row[70] = {0};
                row[i] = -3;
                assert_true(rows->absmax(row, n) == 3.0f);
                row[i] = NAN;
                assert_true(isnan(rows->absmax(row, n)));
            }
    }
}

typedef struct buffers {
    float a[N], b[N], c[N], d[N], w[N];
    int32_t s32[N];
    uint8_t codes[N];
    double sums[2];
    float lanes[LX_LANES], scalars[3];
} buffers;

/* Every function once, on inputs that depend on the seed only. */
static void run_all(const lx_rows *rows, buffers *o, lx_activation activation, bool add)
{
    check_rng r = {7};
    memset(o, 0, sizeof *o);
    for (int i = 0; i < N; i++) {
        o->a[i] = 10 * check_uniform(&r);
        o->b[i] = check_uniform(&r);
        o->c[i] = check_uniform(&r);
        o->w[i] = check_uniform(&r);
        o->s32[i] = (int32_t)check_bits(&r) / 8;
    }
    lx_row_epilogue e = {.x_scale = 0.37f, .w_scale = o->b, .bias = o->w, .activation = activation};
    e.mul = o->c;
    e.gate = o->w;
    e.add_to_out = add;
    rows->dot(o->lanes, o->a, o->b, N);
    o->scalars[0] = rows->lane_sum(o->lanes);
    o->sums[0] = rows->sum(o->a, N);
    o->sums[1] = rows->sum_squares(o->a, N, o->sums[0] / N);
    lx_row_affine affine = {o->sums[0] / N, 1.7, o->b, o->c, o->w, o->b};
    rows->affine(o->d, o->a, N, &affine);
    rows->rotate(o->d, o->w, N - 1);
    o->scalars[1] = rows->score_max(o->d, o->a, o->b, N);
    o->scalars[2] = rows->exp_sum(o->d, N, o->scalars[1]);
    rows->finish_f32(&e, o->a, o->d, N);
    rows->finish_s32(&e, o->s32, o->a, N);
    rows->axpby(o->d, 0.3f, o->c, 1.1f, N);
    rows->scale(o->d, N, 0.7f);
    rows->silu(o->c, o->d, N);
    o->codes[0] = 0;
    rows->quantize_e4m3(o->codes, o->d, N, 0.01f);
    rows->quantize_i8((int8_t *)o->codes, o->codes[5] % 2 ? o->d : o->c, N / 2, 3.3f);
}

static void test_instruction_sets_give_the_same_bits(void **state)
{
    (void)state;
    static buffers want, got;
    for (int activation = 0; activation <= LX_ACTIVATION_SILU; activation++)
        for (int add = 0; add < 2; add++) {
            run_all(lx_rows_at(0), &want, (lx_activation)activation, add);
            assert_true(isfinite(check_largest(want.d, N)) && check_largest(want.d, N) > 0);
            for (int t = 1; t < 3; t++)
                if (lx_rows_at(t)) {
                    run_all(lx_rows_at(t), &got, (lx_activation)activation, add);
                    assert_memory_equal(&got, &want, sizeof want);
                }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widen_is_exact_for_every_code),
        cmocka_unit_test(test_e4m3_rounds_to_nearest_even),
        cmocka_unit_test(test_i8_rounds_half_to_even_and_clamps),
        cmocka_unit_test(test_exponential_is_accurate),
        cmocka_unit_test(test_absmax_sees_every_place_and_nan),
        cmocka_unit_test(test_instruction_sets_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
