/*
 * test_dit_attention.c - which attention is chosen on which card and what is said about it; what is
 * done with the room that a card has
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_golden.h"

static const lx_card_kind rtx3060 = {.name = "NVIDIA GeForce RTX 3060",
                                     .index = -1,
                                     .major = 8,
                                     .minor = 6,
                                     .n_sm = 28,
                                     .shared_bytes = 99 << 10,
                                     .total_bytes = (uint64_t)12 << 30};
static const lx_card_kind rtx4090 = {.name = "NVIDIA GeForce RTX 4090",
                                     .index = -1,
                                     .major = 8,
                                     .minor = 9,
                                     .n_sm = 128,
                                     .shared_bytes = 99 << 10,
                                     .total_bytes = (uint64_t)24 << 30};
static const lx_card_kind a100 = {.name = "NVIDIA A100",
                                  .index = -1,
                                  .major = 8,
                                  .n_sm = 108,
                                  .shared_bytes = 163 << 10,
                                  .total_bytes = (uint64_t)40 << 30};
static const lx_card_kind h100 = {.name = "NVIDIA H100",
                                  .index = -1,
                                  .major = 9,
                                  .n_sm = 132,
                                  .shared_bytes = 227 << 10,
                                  .total_bytes = (uint64_t)80 << 30};

static const lx_card_kind held = {.name = "NVIDIA H100",
                                  .index = -1,
                                  .major = 8,
                                  .minor = 6,
                                  .n_sm = 132,
                                  .shared_bytes = 99 << 10,
                                  .total_bytes = (uint64_t)80 << 30,
                                  .is_from = 90};

static const lx_card_kind held89 = {.name = "NVIDIA H100",
                                    .index = -1,
                                    .major = 8,
                                    .minor = 9,
                                    .n_sm = 132,
                                    .shared_bytes = 99 << 10,
                                    .total_bytes = (uint64_t)80 << 30,
                                    .is_from = 90};

static const lx_patch_dims LONG_CLIP = {16, 3, 64, 96}, SHORT_CLIP = {16, 3, 8, 12};

static dit *open_this(const char *path, int64_t chunk)
{
    dit *model = NULL;
    lx_err err = {0};
    const dit_options options = {.text_len = TEXT_LEN, .chunk = chunk, .is_header_only = true};
    if (dit_load(&model, path, &options, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    return model;
}

static dit *open_model(void)
{
    return open_this(GOLDEN "distill_model.safetensors", 0);
}

typedef struct asked {
    const lx_card_kind *card;
    lx_attention_choice attention;
    lx_accumulate_choice accumulate;
    bool is_short;
    lx_attention_kind kind;
    lx_sums sums;
    const char *says; /* of the sentence, or of the error: words */
} asked;

static lx_status plan(const dit *model, const asked *a, dit_memory *m, lx_err *err)
{
    const dit_setup setup = {.vram = (uint64_t)8 << 30,
                             .attention = a->attention,
                             .accumulate = a->accumulate,
                             .largest = a->is_short ? SHORT_CLIP : LONG_CLIP};
    return dit_plan(model, a->card, &setup, m, err);
}

static void test_choice_follows_card_and_length(void **state)
{
    (void)state;
    dit *model = open_model();
    const lx_attention_kind PLAIN = LX_ATTENTION_PLAIN, I8 = LX_ATTENTION_INT8,
                            FP8 = LX_ATTENTION_INT8_FP8;
    const asked all[] = {
        {&rtx3060, LX_ATTENTION_AUTO, 0, false, I8, LX_SUMS_F16,
         "int8-fp16 by mma.sync, sums in fp16"},
        {&rtx3060, LX_ATTENTION_AUTO, LX_ACCUMULATE_FP32, false, I8, LX_SUMS_F32, "sums in fp32"},
        {&rtx3060, LX_ATTENTION_BF16, 0, false, PLAIN, LX_SUMS_F32,
         "bf16 by mma.sync, sums in fp32; as"},
        {&a100, LX_ATTENTION_AUTO, 0, false, I8, LX_SUMS_F32,
         "sums in fp32; auto: clips of up to 4608"},
        {&a100, LX_ATTENTION_INT8_FP16, LX_ACCUMULATE_FP16, false, I8, LX_SUMS_F16, "as asked for"},
        {&held, LX_ATTENTION_AUTO, 0, false, I8, LX_SUMS_F32,
         "int8-fp16 by mma.sync, sums in fp32"},
        {&held, LX_ATTENTION_AUTO, LX_ACCUMULATE_FP16, false, I8, LX_SUMS_F16, "sums in fp16"},
        {&rtx4090, LX_ATTENTION_AUTO, 0, false, I8, LX_SUMS_F16,
         "int8-fp16 by mma.sync, sums in fp16"},
        {&rtx4090, LX_ATTENTION_INT8_E4M3, 0, false, FP8, LX_SUMS_F16,
         "int8-fp8 by mma.sync, sums in fp16 over 64 keys; as asked for"},
        {&rtx4090, LX_ATTENTION_INT8_E4M3, LX_ACCUMULATE_FP32, false, FP8, LX_SUMS_F32,
         "int8-fp8 by mma.sync, sums in fp32"},
        {&held89, LX_ATTENTION_INT8_E4M3, 0, false, FP8, LX_SUMS_F32,
         "int8-fp8 by mma.sync, sums in fp32"},
        {&h100, LX_ATTENTION_AUTO, 0, false, I8, LX_SUMS_F32, "int8-fp16 by wgmma"},
        {&h100, LX_ATTENTION_INT8_E4M3, 0, false, FP8, LX_SUMS_F32, "int8-fp8 by wgmma"},
        {&h100, LX_ATTENTION_AUTO, 0, true, PLAIN, LX_SUMS_F32,
         "72 tokens are few, int8 pays from 2048"},
        {&h100, LX_ATTENTION_INT8_FP16, 0, true, I8, LX_SUMS_F32, "int8-fp16 by wgmma"},
        {NULL, LX_ATTENTION_AUTO, 0, false, PLAIN, LX_SUMS_AUTO, "on the CPU"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        dit_memory m;
        lx_err err = {0};
        if (plan(model, &all[i], &m, &err) != LX_OK)
            fail_msg("case %d: %s", (int)i, err.message);
        if (m.attention != all[i].kind || m.sums != all[i].sums ||
            !strstr(m.attention_how, all[i].says))
            fail_msg("case %d: kind %d, sums %d: %s", (int)i, (int)m.attention, (int)m.sums,
                     m.attention_how);
    }
    dit_destroy(&model);
}

static void test_what_a_card_has_not_is_refused_by_name(void **state)
{
    (void)state;
    dit *model = open_model();
    const asked all[] = {
        {&rtx3060, LX_ATTENTION_INT8_E4M3, 0, false, 0, 0, "needs a card of 8.9 or later"},
        {&rtx3060, LX_ATTENTION_INT8_E4M3, 0, false, 0, 0, "RTX 3060 (sm_86)"},
        {&rtx3060, LX_ATTENTION_INT8_E4M3, 0, false, 0, 0, "it can int8-fp16, bf16, or auto"},
        {&rtx3060, LX_ATTENTION_BF16, LX_ACCUMULATE_FP16, false, 0, 0,
         "accumulate: fp16 is for int8-fp16"},
        {&held, LX_ATTENTION_INT8_E4M3, 0, false, 0, 0, "H100 (sm_86)"},
        {&h100, LX_ATTENTION_AUTO, LX_ACCUMULATE_FP16, false, 0, 0, "sums in fp32, at full rate"},
        {&h100, LX_ATTENTION_INT8_E4M3, LX_ACCUMULATE_FP16, false, 0, 0, "with int8-fp8 sums"},
        {NULL, LX_ATTENTION_INT8_FP16, 0, false, 0, 0, "on the CPU attention is fp32"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        dit_memory m;
        lx_err err = {0};
        assert_int_equal(plan(model, &all[i], &m, &err), LX_ECONFIG);
        if (!strstr(err.message, all[i].says))
            fail_msg("case %d: %s", (int)i, err.message);
    }
    dit_destroy(&model);
}

/* What is left of the card becomes larger chunks and a kept input; what is short takes it back. */
static void test_what_is_left_is_used(void **state)
{
    (void)state;
    dit *model = open_model();
    lx_err err = {0};
    dit_memory roomy, tight;
    dit_setup setup = {.vram = (uint64_t)8 << 30, .largest = {16, 21, 96, 128}};
    assert_int_equal(dit_plan(model, &h100, &setup, &roomy, &err), LX_OK);
    assert_true(roomy.chunk > 4096 && roomy.keeps_normed);
    assert_true(roomy.total <= setup.vram);
    setup.vram = roomy.total - 1;
    assert_int_equal(dit_plan(model, &h100, &setup, &tight, &err), LX_OK);
    assert_true(tight.total <= setup.vram);
    assert_true(tight.chunk < roomy.chunk || !tight.keeps_normed);
    assert_int_equal(tight.n_resident, roomy.n_resident);
    dit_destroy(&model);
}

/* With the very bytes that n blocks take, n blocks stay; with one byte less, one fewer. The last
 * two take no more than the slots that they do without. */
static void test_as_many_blocks_stay_as_fit(void **state)
{
    (void)state;
    dit *model = open_this(LX2V_SOURCE_DIR "/models/demo/distill_models", 256);
    const int64_t n_blocks = dit_dims(model)->n_blocks;
    assert_true(n_blocks >= 6);
    for (int64_t n = 1; n < n_blocks; n++) {
        lx_err err = {0};
        dit_memory by_hand, exact, less;
        dit_setup setup = {.vram = (uint64_t)8 << 30,
                           .residency = LX_RESIDENCY_PARTIAL,
                           .n_resident = n,
                           .largest = SHORT_CLIP};
        assert_int_equal(dit_plan(model, &rtx3060, &setup, &by_hand, &err), LX_OK);
        assert_int_equal(by_hand.n_resident, n);
        setup.residency = n % 2 ? LX_RESIDENCY_AUTO : LX_RESIDENCY_PARTIAL; /* of 0: as many */
        setup.n_resident = 0;
        setup.vram = by_hand.total;
        assert_int_equal(dit_plan(model, &rtx3060, &setup, &exact, &err), LX_OK);
        setup.vram--;
        assert_int_equal(dit_plan(model, &rtx3060, &setup, &less, &err), LX_OK);
        bool is_near = n >= n_blocks - 2;
        int64_t most = is_near ? n_blocks : n, fewer = is_near ? n_blocks - 3 : n - 1;
        if (exact.n_resident != most || less.n_resident != fewer)
            fail_msg("%d of %d blocks: %d with all bytes, %d with one less", (int)n, (int)n_blocks,
                     (int)exact.n_resident, (int)less.n_resident);
    }
    dit_destroy(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_many_blocks_stay_as_fit),
        cmocka_unit_test(test_choice_follows_card_and_length),
        cmocka_unit_test(test_what_a_card_has_not_is_refused_by_name),
        cmocka_unit_test(test_what_is_left_is_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
