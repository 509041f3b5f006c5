/*
 * route_give.c - which replica gets which job, and how long that takes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each replica remembers what its recent jobs cost, in seconds per unit of route_work. From that
 * follow who will be done first with the next job, and when the jobs at work will end.
 */
#include <string.h>

#include "lx_log.h"
#include "route_private.h"

#define LIKE 2.0 /* clips within this factor of work take a like time per unit */

double route_work(lx_stage_kind kind, const lx_job *job)
{
    if (kind == LX_STAGE_ENCODER)
        return 1; /* a prompt is at most 512 tokens, whatever the clip */
    int64_t t, h, w;
    lx_job_latent_dims(job, &t, &h, &w);
    return (double)t * (double)h * (double)w * (kind == LX_STAGE_DIT ? job->n_steps : 1);
}

void route_note_cost(route_worker *w, lx_stage_kind kind, const lx_entry *e, double seconds)
{
    if (seconds <= 0)
        return;
    w->last_s = seconds;
    w->last_work = route_work(kind, e->job);
    double cost = seconds / w->last_work;
    w->cost_s = w->cost_s > 0 ? (w->cost_s + cost) / 2 : cost;
}

/* --- giving work ------------------------------------------------------------------------------ */

static bool is_held_by_old(const route *r, const lx_entry *e)
{
    if (e->n_holders == 0)
        return false;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < r->n_replicas[kind]; i++) {
            const route_worker *w = &r->worker[kind][i];
            if (w->entry == e && (w->attempt != e->attempt || w->is_aborting))
                return true;
        }
    return false;
}

/* Does the job need this stage, and is the input there? */
static bool wants(const route *r, const lx_entry *e, lx_stage_kind kind)
{
    if (e->is_ending || e->part[kind].state != LX_PART_WAITING || is_held_by_old(r, e))
        return false;
    switch (kind) {
    case LX_STAGE_ENCODER:
        return !e->saved_bytes;
    case LX_STAGE_DIT:
        return e->context.ticket.serial != 0 || e->saved_bytes;
    case LX_STAGE_VAE:
        return e->latent.ticket.serial != 0;
    case LX_STAGE_MUX: /* it may begin with the first chunk */
        return e->part[LX_STAGE_VAE].state != LX_PART_WAITING;
    case LX_STAGE_COUNT:
        break;
    }
    return false;
}

/* Artifacts that wait for the next stage, and those being made: at most `depth`. A lender whose
 * slots are all lent out waits by itself, so this only keeps work from running far ahead. */
static bool has_credit(const route *r, lx_stage_kind kind)
{
    if (kind >= LX_STAGE_VAE)
        return true; /* chunks: the VAE's own slots are the credit */
    int n = 0;
    for (lx_entry *e = lx_jobs_first(r->jobs, LX_LIST_RUNNING); e; e = e->next)
        n += e->part[kind].state == LX_PART_RUNNING ||
             (e->part[kind].state == LX_PART_DONE && e->part[kind + 1].state == LX_PART_WAITING);
    /* Making several at once must be possible where several replicas make them. */
    int extra = r->n_replicas[kind] - 1;
    return n < r->depth + extra;
}

static void give(route *r, lx_stage_kind kind, int replica, lx_entry *e)
{
    route_worker *w = &r->worker[kind][replica];
    w->entry = e;
    w->attempt = e->attempt;
    w->is_aborting = false;
    w->given_s = w->free_since_s = r->now_s;
    e->n_holders++;
    lx_entry_reset_part(e, kind);
    e->part[kind].state = LX_PART_RUNNING;
    e->part[kind].replica = replica;
    bool is_new = e->state == LX_JOB_QUEUED;
    if (is_new) {
        e->begin_s = r->now_s;
        lx_jobs_move(r->jobs, e, LX_JOB_RUNNING, NULL);
    }
    r->out = (lx_msg){.kind = LX_MSG_JOB, .attempt = e->attempt};
    memcpy(r->out.job, e->job->id, sizeof r->out.job);
    r->out.u.work.job = *e->job;
    w->is_from_spool = kind == LX_STAGE_DIT && e->saved_bytes;
    if (w->is_from_spool) {
        r->out.u.work.saved_bytes = e->saved_bytes;
        r->out.u.work.saved_crc = e->saved_crc;
        e->part[LX_STAGE_ENCODER].state = LX_PART_DONE;
    } else if (kind == LX_STAGE_DIT)
        r->out.u.work.ticket = e->context.ticket;
    else if (kind == LX_STAGE_VAE)
        r->out.u.work.ticket = e->latent.ticket;
    LX_D("job=%s attempt=%d to=%s replica=%d", e->job->id, e->attempt, lx_stage_kind_name(kind),
         replica);
    route_tell(r, kind, replica, &r->out);
    if (kind == LX_STAGE_MUX)
        route_forward_chunks(r, e, replica);
    r->hands.news(r->hands.self, e, is_new);
}

/* When each replica will be free, in seconds from now; -1: not up. Returns how many are idle. */
static int free_times(const route *r, lx_stage_kind kind, double free_in_s[LX_LIMIT_REPLICAS])
{
    int n_idle = 0;
    for (int i = 0; i < r->n_replicas[kind]; i++) {
        const route_worker *w = &r->worker[kind][i];
        free_in_s[i] = w->is_up ? 0 : -1;
        n_idle += w->is_up && !w->entry;
        if (w->is_up && w->entry) {
            double whole = w->cost_s * route_work(kind, w->entry->job);
            double left = whole - (r->now_s - w->given_s);
            free_in_s[i] = left > whole / 4 ? left : whole / 4; /* overdue: not about to end */
        }
    }
    return n_idle;
}

/* The replica that will have this job done first, busy or not; -1: none is up. An unknown one
 * counts as fast, so that it is tried. */
static int fastest(const route *r, lx_stage_kind kind, const lx_entry *e,
                   const double free_in_s[LX_LIMIT_REPLICAS])
{
    int best = -1;
    double best_s = 0;
    for (int i = 0; i < r->n_replicas[kind]; i++) {
        const route_worker *w = &r->worker[kind][i];
        double done_s = free_in_s[i] + w->cost_s * route_work(kind, e->job);
        bool is_better = best < 0 || done_s < best_s ||
                         (done_s <= best_s && r->worker[kind][best].entry && !w->entry);
        if (free_in_s[i] >= 0 && is_better) {
            best = i;
            best_s = done_s;
        }
    }
    return best;
}

/* The costly part begins: what would make it useless is asked for once more. */
static bool is_admitted(route *r, lx_stage_kind kind, lx_entry *e)
{
    lx_err why = {0};
    if (kind != LX_STAGE_DIT || !r->hands.admit ||
        r->hands.admit(r->hands.self, e->job, &why) == LX_OK)
        return true;
    route_end_job(r, e, LX_JOB_FAILED, why.message);
    return false;
}

/* Give jobs of one list to this kind, oldest first, each to the replica that will be done with it
 * first; a job for which that is a busy one waits for it. */
static int pump_list(route *r, lx_stage_kind kind, lx_job_list list, int n_idle,
                     double free_in_s[LX_LIMIT_REPLICAS])
{
    for (lx_entry *e = lx_jobs_first(r->jobs, list), *next; e && n_idle > 0; e = next) {
        next = e->next;
        if (!wants(r, e, kind))
            continue;
        if (!has_credit(r, kind))
            return 0;
        int i = fastest(r, kind, e, free_in_s);
        if (i < 0)
            return 0;
        if (free_in_s[i] <= 0 && !r->worker[kind][i].entry) {
            if (!is_admitted(r, kind, e))
                continue;
            give(r, kind, i, e);
            n_idle--;
        }
        /* Also an unknown cost must make the replica look taken. */
        free_in_s[i] += r->worker[kind][i].cost_s * route_work(kind, e->job) + 1e-6;
    }
    return n_idle;
}

void route_pump(route *r, double now_s)
{
    /* What is nearly done makes room for what comes; mux joins what the VAE was just given. */
    static const lx_stage_kind order[] = {LX_STAGE_VAE, LX_STAGE_MUX, LX_STAGE_DIT,
                                          LX_STAGE_ENCODER};
    r->now_s = now_s;
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        lx_stage_kind kind = order[k];
        double free_in_s[LX_LIMIT_REPLICAS] = {0};
        int n_idle = free_times(r, kind, free_in_s);
        n_idle = pump_list(r, kind, LX_LIST_RUNNING, n_idle, free_in_s);
        /* A queued job begins at the encoder, or at the DiT if its latent was saved. */
        if ((kind == LX_STAGE_ENCODER || kind == LX_STAGE_DIT) && !r->is_paused)
            pump_list(r, kind, LX_LIST_QUEUED, n_idle, free_in_s);
    }
}

void route_pause(route *r, bool is_paused)
{
    r->is_paused = is_paused;
}

/* --- how long it takes ------------------------------------------------------------------------ */

/* Of one stage's part; -1: unknown. A guess needs a basis: progress of the part itself, or a recent
 * job of about this size, and a replica that is not at work on another job. */
static double part_left_s(const route *r, lx_stage_kind kind, const lx_entry *e, double now_s)
{
    const lx_part *part = &e->part[kind];
    if (part->state == LX_PART_DONE)
        return 0;
    if (part->state == LX_PART_RUNNING && part->start_s >= 0 && part->done > 0 &&
        part->total >= part->done)
        return (now_s - part->start_s) * (double)(part->total - part->done) / (double)part->done;
    double sum_s = 0, work = route_work(kind, e->job);
    int n = 0, n_free = 0;
    for (int i = 0; i < r->n_replicas[kind]; i++) {
        const route_worker *w = &r->worker[kind][i];
        n_free += w->is_up && (!w->entry || w->entry == e);
        if (w->last_s > 0 && work < LIKE * w->last_work && w->last_work < LIKE * work) {
            sum_s += w->last_s * work / w->last_work;
            n++;
        }
    }
    if (n == 0 || n_free == 0)
        return -1;
    double whole = sum_s / n;
    double spent = part->start_s >= 0 ? now_s - part->start_s : 0;
    return whole > spent ? whole - spent : 0;
}

double route_left_s(const route *r, const lx_entry *e, double now_s)
{
    if (e->list != LX_LIST_RUNNING)
        return e->list == LX_LIST_ENDED ? 0 : -1;
    double left[LX_STAGE_COUNT];
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        left[kind] = part_left_s(r, (lx_stage_kind)kind, e, now_s);
        if (left[kind] < 0)
            return -1;
    }
    /* Mux encodes while the VAE decodes: the longer of the two counts. */
    double tail = left[LX_STAGE_VAE] > left[LX_STAGE_MUX] ? left[LX_STAGE_VAE] : left[LX_STAGE_MUX];
    return left[LX_STAGE_ENCODER] + left[LX_STAGE_DIT] + tail;
}

double route_room_s(const route *r, double now_s)
{
    double soonest = -1, slowest = 0;
    for (const lx_entry *e = lx_jobs_first(r->jobs, LX_LIST_RUNNING); e; e = e->next) {
        double left = route_left_s(r, e, now_s);
        if (left >= 0 && (soonest < 0 || left < soonest))
            soonest = left;
    }
    if (soonest >= 0)
        return soonest;
    /* Nothing to go by but earlier jobs: the slowest stage sets the pace. */
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        double sum_s = 0;
        for (int i = 0; i < r->n_replicas[kind]; i++)
            sum_s += r->worker[kind][i].last_s;
        double each = sum_s / r->n_replicas[kind] / r->n_replicas[kind];
        slowest = each > slowest ? each : slowest;
    }
    return slowest;
}
