/*
 * world.h - a route with nothing around it: what it sends is written down, nobody answers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WORLD_H
#define WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "route.h"

#define INSTANCE "00112233445566778899aabbccddeeff"
#define SENT_MAX 512
#define E        LX_STAGE_ENCODER
#define D        LX_STAGE_DIT
#define V        LX_STAGE_VAE
#define M        LX_STAGE_MUX

typedef struct sent {
    lx_stage_kind to;
    int replica;
    lx_msg_kind kind;
    char job[LX_LIMIT_ID + 1];
    int32_t attempt;
    uint64_t serial; /* of the ticket or lease in it */
} sent;

typedef struct world {
    lx_jobs *jobs;
    route *route;
    double now_s;
    uint64_t epoch[LX_STAGE_COUNT][LX_LIMIT_REPLICAS], last_epoch, last_serial;
    sent sent[SENT_MAX];
    int n_sent, n_seen; /* n_seen: those that a test has looked at */
    int n_killed;
    lx_stage_kind killed_kind;
    uint64_t swept[64];
    int n_swept, n_news;
    uint64_t gone[16]; /* epochs whose names have vanished */
    int n_gone;
    const char *refusal;                                        /* of denoising; NULL: none */
    void (*news)(void *owner, lx_entry *entry, bool new_state); /* may be NULL */
    void *owner;
} world;

#define WORLD_LIVE 50

static inline bool world_send(void *self, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    world *w = self;
    assert_true(w->n_sent < SENT_MAX);
    sent *s = &w->sent[w->n_sent++];
    *s = (sent){.to = kind, .replica = replica, .kind = msg->kind, .attempt = msg->attempt};
    memcpy(s->job, msg->job, sizeof s->job);
    if (msg->kind == LX_MSG_JOB)
        s->serial = msg->u.work.ticket.serial;
    else if (msg->kind == LX_MSG_INPUT)
        s->serial = msg->u.artifact.ticket.serial;
    else if (msg->kind == LX_MSG_RETIRE)
        s->serial = msg->u.lease.serial;
    return true;
}

static inline void world_kill(void *self, lx_stage_kind kind, int replica, const char *why)
{
    world *w = self;
    (void)replica;
    (void)why;
    w->n_killed++;
    w->killed_kind = kind;
}

static inline bool world_is_lent(void *self, const lx_ticket *ticket)
{
    world *w = self;
    for (int i = 0; i < w->n_gone; i++)
        if (w->gone[i] == ticket->epoch)
            return false;
    return true;
}

static inline lx_status world_admit(void *self, const lx_job *job, lx_err *err)
{
    const world *w = self;
    (void)job;
    return w->refusal ? lx_fail(err, LX_EAGAIN, "%s", w->refusal) : LX_OK;
}

static inline void world_sweep(void *self, uint64_t epoch)
{
    world *w = self;
    w->swept[w->n_swept++ % 64] = epoch;
}

static inline void world_news(void *self, lx_entry *entry, bool new_state)
{
    world *w = self;
    w->n_news += new_state;
    if (w->news)
        w->news(w->owner, entry, new_state);
}

static inline void world_up(world *w, lx_stage_kind kind, int replica)
{
    w->epoch[kind][replica] = ++w->last_epoch;
    route_up(w->route, kind, replica, w->last_epoch);
}

/* Every replica of n[] up and idle. */
static inline world *world_new(int n_encoder, int n_dit, int n_vae, int n_mux, int depth)
{
    world *w = calloc(1, sizeof *w);
    w->now_s = 100;
    route_options o = {
        .n_replicas = {n_encoder, n_dit, n_vae, n_mux}, .depth = depth, .instance = INSTANCE};
    route_hands hands = {.send = world_send,
                         .kill = world_kill,
                         .is_lent = world_is_lent,
                         .sweep = world_sweep,
                         .news = world_news,
                         .admit = world_admit,
                         .self = w};
    assert_int_equal(lx_jobs_create(&w->jobs, WORLD_LIVE, 20, NULL), LX_OK);
    assert_int_equal(route_create(&w->route, w->jobs, &o, hands, NULL), LX_OK);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < o.n_replicas[kind]; i++)
            world_up(w, (lx_stage_kind)kind, i);
    return w;
}

static inline void world_free(world *w)
{
    route_destroy(&w->route);
    lx_jobs_destroy(&w->jobs);
    free(w);
}

static inline lx_job world_job(const char *id)
{
    lx_job job = {.width = 64, .height = 32, .frames = 5, .fps = 16, .shift = 5, .n_steps = 4};
    snprintf(job.id, sizeof job.id, "%s", id);
    snprintf(job.prompt, sizeof job.prompt, "a red ball");
    snprintf(job.rng, sizeof job.rng, "lx2v");
    snprintf(job.output, sizeof job.output, "%s.mp4", id);
    memcpy(job.steps, (int32_t[]){1000, 750, 500, 250}, 4 * sizeof(int32_t));
    return job;
}

static inline void world_pump(world *w)
{
    w->now_s += 0.01;
    route_pump(w->route, w->now_s);
}

static inline lx_entry *world_submit(world *w, const char *id)
{
    lx_job job = world_job(id);
    lx_entry *e = NULL;
    assert_int_equal(lx_jobs_add(w->jobs, &job, w->now_s, &e, NULL), LX_OK);
    world_pump(w);
    return e;
}

/* --- what a stage says, for the job it was last given ----------------------------------------- */

static inline lx_msg world_says(world *w, lx_stage_kind kind, int replica, lx_msg_kind what)
{
    lx_msg msg = {.kind = what};
    for (int i = w->n_sent - 1; i >= 0; i--)
        if (w->sent[i].to == kind && w->sent[i].replica == replica &&
            w->sent[i].kind == LX_MSG_JOB) {
            memcpy(msg.job, w->sent[i].job, sizeof msg.job);
            msg.attempt = w->sent[i].attempt;
            return msg;
        }
    fail_msg("%s[%d] was given no job", lx_stage_kind_name(kind), replica);
    return msg;
}

static inline void world_tell(world *w, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    w->now_s += 0.01;
    route_message(w->route, kind, replica, msg, w->now_s);
    route_pump(w->route, w->now_s);
}

static inline void world_starts(world *w, lx_stage_kind kind, int replica)
{
    lx_msg msg = world_says(w, kind, replica, LX_MSG_STARTED);
    msg.u.beat.at_s = w->now_s;
    world_tell(w, kind, replica, &msg);
}

/* Returns the serial of the ticket. */
static inline uint64_t world_lends(world *w, lx_stage_kind kind, int replica, bool is_last)
{
    lx_msg msg = world_says(w, kind, replica, LX_MSG_ARTIFACT);
    lx_ticket *t = &msg.u.artifact.ticket;
    t->serial = ++w->last_serial;
    t->epoch = w->epoch[kind][replica];
    snprintf(t->name, sizeof t->name, "/lx2v." INSTANCE ".%d.0", (int)t->epoch);
    msg.u.artifact.is_last = is_last;
    world_tell(w, kind, replica, &msg);
    return t->serial;
}

static inline void world_releases(world *w, lx_stage_kind kind, int replica, uint64_t serial)
{
    lx_msg msg = world_says(w, kind, replica, LX_MSG_RELEASED);
    msg.u.lease.serial = serial;
    world_tell(w, kind, replica, &msg);
}

static inline void world_done(world *w, lx_stage_kind kind, int replica, double seconds)
{
    lx_msg msg = world_says(w, kind, replica, LX_MSG_DONE);
    msg.u.done.start_s = w->now_s - seconds;
    msg.u.done.end_s = w->now_s;
    world_tell(w, kind, replica, &msg);
}

static inline void world_fails(world *w, lx_stage_kind kind, int replica, lx_status status)
{
    lx_msg msg = world_says(w, kind, replica, LX_MSG_FAILED);
    msg.u.failed.status = (int32_t)status;
    snprintf(msg.u.failed.text, sizeof msg.u.failed.text, "reason given by the stage");
    world_tell(w, kind, replica, &msg);
}

static inline void world_dies(world *w, lx_stage_kind kind, int replica)
{
    w->now_s += 0.01;
    route_down(w->route, kind, replica, "it was killed", w->now_s);
    route_pump(w->route, w->now_s);
}

/* Take the encoder's and the DiT's part of the job that they hold; both replicas 0. */
static inline void world_encode(world *w)
{
    world_lends(w, E, 0, true);
    world_done(w, E, 0, 1);
}

static inline void world_denoise(world *w)
{
    world_lends(w, D, 0, true);
    world_done(w, D, 0, 1);
}

/* --- looking at what was sent ----------------------------------------------------------------- */

/* The next message of this kind to this stage since the last look, or NULL. */
static inline const sent *world_next(world *w, lx_stage_kind to, lx_msg_kind kind)
{
    for (int i = w->n_seen; i < w->n_sent; i++)
        if (w->sent[i].to == to && w->sent[i].kind == kind) {
            w->n_seen = i + 1;
            return &w->sent[i];
        }
    return NULL;
}

static inline int world_count(const world *w, lx_stage_kind to, lx_msg_kind kind, uint64_t serial)
{
    int n = 0;
    for (int i = 0; i < w->n_sent; i++)
        n += w->sent[i].to == to && w->sent[i].kind == kind &&
             (!serial || w->sent[i].serial == serial);
    return n;
}

static inline bool world_has_swept(const world *w, uint64_t epoch)
{
    for (int i = 0; i < w->n_swept; i++)
        if (w->swept[i] == epoch)
            return true;
    return false;
}

#endif
