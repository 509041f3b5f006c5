/*
 * test_plan_words.c - questions and answers of `lx2v-STAGE plan`
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lx_config.h"
#include "lx_plan.h"

#define KIND "NVIDIA GeForce RTX 3060;cc=8.6;sm=28;shared=101376;vram=12616466432"

static lx_status ask(lx_plan_question *q, const char *line, lx_err *err)
{
    static char text[1024];
    char *argv[32], *rest = NULL;
    int argc = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok_r(text, "|", &rest); word; word = strtok_r(NULL, "|", &rest))
        argv[argc++] = word;
    return lx_plan_ask(q, argc, argv, err);
}

static void test_question_with_everything(void **state)
{
    (void)state;
    lx_plan_question q;
    lx_err err = {0};
    if (ask(&q,
            "--config|c.yaml|--replica|3|--kind|" KIND
            "|--vram|123|--ram|456|--size|1280x720|--frames|49",
            &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_true(q.is_card && q.replica == 3 && q.vram == 123 && q.ram == 456);
    assert_true(q.width == 1280 && q.height == 720 && q.frames == 49);
    assert_true(q.kind.major == 8 && q.kind.minor == 6 && q.kind.n_sm == 28);
    assert_true(q.kind.shared_bytes == 101376 && q.kind.total_bytes == 12616466432);
    char text[192];
    lx_plan_kind_text(&q, text, sizeof text);
    assert_string_equal(text, KIND);
    static lx_config config;
    config.limits.width = 832;
    config.limits.height = 480;
    config.limits.frames = 81;
    lx_plan_apply(&q, &config);
    assert_true(config.limits.width == 1280 && config.limits.frames == 49);
    lx_plan_apply(&(lx_plan_question){0}, &config); /* nothing asked, nothing changed */
    assert_true(config.limits.height == 720 && config.limits.frames == 49);
}

static void test_questions_that_are_refused(void **state)
{
    (void)state;
    const char *const bad[] = {"",
                               "--config",
                               "--vram|1",
                               "--config|c|--vram|much",
                               "--config|c|--vram|-1",
                               "--config|c|--replica|99999",
                               "--config|c|--size|833x480",
                               "--config|c|--size|832",
                               "--config|c|--frames|80",
                               "--config|c|--frames|99999",
                               "--config|c|--kind|card",
                               "--config|c|--kind|card;cc=8;sm=1;shared=1;vram=1",
                               "--config|c|--kind|card;cc=8.6;sm=x;shared=1;vram=1",
                               "--config|c|--kind|card;cc=8.6;shared=1;vram=1",
                               "--config|c|--residency|resident",
                               "--config|c|--speed|5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lx_plan_question q;
        lx_err err = {0};
        if (ask(&q, bad[i], &err) != LX_ECONFIG || err.status != LX_ECONFIG)
            fail_msg("\"%s\" was not refused: %s", bad[i], err.message);
    }
}

static lx_plan_need sample(void)
{
    lx_plan_need need = {.stage = "dit",
                         .how = "partial: 12 of 40 blocks resident",
                         .fits = true,
                         .advice = "a \"quoted\" word",
                         .weights = 1,
                         .slots = 2,
                         .activations = 3,
                         .context = 4,
                         .device = UINT64_C(15032385536),
                         .least = 6,
                         .host_weights = 7,
                         .host = 8,
                         .pinned = 9,
                         .shared = 10,
                         .stream_bytes = 11,
                         .disk_bytes = 12,
                         .ops8 = UINT64_C(1222800703488000),
                         .ops16 = 14,
                         .attention8 = 15,
                         .attention16 = 16,
                         .short16 = 17,
                         .row_bytes = 18,
                         .n_choices = 2};
    need.choice[0] = (lx_plan_choice){.what = "resident", .device = 1, .host = 2, .fits = false};
    need.choice[1] = (lx_plan_choice){.what = "host", .stream = 3, .disk = 4, .fits = true};
    return need;
}

/* An answer as text; valid until the next. */
static const char *said(const lx_plan_need *need)
{
    static char text[8192];
    lx_err err = {0};
    FILE *out = fmemopen(text, sizeof text, "w");
    assert_non_null(out);
    assert_int_equal(lx_plan_say(need, out, &err), LX_OK);
    fclose(out);
    return text;
}

static void test_answer_comes_back_as_it_was(void **state)
{
    (void)state;
    lx_plan_need in = sample(), out;
    lx_err err = {0};
    const char *text = said(&in);
    if (lx_plan_hear(&out, text, strlen(text), &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_string_equal(out.stage, in.stage);
    assert_string_equal(out.how, in.how);
    assert_string_equal(out.advice, in.advice);
    assert_true(out.fits && out.device == in.device && out.ops8 == in.ops8 && out.ops16 == 14);
    assert_true(out.attention8 == 15 && out.attention16 == 16);
    assert_true(out.short16 == 17 && out.row_bytes == 18);
    assert_true(out.stream_bytes == 11 && out.disk_bytes == 12 && out.shared == 10);
    assert_true(out.n_choices == 2 && out.choice[1].stream == 3 && out.choice[1].disk == 4);
    assert_true(!out.choice[0].fits && out.choice[1].fits);
}

/* Every cut, and every number made a word or negative, is refused; nothing is read beyond. */
static void test_answers_that_are_refused(void **state)
{
    (void)state;
    lx_plan_need in = sample(), out;
    const char *text = said(&in);
    size_t n = strlen(text);
    for (size_t cut = 0; cut + 2 < n; cut++) {
        char *exact = malloc(cut + 1);
        memcpy(exact, text, cut);
        assert_int_equal(lx_plan_hear(&out, exact, cut, NULL), LX_EJOB);
        free(exact);
    }
    const char *const fields[] = {"\"device\":15032385536", "\"least\":6",
                                  "\"ops8\":1222800703488000", "\"fits\":true",
                                  "\"stage\":\"dit\""};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        char wrong[4096];
        const char *at = strstr(text, fields[i]);
        assert_non_null(at);
        size_t colon = strcspn(at, ":");
        snprintf(wrong, sizeof wrong, "%.*s:-1%s", (int)((size_t)(at - text) + colon), text,
                 at + strlen(fields[i]));
        lx_err err = {0};
        assert_int_equal(lx_plan_hear(&out, wrong, strlen(wrong), &err), LX_EJOB);
        assert_true(strlen(err.message) > 0);
    }
    assert_int_equal(lx_plan_hear(&out, "[]", 2, NULL), LX_EJOB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_question_with_everything),
        cmocka_unit_test(test_questions_that_are_refused),
        cmocka_unit_test(test_answer_comes_back_as_it_was),
        cmocka_unit_test(test_answers_that_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
