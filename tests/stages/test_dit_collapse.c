/*
 * test_dit_collapse.c - what must not change the numbers: collapsed padding, chunks, threads, runs
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_helpers.h"

typedef struct outcome {
    float *latent, *velocity;
} outcome;

static const lx_patch_dims DIMS = {16, 2, 10, 6}; /* 30 tokens */

static outcome run_with(const store *s, dit_options options, int64_t n_context, int n_threads)
{
    bench b;
    outcome o;
    bench_open_store(&b, s, &options, &DIMS, n_threads);
    float *context = normals(1, (size_t)(n_context * s->text));
    float *latent = normals(2, latent_size(&DIMS));
    bench_run(&b, &DIMS, context, n_context, latent, &o.latent, &o.velocity);
    free(context), free(latent);
    bench_close(&b);
    return o;
}

static void outcome_free(outcome *o)
{
    free(o->latent), free(o->velocity);
}

static void expect_close(const outcome *a, const outcome *b, double limit)
{
    size_t n = latent_size(&DIMS);
    double latent = rel_l2(a->latent, b->latent, n), first = rel_l2(a->velocity, b->velocity, n);
    if (!(latent <= limit) || !(first <= limit))
        fail_msg("latent %g, first velocity %g, allowed %g", latent, first, limit);
}

static void test_collapsed_padding_equals_all_of_it(void **state)
{
    store *s = *state;
    const int64_t rows[] = {1, 7, 63, 64}; /* of 64: almost all padding, one row of it, none */
    for (int i = 0; i < 4; i++) {
        outcome one = run_with(s, (dit_options){.text_len = 64}, rows[i], 1);
        outcome all =
            run_with(s, (dit_options){.text_len = 64, .is_uncollapsed = true}, rows[i], 1);
        expect_close(&one, &all, 2e-6);
        outcome_free(&one), outcome_free(&all);
    }
}

/* The padding is not masked: its rows are keys, and their number matters. */
static void test_padding_takes_part(void **state)
{
    store *s = *state;
    size_t n = latent_size(&DIMS);
    outcome a = run_with(s, (dit_options){.text_len = 64}, 7, 1);
    outcome b = run_with(s, (dit_options){.text_len = 512}, 7, 1);
    outcome c = run_with(s, (dit_options){.text_len = 7}, 7, 1);
    assert_true(rel_l2(a.velocity, b.velocity, n) > 1e-3);
    assert_true(rel_l2(a.velocity, c.velocity, n) > 1e-3);
    outcome_free(&a), outcome_free(&b), outcome_free(&c);
}

static void test_chunks_change_nothing(void **state)
{
    store *s = *state;
    outcome whole = run_with(s, (dit_options){.text_len = 64}, 7, 1);
    const int64_t chunks[] = {1, 7, 29, 30};
    for (int i = 0; i < 4; i++) {
        outcome o = run_with(s, (dit_options){.text_len = 64, .chunk = chunks[i]}, 7, 1);
        expect_close(&o, &whole, 1e-6);
        outcome_free(&o);
    }
    outcome_free(&whole);
}

static void test_threads_change_nothing_and_runs_repeat(void **state)
{
    store *s = *state;
    size_t bytes = latent_size(&DIMS) * sizeof(float);
    outcome one = run_with(s, (dit_options){.text_len = 64}, 7, 1);
    outcome two = run_with(s, (dit_options){.text_len = 64}, 7, 2);
    outcome again = run_with(s, (dit_options){.text_len = 64}, 7, 2);
    expect_close(&one, &two, 1e-6);
    assert_memory_equal(two.latent, again.latent, bytes);
    assert_memory_equal(two.velocity, again.velocity, 4 * bytes);
    outcome_free(&one), outcome_free(&two), outcome_free(&again);
}

/* A job between two equal ones, longer and of another size, leaves no trace; and the plan for the
 * largest clip holds for every smaller one. */
static void test_jobs_leave_no_trace(void **state)
{
    store *s = *state;
    const lx_patch_dims small = {16, 1, 6, 10};
    const int64_t rows[] = {3, 31, 32, 1};
    bench b;
    float *first[4], *second[4], *velocity;
    bench_open_store(&b, s, &(dit_options){.text_len = 32}, &DIMS, 1);
    float *context = normals(1, (size_t)(32 * s->text)), *latent = normals(2, latent_size(&DIMS));
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 4; i++) {
            const lx_patch_dims *d = i % 2 ? &DIMS : &small;
            bench_run(&b, d, context, rows[i], latent, pass ? &second[i] : &first[i], &velocity);
            free(velocity);
            assert_int_equal(lx_arena_mark(dit_engine_exec(b.engine)->arena), 0);
        }
    for (int i = 0; i < 4; i++) {
        assert_memory_equal(first[i], second[i],
                            latent_size(i % 2 ? &DIMS : &small) * sizeof(float));
        free(first[i]), free(second[i]);
    }
    free(context), free(latent);
    bench_close(&b);
}

/* What a schedule's timesteps make is kept for the next clip: only for the same timesteps, and it
 * is the same as in an engine that has just been opened. */
static void test_schedules_come_and_go(void **state)
{
    enum { A, B, SHORT, N_SCHEDULES };
    static const int32_t labels[N_SCHEDULES][4] = {
        {1000, 750, 500, 250}, {1000, 750, 500, 249}, {1000, 750, 500}};
    static const int order[] = {A, A, B, SHORT, A, SHORT, SHORT, B};
    store *s = *state;
    lx_err err = {0};
    const size_t n = latent_size(&DIMS);
    float *fresh[N_SCHEDULES], *velocity, *out;
    dit_schedule schedule[N_SCHEDULES];
    float *context = normals(1, (size_t)(3 * s->text)), *latent = normals(2, n);
    const dit_options options = {.text_len = 32};
    bench b;
    for (int i = 0; i < N_SCHEDULES; i++) {
        assert_int_equal(dit_schedule_make(&schedule[i], labels[i], i == SHORT ? 3 : 4, 5, &err),
                         LX_OK);
        bench_open_store(&b, s, &options, &DIMS, 1);
        bench_run_at(&b, &schedule[i], &DIMS, context, 3, latent, &fresh[i], &velocity);
        free(velocity);
        bench_close(&b);
    }
    assert_memory_not_equal(fresh[A], fresh[B], n * sizeof(float));
    bench_open_store(&b, s, &options, &DIMS, 1);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        bench_run_at(&b, &schedule[order[i]], &DIMS, context, 3, latent, &out, &velocity);
        assert_memory_equal(out, fresh[order[i]], n * sizeof(float));
        free(out), free(velocity);
    }
    bench_close(&b);
    for (int i = 0; i < N_SCHEDULES; i++)
        free(fresh[i]);
    free(context), free(latent);
}

static int setup(void **state)
{
    return store_begin(state, 328, 96);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_collapsed_padding_equals_all_of_it),
        cmocka_unit_test(test_padding_takes_part),
        cmocka_unit_test(test_chunks_change_nothing),
        cmocka_unit_test(test_threads_change_nothing_and_runs_repeat),
        cmocka_unit_test(test_jobs_leave_no_trace),
        cmocka_unit_test(test_schedules_come_and_go),
    };
    return cmocka_run_group_tests(tests, setup, store_end);
}
