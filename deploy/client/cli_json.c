/*
 * cli_json.c - the shapes that docs/json.md describes
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "cli.h"
#include "lx_utf8.h"

json_t *cli_json_text(const char *text)
{
    char clean[4096];
    size_t n = strlen(text), used = 0;
    if (lx_utf8_bad(text, n) == n)
        return json_string(text);
    /* Only file names can be this: everything from the wire was checked. */
    for (size_t i = 0; i < n && used + 1 < sizeof clean; i++)
        clean[used++] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
    clean[used] = 0;
    return json_string(clean);
}

/* A time, or null for "has not happened". */
static json_t *time_or_null(double seconds)
{
    return seconds > 0 && isfinite(seconds) ? json_real(seconds) : json_null();
}

json_t *cli_json_job(const lx_client_job *job)
{
    json_t *stages = json_array();
    for (int i = 0; i < LX_CLIENT_STAGES; i++) {
        if (job->stage[i].replica < 0 || job->stage[i].start_s <= 0)
            continue;
        json_array_append_new(
            stages, json_pack("{s:s, s:I, s:o, s:o, s:f, s:I}", "name", lx_client_stage_name(i),
                              "replica", (json_int_t)job->stage[i].replica, "start_s",
                              time_or_null(job->stage[i].start_s), "end_s",
                              time_or_null(job->stage[i].end_s), "wait_s", job->stage[i].wait_s,
                              "peak_bytes", (json_int_t)job->stage[i].peak_bytes));
    }
    json_t *steps = json_array();
    for (int i = 0; i < job->n_step_s && i < LX_CLIENT_STEPS_MAX; i++)
        json_array_append_new(steps, json_real(job->step_s[i]));
    bool is_done = job->state == LX_CLIENT_DONE;
    return json_pack(
        "{s:s, s:s, s:I, s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:I, s:I}",
        "id", job->id, "state", lx_client_state_name(job->state), "seed", (json_int_t)job->seed,
        "width", job->width, "height", job->height, "frames", job->frames, "prompt",
        cli_json_text(job->prompt), "stages", stages, "step_s", steps, "output",
        cli_json_text(job->output), "error", *job->error ? cli_json_text(job->error) : json_null(),
        "submit_s", time_or_null(job->submit_s), "end_s", time_or_null(job->end_s), "n_tokens",
        job->n_tokens, "n_dropped", job->n_dropped, "file_bytes",
        (json_int_t)(is_done ? job->file_bytes : 0), "retries", (json_int_t)job->retries);
}

json_t *cli_json_stage(const lx_client_stage *stage)
{
    return json_pack("{s:s, s:i, s:s, s:s, s:I, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}",
                     "name", lx_client_stage_name(stage->stage), "replica", stage->replica, "state",
                     stage->state, "device", stage->device, "pid", (json_int_t)stage->pid, "job",
                     *stage->job ? cli_json_text(stage->job) : json_null(), "unit", stage->unit,
                     "done", (json_int_t)stage->done, "total", (json_int_t)stage->total,
                     "rss_bytes", (json_int_t)stage->rss_bytes, "peak_bytes",
                     (json_int_t)stage->peak_bytes, "restarts", (json_int_t)stage->restarts, "jobs",
                     (json_int_t)stage->jobs, "last_death",
                     *stage->text ? cli_json_text(stage->text) : json_null());
}

json_t *cli_json_link(const lx_client_link *link)
{
    return json_pack("{s:s, s:i, s:s, s:i, s:o, s:o, s:o}", "from",
                     lx_client_stage_name(link->from), "from_replica", link->from_replica, "to",
                     lx_client_stage_name(link->to), "to_replica", link->to_replica, "transport",
                     link->is_tested ? json_string(link->transport) : json_null(), "ms",
                     link->is_tested ? json_real(link->ms) : json_null(), "notice",
                     *link->text ? cli_json_text(link->text) : json_null());
}

json_t *cli_json_event(const lx_client_event *event)
{
    return json_pack("{s:f, s:s, s:s, s:o, s:s, s:I, s:I, s:f, s:o, s:o}", "now_s", event->now_s,
                     "id", event->id, "state", lx_client_state_name(event->state), "stage",
                     event->stage >= 0 ? json_string(lx_client_stage_name(event->stage))
                                       : json_null(),
                     "unit", event->unit, "done", (json_int_t)event->done, "total",
                     (json_int_t)event->total, "elapsed_s", event->elapsed_s, "eta_s",
                     event->eta_s >= 0 ? json_real(event->eta_s) : json_null(), "text",
                     *event->text ? cli_json_text(event->text) : json_null());
}

void cli_json_print(json_t *value)
{
    /* Enough digits that a sum of stage times is not off in the microseconds. */
    json_dumpf(value, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
    putchar('\n');
    fflush(stdout);
    json_decref(value);
}
