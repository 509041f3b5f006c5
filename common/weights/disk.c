/*
 * disk.c - reading a checkpoint's file again, past the page cache where that is possible
 * SPDX-License-Identifier: Apache-2.0
 *
 * The file is opened a second time through /proc/self/fd, so that it is the very one whose header
 * was checked. Some file systems accept O_DIRECT and refuse the reads: then buffered ones follow.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lx_log.h"
#include "weights_internal.h"

static void say_buffered(const lx_source *source, const char *why)
{
    LX_W("disk file=%s reads=buffered: direct I/O is refused here (%s); weights then also fill the "
         "page cache",
         source->path, why);
}

void lx_disk_open(lx_disk *out, lx_source *source)
{
    char path[64];
    *out = (lx_disk){.source = *source, .direct = -1};
    *source = (lx_source){.fd = -1}; /* moved */
    snprintf(path, sizeof path, "/proc/self/fd/%d", out->source.fd);
    out->direct = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    atomic_init(&out->is_direct, out->direct >= 0);
}

void lx_disk_close(lx_disk *disk)
{
    if (disk->source.path && disk->direct >= 0)
        close(disk->direct);
    if (disk->source.path)
        lx_source_close(&disk->source);
}

static lx_status failed(const lx_disk *disk, uint64_t offset, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG, "%s: reading at byte %" PRIu64 ": %s", disk->source.path,
                   offset, strerror(errno));
}

/* A short read in the middle of a file is none of direct I/O's habits, but allowed: what is left is
 * then not aligned, so it goes the buffered way. */
static lx_status read_rest(const lx_disk *disk, uint64_t offset, char *out, uint64_t n, lx_err *err)
{
    return n ? lx_source_read(&disk->source, offset, out, n, err) : LX_OK;
}

lx_status lx_disk_read(lx_disk *disk, uint64_t offset, void *out, uint64_t n, lx_err *err)
{
    const uint64_t size = disk->source.bytes;
    uint64_t real = offset >= size ? 0 : size - offset < n ? size - offset : n;
    if (!atomic_load(&disk->is_direct))
        return read_rest(disk, offset, out, real, err);
    ssize_t got;
    do
        got = pread(disk->direct, out, (size_t)n, (off_t)offset);
    while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) {
        if (atomic_exchange(&disk->is_direct, false))
            say_buffered(&disk->source, strerror(errno));
        return read_rest(disk, offset, out, real, err);
    }
    if (got < 0)
        return failed(disk, offset, err);
    uint64_t done = (uint64_t)got;
    return done >= real ? LX_OK
                        : read_rest(disk, offset + done, (char *)out + done, real - done, err);
}

lx_status lx_disk_read_any(lx_disk *disk, uint64_t offset, void *out, uint64_t n, lx_err *err)
{
    return lx_source_read(&disk->source, offset, out, n, err);
}

lx_status lx_disk_unchanged(const lx_disk *disk, lx_err *err)
{
    return lx_source_unchanged(&disk->source, err);
}

const char *lx_disk_path(const lx_disk *disk)
{
    return disk->source.path;
}

bool lx_disk_is_direct(const lx_disk *disk)
{
    return atomic_load(&disk->is_direct);
}
