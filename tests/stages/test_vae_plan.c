/*
 * test_vae_plan.c - what decoding needs at least, on the CPU and on cards that are not here
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_process.h"
#include "vae_fixture.h"

#define WEIGHTS LX2V_BUILD_DIR "/test_vae_plan.safetensors"

static lx_weights *weights;
static const lx_card_kind card = {.index = -1,
                                  .name = "RTX 3060",
                                  .major = 8,
                                  .minor = 6,
                                  .n_sm = 28,
                                  .shared_bytes = 101376,
                                  .total_bytes = (uint64_t)12 << 30};

/* As the stage asks. */
static vae_options options_of(int64_t frames, int64_t height, int64_t width)
{
    return (vae_options){
        .largest = {.frames = frames, .height = height, .width = width, .chunk = 1},
        .threads = 1,
        .turns = true,
        .lends = true,
        .budget_has_weights = true};
}

static vae_plan least_of(const vae_options *o, const lx_card_kind *kind)
{
    vae_plan least;
    lx_err err = {0};
    if (vae_plan_least(weights, o, kind, &least, &err) != LX_OK)
        fail_msg("%s", err.message);
    return least;
}

/* The least is enough, and a byte less is refused with the same number. */
static void check_border(vae_options *o, const lx_card_kind *kind)
{
    vae_plan least = least_of(o, kind), plan;
    lx_err err = {0};
    char text[24];
    o->budget = least.total_bytes;
    if (vae_plan_memory(weights, o, kind, &plan, &err) != LX_OK)
        fail_msg("the least, %llu bytes: %s", (unsigned long long)least.total_bytes, err.message);
    assert_true(plan.total_bytes <= least.total_bytes);
    o->budget = least.total_bytes - 1;
    assert_int_equal(vae_plan_memory(weights, o, kind, &plan, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, lx_bytes_text(least.total_bytes, text, sizeof text)));
    o->budget = 1;
    assert_int_equal(vae_plan_memory(weights, o, kind, &plan, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, text));
}

static void test_least_is_the_border(void **state)
{
    (void)state;
    const int64_t sizes[][3] = {{5, 8, 8},   {9, 16, 18},   {3, 36, 64},
                                {21, 30, 9}, {200, 16, 16}, {300, 12, 24}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        vae_options o = options_of(sizes[i][0], sizes[i][1], sizes[i][2]);
        check_border(&o, &card);
        check_border(&o, NULL);
    }
}

/* With tiles all frames of a clip are kept, so a long one needs least without. */
static void test_least_of_a_long_clip_is_without_tiles(void **state)
{
    (void)state;
    vae_options o = options_of(400, 16, 16), tiled = options_of(400, 16, 16);
    vae_plan least = least_of(&o, &card);
    assert_int_equal(least.tile_h, 0);
    tiled.largest.tile_h = tiled.largest.tile_w = 8;
    vae_plan other = least_of(&tiled, &card);
    assert_int_equal(other.tile_h, 8);
    assert_true(least.total_bytes < other.total_bytes);
    /* And a short, large one with them. */
    o = options_of(2, 48, 64);
    least = least_of(&o, &card);
    assert_true(least.tile_h > 0 && least.tile_w > 0);
}

/* A tile that the config forces is kept. */
static void test_least_keeps_a_forced_tile(void **state)
{
    (void)state;
    vae_options o = options_of(5, 30, 40);
    o.largest.tile_h = 20;
    o.largest.tile_w = 16;
    vae_plan least = least_of(&o, &card);
    assert_true(least.tile_h == 20 && least.tile_w == 16 && least.piece == 1);
    check_border(&o, &card);
}

/* Sums take no memory, so a plan is the same with both; on the CPU there is no choice. */
static void test_sums_follow_the_card(void **state)
{
    (void)state;
    lx_card_kind hopper = card, held = card;
    hopper.major = 9;
    hopper.minor = 0;
    held.is_from = 90;
    const struct {
        const lx_card_kind *kind;
        lx_accumulate_choice asked;
        lx_sums sums;
    } all[] = {
        {&card, LX_ACCUMULATE_AUTO, LX_SUMS_F16},   {&card, LX_ACCUMULATE_FP32, LX_SUMS_F32},
        {&hopper, LX_ACCUMULATE_AUTO, LX_SUMS_F32}, {&hopper, LX_ACCUMULATE_FP16, LX_SUMS_F16},
        {&held, LX_ACCUMULATE_AUTO, LX_SUMS_F32},   {NULL, LX_ACCUMULATE_AUTO, LX_SUMS_F32},
        {NULL, LX_ACCUMULATE_FP32, LX_SUMS_F32}};
    vae_options o = options_of(5, 8, 8);
    lx_err err = {0};
    vae_plan plan;
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        o.accumulate = all[i].asked;
        plan = least_of(&o, all[i].kind);
        assert_int_equal(plan.sums, all[i].sums);
        bytes = all[i].kind == &card && !bytes ? plan.total_bytes : bytes;
        assert_true(all[i].kind != &card || plan.total_bytes == bytes);
    }
    o.accumulate = LX_ACCUMULATE_FP16;
    assert_int_equal(vae_plan_least(weights, &o, NULL, &plan, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "accumulate: fp16 is for a card"));
}

static int setup(void **state)
{
    (void)state;
    lx_err err = {0};
    lx_weights_options reading = {.wants = lx_catalog_vae_wants, .headers_only = true};
    fixture_write(WEIGHTS, 4, false);
    if (lx_weights_open(&weights, WEIGHTS, &reading, &err) != LX_OK)
        fail_msg("%s", err.message);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lx_weights_close(&weights);
    unlink(WEIGHTS);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least_is_the_border),
        cmocka_unit_test(test_least_of_a_long_clip_is_without_tiles),
        cmocka_unit_test(test_least_keeps_a_forced_tile),
        cmocka_unit_test(test_sums_follow_the_card),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
