/*
 * test_encoder_run.c - `lx2v-encoder run`: files in, files out, and what it refuses
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "encoder.h"
#include "encoder_helpers.h"
#include "lx_log.h"

#define OUTPUT    LX2V_BUILD_DIR "/test_encoder_run.safetensors"
#define INPUT     LX2V_BUILD_DIR "/test_encoder_run_in.safetensors"
#define TOKENIZER LX2V_BUILD_DIR "/test_encoder_run.json"

static int run(const char *const *words)
{
    char *argv[24];
    int argc = 0;
    for (; words[argc]; argc++)
        argv[argc] = (char *)words[argc];
    unlink(OUTPUT);
    return encoder_run(argc, argv);
}

#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static int write_files(void **state)
{
    (void)state;
    lx_err err = {0};
    int32_t ids[] = {4, 7, 1};
    const lx_named_tensor in = {.name = "ids", .tensor = {LX_DTYPE_I32, LX_SHAPE(3), .data = ids}};
    FILE *file = fopen(TOKENIZER, "w");
    if (!file || fputs(json_small(), file) < 0 || fclose(file) != 0)
        return 1;
    return lx_safetensors_write(INPUT, &in, 1, &err) == LX_OK ? 0 : 1;
}

static int remove_files(void **state)
{
    (void)state;
    unlink(TOKENIZER);
    unlink(INPUT);
    unlink(OUTPUT);
    return 0;
}

static void expect_output(const int32_t *ids, int64_t n, float **context)
{
    lx_weights *w = NULL;
    lx_weight t;
    lx_err err = {0};
    assert_int_equal(lx_weights_open(&w, OUTPUT, NULL, &err), LX_OK);
    assert_true(lx_weights_find(w, "ids", &t));
    assert_int_equal(t.dtype, LX_DTYPE_I32);
    assert_int_equal(t.shape.n_dims, 1);
    assert_int_equal(t.shape.dim[0], n);
    assert_memory_equal(t.data, ids, (size_t)n * sizeof *ids);
    assert_true(lx_weights_find(w, "context", &t));
    assert_int_equal(t.dtype, LX_DTYPE_F32);
    assert_int_equal(t.shape.dim[0], n);
    assert_int_equal(t.shape.dim[1], 128);
    *context = malloc((size_t)n * 128 * sizeof **context);
    memcpy(*context, t.data, (size_t)n * 128 * sizeof **context);
    lx_weights_close(&w);
}

static void test_prompt_and_its_ids_give_the_same_context(void **state)
{
    (void)state;
    const int32_t ids[] = {4, 7, 1};
    float *from_prompt, *from_ids;
    assert_int_equal(RUN("--weights", T5("bf16"), "--tokenizer", TOKENIZER, "--prompt",
                         " \xEF\xBD\x81"
                         "b&nbsp;",
                         "--output", OUTPUT, "--threads", "2"),
                     0);
    expect_output(ids, 3, &from_prompt);
    assert_int_equal(
        RUN("--weights", T5("bf16"), "--input", INPUT, "--output", OUTPUT, "--residency", "host"),
        0);
    expect_output(ids, 3, &from_ids);
    assert_memory_equal(from_prompt, from_ids, 3 * 128 * sizeof(float));
    free(from_prompt);
    free(from_ids);
}

static void test_usage_is_exit_2_and_writes_nothing(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(RUN("--weights", T5("bf16"), "--output", OUTPUT), 2);
    assert_int_equal(
        RUN("--weights", T5("bf16"), "--prompt", "a", "--input", INPUT, "--output", OUTPUT), 2);
    assert_int_equal(RUN("--weights", T5("bf16"), "--input", INPUT), 2);
    assert_int_equal(RUN("--wieghts", T5("bf16"), "--input", INPUT, "--output", OUTPUT), 2);
    assert_int_equal(
        RUN("--weights", GOLDEN "/Wan2.1_VAE.pth", "--input", INPUT, "--output", OUTPUT), 2);
    assert_int_equal(
        RUN("--weights", T5("bf16"), "--input", INPUT, "--output", OUTPUT, "--device", "gpu"), 2);
    assert_int_equal(
        RUN("--weights", T5("bf16"), "--input", INPUT, "--output", OUTPUT, "--device", "cuda:63"),
        2); /* no driver, no module or no such card */
    assert_int_equal(RUN("--weights", T5("bf16"), "--input", INPUT, "--output", OUTPUT, "--dump",
                         "blocks.9.attn.q"),
                     2);
    const char *const residencies[] = {"disc", "", "partial:2"};
    for (size_t i = 0; i < sizeof residencies / sizeof *residencies; i++)
        assert_int_equal(RUN("--weights", T5("bf16"), "--input", INPUT, "--output", OUTPUT,
                             "--residency", residencies[i]),
                         2);
    assert_int_equal(RUN("--weights", T5("bf16"), "--input", INPUT, "--output", OUTPUT,
                         "--residency", "disk"), /* on the CPU */
                     2);
    /* no tokenizer beside the weights; three checkpoints in the folder; ids beyond the table */
    assert_int_equal(RUN("--weights", T5("bf16"), "--prompt", "a", "--output", OUTPUT), 2);
    assert_int_equal(RUN("--weights", GOLDEN, "--input", INPUT, "--output", OUTPUT), 2);
    assert_int_equal(RUN("--weights", T5("bf16"), "--tokenizer", GOLDEN "/tokenizer", "--prompt",
                         "a", "--output", OUTPUT),
                     2);
    assert_int_not_equal(stat(OUTPUT, &st), 0);
}

static void test_failures_have_their_codes(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(RUN("--weights", T5("bf16"), "--tokenizer", TOKENIZER, "--prompt", "a\xFF",
                         "--output", OUTPUT),
                     1);
    assert_int_equal(
        RUN("--weights", T5("bf16"), "--input", INPUT, "--output", OUTPUT, "--vram", "1KiB"), 3);
    assert_int_not_equal(stat(OUTPUT, &st), 0);
}

static void test_notices(void **state)
{
    (void)state;
    char text[LX_LIMIT_TEXT];
    encoder_prompt prompt = {.counts = {.n = 512, .n_dropped = 90}};
    encoder_notice(&prompt, text, sizeof text);
    assert_string_equal(text, "the prompt has 602 tokens, 512 fit: the last 90 were dropped");
    prompt.looks_garbled = true;
    encoder_notice(&prompt, text, sizeof text);
    assert_non_null(strstr(text, "dropped; the prompt looks as if"));
    prompt = (encoder_prompt){.counts = {.n = 3}};
    encoder_notice(&prompt, text, sizeof text);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_and_its_ids_give_the_same_context),
        cmocka_unit_test(test_usage_is_exit_2_and_writes_nothing),
        cmocka_unit_test(test_failures_have_their_codes),
        cmocka_unit_test(test_notices),
    };
    lx_log_open("test", LX_LOG_ERROR);
    return cmocka_run_group_tests(tests, write_files, remove_files);
}
