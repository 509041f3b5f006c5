/*
 * test_encoder_cache.c - a prompt seen before costs nothing and gives the same bits
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cache.h"
#include "encoder.h"
#include "encoder_helpers.h"

#define DIM    4
#define TOKENS 6
#define ID_A   "00000000000000aa"
#define ID_B   "00000000000000ab"

static void put(encoder_cache *cache, const char *weights, int32_t first, int64_t n)
{
    int32_t ids[TOKENS] = {0};
    float context[TOKENS * DIM] = {0};
    for (int64_t i = 0; i < n; i++)
        ids[i] = first + (int32_t)i;
    for (int64_t i = 0; i < n * DIM; i++)
        context[i] = (float)(first * 100 + i);
    encoder_cache_put(cache, weights, ids, n, context);
}

static bool has(encoder_cache *cache, const char *weights, int32_t first, int64_t n)
{
    int32_t ids[TOKENS] = {0};
    for (int64_t i = 0; i < n; i++)
        ids[i] = first + (int32_t)i;
    const float *context = encoder_cache_get(cache, weights, ids, n);
    for (int64_t i = 0; context && i < n * DIM; i++)
        assert_true(context[i] == (float)(first * 100 + i));
    return context != NULL;
}

static void test_the_key_is_all_ids_and_the_checkpoint(void **state)
{
    (void)state;
    lx_arena *arena = NULL;
    lx_err err = {0};
    encoder_cache cache;
    assert_int_equal(lx_arena_create(&arena, 1 << 16, &err), LX_OK);
    assert_int_equal(encoder_cache_open(&cache, arena, 2, TOKENS, DIM, &err), LX_OK);
    assert_false(has(&cache, ID_A, 1, 3));
    put(&cache, ID_A, 1, 3);
    assert_true(has(&cache, ID_A, 1, 3));
    assert_false(has(&cache, ID_A, 1, 2)); /* a beginning is another prompt */
    assert_false(has(&cache, ID_A, 2, 3));
    assert_false(has(&cache, ID_B, 1, 3));
    put(&cache, ID_A, 10, TOKENS);
    assert_true(has(&cache, ID_A, 1, 3)); /* so 10.. was not used for longest */
    put(&cache, ID_B, 1, 3);
    assert_false(has(&cache, ID_A, 10, TOKENS));
    assert_true(has(&cache, ID_A, 1, 3));
    assert_true(has(&cache, ID_B, 1, 3));
    lx_arena_destroy(&arena);
}

static void test_no_entries_is_off(void **state)
{
    (void)state;
    lx_arena *arena = NULL;
    lx_err err = {0};
    encoder_cache cache;
    assert_int_equal(lx_arena_create(&arena, 64, &err), LX_OK);
    assert_int_equal(encoder_cache_open(&cache, arena, 0, TOKENS, DIM, &err), LX_OK);
    put(&cache, ID_A, 1, 3);
    assert_false(has(&cache, ID_A, 1, 3));
    lx_arena_destroy(&arena);
}

static void test_the_encoder_uses_it(void **state)
{
    (void)state;
    encoder *e = NULL;
    encoder_context context;
    lx_err err = {0};
    const int32_t ids[] = {5, 6, 7, 1}, other[] = {5, 6, 8, 1};
    encoder_options options = {.weights = T5("bf16"), .max_tokens = 16, .cache_entries = 1};
    assert_int_equal(encoder_open(&e, &options, &err), LX_OK);
    const size_t bytes = 4 * (size_t)umt5_dims(encoder_model(e))->dim * sizeof(float);
    float *first = malloc(bytes);
    assert_int_equal(encoder_encode(e, ids, 4, &context, &err), LX_OK);
    assert_false(context.was_cached);
    memcpy(first, context.rows, bytes);
    assert_int_equal(encoder_encode(e, ids, 4, &context, &err), LX_OK);
    assert_true(context.was_cached);
    assert_memory_equal(context.rows, first, bytes);
    assert_int_equal(encoder_encode(e, other, 4, &context, &err), LX_OK);
    assert_false(context.was_cached);
    assert_memory_not_equal(context.rows, first, bytes);
    assert_int_equal(encoder_encode(e, ids, 4, &context, &err), LX_OK);
    assert_false(context.was_cached); /* one entry: the other prompt took it */
    assert_memory_equal(context.rows, first, bytes);
    free(first);
    encoder_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_key_is_all_ids_and_the_checkpoint),
        cmocka_unit_test(test_no_entries_is_off),
        cmocka_unit_test(test_the_encoder_uses_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
