/*
 * test_elementwise.c - the vector operations against their definitions
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

static void test_silu_over_lengths(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {1};
    for (int64_t n = 1; n < 200; n += 11)
        for (int kind = 0; kind < CHECK_KINDS; kind++) {
            float *in = check_input(&r, kind, n), *got = check_floats(n), *want = check_floats(n);
            in[0] *= 20;
            check_ok(lx_silu(&x, in, n, got, err));
            lx_silu_ref(in, n, want);
            for (int64_t i = 0; i < n; i++) /* four roundings of the result, or of nothing */
                assert_true(fabs((double)got[i] - (double)want[i]) <=
                            4 * 0x1p-23 * fabs((double)want[i]) + 1e-30);
            check_ok(lx_silu(&x, in, n, in, err));
            assert_memory_equal(in, got, (size_t)n * sizeof *in);
            free(in), free(got), free(want);
        }
    check_close(&x);
}

static void test_axpby_bits(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {2};
    for (int64_t n = 1; n < 100; n += 7) {
        float *in = check_input(&r, CHECK_RANDOM, n), *got = check_input(&r, CHECK_RANDOM, n);
        float *want = check_floats(n);
        memcpy(want, got, (size_t)n * sizeof *got);
        check_ok(lx_axpby(&x, -0.3f, in, 1.7f, n, got, err));
        lx_axpby_ref(-0.3f, in, 1.7f, n, want);
        assert_memory_equal(got, want, (size_t)n * sizeof *got);
        free(in), free(got), free(want);
    }
    check_close(&x);
}

static void test_gather_widens_rows(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_BF16, LX_DTYPE_F16, LX_DTYPE_F8_E4M3};
    static const int32_t ids[] = {6, 0, 3, 3, 6};
    lx_exec x = check_open(2);
    check_rng r = {3};
    float *values = check_input(&r, CHECK_RANDOM, 7 * 33), got[5 * 33], want[5 * 33];
    for (int d = 0; d < 4; d++) {
        lx_weight w = check_weight(values, dtypes[d], 7, 33);
        check_ok(lx_gather_rows(&x, &w, ids, 5, got, err));
        lx_gather_rows_ref(&w, ids, 5, want);
        assert_memory_equal(got, want, sizeof got);
        assert_true(got[33] == check_float_at(&w, 0) && got[32] == check_float_at(&w, 6 * 33 + 32));
        check_free_weight(&w);
    }
    free(values);
    check_close(&x);
}

static void test_widen_reads_every_float_type(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_BF16, LX_DTYPE_F16, LX_DTYPE_F8_E4M3,
                                      LX_DTYPE_F8_E5M2};
    lx_exec x = check_open(2), dry = check_open_dry(2);
    check_rng r = {4};
    float *values = check_input(&r, CHECK_RANDOM, 7 * 33), got[7 * 33], want[7 * 33];
    for (int d = 0; d < 5; d++) {
        lx_weight w = check_weight(values, dtypes[d], 7, 33);
        assert_true(lx_widen_to_f32(want, w.data, w.dtype, 7 * 33));
        memset(got, 0, sizeof got);
        check_ok(lx_widen(&dry, &w, got, err));
        assert_true(got[0] == 0 && got[7 * 33 - 1] == 0);
        check_ok(lx_widen(&x, &w, got, err));
        assert_memory_equal(got, want, sizeof got);
        w.dtype = LX_DTYPE_I8;
        assert_int_equal(lx_widen(&x, &w, got, NULL), LX_EJOB);
        w.shape.dim[0] = -1;
        assert_int_equal(lx_widen(&x, &w, got, NULL), LX_EJOB);
        check_free_weight(&w);
    }
    free(values);
    check_close(&x);
    check_close(&dry);
}

static void test_gather_refuses_ids_outside(void **state)
{
    (void)state;
    static const int32_t bad[][2] = {{1, 7}, {0, -1}, {INT32_MIN, 0}, {INT32_MAX, 0}};
    lx_exec x = check_open(1), dry = check_open_dry(1);
    float values[7 * 2] = {0}, out[4] = {5, 5, 5, 5};
    lx_weight w = {.name = "table", .dtype = LX_DTYPE_F32, .shape = {2, {7, 2}}, .data = values};
    for (int i = 0; i < 4; i++) {
        lx_err err = {0};
        assert_int_equal(lx_gather_rows(&x, &w, bad[i], 2, out, &err), LX_EJOB);
        assert_non_null(strstr(err.message, "table [7, 2]"));
        assert_true(out[0] == 5 && out[3] == 5);
    }
    check_ok(lx_gather_rows(&dry, &w, bad[0], 2, out, err)); /* dry: ids are not there yet */
    assert_true(out[0] == 5);
    w.dtype = LX_DTYPE_I8;
    assert_int_equal(lx_gather_rows(&x, &w, bad[0], 1, out, NULL), LX_EJOB);
    check_close(&x);
    check_close(&dry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_silu_over_lengths),
        cmocka_unit_test(test_axpby_bits),
        cmocka_unit_test(test_gather_widens_rows),
        cmocka_unit_test(test_widen_reads_every_float_type),
        cmocka_unit_test(test_gather_refuses_ids_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
