/*
 * test_colour.c - RGB to I420 and to 8 bits: known colours, chroma's place, windows
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lx_colour.h"

enum { MAX_SIDE = 32, MAX_FRAMES = 3, MAX_PIXELS = MAX_SIDE * MAX_SIDE * MAX_FRAMES };

static lx_arena *arena;
static float pixels[MAX_PIXELS * 3];
static uint8_t bytes[MAX_PIXELS * 3], expected[MAX_PIXELS * 3];

static lx_exec exec_of(int n_threads)
{
    lx_exec x;
    if (!arena)
        assert_int_equal(lx_arena_create(&arena, 4096, NULL), LX_OK);
    assert_int_equal(lx_exec_open_cpu(&x, arena, n_threads, NULL), LX_OK);
    return x;
}

static lx_image image_of(int64_t frames, int64_t height, int64_t width)
{
    return (lx_image){.dtype = LX_DTYPE_F32,
                      .frames = frames,
                      .height = height,
                      .width = width,
                      .channels = 3,
                      .data = pixels};
}

/* All of an image, to an output of the same size. */
static lx_colour_args all_of(const lx_image *in)
{
    return (lx_colour_args){.in = in,
                            .height = in->height,
                            .width = in->width,
                            .out_frames = in->frames,
                            .out_height = in->height,
                            .out_width = in->width};
}

static void fill(double r, double g, double b)
{
    for (int i = 0; i < MAX_PIXELS; i++) {
        pixels[3 * i] = (float)(2 * r - 1);
        pixels[3 * i + 1] = (float)(2 * g - 1);
        pixels[3 * i + 2] = (float)(2 * b - 1);
    }
}

static void noise(float range)
{
    uint32_t s = 12345;
    for (int i = 0; i < MAX_PIXELS * 3; i++) {
        s = s * 1664525u + 1013904223u;
        pixels[i] = range * ((float)(s >> 8) / 8388608.0f - 1);
    }
}

/* Limited-range BT.709 codes of the primaries and secondaries. */
static void test_i420_of_known_colours(void **state)
{
    (void)state;
    static const struct {
        int r, g, b;
        uint8_t y, u, v;
    } known[] = {{1, 0, 0, 63, 102, 240}, {0, 1, 0, 173, 42, 26},  {0, 0, 1, 32, 240, 118},
                 {1, 1, 0, 219, 16, 138}, {0, 1, 1, 188, 154, 16}, {1, 0, 1, 78, 214, 230},
                 {0, 0, 0, 16, 128, 128}, {1, 1, 1, 235, 128, 128}};
    lx_exec x = exec_of(1);
    lx_image in = image_of(1, 4, 6);
    lx_colour_args args = all_of(&in);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        fill(known[i].r, known[i].g, known[i].b);
        assert_int_equal(lx_colour_i420(&x, &args, bytes, NULL), LX_OK);
        for (int k = 0; k < 36; k++)
            assert_int_equal(bytes[k], k < 24 ? known[i].y : (k < 30 ? known[i].u : known[i].v));
    }
}

static void test_i420_of_greys_and_of_what_is_out_of_range(void **state)
{
    (void)state;
    lx_exec x = exec_of(2);
    lx_image in = image_of(1, 2, 2);
    lx_colour_args args = all_of(&in);
    for (int code = 0; code <= 255; code++) {
        fill(code / 255.0, code / 255.0, code / 255.0);
        assert_int_equal(lx_colour_i420(&x, &args, bytes, NULL), LX_OK);
        assert_int_equal(bytes[0], (int)floor(16 + 219 * code / 255.0 + 0.5));
        assert_int_equal(bytes[4], 128);
        assert_int_equal(bytes[5], 128);
    }
    static const float beyond[] = {-1e30f, -1.5f, 1.5f, 1e30f, -INFINITY, INFINITY};
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        for (int k = 0; k < 12; k++)
            pixels[k] = beyond[i];
        assert_int_equal(lx_colour_i420(&x, &args, bytes, NULL), LX_OK);
        assert_int_equal(bytes[0], beyond[i] < 0 ? 16 : 235);
        assert_int_equal(lx_colour_rgb8(&x, &args, bytes, NULL), LX_OK);
        assert_int_equal(bytes[0], beyond[i] < 0 ? 0 : 255);
    }
    pixels[0] = NAN;
    assert_int_equal(lx_colour_rgb8(&x, &args, bytes, NULL), LX_OK);
    assert_int_equal(bytes[0], 0);
}

/* One blue column: it is at weight 1/2 in its own sample if even; if odd it is 1/4 in both. */
static void test_i420_chroma_sits_left(void **state)
{
    (void)state;
    enum { W = 8 };
    lx_exec x = exec_of(1);
    lx_image in = image_of(1, 2, W);
    lx_colour_args args = all_of(&in);
    for (int column = 0; column < W; column++) {
        fill(0, 0, 0);
        pixels[3 * column + 2] = pixels[3 * (W + column) + 2] = 1;
        assert_int_equal(lx_colour_i420(&x, &args, bytes, NULL), LX_OK);
        for (int i = 0; i < W / 2; i++) {
            int distance = abs(column - 2 * i);
            double weight = distance == 0 ? 0.5 : distance == 1 ? 0.25 : 0;
            if (i == 0 && column == 0)
                weight = 0.75; /* the edge is repeated */
            assert_int_equal(bytes[2 * W + i], (int)floor(128 + 112 * weight + 0.5));
        }
    }
    fill(0, 0, 0); /* and vertically half of each row */
    for (int k = 0; k < W; k++)
        pixels[3 * k + 2] = 1;
    assert_int_equal(lx_colour_i420(&x, &args, bytes, NULL), LX_OK);
    assert_int_equal(bytes[2 * W], 184);
}

static void one_code_apart(const uint8_t *got, const uint8_t *want, size_t n)
{
    size_t different = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(abs(got[i] - want[i]) <= 1);
        different += got[i] != want[i];
    }
    assert_true(different * 1000 <= n); /* f32 against f64 at a rounding edge */
}

static void test_colour_matches_definition(void **state)
{
    (void)state;
    static const int sides[][2] = {{2, 2}, {2, 32}, {32, 2}, {16, 24}, {30, 26}};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        lx_exec x = exec_of(1 + (int)i % 2);
        lx_image in = image_of(MAX_FRAMES, sides[i][0], sides[i][1]);
        lx_colour_args args = all_of(&in);
        size_t n = (size_t)(MAX_FRAMES * in.height * in.width);
        noise(1.2f);
        assert_int_equal(lx_colour_i420(&x, &args, bytes, NULL), LX_OK);
        lx_colour_i420_ref(&args, expected);
        one_code_apart(bytes, expected, n * 3 / 2);
        assert_int_equal(lx_colour_rgb8(&x, &args, bytes, NULL), LX_OK);
        lx_colour_rgb8_ref(&args, expected);
        one_code_apart(bytes, expected, n * 3);
    }
}

/* Four tiles with a halo make the same bytes as the whole, chroma at the joints included. */
static void test_colour_windows_join_without_a_seam(void **state)
{
    (void)state;
    enum { H = 20, W = 28, CUT_Y = 8, CUT_X = 12, HALO = 2 };
    static float tile_pixels[H * W * 3];
    lx_exec x = exec_of(1);
    lx_image in = image_of(2, H, W);
    lx_colour_args args = all_of(&in);
    noise(1);
    assert_int_equal(lx_colour_i420(&x, &args, expected, NULL), LX_OK);
    memset(bytes, 0, sizeof bytes);
    for (int i = 0; i < 8; i++) {
        int y = i & 1 ? CUT_Y : 0, column = i & 2 ? CUT_X : 0, t = i >> 2;
        int to_y = i & 1 ? H : CUT_Y, to_x = i & 2 ? W : CUT_X;
        int y0 = y ? y - HALO : 0, x0 = column ? column - HALO : 0;
        lx_image tile = {.dtype = LX_DTYPE_F32,
                         .frames = 1,
                         .height = to_y - y0,
                         .channels = 3,
                         .data = tile_pixels};
        tile.width = (to_x < W ? to_x + HALO : W) - x0;
        for (int row = 0; row < tile.height; row++)
            memcpy(tile_pixels + row * tile.width * 3, pixels + ((t * H + y0 + row) * W + x0) * 3,
                   (size_t)tile.width * 3 * sizeof(float));
        lx_colour_args part = {.in = &tile,
                               .y = y - y0,
                               .x = column - x0,
                               .height = to_y - y,
                               .width = to_x - column,
                               .out_frame = t,
                               .out_y = y,
                               .out_x = column,
                               .out_frames = 2,
                               .out_height = H,
                               .out_width = W};
        assert_int_equal(lx_colour_i420(&x, &part, bytes, NULL), LX_OK);
    }
    assert_memory_equal(bytes, expected, 2 * H * W * 3 / 2);
}

static void test_colour_planes_are_clamped_and_channel_first(void **state)
{
    (void)state;
    lx_exec x = exec_of(1);
    lx_image in = image_of(1, 1, 2);
    lx_colour_args args = all_of(&in);
    const float values[6] = {-2, 0.25f, 3, 1, NAN, -0.5f};
    float out[6];
    memcpy(pixels, values, sizeof values);
    assert_int_equal(lx_colour_planes(&x, &args, out, NULL), LX_OK);
    assert_true(out[0] == -1 && out[1] == 1 && out[2] == 0.25f && isnan(out[3]));
    assert_true(out[4] == 1 && out[5] == -0.5f);
    assert_int_equal(lx_colour_rgb8(&x, &args, bytes, NULL), LX_OK);
    const uint8_t want[6] = {0, 255, 159, 0, 255, 64}; /* 127.5 * 1.25 + 0.5 = 159.875 */
    assert_memory_equal(bytes, want, sizeof want);
}

static void test_colour_refuses_what_does_not_fit(void **state)
{
    (void)state;
    lx_exec x = exec_of(1);
    lx_err err = {0};
    lx_image in = image_of(1, 4, 5);
    lx_colour_args args = all_of(&in);
    assert_int_equal(lx_colour_i420(&x, &args, bytes, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "even"));
    assert_int_equal(lx_colour_rgb8(&x, &args, bytes, &err), LX_OK);
    in.width = args.out_width = 4;
    assert_int_equal(lx_colour_i420(&x, &args, bytes, &err), LX_EJOB); /* window of 5 in 4 */
    args.width = 4;
    assert_int_equal(lx_colour_i420(&x, &args, bytes, &err), LX_OK);
    args.out_y = 2;
    assert_int_equal(lx_colour_i420(&x, &args, bytes, &err), LX_EJOB);
    args.out_y = 0;
    args.out_frame = 1;
    assert_int_equal(lx_colour_planes(&x, &args, pixels, &err), LX_EJOB);
    in.channels = 4;
    assert_int_equal(lx_colour_rgb8(&x, &args, bytes, &err), LX_EJOB);
}

static int teardown(void **state)
{
    (void)state;
    lx_arena_destroy(&arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_i420_of_known_colours),
        cmocka_unit_test(test_i420_of_greys_and_of_what_is_out_of_range),
        cmocka_unit_test(test_i420_chroma_sits_left),
        cmocka_unit_test(test_colour_matches_definition),
        cmocka_unit_test(test_colour_windows_join_without_a_seam),
        cmocka_unit_test(test_colour_planes_are_clamped_and_channel_first),
        cmocka_unit_test(test_colour_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
