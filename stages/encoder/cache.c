/*
 * cache.c - a few contexts, least recently used goes first
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cache.h"

#include <stdlib.h>
#include <string.h>

/* A checkpoint's id is 16 hex digits. */
static uint64_t number_of(const char *weights_id)
{
    return strtoull(weights_id, NULL, 16);
}

lx_status encoder_cache_open(encoder_cache *out, lx_arena *arena, int n_entries, int64_t max_tokens,
                             int64_t dim, lx_err *err)
{
    const uint64_t n = (uint64_t)n_entries, tokens = (uint64_t)max_tokens;
    encoder_cache cache = {.n_entries = n_entries, .max_tokens = max_tokens, .dim = dim};
    uint64_t bytes = n * sizeof *cache.entries, values;
    void *memory;
    if (n_entries < 0 || max_tokens < 1 || dim < 1 || !lx_mul_u64(tokens, (uint64_t)dim, &values))
        return lx_fail(err, LX_ECONFIG, "a cache of %d contexts is not possible", n_entries);
    lx_status status = lx_arena_take(arena, (size_t)bytes, &memory, err);
    cache.entries = memory;
    if (status == LX_OK && !lx_arena_is_dry(arena))
        memset(cache.entries, 0, (size_t)bytes);
    for (int i = 0; status == LX_OK && i < n_entries; i++) {
        float *context;
        status = lx_arena_take(arena, (size_t)tokens * sizeof(int32_t), &memory, err);
        if (status == LX_OK)
            status = lx_arena_take_f32(arena, values, &context, err);
        if (status == LX_OK && !lx_arena_is_dry(arena)) {
            cache.entries[i].ids = memory;
            cache.entries[i].context = context;
        }
    }
    if (status == LX_OK)
        *out = cache;
    return status;
}

const float *encoder_cache_get(encoder_cache *cache, const char *weights_id, const int32_t *ids,
                               int64_t n)
{
    for (int i = 0; i < cache->n_entries; i++) {
        encoder_cache_entry *e = &cache->entries[i];
        if (e->used && e->n == n && e->weights == number_of(weights_id) &&
            !memcmp(e->ids, ids, (size_t)n * sizeof *ids)) {
            e->used = ++cache->clock;
            return e->context;
        }
    }
    return NULL;
}

void encoder_cache_put(encoder_cache *cache, const char *weights_id, const int32_t *ids, int64_t n,
                       const float *context)
{
    if (cache->n_entries == 0 || n > cache->max_tokens)
        return;
    encoder_cache_entry *oldest = &cache->entries[0];
    for (int i = 1; i < cache->n_entries; i++)
        if (cache->entries[i].used < oldest->used)
            oldest = &cache->entries[i];
    oldest->used = ++cache->clock;
    oldest->weights = number_of(weights_id);
    oldest->n = n;
    memcpy(oldest->ids, ids, (size_t)n * sizeof *ids);
    memcpy(oldest->context, context, (size_t)n * (size_t)cache->dim * sizeof *context);
}
