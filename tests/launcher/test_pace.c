/*
 * test_pace.c - slow is not hung, hung is found
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "pace.h"

static const double hang_s = 60;

static pace_guess guessed(double slowest_s)
{
    return (pace_guess){.slowest_s = slowest_s};
}

static void test_pace_floor_holds_without_history(void **state)
{
    (void)state;
    pace p = {0};
    assert_true(pace_limit_s(&p, hang_s, guessed(0), 100) == hang_s);
    for (int i = 0; i < 40; i++)
        pace_note(&p, 0.01, 100);
    assert_true(pace_limit_s(&p, hang_s, guessed(0), 100) ==
                hang_s); /* fast units do not lower it */
}

static void test_pace_slow_machine_gets_more(void **state)
{
    (void)state;
    pace p = {0};
    for (int i = 0; i < PACE_UNITS; i++)
        pace_note(&p, i == 3 ? 900 : 30, 100); /* one outlier does not count: the median does */
    assert_true(pace_limit_s(&p, hang_s, guessed(0), 100) == 240);
    assert_true(pace_limit_s(&p, hang_s, guessed(1e6), 100) == 240); /* measured beats guessed */
}

static void test_pace_larger_clip_gets_more(void **state)
{
    (void)state;
    pace p = {0};
    for (int i = 0; i < PACE_UNITS; i++)
        pace_note(&p, 10, 100);
    assert_true(pace_limit_s(&p, hang_s, guessed(0), 300) ==
                8 * 10 * 9);                                     /* attention: square of tokens */
    assert_true(pace_limit_s(&p, hang_s, guessed(0), 50) == 80); /* a smaller one: not less */
}

/* 832x480x81 with the 14B in INT8 on a machine of 50 GFLOP/s: a block is about 45 TFLOP, 15 min. */
static void test_pace_first_unit_of_the_real_model(void **state)
{
    (void)state;
    lx_job job = {.width = 832, .height = 480, .frames = 81, .n_steps = 4};
    pace p = {0};
    double work = pace_work(LX_STAGE_DIT, &job);
    assert_true(work == 21.0 * 60 * 104);
    double predicted = pace_predicted_s(LX_STAGE_DIT, &job, UINT64_C(14000000000), 40, 1);
    assert_true(pace_limit_s(&p, hang_s, guessed(predicted), work) > 900);
    assert_true(pace_limit_s(&p, hang_s, guessed(predicted), work) <
                6 * 3600); /* and yet it is bounded */
    /* UMT5-XXL on 512 tokens, INT8: 0.25 TFLOP a layer; the VAE: 12 TFLOP a latent frame. */
    predicted = pace_predicted_s(LX_STAGE_ENCODER, &job, UINT64_C(5700000000), 24, 1);
    assert_true(predicted > 5 && predicted < 100);
    predicted = pace_predicted_s(LX_STAGE_VAE, &job, UINT64_C(292000000), 0, 1);
    assert_true(predicted > 240 && predicted < 3600);
    /* A model for tests: nothing to wait for. */
    assert_true(pace_predicted_s(LX_STAGE_DIT, &job, 1000000, 0, 1) < 5);
    assert_true(pace_predicted_s(LX_STAGE_MUX, &job, 0, 0, 1) == 0);
}

/* What the plan says of this card holds beside what was measured on it. */
static void test_pace_planned_unit_counts_also_when_measured(void **state)
{
    (void)state;
    pace p = {0};
    pace_guess guess = {.planned_s = 10, .slowest_s = 2000, .is_card = true};
    assert_true(pace_limit_s(&p, hang_s, guess, 100) == 160); /* 2000 s / 100, before a median */
    for (int i = 0; i < PACE_UNITS; i++)
        pace_note(&p, 0.1, 100);
    assert_true(pace_limit_s(&p, hang_s, guess, 100) == 80); /* the largest of 60, 80 and 0.8 */
    for (int i = 0; i < PACE_UNITS; i++)
        pace_note(&p, 30, 100);
    assert_true(pace_limit_s(&p, hang_s, guess, 100) == 240);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pace_planned_unit_counts_also_when_measured),
        cmocka_unit_test(test_pace_floor_holds_without_history),
        cmocka_unit_test(test_pace_slow_machine_gets_more),
        cmocka_unit_test(test_pace_larger_clip_gets_more),
        cmocka_unit_test(test_pace_first_unit_of_the_real_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
