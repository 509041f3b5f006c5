/*
 * route.c - the state machine of a job
 * SPDX-License-Identifier: Apache-2.0
 */
#include "route.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_log.h"
#include "route_private.h"
#include "text.h"

#define MAX_STRIKES 2 /* deaths under one job before it is buried */

lx_status route_create(route **out, lx_jobs *jobs, const route_options *options, route_hands hands,
                       lx_err *err)
{
    route *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "routing table: out of memory");
    r->jobs = jobs;
    r->hands = hands;
    r->depth = options->depth;
    memcpy(r->n_replicas, options->n_replicas, sizeof r->n_replicas);
    snprintf(r->instance, sizeof r->instance, "%s", options->instance);
    *out = r;
    return LX_OK;
}

void route_destroy(route **r)
{
    if (!r || !*r)
        return;
    free(*r);
    *r = NULL;
}

/* --- ends ------------------------------------------------------------------------------------- */

/* Whatever way it ended: nothing is at work on it any more. */
static void end_part(const route *r, lx_part *part)
{
    if (part->state != LX_PART_RUNNING)
        return;
    part->state = LX_PART_DONE;
    part->end_s = r->now_s;
}

/* Nobody holds it any more: the end becomes visible, its artifacts go back. */
static void finish(route *r, lx_entry *e)
{
    route_drop_chunks(r, e, -1);
    route_drop_lent(r, LX_STAGE_ENCODER, &e->context);
    route_drop_lent(r, LX_STAGE_DIT, &e->latent);
    e->end_s = r->now_s;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        end_part(r, &e->part[kind]); /* let go before the end was decided */
    lx_jobs_move(r->jobs, e, e->state_next, NULL);
    if (r->hands.ended)
        r->hands.ended(r->hands.self, e);
    e->saved_bytes = 0;
    route_sweep_dead(r);
    LX_I("job=%s state=%s seconds=%.3f retries=%" PRIu64 "%s%s%s", e->job->id,
         lx_job_state_name(e->state), e->begin_s > 0 ? e->end_s - e->begin_s : 0.0, e->retries,
         e->error[0] ? " error=\"" : "", e->error, e->error[0] ? "\"" : "");
    r->hands.news(r->hands.self, e, true);
}

/* Ask the stages from `from` on that hold the job to stop; each answers with FAILED, or with DONE
 * if it was faster. */
static void take_back(route *r, lx_entry *e, int from)
{
    for (int kind = from; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < r->n_replicas[kind]; i++) {
            route_worker *w = &r->worker[kind][i];
            if (w->entry != e || w->is_aborting)
                continue;
            w->is_aborting = true;
            w->free_since_s = r->now_s;
            r->out = (lx_msg){.kind = LX_MSG_ABORT, .attempt = w->attempt};
            memcpy(r->out.job, e->job->id, sizeof r->out.job);
            route_tell(r, (lx_stage_kind)kind, i, &r->out);
        }
    route_drop_chunks(r, e, -1);
}

void route_end_job(route *r, lx_entry *e, lx_job_state state, const char *error)
{
    e->is_ending = true;
    e->state_next = state;
    text_put(e->error, sizeof e->error, error);
    take_back(r, e, LX_STAGE_ENCODER);
    if (e->n_holders == 0)
        finish(r, e);
}

static void let_go(route *r, lx_stage_kind kind, int replica)
{
    route_worker *w = &r->worker[kind][replica];
    lx_entry *e = w->entry;
    w->entry = NULL;
    w->is_aborting = false;
    if (e->is_ending && w->attempt == e->attempt)
        end_part(r, &e->part[kind]);
    if (kind == LX_STAGE_MUX)
        route_drop_chunks(r, NULL, replica);
    e->n_holders--;
    if (e->is_ending && e->n_holders == 0)
        finish(r, e);
}

/* --- again ------------------------------------------------------------------------------------ */

/* Throw the present attempt away and go on from the latest artifact that is still lent. */
static void begin_again(route *r, lx_entry *e, const char *why)
{
    e->attempt++;
    e->retries++;
    e->has_all_chunks = false;
    int from = LX_STAGE_ENCODER;
    if (route_check_lent(r, &e->latent))
        from = LX_STAGE_VAE;
    else if (route_check_lent(r, &e->context) || e->saved_bytes)
        from = LX_STAGE_DIT;
    /* Stages before `from` have published and are about to say done; stopped now, they would take
     * back what is needed again (test_retry_does_not_abort_the_lender). */
    take_back(r, e, from);
    for (int kind = from; kind < LX_STAGE_COUNT; kind++)
        lx_entry_reset_part(e, (lx_stage_kind)kind);
    if (from <= LX_STAGE_DIT) {
        e->context.is_borrowed = false;
        route_drop_lent(r, LX_STAGE_DIT, &e->latent);
    }
    e->latent.is_borrowed = false;
    LX_W("job=%s attempt=%d again_from=%s why=\"%s\"", e->job->id, e->attempt,
         lx_stage_kind_name((lx_stage_kind)from), why);
    r->hands.news(r->hands.self, e, true);
}

/* A stage died (or ran out of something) under this job. Once per job a death before the stage said
 * "started" is no strike: it may have been dead already when it was given the job. */
static void strike(route *r, lx_entry *e, bool has_started, const char *why)
{
    if (r->is_leaving)
        return; /* it was us who ended the stage */
    if (!has_started && !e->is_excused) {
        e->is_excused = true;
        begin_again(r, e, why);
        return;
    }
    if (++e->strikes < MAX_STRIKES) {
        begin_again(r, e, why);
        return;
    }
    char text[LX_LIMIT_TEXT];
    text_format(text, sizeof text, "given up after %d tries; the last: %s", e->strikes, why);
    route_end_job(r, e, LX_JOB_FAILED, text);
}

/* The lender of something this job still needs is gone, and with it the names. No fault of the job:
 * no strike. */
static void check_artifacts(route *r, lx_entry *e, uint64_t epoch)
{
    if (e->is_ending || r->is_leaving)
        return;
    bool lost = false;
    if (e->context.ticket.serial && e->context.ticket.epoch == epoch) {
        bool needed = !e->context.is_borrowed;
        lost = !route_check_lent(r, &e->context) && needed;
    }
    if (e->latent.ticket.serial && e->latent.ticket.epoch == epoch) {
        bool needed = !e->latent.is_borrowed;
        lost = (!route_check_lent(r, &e->latent) && needed) || lost;
    }
    if (e->has_all_chunks && e->part[LX_STAGE_MUX].state != LX_PART_DONE)
        lost = !route_chunks_are_lent(r, e) || lost;
    if (lost)
        begin_again(r, e, "the lender of an artifact is gone");
}

/* --- processes -------------------------------------------------------------------------------- */

void route_up(route *r, lx_stage_kind kind, int replica, uint64_t epoch)
{
    route_worker *w = &r->worker[kind][replica];
    assert(!w->entry);
    w->is_up = true;
    w->epoch = epoch;
    w->last_words[0] = 0;
}

void route_down(route *r, lx_stage_kind kind, int replica, const char *obituary, double now_s)
{
    route_worker *w = &r->worker[kind][replica];
    r->now_s = now_s;
    if (!w->is_up)
        return;
    w->is_up = false;
    route_mourn(r, w->epoch);
    lx_entry *e = w->entry;
    bool has_started = e && e->part[kind].start_s >= 0;
    /* What it published is out: that part is done, whether or not it lived to say so. */
    bool is_struck = e && !w->is_aborting && !e->is_ending && w->attempt == e->attempt &&
                     e->part[kind].state == LX_PART_RUNNING;
    if (e)
        let_go(r, kind, replica);
    if (is_struck) {
        char why[LX_LIMIT_TEXT];
        text_format(why, sizeof why, "%s%s%s", obituary, w->last_words[0] ? "; it said: " : "",
                    w->last_words);
        strike(r, e, has_started, why);
    }
    for (lx_entry *x = lx_jobs_first(r->jobs, LX_LIST_RUNNING), *next; x; x = next) {
        next = x->next;
        check_artifacts(r, x, w->epoch);
    }
    route_sweep_dead(r);
}

const char *route_parked(const route *r, lx_stage_kind kind)
{
    for (int i = 0; i < r->n_replicas[kind]; i++)
        if (!r->worker[kind][i].is_parked)
            return NULL;
    return r->worker[kind][0].obituary;
}

void route_park(route *r, lx_stage_kind kind, int replica, const char *obituary, double now_s)
{
    route_worker *w = &r->worker[kind][replica];
    r->now_s = now_s;
    w->is_parked = true;
    text_put(w->obituary, sizeof w->obituary, obituary);
    if (!route_parked(r, kind))
        return;
    char text[LX_LIMIT_TEXT];
    text_format(text, sizeof text, "stage %s is parked: %s", lx_stage_kind_name(kind), obituary);
    for (int list = LX_LIST_QUEUED; list <= LX_LIST_RUNNING; list++)
        for (lx_entry *e = lx_jobs_first(r->jobs, (lx_job_list)list), *next; e; e = next) {
            next = e->next;
            if (!e->is_ending && e->part[kind].state != LX_PART_DONE)
                route_end_job(r, e, LX_JOB_FAILED, text);
        }
}

/* --- messages of stages ----------------------------------------------------------------------- */

static void on_artifact(route *r, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    route_worker *w = &r->worker[kind][replica];
    lx_entry *e = w->entry;
    const lx_ticket *ticket = &msg->u.artifact.ticket;
    if (kind == LX_STAGE_MUX || !route_ticket_ok(r, w, ticket)) {
        r->hands.kill(r->hands.self, kind, replica, "it sent a ticket that it cannot have made");
        return;
    }
    if (!e || w->is_aborting || e->is_ending || w->attempt != e->attempt ||
        msg->attempt != w->attempt || strcmp(msg->job, e->job->id) ||
        e->part[kind].state != LX_PART_RUNNING) {
        route_retire(r, kind, replica, ticket); /* too late: lent for nobody */
        return;
    }
    lx_part *part = &e->part[kind];
    part->end_s = r->now_s;
    if (kind == LX_STAGE_VAE) {
        route_add_chunk(r, replica, e, msg);
        e->has_all_chunks = msg->u.artifact.is_last;
        if (e->has_all_chunks)
            part->state = LX_PART_DONE;
        return;
    }
    part->state = LX_PART_DONE;
    lx_lent *lent = kind == LX_STAGE_ENCODER ? &e->context : &e->latent;
    *lent = (lx_lent){.ticket = *ticket, .replica = replica};
    if (kind == LX_STAGE_DIT) /* the latent is safe: nobody will ask for the context again */
        route_drop_lent(r, LX_STAGE_ENCODER, &e->context);
    r->hands.news(r->hands.self, e, false);
}

static void on_released(route *r, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    lx_entry *e = r->worker[kind][replica].entry;
    uint64_t serial = msg->u.lease.serial;
    if (kind == LX_STAGE_MUX) {
        route_chunk_released(r, replica, serial);
        return;
    }
    if (!e || kind == LX_STAGE_ENCODER)
        return;
    lx_lent *lent = kind == LX_STAGE_DIT ? &e->context : &e->latent;
    if (lent->ticket.serial == serial)
        lent->is_borrowed = true;
}

static void note_facts(lx_entry *e, lx_stage_kind kind, const lx_msg *msg)
{
    lx_part *part = &e->part[kind];
    part->start_s = msg->u.done.start_s;
    part->end_s = msg->u.done.end_s;
    part->wait_s = msg->u.done.wait_s;
    part->peak_bytes = msg->u.done.peak_bytes;
    part->done = part->total;
    if (kind == LX_STAGE_ENCODER) {
        e->n_tokens = msg->u.done.n_tokens;
        e->n_dropped = msg->u.done.n_dropped;
    }
    if (kind == LX_STAGE_DIT) {
        e->n_step_s = msg->u.done.n_step_s;
        memcpy(e->step_s, msg->u.done.step_s, sizeof e->step_s);
    }
    if (kind == LX_STAGE_MUX) {
        e->n_frames = msg->u.done.n_frames;
        e->file_bytes = msg->u.done.file_bytes;
    }
    if (msg->u.done.notice[0])
        text_put(e->notice, sizeof e->notice, msg->u.done.notice);
}

/* Only what can be this job's latent: F32 [16, T, h, w]. */
static void note_saved(route *r, lx_entry *e, const lx_msg *msg)
{
    int64_t t, h, w;
    lx_job_latent_dims(e->job, &t, &h, &w);
    uint64_t bytes = (uint64_t)(t * h * w) * LX_LATENT_CHANNELS * sizeof(float);
    if (msg->u.done.saved_bytes != bytes || e->saved_bytes || e->is_ending)
        return;
    e->saved_bytes = bytes;
    e->saved_crc = (uint32_t)msg->u.done.saved_crc;
    if (r->hands.saved)
        r->hands.saved(r->hands.self, e);
}

static void on_done(route *r, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    route_worker *w = &r->worker[kind][replica];
    lx_entry *e = w->entry;
    bool is_wanted = w->attempt == e->attempt && !w->is_aborting && !e->is_ending;
    w->is_aborting = true; /* it has answered: route_end_job need not ask it to stop */
    w->n_jobs++;
    if (!w->is_from_spool)
        route_note_cost(w, kind, e, msg->u.done.end_s - msg->u.done.start_s);
    if (kind == LX_STAGE_MUX) {
        /* The file is there under its name, whatever was decided meanwhile. */
        note_facts(e, kind, msg);
        e->part[kind].state = LX_PART_DONE;
        route_end_job(r, e, LX_JOB_DONE, "");
    } else if (w->attempt == e->attempt && e->part[kind].state != LX_PART_WAITING) {
        note_facts(e, kind, msg);
        if (kind == LX_STAGE_DIT && is_wanted)
            note_saved(r, e, msg);
        if (is_wanted && e->part[kind].state != LX_PART_DONE) {
            char text[LX_LIMIT_TEXT];
            text_format(text, sizeof text, "%s said done without handing on its result",
                        lx_stage_kind_name(kind));
            route_end_job(r, e, LX_JOB_FAILED, text);
        }
        if (e->is_ending) /* with its own time, not that of this message */
            e->part[kind].state = LX_PART_DONE;
    }
    if (!e->is_ending)
        r->hands.news(r->hands.self, e, false);
    let_go(r, kind, replica);
}

static void on_failed(route *r, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    route_worker *w = &r->worker[kind][replica];
    lx_entry *e = w->entry;
    lx_status status = (lx_status)msg->u.failed.status;
    if (status == LX_ESTAGE || status == LX_ECONFIG) {
        /* It is on its way out: the death will say what becomes of the job. */
        text_put(w->last_words, sizeof w->last_words, msg->u.failed.text);
        return;
    }
    char text[LX_LIMIT_TEXT];
    text_format(text, sizeof text, "%s: %s", lx_stage_kind_name(kind), msg->u.failed.text);
    bool is_stale = w->is_aborting || e->is_ending || w->attempt != e->attempt;
    let_go(r, kind, replica);
    if (is_stale)
        return;
    if (w->is_from_spool && !r->is_leaving) { /* not the job's fault: it is made again */
        e->saved_bytes = 0;
        begin_again(r, e, text);
        return;
    }
    if (status == LX_EAGAIN || status == LX_ECANCEL) /* nothing wrong with the job itself */
        strike(r, e, true, text);
    else
        route_end_job(r, e, LX_JOB_FAILED, text);
}

static void on_progress(route *r, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    route_worker *w = &r->worker[kind][replica];
    lx_entry *e = w->entry;
    if (w->is_aborting || e->is_ending || w->attempt != e->attempt)
        return;
    lx_part *part = &e->part[kind];
    if (part->state == LX_PART_WAITING)
        return;
    if (msg->kind == LX_MSG_STARTED && part->start_s < 0)
        part->start_s = msg->u.beat.at_s < r->now_s ? msg->u.beat.at_s : r->now_s;
    if (msg->u.beat.peak_bytes > part->peak_bytes) /* known also of parts that never say done */
        part->peak_bytes = msg->u.beat.peak_bytes;
    if (part->done == msg->u.beat.done && part->total == msg->u.beat.total &&
        msg->kind != LX_MSG_STARTED)
        return;
    part->done = msg->u.beat.done;
    part->total = msg->u.beat.total;
    memcpy(part->unit, msg->u.beat.unit, sizeof part->unit);
    r->hands.news(r->hands.self, e, false);
}

void route_message(route *r, lx_stage_kind kind, int replica, const lx_msg *msg, double now_s)
{
    route_worker *w = &r->worker[kind][replica];
    r->now_s = now_s;
    if (!w->is_up)
        return;
    bool is_mine =
        w->entry && w->attempt == msg->attempt && strcmp(msg->job, w->entry->job->id) == 0;
    if (msg->kind == LX_MSG_ARTIFACT)
        on_artifact(r, kind, replica, msg);
    else if (msg->kind == LX_MSG_RELEASED)
        on_released(r, kind, replica, msg);
    else if (!is_mine)
        return; /* of an older attempt, or no job at all */
    else if (msg->kind == LX_MSG_DONE)
        on_done(r, kind, replica, msg);
    else if (msg->kind == LX_MSG_FAILED)
        on_failed(r, kind, replica, msg);
    else if (msg->kind == LX_MSG_STARTED || msg->kind == LX_MSG_BEAT)
        on_progress(r, kind, replica, msg);
}

/* --- people ----------------------------------------------------------------------------------- */

lx_status route_cancel(route *r, lx_entry *entry, double now_s, lx_err *err)
{
    r->now_s = now_s;
    if (entry->list == LX_LIST_ENDED)
        return lx_fail(err, LX_EJOB, "job %s is already %s", entry->job->id,
                       lx_job_state_name(entry->state));
    if (entry->is_ending && entry->state_next == LX_JOB_CANCELLED)
        return LX_OK; /* asked twice is asked once */
    if (entry->is_ending)
        return lx_fail(err, LX_EJOB, "job %s is about to be %s", entry->job->id,
                       lx_job_state_name(entry->state_next));
    route_end_job(r, entry, LX_JOB_CANCELLED, "");
    return LX_OK;
}

void route_settle(route *r, lx_entry *entry, lx_job_state state, const char *text, double now_s)
{
    r->now_s = now_s;
    route_end_job(r, entry, state, text);
}

void route_leave(route *r)
{
    r->is_leaving = true;
}

lx_status route_retry(route *r, lx_entry *entry, double now_s, lx_err *err)
{
    r->now_s = now_s;
    if (entry->state != LX_JOB_FAILED && entry->state != LX_JOB_CANCELLED)
        return lx_fail(err, LX_EJOB, "job %s is %s; only a failed or cancelled job can be retried",
                       entry->job->id,
                       entry->is_ending ? "about to end" : lx_job_state_name(entry->state));
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        if (route_parked(r, (lx_stage_kind)kind))
            return lx_fail(err, LX_ESTAGE, "stage %s is parked: %s",
                           lx_stage_kind_name((lx_stage_kind)kind),
                           route_parked(r, (lx_stage_kind)kind));
    lx_status status = lx_jobs_move(r->jobs, entry, LX_JOB_QUEUED, err);
    if (status != LX_OK)
        return status;
    entry->attempt++;
    entry->retries++;
    entry->strikes = 0;
    entry->is_ending = entry->is_excused = entry->has_all_chunks = false;
    entry->error[0] = entry->notice[0] = 0;
    entry->begin_s = entry->end_s = 0;
    entry->file_bytes = 0;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        lx_entry_reset_part(entry, (lx_stage_kind)kind);
    r->hands.news(r->hands.self, entry, true);
    return LX_OK;
}

/* --- answers ---------------------------------------------------------------------------------- */

lx_entry *route_holds(const route *r, lx_stage_kind kind, int replica)
{
    return r->worker[kind][replica].entry;
}

uint64_t route_jobs_done(const route *r, lx_stage_kind kind, int replica)
{
    return r->worker[kind][replica].n_jobs;
}

bool route_may_wait(const route *r, lx_stage_kind kind, int replica)
{
    const route_worker *w = &r->worker[kind][replica];
    const lx_entry *e = w->entry;
    if (!e)
        return true;
    if (w->is_aborting)
        return false; /* both kinds of waiting hear an abort at once */
    if (kind != LX_STAGE_MUX)
        return route_lent_by(r, kind, w) >= (kind == LX_STAGE_VAE ? 1 : r->depth);
    for (int i = 0; i < r->n_replicas[LX_STAGE_VAE]; i++) {
        const route_worker *vae = &r->worker[LX_STAGE_VAE][i];
        for (int k = 0; k < vae->n_chunks; k++)
            if (vae->chunk[k].borrower == replica)
                return false;
    }
    return !e->has_all_chunks;
}

double route_free_since_s(const route *r, lx_stage_kind kind, int replica)
{
    return r->worker[kind][replica].free_since_s;
}
