/*
 * weights_hash.h - a weight file opened, and what is in it as one number: for comparing files
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WEIGHTS_HASH_H
#define WEIGHTS_HASH_H

#include <string.h>

#include "weights/lx_weights.h"

/* Fails the test if it cannot. Owned by the caller. */
static inline lx_weights *open_ok(const char *path)
{
    lx_weights_options options = {.verify = true};
    lx_weights *w = NULL;
    lx_err err = {0};
    if (lx_weights_open(&w, path, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    return w;
}

static inline uint64_t fnv(uint64_t hash, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return hash;
}

/* FNV-1a over dtype, shape, bytes, scales. */
static inline uint64_t hash_of(const lx_weight *w)
{
    uint64_t n, hash = 0xcbf29ce484222325u;
    lx_shape_bytes(&w->shape, w->dtype, NULL, &n, NULL);
    hash = fnv(hash, lx_dtype_name(w->dtype), strlen(lx_dtype_name(w->dtype)));
    hash = fnv(hash, w->shape.dim, (size_t)w->shape.n_dims * sizeof *w->shape.dim);
    hash = fnv(hash, w->data, n);
    return w->scale ? fnv(hash, w->scale, (size_t)w->shape.dim[0] * sizeof *w->scale) : hash;
}

#endif
