/*
 * source.c - a checkpoint's file: opened once, read with pread, recognised by its first bytes
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "weights_internal.h"

lx_status lx_source_open(lx_source *out, const char *path, lx_err *err)
{
    /* O_NONBLOCK: a FIFO must not stop us before fstat can refuse it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return lx_fail(err, errno == EMFILE || errno == ENFILE ? LX_EAGAIN : LX_ECONFIG,
                       "%s: cannot be opened: %s", path, strerror(errno));
    lx_source source = {.fd = fd};
    if (fstat(fd, &source.stat)) {
        close(fd);
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    }
    if (!S_ISREG(source.stat.st_mode) || source.stat.st_size <= 0) {
        bool is_file = S_ISREG(source.stat.st_mode), is_dir = S_ISDIR(source.stat.st_mode);
        close(fd);
        return lx_fail(err, LX_ECONFIG, "%s: %s", path,
                       is_file  ? "the file is empty (0 bytes); download it again"
                       : is_dir ? "is a folder where a file is expected"
                                : "is not a regular file");
    }
    source.bytes = (uint64_t)source.stat.st_size;
    source.path = strdup(path);
    if (!source.path) {
        close(fd);
        return lx_fail(err, LX_EAGAIN, "%s: out of memory", path);
    }
    *out = source;
    return LX_OK;
}

void lx_source_close(lx_source *source)
{
    if (source->path)
        close(source->fd);
    free(source->path);
    *source = (lx_source){.fd = -1};
}

lx_status lx_source_read(const lx_source *source, uint64_t offset, void *out, uint64_t n,
                         lx_err *err)
{
    char *at = out;
    while (n) {
        size_t want = n < (64u << 20) ? (size_t)n : (64u << 20);
        ssize_t got = pread(source->fd, at, want, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return lx_fail(err, LX_ECONFIG, "%s: reading %zu bytes at %" PRIu64 ": %s",
                           source->path, want, offset, strerror(errno));
        if (got == 0)
            return lx_fail(err, LX_ECONFIG,
                           "%s: the file shrank while it was read: %" PRIu64
                           " bytes at the start, nothing at %" PRIu64 " now",
                           source->path, source->bytes, offset);
        at += got;
        offset += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return LX_OK;
}

lx_status lx_source_unchanged(const lx_source *source, lx_err *err)
{
    struct stat now;
    if (fstat(source->fd, &now))
        return lx_fail(err, LX_ECONFIG, "%s: %s", source->path, strerror(errno));
    if (now.st_size != source->stat.st_size || now.st_mtim.tv_sec != source->stat.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != source->stat.st_mtim.tv_nsec)
        return lx_fail(err, LX_ECONFIG,
                       "%s: the file was changed while it was read (%" PRId64
                       " bytes at the start, %" PRId64 " now); start again when it is complete",
                       source->path, (int64_t)source->stat.st_size, (int64_t)now.st_size);
    return LX_OK;
}

static const struct {
    const char *bytes;
    size_t n, at;
    const char *text;
} magic_table[] = {
    {"version https://git-lfs", 23, 0,
     "this is a git-lfs pointer, not the weights; fetch them with `git lfs pull` or "
     "`hf download`"},
    {"GGUF", 4, 0,
     "this is a GGUF file; GGUF is not supported yet, use the safetensors or .pth of the model"},
    {"PYTORCH1", 8, 0,
     "this is a PyTorch preview container; load it with torch and save it again with torch.save"},
    {"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14, 0,
     "this is a legacy (before 1.6) PyTorch pickle; load it with torch and save it again with "
     "torch.save"},
    {"<!DOCTYPE", 9, 0, "this is an HTML page (a login or error page?), download the file again"},
    {"<!doctype", 9, 0, "this is an HTML page (a login or error page?), download the file again"},
    {"<html", 5, 0, "this is an HTML page (a login or error page?), download the file again"},
    {"<HTML", 5, 0, "this is an HTML page (a login or error page?), download the file again"},
    {"<?xml", 5, 0, "this is an XML page (an error page?), download the file again"},
    {"\x1f\x8b", 2, 0, "this is a gzip archive; unpack it first"},
    {"7z\xbc\xaf\x27\x1c", 6, 0, "this is a 7z archive; unpack it first"},
    {"\x28\xb5\x2f\xfd", 4, 0, "this is a zstd archive; unpack it first"},
    {"ustar", 5, 257, "this is a tar archive; unpack it first"},
    {"\x80\x02", 2, 0, "this is a bare pickle, not a checkpoint of torch.save; save it again"},
    {"\x80\x04", 2, 0, "this is a bare pickle, not a checkpoint of torch.save; save it again"},
    {"\x89HDF", 4, 0, "this is an HDF5 file; use the safetensors or .pth of the model"},
    {"{", 1, 0, "this is a JSON text, not weights"},
};

lx_status lx_source_sniff(const lx_source *source, lx_magic *out, const char **text, lx_err *err)
{
    char head[512] = {0};
    size_t n = source->bytes < sizeof head ? (size_t)source->bytes : sizeof head;
    lx_status status = lx_source_read(source, 0, head, n, err);
    if (status != LX_OK)
        return status;
    if (n >= 4 && !memcmp(head, "PK\x03\x04", 4)) {
        *out = LX_MAGIC_ZIP;
        return LX_OK;
    }
    /* A safetensors header may be of any length below 10^8, so bytes 0-3 can be anything and 4-7
     * are zero; that and '{' at 8 win over what the low bytes happen to spell. */
    *out = LX_MAGIC_SAFETENSORS;
    if (n >= 9 && !memcmp(head + 4, "\0\0\0\0", 4) && head[8] == '{')
        return LX_OK;
    size_t skip = 0; /* pages often start with white space */
    while (skip < n && skip < 64 && (head[skip] == '\n' || head[skip] == '\r' || head[skip] == ' '))
        skip++;
    for (size_t i = 0; i < sizeof magic_table / sizeof *magic_table; i++) {
        size_t at = magic_table[i].at + (head[skip] == '<' ? skip : 0);
        if (at + magic_table[i].n <= n &&
            !memcmp(head + at, magic_table[i].bytes, magic_table[i].n)) {
            *out = LX_MAGIC_OTHER;
            *text = magic_table[i].text;
            return LX_OK;
        }
    }
    return LX_OK;
}
