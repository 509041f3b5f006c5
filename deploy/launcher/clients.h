/*
 * clients.h - answers to people's programs
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      SUBMIT, QUERY, WATCH and COMMAND from the client bus; events to watchers.
 * Promise   Nobody waits for a client: one that does not read loses events, then its listing, then
 *           its place. Memory is fixed: limits.clients places; the next one is told to come later.
 *           Progress of one job is told at most ten times a second, changes of state at once.
 * Threads   The launcher's one thread.
 * Tests     tests/launcher/test_clients.c, tests/pipeline
 */
#ifndef CLIENTS_H
#define CLIENTS_H

#include "lx_bus.h"
#include "lx_config.h"
#include "replica.h"
#include "route.h"

typedef struct clients clients;

/* What people decided about the whole service; launcher.c acts on it. */
typedef struct service_mode {
    bool is_paused, is_draining, is_stopping;
    bool is_released; /* paused, and stages give device memory back */
} service_mode;

typedef struct clients_options {
    const lx_config *config; /* borrowed for the object's life, like all below */
    lx_jobs *jobs;
    route *route;
    const replicas *replicas;
    const links *links; /* may be NULL */
    service_mode *mode;
    /* Sends one message; false: the peer is gone, or (is_full) does not read. */
    bool (*send)(void *self, const lx_peer *peer, const lx_msg *msg, bool *is_full);
    /* Makes sure that an accepted job survives, and whose it is (lx_entry.key): at the latest when
     * clients_kept is called, with is_again (a retry) at once. LX_EAGAIN: cannot be, so it is
     * refused. NULL: nobody does. */
    lx_status (*keep)(void *self, const lx_job *job, uint64_t key, bool has_drawn_seed,
                      bool is_again, lx_err *err);
    void *self;
} clients_options;

lx_status clients_create(clients **out, const clients_options *options, lx_err *err);
void clients_destroy(clients **c);

void clients_message(clients *c, const lx_peer *peer, const lx_msg *msg, double now_s);

/** Everything that `keep` was told is safe now: answers that waited for it go out. */
void clients_kept(clients *c);

/** Something about a job changed: tell its watchers now (new_state) or soon. */
void clients_news(clients *c, lx_entry *entry, bool new_state, double now_s);

/** Events that are due, listings that go on, drains that are over. Returns when to call again,
 *  monotonic seconds. */
double clients_tick(clients *c, double now_s);

/** "running", "paused", "draining", "degraded", "stopping" */
const char *clients_service_state(const clients *c);

#endif
