/*
 * journal_file.c - folder, lock, writing aside
 * SPDX-License-Identifier: Apache-2.0
 */
#include "journal_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lx_fault.h"
#include "lx_folder.h"

#define STEP (256u * 1024) /* the file grows on disk by so much */

/* --- folder ----------------------------------------------------------------------------------- */

/* Like mkdir -p: ~/.local/state need not be there on a new account. */
static lx_status make_folders(const char *dir, lx_err *err)
{
    char path[LX_LIMIT_PATH];
    snprintf(path, sizeof path, "%s", dir);
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        int error = lx_folder_make(path, 0700);
        if (error)
            return lx_fail(err, LX_ECONFIG, "state.journal %s: %s cannot be made: %s", dir, path,
                           strerror(error));
        *p = '/';
    }
    int error = lx_folder_make(path, 0700);
    return error ? lx_fail(err, LX_ECONFIG, "state.journal %s: cannot be made: %s", dir,
                           strerror(error))
                 : LX_OK;
}

/* Prompts are private, and who can write here can make us do work. */
static lx_status check_folder(const char *dir, int fd, lx_err *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return lx_fail(err, LX_ECONFIG, "state.journal %s: %s", dir, strerror(errno));
    if (st.st_uid != geteuid())
        return lx_fail(err, LX_ECONFIG,
                       "state.journal %s: belongs to user %u, not to you (%u); set state.journal "
                       "in config.yaml to a folder of your own",
                       dir, st.st_uid, geteuid());
    if (st.st_mode & 022)
        return lx_fail(err, LX_ECONFIG,
                       "state.journal %s: mode %03o lets others write; run chmod 700 on it", dir,
                       st.st_mode & 0777);
    return LX_OK;
}

static lx_status take_lock(const char *dir, int dir_fd, int *out, lx_err *err)
{
    int fd = openat(dir_fd, "journal.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return lx_fail(err, LX_ECONFIG, "%s/journal.lock: %s", dir, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        *out = fd;
        return LX_OK;
    }
    int error = errno;
    close(fd);
    if (error == EWOULDBLOCK)
        return lx_fail(err, LX_ECONFIG,
                       "%s: a running launcher has this journal; stop it, or give each launcher a "
                       "state.journal of its own",
                       dir);
    return lx_fail(err, LX_ECONFIG, "%s/journal.lock: %s", dir, strerror(error));
}

lx_status journal_folder(const char *dir, bool make, int *dir_fd, int *lock_fd, lx_err *err)
{
    lx_status status = make ? make_folders(dir, err) : LX_OK;
    if (status != LX_OK)
        return status;
    *dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*dir_fd < 0)
        return lx_fail(err, LX_ECONFIG, "state.journal %s: %s", dir, strerror(errno));
    status = check_folder(dir, *dir_fd, err);
    return status == LX_OK ? take_lock(dir, *dir_fd, lock_fd, err) : status;
}

/* --- file ------------------------------------------------------------------------------------- */

static lx_status broken(const char *what, int error, lx_err *err)
{
    return lx_fail(err, LX_ESTAGE,
                   "journal: %s: %s; nothing more can be promised. What was accepted is kept and "
                   "goes on at the next start",
                   what, strerror(error));
}

lx_status journal_file_begin(journal_file *f, int dir, uint64_t sequence, lx_err *err)
{
    *f = (journal_file){.fd = -1, .sequence = sequence, .buffer = malloc(JOURNAL_BUFFER)};
    if (!f->buffer)
        return lx_fail(err, LX_EAGAIN, "journal: out of memory");
    f->fd = openat(dir, "journal.new", O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (f->fd < 0) {
        lx_fail(err, LX_EAGAIN, "journal.new cannot be made: %s", strerror(errno));
        journal_file_drop(f);
        return LX_EAGAIN;
    }
    journal_head_encode(f->buffer, sequence);
    f->used = JOURNAL_HEAD_BYTES;
    return LX_OK;
}

void journal_file_drop(journal_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->buffer);
    *f = (journal_file){.fd = -1};
}

lx_status journal_file_flush(journal_file *f, lx_err *err)
{
    for (size_t done = 0; done < f->used;) {
        int error = LX_FAULT("journal.write");
        ssize_t n =
            error ? 0 : pwrite(f->fd, f->buffer + done, f->used - done, (off_t)(f->end + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return broken("writing failed", error ? error : n < 0 ? errno : EIO, err);
        done += (size_t)n;
    }
    f->end += f->used;
    f->used = 0;
    if (f->allocated < f->end)
        f->allocated = f->end;
    return LX_OK;
}

lx_status journal_file_add(journal_file *f, const journal_fact *fact, uint16_t back, lx_err *err)
{
    if (f->used + JOURNAL_RECORD_BYTES + JOURNAL_PAYLOAD_MAX > JOURNAL_BUFFER) {
        lx_status status = journal_file_flush(f, err);
        if (status != LX_OK)
            return status;
    }
    f->used += journal_encode(fact, f->sequence, back, f->buffer + f->used);
    f->sequence++;
    return LX_OK;
}

/* In steps, so that most acceptances need not ask; when the disk is nearly full, to the byte. */
lx_status journal_file_allocate(journal_file *f, uint64_t bytes, lx_err *err)
{
    if (bytes <= f->allocated)
        return LX_OK;
    uint64_t whole = (bytes + STEP - 1) / STEP * STEP;
    int fault = LX_FAULT("journal.allocate");
    int error =
        fault ? fault : posix_fallocate(f->fd, (off_t)f->allocated, (off_t)(whole - f->allocated));
    if (error && !fault) {
        whole = bytes;
        error = posix_fallocate(f->fd, (off_t)f->allocated, (off_t)(whole - f->allocated));
    }
    if (error) {
        struct statvfs fs = {0};
        fstatvfs(f->fd, &fs);
        return lx_fail(err, LX_EAGAIN,
                       "journal: no space: needs %.2f MiB more, the disk has %.2f MiB (%s)",
                       (double)(bytes - f->allocated) / 0x1p20,
                       (double)fs.f_bavail * (double)fs.f_frsize / 0x1p20, strerror(error));
    }
    f->allocated = whole;
    return LX_OK;
}

lx_status journal_file_publish(journal_file *f, int dir, lx_err *err)
{
    lx_err why = {0};
    lx_status status = journal_file_flush(f, &why);
    int fault = status == LX_OK ? LX_FAULT("journal.replace") : 0;
    if (status == LX_OK && (fault || fsync(f->fd)))
        status = broken("journal.new: sync failed", fault ? fault : errno, &why);
    if (status == LX_OK && renameat(dir, "journal.new", dir, "journal"))
        status = broken("journal.new: renaming failed", errno, &why);
    if (status != LX_OK) { /* the old one is untouched */
        unlinkat(dir, "journal.new", 0);
        return lx_fail(err, LX_EAGAIN, "%s", why.message);
    }
    fault = LX_FAULT("journal.replaced");
    return fault || fsync(dir) ? broken("its folder: sync failed", fault ? fault : errno, err)
                               : LX_OK;
}
