/*
 * fuzz_tokenizer.c - hostile prompts, tokenizer.json and spiece.model
 * SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses: 'p' cleans and tokenizes the rest with a small vocabulary; anything else
 * is the vocabulary file itself, which, if it is taken, tokenizes a few texts.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "lx_utf8.h"
#include "tokenizer.h"

#define MAX_BYTES 4096
#define MAX_IDS   64

/* What must hold of every answer, whatever came in. */
static void check(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void tokenize(encoder_tokenizer *t, const char *text, size_t bytes)
{
    int32_t ids[MAX_IDS];
    encoder_token_counts counts;
    lx_err err = {0};
    if (encoder_tokenize(t, text, bytes, ids, MAX_IDS, &counts, &err) != LX_OK)
        return;
    check(counts.n >= 1 && counts.n <= MAX_IDS && counts.n_dropped >= 0, "counts");
    check(counts.n_dropped == 0 || counts.n == MAX_IDS, "dropped without need");
    for (int32_t i = 0; i < counts.n; i++)
        check(ids[i] >= 0 && ids[i] <= encoder_tokenizer_max_id(t), "id in range");
}

static void check_clean(const encoder_text *text)
{
    check(lx_utf8_bad(text->text, text->bytes) == text->bytes, "cleaned text is UTF-8");
    for (size_t i = 0; i < text->bytes; i++)
        check(
            (unsigned char)text->text[i] > 0x20 ||
                (text->text[i] == ' ' && i > 0 && i + 1 < text->bytes && text->text[i + 1] != ' '),
            "white space is single and inside");
}

static void fuzz_prompt(const char *data, size_t size)
{
    static const char vocabulary[] = "\x0a\x0d\x0a\x04</s>\x15\0\0\0\0\x18\x03"
                                     "\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02"
                                     "\x0a\x0a\x0a\x03\xE2\x96\x81\x15\0\0\x80\xbf"
                                     "\x0a\x08\x0a\x01y\x15\0\0\x80\xbf"
                                     "\x0a\x08\x0a\x01x\x15\0\0\x80\xbf"
                                     "\x0a\x09\x0a\x02xx\x15\0\0\x80\xbf";
    encoder_cleaner *c = NULL;
    encoder_tokenizer *t = NULL;
    encoder_text text;
    lx_err err = {0};
    check(encoder_cleaner_create(&c, MAX_BYTES, &err) == LX_OK, "cleaner");
    check(encoder_tokenizer_parse(&t, vocabulary, sizeof vocabulary - 1, "small", 4 * MAX_BYTES,
                                  &err) == LX_OK,
          "vocabulary");
    if (encoder_clean(c, data, size, &text, &err) == LX_OK) {
        check_clean(&text);
        tokenize(t, text.text, text.bytes);
    }
    tokenize(t, data, size);
    encoder_tokenizer_close(&t);
    encoder_cleaner_destroy(&c);
}

static void fuzz_file(const void *data, size_t size)
{
    static const char *const texts[] = {"", "a  b xxx \xE2\x96\x81 <extra_id_0>",
                                        "\xE7\x8C\xAB</s>"};
    encoder_tokenizer *t = NULL;
    lx_err err = {0};
    if (encoder_tokenizer_parse(&t, data, size, "fuzz", MAX_BYTES, &err) != LX_OK) {
        check(t == NULL && err.message[0], "a refusal says why");
        return;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        tokenize(t, texts[i], strlen(texts[i]));
    encoder_tokenizer_close(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0 && data[0] == 'p')
        fuzz_prompt((const char *)data + 1, size - 1);
    else
        fuzz_file(data, size);
    return 0;
}
