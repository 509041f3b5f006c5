/*
 * test_selftest_checks.c - the verdicts of `lx2v selftest` on tensors made to be good or bad
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
#include <unistd.h>

#include <cmocka.h>

#include "cli_selftest.h"
#include "lx_rng.h"

static const lx_model_paths paths = {.text = "T5.pth", .dit = "DIT", .vae = "VAE.pth"};
static selftest s;
static char folder[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/lx2v-checks-XXXXXX");
    return !mkdtemp(folder) || chdir(folder) != 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return chdir("/") != 0 || system(command) != 0;
}

static int begin(void **state)
{
    (void)state;
    memset(&s, 0, sizeof s);
    s.paths = &paths;
    return 0;
}

static const selftest_check *find(const char *what)
{
    for (int i = 0; i < s.n; i++)
        if (strcmp(s.check[i].what, what) == 0)
            return &s.check[i];
    fail_msg("no check \"%s\"", what);
    return NULL;
}

static void expect(const char *what, selftest_verdict verdict)
{
    const selftest_check *c = find(what);
    if (c->verdict != verdict)
        fail_msg("%s: verdict %d, wanted %d: %s", what, (int)c->verdict, (int)verdict, c->value);
    assert_true((verdict == SELFTEST_WARNING || verdict == SELFTEST_FAILED) == (*c->advice != 0));
}

static void normal(uint32_t draw, size_t n, float *out)
{
    lx_rng rng = {.kind = LX_RNG_LX2V};
    lx_rng_normal(&rng, 5, draw, n, out);
}

static lx_named_tensor f32(const char *name, lx_shape shape, float *data)
{
    return (lx_named_tensor){name, {.dtype = LX_DTYPE_F32, .shape = shape, .data = data}};
}

static void write_file(const char *path, const lx_named_tensor *tensors, size_t n)
{
    lx_err err = {0};
    if (lx_safetensors_write(path, tensors, n, &err) != LX_OK)
        fail_msg("%s", err.message);
}

/* --- vae -------------------------------------------------------------------------------------- */

enum { SIDE = 64, FILM = 4, FRAMES_N = 3 * FILM * SIDE * SIDE };
static float frames[FRAMES_N];

static void judge_frames(void)
{
    lx_err err = {0};
    lx_named_tensor t = f32("frames", LX_SHAPE(3, FILM, SIDE, SIDE), frames);
    write_file("frames.safetensors", &t, 1);
    if (selftest_vae(&s, "frames.safetensors", &err) != LX_OK)
        fail_msg("%s", err.message);
}

/* A bright ball on a slope of grey, which moves by a pixel a frame. */
static void draw_film(void)
{
    for (int c = 0; c < 3; c++)
        for (int t = 0; t < FILM; t++)
            for (int y = 0; y < SIDE; y++)
                for (int x = 0; x < SIDE; x++) {
                    double d = hypot(x - 30 - t, y - 20) / 9;
                    frames[((c * FILM + t) * SIDE + y) * SIDE + x] =
                        (float)(0.6 * exp(-d * d) + 0.008 * (y - 32) + 0.1 * c - 0.2);
                }
}

static void test_a_film_is_no_noise(void **state)
{
    (void)state;
    draw_film();
    judge_frames();
    expect("frames", SELFTEST_OK);
    expect("contrast", SELFTEST_OK);
    expect("smoothness", SELFTEST_OK);
}

static void test_white_noise_is_noise(void **state)
{
    (void)state;
    normal(0, FRAMES_N, frames);
    judge_frames();
    expect("smoothness", SELFTEST_WARNING);
    assert_non_null(strstr(find("smoothness")->advice, "looks like noise"));
}

/* What a decoder makes of a latent of noise: 8 x 8 pixels of each value, one tint a picture. */
static void test_noise_in_blocks_with_a_tint_is_noise(void **state)
{
    (void)state;
    enum { BLOCKS = SIDE / 8 };
    float values[3 * FILM * BLOCKS * BLOCKS];
    normal(0, 3 * FILM * BLOCKS * BLOCKS, values);
    for (int p = 0; p < 3 * FILM; p++)
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++)
                frames[(p * SIDE + y) * SIDE + x] =
                    0.2f * values[(p * BLOCKS + y / 8) * BLOCKS + x / 8] + (float)(p % 5);
    judge_frames();
    expect("smoothness", SELFTEST_WARNING);
}

static void test_one_colour_is_no_picture(void **state)
{
    (void)state;
    for (int i = 0; i < FRAMES_N; i++)
        frames[i] = 0.5f;
    judge_frames();
    expect("contrast", SELFTEST_WARNING);
    expect("smoothness", SELFTEST_OK); /* said once */
}

static void test_frames_with_nan_fail(void **state)
{
    (void)state;
    draw_film();
    frames[77] = NAN;
    judge_frames();
    expect("frames", SELFTEST_FAILED);
    assert_non_null(strstr(find("frames")->advice, "VAE.pth"));
}

/* --- dit -------------------------------------------------------------------------------------- */

enum { LATENT_N = 16 * 2 * 8 * 8, STEPS = 4 };
static float noise[LATENT_N], clip[LATENT_N], latent[LATENT_N], velocity[STEPS * LATENT_N];
static float sigmas[STEPS] = {1, 0.9375f, 0.83333331f, 0.625f};

/* Velocities and the latent they lead to. towards: what the model takes for the clip. */
static void denoise(const float *towards)
{
    memcpy(latent, noise, sizeof noise);
    for (int k = 0; k < STEPS; k++) {
        float next = k + 1 < STEPS ? sigmas[k + 1] : 0;
        for (int i = 0; i < LATENT_N; i++) {
            velocity[k * LATENT_N + i] = noise[i] - towards[i];
            latent[i] += (next - sigmas[k]) * velocity[k * LATENT_N + i];
        }
    }
}

static void judge_latent(void)
{
    lx_err err = {0};
    lx_named_tensor t[] = {f32("noise", LX_SHAPE(16, 2, 8, 8), noise),
                           f32("latent", LX_SHAPE(16, 2, 8, 8), latent),
                           f32("velocity", LX_SHAPE(STEPS, 16, 2, 8, 8), velocity),
                           f32("sigmas", LX_SHAPE(STEPS), sigmas)};
    write_file("latent.safetensors", t, 4);
    if (selftest_dit(&s, "latent.safetensors", &err) != LX_OK)
        fail_msg("%s", err.message);
}

static void test_a_model_that_finds_a_clip_is_good(void **state)
{
    (void)state;
    normal(0, LATENT_N, noise);
    normal(1, LATENT_N, clip);
    denoise(clip);
    judge_latent();
    expect("velocities", SELFTEST_OK);
    expect("first velocity and noise", SELFTEST_OK); /* about 0.71 */
    expect("sampler's sum", SELFTEST_OK);
    expect("latent and noise", SELFTEST_OK);
    expect("its spread", SELFTEST_VALUE);
}

static void test_velocities_that_ignore_the_noise_are_warned_of(void **state)
{
    (void)state;
    normal(0, LATENT_N, noise);
    normal(1, LATENT_N, clip);
    for (int i = 0; i < LATENT_N; i++)
        clip[i] += noise[i]; /* so the velocity is -clip alone */
    denoise(clip);
    judge_latent();
    expect("first velocity and noise", SELFTEST_WARNING);
}

static void test_a_wrong_sum_fails(void **state)
{
    (void)state;
    normal(0, LATENT_N, noise);
    normal(1, LATENT_N, clip);
    denoise(clip);
    latent[100] += 0.01f;
    judge_latent();
    expect("sampler's sum", SELFTEST_FAILED);
}

static void test_a_latent_that_is_the_noise_fails(void **state)
{
    (void)state;
    normal(0, LATENT_N, noise);
    denoise(noise);
    judge_latent();
    expect("latent and noise", SELFTEST_FAILED);
}

/* --- encoder ---------------------------------------------------------------------------------- */

enum { WIDTH = 4096, TOKENS = 28 };
static float context[TOKENS * WIDTH];

static void write_context(const char *path, uint32_t draw, float rms, const int32_t *ids)
{
    int32_t own[TOKENS] = {0};
    normal(draw, TOKENS * WIDTH, context);
    for (int i = 0; i < TOKENS * WIDTH; i++)
        context[i] *= rms;
    if (ids)
        memcpy(own, ids, sizeof own);
    lx_named_tensor t[] = {
        f32("context", LX_SHAPE(TOKENS, WIDTH), context),
        {"ids", {.dtype = LX_DTYPE_I32, .shape = LX_SHAPE(TOKENS), .data = own}}};
    write_file(path, t, 2);
}

static void judge_contexts(void)
{
    lx_err err = {0};
    if (selftest_encoder(&s, "a.safetensors", "b.safetensors", "c.safetensors", &err) != LX_OK)
        fail_msg("%s", err.message);
}

static void test_contexts_of_the_real_encoder_have_ranges(void **state)
{
    (void)state;
    /* text encoders of the published size; the ids are those of the first prompt */
    static const int32_t ids[TOKENS] = {
        16349, 289, 182785, 97899, 1931,  6283,  281, 301, 547, 15817,  273, 126058, 39668, 333,
        48918, 273, 181062, 281,   43495, 53302, 751, 369, 289, 214337, 505, 17687,  274,   1};
    s.t5 = (lx_t5_dims){.vocab = 256384, .dim = 4096, .n_layers = 24};
    write_context("a.safetensors", 0, 0.08f, ids);
    write_context("b.safetensors", 0, 0.08f, ids);
    write_context("c.safetensors", 1, 0.08f, NULL);
    judge_contexts();
    expect("tokens of prompt 1", SELFTEST_OK);
    expect("tokens of prompt 2", SELFTEST_FAILED);
    expect("spread (rms)", SELFTEST_OK);
    expect("same prompt, same bits", SELFTEST_OK);
    expect("other prompt, other context", SELFTEST_OK);
    assert_true(s.must_act);
}

static void test_contexts_that_are_too_large_are_warned_of(void **state)
{
    (void)state;
    s.t5 = (lx_t5_dims){.vocab = 256384, .dim = 4096, .n_layers = 24};
    write_context("a.safetensors", 0, 1, NULL);
    write_context("b.safetensors", 0, 1, NULL);
    write_context("c.safetensors", 1, 1, NULL);
    judge_contexts();
    expect("spread (rms)", SELFTEST_WARNING);
    expect("largest value", SELFTEST_WARNING);
}

static void test_bits_that_change_and_prompts_without_effect_fail(void **state)
{
    (void)state;
    write_context("a.safetensors", 0, 0.08f, NULL);
    write_context("c.safetensors", 0, 0.08f, NULL);
    context[5] += 1e-6f;
    int32_t ids[TOKENS] = {0};
    lx_named_tensor t[] = {
        f32("context", LX_SHAPE(TOKENS, WIDTH), context),
        {"ids", {.dtype = LX_DTYPE_I32, .shape = LX_SHAPE(TOKENS), .data = ids}}};
    write_file("b.safetensors", t, 2);
    judge_contexts();
    expect("same prompt, same bits", SELFTEST_FAILED);
    expect("other prompt, other context", SELFTEST_FAILED);
    expect("spread (rms)", SELFTEST_VALUE); /* no dimensions of UMT5-XXL */
}

/* --- mux -------------------------------------------------------------------------------------- */

static void judge_mux(const char *json, selftest_verdict verdict)
{
    lx_err err = {0};
    s.n = 0;
    assert_int_equal(selftest_mux(&s, json, 5, &err), LX_OK);
    expect("clip", verdict);
}

static void test_frames_of_a_clip_are_counted(void **state)
{
    (void)state;
    lx_err err = {0};
    judge_mux("{\"codec\": \"h264\", \"frames\": 5, \"decoded\": 5}", SELFTEST_OK);
    judge_mux("{\"codec\": \"h264\", \"frames\": 5, \"decoded\": null}", SELFTEST_OK);
    judge_mux("{\"codec\": \"h264\", \"frames\": 5, \"decoded\": 4}", SELFTEST_FAILED);
    judge_mux("{\"codec\": \"h264\", \"frames\": 4, \"decoded\": 4}", SELFTEST_FAILED);
    assert_int_equal(selftest_mux(&s, "nonsense", 5, &err), LX_ESTAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_film_is_no_noise, begin),
        cmocka_unit_test_setup(test_white_noise_is_noise, begin),
        cmocka_unit_test_setup(test_noise_in_blocks_with_a_tint_is_noise, begin),
        cmocka_unit_test_setup(test_one_colour_is_no_picture, begin),
        cmocka_unit_test_setup(test_frames_with_nan_fail, begin),
        cmocka_unit_test_setup(test_a_model_that_finds_a_clip_is_good, begin),
        cmocka_unit_test_setup(test_velocities_that_ignore_the_noise_are_warned_of, begin),
        cmocka_unit_test_setup(test_a_wrong_sum_fails, begin),
        cmocka_unit_test_setup(test_a_latent_that_is_the_noise_fails, begin),
        cmocka_unit_test_setup(test_contexts_of_the_real_encoder_have_ranges, begin),
        cmocka_unit_test_setup(test_contexts_that_are_too_large_are_warned_of, begin),
        cmocka_unit_test_setup(test_bits_that_change_and_prompts_without_effect_fail, begin),
        cmocka_unit_test_setup(test_frames_of_a_clip_are_counted, begin),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
