/*
 * journal.h - what was promised, on disk
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      An append-only file of facts about jobs (journal_record.h) in a folder of its own:
 *             journal       the file; journal.new while it is being replaced
 *             journal.lock  one launcher at a time
 *             spool/        saved latents (the DiT stage writes them)
 * Promise   What journal_commit returned LX_OK for is there after kill -9 and after a power cut. A
 *           torn end (records that were never committed) is cut off; anything else that is wrong is
 *           refused with its offset, never skipped. Ending a job never needs space that was not
 *           there when it was accepted. After a failed write or sync nothing more is promised: the
 *           caller must end, and the next start reads what is really there.
 * Not here  Which facts, and what they mean for the queue: journal_jobs.h.
 * Threads   The launcher's one thread.
 * Tests     tests/launcher/test_journal.c, tests/pipeline/test_restart.c, tests/fuzz/fuzz_journal.c
 */
#ifndef JOURNAL_H
#define JOURNAL_H

#include "journal_record.h"

typedef struct journal journal;

/** One fact of the file, in order. fact: borrowed during the call. Not LX_OK: reading ends so. */
typedef lx_status (*journal_fact_fn)(void *self, const journal_fact *fact, lx_err *err);

typedef struct journal_scan {
    uint64_t n_records, next_sequence;
    uint64_t end;       /* offset after the last good record */
    uint64_t cut_bytes; /* of a torn end, beginning at `end`; 0: it ends in order */
    uint64_t damage_at; /* offset of the first damage; 0: none */
    uint64_t n_lost;    /* records that are missing there and later (salvage only) */
    char why[160];      /* what is wrong there */
} journal_scan;

/**
 * Read a whole file. fact: scratch (20 KiB), borrowed. Damage is LX_OK with damage_at set, and the
 * end of reading, unless salvage is set: then reading goes on at the next good record.
 *
 * @retval LX_ECONFIG  no journal at all, or one that a newer lx2v wrote
 * @retval LX_EAGAIN   out of memory
 */
lx_status journal_read(int fd, bool salvage, journal_fact *fact, journal_fact_fn on_fact,
                       void *self, journal_scan *out, lx_err *err);

/** Make the folder (0700) if need be, lock, replay every fact, cut a torn end. LX_ECONFIG: somebody
 *  else has it, or it is damaged: file, offset and what to do. */
lx_status journal_open(journal **out, const char *dir, journal_fact_fn on_fact, void *self,
                       lx_err *err);
/** Marks an orderly end, if nothing has failed. */
void journal_close(journal **j);

/**
 * Add a fact; wall, boot and sequence are filled in. It counts once journal_commit has returned.
 *
 * n_live  jobs that will yet end, this one included: so many ends have room on the disk afterwards
 *
 * @retval LX_EAGAIN  accepted only: no space, with figures; nothing was added
 * @retval LX_ESTAGE  writing failed: end the process
 */
lx_status journal_append(journal *j, journal_fact *fact, int n_live, lx_err *err);

/** Everything that was added is on the disk. Costs nothing if nothing was. LX_ESTAGE as above. */
lx_status journal_commit(journal *j, lx_err *err);

/** Is most of the file of no use any more? */
bool journal_is_large(const journal *j);

/** The next fact to keep; false: there is none. */
typedef bool (*journal_next_fn)(void *self, journal_fact *out);

/** Replace the file by one with these facts. LX_EAGAIN: it could not be written, the old one stays;
 *  LX_ESTAGE as above. */
lx_status journal_rewrite(journal *j, journal_next_fn next, void *self, int n_live, lx_err *err);

/** Scratch for a fact. Borrowed. */
journal_fact *journal_scratch(journal *j);
uint64_t journal_boot(void);              /* which start of the machine this is; 0: unknown */
uint64_t journal_bytes(const journal *j); /* of the file that are in use */
int64_t journal_wall_us(void);

/** Save what can be read of a damaged journal: the old file is kept under another name, which is
 *  put into kept_as. LX_ECONFIG: a launcher is running, or no journal. */
lx_status journal_repair(const char *dir, char kept_as[64], journal_scan *out, lx_err *err);

#endif
