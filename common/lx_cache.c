/*
 * lx_cache.c - write aside, sync, rename; read what is ours
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_folder.h"
#include "lx_limits.h"
#include "lx_write.h"

lx_status lx_cache_folder(char *out, size_t room, const char *name, lx_err *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    bool has_cache = cache && cache[0] == '/'; /* a relative one is to be ignored: XDG base 0.8 */
    if (!has_cache && !(home && home[0] == '/'))
        return lx_fail(err, LX_ECONFIG,
                       "neither XDG_CACHE_HOME nor HOME is an absolute path: no place for a cache");
    int n = snprintf(out, room, "%s%s/lx2v/%s", has_cache ? cache : home,
                     has_cache ? "" : "/.cache", name);
    if (n < 0 || (size_t)n >= room)
        return lx_fail(err, LX_ECONFIG, "%s: the path of a cache in it is too long",
                       has_cache ? "XDG_CACHE_HOME" : "HOME");
    return LX_OK;
}

/* Every folder above the file. */
static int make_folders(const char *path)
{
    char folder[LX_LIMIT_PATH];
    if (strlen(path) >= sizeof folder)
        return ENAMETOOLONG;
    snprintf(folder, sizeof folder, "%s", path);
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        struct stat st;
        *slash = 0;
        int error = stat(folder, &st) ? lx_folder_make(folder, 0700) : 0;
        if (error)
            return error;
        *slash = '/';
    }
    return 0;
}

static int write_file(const char *part, const char *bytes, size_t n)
{
    int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    int error = lx_write_all(fd, bytes, n);
    if (!error && fsync(fd))
        error = errno;
    if (close(fd) && !error)
        error = errno;
    return error;
}

lx_status lx_cache_write(const char *path, const void *bytes, size_t n, lx_err *err)
{
    char part[LX_LIMIT_PATH + 32];
    int error = make_folders(path);
    snprintf(part, sizeof part, "%.*s.%ld.part", LX_LIMIT_PATH, path, (long)getpid());
    if (!error) {
        unlink(part); /* of a process that died and had our number */
        error = write_file(part, bytes, n);
        if (!error && rename(part, path))
            error = errno;
        if (error)
            unlink(part);
    }
    return error ? lx_fail(err, LX_EAGAIN, "%s: cannot be written: %s", path, strerror(error))
                 : LX_OK;
}

/* Whoever may write the file decides what is in it. */
static const char *distrust(const struct stat *st, size_t most)
{
    return !S_ISREG(st->st_mode)                        ? "no regular file"
           : st->st_uid != geteuid() && st->st_uid != 0 ? "belongs to another user"
           : st->st_mode & 022                          ? "others may write it (chmod 600)"
           : (uint64_t)st->st_size > most               ? "too long"
                                                        : NULL;
}

static lx_status read_all(int fd, const char *path, size_t most, char **out, size_t *n, lx_err *err)
{
    char *bytes = malloc(most + 1);
    size_t have = 0;
    ssize_t got = 1;
    if (!bytes)
        return lx_fail(err, LX_ECONFIG, "%s: no memory for %zu bytes", path, most);
    while (got && have < most) {
        got = read(fd, bytes + have, most - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int error = errno;
            free(bytes);
            return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(error));
        }
        have += (size_t)got;
    }
    bytes[have] = 0;
    *out = bytes;
    *n = have;
    return LX_OK;
}

lx_status lx_cache_read(const char *path, size_t most, char **out, size_t *n, lx_err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return lx_fail(err, errno == ENOENT || errno == ENOTDIR ? LX_EAGAIN : LX_ECONFIG, "%s: %s",
                       path, strerror(errno));
    const char *why = fstat(fd, &st) ? strerror(errno) : distrust(&st, most);
    lx_status status =
        why ? lx_fail(err, LX_ECONFIG, "%s: %s", path, why) : read_all(fd, path, most, out, n, err);
    close(fd);
    return status;
}
