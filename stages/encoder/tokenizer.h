/*
 * tokenizer.h - cleaned text becomes token ids, exactly as the reference's fast tokenizer does
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      SentencePiece-Unigram by the Hugging Face rules: added tokens are matched literally
 *           first, then each word on its own by Viterbi in double precision; no byte fallback.
 * Promise   Same ids as HF tokenizers from tokenizer.json, ties included; spiece.model gives the
 *           same ids. All memory is taken at load; tokenizing never allocates. Files are hostile
 *           until checked: sizes, ids, duplicates, scores, and that they describe this pipeline.
 * Not here  Cleaning: clean.h. Whether the ids fit the embedding table: encoder.h.
 * Source    google/umt5-xxl's tokenizer.json, as Hugging Face's tokenizers reads it
 * Threads   One tokenizer, one thread (it owns its workspace).
 * Tests     tests/stages/test_encoder_tokenizer.c, tests/fuzz/fuzz_tokenizer.c
 */
#ifndef ENCODER_TOKENIZER_H
#define ENCODER_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "lx_status.h"

typedef struct encoder_tokenizer encoder_tokenizer;

typedef struct encoder_token_counts {
    int32_t n;         /* ids written, the final EOS included */
    int32_t n_dropped; /* content ids that did not fit */
} encoder_token_counts;

/**
 * Load a vocabulary.
 *
 * @param path       tokenizer.json, spiece.model, or a folder that has one of them (tokenizer.json
 *                   is preferred: it is what the reference reads)
 * @param max_bytes  longest text that will be tokenized
 *
 * @retval LX_ECONFIG  missing, too large, damaged, or the tokenizer of another model: says which
 * @retval LX_EAGAIN   no memory
 */
lx_status encoder_tokenizer_open(encoder_tokenizer **out, const char *path, size_t max_bytes,
                                 lx_err *err);
/** The same from memory (JSON if it begins with '{'); name is used in messages. For fuzzing. */
lx_status encoder_tokenizer_parse(encoder_tokenizer **out, const void *data, size_t bytes,
                                  const char *name, size_t max_bytes, lx_err *err);
void encoder_tokenizer_close(encoder_tokenizer **tokenizer);

/**
 * Tokenize. At most max_ids - 1 content ids are kept and EOS is put after them: an empty text gives
 * EOS alone.
 *
 * @param text     UTF-8, borrowed during the call
 * @param ids      room for max_ids, max_ids >= 1
 *
 * @retval LX_EJOB  not UTF-8, or longer than max_bytes
 */
lx_status encoder_tokenize(encoder_tokenizer *tokenizer, const char *text, size_t bytes,
                           int32_t *ids, size_t max_ids, encoder_token_counts *counts, lx_err *err);

int32_t encoder_tokenizer_max_id(const encoder_tokenizer *tokenizer);
int32_t encoder_tokenizer_pieces(const encoder_tokenizer *tokenizer);

#endif
