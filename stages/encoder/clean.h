/*
 * clean.h - a prompt as typed becomes the text that the tokenizer sees
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What LightX2V and Wan do to a prompt before tokenizing: ftfy's deterministic repairs,
 *           html.unescape twice, white space collapsed. "Cat，ﬁne &amp;" -> "Cat,fine &".
 * Promise   Result is valid UTF-8 without leading, trailing or double spaces, tabs or newlines. All
 *           memory is taken at create; cleaning never allocates.
 * Not here  ftfy's repair of wrongly decoded text (a heuristic): such text is left alone and only
 *           pointed out, see looks_garbled.
 * Source    ftfy 6.3.1 with default settings; Python's html.unescape
 * Threads   One cleaner, one thread.
 * Tests     tests/stages/test_encoder_clean.c, tests/fuzz/fuzz_tokenizer.c
 */
#ifndef ENCODER_CLEAN_H
#define ENCODER_CLEAN_H

#include <stdbool.h>
#include <stddef.h>

#include "lx_status.h"

typedef struct encoder_cleaner encoder_cleaner;

typedef struct encoder_text {
    const char *text; /* UTF-8, ends in NUL; borrowed until the next encoder_clean */
    size_t bytes;
    bool looks_garbled; /* has sequences like "Ã©": UTF-8 that was read as Latin-1 somewhere */
} encoder_text;

/** max_bytes: the longest prompt it will take. LX_EAGAIN: no memory. */
lx_status encoder_cleaner_create(encoder_cleaner **out, size_t max_bytes, lx_err *err);
void encoder_cleaner_destroy(encoder_cleaner **cleaner);

/**
 * Clean one prompt.
 *
 * @param text  borrowed during the call; need not end in NUL
 *
 * @retval LX_EJOB  not UTF-8 (with the byte's position), or longer than max_bytes
 */
lx_status encoder_clean(encoder_cleaner *cleaner, const char *text, size_t bytes, encoder_text *out,
                        lx_err *err);

#endif
