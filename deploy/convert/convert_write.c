/*
 * convert_write.c - values go from the source to the files, a chunk of rows at a time
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert.h"
#include "lx_bar.h"
#include "lx_each.h"
#include "lx_log.h"
#include "lx_process.h"
#include "weights/lx_quantize.h"
#include "weights/lx_writer.h"

#define CHUNK      (1u << 20) /* elements, or one row where that is more */
#define BAR_EVERY  0.1        /* seconds */
#define LINE_EVERY 5.0        /* seconds, where there is no terminal */

/* How far it is; shared by all threads. */
typedef struct gauge {
    pthread_mutex_t lock;
    uint64_t done, total; /* bytes of the source */
    double start_s, shown_s;
    bool has_bar, is_quiet;
} gauge;

/* One file in the making. */
typedef struct making {
    const convert_plan *plan;
    const convert_file *file;
    gauge *gauge;
    lx_writer *writer;
    size_t *to; /* owned [file->n]: the writer's number of each tensor; its scale is the next */
} making;

/* --- progress -------------------------------------------------------------------------------- */

static lx_status advance(gauge *g, uint64_t bytes, lx_err *err)
{
    if (lx_interrupted())
        return lx_fail(err, LX_ECANCEL, "interrupted: nothing was written");
    pthread_mutex_lock(&g->lock);
    g->done += bytes;
    double now = lx_now_s();
    bool is_due = now - g->shown_s >= (g->has_bar ? BAR_EVERY : LINE_EVERY);
    if (!g->is_quiet && (is_due || (g->has_bar && g->done == g->total))) {
        g->shown_s = now;
        if (g->has_bar)
            lx_bar_draw("byte", g->done, g->total, g->start_s);
        else
            LX_I("converting gb=%.2f of_gb=%.2f mb_per_s=%.0f", (double)g->done / 1e9,
                 (double)g->total / 1e9, (double)g->done / 1e6 / (now - g->start_s));
    }
    pthread_mutex_unlock(&g->lock);
    return LX_OK;
}

/* --- values ---------------------------------------------------------------------------------- */

/* Of one chunk; all owned. */
typedef struct buffers {
    unsigned char *in, *out;
    float *wide, *scale;
} buffers;

/* Elements [first, first + n) as the source stores them: borrowed until the next call. */
static lx_status read_values(const convert_tensor *t, const buffers *b, uint64_t first, size_t n,
                             const void **out, lx_err *err)
{
    const size_t size = lx_dtype_size(t->from.dtype);
    *out = b->in;
    if (!t->extent.disk) {
        *out = (const unsigned char *)t->from.data + first * size;
        return LX_OK;
    }
    lx_status status =
        lx_disk_read_any(t->extent.disk, t->extent.offset + first * size, b->in, n * size, err);
    return status == LX_OK ? status : lx_wrap(err, "tensor %.200s", t->from.name);
}

static lx_status check_finite(const making *m, const convert_tensor *t, const void *data,
                              lx_dtype dtype, uint64_t first, size_t n, lx_err *err)
{
    char text[128];
    uint64_t bad = lx_first_not_finite(data, dtype, n);
    if (bad == UINT64_MAX)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "%s: tensor %.200s %s: element %" PRIu64 " is not finite as %s: the file is "
                   "damaged",
                   m->plan->job->source, t->from.name,
                   lx_shape_text(&t->from.shape, text, sizeof text), first + bad,
                   lx_dtype_name(dtype));
}

/* Rows [row, row + rows) of `cols` elements; *out: what the file gets. */
static const void *convert_rows(const convert_tensor *t, const buffers *b, const void *in,
                                uint64_t row, size_t rows, size_t cols)
{
    const size_t n = rows * cols, size = lx_dtype_size(t->from.dtype);
    switch (t->how) {
    case CONVERT_KEEP:
        return in;
    case CONVERT_ROUND:
        lx_widen_to_f32(b->wide, in, t->from.dtype, n);
        lx_narrow_from_f32(b->out, b->wide, t->dtype, n);
        break;
    case CONVERT_QUANTIZE:
        lx_widen_to_f32(b->wide, in, t->from.dtype, n);
        for (size_t r = 0; r < rows; r++)
            lx_quantize_row(b->wide + r * cols, cols, t->dtype, false, b->out + r * cols,
                            &b->scale[r]);
        break;
    case CONVERT_DEQUANTIZE:
        for (size_t r = 0; t->from.scale && r < rows; r++) /* there is one: the plan says so */
            lx_dequantize_row((const unsigned char *)in + r * cols * size, cols, t->from.dtype,
                              t->from.scale[row + r], b->wide + r * cols);
        lx_narrow_from_f32(b->out, b->wide, t->dtype, n);
        break;
    }
    return b->out;
}

static lx_status move_rows(const making *m, const convert_tensor *t, size_t to, const buffers *b,
                           uint64_t row, size_t rows, size_t cols, lx_err *err)
{
    const size_t n = rows * cols;
    const void *in, *out;
    lx_status status = read_values(t, b, row * cols, n, &in, err);
    if (status == LX_OK)
        status = check_finite(m, t, in, t->from.dtype, row * cols, n, err);
    if (status != LX_OK)
        return status;
    out = convert_rows(t, b, in, row, rows, cols);
    if (t->how != CONVERT_KEEP) /* what is finite in F32 need not be so in BF16 */
        status = check_finite(m, t, out, t->dtype, row * cols, n, err);
    if (status == LX_OK)
        status = lx_writer_put(m->writer, to, out, n * lx_dtype_size(t->dtype), err);
    if (status == LX_OK && t->scale_name)
        status = lx_writer_put(m->writer, to + 1,
                               t->how == CONVERT_KEEP ? t->from.scale + row : b->scale,
                               rows * sizeof(float), err);
    if (status == LX_OK)
        status = advance(m->gauge, n * lx_dtype_size(t->from.dtype), err);
    return status;
}

/* Rows are the scales' where there are any, single elements elsewhere. */
static lx_status move_tensor(void *self, size_t i, lx_err *err)
{
    const making *m = self;
    const convert_tensor *t = &m->plan->tensor[m->file->first + i];
    uint64_t elements = 0;
    lx_shape_bytes(&t->from.shape, t->from.dtype, &elements, NULL, NULL); /* the loader's */
    const bool has_rows = t->scale_name || t->from.scale;
    const size_t rows = has_rows ? (size_t)t->from.shape.dim[0] : (size_t)elements;
    const size_t cols = (size_t)elements / rows; /* the catalog has no empty tensors */
    const size_t step = cols < CHUNK ? CHUNK / cols : 1;
    const size_t most = rows < step ? rows : step, room = most * cols;
    buffers b = {.in = malloc(room * lx_dtype_size(t->from.dtype)),
                 .out = malloc(room * lx_dtype_size(t->dtype)),
                 .wide = malloc(room * sizeof *b.wide),
                 .scale = malloc(most * sizeof *b.scale)};
    lx_status status = LX_OK;
    if (!b.in || !b.out || !b.wide || !b.scale)
        status = lx_fail(err, LX_EAGAIN, "tensor %.200s: out of memory", t->from.name);
    for (size_t row = 0; status == LX_OK && row < rows; row += step)
        status =
            move_rows(m, t, m->to[i], &b, row, rows - row < step ? rows - row : step, cols, err);
    free(b.in);
    free(b.out);
    free(b.wide);
    free(b.scale);
    return status;
}

/* --- files ----------------------------------------------------------------------------------- */

static bool is_pth(const char *path)
{
    size_t n = strlen(path);
    return n > 4 && !strcmp(path + n - 4, ".pth");
}

static lx_status open_writer(making *m, const char *path, lx_err *err)
{
    const convert_file *f = m->file;
    lx_planned *plan = calloc(2 * f->n, sizeof *plan);
    size_t n = 0;
    m->to = calloc(f->n, sizeof *m->to);
    if (!plan || !m->to) {
        free(plan);
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    }
    for (size_t i = 0; i < f->n; i++) {
        const convert_tensor *t = &m->plan->tensor[f->first + i];
        m->to[i] = n;
        plan[n++] = (lx_planned){t->from.name, t->dtype, t->from.shape};
        if (t->scale_name)
            plan[n++] =
                (lx_planned){t->scale_name, LX_DTYPE_F32, LX_SHAPE(t->from.shape.dim[0], 1)};
    }
    const lx_writer_options options = {.format = is_pth(path) ? LX_FILE_PTH : LX_FILE_SAFETENSORS};
    lx_status status = lx_writer_open(&m->writer, path, &options, plan, n, err);
    free(plan);
    return status;
}

/* Nothing may have changed since the source was opened. */
static lx_status check_source(const convert_plan *p, lx_err *err)
{
    const lx_disk *last = NULL;
    for (size_t i = 0; i < p->n; i++) {
        const lx_disk *disk = p->tensor[i].extent.disk;
        if (!disk || disk == last)
            continue;
        lx_status status = lx_disk_unchanged(disk, err);
        if (status != LX_OK)
            return status;
        last = disk;
    }
    return LX_OK;
}

static lx_status write_file(making *m, const char *path, uint64_t *bytes, lx_err *err)
{
    lx_status status = open_writer(m, path, err);
    if (status == LX_OK)
        status = lx_each(m->file->n, m->plan->job->threads, move_tensor, m, err);
    if (status == LX_OK)
        status = check_source(m->plan, err);
    if (status == LX_OK) {
        *bytes += lx_writer_bytes(m->writer);
        status = lx_writer_close(&m->writer, err);
    }
    lx_writer_discard(&m->writer);
    free(m->to);
    m->to = NULL;
    return status;
}

static lx_status write_index(const convert_plan *p, const convert_place *place, uint64_t bytes,
                             lx_err *err)
{
    char path[LX_PATH_MAX];
    lx_index_line *line = calloc(2 * p->n, sizeof *line);
    size_t n = 0;
    if (!line)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    for (size_t i = 0; i < p->n; i++) {
        const convert_tensor *t = &p->tensor[i];
        line[n++] = (lx_index_line){t->from.name, p->file[t->file].name};
        if (t->scale_name)
            line[n++] = (lx_index_line){t->scale_name, p->file[t->file].name};
    }
    lx_status status = convert_place_path(place, p, CONVERT_INDEX, path, err);
    if (status == LX_OK)
        status = lx_index_write(path, line, n, bytes, err);
    free(line);
    return status;
}

static lx_status write_all(const convert_plan *p, const convert_place *place, gauge *g,
                           uint64_t *bytes, lx_err *err)
{
    char path[LX_PATH_MAX];
    lx_status status = LX_OK;
    for (size_t i = 0; status == LX_OK && i < p->n_files; i++) {
        making m = {.plan = p, .file = &p->file[i], .gauge = g};
        status = convert_place_path(place, p, p->file[i].name, path, err);
        if (status == LX_OK)
            status = write_file(&m, path, bytes, err);
    }
    if (status == LX_OK && p->job->folder)
        status = write_index(p, place, *bytes, err);
    return status;
}

lx_status convert_write(const convert_plan *p, uint64_t *bytes, lx_err *err)
{
    const double now = lx_now_s();
    gauge g = {.lock = PTHREAD_MUTEX_INITIALIZER,
               .total = p->bytes,
               .start_s = now,
               .shown_s = now,
               .has_bar = isatty(STDERR_FILENO),
               .is_quiet = p->job->is_quiet};
    convert_place *place = calloc(1, sizeof *place);
    if (!place)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    *bytes = 0;
    lx_status status = convert_place_open(place, p, err);
    if (status == LX_OK)
        status = write_all(p, place, &g, bytes, err);
    if (status == LX_OK)
        status = convert_place_publish(place, p, err);
    convert_place_discard(place);
    free(place);
    return status;
}
