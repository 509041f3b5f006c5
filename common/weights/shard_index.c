/*
 * shard_index.c - model.safetensors.index.json: which shard has which tensor
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lx_log.h"
#include "weights_internal.h"

#define INDEX_DEPTH 8 /* metadata may be nested; nobody reads it */

typedef struct mapped {
    char *name; /* owned */
    uint32_t shard;
    bool is_seen;
} mapped;

struct lx_index {
    char *path;   /* owned */
    char **shard; /* owned */
    size_t n_shards;
    mapped *map; /* owned; sorted by name */
    size_t n_map, room;
    size_t n_extra; /* tensors in shards that the map does not mention */
};

void lx_index_close(lx_index **index)
{
    if (!index || !*index)
        return;
    for (size_t i = 0; i < (*index)->n_shards; i++)
        free((*index)->shard[i]);
    for (size_t i = 0; i < (*index)->n_map; i++)
        free((*index)->map[i].name);
    free((*index)->shard);
    free((*index)->map);
    free((*index)->path);
    free(*index);
    *index = NULL;
}

size_t lx_index_shards(const lx_index *index)
{
    return index->n_shards;
}

const char *lx_index_shard(const lx_index *index, size_t i)
{
    return index->shard[i];
}

/* A plain name in the index's own folder, nothing that could lead elsewhere. */
static bool is_plain_name(const char *name)
{
    return *name && *name != '.' && strlen(name) <= 255 && !strpbrk(name, "/\\:");
}

static lx_status shard_number(lx_index *index, const char *name, uint32_t *out, lx_err *err)
{
    for (size_t i = index->n_shards; i-- > 0;)
        if (!strcmp(index->shard[i], name)) {
            *out = (uint32_t)i;
            return LX_OK;
        }
    if (!is_plain_name(name))
        return lx_fail(err, LX_ECONFIG,
                       "%s: shard name \"%.200s\" is not a plain file name in the same folder",
                       index->path, name);
    if (index->n_shards == LX_LIMIT_FILES)
        return lx_fail(err, LX_ECONFIG, "%s: more than %d shards", index->path, LX_LIMIT_FILES);
    char **grown = realloc(index->shard, (index->n_shards + 1) * sizeof *grown);
    if (grown)
        index->shard = grown;
    char *copy = grown ? strdup(name) : NULL;
    if (!copy)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", index->path);
    *out = (uint32_t)index->n_shards;
    index->shard[index->n_shards++] = copy;
    return LX_OK;
}

static lx_status add_mapped(lx_index *index, lx_json_slice key, lx_json_slice value, lx_err *err)
{
    char name[LX_LIMIT_TENSOR_NAME + 1], file[512];
    if (!lx_json_string(key, name, sizeof name))
        return lx_fail(err, LX_ECONFIG, "%s: weight_map: a tensor name is not valid: %.*s",
                       index->path, (int)(key.bytes < 200 ? key.bytes : 200), key.text);
    if (!lx_json_string(value, file, sizeof file))
        return lx_fail(err, LX_ECONFIG, "%s: weight_map: the shard of %.200s is not a file name",
                       index->path, name);
    if (index->n_map == LX_LIMIT_TENSORS)
        return lx_fail(err, LX_ECONFIG, "%s: more than %d tensors", index->path, LX_LIMIT_TENSORS);
    if (index->n_map == index->room) {
        size_t room = index->room ? 2 * index->room : 256;
        mapped *grown = realloc(index->map, room * sizeof *grown);
        if (!grown)
            return lx_fail(err, LX_EAGAIN, "%s: out of memory", index->path);
        index->map = grown;
        index->room = room;
    }
    mapped *m = &index->map[index->n_map];
    *m = (mapped){0};
    lx_status status = shard_number(index, file, &m->shard, err);
    if (status != LX_OK)
        return status;
    m->name = strdup(name);
    if (!m->name)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", index->path);
    index->n_map++;
    return LX_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const mapped *)a)->name, ((const mapped *)b)->name);
}

static lx_status read_map(lx_index *index, lx_json_slice map, lx_err *err)
{
    lx_json_walk walk = {.at = map.text, .end = map.text + map.bytes, .max_depth = INDEX_DEPTH};
    lx_json_slice key, value;
    const char *bad;
    while (lx_json_next(&walk, &key, &value, &bad)) {
        lx_status status = add_mapped(index, key, value, err);
        if (status != LX_OK)
            return status;
    }
    if (bad)
        return lx_fail(err, LX_ECONFIG, "%s: weight_map: %s", index->path, bad);
    if (!index->n_map)
        return lx_fail(err, LX_ECONFIG, "%s: weight_map is empty", index->path);
    qsort(index->map, index->n_map, sizeof *index->map, by_name);
    for (size_t i = 1; i < index->n_map; i++)
        if (!strcmp(index->map[i - 1].name, index->map[i].name))
            return lx_fail(err, LX_ECONFIG, "%s: weight_map has %.200s twice", index->path,
                           index->map[i].name);
    return LX_OK;
}

static lx_status read_text(lx_index *index, const char *text, size_t bytes, lx_err *err)
{
    lx_json_walk walk = {.at = text, .end = text + bytes, .max_depth = INDEX_DEPTH};
    lx_json_slice key, value, map = {0};
    const char *bad;
    while (lx_json_next(&walk, &key, &value, &bad)) {
        if (key.bytes != 12 || memcmp(key.text, "\"weight_map\"", 12))
            continue;
        if (map.text)
            return lx_fail(err, LX_ECONFIG, "%s: weight_map occurs twice", index->path);
        map = value;
    }
    if (bad)
        return lx_fail(err, LX_ECONFIG, "%s: byte %td: %s", index->path, walk.at - text, bad);
    for (; walk.at < walk.end; walk.at++)
        if (!strchr(" \t\r\n", *walk.at))
            return lx_fail(err, LX_ECONFIG, "%s: byte %td: text follows the JSON", index->path,
                           walk.at - text);
    if (!map.text)
        return lx_fail(err, LX_ECONFIG, "%s: no weight_map in this index", index->path);
    return read_map(index, map, err);
}

lx_status lx_index_open(lx_index **out, const char *path, lx_err *err)
{
    lx_source source;
    lx_status status = lx_source_open(&source, path, err);
    if (status != LX_OK)
        return status;
    lx_index *index = calloc(1, sizeof *index);
    char *text = NULL;
    if (source.bytes > LX_LIMIT_HEADER)
        status = lx_fail(err, LX_ECONFIG, "%s: an index of %" PRIu64 " bytes, at most %u allowed",
                         path, source.bytes, LX_LIMIT_HEADER);
    else if (!index || !(index->path = strdup(path)) || !(text = malloc((size_t)source.bytes)))
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    if (status == LX_OK)
        status = lx_source_read(&source, 0, text, source.bytes, err);
    if (status == LX_OK)
        status = read_text(index, text, (size_t)source.bytes, err);
    free(text);
    lx_source_close(&source);
    if (status == LX_OK)
        *out = index;
    else
        lx_index_close(&index);
    return status;
}

lx_status lx_index_see(lx_index *index, const char *name, size_t shard, lx_err *err)
{
    mapped key = {.name = (char *)name};
    mapped *m = bsearch(&key, index->map, index->n_map, sizeof *index->map, by_name);
    if (!m) {
        index->n_extra++;
        return LX_OK;
    }
    if (m->shard != shard)
        return lx_fail(err, LX_ECONFIG, "%s: tensor %.200s is said to be in %s, but is in %s",
                       index->path, name, index->shard[m->shard], index->shard[shard]);
    m->is_seen = true;
    return LX_OK;
}

lx_status lx_index_finish(const lx_index *index, lx_err *err)
{
    for (size_t i = 0; i < index->n_map; i++)
        if (!index->map[i].is_seen)
            return lx_fail(err, LX_ECONFIG, "%s: tensor %.200s is not in %s, where it should be",
                           index->path, index->map[i].name, index->shard[index->map[i].shard]);
    if (index->n_extra)
        LX_W("weights index=%s tensors-not-in-the-map=%zu", index->path, index->n_extra);
    return LX_OK;
}
