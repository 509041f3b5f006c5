/*
 * test_cuda_conv.c - convolution, channel norm and moves of images on a card
 * SPDX-License-Identifier: Apache-2.0
 *
 * Pass rule of gpu_check.h. Under nearest x2 a card sums taps before it rounds them to bf16: one
 * more rounding of the weights, 2^-9 of them at the most.
 * --bench     milliseconds, 1e12 operations per second of the plain formula, share of the card's
 *             roof, at the shapes of Wan's decoder for 832x480
 */
#include "gpu_check.h"
#include "gpu_image.h"

#define BF16     LX_DTYPE_BF16
#define F16      LX_DTYPE_F16
#define F32      LX_DTYPE_F32
#define SUM_TAPS 2e-3
/* F16 sums of six products one after the other, rounded or cut at 2^-10 of a part each time; parts
 * add up in all directions. */
#define SUM_F16 2e-3
#define STORE   ((size_t)1 << 30)
#define SCRATCH ((size_t)256 << 20)

typedef struct shape_case {
    int64_t c_in, c_out, kt, ks; /* ks: both sides */
    int64_t frames, height, width;
    bool upsample;
    lx_dtype out;
} shape_case;

/* Sizes: 1, odd, prime, below and above tiles of 128 and 256 pixels and of 8, 32, 48 and 96
 * outputs; inputs that are no multiple of 8 or of 32; the decoder's widths, full and pruned. */
static const shape_case cases[] = {
    {1, 1, 1, 1, 1, 1, 1, false, F32},       {3, 5, 3, 3, 1, 1, 1, false, BF16},
    {16, 16, 1, 1, 3, 2, 3, false, BF16},    {16, 384, 3, 3, 2, 3, 4, false, BF16},
    {7, 13, 3, 3, 3, 5, 7, false, BF16},     {96, 3, 3, 3, 1, 11, 13, false, F32},
    {24, 48, 3, 1, 4, 3, 5, false, BF16},    {32, 32, 3, 3, 2, 1, 129, false, BF16},
    {32, 31, 3, 3, 1, 127, 1, false, BF16},  {96, 96, 3, 3, 2, 16, 8, false, BF16},
    {192, 192, 3, 3, 1, 9, 15, false, BF16}, {192, 384, 1, 1, 1, 12, 11, false, BF16},
    {384, 192, 1, 3, 1, 6, 10, true, BF16},  {8, 4, 1, 3, 2, 2, 2, true, BF16},
    {5, 3, 1, 3, 3, 14, 22, true, BF16},     {384, 384, 3, 1, 2, 4, 6, false, BF16},
    {384, 768, 1, 1, 1, 4, 6, false, BF16},  {384, 384, 1, 1, 1, 4, 6, false, LX_DTYPE_F16},
    {1500, 6, 1, 3, 1, 3, 3, false, BF16},   {64, 65, 3, 3, 1, 2, 300, false, BF16},
    {64, 130, 1, 3, 2, 24, 22, true, BF16},  {65, 7, 3, 3, 5, 9, 11, false, F32},
    {24, 24, 3, 3, 1, 24, 40, false, BF16},  {48, 24, 1, 3, 1, 32, 40, true, BF16},
    {96, 96, 3, 3, 1, 37, 53, false, BF16},  {192, 96, 1, 3, 1, 26, 34, true, BF16},
    {24, 3, 3, 3, 2, 31, 29, false, F32},    {16, 96, 3, 3, 5, 60, 104, false, BF16},
    {8, 100, 3, 3, 3, 1, 1, false, BF16},    {12, 20, 3, 3, 2, 6, 6, false, BF16},
    {20, 12, 3, 3, 1, 4, 8, true, BF16},     {104, 96, 3, 3, 2, 10, 13, false, BF16},
};
enum { N_CASES = sizeof cases / sizeof *cases };

typedef struct random_weights {
    lx_weight weight, bias; /* on the host, values that bf16 (f16) holds; owned */
    lx_conv conv;
} random_weights;

/* Loads it as one that reads a norm's result, of gain 1, for F16 where that is served. */
static void load_normed(gpu *g, random_weights *w)
{
    float *ones = gpu_malloc(w->weight.shape.dim[1], sizeof *ones);
    lx_weight gain = {.name = "g", .dtype = F32, .data = ones};
    for (int64_t c = 0; c < w->weight.shape.dim[1]; c++)
        ones[c] = 1;
    gain.shape = LX_SHAPE(w->weight.shape.dim[1]);
    g->x.sums = LX_SUMS_F16;
    gpu_ok(lx_conv_load_normed(&g->x, &w->weight, &w->bias, &gain, &w->conv, err));
    g->x.sums = LX_SUMS_AUTO;
    free(ones);
}

/* type BF16, or F16: see load_normed. */
static random_weights random_conv(gpu *g, const shape_case *c, uint64_t seed, lx_dtype type)
{
    int64_t taps = c->kt * c->ks * c->ks * c->c_in;
    random_weights w = {.weight = {.name = "w", .dtype = F32}, .bias = {.name = "b", .dtype = F32}};
    w.weight.shape = LX_SHAPE(c->c_out, c->c_in, c->kt, c->ks, c->ks);
    if (c->kt == 1 && c->ks == 3)
        w.weight.shape = LX_SHAPE(c->c_out, c->c_in, 3, 3); /* as the resamplers store it */
    w.bias.shape = LX_SHAPE(c->c_out);
    w.weight.data = image_floats(taps * c->c_out, seed, sqrtf(3.0f / (float)taps), type);
    w.bias.data = image_floats(c->c_out, seed + 1, 0.1f, F32);
    if (type == F16)
        load_normed(g, &w);
    else
        gpu_ok(lx_conv_load(&g->x, &w.weight, &w.bias, &w.conv, err));
    return w;
}

static void free_weights(random_weights *w)
{
    free((void *)(uintptr_t)w->weight.data);
    free((void *)(uintptr_t)w->bias.data);
}

static lx_image random_input(const shape_case *c, uint64_t seed, float scale, lx_dtype type)
{
    int64_t half = c->upsample ? 2 : 1, n = c->frames + c->kt - 1;
    lx_image out = image_host(NULL, n, c->height / half, c->width / half, c->c_in);
    out.data = image_floats(n * image_frame_size(&out), seed, scale, type);
    return out;
}

static void start_over(gpu *g)
{
    lx_arena_reset(g->store, 0);
    lx_arena_reset(g->scratch, 0);
}

static const char *name_of(const shape_case *c, const char *more)
{
    static char text[128];
    snprintf(text, sizeof text, "%lld->%lld %lldx%lldx%lld%s, %lldx%lldx%lld%s", (long long)c->c_in,
             (long long)c->c_out, (long long)c->kt, (long long)c->ks, (long long)c->ks,
             c->upsample ? " x2" : "", (long long)c->frames, (long long)c->height,
             (long long)c->width, more);
    return text;
}

static void run_conv(gpu *g, const random_weights *w, const lx_image *in, bool upsample,
                     const lx_image *residual, lx_image *out)
{
    gpu_ok(lx_conv_run(&g->x, &w->conv, in, upsample, residual, out, err));
}

/* Against the definition, and again: the same bits. */
static void check_case(gpu *g, const shape_case *c, uint64_t seed, bool with_residual,
                       lx_dtype type)
{
    if (gpu_is_small() && c->frames * c->height * c->width * c->c_in * c->c_out > 4000000)
        return;
    random_weights w = random_conv(g, c, seed, type);
    lx_image host = random_input(c, 7 * seed, seed % 3 ? 1.0f : 300.0f, type);
    lx_image in = image_upload(g, &host, type, c->kt == 3 && seed % 2);
    assert_int_equal(w.conv.input, type);
    lx_image out = image_blank(g, c->out, c->frames, c->height, c->width, c->c_out);
    lx_image again = image_blank(g, c->out, c->frames, c->height, c->width, c->c_out);
    lx_image want = image_host(NULL, c->frames, c->height, c->width, c->c_out), extra = want, more;
    int64_t n = want.frames * image_frame_size(&want);
    want.data = gpu_malloc(n, sizeof(float));
    extra.data = image_floats(n, seed + 5, 2, BF16);
    more = image_upload(g, &extra, BF16, false);
    run_conv(g, &w, &in, c->upsample, with_residual ? &more : NULL, &out);
    run_conv(g, &w, &in, c->upsample, with_residual ? &more : NULL, &again);
    lx_conv_ref(&w.weight, &w.bias, &host, c->upsample, with_residual ? &extra : NULL, &want);
    float *got = image_get(g, &out), *second = image_get(g, &again);
    double sums = GPU_SUM_F32(c->kt * c->ks * c->ks * c->c_in) + (c->upsample ? SUM_TAPS : 0) +
                  (type == F16 ? SUM_F16 : 0);
    const char *more_words = type == F16     ? with_residual ? ", F16 + residual" : ", F16"
                             : with_residual ? " + residual"
                                             : "";
    gpu_report_allowed(name_of(c, more_words), got, want.data, NULL, n, c->c_out, c->out, sums);
    assert_memory_equal(got, second, (size_t)n * sizeof *got);
    if (with_residual && c->out == BF16) { /* in place: the residual is the output */
        run_conv(g, &w, &in, c->upsample, &more, &more);
        float *in_place = image_get(g, &more);
        assert_memory_equal(got, in_place, (size_t)n * sizeof *got);
        free(in_place);
    }
    free(got), free(second), free(want.data), free(extra.data), free(host.data);
    free_weights(&w);
    start_over(g);
}

static void test_conv_matches_definition(void **state)
{
    for (size_t i = 0; i < N_CASES; i++)
        for (int with_residual = 0; with_residual < 2; with_residual++)
            check_case(*state, &cases[i], i, with_residual, BF16);
}

static bool serves_f16(const shape_case *c)
{
    return c->kt == 3 && c->ks == 3 && !c->upsample && c->c_in % 8 == 0 && c->c_out > 8;
}

static void test_conv_of_f16_matches_definition(void **state)
{
    for (size_t i = 0; i < N_CASES; i++)
        for (int with_residual = 0; with_residual < 2 && serves_f16(&cases[i]); with_residual++)
            check_case(*state, &cases[i], i, with_residual, F16);
}

/* Where it is not served, or a sum of a step could overflow F16, or a number is not finite, it
 * stays with BF16: nothing that is asked for makes a picture of infinities. */
static void test_conv_takes_f16_only_where_it_fits(void **state)
{
    gpu *g = *state;
    for (size_t i = 0; i < N_CASES; i++)
        if (!serves_f16(&cases[i])) {
            random_weights w = random_conv(g, &cases[i], i, F16);
            assert_int_equal(w.conv.input, BF16);
            free_weights(&w);
            start_over(g);
        }
    /* 32 inputs of 96, 3 columns: 3 sqrt(32) w sqrt(96) is 60,000 at w = 360.8. */
    const shape_case c = {96, 96, 3, 3, 1, 4, 4, false, BF16};
    const struct {
        float all, one;
        lx_dtype input;
    } kinds[] = {{360, 0, F16},
                 {361, 0, BF16},
                 {0.1f, 70000, BF16},
                 {0.1f, NAN, BF16},
                 {0.1f, INFINITY, BF16}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        random_weights w = random_conv(g, &c, i, BF16);
        float *at = (float *)(uintptr_t)w.weight.data;
        for (int64_t k = 0; k < 96 * 96 * 27; k++)
            at[k] = kinds[i].all;
        at[12345] = kinds[i].one != 0 ? kinds[i].one : at[12345];
        load_normed(g, &w);
        assert_int_equal(w.conv.input, kinds[i].input);
        free_weights(&w);
        start_over(g);
    }
}

/* A stream in one go, and in pieces with the history kept between them. */
static void test_conv_history_replaces_the_chunk_before(void **state)
{
    gpu *g = *state;
    static const int pieces[][4] = {{6}, {1, 1, 1, 3}, {2, 2, 2}, {1, 5}, {3, 1, 2}, {4, 2}};
    static const int64_t channels[] = {12, 40, 40};
    for (size_t k = 0; k < 3; k++) {
        const lx_dtype type = k == 2 ? F16 : BF16;
        const shape_case c = {channels[k], 24, 3, 3, 6, 5, 9, false, BF16};
        random_weights w = random_conv(g, &c, 3, type);
        lx_image host = random_input(&c, 4, 1, type);
        memset(host.data, 0, (size_t)(2 * image_frame_size(&host)) * sizeof(float));
        lx_image in = image_upload(g, &host, type, false);
        lx_image out = image_blank(g, BF16, 6, c.height, c.width, c.c_out);
        run_conv(g, &w, &in, false, NULL, &out);
        float *want = image_get(g, &out);
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
            void *history[2];
            gpu_ok(lx_history_take(&g->x, c.height, c.width, c.c_in, history, err));
            out = image_blank(g, BF16, 6, c.height, c.width, c.c_out);
            for (int64_t p = 0, at = 0; p < 4 && pieces[i][p]; at += pieces[i][p++]) {
                lx_image piece = in, part = out;
                piece.frames = pieces[i][p] + 2;
                piece.data = lx_image_frame(&in, at + 2);
                piece.history[0] = history[0];
                piece.history[1] = history[1];
                part.frames = pieces[i][p];
                part.data = lx_image_frame(&out, at);
                run_conv(g, &w, &piece, false, NULL, &part);
                gpu_ok(lx_history_keep(&g->x, &piece, history, err));
            }
            float *got = image_get(g, &out);
            assert_memory_equal(got, want, (size_t)(6 * image_frame_size(&out)) * sizeof *got);
            free(got);
        }
        free(want), free(host.data);
        free_weights(&w);
        start_over(g);
    }
}

/* Output pixels depend on their neighbourhood alone, wherever they are: a window of the input gives
 * a window of the output, away from the cut. Tiling rests on this. */
static void test_conv_of_a_window_is_a_window_of_the_conv(void **state)
{
    gpu *g = *state;
    static const int64_t channels[] = {4, 8, 24, 96, 192, 24, 48, 96, 192};
    for (size_t i = 0; i < 9; i++) {
        const lx_dtype type = i < 5 ? BF16 : F16;
        const shape_case big = {channels[i], channels[i], 3, 3, 2, 60, 70, false, BF16};
        random_weights w = random_conv(g, &big, i, type);
        lx_image host = random_input(&big, i, 1, type), in = image_upload(g, &host, type, false);
        lx_image out = image_blank(g, BF16, 2, 60, 70, big.c_out);
        lx_image small = image_blank(g, type, 4, 11, 13, big.c_in);
        lx_image cut = image_blank(g, BF16, 2, 11, 13, big.c_out);
        run_conv(g, &w, &in, false, NULL, &out);
        gpu_ok(lx_image_crop(&g->x, &in, 27, 33, &small, err));
        run_conv(g, &w, &small, false, NULL, &cut);
        float *all = image_get(g, &out), *part = image_get(g, &cut);
        for (int64_t t = 0; t < 2; t++)
            for (int64_t y = 1; y < 10; y++)
                assert_memory_equal(part + ((t * 11 + y) * 13 + 1) * big.c_out,
                                    all + ((t * 60 + y + 27) * 70 + 34) * big.c_out,
                                    (size_t)(11 * big.c_out) * sizeof *all);
        free(all), free(part), free(host.data);
        free_weights(&w);
        start_over(g);
    }
}

static void test_conv_writes_every_other_frame(void **state)
{
    gpu *g = *state;
    static const int64_t channels[] = {6, 96};
    for (size_t k = 0; k < 2; k++) {
        const shape_case c = {channels[k], channels[k], 3, 1, 3, 4, 5, false, BF16};
        random_weights w = random_conv(g, &c, 1, BF16);
        lx_image host = random_input(&c, 2, 1, BF16), in = image_upload(g, &host, BF16, true);
        lx_image plain = image_blank(g, BF16, 3, 4, 5, c.c_out);
        lx_image wide = image_blank(g, BF16, 6, 4, 5, c.c_out), odd = wide;
        odd.frames = 3;
        odd.data = lx_image_frame(&wide, 1);
        odd.frame_stride = 2 * image_frame_size(&wide);
        run_conv(g, &w, &in, false, NULL, &plain);
        run_conv(g, &w, &in, false, NULL, &odd);
        float *want = image_get(g, &plain), *got = image_get(g, &wide);
        int64_t frame = image_frame_size(&wide);
        for (int64_t i = 0; i < 6 * frame; i++)
            if (i / frame % 2 == 0)
                assert_true(isnan(got[i]));
            else
                assert_true(got[i] == want[i / frame / 2 * frame + i % frame]);
        free(want), free(got), free(host.data);
        free_weights(&w);
        start_over(g);
    }
}

static void test_norm_matches_definition(void **state)
{
    gpu *g = *state;
    static const int64_t dims[][4] = {{1, 1, 1, 1},   {2, 3, 5, 3},    {1, 7, 9, 17},
                                      {1, 8, 8, 16},  {3, 5, 4, 24},   {2, 9, 11, 48},
                                      {2, 8, 9, 96},  {1, 3, 43, 192}, {1, 3, 3, 384},
                                      {2, 3, 3, 400}, {1, 64, 65, 8},  {1, 5, 5, 56}};
    for (size_t i = 0; i < 4 * sizeof dims / sizeof *dims; i++) {
        const int64_t *d = dims[i / 4], n = d[0] * d[1] * d[2] * d[3];
        const lx_dtype type = i / 2 % 2 ? F16 : BF16; /* of the result */
        bool silu = i % 2;
        char text[64];
        lx_image host = image_host(image_floats(n, i, 3, BF16), d[0], d[1], d[2], d[3]);
        lx_image want = image_host(gpu_malloc(n, sizeof(float)), d[0], d[1], d[2], d[3]);
        float *gamma = image_floats(d[3], 5, 30, F32);
        memset(host.data, 0, (size_t)d[3] * sizeof(float)); /* a black pixel: not 0/0 */
        lx_image in = image_upload(g, &host, BF16, false);
        lx_image out = image_blank(g, type, d[0], d[1], d[2], d[3]);
        const float *gain = gpu_put(g, gamma, (size_t)d[3] * sizeof *gamma);
        gpu_ok(lx_channel_norm(&g->x, &in, gain, silu, &out, err));
        lx_channel_norm_ref(&host, gamma, silu, &want);
        float *got = image_get(g, &out);
        snprintf(text, sizeof text, "norm%s of %lld channels%s", silu ? " + SiLU" : "",
                 (long long)d[3], type == F16 ? ", F16" : "");
        gpu_report_allowed(text, got, want.data, NULL, n, d[3], type, 1e-5);
        lx_image same = in; /* in place */
        same.dtype = type;
        gpu_ok(lx_channel_norm(&g->x, &in, gain, silu, &same, err));
        float *again = image_get(g, &same);
        assert_memory_equal(got, again, (size_t)n * sizeof *got);
        free(got), free(again), free(gamma), free(host.data), free(want.data);
        start_over(g);
    }
}

static void test_norm_lets_a_nan_through(void **state)
{
    gpu *g = *state;
    static const int64_t channels[] = {20, 96};
    for (size_t k = 0; k < 2; k++) {
        int64_t n = channels[k];
        float *data = image_floats(2 * n, 1, 1, BF16), *gamma = image_floats(n, 2, 1, F32);
        data[3] = NAN;
        lx_image host = image_host(data, 1, 1, 2, n), in = image_upload(g, &host, BF16, false);
        const float *gain = gpu_put(g, gamma, (size_t)n * sizeof *gamma);
        gpu_ok(lx_channel_norm(&g->x, &in, gain, true, &in, err));
        float *got = image_get(g, &in);
        for (int64_t c = 0; c < n; c++)
            assert_true(isnan(got[c]) && isfinite(got[n + c]));
        free(got), free(data), free(gamma);
        start_over(g);
    }
}

static void test_planes_become_channel_last(void **state)
{
    gpu *g = *state;
    const float planes[2 * 3 * 2] = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}; /* [2, 3, 1, 2] */
    const float scale[2] = {2, 3}, shift[2] = {0.5f, -1};
    const float want[8] = {4.5f, 35, 6.5f, 38, 8.5f, 41, 10.5f, 44};
    lx_image out = image_blank(g, BF16, 2, 1, 2, 2);
    const float *device = gpu_put(g, planes, sizeof planes);
    gpu_ok(lx_image_from_planes(&g->x, device, 3, 1, scale, shift, &out, err));
    float *got = image_get(g, &out);
    assert_memory_equal(got, want, sizeof want);
    free(got);
    start_over(g);
}

/* A dry run must take exactly what the real one takes, or the memory plan is a guess. */
static void test_conv_dry_peak_is_the_real_peak(void **state)
{
    gpu *g = *state;
    for (size_t i = 0; i < N_CASES; i++) {
        lx_exec dry = gpu_plan_open(g), *both[2] = {&dry, &g->x};
        size_t used[2] = {0};
        random_weights w = random_conv(g, &cases[i], i, BF16);
        lx_weight gain = {.name = "g", .dtype = F32, .data = w.weight.data};
        gain.shape = LX_SHAPE(cases[i].c_in);
        for (int normed = 0; normed < 2; normed++) {
            lx_arena_reset(g->scratch, 0);
            for (int k = 0; k < 2; k++) {
                lx_conv conv;
                size_t mark = lx_arena_mark(both[k]->arena);
                both[k]->sums = LX_SUMS_F16;
                gpu_ok(lx_conv_load_normed(both[k], &w.weight, &w.bias, normed ? &gain : NULL,
                                           &conv, err));
                both[k]->sums = LX_SUMS_AUTO;
                used[k] = lx_arena_mark(both[k]->arena) - mark;
            }
            assert_int_equal(used[0], used[1]);
        }
        free_weights(&w);
        gpu_plan_close(&dry);
        start_over(g);
    }
}

/* --- --bench --------------------------------------------------------------------------------- */

typedef struct bench_case {
    shape_case shape;
    const char *where;
    bool residual;
} bench_case;

static const bench_case benches[] = {
    {{384, 384, 3, 3, 1, 60, 104, false, BF16}, "stage 0, 1 frame", true},
    {{384, 384, 3, 3, 4, 60, 104, false, BF16}, "stage 0, 4 frames", true},
    {{384, 384, 3, 3, 21, 60, 104, false, BF16}, "stage 0, 21 frames", true},
    {{384, 768, 1, 1, 1, 60, 104, false, BF16}, "q and k", false},
    {{384, 384, 3, 1, 1, 60, 104, false, BF16}, "time_conv, half", false},
    {{384, 192, 1, 3, 2, 120, 208, true, BF16}, "upsamples.3", false},
    {{192, 384, 3, 3, 2, 120, 208, false, BF16}, "upsamples.4", false},
    {{192, 384, 1, 1, 2, 120, 208, false, BF16}, "upsamples.4 shortcut", false},
    {{384, 384, 3, 3, 1, 120, 208, false, BF16}, "stage 1, 1 frame", true},
    {{384, 384, 3, 3, 2, 120, 208, false, BF16}, "stage 1, 2 frames", true},
    {{384, 384, 3, 3, 4, 120, 208, false, BF16}, "stage 1, 4 frames", true},
    {{384, 384, 3, 1, 2, 120, 208, false, BF16}, "time_conv, half", false},
    {{384, 192, 1, 3, 1, 240, 416, true, BF16}, "upsamples.7", false},
    {{192, 192, 3, 3, 1, 240, 416, false, BF16}, "stage 2, 1 frame", true},
    {{192, 192, 3, 3, 2, 240, 416, false, BF16}, "stage 2, 2 frames", true},
    {{192, 96, 1, 3, 1, 480, 832, true, BF16}, "upsamples.11", false},
    {{96, 96, 3, 3, 1, 480, 832, false, BF16}, "stage 3", true},
    {{96, 96, 3, 3, 1, 480, 832, false, BF16}, "stage 3, no residual", false},
    {{96, 3, 3, 3, 1, 480, 832, false, F32}, "head", false},
    {{48, 48, 3, 3, 1, 240, 416, false, BF16}, "pruned, stage 2", true},
    {{24, 24, 3, 3, 1, 480, 832, false, BF16}, "pruned, stage 3", true},
};

typedef struct bench_call {
    lx_conv conv;
    lx_image in, out;
    const lx_image *residual;
    bool upsample;
    const float *gamma; /* the norm's; NULL: the convolution */
} bench_call;

static void call_once(gpu *g, void *self)
{
    bench_call *b = self;
    lx_err err = {0};
    gpu_must(b->gamma
                 ? lx_channel_norm(&g->x, &b->in, b->gamma, true, &b->out, &err)
                 : lx_conv_run(&g->x, &b->conv, &b->in, b->upsample, b->residual, &b->out, &err),
             &err);
}

/* Memory that holds whatever it held, but numbers: zeros. */
static lx_image bench_image(gpu *g, lx_dtype dtype, int64_t frames, int64_t h, int64_t w, int64_t c)
{
    lx_err err = {0};
    lx_image out = image_host(NULL, frames, h, w, c);
    size_t bytes = (size_t)(frames * h * w * c) * lx_dtype_size(dtype);
    out.dtype = dtype;
    gpu_must(lx_arena_take(g->store, bytes, &out.data, &err), &err);
    gpu_must(lx_zero(&g->x, out.data, bytes, &err), &err);
    return out;
}

/* Zeros would cost less power than a picture: one stretch of noise, again and again. */
static void fill_noise(gpu *g, const lx_image *image)
{
    enum { STRETCH = 1 << 20 };
    lx_err err = {0};
    size_t all = (size_t)(image->frames * image_frame_size(image)) * 2, piece = STRETCH * 2;
    size_t mark = lx_arena_mark(g->store);
    float *values = image_floats(STRETCH, 3, 1, BF16);
    lx_image noise = image_host(values, 1, 1, 1, STRETCH);
    void *from = image_put(g, &noise, 0, 1, BF16);
    for (size_t at = 0; at < all; at += piece)
        gpu_must(lx_copy(&g->x, (char *)image->data + at, from, all - at < piece ? all - at : piece,
                         &err),
                 &err);
    gpu_must(lx_exec_wait(&g->x, &err), &err);
    lx_arena_reset(g->store, mark);
    free(values);
}

static void bench_conv(gpu *g, const bench_case *b, lx_dtype type, double roof)
{
    lx_err err = {0};
    const shape_case *c = &b->shape;
    int64_t k = c->kt * c->ks * c->ks * c->c_in, half = c->upsample ? 2 : 1;
    lx_weight weight = {.name = "w", .dtype = F32}, bias = {.name = "b", .dtype = F32};
    bench_call call = {.upsample = c->upsample};
    char text[192];
    weight.shape = LX_SHAPE(c->c_out, c->c_in, c->kt, c->ks, c->ks);
    bias.shape = LX_SHAPE(c->c_out);
    weight.data = image_floats(k * c->c_out, 1, 0.05f, BF16);
    bias.data = image_floats(c->c_out, 2, 1, F32);
    lx_weight gain = {.name = "g", .dtype = F32, .shape = LX_SHAPE(c->c_in)};
    float *gains = image_floats(c->c_in, 3, 1, F32);
    gain.data = gains;
    g->x.sums = type == F16 ? LX_SUMS_F16 : LX_SUMS_F32;
    gpu_must(lx_conv_load_normed(&g->x, &weight, &bias, &gain, &call.conv, &err), &err);
    g->x.sums = LX_SUMS_AUTO;
    free(gains);
    call.in =
        bench_image(g, type, c->frames + c->kt - 1, c->height / half, c->width / half, c->c_in);
    call.out = bench_image(g, c->out, c->frames, c->height, c->width, c->c_out);
    fill_noise(g, &call.in);
    lx_image out = call.out;
    call.residual = b->residual ? &out : NULL;
    double s = gpu_time(g, call_once, &call);
    snprintf(text, sizeof text, "%-22s %s", b->where, name_of(c, type == F16 ? ", F16 sums" : ""));
    gpu_print_rate(text, s, 2e-12 * (double)(c->frames * c->height * c->width * k * c->c_out),
                   roof);
    free((void *)(uintptr_t)weight.data);
    free((void *)(uintptr_t)bias.data);
    start_over(g);
}

static void bench_norm(gpu *g, int64_t channels, int64_t h, int64_t w, double roof)
{
    char text[64];
    bench_call call = {.in = bench_image(g, BF16, 1, h, w, channels),
                       .out = bench_image(g, BF16, 1, h, w, channels)};
    call.gamma = bench_image(g, F32, 1, 1, 1, channels).data;
    snprintf(text, sizeof text, "norm + SiLU, %lld channels, %lldx%lld", (long long)channels,
             (long long)h, (long long)w);
    gpu_print_bytes(text, gpu_time(g, call_once, &call), 4.0 * (double)(channels * h * w), roof);
    start_over(g);
}

static int bench(gpu *g)
{
    gpu_roof roof = gpu_roof_of(g);
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++) {
        bench_conv(g, &benches[i], BF16, roof.bf16);
        if (serves_f16(&benches[i].shape))
            bench_conv(g, &benches[i], F16, roof.bf16);
    }
    bench_norm(g, 384, 120, 208, roof.gb_per_s);
    bench_norm(g, 192, 240, 416, roof.gb_per_s);
    bench_norm(g, 96, 480, 832, roof.gb_per_s);
    return 0;
}

int main(int argc, char **argv)
{
    static gpu g;
    gpu_open(&g, STORE, SCRATCH);
    if (gpu_wants_bench(argc, argv)) {
        int code = bench(&g);
        gpu_close(&g);
        return code;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_conv_matches_definition, &g),
        cmocka_unit_test_prestate(test_conv_of_f16_matches_definition, &g),
        cmocka_unit_test_prestate(test_conv_takes_f16_only_where_it_fits, &g),
        cmocka_unit_test_prestate(test_conv_history_replaces_the_chunk_before, &g),
        cmocka_unit_test_prestate(test_conv_of_a_window_is_a_window_of_the_conv, &g),
        cmocka_unit_test_prestate(test_conv_writes_every_other_frame, &g),
        cmocka_unit_test_prestate(test_norm_matches_definition, &g),
        cmocka_unit_test_prestate(test_norm_lets_a_nan_through, &g),
        cmocka_unit_test_prestate(test_planes_become_channel_last, &g),
        cmocka_unit_test_prestate(test_conv_dry_peak_is_the_real_peak, &g),
    };
    int code = cmocka_run_group_tests(tests, NULL, NULL);
    gpu_close(&g);
    return code;
}
