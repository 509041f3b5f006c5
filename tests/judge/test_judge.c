/*
 * test_judge.c - the judge is right about clips whose truth is known, and not easily pleased
 * SPDX-License-Identifier: Apache-2.0
 *
 * tests/golden/judge: clips of models/demo/train/judge_renderer.py --cover, coded as lx2v-mux does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "judge.h"

#define FOLDER   LX2V_SOURCE_DIR "/tests/golden/judge"
#define N_GOLDEN 28

typedef struct golden {
    judge_truth *truth;
    judge_verdict verdict[N_GOLDEN];
} golden;

static judge_clip read_golden(size_t i)
{
    char path[4096];
    lx_err err = {0};
    judge_clip clip = {0};
    snprintf(path, sizeof path, FOLDER "/%02zu.mp4", i);
    if (judge_clip_read(&clip, path, &err))
        fail_msg("%s", err.message);
    return clip;
}

static judge_verdict look(const judge_clip *clip)
{
    lx_err err = {0};
    judge_verdict verdict;
    if (judge_look(&verdict, clip, &err))
        fail_msg("%s", err.message);
    return verdict;
}

static int look_at_all(void **state)
{
    golden *g = calloc(1, sizeof *g);
    size_t n = 0;
    lx_err err = {0};
    assert_non_null(g);
    if (judge_truths_read(&g->truth, &n, FOLDER "/truths.jsonl", &err))
        fail_msg("%s", err.message);
    assert_int_equal(n, N_GOLDEN);
    for (size_t i = 0; i < N_GOLDEN; i++) {
        judge_clip clip = read_golden(i);
        g->verdict[i] = look(&clip);
        judge_clip_free(&clip);
    }
    *state = g;
    return 0;
}

static int let_go(void **state)
{
    golden *g = *state;
    free(g->truth);
    free(g);
    return 0;
}

/* --- right is right --------------------------------------------------------------------------- */

static void test_judge_is_right_about_every_golden_clip(void **state)
{
    const golden *g = *state;
    int wrong = 0;
    for (int i = 0; i < N_GOLDEN; i++) {
        judge_score s = judge_compare(&g->verdict[i], &g->truth[i]);
        const judge_verdict *v = &g->verdict[i];
        wrong += !s.all;
        if (!s.all)
            print_message(
                "clip %d: color %d background %d motion %d shape %d: seen %d, %s %s on %s "
                "(%s), %s\n",
                i, s.color, s.background, s.motion, s.shape, v->n_objects, v->object[0].color,
                v->object[0].shape, v->background[0], v->direction, v->motion);
    }
    assert_int_equal(wrong, 0);
}

static void test_judge_measures_extents(void **state)
{
    const golden *g = *state;
    for (int i = 0; i < N_GOLDEN; i++) {
        const judge_verdict *v = &g->verdict[i];
        const char *motion = g->truth[i].motion;
        if (!strcmp(motion, "right"))
            assert_true(v->dx > 0.3f && fabsf(v->dy) < 0.02f);
        if (!strcmp(motion, "up"))
            assert_true(v->dy < -0.3f && fabsf(v->dx) < 0.02f);
        if (!strcmp(motion, "grow"))
            assert_true(v->growth > 1.9f && v->growth < 3);
        if (!strcmp(motion, "shrink"))
            assert_true(v->growth < 0.53f && v->growth > 0.33f);
        if (!strcmp(motion, "spin"))
            assert_true(fabsf(v->turns) > 0.7f && fabsf(v->turns) < 1.3f);
        if (!strcmp(motion, "orbit"))
            assert_true(fabsf(v->turns) > 0.9f && fabsf(v->turns) < 1.3f);
        assert_true(v->flicker < 1);
    }
}

/* --- wrong is wrong --------------------------------------------------------------------------- */

static bool same_objects(const judge_truth *a, const judge_truth *b, size_t stride,
                         const char *first, const char *second)
{
    bool same = a->n_objects == b->n_objects;
    for (int i = 0; same && i < a->n_objects; i++)
        same = !strcmp(first + stride * (size_t)i, second + stride * (size_t)i);
    return same;
}

/* Every clip against every other's truth: right only in what both have. */
static void test_judge_calls_swapped_truths_wrong(void **state)
{
    const golden *g = *state;
    for (int i = 0; i < N_GOLDEN; i++)
        for (int j = 0; j < N_GOLDEN; j++) {
            const judge_truth *a = &g->truth[i], *b = &g->truth[j];
            if (a->n_objects == 2 && b->n_objects == 2)
                continue; /* one order of objects is as good as the other */
            judge_score s = judge_compare(&g->verdict[i], b);
            size_t word = sizeof a->color[0];
            assert_int_equal(s.color, same_objects(a, b, word, a->color[0], b->color[0]));
            assert_int_equal(s.shape, same_objects(a, b, word, a->shape[0], b->shape[0]));
            assert_int_equal(s.motion,
                             a->n_objects == b->n_objects && !strcmp(a->motion, b->motion));
            assert_int_equal(s.all, s.color && s.shape && s.motion && s.background);
            if (strcmp(a->direction, b->direction) || strcmp(a->background[0], b->background[0]))
                assert_false(s.background);
        }
}

static void test_judge_wants_the_relation_as_said(void **state)
{
    const golden *g = *state;
    int seen = 0;
    for (int i = 0; i < N_GOLDEN; i++) {
        judge_truth other = g->truth[i];
        if (other.n_objects != 2)
            continue;
        seen++;
        const char *is = other.relation, *not_so = !strcmp(is, "above")   ? "below"
                                                   : !strcmp(is, "below") ? "above"
                                                   : !strcmp(is, "left")  ? "right"
                                                                          : "left";
        snprintf(other.relation, sizeof other.relation, "%s", not_so);
        judge_score s = judge_compare(&g->verdict[i], &other);
        assert_true(s.color && s.shape && !s.motion && !s.all);
    }
    assert_true(seen >= 2);
}

/* Played backwards, what goes right goes left and what grows shrinks. */
static void test_judge_sees_time(void **state)
{
    const golden *g = *state;
    static const char *const back[][2] = {{"right", "left"},
                                          {"left", "right"},
                                          {"up", "down"},
                                          {"down", "up"},
                                          {"grow", "shrink"},
                                          {"shrink", "grow"},
                                          {"up_left", "down_right"},
                                          {"down_right", "up_left"},
                                          {"up_right", "down_left"},
                                          {"down_left", "up_right"}};
    for (size_t i = 0; i < N_GOLDEN; i++) {
        judge_clip clip = read_golden(i), turned = clip;
        size_t frame = (size_t)clip.width * (size_t)clip.height * 3, n = (size_t)clip.n_frames;
        const char *expected = g->truth[i].motion;
        turned.rgb = malloc(frame * n);
        assert_non_null(turned.rgb);
        for (size_t t = 0; t < n; t++)
            memcpy(turned.rgb + t * frame, clip.rgb + (n - 1 - t) * frame, frame);
        for (size_t k = 0; k < sizeof back / sizeof *back; k++)
            if (!strcmp(g->truth[i].motion, back[k][0]))
                expected = back[k][1];
        assert_string_equal(look(&turned).motion, expected);
        free(turned.rgb);
        judge_clip_free(&clip);
    }
}

/* --- nothing clear ---------------------------------------------------------------------------- */

static judge_clip blank(uint8_t r, uint8_t g, uint8_t b)
{
    judge_clip clip = {.width = 128, .height = 128, .n_frames = 33};
    size_t pixels = (size_t)128 * 128 * 33;
    clip.rgb = malloc(pixels * 3);
    assert_non_null(clip.rgb);
    for (size_t i = 0; i < pixels; i++) {
        clip.rgb[3 * i] = r;
        clip.rgb[3 * i + 1] = g;
        clip.rgb[3 * i + 2] = b;
    }
    return clip;
}

static void assert_nothing_right(const judge_clip *clip, const golden *g, bool background_too)
{
    judge_verdict v = look(clip);
    assert_string_equal(v.motion, JUDGE_UNCLEAR);
    if (background_too)
        assert_string_equal(v.direction, JUDGE_UNCLEAR);
    for (int i = 0; i < N_GOLDEN; i++) {
        judge_score s = judge_compare(&v, &g->truth[i]);
        assert_false(s.color || s.motion || s.shape || s.all);
    }
}

static void test_judge_calls_noise_unclear(void **state)
{
    judge_clip clip = blank(0, 0, 0);
    uint32_t lot = 1;
    for (size_t i = 0; i < (size_t)128 * 128 * 33 * 3; i++) {
        lot = lot * 1664525u + 1013904223u;
        clip.rgb[i] = (uint8_t)(lot >> 24);
    }
    assert_nothing_right(&clip, *state, true);
    judge_clip_free(&clip);
}

static void test_judge_sees_no_object_in_an_empty_picture(void **state)
{
    judge_clip clip = blank(20, 70, 230);
    judge_verdict v = look(&clip);
    assert_int_equal(v.n_objects, 0);
    assert_string_equal(v.background[0], "blue");
    assert_string_equal(v.direction, "plain");
    assert_nothing_right(&clip, *state, false);
    judge_clip_free(&clip);
}

static void fill(judge_clip *clip, int t, int x0, int y0, int side, const uint8_t rgb[3])
{
    for (int y = y0; y < y0 + side; y++)
        for (int x = x0; x < x0 + side; x++)
            memcpy(clip->rgb + (((size_t)t * 128 + (size_t)y) * 128 + (size_t)x) * 3, rgb, 3);
}

static void test_judge_calls_jumps_and_short_ways_unclear(void **state)
{
    static const uint8_t yellow[3] = {255, 230, 40};
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        judge_clip clip = blank(12, 12, 12);
        for (int t = 0; t < 33; t++) {
            const int x[3] = {10 + (t * 37) % 70,        /* here and there */
                              40 + t / 3,                /* hardly to the right */
                              t < 20 ? 10 + 3 * t : 10}; /* to the right, and gone again */
            if (kind < 2 || t < 20)
                fill(&clip, t, x[kind], 50, 30, yellow);
        }
        judge_verdict v = look(&clip);
        assert_string_equal(v.motion, JUDGE_UNCLEAR);
        assert_string_equal(v.object[0].shape, kind < 2 ? "square" : JUDGE_UNCLEAR);
        judge_clip_free(&clip);
    }
}

static void test_judge_calls_two_colors_unclear(void **state)
{
    static const uint8_t red[3] = {220, 20, 30}, orange[3] = {255, 135, 0};
    (void)state;
    judge_clip clip = blank(250, 250, 250);
    for (int t = 0; t < 33; t++) {
        fill(&clip, t, 40, 40, 40, red);
        fill(&clip, t, 40, 40, 20, orange);
        fill(&clip, t, 60, 40, 20, orange); /* now its upper half */
    }
    judge_verdict v = look(&clip);
    assert_int_equal(v.n_objects, 1);
    assert_string_equal(v.object[0].color, JUDGE_UNCLEAR);
    assert_string_equal(v.object[0].shape, "square");
    assert_string_equal(v.background[0], "white");
    judge_clip_free(&clip);
}

/* A square half of whose frames are circles is neither. */
static void test_judge_calls_changing_shapes_unclear(void **state)
{
    static const uint8_t white[3] = {250, 250, 250};
    (void)state;
    judge_clip clip = blank(150, 30, 175);
    for (int t = 0; t < 33; t++)
        if (t % 2)
            fill(&clip, t, 44, 44, 36, white);
        else
            for (int y = 0; y < 128; y++)
                for (int x = 0; x < 128; x++)
                    if ((x - 62) * (x - 62) + (y - 62) * (y - 62) < 20 * 20)
                        fill(&clip, t, x, y, 1, white);
    judge_verdict v = look(&clip);
    assert_string_equal(v.object[0].shape, JUDGE_UNCLEAR);
    assert_string_equal(v.object[0].color, "white");
    assert_string_equal(v.background[0], "purple");
    judge_clip_free(&clip);
}

/* --- files ------------------------------------------------------------------------------------ */

static void test_judge_refuses_what_is_no_clip(void **state)
{
    (void)state;
    judge_clip clip = {0};
    judge_truth *truths = NULL;
    size_t n = 0;
    lx_err err = {0};
    assert_int_equal(judge_clip_read(&clip, FOLDER "/truths.jsonl", &err), LX_ECONFIG);
    assert_int_equal(judge_clip_read(&clip, FOLDER "/none.mp4", &err), LX_ECONFIG);
    assert_null(clip.rgb);
    assert_int_equal(judge_truths_read(&truths, &n, FOLDER "/00.mp4", &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "00.mp4"));
    assert_null(truths);
    judge_clip size = {.width = 128, .height = 128, .n_frames = 33};
    assert_int_equal(judge_raw_count(FOLDER "/00.mp4", &size, &n, &err), LX_EJOB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_judge_is_right_about_every_golden_clip),
        cmocka_unit_test(test_judge_measures_extents),
        cmocka_unit_test(test_judge_calls_swapped_truths_wrong),
        cmocka_unit_test(test_judge_wants_the_relation_as_said),
        cmocka_unit_test(test_judge_sees_time),
        cmocka_unit_test(test_judge_calls_noise_unclear),
        cmocka_unit_test(test_judge_sees_no_object_in_an_empty_picture),
        cmocka_unit_test(test_judge_calls_jumps_and_short_ways_unclear),
        cmocka_unit_test(test_judge_calls_two_colors_unclear),
        cmocka_unit_test(test_judge_calls_changing_shapes_unclear),
        cmocka_unit_test(test_judge_refuses_what_is_no_clip),
    };
    return cmocka_run_group_tests(tests, look_at_all, let_go);
}
