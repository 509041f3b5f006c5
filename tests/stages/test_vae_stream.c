/*
 * test_vae_stream.c - chunks, tiles and threads change nothing; nothing is left of an earlier clip
 * SPDX-License-Identifier: Apache-2.0
 */
#include "vae_fixture.h"

#define WEIGHTS LX2V_BUILD_DIR "/test_vae_stream.safetensors"
#define LIMIT   1e-6 /* relative L2: what chunking, tiling and threads may change */

/* Wide enough for tiles whose halo does not reach the frame's edge. */
static const vae_clip whole = {.frames = 4, .height = 4, .width = 20, .chunk = 1};
static float *latent;
static fixture_frames want;

static void same(const fixture_frames *got, const fixture_frames *expected)
{
    double difference = 0, square = 0;
    assert_int_equal(fixture_size(got), fixture_size(expected));
    for (size_t i = 0; i < fixture_size(got); i++) {
        difference += pow((double)got->data[i] - expected->data[i], 2);
        square += pow(expected->data[i], 2);
    }
    if (!(sqrt(difference / square) <= LIMIT))
        fail_msg("relative L2 %.3g", sqrt(difference / square));
}

static void decode_and_compare(const vae_clip *clip, int threads)
{
    vae *model = fixture_open(WEIGHTS, *clip, threads);
    fixture_frames got = fixture_decode(model, clip, latent);
    same(&got, &want);
    free(got.data);
    vae_destroy(&model);
}

static void test_vae_chunks_change_nothing(void **state)
{
    (void)state;
    for (int64_t chunk = 2; chunk <= 5; chunk++) {
        vae_clip clip = whole;
        clip.chunk = chunk;
        decode_and_compare(&clip, 0);
    }
}

static void test_vae_tiles_change_nothing(void **state)
{
    (void)state;
    static const int tiles[][2] = {{4, 20}, {4, 8}, {2, 12}, {3, 5}, {64, 3}};
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
        vae_clip clip = whole;
        clip.tile_h = tiles[i][0];
        clip.tile_w = tiles[i][1];
        clip.chunk = 1 + (int64_t)i;
        decode_and_compare(&clip, 0);
    }
}

static void test_vae_tiles_of_a_tall_clip(void **state)
{
    (void)state;
    vae_clip tall = {.frames = 2, .height = 20, .width = 3, .chunk = 1};
    float *z = fixture_latent(&tall, "latent");
    vae *model = fixture_open(WEIGHTS, tall, 0), *tiled;
    fixture_frames one = fixture_decode(model, &tall, z), many;
    tall.tile_h = 3;
    tall.tile_w = 2;
    tiled = fixture_open(WEIGHTS, tall, 0);
    many = fixture_decode(tiled, &tall, z);
    same(&many, &one);
    assert_int_equal(many.n_calls, one.n_calls * 7 * 2);
    free(one.data), free(many.data), free(z);
    vae_destroy(&model);
    vae_destroy(&tiled);
}

static void test_vae_threads_change_nothing(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads++)
        decode_and_compare(&whole, threads);
}

static void test_vae_same_settings_give_same_bits(void **state)
{
    (void)state;
    vae *model = fixture_open(WEIGHTS, whole, 2);
    for (int i = 0; i < 2; i++) {
        fixture_frames got = fixture_decode(model, &whole, latent);
        assert_memory_equal(got.data, want.data, fixture_size(&want) * sizeof(float));
        free(got.data);
    }
    vae_destroy(&model);
}

/* A clip after another, after a smaller one and after one that was cut short. */
static lx_status stop_at_second(void *self, const char *unit, uint64_t done, uint64_t total,
                                lx_err *err)
{
    (void)total;
    assert_string_equal(unit, "chunk");
    *(uint64_t *)self = done;
    return done < 2 ? LX_OK : lx_fail(err, LX_ECANCEL, "enough");
}

static void test_vae_remembers_nothing_of_earlier_clips(void **state)
{
    (void)state;
    lx_err err = {0};
    uint64_t done = 0;
    const lx_progress progress = {.step = stop_at_second, .self = &done};
    vae_clip small = {.frames = 2, .height = 3, .width = 5, .chunk = 1}, tiled = whole;
    vae *model = fixture_open(WEIGHTS, whole, 0);
    lx_exec *x = vae_exec(model);
    size_t mark = lx_arena_mark(x->arena);
    float *other = fixture_latent(&whole, "another");
    fixture_frames got = fixture_decode(model, &whole, other);
    assert_memory_not_equal(got.data, want.data, fixture_size(&want) * sizeof(float));
    free(got.data);
    got = fixture_decode(model, &small, other);
    free(got.data);
    assert_int_equal(vae_decode(vae_decoder_of(model), x, &whole, other, NULL, &progress, &err),
                     LX_ECANCEL);
    assert_int_equal(done, 2);
    tiled.tile_h = tiled.tile_w = 12;
    assert_int_equal(vae_decode(vae_decoder_of(model), x, &tiled, other, NULL, &progress, &err),
                     LX_ECANCEL);
    assert_int_equal(lx_arena_mark(x->arena), mark);
    got = fixture_decode(model, &whole, latent);
    assert_memory_equal(got.data, want.data, fixture_size(&want) * sizeof(float));
    free(got.data), free(other);
    vae_destroy(&model);
}

static void test_vae_frame_counts(void **state)
{
    (void)state;
    static const int64_t frames[][2] = {{1, 1}, {2, 5}, {3, 9}, {21, 81}};
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        vae_clip clip = {.frames = frames[i][0], .height = 1, .width = 2, .chunk = 4};
        vae *model = fixture_open(WEIGHTS, clip, 0);
        float *z = fixture_latent(&clip, "latent");
        fixture_frames got = fixture_decode(model, &clip, z);
        assert_int_equal(got.frames, frames[i][1]);
        for (size_t k = 0; k < fixture_size(&got); k++)
            assert_true(isfinite(got.data[k]));
        free(got.data), free(z);
        vae_destroy(&model);
    }
}

/* The first frame of a clip is the image that its first latent alone gives: the decoder is causal.
 * And what comes later is not: time_conv's history begins after it. */
static void test_vae_is_causal(void **state)
{
    (void)state;
    vae_clip one = {.frames = 1, .height = whole.height, .width = whole.width, .chunk = 1};
    int64_t pixels = whole.height * whole.width;
    float *z = fixture_latent(&one, "unused");
    for (int64_t c = 0; c < 16; c++)
        memcpy(z + c * pixels, latent + c * whole.frames * pixels, (size_t)pixels * sizeof *z);
    vae *model = fixture_open(WEIGHTS, whole, 0);
    fixture_frames got = fixture_decode(model, &one, z);
    size_t n = (size_t)(got.height * got.width);
    for (int64_t c = 0; c < 3; c++)
        assert_memory_equal(got.data + c * (int64_t)n, want.data + c * want.frames * (int64_t)n,
                            n * sizeof(float));
    free(got.data), free(z);
    vae_destroy(&model);
}

/* Frames arrive while later ones are still to be decoded, in order: mux encodes meanwhile. */
typedef struct order {
    int64_t next, calls, chunks;
} order;

static lx_status note_order(void *self, const vae_frames *frames, lx_err *err)
{
    (void)err;
    order *o = self;
    assert_int_equal(frames->place.out_frame, o->next);
    assert_int_equal(frames->place.width, 8 * whole.width);
    if (o->next == frames->chunk_first)
        o->chunks++;
    o->next += frames->place.in->frames;
    o->calls++;
    return o->calls < 6 ? LX_OK : LX_EJOB;
}

static void test_vae_hands_frames_on_and_stops_when_told(void **state)
{
    (void)state;
    order o = {0};
    vae_sink sink = {.frames = note_order, .self = &o};
    vae *model = fixture_open(WEIGHTS, whole, 0);
    assert_int_equal(
        vae_decode(vae_decoder_of(model), vae_exec(model), &whole, latent, &sink, NULL, NULL),
        LX_EJOB);
    assert_int_equal(o.calls, 6);
    assert_int_equal(o.chunks, 3); /* 1 + 4 + the first of the third */
    vae_destroy(&model);
}

static void test_vae_memory_is_what_was_planned(void **state)
{
    (void)state;
    for (int tiles = 0; tiles < 2; tiles++)
        for (int64_t chunk = 1; chunk <= 4; chunk += 3) {
            vae_clip clip = whole;
            clip.chunk = chunk;
            clip.tile_h = clip.tile_w = tiles ? 9 : 0;
            vae *model = fixture_open(WEIGHTS, clip, 2);
            fixture_frames got = fixture_decode(model, &clip, latent);
            assert_int_equal(lx_arena_peak(vae_exec(model)->arena), vae_arena_bytes(model));
            free(got.data);
            vae_destroy(&model);
        }
}

/* A budget that the whole frame passes leads to tiles, with the same result; one that nothing fits
 * is refused with figures; a clip larger than planned fails and says so. */
static void test_vae_budget_leads_to_tiles(void **state)
{
    (void)state;
    lx_err err = {0};
    const vae_clip wide = {.frames = 2, .height = 2, .width = 50, .chunk = 1};
    vae *model = fixture_open(WEIGHTS, wide, 1), *tight = NULL;
    uint64_t activations = vae_arena_bytes(model) - vae_weight_bytes(model);
    vae_options o = {.weights = WEIGHTS, .device = "cpu", .threads = 1, .largest = wide};
    float *z = fixture_latent(&wide, "latent");
    fixture_frames one = fixture_decode(model, &wide, z), many;
    o.budget = activations * 9 / 10;
    if (vae_open(&tight, &o, &err) != LX_OK)
        fail_msg("%s", err.message);
    vae_clip clip = *vae_largest(tight);
    assert_true(clip.tile_w > 0 && clip.tile_w < wide.width);
    assert_true(vae_arena_bytes(tight) - vae_weight_bytes(tight) <= o.budget);
    many = fixture_decode(tight, &clip, z);
    same(&many, &one);
    clip.height *= 3;
    float *large = fixture_latent(&clip, "latent");
    assert_int_equal(
        vae_decode(vae_decoder_of(tight), vae_exec(tight), &clip, large, NULL, NULL, &err),
        LX_EJOB);
    assert_non_null(strstr(err.message, "MiB"));
    free(one.data), free(many.data), free(large), free(z);
    vae_destroy(&model);
    vae_destroy(&tight);
    o.budget = 1 << 16;
    assert_int_equal(vae_open(&tight, &o, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, "does not fit"));
    assert_null(tight);
}

static void test_vae_names_a_latent_that_is_not_finite(void **state)
{
    (void)state;
    lx_err err = {0};
    vae *model = fixture_open(WEIGHTS, whole, 0);
    int64_t pixels = whole.height * whole.width;
    float *z = fixture_latent(&whole, "latent");
    assert_int_equal(vae_latent_check(z, &whole, &err), LX_OK);
    z[(5 * whole.frames + 2) * pixels + 3 * whole.width + 7] = -INFINITY;
    assert_int_equal(vae_latent_check(z, &whole, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "channel 5, frame 2, row 3, column 7"));
    free(z);
    vae_destroy(&model);
}

static void test_vae_refuses_bad_clips(void **state)
{
    (void)state;
    vae *model = fixture_open(WEIGHTS, whole, 0);
    const vae_clip bad[] = {{0, 1, 1, 1, 0, 0, 0},  {1, 0, 1, 1, 0, 0, 0},
                            {1, 1, -1, 1, 0, 0, 0}, {1, 1, 1, 0, 0, 0, 0},
                            {1, 1, 1, 1, 0, 0, 4},  {1, 1, 1, 1, 0, -1, -1},
                            {1, 1, 1, 1, 5, 0, 0},  {1, 1 << 20, 1, 1, 0, 0, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(
            vae_decode(vae_decoder_of(model), vae_exec(model), &bad[i], latent, NULL, NULL, NULL),
            LX_EJOB);
    vae_destroy(&model);
}

static int setup(void **state)
{
    (void)state;
    fixture_write(WEIGHTS, 4, false);
    latent = fixture_latent(&whole, "latent");
    vae *model = fixture_open(WEIGHTS, whole, 2);
    want = fixture_decode(model, &whole, latent);
    vae_destroy(&model);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(WEIGHTS);
    free(latent), free(want.data);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vae_frame_counts),
        cmocka_unit_test(test_vae_same_settings_give_same_bits),
        cmocka_unit_test(test_vae_chunks_change_nothing),
        cmocka_unit_test(test_vae_tiles_change_nothing),
        cmocka_unit_test(test_vae_tiles_of_a_tall_clip),
        cmocka_unit_test(test_vae_threads_change_nothing),
        cmocka_unit_test(test_vae_is_causal),
        cmocka_unit_test(test_vae_remembers_nothing_of_earlier_clips),
        cmocka_unit_test(test_vae_hands_frames_on_and_stops_when_told),
        cmocka_unit_test(test_vae_memory_is_what_was_planned),
        cmocka_unit_test(test_vae_budget_leads_to_tiles),
        cmocka_unit_test(test_vae_names_a_latent_that_is_not_finite),
        cmocka_unit_test(test_vae_refuses_bad_clips),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
