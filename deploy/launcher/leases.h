/*
 * leases.h - who holds a card's memory, where its stages take turns
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The ledger of each card whose policy is `alternate`: bytes that are promised, bytes
 *           that are held, bytes that were really given back. A stage asks before it takes its
 *           arena; when another one waits, holders are asked to give theirs back after the job they
 *           are in. It speaks through two callbacks and knows no process and no clock.
 * Promise   What is held never exceeds the card's budget less what every process keeps for itself
 *           (its context). Whoever asked first is served first, so nobody starves: a later and
 *           smaller request does not overtake. A dead holder's bytes are free.
 * Assumes   A holder that is asked back needs nothing from a waiting one to end its job: a stage
 *           waits for a slot to lend from *before* it asks (common/lx_stage_lease.c).
 * Threads   The launcher's one thread.
 * Tests     tests/launcher/test_leases.c
 *
 *   NONE --ask--> WAITING --grant--> HOLDING --(asked back)--> RECALLED
 *    ^                                  |                          |
 *    +------------- given back, or its process is gone -----------+
 */
#ifndef LEASES_H
#define LEASES_H

#include "plan.h"

typedef struct leases leases;

/* Neither may call back. */
typedef struct leases_hands {
    void (*grant)(void *self, lx_stage_kind kind, int replica, uint64_t bytes);
    void (*recall)(void *self, lx_stage_kind kind, int replica);
    void *self; /* borrowed for the ledger's life */
} leases_hands;

/** The cards of this plan; one whose stages overlap has no ledger. */
lx_status leases_create(leases **out, const plan *p, leases_hands hands, lx_err *err);
void leases_destroy(leases **l);

/** Does this replica take turns? */
bool leases_has(const leases *l, lx_stage_kind kind, int replica);

/** It wants so many bytes; asked twice is asked once. */
void leases_ask(leases *l, lx_stage_kind kind, int replica, uint64_t bytes);
/** It gave its memory back to the card; this is what it says it was. */
void leases_given_back(leases *l, lx_stage_kind kind, int replica, uint64_t bytes);
/** Its process is gone, and with it whatever it held or wanted. */
void leases_gone(leases *l, lx_stage_kind kind, int replica);

bool leases_waits(const leases *l, lx_stage_kind kind, int replica);
/** Of one card: held now, at most so far, and what may be held. */
typedef struct leases_sums {
    uint64_t held, most, capacity;
} leases_sums;
leases_sums leases_of_card(const leases *l, int card);

#endif
