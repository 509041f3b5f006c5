/*
 * mk_fill.c - several threads generate, convert and write the tensors of one file
 * SPDX-License-Identifier: Apache-2.0
 *
 * A thread takes one tensor at a time and goes through it in chunks of rows, so that the CRC of a
 * tensor is computed in order, and memory is one chunk per thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mk.h"
#include "weights/zip.h"

#define CHUNK (1u << 18) /* elements: 1 MiB of f32 */

typedef struct fill {
    int fd;
    const char *path;
    mk_place *place;
    size_t n;
    bool want_crc;
    const mk_job *job;
    atomic_size_t next;
    atomic_bool failed;
} fill;

bool mk_failed(const char *path, const char *what)
{
    fprintf(stderr, "lx2v-mkmodel: %s: %s%s%s\n", path, what, errno ? ": " : "",
            errno ? strerror(errno) : "");
    return false;
}

static bool put(int fd, const void *data, size_t n, uint64_t at)
{
    const char *p = data;
    while (n) {
        ssize_t done = pwrite(fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        p += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

/* f32 -> a float type, in place of `out`. */
static void narrow(const float *in, size_t n, lx_dtype dtype, void *out)
{
    if (dtype == LX_DTYPE_F32)
        memcpy(out, in, n * sizeof *in);
    for (size_t i = 0; dtype == LX_DTYPE_F16 && i < n; i++)
        ((uint16_t *)out)[i] = lx_f16_from_f32(in[i]);
    for (size_t i = 0; dtype == LX_DTYPE_BF16 && i < n; i++) {
        float rounded = mk_round_bf16(in[i]);
        uint32_t bits;
        memcpy(&bits, &rounded, 4);
        ((uint16_t *)out)[i] = (uint16_t)(bits >> 16);
    }
}

typedef struct buffers {
    float *values;        /* owned [CHUNK] or one row */
    unsigned char *bytes; /* owned, 4 bytes per value */
    float *scales;        /* owned, one per row of a chunk */
    size_t room;
} buffers;

static bool make_room(buffers *b, size_t n)
{
    if (n <= b->room)
        return true;
    free(b->values);
    free(b->bytes);
    free(b->scales);
    b->values = malloc(n * sizeof *b->values);
    b->bytes = malloc(n * 4);
    b->scales = malloc(n * sizeof *b->scales);
    b->room = b->values && b->bytes && b->scales ? n : 0;
    return b->room != 0;
}

/* One chunk of rows: values, rounded to bf16 as the published sources are, then the file's type. */
static bool write_chunk(const fill *f, mk_place *p, buffers *b, uint64_t row, size_t rows,
                        size_t cols)
{
    size_t n = rows * cols, size = lx_dtype_size(p->dtype);
    mk_generate(p->tensor, f->job->seed, row * cols, n, b->values);
    for (size_t i = 0; i < n; i++)
        b->values[i] = mk_round_bf16(b->values[i]);
    if (p->is_quantized)
        for (size_t r = 0; r < rows; r++)
            mk_quantize_row(b->values + r * cols, cols, p->dtype, p->scale_dtype == LX_DTYPE_BF16,
                            b->bytes + r * cols, &b->scales[r]);
    else
        narrow(b->values, n, p->dtype, b->bytes);
    if (!put(f->fd, b->bytes, n * size, p->offset + row * cols * size))
        return false;
    if (f->want_crc)
        p->crc = lx_crc32(p->crc, b->bytes, n * size);
    if (!p->is_quantized)
        return true;
    size_t scale_size = lx_dtype_size(p->scale_dtype);
    narrow(b->scales, rows, p->scale_dtype, b->bytes);
    if (f->want_crc)
        p->scale_crc = lx_crc32(p->scale_crc, b->bytes, rows * scale_size);
    return put(f->fd, b->bytes, rows * scale_size, p->scale_offset + row * scale_size);
}

static bool write_tensor(const fill *f, mk_place *p, buffers *b)
{
    uint64_t elements;
    if (lx_shape_bytes(&p->tensor->shape, p->dtype, &elements, NULL, NULL) != LX_OK)
        return false;
    size_t rows = (size_t)p->tensor->shape.dim[0], cols = (size_t)(elements / rows);
    if (p->tensor->shape.n_dims == 1) {
        cols = 1;
        rows = (size_t)elements;
    }
    size_t step = cols < CHUNK ? CHUNK / cols : 1;
    if (!make_room(b, step * cols))
        return false;
    for (size_t row = 0; row < rows && !f->failed; row += step)
        if (!write_chunk(f, p, b, row, rows - row < step ? rows - row : step, cols))
            return false;
    return true;
}

static void *work(void *self)
{
    fill *f = self;
    buffers b = {0};
    for (size_t i; !f->failed && (i = atomic_fetch_add(&f->next, 1)) < f->n;)
        if (!write_tensor(f, &f->place[i], &b) && !atomic_exchange(&f->failed, true))
            mk_failed(f->path, f->place[i].tensor->name);
    free(b.values);
    free(b.bytes);
    free(b.scales);
    return NULL;
}

bool mk_reserve(int fd, const char *path, uint64_t bytes, const mk_job *job)
{
    int failed = job->sparse ? (ftruncate(fd, (off_t)bytes) ? errno : 0)
                             : posix_fallocate(fd, 0, (off_t)bytes);
    errno = failed;
    return failed == 0 || mk_failed(path, "no space for it");
}

bool mk_fill(int fd, const char *path, mk_place *place, size_t n, bool want_crc, const mk_job *job)
{
    if (job->sparse) /* checksums stay 0: whoever verifies them refuses the file */
        return true;
    fill f = {.fd = fd, .path = path, .place = place, .n = n, .want_crc = want_crc, .job = job};
    pthread_t thread[64];
    int started = 0;
    while (started + 1 < job->threads && started < 64 &&
           !pthread_create(&thread[started], NULL, work, &f))
        started++;
    work(&f);
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    return !f.failed;
}
