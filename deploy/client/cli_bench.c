/*
 * cli_bench.c - lx2v bench: clips through a pipeline, and what they took
 * SPDX-License-Identifier: Apache-2.0
 *
 * All clips are submitted at once, so that stages overlap as they can. They are this command's own
 * and are removed as they are done; the user's clips and jobs are not touched.
 */
#include "cli_bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cli.h"
#include "cli_own.h"
#include "lx_config.h"
#include "lx_process.h"

#define CLIPS_DEFAULT 4
#define CLIPS_MAX     10000
#define SEED_DEFAULT  42

/* Of the lengths that people write; no two clips of a run have the same one, or the encoder's cache
 * would answer. */
static const char *const prompts[] = {
    "a red ball rolls from left to right over green grass",
    "two cats in boxing gloves fight on a spotlighted stage, the crowd behind them is out of focus",
    "an old steam train crosses a stone bridge in heavy snow, seen from far above, slow camera",
    "close-up of a ferret that leaps into clear water, splashes around the berry bushes nearby",
    "a potter's hands shape a bowl on a turning wheel, warm light from a window on the left",
    "city street at night after rain, neon signs mirrored in puddles, people with umbrellas pass",
    "a hummingbird hovers before a red flower, its wings a blur, soft green background",
    "waves break on black rocks at sunset, long lens, spray against the light",
};
#define N_PROMPTS (sizeof prompts / sizeof *prompts)

typedef struct bench {
    cli_args args;
    const char *clips, *file, *size, *frames, *seed;
    bool own, timeline;
    cli_requests requests;  /* owned */
    cli_followed *followed; /* owned, one per request */
    size_t n_sent, n_ended;
    bool must_look; /* at the processes: one of them may be new */
    lx_client *client;
    cli_own pipeline;
    bench_result result;
} bench;

/* --- what shall be made ----------------------------------------------------------------------- */

static lx_status add_clip(bench *b, const cli_request *like, size_t i, const char *prefix,
                          lx_err *err)
{
    char text[512];
    cli_request *one = NULL;
    /* The second round through the list is another text. */
    snprintf(text, sizeof text, i < N_PROMPTS ? "%s" : "%s, take %zu", prompts[i % N_PROMPTS],
             i / N_PROMPTS + 1);
    lx_status status = cli_requests_add(&b->requests, like, text, &one, err);
    if (status != LX_OK)
        return status;
    snprintf(one->id, sizeof one->id, "%s-%d", prefix, (int)i + 1);
    one->seed = like->seed + (int64_t)i;
    return LX_OK;
}

/* Prompts of a file, from the beginning again when there are not enough. */
static lx_status add_from_file(bench *b, const cli_request *like, size_t n, const char *prefix,
                               lx_err *err)
{
    cli_requests lines = {0};
    lx_status status = cli_requests_read(&lines, b->file, like, err);
    size_t n_all = status == LX_OK && !b->clips ? lines.n : n;
    for (size_t i = 0; i < n_all && status == LX_OK; i++) {
        const cli_request *line = &lines.list[i % lines.n];
        cli_request *one = NULL;
        status = cli_requests_add(&b->requests, line, line->prompt, &one, err);
        if (status != LX_OK)
            break;
        snprintf(one->id, sizeof one->id, "%s-%d", prefix, (int)i + 1);
        one->output[0] = 0;
        one->seed = like->seed + (int64_t)i;
    }
    if (status == LX_OK && b->clips && n > lines.n)
        snprintf(b->result.note, sizeof b->result.note,
                 "%zu prompts for %zu clips: the encoder's cache answers what comes again", lines.n,
                 n);
    cli_requests_free(&lines);
    return status;
}

static lx_status make_requests(bench *b, lx_err *err)
{
    int64_t n = CLIPS_DEFAULT;
    uint32_t drawn = 0;
    char prefix[16];
    cli_request like = {.seed = SEED_DEFAULT};
    if (b->clips && (!lx_parse_i64(b->clips, &n) || n < 1 || n > CLIPS_MAX))
        return lx_fail(err, LX_ECONFIG, "--clips: \"%.32s\" is not accepted; accepted: 1 to %d",
                       b->clips, CLIPS_MAX);
    const char *fields[][2] = {{"size", b->size}, {"frames", b->frames}, {"seed", b->seed}};
    for (size_t i = 0; i < 3; i++)
        if (fields[i][1] && cli_request_set(&like, fields[i][0], fields[i][1], err) != LX_OK)
            return lx_fail(err, LX_ECONFIG, "--%s", err->message);
    if (like.seed < 0 || like.seed > INT64_MAX - CLIPS_MAX)
        return lx_fail(err, LX_ECONFIG,
                       "--seed: a number from 0 that leaves room for one more each clip");
    if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
        return lx_fail(err, LX_ESTAGE, "no random numbers from the system");
    snprintf(prefix, sizeof prefix, "bench-%08" PRIx32, drawn);
    if (b->file)
        return add_from_file(b, &like, (size_t)n, prefix, err);
    lx_status status = LX_OK;
    for (int64_t i = 0; i < n && status == LX_OK; i++)
        status = add_clip(b, &like, (size_t)i, prefix, err);
    return status;
}

/* --- the pipeline ----------------------------------------------------------------------------- */

/* One that runs, or else our own. */
static lx_status find_pipeline(bench *b, lx_err *err)
{
    const cli_common *common = &b->args.common;
    const char *config = common->config ? common->config : "config.yaml";
    if (!b->own) {
        lx_err why = {0};
        if (cli_connect(&b->client, common, &why) == LX_OK)
            return LX_OK;
        bool is_named = common->endpoint || (!common->config && getenv("LX2V_ENDPOINT"));
        if (is_named || why.status != LX_ECONFIG || access(config, F_OK) != 0)
            return lx_fail(err, why.status, "%s", why.message);
    }
    cli_say("starting a pipeline of our own on %s", config);
    lx_status status = cli_own_start(&b->pipeline, config, common->timeout_s, err);
    if (status != LX_OK)
        return status;
    b->result.is_own = true;
    b->result.load_s = b->pipeline.load_s;
    return lx_client_open(&b->client, b->pipeline.endpoint, 10, err);
}

/* --- looking at the processes ----------------------------------------------------------------- */

static void on_stage(void *self, const lx_client_stage *stage)
{
    bench *b = self;
    bench_result *r = &b->result;
    int k = 0;
    while (k < r->n_replicas &&
           (r->replica[k].stage != stage->stage || r->replica[k].replica != stage->replica))
        k++;
    if (k == BENCH_REPLICAS_MAX || stage->stage < 0 || stage->stage >= LX_CLIENT_STAGES)
        return;
    bench_replica *p = &r->replica[k];
    if (k == r->n_replicas) {
        r->n_replicas++;
        *p = (bench_replica){
            .stage = stage->stage, .replica = stage->replica, .restarts_before = stage->restarts};
        memcpy(p->device, stage->device, sizeof p->device);
    }
    p->restarts = stage->restarts - p->restarts_before;
    p->pid = stage->pid;
    cli_meter_add(&r->meter, stage->stage, stage->replica, stage->pid);
}

static lx_status look_at_stages(bench *b, lx_client_summary *summary, lx_err *err)
{
    lx_client_sink sink = {.stage = on_stage, .self = b};
    return lx_client_query(b->client, NULL, &sink, summary, err);
}

static lx_status look_first(bench *b, lx_err *err)
{
    bench_result *r = &b->result;
    lx_client_summary summary = {0};
    lx_status status = look_at_stages(b, &summary, err);
    if (status != LX_OK)
        return status;
    if (summary.n_queued + summary.n_running > 0)
        snprintf(r->note, sizeof r->note,
                 "%" PRId64 " other jobs were in the pipeline: the figures are not of the clips "
                 "alone",
                 summary.n_queued + summary.n_running);
    if (strcmp(summary.state, "paused") == 0)
        return lx_fail(err, LX_EAGAIN, "the pipeline is paused; lx2v resume, or bench --own");
    if (r->n_replicas > 0)
        cli_meter_add(&r->meter, -1, -1, cli_meter_parent(r->replica[0].pid));
    return LX_OK;
}

static void on_tick(void *self)
{
    bench *b = self;
    cli_meter_tick(&b->result.meter);
    if (b->must_look) { /* a stage that was restarted is another process */
        b->must_look = false;
        look_at_stages(b, NULL, NULL);
    }
}

/* --- the run ---------------------------------------------------------------------------------- */

static void remove_clip(const bench *b, const lx_client_job *job)
{
    char path[2 * LX_LIMIT_PATH];
    if (strncmp(job->output, "bench-", 6) != 0 || !*lx_client_output_dir(b->client))
        return;
    snprintf(path, sizeof path, "%s/%s", lx_client_output_dir(b->client), job->output);
    if (unlink(path) != 0) /* or a folder of frames */
        cli_folder_remove(path);
}

static lx_status on_ended(void *self, const lx_client_job *job, lx_err *err)
{
    bench *b = self;
    (void)err;
    b->n_ended++;
    b->must_look = true;
    if (b->n_ended == 1 || b->n_ended == b->n_sent)
        cli_meter_mark(&b->result.meter);
    cli_meter_lap(&b->result.meter);
    if (job->state == LX_CLIENT_DONE)
        remove_clip(b, job);
    else
        cli_say("%s %s%s%s", job->id, lx_client_state_name(job->state), *job->error ? ": " : "",
                job->error);
    return LX_OK;
}

static lx_status submit_all(bench *b, lx_err *err)
{
    for (size_t i = 0; i < b->requests.n; i++) {
        lx_client_request view = cli_request_view(&b->requests.list[i]);
        lx_client_accepted got;
        lx_status status = lx_client_submit(b->client, &view, &got, err);
        if (status == LX_EJOB)
            err->status = status = LX_EAGAIN; /* refused: nothing was begun that could fail */
        if (status != LX_OK)
            return b->requests.n > 1 ? lx_wrap(err, "clip %zu of %zu", i + 1, b->requests.n)
                                     : status;
        memcpy(b->followed[i].job.id, got.id, sizeof got.id);
        b->n_sent++;
        cli_meter_tick(&b->result.meter);
    }
    return LX_OK;
}

static void cancel_rest(bench *b)
{
    for (size_t i = 0; i < b->n_sent; i++)
        if (!b->followed[i].has_ended)
            lx_client_command(b->client, LX_CLIENT_CANCEL, b->followed[i].job.id, 0, NULL);
}

static lx_status follow(bench *b, lx_err *err)
{
    const cli_common *common = &b->args.common;
    cli_follow all = {.client = b->client,
                      .jobs = b->followed,
                      .n_jobs = b->requests.n,
                      .timeout_s = common->timeout_s,
                      .quiet = common->json,
                      .plain = common->no_color,
                      .ended = on_ended,
                      .tick = on_tick,
                      .self = b};
    if (b->requests.n == 1) /* no second clip: energy is from here */
        cli_meter_mark(&b->result.meter);
    lx_status status = submit_all(b, err);
    if (status == LX_OK)
        status = cli_follow_all(&all, err);
    if (status != LX_OK)
        cancel_rest(b);
    return status;
}

static lx_status measure(bench *b, lx_err *err)
{
    bench_result *r = &b->result;
    lx_err why = {0};
    cli_machine_look(&r->machine);
    if (lx_device_probe(&r->cards, NULL, &why) != LX_OK) {
        memset(&r->cards, 0, sizeof r->cards);
        snprintf(r->cards.reason, sizeof r->cards.reason, "%.500s", why.message);
    }
    cli_meter_open(&r->meter, &r->cards); /* before the pipeline: loading counts */
    lx_status status = find_pipeline(b, err);
    if (status == LX_OK)
        status = look_first(b, err);
    if (status == LX_OK)
        status = follow(b, err);
    if (status == LX_OK)
        status = look_at_stages(b, NULL, err);
    cli_meter_close(&r->meter);
    return status;
}

static lx_status tell(bench *b, lx_err *err)
{
    bench_result *r = &b->result;
    lx_client_job *jobs = calloc(b->requests.n, sizeof *jobs);
    if (!jobs)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    for (size_t i = 0; i < b->requests.n; i++)
        jobs[i] = b->followed[i].job;
    r->jobs = jobs;
    r->n_jobs = b->requests.n;
    bench_calculate(r);
    if (b->args.common.json) {
        cli_json_print(bench_json(r));
    } else {
        bench_print(r);
        if (b->timeline)
            bench_timeline(r);
    }
    r->jobs = NULL;
    free(jobs);
    return cli_verdict(b->followed, b->requests.n, err);
}

static lx_status run(bench *b, lx_err *err)
{
    lx_status status = make_requests(b, err);
    for (size_t i = 0; i < b->requests.n && status == LX_OK; i++) {
        lx_client_request view = cli_request_view(&b->requests.list[i]);
        status = lx_client_check(&view, err);
    }
    if (status != LX_OK)
        return status;
    b->followed = calloc(b->requests.n, sizeof *b->followed);
    if (!b->followed)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    cli_catch_interrupt();
    status = measure(b, err);
    return status == LX_OK ? tell(b, err) : status;
}

static lx_status check_words(const bench *b, lx_err *err)
{
    if (b->args.n_words > 0)
        return lx_fail(err, LX_ECONFIG, "bench: \"%.64s\"? Prompts are given as --prompts FILE",
                       b->args.words[0]);
    if (b->own && b->args.common.endpoint)
        return lx_fail(err, LX_ECONFIG, "--own and --endpoint exclude each other");
    if (b->timeline && b->args.common.json)
        return lx_fail(err, LX_ECONFIG,
                       "--timeline and --json exclude each other; `jobs` has the times");
    return LX_OK;
}

lx_status cli_bench(const cli_command *self, int argc, char **argv, lx_err *err)
{
    bench *b = calloc(1, sizeof *b); /* 300 KiB */
    if (!b)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    const cli_flag flags[] = {
        {"clips", 'n', "N", "how many (4); the first is the warm-up", &b->clips, NULL},
        {"prompts", 0, "FILE", "one a line, or .jsonl as for submit; otherwise built-in ones",
         &b->file, NULL},
        {"size", 0, "WxH", "as for submit", &b->size, NULL},
        {"frames", 0, "N", "as for submit", &b->frames, NULL},
        {"seed", 0, "S", "of the first clip (42); the next ones count up", &b->seed, NULL},
        {"own", 0, NULL, "start a pipeline on the config, whether or not one runs", NULL, &b->own},
        {"timeline", 0, NULL, "also draw who worked on which clip when", NULL, &b->timeline},
    };
    bool done = false;
    lx_status status = cli_begin(self, &b->args, argc, argv, flags,
                                 (int)(sizeof flags / sizeof *flags), &done, err);
    if (status == LX_OK && !done)
        status = check_words(b, err);
    if (status == LX_OK && !done)
        status = run(b, err);
    lx_client_close(&b->client);
    cli_own_stop(&b->pipeline);
    cli_requests_free(&b->requests);
    free(b->followed);
    free(b->args.words);
    free(b);
    return status;
}
