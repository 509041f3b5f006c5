/*
 * cache.h - contexts of the last prompts, so that seed sweeps skip the encoder
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A fixed number of entries, keyed by the checkpoint and the whole id list (not a hash of
 *           it); the entry that was not used for longest goes first.
 * Promise   All memory is taken at open, from the stage's arena; a hit returns the very bits that
 *           were stored.
 * Tests     tests/stages/test_encoder_cache.c
 */
#ifndef ENCODER_CACHE_H
#define ENCODER_CACHE_H

#include "lx_arena.h"

typedef struct encoder_cache_entry {
    uint64_t used; /* clock of the last use; 0: empty */
    uint64_t weights;
    int64_t n;
    int32_t *ids;   /* [max_tokens] */
    float *context; /* [max_tokens, dim] */
} encoder_cache_entry;

typedef struct encoder_cache {
    int n_entries; /* 0: off */
    int64_t max_tokens, dim;
    uint64_t clock;
    encoder_cache_entry *entries; /* memory of the arena, as everything here */
} encoder_cache;

/** May be called on a dry arena to measure. */
lx_status encoder_cache_open(encoder_cache *out, lx_arena *arena, int n_entries, int64_t max_tokens,
                             int64_t dim, lx_err *err);

/** Context [n, dim] of these ids under this checkpoint, or NULL. Borrowed until the next put. */
const float *encoder_cache_get(encoder_cache *cache, const char *weights_id, const int32_t *ids,
                               int64_t n);
/** Keep a copy; more than max_tokens ids are not kept. */
void encoder_cache_put(encoder_cache *cache, const char *weights_id, const int32_t *ids, int64_t n,
                       const float *context);

#endif
