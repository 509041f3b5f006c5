/*
 * lx_spool.c - write aside, sync, rename; read and compare
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_crc32c.h"
#include "lx_fault.h"
#include "lx_limits.h"
#include "lx_write.h"

#define ENDING ".latent"
#define PART   ".part"

typedef char file_name[LX_LIMIT_ID + sizeof "." ENDING PART];

static bool is_id(const char *id, size_t n)
{
    return n >= 1 && n <= LX_LIMIT_ID &&
           strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") >= n;
}

static int open_folder(const char *dir, bool make)
{
    char path[LX_LIMIT_PATH + 8];
    snprintf(path, sizeof path, "%s/spool", dir);
    if (make && mkdir(path, 0700) && errno != EEXIST)
        return -1;
    return open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int write_file(int folder, const char *part, const char *name, const void *bytes, uint64_t n)
{
    int fd = openat(folder, part, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    int error = LX_FAULT("spool.write");
    if (!error)
        error = lx_write_all(fd, bytes, n);
    if (!error && fsync(fd))
        error = errno;
    close(fd);
    if (!error && renameat(folder, part, folder, name))
        error = errno;
    if (!error && fsync(folder))
        error = errno;
    if (error)
        unlinkat(folder, part, 0);
    return error;
}

lx_status lx_spool_write(const char *dir, const char *id, const void *bytes, uint64_t n,
                         uint32_t *crc, lx_err *err)
{
    file_name part, name;
    if (!is_id(id, strlen(id)))
        return lx_fail(err, LX_EAGAIN, "spool: no job id");
    snprintf(name, sizeof name, "%s" ENDING, id);
    snprintf(part, sizeof part, ".%s" PART, id);
    int folder = open_folder(dir, true);
    int error = folder < 0 ? errno : write_file(folder, part, name, bytes, n);
    if (folder >= 0)
        close(folder);
    if (error)
        return lx_fail(err, LX_EAGAIN, "%s/spool/%s of %.1f MiB: %s", dir, name, (double)n / 0x1p20,
                       strerror(error));
    *crc = lx_crc32c(0, bytes, (size_t)n);
    return LX_OK;
}

/* Exactly n bytes: a longer file is another one. */
static int read_file(int folder, const char *name, unsigned char *dst, uint64_t n)
{
    struct stat st;
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = LX_FAULT("spool.read");
    if (!error && fstat(fd, &st))
        error = errno;
    if (!error && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != n))
        error = EBADMSG;
    for (uint64_t done = 0; done < n && !error;) {
        ssize_t got = pread(fd, dst + done, (size_t)(n - done), (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            error = got < 0 ? errno : EBADMSG;
        else
            done += (uint64_t)got;
    }
    close(fd);
    return error;
}

lx_status lx_spool_read(const char *dir, const char *id, void *dst, uint64_t n, uint32_t crc,
                        lx_err *err)
{
    file_name name;
    if (!is_id(id, strlen(id)))
        return lx_fail(err, LX_EAGAIN, "spool: no job id");
    snprintf(name, sizeof name, "%s" ENDING, id);
    int folder = open_folder(dir, false);
    int error = folder < 0 ? errno : read_file(folder, name, dst, n);
    if (folder >= 0)
        close(folder);
    if (!error && lx_crc32c(0, dst, (size_t)n) != crc)
        error = EBADMSG;
    if (error)
        return lx_fail(err, LX_EAGAIN, "%s/spool/%s: %s", dir, name,
                       error == EBADMSG ? "is not what was saved" : strerror(error));
    return LX_OK;
}

void lx_spool_remove(const char *dir, const char *id)
{
    file_name name;
    int folder = is_id(id, strlen(id)) ? open_folder(dir, false) : -1;
    if (folder < 0)
        return;
    snprintf(name, sizeof name, "%s" ENDING, id);
    unlinkat(folder, name, 0);
    snprintf(name, sizeof name, ".%s" PART, id);
    unlinkat(folder, name, 0);
    close(folder);
}

/* ".ID.part" is of a writer that died: nobody wants it. */
static bool is_swept(const char *name, bool (*wanted)(void *self, const char *id), void *self)
{
    char id[LX_LIMIT_ID + 1];
    size_t n = strlen(name), m = strlen(ENDING), k = strlen(PART);
    if (name[0] == '.')
        return n > k && strcmp(name + n - k, PART) == 0;
    if (n <= m || strcmp(name + n - m, ENDING) != 0 || !is_id(name, n - m))
        return false; /* none of ours */
    memcpy(id, name, n - m);
    id[n - m] = 0;
    return !wanted(self, id);
}

int lx_spool_sweep(const char *dir, bool (*wanted)(void *self, const char *id), void *self)
{
    int folder = open_folder(dir, false), n = 0;
    DIR *list = folder < 0 ? NULL : fdopendir(folder);
    if (!list && folder >= 0)
        close(folder);
    for (struct dirent *e; list && (e = readdir(list));)
        n += is_swept(e->d_name, wanted, self) && !unlinkat(folder, e->d_name, 0);
    if (list)
        closedir(list);
    return n;
}
