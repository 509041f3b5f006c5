/*
 * test_norm.c - row norms against the f64 definition, and fused with quantization
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

typedef struct problem {
    int64_t rows, cols;
    float *in, *scale, *shift;
    lx_weight weight, bias;
    lx_norm norm;
} problem;

/* parts: 1 weight, 2 bias, 4 modulation. */
static void make(problem *p, check_rng *r, lx_norm_kind kind, int parts, int input, int64_t rows,
                 int64_t cols)
{
    *p = (problem){.rows = rows, .cols = cols};
    p->in = check_input(r, input, rows * cols);
    p->scale = check_input(r, CHECK_RANDOM, cols);
    p->shift = check_input(r, CHECK_RANDOM, cols);
    p->weight = check_vector(p->scale, LX_DTYPE_BF16, cols);
    p->bias = check_vector(p->shift, LX_DTYPE_F32, cols);
    p->norm = (lx_norm){.kind = kind, .eps = 1e-6f};
    p->norm.weight = parts & 1 ? &p->weight : NULL;
    p->norm.bias = parts & 2 ? &p->bias : NULL;
    p->norm.scale = parts & 4 ? p->scale : NULL;
    p->norm.shift = parts & 4 ? p->shift : NULL;
}

static void destroy(problem *p)
{
    free(p->in), free(p->scale), free(p->shift);
    check_free_weight(&p->weight);
    check_free_weight(&p->bias);
}

/* The formula in f32: the yardstick of the pass rule. */
static void plain_norm(const problem *p, float *out)
{
    const lx_norm *n = &p->norm;
    for (int64_t m = 0; m < p->rows; m++) {
        const float *row = p->in + m * p->cols;
        float mean = 0, square = 0;
        for (int64_t i = 0; i < p->cols && n->kind == LX_NORM_LAYER; i++)
            mean += row[i];
        mean /= (float)p->cols;
        for (int64_t i = 0; i < p->cols; i++)
            square += (row[i] - mean) * (row[i] - mean);
        float rstd = 1 / sqrtf(square / (float)p->cols + n->eps);
        for (int64_t i = 0; i < p->cols; i++) {
            float y = (row[i] - mean) * rstd;
            y *= n->weight ? check_float_at(n->weight, i) : 1;
            y += n->bias ? check_float_at(n->bias, i) : 0;
            y = n->scale ? y * (1 + n->scale[i]) + n->shift[i] : y;
            out[m * p->cols + i] = y;
        }
    }
}

static lx_act act_of(lx_dtype dtype, int64_t rows, int64_t cols)
{
    return (lx_act){dtype, rows, cols, check_alloc(rows * cols, 4), check_floats(rows)};
}

static void test_norm_over_shapes_and_parts(void **state)
{
    (void)state;
    static const int64_t cols[] = {1, 2, 15, 16, 17, 97, 255, 257, 512};
    lx_exec x = check_open(2);
    check_rng r = {1};
    for (int kind = 0; kind < 2; kind++)
        for (int parts = 0; parts < 8; parts++)
            for (int c = 0; c < 9; c++) {
                problem p;
                make(&p, &r, (lx_norm_kind)kind, parts, CHECK_RANDOM, 3, cols[c]);
                lx_act got = act_of(LX_DTYPE_F32, 3, cols[c]),
                       want = act_of(LX_DTYPE_F32, 3, cols[c]);
                float *plain = check_floats(3 * cols[c]);
                check_ok(lx_norm_rows(&x, p.in, &p.norm, &got, err));
                lx_norm_rows_ref(p.in, &p.norm, &want);
                plain_norm(&p, plain);
                check_pass("norm", got.data, plain, want.data, 3 * cols[c]);
                assert_int_equal(lx_arena_mark(x.arena), 0);
                free(got.data), free(got.scale), free(want.data), free(want.scale), free(plain);
                destroy(&p);
            }
    check_close(&x);
}

/* Statistics in f64: even where the mean is large against the spread, and for absurd inputs. */
static void test_norm_over_inputs(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {2};
    for (int kind = 0; kind < 2; kind++)
        for (int input = 0; input <= CHECK_KINDS; input++) {
            problem p;
            make(&p, &r, (lx_norm_kind)kind, 7, input % CHECK_KINDS, 2, 701);
            for (int64_t i = 0; i < 2 * 701 && input == CHECK_KINDS; i++)
                p.in[i] = 4096 + (float)(i % 3); /* exact in f32 */
            lx_act got = act_of(LX_DTYPE_F32, 2, 701), want = act_of(LX_DTYPE_F32, 2, 701);
            check_ok(lx_norm_rows(&x, p.in, &p.norm, &got, err));
            lx_norm_rows_ref(p.in, &p.norm, &want);
            double largest = check_largest(want.data, 2 * 701);
            assert_true(check_error(got.data, want.data, 2 * 701) <= 0x1p-23 * largest);
            check_ok(
                lx_norm_rows(&x, p.in, &p.norm, &(lx_act){LX_DTYPE_F32, 2, 701, p.in, NULL}, err));
            assert_memory_equal(p.in, got.data, 2 * 701 * sizeof(float)); /* in place */
            free(got.data), free(got.scale), free(want.data), free(want.scale);
            destroy(&p);
        }
    check_close(&x);
}

/* Fused with quantization it is the same as one after the other. */
static void test_norm_quantizes_what_it_would_write(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    lx_exec x = check_open(2);
    check_rng r = {3};
    for (int d = 0; d < 2; d++)
        for (int input = 0; input < CHECK_KINDS; input++)
            for (int kind = 0; kind < 2; kind++) {
                problem p;
                int64_t rows = 7, cols = 517, n = rows * cols;
                make(&p, &r, (lx_norm_kind)kind, 3, input, rows, cols);
                lx_act wide = act_of(LX_DTYPE_F32, rows, cols), got = act_of(dtypes[d], rows, cols);
                lx_act want = act_of(dtypes[d], rows, cols);
                check_ok(lx_norm_rows(&x, p.in, &p.norm, &wide, err));
                check_ok(lx_norm_rows(&x, p.in, &p.norm, &got, err));
                lx_quantize_rows_ref(wide.data, &want);
                assert_memory_equal(got.data, want.data, (size_t)n);
                assert_memory_equal(got.scale, want.scale, (size_t)rows * sizeof(float));
                free(wide.data), free(wide.scale), free(got.data), free(got.scale);
                free(want.data), free(want.scale);
                destroy(&p);
            }
    check_close(&x);
}

/* The definition's own fused form. */
static void test_norm_definition_quantizes_alike(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    check_rng r = {4};
    for (int d = 0; d < 2; d++) {
        problem p;
        make(&p, &r, LX_NORM_LAYER, 7, CHECK_RANDOM, 2, 40);
        lx_act wide = act_of(LX_DTYPE_F32, 2, 40), fused = act_of(dtypes[d], 2, 40);
        lx_act want = act_of(dtypes[d], 2, 40);
        lx_norm_rows_ref(p.in, &p.norm, &wide);
        lx_quantize_rows_ref(wide.data, &want);
        lx_norm_rows_ref(p.in, &p.norm, &fused);
        assert_memory_equal(fused.data, want.data, 80);
        free(wide.data), free(wide.scale), free(fused.data), free(fused.scale);
        free(want.data), free(want.scale);
        destroy(&p);
    }
}

static void test_norm_same_bits_and_dry_peak(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    check_rng r = {5};
    for (int d = 0; d < 3; d++) {
        problem p;
        make(&p, &r, LX_NORM_LAYER, 7, CHECK_RANDOM, 33, 1531);
        lx_act want = act_of(dtypes[d], 33, 1531), got = act_of(dtypes[d], 33, 1531);
        size_t bytes = (size_t)(33 * 1531) * lx_dtype_size(dtypes[d]);
        for (int threads = 1; threads <= 3; threads++) {
            lx_exec x = check_open(threads), dry = check_open_dry(threads);
            check_ok(lx_norm_rows(&x, p.in, &p.norm, threads == 1 ? &want : &got, err));
            check_ok(lx_norm_rows(&dry, p.in, &p.norm, &got, err));
            assert_int_equal(lx_arena_peak(x.arena), lx_arena_peak(dry.arena));
            if (threads > 1)
                assert_memory_equal(got.data, want.data, bytes);
            check_close(&x);
            check_close(&dry);
        }
        free(want.data), free(want.scale), free(got.data), free(got.scale);
        destroy(&p);
    }
}

static void test_norm_refuses_what_does_not_fit(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    check_rng r = {6};
    problem p;
    make(&p, &r, LX_NORM_RMS, 3, CHECK_RANDOM, 2, 9);
    lx_act out = act_of(LX_DTYPE_I8, 2, 9), bad = out;
    p.weight.shape.dim[0] = 8;
    assert_int_equal(lx_norm_rows(&x, p.in, &p.norm, &out, NULL), LX_EJOB);
    p.weight.shape.dim[0] = 9;
    bad.scale = NULL;
    assert_int_equal(lx_norm_rows(&x, p.in, &p.norm, &bad, NULL), LX_EJOB);
    bad = out;
    bad.dtype = LX_DTYPE_BF16;
    assert_int_equal(lx_norm_rows(&x, p.in, &p.norm, &bad, NULL), LX_EJOB);
    bad = out;
    bad.rows = 0;
    assert_int_equal(lx_norm_rows(&x, p.in, &p.norm, &bad, NULL), LX_EJOB);
    p.norm.eps = NAN;
    assert_int_equal(lx_norm_rows(&x, p.in, &p.norm, &out, NULL), LX_EJOB);
    p.norm.eps = 1e-6f;
    check_ok(lx_norm_rows(&x, p.in, &p.norm, &out, err));
    free(out.data), free(out.scale);
    destroy(&p);
    check_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm_over_shapes_and_parts),
        cmocka_unit_test(test_norm_over_inputs),
        cmocka_unit_test(test_norm_quantizes_what_it_would_write),
        cmocka_unit_test(test_norm_definition_quantizes_alike),
        cmocka_unit_test(test_norm_same_bits_and_dry_peak),
        cmocka_unit_test(test_norm_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
