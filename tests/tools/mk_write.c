/*
 * mk_write.c - several threads generate and convert the tensors of one file
 * SPDX-License-Identifier: Apache-2.0
 *
 * A thread takes one tensor at a time and goes through it in chunks of rows: memory is one chunk
 * per thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_each.h"
#include "mk.h"
#include "weights/lx_quantize.h"
#include "weights/lx_writer.h"

#define CHUNK (1u << 18) /* elements: 1 MiB of f32 */

bool mk_failed(const char *path, const char *what)
{
    fprintf(stderr, "lx2v-mkmodel: %s: %s%s%s\n", path, what, errno ? ": " : "",
            errno ? strerror(errno) : "");
    return false;
}

/* A tensor of the list, and what it is in the file. */
typedef struct place {
    const mk_tensor *tensor;
    lx_dtype dtype, scale_dtype;
    bool is_quantized;
    size_t to, to_scale; /* tensors of the writer */
} place;

typedef struct file {
    lx_writer *writer;
    const mk_job *job;
    place *place;     /* owned */
    lx_planned *plan; /* owned */
    char (*scale_name)[112];
    size_t n, n_planned;
} file;

/* --- values ---------------------------------------------------------------------------------- */

typedef struct buffers {
    float *values;        /* owned [CHUNK] or one row */
    unsigned char *bytes; /* owned, 4 bytes per value */
    float *scales;        /* owned, one per row of a chunk */
} buffers;

/* One chunk of rows: values, rounded to bf16 as the published sources are, then the file's type. */
static lx_status write_chunk(const file *f, const place *p, const buffers *b, uint64_t row,
                             size_t rows, size_t cols, lx_err *err)
{
    size_t n = rows * cols;
    mk_generate(p->tensor, f->job->seed, row * cols, n, b->values);
    for (size_t i = 0; i < n; i++)
        b->values[i] = mk_round_bf16(b->values[i]);
    if (p->is_quantized)
        for (size_t r = 0; r < rows; r++)
            lx_quantize_row(b->values + r * cols, cols, p->dtype, p->scale_dtype == LX_DTYPE_BF16,
                            b->bytes + r * cols, &b->scales[r]);
    else
        lx_narrow_from_f32(b->bytes, b->values, p->dtype, n);
    lx_status status = lx_writer_put(f->writer, p->to, b->bytes, n * lx_dtype_size(p->dtype), err);
    if (status != LX_OK || !p->is_quantized)
        return status;
    lx_narrow_from_f32(b->bytes, b->scales, p->scale_dtype, rows);
    return lx_writer_put(f->writer, p->to_scale, b->bytes, rows * lx_dtype_size(p->scale_dtype),
                         err);
}

static lx_status write_tensor(void *self, size_t i, lx_err *err)
{
    const file *f = self;
    const place *p = &f->place[i];
    uint64_t elements = 0;
    lx_shape_bytes(&p->tensor->shape, p->dtype, &elements, NULL, NULL); /* checked when planned */
    size_t rows = (size_t)p->tensor->shape.dim[0], cols = (size_t)(elements / rows);
    size_t step = cols < CHUNK ? CHUNK / cols : 1, room = step * cols;
    buffers b = {.values = malloc(room * sizeof *b.values),
                 .bytes = malloc(room * 4),
                 .scales = malloc(step * sizeof *b.scales)};
    lx_status status = LX_OK;
    if (!b.values || !b.bytes || !b.scales)
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory", p->tensor->name);
    for (size_t row = 0; status == LX_OK && row < rows; row += step)
        status = write_chunk(f, p, &b, row, rows - row < step ? rows - row : step, cols, err);
    free(b.values);
    free(b.bytes);
    free(b.scales);
    return status;
}

/* --- one file -------------------------------------------------------------------------------- */

static void plan_tensor(file *f, const mk_tensor *t, const mk_format *format)
{
    bool is_code = lx_dtype_is_code(format->linear);
    place *p = &f->place[f->n];
    *p = (place){.tensor = t,
                 .dtype = t->is_linear ? format->linear : format->other,
                 .scale_dtype = format->scale,
                 .is_quantized = t->is_linear && is_code,
                 .to = f->n_planned};
    f->plan[f->n_planned++] = (lx_planned){t->name, p->dtype, t->shape};
    if (p->is_quantized) {
        char *name = f->scale_name[f->n];
        snprintf(name, sizeof f->scale_name[0], "%s_scale", t->name);
        p->to_scale = f->n_planned;
        f->plan[f->n_planned++] = (lx_planned){name, p->scale_dtype, LX_SHAPE(t->shape.dim[0], 1)};
    }
    f->n++;
}

static lx_status write_file(file *f, const char *path, lx_err *err)
{
    size_t n = strlen(path);
    bool is_pth = n > 4 && !strcmp(path + n - 4, ".pth");
    lx_writer_options options = {.format = is_pth ? LX_FILE_PTH : LX_FILE_SAFETENSORS,
                                 .zip64 = f->job->zip64,
                                 .sparse = f->job->sparse,
                                 .unsynced = true};
    lx_status status = lx_writer_open(&f->writer, path, &options, f->plan, f->n_planned, err);
    if (status == LX_OK && !f->job->sparse)
        status = lx_each(f->n, f->job->threads, write_tensor, f, err);
    if (status == LX_OK)
        status = lx_writer_close(&f->writer, err);
    lx_writer_discard(&f->writer);
    return status;
}

bool mk_write(const char *path, const mk_list *list, const mk_part *part, const mk_format *format,
              const mk_job *job)
{
    size_t room = list->n ? list->n : 1;
    file f = {.job = job,
              .place = calloc(room, sizeof *f.place),
              .plan = calloc(2 * room, sizeof *f.plan),
              .scale_name = calloc(room, sizeof *f.scale_name)};
    lx_err err = {0};
    lx_status status = LX_OK;
    if (!f.place || !f.plan || !f.scale_name)
        status = lx_fail(&err, LX_EAGAIN, "%s: out of memory", path);
    for (size_t i = 0; status == LX_OK && i < list->n; i++)
        if (!part || part->holds(&list->tensor[i], part->argument))
            plan_tensor(&f, &list->tensor[i], format);
    if (status == LX_OK)
        status = write_file(&f, path, &err);
    if (status != LX_OK)
        fprintf(stderr, "lx2v-mkmodel: %s\n", err.message);
    free(f.place);
    free(f.plan);
    free(f.scale_name);
    return status == LX_OK;
}
