/*
 * test_mux_meta.c - what a clip says about itself, and what it does not say
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_helpers.h"

#include <jansson.h>

#include "lx_utf8.h"
#include "mux_meta.h"

static const char *value_of(const mux_meta *meta, const char *key)
{
    for (int i = 0; i < meta->n; i++)
        if (!strcmp(meta->pair[i].key, key))
            return meta->pair[i].value;
    return NULL;
}

static lx_job a_job(const char *prompt)
{
    lx_job job = {.width = 832,
                  .height = 480,
                  .frames = 81,
                  .fps = 16,
                  .seed = 9007199254740993,
                  .sampler = LX_SAMPLER_LCM,
                  .shift = 3,
                  .n_steps = 2,
                  .steps = {1000, 500},
                  .rng = "torch-cuda:132x2048"};
    snprintf(job.prompt, sizeof job.prompt, "%s", prompt);
    return job;
}

static void assert_clean(const char *in, size_t room, const char *expected)
{
    char out[256];
    mux_text_clean(out, room, in);
    assert_string_equal(out, expected);
}

static void test_meta_text_is_clean_utf8(void **state)
{
    (void)state;
    assert_clean("plain", 64, "plain");
    assert_clean("a\tb\r\nc", 64, "a b  c");
    assert_clean("bell\a esc\x1b[31m del\x7f", 64, "bell esc[31m del");
    assert_clean("c1 \xc2\x85\xc2\x9fx nbsp\xc2\xa0", 64, "c1 x nbsp\xc2\xa0");
    assert_clean("bad \xff\xfe ok", 64, "bad \xef\xbf\xbd\xef\xbf\xbd ok");
    assert_clean("over\xc0\xaf", 64, "over\xef\xbf\xbd\xef\xbf\xbd");
    assert_clean("cut \xe2\x82", 64, "cut \xef\xbf\xbd\xef\xbf\xbd");
    assert_clean("\xf0\x9f\x98\x80 face", 64, "\xf0\x9f\x98\x80 face");
    /* Cut at a character: three bytes of euro sign do not fit into the two that are left. */
    assert_clean("abc\xe2\x82\xac", 6, "abc");
    assert_clean("abc\xe2\x82\xac", 7, "abc\xe2\x82\xac");
    assert_clean("abcdef", 4, "abc");
    assert_clean("", 4, "");
}

static void test_meta_full_has_every_fact(void **state)
{
    (void)state;
    lx_job job = a_job("say \"hi\" \\ to\nthe cat");
    static mux_meta meta;
    mux_meta_of_job(&meta, &job, LX_METADATA_FULL, "model-x");
    assert_int_equal(meta.n, MUX_META_PAIRS);
    assert_string_equal(value_of(&meta, "prompt"), "say \"hi\" \\ to the cat");
    assert_string_equal(value_of(&meta, "seed"), "9007199254740993");
    assert_string_equal(value_of(&meta, "sigmas"), "1 0.75");
    assert_string_equal(value_of(&meta, "sampler"), "lcm");
    assert_string_equal(value_of(&meta, "noise"), "torch-cuda:132x2048");
    assert_string_equal(value_of(&meta, "checkpoint"), "model-x");
    json_t *c = json_loads(value_of(&meta, "comment"), 0, NULL);
    assert_non_null(c);
    assert_string_equal(json_string_value(json_object_get(c, "prompt")),
                        "say \"hi\" \\ to the cat");
    assert_int_equal(json_integer_value(json_object_get(c, "seed")), 9007199254740993);
    assert_string_equal(json_string_value(json_object_get(c, "size")), "832x480");
    assert_int_equal(json_integer_value(json_object_get(c, "frames")), 81);
    assert_int_equal(json_array_size(json_object_get(c, "steps")), 2);
    assert_int_equal(json_array_size(json_object_get(c, "sigmas")), 2);
    assert_string_equal(json_string_value(json_object_get(c, "version")), "lx2v " LX2V_VERSION);
    json_decref(c);
}

static void test_meta_no_prompt_has_none_anywhere(void **state)
{
    (void)state;
    lx_job job = a_job("xyzzy secret");
    static mux_meta meta;
    mux_meta_of_job(&meta, &job, LX_METADATA_NO_PROMPT, "m");
    assert_null(value_of(&meta, "prompt"));
    assert_null(value_of(&meta, "title"));
    assert_non_null(value_of(&meta, "seed"));
    for (int i = 0; i < meta.n; i++)
        assert_null(strstr(meta.pair[i].value, "xyzzy"));
    mux_meta_of_job(&meta, &job, LX_METADATA_OFF, "m");
    assert_int_equal(meta.n, 0);
}

static void test_meta_longest_prompt_fits_whole_json(void **state)
{
    (void)state;
    static lx_job job;
    job = a_job("");
    memset(job.prompt, '"', sizeof job.prompt - 1); /* each takes two bytes in JSON */
    job.n_steps = LX_LIMIT_STEPS;
    for (int i = 0; i < LX_LIMIT_STEPS; i++)
        job.steps[i] = 997 - i;
    static mux_meta meta;
    char model[LX_LIMIT_NAME + 1];
    memset(model, '\\', sizeof model - 1);
    model[sizeof model - 1] = 0;
    mux_meta_of_job(&meta, &job, LX_METADATA_FULL, model);
    assert_int_equal(strlen(value_of(&meta, "prompt")), MUX_META_PROMPT);
    assert_int_equal(strlen(value_of(&meta, "title")), MUX_META_TITLE);
    json_t *c = json_loads(value_of(&meta, "comment"), 0, NULL);
    assert_non_null(c);
    assert_int_equal(json_string_length(json_object_get(c, "prompt")), MUX_META_PROMPT);
    assert_int_equal(json_array_size(json_object_get(c, "sigmas")), LX_LIMIT_STEPS);
    json_decref(c);
    /* Characters of four bytes: the cut falls between two of them. */
    for (size_t i = 0; i + 4 < sizeof job.prompt; i += 4)
        memcpy(job.prompt + i, "\xf0\x9f\x98\x80", 4);
    mux_meta_of_job(&meta, &job, LX_METADATA_FULL, "m");
    for (int i = 0; i < meta.n; i++)
        assert_int_equal(lx_utf8_bad(meta.pair[i].value, strlen(meta.pair[i].value)),
                         strlen(meta.pair[i].value));
}

static void test_meta_checkpoint_is_a_name_not_a_path(void **state)
{
    (void)state;
    const char *cases[][2] = {
        {"/home/me/models/Wan2.1-Distill", "Wan2.1-Distill"},
        {"/home/me/models/Wan2.1-Distill/", "Wan2.1-Distill"},
        {"/home/me/models/Wan2.1-Distill/distill_int8", "Wan2.1-Distill/distill_int8"},
        {"/data/dit/file.safetensors", "file.safetensors"},
        {"/", ""},
        {"distill_fp8", "distill_fp8"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[LX_LIMIT_NAME + 1];
        mux_meta_checkpoint(name, sizeof name, cases[i][0]);
        assert_string_equal(name, cases[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meta_text_is_clean_utf8),
        cmocka_unit_test(test_meta_full_has_every_fact),
        cmocka_unit_test(test_meta_no_prompt_has_none_anywhere),
        cmocka_unit_test(test_meta_longest_prompt_fits_whole_json),
        cmocka_unit_test(test_meta_checkpoint_is_a_name_not_a_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
