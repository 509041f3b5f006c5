/*
 * replica_private.h - what replica.c and replica_talk.c share
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef REPLICA_PRIVATE_H
#define REPLICA_PRIVATE_H

#include <sys/types.h>

#include "leases.h"
#include "lx_device.h"
#include "lx_number.h"
#include "pace.h"
#include "replica.h"

#define REPLICA_DEATHS 5 /* so many in a short time, and it is given up */

typedef enum replica_state {
    REPLICA_IDLE,
    REPLICA_STARTING,
    REPLICA_LOADING,
    REPLICA_READY,
    REPLICA_RESTING,
    REPLICA_PARKED,
    REPLICA_GONE,
    REPLICA_RELEASED
} replica_state;

typedef struct replica {
    lx_stage_kind kind;
    int index;
    replica_state state;
    pid_t pid;    /* 0: no process */
    int lifeline; /* valid while there is a process: closed by our death, it ends */
    uint64_t epoch;
    char token[33];
    lx_peer peer; /* valid from LOADING on */
    lx_number number;
    double started_s, heard_s, moved_s, restart_s;
    uint64_t moved;
    char unit[LX_LIMIT_WORD];
    uint64_t done, total, rss_bytes, peak_bytes, weight_bytes;
    pace pace;
    bool was_ready;      /* this process */
    bool was_ever_ready; /* any of its predecessors */
    bool is_killed, is_told_to_stop;
    double kill_s;        /* told to stop: when patience ends */
    bool is_config_fault; /* parked by exit code 2, or 127 of the loader */
    char kill_why[160];
    int n_rests; /* restarts in a row without having been ready */
    double death_s[REPLICA_DEATHS];
    uint64_t n_deaths;
    char last_words[512];         /* why it cannot start, if it could still say so */
    char obituary[LX_LIMIT_TEXT]; /* of the last death, or "" */
} replica;

struct replicas {
    replicas_options o;
    route *route;   /* borrowed */
    links *links;   /* borrowed; may be NULL */
    leases *leases; /* owned; NULL: nothing was planned */
    uint64_t last_epoch;
    double tick_s, stop_by_s;
    bool is_stopping;
    bool is_released;             /* memory of devices goes back: no process has any */
    int n, first[LX_STAGE_COUNT]; /* where each kind begins in `all` */
    /* Memory files that all replicas of a kind share for their weights; owned, 0: none. They are
     * empty until a stage fills them, and outlive it: a restart finds its weights there. */
    int shared_fd[LX_STAGE_COUNT];
    lx_msg out; /* scratch */
    replica all[LX_STAGE_COUNT * LX_LIMIT_REPLICAS];
};

static inline replica *replica_at(replicas *r, lx_stage_kind kind, int i)
{
    return &r->all[r->first[kind] + i];
}

static inline const replica *replica_look_at(const replicas *r, lx_stage_kind kind, int i)
{
    return &r->all[r->first[kind] + i];
}

static inline int replica_count(const replicas *r, int kind)
{
    return r->o.config->stage[kind].n_replicas;
}

static inline bool replica_is_on_card(const replicas *r, const replica *p)
{
    return lx_device_is_card(r->o.config->stage[p->kind].replica[p->index].device);
}

/* --- replica_talk.c --------------------------------------------------------------------------- */

/** Number and send one message. Statuses as of lx_bus_send. */
lx_status replica_say(replicas *r, replica *p, const lx_msg *msg, lx_err *err);

/** The ledgers of the planned cards, which speak through us; without a plan none. */
lx_status replicas_open_leases(replicas *r, lx_err *err);

/** NULL if all is well, else `why`, in words: silent, or no progress. Lowers *due_s to when it must
 *  be looked at again. */
const char *replica_check_alive(const replicas *r, const replica *p, double now_s, double *due_s,
                                char why[160]);
/** If this process did not run for a while, messages wait unread and nobody else is late. */
void replicas_forgive(replicas *r, double now_s);

#endif
