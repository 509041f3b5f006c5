/*
 * lx_client_wire.c - requests become messages, messages become facts
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_client_wire.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "lx_share_device.h"

static_assert(LX_CLIENT_STAGES == LX_STAGE_COUNT, "the stages of a clip");
static_assert(LX_CLIENT_STEPS_MAX == LX_LIMIT_STEPS, "the steps of a clip");
static_assert((int)LX_CLIENT_QUEUED == LX_JOB_QUEUED && (int)LX_CLIENT_DONE == LX_JOB_DONE &&
                  (int)LX_CLIENT_CANCELLED == LX_JOB_CANCELLED,
              "states are passed on by number");

/* Ten letters and digits, 49 random bits; the first is a letter, so that an id is never taken for
 * a flag or a number. */
static lx_status draw_id(char id[LX_LIMIT_ID + 1], lx_err *err)
{
    static const char alphabet[] = "abcdefghijkmnpqrstuvwxyz23456789"; /* without l, o, 0, 1 */
    enum { LETTERS = 24, ALL = 32, LENGTH = 10 };
    static_assert(sizeof alphabet - 1 == ALL, "five bits a character");
    unsigned char random[LENGTH];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return lx_fail(err, LX_ESTAGE, "no random numbers from the system: %s", strerror(errno));
    for (int i = 0; i < LENGTH; i++)
        id[i] = alphabet[random[i] % (i == 0 ? LETTERS : ALL)];
    id[LENGTH] = 0;
    return LX_OK;
}

static lx_status put(char *out, size_t out_bytes, const char *text, const char *field, lx_err *err)
{
    size_t n = text ? strlen(text) : 0;
    if (n >= out_bytes)
        return lx_fail(err, LX_ECONFIG, "%s: %zu bytes; at most %zu", field, n, out_bytes - 1);
    if (n > 0)
        memcpy(out, text, n);
    out[n] = 0;
    return LX_OK;
}

static lx_status fill(lx_job *job, const lx_client_request *r, lx_err *err)
{
    if (put(job->id, sizeof job->id, r->id, "id", err) != LX_OK ||
        put(job->prompt, sizeof job->prompt, r->prompt, "prompt", err) != LX_OK ||
        put(job->rng, sizeof job->rng, r->rng, "rng", err) != LX_OK ||
        put(job->output, sizeof job->output, r->output, "name", err) != LX_OK)
        return LX_ECONFIG;
    if (!job->id[0] && draw_id(job->id, err) != LX_OK)
        return LX_ESTAGE;
    lx_sampler sampler;
    job->sampler = -1;
    if (r->sampler) {
        if (!lx_sampler_parse(r->sampler, &sampler))
            return lx_fail(err, LX_ECONFIG, "sampler: \"%.32s\" is unknown; accepted: euler, lcm",
                           r->sampler);
        job->sampler = (int32_t)sampler;
    }
    if (r->n_steps < 0 || r->n_steps > LX_LIMIT_STEPS || (r->n_steps > 0 && !r->steps))
        return lx_fail(err, LX_ECONFIG, "steps: %d entries; accepted: up to %d", (int)r->n_steps,
                       LX_LIMIT_STEPS);
    if (r->n_steps > 0)
        memcpy(job->steps, r->steps, (size_t)r->n_steps * sizeof *r->steps);
    job->n_steps = r->n_steps;
    job->width = r->width;
    job->height = r->height;
    job->frames = r->frames;
    job->fps = r->fps;
    job->seed = r->seed;
    job->shift = r->shift;
    return LX_OK;
}

/* What is unset is checked as something valid, so that only what the user said can be wrong. */
static lx_status check(const lx_job *job, lx_err *err)
{
    lx_job full = *job;
    if ((full.width == 0) != (full.height == 0))
        return lx_fail(err, LX_ECONFIG, "size: width and height belong together");
    if (full.width == 0)
        full.width = full.height = LX_SIZE_MULTIPLE;
    if (full.frames == 0)
        full.frames = 1;
    if (full.fps == 0)
        full.fps = LX_JOB_FPS_MIN;
    if (full.shift == 0)
        full.shift = LX_JOB_SHIFT_MIN;
    if (full.n_steps == 0)
        full.steps[0] = full.n_steps = 1;
    if (full.sampler < 0)
        full.sampler = LX_SAMPLER_EULER;
    if (!full.rng[0])
        snprintf(full.rng, sizeof full.rng, "lx2v");
    if (!full.output[0])
        snprintf(full.output, sizeof full.output, "x");
    if (lx_job_check(&full, err) == LX_OK)
        return LX_OK;
    if (err)
        err->status = LX_ECONFIG;
    return LX_ECONFIG;
}

lx_status lx_wire_submit(lx_msg *msg, const lx_client_request *request, lx_err *err)
{
    memset(msg, 0, sizeof *msg);
    msg->kind = LX_MSG_SUBMIT;
    lx_status status = fill(&msg->u.work.job, request, err);
    if (status == LX_OK)
        status = check(&msg->u.work.job, err);
    if (status == LX_OK)
        memcpy(msg->job, msg->u.work.job.id, sizeof msg->job);
    return status;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Same size on both sides is not required: the shorter one decides. */
static void copy(char *out, size_t out_bytes, const char *text)
{
    snprintf(out, out_bytes, "%s", text);
}

void lx_wire_job(lx_client_job *out, const lx_msg *msg)
{
    memset(out, 0, sizeof *out);
    copy(out->id, sizeof out->id, msg->job);
    out->state = (lx_client_state)msg->u.job_info.state;
    out->seed = msg->u.job_info.seed;
    out->width = msg->u.job_info.width;
    out->height = msg->u.job_info.height;
    out->frames = msg->u.job_info.frames;
    copy(out->output, sizeof out->output, msg->u.job_info.output);
    copy(out->error, sizeof out->error, msg->u.job_info.error);
    copy(out->prompt, sizeof out->prompt, msg->u.job_info.prompt);
    out->submit_s = msg->u.job_info.submit_s;
    out->end_s = msg->u.job_info.end_s;
    out->n_tokens = msg->u.job_info.n_tokens;
    out->n_dropped = msg->u.job_info.n_dropped;
    out->file_bytes = msg->u.job_info.file_bytes;
    out->retries = msg->u.job_info.retries;
    for (int i = 0; i < LX_CLIENT_STAGES; i++) {
        out->stage[i].replica = msg->u.job_info.replica[i];
        out->stage[i].start_s = msg->u.job_info.start_s[i];
        out->stage[i].end_s = msg->u.job_info.finish_s[i];
        out->stage[i].wait_s = msg->u.job_info.wait_s[i];
        out->stage[i].peak_bytes = msg->u.job_info.peak_bytes[i];
    }
    out->n_step_s = msg->u.job_info.n_step_s;
    memcpy(out->step_s, msg->u.job_info.step_s, sizeof out->step_s);
}

void lx_wire_stage(lx_client_stage *out, const lx_msg *msg)
{
    memset(out, 0, sizeof *out);
    out->stage = msg->u.stage_info.stage;
    out->replica = msg->u.stage_info.replica;
    copy(out->state, sizeof out->state, msg->u.stage_info.state);
    copy(out->device, sizeof out->device, msg->u.stage_info.device);
    out->pid = msg->u.stage_info.pid;
    copy(out->job, sizeof out->job, msg->job);
    copy(out->unit, sizeof out->unit, msg->u.stage_info.unit);
    out->done = msg->u.stage_info.done;
    out->total = msg->u.stage_info.total;
    out->rss_bytes = msg->u.stage_info.rss_bytes;
    out->peak_bytes = msg->u.stage_info.peak_bytes;
    out->restarts = msg->u.stage_info.restarts;
    out->jobs = msg->u.stage_info.jobs;
    copy(out->text, sizeof out->text, msg->u.stage_info.text);
}

void lx_wire_link(lx_client_link *out, const lx_msg *msg)
{
    memset(out, 0, sizeof *out);
    out->from = msg->u.link_info.from;
    out->from_replica = msg->u.link_info.from_replica;
    out->to = msg->u.link_info.to;
    out->to_replica = msg->u.link_info.to_replica;
    out->is_tested = msg->u.link_info.is_tested != 0;
    copy(out->transport, sizeof out->transport,
         lx_transport_name((lx_transport)msg->u.link_info.transport));
    out->ms = msg->u.link_info.ms;
    copy(out->text, sizeof out->text, msg->u.link_info.text);
}

void lx_wire_event(lx_client_event *out, const lx_msg *msg)
{
    memset(out, 0, sizeof *out);
    copy(out->id, sizeof out->id, msg->job);
    out->now_s = msg->u.event.now_s;
    out->state = (lx_client_state)msg->u.event.state;
    out->stage = msg->u.event.stage;
    copy(out->unit, sizeof out->unit, msg->u.event.unit);
    out->done = msg->u.event.done;
    out->total = msg->u.event.total;
    out->elapsed_s = msg->u.event.elapsed_s;
    out->eta_s = msg->u.event.eta_s;
    copy(out->text, sizeof out->text, msg->u.event.text);
}

void lx_wire_accepted(lx_client_accepted *out, const lx_msg *msg)
{
    memset(out, 0, sizeof *out);
    copy(out->id, sizeof out->id, msg->job);
    out->seed = msg->u.accepted.seed;
    out->ahead = msg->u.accepted.ahead;
    out->is_new = msg->u.accepted.is_new != 0;
    copy(out->output, sizeof out->output, msg->u.accepted.output);
    copy(out->notice, sizeof out->notice, msg->u.accepted.notice);
}

void lx_wire_summary(lx_client_summary *out, const lx_msg *msg)
{
    memset(out, 0, sizeof *out);
    out->now_s = msg->u.end.now_s;
    out->n_queued = msg->u.end.n_queued;
    out->n_running = msg->u.end.n_running;
    copy(out->state, sizeof out->state, msg->u.end.state);
}
