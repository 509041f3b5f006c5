/*
 * journal_jobs.h - the job table and its journal
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Turns what happens to jobs into facts, and facts into the table that a launcher starts
 *           with: unfinished jobs queued again in their order, ended ones remembered.
 * Promise   After journal_commit the table can be made again from the file: the same ids, seeds and
 *           order. A retried job stands at the end of the queue, as it did.
 * Threads   The launcher's one thread.
 * Tests     tests/launcher/test_journal_jobs.c, tests/pipeline/test_restart.c
 */
#ifndef JOURNAL_JOBS_H
#define JOURNAL_JOBS_H

#include "journal.h"
#include "lx_jobs.h"

/** Open dir's journal, fill an empty table from it. LX_ECONFIG: as journal_open, or it holds more
 *  unfinished jobs than the table. */
lx_status journal_jobs_open(journal **out, const char *dir, lx_jobs *jobs, double now_s,
                            lx_err *err);

/** The job is about to be added to the table, or to be taken up again. key: as of lx_entry.
 *  Statuses as of journal_append. */
lx_status journal_jobs_accept(journal *j, const lx_jobs *jobs, const lx_job *job, uint64_t key,
                              bool has_drawn_seed, double now_s, lx_err *err);
/** Its latent is in the spool. */
lx_status journal_jobs_latent(journal *j, const lx_entry *e, lx_err *err);
/** It has ended; entry->state says how. */
lx_status journal_jobs_end(journal *j, lx_entry *e, lx_err *err);

/** Replace the file by what the table still knows. LX_EAGAIN: later. */
lx_status journal_jobs_rewrite(journal *j, const lx_jobs *jobs, lx_err *err);

#endif
