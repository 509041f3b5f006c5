/*
 * lx_jobs.h - the job table: every job the launcher knows, in fixed memory
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Finds a job by id or by the output name it will write, keeps the order of the queue,
 *           and remembers a bounded number of ended jobs for clients who ask later.
 * Promise   All memory is taken at creation. A job is in exactly one of three lists: queued,
 *           running, ended; the oldest ended one makes room for a new one, a live one never does.
 * Not here  What happens to a job, and why: route.h.
 * Threads   The launcher's one thread.
 * Tests     tests/launcher/test_jobs.c
 */
#ifndef LX_JOBS_H
#define LX_JOBS_H

#include "lx_msg.h"

typedef struct lx_jobs lx_jobs;

typedef enum lx_part_state { LX_PART_WAITING, LX_PART_RUNNING, LX_PART_DONE } lx_part_state;

/* One stage's part of a job, of the present attempt. */
typedef struct lx_part {
    lx_part_state state;
    int replica;           /* -1: none yet */
    double start_s, end_s; /* monotonic; -1: has not happened */
    double wait_s;         /* of these: for another stage; 0 until it is done */
    uint64_t peak_bytes;   /* of the process, when it was done */
    char unit[LX_LIMIT_WORD];
    uint64_t done, total; /* progress as last heard */
} lx_part;

/* A lent artifact that this job needs to go on, or to be tried again. */
typedef struct lx_lent {
    lx_ticket ticket; /* serial 0: none */
    int replica;      /* of the lender */
    bool is_borrowed; /* the borrower has its own copy */
} lx_lent;

typedef enum lx_job_list {
    LX_LIST_QUEUED,
    LX_LIST_RUNNING,
    LX_LIST_ENDED,
    LX_LIST_COUNT
} lx_job_list;

typedef struct lx_entry lx_entry;
struct lx_entry {
    const lx_job *job; /* complete; borrowed from the table until the entry is reused */
    uint64_t serial;   /* order of submission, never reused */
    lx_job_state state;
    bool has_drawn_seed; /* the client left it open: "the same job" then means any seed */
    int32_t attempt;     /* of the whole job; grows whenever work is thrown away */
    int strikes;         /* deaths of stages while they held this job */
    bool is_excused;     /* one death was not counted: the stage had not begun */
    uint64_t retries;

    bool is_ending; /* ends as `state_next` once no stage holds it any more */
    lx_job_state state_next;
    int n_holders; /* stage replicas that were given this job and have not let go of it */

    lx_part part[LX_STAGE_COUNT];
    lx_lent context, latent;
    bool has_all_chunks; /* the VAE published its last */

    double submit_s, begin_s, end_s;     /* monotonic; 0: not yet */
    int64_t submit_wall_us, end_wall_us; /* since 1970, for the journal; 0: not yet */
    bool is_of_old_boot;                 /* it ended before a reboot: its times are gone */
    uint64_t saved_bytes;                /* of its latent in the spool; 0: none is there */
    uint32_t saved_crc;
    uint64_t owner; /* which client it is counted for; 0: none */
    uint64_t key;   /* the owner where that is a key, which outlives a connection; else 0 */
    int32_t n_tokens, n_dropped, n_frames, n_step_s;
    double step_s[LX_LIMIT_STEPS]; /* of the last attempt that denoised */
    uint64_t file_bytes;
    char error[LX_LIMIT_TEXT];  /* of a failed job */
    char notice[LX_LIMIT_TEXT]; /* one line for the user */

    double told_s; /* last event to watchers */
    bool is_news;  /* something changed since */

    /* The table's own: neighbours in this entry's list and in the order of submission. */
    lx_job_list list;
    lx_entry *next, *previous;
    lx_entry *younger, *older;
    lx_entry *same_id, *same_output; /* hash chains */
};

/** max_live: queued and running together. history: ended ones kept beside them. */
lx_status lx_jobs_create(lx_jobs **out, int32_t max_live, int32_t history, lx_err *err);
void lx_jobs_destroy(lx_jobs **jobs);

lx_entry *lx_jobs_find(const lx_jobs *jobs, const char *id);
/** The live (queued or running) job that will write this name, or NULL. */
lx_entry *lx_jobs_find_output(const lx_jobs *jobs, const char *name);

/** Append a copy of a checked job to the queue. LX_EAGAIN: max_live reached. */
lx_status lx_jobs_add(lx_jobs *jobs, const lx_job *job, double now_s, lx_entry **out, lx_err *err);

/** LX_EAGAIN as lx_jobs_add would say it. */
lx_status lx_jobs_has_room(const lx_jobs *jobs, lx_err *err);

/** Move an entry to the end of another list; its state becomes `state`, which must belong there.
 *  LX_EAGAIN when an ended job shall live again and max_live is reached. */
lx_status lx_jobs_move(lx_jobs *jobs, lx_entry *entry, lx_job_state state, lx_err *err);

/** Forget what an attempt did: parts wait, progress is empty. Tickets are not touched. */
void lx_entry_reset_part(lx_entry *entry, lx_stage_kind kind);

lx_entry *lx_jobs_first(const lx_jobs *jobs, lx_job_list list); /* then entry->next */
lx_entry *lx_jobs_oldest(const lx_jobs *jobs);                  /* then entry->younger */
int32_t lx_jobs_count(const lx_jobs *jobs, lx_job_list list);
int32_t lx_jobs_live(const lx_jobs *jobs);
/** Live ones of this owner. */
int32_t lx_jobs_live_of(const lx_jobs *jobs, uint64_t owner);
int32_t lx_jobs_max_live(const lx_jobs *jobs);

#endif
