/*
 * mux_path.c - the output jail
 * SPDX-License-Identifier: Apache-2.0
 *
 * All names are single components, opened relative to a directory descriptor with O_NOFOLLOW, and
 * through openat2(RESOLVE_BENEATH) where the kernel has it: two locks on one door, since a mistake
 * in the first would let a client write anywhere.
 */
#include "mux_path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lx_fault.h"
#include "lx_job.h"
#include "lx_log.h"

/* From linux/openat2.h and linux/fs.h, which old distributions lack: the kernel's fixed numbers. */
struct open_how_v0 {
    uint64_t flags, mode, resolve;
};
#define RESOLVE_NO_MAGICLINKS_ 0x02u
#define RESOLVE_NO_SYMLINKS_   0x04u
#define RESOLVE_BENEATH_       0x08u
#define RENAME_NOREPLACE_      1u
#define RENAME_EXCHANGE_       2u

#define FILE_MODE   0640
#define FOLDER_MODE 0750

/* --- names ----------------------------------------------------------------------------------- */

static bool is_id(const char *text, size_t n)
{
    if (n < 1 || n > LX_LIMIT_ID)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-'))
            return false;
    }
    return true;
}

/* ".ID.part": what we make, and the only thing that a sweep may remove. */
static bool is_part_name(const char *name)
{
    size_t n = strlen(name);
    return n > 6 && name[0] == '.' && !strcmp(name + n - 5, ".part") && is_id(name + 1, n - 6);
}

/* --- opening below a directory --------------------------------------------------------------- */

/* openat for one component; never follows a link, never leaves dir_fd. */
static int open_beneath(int dir_fd, const char *name, int flags, mode_t mode)
{
    struct open_how_v0 how = {.flags = (uint64_t)(flags | O_NOFOLLOW | O_CLOEXEC),
                              .mode = flags & O_CREAT ? mode : 0,
                              .resolve =
                                  RESOLVE_BENEATH_ | RESOLVE_NO_SYMLINKS_ | RESOLVE_NO_MAGICLINKS_};
#ifdef SYS_openat2
    long fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM && errno != EINVAL))
        return (int)fd;
#endif
    /* Before Linux 5.6, and under sandboxes that do not know the call. */
    return openat(dir_fd, name, (int)how.flags, mode);
}

static lx_status open_dir(const char *dir, int *fd, lx_err *err)
{
    *fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*fd >= 0)
        return LX_OK;
    if (errno == ELOOP || errno == ENOTDIR)
        return lx_fail(err, LX_EJOB,
                       "output directory %s is not a directory any more (a link or a file has "
                       "taken its place): put it back, or restart",
                       dir);
    return lx_fail(err, LX_EJOB, "output directory %s: %s", dir, strerror(errno));
}

/* --- removing -------------------------------------------------------------------------------- */

/* Empty a folder that we made: plain files only, one level. */
static void empty_folder(int fd)
{
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = copy >= 0 ? fdopendir(copy) : NULL;
    if (!listing) {
        if (copy >= 0)
            close(copy);
        return;
    }
    for (struct dirent *entry; (entry = readdir(listing));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            unlinkat(fd, entry->d_name, 0);
    closedir(listing);
}

/* Remove a part, be it file, folder or link; a part that another process holds stays. */
static bool remove_part(int dir_fd, const char *part)
{
    struct stat st;
    if (fstatat(dir_fd, part, &st, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT;
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return unlinkat(dir_fd, part, 0) == 0;
    int fd = open_beneath(dir_fd, part, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0)
        return errno == ENOENT;
    bool gone = false;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        if (S_ISDIR(st.st_mode))
            empty_folder(fd);
        gone = unlinkat(dir_fd, part, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0) == 0;
    }
    close(fd);
    return gone;
}

/* --- the directory --------------------------------------------------------------------------- */

lx_status mux_dir_prepare(const char *path, char *real, lx_err *err)
{
    if (mkdir(path, FOLDER_MODE) && errno != EEXIST)
        return lx_fail(err, LX_ECONFIG, "output directory %s cannot be made: %s", path,
                       strerror(errno));
    char *resolved = realpath(path, NULL);
    struct stat st;
    if (!resolved || stat(resolved, &st)) {
        int error = errno;
        free(resolved);
        return lx_fail(err, LX_ECONFIG, "output directory %s: %s", path, strerror(error));
    }
    bool fits = strlen(resolved) < LX_LIMIT_PATH;
    if (fits)
        snprintf(real, LX_LIMIT_PATH, "%s", resolved);
    free(resolved);
    if (!fits)
        return lx_fail(err, LX_ECONFIG, "output directory %s: its path has more than %d bytes",
                       path, LX_LIMIT_PATH - 1);
    if (!S_ISDIR(st.st_mode))
        return lx_fail(err, LX_ECONFIG, "output directory %s is a file", path);
    if (access(real, W_OK | X_OK))
        return lx_fail(err, LX_ECONFIG, "output directory %s cannot be written to: %s", path,
                       strerror(errno));
    return LX_OK;
}

int mux_dir_sweep(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *listing = fd >= 0 ? fdopendir(fd) : NULL;
    if (!listing) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    int n = 0;
    for (struct dirent *entry; (entry = readdir(listing));)
        if (is_part_name(entry->d_name) && remove_part(dirfd(listing), entry->d_name))
            n++;
    closedir(listing);
    return n;
}

/* --- one artifact ---------------------------------------------------------------------------- */

static uint64_t free_bytes(int fd)
{
    struct statvfs fs;
    uint64_t bytes;
    if (fstatvfs(fd, &fs))
        return 0;
    return __builtin_mul_overflow((uint64_t)fs.f_bavail, (uint64_t)fs.f_frsize, &bytes) ? UINT64_MAX
                                                                                        : bytes;
}

static lx_status no_space(uint64_t needs, uint64_t has, lx_err *err)
{
    return lx_fail(err, LX_EJOB,
                   "no space: needs %.1f MiB, has %.1f MiB in the output directory; free some and "
                   "retry",
                   (double)needs / 0x1p20, (double)has / 0x1p20);
}

lx_status mux_out_write_failed(const mux_out *out, int error, uint64_t written, uint64_t needs,
                               lx_err *err)
{
    struct rlimit limit = {0};
    uint64_t has;
    if (error == EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0)
        has = limit.rlim_cur;
    else if (error == ENOSPC || error == EDQUOT)
        has = written + free_bytes(out->dir_fd); /* the part goes, and gives back its bytes */
    else
        return lx_fail(err, LX_EJOB, "writing %s: %s", out->name, strerror(error));
    return no_space(needs > has ? needs : has + 1, has, err);
}

/* Is the final name free, or something that we may replace? */
static lx_status check_target(const mux_out *out, lx_err *err)
{
    struct stat st;
    if (fstatat(out->dir_fd, out->name, &st, AT_SYMLINK_NOFOLLOW)) {
        if (errno == ENOENT)
            return LX_OK;
        return lx_fail(err, LX_EJOB, "output %s: %s", out->name, strerror(errno));
    }
    if (!out->overwrite)
        return lx_fail(err, LX_EJOB,
                       "output %s exists: choose another name, remove it, or set output.overwrite",
                       out->name);
    bool same_kind = out->kind == MUX_OUT_FILE ? S_ISREG(st.st_mode) : S_ISDIR(st.st_mode);
    if (!same_kind)
        return lx_fail(err, LX_EJOB, "output %s exists and is not a %s: it is not replaced",
                       out->name, out->kind == MUX_OUT_FILE ? "regular file" : "folder");
    return LX_OK;
}

static int create_part(mux_out *out)
{
    if (out->kind == MUX_OUT_FILE) {
        out->fd = open_beneath(out->dir_fd, out->part, O_RDWR | O_CREAT | O_EXCL, FILE_MODE);
        return out->fd < 0 ? -1 : fchmod(out->fd, FILE_MODE);
    }
    if (mkdirat(out->dir_fd, out->part, FOLDER_MODE))
        return -1;
    out->fd = open_beneath(out->dir_fd, out->part, O_RDONLY | O_DIRECTORY, 0);
    if (out->fd < 0) {
        int error = errno;
        unlinkat(out->dir_fd, out->part, AT_REMOVEDIR);
        errno = error;
        return -1;
    }
    return fchmod(out->fd, FOLDER_MODE);
}

static lx_status open_part(mux_out *out, lx_err *err)
{
    int rc = create_part(out);
    if (rc && errno == EEXIST) { /* of an earlier attempt at this job */
        if (!remove_part(out->dir_fd, out->part))
            return lx_fail(err, LX_EJOB,
                           "output %s: its part %s is being written by another "
                           "process or cannot be removed",
                           out->name, out->part);
        rc = create_part(out);
    }
    if (rc || flock(out->fd, LOCK_EX | LOCK_NB))
        return mux_out_write_failed(out, errno, 0, 0, err);
    return LX_OK;
}

static lx_status check_names(const mux_out_options *o, lx_err *err)
{
    size_t n = strnlen(o->name, MUX_NAME_BYTES);
    bool is_component = n > 0 && n < MUX_NAME_BYTES && !memchr(o->name, '/', n) &&
                        strcmp(o->name, ".") && strcmp(o->name, "..");
    if (o->any_name && !is_component)
        return lx_fail(err, LX_ECONFIG, "the output's last component is not a file name");
    if (o->any_name && is_part_name(o->name))
        return lx_fail(err, LX_ECONFIG,
                       "output %s: names of that form are of unfinished clips, and are swept",
                       o->name);
    if (!o->any_name && !lx_job_output_name_ok(o->name))
        return lx_fail(err, LX_EJOB,
                       "output name is not allowed: 1 to %d of A-Z a-z 0-9 . _ - without a leading "
                       "dot or dash",
                       LX_LIMIT_NAME);
    if (!is_id(o->job, strnlen(o->job, LX_LIMIT_ID + 1)))
        return lx_fail(err, LX_EJOB, "job id is not allowed: 1 to %d of A-Z a-z 0-9 _ -",
                       LX_LIMIT_ID);
    return LX_OK;
}

lx_status mux_out_begin(mux_out *out, const mux_out_options *o, lx_err *err)
{
    *out = (mux_out){.kind = o->kind,
                     .dir_fd = -1,
                     .fd = -1,
                     .overwrite = o->overwrite,
                     .is_again = o->is_again};
    lx_status status = check_names(o, err);
    if (status != LX_OK)
        return status;
    snprintf(out->name, sizeof out->name, "%s", o->name);
    snprintf(out->part, sizeof out->part, ".%s.part", o->job);
    status = open_dir(o->dir, &out->dir_fd, err);
    if (status == LX_OK && !out->is_again) /* else what is there is judged when ours is whole */
        status = check_target(out, err);
    if (status == LX_OK && free_bytes(out->dir_fd) < o->needs)
        status = no_space(o->needs, free_bytes(out->dir_fd), err);
    if (status == LX_OK)
        status = open_part(out, err);
    if (status != LX_OK)
        mux_out_discard(out); /* removes the part only if it was opened here (fd) */
    return status;
}

/* Move the part to a name that must be free. Returns 0 or an errno. */
static int rename_new(const mux_out *out)
{
    if (syscall(SYS_renameat2, out->dir_fd, out->part, out->dir_fd, out->name, RENAME_NOREPLACE_) ==
        0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EPERM)
        return errno;
    /* File systems without the flag: link() also refuses an existing name; a folder is never put
     * over a folder that has something in it by rename(). */
    if (out->kind == MUX_OUT_FOLDER)
        return renameat(out->dir_fd, out->part, out->dir_fd, out->name) ? errno : 0;
    if (linkat(out->dir_fd, out->part, out->dir_fd, out->name, 0))
        return errno;
    return unlinkat(out->dir_fd, out->part, 0) ? errno : 0;
}

static int rename_over(const mux_out *out)
{
    if (out->kind == MUX_OUT_FILE)
        return renameat(out->dir_fd, out->part, out->dir_fd, out->name) ? errno : 0;
    /* A folder: swap, then remove the old one under the part's name. */
    if (syscall(SYS_renameat2, out->dir_fd, out->part, out->dir_fd, out->name, RENAME_EXCHANGE_)) {
        if (errno == ENOENT)
            return rename_new(out);
        return errno;
    }
    if (!remove_part(out->dir_fd, out->part))
        LX_W("output=%s replaced, but the old folder stays as %s", out->name, out->part);
    return 0;
}

/* --- the same again ------------------------------------------------------------------------- */

static bool same_bytes(int a, int b)
{
    static unsigned char left[65536], right[65536]; /* the working thread's only */
    struct stat s, t;
    if (fstat(a, &s) || fstat(b, &t) || !S_ISREG(t.st_mode) || s.st_size != t.st_size)
        return false;
    for (off_t at = 0; at < s.st_size;) {
        ssize_t n = pread(a, left, sizeof left, at), m = pread(b, right, sizeof right, at);
        if (n <= 0 || n != m || memcmp(left, right, (size_t)n))
            return false;
        at += n;
    }
    return true;
}

static bool same_file(int dir_a, int dir_b, const char *a_name, const char *b_name)
{
    int a = open_beneath(dir_a, a_name, O_RDONLY | O_NONBLOCK, 0);
    int b = open_beneath(dir_b, b_name, O_RDONLY | O_NONBLOCK, 0);
    bool same = a >= 0 && b >= 0 && same_bytes(a, b);
    if (a >= 0)
        close(a);
    if (b >= 0)
        close(b);
    return same;
}

/* Every file of a is in b with the same bytes; n counts them. */
static bool same_files(int a, int b, int *n)
{
    int copy = openat(a, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = copy >= 0 ? fdopendir(copy) : NULL;
    if (!listing && copy >= 0)
        close(copy);
    bool same = listing != NULL;
    *n = 0;
    for (struct dirent *e; same && (e = readdir(listing));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        same = same_file(a, b, e->d_name, e->d_name);
        ++*n;
    }
    if (listing)
        closedir(listing);
    return same;
}

/* Did an earlier attempt put under the final name what lies in the part? */
static bool is_there_already(const mux_out *out)
{
    if (out->kind == MUX_OUT_FILE)
        return same_file(out->dir_fd, out->dir_fd, out->part, out->name);
    int n, m, there = open_beneath(out->dir_fd, out->name, O_RDONLY | O_DIRECTORY, 0);
    bool same =
        there >= 0 && same_files(out->fd, there, &n) && same_files(there, out->fd, &m) && n == m;
    if (there >= 0)
        close(there);
    return same;
}

lx_status mux_out_commit(mux_out *out, lx_err *err)
{
    if (out->is_again && is_there_already(out)) {
        LX_I("output=%s is there from an earlier attempt", out->name);
        if (fsync(out->dir_fd)) /* that one may have died before this */
            LX_W("output=%s sync of the directory failed: %s", out->name, strerror(errno));
        mux_out_discard(out);
        return LX_OK;
    }
    lx_status status = check_target(out, err); /* it may have been made since begin */
    int failed = status == LX_OK ? LX_FAULT("mux.sync") : 0;
    if (status == LX_OK && (failed || fsync(out->fd)))
        status = mux_out_write_failed(out, failed ? failed : errno, 0, 0, err);
    if (status == LX_OK) {
        int error = LX_FAULT("mux.rename");
        if (!error)
            error = out->overwrite ? rename_over(out) : rename_new(out);
        if (error == EEXIST)
            status = check_target(out, err);
        if (error && status == LX_OK)
            status = lx_fail(err, LX_EJOB, "output %s: renaming: %s", out->name, strerror(error));
    }
    if (status == LX_OK) {
        out->part[0] = 0; /* it has its name now: nothing to remove */
        (void)LX_FAULT("mux.renamed");
        if (fsync(out->dir_fd))
            LX_W("output=%s sync of the directory failed: %s", out->name, strerror(errno));
    }
    mux_out_discard(out);
    return status;
}

void mux_out_discard(mux_out *out)
{
    if (out->fd >= 0 && out->part[0]) {
        if (out->kind == MUX_OUT_FOLDER)
            empty_folder(out->fd);
        unlinkat(out->dir_fd, out->part, out->kind == MUX_OUT_FOLDER ? AT_REMOVEDIR : 0);
    }
    if (out->fd >= 0)
        close(out->fd);
    if (out->dir_fd >= 0)
        close(out->dir_fd);
    out->fd = out->dir_fd = -1;
    out->part[0] = 0;
}
