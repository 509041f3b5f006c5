/*
 * test_encoder_umt5.c - the context equals the reference's, in float32, int8 and fp8
 * SPDX-License-Identifier: Apache-2.0
 */
#include "encoder_golden.h"

static encoder *open_with(const char *weights, int n_threads, int64_t max_tokens, lx_run *run)
{
    encoder *e = NULL;
    lx_err err = {0};
    encoder_options options = {
        .weights = weights, .n_threads = n_threads, .max_tokens = max_tokens, .run = run};
    if (encoder_open(&e, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    return e;
}

static void test_float_context_equals_the_golden(void **state)
{
    (void)state;
    int32_t ids[N];
    golden_ids(ids);
    encoder *e = open_with(T5("bf16"), 2, 0, NULL);
    const size_t values = N * (size_t)umt5_dims(encoder_model(e))->dim;
    double distance = relative_l2(encode(e, ids, N), golden_data("t5.context"), values);
    print_message("context: %.2g\n", distance);
    assert_true(distance <= 1e-5); /* required: 1e-4 */
    encoder_close(&e);
}

static void check_quantized(const char *weights, const char *context, const char *first,
                            double first_limit)
{
    const golden_bars bars = {.first = first_limit, .of_quantized = 1.0, .of_float = 1.15};
    lx_run *run = run_of_first_linear();
    encoder *e = open_with(weights, 2, 0, run);
    compare_quantized(e, run, context, first, &bars);
    encoder_close(&e);
    end_run(run);
}

static void test_int8_context_is_within_its_noise(void **state)
{
    (void)state;
    check_quantized(T5("int8"), "t5.context_int8", "t5.dump.blocks.0.attn.q_int8", 2e-4);
}

static void test_fp8_context_is_within_its_noise(void **state)
{
    (void)state;
    check_quantized(T5("fp8"), "t5.context_fp8", "t5.dump.blocks.0.attn.q_fp8", 1e-3);
}

static void test_threads_and_repetition(void **state)
{
    (void)state;
    static const char *const weights[] = {T5("bf16"), T5("int8"), T5("fp8")};
    int32_t ids[N];
    golden_ids(ids);
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        encoder *one = open_with(weights[i], 1, 0, NULL), *two = open_with(weights[i], 2, 0, NULL);
        const size_t values = N * (size_t)umt5_dims(encoder_model(one))->dim;
        float *kept = malloc(values * sizeof *kept);
        memcpy(kept, encode(two, ids, N), values * sizeof *kept);
        assert_true(relative_l2(encode(one, ids, N), kept, values) <= 1e-6);
        encode(two, ids, 5); /* other work in between leaves no trace */
        assert_memory_equal(encode(two, ids, N), kept, values * sizeof *kept);
        free(kept);
        encoder_close(&one);
        encoder_close(&two);
    }
}

static void test_memory_is_what_was_planned(void **state)
{
    (void)state;
    int32_t ids[128];
    for (int i = 0; i < 128; i++)
        ids[i] = i;
    static const char *const weights[] = {T5("bf16"), T5("int8"), T5("fp8")};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        encoder *e = open_with(weights[i], 2, 128, NULL);
        encode(e, ids, 1);
        assert_true(encoder_arena_peak(e) < encoder_arena_bytes(e));
        encode(e, ids, 128);
        assert_int_equal(encoder_arena_peak(e), encoder_arena_bytes(e));
        encoder_context context;
        lx_err err = {0};
        assert_int_equal(encoder_encode(e, ids, 129, &context, &err), LX_EJOB);
        assert_int_equal(encoder_encode(e, ids, 0, &context, &err), LX_EJOB);
        encoder_close(&e);
    }
    encoder *e = NULL;
    lx_err err = {0};
    encoder_options options = {.weights = T5("bf16"), .n_threads = 1, .max_bytes = 1 << 16};
    assert_int_equal(encoder_open(&e, &options, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, "are allowed"));
}

static void test_dumps_have_the_layers_names_and_change_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int cols; /* 0: width of attention, 1: of the FFN, 2: of the model */
    } dumps[] = {
        {"token_embedding", 2},
        {"blocks.0.attn.q", 0},
        {"blocks.1.attn.k", 0},
        {"blocks.1.attn.v", 0},
        {"blocks.2.attn.o", 2},
        {"blocks.1.ffn.gate.0", 1},
        {"blocks.1.ffn.fc1", 1},
        {"blocks.1.ffn.fc2", 2},
        {"blocks.0", 2},
        {"blocks.2", 2},
        {"norm", 2},
    };
    int32_t ids[N];
    golden_ids(ids);
    lx_run *run = calloc(1, sizeof *run);
    run->n_dumps = sizeof dumps / sizeof *dumps;
    for (int i = 0; i < run->n_dumps; i++)
        strcpy(run->dump_names[i], dumps[i].name);
    encoder *plain = open_with(T5("int8"), 2, 0, NULL), *e = open_with(T5("int8"), 2, 0, run);
    const lx_t5_dims *d = umt5_dims(encoder_model(e));
    const float *rows = encode(e, ids, N);
    assert_memory_equal(rows, encode(plain, ids, N), N * (size_t)d->dim * sizeof *rows);
    const int64_t widths[] = {d->dim_attn, d->dim_ffn, d->dim};
    for (int i = 0; i < run->n_dumps; i++)
        assert_non_null(output(run, dumps[i].name, N, widths[dumps[i].cols]));
    assert_memory_equal(output(run, "norm", N, d->dim), rows, N * (size_t)d->dim * sizeof *rows);
    encoder_close(&plain);
    encoder_close(&e);
    end_run(run);
}

static void test_buckets_follow_the_table(void **state)
{
    (void)state;
    static const int first[] = {8, 12, 16, 23, 32, 46, 64, 91}; /* distances */
    for (int d = 0; d < 512; d++) {
        int bucket = d;
        for (int k = 0; k < 8 && d >= first[0]; k++)
            if (d >= first[k])
                bucket = 8 + k;
        assert_int_equal(umt5_bucket(-d, 32), bucket);
        if (d > 0)
            assert_int_equal(umt5_bucket(d, 32), 16 + bucket);
    }
}

static void test_ids_beyond_the_table_are_refused(void **state)
{
    (void)state;
    encoder *e = open_with(T5("bf16"), 1, 8, NULL);
    encoder_context context;
    lx_err err = {0};
    int32_t ids[] = {3, (int32_t)umt5_dims(encoder_model(e))->vocab};
    assert_int_equal(encoder_encode(e, ids, 2, &context, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "512"));
    ids[1] = -1;
    assert_int_equal(encoder_encode(e, ids, 2, &context, &err), LX_EJOB);
    encoder_close(&e);
}

/* Counts layers; stops after two. */
static lx_status stop_after_two(void *self, const char *unit, uint64_t done, uint64_t total,
                                lx_err *err)
{
    uint64_t *seen = self;
    if (strcmp(unit, "layer") != 0)
        return LX_OK;
    assert_int_equal(total, 3);
    assert_int_equal(done, ++*seen);
    return done == 2 ? lx_fail(err, LX_ECANCEL, "enough") : LX_OK;
}

static void test_cancel_is_heard_between_layers(void **state)
{
    (void)state;
    uint64_t seen = 0;
    lx_progress progress = {.step = stop_after_two, .self = &seen};
    encoder_options options = {.weights = T5("bf16"), .max_tokens = 8, .progress = &progress};
    encoder *e = NULL;
    encoder_context context;
    lx_err err = {0};
    int32_t ids[] = {5, 1};
    assert_int_equal(encoder_open(&e, &options, &err), LX_OK);
    assert_int_equal(encoder_encode(e, ids, 2, &context, &err), LX_ECANCEL);
    assert_int_equal(seen, 2);
    encoder_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buckets_follow_the_table),
        cmocka_unit_test(test_float_context_equals_the_golden),
        cmocka_unit_test(test_int8_context_is_within_its_noise),
        cmocka_unit_test(test_fp8_context_is_within_its_noise),
        cmocka_unit_test(test_threads_and_repetition),
        cmocka_unit_test(test_memory_is_what_was_planned),
        cmocka_unit_test(test_dumps_have_the_layers_names_and_change_nothing),
        cmocka_unit_test(test_ids_beyond_the_table_are_refused),
        cmocka_unit_test(test_cancel_is_heard_between_layers),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
