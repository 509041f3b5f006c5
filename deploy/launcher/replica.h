/*
 * replica.h - the stage processes: started, watched, restarted, stopped
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Owns every stage process. Speaks with them over the stage bus, notices death and hangs,
 *           and tells route what became of whom.
 * Promise   One for one: a dead stage is restarted alone; at once if it had been ready, else after
 *           1, 2, 4 ... 32 s. Five deaths in 60 s, or exit code 2, and it is parked. No word for
 *           three beats, or no progress beyond pace.h's limit, is a death. When the launcher itself
 *           was late, nobody is blamed.
 * Threads   The launcher's main thread: PDEATHSIG watches the thread that forks.
 * Tests     tests/pipeline
 *
 *   IDLE -> STARTING --hello--> LOADING --ready--> READY
 *             ^ |                  |                 |      death from any of them:
 *             | +------------------+-----------------+----> RESTING (back-off) -> STARTING
 *             |                                             PARKED  (given up)
 *             +---- due ---- RESTING                        GONE    (we are stopping)
 *                                                           RELEASED (its memory is wanted back)
 */
#ifndef REPLICA_H
#define REPLICA_H

#include "links.h"
#include "lx_bus.h"
#include "lx_config.h"
#include "plan.h"
#include "route.h"
#include "state_dir.h"

typedef struct replicas replicas;

typedef struct replicas_options {
    const lx_config *config; /* borrowed for the object's life, like all below */
    const int *config_fd;    /* the same for processes that start; 0: they read the file */
    const plan *plan;        /* what each may take; NULL: nothing was planned */
    const char *binary_dir;  /* where lx2v-STAGE lies */
    const char *endpoint;    /* of the stage bus */
    const state_dir *dir;
    lx_bus *bus;
} replicas_options;

lx_status replicas_create(replicas **out, const replicas_options *options, lx_err *err);
void replicas_destroy(replicas **r); /* kills what is left and waits for it */
/** Who hears of deaths and messages; borrowed. Before replicas_start. */
void replicas_set_route(replicas *r, struct route *to);
/** Likewise; without, links are not tested. */
void replicas_set_links(replicas *r, links *to);

void replicas_start(replicas *r, double now_s);
/** One message from the stage bus. */
void replicas_message(replicas *r, const lx_peer *peer, const lx_msg *msg, double now_s);
/** After SIGCHLD: find who died. */
void replicas_reap(replicas *r, double now_s);
/** Beats, hangs, restarts, stopping. Returns when to call again, monotonic seconds. */
double replicas_tick(replicas *r, double now_s);

/** Stages that have memory of a card (where there is none: of the host) end as soon as they hold no
 *  job, and stay away until this is taken back. Call when no job is under way. */
void replicas_release(replicas *r, bool is_released);

/** Stop in the order of the data's way; after stop_s whoever is left is killed. */
void replicas_stop(replicas *r, double now_s);
void replicas_kill_all(replicas *r);
bool replicas_all_gone(const replicas *r);

/* For route: false if the process cannot take the message. kill is harmless when asked twice. */
bool replicas_send(replicas *r, lx_stage_kind kind, int replica, const lx_msg *msg);
void replicas_kill(replicas *r, lx_stage_kind kind, int replica, const char *why);

bool replicas_all_ready(const replicas *r);
bool replicas_any_parked(const replicas *r);
/** The obituary of a kind whose replicas were all parked by exit code 2 before any was ever ready,
 *  else NULL: there is nothing to launch. Borrowed. */
const char *replicas_hopeless(const replicas *r);

/** Fill a STAGE_INFO. */
void replicas_info(const replicas *r, lx_stage_kind kind, int replica, lx_msg *out);
/** Bytes loaded of the replica of this kind that is furthest; false if none is loading. */
bool replicas_loading(const replicas *r, lx_stage_kind kind, uint64_t *done, uint64_t *total);

#endif
