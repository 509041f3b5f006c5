/*
 * replica_talk.c - what is said between launcher and stages, and how long one may be silent
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "lx_log.h"
#include "lx_process.h"
#include "replica_private.h"
#include "text.h"

#define BEATS_MISSED 3
#define HELLO_S      30.0 /* exec and dynamic linking from a cold disk */
/* Loading has no time limit, but a disk that gives nothing for that many hang_s is gone. */
#define LOAD_FACTOR 10
#define LATE_S      1.0 /* the loop wakes several times a second */

lx_status replica_say(replicas *r, replica *p, const lx_msg *msg, lx_err *err)
{
    r->out = *msg;
    return lx_number_send(&p->number, r->o.bus, &p->peer, &r->out, err);
}

/* --- turns on a card -------------------------------------------------------------------------- */

/* The ledger's hands: also a stage that is still loading may be told. */
static void tell_of_lease(replicas *r, lx_stage_kind kind, int i, lx_msg_kind what, uint64_t bytes)
{
    replica *p = replica_at(r, kind, i);
    lx_msg msg = {.kind = what};
    lx_err err = {0};
    msg.u.arena.bytes = bytes;
    if (p->pid > 0 && (p->state == REPLICA_LOADING || p->state == REPLICA_READY) &&
        replica_say(r, p, &msg, &err) != LX_OK)
        replicas_kill(r, kind, i, "it takes no messages");
}

static void grant_lease(void *self, lx_stage_kind kind, int i, uint64_t bytes)
{
    replica_at(self, kind, i)->moved_s = lx_now_s(); /* what it waited is no hang */
    tell_of_lease(self, kind, i, LX_MSG_LEASE, bytes);
}

static void recall_lease(void *self, lx_stage_kind kind, int i)
{
    tell_of_lease(self, kind, i, LX_MSG_RELEASE, 0);
}

lx_status replicas_open_leases(replicas *r, lx_err *err)
{
    const leases_hands hands = {.grant = grant_lease, .recall = recall_lease, .self = r};
    return r->o.plan ? leases_create(&r->leases, r->o.plan, hands, err) : LX_OK;
}

/* --- messages --------------------------------------------------------------------------------- */

static bool same_peer(const lx_peer *a, const lx_peer *b)
{
    return a->n == b->n && memcmp(a->id, b->id, a->n) == 0;
}

static void on_hello(replicas *r, const lx_peer *peer, const lx_msg *msg, double now_s)
{
    int kind = msg->u.hello.stage, i = msg->u.hello.replica;
    replica *p = NULL;
    if (kind >= 0 && kind < LX_STAGE_COUNT && i >= 0 && i < replica_count(r, kind))
        p = replica_at(r, (lx_stage_kind)kind, i);
    if (!p || p->state != REPLICA_STARTING || p->is_killed || msg->u.hello.epoch != p->epoch ||
        strcmp(msg->u.hello.token, p->token) || msg->u.hello.pid != p->pid) {
        LX_W("hello refused: not a stage that was started here and now");
        return;
    }
    if (strcmp(msg->u.hello.version, LX2V_VERSION)) {
        char why[160];
        text_format(why, sizeof why,
                    "it is version %s, this launcher is " LX2V_VERSION ": install them together",
                    msg->u.hello.version);
        replicas_kill(r, p->kind, p->index, why);
        return;
    }
    explicit_bzero(p->token, sizeof p->token); /* good for one hello */
    p->token[0] = '-';
    p->peer = *peer;
    p->number.heard = msg->req; /* a beat may have come before, from nobody that was known */
    p->state = REPLICA_LOADING;
    p->heard_s = p->moved_s = now_s;
}

static void on_ready(replicas *r, replica *p, const lx_msg *msg, double now_s)
{
    if (p->state != REPLICA_LOADING)
        return;
    p->state = REPLICA_READY;
    p->was_ready = p->was_ever_ready = true;
    p->n_rests = 0;
    p->weight_bytes = msg->u.ready.weight_bytes;
    p->unit[0] = 0; /* what was loaded is no work of a job */
    p->done = p->total = 0;
    p->moved_s = now_s;
    LX_I("stage=%s replica=%d ready load_s=%.2f weights_mib=%.1f arena_mib=%.1f weights_id=%s",
         lx_stage_kind_name(p->kind), p->index, msg->u.ready.load_s,
         (double)p->weight_bytes / 0x1p20, (double)msg->u.ready.arena_bytes / 0x1p20,
         msg->u.ready.weights_id[0] ? msg->u.ready.weights_id : "-");
    route_up(r->route, p->kind, p->index, p->epoch);
    if (r->links)
        links_up(r->links, p->kind, p->index, p->epoch, now_s);
}

static void on_beat(replicas *r, replica *p, const lx_msg *msg, double now_s)
{
    const lx_entry *e = route_holds(r->route, p->kind, p->index);
    if (msg->u.beat.moved != p->moved) {
        double since = route_free_since_s(r->route, p->kind, p->index);
        double from = p->moved_s > since ? p->moved_s : since;
        if (p->state == REPLICA_READY && e && msg->u.beat.moved > p->moved)
            pace_note(&p->pace, (now_s - from) / (double)(msg->u.beat.moved - p->moved),
                      pace_work(p->kind, e->job));
        p->moved = msg->u.beat.moved;
        p->moved_s = now_s;
    }
    memcpy(p->unit, msg->u.beat.unit, sizeof p->unit);
    p->done = msg->u.beat.done;
    p->total = msg->u.beat.total;
    p->rss_bytes = msg->u.beat.rss_bytes;
    p->peak_bytes = msg->u.beat.peak_bytes;
}

static void on_lease(replicas *r, const replica *p, const lx_msg *msg)
{
    if (!r->leases)
        return;
    if (msg->kind == LX_MSG_LEASE)
        leases_ask(r->leases, p->kind, p->index, msg->u.arena.bytes);
    else
        leases_given_back(r->leases, p->kind, p->index, msg->u.arena.bytes);
}

void replicas_message(replicas *r, const lx_peer *peer, const lx_msg *msg, double now_s)
{
    if (msg->kind == LX_MSG_HELLO) {
        on_hello(r, peer, msg, now_s);
        return;
    }
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        if (p->pid <= 0 || p->state < REPLICA_LOADING || p->state > REPLICA_READY ||
            !same_peer(&p->peer, peer))
            continue;
        lx_heard heard = lx_number_hear(&p->number, msg);
        if (heard == LX_HEARD_GAP)
            replicas_kill(r, p->kind, p->index, "a message of it is missing");
        if (heard != LX_HEARD_NEXT)
            return;
        p->heard_s = now_s; /* any message counts as a beat */
        if (msg->kind == LX_MSG_BEAT)
            on_beat(r, p, msg, now_s);
        if (msg->kind == LX_MSG_FAILED && p->state == REPLICA_LOADING)
            text_put(p->last_words, sizeof p->last_words, msg->u.failed.text);
        if (msg->kind == LX_MSG_READY)
            on_ready(r, p, msg, now_s);
        else if (msg->kind == LX_MSG_LEASE || msg->kind == LX_MSG_RELEASE)
            on_lease(r, p, msg);
        else if (p->state == REPLICA_READY && r->links &&
                 (msg->kind == LX_MSG_LINK_LENT || msg->kind == LX_MSG_LINK_RESULT))
            links_message(r->links, p->kind, p->index, msg);
        else if (p->state == REPLICA_READY)
            route_message(r->route, p->kind, p->index, msg, now_s);
        return;
    }
    LX_D("message %s from nobody that is known", lx_msg_kind_name(msg->kind));
}

bool replicas_send(replicas *r, lx_stage_kind kind, int replica_index, const lx_msg *msg)
{
    replica *p = replica_at(r, kind, replica_index);
    lx_err err = {0};
    if (p->state != REPLICA_READY || p->is_killed)
        return true; /* on its way out: its death will be told */
    if (replica_say(r, p, msg, &err) == LX_OK)
        return true;
    LX_W("stage=%s replica=%d %s", lx_stage_kind_name(kind), replica_index, err.message);
    return false;
}

/* --- watching --------------------------------------------------------------------------------- */

static double unit_limit_s(const replicas *r, const replica *p, const lx_entry *e)
{
    const lx_config *c = r->o.config;
    /* `total` may count all steps of the DiT; a pass is one of them. */
    uint64_t pass = p->kind == LX_STAGE_DIT && e->job->n_steps > 0
                        ? p->total / (uint64_t)e->job->n_steps
                        : p->total;
    const plan_process *planned = r->o.plan ? plan_of(r->o.plan, p->kind, p->index) : NULL;
    double step_s =
        planned ? fmax(planned->compute_s, fmax(planned->stream_s, planned->disk_s)) : 0;
    pace_guess guess = {.planned_s = pass > 0 ? step_s / (double)pass : 0,
                        .slowest_s =
                            pace_predicted_s(p->kind, e->job, p->weight_bytes, pass, c->vae.chunk),
                        .is_card = replica_is_on_card(r, p)};
    return pace_limit_s(&p->pace, c->supervision.hang_s, guess, pace_work(p->kind, e->job));
}

const char *replica_check_alive(const replicas *r, const replica *p, double now_s, double *due_s,
                                char why[160])
{
    const lx_config *c = r->o.config;
    double silent_by = p->state == REPLICA_STARTING
                           ? p->started_s + HELLO_S
                           : p->heard_s + BEATS_MISSED * c->supervision.beat_s;
    double stuck_by = HUGE_VAL, moved_s = p->moved_s;
    const lx_entry *e = route_holds(r->route, p->kind, p->index);
    if (r->leases && leases_waits(r->leases, p->kind, p->index)) {
        stuck_by = HUGE_VAL; /* others have the card; they are watched themselves */
    } else if (p->state == REPLICA_LOADING) {
        stuck_by = moved_s + LOAD_FACTOR * c->supervision.hang_s;
    } else if (p->state == REPLICA_READY && e && !route_may_wait(r->route, p->kind, p->index)) {
        moved_s = fmax(moved_s, route_free_since_s(r->route, p->kind, p->index));
        stuck_by = moved_s + unit_limit_s(r, p, e);
    }
    double by = silent_by < stuck_by ? silent_by : stuck_by;
    if (by < *due_s)
        *due_s = by;
    if (now_s < by)
        return NULL;
    if (silent_by <= now_s)
        snprintf(why, 160, "no word for %.1f s", now_s - p->heard_s);
    else
        snprintf(why, 160, "no progress for %.1f s", now_s - moved_s);
    return why;
}

void replicas_forgive(replicas *r, double now_s)
{
    double late = now_s - r->tick_s;
    r->tick_s = now_s;
    if (late < LATE_S)
        return;
    LX_W("the launcher was away for %.1f s", late);
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        p->heard_s += late;
        p->moved_s += late;
        p->started_s += late;
    }
}
