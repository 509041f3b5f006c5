/*
 * safetensors_write.c - the header of a safetensors file, in the reference writer's order
 * SPDX-License-Identifier: Apache-2.0
 *
 * Tensors by falling element size, then by name; the header padded with spaces to a multiple of 8,
 * so that every tensor is aligned to its own element size.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "writer_internal.h"

typedef struct header {
    char *text; /* owned; with its length before it */
    size_t bytes;
} header;

static int reference_order(const void *a, const void *b)
{
    const lx_written *x = *(lx_written *const *)a, *y = *(lx_written *const *)b;
    size_t size_x = lx_dtype_size(x->dtype), size_y = lx_dtype_size(y->dtype);
    if (size_x != size_y)
        return size_x > size_y ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void put_json_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p);
        else if (*p < 0x20)
            fprintf(out, "\\u%04x", *p);
        else
            fputc(*p, out);
    }
    fputc('"', out);
}

/* The JSON; offsets of the tensors are relative to the data until lay_out. */
static lx_status put_json(FILE *out, lx_written **order, const lx_writer *w, uint64_t *data_bytes,
                          lx_err *err)
{
    uint64_t begin = 0;
    fputc('{', out);
    for (size_t i = 0; i < w->n; i++) {
        lx_written *t = order[i];
        uint64_t end;
        if (!lx_add_u64(begin, t->bytes, &end))
            return lx_fail(err, LX_EJOB, "tensor %.200s: sizes overflow", t->name);
        if (i)
            fputc(',', out);
        put_json_string(out, t->name);
        fprintf(out, ":{\"dtype\":\"%s\",\"shape\":[", lx_dtype_name(t->dtype));
        for (int d = 0; d < t->shape.n_dims; d++)
            fprintf(out, "%s%" PRId64, d ? "," : "", t->shape.dim[d]);
        fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end);
        t->offset = begin;
        begin = end;
    }
    fputc('}', out);
    *data_bytes = begin;
    return LX_OK;
}

/* Length, JSON, padding. */
static lx_status make_header(header *h, lx_written **order, const lx_writer *w,
                             uint64_t *data_bytes, lx_err *err)
{
    FILE *out = open_memstream(&h->text, &h->bytes);
    if (!out)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    fwrite("        ", 1, 8, out);
    lx_status status = put_json(out, order, w, data_bytes, err);
    while (ftell(out) % 8)
        fputc(' ', out);
    if (fclose(out) && status == LX_OK)
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory for the header", w->path);
    for (int i = 0; status == LX_OK && i < 8; i++)
        h->text[i] = (char)((uint64_t)(h->bytes - 8) >> (8 * i));
    return status;
}

static lx_status lay_out(lx_writer *w, lx_err *err)
{
    lx_written **order = calloc(w->n ? w->n : 1, sizeof(*order));
    header *h = w->state = calloc(1, sizeof *h);
    uint64_t data_bytes = 0;
    lx_status status = LX_OK;
    if (!order || !h)
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    if (status == LX_OK) {
        for (size_t i = 0; i < w->n; i++)
            order[i] = &w->tensor[i];
        qsort(order, w->n, sizeof(*order), reference_order);
        status = make_header(h, order, w, &data_bytes, err);
    }
    free(order);
    if (status != LX_OK)
        return status;
    for (size_t i = 0; i < w->n; i++)
        w->tensor[i].offset += h->bytes;
    if (!lx_add_u64(h->bytes, data_bytes, &w->bytes) || w->bytes > INT64_MAX)
        return lx_fail(err, LX_EJOB, "%s: sizes overflow", w->path);
    return LX_OK;
}

static bool finish(lx_writer *w)
{
    const header *h = w->state;
    return !fseeko(w->out, 0, SEEK_SET) && fwrite(h->text, 1, h->bytes, w->out) == h->bytes;
}

static void free_header(lx_writer *w)
{
    header *h = w->state;
    if (h)
        free(h->text);
    free(h);
    w->state = NULL;
}

const lx_frame lx_frame_safetensors = {lay_out, finish, free_header};
