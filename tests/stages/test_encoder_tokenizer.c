/*
 * test_encoder_tokenizer.c - ids equal to the reference's, and files that must be refused
 * SPDX-License-Identifier: Apache-2.0
 *
 * tests/golden/tokenizer was made by tests/tools/make_unigram.py with the pinned `tokenizers`.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "encoder_helpers.h"
#include "encoder_strings.h"
#include "tokenizer.h"

#define VOCABULARY GOLDEN "/tokenizer"
#define MAX_BYTES  16384
#define MAX_IDS    512
#define BLOCK      100
#define N_STRINGS  100000

static encoder_tokenizer *open_golden(const char *file)
{
    encoder_tokenizer *t = NULL;
    lx_err err = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s%s", VOCABULARY, file);
    if (encoder_tokenizer_open(&t, path, MAX_BYTES, &err) != LX_OK)
        fail_msg("%s", err.message);
    return t;
}

/* --- the fuzzed strings ----------------------------------------------------------------------- */

static void compare_with_golden(const char *file)
{
    static uint64_t expected[N_STRINGS / BLOCK][2];
    FILE *f = fopen(VOCABULARY "/ids.fnv", "rb");
    assert_non_null(f);
    assert_int_equal(fread(expected, sizeof expected, 1, f), 1);
    fclose(f);
    encoder_tokenizer *t = open_golden(file);
    assert_true(encoder_tokenizer_pieces(t) >= 8000);
    static strings s;
    for (uint32_t block = 0; block < N_STRINGS / BLOCK; block++) {
        uint64_t texts = STRINGS_HASH, all_ids = STRINGS_HASH;
        for (uint32_t i = 0; i < BLOCK; i++) {
            int32_t ids[MAX_IDS + 1];
            encoder_token_counts counts;
            lx_err err = {0};
            strings_token(&s, block * BLOCK + i);
            s.text[s.n] = 0;
            assert_int_equal(encoder_tokenize(t, s.text, s.n, ids, MAX_IDS, &counts, &err), LX_OK);
            assert_int_equal(counts.n_dropped, 0);
            ids[counts.n] = -1;
            texts = strings_hash(texts, s.text, s.n + 1);
            all_ids = strings_hash(all_ids, ids, ((size_t)counts.n + 1) * sizeof *ids);
        }
        assert_int_equal(texts, expected[block][0]); /* else the two generators differ */
        if (all_ids != expected[block][1])
            fail_msg("ids of strings %u to %u differ from the reference's", block * BLOCK,
                     block * BLOCK + BLOCK - 1);
    }
    encoder_tokenizer_close(&t);
}

static void test_fuzzed_strings_from_tokenizer_json(void **state)
{
    (void)state;
    compare_with_golden(""); /* a folder with both prefers tokenizer.json */
}

static void test_fuzzed_strings_from_spiece_model(void **state)
{
    (void)state;
    compare_with_golden("/spiece.model");
}

/* --- a vocabulary small enough to follow by hand ---------------------------------------------- */

static encoder_tokenizer *open_small(void)
{
    encoder_tokenizer *t = NULL;
    lx_err err = {0};
    const char *json = json_small();
    if (encoder_tokenizer_parse(&t, json, strlen(json), "small", MAX_BYTES, &err) != LX_OK)
        fail_msg("%s", err.message);
    return t;
}

static void expect_ids(encoder_tokenizer *t, const char *text, const int32_t *expected, size_t n)
{
    int32_t ids[MAX_IDS];
    encoder_token_counts counts;
    lx_err err = {0};
    assert_int_equal(encoder_tokenize(t, text, strlen(text), ids, MAX_IDS, &counts, &err), LX_OK);
    assert_int_equal(counts.n, n);
    assert_memory_equal(ids, expected, n * sizeof *ids);
}

#define EXPECT_IDS(t, text, ...)                                                                   \
    expect_ids(t, text, (int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}) / 4)

static void test_rules_on_a_small_vocabulary(void **state)
{
    (void)state;
    encoder_tokenizer *t = open_small();
    EXPECT_IDS(t, "", 1);
    EXPECT_IDS(t, "b", 4, 6, 1);
    EXPECT_IDS(t, "b  b", 4, 6, 4, 6, 1);
    EXPECT_IDS(t, " b ", 4, 6, 4, 1);
    /* "ab" and "a"+"b" score the same: "ab" reached the place first, its last piece starts first */
    EXPECT_IDS(t, "ab", 4, 7, 1);
    EXPECT_IDS(t, "xxx", 4, 8, 9, 1); /* "x"+"xx" = "xx"+"x": the last piece starts earlier */
    EXPECT_IDS(t,
               "\xE2\x96\x81"
               "b a\xE2\x96\x81"
               "b",
               4, 6, 4, 5, 4, 6, 1);
    EXPECT_IDS(t, "a </s> b", 4, 5, 4, 1, 4, 6, 1);
    EXPECT_IDS(t, "<unk></s", 3, 4, 3, 1);
    EXPECT_IDS(t, "ZYa\xF0\xA0\x80\x8B b", 4, 3, 5, 3, 4, 6, 1); /* runs of unknowns are one */
    encoder_tokenizer_close(&t);
}

static void test_ids_are_cut_with_eos_last(void **state)
{
    (void)state;
    encoder_tokenizer *t = open_small();
    static char text[2 * 600];
    for (int i = 0; i < 600; i++)
        memcpy(text + 2 * i, "a ", 2);
    static int32_t ids[MAX_IDS];
    encoder_token_counts counts;
    lx_err err = {0};
    assert_int_equal(encoder_tokenize(t, text, sizeof text - 1, ids, MAX_IDS, &counts, &err),
                     LX_OK);
    assert_int_equal(counts.n, MAX_IDS);
    assert_int_equal(counts.n_dropped, 2 * 600 - (MAX_IDS - 1));
    assert_int_equal(ids[MAX_IDS - 1], 1);
    assert_int_equal(encoder_tokenize(t, text, 3, ids, 2, &counts, &err), LX_OK);
    assert_int_equal(counts.n, 2);
    assert_int_equal(counts.n_dropped, 3);
    assert_int_equal(encoder_tokenize(t, text, 3, ids, 1, &counts, &err), LX_OK);
    assert_int_equal(ids[0], 1);
    assert_int_equal(encoder_tokenize(t, "a\xC3", 2, ids, MAX_IDS, &counts, &err), LX_EJOB);
    assert_int_equal(encoder_tokenize(t, text, MAX_BYTES + 1, ids, 9, &counts, &err), LX_EJOB);
    encoder_tokenizer_close(&t);
}

static void test_a_word_of_the_longest_prompt(void **state)
{
    (void)state;
    encoder_tokenizer *t = open_golden("/tokenizer.json");
    static char text[MAX_BYTES];
    memset(text, 'x', sizeof text);
    static int32_t ids[MAX_IDS];
    encoder_token_counts counts;
    lx_err err = {0};
    assert_int_equal(encoder_tokenize(t, text, MAX_BYTES, ids, MAX_IDS, &counts, &err), LX_OK);
    assert_int_equal(counts.n, MAX_IDS);
    assert_true(counts.n_dropped > 0);
    encoder_tokenizer_close(&t);
}

/* --- files that must be refused --------------------------------------------------------------- */

static void refuse(const void *data, size_t bytes, const char *reason)
{
    encoder_tokenizer *t = NULL;
    lx_err err = {0};
    assert_int_equal(encoder_tokenizer_parse(&t, data, bytes, "FILE", MAX_BYTES, &err), LX_ECONFIG);
    assert_null(t);
    assert_non_null(strstr(err.message, "FILE: "));
    if (!strstr(err.message, reason))
        fail_msg("\"%s\" lacks \"%s\"", err.message, reason);
}

static void test_json_of_other_models_is_refused(void **state)
{
    (void)state;
#define REFUSE(reason, ...)                                                                        \
    do {                                                                                           \
        const char *json = json_of(__VA_ARGS__);                                                   \
        refuse(json, strlen(json), reason);                                                        \
    } while (0)
    REFUSE("normalizer is \"Precompiled\"", JSON_ADDED, JSON_VOCAB, "{\"type\":\"Precompiled\"}",
           JSON_PRE, JSON_POST, JSON_TYPE);
    REFUSE("normalizer is \"null\"", JSON_ADDED, JSON_VOCAB, "null", JSON_PRE, JSON_POST,
           JSON_TYPE);
    REFUSE("pre_tokenizer is \"ByteLevel\"", JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER,
           "{\"type\":\"ByteLevel\"}", JSON_POST, JSON_TYPE);
    REFUSE("pre_tokenizer", JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER,
           "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"first\"}",
           JSON_POST, JSON_TYPE);
    REFUSE("post_processor is \"null\"", JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER, JSON_PRE, "null",
           JSON_TYPE);
    REFUSE("model is \"BPE\"", JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER, JSON_PRE, JSON_POST,
           "\"type\":\"BPE\",");
    REFUSE("byte_fallback", JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER, JSON_PRE, JSON_POST,
           JSON_TYPE "\"byte_fallback\":true,");
    REFUSE("unk_id", JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER, JSON_PRE, JSON_POST,
           "\"type\":\"Unigram\",\"unk_id\":99,");
    REFUSE("unk_id", JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER, JSON_PRE, JSON_POST,
           "\"type\":\"Unigram\",\"unk_id\":null,");
    REFUSE("model.vocab", JSON_ADDED, "", JSON_NORMALIZER, JSON_PRE, JSON_POST, JSON_TYPE);
    REFUSE("is there twice", JSON_ADDED, JSON_VOCAB ",[\"ab\",-1]", JSON_NORMALIZER, JSON_PRE,
           JSON_POST, JSON_TYPE);
    REFUSE("score", JSON_ADDED, JSON_VOCAB ",[\"q\",-1e300]", JSON_NORMALIZER, JSON_PRE, JSON_POST,
           JSON_TYPE);
    REFUSE("[piece, score]", JSON_ADDED, JSON_VOCAB ",[\"q\"]", JSON_NORMALIZER, JSON_PRE,
           JSON_POST, JSON_TYPE);
    REFUSE("0 bytes", JSON_ADDED, JSON_VOCAB ",[\"\",-1]", JSON_NORMALIZER, JSON_PRE, JSON_POST,
           JSON_TYPE);
    REFUSE("says otherwise", "{\"id\":2,\"content\":\"</s>\"}", JSON_VOCAB, JSON_NORMALIZER,
           JSON_PRE, JSON_POST, JSON_TYPE);
    REFUSE("says otherwise", "{\"id\":5,\"content\":\"new\"}", JSON_VOCAB, JSON_NORMALIZER,
           JSON_PRE, JSON_POST, JSON_TYPE);
    REFUSE("lstrip", "{\"id\":1,\"content\":\"</s>\",\"lstrip\":true}", JSON_VOCAB, JSON_NORMALIZER,
           JSON_PRE, JSON_POST, JSON_TYPE);
    REFUSE("`id`", "{\"id\":99999999999,\"content\":\"new\"}", JSON_VOCAB, JSON_NORMALIZER,
           JSON_PRE, JSON_POST, JSON_TYPE);
    REFUSE("line", "{", JSON_VOCAB, JSON_NORMALIZER, JSON_PRE, JSON_POST, JSON_TYPE);
#undef REFUSE
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\n";
    refuse(pointer, sizeof pointer - 1, "git lfs pull");
}

/* ModelProto with four pieces, then trainer and normalizer. */
static const unsigned char small_spiece[] = "\x0a\x0e\x0a\x05<pad>\x15\0\0\0\0\x18\x03"
                                            "\x0a\x0d\x0a\x04</s>\x15\0\0\0\0\x18\x03"
                                            "\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02"
                                            "\x0a\x0a\x0a\x03\xE2\x96\x81\x15\0\0\x80\xbf"
                                            "\x0a\x08\x0a\x01y\x15\0\0\x80\xbf"
                                            "\x12\x02\x18\x01"
                                            "\x1a\x02\x18\x01";
#define SMALL_BYTES (sizeof small_spiece - 1)

static void test_spiece_literals_follow_the_pieces(void **state)
{
    (void)state;
    encoder_tokenizer *t = NULL;
    lx_err err = {0};
    assert_int_equal(
        encoder_tokenizer_parse(&t, small_spiece, SMALL_BYTES, "small", MAX_BYTES, &err), LX_OK);
    assert_int_equal(encoder_tokenizer_pieces(t), 5);
    assert_int_equal(encoder_tokenizer_max_id(t), 5 + 299);
    EXPECT_IDS(t, "y<extra_id_0>y<extra_id_299></s><pad>", 3, 4, 304, 3, 4, 5, 1, 0, 1);
    encoder_tokenizer_close(&t);
}

static void test_damaged_spiece_is_refused(void **state)
{
    (void)state;
    unsigned char copy[SMALL_BYTES];
    for (size_t n = 0; n < SMALL_BYTES; n++) { /* cut anywhere */
        encoder_tokenizer *t = NULL;
        lx_err err = {0};
        memcpy(copy, small_spiece, n);
        if (encoder_tokenizer_parse(&t, copy, n, "cut", MAX_BYTES, &err) == LX_OK)
            assert_true(n >= 47); /* after "<unk>" a boundary between fields is a whole message */
        encoder_tokenizer_close(&t);
    }
    memcpy(copy, small_spiece, SMALL_BYTES);
    copy[SMALL_BYTES - 5] = 2; /* model_type BPE */
    refuse(copy, SMALL_BYTES, "not Unigram");
    memcpy(copy, small_spiece, SMALL_BYTES);
    copy[SMALL_BYTES - 1] = 0;
    refuse(copy, SMALL_BYTES, "add_dummy_prefix");
    memcpy(copy, small_spiece, SMALL_BYTES);
    copy[15] = 9;
    refuse(copy, SMALL_BYTES, "unknown type");
    memcpy(copy, small_spiece, SMALL_BYTES);
    memcpy(copy + SMALL_BYTES - 12, "\0\0\x80\x7f", 4); /* a score of +inf */
    refuse(copy, SMALL_BYTES, "score");
}

static void test_missing_files_name_what_is_wanted(void **state)
{
    (void)state;
    encoder_tokenizer *t = NULL;
    lx_err err = {0};
    assert_int_equal(encoder_tokenizer_open(&t, LX2V_SOURCE_DIR "/tests", 9, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "neither tokenizer.json nor spiece.model"));
    assert_int_equal(encoder_tokenizer_open(&t, "/nowhere/at/all", 9, &err), LX_ECONFIG);
    assert_int_equal(encoder_tokenizer_open(&t, "/dev/zero", 9, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "not an ordinary file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules_on_a_small_vocabulary),
        cmocka_unit_test(test_ids_are_cut_with_eos_last),
        cmocka_unit_test(test_json_of_other_models_is_refused),
        cmocka_unit_test(test_spiece_literals_follow_the_pieces),
        cmocka_unit_test(test_damaged_spiece_is_refused),
        cmocka_unit_test(test_missing_files_name_what_is_wanted),
        cmocka_unit_test(test_a_word_of_the_longest_prompt),
        cmocka_unit_test(test_fuzzed_strings_from_tokenizer_json),
        cmocka_unit_test(test_fuzzed_strings_from_spiece_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
