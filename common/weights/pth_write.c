/*
 * pth_write.c - what torch.save puts around the values: stored zip, 64-byte alignment, pickle
 * SPDX-License-Identifier: Apache-2.0
 *
 * The records data/0, data/1, ... in the order of the tensors, then data.pkl, byteorder, version,
 * then the central directory. Sizes are known before, CRCs when all values have been written: the
 * local headers are written last.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "writer_internal.h"
#include "zip.h"

#define ROOT        "archive" /* what torch.save uses where there is no file name */
#define ALIGN       64
#define SATURATED16 0xffffu
#define SATURATED32 0xffffffffu
#define N_FACTS     3 /* records that are no storages */

/* A record of the archive. */
typedef struct record {
    char name[32]; /* below the root */
    uint64_t header, data, bytes;
    uint32_t crc;
    const void *text; /* of small records, borrowed; NULL: a storage */
} record;

typedef struct archive {
    record *record; /* owned; [n] storages first */
    size_t n;
    char *pickle; /* owned */
    bool zip64;
    uint64_t end; /* of the records */
} archive;

/* --- pickle ---------------------------------------------------------------------------------- */

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

/* A typed storage's class, or the name of a dtype that has none: those are views of an untyped
 * storage, rebuilt by _rebuild_tensor_v3. */
static const struct {
    const char *storage, *dtype;
} classes[] = {
    [LX_DTYPE_F64] = {"DoubleStorage", NULL},     [LX_DTYPE_F32] = {"FloatStorage", NULL},
    [LX_DTYPE_F16] = {"HalfStorage", NULL},       [LX_DTYPE_BF16] = {"BFloat16Storage", NULL},
    [LX_DTYPE_F8_E4M3] = {NULL, "float8_e4m3fn"}, [LX_DTYPE_F8_E5M2] = {NULL, "float8_e5m2"},
    [LX_DTYPE_I64] = {"LongStorage", NULL},       [LX_DTYPE_I32] = {"IntStorage", NULL},
    [LX_DTYPE_I16] = {"ShortStorage", NULL},      [LX_DTYPE_I8] = {"CharStorage", NULL},
    [LX_DTYPE_U8] = {"ByteStorage", NULL},        [LX_DTYPE_BOOL] = {"BoolStorage", NULL},
};
_Static_assert(sizeof classes / sizeof *classes == LX_DTYPE_COUNT, "every dtype has a class");

static void pickle_tensor(FILE *out, const lx_written *t, const char *key)
{
    const char *class = classes[t->dtype].storage;
    const lx_shape *shape = &t->shape;
    pickle_text(out, t->name);
    fprintf(out, "ctorch._utils\n_rebuild_tensor_%s\n((", class ? "v2" : "v3");
    pickle_text(out, "storage");
    if (class)
        fprintf(out, "ctorch\n%s\n", class);
    else
        fputs("ctorch.storage\nUntypedStorage\n", out);
    pickle_text(out, key);
    pickle_text(out, "cpu");
    pickle_int(out, class ? t->bytes / lx_dtype_size(t->dtype) : t->bytes);
    fputs("tQ", out);
    pickle_int(out, 0);
    fputc('(', out);
    for (int d = 0; d < shape->n_dims; d++)
        pickle_int(out, (uint64_t)shape->dim[d]);
    fputs("t(", out);
    for (int d = 0; d < shape->n_dims; d++) {
        uint64_t stride = 1; /* a product of dimensions that were checked */
        for (int k = d + 1; k < shape->n_dims; k++)
            stride *= (uint64_t)shape->dim[k];
        pickle_int(out, stride);
    }
    fputs("t\x89"
          "ccollections\nOrderedDict\n)R",
          out);
    if (!class)
        fprintf(out, "ctorch\n%s\n", classes[t->dtype].dtype);
    fputs("tR", out);
}

static bool make_pickle(archive *a, const lx_writer *w, size_t *bytes)
{
    FILE *out = open_memstream(&a->pickle, bytes);
    if (!out)
        return false;
    fputs("\x80\x02}(", out);
    for (size_t i = 0; i < w->n; i++)
        pickle_tensor(out, &w->tensor[i], a->record[i].name + 5); /* after "data/" */
    fputs("u.", out);
    return !fclose(out);
}

/* --- zip ------------------------------------------------------------------------------------- */

static bool needs64(const archive *a, uint64_t value)
{
    return a->zip64 || value >= SATURATED32;
}

static size_t name_bytes(const record *r)
{
    return sizeof ROOT + strlen(r->name); /* its terminator's place is the slash's */
}

/* Bytes of the local header before its padding. */
static uint64_t local_bytes(const archive *a, const record *r)
{
    return 30 + name_bytes(r) + (needs64(a, r->bytes) ? 20 : 0) + 4;
}

static void put_local(FILE *out, const archive *a, const record *r)
{
    size_t padding = (size_t)(r->data - r->header - local_bytes(a, r));
    bool wide = needs64(a, r->bytes);
    le(out, 0x04034b50, 4);
    le(out, wide ? 45 : 20, 2);
    le(out, 0x0800, 2); /* names are UTF-8 */
    le(out, 0, 6);      /* stored; no time */
    le(out, r->crc, 4);
    le(out, wide ? SATURATED32 : r->bytes, 4);
    le(out, wide ? SATURATED32 : r->bytes, 4);
    le(out, name_bytes(r), 2);
    le(out, 4 + padding + (wide ? 20 : 0), 2);
    fprintf(out, ROOT "/%s", r->name);
    if (wide) {
        le(out, 1, 2);
        le(out, 16, 2);
        le(out, r->bytes, 8);
        le(out, r->bytes, 8);
    }
    fputs("FB", out);
    le(out, padding, 2);
    for (size_t i = 0; i < padding; i++)
        fputc('Z', out);
}

static void put_central(FILE *out, const archive *a, const record *r)
{
    bool wide = needs64(a, r->bytes), far = needs64(a, r->header);
    le(out, 0x02014b50, 4);
    le(out, wide || far ? 45 : 20, 2);
    le(out, wide || far ? 45 : 20, 2);
    le(out, 0x0800, 2);
    le(out, 0, 6);
    le(out, r->crc, 4);
    le(out, wide ? SATURATED32 : r->bytes, 4);
    le(out, wide ? SATURATED32 : r->bytes, 4);
    le(out, name_bytes(r), 2);
    le(out, wide || far ? 4u + (wide ? 16 : 0) + (far ? 8 : 0) : 0, 2);
    le(out, 0, 10); /* comment, disk, attributes */
    le(out, far ? SATURATED32 : r->header, 4);
    fprintf(out, ROOT "/%s", r->name);
    if (!wide && !far)
        return;
    le(out, 1, 2);
    le(out, (wide ? 16u : 0) + (far ? 8u : 0), 2);
    if (wide) {
        le(out, r->bytes, 8);
        le(out, r->bytes, 8);
    }
    if (far)
        le(out, r->header, 8);
}

static void put_end(FILE *out, const archive *a, uint64_t bytes)
{
    bool wide = needs64(a, a->end) || needs64(a, bytes) || a->n >= SATURATED16;
    if (wide) {
        le(out, 0x06064b50, 4);
        le(out, 44, 8);
        le(out, 45, 2);
        le(out, 45, 2);
        le(out, 0, 8);
        le(out, a->n, 8);
        le(out, a->n, 8);
        le(out, bytes, 8);
        le(out, a->end, 8);
        le(out, 0x07064b50, 4);
        le(out, 0, 4);
        le(out, a->end + bytes, 8);
        le(out, 1, 4);
    }
    le(out, 0x06054b50, 4);
    le(out, 0, 4);
    le(out, wide ? SATURATED16 : a->n, 2);
    le(out, wide ? SATURATED16 : a->n, 2);
    le(out, wide ? SATURATED32 : bytes, 4);
    le(out, wide ? SATURATED32 : a->end, 4);
    le(out, 0, 2);
}

/* The central directory's length does not depend on CRCs: it is written once to be measured. */
static bool directory_bytes(const archive *a, uint64_t *bytes)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        return false;
    for (size_t i = 0; i < a->n; i++)
        put_central(out, a, &a->record[i]);
    fflush(out);
    uint64_t records = n;
    put_end(out, a, records);
    bool ok = !fclose(out);
    *bytes = n;
    free(text);
    return ok;
}

/* --- the frame ------------------------------------------------------------------------------- */

static void add_fact(archive *a, const char *name, const void *text, size_t bytes)
{
    record *r = &a->record[a->n++];
    *r = (record){.text = text, .bytes = bytes, .crc = lx_crc32(0, text, bytes)};
    snprintf(r->name, sizeof r->name, "%s", name);
}

static lx_status place(archive *a, lx_writer *w, lx_err *err)
{
    uint64_t at = 0, directory;
    for (size_t i = 0; i < a->n; i++) {
        record *r = &a->record[i];
        r->header = at;
        r->data = (at + local_bytes(a, r) + ALIGN - 1) / ALIGN * ALIGN;
        if (!lx_add_u64(r->data, r->bytes, &at) || at > INT64_MAX / 2)
            return lx_fail(err, LX_EJOB, "%s: sizes overflow", w->path);
    }
    for (size_t i = 0; i < w->n; i++)
        w->tensor[i].offset = a->record[i].data;
    a->end = at;
    if (!directory_bytes(a, &directory))
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    w->bytes = at + directory;
    return LX_OK;
}

static lx_status lay_out(lx_writer *w, lx_err *err)
{
    archive *a = w->state = calloc(1, sizeof *a);
    size_t bytes = 0;
    if (!a || !(a->record = calloc(w->n + N_FACTS, sizeof *a->record)))
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    a->zip64 = w->options.zip64;
    for (; a->n < w->n; a->n++) {
        a->record[a->n].bytes = w->tensor[a->n].bytes;
        snprintf(a->record[a->n].name, sizeof a->record->name, "data/%zu", a->n);
    }
    if (!make_pickle(a, w, &bytes))
        return lx_fail(err, LX_EAGAIN, "%s: out of memory for its pickle", w->path);
    add_fact(a, "data.pkl", a->pickle, bytes);
    add_fact(a, "byteorder", "little", 6);
    add_fact(a, "version", "3\n", 2);
    return place(a, w, err);
}

static bool finish(lx_writer *w)
{
    archive *a = w->state;
    for (size_t i = 0; i < a->n; i++) {
        record *r = &a->record[i];
        if (!r->text)
            r->crc = w->tensor[i].crc;
        if (fseeko(w->out, (off_t)r->header, SEEK_SET))
            return false;
        put_local(w->out, a, r);
        if (r->text && fwrite(r->text, 1, (size_t)r->bytes, w->out) != r->bytes)
            return false;
    }
    if (fseeko(w->out, (off_t)a->end, SEEK_SET))
        return false;
    for (size_t i = 0; i < a->n; i++)
        put_central(w->out, a, &a->record[i]);
    off_t at = ftello(w->out);
    put_end(w->out, a, (uint64_t)at - a->end);
    return at >= 0;
}

static void free_archive(lx_writer *w)
{
    archive *a = w->state;
    if (a) {
        free(a->record);
        free(a->pickle);
    }
    free(a);
    w->state = NULL;
}

const lx_frame lx_frame_pth = {lay_out, finish, free_archive};
