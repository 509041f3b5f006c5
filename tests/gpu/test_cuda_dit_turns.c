/*
 * test_cuda_dit_turns.c - the DiT gives its memory back to the card, takes it again, is the same
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../stages/dit_golden.h"
#include "gpu.h"
#include "lx_device.h"

#define TURNS 3

static uint64_t free_bytes(lx_cuda *card)
{
    uint64_t bytes = 0, total;
    lx_err err = {0};
    gpu_must(lx_cuda_memory(card, &bytes, &total, &err), &err);
    return bytes;
}

/* From the golden noise, into latent. */
static void run(lx_weights *io, dit_engine *engine, const dit *model, float *latent)
{
    lx_err err = {0};
    dit_schedule schedule;
    size_t n_context, n;
    const float *context = golden(io, "t5.context", &n_context);
    const float *start = golden(io, "dit.latent_in", &n);
    memcpy(latent, start, n * sizeof *latent);
    dit_schedule_default(&schedule);
    dit_request r = {.latent = DIMS,
                     .context = context,
                     .n_context = (int64_t)n_context / dit_dims(model)->text_dim,
                     .schedule = &schedule};
    gpu_must(dit_denoise(engine, &r, latent, &err), &err);
}

static void check_turns(lx_weights *io, lx_residency_choice residency)
{
    lx_err err = {0};
    dit *model = NULL;
    dit_engine *engine = NULL;
    size_t n = latent_size(&DIMS);
    float *first = floats(n), *again = floats(n);
    dit_options options = {.text_len = TEXT_LEN, .is_header_only = true};
    dit_setup setup = {
        .device = gpu_device(), .largest = DIMS, .residency = residency, .is_deferred = true};
    gpu_must(dit_load(&model, GOLDEN "distill_model.safetensors", &options, NULL, &err), &err);
    gpu_must(dit_engine_open(&engine, model, &setup, NULL, &err), &err);
    const dit_memory *m = dit_engine_memory(engine);
    uint64_t arena = m->weights + m->slots + m->activations;
    gpu_must(dit_engine_take(engine, NULL, &err), &err);
    lx_cuda *card = dit_engine_exec(engine)->cuda;
    run(io, engine, model, first);
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t held = free_bytes(card);
        double from = gpu_now_s();
        dit_engine_give(engine);
        uint64_t given = free_bytes(card);
        double between = gpu_now_s();
        gpu_must(dit_engine_take(engine, NULL, &err), &err);
        uint64_t taken = free_bytes(card);
        print_message(
            "residency %s: arena %.2f MiB, given back %.2f MiB in %.1f ms, taken again in "
            "%.1f ms\n",
            lx_residency_names[residency], (double)arena / 0x1p20,
            ((double)given - (double)held) / 0x1p20, (between - from) * 1e3,
            (gpu_now_s() - between) * 1e3);
        assert_true(given >= held + arena);     /* what it says it gave is really free */
        assert_true(taken + (4 << 20) >= held); /* and it grows by nothing */
        run(io, engine, model, again);
        assert_memory_equal(first, again, n * sizeof *first);
    }
    dit_engine_give(engine);
    dit_engine_close(&engine); /* also without memory */
    dit_destroy(&model);
    free(first);
    free(again);
}

static void test_turns_resident(void **state)
{
    check_turns(*state, LX_RESIDENCY_RESIDENT);
}

static void test_turns_streamed(void **state)
{
    check_turns(*state, LX_RESIDENCY_HOST);
}

/* The card is full of something else: nothing is taken, and later it is. */
static void test_turns_wait_for_memory(void **state)
{
    lx_err err = {0};
    dit *model = NULL;
    dit_engine *engine = NULL;
    lx_cuda *other = NULL;
    lx_arena *hog = NULL;
    int index;
    size_t n = latent_size(&DIMS);
    float *latent = floats(n);
    dit_options options = {.text_len = TEXT_LEN, .is_header_only = true};
    dit_setup setup = {.device = gpu_device(), .largest = DIMS, .is_deferred = true};
    gpu_must(lx_device_find(&index, gpu_device(), &err), &err);
    gpu_must(dit_load(&model, GOLDEN "distill_model.safetensors", &options, NULL, &err), &err);
    gpu_must(dit_engine_open(&engine, model, &setup, NULL, &err), &err);
    gpu_must(lx_cuda_open(&other, index, NULL, &err), &err);
    uint64_t all = free_bytes(other);
    for (uint64_t keep = 2 << 20; !hog && keep < all; keep *= 2)
        if (lx_cuda_arena(other, (size_t)(all - keep), &hog, &err) != LX_OK)
            hog = NULL;
    assert_non_null(hog);
    const dit_memory *m = dit_engine_memory(engine);
    uint64_t arena = m->weights + m->slots + m->activations;
    if (free_bytes(other) < arena) {
        assert_int_equal(dit_engine_take(engine, NULL, &err), LX_EAGAIN);
        print_message("%s\n", err.message);
        assert_non_null(strstr(err.message, "are needed"));
    } else {
        print_message("%.1f MiB are left beside the hog: too many to be refused\n",
                      (double)free_bytes(other) / 0x1p20);
    }
    lx_arena_destroy(&hog);
    gpu_must(dit_engine_take(engine, NULL, &err), &err);
    run(*state, engine, model, latent);
    dit_engine_close(&engine);
    dit_destroy(&model);
    lx_cuda_close(&other);
    free(latent);
}

int main(void)
{
    gpu_skip_without_card();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns_resident),
        cmocka_unit_test(test_turns_streamed),
        cmocka_unit_test(test_turns_wait_for_memory),
    };
    return cmocka_run_group_tests(tests, golden_open, golden_close);
}
