/*
 * journal_replay.c - reading a journal: where it ends, and whether it is whole
 * SPDX-License-Identifier: Apache-2.0
 *
 * Records follow each other, sequences grow by one. Where that stops there are three cases:
 *   nothing good behind it           a torn end (or zeros: the end)
 *   a good record that refers back   a torn end too: a power cut wrote a batch's pages in another
 *   to before the gap                order, and nobody had been promised any of it
 *   a good record that does not      damage: what is missing had been promised
 * The last batch itself cannot be told from a torn one; an orderly end writes a mark behind it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "journal.h"

#define WINDOW     (256 * 1024)
#define RECORD_MAX (JOURNAL_RECORD_BYTES + JOURNAL_PAYLOAD_MAX)
#define AHEAD      UINT64_C(0xffffffff) /* a later sequence than this is none of ours */

typedef struct window {
    int fd;
    uint64_t file_bytes, at;
    size_t n;
    unsigned char *bytes; /* [WINDOW] */
    int error;
} window;

/* Bytes at an offset: RECORD_MAX of them, or up to the file's end. */
static const unsigned char *look_at(window *w, uint64_t offset, size_t *n)
{
    uint64_t left = w->file_bytes - offset;
    size_t want = left < RECORD_MAX ? (size_t)left : RECORD_MAX;
    if (offset < w->at || offset + want > w->at + w->n) {
        w->at = offset;
        w->n = 0;
        while (w->n < WINDOW && w->n < left) {
            ssize_t got = pread(w->fd, w->bytes + w->n, WINDOW - w->n, (off_t)(offset + w->n));
            if (got < 0 && errno == EINTR)
                continue;
            if (got < 0)
                w->error = errno;
            if (got <= 0)
                break;
            w->n += (size_t)got;
        }
    }
    *n = w->at + w->n - offset < want ? (size_t)(w->at + w->n - offset) : want;
    return w->bytes + (offset - w->at);
}

/* The first good record at or after an offset whose sequence is not before `low`. */
static bool find_good(window *w, uint64_t from, uint64_t low, uint64_t *at, journal_record *out)
{
    for (uint64_t offset = from; offset < w->file_bytes && !w->error; offset++) {
        size_t n;
        const unsigned char *bytes = look_at(w, offset, &n);
        if (journal_record_may_be(bytes, n, low, low + AHEAD) &&
            journal_record_look(bytes, n, out) == JOURNAL_GOOD) {
            *at = offset;
            return true;
        }
    }
    return false;
}

/* Bytes from an offset to the last that is not zero. */
static uint64_t used_bytes(window *w, uint64_t from)
{
    uint64_t last = from;
    for (uint64_t offset = from; offset < w->file_bytes && !w->error;) {
        size_t n;
        const unsigned char *bytes = look_at(w, offset, &n);
        for (size_t i = 0; i < n; i++)
            if (bytes[i])
                last = offset + i + 1;
        offset += n > 0 ? n : 1;
    }
    return last - from;
}

static void note_damage(journal_scan *scan, uint64_t at, const char *why)
{
    if (scan->damage_at)
        return;
    scan->damage_at = at;
    snprintf(scan->why, sizeof scan->why, "%.159s", why);
}

/* No good record at `offset`. False: the journal ends here. */
static bool step_over(window *w, uint64_t *offset, bool salvage, journal_scan *scan)
{
    journal_record next;
    uint64_t at;
    bool is_found = find_good(w, *offset + 1, scan->next_sequence, &at, &next);
    uint64_t n_missing = is_found ? next.sequence - scan->next_sequence : 0;
    if (!is_found || (n_missing > 0 && n_missing <= next.back)) {
        scan->cut_bytes = used_bytes(w, *offset);
        return false;
    }
    char why[160];
    snprintf(why, sizeof why,
             "no record that is whole, and %" PRIu64 " bytes further there is one, number %" PRIu64,
             at - *offset, next.sequence);
    note_damage(scan, *offset, why);
    scan->n_lost += n_missing;
    scan->next_sequence = next.sequence;
    *offset = at;
    return salvage;
}

/* A record whose CRC holds, in its place: what it says must make sense too. */
static lx_status take_record(const journal_record *record, uint64_t offset, journal_fact *fact,
                             journal_fact_fn on_fact, void *self, journal_scan *scan, bool *ours,
                             lx_err *err)
{
    lx_err why = {0};
    *ours = journal_decode(record, fact, &why) == LX_OK;
    if (!*ours) {
        note_damage(scan, offset, why.message);
        scan->n_lost++;
        return LX_OK;
    }
    scan->n_records++;
    return on_fact ? on_fact(self, fact, err) : LX_OK;
}

static lx_status read_records(window *w, bool salvage, journal_fact *fact, journal_fact_fn on_fact,
                              void *self, journal_scan *scan, lx_err *err)
{
    uint64_t offset = JOURNAL_HEAD_BYTES;
    while (offset < w->file_bytes && !w->error) {
        size_t n;
        journal_record record;
        const unsigned char *bytes = look_at(w, offset, &n);
        bool is_good = journal_record_look(bytes, n, &record) == JOURNAL_GOOD &&
                       record.sequence == scan->next_sequence;
        if (!is_good) {
            scan->end = offset;
            if (!step_over(w, &offset, salvage, scan))
                break;
            continue;
        }
        bool ours;
        lx_status status = take_record(&record, offset, fact, on_fact, self, scan, &ours, err);
        if (status != LX_OK)
            return status;
        if (!ours && !salvage)
            break;
        offset += record.bytes;
        scan->next_sequence++;
        scan->end = offset;
    }
    return w->error ? lx_fail(err, LX_ECONFIG, "reading failed: %s", strerror(w->error)) : LX_OK;
}

lx_status journal_read(int fd, bool salvage, journal_fact *fact, journal_fact_fn on_fact,
                       void *self, journal_scan *out, lx_err *err)
{
    off_t bytes = lseek(fd, 0, SEEK_END);
    if (bytes < 0)
        return lx_fail(err, LX_ECONFIG, "reading failed: %s", strerror(errno));
    window w = {.fd = fd, .file_bytes = (uint64_t)bytes, .bytes = malloc(WINDOW)};
    if (!w.bytes)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    *out = (journal_scan){.end = JOURNAL_HEAD_BYTES};
    size_t n;
    const unsigned char *head = look_at(&w, 0, &n);
    lx_status status = journal_head_check(head, n, &out->next_sequence, err);
    if (status == LX_OK)
        status = read_records(&w, salvage, fact, on_fact, self, out, err);
    free(w.bytes);
    return status;
}
