/*
 * clients.c - one place per client, answers, events
 * SPDX-License-Identifier: Apache-2.0
 */
#include "clients.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients_private.h"
#include "lx_log.h"
#include "submit.h"
#include "text.h"

#define EVENT_EVERY_S  0.1  /* per job */
#define LISTING_STEP_S 0.01 /* a reader that lags is tried again this soon */
#define LISTING_S      10.0 /* and given up after this long */
#define IDLE_S         10.0 /* a place unused for that long may be taken by another */
#define PROBE_S        1.0  /* between two searches of a full house */
#define LOST_MAX       200  /* events in a row that found no room: the watcher does not read */

lx_status clients_create(clients **out, const clients_options *options, lx_err *err)
{
    clients *c = calloc(1, sizeof *c);
    if (c)
        c->client = calloc((size_t)options->config->limits.clients, sizeof *c->client);
    if (!c || !c->client) {
        free(c);
        return lx_fail(err, LX_EAGAIN, "table of clients: out of memory");
    }
    c->o = *options;
    c->n = options->config->limits.clients;
    c->full_s = -PROBE_S;
    *out = c;
    return LX_OK;
}

void clients_destroy(clients **c)
{
    if (!c || !*c)
        return;
    free((*c)->client);
    free(*c);
    *c = NULL;
}

/* --- places ----------------------------------------------------------------------------------- */

static void stop_watching(clients *c, client *x)
{
    c->n_watching -= x->is_watching;
    x->is_watching = false;
}

static void leave(clients *c, client *x)
{
    stop_watching(c, x);
    x->is_used = false;
}

/* "/home/anna/models/x.pth: is damaged" -> "x.pth: is damaged". In place; it only gets shorter. */
static void hide_paths(char *text)
{
    char *out = text;
    for (const char *p = text; *p;) {
        bool is_path = *p == '/' && (p == text || strchr(" \"'(=:", p[-1]));
        size_t n = is_path ? strcspn(p, " \"',;:)\n") : 1;
        const char *from = is_path ? (const char *)memrchr(p, '/', n) + 1 : p;
        size_t kept = (size_t)(p + n - from);
        memmove(out, from, kept);
        out += kept;
        p += n;
    }
    *out = 0;
}

/* Who is not on this machine learns nothing about where its files lie. */
static const lx_msg *as_told_abroad(clients *c, const lx_msg *msg)
{
    lx_msg *m = &c->abroad;
    *m = *msg;
    switch (m->kind) {
    case LX_MSG_REFUSED:
        hide_paths(m->u.failed.text);
        break;
    case LX_MSG_ACCEPTED:
        hide_paths(m->u.accepted.notice);
        break;
    case LX_MSG_JOB_INFO:
        hide_paths(m->u.job_info.error);
        break;
    case LX_MSG_STAGE_INFO:
        hide_paths(m->u.stage_info.text);
        break;
    case LX_MSG_LINK_INFO:
        hide_paths(m->u.link_info.text);
        break;
    case LX_MSG_EVENT:
        hide_paths(m->u.event.text);
        break;
    default:
        break;
    }
    return m;
}

/* False if the peer is gone: its place is free then. */
static bool tell(clients *c, client *x, lx_msg *msg, bool *is_full)
{
    bool full = false;
    const lx_msg *said = x->peer.is_remote ? as_told_abroad(c, msg) : msg;
    bool sent = c->o.send(c->o.self, &x->peer, said, &full);
    if (!sent && !full)
        leave(c, x);
    if (is_full)
        *is_full = full;
    return sent;
}

/* Is there still somebody? Nobody says goodbye; only a send tells. An OK to a question that was
 * never asked, or was answered (WATCH), is ignored by clients. */
static bool is_gone(clients *c, client *x)
{
    c->out = (lx_msg){.kind = LX_MSG_OK, .req = x->is_watching ? x->watch_req : 0};
    tell(c, x, &c->out, NULL);
    return !x->is_used;
}

/* All places are taken: one whose client has gone, or the place of a silent one that waits for
 * nothing. The search goes round, so that a crowd of short-lived clients costs one probe each, and
 * a full house is asked only once a second. */
static client *free_place(clients *c, double now_s)
{
    if (now_s - c->full_s < PROBE_S)
        return NULL;
    for (int i = 0; i < c->n; i++) {
        client *x = &c->client[c->probe];
        c->probe = (c->probe + 1) % c->n;
        bool waits = x->is_watching || x->is_listing || x->is_draining;
        if (is_gone(c, x) || (!waits && now_s - x->seen_s > IDLE_S))
            return x;
    }
    c->full_s = now_s;
    return NULL;
}

static client *find_place(clients *c, const lx_peer *peer, double now_s)
{
    client *best = NULL;
    for (int i = 0; i < c->n; i++) {
        client *x = &c->client[i];
        if (x->is_used && x->peer.n == peer->n && memcmp(x->peer.id, peer->id, peer->n) == 0)
            return x;
        if (!best && !x->is_used)
            best = x;
    }
    if (!best)
        best = free_place(c, now_s);
    if (best)
        *best = (client){.is_used = true, .peer = *peer};
    return best;
}

/* --- plain answers ---------------------------------------------------------------------------- */

static lx_msg *answer(clients *c, const lx_msg *to, lx_msg_kind kind)
{
    c->out = (lx_msg){.kind = kind, .req = to->req};
    memcpy(c->out.job, to->job, sizeof c->out.job);
    return &c->out;
}

static void ok(clients *c, client *x, const lx_msg *to, const char *text)
{
    lx_msg *msg = answer(c, to, LX_MSG_OK);
    text_put(msg->u.ok.text, sizeof msg->u.ok.text, text);
    tell(c, x, msg, NULL);
}

static void fill_refusal(lx_msg *msg, const lx_err *why, int64_t retry_after_ms)
{
    msg->u.failed.status = (int32_t)why->status;
    text_put(msg->u.failed.text, sizeof msg->u.failed.text, why->message);
    submit_field(msg->u.failed.field, why->message);
    msg->u.failed.retry_after_ms = why->status == LX_EAGAIN ? retry_after_ms : 0;
}

void clients_refuse(clients *c, client *x, const lx_msg *to, const lx_err *why,
                    int64_t retry_after_ms)
{
    lx_msg *msg = answer(c, to, LX_MSG_REFUSED);
    fill_refusal(msg, why, retry_after_ms);
    tell(c, x, msg, NULL);
}

static lx_entry *find_job(clients *c, client *x, const lx_msg *msg)
{
    lx_entry *e = lx_jobs_find(c->o.jobs, msg->job);
    if (e)
        return e;
    lx_err why = {0};
    lx_fail(&why, LX_ECONFIG, "there is no job %s", msg->job);
    lx_msg *no = answer(c, msg, LX_MSG_REFUSED);
    fill_refusal(no, &why, 0);
    text_put(no->u.failed.field, sizeof no->u.failed.field, "job");
    tell(c, x, no, NULL);
    return NULL;
}

/* --- query ------------------------------------------------------------------------------------ */

static void fill_job_info(const lx_entry *e, lx_msg *msg)
{
    const lx_job *job = e->job;
    memcpy(msg->job, job->id, sizeof msg->job);
    msg->attempt = e->attempt;
    msg->u.job_info.state = (int32_t)e->state;
    msg->u.job_info.seed = job->seed;
    msg->u.job_info.width = job->width;
    msg->u.job_info.height = job->height;
    msg->u.job_info.frames = job->frames;
    memcpy(msg->u.job_info.output, job->output, sizeof msg->u.job_info.output);
    text_put(msg->u.job_info.error, sizeof msg->u.job_info.error, e->error);
    text_put(msg->u.job_info.prompt, sizeof msg->u.job_info.prompt, job->prompt);
    msg->u.job_info.submit_s = e->submit_s;
    msg->u.job_info.end_s = e->end_s;
    msg->u.job_info.n_tokens = e->n_tokens;
    msg->u.job_info.n_dropped = e->n_dropped;
    msg->u.job_info.file_bytes = e->file_bytes;
    msg->u.job_info.retries = e->retries;
    msg->u.job_info.n_step_s = e->n_step_s;
    memcpy(msg->u.job_info.step_s, e->step_s, sizeof msg->u.job_info.step_s);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        const lx_part *part = &e->part[kind];
        msg->u.job_info.replica[kind] = part->replica;
        msg->u.job_info.start_s[kind] = part->start_s;
        msg->u.job_info.finish_s[kind] = part->state == LX_PART_DONE ? part->end_s : -1;
        msg->u.job_info.wait_s[kind] = part->wait_s;
        msg->u.job_info.peak_bytes[kind] = part->peak_bytes;
    }
}

static void on_query(clients *c, client *x, const lx_msg *msg, double now_s)
{
    lx_entry *one = NULL;
    if (msg->job[0] && !(one = find_job(c, x, msg)))
        return;
    x->is_listing = true;
    x->list_req = msg->req;
    x->wants_jobs = msg->u.query.want_jobs || one;
    x->wants_stages = msg->u.query.want_stages;
    x->is_one = one != NULL;
    x->cursor = !x->wants_jobs ? NULL : one ? one : lx_jobs_oldest(c->o.jobs);
    x->cursor_serial = x->cursor ? x->cursor->serial : 0;
    x->stage_cursor = x->link_cursor = 0;
    x->moved_s = now_s;
}

static void fill_stage_info(clients *c, lx_stage_kind kind, int replica, lx_msg *msg)
{
    replicas_info(c->o.replicas, kind, replica, msg);
    /* Progress is of what it does now; the last job's is no news. */
    if (strcmp(msg->u.stage_info.state, "ready") == 0) {
        msg->u.stage_info.unit[0] = 0;
        msg->u.stage_info.done = msg->u.stage_info.total = 0;
    }
    /* Two readings of the kernel, one after the other: the peak may be the older. */
    if (msg->u.stage_info.peak_bytes < msg->u.stage_info.rss_bytes)
        msg->u.stage_info.peak_bytes = msg->u.stage_info.rss_bytes;
}

/* The next message of a listing; false: it was the END. */
static bool next_of_listing(clients *c, client *x, double now_s, lx_msg *msg)
{
    *msg = (lx_msg){.kind = LX_MSG_JOB_INFO, .req = x->list_req};
    /* An ended job may have made room for a new one meanwhile: the listing ends there. */
    if (x->cursor && x->cursor->serial == x->cursor_serial) {
        fill_job_info(x->cursor, msg);
        return true;
    }
    for (; x->wants_stages && x->stage_cursor < LX_STAGE_COUNT * LX_LIMIT_REPLICAS;
         x->stage_cursor++) {
        lx_stage_kind kind = (lx_stage_kind)(x->stage_cursor / LX_LIMIT_REPLICAS);
        int replica = x->stage_cursor % LX_LIMIT_REPLICAS;
        if (replica >= c->o.config->stage[kind].n_replicas)
            continue;
        fill_stage_info(c, kind, replica, msg);
        msg->req = x->list_req;
        return true;
    }
    if (x->wants_stages && c->o.links && x->link_cursor < links_count(c->o.links)) {
        links_info(c->o.links, x->link_cursor, msg);
        msg->req = x->list_req;
        return true;
    }
    msg->kind = LX_MSG_END;
    msg->u.end.now_s = now_s;
    msg->u.end.n_queued = lx_jobs_count(c->o.jobs, LX_LIST_QUEUED);
    msg->u.end.n_running = lx_jobs_count(c->o.jobs, LX_LIST_RUNNING);
    snprintf(msg->u.end.state, sizeof msg->u.end.state, "%s", clients_service_state(c));
    return false;
}

static void advance_listing(client *x, const lx_msg *told)
{
    if (told->kind == LX_MSG_JOB_INFO) {
        x->cursor = x->is_one ? NULL : x->cursor->younger;
        x->cursor_serial = x->cursor ? x->cursor->serial : 0;
    } else if (told->kind == LX_MSG_STAGE_INFO) {
        x->stage_cursor++;
    } else if (told->kind == LX_MSG_LINK_INFO) {
        x->link_cursor++;
    }
}

/* As much of the listing as the client takes now. */
static void continue_listing(clients *c, client *x, double now_s)
{
    while (x->is_used && x->is_listing) {
        bool is_more = next_of_listing(c, x, now_s, &c->out), is_full = false;
        if (!tell(c, x, &c->out, &is_full)) {
            if (is_full && now_s - x->moved_s > LISTING_S)
                leave(c, x);
            return;
        }
        x->moved_s = now_s;
        advance_listing(x, &c->out);
        x->is_listing = is_more;
    }
}

/* --- events ----------------------------------------------------------------------------------- */

/* The stage most worth telling: the first that is at work, or the one that is waited for. */
static int telling_stage(const lx_entry *e)
{
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        if (e->part[kind].state == LX_PART_RUNNING)
            return kind;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        if (e->part[kind].state == LX_PART_WAITING)
            return kind;
    return -1;
}

static void fill_event(clients *c, const lx_entry *e, double now_s, lx_msg *msg)
{
    *msg = (lx_msg){.kind = LX_MSG_EVENT, .attempt = e->attempt};
    memcpy(msg->job, e->job->id, sizeof msg->job);
    msg->u.event.now_s = now_s;
    msg->u.event.state = (int32_t)e->state;
    msg->u.event.stage = -1;
    msg->u.event.eta_s = -1;
    if (e->list == LX_LIST_ENDED) {
        msg->u.event.elapsed_s = e->end_s - (e->begin_s > 0 ? e->begin_s : e->submit_s);
        text_put(msg->u.event.text, sizeof msg->u.event.text,
                 e->state == LX_JOB_FAILED ? e->error : e->notice);
        if (e->state == LX_JOB_CANCELLED)
            text_put(msg->u.event.text, sizeof msg->u.event.text, e->error);
        return;
    }
    int kind = telling_stage(e);
    msg->u.event.stage = kind;
    if (e->begin_s > 0)
        msg->u.event.elapsed_s = now_s - e->begin_s;
    msg->u.event.eta_s = route_left_s(c->o.route, e, now_s);
    if (kind < 0)
        return;
    const lx_part *part = &e->part[kind];
    memcpy(msg->u.event.unit, part->unit, sizeof msg->u.event.unit);
    msg->u.event.done = part->done;
    msg->u.event.total = part->total;
    if (part->state == LX_PART_WAITING && replicas_loading(c->o.replicas, (lx_stage_kind)kind,
                                                           &msg->u.event.done, &msg->u.event.total))
        snprintf(msg->u.event.unit, sizeof msg->u.event.unit, "byte");
    uint64_t steps = kind == LX_STAGE_DIT ? (uint64_t)e->job->n_steps : 0;
    if (steps && part->total >= steps) { /* its blocks count through all steps */
        uint64_t step = part->done / (part->total / steps) + 1;
        snprintf(msg->u.event.text, sizeof msg->u.event.text, "step %" PRIu64 "/%" PRIu64,
                 step < steps ? step : steps, steps);
    }
}

static void send_event(clients *c, lx_entry *e, double now_s)
{
    e->is_news = false;
    e->told_s = now_s;
    if (c->n_watching == 0)
        return;
    fill_event(c, e, now_s, &c->out);
    for (int i = 0; i < c->n; i++) {
        client *x = &c->client[i];
        if (!x->is_used || !x->is_watching || (x->watched[0] && strcmp(x->watched, e->job->id)))
            continue;
        bool is_full = false;
        c->out.req = x->watch_req;
        x->n_lost = tell(c, x, &c->out, &is_full) ? 0 : x->n_lost + 1;
        if (x->n_lost > LOST_MAX)
            leave(c, x);
    }
}

void clients_news(clients *c, lx_entry *entry, bool new_state, double now_s)
{
    entry->is_news = true;
    if (new_state)
        send_event(c, entry, now_s);
}

static void on_watch(clients *c, client *x, const lx_msg *msg, double now_s)
{
    lx_entry *one = NULL;
    if (msg->job[0] && !(one = find_job(c, x, msg)))
        return;
    c->n_watching += !x->is_watching;
    x->is_watching = true;
    x->watch_req = msg->req;
    x->n_lost = 0;
    memcpy(x->watched, msg->job, sizeof x->watched);
    ok(c, x, msg, "");
    /* How things stand, so that nobody waits for a change that has already been. */
    if (one && x->is_used) {
        fill_event(c, one, now_s, &c->out);
        c->out.req = x->watch_req;
        tell(c, x, &c->out, NULL);
    }
    for (lx_entry *e = lx_jobs_first(c->o.jobs, LX_LIST_RUNNING); e; e = e->next)
        e->is_news = true;
}

/* --- commands --------------------------------------------------------------------------------- */

static void on_job_command(clients *c, client *x, const lx_msg *msg, double now_s)
{
    lx_err why = {0};
    lx_entry *e = find_job(c, x, msg);
    if (!e)
        return;
    lx_status status;
    if (msg->u.command.command == LX_COMMAND_CANCEL) {
        status = route_cancel(c->o.route, e, now_s, &why);
    } else {
        status = clients_check_retry(c, x, e, &why);
        if (status == LX_OK)
            status = route_retry(c->o.route, e, now_s, &why);
        if (status == LX_OK)
            clients_set_owner(e, &x->peer);
    }
    if (status == LX_OK)
        ok(c, x, msg, lx_job_state_name(e->state));
    else
        clients_refuse(c, x, msg, &why, CLIENTS_BUSY_MS);
}

static void on_command(clients *c, client *x, const lx_msg *msg, double now_s)
{
    service_mode *mode = c->o.mode;
    switch ((lx_command)msg->u.command.command) {
    case LX_COMMAND_HELLO:
        ok(c, x, msg, x->peer.is_remote ? "" : c->o.config->output.dir);
        return;
    case LX_COMMAND_CANCEL:
    case LX_COMMAND_RETRY:
        on_job_command(c, x, msg, now_s);
        return;
    case LX_COMMAND_PAUSE:
    case LX_COMMAND_RELEASE:
        mode->is_paused = true;
        mode->is_released = msg->u.command.command == LX_COMMAND_RELEASE;
        break;
    case LX_COMMAND_RESUME:
        mode->is_paused = mode->is_draining = mode->is_released = false;
        break;
    case LX_COMMAND_DRAIN: /* answered when the last job has ended */
        mode->is_draining = true;
        x->is_draining = true;
        x->drain_req = msg->req;
        LX_I("draining jobs=%d", lx_jobs_live(c->o.jobs));
        return;
    case LX_COMMAND_SHUTDOWN:
        mode->is_stopping = true;
        break;
    case LX_COMMAND_COUNT:
        return;
    }
    route_pause(c->o.route, mode->is_paused);
    ok(c, x, msg, clients_service_state(c));
}

/* --- the loop's side -------------------------------------------------------------------------- */

static void refuse_stranger(clients *c, const lx_peer *peer, const lx_msg *msg)
{
    lx_err why = {0};
    bool is_full;
    lx_fail(&why, LX_EAGAIN, "busy: %d clients are connected (limits.clients)", c->n);
    lx_msg *no = answer(c, msg, LX_MSG_REFUSED);
    fill_refusal(no, &why, CLIENTS_BUSY_MS);
    c->o.send(c->o.self, peer, no, &is_full);
}

void clients_message(clients *c, const lx_peer *peer, const lx_msg *msg, double now_s)
{
    client *x = find_place(c, peer, now_s);
    if (!x) {
        refuse_stranger(c, peer, msg);
        return;
    }
    x->seen_s = now_s;
    if (msg->kind == LX_MSG_SUBMIT)
        clients_on_submit(c, x, msg, now_s);
    else if (msg->kind == LX_MSG_QUERY)
        on_query(c, x, msg, now_s);
    else if (msg->kind == LX_MSG_WATCH)
        on_watch(c, x, msg, now_s);
    else if (msg->kind == LX_MSG_COMMAND)
        on_command(c, x, msg, now_s);
    else
        LX_D("message %s is not a client's", lx_msg_kind_name(msg->kind));
    if (x->is_used && x->is_listing)
        continue_listing(c, x, now_s);
}

double clients_tick(clients *c, double now_s)
{
    double due_s = HUGE_VAL;
    for (lx_entry *e = lx_jobs_first(c->o.jobs, LX_LIST_RUNNING); e; e = e->next) {
        if (!e->is_news)
            continue;
        if (now_s - e->told_s >= EVENT_EVERY_S)
            send_event(c, e, now_s);
        else if (e->told_s + EVENT_EVERY_S < due_s)
            due_s = e->told_s + EVENT_EVERY_S;
    }
    bool is_empty = lx_jobs_live(c->o.jobs) == 0;
    for (int i = 0; i < c->n; i++) {
        client *x = &c->client[i];
        if (x->is_used && x->is_listing) {
            continue_listing(c, x, now_s);
            due_s =
                x->is_listing && now_s + LISTING_STEP_S < due_s ? now_s + LISTING_STEP_S : due_s;
        }
        if (x->is_used && x->is_draining && (is_empty || !c->o.mode->is_draining)) {
            c->out = (lx_msg){.kind = LX_MSG_OK, .req = x->drain_req};
            snprintf(c->out.u.ok.text, sizeof c->out.u.ok.text, "%s",
                     is_empty ? "drained" : "resumed");
            x->is_draining = false;
            tell(c, x, &c->out, NULL);
        }
    }
    return due_s;
}

const char *clients_service_state(const clients *c)
{
    const service_mode *mode = c->o.mode;
    if (mode->is_stopping)
        return "stopping";
    if (replicas_any_parked(c->o.replicas))
        return "degraded";
    return mode->is_draining ? "draining" : mode->is_paused ? "paused" : "running";
}
