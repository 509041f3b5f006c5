/*
 * clients_accept.c - which jobs are accepted, and answers that wait until they are safe
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <string.h>

#include "clients_private.h"
#include "journal.h"
#include "lx_hash.h"
#include "lx_log.h"
#include "submit.h"

#define DRAINING_MS 5000
#define ROOM_MAX_MS 3600000

/* --- who may ---------------------------------------------------------------------------------- */

static lx_status is_open(const clients *c, lx_err *err)
{
    if (c->o.mode->is_stopping)
        return lx_fail(err, LX_EAGAIN, "the launcher is stopping");
    if (c->o.mode->is_draining)
        return lx_fail(err, LX_EAGAIN,
                       "the launcher accepts no more jobs (drain); resume it first");
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        const char *why = route_parked(c->o.route, (lx_stage_kind)kind);
        if (why)
            return lx_fail(err, LX_ESTAGE, "stage %s is parked: %s",
                           lx_stage_kind_name((lx_stage_kind)kind), why);
    }
    return LX_OK;
}

/* Whose jobs count together: those of a key, however often its owner connects; on this machine,
 * where all are the same user, those of a connection, by its name. Never 0. */
static uint64_t owner_of(const lx_peer *peer)
{
    if (peer->key)
        return peer->key;
    return lx_hash_add(LX_HASH_START, peer->id, peer->n) | 1;
}

void clients_set_owner(lx_entry *e, const lx_peer *peer)
{
    e->owner = owner_of(peer);
    e->key = peer->key;
}

/* One client must not take all places; asked only where the limit says anything. */
static lx_status check_share(const clients *c, uint64_t owner, lx_err *err)
{
    int32_t most = c->o.config->limits.per_client;
    if (most >= c->o.config->limits.queue || lx_jobs_live_of(c->o.jobs, owner) < most)
        return LX_OK;
    return lx_fail(err, LX_EAGAIN, "%d jobs of yours have not ended (limits.per_client)", most);
}

/* --- submit ----------------------------------------------------------------------------------- */

/* The rest of a submission, for an id that is not known. */
static lx_status accept_new(clients *c, const lx_peer *peer, lx_job *job, lx_entry **out,
                            double now_s, lx_err *err)
{
    lx_status status = is_open(c, err);
    if (status == LX_OK)
        status = submit_check_output(job, c->o.config, err);
    if (status == LX_OK)
        status = submit_check_space(job, c->o.config, true, err);
    if (status == LX_OK)
        status = check_share(c, owner_of(peer), err);
    if (status != LX_OK)
        return status;
    const lx_entry *other = lx_jobs_find_output(c->o.jobs, job->output);
    if (other)
        return lx_fail(err, LX_ECONFIG, "output: %s is being written by job %s", job->output,
                       other->job->id);
    bool is_drawn = job->seed == LX_SEED_DRAW;
    if (is_drawn)
        status = submit_draw_seed(job, err);
    if (status == LX_OK)
        status = lx_jobs_has_room(c->o.jobs, err);
    if (status == LX_OK && c->o.keep)
        status = c->o.keep(c->o.self, job, peer->key, is_drawn, false, err);
    if (status == LX_OK)
        status = lx_jobs_add(c->o.jobs, job, now_s, out, err);
    if (status == LX_OK) {
        (*out)->has_drawn_seed = is_drawn;
        clients_set_owner(*out, peer);
        (*out)->submit_wall_us = journal_wall_us();
    }
    return status;
}

static void tell_promise(clients *c, const promise *p)
{
    const lx_entry *e = lx_jobs_find(c->o.jobs, p->job);
    bool is_full;
    if (!e)
        return; /* so many jobs have ended meanwhile that it is forgotten; asking again tells so */
    lx_msg *msg = &c->out;
    *msg = (lx_msg){.kind = LX_MSG_ACCEPTED, .req = p->req};
    memcpy(msg->job, e->job->id, sizeof msg->job);
    msg->u.accepted.seed = e->job->seed;
    msg->u.accepted.ahead = p->ahead;
    msg->u.accepted.is_new = p->is_new;
    memcpy(msg->u.accepted.output, e->job->output, sizeof msg->u.accepted.output);
    c->o.send(c->o.self, &p->peer, msg, &is_full);
}

/* Also what is accepted already may not be safe yet: its first answer waits as well. */
static void accepted(clients *c, const client *x, const lx_msg *to, const lx_entry *e, bool is_new)
{
    promise p = {.peer = x->peer,
                 .req = to->req,
                 .ahead = is_new ? lx_jobs_live(c->o.jobs) - 1 : 0,
                 .is_new = is_new};
    memcpy(p.job, e->job->id, sizeof p.job);
    if (c->o.keep && c->n_promises < CLIENTS_PROMISES)
        c->promise[c->n_promises++] = p;
    else if (!c->o.keep)
        tell_promise(c, &p);
    /* else: more than the loop can have brought; the client asks again */
}

void clients_kept(clients *c)
{
    for (int i = 0; i < c->n_promises; i++)
        tell_promise(c, &c->promise[i]);
    c->n_promises = 0;
}

/* Names of memory go between stages only. */
static lx_status has_no_ticket(const lx_ticket *ticket, lx_err *err)
{
    if (!ticket->serial && !ticket->epoch && !ticket->name[0] && !ticket->bytes)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "ticket: a client lends nothing");
}

/* When to come back to a full queue: once the next job is expected to end. */
static int64_t room_ms(const clients *c, double now_s)
{
    double ms = route_room_s(c->o.route, now_s) * 1e3;
    return ms < CLIENTS_BUSY_MS ? CLIENTS_BUSY_MS : ms > ROOM_MAX_MS ? ROOM_MAX_MS : (int64_t)ms;
}

void clients_on_submit(clients *c, client *x, const lx_msg *msg, double now_s)
{
    lx_err why = {0};
    lx_entry *e = NULL;
    c->job = msg->u.work.job;
    lx_status status = has_no_ticket(&msg->u.work.ticket, &why);
    if (status == LX_OK)
        status = submit_fill(&c->job, c->o.config, &why);
    if (status == LX_OK)
        status = submit_check(&c->job, c->o.config, &why);
    if (status == LX_OK)
        e = lx_jobs_find(c->o.jobs, c->job.id);
    bool is_new = !e;
    if (status == LX_OK && e && !submit_is_same(e, &c->job))
        status = lx_fail(&why, LX_ECONFIG, "id: job %s exists with other content; choose another",
                         c->job.id);
    else if (status == LX_OK && is_new)
        status = accept_new(c, &x->peer, &c->job, &e, now_s, &why);
    if (status != LX_OK || !e) {
        clients_refuse(c, x, msg, &why, c->o.mode->is_draining ? DRAINING_MS : room_ms(c, now_s));
        return;
    }
    accepted(c, x, msg, e, is_new);
    if (!is_new)
        return;
    /* Never the prompt itself: its length. */
    LX_I("job=%s accepted size=%dx%d frames=%d steps=%d prompt_bytes=%zu seed=%" PRId64
         " output=%s",
         e->job->id, e->job->width, e->job->height, e->job->frames, e->job->n_steps,
         strlen(e->job->prompt), e->job->seed, e->job->output);
    clients_news(c, e, true, now_s);
}

/* --- again ------------------------------------------------------------------------------------ */

lx_status clients_check_retry(clients *c, const client *x, const lx_entry *e, lx_err *err)
{
    lx_status status = is_open(c, err);
    if (status != LX_OK || e->list != LX_LIST_ENDED)
        return status;
    const lx_entry *other = lx_jobs_find_output(c->o.jobs, e->job->output);
    if (other)
        return lx_fail(err, LX_ECONFIG, "output: %s is being written by job %s", e->job->output,
                       other->job->id);
    if (e->state == LX_JOB_DONE)
        return LX_OK; /* route says why not */
    status = check_share(c, owner_of(&x->peer), err);
    if (status == LX_OK)
        status = lx_jobs_has_room(c->o.jobs, err);
    if (status == LX_OK && c->o.keep)
        status = c->o.keep(c->o.self, e->job, x->peer.key, e->has_drawn_seed, true, err);
    return status;
}
