/*
 * mk_pth.c - a checkpoint as torch.save writes it: stored zip, 64-byte alignment, pickle protocol 2
 * SPDX-License-Identifier: Apache-2.0
 *
 * Differences to torch: the local headers carry CRC and sizes (torch uses data descriptors), and
 * the pickle does not memoize.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mk.h"
#include "weights/zip.h"

#define ALIGN       64
#define SATURATED16 0xffffu
#define SATURATED32 0xffffffffu

/* A record of the archive. */
typedef struct entry {
    char name[64]; /* below the root */
    uint64_t header, data, bytes;
    uint32_t crc;
    const void *text; /* small records; NULL for storages */
    mk_place *place;  /* storages */
    bool is_scale;
} entry;

typedef struct archive {
    const char *root;
    entry *entry; /* owned */
    size_t n;
    bool zip64;
} archive;

/* --- bytes ----------------------------------------------------------------------------------- */

static void le(FILE *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        fputc(i < 8 ? (int)(value >> (8 * i) & 255) : 0, out);
}

static void pickle_text(FILE *out, const char *text)
{
    fputc('X', out);
    le(out, strlen(text), 4);
    fputs(text, out);
}

static void pickle_int(FILE *out, uint64_t value)
{
    if (value < 256) {
        fputc('K', out);
        le(out, value, 1);
    } else if (value < 65536) {
        fputc('M', out);
        le(out, value, 2);
    } else if (value < 0x80000000u) {
        fputc('J', out);
        le(out, value, 4);
    } else {
        fputs("\x8a\x08", out);
        le(out, value, 8);
    }
}

/* --- pickle ---------------------------------------------------------------------------------- */

static const char *storage_class(lx_dtype dtype)
{
    switch (dtype) {
    case LX_DTYPE_F32:
        return "FloatStorage";
    case LX_DTYPE_F16:
        return "HalfStorage";
    case LX_DTYPE_BF16:
        return "BFloat16Storage";
    case LX_DTYPE_I8:
        return "CharStorage";
    default:
        return NULL; /* newer types have no class: untyped storage, _rebuild_tensor_v3 */
    }
}

static void pickle_tensor(FILE *out, const char *name, const char *key, lx_dtype dtype,
                          const lx_shape *shape)
{
    const char *class = storage_class(dtype);
    uint64_t elements = 0, bytes = 0;
    lx_shape_bytes(shape, dtype, &elements, &bytes, NULL);
    pickle_text(out, name);
    fprintf(out, "ctorch._utils\n_rebuild_tensor_%s\n((", class ? "v2" : "v3");
    pickle_text(out, "storage");
    if (class)
        fprintf(out, "ctorch\n%s\n", class);
    else
        fputs("ctorch.storage\nUntypedStorage\n", out);
    pickle_text(out, key);
    pickle_text(out, "cpu");
    pickle_int(out, class ? elements : bytes);
    fputs("tQ", out);
    pickle_int(out, 0);
    fputc('(', out);
    for (int d = 0; d < shape->n_dims; d++)
        pickle_int(out, (uint64_t)shape->dim[d]);
    fputs("t(", out);
    for (int d = 0; d < shape->n_dims; d++) {
        uint64_t stride = 1;
        for (int k = d + 1; k < shape->n_dims; k++)
            stride *= (uint64_t)shape->dim[k];
        pickle_int(out, stride);
    }
    fputs("t\x89"
          "ccollections\nOrderedDict\n)R",
          out);
    if (!class)
        fputs("ctorch\nfloat8_e4m3fn\n", out);
    fputs("tR", out);
}

static char *make_pickle(const archive *a, size_t *bytes)
{
    char *text = NULL, name[128];
    FILE *out = open_memstream(&text, bytes);
    if (!out)
        return NULL;
    fputs("\x80\x02}(", out);
    for (size_t i = 0; i < a->n; i++) {
        const mk_place *p = a->entry[i].place;
        if (!p)
            continue;
        snprintf(name, sizeof name, "%s%s", p->tensor->name, a->entry[i].is_scale ? "_scale" : "");
        lx_shape column = LX_SHAPE(p->tensor->shape.dim[0], 1);
        pickle_tensor(out, name, a->entry[i].name + 5, /* after "data/" */
                      a->entry[i].is_scale ? p->scale_dtype : p->dtype,
                      a->entry[i].is_scale ? &column : &p->tensor->shape);
    }
    fputs("u.", out);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

/* --- zip ------------------------------------------------------------------------------------- */

static bool needs64(const archive *a, uint64_t value)
{
    return a->zip64 || value >= SATURATED32;
}

/* Bytes of the local header before its padding. */
static uint64_t local_bytes(const archive *a, const entry *e)
{
    return 30 + strlen(a->root) + 1 + strlen(e->name) + (needs64(a, e->bytes) ? 20 : 0) + 4;
}

static void lay_out(const archive *a, uint64_t *end)
{
    uint64_t at = 0;
    for (size_t i = 0; i < a->n; i++) {
        entry *e = &a->entry[i];
        e->header = at;
        e->data = (at + local_bytes(a, e) + ALIGN - 1) / ALIGN * ALIGN;
        at = e->data + e->bytes;
    }
    *end = at;
}

static void put_local(FILE *out, const archive *a, const entry *e)
{
    size_t padding = (size_t)(e->data - e->header - local_bytes(a, e));
    bool wide = needs64(a, e->bytes);
    le(out, 0x04034b50, 4);
    le(out, wide ? 45 : 20, 2);
    le(out, 0x0800, 2); /* names are UTF-8 */
    le(out, 0, 6);      /* stored; no time */
    le(out, e->crc, 4);
    le(out, wide ? SATURATED32 : e->bytes, 4);
    le(out, wide ? SATURATED32 : e->bytes, 4);
    le(out, strlen(a->root) + 1 + strlen(e->name), 2);
    le(out, 4 + padding + (wide ? 20 : 0), 2);
    fprintf(out, "%s/%s", a->root, e->name);
    if (wide) {
        le(out, 1, 2);
        le(out, 16, 2);
        le(out, e->bytes, 8);
        le(out, e->bytes, 8);
    }
    fputs("FB", out);
    le(out, padding, 2);
    for (size_t i = 0; i < padding; i++)
        fputc('Z', out);
}

static void put_central(FILE *out, const archive *a, const entry *e)
{
    bool wide = needs64(a, e->bytes), far = needs64(a, e->header);
    le(out, 0x02014b50, 4);
    le(out, wide || far ? 45 : 20, 2);
    le(out, wide || far ? 45 : 20, 2);
    le(out, 0x0800, 2);
    le(out, 0, 6);
    le(out, e->crc, 4);
    le(out, wide ? SATURATED32 : e->bytes, 4);
    le(out, wide ? SATURATED32 : e->bytes, 4);
    le(out, strlen(a->root) + 1 + strlen(e->name), 2);
    le(out, wide || far ? 4u + (wide ? 16 : 0) + (far ? 8 : 0) : 0, 2);
    le(out, 0, 10); /* comment, disk, attributes */
    le(out, far ? SATURATED32 : e->header, 4);
    fprintf(out, "%s/%s", a->root, e->name);
    if (!wide && !far)
        return;
    le(out, 1, 2);
    le(out, (wide ? 16u : 0) + (far ? 8u : 0), 2);
    if (wide) {
        le(out, e->bytes, 8);
        le(out, e->bytes, 8);
    }
    if (far)
        le(out, e->header, 8);
}

static void put_end(FILE *out, const archive *a, uint64_t at, uint64_t bytes)
{
    bool wide = needs64(a, at) || needs64(a, bytes) || a->n >= SATURATED16;
    if (wide) {
        le(out, 0x06064b50, 4);
        le(out, 44, 8);
        le(out, 45, 2);
        le(out, 45, 2);
        le(out, 0, 8);
        le(out, a->n, 8);
        le(out, a->n, 8);
        le(out, bytes, 8);
        le(out, at, 8);
        le(out, 0x07064b50, 4);
        le(out, 0, 4);
        le(out, at + bytes, 8);
        le(out, 1, 4);
    }
    le(out, 0x06054b50, 4);
    le(out, 0, 4);
    le(out, wide ? SATURATED16 : a->n, 2);
    le(out, wide ? SATURATED16 : a->n, 2);
    le(out, wide ? SATURATED32 : bytes, 4);
    le(out, wide ? SATURATED32 : at, 4);
    le(out, 0, 2);
}

/* --- the file -------------------------------------------------------------------------------- */

static void add_text(archive *a, const char *name, const void *text, size_t bytes)
{
    entry *e = &a->entry[a->n++];
    *e = (entry){.text = text, .bytes = bytes, .crc = lx_crc32(0, text, bytes)};
    snprintf(e->name, sizeof e->name, "%s", name);
}

static void add_storage(archive *a, mk_place *p, bool is_scale, size_t key)
{
    entry *e = &a->entry[a->n++];
    *e = (entry){.place = p, .is_scale = is_scale, .bytes = is_scale ? p->scale_bytes : p->bytes};
    snprintf(e->name, sizeof e->name, "data/%zu", key);
}

static bool put_headers(FILE *out, const archive *a, uint64_t end)
{
    for (size_t i = 0; i < a->n; i++) {
        const entry *e = &a->entry[i];
        if (fseeko(out, (off_t)e->header, SEEK_SET))
            return false;
        put_local(out, a, e);
        if (e->text && fwrite(e->text, 1, (size_t)e->bytes, out) != e->bytes)
            return false;
    }
    if (fseeko(out, (off_t)end, SEEK_SET))
        return false;
    for (size_t i = 0; i < a->n; i++)
        put_central(out, a, &a->entry[i]);
    off_t at = ftello(out);
    put_end(out, a, end, (uint64_t)at - end);
    return !fflush(out) && !ferror(out);
}

static bool write_archive(const char *path, archive *a, mk_place *place, size_t n,
                          const mk_job *job)
{
    uint64_t end = 0;
    lay_out(a, &end);
    for (size_t i = 0; i < a->n; i++) {
        const entry *e = &a->entry[i];
        if (e->place)
            *(e->is_scale ? &e->place->scale_offset : &e->place->offset) = e->data;
    }
    FILE *out = fopen(path, "wbe");
    if (!out)
        return mk_failed(path, "cannot be written");
    bool ok = mk_reserve(fileno(out), path, end, job);
    ok = ok && mk_fill(fileno(out), path, place, n, true, job);
    for (size_t i = 0; i < a->n; i++)
        if (a->entry[i].place)
            a->entry[i].crc =
                a->entry[i].is_scale ? a->entry[i].place->scale_crc : a->entry[i].place->crc;
    ok = ok && (put_headers(out, a, end) || mk_failed(path, "cannot be written"));
    if (fclose(out))
        ok = mk_failed(path, "cannot be written");
    return ok;
}

static void place_all(mk_place *place, archive *a, const mk_list *list, const mk_format *format)
{
    bool is_code = format->linear == LX_DTYPE_I8 || format->linear == LX_DTYPE_F8_E4M3;
    size_t key = 0;
    for (size_t i = 0; i < list->n; i++) {
        mk_place *p = &place[i];
        const mk_tensor *t = &list->tensor[i];
        *p = (mk_place){.tensor = t,
                        .dtype = t->is_linear ? format->linear : format->other,
                        .scale_dtype = format->scale,
                        .is_quantized = t->is_linear && is_code};
        lx_shape_bytes(&t->shape, p->dtype, NULL, &p->bytes, NULL);
        add_storage(a, p, false, key++);
        if (!p->is_quantized)
            continue;
        lx_shape column = LX_SHAPE(t->shape.dim[0], 1);
        lx_shape_bytes(&column, p->scale_dtype, NULL, &p->scale_bytes, NULL);
        add_storage(a, p, true, key++);
    }
}

bool mk_write_pth(const char *path, const mk_list *list, const mk_format *format, const mk_job *job)
{
    char root[128];
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    snprintf(root, sizeof root, "%.*s", (int)strcspn(base, "."), base);
    mk_place *place = calloc(list->n ? list->n : 1, sizeof *place);
    archive a = {
        .root = root, .entry = calloc(2 * list->n + 4, sizeof *a.entry), .zip64 = job->zip64};
    char *pickle = NULL;
    size_t pickle_bytes = 0;
    bool ok = place && a.entry;
    if (ok) {
        place_all(place, &a, list, format);
        pickle = make_pickle(&a, &pickle_bytes);
    }
    if (ok && pickle) {
        add_text(&a, "data.pkl", pickle, pickle_bytes);
        add_text(&a, "byteorder", "little", 6);
        add_text(&a, "version", "3\n", 2);
        ok = write_archive(path, &a, place, list->n, job);
    } else {
        ok = mk_failed(path, "no memory for its pickle");
    }
    free(pickle);
    free(a.entry);
    free(place);
    return ok;
}
