/*
 * test_attention.c - tiled attention against the f64 definition
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

typedef struct problem {
    lx_attention_args a;
    lx_kv *kv; /* what a points to */
    float *q, *k, *v, *rel, *key_bias, *got, *want, *plain;
    int64_t n_out;
} problem;

static lx_mat mat(float *data, int64_t rows, int64_t cols, int64_t stride)
{
    lx_mat m = lx_mat_f32(data, rows, cols);
    m.stride = stride;
    return m;
}

/* biases: 1 rel, 2 key_bias. slack: floats between rows beyond the width. */
static problem make(int input, const int64_t dims[4], int64_t slack, int biases, float scale)
{
    check_rng r = {(uint64_t)(dims[0] * 31 + dims[1] * 17 + input)};
    int64_t n_q = dims[0], n_k = dims[1], width = dims[2] * dims[3], stride = width + slack;
    problem p = {.n_out = n_q * stride};
    p.q = check_input(&r, input, n_q * stride);
    p.k = check_input(&r, input, n_k * stride);
    p.v = check_input(&r, input, n_k * stride);
    p.rel = check_input(&r, CHECK_RANDOM, dims[2] * (n_q + n_k - 1));
    p.key_bias = check_input(&r, CHECK_RANDOM, n_k);
    p.key_bias[n_k - 1] = 6.1f; /* ln(512 - 66) */
    p.got = check_floats(p.n_out);
    p.want = check_floats(p.n_out);
    p.plain = check_floats(p.n_out);
    p.kv = check_alloc(1, sizeof *p.kv);
    *p.kv = (lx_kv){.n = n_k,
                    .n_heads = dims[2],
                    .head_dim = dims[3],
                    .k = mat(p.k, n_k, width, stride),
                    .v = mat(p.v, n_k, width, stride)};
    p.a = (lx_attention_args){.q = mat(p.q, n_q, width, stride),
                              .kv = p.kv,
                              .scale = scale,
                              .rel = biases & 1 ? p.rel : NULL,
                              .key_bias = biases & 2 ? p.key_bias : NULL,
                              .out = mat(p.got, n_q, width, stride)};
    return p;
}

static void destroy(problem *p)
{
    free(p->q), free(p->k), free(p->v), free(p->rel), free(p->key_bias);
    free(p->got), free(p->want), free(p->plain), free(p->kv);
}

/* Keys and values prepared, then the attention, as a model does it. */
static void attend(lx_exec *x, problem *p)
{
    lx_mat k = p->kv->k, v = p->kv->v;
    check_ok(lx_kv_prepare(x, LX_ATTENTION_PLAIN, &k, &v, p->kv->n_heads, p->kv, err));
    check_ok(lx_attention(x, &p->a, err));
}

/* Head h of row i. */
static float *head_of(const lx_mat *m, const lx_kv *kv, int64_t i, int64_t h)
{
    return (float *)m->data + i * m->stride + h * kv->head_dim;
}

/* The relative position bias of a score. */
static float rel_of(const lx_attention_args *a, int64_t h, int64_t i, int64_t j)
{
    int64_t n_q = a->q.rows, n_k = a->kv->n;
    return a->rel ? a->rel[h * (n_q + n_k - 1) + j - i + n_q - 1] : 0;
}

/* softmax(q k^T) v in f32, one row at a time: the yardstick of the pass rule. */
static void plain_attention(const lx_attention_args *a, float *out)
{
    const lx_kv *kv = a->kv;
    float *s = check_floats(kv->n);
    for (int64_t h = 0; h < kv->n_heads; h++)
        for (int64_t i = 0; i < a->q.rows; i++) {
            float max = -HUGE_VALF, total = 0;
            const float *q = head_of(&a->q, kv, i, h);
            for (int64_t j = 0; j < kv->n; j++) {
                float dot = 0;
                const float *k = head_of(&kv->k, kv, j, h);
                for (int64_t c = 0; c < kv->head_dim; c++)
                    dot += q[c] * k[c];
                s[j] = dot * a->scale;
                s[j] += rel_of(a, h, i, j);
                s[j] += a->key_bias ? a->key_bias[j] : 0;
                max = fmaxf(max, s[j]);
            }
            for (int64_t j = 0; j < kv->n; j++) {
                s[j] = expf(s[j] - max);
                total += s[j];
            }
            float *o = out + i * a->out.stride + h * kv->head_dim;
            for (int64_t j = 0; j < kv->n; j++)
                for (int64_t c = 0; c < kv->head_dim; c++)
                    o[c] += s[j] / total * head_of(&kv->v, kv, j, h)[c];
        }
    free(s);
}

/* The definition in f64 with each weight computed once: lx_attention_ref is for small shapes. */
static void wide_attention(const lx_attention_args *a, float *out)
{
    const lx_kv *kv = a->kv;
    double *s = check_alloc(kv->n, sizeof *s), *sum = check_alloc(kv->head_dim, sizeof *sum);
    for (int64_t h = 0; h < kv->n_heads; h++)
        for (int64_t i = 0; i < a->q.rows; i++) {
            double max = -HUGE_VAL, total = 0;
            const float *q = head_of(&a->q, kv, i, h);
            memset(sum, 0, (size_t)kv->head_dim * sizeof *sum);
            for (int64_t j = 0; j < kv->n; j++) {
                s[j] = 0;
                const float *k = head_of(&kv->k, kv, j, h);
                for (int64_t c = 0; c < kv->head_dim; c++)
                    s[j] += (double)q[c] * (double)k[c];
                s[j] *= (double)a->scale;
                s[j] += (double)rel_of(a, h, i, j);
                s[j] += a->key_bias ? (double)a->key_bias[j] : 0;
                max = fmax(max, s[j]);
            }
            for (int64_t j = 0; j < kv->n; j++) {
                double e = exp(s[j] - max);
                total += e;
                for (int64_t c = 0; c < kv->head_dim; c++)
                    sum[c] += e * (double)head_of(&kv->v, kv, j, h)[c];
            }
            for (int64_t c = 0; c < kv->head_dim; c++)
                out[i * a->out.stride + h * kv->head_dim + c] = (float)(sum[c] / total);
        }
    free(s), free(sum);
}

static void check_problem(lx_exec *x, problem *p)
{
    attend(x, p);
    assert_int_equal(lx_arena_mark(x->arena), 0);
    wide_attention(&p->a, p->want);
    plain_attention(&p->a, p->plain);
    char what[96];
    snprintf(what, sizeof what, "attention %dx%d, %d heads of %d", (int)p->a.q.rows, (int)p->kv->n,
             (int)p->kv->n_heads, (int)p->kv->head_dim);
    check_pass(what, p->got, p->plain, p->want, p->n_out);
}

static void test_attention_over_shapes(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = {
        {1, 1, 1, 1},     {1, 7, 2, 64},    {37, 37, 2, 64},   {2, 513, 1, 128},
        {257, 3, 1, 16},  {97, 511, 2, 32}, {255, 512, 1, 24}, {256, 513, 1, 8},
        {72, 61, 2, 128}, {31, 1025, 1, 5}, {40, 600, 1, 384}, {60, 60, 8, 64},
    };
    lx_exec x = check_open(2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int biases = 0; biases < 4; biases++) {
            if (biases & 1 && shapes[i][0] != shapes[i][1])
                continue;
            float scale = 1 / sqrtf((float)shapes[i][3]);
            problem p = make(CHECK_RANDOM, shapes[i], i % 2 ? 5 : 0, biases, scale);
            check_problem(&x, &p);
            destroy(&p);
        }
    check_close(&x);
}

/* Over several tiles of keys and queries, in f64 by the reference. */
static void test_attention_tells_the_log_of_the_sum(void **state)
{
    (void)state;
    static const int64_t dims[4] = {259, 1030, 2, 16};
    lx_exec x = check_open(2);
    problem p = make(CHECK_RANDOM, dims, 3, 2, 1);
    float *got = check_floats(2 * 259), *want = check_floats(2 * 259);
    p.a.lse = got;
    attend(&x, &p);
    p.a.lse = want;
    p.a.out.data = p.want;
    lx_attention_ref(&p.a);
    assert_true(check_error(got, want, 2 * 259) < 2e-5);
    assert_true(check_largest(want, 2 * 259) > 1);
    free(got), free(want);
    destroy(&p);
    check_close(&x);
}

/* UMT5 does not scale scores: they are large, and the softmax is nearly one-hot. With planted
 * extremes the error is that of the one score that decides, so both sides are summed over draws. */
static void test_attention_over_inputs(void **state)
{
    (void)state;
    enum { DRAWS = 8 };
    lx_exec x = check_open(2);
    for (int input = 0; input < CHECK_KINDS; input++)
        for (int is_long = 0; is_long < 2; is_long++) {
            double error = 0, allowed = 0;
            for (int64_t draw = 0; draw < DRAWS; draw++) {
                int64_t dims[4] = {is_long ? 11 : 61 + draw, is_long ? 1300 + draw : 61 + draw, 2,
                                   64};
                problem p = make(input, dims, 0, is_long ? 2 : 3, 1.0f);
                attend(&x, &p);
                wide_attention(&p.a, p.want);
                plain_attention(&p.a, p.plain);
                error += check_error(p.got, p.want, p.n_out);
                allowed += 2 * check_error(p.plain, p.want, p.n_out) +
                           0x1p-23 * check_largest(p.want, p.n_out);
                destroy(&p);
            }
            if (!(error <= allowed))
                fail_msg("input %d: error %.3g, allowed %.3g", input, error, allowed);
        }
    check_close(&x);
}

static void test_attention_definition(void **state)
{
    (void)state;
    static const int64_t dims[4] = {9, 9, 2, 6};
    problem p = make(CHECK_RANDOM, dims, 1, 3, 0.7f);
    wide_attention(&p.a, p.want);
    lx_attention_ref(&p.a);
    assert_true(check_error(p.got, p.want, p.n_out) <= 0x1p-23 * check_largest(p.want, p.n_out));
    destroy(&p);
}

/* The maximum rises from tile to tile, by more than exp can take, and falls again. */
static void test_attention_maximum_moves_between_tiles(void **state)
{
    (void)state;
    static const int64_t dims[4] = {5, 1600, 1, 8};
    lx_exec x = check_open(2);
    problem p = make(CHECK_RANDOM, dims, 0, 2, 1.0f);
    for (int64_t j = 0; j < 1600; j++)
        p.key_bias[j] = j < 1100 ? (float)j / 5 : 10;
    check_problem(&x, &p);
    for (int64_t j = 0; j < 600; j++)
        p.key_bias[j] = -HUGE_VALF; /* a whole tile of keys that do not count */
    check_problem(&x, &p);
    destroy(&p);
    check_close(&x);
}

/* n copies of a key are one key with ln n added: how the DiT folds its padded context. */
static void test_attention_key_bias_stands_for_copies(void **state)
{
    (void)state;
    static const int64_t dims[4] = {11, 64, 2, 32}, folded_dims[4] = {11, 21, 2, 32};
    lx_exec x = check_open(2);
    problem full = make(CHECK_RANDOM, dims, 0, 0, 0.2f),
            one = make(CHECK_RANDOM, folded_dims, 0, 2, 0.2f);
    for (int64_t j = 21; j < 64; j++) {
        memcpy(full.k + j * 64, full.k + 20 * 64, 64 * sizeof(float));
        memcpy(full.v + j * 64, full.v + 20 * 64, 64 * sizeof(float));
    }
    memcpy(one.q, full.q, 11 * 64 * sizeof(float));
    memcpy(one.k, full.k, 21 * 64 * sizeof(float));
    memcpy(one.v, full.v, 21 * 64 * sizeof(float));
    memset(one.key_bias, 0, 21 * sizeof(float));
    one.key_bias[20] = logf(64 - 20);
    attend(&x, &full);
    attend(&x, &one);
    assert_true(check_error(full.got, one.got, 11 * 64) < 1e-6);
    destroy(&full);
    destroy(&one);
    check_close(&x);
}

static void test_attention_same_bits_for_any_thread_count(void **state)
{
    (void)state;
    static const int64_t dims[4] = {600, 700, 2, 16};
    problem p = make(CHECK_RANDOM, dims, 3, 2, 0.3f);
    size_t bytes = (size_t)p.n_out * sizeof(float);
    static const int threads[] = {1, 1, 2, 3};
    for (int t = 0; t < 4; t++) {
        lx_exec x = check_open(threads[t]), dry = check_open_dry(threads[t]);
        attend(&x, &p);
        attend(&dry, &p);
        assert_int_equal(lx_arena_peak(x.arena), lx_arena_peak(dry.arena));
        check_close(&x);
        check_close(&dry);
        if (t == 0)
            memcpy(p.want, p.got, bytes);
        assert_memory_equal(p.got, p.want, bytes);
    }
    destroy(&p);
}

/* Nothing of size queries x keys: 75,600 tokens of a 720p clip take what 1,000 take. */
static void test_attention_scratch_does_not_grow(void **state)
{
    (void)state;
    size_t peak[2];
    for (int i = 0; i < 2; i++) {
        lx_exec dry = check_open_dry(2);
        float f = 0;
        lx_kv kv;
        lx_mat m = lx_mat_f32(&f, i ? 75600 : 1000, 384);
        check_ok(lx_kv_prepare(&dry, LX_ATTENTION_PLAIN, &m, &m, 1, &kv, err));
        lx_attention_args a = {.q = m, .kv = &kv, .scale = 1, .out = m};
        check_ok(lx_attention(&dry, &a, err));
        peak[i] = lx_arena_peak(dry.arena);
        check_close(&dry);
    }
    assert_int_equal(peak[0], peak[1]);
    assert_true(peak[0] < (size_t)2 << 20);
}

/* The CPU has float products only: INT8 is answered with what it has, and says so. */
static void test_attention_prepares_float_keys(void **state)
{
    (void)state;
    static const int64_t dims[4] = {4, 5, 2, 8};
    lx_exec x = check_open(1);
    problem p = make(CHECK_RANDOM, dims, 3, 0, 1.0f);
    lx_mat k = p.kv->k, v = p.kv->v;
    lx_kv kv = {.n = -1};
    check_ok(lx_kv_prepare(&x, LX_ATTENTION_INT8, &k, &v, 2, &kv, err));
    assert_int_equal(kv.kind, LX_ATTENTION_PLAIN);
    assert_true(kv.n == 5 && kv.n_heads == 2 && kv.head_dim == 8);
    assert_ptr_equal(kv.k.data, p.k);
    assert_ptr_equal(kv.v.data, p.v);
    assert_true(kv.k.stride == 19 && !kv.codes && !kv.scale && !kv.k_mean);
    assert_int_equal(lx_arena_mark(x.arena), 0);
    destroy(&p);
    check_close(&x);
}

/* q and k as their linears make them: the same bits as with the norm and the rotation by hand. */
static void test_attention_takes_raw_queries_and_keys(void **state)
{
    (void)state;
    static const int64_t dims[4] = {10, 12, 2, 8};
    lx_exec x = check_open(2);
    problem p = make(CHECK_RANDOM, dims, 3, 0, 0.3f),
            by_hand = make(CHECK_RANDOM, dims, 3, 0, 0.3f);
    check_rng r = {5};
    float *values = check_input(&r, CHECK_RANDOM, 16);
    lx_weight gain = check_vector(values, LX_DTYPE_F32, 16);
    lx_rope_table table;
    check_ok(lx_rope_table_build(&x, (lx_grid){2, 2, 3}, 8, &table, err));
    lx_mat k = by_hand.kv->k;
    check_ok(lx_qk_norm_rope(&x, &by_hand.a.q, 2, &gain, 1e-6f, &table, err));
    check_ok(lx_qk_norm_rope(&x, &k, 0, &gain, 1e-6f, &table, err));
    attend(&x, &by_hand);
    const lx_qk_norm q_norm = {.gain = &gain, .table = &table, .first_token = 2, .eps = 1e-6f};
    lx_qk_norm k_norm = {.gain = &gain, .table = &table, .eps = 1e-6f};
    lx_kv_source from = {.k = p.kv->k, .v = p.kv->v, .n_heads = 2, .k_norm = &k_norm};
    lx_kv bad = {.n = -1};
    check_ok(lx_kv_prepare_from(&x, LX_ATTENTION_INT8, &from, p.kv, err));
    p.a.q_norm = &q_norm;
    check_ok(lx_attention(&x, &p.a, err));
    for (int64_t i = 0; i < 10; i++)
        assert_memory_equal((float *)p.a.out.data + i * p.a.out.stride,
                            (float *)by_hand.a.out.data + i * by_hand.a.out.stride, 16 * 4);
    k_norm.first_token = 1; /* one token more than the grid has */
    assert_int_equal(lx_kv_prepare_from(&x, LX_ATTENTION_INT8, &from, &bad, NULL), LX_EJOB);
    assert_int_equal(bad.n, -1);
    assert_int_equal(lx_kv_room(&x, 12, 16), 12 * 16 * sizeof(float));
    check_free_weight(&gain);
    free(values);
    destroy(&p), destroy(&by_hand);
    check_close(&x);
}

static void test_attention_refuses_keys_and_values_that_do_not_fit(void **state)
{
    (void)state;
    static const int64_t dims[4] = {4, 5, 2, 8};
    lx_exec x = check_open(1);
    problem p = make(CHECK_RANDOM, dims, 0, 0, 1.0f);
    const lx_mat k = p.kv->k, v = p.kv->v;
    lx_mat bad[] = {v, v, v, v, v, v};
    bad[0].rows = 4;
    bad[1].stride = 15;
    bad[2].cols = 8;
    bad[3].dtype = LX_DTYPE_BF16;
    bad[4].data = NULL;
    bad[5].rows = INT64_MAX;
    lx_kv kv = {.n = -1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_kv_prepare(&x, LX_ATTENTION_PLAIN, &k, &bad[i], 2, &kv, NULL), LX_EJOB);
    lx_mat none = k, huge = k;
    none.rows = 0;
    huge.cols = huge.stride = INT64_MAX;
    assert_int_equal(lx_kv_prepare(&x, LX_ATTENTION_PLAIN, &none, &none, 2, &kv, NULL), LX_EJOB);
    assert_int_equal(lx_kv_prepare(&x, LX_ATTENTION_PLAIN, &huge, &huge, 1, &kv, NULL), LX_EJOB);
    assert_int_equal(lx_kv_prepare(&x, LX_ATTENTION_PLAIN, &k, &v, 3, &kv, NULL), LX_EJOB);
    assert_int_equal(lx_kv_prepare(&x, LX_ATTENTION_PLAIN, &k, &v, 0, &kv, NULL), LX_EJOB);
    assert_int_equal(kv.n, -1); /* written on success only */
    destroy(&p);
    check_close(&x);
}

static void test_attention_refuses_what_does_not_fit(void **state)
{
    (void)state;
    static const int64_t dims[4] = {4, 5, 2, 8};
    lx_exec x = check_open(1);
    problem p = make(CHECK_RANDOM, dims, 0, 0, 1.0f);
    lx_attention_args a[] = {p.a, p.a, p.a, p.a, p.a, p.a};
    a[0].rel = p.rel; /* as many queries as keys are needed */
    a[1].out.rows = 3;
    a[2].q.stride = 15;
    a[3].q.cols = 8;
    a[4].out.dtype = LX_DTYPE_F16;
    a[5].q.cols = a[5].q.stride = INT64_MAX;
    for (size_t i = 0; i < sizeof a / sizeof *a; i++)
        assert_int_equal(lx_attention(&x, &a[i], NULL), LX_EJOB);
    attend(&x, &p);
    destroy(&p);
    check_close(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_definition),
        cmocka_unit_test(test_attention_over_shapes),
        cmocka_unit_test(test_attention_tells_the_log_of_the_sum),
        cmocka_unit_test(test_attention_over_inputs),
        cmocka_unit_test(test_attention_maximum_moves_between_tiles),
        cmocka_unit_test(test_attention_key_bias_stands_for_copies),
        cmocka_unit_test(test_attention_same_bits_for_any_thread_count),
        cmocka_unit_test(test_attention_scratch_does_not_grow),
        cmocka_unit_test(test_attention_prepares_float_keys),
        cmocka_unit_test(test_attention_takes_raw_queries_and_keys),
        cmocka_unit_test(test_attention_refuses_keys_and_values_that_do_not_fit),
        cmocka_unit_test(test_attention_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
