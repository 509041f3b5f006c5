/*
 * journal.c - opening, adding, committing, replacing
 * SPDX-License-Identifier: Apache-2.0
 */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "journal_file.h"
#include "lx_fault.h"
#include "lx_hash.h"
#include "lx_log.h"

#define LARGE (1u << 20) /* below this nobody minds */

struct journal {
    char path[LX_LIMIT_PATH];
    int dir, lock;
    journal_file file;
    uint16_t back; /* records since the last sync */
    bool is_dirty; /* something was added since then */
    bool is_broken;
    uint64_t boot;
    uint64_t kept_bytes; /* of the file when it was last replaced */
    journal_fact fact;   /* scratch */
};

int64_t journal_wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* A number for the kernel's boot id. */
uint64_t journal_boot(void)
{
    char text[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    return n > 0 ? lx_hash_add(LX_HASH_START, text, (size_t)n) : 0;
}

static lx_status break_off(journal *j, lx_status status)
{
    j->is_broken = j->is_broken || status == LX_ESTAGE;
    return status;
}

/* --- opening ---------------------------------------------------------------------------------- */

static lx_status begin_empty(journal *j, lx_err *err)
{
    lx_status status = journal_file_begin(&j->file, j->dir, 1, err);
    return status == LX_OK ? journal_file_publish(&j->file, j->dir, err) : status;
}

static lx_status refuse_damage(const char *path, const journal_scan *scan, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG,
                   "%s: damaged at offset %" PRIu64 ": %s; `lx2v journal check %s` tells more, "
                   "`lx2v journal repair %s` saves what can be read",
                   path, scan->damage_at, scan->why, path, path);
}

/* Never committed, so nobody was promised it. Cut and synced before anything is added. */
static lx_status cut_torn_end(journal *j, const journal_scan *scan, lx_err *err)
{
    if (scan->cut_bytes)
        LX_W("%s: a torn end of %" PRIu64 " bytes at offset %" PRIu64 " is cut off", j->path,
             scan->cut_bytes, scan->end);
    if (ftruncate(j->file.fd, (off_t)scan->end) || fsync(j->file.fd))
        return lx_fail(err, LX_ESTAGE, "%s: cutting the torn end failed: %s", j->path,
                       strerror(errno));
    return LX_OK;
}

static lx_status replay(journal *j, journal_fact_fn on_fact, void *self, lx_err *err)
{
    journal_scan scan;
    lx_status status = journal_read(j->file.fd, false, &j->fact, on_fact, self, &scan, err);
    if (status != LX_OK)
        return lx_wrap(err, "%s", j->path);
    if (scan.damage_at)
        return refuse_damage(j->path, &scan, err);
    status = cut_torn_end(j, &scan, err);
    j->file.end = j->file.allocated = scan.end;
    j->file.sequence = scan.next_sequence;
    j->kept_bytes = scan.end;
    return status;
}

static lx_status open_file(journal *j, journal_fact_fn on_fact, void *self, lx_err *err)
{
    unlinkat(j->dir, "journal.new", 0); /* a replacement that a power cut stopped */
    j->file.fd = openat(j->dir, "journal", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (j->file.fd < 0 && errno == ENOENT)
        return begin_empty(j, err);
    if (j->file.fd < 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s", j->path, strerror(errno));
    j->file.buffer = malloc(JOURNAL_BUFFER);
    if (!j->file.buffer)
        return lx_fail(err, LX_EAGAIN, "journal: out of memory");
    return replay(j, on_fact, self, err);
}

lx_status journal_open(journal **out, const char *dir, journal_fact_fn on_fact, void *self,
                       lx_err *err)
{
    journal *j = calloc(1, sizeof *j);
    if (!j)
        return lx_fail(err, LX_EAGAIN, "journal: out of memory");
    j->dir = j->lock = j->file.fd = -1;
    j->boot = journal_boot();
    j->is_broken = true; /* until it is read: a close must not mark it */
    int n = snprintf(j->path, sizeof j->path, "%s/journal", dir);
    lx_status status =
        n < (int)sizeof j->path
            ? journal_folder(dir, true, &j->dir, &j->lock, err)
            : lx_fail(err, LX_ECONFIG, "state.journal %s: the path is too long", dir);
    if (status == LX_OK)
        status = open_file(j, on_fact, self, err);
    if (status != LX_OK) {
        journal_close(&j);
        return status;
    }
    j->is_broken = false;
    *out = j;
    return LX_OK;
}

void journal_close(journal **journal_)
{
    if (!journal_ || !*journal_)
        return;
    journal *j = *journal_;
    lx_err err = {0};
    memset(&j->fact, 0, sizeof j->fact);
    j->fact.type = JOURNAL_MARK;
    if (!j->is_broken &&
        (journal_append(j, &j->fact, 0, &err) != LX_OK || journal_commit(j, &err) != LX_OK))
        LX_W("%s", err.message);
    journal_file_drop(&j->file);
    if (j->lock >= 0)
        close(j->lock);
    if (j->dir >= 0)
        close(j->dir);
    free(j);
    *journal_ = NULL;
}

/* --- adding ----------------------------------------------------------------------------------- */

static lx_status refuse_broken(lx_err *err)
{
    return lx_fail(err, LX_ESTAGE, "journal: an earlier write failed");
}

lx_status journal_append(journal *j, journal_fact *fact, int n_live, lx_err *err)
{
    if (j->is_broken)
        return refuse_broken(err);
    lx_status status = j->back == UINT16_MAX ? journal_commit(j, err) : LX_OK;
    uint64_t needs = j->file.end + j->file.used + JOURNAL_RECORD_BYTES + JOURNAL_PAYLOAD_MAX +
                     (uint64_t)n_live * JOURNAL_RESERVE;
    if (status == LX_OK && fact->type == JOURNAL_ACCEPTED)
        status = journal_file_allocate(&j->file, needs, err);
    if (status != LX_OK)
        return status;
    fact->wall_us = journal_wall_us();
    fact->boot = j->boot;
    status = break_off(j, journal_file_add(&j->file, fact, j->back, err));
    if (status == LX_OK) {
        j->back++;
        j->is_dirty = true;
    }
    return status;
}

lx_status journal_commit(journal *j, lx_err *err)
{
    if (j->is_broken)
        return refuse_broken(err);
    if (!j->is_dirty)
        return LX_OK;
    lx_status status = journal_file_flush(&j->file, err);
    /* A second sync after a failed one would say LX_OK for pages that the kernel has dropped. */
    int error = status == LX_OK ? LX_FAULT("journal.sync") : 0;
    if (status == LX_OK && !error && fdatasync(j->file.fd))
        error = errno;
    if (error)
        status = lx_fail(err, LX_ESTAGE,
                         "%s: sync failed: %s; nothing more can be promised. What was accepted is "
                         "kept and goes on at the next start",
                         j->path, strerror(error));
    if (status == LX_OK) {
        (void)LX_FAULT("journal.synced"); /* a moment to die in: nobody has heard of it */
        j->is_dirty = false;
        j->back = 0;
    }
    return break_off(j, status);
}

/* --- replacing -------------------------------------------------------------------------------- */

bool journal_is_large(const journal *j)
{
    return j->file.end > LARGE + 2 * j->kept_bytes;
}

/* Nobody sees this file before it is synced as a whole: no record of it is ever a torn one. */
static lx_status write_aside(journal *j, journal_file *file, journal_next_fn next, void *self,
                             int n_live, lx_err *err)
{
    lx_err why = {0};
    lx_status status = journal_file_begin(file, j->dir, j->file.sequence, &why);
    memset(&j->fact, 0, sizeof j->fact);
    while (status == LX_OK && next(self, &j->fact))
        status = journal_file_add(file, &j->fact, 0, &why);
    if (status == LX_OK)
        status = journal_file_flush(file, &why);
    if (status == LX_OK)
        status = journal_file_allocate(file, file->end + (uint64_t)n_live * JOURNAL_RESERVE, &why);
    if (status == LX_OK)
        return LX_OK;
    unlinkat(j->dir, "journal.new", 0);
    return lx_fail(err, LX_EAGAIN, "%s", why.message); /* the old one is as good as ever */
}

lx_status journal_rewrite(journal *j, journal_next_fn next, void *self, int n_live, lx_err *err)
{
    journal_file file = {.fd = -1};
    lx_status status = journal_commit(j, err);
    if (status != LX_OK)
        return status;
    status = write_aside(j, &file, next, self, n_live, err);
    if (status == LX_OK)
        status = journal_file_publish(&file, j->dir, err);
    if (status != LX_OK) {
        journal_file_drop(&file);
        j->kept_bytes = j->file.end; /* not tried again at once */
        return break_off(j, status);
    }
    journal_file_drop(&j->file);
    j->file = file;
    j->kept_bytes = file.end;
    j->back = 0;
    return LX_OK;
}

/* --- answers ---------------------------------------------------------------------------------- */

journal_fact *journal_scratch(journal *j)
{
    memset(&j->fact, 0, sizeof j->fact);
    return &j->fact;
}

uint64_t journal_bytes(const journal *j)
{
    return j->file.end + j->file.used;
}
