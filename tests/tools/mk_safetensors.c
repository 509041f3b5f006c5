/*
 * mk_safetensors.c - one safetensors file, its data written by several threads
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mk.h"

/* A line of the header: a tensor, or the scale of one. */
typedef struct record {
    mk_place *place;
    bool is_scale;
    char name[112];
    lx_dtype dtype;
    lx_shape shape;
    uint64_t bytes;
} record;

/* Falling element size, then name: the reference writer's order. */
static int in_order(const void *a, const void *b)
{
    const record *x = a, *y = b;
    size_t n = lx_dtype_size(x->dtype), m = lx_dtype_size(y->dtype);
    return n != m ? (n > m ? -1 : 1) : strcmp(x->name, y->name);
}

static void describe(record *r, mk_place *p, bool is_scale)
{
    *r = (record){.place = p, .is_scale = is_scale};
    r->dtype = is_scale ? p->scale_dtype : p->dtype;
    r->shape = is_scale ? LX_SHAPE(p->tensor->shape.dim[0], 1) : p->tensor->shape;
    snprintf(r->name, sizeof r->name, "%s%s", p->tensor->name, is_scale ? "_scale" : "");
    lx_shape_bytes(&r->shape, r->dtype, NULL, &r->bytes, NULL);
}

static void place_tensor(mk_place *p, const mk_tensor *t, const mk_format *format)
{
    bool is_code = format->linear == LX_DTYPE_I8 || format->linear == LX_DTYPE_F8_E4M3;
    *p = (mk_place){.tensor = t,
                    .dtype = t->is_linear ? format->linear : format->other,
                    .scale_dtype = format->scale,
                    .is_quantized = t->is_linear && is_code};
}

/* The header text, padded; offsets of the places are set relative to the file. */
static char *make_header(record *r, size_t n, size_t *bytes, uint64_t *total)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, bytes);
    if (!out)
        return NULL;
    uint64_t at = 0;
    fputc('{', out);
    for (size_t i = 0; i < n; i++) {
        fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", r[i].name,
                lx_dtype_name(r[i].dtype));
        for (int d = 0; d < r[i].shape.n_dims; d++)
            fprintf(out, "%s%" PRId64, d ? "," : "", r[i].shape.dim[d]);
        fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, at + r[i].bytes);
        *(r[i].is_scale ? &r[i].place->scale_offset : &r[i].place->offset) = at;
        at += r[i].bytes;
    }
    fputc('}', out);
    while (ftell(out) % 8)
        fputc(' ', out);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    *total = 8 + *bytes + at;
    return text;
}

static bool write_all(const char *path, const char *header, size_t header_bytes, uint64_t total,
                      mk_place *place, size_t n, const mk_job *job)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)header_bytes >> (8 * i));
    for (size_t i = 0; i < n; i++) {
        place[i].offset += 8 + header_bytes;
        place[i].scale_offset += 8 + header_bytes;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return mk_failed(path, "cannot be written");
    bool ok = mk_reserve(fd, path, total, job);
    ok = ok && pwrite(fd, length, 8, 0) == 8 &&
         pwrite(fd, header, header_bytes, 8) == (ssize_t)header_bytes;
    ok = ok && mk_fill(fd, path, place, n, false, job);
    if (close(fd))
        ok = mk_failed(path, "cannot be written");
    return ok;
}

bool mk_write_safetensors(const char *path, const mk_list *list, mk_which which, int64_t argument,
                          const mk_format *format, const mk_job *job)
{
    mk_place *place = calloc(list->n ? list->n : 1, sizeof *place);
    record *r = calloc(list->n ? 2 * list->n : 1, sizeof *r);
    size_t n = 0, lines = 0, header_bytes = 0;
    uint64_t total = 0;
    bool ok = place && r;
    for (size_t i = 0; ok && i < list->n; i++) {
        if (which && !which(&list->tensor[i], argument))
            continue;
        place_tensor(&place[n], &list->tensor[i], format);
        describe(&r[lines++], &place[n], false);
        if (place[n].is_quantized)
            describe(&r[lines++], &place[n], true);
        n++;
    }
    if (ok)
        qsort(r, lines, sizeof *r, in_order);
    char *header = ok ? make_header(r, lines, &header_bytes, &total) : NULL;
    ok = header ? write_all(path, header, header_bytes, total, place, n, job)
                : mk_failed(path, "no memory for its header");
    free(header);
    free(r);
    free(place);
    return ok;
}
