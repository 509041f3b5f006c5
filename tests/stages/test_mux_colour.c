/*
 * test_mux_colour.c - libswscale does BT.709, limited range, left-sited chroma
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_helpers.h"

#include "mux_colour.h"

enum { W = 64, H = 32 };

static void to_i420(uint8_t rgb[3][W * H], uint8_t *i420)
{
    mux_colour *c = NULL;
    lx_err err = {0};
    assert_int_equal(mux_colour_open(&c, MUX_RGB_TO_I420, W, H, &err), LX_OK);
    assert_int_equal(mux_colour_to_i420(c, rgb[0], rgb[1], rgb[2], i420, &err), LX_OK);
    mux_colour_close(&c);
    assert_null(c);
}

static void assert_near(int value, int expected, int by)
{
    if (abs(value - expected) > by)
        fail_msg("%d is not within %d of %d", value, by, expected);
}

static void test_colour_flat_fields_match_the_definition(void **state)
{
    (void)state;
    static uint8_t rgb[3][W * H], i420[W * H * 3 / 2];
    for (int n = 0; n < 16; n++) {
        for (int p = 0; p < 3; p++)
            memset(rgb[p], bars[n][p], W * H);
        to_i420(rgb, i420);
        int yuv[3];
        bt709(bars[n], yuv);
        for (int i = 0; i < W * H; i++)
            assert_near(i420[i], yuv[0], 1);
        for (int i = 0; i < W * H / 4; i++) {
            assert_near(i420[W * H + i], yuv[1], 1);
            assert_near(i420[W * H * 5 / 4 + i], yuv[2], 1);
        }
    }
    /* BT.601 would make red 81 90 240, and blue 41 240 110. */
    int red[3];
    bt709(bars[5], red);
    assert_int_equal(red[0], 63);
    assert_int_equal(red[1], 102);
    assert_int_equal(red[2], 240);
}

/* Red columns on black, one at x = 31 (odd) and one at x = 16 (even): chroma shows where libswscale
 * thinks that its samples are. Left siting has taps 1/4, 1/2, 1/4 at even columns. */
static void test_colour_chroma_is_sited_left(void **state)
{
    (void)state;
    static uint8_t rgb[3][W * H], i420[W * H * 3 / 2];
    memset(rgb, 0, sizeof rgb);
    for (int y = 0; y < H; y++)
        rgb[0][y * W + 16] = rgb[0][y * W + 31] = 255;
    to_i420(rgb, i420);
    const uint8_t *cr = i420 + W * H * 5 / 4 + (H / 4) * (W / 2);
    /* Even column 16 lies on chroma sample 8: its neighbours get little and the same. */
    assert_true(cr[8] > 160);
    assert_near(cr[7], cr[9], 3);
    /* Odd column 31 lies midway between samples 15 and 16. */
    assert_near(cr[15], cr[16], 3);
    assert_true(cr[15] > 140);
}

static void test_colour_survives_both_ways(void **state)
{
    (void)state;
    static uint8_t rgb[3][W * H], i420[W * H * 3 / 2], back[W * H * 3];
    for (int n = 0; n < 16; n++) {
        for (int p = 0; p < 3; p++)
            memset(rgb[p], bars[n][p], W * H);
        to_i420(rgb, i420);
        mux_colour *c = NULL;
        lx_err err = {0};
        assert_int_equal(mux_colour_open(&c, MUX_I420_TO_RGB, W, H, &err), LX_OK);
        assert_int_equal(mux_colour_to_rgb24(c, i420, back, W * 3, &err), LX_OK);
        mux_colour_close(&c);
        for (int i = 0; i < W * H; i++)
            for (int p = 0; p < 3; p++)
                assert_near(back[i * 3 + p], bars[n][p], 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_colour_flat_fields_match_the_definition),
        cmocka_unit_test(test_colour_chroma_is_sited_left),
        cmocka_unit_test(test_colour_survives_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
