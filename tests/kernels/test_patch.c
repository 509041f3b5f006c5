/*
 * test_patch.c - the two orders of a patch, against the definition and against themselves
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lx_patch.h"

static lx_arena *arena;
static lx_exec exec_of(int n_threads)
{
    lx_err err = {0};
    lx_exec x;
    if (!arena && lx_arena_create(&arena, 1 << 20, &err) != LX_OK)
        fail_msg("%s", err.message);
    if (lx_exec_open_cpu(&x, arena, n_threads, &err) != LX_OK)
        fail_msg("%s", err.message);
    return x;
}

static float *counting(int64_t n)
{
    float *out = malloc((size_t)n * sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)i;
    return out;
}

static void test_patch_matches_definition(void **state)
{
    (void)state;
    const lx_patch_dims dims[] = {
        {1, 1, 2, 2}, {16, 1, 2, 6}, {16, 3, 8, 12}, {3, 2, 10, 4}, {16, 2, 60, 104}};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const lx_patch_dims *d = &dims[i];
        int64_t n = d->channels * d->t * d->h * d->w;
        float *in = counting(n), *got = counting(n), *want = counting(n);
        for (int threads = 1; threads <= 2; threads++) {
            lx_exec x = exec_of(threads);
            assert_int_equal(lx_patchify(&x, d, in, got, NULL), LX_OK);
            lx_patchify_ref(d, in, want);
            assert_memory_equal(got, want, (size_t)n * sizeof *got);
            assert_int_equal(lx_unpatchify(&x, d, in, got, NULL), LX_OK);
            lx_unpatchify_ref(d, in, want);
            assert_memory_equal(got, want, (size_t)n * sizeof *got);
        }
        free(in), free(got), free(want);
    }
}

/* Spelled out for one token, channel 5 of 16: place 5*4 + 1*2 + 0 in, (1*2 + 0)*16 + 5 out. */
static void test_patch_orders_differ(void **state)
{
    (void)state;
    const lx_patch_dims d = {16, 2, 4, 6};
    const int64_t n = 16 * 2 * 4 * 6, s = (1 * 2 + 1) * 3 + 2;
    float *in = calloc((size_t)n, sizeof *in), *out = calloc((size_t)n, sizeof *out);
    assert_non_null(in);
    assert_non_null(out);
    lx_exec x = exec_of(1);
    in[((5 * 2 + 1) * 4 + 3) * 6 + 4] = 1; /* c 5, t 1, y 3, x 4: i 1, ph 1, j 2, pw 0 */
    assert_int_equal(lx_patchify(&x, &d, in, out, NULL), LX_OK);
    assert_true(out[s * 64 + 5 * 4 + 2] == 1);
    memset(out, 0, (size_t)n * sizeof *out);
    out[s * 64 + 2 * 16 + 5] = 1;
    float *back = calloc((size_t)n, sizeof *back);
    assert_non_null(back);
    assert_int_equal(lx_unpatchify(&x, &d, out, back, NULL), LX_OK);
    assert_memory_equal(back, in, (size_t)n * sizeof *back);
    free(in), free(out), free(back);
}

static void test_patch_refuses_odd_sides(void **state)
{
    (void)state;
    float value[64] = {0};
    lx_exec x = exec_of(1);
    const lx_patch_dims bad[] = {{16, 1, 3, 4}, {16, 1, 4, 5}, {16, 0, 4, 4}, {0, 1, 4, 4}};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(lx_patchify(&x, &bad[i], value, value, NULL), LX_EJOB);
        assert_int_equal(lx_unpatchify(&x, &bad[i], value, value, NULL), LX_EJOB);
    }
}

static void test_nonfinite_is_found(void **state)
{
    (void)state;
    lx_exec x = exec_of(1);
    int64_t first = 7;
    float *value = counting(1000);
    assert_int_equal(lx_find_nonfinite(&x, value, 1000, &first, NULL), LX_OK);
    assert_int_equal(first, -1);
    value[999] = NAN;
    lx_find_nonfinite(&x, value, 1000, &first, NULL);
    assert_int_equal(first, 999);
    value[3] = -INFINITY;
    lx_find_nonfinite(&x, value, 1000, &first, NULL);
    assert_int_equal(first, 3);
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patch_matches_definition),
        cmocka_unit_test(test_patch_orders_differ),
        cmocka_unit_test(test_patch_refuses_odd_sides),
        cmocka_unit_test(test_nonfinite_is_found),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lx_arena_destroy(&arena);
    return failed;
}
