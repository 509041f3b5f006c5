/*
 * tokenizer_build.h - how the two file readers fill a tokenizer; private to the encoder
 * SPDX-License-Identifier: Apache-2.0
 *
 * A piece_index is a sorted list of byte strings. A search narrows a range of it byte by byte, so
 * that all pieces which begin at a place in the text are met in order of length, without a trie.
 * Tests     tests/stages/test_encoder_tokenizer.c
 */
#ifndef ENCODER_TOKENIZER_BUILD_H
#define ENCODER_TOKENIZER_BUILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lx_status.h"

#define TOKENIZER_PIECES      (1 << 20) /* UMT5 has 256,000 */
#define TOKENIZER_LITERALS    2048      /* added tokens; UMT5 has 304 */
#define TOKENIZER_PIECE_BYTES 256       /* UMT5: 16 code points */
#define TOKENIZER_SCORE       1e6       /* |score| of one piece; UMT5: 19.4 */
#define TOKENIZER_EXTRA_IDS   300       /* <extra_id_0>..<extra_id_299>, above spiece.model's ids */

typedef struct piece {
    size_t offset;   /* into the blob */
    uint32_t length; /* bytes, 1..TOKENIZER_PIECE_BYTES */
    int32_t id;
    double score;
} piece;

typedef struct piece_index {
    char *blob; /* owned: all pieces, one after the other */
    size_t blob_bytes, blob_room;
    piece *at; /* owned */
    size_t n, room;
    uint32_t first[257]; /* after sorting: pieces that begin with byte b are first[b]..first[b+1] */
} piece_index;

typedef struct piece_range {
    size_t low, high; /* pieces that begin with the bytes so far */
    uint32_t depth;   /* how many bytes that is */
} piece_range;

/* What a reader must deliver; tokenizer.c checks the rest. Owned by the caller until it is moved
 * into a tokenizer. */
typedef struct tokenizer_parts {
    piece_index pieces;   /* the vocabulary, ids 0..n-1 */
    piece_index literals; /* added tokens, matched before anything else; scores unused */
    int32_t unk_id, eos_id;
} tokenizer_parts;

/** Append; bytes are copied. LX_ECONFIG: empty, too long, not UTF-8, bad score, too many. */
lx_status piece_index_add(piece_index *index, const char *bytes, size_t length, int32_t id,
                          double score, lx_err *err);
/** Sort and look for duplicates: LX_ECONFIG names one. No adding after this. */
lx_status piece_index_sort(piece_index *index, lx_err *err);
void piece_index_free(piece_index *index);

/** Keep the pieces of the range whose next byte is this one; false if none is left. The range of
 *  depth 0 is made by piece_range_start. */
bool piece_range_narrow(const piece_index *index, piece_range *range, unsigned char byte);

static inline piece_range piece_range_start(const piece_index *index)
{
    return (piece_range){.low = 0, .high = index->n, .depth = 0};
}

/** The piece that is exactly the bytes so far, or NULL. */
static inline const piece *piece_range_exact(const piece_index *index, const piece_range *range)
{
    const piece *p = &index->at[range->low];
    return range->low < range->high && p->length == range->depth ? p : NULL;
}

const piece *piece_index_find(const piece_index *index, const char *bytes, size_t length);

/** Readers; parts is zeroed, sorted indices come back, and on failure the caller frees it too. */
lx_status tokenizer_read_json(tokenizer_parts *parts, const char *data, size_t bytes, lx_err *err);
lx_status tokenizer_read_spiece(tokenizer_parts *parts, const unsigned char *data, size_t bytes,
                                lx_err *err);

#endif
