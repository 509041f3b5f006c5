/*
 * power_cut.c - preloaded: remembers what a disk would still have after a loss of power
 * SPDX-License-Identifier: Apache-2.0
 *
 * Below the folder that LX2V_TEST_POWER names, each fsync or fdatasync of a file keeps a copy of
 * its bytes, and each fsync of a folder the names in it and the files they stand for, as
 * FOLDER/power/file-INODE and FOLDER/power/names-INODE. Nothing else counts as written.
 * tests/faults/test_power.c makes the disk of that.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct copy {
    char part[PATH_MAX], name[PATH_MAX];
} copy;

/* One process's copies take the place of older ones as a whole. */
static FILE *begin(copy *c, const char *root, const char *what, const struct stat *st)
{
    snprintf(c->name, sizeof c->name, "%s/power/%s-%lu", root, what, (unsigned long)st->st_ino);
    snprintf(c->part, sizeof c->part, "%s/power/%s-%lu.%ld", root, what, (unsigned long)st->st_ino,
             (long)syscall(SYS_gettid));
    return fopen(c->part, "we");
}

static void keep_bytes(int fd, FILE *out)
{
    char block[65536];
    off_t at = 0;
    for (ssize_t n; (n = pread(fd, block, sizeof block, at)) > 0; at += n)
        fwrite(block, 1, (size_t)n, out);
}

static void keep_names(const char *path, FILE *out)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        struct stat st;
        if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            fprintf(out, "%lu %s\n", (unsigned long)st.st_ino, e->d_name);
    }
    if (dir)
        closedir(dir);
}

/* Files are opened for writing only: they are read by another descriptor. */
static void note(int fd)
{
    const char *root = getenv("LX2V_TEST_POWER");
    char link[64], path[PATH_MAX];
    struct stat st;
    copy c;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = root ? readlink(link, path, sizeof path - 1) : -1;
    if (n < 0 || fstat(fd, &st))
        return;
    path[n] = 0;
    size_t n_root = strlen(root);
    if (strncmp(path, root, n_root) || (path[n_root] && path[n_root] != '/'))
        return;
    bool is_folder = S_ISDIR(st.st_mode);
    FILE *out = begin(&c, root, is_folder ? "names" : "file", &st);
    if (!out)
        return;
    int from = open(link, O_RDONLY | O_CLOEXEC);
    if (is_folder)
        keep_names(path, out);
    else
        keep_bytes(from, out);
    if (from >= 0)
        close(from);
    if (fclose(out) == 0)
        rename(c.part, c.name);
}

int fsync(int fd)
{
    int failed = (int)syscall(SYS_fsync, fd);
    if (!failed)
        note(fd);
    return failed;
}

int fdatasync(int fd)
{
    int failed = (int)syscall(SYS_fdatasync, fd);
    if (!failed)
        note(fd);
    return failed;
}
