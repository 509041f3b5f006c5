/*
 * clients_private.h - what clients.c and clients_accept.c share
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLIENTS_PRIVATE_H
#define CLIENTS_PRIVATE_H

#include "clients.h"

#define CLIENTS_BUSY_MS  1000 /* the soonest that one who is refused is told to come again */
#define CLIENTS_PROMISES 256  /* as many messages as the loop takes in one turn */

typedef struct client {
    bool is_used;
    lx_peer peer;
    double seen_s;

    bool is_watching;
    uint64_t watch_req;
    char watched[LX_LIMIT_ID + 1]; /* "" = all jobs */
    int n_lost;

    bool is_listing; /* an answer to QUERY is under way */
    uint64_t list_req;
    bool wants_jobs, wants_stages;
    bool is_one;            /* one job only */
    lx_entry *cursor;       /* next to tell; NULL: jobs are done */
    uint64_t cursor_serial; /* of that entry: it may have been reused */
    int stage_cursor;       /* kind * LX_LIMIT_REPLICAS + replica */
    int link_cursor;
    double moved_s;

    bool is_draining;
    uint64_t drain_req;
} client;

/* An ACCEPTED that waits until the job is safe. */
typedef struct promise {
    lx_peer peer;
    uint64_t req;
    char job[LX_LIMIT_ID + 1];
    int64_t ahead;
    bool is_new;
} promise;

struct clients {
    clients_options o;
    promise promise[CLIENTS_PROMISES];
    int n_promises;
    int n;
    client *client; /* [limits.clients] */
    int n_watching;
    int probe;     /* where the search for a free place goes on */
    double full_s; /* when it last found none */
    lx_msg out;    /* scratch */
    lx_job job;    /* scratch: a request being completed */
    lx_msg abroad; /* scratch: the same for a client on another machine */
};

/* --- clients.c -------------------------------------------------------------------------------- */

/** REFUSED with the status, text and field of `why`. retry_after_ms: told with LX_EAGAIN only. */
void clients_refuse(clients *c, client *x, const lx_msg *to, const lx_err *why,
                    int64_t retry_after_ms);

/* --- clients_accept.c ------------------------------------------------------------------------- */

void clients_on_submit(clients *c, client *x, const lx_msg *msg, double now_s);

/** May this job, if it has ended, live again for this client? If so it is kept (clients_options)
 *  when this returns. LX_EAGAIN: not now; LX_ESTAGE: a stage is parked; LX_ECONFIG: its output is
 *  taken. */
lx_status clients_check_retry(clients *c, const client *x, const lx_entry *e, lx_err *err);
/** From now on the job counts as this peer's. */
void clients_set_owner(lx_entry *e, const lx_peer *peer);

#endif
