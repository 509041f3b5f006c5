/*
 * safetensors_write.c - one safetensors file, in the reference writer's order
 * SPDX-License-Identifier: Apache-2.0
 *
 * Tensors by falling element size, then by name; the header padded with spaces to a multiple of 8,
 * so that every tensor is aligned to its own element size. Written to PATH.part, renamed when
 * complete and on disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_process.h"
#include "lx_weights.h"

#define CHUNK (8u << 20) /* bytes between two looks at whether the user wants to stop */

static int reference_order(const void *a, const void *b)
{
    const lx_named_tensor *x = *(const lx_named_tensor *const *)a;
    const lx_named_tensor *y = *(const lx_named_tensor *const *)b;
    size_t size_x = lx_dtype_size(x->tensor.dtype), size_y = lx_dtype_size(y->tensor.dtype);
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

static lx_status put_header(FILE *out, const lx_named_tensor *const *order, size_t n, lx_err *err)
{
    uint64_t begin = 0;
    fputc('{', out);
    for (size_t i = 0; i < n; i++) {
        const lx_tensor *t = &order[i]->tensor;
        uint64_t bytes, end;
        lx_status status = lx_shape_bytes(&t->shape, t->dtype, NULL, &bytes, err);
        if (status != LX_OK)
            return lx_wrap(err, "tensor %.200s", order[i]->name);
        if (!lx_add_u64(begin, bytes, &end))
            return lx_fail(err, LX_EJOB, "tensor %.200s: sizes overflow", order[i]->name);
        if (i)
            fputc(',', out);
        put_json_string(out, order[i]->name);
        fprintf(out, ":{\"dtype\":\"%s\",\"shape\":[", lx_dtype_name(t->dtype));
        for (int d = 0; d < t->shape.n_dims; d++)
            fprintf(out, "%s%" PRId64, d ? "," : "", t->shape.dim[d]);
        fprintf(out, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end);
        begin = end;
    }
    fputc('}', out);
    return LX_OK;
}

static bool put_data(FILE *out, const char *header, size_t header_bytes,
                     const lx_named_tensor *const *order, size_t n)
{
    unsigned char length[8];
    size_t padded = (header_bytes + 7) / 8 * 8;
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    if (fwrite(length, 1, 8, out) != 8 || fwrite(header, 1, header_bytes, out) != header_bytes ||
        fwrite("        ", 1, padded - header_bytes, out) != padded - header_bytes)
        return false;
    for (size_t i = 0; i < n; i++) {
        const lx_tensor *t = &order[i]->tensor;
        uint64_t bytes = 0;
        lx_shape_bytes(&t->shape, t->dtype, NULL, &bytes, NULL); /* checked in put_header */
        for (uint64_t at = 0; at < bytes && !lx_interrupted(); at += CHUNK) {
            size_t some = (size_t)(bytes - at < CHUNK ? bytes - at : CHUNK);
            if (fwrite((const char *)t->data + at, 1, some, out) != some)
                return false;
        }
    }
    return true;
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

static lx_status write_file(const char *path, const char *header, size_t header_bytes,
                            const lx_named_tensor *const *order, size_t n, lx_err *err)
{
    char part[4096];
    int w = snprintf(part, sizeof part, "%s.part", path);
    if (w < 0 || (size_t)w >= sizeof part)
        return lx_fail(err, LX_ECONFIG, "%s: the path is too long", path);
    FILE *out = fopen(part, "wbe");
    if (!out)
        return lx_fail(err, LX_ECONFIG, "%s: cannot be written: %s", part, strerror(errno));
    errno = 0;
    bool ok = put_data(out, header, header_bytes, order, n) && !fflush(out) && !fsync(fileno(out));
    int why = errno;
    if (fclose(out) && ok) {
        why = errno;
        ok = false;
    }
    bool is_stopped = lx_interrupted();
    if (ok && !is_stopped && rename(part, path)) {
        why = errno;
        ok = false;
    }
    if (!ok || is_stopped)
        unlink(part);
    if (is_stopped)
        return lx_fail(err, LX_ECANCEL, "%s: interrupted: not written", path);
    if (!ok)
        return lx_fail(err, LX_ECONFIG, "%s: cannot be written: %s", path,
                       why ? strerror(why) : "short write");
    sync_folder(path);
    return LX_OK;
}

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

lx_status lx_safetensors_write(const char *path, const lx_named_tensor *tensors, size_t n,
                               lx_err *err)
{
    const lx_named_tensor **order = calloc(n ? n : 1, sizeof *order);
    char *header = NULL;
    size_t header_bytes = 0;
    FILE *text = open_memstream(&header, &header_bytes);
    lx_status status = LX_OK;
    if (!order || !text)
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    if (status == LX_OK) {
        for (size_t i = 0; i < n; i++)
            order[i] = &tensors[i];
        qsort(order, n, sizeof *order, reference_order);
        for (size_t i = 1; i < n && status == LX_OK; i++)
            if (!strcmp(order[i - 1]->name, order[i]->name))
                status =
                    lx_fail(err, LX_EJOB, "%s: tensor %.200s given twice", path, order[i]->name);
    }
    if (status == LX_OK)
        status = put_header(text, order, n, err);
    if (text && fclose(text) && status == LX_OK)
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory for the header", path);
    if (status == LX_OK)
        status = lx_safetensors_check(path, err);
    if (status == LX_OK)
        status = write_file(path, header, header_bytes, order, n, err);
    free(header);
    free(order);
    return status;
}
