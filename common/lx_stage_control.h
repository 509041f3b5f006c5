/*
 * lx_stage_control.h - where a stage's two threads meet (private to common/lx_stage*.c)
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_STAGE_CONTROL_H
#define LX_STAGE_CONTROL_H

#include <pthread.h>

#include "lx_bus.h"
#include "lx_number.h"
#include "lx_stage.h"

#define STAGE_OUTBOX   32
#define STAGE_CHUNKS   64 /* chunks of frames waiting for mux; the lender has fewer slots */
#define STAGE_RETIRED  256
#define STAGE_LENT_MAX 2048 /* artifacts of one job: one per latent frame at most */
#define STAGE_LINKS    32   /* tests of links that wait for the end of a job */
#define STAGE_WAYS     16   /* lenders whose link is known; there are 8 of a kind */

typedef struct stage_chunk {
    lx_ticket ticket;
    bool is_last;
} stage_chunk;

/* How tensors come from one lender, a process. */
typedef struct stage_way {
    uint64_t epoch;
    lx_transport transport;
} stage_way;

struct lx_stage {
    lx_stage_kind kind;
    int32_t replica;
    uint64_t vram, ram; /* planned; 0: nothing was */
    char endpoint[256], token[33], instance[33];
    uint64_t epoch;
    double opened_s;
    bool is_ready;
    lx_config config;
    lx_progress progress;
    int slow_ms;
    int shared_fd;  /* 0: none */
    lx_bus *bus;    /* the control thread's, once it runs */
    lx_share *desk; /* the working thread's, as the next three; NULL: lends nothing */
    const lx_share_device *device; /* borrowed; NULL: on the CPU */
    stage_way way[STAGE_WAYS];     /* the newest take the oldest's place */
    size_t n_ways;
    lx_stage_arena arena; /* .take NULL: none, or it is never given back */
    bool has_arena;       /* taken */
    bool is_leased;       /* in turn with other stages of the card */
    bool is_lease_asked;
    pthread_t control;
    bool has_control;
    int wake_fd;       /* wakes the control thread */
    int term_fd;       /* SIGTERM as a file */
    int lifeline;      /* ends when the launcher does; -1: there is none */
    bool is_deaf;      /* it has been heard, or (fault point) never will be */
    double orphaned_s; /* when; 0: has not happened */
    lx_number number;  /* the control thread's */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t news;  /* wakes the working thread */
    lx_msg outbox[STAGE_OUTBOX];
    size_t first_out, n_out;
    bool has_job, aborted, stop, closing;
    bool has_lease, is_recalled; /* granted; asked back */
    lx_msg job;
    stage_chunk chunk[STAGE_CHUNKS];
    size_t first_chunk, n_chunks;
    uint64_t retired[STAGE_RETIRED];
    size_t n_retired;
    lx_msg_kind
        link_kind[STAGE_LINKS]; /* LINK_ASK or LINK_TEST, in order; seed and ticket beside */
    uint64_t link_seed[STAGE_LINKS];
    lx_ticket link_ticket[STAGE_LINKS];
    size_t n_links;
    char unit[LX_LIMIT_WORD];
    uint64_t done, total, moved;
};

/* --- lx_stage.c ------------------------------------------------------------------------------ */

/** LX_ECANCEL: the stage was told to stop, or its job was aborted. */
lx_status stage_stopped_locked(const lx_stage *stage, lx_err *err);

/* --- lx_stage_link.c: the working thread's -------------------------------------------------- */

/** Serve the oldest test that waits, if any. Not inside a job. LX_ESTAGE: the card is lost. */
lx_status stage_serve_link(lx_stage *stage, lx_err *err);
/** Borrow by what is known of the lender's link: into the card's memory, or dst is the host's. */
lx_status stage_borrow(lx_stage *stage, const lx_ticket *ticket, bool is_on_card, void *dst,
                       uint64_t dst_bytes, lx_err *err);
/** The desk belongs to the working thread, so retirements wait until it looks. */
void stage_apply_retirements_locked(lx_stage *stage);

/* --- lx_stage_lease.c: the working thread's ------------------------------------------------- */

/** Before a job: have the arena. Waits; LX_ECANCEL if the job is aborted meanwhile. */
lx_status stage_hold(lx_stage *stage, lx_err *err);
/** Between two jobs: give the arena back if somebody waits for it. */
void stage_give_back(lx_stage *stage);
/** It cannot start for want of memory: if that is a card's, add to err who has it. */
void stage_blame_users(const lx_stage *stage, lx_err *err);

/* --- lx_stage_control.c ---------------------------------------------------------------------- */

/** Queue a message; waits while the outbox is full. */
void stage_post(lx_stage *stage, const lx_msg *msg);
/** Queue the job's last message and be free for the next, in one step. */
void stage_end_job(lx_stage *stage, const lx_msg *msg);

void *stage_control_thread(void *stage);
/** Send what is queued (for at most a second), then end the thread. */
void stage_control_join(lx_stage *stage);
/** SIGTERM is an order to stop. Call before any thread is made. */
lx_status stage_catch_term(lx_stage *stage, lx_err *err);

#endif
