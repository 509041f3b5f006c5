/*
 * table.c - the list of a checkpoint's tensors before their bytes are read
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "weights_internal.h"

void lx_table_close(lx_table *table)
{
    for (size_t i = 0; i < table->n_sources; i++)
        lx_source_close(&table->source[i]);
    for (size_t i = 0; i < table->n_entries; i++)
        free(table->entry[i].name);
    free(table->source);
    free(table->entry);
    *table = (lx_table){0};
}

lx_status lx_table_add_source(lx_table *table, const char *path, uint32_t *index, lx_err *err)
{
    if (table->n_sources == LX_LIMIT_FILES)
        return lx_fail(err, LX_ECONFIG, "%s: a checkpoint of more than %d files", path,
                       LX_LIMIT_FILES);
    lx_source *grown = realloc(table->source, (table->n_sources + 1) * sizeof *grown);
    if (!grown)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    table->source = grown;
    lx_status status = lx_source_open(&table->source[table->n_sources], path, err);
    if (status == LX_OK)
        *index = (uint32_t)table->n_sources++;
    return status;
}

lx_status lx_table_add(lx_table *table, const lx_entry *entry, lx_err *err)
{
    if (table->n_entries == LX_LIMIT_TENSORS)
        return lx_fail(err, LX_ECONFIG, "%s: more than %d tensors", table->source[entry->file].path,
                       LX_LIMIT_TENSORS);
    if (table->n_entries == table->room) {
        size_t room = table->room ? 2 * table->room : 256;
        lx_entry *grown = realloc(table->entry, room * sizeof *grown);
        if (!grown)
            return lx_fail(err, LX_EAGAIN, "out of memory for %zu tensor records", room);
        table->entry = grown;
        table->room = room;
    }
    table->entry[table->n_entries++] = *entry;
    return LX_OK;
}

bool lx_table_wants(const lx_table *table, const char *name)
{
    if (!table->options || !table->options->wants)
        return true;
    static const char companion[] = ".weight_scale";
    size_t n = strlen(name), m = sizeof companion - 1;
    if (n <= m || n > LX_LIMIT_TENSOR_NAME || strcmp(name + n - m, companion))
        return table->options->wants(name, table->options->self);
    char base[LX_LIMIT_TENSOR_NAME + 1];
    memcpy(base, name, n - 6); /* without "_scale" */
    base[n - 6] = 0;
    return table->options->wants(base, table->options->self);
}

const char *lx_canonical_name(const char *name)
{
    static const char *const prefixes[] = {"model.diffusion_model.", "diffusion_model.",
                                           "text_encoders.umt5xxl.transformer."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i]);
        if (!strncmp(name, prefixes[i], n) && name[n])
            return name + n;
    }
    return name;
}
