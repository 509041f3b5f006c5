/*
 * piece_index.c - a sorted list of byte strings, searched byte by byte
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lx_utf8.h"
#include "tokenizer_build.h"

#define FIRST_ROOM 1024

static bool grow(piece_index *index, size_t length)
{
    if (index->n == index->room) {
        size_t room = index->room ? 2 * index->room : FIRST_ROOM;
        piece *at = realloc(index->at, room * sizeof *at);
        if (!at)
            return false;
        index->at = at;
        index->room = room;
    }
    if (index->blob_bytes + length > index->blob_room) {
        size_t room = 2 * index->blob_room + FIRST_ROOM + length;
        char *blob = realloc(index->blob, room);
        if (!blob)
            return false;
        index->blob = blob;
        index->blob_room = room;
    }
    return true;
}

lx_status piece_index_add(piece_index *index, const char *bytes, size_t length, int32_t id,
                          double score, lx_err *err)
{
    if (length == 0 || length > TOKENIZER_PIECE_BYTES)
        return lx_fail(err, LX_ECONFIG, "piece %d has %zu bytes: 1 to %d are possible", id, length,
                       TOKENIZER_PIECE_BYTES);
    if (lx_utf8_bad(bytes, length) < length)
        return lx_fail(err, LX_ECONFIG, "piece %d is not UTF-8", id);
    if (!isfinite(score) || fabs(score) > TOKENIZER_SCORE)
        return lx_fail(err, LX_ECONFIG, "piece %d has score %g: must be finite and within +-%g", id,
                       score, TOKENIZER_SCORE);
    if (id < 0 || index->n >= TOKENIZER_PIECES)
        return lx_fail(err, LX_ECONFIG, "piece %zu with id %d: at most %d pieces, ids from 0",
                       index->n, id, TOKENIZER_PIECES);
    if (!grow(index, length))
        return lx_fail(err, LX_EAGAIN, "no memory for a vocabulary of more than %zu pieces",
                       index->n);
    memcpy(index->blob + index->blob_bytes, bytes, length);
    index->at[index->n++] =
        (piece){.offset = index->blob_bytes, .length = (uint32_t)length, .id = id, .score = score};
    index->blob_bytes += length;
    return LX_OK;
}

static int compare(const void *a, const void *b, void *self)
{
    const piece_index *index = self;
    const piece *x = a, *y = b;
    size_t common = x->length < y->length ? x->length : y->length;
    int order = memcmp(index->blob + x->offset, index->blob + y->offset, common);
    if (order == 0)
        order = (x->length > y->length) - (x->length < y->length);
    return order;
}

lx_status piece_index_sort(piece_index *index, lx_err *err)
{
    if (index->n == 0)
        return LX_OK;
    qsort_r(index->at, index->n, sizeof *index->at, compare, index);
    for (size_t i = 1; i < index->n; i++)
        if (compare(&index->at[i - 1], &index->at[i], index) == 0)
            return lx_fail(err, LX_ECONFIG, "piece \"%.*s\" is there twice, with ids %d and %d",
                           (int)index->at[i].length, index->blob + index->at[i].offset,
                           index->at[i - 1].id, index->at[i].id);
    size_t i = 0;
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (i < index->n && (unsigned char)index->blob[index->at[i].offset] < byte)
            i++;
        index->first[byte] = (uint32_t)i;
    }
    return LX_OK;
}

void piece_index_free(piece_index *index)
{
    free(index->blob);
    free(index->at);
    *index = (piece_index){0};
}

/* First piece in [low, high) whose byte at `depth` is at least `byte`; all are longer. */
static size_t lower_bound(const piece_index *index, size_t low, size_t high, uint32_t depth,
                          unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)index->blob[index->at[middle].offset + depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool piece_range_narrow(const piece_index *index, piece_range *range, unsigned char byte)
{
    if (range->low >= range->high)
        return false;
    if (range->depth == 0) {
        range->low = index->first[byte];
        range->high = index->first[byte + 1];
    } else {
        /* Only the first can end here: pieces are unique and the shortest sorts first. */
        size_t low = range->low + (index->at[range->low].length == range->depth ? 1 : 0);
        low = lower_bound(index, low, range->high, range->depth, byte);
        range->high = lower_bound(index, low, range->high, range->depth, byte + 1U);
        range->low = low;
    }
    range->depth++;
    return range->low < range->high;
}

const piece *piece_index_find(const piece_index *index, const char *bytes, size_t length)
{
    piece_range range = piece_range_start(index);
    for (size_t i = 0; i < length; i++)
        if (!piece_range_narrow(index, &range, (unsigned char)bytes[i]))
            return NULL;
    return piece_range_exact(index, &range);
}
