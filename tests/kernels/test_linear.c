/*
 * test_linear.c - linears against the f64 definition over shapes, dtypes and epilogues
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

/* What is multiplied; I8 and "F8_E4M3 with scale" are quantized, the rest is float. */
typedef struct variant {
    lx_dtype dtype;
    bool scaled;
} variant;

static const variant variants[] = {
    {LX_DTYPE_F32, false},     {LX_DTYPE_BF16, false},    {LX_DTYPE_F16, false},
    {LX_DTYPE_F8_E4M3, false}, {LX_DTYPE_F8_E5M2, false}, {LX_DTYPE_F8_E4M3, true},
    {LX_DTYPE_I8, true},
};
#define N_VARIANTS (sizeof variants / sizeof *variants)

typedef struct problem {
    int64_t m, n, k, stride;
    lx_act in; /* in ordinary memory */
    lx_weight w, bias;
    lx_mat mul;         /* rows 5 floats apart beyond the width */
    float *gate, *out0; /* out0: what out holds before */
    float *got, *want, *plain;
} problem;

static lx_mat mat(float *data, int64_t rows, int64_t cols, int64_t stride)
{
    lx_mat m = lx_mat_f32(data, rows, cols);
    m.stride = stride;
    return m;
}

static problem make(const lx_exec *x, check_rng *r, variant v, int kind, int64_t m, int64_t n,
                    int64_t k)
{
    problem p = {.m = m, .n = n, .k = k, .stride = n + 3};
    float *w = check_input(r, CHECK_RANDOM, n * k), *rows = check_input(r, kind, m * k);
    for (int64_t i = 0; i < n * k && v.scaled; i++)
        w[i] *= v.dtype == LX_DTYPE_I8 ? 128 : 448;
    p.w = check_weight(w, v.dtype, n, k);
    float *b = check_input(r, CHECK_RANDOM, n);
    p.bias = check_vector(b, LX_DTYPE_BF16, n);
    if (v.scaled) {
        float *scale = check_floats(n);
        for (int64_t i = 0; i < n; i++)
            scale[i] = 0.01f + 0.01f * fabsf(check_uniform(r));
        p.w.scale = scale;
    }
    lx_dtype dtype = lx_linear_act_dtype(x, &p.w);
    p.in = (lx_act){dtype, m, k, check_alloc(m * k, lx_dtype_size(dtype)), check_floats(m)};
    lx_quantize_rows_ref(rows, &p.in);
    p.mul = mat(check_input(r, CHECK_RANDOM, m * (n + 5)), m, n, n + 5);
    p.gate = check_input(r, CHECK_RANDOM, n);
    p.out0 = check_input(r, CHECK_RANDOM, m * p.stride);
    p.got = check_floats(m * p.stride);
    p.want = check_floats(m * p.stride);
    p.plain = check_floats(m * p.stride);
    free(w), free(rows), free(b);
    return p;
}

static void destroy(problem *p)
{
    check_free_weight(&p->w);
    check_free_weight(&p->bias);
    free(p->in.data), free(p->in.scale);
    free(p->mul.data), free(p->gate), free(p->out0), free(p->got), free(p->want), free(p->plain);
}

static float plain_activate(float y, lx_activation a)
{
    if (a == LX_ACTIVATION_GELU)
        return 0.5f * y * (1 + tanhf(0.79788456f * (y + 0.044715f * y * y * y)));
    return a == LX_ACTIVATION_SILU ? y / (1 + expf(-y)) : y;
}

/* The formula in f32, in the order it is written: the yardstick of the pass rule. */
static void plain_linear(const problem *p, const lx_epilogue *e)
{
    float *xs = check_floats(p->m * p->k), *ws = check_floats(p->n * p->k);
    lx_widen_to_f32(xs, p->in.data, p->in.dtype, (size_t)(p->m * p->k));
    lx_widen_to_f32(ws, p->w.data, p->w.dtype, (size_t)(p->n * p->k));
    for (int64_t m = 0; m < p->m; m++)
        for (int64_t n = 0; n < p->n; n++) {
            float acc = 0, b = e->bias ? check_float_at(e->bias, n) : 0;
            for (int64_t k = 0; k < p->k; k++)
                acc += xs[m * p->k + k] * ws[n * p->k + k];
            float y = p->w.scale ? p->in.scale[m] * (p->w.scale[n] * acc) + b : acc + b;
            y = plain_activate(y, e->activation);
            y *= e->mul ? ((const float *)e->mul->data)[m * e->mul->stride + n] : 1;
            y *= e->gate ? e->gate[n] : 1;
            float *o = &p->plain[m * p->stride + n];
            *o = e->add_to_out ? *o + y : y;
        }
    free(xs), free(ws);
}

static void run(lx_exec *x, problem *p, const lx_epilogue *e)
{
    size_t bytes = (size_t)(p->m * p->stride) * sizeof(float), mark = lx_arena_mark(x->arena);
    memcpy(p->got, p->out0, bytes);
    lx_mat out = mat(p->got, p->m, p->n, p->stride);
    check_ok(lx_linear(x, &p->in, &p->w, e, &out, err));
    assert_int_equal(lx_arena_mark(x->arena), mark); /* all scratch given back */
}

/* I8 is exact but for the activation; the rest obeys the pass rule. */
static void check_problem(lx_exec *x, problem *p, const lx_epilogue *e)
{
    int64_t all = p->m * p->stride;
    run(x, p, e);
    memcpy(p->want, p->out0, (size_t)all * sizeof(float));
    lx_linear_ref(&p->in, &p->w, e, p->want, p->stride);
    for (int64_t i = 0; i < all; i++) /* between the rows nothing is written */
        if (i % p->stride >= p->n)
            assert_true(p->got[i] == p->out0[i]);
    char what[96];
    snprintf(what, sizeof what, "%s%s %dx%dx%d", lx_dtype_name(p->w.dtype),
             p->w.scale ? " scaled" : "", (int)p->m, (int)p->n, (int)p->k);
    if (p->w.dtype == LX_DTYPE_I8 && !e->activation && !e->mul && !e->gate && !e->add_to_out) {
        if (memcmp(p->got, p->want, (size_t)all * sizeof(float)) != 0)
            fail_msg("%s: not the exact bits", what);
        return;
    }
    memcpy(p->plain, p->out0, (size_t)all * sizeof(float));
    if (p->w.dtype == LX_DTYPE_I8) { /* its own precision is exact sums: one rounding per step */
        double floor = 8 * 0x1p-23 * check_largest(p->want, all);
        assert_true(check_error(p->got, p->want, all) <= floor);
        return;
    }
    plain_linear(p, e);
    check_pass(what, p->got, p->plain, p->want, all);
}

static void test_linear_over_shapes(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {
        {1, 1, 1},     {1, 64, 2049}, {2, 3, 5},     {4, 65, 2050}, {5, 7, 511},   {5, 5, 1},
        {7, 193, 513}, {9, 131, 512}, {37, 192, 97}, {64, 191, 31}, {3, 97, 1536}, {6, 64, 1025},
        {5, 9, 13824}, {20, 512, 64}, {513, 385, 5}, {511, 383, 3}, {512, 384, 4}, {600, 3, 40},
    };
    lx_exec x = check_open(2);
    check_rng r = {1};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            problem p =
                make(&x, &r, variants[v], CHECK_RANDOM, shapes[i][0], shapes[i][1], shapes[i][2]);
            lx_epilogue e = {.bias = i % 2 ? &p.bias : NULL};
            check_problem(&x, &p, &e);
            destroy(&p);
        }
    check_close(&x);
}

static void test_linear_over_inputs(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {2};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (int kind = 0; kind < CHECK_KINDS; kind++)
            for (int64_t m = 3; m <= 19; m += 16) {
                problem p = make(&x, &r, variants[v], kind, m, 41, 521);
                lx_epilogue e = {.bias = &p.bias};
                check_problem(&x, &p, &e);
                destroy(&p);
            }
    check_close(&x);
}

static void test_linear_over_epilogues(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {3};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (int bits = 0; bits < 48; bits++)
            for (int64_t m = 2; m <= 9; m += 7) {
                problem p = make(&x, &r, variants[v], CHECK_RANDOM, m, 300, 17);
                lx_epilogue e = {.bias = bits & 1 ? &p.bias : NULL,
                                 .mul = bits & 2 ? &p.mul : NULL,
                                 .gate = bits & 4 ? p.gate : NULL,
                                 .add_to_out = bits & 8,
                                 .activation = (lx_activation)(bits / 16)};
                check_problem(&x, &p, &e);
                destroy(&p);
            }
    check_close(&x);
}

static void test_linear_same_bits_for_any_thread_count(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {
        {1, 200, 3000}, {6, 64, 5000}, {37, 500, 1100}, {700, 450, 90}};
    static const int threads[] = {1, 1, 2, 3};
    lx_exec x[4];
    for (int t = 0; t < 4; t++)
        x[t] = check_open(threads[t]);
    check_rng r = {4};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (size_t i = 0; i < 4; i++) {
            problem p =
                make(x, &r, variants[v], CHECK_RANDOM, shapes[i][0], shapes[i][1], shapes[i][2]);
            lx_epilogue e = {.bias = &p.bias, .activation = LX_ACTIVATION_GELU, .add_to_out = true};
            size_t bytes = (size_t)(p.m * p.stride) * sizeof(float);
            for (int t = 0; t < 4; t++) {
                run(&x[t], &p, &e);
                if (t == 0)
                    memcpy(p.want, p.got, bytes);
                assert_memory_equal(p.got, p.want, bytes);
            }
            destroy(&p);
        }
    for (int t = 0; t < 4; t++)
        check_close(&x[t]);
}

static void test_linear_dry_run_measures_the_real_one(void **state)
{
    (void)state;
    check_rng r = {5};
    lx_exec opened = check_open(2);
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (int64_t m = 1; m <= 601; m += 300) {
            problem p = make(&opened, &r, variants[v], CHECK_RANDOM, m, 401, 530);
            lx_epilogue e = {.bias = &p.bias};
            lx_exec x = opened, dry = check_open_dry(2);
            check_ok(lx_arena_create(&x.arena, (size_t)12 << 20, err)); /* peaks start at 0 */
            x.host = x.arena;
            run(&x, &p, &e);
            run(&dry, &p, &e);
            assert_int_equal(lx_arena_peak(dry.arena), lx_arena_peak(x.arena));
            assert_true(lx_arena_peak(dry.arena) > 0);
            assert_memory_equal(p.got, p.out0, (size_t)(p.m * p.stride) * sizeof(float));
            check_close(&x);
            check_close(&dry);
            destroy(&p);
        }
    check_close(&opened);
}

/* A bf16 matrix as large as the largest of the 14B is never widened as a whole. */
static void test_linear_scratch_is_bounded(void **state)
{
    (void)state;
    lx_exec dry = check_open_dry(2);
    lx_weight w = {.name = "ffn", .dtype = LX_DTYPE_BF16, .shape = {2, {13824, 5120}}, .data = &w};
    lx_act in = {LX_DTYPE_F32, 75600, 5120, &w, NULL};
    float out;
    lx_mat into = lx_mat_f32(&out, 75600, 13824);
    check_ok(lx_linear(&dry, &in, &w, NULL, &into, err));
    assert_true(lx_arena_peak(dry.arena) < (size_t)2 * (4 << 20));
    check_close(&dry);
}

static void test_linear_reads_flattened_patches(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {6};
    problem p = make(&x, &r, (variant){LX_DTYPE_BF16, false}, CHECK_RANDOM, 30, 96, 64);
    p.w.shape = (lx_shape){5, {96, 16, 1, 2, 2}};
    lx_epilogue e = {.bias = &p.bias};
    check_problem(&x, &p, &e);
    destroy(&p);
    check_close(&x);
}

static void test_quantize_rows_bits(void **state)
{
    (void)state;
    static const int64_t cols[] = {1, 7, 31, 32, 33, 1021, 5120};
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    lx_exec x = check_open(2);
    check_rng r = {7};
    for (int d = 0; d < 3; d++)
        for (int kind = 0; kind <= CHECK_KINDS; kind++)
            for (int c = 0; c < 7; c++) {
                int64_t m = 9, k = cols[c];
                float *in = check_input(&r, kind % CHECK_KINDS, m * k);
                lx_mat rows = lx_mat_f32(in, m, k);
                for (int64_t i = 0; i < k; i++) {
                    in[3 * k + i] = 0;                            /* a zero row among others */
                    in[5 * k + i] *= 1e-41f;                      /* subnormal */
                    in[6 * k + i] = (float)(i % 255) * 0.5f - 63; /* ties */
                }
                lx_act want = {dtypes[d], m, k, check_alloc(m * k, 4), check_floats(m)}, got;
                lx_quantize_rows_ref(in, &want);
                check_ok(lx_act_take(&x, dtypes[d], m, k, &got, err));
                assert_true((got.scale == NULL) == (d == 0));
                check_ok(lx_quantize_rows(&x, &rows, &got, err));
                assert_memory_equal(got.data, want.data,
                                    (size_t)(m * k) * lx_dtype_size(dtypes[d]));
                if (d)
                    assert_memory_equal(got.scale, want.scale, (size_t)m * sizeof(float));
                lx_arena_reset(x.arena, 0);
                free(in), free(want.data), free(want.scale);
            }
    check_close(&x);
}

#define expect_refusal(word, call)                                                                 \
    do {                                                                                           \
        lx_err refused = {0};                                                                      \
        lx_err *err = &refused;                                                                    \
        assert_int_equal((call), LX_EJOB);                                                         \
        if (!strstr(refused.message, (word)))                                                      \
            fail_msg("\"%s\" does not say \"%s\"", refused.message, (word));                       \
    } while (0)

static void test_linear_refuses_what_does_not_fit(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    check_rng r = {8};
    problem p = make(&x, &r, (variant){LX_DTYPE_I8, true}, CHECK_RANDOM, 3, 8, 16);
    lx_epilogue e = {.bias = &p.bias};
    lx_act in = p.in;
    lx_weight w = p.w;
    const lx_mat good = lx_mat_f32(p.got, 3, 8);
    in.cols = 15;
    expect_refusal("[8, 16]", lx_linear(&x, &in, &w, &e, &good, err));
    in = p.in;
    in.dtype = LX_DTYPE_F32;
    expect_refusal("takes I8", lx_linear(&x, &in, &w, &e, &good, err));
    w.scale = NULL;
    expect_refusal("without a scale", lx_linear(&x, &p.in, &w, &e, &good, err));
    w = p.w;
    w.dtype = LX_DTYPE_I32;
    expect_refusal("I32", lx_linear(&x, &in, &w, &e, &good, err));
    w.shape = (lx_shape){1, {128}};
    expect_refusal("[128]", lx_linear(&x, &in, &w, &e, &good, err));
    p.bias.shape.dim[0] = 7;
    expect_refusal("bias", lx_linear(&x, &p.in, &p.w, &e, &good, err));
    p.in.rows = 0;
    expect_refusal("[0, 16]", lx_linear(&x, &p.in, &p.w, NULL, &good, err));
    expect_refusal("not possible", lx_act_take(&x, LX_DTYPE_I8, 1, INT64_MAX, &in, err));
    p.in.rows = 3;
    destroy(&p);
    check_close(&x);
}

static void test_linear_refuses_outputs_and_factors_that_do_not_fit(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    check_rng r = {9};
    problem p = make(&x, &r, (variant){LX_DTYPE_BF16, false}, CHECK_RANDOM, 3, 8, 16);
    const lx_mat good = lx_mat_f32(p.got, 3, 8);
    lx_mat bad[] = {good, good, good, good, good};
    bad[0].stride = 7;
    bad[1].rows = 4;
    bad[2].cols = 7;
    bad[3].dtype = LX_DTYPE_I8;
    bad[4].data = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lx_epilogue e = {.mul = &bad[i]};
        expect_refusal("apart", lx_linear(&x, &p.in, &p.w, NULL, &bad[i], err));
        expect_refusal("factors", lx_linear(&x, &p.in, &p.w, &e, &good, err));
    }
    check_ok(lx_linear(&x, &p.in, &p.w, &(lx_epilogue){.mul = &p.mul}, &good, err));
    destroy(&p);
    check_close(&x);
}

/* --- results as the next linear reads them --------------------------------------------------- */

static lx_act act_in(lx_dtype dtype, int64_t rows, int64_t cols)
{
    return (lx_act){dtype, rows, cols, check_alloc(rows * cols, 4), check_floats(rows)};
}

static void free_act(lx_act *act)
{
    free(act->data), free(act->scale);
}

/* It is the linear, then the quantization of what that made. */
static void test_linear_to_act_is_linear_then_quantize(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    lx_exec x = check_open(2);
    check_rng r = {10};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (int d = 0; d < 3; d++)
            for (int64_t m = 3; m <= 40; m += 37) {
                problem p = make(&x, &r, variants[v], CHECK_PLANTED, m, 421, 130);
                lx_epilogue e = {.bias = &p.bias, .activation = LX_ACTIVATION_GELU};
                lx_act got = act_in(dtypes[d], m, 421), want = act_in(dtypes[d], m, 421);
                lx_mat rows = lx_mat_f32(p.want, m, 421);
                check_ok(lx_linear(&x, &p.in, &p.w, &e, &rows, err));
                lx_quantize_rows_ref(rows.data, &want);
                check_ok(lx_linear_to_act(&x, &p.in, &p.w, &e, &got, err));
                assert_memory_equal(got.data, want.data,
                                    (size_t)(m * 421) * lx_dtype_size(dtypes[d]));
                if (d)
                    assert_memory_equal(got.scale, want.scale, (size_t)m * sizeof(float));
                assert_int_equal(lx_arena_mark(x.arena), 0);
                free_act(&got);
                free_act(&want);
                destroy(&p);
            }
    check_close(&x);
}

static void test_linear_to_act_dry_run_measures_the_real_one(void **state)
{
    (void)state;
    static const lx_dtype dtypes[] = {LX_DTYPE_F32, LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    check_rng r = {11};
    for (int d = 0; d < 3; d++) {
        lx_exec x = check_open(2), dry = check_open_dry(2);
        problem p = make(&x, &r, (variant){LX_DTYPE_BF16, false}, CHECK_RANDOM, 70, 401, 530);
        lx_act out = act_in(dtypes[d], 70, 401);
        check_ok(lx_linear_to_act(&dry, &p.in, &p.w, NULL, &out, err));
        for (int64_t i = 0; i < 70; i++)
            assert_true(out.scale[i] == 0); /* dry: nothing was written */
        check_ok(lx_linear_to_act(&x, &p.in, &p.w, NULL, &out, err));
        assert_int_equal(lx_arena_peak(dry.arena), lx_arena_peak(x.arena));
        free_act(&out);
        destroy(&p);
        check_close(&x);
        check_close(&dry);
    }
}

static void test_linear_to_act_refuses_what_it_does_not_serve(void **state)
{
    (void)state;
    lx_exec x = check_open(1);
    check_rng r = {12};
    problem p = make(&x, &r, (variant){LX_DTYPE_I8, true}, CHECK_RANDOM, 3, 8, 16);
    lx_act good = act_in(LX_DTYPE_I8, 3, 8);
    const lx_epilogue not_served[] = {{.mul = &p.mul}, {.gate = p.gate}, {.add_to_out = true}};
    for (size_t i = 0; i < 3; i++)
        expect_refusal("do not go", lx_linear_to_act(&x, &p.in, &p.w, &not_served[i], &good, err));
    lx_act bad[] = {good, good, good, good, good};
    bad[0].rows = 2;
    bad[1].cols = 9;
    bad[2].scale = NULL;
    bad[3].dtype = LX_DTYPE_F16;
    bad[4].data = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_linear_to_act(&x, &p.in, &p.w, NULL, &bad[i], NULL), LX_EJOB);
    check_ok(lx_linear_to_act(&x, &p.in, &p.w, NULL, &good, err));
    free_act(&good);
    destroy(&p);
    check_close(&x);
}

/* Rows become what a weight's linear reads: themselves where they can, else a copy or codes. */
static void test_act_of_reads_rows_where_they_lie(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {13};
    int64_t m = 5, k = 33;
    float *in = check_input(&r, CHECK_RANDOM, m * k);
    for (size_t v = 0; v < N_VARIANTS; v++) {
        problem p = make(&x, &r, variants[v], CHECK_RANDOM, m, 4, k);
        lx_mat rows = lx_mat_f32(in, m, k), window = lx_mat_cols(&rows, 3, 20);
        lx_act act, want = act_in(p.in.dtype, m, k);
        lx_quantize_rows_ref(in, &want);
        check_ok(lx_act_of(&x, &rows, &p.w, &act, err));
        assert_int_equal(act.dtype, lx_linear_act_dtype(&x, &p.w));
        assert_true(act.rows == m && act.cols == k);
        assert_int_equal(act.data == (void *)in, act.dtype == LX_DTYPE_F32);
        assert_int_equal(lx_arena_mark(x.arena) == 0, act.dtype == LX_DTYPE_F32);
        assert_memory_equal(act.data, want.data, (size_t)(m * k) * lx_dtype_size(act.dtype));
        if (act.dtype != LX_DTYPE_F32)
            assert_memory_equal(act.scale, want.scale, (size_t)m * sizeof(float));
        check_ok(lx_act_of(&x, &window, &p.w, &act, err)); /* not dense: moved together */
        assert_true(act.rows == m && act.cols == 20 && act.data != window.data);
        for (int64_t i = 0; i < m && act.dtype == LX_DTYPE_F32; i++)
            assert_memory_equal((float *)act.data + i * 20, in + i * k + 3, 20 * sizeof(float));
        lx_arena_reset(x.arena, 0);
        free_act(&want);
        destroy(&p);
    }
    free(in);
    check_close(&x);
}

/* q, k and v side by side in one buffer, each written through its window. */
static void test_linear_writes_windows_of_one_buffer(void **state)
{
    (void)state;
    lx_exec x = check_open(2);
    check_rng r = {14};
    enum { M = 19, N = 24, ALL = 3 * N + 2 };
    float buffer[M * ALL], alone[M * N];
    for (int i = 0; i < M * ALL; i++)
        buffer[i] = 77;
    lx_mat all = lx_mat_f32(buffer, M, ALL), one = lx_mat_f32(alone, M, N);
    for (int part = 0; part < 3; part++) {
        problem p = make(&x, &r, variants[part * 3], CHECK_RANDOM, M, N, 50);
        lx_mat window = lx_mat_cols(&all, 1 + part * N, N);
        check_ok(lx_linear(&x, &p.in, &p.w, NULL, &window, err));
        check_ok(lx_linear(&x, &p.in, &p.w, NULL, &one, err));
        for (int i = 0; i < M; i++)
            assert_memory_equal(buffer + i * ALL + 1 + part * N, alone + i * N, N * sizeof(float));
        destroy(&p);
    }
    for (int i = 0; i < M; i++)
        assert_true(buffer[i * ALL] == 77 && buffer[i * ALL + ALL - 1] == 77);
    check_close(&x);
}

static void test_exec_refuses_absurd_thread_counts(void **state)
{
    (void)state;
    lx_exec x = {0};
    lx_arena *arena = NULL;
    check_ok(lx_arena_create_dry(&arena, err));
    assert_int_equal(lx_exec_open_cpu(&x, arena, -1, NULL), LX_ECONFIG);
    assert_int_equal(lx_exec_open_cpu(&x, arena, 100000, NULL), LX_ECONFIG);
    assert_null(x.backend);
    check_ok(lx_exec_open_cpu(&x, arena, 0, err));
    assert_true(x.n_threads >= 1);
    lx_arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exec_refuses_absurd_thread_counts),
        cmocka_unit_test(test_quantize_rows_bits),
        cmocka_unit_test(test_linear_over_shapes),
        cmocka_unit_test(test_linear_over_inputs),
        cmocka_unit_test(test_linear_over_epilogues),
        cmocka_unit_test(test_linear_same_bits_for_any_thread_count),
        cmocka_unit_test(test_linear_dry_run_measures_the_real_one),
        cmocka_unit_test(test_linear_scratch_is_bounded),
        cmocka_unit_test(test_linear_reads_flattened_patches),
        cmocka_unit_test(test_linear_refuses_what_does_not_fit),
        cmocka_unit_test(test_linear_refuses_outputs_and_factors_that_do_not_fit),
        cmocka_unit_test(test_linear_to_act_is_linear_then_quantize),
        cmocka_unit_test(test_linear_to_act_dry_run_measures_the_real_one),
        cmocka_unit_test(test_linear_to_act_refuses_what_it_does_not_serve),
        cmocka_unit_test(test_act_of_reads_rows_where_they_lie),
        cmocka_unit_test(test_linear_writes_windows_of_one_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
