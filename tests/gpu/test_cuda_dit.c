/*
 * test_cuda_dit.c - the DiT on a card: goldens, residency, and memory as planned
 * SPDX-License-Identifier: Apache-2.0
 *
 * A card computes with bf16 activations between linears and f32 sums and residual, so the bars are
 * those of bf16. Whatever way the blocks come to the card, the bits are the same.
 *
 * --bench MODEL [WxH [FRAMES [CHUNK [CHOICES]]]]   seconds of a step and where they go; MODEL: the
 *           DiT's folder or file of lx2v-mkmodel. Random numbers as context and latent: no encoder
 *           is needed. CHUNK 0: as planned. CHOICES: attention, and sums behind a colon, as in
 *           auto,int8-fp8,auto:fp16,bf16; without, what differs on this card, the slowest last.
 *           LX2V_ARCH_MAX=86 holds the card to less.
 */
#include "../stages/dit_golden.h"
#include "gpu.h"
#include "lx_config.h"

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

/* Values in FP8: at most 1.3 times what the accurate way may be off. */
static void test_golden_fp8_attention(void **state)
{
    dit_setup how = here();
    golden_bars bars = BARS;
    lx_cuda *card = gpu_card();
    bool has_fp8 = lx_card_has_fp8(lx_cuda_card(card));
    lx_cuda_close(&card);
    if (!has_fp8)
        skip();
    bars.of_quantized *= 1.3;
    bars.of_float *= 1.3;
    how.attention = LX_ATTENTION_INT8_E4M3;
    check_quantized(*state, &how, "int8", BARS.first_int8, &bars);
}

/* Without FP8 a card multiplies the same weights, widened, by activations that are not quantized.
 * From the first quantized linear it is then as far as rounding to E4M3's 3 bits of fraction makes:
 * at most 2^-4 / sqrt 3, for mantissas near 1 (0.0257 here, computed in float32 with the widened
 * weights); and it is nearer to the float32 golden (0.75 and 0.59 Q so computed). */
static void test_golden_fp8(void **state)
{
    dit_setup how = here();
    golden_bars bars = BARS;
    lx_cuda *card = gpu_card();
    bool is_widened = !lx_card_has_fp8(lx_cuda_card(card));
    lx_cuda_close(&card);
    if (is_widened) {
        bars.first_fp8 = 0x1p-4 / sqrt(3.0);
        bars.of_float = 0.9;
    }
    check_quantized(*state, &how, "fp8", bars.first_fp8, &bars);
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

/* The first velocity of a long clip. chunk 0: as large as the card likes, and q, k and v's input
 * kept. The job is the one that plans are made for, so it takes all that was planned: four steps by
 * lcm (noise, modulations) and TEXT_LEN keys of the prompt, the last of them a zero row's. */
static float *long_clip(lx_attention_choice attention, int64_t chunk)
{
    static const lx_patch_dims clip = {16, 3, 64, 96};
    lx_err err = {0};
    dit *model = NULL;
    dit_engine *engine = NULL;
    dit_schedule schedule;
    lx_rng rng = {.kind = LX_RNG_LX2V};
    const size_t n = latent_size(&clip);
    float *latent = normals(4, n), *velocity = floats(N_STEPS * n);
    dit_setup setup = here();
    setup.largest = clip;
    setup.attention = attention;
    const dit_options options = {.text_len = TEXT_LEN, .chunk = chunk};
    dit_schedule_default(&schedule);
    if (dit_load(&model, LX2V_BUILD_DIR "/golden/distill_int8", &options, NULL, &err) != LX_OK ||
        dit_engine_open(&engine, model, &setup, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    const dit_memory *m = dit_engine_memory(engine);
    assert_true(m->keeps_normed == (chunk == 0));
    print_message("chunks of %d: %s\n", (int)m->chunk, m->attention_how);
    float *context = normals(6, (TEXT_LEN - 1) * (size_t)dit_dims(model)->text_dim);
    dit_request r = {.latent = clip,
                     .context = context,
                     .n_context = TEXT_LEN - 1,
                     .schedule = &schedule,
                     .sampler = LX_SAMPLER_LCM,
                     .rng = &rng,
                     .velocity = velocity};
    if (dit_denoise(engine, &r, latent, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_int_equal(lx_arena_peak(dit_engine_exec(engine)->arena),
                     m->weights + m->slots + m->activations);
    dit_engine_close(&engine);
    dit_destroy(&model);
    free(latent), free(context);
    return velocity;
}

/* Rows know nothing of their chunk; the head's product may sum in another order. And INT8 attention
 * of a whole model is near BF16's. */
static void test_chunks_change_nothing(void **state)
{
    (void)state;
    static const int64_t chunks[] = {512, 1024, 4096};
    const size_t n = (size_t)16 * 3 * 64 * 96;
    float *bf16 = long_clip(LX_ATTENTION_BF16, 0);
    for (int choice = LX_ATTENTION_AUTO; choice <= LX_ATTENTION_BF16; choice++) {
        lx_cuda *card = gpu_card();
        bool has_fp8 = lx_card_has_fp8(lx_cuda_card(card));
        lx_cuda_close(&card);
        if (choice == LX_ATTENTION_INT8_E4M3 && !has_fp8)
            continue;
        float *want = long_clip((lx_attention_choice)choice, 0);
        expect_at_most(rel_l2(want, bf16, n), 0.05, "velocity beside that of bf16 attention");
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            float *got = long_clip((lx_attention_choice)choice, chunks[i]);
            expect_at_most(rel_l2(got, want, n), 1e-4, "in smaller chunks, nothing kept");
            free(got);
        }
        float *again = long_clip((lx_attention_choice)choice, 0);
        assert_memory_equal(again, want, n * sizeof *want);
        free(again), free(want);
    }
    free(bf16);
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

/* --- --bench --------------------------------------------------------------------------------- */

#define BENCH_STEPS 3
#define BENCH_TEXT  126 /* tokens of a usual prompt */
#define MARKS       65536

static void must(lx_status status, const lx_err *err)
{
    if (status == LX_OK)
        return;
    printf("%s: %s\n", lx_status_name(status), err->message);
    exit(1);
}

static void print_profile(const lx_cuda_timed *all, int n)
{
    static const char *const families[] = {"attention", "linear", "other", "all else"};
    double whole = 0, sum[4] = {0};
    for (int i = 0; i < n; i++)
        whole += all[i].s;
    for (int i = 0; i < n; i++) {
        printf("    %9.2f ms %5.1f %% %7.1f calls  %s\n", all[i].s / BENCH_STEPS * 1e3,
               100 * all[i].s / whole, (double)all[i].n / BENCH_STEPS, all[i].what);
        for (int f = 0; f < 4; f++)
            sum[f] += strncmp(all[i].what, families[f], strlen(families[f])) ? 0 : all[i].s;
    }
    for (int f = 0; f < 4; f++)
        printf("    %9.2f ms %5.1f %% of a step: all of \"%s\"\n", sum[f] / BENCH_STEPS * 1e3,
               100 * sum[f] / whole, families[f]);
}

/* A step to warm up, then BENCH_STEPS that count; the first of these makes the prompt's keys. */
static void bench_engine(dit_engine *engine, dit_request *r, float *latent)
{
    static const int32_t labels[BENCH_STEPS] = {1000, 750, 500};
    lx_cuda_timed all[LX_CUDA_TIMED_MOST];
    dit_schedule schedule;
    double step_s[BENCH_STEPS];
    int64_t n_lost;
    lx_err err = {0};
    r->schedule = &schedule;
    r->step_s = step_s;
    must(dit_schedule_make(&schedule, labels, 1, 5, &err), &err);
    must(dit_denoise(engine, r, latent, &err), &err);
    printf("    the step that warms up: %.3f s\n", step_s[0]);
    must(dit_schedule_make(&schedule, labels, BENCH_STEPS, 5, &err), &err);
    must(dit_denoise(engine, r, latent, &err), &err);
    for (int i = 0; i < BENCH_STEPS; i++)
        printf("    step %d: %.3f s\n", i + 1, step_s[i]);
    must(lx_cuda_clock_open(dit_engine_exec(engine), MARKS, &err), &err);
    must(dit_denoise(engine, r, latent, &err), &err);
    int n = lx_cuda_clock_read(dit_engine_exec(engine), all, &n_lost, &err);
    must(n < 0 ? err.status : LX_OK, &err);
    print_profile(all, n);
    if (n_lost)
        printf("    %d operations were not timed\n", (int)n_lost);
}

static void bench_choice(dit *model, const lx_patch_dims *clip, lx_attention_choice attention,
                         lx_accumulate_choice accumulate)
{
    lx_err err = {0};
    dit_engine *engine = NULL;
    const size_t n_text = BENCH_TEXT * (size_t)dit_dims(model)->text_dim;
    float *latent = normals(5, latent_size(clip)), *context = normals(6, n_text);
    dit_setup setup = here();
    setup.largest = *clip;
    setup.attention = attention;
    setup.accumulate = accumulate;
    dit_request r = {.latent = *clip, .context = context, .n_context = BENCH_TEXT};
    lx_status status = dit_engine_open(&engine, model, &setup, NULL, &err);
    printf("attention: %s, accumulate: %s\n", lx_attention_names[attention],
           lx_accumulate_names[accumulate]);
    if (status == LX_ECONFIG) {
        printf("    %s\n", err.message);
    } else {
        must(status, &err);
        const dit_memory *m = dit_engine_memory(engine);
        printf("    %s: %s, chunks of %d, %d of %d blocks resident, %.2f GiB\n",
               lx_exec_describe(dit_engine_exec(engine)), m->attention_how, (int)m->chunk,
               (int)m->n_resident, (int)m->n_blocks, (double)m->total / 0x1p30);
        bench_engine(engine, &r, latent);
    }
    dit_engine_close(&engine);
    free(latent), free(context);
}

/* "auto,int8-fp8,auto:fp16": one after the other. */
static void bench_choices(dit *model, const lx_patch_dims *clip, const char *choices)
{
    char list[256], *rest = NULL;
    snprintf(list, sizeof list, "%s", choices);
    for (char *one = strtok_r(list, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
        lx_err err = {0};
        lx_attention_choice attention;
        lx_accumulate_choice accumulate = LX_ACCUMULATE_AUTO;
        char *sums = strchr(one, ':');
        if (sums) {
            *sums = '\0';
            must(lx_config_set_accumulate(&accumulate, sums + 1, &err), &err);
        }
        must(lx_config_set_attention(&attention, one, &err), &err);
        bench_choice(model, clip, attention, accumulate);
    }
}

static int bench_dit(int argc, char **argv)
{
    lx_err err = {0};
    dit *model = NULL;
    int width = 832, height = 480, frames = argc > 4 ? atoi(argv[4]) : 81;
    if (argc < 3 || (argc > 3 && sscanf(argv[3], "%dx%d", &width, &height) != 2)) {
        printf("usage: test_cuda_dit --bench MODEL [WxH [FRAMES [CHUNK [CHOICES]]]]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* what is known is told, whenever it is ended */
    const dit_options options = {.chunk = argc > 5 ? atoi(argv[5]) : 0};
    must(dit_load(&model, argv[2], &options, NULL, &err), &err);
    const lx_patch_dims clip = {dit_dims(model)->in_dim, (frames - 1) / 4 + 1, height / 8,
                                width / 8};
    lx_cuda *card = gpu_card();
    bool has_wgmma = lx_card_has_wgmma(lx_cuda_card(card));
    bool has_fp8 = lx_card_has_fp8(lx_cuda_card(card));
    lx_cuda_close(&card);
    bench_choices(model, &clip,
                  argc > 6    ? argv[6]
                  : has_wgmma ? "auto,int8-fp8,bf16"
                  : has_fp8   ? "auto:fp32,auto:fp16,int8-fp8:fp32,int8-fp8:fp16,bf16"
                              : "auto:fp32,auto:fp16,bf16");
    dit_destroy(&model);
    return 0;
}

int main(int argc, char **argv)
{
    if (gpu_wants_bench(argc, argv)) {
        gpu_skip_without_card();
        return bench_dit(argc, argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_float),
        cmocka_unit_test(test_golden_lcm),
        cmocka_unit_test(test_golden_int8),
        cmocka_unit_test(test_golden_int8_attention),
        cmocka_unit_test(test_golden_fp8_attention),
        cmocka_unit_test(test_golden_fp8),
        cmocka_unit_test(test_chunks_change_nothing),
        cmocka_unit_test(test_residency_changes_no_bit),
        cmocka_unit_test(test_memory_is_as_planned),
    };
    gpu_skip_without_card();
    return cmocka_run_group_tests(tests, golden_open, golden_close);
}
