/*
 * test_encoder_vocabulary.c - the ids of the real UMT5 tokenizer, if it is there
 * SPDX-License-Identifier: Apache-2.0
 *
 * LX2V_UMT5_TOKENIZER names google/umt5-xxl's tokenizer.json, spiece.model, or their folder;
 * without it the tests are skipped. The ids are what transformers 5.14.1 gives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "clean.h"
#include "tokenizer.h"

#define MAX_BYTES 16384
#define MAX_IDS   512

static const char boxing_text[] =
    "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a "
    "spotlighted stage.";
static const int32_t boxing[] = {
    16349, 289, 182785, 97899, 1931,  6283,  281, 301, 547, 15817,  273, 126058, 39668, 333,
    48918, 273, 181062, 281,   43495, 53302, 751, 369, 289, 214337, 505, 17687,  274,   1,
};

static const char baking_text[] =
    "A cat and a dog baking a cake together in a kitchen. The cat is carefully measuring "
    "flour, while the dog is stirring the batter with a wooden spoon. The kitchen is cozy, "
    "with sunlight streaming through the window.";
static const int32_t baking[] = {
    320,  6283, 333,    289,    6833,   148605, 289,  61558,  11384, 301,  289,   21920, 274,
    517,  6283, 339,    100120, 179967, 121368, 275,  5196,   312,   6833, 339,   71403, 3439,
    312,  273,  156112, 543,    289,    129805, 273,  110667, 274,   517,  21920, 339,   767,
    3065, 275,  543,    8239,   9208,   13911,  3311, 312,    14172, 274,  1,
};

static const char negative_text[] = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画"
                                    "作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩"
                                    "残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不"
                                    "好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止"
                                    "不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";
static const int32_t negative[] = {
    273,    1838,   8483,   181911, 30993, 275,   4915,  85615,  275,   15665, 13607, 275,   17121,
    8024,   7921,   162805, 1013,   3815,  275,   5549,  16096,  275,   6865,  3967,  275,   9103,
    275,    7084,   2354,   275,    16927, 275,   15665, 10671,  275,   44776, 2390,  46846, 275,
    2740,   5731,   20499,  275,    3846,  20499, 275,   958,    58395, 11376, 52222, 7019,  7383,
    275,    217390, 245822, 431,    275,   7019,  28644, 431,    275,   1589,  8136,  431,   1320,
    4050,   275,    7084,   2351,   1013,  23261, 1320,  1542,   275,   7084,  2351,  1013,  23261,
    67032,  1542,   275,    245886, 2584,  431,   275,   160335, 10394, 431,   275,   2584,  13607,
    245886, 2584,   431,    69797,  1906,  275,   1320,  4050,   14116, 1539,  275,   15665, 10671,
    1013,   2312,   431,    16927,  275,   40671, 20559, 431,    35216, 275,   1687,  4459,  136320,
    275,    35216,  798,    19255,  275,   11730, 1801,  4898,   1,
};

static const char ferret_text[] =
    "\nThe camera rushes from far to near in a low-angle shot,\n"
    "revealing a white ferret on a log. It plays, leaps into the water, and emerges, as the "
    "camera zooms in\n"
    "for a close-up. Water splashes berry bushes nearby, while moss, snow, and leaves blanket "
    "the ground.\n"
    "Birch trees and a light blue sky frame the scene, with ferns in the foreground. Side "
    "lighting casts dynamic\n"
    "shadows and warm highlights. Medium composition, front view, low angle, with depth of "
    "field.\n";
static const int32_t ferret[] = {
    517,    5823,   115578, 354,    764,   2712,   315,   12665,  301,   289,   7878,  280,
    65557,  36215,  275,    114391, 439,   289,    10021, 75481,  434,   369,   289,   15256,
    274,    1401,   70775,  275,    346,   102701, 2234,  312,    3231,  275,   333,   60956,
    281,    275,    529,    312,    5823,  28670,  281,   301,    341,   289,   13304, 280,
    1753,   274,    7240,   273,    91578, 354,    273,   24101,  723,   99111, 82502, 275,
    5196,   147946, 275,    45540,  275,   333,    65764, 156290, 312,   29455, 274,   2810,
    510,    77456,  333,    289,    8403,  15258,  14024, 29175,  312,   26866, 275,   543,
    129890, 281,    301,    312,    341,   292,    89151, 274,    12034, 76320, 27092, 281,
    68405,  114931, 281,    333,    13809, 124595, 274,   33037,  55954, 275,   7249,  8312,
    275,    7878,   50910,  275,    543,   89526,  329,   18036,  274,   1,
};

#define IDS(text, ...)                                                                             \
    {                                                                                              \
        text, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4           \
    }

static const struct {
    const char *text; /* before cleaning */
    const int32_t *ids;
    size_t n;
} known[] = {
    IDS("cat", 6283, 1),
    IDS("", 1),
    IDS("a▁b cat", 289, 748, 6283, 1),
    IDS("[web] page", 273, 5, 3650, 1),
    IDS("色调艳丽，过曝", 273, 1838, 8483, 181911, 30993, 275, 4915, 85615, 1),
    IDS("“quoted” it’s", 335, 20710, 355, 347, 681, 306, 281, 1),
    IDS("ﬁne ŉ", 4338, 839, 307, 1),
    IDS("\x1b[31mred\x1b[0m", 4062, 1),
    IDS("a\r\nb\rc d", 289, 748, 618, 365, 1),
    IDS("é café", 670, 12831, 1),
    IDS("café naïve résumé Zürich São Paulo", 12831, 317, 3252, 819, 172688, 63990, 3780, 5277, 1),
    IDS("ＡＢＣ　ｶﾀｶﾅ", 24343, 273, 114767, 95880, 1),
    IDS("夕焼けの海と猫", 273, 24424, 11537, 155014, 2416, 545, 14985, 1),
    IDS("salt & pepper", 15609, 579, 84667, 1),
    IDS("𠀋𡈽", 273, 3, 1),
    IDS("a </s> b", 289, 273, 1, 748, 1),
    {boxing_text, boxing, sizeof boxing / 4},
    {baking_text, baking, sizeof baking / 4},
    {negative_text, negative, sizeof negative / 4},
    {ferret_text, ferret, sizeof ferret / 4},
};

typedef struct chain {
    encoder_cleaner *cleaner;
    encoder_tokenizer *tokenizer;
} chain;

static chain open_chain(void)
{
    chain c = {0};
    lx_err err = {0};
    const char *path = getenv("LX2V_UMT5_TOKENIZER");
    if (!path || !*path) {
        print_message("LX2V_UMT5_TOKENIZER is not set: the real vocabulary is not tested\n");
        skip();
    }
    assert_int_equal(encoder_cleaner_create(&c.cleaner, MAX_BYTES, &err), LX_OK);
    if (encoder_tokenizer_open(&c.tokenizer, path, 4 * MAX_BYTES, &err) != LX_OK)
        fail_msg("%s", err.message);
    return c;
}

static void close_chain(chain *c)
{
    encoder_tokenizer_close(&c->tokenizer);
    encoder_cleaner_destroy(&c->cleaner);
}

static encoder_token_counts ids_of(chain *c, const char *text, int32_t *ids)
{
    encoder_text clean;
    encoder_token_counts counts;
    lx_err err = {0};
    assert_int_equal(encoder_clean(c->cleaner, text, strlen(text), &clean, &err), LX_OK);
    assert_int_equal(
        encoder_tokenize(c->tokenizer, clean.text, clean.bytes, ids, MAX_IDS, &counts, &err),
        LX_OK);
    return counts;
}

static void test_known_prompts_have_their_ids(void **state)
{
    (void)state;
    chain c = open_chain();
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int32_t ids[MAX_IDS];
        encoder_token_counts counts = ids_of(&c, known[i].text, ids);
        if ((size_t)counts.n != known[i].n || memcmp(ids, known[i].ids, 4 * known[i].n) != 0)
            fail_msg("\"%s\": other ids than the reference's", known[i].text);
        assert_int_equal(counts.n_dropped, 0);
    }
    close_chain(&c);
}

static void test_511_cats_fill_the_text(void **state)
{
    (void)state;
    chain c = open_chain();
    static char text[4 * 600 + 1];
    int32_t ids[MAX_IDS];
    for (int i = 0; i < 600; i++)
        memcpy(text + 4 * i, "cat ", 4);
    text[4 * 511] = 0;
    encoder_token_counts counts = ids_of(&c, text, ids);
    assert_int_equal(counts.n, 512);
    assert_int_equal(counts.n_dropped, 0);
    text[4 * 511] = 'c';
    counts = ids_of(&c, text, ids);
    assert_int_equal(counts.n, 512);
    assert_int_equal(counts.n_dropped, 89);
    assert_int_equal(ids[510], 6283);
    assert_int_equal(ids[511], 1);
    assert_int_equal(encoder_tokenizer_max_id(c.tokenizer), 256299);
    close_chain(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_prompts_have_their_ids),
        cmocka_unit_test(test_511_cats_fill_the_text),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed || getenv("LX2V_UMT5_TOKENIZER") ? failed : 77; /* 77: skipped, for CTest */
}
