/*
 * test_vae_golden.c - `run` against the golden frames, with its flags, dumps and refusals
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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vae.h"

#define GOLDEN  LX2V_SOURCE_DIR "/tests/golden/"
#define WEIGHTS GOLDEN "Wan2.1_VAE.pth"
#define IN      LX2V_BUILD_DIR "/test_vae_golden_in.safetensors"
#define OUT     LX2V_BUILD_DIR "/test_vae_golden_out.safetensors"
#define LIMIT   2e-4 /* relative L2 of frames */

static lx_weights *golden, *result;

static lx_weight tensor_of(const lx_weights *file, const char *name)
{
    lx_weight w;
    if (!lx_weights_find(file, name, &w))
        fail_msg("%s: no tensor %s", lx_weights_path(file), name);
    return w;
}

static size_t count_of(const lx_weight *w)
{
    uint64_t n;
    assert_int_equal(lx_shape_bytes(&w->shape, w->dtype, &n, NULL, NULL), LX_OK);
    return (size_t)n;
}

static float *floats_of(const lx_weight *w)
{
    float *out = malloc(count_of(w) * sizeof *out);
    assert_non_null(out);
    assert_true(lx_widen_to_f32(out, w->data, w->dtype, count_of(w)));
    return out;
}

/* `run` in a process of its own, as a user calls it; extra: up to four more words. */
static int run(const char *input, const char *const *extra)
{
    lx_weights_close(&result);
    unlink(OUT);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const char *argv[16] = {"--weights", WEIGHTS, "--input", input, "--output", OUT};
        int argc = 6;
        while (extra && *extra)
            argv[argc++] = *extra++;
        if (!freopen("/dev/null", "w", stderr))
            _exit(99);
        _exit(vae_run(argc, (char **)(uintptr_t)argv));
    }
    int state = 0;
    assert_int_equal(waitpid(child, &state, 0), child);
    assert_true(WIFEXITED(state));
    if (WEXITSTATUS(state) == 0)
        assert_int_equal(lx_weights_open(&result, OUT, NULL, NULL), LX_OK);
    return WEXITSTATUS(state);
}

static void write_latent(const char *name, const float *data, const lx_shape *shape)
{
    lx_named_tensor t = {
        .name = name,
        .tensor = {.dtype = LX_DTYPE_F32, .shape = *shape, .data = (void *)(uintptr_t)data}};
    assert_int_equal(lx_safetensors_write(IN, &t, 1, NULL), LX_OK);
}

static void write_golden_latent(const char *name)
{
    lx_weight w = tensor_of(golden, name);
    write_latent("latent", w.data, &w.shape);
}

static void near_golden(const char *got_name, const char *want_name, double limit)
{
    lx_weight g = tensor_of(result, got_name), w = tensor_of(golden, want_name);
    assert_true(lx_shape_equal(&g.shape, &w.shape));
    float *got = floats_of(&g), *want = floats_of(&w);
    double difference = 0, square = 0;
    for (size_t i = 0; i < count_of(&g); i++) {
        difference += pow((double)got[i] - want[i], 2);
        square += pow(want[i], 2);
        assert_true(got[i] >= -1 && got[i] <= 1);
    }
    if (!(sqrt(difference / square) <= limit))
        fail_msg("%s: relative L2 %.3g, allowed %.3g", want_name, sqrt(difference / square), limit);
    free(got), free(want);
}

static void test_vae_golden_frames(void **state)
{
    (void)state;
    write_golden_latent("vae.latent");
    assert_int_equal(run(IN, NULL), 0);
    near_golden("frames", "vae.frames", 1e-5);
    const char *const flags[] = {"--chunk", "3", "--tile", "3x5", NULL};
    assert_int_equal(run(IN, flags), 0);
    near_golden("frames", "vae.frames", 1e-5);
}

static void test_vae_golden_pipeline(void **state)
{
    (void)state;
    write_golden_latent("dit.latent_out");
    assert_int_equal(run(IN, NULL), 0);
    near_golden("frames", "pipeline.frames", LIMIT); /* stored as F16 */
    lx_weight got = tensor_of(result, "rgb8"), want = tensor_of(golden, "pipeline.rgb8");
    assert_int_equal(got.dtype, LX_DTYPE_U8);
    assert_true(lx_shape_equal(&got.shape, &want.shape));
    size_t n = count_of(&got), different = 0;
    for (size_t i = 0; i < n; i++) {
        int a = ((const uint8_t *)got.data)[i], b = ((const uint8_t *)want.data)[i];
        assert_true(abs(a - b) <= 1);
        different += a != b;
    }
    assert_true(different * 1000 <= n); /* at rounding edges only */
}

static void test_vae_run_dumps_layers_by_name(void **state)
{
    (void)state;
    const char *const flags[] = {"--dump", "conv2,decoder.upsamples.3,decoder.head.2", "--chunk",
                                 "2", NULL};
    write_golden_latent("vae.latent");
    assert_int_equal(run(IN, flags), 0);
    lx_shape conv2 = LX_SHAPE(16, 3, 8, 12), up = LX_SHAPE(16, 5, 16, 24);
    lx_weight head = tensor_of(result, "decoder.head.2"), frames = tensor_of(result, "frames");
    lx_weight low = tensor_of(result, "conv2"), middle = tensor_of(result, "decoder.upsamples.3");
    assert_true(lx_shape_equal(&low.shape, &conv2));
    assert_true(lx_shape_equal(&middle.shape, &up));
    assert_true(lx_shape_equal(&head.shape, &frames.shape));
    const float *a = head.data, *b = frames.data;
    for (size_t i = 0; i < count_of(&head); i++)
        assert_true(b[i] == fminf(fmaxf(a[i], -1), 1)); /* frames are the head's output, clamped */
    const char *const unknown[] = {"--dump", "decoder.upsample.3", NULL};
    assert_int_equal(run(IN, unknown), 2);
    const char *const tiled[] = {"--dump", "decoder.upsamples.3", "--tile", "4x4", NULL};
    assert_int_equal(run(IN, tiled), 2);
    const char *const trunk[] = {"--dump", "decoder.upsamples.2", "--tile", "4x4", NULL};
    assert_int_equal(run(IN, trunk), 0);
    tensor_of(result, "decoder.upsamples.2");
}

static void test_vae_run_refuses(void **state)
{
    (void)state;
    static const char *const wrong[][3] = {{"--chunk", "0"},
                                           {"--chunk", "x"},
                                           {"--tile", "4"},
                                           {"--tile", "0x4"},
                                           {"--device", "tpu:0"},
                                           {"--tiles", "4x4"},
                                           {"--weights", GOLDEN "config.json"},
                                           {"--weights", GOLDEN "distill_model.safetensors"}};
    write_golden_latent("vae.latent");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (run(IN, wrong[i]) != 2)
            fail_msg("%s %s was not refused as usage", wrong[i][0], wrong[i][1]);
    const char *const small[] = {"--vram", "1MiB", NULL};
    assert_int_equal(run(IN, small), 3);
    assert_int_equal(run(LX2V_BUILD_DIR "/no-such-file.safetensors", NULL), 2);
    const float zeros[15 * 4] = {0};
    lx_shape shape = LX_SHAPE(15, 1, 2, 2);
    write_latent("latent", zeros, &shape);
    assert_int_equal(run(IN, NULL), 2);
    shape = LX_SHAPE(1, 2, 2);
    write_latent("latent", zeros, &shape);
    assert_int_equal(run(IN, NULL), 2);
    write_latent("latents", zeros, &shape);
    assert_int_equal(run(IN, NULL), 2);
    assert_int_equal(access(OUT, F_OK), -1);
}

static void test_vae_run_refuses_a_latent_that_is_not_finite(void **state)
{
    (void)state;
    float latent[16 * 4] = {0};
    lx_shape shape = LX_SHAPE(16, 1, 2, 2);
    latent[9] = NAN;
    write_latent("latent", latent, &shape);
    assert_int_equal(run(IN, NULL), 1);
    latent[9] = 0;
    write_latent("latent", latent, &shape);
    assert_int_equal(run(IN, NULL), 0); /* one frame: time_conv is never used */
    lx_shape want = LX_SHAPE(3, 1, 16, 16);
    lx_weight frames = tensor_of(result, "frames");
    assert_true(lx_shape_equal(&frames.shape, &want));
}

static int setup(void **state)
{
    (void)state;
    return lx_weights_open(&golden, GOLDEN "io.safetensors", NULL, NULL) != LX_OK;
}

static int teardown(void **state)
{
    (void)state;
    lx_weights_close(&golden);
    lx_weights_close(&result);
    unlink(IN);
    unlink(OUT);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vae_golden_frames),
        cmocka_unit_test(test_vae_golden_pipeline),
        cmocka_unit_test(test_vae_run_dumps_layers_by_name),
        cmocka_unit_test(test_vae_run_refuses),
        cmocka_unit_test(test_vae_run_refuses_a_latent_that_is_not_finite),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
