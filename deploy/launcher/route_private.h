/*
 * route_private.h - what route.c, route_lend.c and route_give.c share
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ROUTE_PRIVATE_H
#define ROUTE_PRIVATE_H

#include "route.h"

#define ROUTE_CHUNKS 64 /* chunks of frames lent by one VAE replica; a desk has fewer slots */
#define ROUTE_DEAD   64 /* dead lenders whose names are still referred to */

/* A chunk of frames on its way from VAE to mux. */
typedef struct route_chunk {
    lx_entry *entry;
    int32_t index, is_last;
    int borrower; /* mux replica; -1: waits in the launcher */
    lx_ticket ticket;
} route_chunk;

typedef struct route_worker {
    bool is_up, is_parked;
    uint64_t epoch;
    lx_entry *entry; /* the job it holds; NULL: idle */
    int32_t attempt; /* of that job, when it was given */
    bool is_aborting;
    bool is_from_spool; /* DiT: it only lends what was saved */
    double given_s, free_since_s;
    double cost_s;            /* seconds per unit of work, recent; 0: unknown */
    double last_s, last_work; /* of its latest job; 0: none yet */
    uint64_t n_jobs;
    char last_words[LX_LIMIT_TEXT]; /* of a FAILED that says the process is ending */
    char obituary[LX_LIMIT_TEXT];   /* when parked */
    int n_chunks;
    route_chunk chunk[ROUTE_CHUNKS]; /* VAE only, in the order they came */
} route_worker;

struct route {
    lx_jobs *jobs; /* borrowed */
    route_hands hands;
    int n_replicas[LX_STAGE_COUNT];
    int depth;
    char instance[33];
    bool is_paused, is_leaving;
    double now_s; /* of the call being served */
    int n_dead;
    uint64_t dead[ROUTE_DEAD];
    lx_msg out; /* scratch: 17 KiB would be much for the stack */
    route_worker worker[LX_STAGE_COUNT][LX_LIMIT_REPLICAS];
};

/* --- route.c: the state of a job -------------------------------------------------------------- */

/** The job shall end in this state: stages that hold it are asked to stop, and once none does it
 *  has ended. error: why it failed, or ""; copied. */
void route_end_job(route *r, lx_entry *e, lx_job_state state, const char *error);

/* --- route_lend.c: tickets -------------------------------------------------------------------- */

void route_tell(route *r, lx_stage_kind kind, int replica, lx_msg *msg);

/** Is this ticket one that the worker can have made? */
bool route_ticket_ok(const route *r, const route_worker *w, const lx_ticket *ticket);
/** Tell the lender that this tensor is not needed, if it is still the process that lent it. */
void route_retire(route *r, lx_stage_kind kind, int replica, const lx_ticket *ticket);
/** Retire an artifact of a job and forget it. */
void route_drop_lent(route *r, lx_stage_kind kind, lx_lent *lent);
/** Is it there to be borrowed (again)? A vanished one is forgotten. */
bool route_check_lent(route *r, lx_lent *lent);

/** A chunk came from this VAE replica: pass it on or keep it. */
void route_add_chunk(route *r, int vae, lx_entry *entry, const lx_msg *msg);
void route_forward_chunks(route *r, lx_entry *entry, int mux);
/** Mux copied the chunk with this serial. */
void route_chunk_released(route *r, int mux, uint64_t serial);
/** Retire chunks: those that `mux` borrows (entry NULL), or those of entry that wait (mux -1). */
void route_drop_chunks(route *r, const lx_entry *entry, int mux);
bool route_chunks_are_lent(route *r, const lx_entry *entry);
int route_lent_by(const route *r, lx_stage_kind kind, const route_worker *w);

void route_mourn(route *r, uint64_t epoch); /* a lender died */
void route_sweep_dead(route *r);

/* --- route_give.c: what jobs cost ------------------------------------------------------------- */

/** A job took this worker so many seconds; 0: that is not known, and nothing is noted. */
void route_note_cost(route_worker *w, lx_stage_kind kind, const lx_entry *e, double seconds);

#endif
