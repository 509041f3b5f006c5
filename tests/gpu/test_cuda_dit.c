/*
 * test_cuda_dit.c - the DiT on a card: goldens, residency, and memory as planned
 * SPDX-License-Identifier: Apache-2.0
 *
 * A card computes with bf16 activations between linears and f32 sums and residual, so the bars are
 * those of bf16. Whatever way the blocks come to the card, the bits are the same.
 */
#include "../stages/dit_golden.h"
#include "gpu.h"

static const golden_bars BARS = {.velocity = 1e-2,
                                 .latent = 1e-2,
                                 .lcm = 1e-2,
                                 .first_int8 = 4e-3,
                                 .first_fp8 = 4e-3,
                                 .of_quantized = 1.1,
                                 .of_float = 1.15};

static dit_setup here(void)
{
    return (dit_setup){.device = gpu_device()};
}

static void test_golden_float(void **state)
{
    dit_setup how = here();
    check_float(*state, &how, &BARS);
}

static void test_golden_lcm(void **state)
{
    dit_setup how = here();
    check_lcm(*state, &how, &BARS);
}

static void test_golden_int8(void **state)
{
    dit_setup how = here();
    check_quantized(*state, &how, "int8", BARS.first_int8, &BARS);
}

static void test_golden_int8_attention(void **state)
{
    dit_setup how = here();
    how.attention = LX_ATTENTION_INT8_FP16;
    check_quantized(*state, &how, "int8", BARS.first_int8, &BARS);
}

static void test_golden_fp8(void **state)
{
    dit_setup how = here();
    check_quantized(*state, &how, "fp8", BARS.first_fp8, &BARS);
}

/* Blocks that stay, that travel from memory or from disk, and some of each: one result. */
static void test_residency_changes_no_bit(void **state)
{
    const char *weights = GOLDEN "distill_model.safetensors";
    const float *start = golden(*state, "dit.latent_in", NULL);
    static const struct {
        lx_residency_choice residency;
        int64_t n_resident;
        uint64_t pinned; /* 4096: the smallest buffers there are */
    } ways[] = {{LX_RESIDENCY_HOST, 0, 4096},    {LX_RESIDENCY_HOST, 0, 4096},
                {LX_RESIDENCY_HOST, 0, 0},       {LX_RESIDENCY_PARTIAL, 1, 4096},
                {LX_RESIDENCY_PARTIAL, 0, 0},    {LX_RESIDENCY_DISK, 0, 4096},
                {LX_RESIDENCY_DISK, 0, 8 << 20}, {LX_RESIDENCY_AUTO, 0, 0}};
    dit_setup setup = here();
    result a, b;
    setup.residency = LX_RESIDENCY_RESIDENT;
    denoise(*state, &setup, weights, LX_SAMPLER_EULER, start, &a);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        setup.residency = ways[i].residency;
        setup.n_resident = ways[i].n_resident;
        setup.pinned = ways[i].pinned;
        denoise(*state, &setup, weights, LX_SAMPLER_EULER, start, &b);
        print_message("residency %s:%d\n", lx_residency_names[ways[i].residency],
                      (int)ways[i].n_resident);
        assert_memory_equal(a.latent, b.latent, latent_size(&DIMS) * sizeof(float));
        result_free(&b);
    }
    result_free(&a);
}

/* What the plan says is what the arenas reach, neither more nor less. */
static void test_memory_is_as_planned(void **state)
{
    lx_err err = {0};
    dit *model = NULL;
    dit_engine *engine = NULL;
    dit_schedule schedule;
    size_t n_context, n = latent_size(&DIMS);
    const float *context = golden(*state, "t5.context", &n_context);
    float *latent = normals(3, n);
    dit_setup setup = here();
    dit_schedule_default(&schedule);
    setup.largest = DIMS;
    for (int streaming = 0; streaming < 2; streaming++) {
        setup.residency = streaming ? LX_RESIDENCY_HOST : LX_RESIDENCY_AUTO;
        if (dit_load(&model, GOLDEN "distill_model.safetensors",
                     &(dit_options){.text_len = TEXT_LEN, .is_uncollapsed = true}, NULL,
                     &err) != LX_OK ||
            dit_engine_open(&engine, model, &setup, NULL, &err) != LX_OK)
            fail_msg("%s", err.message);
        lx_rng rng = {.kind = LX_RNG_LX2V};
        dit_request r = {.latent = DIMS,
                         .context = context,
                         .n_context = (int64_t)n_context / dit_dims(model)->text_dim,
                         .schedule = &schedule,
                         .sampler = LX_SAMPLER_LCM,
                         .rng = &rng};
        const dit_memory *m = dit_engine_memory(engine);
        lx_exec *x = dit_engine_exec(engine);
        for (int i = 0; i < 2; i++)
            if (dit_denoise(engine, &r, latent, &err) != LX_OK)
                fail_msg("%s", err.message);
        assert_int_equal(lx_arena_peak(x->arena), m->weights + m->slots + m->activations);
        assert_int_equal(m->n_resident, streaming ? 0 : m->n_blocks);
        dit_engine_close(&engine);
        dit_destroy(&model);
    }
    free(latent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_float),
        cmocka_unit_test(test_golden_lcm),
        cmocka_unit_test(test_golden_int8),
        cmocka_unit_test(test_golden_int8_attention),
        cmocka_unit_test(test_golden_fp8),
        cmocka_unit_test(test_residency_changes_no_bit),
        cmocka_unit_test(test_memory_is_as_planned),
    };
    gpu_skip_without_card();
    return cmocka_run_group_tests(tests, golden_open, golden_close);
}
