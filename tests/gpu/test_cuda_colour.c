/*
 * test_cuda_colour.c - RGB to I420, 8 bits and planes on a card: the bytes of the definition
 * SPDX-License-Identifier: Apache-2.0
 *
 * Codes may be one apart where f32 and f64 fall on two sides of a rounding edge, in at most one of
 * a thousand places (plus one).
 */
#include "gpu_image.h"
#include "lx_colour.h"

#define BENCH_H 480
#define BENCH_W 832

static const lx_dtype types[] = {LX_DTYPE_F32, LX_DTYPE_BF16};

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

static lx_image noise(int64_t frames, int64_t height, int64_t width, lx_dtype dtype)
{
    return image_host(image_floats(frames * height * width * 3, 12345, 1.2f, dtype), frames, height,
                      width, 3);
}

static uint8_t *bytes_back(gpu *g, const void *device, size_t n)
{
    uint8_t *out = gpu_malloc((int64_t)n, 1);
    gpu_get(g, out, device, n);
    return out;
}

static void one_code_apart(const char *what, const uint8_t *got, const uint8_t *want, size_t n)
{
    size_t different = 0;
    for (size_t i = 0; i < n; i++) {
        if (abs(got[i] - want[i]) > 1)
            fail_msg("%s: byte %zu of %zu is %d, want %d", what, i, n, got[i], want[i]);
        different += got[i] != want[i];
    }
    printf("  %s: %zu of %zu bytes one apart\n", what, different, n);
    assert_true(different * 1000 <= n + 1000);
}

static void test_colour_matches_definition(void **state)
{
    gpu *g = *state;
    static const int sides[][2] = {{2, 2}, {2, 32}, {32, 2}, {16, 24}, {30, 26}, {130, 514}};
    for (size_t i = 0; i < 2 * sizeof sides / sizeof *sides; i++) {
        lx_image host = noise(3, sides[i / 2][0], sides[i / 2][1], types[i % 2]);
        lx_image in = image_upload(g, &host, types[i % 2], false);
        lx_colour_args args = all_of(&in), plain = all_of(&host);
        size_t n = (size_t)(3 * host.height * host.width);
        uint8_t *want = gpu_malloc((int64_t)n * 3, 1), *got;
        void *out = gpu_take(g, n * 3);
        gpu_ok(lx_colour_i420(&g->x, &args, out, err));
        lx_colour_i420_ref(&plain, want);
        got = bytes_back(g, out, n * 3 / 2);
        one_code_apart("i420", got, want, n * 3 / 2);
        free(got);
        gpu_ok(lx_colour_rgb8(&g->x, &args, out, err));
        lx_colour_rgb8_ref(&plain, want);
        got = bytes_back(g, out, n * 3);
        one_code_apart("rgb8", got, want, n * 3);
        free(got), free(want), free(host.data);
        lx_arena_reset(g->store, 0);
    }
}

/* Limited-range BT.709 codes. */
static void test_i420_of_known_colours(void **state)
{
    gpu *g = *state;
    static const struct {
        int r, g, b;
        uint8_t y, u, v;
    } known[] = {{1, 0, 0, 63, 102, 240}, {0, 1, 0, 173, 42, 26},  {0, 0, 1, 32, 240, 118},
                 {1, 1, 0, 219, 16, 138}, {0, 1, 1, 188, 154, 16}, {1, 0, 1, 78, 214, 230},
                 {0, 0, 0, 16, 128, 128}, {1, 1, 1, 235, 128, 128}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        float values[4 * 6 * 3];
        const int rgb[3] = {known[i].r, known[i].g, known[i].b};
        for (int k = 0; k < 72; k++)
            values[k] = (float)(2 * rgb[k % 3] - 1);
        lx_image host = image_host(values, 1, 4, 6, 3);
        lx_image in = image_upload(g, &host, types[i % 2], false);
        lx_colour_args args = all_of(&in);
        void *out = gpu_take(g, 36);
        gpu_ok(lx_colour_i420(&g->x, &args, out, err));
        uint8_t *got = bytes_back(g, out, 36);
        for (int k = 0; k < 36; k++)
            assert_int_equal(got[k], k < 24 ? known[i].y : (k < 30 ? known[i].u : known[i].v));
        free(got);
        lx_arena_reset(g->store, 0);
    }
}

/* Tiles with a halo make the bytes of the whole, chroma at the joints included. */
static void test_colour_windows_join_without_a_seam(void **state)
{
    gpu *g = *state;
    enum { H = 20, W = 28, CUT_Y = 8, CUT_X = 12, HALO = 2, BYTES = 2 * H * W * 3 / 2 };
    lx_image host = noise(2, H, W, LX_DTYPE_F32), in = image_upload(g, &host, LX_DTYPE_F32, false);
    lx_colour_args args = all_of(&in);
    void *whole = gpu_take(g, BYTES), *joined = gpu_take(g, BYTES);
    gpu_ok(lx_colour_i420(&g->x, &args, whole, err));
    for (int i = 0; i < 8; i++) {
        int y = i & 1 ? CUT_Y : 0, x = i & 2 ? CUT_X : 0, t = i >> 2;
        int to_y = i & 1 ? H : CUT_Y, to_x = i & 2 ? W : CUT_X;
        int y0 = y ? y - HALO : 0, x0 = x ? x - HALO : 0, end = to_x < W ? to_x + HALO : W;
        lx_image frame = in, tile = image_blank(g, LX_DTYPE_F32, 1, to_y - y0, end - x0, 3);
        frame.frames = 1;
        frame.data = lx_image_frame(&in, t);
        gpu_ok(lx_image_crop(&g->x, &frame, y0, x0, &tile, err));
        lx_colour_args part = {.in = &tile,
                               .y = y - y0,
                               .x = x - x0,
                               .height = to_y - y,
                               .width = to_x - x,
                               .out_frame = t,
                               .out_y = y,
                               .out_x = x,
                               .out_frames = 2,
                               .out_height = H,
                               .out_width = W};
        gpu_ok(lx_colour_i420(&g->x, &part, joined, err));
    }
    uint8_t *want = bytes_back(g, whole, BYTES), *got = bytes_back(g, joined, BYTES);
    assert_memory_equal(got, want, BYTES);
    free(got), free(want), free(host.data);
    lx_arena_reset(g->store, 0);
}

static void test_colour_clamps(void **state)
{
    gpu *g = *state;
    float values[6] = {-2, 0.25f, INFINITY, 1, NAN, -0.5f}, got[6];
    const uint8_t want[6] = {0, 255, 159, 0, 255, 64}; /* 127.5 * 1.25 + 0.5 = 159.875 */
    for (size_t i = 0; i < 2; i++) {
        lx_image host = image_host(values, 1, 1, 2, 3),
                 in = image_upload(g, &host, types[i], false);
        lx_colour_args args = all_of(&in);
        void *out = gpu_take(g, sizeof got);
        gpu_ok(lx_colour_planes(&g->x, &args, out, err));
        gpu_get(g, got, out, sizeof got);
        assert_true(got[0] == -1 && got[1] == 1 && got[2] == 0.25f && isnan(got[3]));
        assert_true(got[4] == 1 && got[5] == -0.5f);
        gpu_ok(lx_colour_rgb8(&g->x, &args, out, err));
        gpu_get(g, got, out, sizeof want);
        assert_memory_equal(got, want, sizeof want);
        lx_arena_reset(g->store, 0);
    }
}

/* --- --bench --------------------------------------------------------------------------------- */

typedef struct bench_call {
    lx_colour_args args;
    uint8_t *out;
} bench_call;

static void call_once(gpu *g, void *self)
{
    bench_call *b = self;
    lx_err err = {0};
    gpu_must(lx_colour_i420(&g->x, &b->args, b->out, &err), &err);
}

static void bench(gpu *g)
{
    lx_image host = noise(1, BENCH_H, BENCH_W, LX_DTYPE_F32);
    lx_image in = image_upload(g, &host, LX_DTYPE_F32, false);
    bench_call call = {.args = all_of(&in), .out = gpu_take(g, BENCH_H * BENCH_W * 3 / 2)};
    gpu_print_bytes("I420 of one frame of 832x480", gpu_time(g, call_once, &call),
                    BENCH_H * BENCH_W * 13.5, gpu_roof_of(g).gb_per_s);
    free(host.data);
}

int main(int argc, char **argv)
{
    static gpu g;
    gpu_open(&g, (size_t)64 << 20, (size_t)16 << 20);
    int code = 0;
    if (gpu_wants_bench(argc, argv)) {
        bench(&g);
    } else {
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_i420_of_known_colours, &g),
            cmocka_unit_test_prestate(test_colour_matches_definition, &g),
            cmocka_unit_test_prestate(test_colour_windows_join_without_a_seam, &g),
            cmocka_unit_test_prestate(test_colour_clamps, &g),
        };
        code = cmocka_run_group_tests(tests, NULL, NULL);
    }
    gpu_close(&g);
    return code;
}
