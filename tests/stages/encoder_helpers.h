/*
 * encoder_helpers.h - what the encoder's tests share: goldens, distances, a tokenizer of ten pieces
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENCODER_HELPERS_H
#define ENCODER_HELPERS_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "weights/lx_weights.h"

#define GOLDEN    LX2V_SOURCE_DIR "/tests/golden"
#define T5(kind)  GOLDEN "/models_t5_umt5-xxl-enc-" kind ".pth"
#define SPACE_UTF "\xE2\x96\x81"

/* tokenizer.json in pieces, so that a test can spoil one of them. */
#define JSON_ADDED                                                                                 \
    "{\"id\":1,\"content\":\"</s>\",\"normalized\":false},"                                        \
    "{\"id\":3,\"content\":\"<unk>\",\"normalized\":false}"
#define JSON_VOCAB                                                                                 \
    "[\"<pad>\",0],[\"</s>\",0],[\"<s>\",0],[\"<unk>\",0],[\"" SPACE_UTF "\",-2],"                 \
    "[\"a\",-3],[\"b\",-3],[\"ab\",-6],[\"x\",-2],[\"xx\",-3]"
#define JSON_NORMALIZER "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}"
#define JSON_PRE                                                                                   \
    "{\"type\":\"Metaspace\",\"replacement\":\"" SPACE_UTF "\",\"prepend_scheme\":\"always\"}"
#define JSON_POST                                                                                  \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}},"                  \
    "{\"SpecialToken\":{\"id\":\"</s>\"}}],\"special_tokens\":{\"</s>\":{\"ids\":[1]}}}"
#define JSON_TYPE "\"type\":\"Unigram\",\"unk_id\":3,"

static inline const char *json_of(const char *added, const char *vocab, const char *normalizer,
                                  const char *pre, const char *post, const char *model)
{
    static char text[8192];
    snprintf(text, sizeof text,
             "{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,"
             "\"model\":{%s\"vocab\":[%s]}}",
             added, normalizer, pre, post, model, vocab);
    return text;
}

static inline const char *json_small(void)
{
    return json_of(JSON_ADDED, JSON_VOCAB, JSON_NORMALIZER, JSON_PRE, JSON_POST, JSON_TYPE);
}

/* |a - b| / |b| */
static inline double relative_l2(const float *a, const float *b, size_t n)
{
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        s += (double)b[i] * (double)b[i];
    }
    return sqrt(d / s);
}

#endif
