/*
 * cli_disk.c - how fast weights come from the disk
 * SPDX-License-Identifier: Apache-2.0
 *
 * Reads past the page cache (O_DIRECT) with several threads, as the streaming of weights does: one
 * reader alone keeps no NVMe disk busy. Where a file system refuses direct reads they go through
 * the cache, emptied before as far as the kernel lets us; that is told.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cli_machine.h"
#include "lx_process.h"

#define BLOCK     ((size_t)4 << 20)
#define ALIGN     4096
#define MOST      ((uint64_t)1 << 30)   /* bytes read */
#define TEMPORARY ((uint64_t)256 << 20) /* bytes written, where there are no weights */
#define LEAST     ((uint64_t)32 << 20)  /* less tells nothing */
#define N_READERS 4
#define LIMIT_S   10.0 /* of reading: an old disk */
#define TMPFS     0x01021994

/* --- which file ------------------------------------------------------------------------------- */

static bool is_weights(const char *name)
{
    static const char *const ends[] = {".safetensors", ".pth", ".gguf"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t m = strlen(ends[i]);
        if (n > m && strcmp(name + n - m, ends[i]) == 0)
            return true;
    }
    return false;
}

/* The largest file at or below path, at most two folders down, into out. */
static void find_largest(char *out, size_t out_bytes, uint64_t *bytes, const char *path, int depth)
{
    struct stat st;
    char below[4096];
    if (stat(path, &st))
        return;
    if (S_ISREG(st.st_mode)) {
        if (is_weights(path) && st.st_size > 0 && (uint64_t)st.st_size > *bytes &&
            (size_t)snprintf(out, out_bytes, "%s", path) < out_bytes)
            *bytes = (uint64_t)st.st_size;
        return;
    }
    DIR *dir = depth > 0 ? opendir(path) : NULL;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' &&
            (size_t)snprintf(below, sizeof below, "%s/%s", path, entry->d_name) < sizeof below)
            find_largest(out, out_bytes, bytes, below, depth - 1);
    if (dir)
        closedir(dir);
}

/* --- a temporary file ------------------------------------------------------------------------- */

static bool write_all(int fd, uint64_t bytes)
{
    char *block = malloc(BLOCK);
    if (!block)
        return false;
    for (size_t i = 0; i < BLOCK; i++) /* some disks store zeros, and what repeats, for free */
        block[i] = (char)((i * 2654435761u) >> 13);
    bool good = true;
    for (uint64_t done = 0; good && done < bytes; done += BLOCK) {
        memcpy(block, &done, sizeof done);
        good = write(fd, block, BLOCK) == (ssize_t)BLOCK;
    }
    free(block);
    return good && fsync(fd) == 0;
}

/* Its name is gone before it is written: nothing is left behind, however we end. fd stays open;
 * another descriptor of the same file is opened through /proc. */
static int make_temporary(cli_disk *d, const char *folder)
{
    struct statfs fs;
    if (statfs(folder, &fs) == 0 && fs.f_type == TMPFS) {
        snprintf(d->trouble, sizeof d->trouble, "%.160s is memory (tmpfs), not a disk", folder);
        return -1;
    }
    if (cli_disk_free(folder) < 4 * TEMPORARY) {
        snprintf(d->trouble, sizeof d->trouble, "%.160s has less than 1 GiB free", folder);
        return -1;
    }
    snprintf(d->path, sizeof d->path, "%.4000s/.lx2v-disk-XXXXXX", folder);
    int fd = mkostemp(d->path, O_CLOEXEC);
    if (fd >= 0)
        unlink(d->path);
    if (fd < 0 || !write_all(fd, TEMPORARY)) {
        snprintf(d->trouble, sizeof d->trouble, "%.160s cannot be written: %s", folder,
                 strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct reading {
    int fd;
    uint64_t bytes; /* to read, whole blocks */
    double until;
    atomic_ullong next, done;
    atomic_int error;
} reading;

static void *read_blocks(void *self)
{
    reading *r = self;
    void *block = NULL;
    if (posix_memalign(&block, ALIGN, BLOCK)) {
        r->error = ENOMEM;
        return NULL;
    }
    while (!r->error && lx_now_s() < r->until) {
        uint64_t at = atomic_fetch_add(&r->next, BLOCK);
        if (at >= r->bytes)
            break;
        ssize_t n = pread(r->fd, block, BLOCK, (off_t)at);
        if (n != (ssize_t)BLOCK)
            r->error = n < 0 ? errno : EIO;
        else
            r->done += BLOCK;
    }
    free(block);
    return NULL;
}

static int read_all(cli_disk *d, int fd, uint64_t file_bytes)
{
    pthread_t threads[N_READERS];
    int n = 0;
    double start = lx_now_s();
    reading r = {.fd = fd, .until = start + LIMIT_S};
    r.bytes = (file_bytes < MOST ? file_bytes : MOST) / BLOCK * BLOCK;
    while (n < N_READERS && pthread_create(&threads[n], NULL, read_blocks, &r) == 0)
        n++;
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    double seconds = lx_now_s() - start;
    d->bytes = r.done;
    d->gbs = seconds > 0 ? (double)d->bytes / seconds * 1e-9 : 0;
    return n == 0 ? EAGAIN : r.error;
}

static bool read_file(cli_disk *d, const char *path, uint64_t bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    d->is_direct = fd >= 0;
    int error = fd >= 0 ? read_all(d, fd, bytes) : errno;
    if (fd >= 0)
        close(fd);
    if (error == EINVAL) { /* this file system has no direct reads */
        d->is_direct = false;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        error = fd >= 0 ? posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) : errno;
        if (fd >= 0)
            error = read_all(d, fd, bytes);
        if (fd >= 0)
            close(fd);
    }
    if (error)
        snprintf(d->trouble, sizeof d->trouble, "%.160s: %s", path, strerror(error));
    return !error && d->bytes > 0;
}

bool cli_disk_measure(cli_disk *d, const char *const *paths, const char *folder)
{
    uint64_t bytes = 0;
    char proc[64];
    memset(d, 0, sizeof *d);
    for (; *paths; paths++)
        if (**paths)
            find_largest(d->path, sizeof d->path, &bytes, *paths, 3);
    if (bytes >= LEAST) {
        d->is_weights = true;
        return read_file(d, d->path, bytes);
    }
    int fd = make_temporary(d, folder);
    if (fd < 0)
        return false;
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    bool good = read_file(d, proc, TEMPORARY);
    if (!realpath(folder, d->path))
        snprintf(d->path, sizeof d->path, "%s", folder);
    close(fd);
    return good;
}
