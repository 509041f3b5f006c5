/*
 * layout.c - order, duplicates, companions, addresses
 * SPDX-License-Identifier: Apache-2.0
 */
#include "layout.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_sha256.h"

#define EXPANSION 4 /* .pth views may repeat a storage; more than this is an attack */
#define PAGE      4096

void lx_layout_free(lx_layout *p)
{
    free(p->at);
    free(p->wide_at);
    free(p->companion);
    free(p->is_scale);
    free(p->is_on_disk);
    free(p->order);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const lx_entry *)a)->name, ((const lx_entry *)b)->name);
}

static lx_status sort_entries(lx_table *table, lx_err *err)
{
    if (table->n_entries)
        qsort(table->entry, table->n_entries, sizeof *table->entry, by_name);
    for (size_t i = 1; i < table->n_entries; i++) {
        const lx_entry *a = &table->entry[i - 1], *b = &table->entry[i];
        if (!strcmp(a->name, b->name))
            return lx_fail(err, LX_ECONFIG, "tensor %.200s is there twice: in %s and in %s",
                           b->name, table->source[a->file].path, table->source[b->file].path);
    }
    return LX_OK;
}

/* NAME.weight_scale belongs to NAME.weight: [out, 1] or [out], a float, one per row. */
static lx_status check_companion(const lx_table *table, const lx_entry *weight,
                                 const lx_entry *scale, lx_err *err)
{
    const char *path = table->source[scale->file].path;
    int64_t rows = weight->shape.n_dims > 0 ? weight->shape.dim[0] : 0;
    const lx_shape *s = &scale->shape;
    bool is_column = (s->n_dims == 1 || (s->n_dims == 2 && s->dim[1] == 1)) && s->dim[0] == rows;
    char text[128], wtext[128];
    if (!is_column)
        return lx_fail(err, LX_ECONFIG,
                       "%s: %.200s has shape %s; with a weight of %s it must be [%" PRId64
                       ", 1] or [%" PRId64 "] (one scale per output channel)",
                       path, scale->name, lx_shape_text(s, text, sizeof text),
                       lx_shape_text(&weight->shape, wtext, sizeof wtext), rows, rows);
    if (scale->dtype != LX_DTYPE_F32 && scale->dtype != LX_DTYPE_BF16 &&
        scale->dtype != LX_DTYPE_F16)
        return lx_fail(err, LX_ECONFIG, "%s: %.200s is %s; a scale must be F32, BF16 or F16", path,
                       scale->name, lx_dtype_name(scale->dtype));
    return LX_OK;
}

static lx_status pair_scales(lx_layout *p, lx_err *err)
{
    lx_table *t = p->table;
    for (size_t i = 0; i < t->n_entries; i++)
        p->companion[i] = LX_NO_COMPANION;
    for (size_t i = 0; i < t->n_entries; i++) {
        const char *name = t->entry[i].name;
        size_t n = strlen(name);
        if (n <= 13 || strcmp(name + n - 13, ".weight_scale"))
            continue;
        char base[LX_LIMIT_TENSOR_NAME + 1];
        snprintf(base, sizeof base, "%.*s", (int)(n - 6), name);
        lx_entry key = {.name = base};
        lx_entry *weight = bsearch(&key, t->entry, t->n_entries, sizeof key, by_name);
        if (!weight)
            continue; /* a tensor like any other: the catalog will wonder about it */
        lx_status status = check_companion(t, weight, &t->entry[i], err);
        if (status != LX_OK)
            return status;
        p->companion[weight - t->entry] = i;
        p->is_scale[i] = true;
    }
    return LX_OK;
}

/* Small parts are better in memory, and scales must be looked at: the options are asked for the
 * rest. A view with gaps has to be gathered once. */
static void choose_disk(lx_layout *p)
{
    const lx_weights_options *o = p->table->options;
    for (size_t i = 0; o && o->on_disk && i < p->table->n_entries; i++) {
        const lx_entry *e = &p->table->entry[i];
        p->is_on_disk[i] =
            !p->is_scale[i] && !e->is_strided && e->bytes && o->on_disk(e->name, e->bytes, o->self);
    }
}

static uint64_t aligned(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static lx_status place(lx_layout *p, bool is_shared, lx_err *err)
{
    lx_table *t = p->table;
    uint64_t file_bytes = 0, end = 0;
    for (size_t i = 0; i < t->n_sources; i++)
        file_bytes += t->source[i].bytes;
    if (is_shared)
        p->states = end = aligned(t->n_entries * sizeof(uint64_t), PAGE);
    for (size_t i = 0; i < t->n_entries; i++) {
        const lx_entry *e = &t->entry[i];
        p->stored += e->bytes;
        if (p->stored > EXPANSION * file_bytes)
            return lx_fail(err, LX_ECONFIG,
                           "%s: its tensors repeat stored values: more than %d times the %" PRIu64
                           " bytes of the file; refused",
                           t->source[e->file].path, EXPANSION, file_bytes);
        if (p->is_on_disk[i] && !is_shared)
            continue;
        p->at[i] = end;
        /* Each below 2^52, at most 10^6 of them, checked as they grow. */
        end += aligned(e->bytes, LX_WEIGHTS_ALIGN);
        if (p->is_scale[i] && e->dtype != LX_DTYPE_F32) {
            p->wide_at[i] = end;
            end += aligned(2 * e->bytes, LX_WEIGHTS_ALIGN);
        }
    }
    p->total = end ? end : LX_WEIGHTS_ALIGN;
    return LX_OK;
}

static int by_place(const void *a, const void *b, void *self)
{
    const lx_table *table = self;
    const lx_entry *x = &table->entry[*(const size_t *)a], *y = &table->entry[*(const size_t *)b];
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

lx_status lx_layout_make(lx_layout *p, lx_table *table, bool is_shared, lx_err *err)
{
    size_t n = table->n_entries ? table->n_entries : 1;
    *p = (lx_layout){.table = table,
                     .at = calloc(n, sizeof *p->at),
                     .wide_at = calloc(n, sizeof *p->wide_at),
                     .companion = calloc(n, sizeof *p->companion),
                     .is_scale = calloc(n, sizeof *p->is_scale),
                     .is_on_disk = calloc(n, sizeof *p->is_on_disk),
                     .order = calloc(n, sizeof *p->order)};
    if (!p->at || !p->wide_at || !p->companion || !p->is_scale || !p->is_on_disk || !p->order)
        return lx_fail(err, LX_EAGAIN, "out of memory for %zu tensor records", n);
    lx_status status = sort_entries(table, err);
    if (status == LX_OK)
        status = pair_scales(p, err);
    if (status == LX_OK)
        choose_disk(p);
    if (status == LX_OK)
        status = place(p, is_shared, err);
    for (size_t i = 0; i < table->n_entries; i++)
        p->order[i] = i;
    if (table->n_entries)
        qsort_r(p->order, table->n_entries, sizeof *p->order, by_place, table);
    return status;
}

static void add(lx_sha256 *sha, const void *data, size_t n)
{
    lx_sha256_add(sha, data, n);
}

static void add_number(lx_sha256 *sha, uint64_t value)
{
    add(sha, &value, sizeof value);
}

void lx_layout_identity(const lx_layout *p, char out[65])
{
    const lx_table *t = p->table;
    lx_sha256 sha;
    lx_sha256_open(&sha);
    add_number(&sha, t->n_entries);
    for (size_t i = 0; i < t->n_entries; i++) {
        const lx_entry *e = &t->entry[i];
        add(&sha, e->name, strlen(e->name) + 1);
        add_number(&sha, (uint64_t)e->dtype);
        add_number(&sha, (uint64_t)e->shape.n_dims);
        add(&sha, e->shape.dim, (size_t)e->shape.n_dims * sizeof *e->shape.dim);
        add(&sha, e->stride, e->is_strided ? sizeof e->stride : 0);
        const uint64_t places[] = {e->file,  e->is_strided, e->offset,
                                   e->bytes, p->at[i],      p->wide_at[i]};
        add(&sha, places, sizeof places);
    }
    for (size_t i = 0; i < t->n_sources; i++) {
        const struct stat *st = &t->source[i].stat;
        add_number(&sha, (uint64_t)st->st_dev);
        add_number(&sha, (uint64_t)st->st_ino);
        add_number(&sha, (uint64_t)st->st_size);
        add_number(&sha, (uint64_t)st->st_mtim.tv_sec);
        add_number(&sha, (uint64_t)st->st_mtim.tv_nsec);
    }
    lx_sha256_hex(&sha, out);
}
