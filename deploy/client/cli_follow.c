/*
 * cli_follow.c - waiting for jobs
 * SPDX-License-Identifier: Apache-2.0
 *
 * Events draw the progress; whether a job has ended is asked, not inferred: events may be dropped
 * when a reader lags, answers are not.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "lx_process.h"

#define ASK_EVERY_S 2.0 /* also without an event that says a job has ended */
#define ASK_AT_ONCE 32  /* jobs asked for one by one; more are asked for as a list */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

void cli_catch_interrupt(void)
{
    /* No SA_RESTART: waits shall end. A second one ends the process, whatever it waits for. */
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}

typedef struct follower {
    const cli_follow *f; /* borrowed */
    cli_bar *bar;        /* owned */
    size_t n_left;
    double start_s, asked_s;
    bool must_ask; /* an event said that one has ended */
    lx_status status;
    lx_err *err;
} follower;

static cli_followed *find(follower *w, const char *id)
{
    for (size_t i = 0; i < w->f->n_jobs; i++)
        if (strcmp(w->f->jobs[i].job.id, id) == 0)
            return &w->f->jobs[i];
    return NULL;
}

static bool is_end(lx_client_state state)
{
    return state != LX_CLIENT_QUEUED && state != LX_CLIENT_RUNNING;
}

static void settle(follower *w, cli_followed *one, const lx_client_job *job)
{
    if (one->has_ended)
        return;
    one->job = *job;
    if (!is_end(job->state))
        return;
    one->has_ended = true;
    w->n_left--;
    lx_client_event gone = {.state = job->state};
    memcpy(gone.id, job->id, sizeof gone.id);
    cli_bar_event(w->bar, &gone);
    cli_bar_clear(w->bar);
    lx_err why = {0};
    if (w->f->ended && w->f->ended(w->f->self, job, &why) != LX_OK && w->status == LX_OK)
        w->status = lx_fail(w->err, why.status, "%s", why.message);
}

static void on_job(void *self, const lx_client_job *job)
{
    follower *w = self;
    cli_followed *one = find(w, job->id);
    if (one)
        settle(w, one, job);
}

/* A launcher that was started anew does not know the job: that is its end, too. */
static void on_unknown(follower *w, cli_followed *one)
{
    lx_client_job job = one->job;
    job.state = LX_CLIENT_FAILED;
    snprintf(job.error, sizeof job.error, "the launcher was started again and does not know it");
    settle(w, one, &job);
}

static void ask(follower *w)
{
    lx_client_sink sink = {.job = on_job, .self = w};
    lx_err why = {0};
    w->must_ask = false;
    w->asked_s = lx_now_s();
    if (w->n_left > ASK_AT_ONCE) {
        lx_client_query(w->f->client, NULL, &sink, NULL, &why);
        return;
    }
    for (size_t i = 0; i < w->f->n_jobs; i++) {
        cli_followed *one = &w->f->jobs[i];
        if (one->has_ended)
            continue;
        lx_status status = lx_client_query(w->f->client, one->job.id, &sink, NULL, &why);
        if (status == LX_ECONFIG)
            on_unknown(w, one);
        else if (status != LX_OK)
            return; /* silence is the watch's to judge */
    }
}

static bool on_event(void *self, const lx_client_event *event)
{
    follower *w = self;
    if (event) {
        cli_followed *one = find(w, event->id);
        if (one && !one->has_ended) {
            cli_bar_event(w->bar, event);
            w->must_ask = w->must_ask || is_end(event->state);
        }
    } else {
        if (w->must_ask || lx_now_s() - w->asked_s > ASK_EVERY_S)
            ask(w);
        if (w->f->tick)
            w->f->tick(w->f->self);
        cli_bar_draw(w->bar);
    }
    if (w->n_left == 0 || w->status != LX_OK)
        return false;
    if (cli_interrupted()) {
        w->status = lx_fail(w->err, LX_ECANCEL, "interrupted");
        return false;
    }
    double waited_s = lx_now_s() - w->start_s;
    if (w->f->timeout_s > 0 && waited_s > w->f->timeout_s) {
        w->status = lx_fail(w->err, LX_ETIMEOUT,
                            "%zu of %zu jobs have not ended after %.1f s; "
                            "they go on",
                            w->n_left, w->f->n_jobs, waited_s);
        return false;
    }
    return true;
}

lx_status cli_follow_all(const cli_follow *follow, lx_err *err)
{
    follower w = {.f = follow, .n_left = follow->n_jobs, .start_s = lx_now_s(), .err = err};
    if (!follow->quiet)
        w.bar = cli_bar_open(follow->plain);
    /* One job is watched alone, so that a busy launcher does not tell about all the others. */
    const char *id = follow->n_jobs == 1 ? follow->jobs[0].job.id : NULL;
    lx_status status = lx_client_watch(follow->client, id, on_event, &w, err);
    cli_bar_close(&w.bar);
    return status == LX_OK ? w.status : status;
}

/* --- what came out ---------------------------------------------------------------------------- */

void cli_report(const lx_client_job *job, const char *where)
{
    char total[32], seconds[32], bytes[32], size[32];
    cli_say("%s: %s (%s), %dx%d, %d frames, seed %lld, %s in all", job->id, where,
            cli_bytes(job->file_bytes, size, sizeof size), job->width, job->height, job->frames,
            (long long)job->seed, cli_seconds(job->end_s - job->submit_s, total, sizeof total));
    for (int i = 0; i < LX_CLIENT_STAGES; i++) {
        double start_s = job->stage[i].start_s, end_s = job->stage[i].end_s;
        if (start_s <= 0 || end_s < start_s)
            continue;
        fprintf(stderr, "  %-8s %10s   peak memory %s\n", lx_client_stage_name(i),
                cli_seconds(end_s - start_s, seconds, sizeof seconds),
                cli_bytes(job->stage[i].peak_bytes, bytes, sizeof bytes));
    }
    if (job->n_dropped > 0)
        cli_say("%s: the prompt has %d tokens; the model reads %d, the rest was left out", job->id,
                job->n_tokens + job->n_dropped, job->n_tokens);
}

lx_status cli_verdict(const cli_followed *jobs, size_t n, lx_err *err)
{
    lx_status status = LX_OK;
    for (size_t i = 0; i < n; i++) {
        const lx_client_job *job = &jobs[i].job;
        if (job->state == LX_CLIENT_FAILED)
            return lx_fail(err, LX_EJOB, "%s failed: %s", job->id, job->error);
        if (job->state == LX_CLIENT_CANCELLED && status == LX_OK)
            status = lx_fail(err, LX_ECANCEL, "%s was cancelled", job->id);
    }
    return status;
}
