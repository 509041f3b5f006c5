/*
 * test_conv.c - convolution and channel norm against their definitions, and against themselves
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

#include "lx_conv.h"

#define ARENA_BYTES ((size_t)96 << 20)

static lx_arena *arena;

static lx_exec exec_of(int n_threads)
{
    lx_err err = {0};
    lx_exec x;
    if (!arena && lx_arena_create(&arena, ARENA_BYTES, &err) != LX_OK)
        fail_msg("%s", err.message);
    if (lx_exec_open_cpu(&x, arena, n_threads, &err) != LX_OK)
        fail_msg("%s", err.message);
    return x;
}

/* Values in [-1, 1), the same for a seed everywhere. */
static float uniform(uint64_t *state)
{
    uint64_t s = *state += 0x9E3779B97F4A7C15u;
    s = (s ^ (s >> 30)) * 0xBF58476D1CE4E5B9u;
    s = (s ^ (s >> 27)) * 0x94D049BB133111EBu;
    return (float)((double)((s ^ (s >> 31)) >> 11) * 0x1p-52 - 1);
}

static float *random_floats(lx_exec *x, int64_t n, uint64_t seed, float scale)
{
    float *out;
    assert_int_equal(lx_arena_take_f32(x->arena, (uint64_t)n, &out, NULL), LX_OK);
    for (int64_t i = 0; i < n; i++)
        out[i] = scale * uniform(&seed);
    return out;
}

static lx_image random_image(lx_exec *x, const int64_t d[4], uint64_t seed, float scale)
{
    lx_image image = {
        .dtype = LX_DTYPE_F32, .frames = d[0], .height = d[1], .width = d[2], .channels = d[3]};
    image.data = random_floats(x, d[0] * d[1] * d[2] * d[3], seed, scale);
    return image;
}

static double relative_l2(const float *got, const float *want, int64_t n)
{
    double difference = 0, whole = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += pow((double)got[i] - want[i], 2);
        whole += pow(want[i], 2);
    }
    return sqrt(difference / (whole > 0 ? whole : 1));
}

typedef struct shape_case {
    int64_t c_in, c_out, kt, ks; /* ks: both sides */
    int64_t frames, height, width;
    bool upsample;
} shape_case;

/* Sizes: 1, odd, prime, below and above a tile of 128 pixels, and the decoder's channel counts. */
static const shape_case cases[] = {
    {1, 1, 1, 1, 1, 1, 1, false},      {3, 5, 3, 3, 1, 1, 1, false},
    {16, 16, 1, 1, 3, 2, 3, false},    {16, 384, 3, 3, 2, 3, 4, false},
    {7, 13, 3, 3, 3, 5, 7, false},     {96, 3, 3, 3, 1, 11, 13, false},
    {24, 48, 3, 1, 4, 3, 5, false},    {32, 32, 3, 3, 2, 1, 129, false},
    {32, 31, 3, 3, 1, 127, 1, false},  {96, 96, 3, 3, 2, 16, 8, false},
    {192, 192, 3, 3, 1, 9, 15, false}, {192, 384, 1, 1, 1, 12, 11, false},
    {384, 192, 1, 3, 1, 6, 10, true},  {8, 4, 1, 3, 2, 2, 2, true},
    {5, 3, 1, 3, 3, 14, 22, true},     {384, 384, 3, 1, 2, 4, 6, false},
    {384, 1152, 1, 1, 1, 4, 6, false}, {1500, 6, 1, 3, 1, 3, 3, false},
    {64, 65, 3, 3, 1, 2, 300, false},  {63, 130, 1, 3, 2, 24, 22, true},
    {65, 7, 3, 3, 5, 9, 11, false},
};
enum { N_CASES = sizeof cases / sizeof *cases };

typedef struct random_weights {
    lx_weight weight, bias;
    lx_conv conv;
} random_weights;

static random_weights random_conv(lx_exec *x, const shape_case *c, uint64_t seed)
{
    int64_t taps = c->kt * c->ks * c->ks * c->c_in;
    random_weights w = {.weight = {.name = "w", .dtype = LX_DTYPE_F32},
                        .bias = {.name = "b", .dtype = LX_DTYPE_F32}};
    w.weight.shape = LX_SHAPE(c->c_out, c->c_in, c->kt, c->ks, c->ks);
    if (c->kt == 1 && c->ks == 3)
        w.weight.shape = LX_SHAPE(c->c_out, c->c_in, 3, 3); /* as the resamplers store it */
    w.bias.shape = LX_SHAPE(c->c_out);
    w.weight.data = random_floats(x, taps * c->c_out, seed, sqrtf(3.0f / (float)taps));
    w.bias.data = random_floats(x, c->c_out, seed + 1, 0.1f);
    lx_err err = {0};
    if (lx_conv_load(x, &w.weight, &w.bias, &w.conv, &err) != LX_OK)
        fail_msg("%s", err.message);
    return w;
}

static lx_image input_of(lx_exec *x, const shape_case *c, uint64_t seed, float scale)
{
    int64_t half = c->upsample ? 2 : 1;
    const int64_t d[4] = {c->frames + c->kt - 1, c->height / half, c->width / half, c->c_in};
    return random_image(x, d, seed, scale);
}

static lx_image output_of(lx_exec *x, const shape_case *c)
{
    const int64_t d[4] = {c->frames, c->height, c->width, c->c_out};
    return random_image(x, d, 99, 1); /* filled: what is left unwritten shows */
}

static int64_t elements(const lx_image *image)
{
    return image->frames * image->height * image->width * image->channels;
}

static void test_conv_matches_definition(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        const shape_case *c = &cases[i];
        lx_exec x = exec_of(i % 2 ? 2 : 1);
        random_weights w = random_conv(&x, c, i);
        for (int with_residual = 0; with_residual < 2; with_residual++) {
            lx_image in = input_of(&x, c, 7 * i, i % 3 ? 1.0f : 300.0f);
            lx_image out = output_of(&x, c), want = output_of(&x, c), extra = output_of(&x, c);
            const lx_image *residual = with_residual ? &extra : NULL;
            assert_int_equal(lx_conv_run(&x, &w.conv, &in, c->upsample, residual, &out, NULL),
                             LX_OK);
            lx_conv_ref(&w.weight, &w.bias, &in, c->upsample, residual, &want);
            double error = relative_l2(out.data, want.data, elements(&out));
            if (!(error < 1e-6))
                fail_msg("case %zu residual %d: relative L2 %.3g", i, with_residual, error);
            if (with_residual) { /* in place: the residual is the output */
                assert_int_equal(lx_conv_run(&x, &w.conv, &in, c->upsample, &extra, &extra, NULL),
                                 LX_OK);
                assert_memory_equal(extra.data, out.data, (size_t)elements(&out) * sizeof(float));
            }
        }
        lx_arena_reset(arena, 0);
    }
}

/* One tap of weight 1 moves the picture: which way is told by hand, not by another convolution. */
static void test_conv_is_a_correlation_that_looks_back(void **state)
{
    (void)state;
    enum { H = 3, W = 4, N = H * W };
    lx_exec x = exec_of(1);
    float weight[27] = {0};
    const float bias[1] = {0};
    weight[0 * 9 + 0 * 3 + 2] = 1; /* two frames ago, one row up, one column right */
    lx_weight w = {.name = "w", .shape = LX_SHAPE(1, 1, 3, 3, 3), .data = weight};
    lx_weight b = {.name = "b", .shape = LX_SHAPE(1), .data = bias};
    w.dtype = b.dtype = LX_DTYPE_F32;
    lx_conv conv;
    assert_int_equal(lx_conv_load(&x, &w, &b, &conv, NULL), LX_OK);
    const int64_t in_dims[4] = {4, H, W, 1}, out_dims[4] = {2, H, W, 1};
    lx_image in = random_image(&x, in_dims, 1, 1), out = random_image(&x, out_dims, 2, 1);
    assert_int_equal(lx_conv_run(&x, &conv, &in, false, NULL, &out, NULL), LX_OK);
    for (int t = 0; t < 2; t++)
        for (int y = 0; y < H; y++)
            for (int column = 0; column < W; column++) {
                float want = y > 0 && column < W - 1
                                 ? lx_image_f32(&in, 0)[t * N + (y - 1) * W + column + 1]
                                 : 0;
                assert_true(fabsf(lx_image_f32(&out, 0)[t * N + y * W + column] - want) < 1e-6f);
            }
    lx_arena_reset(arena, 0);
}

static void test_conv_same_bits_for_any_thread_count(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        const shape_case *c = &cases[i];
        lx_exec x = exec_of(1);
        random_weights w = random_conv(&x, c, i);
        lx_image in = input_of(&x, c, i, 1), one = output_of(&x, c), other = output_of(&x, c);
        assert_int_equal(lx_conv_run(&x, &w.conv, &in, c->upsample, NULL, &one, NULL), LX_OK);
        for (int threads = 1; threads <= 3; threads++) {
            x = exec_of(threads);
            assert_int_equal(lx_conv_run(&x, &w.conv, &in, c->upsample, NULL, &other, NULL), LX_OK);
            assert_memory_equal(one.data, other.data, (size_t)elements(&one) * sizeof(float));
        }
        lx_arena_reset(arena, 0);
    }
}

/* A stream in one go, and in pieces of 1, 2, 3... frames with the history kept between them. */
static void test_conv_history_replaces_the_chunk_before(void **state)
{
    (void)state;
    static const int pieces[][4] = {{6}, {1, 1, 1, 3}, {2, 2, 2}, {1, 5}, {3, 1, 2}, {4, 2}};
    const shape_case c = {12, 10, 3, 3, 6, 5, 9, false};
    lx_exec x = exec_of(2);
    random_weights w = random_conv(&x, &c, 3);
    lx_image whole = input_of(&x, &c, 4, 1), want = output_of(&x, &c);
    int64_t frame = c.height * c.width * c.c_in;
    memset(whole.data, 0, (size_t)(2 * frame) * sizeof(float));
    assert_int_equal(lx_conv_run(&x, &w.conv, &whole, false, NULL, &want, NULL), LX_OK);
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        void *history[2];
        lx_image out = output_of(&x, &c);
        assert_int_equal(lx_history_take(&x, c.height, c.width, c.c_in, history, NULL), LX_OK);
        for (int64_t p = 0, at = 0; p < 4 && pieces[i][p]; at += pieces[i][p++]) {
            lx_image in = whole, part = out;
            in.frames = pieces[i][p] + 2;
            in.data = lx_image_f32(&whole, 0) + (at + 2) * frame;
            in.history[0] = history[0];
            in.history[1] = history[1];
            part.frames = pieces[i][p];
            part.data = lx_image_f32(&out, 0) + at * c.height * c.width * c.c_out;
            assert_int_equal(lx_conv_run(&x, &w.conv, &in, false, NULL, &part, NULL), LX_OK);
            assert_int_equal(lx_history_keep(&x, &in, history, NULL), LX_OK);
        }
        assert_memory_equal(out.data, want.data, (size_t)elements(&out) * sizeof(float));
    }
    lx_arena_reset(arena, 0);
}

/* Output pixels depend on their neighbourhood alone: a crop of the input at an even place gives a
 * crop of the output, away from the cut. Tiling rests on this. */
static void test_conv_of_a_window_is_a_window_of_the_conv(void **state)
{
    (void)state;
    static const int channels[] = {8, 24, 96};
    for (size_t i = 0; i < 3; i++) {
        const shape_case big = {channels[i], channels[i], 3, 3, 2, 20, 30, false};
        lx_exec x = exec_of(2);
        random_weights w = random_conv(&x, &big, i);
        lx_image in = input_of(&x, &big, i, 1), out = output_of(&x, &big), small = {0}, cut = {0};
        assert_int_equal(lx_conv_run(&x, &w.conv, &in, false, NULL, &out, NULL), LX_OK);
        assert_int_equal(lx_image_take(&x, 4, 11, 13, big.c_in, &small, NULL), LX_OK);
        assert_int_equal(lx_image_take(&x, 2, 11, 13, big.c_out, &cut, NULL), LX_OK);
        assert_int_equal(lx_image_crop(&x, &in, 6, 8, &small, NULL), LX_OK);
        assert_int_equal(lx_conv_run(&x, &w.conv, &small, false, NULL, &cut, NULL), LX_OK);
        for (int64_t t = 0; t < 2; t++)
            for (int64_t y = 1; y < 10; y++)
                for (int64_t c = 0; c < big.c_out; c++)
                    for (int64_t column = 1; column < 12; column++)
                        assert_true(
                            lx_image_f32(&cut, 0)[((t * 11 + y) * 13 + column) * big.c_out + c] ==
                            lx_image_f32(&out,
                                         0)[((t * 20 + y + 6) * 30 + column + 8) * big.c_out + c]);
        lx_arena_reset(arena, 0);
    }
}

static void test_conv_writes_every_other_frame(void **state)
{
    (void)state;
    const shape_case c = {6, 6, 3, 1, 3, 4, 5, false};
    lx_exec x = exec_of(1);
    random_weights w = random_conv(&x, &c, 1);
    lx_image in = input_of(&x, &c, 2, 1), want = output_of(&x, &c), wide = {0};
    int64_t frame = 4 * 5 * 6;
    assert_int_equal(lx_image_take(&x, 6, 4, 5, 6, &wide, NULL), LX_OK);
    for (int64_t i = 0; i < 6 * frame; i++)
        lx_image_f32(&wide, 0)[i] = 77;
    lx_image odd = wide;
    odd.frames = 3;
    odd.data = lx_image_f32(&wide, 0) + frame;
    odd.frame_stride = 2 * frame;
    assert_int_equal(lx_conv_run(&x, &w.conv, &in, false, NULL, &want, NULL), LX_OK);
    assert_int_equal(lx_conv_run(&x, &w.conv, &in, false, NULL, &odd, NULL), LX_OK);
    for (int64_t t = 0; t < 3; t++)
        for (int64_t i = 0; i < frame; i++) {
            assert_true(lx_image_f32(&wide, 0)[2 * t * frame + i] == 77);
            assert_true(lx_image_f32(&wide, 0)[(2 * t + 1) * frame + i] ==
                        lx_image_f32(&want, 0)[t * frame + i]);
        }
    lx_arena_reset(arena, 0);
}

/* A dry run must take exactly what the real one takes, or the memory plan is a guess. */
static void test_conv_dry_peak_is_the_real_peak(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++)
        for (int threads = 1; threads <= 2; threads++) {
            lx_arena *pair[2] = {0};
            size_t peak[2];
            assert_int_equal(lx_arena_create_dry(&pair[0], NULL), LX_OK);
            for (int real = 0; real < 2; real++) {
                if (real) /* not a byte more than the plan */
                    assert_int_equal(lx_arena_create(&pair[1], peak[0], NULL), LX_OK);
                const shape_case *c = &cases[i];
                lx_exec x;
                lx_image in, out;
                lx_conv conv;
                static float zeros[4 << 20];
                int64_t half = c->upsample ? 2 : 1;
                lx_weight w = {.name = "w", .dtype = LX_DTYPE_F32, .data = zeros};
                lx_weight b = {.name = "b", .dtype = LX_DTYPE_F32, .data = zeros};
                w.shape = LX_SHAPE(c->c_out, c->c_in, c->kt, c->ks, c->ks);
                b.shape = LX_SHAPE(c->c_out);
                assert_int_equal(lx_exec_open_cpu(&x, pair[real], threads, NULL), LX_OK);
                assert_int_equal(lx_conv_load(&x, &w, &b, &conv, NULL), LX_OK);
                assert_int_equal(lx_image_take(&x, c->frames + c->kt - 1, c->height / half,
                                               c->width / half, c->c_in, &in, NULL),
                                 LX_OK);
                assert_int_equal(
                    lx_image_take(&x, c->frames, c->height, c->width, c->c_out, &out, NULL), LX_OK);
                assert_int_equal(lx_conv_run(&x, &conv, &in, c->upsample, NULL, &out, NULL), LX_OK);
                peak[real] = lx_arena_peak(pair[real]);
            }
            assert_int_equal(peak[0], peak[1]);
            lx_arena_destroy(&pair[0]);
            lx_arena_destroy(&pair[1]);
        }
}

static void test_conv_refuses_what_does_not_match(void **state)
{
    (void)state;
    lx_exec x = exec_of(1);
    const shape_case c = {4, 6, 3, 3, 2, 4, 4, false};
    lx_conv conv = random_conv(&x, &c, 1).conv;
    lx_err err = {0};
    lx_image in = input_of(&x, &c, 1, 1), out = output_of(&x, &c), wrong = in;
    wrong.frames = 3;
    assert_int_equal(lx_conv_run(&x, &conv, &wrong, false, NULL, &out, &err), LX_EJOB);
    wrong = in;
    wrong.channels = 5;
    assert_int_equal(lx_conv_run(&x, &conv, &wrong, false, NULL, &out, &err), LX_EJOB);
    assert_int_equal(lx_conv_run(&x, &conv, &in, true, NULL, &out, &err), LX_EJOB);
    assert_int_equal(lx_conv_run(&x, &conv, &in, false, &in, &out, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "residual"));
    lx_weight w = {.name = "decoder.conv1.weight", .dtype = LX_DTYPE_F32, .data = in.data};
    lx_weight b = {.name = "decoder.conv1.bias", .dtype = LX_DTYPE_F32, .data = in.data};
    w.shape = LX_SHAPE(6, 4, 5, 3, 3);
    b.shape = LX_SHAPE(6);
    assert_int_equal(lx_conv_load(&x, &w, &b, &conv, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "decoder.conv1.weight"));
    w.shape = LX_SHAPE(6, 4, 3, 3, 3);
    b.shape = LX_SHAPE(5);
    assert_int_equal(lx_conv_load(&x, &w, &b, &conv, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "decoder.conv1.bias"));
    assert_int_equal(lx_image_take(&x, 1, INT64_MAX, 2, 1, &out, &err), LX_EJOB);
    assert_int_equal(lx_image_take(&x, 0, 1, 2, 1, &out, &err), LX_EJOB);
    lx_arena_reset(arena, 0);
}

static void test_norm_matches_definition(void **state)
{
    (void)state;
    static const int64_t dims[][4] = {{1, 1, 1, 1},  {2, 3, 5, 3},  {1, 7, 9, 17}, {1, 8, 8, 16},
                                      {3, 5, 4, 24}, {2, 8, 9, 96}, {1, 3, 3, 384}};
    for (size_t i = 0; i < 2 * sizeof dims / sizeof *dims; i++) {
        lx_exec x = exec_of(2);
        const int64_t *d = dims[i / 2];
        bool silu = i % 2;
        lx_image in = random_image(&x, d, i, 3), out = random_image(&x, d, 1, 1), want = out;
        const float *gamma = random_floats(&x, d[3], 5, 30);
        want.data = random_floats(&x, elements(&out), 1, 1);
        for (int64_t c = 0; c < d[3]; c++)
            lx_image_f32(&in, 0)[c] = 0; /* a black pixel: the clamp of the norm, not 0/0 */
        if (elements(&in) > d[3])
            lx_image_f32(&in, 0)[d[3]] = 1e30f; /* its square is past f32 */
        assert_int_equal(lx_channel_norm(&x, &in, gamma, silu, &out, NULL), LX_OK);
        lx_channel_norm_ref(&in, gamma, silu, &want);
        for (int64_t k = 0; k < elements(&out); k++) {
            float limit = 2e-6f * fabsf(lx_image_f32(&want, 0)[k]) + 1e-7f;
            if (!(fabsf(lx_image_f32(&out, 0)[k] - lx_image_f32(&want, 0)[k]) <= limit))
                fail_msg("case %zu element %ld: %.9g, want %.9g", i, (long)k,
                         (double)lx_image_f32(&out, 0)[k], (double)lx_image_f32(&want, 0)[k]);
        }
        assert_int_equal(lx_channel_norm(&x, &in, gamma, silu, &in, NULL), LX_OK);
        assert_memory_equal(in.data, out.data, (size_t)elements(&out) * sizeof(float));
        lx_arena_reset(arena, 0);
    }
}

static void test_norm_lets_a_nan_through(void **state)
{
    (void)state;
    lx_exec x = exec_of(1);
    const int64_t d[4] = {1, 1, 2, 20};
    lx_image in = random_image(&x, d, 1, 1);
    const float *gamma = random_floats(&x, 20, 2, 1);
    lx_image_f32(&in, 0)[3] = NAN;
    assert_int_equal(lx_channel_norm(&x, &in, gamma, true, &in, NULL), LX_OK);
    for (int64_t c = 0; c < 20; c++) {
        assert_true(isnan(lx_image_f32(&in, 0)[c]));
        assert_true(isfinite(lx_image_f32(&in, 0)[20 + c]));
    }
    lx_arena_reset(arena, 0);
}

static void test_planes_become_channel_last(void **state)
{
    (void)state;
    lx_exec x = exec_of(1);
    const float planes[2 * 3 * 2] = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}; /* [2, 3, 1, 2] */
    const float scale[2] = {2, 3}, shift[2] = {0.5f, -1};
    lx_image out = {0};
    lx_err err = {0};
    assert_int_equal(lx_image_take(&x, 2, 1, 2, 2, &out, NULL), LX_OK);
    assert_int_equal(lx_image_from_planes(&x, planes, 3, 1, scale, shift, &out, NULL), LX_OK);
    const float want[8] = {4.5f, 35, 6.5f, 38, 8.5f, 41, 10.5f, 44};
    assert_memory_equal(out.data, want, sizeof want);
    assert_int_equal(lx_image_from_planes(&x, planes, 3, 2, scale, shift, &out, &err), LX_EJOB);
    lx_arena_reset(arena, 0);
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
        cmocka_unit_test(test_conv_is_a_correlation_that_looks_back),
        cmocka_unit_test(test_conv_matches_definition),
        cmocka_unit_test(test_conv_same_bits_for_any_thread_count),
        cmocka_unit_test(test_conv_history_replaces_the_chunk_before),
        cmocka_unit_test(test_conv_of_a_window_is_a_window_of_the_conv),
        cmocka_unit_test(test_conv_writes_every_other_frame),
        cmocka_unit_test(test_conv_dry_peak_is_the_real_peak),
        cmocka_unit_test(test_conv_refuses_what_does_not_match),
        cmocka_unit_test(test_norm_matches_definition),
        cmocka_unit_test(test_norm_lets_a_nan_through),
        cmocka_unit_test(test_planes_become_channel_last),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
