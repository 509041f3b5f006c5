/*
 * test_rope.c - q/k norm and rotary embedding against the f64 definition
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

typedef struct shape {
    lx_grid grid;
    int64_t head_dim, n_heads, slack; /* slack: floats between rows */
} shape;

static const shape shapes[] = {
    {{1, 1, 1}, 128, 1, 0},   {{3, 4, 6}, 128, 2, 0},  {{2, 3, 5}, 128, 3, 7},
    {{5, 1, 1}, 64, 2, 0},    {{1, 7, 1}, 2, 1, 1},    {{2, 2, 3}, 10, 3, 0},
    {{1, 30, 52}, 128, 1, 0}, {{21, 3, 5}, 384, 1, 0},
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

static int64_t tokens_of(const shape *s)
{
    return s->grid.t * s->grid.h * s->grid.w;
}

static lx_mat mat(float *data, int64_t rows, int64_t cols, int64_t stride)
{
    lx_mat m = lx_mat_f32(data, rows, cols);
    m.stride = stride;
    return m;
}

/* The same in f32, tables rounded to f32: the yardstick of the pass rule. */
static void plain_rope(const lx_mat *q, const lx_weight *gain, const lx_rope_table *t)
{
    const int64_t width = q->cols;
    for (int64_t s = 0; s < q->rows; s++) {
        float *row = (float *)q->data + s * q->stride, square = 0;
        for (int64_t i = 0; i < width; i++)
            square += row[i] * row[i];
        float rstd = 1 / sqrtf(square / (float)width + 1e-6f);
        for (int64_t i = 0; i < width; i++)
            row[i] = check_float_at(gain, i) * (row[i] * rstd);
        int64_t side = t ? t->head_dim / 6 : 0, front = t ? t->head_dim / 2 - 2 * side : 0;
        for (int64_t i = 0; t && i < width; i += 2) {
            int64_t p = i % t->head_dim / 2, at = s / (t->grid.h * t->grid.w), j = p, n = front;
            if (p >= front) {
                at = p < front + side ? s / t->grid.w % t->grid.h : s % t->grid.w;
                j = (p - front) % side;
                n = side;
            }
            float theta = (float)((double)at * pow(10000, -(double)j / (double)n));
            float a = row[i], b = row[i + 1];
            row[i] = a * cosf(theta) - b * sinf(theta);
            row[i + 1] = a * sinf(theta) + b * cosf(theta);
        }
    }
}

static void check_shape(lx_exec *x, const shape *s, int input, bool has_table, lx_dtype gain_dtype)
{
    check_rng r = {(uint64_t)(s->head_dim + input)};
    int64_t tokens = tokens_of(s), width = s->n_heads * s->head_dim, stride = width + s->slack;
    float *got = check_input(&r, input, tokens * stride), *g = check_input(&r, CHECK_RANDOM, width);
    float *want = check_floats(tokens * stride), *plain = check_floats(tokens * stride);
    size_t bytes = (size_t)(tokens * stride) * sizeof(float), start = lx_arena_mark(x->arena);
    memcpy(want, got, bytes);
    memcpy(plain, got, bytes);
    lx_weight gain = check_vector(g, gain_dtype, width);
    lx_rope_table table;
    check_ok(lx_rope_table_build(x, s->grid, s->head_dim, &table, err));
    const lx_rope_table *t = has_table ? &table : NULL;
    size_t mark = lx_arena_mark(x->arena);
    lx_mat q[3] = {mat(got, tokens, width, stride), mat(want, tokens, width, stride),
                   mat(plain, tokens, width, stride)};
    check_ok(lx_qk_norm_rope(x, &q[0], 0, &gain, 1e-6f, t, err));
    assert_int_equal(lx_arena_mark(x->arena), mark);
    lx_qk_norm_rope_ref(&q[1], 0, &gain, 1e-6f, t);
    plain_rope(&q[2], &gain, t);
    check_pass("rope", got, plain, want, tokens * stride);
    lx_arena_reset(x->arena, start);
    free(got), free(g), free(want), free(plain);
    check_free_weight(&gain);
}

static void test_rope_over_shapes(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    for (size_t i = 0; i < N_SHAPES; i++)
        for (int has_table = 0; has_table < 2; has_table++)
            check_shape(&x, &shapes[i], CHECK_RANDOM, has_table, LX_DTYPE_F32);
    check_close(&x);
}

static void test_rope_over_inputs_and_gains(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    for (int input = 0; input < CHECK_KINDS; input++) {
        check_shape(&x, &shapes[1], input, true, LX_DTYPE_BF16);
        check_shape(&x, &shapes[2], input, false, LX_DTYPE_F16);
    }
    check_close(&x);
}

/* Tables are the f64 angles rounded once; 22, 21 and 21 pairs for 128 channels. */
static void test_rope_tables(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    lx_rope_table t;
    check_ok(lx_rope_table_build(&x, (lx_grid){21, 30, 52}, 128, &t, err));
    const float *tables[3] = {t.t, t.h, t.w};
    static const int64_t positions[3] = {21, 30, 52}, pairs[3] = {22, 21, 21};
    for (int axis = 0; axis < 3; axis++)
        for (int64_t p = 0; p < positions[axis]; p++)
            for (int64_t i = 0; i < pairs[axis]; i++) {
                double theta = (double)p * pow(10000, -2.0 * (double)i / (double)(2 * pairs[axis]));
                const float *pair = tables[axis] + (p * pairs[axis] + i) * 2;
                assert_true(pair[0] == (float)cos(theta) && pair[1] == (float)sin(theta));
            }
    check_close(&x);
}

/* Full width, not per head: a large head makes the others small. */
static void test_rope_norm_spans_all_heads(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    float q[8] = {100, 100, 100, 100, 1, 1, 1, 1}, ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    lx_weight gain = {.name = "g", .dtype = LX_DTYPE_F32, .shape = {1, {8}}, .data = ones};
    lx_mat rows = lx_mat_f32(q, 1, 8);
    check_ok(lx_qk_norm_rope(&x, &rows, 0, &gain, 0, NULL, err));
    assert_true(fabsf(q[0] - 1.41414f) < 1e-4f && fabsf(q[4] - 0.0141414f) < 1e-6f);
    check_close(&x);
}

static void test_rope_same_bits_and_dry_peak(void **state)
{
    (void)state;
    const shape *s = &shapes[1];
    int64_t tokens = tokens_of(s), width = s->n_heads * s->head_dim, n = tokens * width;
    check_rng r = {9};
    float *in = check_input(&r, CHECK_RANDOM, n), *want = check_floats(n), *got = check_floats(n);
    lx_weight gain = check_vector(in, LX_DTYPE_BF16, width);
    for (int threads = 1; threads <= 3; threads++) {
        lx_exec x = check_open(threads), dry = check_open_dry(threads);
        lx_rope_table t, dry_t;
        lx_mat q = lx_mat_f32(got, tokens, width);
        memcpy(got, in, (size_t)n * sizeof *in);
        check_ok(lx_rope_table_build(&x, s->grid, s->head_dim, &t, err));
        check_ok(lx_qk_norm_rope(&x, &q, 0, &gain, 1e-6f, &t, err));
        check_ok(lx_rope_table_build(&dry, s->grid, s->head_dim, &dry_t, err));
        check_ok(lx_qk_norm_rope(&dry, &q, 0, &gain, 1e-6f, &dry_t, err));
        assert_int_equal(lx_arena_peak(x.arena), lx_arena_peak(dry.arena));
        if (threads == 1)
            memcpy(want, got, (size_t)n * sizeof *got);
        assert_memory_equal(got, want, (size_t)n * sizeof *got);
        check_close(&x);
        check_close(&dry);
    }
    free(in), free(want), free(got);
    check_free_weight(&gain);
}

/* Tokens turned in windows are the rows of a whole run, to the bit; so says the definition too. */
static void test_rope_of_windows_equals_the_whole(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    for (size_t i = 0; i < N_SHAPES; i++) {
        const shape *s = &shapes[i];
        int64_t tokens = tokens_of(s), width = s->n_heads * s->head_dim, stride = width + s->slack;
        int64_t n = tokens * stride;
        check_rng r = {(uint64_t)i};
        float *data[4] = {check_input(&r, CHECK_RANDOM, n)};
        lx_weight gain = check_vector(data[0], LX_DTYPE_BF16, width);
        lx_mat q[4]; /* whole, in windows; the same by the definition */
        for (int k = 0; k < 4; k++) {
            data[k] = k ? check_floats(n) : data[0];
            memcpy(data[k], data[0], (size_t)n * sizeof(float));
            q[k] = mat(data[k], tokens, width, stride);
        }
        lx_rope_table t;
        check_ok(lx_rope_table_build(&x, s->grid, s->head_dim, &t, err));
        check_ok(lx_qk_norm_rope(&x, &q[0], 0, &gain, 1e-6f, &t, err));
        lx_qk_norm_rope_ref(&q[2], 0, &gain, 1e-6f, &t);
        for (int64_t first = 0, m = 1; first < tokens; first += m, m = m * 2 + 1) {
            m = m < tokens - first ? m : tokens - first;
            lx_mat window = lx_mat_rows(&q[1], first, m), defined = lx_mat_rows(&q[3], first, m);
            check_ok(lx_qk_norm_rope(&x, &window, first, &gain, 1e-6f, &t, err));
            lx_qk_norm_rope_ref(&defined, first, &gain, 1e-6f, &t);
        }
        assert_memory_equal(data[1], data[0], (size_t)n * sizeof(float));
        assert_memory_equal(data[3], data[2], (size_t)n * sizeof(float));
        assert_true(tokens == 1 || check_error(data[0], data[2], n) < 1e-4);
        lx_arena_reset(x.arena, 0);
        for (int k = 0; k < 4; k++)
            free(data[k]);
        check_free_weight(&gain);
    }
    check_close(&x);
}

static void test_rope_refuses_what_does_not_fit(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    float q[64] = {0}, ones[8] = {1};
    lx_weight gain = {.name = "g", .dtype = LX_DTYPE_F32, .shape = {1, {8}}, .data = ones};
    lx_rope_table t;
    assert_int_equal(lx_rope_table_build(&x, (lx_grid){1, 0, 1}, 8, &t, NULL), LX_EJOB);
    assert_int_equal(lx_rope_table_build(&x, (lx_grid){1, 1, 1}, 7, &t, NULL), LX_EJOB);
    assert_int_equal(lx_rope_table_build(&x, (lx_grid){1L << 30, 1L << 30, 9}, 8, &t, NULL),
                     LX_EJOB);
    check_ok(lx_rope_table_build(&x, (lx_grid){1, 2, 2}, 8, &t, err));
    const lx_mat good = lx_mat_f32(q, 4, 8), more = lx_mat_f32(q, 5, 8),
                 wide = lx_mat_f32(q, 4, 12), near = mat(q, 4, 8, 7);
    lx_mat coded = good;
    coded.dtype = LX_DTYPE_I8;
    assert_int_equal(lx_qk_norm_rope(&x, &more, 0, &gain, 1e-6f, &t, NULL), LX_EJOB);
    assert_int_equal(lx_qk_norm_rope(&x, &good, 1, &gain, 1e-6f, &t, NULL), LX_EJOB);
    assert_int_equal(lx_qk_norm_rope(&x, &good, -1, &gain, 1e-6f, &t, NULL), LX_EJOB);
    assert_int_equal(lx_qk_norm_rope(&x, &good, INT64_MAX, &gain, 1e-6f, &t, NULL), LX_EJOB);
    assert_int_equal(lx_qk_norm_rope(&x, &near, 0, &gain, 1e-6f, &t, NULL), LX_EJOB);
    assert_int_equal(lx_qk_norm_rope(&x, &wide, 0, &gain, 1e-6f, &t, NULL), LX_EJOB);
    assert_int_equal(lx_qk_norm_rope(&x, &coded, 0, &gain, 1e-6f, &t, NULL), LX_EJOB);
    assert_int_equal(lx_qk_norm_rope(&x, &good, 0, &gain, -1, &t, NULL), LX_EJOB);
    check_ok(lx_qk_norm_rope(&x, &good, 0, &gain, 1e-6f, &t, err));
    check_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rope_tables),
        cmocka_unit_test(test_rope_over_shapes),
        cmocka_unit_test(test_rope_over_inputs_and_gains),
        cmocka_unit_test(test_rope_norm_spans_all_heads),
        cmocka_unit_test(test_rope_of_windows_equals_the_whole),
        cmocka_unit_test(test_rope_same_bits_and_dry_peak),
        cmocka_unit_test(test_rope_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
