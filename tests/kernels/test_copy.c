/*
 * test_copy.c - matrices, windows of them, and "host to device" where the device is the host
 * SPDX-License-Identifier: Apache-2.0
 *
 * The same calls on a card: tests/gpu.
 */
#include "check.h"

/* --- matrices -------------------------------------------------------------------------------- */

static void test_matrices_are_dense_and_aligned(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_BF16, LX_DTYPE_F16, LX_DTYPE_I8};
    lx_exec x = check_open(1), dry = check_open_dry(1);
    for (int d = 0; d < 4; d++) {
        lx_mat m, planned;
        check_ok(lx_mat_take(&x, dtypes[d], 7, 33, &m, err));
        check_ok(lx_mat_take(&dry, dtypes[d], 7, 33, &planned, err));
        assert_true(m.dtype == dtypes[d] && m.rows == 7 && m.cols == 33 && m.stride == 33);
        assert_int_equal((uintptr_t)m.data % 256, 0);
        memset(m.data, 0, 7 * 33 * lx_dtype_size(dtypes[d])); /* the sanitizers watch */
        assert_int_equal(lx_arena_mark(x.arena), lx_arena_mark(dry.arena));
        assert_true(lx_arena_mark(x.arena) >= 7 * 33 * lx_dtype_size(dtypes[d]));
    }
    lx_mat m = {.rows = -1};
    size_t mark = lx_arena_mark(x.arena);
    assert_int_equal(lx_mat_take(&x, LX_DTYPE_F32, 0, 5, &m, NULL), LX_EJOB);
    assert_int_equal(lx_mat_take(&x, LX_DTYPE_F32, 5, -5, &m, NULL), LX_EJOB);
    assert_int_equal(lx_mat_take(&x, LX_DTYPE_F32, INT64_MAX, INT64_MAX, &m, NULL), LX_EJOB);
    assert_int_equal(lx_mat_take(&x, LX_DTYPE_F32, 1 << 30, 1 << 10, &m, NULL), LX_EJOB);
    assert_int_equal(m.rows, -1); /* written on success only */
    assert_int_equal(lx_arena_mark(x.arena), mark);
    check_close(&x);
    check_close(&dry);
}

static void test_windows_of_a_matrix(void **state)
{
    (void)state;
    static uint16_t halves[6 * 10];
    float floats[6 * 10];
    lx_mat f = lx_mat_f32(floats, 6, 10);
    lx_mat h = {.dtype = LX_DTYPE_BF16, .rows = 6, .cols = 8, .stride = 10, .data = halves};
    assert_true(f.dtype == LX_DTYPE_F32 && f.rows == 6 && f.cols == 10 && f.stride == 10);
    lx_mat rows = lx_mat_rows(&f, 2, 3), cols = lx_mat_cols(&f, 4, 5);
    assert_true(rows.data == (void *)(floats + 20) && rows.rows == 3 && rows.cols == 10);
    assert_true(cols.data == (void *)(floats + 4) && cols.rows == 6 && cols.cols == 5);
    assert_true(rows.stride == 10 && cols.stride == 10);
    rows = lx_mat_rows(&h, 5, 1);
    cols = lx_mat_cols(&rows, 7, 1);
    assert_ptr_equal(rows.data, halves + 50);
    assert_ptr_equal(cols.data, halves + 57);
    assert_true(cols.rows == 1 && cols.cols == 1 && cols.stride == 10);
    assert_int_equal(cols.dtype, LX_DTYPE_BF16);
    assert_true(h.rows == 6 && h.cols == 8); /* the whole is as it was */
}

/* --- copies ---------------------------------------------------------------------------------- */

static void test_the_cpu_is_its_own_host(void **state)
{
    (void)state;
    lx_exec x = check_open(1), dry = check_open_dry(1);
    assert_true(lx_exec_is_host(&x) && lx_exec_is_host(&dry));
    assert_ptr_equal(x.host, x.arena);
    assert_ptr_equal(dry.host, dry.arena);
    assert_true(x.rows == LX_DTYPE_F32 && x.value == LX_DTYPE_F32);
    check_ok(lx_exec_pace(&x, err));
    check_ok(lx_exec_wait(&x, err));
    check_ok(lx_exec_pace(&dry, err));
    check_ok(lx_exec_wait(&dry, err));
    check_close(&x);
    check_close(&dry);
}

typedef lx_status (*copy_fn)(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err);

static void test_copies_move_what_they_are_told(void **state)
{
    (void)state;
    static const copy_fn copies[] = {lx_upload, lx_download, lx_copy};
    static const size_t sizes[] = {0, 1, 7, 64, 1000};
    lx_exec x = check_open(2), dry = check_open_dry(2);
    unsigned char from[1001], to[1001], untouched[1001];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (unsigned char)(i * 7 + 1);
    memset(untouched, 0xee, sizeof untouched);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 5; i++) {
            memset(to, 0xee, sizeof to);
            check_ok(copies[c](&dry, to, from, sizes[i], err));
            assert_memory_equal(to, untouched, sizeof to);
            check_ok(copies[c](&x, to, from, sizes[i], err));
            assert_memory_equal(to, from, sizes[i]);
            assert_memory_equal(to + sizes[i], untouched, sizeof to - sizes[i]);
            check_ok(copies[c](&x, to, to, sizes[i], err)); /* a plan may put both in one place */
            assert_memory_equal(to, from, sizes[i]);
        }
    check_ok(lx_zero(&dry, to, 1000, err));
    assert_memory_equal(to, from, 1000);
    check_ok(lx_zero(&x, to, 999, err));
    for (int i = 0; i < 999; i++)
        assert_int_equal(to[i], 0);
    assert_int_equal(to[999], from[999]);
    check_close(&x);
    check_close(&dry);
}

static void test_mat_download_moves_rows_together(void **state)
{
    (void)state;
    lx_exec x = check_open(2), dry = check_open_dry(2);
    float in[5 * 12], out[5 * 7], want[5 * 7];
    for (int i = 0; i < 5 * 12; i++)
        in[i] = (float)i;
    for (int i = 0; i < 5 * 7; i++)
        want[i] = (float)(i / 7 * 12 + 3 + i % 7);
    memset(out, 0, sizeof out);
    lx_mat all = lx_mat_f32(in, 5, 12), window = lx_mat_cols(&all, 3, 7);
    check_ok(lx_mat_download(&dry, &window, out, err));
    assert_true(out[0] == 0 && out[34] == 0);
    check_ok(lx_mat_download(&x, &window, out, err));
    assert_memory_equal(out, want, sizeof out);
    assert_int_equal(lx_arena_peak(x.arena), lx_arena_peak(dry.arena));
    check_close(&x);
    check_close(&dry);
}

static void test_weights_stay_where_they_are(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    float values[6] = {1, 2, 3, 4, 5, 6}, scale[2] = {7, 8};
    lx_weight w = {.name = "w", .dtype = LX_DTYPE_F32, .shape = {2, {2, 3}}, .data = values}, out;
    w.scale = scale;
    check_ok(lx_weight_place(&x, &w, &out, err));
    assert_ptr_equal(out.data, values);
    assert_ptr_equal(out.scale, scale);
    assert_true(out.dtype == w.dtype && lx_shape_equal(&out.shape, &w.shape));
    assert_int_equal(lx_arena_mark(x.arena), 0);
    check_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrices_are_dense_and_aligned),
        cmocka_unit_test(test_windows_of_a_matrix),
        cmocka_unit_test(test_the_cpu_is_its_own_host),
        cmocka_unit_test(test_copies_move_what_they_are_told),
        cmocka_unit_test(test_mat_download_moves_rows_together),
        cmocka_unit_test(test_weights_stay_where_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
