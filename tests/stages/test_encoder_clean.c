/*
 * test_encoder_clean.c - prompts come out exactly as the reference cleans them
 * SPDX-License-Identifier: Apache-2.0
 *
 * Examples were measured on ftfy 6.3.1; clean.fnv was made by
 * tests/tools/make_clean.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "clean.h"
#include "encoder_strings.h"

#define MAX_BYTES 16384
#define BLOCK     100
#define N_STRINGS 40000

static encoder_cleaner *open_cleaner(void)
{
    encoder_cleaner *c = NULL;
    lx_err err = {0};
    assert_int_equal(encoder_cleaner_create(&c, MAX_BYTES, &err), LX_OK);
    return c;
}

typedef struct example {
    const char *in, *out;
} example;

static void check(const example *examples, size_t n)
{
    encoder_cleaner *c = open_cleaner();
    for (size_t i = 0; i < n; i++) {
        encoder_text text;
        lx_err err = {0};
        assert_int_equal(encoder_clean(c, examples[i].in, strlen(examples[i].in), &text, &err),
                         LX_OK);
        assert_string_equal(text.text, examples[i].out);
        assert_int_equal(text.bytes, strlen(examples[i].out));
        assert_false(text.looks_garbled);
    }
    encoder_cleaner_destroy(&c);
}

#define CHECK(...)                                                                                 \
    do {                                                                                           \
        static const example list[] = {__VA_ARGS__};                                               \
        check(list, sizeof list / sizeof *list);                                                   \
    } while (0)

static void test_characters(void **state)
{
    (void)state;
    CHECK({"“quoted” it’s", "\"quoted\" it's"}, {"ﬁne ŉ", "fine 'n"},
          {"ＡＢＣ　ｶﾀｶﾅ", "ABC カタカナ"}, {"￥100", "¥100"},
          {"\xEF\xBB\xBF"
           "cat",
           "cat"},
          {"。、“《》：！？（）；", "。、\"《》:!?();"}, {"色调艳丽，过曝", "色调艳丽,过曝"},
          {"·①Ⅳ…", "·①Ⅳ…"}, {"ｶﾞ", "ガ"}, {"e\xCC\x81", "é"},
          {"a￣b", "a \xCC\x84"
                   "b"},
          {"\x1b[31mred\x1b[0m", "red"},
          {"a\x01\x08\x7f"
           "b",
           "ab"},
          {"ﬃ ﬅ Ǆ", "ffi ſt DŽ"}, {"\xC2\x80 \xC2\x85", "€ …"},
          {"\xE2\x80\x8Bzwsp", "\xE2\x80\x8Bzwsp"});
}

static void test_references(void **state)
{
    (void)state;
    CHECK({"salt &amp; pepper", "salt & pepper"}, {"&amp;amp;lt;", "<"}, {"&notit;", "¬it;"},
          {"&NTILDE;&SZLIG;", "ÑSS"}, {"&#0;&#xD800;&#x110000;", "���"},
          {"&#129;x&#11;", "\xC2\x81x"}, {"<&#129;&#11;>", "<\xC2\x81>"},
          {"<a>\n&amp; x", "<a> & x"}, {"&unknown; &", "&unknown; &"},
          {"&#99999999999999999999;", "�"}, {"AT&T &copy 2024", "AT&T © 2024"},
          {"&CounterClockwiseContourIntegral;", "∳"}, {"&#59;&#x3b", ";;"});
}

static void test_white_space(void **state)
{
    (void)state;
    CHECK({"", ""}, {" \t\n ", ""}, {"  a  b\t\tc ", "a b c"}, {"a\r\nb\rc d", "a b c d"},
          {"a\xE2\x80\xA8"
           "b\xC2\xA0"
           "c\xE3\x80\x80"
           "d",
           "a b c d"},
          {"&nbsp;&#32;x&NewLine;&Tab;y&nbsp;", "x y"});
}

static void test_sound_text_is_not_called_garbled(void **state)
{
    (void)state; /* check() looks at the warning too */
    CHECK({"café naïve résumé Zürich São Paulo", "café naïve résumé Zürich São Paulo"},
          {"NÃO É", "NÃO É"}, {"„MENÜ“", "\"MENÜ\""}, {"привет", "привет"}, {"Ελλάδα", "Ελλάδα"},
          {"猫が好き", "猫が好き"}, {"à la « carte »", "à la « carte »"});
}

static void test_garbled_text_is_pointed_out_and_kept(void **state)
{
    (void)state;
    static const char *const garbled[] = {"cafÃ© noir", "itâ€™s", "&Atilde;&copy;", "Ð¿Ñ€"};
    encoder_cleaner *c = open_cleaner();
    lx_err err = {0};
    encoder_text text;
    for (size_t i = 0; i < sizeof garbled / sizeof *garbled; i++) {
        assert_int_equal(encoder_clean(c, garbled[i], strlen(garbled[i]), &text, &err), LX_OK);
        assert_true(text.looks_garbled);
    }
    assert_int_equal(encoder_clean(c, garbled[0], strlen(garbled[0]), &text, &err), LX_OK);
    assert_string_equal(text.text, garbled[0]);
    encoder_cleaner_destroy(&c);
}

static void test_invalid_utf8_is_refused_with_its_place(void **state)
{
    (void)state;
    static const char *const bad[] = {"ab\xFFz", "ab\xC0\x80", "ab\xED\xA0\x80",
                                      "ab\xF4\x90\x80\x80", "ab\xE2\x82"};
    encoder_cleaner *c = open_cleaner();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        encoder_text text;
        lx_err err = {0};
        assert_int_equal(encoder_clean(c, bad[i], strlen(bad[i]), &text, &err), LX_EJOB);
        assert_non_null(strstr(err.message, "position 2"));
    }
    encoder_cleaner_destroy(&c);
}

/* What grows most: three characters from each, and as many passes as the prompt can hold. */
static void test_hostile_prompts_stay_within_bounds(void **state)
{
    (void)state;
    static const char *const unit[] = {
        "ﬃ", "\xF0\x9D\x85\xA0", "\xEF\xAC\xAC", "&nGt;", "&fjlig;", "￣", "ŉ"};
    encoder_cleaner *c = open_cleaner();
    static char prompt[MAX_BYTES + 1];
    encoder_text text;
    lx_err err = {0};
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++) {
        size_t width = strlen(unit[i]), n = 0;
        for (; n + width <= MAX_BYTES; n += width)
            memcpy(prompt + n, unit[i], width);
        assert_int_equal(encoder_clean(c, prompt, n, &text, &err), LX_OK);
        assert_true(text.bytes > 0);
    }
    size_t n = 0;
    prompt[n++] = '&';
    while (n + 4 <= 2048) {
        memcpy(prompt + n, "amp;", 4);
        n += 4;
    }
    assert_int_equal(encoder_clean(c, prompt, n, &text, &err), LX_OK);
    assert_string_equal(text.text, "&");
    memset(prompt, 'a', sizeof prompt);
    assert_int_equal(encoder_clean(c, prompt, MAX_BYTES, &text, &err), LX_OK);
    assert_int_equal(text.bytes, MAX_BYTES);
    assert_int_equal(encoder_clean(c, prompt, MAX_BYTES + 1, &text, &err), LX_EJOB);
    encoder_cleaner_destroy(&c);
}

static void test_fuzzed_strings_equal_the_reference(void **state)
{
    (void)state;
    static uint64_t expected[N_STRINGS / BLOCK][2];
    FILE *f = fopen(LX2V_SOURCE_DIR "/tests/golden/tokenizer/clean.fnv", "rb");
    assert_non_null(f);
    assert_int_equal(fread(expected, sizeof expected, 1, f), 1);
    fclose(f);
    encoder_cleaner *c = open_cleaner();
    static strings s;
    for (uint32_t block = 0; block < N_STRINGS / BLOCK; block++) {
        uint64_t before = STRINGS_HASH, after = STRINGS_HASH;
        for (uint32_t i = 0; i < BLOCK; i++) {
            encoder_text text;
            lx_err err = {0};
            strings_clean(&s, block * BLOCK + i);
            s.text[s.n] = 0;
            assert_int_equal(encoder_clean(c, s.text, s.n, &text, &err), LX_OK);
            before = strings_hash(before, s.text, s.n + 1);
            after = strings_hash(after, text.text, text.bytes + 1);
        }
        assert_int_equal(before, expected[block][0]); /* else the two generators differ */
        if (after != expected[block][1])
            fail_msg("strings %u to %u are cleaned differently from the reference", block * BLOCK,
                     block * BLOCK + BLOCK - 1);
    }
    encoder_cleaner_destroy(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_white_space),
        cmocka_unit_test(test_sound_text_is_not_called_garbled),
        cmocka_unit_test(test_garbled_text_is_pointed_out_and_kept),
        cmocka_unit_test(test_invalid_utf8_is_refused_with_its_place),
        cmocka_unit_test(test_hostile_prompts_stay_within_bounds),
        cmocka_unit_test(test_fuzzed_strings_equal_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
