/*
 * cli_status.c - lx2v status, lx2v list
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct view {
    json_t *jobs, *stages, *links; /* owned; NULL: print as text instead */
    bool is_one;
    int n_jobs;
} view;

/* --- text ------------------------------------------------------------------------------------- */

static const char *current_stage(const lx_client_job *job)
{
    const char *name = "";
    for (int i = 0; job->state == LX_CLIENT_RUNNING && i < LX_CLIENT_STAGES; i++)
        if (job->stage[i].start_s > 0 && job->stage[i].end_s <= 0)
            name = lx_client_stage_name(i);
    return name;
}

static void print_row(const lx_client_job *job)
{
    char size[32], took[32] = "", prompt[64];
    snprintf(size, sizeof size, "%dx%dx%d", job->width, job->height, job->frames);
    if (job->end_s > 0)
        cli_seconds(job->end_s - job->submit_s, took, sizeof took);
    printf("%-12s %-9s %-8s %-13s %10s  %-24s %s\n", job->id, lx_client_state_name(job->state),
           current_stage(job), size, took, job->output,
           cli_safe(job->prompt, prompt, sizeof prompt));
}

static void print_detail(const lx_client_job *job)
{
    char text[2048], seconds[32], bytes[32];
    printf("id       %s\nstate    %s\nsize     %dx%d, %d frames\nseed     %" PRId64
           "\noutput   %s\nprompt   %s\n",
           job->id, lx_client_state_name(job->state), job->width, job->height, job->frames,
           job->seed, job->output, cli_safe(job->prompt, text, sizeof text));
    if (*job->error)
        printf("error    %s\n", cli_safe(job->error, text, sizeof text));
    if (job->retries > 0)
        printf("retries  %" PRIu64 "\n", job->retries);
    for (int i = 0; i < LX_CLIENT_STAGES; i++) {
        double start_s = job->stage[i].start_s, end_s = job->stage[i].end_s;
        if (start_s <= 0)
            continue;
        printf("%-8s began %.1f s after submit, %s, replica %" PRId64 ", peak memory %s\n",
               lx_client_stage_name(i), start_s - job->submit_s,
               end_s > 0 ? cli_seconds(end_s - start_s, seconds, sizeof seconds)
               : job->state == LX_CLIENT_RUNNING ? "at work"
                                                 : "not finished",
               job->stage[i].replica, cli_bytes(job->stage[i].peak_bytes, bytes, sizeof bytes));
    }
}

static void print_stage(const lx_client_stage *stage)
{
    char rss[32], peak[32], units[128] = "", death[512] = "";
    if (stage->total > 0)
        snprintf(units, sizeof units, "  %s %" PRIu64 "/%" PRIu64, stage->unit, stage->done,
                 stage->total);
    if (*stage->text)
        cli_safe(stage->text, death, sizeof death);
    printf("%-8s %2d  %-8s %-7s pid %-8" PRId64 " %s now, %s peak, %" PRIu64 " jobs, %" PRIu64
           " restarts  %s%s\n",
           lx_client_stage_name(stage->stage), stage->replica, stage->state, stage->device,
           stage->pid, cli_bytes(stage->rss_bytes, rss, sizeof rss),
           cli_bytes(stage->peak_bytes, peak, sizeof peak), stage->jobs, stage->restarts,
           stage->job, units);
    if (*death)
        printf("             last death: %s\n", death);
}

/* --- both ------------------------------------------------------------------------------------- */

static void on_job(void *self, const lx_client_job *job)
{
    view *v = self;
    if (v->jobs)
        json_array_append_new(v->jobs, cli_json_job(job));
    else if (v->is_one)
        print_detail(job);
    else
        print_row(job);
    v->n_jobs++;
}

static void on_stage(void *self, const lx_client_stage *stage)
{
    view *v = self;
    if (v->stages)
        json_array_append_new(v->stages, cli_json_stage(stage));
    else
        print_stage(stage);
}

static void on_link(void *self, const lx_client_link *link)
{
    view *v = self;
    char notice[512] = "";
    if (v->links) {
        json_array_append_new(v->links, cli_json_link(link));
        return;
    }
    if (*link->text)
        cli_safe(link->text, notice, sizeof notice);
    printf("link     %s#%d -> %s#%d: ", lx_client_stage_name(link->from), link->from_replica,
           lx_client_stage_name(link->to), link->to_replica);
    if (link->is_tested)
        printf("%s %.2f ms%s%s\n", link->transport, link->ms, *notice ? "; " : "", notice);
    else
        printf("not tested yet\n");
}

static lx_status show(const cli_args *args, bool with_stages, lx_err *err)
{
    lx_client *client = NULL;
    lx_client_summary summary = {0};
    const char *id = args->n_words ? args->words[0] : NULL;
    view v = {.is_one = id != NULL};
    if (args->common.json) {
        v.jobs = json_array();
        v.stages = json_array();
        v.links = json_array();
    }
    lx_client_sink sink = {.job = on_job, .self = &v};
    if (with_stages && (v.jobs || !id)) {
        sink.stage = on_stage;
        sink.link = on_link;
    }
    lx_status status = cli_connect(&client, &args->common, err);
    if (status == LX_OK)
        status = lx_client_query(client, id, &sink, &summary, err);
    if (status == LX_OK && v.jobs) {
        json_t *all = json_pack("{s:f, s:s, s:I, s:I, s:s, s:O}", "now_s", summary.now_s, "state",
                                summary.state, "n_queued", (json_int_t)summary.n_queued,
                                "n_running", (json_int_t)summary.n_running, "output_dir",
                                lx_client_output_dir(client), "jobs", v.jobs);
        if (with_stages) {
            json_object_set(all, "stages", v.stages);
            json_object_set(all, "links", v.links);
        }
        cli_json_print(all);
    } else if (status == LX_OK && !id) {
        printf("%s: %" PRId64 " queued, %" PRId64 " running, %d jobs known\n", summary.state,
               summary.n_queued, summary.n_running, v.n_jobs);
    }
    json_decref(v.jobs);
    json_decref(v.stages);
    json_decref(v.links);
    lx_client_close(&client);
    return status;
}

static lx_status status_or_list(const cli_command *self, int argc, char **argv, bool with_stages,
                                lx_err *err)
{
    cli_args args = {0};
    bool done = false;
    lx_status status = cli_begin(self, &args, argc, argv, NULL, 0, &done, err);
    if (status == LX_OK && !done && args.n_words > (with_stages ? 1 : 0))
        status = lx_fail(err, LX_ECONFIG, "%s: too many words; usage: lx2v %s %s", self->name,
                         self->name, self->usage);
    if (status == LX_OK && !done)
        status = show(&args, with_stages, err);
    free(args.words);
    return status;
}

lx_status cli_status(const cli_command *self, int argc, char **argv, lx_err *err)
{
    return status_or_list(self, argc, argv, true, err);
}

lx_status cli_list(const cli_command *self, int argc, char **argv, lx_err *err)
{
    return status_or_list(self, argc, argv, false, err);
}
