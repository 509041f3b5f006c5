/*
 * cli_copy.c - the clip where the user wants it, whole or not at all
 * SPDX-License-Identifier: Apache-2.0
 *
 * A clip is a file, or a folder of frame files. Either is written beside its place under a hidden
 * name and renamed; without --force the rename itself refuses to replace anything.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"
#include "lx_limits.h"
#include "lx_write.h"

/* The folder of a path: "." if it names none. */
static void folder_of(const char *path, char *out, size_t out_bytes)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(out, out_bytes, ".");
    else
        snprintf(out, out_bytes, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

lx_status cli_copy_check(const char *to, bool force, lx_err *err)
{
    char folder[LX_LIMIT_PATH];
    struct stat st;
    if (!*to || strlen(to) >= LX_LIMIT_PATH - 64)
        return lx_fail(err, LX_ECONFIG, "-o: a path of 1 to %d bytes", LX_LIMIT_PATH - 65);
    folder_of(to, folder, sizeof folder);
    if (stat(folder, &st) != 0 || !S_ISDIR(st.st_mode))
        return lx_fail(err, LX_ECONFIG, "-o %s: there is no folder %s", to, folder);
    if (access(folder, W_OK | X_OK) != 0)
        return lx_fail(err, LX_ECONFIG, "-o %s: cannot write in %s: %s", to, folder,
                       strerror(errno));
    if (lstat(to, &st) == 0 && !force)
        return lx_fail(err, LX_ECONFIG, "-o %s: exists already; --force replaces it", to);
    if (lstat(to, &st) == 0 && S_ISDIR(st.st_mode))
        return lx_fail(err, LX_ECONFIG, "-o %s: is a folder, and folders are not replaced", to);
    return LX_OK;
}

/* All bytes from one descriptor to the other; false with errno. */
static bool pump(int in, int out)
{
    char buffer[1 << 16];
    for (;;) {
        ssize_t n = read(in, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0;
        errno = lx_write_all(out, buffer, (uint64_t)n);
        if (errno)
            return false;
    }
}

static lx_status copy_file(int in, const char *to, lx_err *err)
{
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (out < 0)
        return lx_fail(err, LX_EJOB, "%s: cannot be made: %s", to, strerror(errno));
    lx_status status = LX_OK;
    if (!pump(in, out) || fsync(out) != 0)
        status = lx_fail(err, LX_EJOB, "%s: %s", to, strerror(errno));
    if (close(out) != 0 && status == LX_OK)
        status = lx_fail(err, LX_EJOB, "%s: %s", to, strerror(errno));
    if (status != LX_OK)
        unlink(to);
    return status;
}

/* Removes a folder that copy_folder made. */
static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

/* The plain files of the folder `in`; takes the descriptor over. */
static lx_status copy_folder(int in, const char *to, lx_err *err)
{
    DIR *dir = fdopendir(in);
    if (!dir || mkdir(to, 0755) != 0) {
        lx_fail(err, LX_EJOB, "%s: cannot be made: %s", to, strerror(errno));
        if (dir)
            closedir(dir);
        else
            close(in);
        return LX_EJOB;
    }
    lx_status status = LX_OK;
    for (struct dirent *entry; status == LX_OK && (entry = readdir(dir));) {
        char path[LX_LIMIT_PATH + 400];
        if (entry->d_name[0] == '.')
            continue;
        int file = openat(dirfd(dir), entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        snprintf(path, sizeof path, "%s/%s", to, entry->d_name);
        status = file < 0 ? lx_fail(err, LX_EJOB, "%s: %s", entry->d_name, strerror(errno))
                          : copy_file(file, path, err);
        if (file >= 0)
            close(file);
    }
    closedir(dir);
    if (status != LX_OK)
        remove_folder(to);
    return status;
}

lx_status cli_copy(const char *from, const char *to, bool force, lx_err *err)
{
    char folder[LX_LIMIT_PATH], part[LX_LIMIT_PATH + 64];
    struct stat st;
    lx_status status = cli_copy_check(to, force, err);
    if (status != LX_OK)
        return status;
    int in = open(from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (in < 0 || fstat(in, &st) != 0) {
        lx_fail(err, LX_EJOB, "%s: cannot be read: %s", from, strerror(errno));
        if (in >= 0)
            close(in);
        return LX_EJOB;
    }
    bool is_folder = S_ISDIR(st.st_mode);
    folder_of(to, folder, sizeof folder);
    snprintf(part, sizeof part, "%s/.lx2v-%ld.part", folder, (long)getpid());
    if (is_folder) {
        status = copy_folder(in, part, err);
    } else {
        status = copy_file(in, part, err);
        close(in);
    }
    if (status != LX_OK)
        return status;
    unsigned flags = force ? 0 : RENAME_NOREPLACE;
    int renamed = renameat2(AT_FDCWD, part, AT_FDCWD, to, flags);
    /* Some network file systems know no flags; cli_copy_check has looked a moment ago. */
    if (renamed != 0 && errno == EINVAL)
        renamed = rename(part, to);
    if (renamed == 0)
        return LX_OK;
    status = lx_fail(err, LX_EJOB, "%s: %s", to, strerror(errno));
    if (is_folder)
        remove_folder(part);
    else
        unlink(part);
    return status;
}
