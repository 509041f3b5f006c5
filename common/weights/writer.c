/*
 * writer.c - PATH.part is reserved, filled from several threads, framed, put on disk, renamed
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_process.h"
#include "lx_weights.h"
#include "writer_internal.h"
#include "zip.h"

#define CHUNK (8u << 20) /* bytes between two looks at whether the user wants to stop */

/* --- the path -------------------------------------------------------------------------------- */

lx_status lx_safetensors_check(const char *path, lx_err *err)
{
    char folder[4096];
    struct stat st;
    int n = snprintf(folder, sizeof folder, "%s", path);
    if (n < 1 || (size_t)n + sizeof ".part" > sizeof folder)
        return lx_fail(err, LX_ECONFIG, "output \"%.200s\": empty, or the path is too long", path);
    if (!lstat(path, &st) && !S_ISREG(st.st_mode))
        return lx_fail(err, LX_ECONFIG, "%s: %s, not a regular file: it is not replaced", path,
                       S_ISDIR(st.st_mode)   ? "a folder"
                       : S_ISLNK(st.st_mode) ? "a symbolic link"
                                             : "a device, pipe or socket");
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder ? 1 : 0] = 0;
    const char *in = slash ? folder : ".";
    if (stat(in, &st))
        return lx_fail(err, LX_ECONFIG, "%s: folder %s: %s", path, in, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return lx_fail(err, LX_ECONFIG, "%s: %s is not a folder", path, in);
    if (access(in, W_OK | X_OK))
        return lx_fail(err, LX_ECONFIG, "%s: folder %s cannot be written to: %s", path, in,
                       strerror(errno));
    return LX_OK;
}

/* The folder entry must be on disk too, or the rename may be lost with the power. */
static void sync_folder(const char *path)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder ? 1 : 0] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static lx_status cannot(const char *path, int why, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG, "%s: cannot be written: %s", path,
                   why ? strerror(why) : "short write");
}

/* --- opening --------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static lx_status check_names(const lx_writer *w, lx_err *err)
{
    char **name = calloc(w->n ? w->n : 1, sizeof *name);
    lx_status status = LX_OK;
    if (!name)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    for (size_t i = 0; i < w->n; i++)
        name[i] = w->tensor[i].name;
    qsort(name, w->n, sizeof *name, by_name);
    for (size_t i = 1; i < w->n && status == LX_OK; i++)
        if (!strcmp(name[i - 1], name[i]))
            status = lx_fail(err, LX_EJOB, "%s: tensor %.200s given twice", w->path, name[i]);
    free(name);
    return status;
}

static lx_status copy_plan(lx_writer *w, const lx_planned *tensor, size_t n, lx_err *err)
{
    w->tensor = calloc(n ? n : 1, sizeof *w->tensor);
    if (!w->tensor)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
    for (size_t i = 0; i < n; i++) {
        lx_written *t = &w->tensor[w->n++];
        *t = (lx_written){.dtype = tensor[i].dtype, .shape = tensor[i].shape};
        if (!(t->name = strdup(tensor[i].name)))
            return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
        if (lx_shape_bytes(&t->shape, t->dtype, NULL, &t->bytes, err) != LX_OK)
            return lx_wrap(err, "%s: tensor %.200s", w->path, t->name);
    }
    return check_names(w, err);
}

/* Now rather than in the middle: either there is room, or nothing is begun. Where a file system
 * cannot promise room, writing will tell. */
static lx_status reserve(lx_writer *w, lx_err *err)
{
    int fd = fileno(w->out), failed = -1;
    if (!w->options.sparse) {
        do
            failed = fallocate(fd, 0, 0, (off_t)w->bytes);
        while (failed && errno == EINTR);
    }
    if (w->options.sparse || (failed && (errno == EOPNOTSUPP || errno == ENOSYS)))
        failed = ftruncate(fd, (off_t)w->bytes);
    if (!failed)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%s: no room for %" PRIu64 " bytes: %s", w->path, w->bytes,
                   strerror(errno));
}

static lx_status open_part(lx_writer *w, lx_err *err)
{
    lx_status status = lx_safetensors_check(w->path, err);
    if (status != LX_OK)
        return status;
    /* What an interrupted run left is replaced; through a link of that name nothing is written. */
    int fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return cannot(w->part, errno, err);
    w->out = fdopen(fd, "wb");
    if (w->out)
        return reserve(w, err);
    close(fd);
    return lx_fail(err, LX_EAGAIN, "%s: out of memory", w->path);
}

lx_status lx_writer_open(lx_writer **out, const char *path, const lx_writer_options *options,
                         const lx_planned *tensor, size_t n, lx_err *err)
{
    lx_writer *w = calloc(1, sizeof *w);
    if (!w)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    w->options = *options;
    w->frame = options->format == LX_FILE_PTH ? &lx_frame_pth : &lx_frame_safetensors;
    lx_status status = LX_OK;
    if (!(w->path = strdup(path)) || asprintf(&w->part, "%s.part", path) < 0) {
        w->part = NULL;
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    }
    if (status == LX_OK)
        status = copy_plan(w, tensor, n, err);
    if (status == LX_OK)
        status = w->frame->lay_out(w, err);
    if (status == LX_OK)
        status = open_part(w, err);
    if (status == LX_OK)
        *out = w;
    else
        lx_writer_discard(&w);
    return status;
}

/* --- values ---------------------------------------------------------------------------------- */

static bool write_at(int fd, const void *data, uint64_t n, uint64_t at)
{
    const char *p = data;
    while (n) {
        ssize_t done = pwrite(fd, p, n < CHUNK ? (size_t)n : CHUNK, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        p += done;
        at += (uint64_t)done;
        n -= (uint64_t)done;
    }
    return true;
}

lx_status lx_writer_put(lx_writer *w, size_t i, const void *data, uint64_t bytes, lx_err *err)
{
    lx_written *t = &w->tensor[i];
    if (bytes > t->bytes - t->done)
        return lx_fail(err, LX_EJOB,
                       "%s: tensor %.200s has %" PRIu64 " bytes, and %" PRIu64 " after %" PRIu64
                       " were given",
                       w->path, t->name, t->bytes, bytes, t->done);
    errno = 0;
    if (!write_at(fileno(w->out), data, bytes, t->offset + t->done))
        return cannot(w->path, errno, err);
    if (w->options.format == LX_FILE_PTH)
        t->crc = lx_crc32(t->crc, data, (size_t)bytes);
    t->done += bytes;
    return LX_OK;
}

uint64_t lx_writer_bytes(const lx_writer *w)
{
    return w->bytes;
}

/* --- the end --------------------------------------------------------------------------------- */

void lx_writer_discard(lx_writer **writer)
{
    lx_writer *w = *writer;
    if (!w)
        return;
    if (w->out) { /* not renamed */
        fclose(w->out);
        unlink(w->part);
    }
    w->frame->free(w);
    for (size_t i = 0; i < w->n; i++)
        free(w->tensor[i].name);
    free(w->tensor);
    free(w->path);
    free(w->part);
    free(w);
    *writer = NULL;
}

static lx_status check_complete(const lx_writer *w, lx_err *err)
{
    for (size_t i = 0; i < w->n && !w->options.sparse; i++) {
        const lx_written *t = &w->tensor[i];
        if (t->done != t->bytes)
            return lx_fail(err, LX_EJOB,
                           "%s: tensor %.200s has %" PRIu64 " bytes, only %" PRIu64 " were given",
                           w->path, t->name, t->bytes, t->done);
    }
    return LX_OK;
}

static lx_status finish(lx_writer *w, lx_err *err)
{
    lx_status status = check_complete(w, err);
    if (status != LX_OK)
        return status;
    errno = 0;
    bool ok = w->frame->finish(w) && !fflush(w->out) && !ferror(w->out) &&
              (w->options.unsynced || !fsync(fileno(w->out)));
    int why = errno;
    ok = ok && !rename(w->part, w->path);
    if (!ok)
        return cannot(w->path, why ? why : errno, err);
    fclose(w->out); /* everything was flushed */
    w->out = NULL;
    if (!w->options.unsynced)
        sync_folder(w->path);
    return LX_OK;
}

lx_status lx_writer_close(lx_writer **writer, lx_err *err)
{
    lx_status status = finish(*writer, err);
    lx_writer_discard(writer);
    return status;
}

/* --- tensors that are in memory -------------------------------------------------------------- */

static lx_status put_list(lx_writer *w, const lx_named_tensor *tensors, size_t n, lx_err *err)
{
    for (size_t i = 0; i < n; i++)
        for (uint64_t at = 0; at < w->tensor[i].bytes; at += CHUNK) {
            uint64_t rest = w->tensor[i].bytes - at;
            if (lx_interrupted())
                return lx_fail(err, LX_ECANCEL, "%s: interrupted: not written", w->path);
            lx_status status = lx_writer_put(w, i, (const char *)tensors[i].tensor.data + at,
                                             rest < CHUNK ? rest : CHUNK, err);
            if (status != LX_OK)
                return status;
        }
    return LX_OK;
}

lx_status lx_safetensors_write(const char *path, const lx_named_tensor *tensors, size_t n,
                               lx_err *err)
{
    const lx_writer_options options = {.format = LX_FILE_SAFETENSORS};
    lx_planned *plan = calloc(n ? n : 1, sizeof *plan);
    lx_writer *w = NULL;
    if (!plan)
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    for (size_t i = 0; i < n; i++)
        plan[i] = (lx_planned){tensors[i].name, tensors[i].tensor.dtype, tensors[i].tensor.shape};
    lx_status status = lx_writer_open(&w, path, &options, plan, n, err);
    free(plan);
    if (status == LX_OK)
        status = put_list(w, tensors, n, err);
    if (status == LX_OK)
        status = lx_writer_close(&w, err);
    lx_writer_discard(&w);
    return status;
}

/* --- index ----------------------------------------------------------------------------------- */

lx_status lx_index_write(const char *path, const lx_index_line *line, size_t n,
                         uint64_t total_bytes, lx_err *err)
{
    char part[4096];
    lx_status status = lx_safetensors_check(path, err);
    if (status != LX_OK)
        return status;
    snprintf(part, sizeof part, "%s.part", path); /* it fits: that was checked */
    FILE *out = fopen(part, "we");
    if (!out)
        return cannot(part, errno, err);
    fputs("{\n  \"metadata\": {", out);
    if (total_bytes)
        fprintf(out, "\n    \"total_size\": %" PRIu64 "\n  ", total_bytes);
    fputs("},\n  \"weight_map\": {", out);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%s\n    \"%s\": \"%s\"", i ? "," : "", line[i].tensor, line[i].file);
    fputs("\n  }\n}\n", out);
    bool ok = !fflush(out) && !ferror(out) && !fsync(fileno(out));
    int why = errno;
    fclose(out);
    if (ok && rename(part, path)) {
        why = errno;
        ok = false;
    }
    if (ok)
        return LX_OK;
    unlink(part);
    return cannot(path, why, err);
}
