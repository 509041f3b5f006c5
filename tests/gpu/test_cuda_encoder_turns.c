/*
 * test_cuda_encoder_turns.c - the encoder without its card memory for a while
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../stages/encoder_helpers.h"
#include "encoder.h"
#include "gpu.h"

#define N 100

static void encode(encoder *e, const int32_t *ids, int64_t n, float *out)
{
    encoder_context context;
    lx_err err = {0};
    gpu_must(encoder_encode(e, ids, n, &context, &err), &err);
    memcpy(out, context.rows, (size_t)(n * context.dim) * sizeof *out);
}

static void test_turns_change_no_bit(void **state)
{
    (void)state;
    lx_err err = {0};
    encoder *e = NULL;
    encoder_options options = {.weights = T5("int8"),
                               .device = gpu_device(),
                               .max_tokens = N,
                               .cache_entries = 1,
                               .is_deferred = true};
    int32_t ids[N], others[N];
    gpu_must(encoder_open(&e, &options, &err), &err);
    const int64_t dim = umt5_dims(encoder_model(e))->dim,
                  vocab = umt5_dims(encoder_model(e))->vocab;
    float *first = malloc((size_t)(N * dim) * sizeof *first);
    float *again = malloc((size_t)(N * dim) * sizeof *again);
    for (int i = 0; i < N; i++) {
        ids[i] = (int32_t)(i * 7 % vocab);
        others[i] = (int32_t)(i * 11 % vocab);
    }
    assert_true(encoder_planned_bytes(e) > 0);
    gpu_must(encoder_take(e, &err), &err);
    assert_int_equal(encoder_planned_bytes(e), encoder_arena_bytes(e));
    encode(e, ids, N, first);
    for (int turn = 0; turn < 3; turn++) {
        encoder_give(e);
        gpu_must(encoder_take(e, &err), &err);
        encode(e, others, N, again); /* puts the kept context out */
        encode(e, ids, N, again);
        assert_memory_equal(first, again, (size_t)(N * dim) * sizeof *first);
    }
    encoder_give(e);
    encode(e, ids, N, again); /* kept: needs no card */
    assert_memory_equal(first, again, (size_t)(N * dim) * sizeof *first);
    encoder_close(&e);
    free(first);
    free(again);
}

int main(void)
{
    gpu_skip_without_card();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_turns_change_no_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
