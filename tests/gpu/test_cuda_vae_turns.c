/*
 * test_cuda_vae_turns.c - the decoder packs its weights again for each turn, to the same bits
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../stages/vae_fixture.h"
#include "gpu.h"

#define PATH LX2V_BUILD_DIR "/test_cuda_vae_turns.safetensors"

static uint64_t free_bytes(lx_cuda *card)
{
    uint64_t bytes = 0, total;
    lx_err err = {0};
    gpu_must(lx_cuda_memory(card, &bytes, &total, &err), &err);
    return bytes;
}

static void test_turns_change_no_bit(void **state)
{
    (void)state;
    lx_err err = {0};
    vae *model = NULL;
    vae_clip clip = {.frames = 3, .height = 12, .width = 16, .chunk = 1};
    vae_options o = {.weights = PATH, .device = gpu_device(), .largest = clip, .is_deferred = true};
    fixture_write(PATH, 24, false);
    gpu_must(vae_open(&model, &o, &err), &err);
    uint64_t planned = vae_planned_bytes(model);
    gpu_must(vae_take(model, &err), &err);
    assert_true(vae_arena_bytes(model) == planned);
    lx_cuda *card = vae_exec(model)->cuda;
    float *latent = fixture_latent(&clip, "latent");
    fixture_frames want = fixture_decode(model, &clip, latent);
    for (int turn = 0; turn < 3; turn++) {
        uint64_t held = free_bytes(card);
        double from = gpu_now_s();
        vae_give(model);
        uint64_t given = free_bytes(card);
        gpu_must(vae_take(model, &err), &err);
        print_message("planned %.1f MiB, given back %.1f MiB; both ways %.1f ms\n",
                      (double)planned / 0x1p20, ((double)given - (double)held) / 0x1p20,
                      (gpu_now_s() - from) * 1e3);
        assert_true(given >= held + planned);
        fixture_frames got = fixture_decode(model, &clip, latent);
        assert_memory_equal(got.data, want.data, fixture_size(&want) * sizeof(float));
        free(got.data);
    }
    vae_keep_memory(model); /* from here on it stays, and the checkpoint is gone */
    fixture_frames got = fixture_decode(model, &clip, latent);
    assert_memory_equal(got.data, want.data, fixture_size(&want) * sizeof(float));
    free(got.data), free(want.data), free(latent);
    vae_destroy(&model);
    unlink(PATH);
}

int main(void)
{
    gpu_skip_without_card();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_turns_change_no_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
