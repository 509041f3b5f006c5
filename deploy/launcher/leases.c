/*
 * leases.c - the ledger
 * SPDX-License-Identifier: Apache-2.0
 */
#include "leases.h"

#include <inttypes.h>
#include <stdlib.h>

#include "lx_log.h"

typedef enum member_state { NONE, WAITING, HOLDING, RECALLED } member_state;

typedef struct member {
    bool is_member;
    int card;
    member_state state;
    uint64_t bytes;  /* wanted or held */
    uint64_t number; /* of its request: the lowest is served first */
} member;

struct leases {
    leases_hands hands;
    uint64_t last_number;
    leases_sums card[LX_CARDS_MAX];
    member all[LX_STAGE_COUNT][LX_LIMIT_REPLICAS];
};

lx_status leases_create(leases **out, const plan *p, leases_hands hands, lx_err *err)
{
    leases *l = calloc(1, sizeof *l);
    if (!l)
        return lx_fail(err, LX_EAGAIN, "out of memory for the ledger of leases");
    l->hands = hands;
    for (int i = 0; i < LX_CARDS_MAX; i++)
        l->card[i].capacity = p->card[i].budget;
    for (int i = 0; i < p->n; i++) {
        const plan_process *q = &p->process[i];
        if (q->card < 0 || p->card[q->card].policy != LX_POLICY_ALTERNATE)
            continue;
        l->all[q->kind][q->replica] = (member){.is_member = true, .card = q->card};
        leases_sums *c = &l->card[q->card];
        c->capacity -= q->need.context < c->capacity ? q->need.context : c->capacity;
    }
    *out = l;
    return LX_OK;
}

void leases_destroy(leases **l)
{
    if (!l || !*l)
        return;
    free(*l);
    *l = NULL;
}

static bool is_in_range(lx_stage_kind kind, int replica)
{
    return (unsigned)kind < LX_STAGE_COUNT && replica >= 0 && replica < LX_LIMIT_REPLICAS;
}

bool leases_has(const leases *l, lx_stage_kind kind, int replica)
{
    return is_in_range(kind, replica) && l->all[kind][replica].is_member;
}

/* --- serving ---------------------------------------------------------------------------------- */

typedef struct place {
    lx_stage_kind kind;
    int replica;
    member *m;
} place;

/* The member of this card in this state with the lowest number; false: none. */
static bool first(leases *l, int card, member_state state, place *out)
{
    out->m = NULL;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < LX_LIMIT_REPLICAS; i++) {
            member *m = &l->all[kind][i];
            if (!m->is_member || m->card != card || m->state != state)
                continue;
            if (!out->m || m->number < out->m->number)
                *out = (place){(lx_stage_kind)kind, i, m};
        }
    return out->m != NULL;
}

static uint64_t recalled_bytes(const leases *l, int card)
{
    uint64_t sum = 0;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < LX_LIMIT_REPLICAS; i++) {
            const member *m = &l->all[kind][i];
            if (m->is_member && m->card == card && m->state == RECALLED)
                sum += m->bytes;
        }
    return sum;
}

/* Grants in the order of asking; for the first that must wait, as many holders are asked back as
 * are needed, those that have held longest first. */
static void serve(leases *l, int card)
{
    leases_sums *c = &l->card[card];
    place next, holder;
    while (first(l, card, WAITING, &next)) {
        uint64_t left = c->capacity - c->held; /* held is never more */
        if (next.m->bytes > left)
            break;
        next.m->state = HOLDING;
        next.m->number = ++l->last_number;
        c->held += next.m->bytes;
        c->most = c->held > c->most ? c->held : c->most;
        l->hands.grant(l->hands.self, next.kind, next.replica, next.m->bytes);
    }
    if (!next.m)
        return;
    uint64_t coming = c->capacity - c->held + recalled_bytes(l, card);
    while (coming < next.m->bytes && first(l, card, HOLDING, &holder)) {
        holder.m->state = RECALLED;
        coming += holder.m->bytes;
        l->hands.recall(l->hands.self, holder.kind, holder.replica);
    }
}

static void let_go(leases *l, member *m)
{
    if (m->state == HOLDING || m->state == RECALLED)
        l->card[m->card].held -= m->bytes;
    m->state = NONE;
    m->bytes = 0;
    serve(l, m->card);
}

void leases_ask(leases *l, lx_stage_kind kind, int replica, uint64_t bytes)
{
    if (!leases_has(l, kind, replica) || l->all[kind][replica].state != NONE)
        return;
    member *m = &l->all[kind][replica];
    const leases_sums *c = &l->card[m->card];
    if (bytes > c->capacity) { /* the plan said otherwise: alone on the card it may still go well */
        LX_W("stage=%s replica=%d wants_mib=%.0f of_mib=%.0f: more than was planned",
             lx_stage_kind_name(kind), replica, (double)bytes / 0x1p20,
             (double)c->capacity / 0x1p20);
        bytes = c->capacity;
    }
    *m = (member){.is_member = true,
                  .card = m->card,
                  .state = WAITING,
                  .bytes = bytes,
                  .number = ++l->last_number};
    serve(l, m->card);
}

void leases_given_back(leases *l, lx_stage_kind kind, int replica, uint64_t bytes)
{
    if (!leases_has(l, kind, replica))
        return;
    member *m = &l->all[kind][replica];
    if (m->state != HOLDING && m->state != RECALLED)
        return;
    if (bytes < m->bytes)
        LX_W("stage=%s replica=%d gave back %.0f of %.0f MiB", lx_stage_kind_name(kind), replica,
             (double)bytes / 0x1p20, (double)m->bytes / 0x1p20);
    let_go(l, m);
}

void leases_gone(leases *l, lx_stage_kind kind, int replica)
{
    if (leases_has(l, kind, replica))
        let_go(l, &l->all[kind][replica]);
}

/* --- answers ---------------------------------------------------------------------------------- */

bool leases_waits(const leases *l, lx_stage_kind kind, int replica)
{
    return leases_has(l, kind, replica) && l->all[kind][replica].state == WAITING;
}

leases_sums leases_of_card(const leases *l, int card)
{
    return card >= 0 && card < LX_CARDS_MAX ? l->card[card] : (leases_sums){0};
}
