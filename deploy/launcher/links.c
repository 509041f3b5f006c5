/*
 * links.c - tests of the links between stages
 * SPDX-License-Identifier: Apache-2.0
 */
#include "links.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_log.h"
#include "lx_share.h"
#include "text.h"

#define LINKS_MAX ((LX_STAGE_COUNT - 1) * LX_LIMIT_REPLICAS * LX_LIMIT_REPLICAS)
#define PATIENCE  10.0 /* s; a test takes milliseconds, and its ends may be at work */
#define SEEDS     UINT64_C(0x5851f42d4c957f2d) /* odd: seeds of one start all differ */
#define SEED_MASK ((UINT64_C(1) << 59) - 1)    /* what a message can carry */

typedef enum link_state { LINK_UNTESTED, LINK_ASKED, LINK_TESTING, LINK_KNOWN } link_state;

typedef struct link {
    lx_stage_kind from; /* the borrower is of the next kind */
    int lender, borrower;
    link_state state;
    double since_s; /* when both ends were up */
    uint64_t seed;
    lx_ticket ticket; /* TESTING: what is to be retired */
    lx_transport transport;
    double ms;
    char text[LX_LIMIT_TEXT];
} link;

struct links {
    links_options o;
    uint64_t n_seeds;
    uint64_t epoch[LX_STAGE_COUNT][LX_LIMIT_REPLICAS]; /* 0: not up */
    lx_msg out;                                        /* scratch */
    char refused[LX_LIMIT_TEXT + 64];
    int n;
    link link[LINKS_MAX];
};

lx_status links_create(links **out, const links_options *options, lx_err *err)
{
    links *l = calloc(1, sizeof *l);
    if (!l)
        return lx_fail(err, LX_EAGAIN, "table of links: out of memory");
    l->o = *options;
    for (int kind = 0; kind + 1 < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < options->config->stage[kind].n_replicas; i++)
            for (int k = 0; k < options->config->stage[kind + 1].n_replicas; k++)
                l->link[l->n++] = (link){.from = (lx_stage_kind)kind, .lender = i, .borrower = k};
    *out = l;
    return LX_OK;
}

void links_destroy(links **l)
{
    if (!l || !*l)
        return;
    free(*l);
    *l = NULL;
}

static lx_stage_kind to_of(const link *x)
{
    return (lx_stage_kind)(x->from + 1);
}

static uint64_t lender_epoch(const links *l, const link *x)
{
    return l->epoch[x->from][x->lender];
}

static bool is_up(const links *l, const link *x)
{
    return lender_epoch(l, x) && l->epoch[to_of(x)][x->borrower];
}

static void tell(links *l, lx_stage_kind kind, int replica)
{
    if (!l->o.send(l->o.self, kind, replica, &l->out))
        l->o.kill(l->o.self, kind, replica, "it does not read its messages");
}

static void retire(links *l, lx_stage_kind kind, int replica, uint64_t serial)
{
    l->out = (lx_msg){.kind = LX_MSG_RETIRE, .u.lease.serial = serial};
    tell(l, kind, replica);
}

/* --- log ------------------------------------------------------------------------------------- */

static void name_of(const link *x, char *text, size_t bytes)
{
    snprintf(text, bytes, "link %s#%d -> %s#%d", lx_stage_kind_name(x->from), x->lender,
             lx_stage_kind_name(to_of(x)), x->borrower);
}

static void say(const link *x)
{
    char name[64];
    name_of(x, name, sizeof name);
    if (x->transport == LX_TRANSPORT_NONE)
        LX_E("%s: no transport works: %s", name, x->text);
    else if (x->text[0])
        LX_W("%s: %s %.2f ms; %s", name, lx_transport_text(x->transport), x->ms, x->text);
    else
        LX_I("%s: %s %.2f ms", name, lx_transport_text(x->transport), x->ms);
}

/* --- processes ------------------------------------------------------------------------------- */

void links_up(links *l, lx_stage_kind kind, int replica, uint64_t epoch, double now_s)
{
    l->epoch[kind][replica] = epoch;
    for (int i = 0; i < l->n; i++) {
        link *x = &l->link[i];
        if ((x->from == kind && x->lender == replica) ||
            (to_of(x) == kind && x->borrower == replica))
            x->since_s = now_s;
    }
}

void links_down(links *l, lx_stage_kind kind, int replica)
{
    for (int i = 0; i < l->n; i++) {
        link *x = &l->link[i];
        bool is_lender = x->from == kind && x->lender == replica;
        bool is_borrower = to_of(x) == kind && x->borrower == replica;
        if (!is_lender && !is_borrower)
            continue;
        if (is_borrower && x->state == LINK_TESTING)
            retire(l, x->from, x->lender, x->ticket.serial);
        x->state = LINK_UNTESTED;
        x->transport = LX_TRANSPORT_NONE;
        x->seed = 0;
        x->text[0] = 0;
    }
    l->epoch[kind][replica] = 0;
}

/* --- tests ----------------------------------------------------------------------------------- */

/* A lender has one slot for tests, and a borrower's times shall be its own. */
static bool is_testing(const links *l, const link *x)
{
    for (int i = 0; i < l->n; i++) {
        const link *y = &l->link[i];
        bool is_under_way = y->state == LINK_ASKED || y->state == LINK_TESTING;
        if (is_under_way && y->from == x->from &&
            (y->lender == x->lender || y->borrower == x->borrower))
            return true;
    }
    return false;
}

void links_pump(links *l)
{
    for (int i = 0; i < l->n; i++) {
        link *x = &l->link[i];
        if (x->state != LINK_UNTESTED || !is_up(l, x) || is_testing(l, x))
            continue;
        x->state = LINK_ASKED;
        do
            x->seed = ++l->n_seeds * SEEDS & SEED_MASK;
        while (!x->seed);
        l->out = (lx_msg){.kind = LX_MSG_LINK_ASK, .u.link.seed = x->seed};
        tell(l, x->from, x->lender);
    }
}

static void settle(link *x, lx_transport transport, double ms, const char *text)
{
    x->state = LINK_KNOWN;
    x->transport = transport;
    x->ms = ms;
    text_put(x->text, sizeof x->text, text);
    say(x);
}

static void on_lent(links *l, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    const lx_ticket *ticket = &msg->u.link.ticket;
    if (ticket->serial && !lx_share_ticket_is_of(ticket, l->o.instance, l->epoch[kind][replica])) {
        l->o.kill(l->o.self, kind, replica, "it sent a ticket that it cannot have made");
        return;
    }
    for (int i = 0; i < l->n; i++) {
        link *x = &l->link[i];
        if (x->from != kind || x->lender != replica || x->state != LINK_ASKED ||
            x->seed != msg->u.link.seed)
            continue;
        if (!ticket->serial) {
            settle(x, LX_TRANSPORT_NONE, 0, msg->u.link.text);
            return;
        }
        x->state = LINK_TESTING;
        x->ticket = *ticket;
        l->out = (lx_msg){.kind = LX_MSG_LINK_TEST, .u.link.seed = x->seed};
        l->out.u.link.ticket = *ticket;
        tell(l, to_of(x), x->borrower);
        return;
    }
    if (ticket->serial) /* the borrower died meanwhile */
        retire(l, kind, replica, ticket->serial);
}

static void on_result(links *l, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    for (int i = 0; i < l->n; i++) {
        link *x = &l->link[i];
        if (to_of(x) != kind || x->borrower != replica ||
            lender_epoch(l, x) != msg->u.link.ticket.epoch || !lender_epoch(l, x))
            continue;
        lx_transport transport = (lx_transport)msg->u.link.transport;
        if (!msg->u.link.seed && x->state == LINK_KNOWN) { /* it failed in a job */
            settle(x, transport, x->ms, msg->u.link.text);
            return;
        }
        if (msg->u.link.seed && x->state == LINK_TESTING && x->seed == msg->u.link.seed) {
            retire(l, x->from, x->lender, x->ticket.serial);
            settle(x, transport, msg->u.link.ms, msg->u.link.text);
            return;
        }
    }
}

void links_message(links *l, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    if (msg->kind == LX_MSG_LINK_LENT)
        on_lent(l, kind, replica, msg);
    else if (msg->kind == LX_MSG_LINK_RESULT)
        on_result(l, kind, replica, msg);
}

/* --- answers --------------------------------------------------------------------------------- */

bool links_settled(const links *l, double now_s)
{
    for (int i = 0; i < l->n; i++) {
        const link *x = &l->link[i];
        if (is_up(l, x) && x->state != LINK_KNOWN && now_s - x->since_s < PATIENCE)
            return false;
    }
    return true;
}

const char *links_refused(links *l)
{
    for (int i = 0; i < l->n; i++) {
        const link *x = &l->link[i];
        char name[64];
        if (x->state != LINK_KNOWN || x->transport != LX_TRANSPORT_NONE)
            continue;
        name_of(x, name, sizeof name);
        text_format(l->refused, sizeof l->refused, "%s: %s (links.transport in config.yaml)", name,
                    x->text);
        return l->refused;
    }
    return NULL;
}

int links_count(const links *l)
{
    return l->n;
}

void links_info(const links *l, int i, lx_msg *out)
{
    const link *x = &l->link[i];
    *out = (lx_msg){.kind = LX_MSG_LINK_INFO};
    out->u.link_info.from = (int32_t)x->from;
    out->u.link_info.from_replica = x->lender;
    out->u.link_info.to = (int32_t)to_of(x);
    out->u.link_info.to_replica = x->borrower;
    out->u.link_info.transport = (int32_t)x->transport;
    out->u.link_info.is_tested = x->state == LINK_KNOWN;
    out->u.link_info.ms = x->ms;
    text_put(out->u.link_info.text, sizeof out->u.link_info.text, x->text);
}
