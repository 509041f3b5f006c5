/*
 * test_job.c - what a job may ask for
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lx_job.h"

static lx_job good_job(void)
{
    return (lx_job){.id = "a1-B_2",
                    .prompt = "a red ball",
                    .width = 832,
                    .height = 480,
                    .frames = 81,
                    .fps = 16,
                    .seed = 42,
                    .sampler = LX_SAMPLER_EULER,
                    .shift = 5,
                    .n_steps = 4,
                    .steps = {1000, 750, 500, 250},
                    .rng = "lx2v",
                    .output = "clip.mp4"};
}

/* The job is refused, and the message begins with the field's name. */
static void assert_refused(const lx_job *job, const char *field)
{
    lx_err err = {0};
    assert_int_equal(lx_job_check(job, &err), LX_EJOB);
    assert_int_equal(err.status, LX_EJOB);
    size_t n = strlen(field);
    if (strncmp(err.message, field, n) != 0 || err.message[n] != ':')
        fail_msg("expected a refusal of %s, got: %s", field, err.message);
}

static void test_job_latent_dims_of_the_known_sizes(void **state)
{
    (void)state;
    lx_job job = good_job();
    int64_t t, h, w;
    lx_job_latent_dims(&job, &t, &h, &w);
    assert_int_equal(t, 21);
    assert_int_equal(h, 60);
    assert_int_equal(w, 104);
    job.frames = 1;
    lx_job_latent_dims(&job, &t, &h, &w);
    assert_int_equal(t, 1);
}

static void test_job_size_names_two_nearest_values(void **state)
{
    (void)state;
    lx_err err = {0};
    assert_int_equal(lx_job_check_size(832, 480, 81, &err), LX_OK);
    assert_int_equal(lx_job_check_size(833, 480, 81, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "832 and 848"));
    assert_int_equal(lx_job_check_size(832, 479, 81, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "464 and 480"));
    assert_int_equal(lx_job_check_size(832, 480, 80, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "77 and 81"));
    assert_int_equal(lx_job_check_size(832, 480, 2, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "1 and 5"));
}

static void test_job_size_bounds(void **state)
{
    (void)state;
    assert_int_equal(lx_job_check_size(16, 16, 1, NULL), LX_OK);
    assert_int_equal(lx_job_check_size(LX_LIMIT_SIDE, 16, LX_LIMIT_FRAMES, NULL), LX_OK);
    const int64_t bad[][3] = {
        {0, 16, 1},  {-16, 16, 1}, {LX_LIMIT_SIDE + 16, 16, 1}, {16, INT64_MAX, 1},
        {16, 16, 0}, {16, 16, -3}, {16, 16, INT64_MIN},         {16, 16, LX_LIMIT_FRAMES + 4},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_job_check_size(bad[i][0], bad[i][1], bad[i][2], NULL), LX_EJOB);
}

static void test_job_output_names(void **state)
{
    (void)state;
    char longest[LX_LIMIT_NAME + 2];
    memset(longest, 'a', sizeof longest);
    longest[LX_LIMIT_NAME] = 0;
    assert_true(lx_job_output_name_ok("clip.mp4"));
    assert_true(lx_job_output_name_ok("A-1_b.PNG"));
    assert_true(lx_job_output_name_ok(longest));
    longest[LX_LIMIT_NAME] = 'a';
    longest[LX_LIMIT_NAME + 1] = 0;
    assert_false(lx_job_output_name_ok(longest));
    const char *bad[] = {"", ".", "..", ".clip", "-clip", "a/b", "../a", "a b", "a\n", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(lx_job_output_name_ok(bad[i]));
}

static void test_job_complete_job_is_accepted(void **state)
{
    (void)state;
    lx_job job = good_job();
    assert_int_equal(lx_job_check(&job, NULL), LX_OK);
    job.seed = LX_SEED_DRAW;
    assert_int_equal(lx_job_check(&job, NULL), LX_OK);
    job.seed = INT64_MAX;
    snprintf(job.prompt, sizeof job.prompt, "%s", "\xe7\x8c\xab \xf0\x9f\x90\x88 \x1b[31m");
    assert_int_equal(lx_job_check(&job, NULL), LX_OK);
    memset(job.prompt, 'p', LX_LIMIT_PROMPT);
    assert_int_equal(lx_job_check(&job, NULL), LX_OK);
}

static void test_job_refuses_bad_prompts(void **state)
{
    (void)state;
    const char *bad[] = {
        "",
        "\xff",             /* no UTF-8 at all */
        "ab\xc3",           /* cut character */
        "\xc0\x80",         /* overlong NUL */
        "\xed\xa0\x80",     /* surrogate */
        "\xf4\x90\x80\x80", /* above U+10FFFF */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lx_job job = good_job();
        snprintf(job.prompt, sizeof job.prompt, "%s", bad[i]);
        assert_refused(&job, "prompt");
    }
    lx_job job = good_job();
    memset(job.prompt, 'p', sizeof job.prompt); /* no end at all */
    assert_refused(&job, "prompt");
}

static void test_job_names_the_wrong_field(void **state)
{
    (void)state;
    lx_job job = good_job();
    job.id[0] = 0;
    assert_refused(&job, "id");
    job = good_job();
    job.id[0] = '/';
    assert_refused(&job, "id");
    job = good_job();
    job.output[0] = '.';
    assert_refused(&job, "output");
    job = good_job();
    job.width = 8;
    assert_refused(&job, "width");
    job = good_job();
    job.height = 1080;
    assert_refused(&job, "height");
    job = good_job();
    job.frames = 0;
    assert_refused(&job, "frames");
    job = good_job();
    job.seed = -2;
    assert_refused(&job, "seed");
    job = good_job();
    job.sampler = LX_SAMPLER_COUNT;
    assert_refused(&job, "sampler");
    job.sampler = -1;
    assert_refused(&job, "sampler");
}

static void test_job_refuses_numbers_out_of_range(void **state)
{
    (void)state;
    const double bad_fps[] = {0, -1, NAN, INFINITY, 1e9, 0.5};
    for (size_t i = 0; i < sizeof bad_fps / sizeof *bad_fps; i++) {
        lx_job job = good_job();
        job.fps = bad_fps[i];
        assert_refused(&job, "fps");
    }
    const double bad_shift[] = {0, -5, NAN, -INFINITY, 1000};
    for (size_t i = 0; i < sizeof bad_shift / sizeof *bad_shift; i++) {
        lx_job job = good_job();
        job.shift = bad_shift[i];
        assert_refused(&job, "shift");
    }
}

static void test_job_refuses_bad_step_lists(void **state)
{
    (void)state;
    const int32_t rising[] = {250, 500}, same[] = {500, 500}, high[] = {1001}, zero[] = {0};
    assert_int_equal(lx_job_check_steps(rising, 2, NULL), LX_EJOB);
    assert_int_equal(lx_job_check_steps(same, 2, NULL), LX_EJOB);
    assert_int_equal(lx_job_check_steps(high, 1, NULL), LX_EJOB);
    assert_int_equal(lx_job_check_steps(zero, 1, NULL), LX_EJOB);
    lx_job job = good_job();
    job.n_steps = 0;
    assert_refused(&job, "steps");
    job.n_steps = LX_LIMIT_STEPS + 1;
    assert_refused(&job, "steps");
    job.n_steps = INT32_MIN;
    assert_refused(&job, "steps");
    job = good_job();
    job.n_steps = 1;
    job.steps[0] = 1;
    assert_int_equal(lx_job_check(&job, NULL), LX_OK);
}

static void test_job_generators(void **state)
{
    (void)state;
    const char *good[] = {"lx2v", "torch-cpu", "torch-cuda:132x2048", "torch-cuda:rtx3060"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(lx_job_check_rng(good[i], NULL), LX_OK);
    const char *bad[] = {
        "",
        "LX2V",
        "torch",
        "torch-cuda",
        "torch-cuda:",
        "torch-cuda:0x5",
        "torch-cuda:132x",
        "torch-cuda:132x2048 ",
        "torch-cuda:99999999999x1",
        "torch-cuda:no-such-card",
        "lx2v0123456789012345678901234567890123456789012345678901234567890123456789"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(lx_job_check_rng(bad[i], NULL), LX_EJOB);
}

static void test_job_names_are_stable(void **state)
{
    (void)state;
    assert_string_equal(lx_stage_kind_name(LX_STAGE_ENCODER), "encoder");
    assert_string_equal(lx_stage_kind_name(LX_STAGE_MUX), "mux");
    assert_string_equal(lx_stage_kind_name(LX_STAGE_COUNT), "unknown");
    lx_sampler sampler;
    assert_true(lx_sampler_parse("lcm", &sampler));
    assert_int_equal(sampler, LX_SAMPLER_LCM);
    assert_string_equal(lx_sampler_name(sampler), "lcm");
    assert_false(lx_sampler_parse("LCM", &sampler));
    assert_false(lx_sampler_parse("", &sampler));
}

static void test_job_size_fits_either_way_up(void **state)
{
    (void)state;
    assert_true(lx_job_size_fits(480, 832, 832, 480));
    assert_true(lx_job_size_fits(832, 480, 832, 480));
    assert_true(lx_job_size_fits(16, 832, 832, 480));
    assert_false(lx_job_size_fits(496, 832, 832, 480));
    assert_false(lx_job_size_fits(848, 16, 832, 480));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_size_fits_either_way_up),
        cmocka_unit_test(test_job_names_are_stable),
        cmocka_unit_test(test_job_latent_dims_of_the_known_sizes),
        cmocka_unit_test(test_job_size_names_two_nearest_values),
        cmocka_unit_test(test_job_size_bounds),
        cmocka_unit_test(test_job_output_names),
        cmocka_unit_test(test_job_generators),
        cmocka_unit_test(test_job_refuses_bad_step_lists),
        cmocka_unit_test(test_job_refuses_numbers_out_of_range),
        cmocka_unit_test(test_job_refuses_bad_prompts),
        cmocka_unit_test(test_job_names_the_wrong_field),
        cmocka_unit_test(test_job_complete_job_is_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
