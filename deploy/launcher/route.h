/*
 * route.h - which stage next: the state machine of a job
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Gives jobs to stage replicas, carries tickets from lender to borrower and back, and
 *           decides what a death, a failure, a cancel or a retry means for a job. It speaks
 *           through a few callbacks and never touches a process, a socket or a clock.
 * Promise   Every job given to route ends as done, failed or cancelled. Work is thrown away only
 *           from the earliest artifact that is gone; a job is tried twice, not more. A ticket is
 *           retired exactly once, when nobody can need it any more; names of a dead lender are
 *           swept when the last job that refers to them lets go.
 * Not here  Processes, beats, restarts: replica.h. Clients: clients.h.
 * Threads   The launcher's one thread.
 * Tests     tests/launcher/test_route.c
 *
 *   part of a job:   WAITING --give--> RUNNING --artifact is out (mux: done)--> DONE
 *                       ^                 |  death, failure to be retried
 *                       +-----------------+  (attempt + 1; parts before it stay DONE while their
 *                                             artifact is still lent)
 *
 * Treacherous details
 *   - A stage that published its artifact and died before it said "done" has done its part
 *     (test_dit_dead_after_latent_is_not_repeated).
 *   - A job with a saved latent begins, or begins again, at the DiT, which only lends it; when it
 *     is not what was saved, the job starts over (test_saved_latent_is_not_denoised_again).
 *   - Two attempts of one job must never run at once: mux writes `.JOB.part`
 *     (test_new_attempt_waits_for_old_holders).
 *   - Mux may finish in the moment a cancel comes: then there is a file and the job is done
 *     (test_cancel_loses_against_done).
 *   - An artifact that comes after an abort is still lent: it must be retired
 *     (test_late_artifact_is_retired).
 */
#ifndef ROUTE_H
#define ROUTE_H

#include "lx_jobs.h"

typedef struct route route;

/* How route acts on the world. None of these may call back into route. */
typedef struct route_hands {
    /* false: the process cannot take it; route then asks for it to be killed */
    bool (*send)(void *self, lx_stage_kind kind, int replica, const lx_msg *msg);
    void (*kill)(void *self, lx_stage_kind kind, int replica, const char *why);
    bool (*is_lent)(void *self, const lx_ticket *ticket); /* the region is still there */
    void (*sweep)(void *self, uint64_t epoch);            /* nobody refers to it any more */
    void (*news)(void *self, lx_entry *entry, bool new_state);
    /* LX_OK, or why a job shall not be denoised now after all. May be NULL. */
    lx_status (*admit)(void *self, const lx_job *job, lx_err *err);
    /* entry->saved_bytes and saved_crc are of a latent that is in the spool now. May be NULL. */
    void (*saved)(void *self, lx_entry *entry);
    /* A job has ended, and nobody has heard of it yet. May be NULL. */
    void (*ended)(void *self, lx_entry *entry);
    void *self; /* borrowed for the route's life */
} route_hands;

typedef struct route_options {
    int n_replicas[LX_STAGE_COUNT];
    int depth;            /* artifacts that may wait on one link */
    const char *instance; /* 32 hex digits; copied */
} route_options;

lx_status route_create(route **out, lx_jobs *jobs, const route_options *options, route_hands hands,
                       lx_err *err);
void route_destroy(route **r);

/* --- what happened to processes --------------------------------------------------------------- */

/** The replica said ready: it may be given jobs. epoch: of this process. */
void route_up(route *r, lx_stage_kind kind, int replica, uint64_t epoch);
/** Its process is gone; obituary: how, for the users of the jobs it held. */
void route_down(route *r, lx_stage_kind kind, int replica, const char *obituary, double now_s);
/** It will not be started again. When it was the last of its kind, jobs that need it fail. */
void route_park(route *r, lx_stage_kind kind, int replica, const char *obituary, double now_s);
/** STARTED, BEAT, ARTIFACT, RELEASED, DONE, FAILED from a replica that is up. */
void route_message(route *r, lx_stage_kind kind, int replica, const lx_msg *msg, double now_s);

/* --- what people want ------------------------------------------------------------------------- */

/** Start whatever can start now. Call after anything changed. */
void route_pump(route *r, double now_s);
void route_pause(route *r, bool is_paused);
/** LX_EJOB: it has ended or is about to. Ends as cancelled once every stage let go of it. */
lx_status route_cancel(route *r, lx_entry *entry, double now_s, lx_err *err);
/** A failed or cancelled job goes to the end of the queue. LX_EJOB: it is neither; LX_EAGAIN:
 *  queue full; LX_ESTAGE: a stage that it needs is parked. */
lx_status route_retry(route *r, lx_entry *entry, double now_s, lx_err *err);

/** End a live job that no stage holds, before it is begun. text: why it failed, or "". */
void route_settle(route *r, lx_entry *entry, lx_job_state state, const char *text, double now_s);

/** The launcher is being stopped: what stages still say or how they die changes no job, but that a
 *  clip may be finished. Unfinished jobs stay as they are; the next launcher goes on with them. */
void route_leave(route *r);

/* --- what can be asked ------------------------------------------------------------------------ */

/** The obituary if every replica of this kind is parked, else NULL. Borrowed. */
const char *route_parked(const route *r, lx_stage_kind kind);
/** The job this replica holds, or NULL. */
lx_entry *route_holds(const route *r, lx_stage_kind kind, int replica);
uint64_t route_jobs_done(const route *r, lx_stage_kind kind, int replica);
/** True if a stage that does not move may be waiting for another one: no free slot, no input. */
bool route_may_wait(const route *r, lx_stage_kind kind, int replica);
/** Since when it has no excuse of that kind: job given, input sent or slot given back. */
double route_free_since_s(const route *r, lx_stage_kind kind, int replica);
/** Seconds until the job is done, from recent jobs; -1: unknown. */
double route_left_s(const route *r, const lx_entry *entry, double now_s);

/** Seconds until the next job ends, as far as recent ones tell: when a full queue has room. */
double route_room_s(const route *r, double now_s);

/** Latent elements of a clip over its channels, or 1: what a stage's time grows with. */
double route_work(lx_stage_kind kind, const lx_job *job);

#endif
