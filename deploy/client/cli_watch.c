/*
 * cli_watch.c - lx2v watch, lx2v wait
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* Fills in the jobs by their ids, so that a mistyped one is an error before any waiting. */
static void keep_job(void *self, const lx_client_job *job)
{
    *(lx_client_job *)self = *job;
}

static lx_status look_up(lx_client *client, const cli_args *args, cli_followed *jobs, lx_err *err)
{
    for (int i = 0; i < args->n_words; i++) {
        lx_client_sink sink = {.job = keep_job, .self = &jobs[i].job};
        lx_status status = lx_client_query(client, args->words[i], &sink, NULL, err);
        if (status != LX_OK)
            return status;
        for (int k = 0; k < i; k++)
            if (strcmp(jobs[k].job.id, jobs[i].job.id) == 0)
                return lx_fail(err, LX_ECONFIG, "%s: given twice", args->words[i]);
    }
    return LX_OK;
}

static lx_status tell_end(void *self, const lx_client_job *job, lx_err *err)
{
    char where[8192];
    (void)err;
    if (job->state == LX_CLIENT_DONE) {
        cli_clip_path(self, job, where, sizeof where);
        cli_report(job, where);
    } else {
        cli_say("%s %s%s%s", job->id, lx_client_state_name(job->state), *job->error ? ": " : "",
                job->error);
    }
    return LX_OK;
}

/* Wait for the jobs on the command line. */
static lx_status wait_for(const cli_args *args, bool quiet, lx_err *err)
{
    lx_client *client = NULL;
    size_t n = (size_t)args->n_words;
    cli_followed *jobs = calloc(n, sizeof *jobs);
    if (!jobs)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    lx_status status = cli_connect(&client, &args->common, err);
    if (status == LX_OK)
        status = look_up(client, args, jobs, err);
    if (status == LX_OK) {
        cli_follow follow = {.client = client,
                             .jobs = jobs,
                             .n_jobs = n,
                             .timeout_s = args->common.timeout_s,
                             .quiet = quiet,
                             .plain = args->common.no_color,
                             .ended = args->common.json ? NULL : tell_end,
                             .self = client};
        cli_catch_interrupt();
        status = cli_follow_all(&follow, err);
        if (status == LX_OK)
            status = cli_verdict(jobs, n, err);
        else if (status == LX_ECANCEL)
            lx_fail(err, status, "interrupted; the job goes on (lx2v cancel %s)", jobs[0].job.id);
        if (args->common.json) {
            json_t *list = json_array();
            for (size_t i = 0; i < n; i++)
                json_array_append_new(list, cli_json_job(&jobs[i].job));
            cli_json_print(
                json_pack("{s:s, s:o}", "output_dir", lx_client_output_dir(client), "jobs", list));
        }
    }
    lx_client_close(&client);
    free(jobs);
    return status;
}

lx_status cli_wait(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    bool done = false;
    lx_status status = cli_begin(self, &args, argc, argv, NULL, 0, &done, err);
    if (status == LX_OK && !done && args.n_words == 0)
        status = lx_fail(err, LX_ECONFIG, "wait: for which job? lx2v list names them");
    if (status == LX_OK && !done)
        status = wait_for(&args, true, err);
    free(args.words);
    return status;
}

/* --- watch ------------------------------------------------------------------------------------ */

typedef struct watcher {
    cli_bar *bar; /* owned; NULL with --json */
    bool is_one;  /* one job: watch until it has ended */
    lx_client_state last;
    char text[1024];
} watcher;

static bool on_event(void *self, const lx_client_event *event)
{
    watcher *w = self;
    if (!event) {
        cli_bar_draw(w->bar);
        return !cli_interrupted();
    }
    if (!w->bar)
        cli_json_print(cli_json_event(event));
    cli_bar_event(w->bar, event);
    bool is_end = event->state != LX_CLIENT_QUEUED && event->state != LX_CLIENT_RUNNING;
    if (is_end && w->bar) {
        char seconds[32];
        cli_bar_clear(w->bar);
        cli_say("%s %s after %s%s%s", event->id, lx_client_state_name(event->state),
                cli_seconds(event->elapsed_s, seconds, sizeof seconds), *event->text ? ": " : "",
                event->text);
    }
    if (is_end && w->is_one) {
        w->last = event->state;
        memcpy(w->text, event->text, sizeof w->text);
        return false;
    }
    return !cli_interrupted();
}

static lx_status watch(const cli_args *args, lx_err *err)
{
    lx_client *client = NULL;
    const char *id = args->n_words ? args->words[0] : NULL;
    watcher w = {.is_one = id != NULL, .last = LX_CLIENT_RUNNING};
    lx_status status = cli_connect(&client, &args->common, err);
    if (status != LX_OK)
        return status;
    if (!args->common.json)
        w.bar = cli_bar_open(args->common.no_color);
    cli_catch_interrupt();
    status = lx_client_watch(client, id, on_event, &w, err);
    cli_bar_close(&w.bar);
    lx_client_close(&client);
    if (status != LX_OK)
        return status;
    if (cli_interrupted())
        return lx_fail(err, LX_ECANCEL, "interrupted; jobs go on");
    if (w.last == LX_CLIENT_FAILED)
        return lx_fail(err, LX_EJOB, "%s failed: %s", id, w.text);
    if (w.last == LX_CLIENT_CANCELLED)
        return lx_fail(err, LX_ECANCEL, "%s was cancelled", id);
    return LX_OK;
}

lx_status cli_watch(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    bool done = false;
    lx_status status = cli_begin(self, &args, argc, argv, NULL, 0, &done, err);
    if (status == LX_OK && !done && args.n_words > 1)
        status = lx_fail(err, LX_ECONFIG, "watch: one job, or none for all");
    if (status == LX_OK && !done && args.n_words == 1 && !args.common.json)
        status = wait_for(&args, false, err); /* the same, with progress */
    else if (status == LX_OK && !done)
        status = watch(&args, err);
    free(args.words);
    return status;
}
