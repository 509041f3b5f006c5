/*
 * test_selftest.c - lx2v selftest on a random model, and on damaged and mixed-up ones
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each fault must be named by the check that is about it, with the file to suspect, and the rest
 * must be tested all the same.
 */
#include "rig.h"

#include <dirent.h>
#include <unistd.h>

#include <jansson.h>

static char text[1 << 18];
static char folder[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/lx2v-rig-XXXXXX");
    return !mkdtemp(folder) || chdir(folder) != 0 || setenv("XDG_RUNTIME_DIR", folder, 1) != 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return chdir("/") != 0 || system(command) != 0;
}

static void make_model(const char *name, const char *flags)
{
    char command[256];
    snprintf(command, sizeof command, LX2V_BIN_DIR "/lx2v-mkmodel %s --quiet %s", name, flags);
    assert_int_equal(system(command), 0);
}

static void write_config(const char *model)
{
    FILE *file = fopen("config.yaml", "w");
    assert_non_null(file);
    fprintf(file, "model: %s\nmux: {preset: ultrafast}\n", model);
    fclose(file);
}

/* What the command leaves is what was there: a config and models. */
static void check_nothing_left(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; (e = readdir(dir));)
        if (strncmp(e->d_name, "lx2v-", 5) == 0)
            fail_msg("%s is left", e->d_name);
    closedir(dir);
}

static json_t *selftest(int code, const char *verdict)
{
    int got = rig_run(text, sizeof text, "lx2v selftest --size 96x64 --json 2>/dev/null");
    json_t *root = json_loads(text, JSON_DISABLE_EOF_CHECK, NULL); /* an error may come after it */
    if (got != code || !root)
        fail_msg("exit code %d, wanted %d: %s", got, code, text);
    assert_string_equal(json_string_value(json_object_get(root, "verdict")), verdict);
    assert_true(json_is_string(json_object_get(root, "version")));
    check_nothing_left();
    return root;
}

static const json_t *find(const json_t *root, const char *stage, const char *name)
{
    size_t i;
    const json_t *one;
    json_array_foreach(json_object_get(root, "checks"), i, one)
    {
        if (strcmp(json_string_value(json_object_get(one, "stage")), stage) == 0 &&
            strcmp(json_string_value(json_object_get(one, "check")), name) == 0)
            return one;
    }
    fail_msg("%s: no check \"%s\" in %s", stage, name, text);
    return NULL;
}

static const char *word(const json_t *check, const char *key)
{
    const json_t *value = json_object_get(check, key);
    assert_true(json_is_string(value) || json_is_null(value));
    return json_is_string(value) ? json_string_value(value) : "";
}

static void expect(const json_t *root, const char *stage, const char *name, const char *verdict)
{
    const json_t *check = find(root, stage, name);
    if (strcmp(word(check, "verdict"), verdict) != 0)
        fail_msg("%s, %s: %s, wanted %s: %s; %s", stage, name, word(check, "verdict"), verdict,
                 word(check, "value"), word(check, "advice"));
}

static void expect_advice(const json_t *root, const char *stage, const char *name,
                          const char *first, const char *second)
{
    const char *advice = word(find(root, stage, name), "advice");
    if (!strstr(advice, first) || !strstr(advice, second))
        fail_msg("%s, %s: the advice is \"%s\", wanted \"%s\" and \"%s\"", stage, name, advice,
                 first, second);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_selftest_of_a_random_model_warns_of_noise(void **state)
{
    (void)state;
    write_config(LX2V_BUILD_DIR "/models/random");
    json_t *root = selftest(0, "warning");
    static const char *const good[][2] = {{"encoder", "file"},
                                          {"encoder", "context"},
                                          {"encoder", "same prompt, same bits"},
                                          {"encoder", "other prompt, other context"},
                                          {"dit", "file"},
                                          {"dit", "velocities"},
                                          {"dit", "sampler's sum"},
                                          {"dit", "latent"},
                                          {"dit", "latent and noise"},
                                          {"vae", "file"},
                                          {"vae", "frames"},
                                          {"vae", "contrast"},
                                          {"mux", "clip"}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        expect(root, good[i][0], good[i][1], "ok");
    /* No figures are known for a model of this size: told, not judged. */
    expect(root, "encoder", "spread (rms)", "value");
    expect(root, "encoder", "tokens of prompt 1", "value");
    expect(root, "dit", "its spread", "value");
    expect(root, "dit", "attention", "value");
    expect(root, "dit", "first velocity and noise", "warning");
    expect_advice(root, "dit", "first velocity and noise", "trained weights?", "distill_int8");
    expect(root, "vae", "smoothness", "warning");
    expect_advice(root, "vae", "smoothness", "looks like noise: are these trained weights?",
                  "Wan2.1_VAE.pth");
    assert_string_equal(word(find(root, "mux", "clip"), "expected"), "5");
    json_decref(root);
}

static void test_selftest_tells_a_person(void **state)
{
    (void)state;
    write_config(LX2V_BUILD_DIR "/models/random");
    assert_int_equal(
        rig_run(text, sizeof text, "lx2v selftest --size 64x96 --frames 9 2>/dev/null"), 0);
    static const char *const words[] = {"WARNING", "expected:", "advice: looks like noise",
                                        "9 frames of h264", "definition of the euler sampler"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(text, words[i]))
            fail_msg("\"%s\" is missing in: %s", words[i], text);
    check_nothing_left();
}

/* Overwrite 4 bytes, counted from the end. */
static void damage(const char *path, long from_end, const char *bytes)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -from_end, SEEK_END), 0);
    assert_int_equal(fwrite(bytes, 1, 4, file), 4);
    fclose(file);
}

static void test_selftest_names_a_damaged_dit(void **state)
{
    (void)state;
    make_model("nan", "");
    damage("nan/non_block.safetensors", 4, "\0\0\xc0\x7f"); /* a NaN; tensors end the file */
    write_config("nan");
    json_t *root = selftest(2, "failed");
    expect(root, "encoder", "context", "ok");
    expect(root, "dit", "run", "failed");
    assert_non_null(strstr(word(find(root, "dit", "run"), "value"), "not finite"));
    expect_advice(root, "dit", "run", "is damaged: download it again", "/nan");
    expect(root, "vae", "frames", "ok"); /* of a latent of its own */
    expect(root, "mux", "clip", "ok");
    json_decref(root);
}

static void test_selftest_names_a_damaged_encoder(void **state)
{
    (void)state;
    make_model("nan5", "--t5 f32 --t5-format safetensors");
    damage("nan5/models_t5_umt5-xxl-enc-f32.safetensors", 4, "\0\0\x80\x7f"); /* infinity */
    write_config("nan5");
    json_t *root = selftest(2, "failed");
    expect(root, "encoder", "run", "failed");
    expect_advice(root, "encoder", "run", "is damaged: download it again", "models_t5_umt5");
    expect(root, "dit", "velocities", "ok"); /* on a context of its own */
    json_decref(root);
}

static void test_selftest_names_a_swapped_vae(void **state)
{
    (void)state;
    make_model("good", "");
    write_config("{dir: good, vae: good/models_t5_umt5-xxl-enc-int8.pth}");
    json_t *root = selftest(2, "failed");
    expect(root, "vae", "file", "failed");
    expect_advice(root, "vae", "file", "model.vae is", "models_t5_umt5-xxl-enc-int8.pth");
    expect(root, "dit", "velocities", "ok");
    expect(root, "vae", "run", "skipped");
    expect(root, "mux", "run", "skipped");
    json_decref(root);
}

static void test_selftest_names_a_tokenizer_of_another_vocabulary(void **state)
{
    (void)state;
    make_model("good", "");
    write_config("{dir: good, tokenizer: " LX2V_SOURCE_DIR "/tests/golden/tokenizer}");
    json_t *root = selftest(2, "failed");
    expect(root, "encoder", "run", "failed");
    expect_advice(root, "encoder", "run", "tests/golden/tokenizer is not the tokenizer of",
                  "google/umt5-xxl");
    json_decref(root);
}

/* It fits in size and gives other ids than UMT5's. */
static void test_selftest_names_a_wrong_tokenizer_by_its_ids(void **state)
{
    (void)state;
    make_model("wide", "--t5-vocab 256384 --t5-dim 128");
    write_config("wide");
    json_t *root = selftest(2, "failed");
    expect(root, "encoder", "tokens of prompt 1", "failed");
    expect(root, "encoder", "tokens of prompt 2", "failed");
    expect_advice(root, "encoder", "tokens of prompt 1", "is not UMT5's tokenizer",
                  "google/umt5-xxl");
    expect(root, "encoder", "spread (rms)", "value"); /* its width is not UMT5-XXL's */
    expect(root, "dit", "velocities", "ok");
    json_decref(root);
}

static void test_selftest_names_parts_of_two_models(void **state)
{
    (void)state;
    make_model("good", "");
    make_model("other", "--dit none --vae none --t5-dim 256");
    write_config("{dir: good, text: other/models_t5_umt5-xxl-enc-int8.pth}");
    json_t *root = selftest(2, "failed");
    expect(root, "dit", "text width", "failed");
    expect_advice(root, "dit", "text width", "are of two models", "other/models_t5");
    expect(root, "dit", "velocities", "ok"); /* on a context that it takes */
    json_decref(root);
}

static void test_selftest_without_a_model_is_config(void **state)
{
    (void)state;
    write_config("nowhere");
    assert_int_equal(rig_run(text, sizeof text, "lx2v selftest --json 2>/dev/null"), 2);
    json_t *root = json_loads(text, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json_object_get(root, "error"), "class")),
                        "config");
    json_decref(root);
    assert_int_equal(rig_run(text, sizeof text, "lx2v selftest --sise 64x64 2>&1"), 2);
    assert_non_null(strstr(text, "did you mean --size"));
    write_config(LX2V_BUILD_DIR "/models/random");
    assert_int_equal(rig_run(text, sizeof text, "lx2v selftest --frames 6 2>&1"), 2);
    assert_non_null(strstr(text, "--frames"));
    assert_int_equal(rig_run(text, sizeof text, "lx2v selftest now 2>&1"), 2);
    assert_int_equal(rig_run(text, sizeof text, "lx2v selftest --timeout 0.05 2>&1"), 4);
    check_nothing_left();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_selftest_of_a_random_model_warns_of_noise),
        cmocka_unit_test(test_selftest_tells_a_person),
        cmocka_unit_test(test_selftest_names_a_damaged_dit),
        cmocka_unit_test(test_selftest_names_a_damaged_encoder),
        cmocka_unit_test(test_selftest_names_a_swapped_vae),
        cmocka_unit_test(test_selftest_names_a_tokenizer_of_another_vocabulary),
        cmocka_unit_test(test_selftest_names_a_wrong_tokenizer_by_its_ids),
        cmocka_unit_test(test_selftest_names_parts_of_two_models),
        cmocka_unit_test(test_selftest_without_a_model_is_config),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
