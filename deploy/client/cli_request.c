/*
 * cli_request.c - one job as it is typed, field by field
 * SPDX-License-Identifier: Apache-2.0
 *
 * Zero means "not said" to the launcher, so a typed 0 is refused here and never passed on.
 */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "lx_config.h"

/* Refusals of lx_job.h are the job's fault; typed here they are the user's. */
static lx_status as_usage(lx_status status, lx_err *err)
{
    if (status == LX_OK)
        return LX_OK;
    if (err)
        err->status = LX_ECONFIG;
    return LX_ECONFIG;
}

static lx_status set_frames(cli_request *r, const char *text, lx_err *err)
{
    int64_t frames;
    if (!lx_parse_i64(text, &frames))
        return lx_fail(err, LX_ECONFIG,
                       "frames: \"%.32s\" is no number; accepted: 4n+1, such as 81", text);
    lx_status status = lx_job_check_size(LX_SIZE_MULTIPLE, LX_SIZE_MULTIPLE, frames, err);
    if (status == LX_OK)
        r->frames = (int32_t)frames;
    return as_usage(status, err);
}

static lx_status set_size(cli_request *r, const char *text, lx_err *err)
{
    int32_t width, height;
    if (lx_parse_size(text, &width, &height, err) != LX_OK)
        return lx_wrap(err, "size");
    lx_status status = lx_job_check_size(width, height, 1, err);
    if (status == LX_OK) {
        r->width = width;
        r->height = height;
        return LX_OK;
    }
    lx_wrap(err, "size");
    return as_usage(status, err);
}

static lx_status set_seed(cli_request *r, const char *text, lx_err *err)
{
    int64_t seed;
    if (!lx_parse_i64(text, &seed) || seed < LX_SEED_DRAW)
        return lx_fail(err, LX_ECONFIG,
                       "seed: \"%.32s\" is not accepted; accepted: 0 to 9223372036854775807, or -1 "
                       "to have one drawn",
                       text);
    r->seed = seed;
    return LX_OK;
}

static lx_status set_real(double *out, const char *field, const char *text, double low, double high,
                          lx_err *err)
{
    double value;
    if (!lx_parse_real(text, &value) || value < low || value > high)
        return lx_fail(err, LX_ECONFIG, "%s: \"%.32s\" is not accepted; accepted: %g to %g", field,
                       text, low, high);
    *out = value;
    return LX_OK;
}

static lx_status set_sampler(cli_request *r, const char *text, lx_err *err)
{
    lx_sampler sampler;
    if (!lx_sampler_parse(text, &sampler))
        return lx_fail(err, LX_ECONFIG, "sampler: \"%.32s\" is unknown; accepted: euler, lcm",
                       text);
    snprintf(r->sampler, sizeof r->sampler, "%s", text);
    return LX_OK;
}

static lx_status set_rng(cli_request *r, const char *text, lx_err *err)
{
    lx_status status = lx_job_check_rng(text, err);
    if (status == LX_OK)
        snprintf(r->rng, sizeof r->rng, "%s", text);
    return as_usage(status, err);
}

static lx_status set_id(cli_request *r, const char *text, lx_err *err)
{
    size_t n = strlen(text);
    if (n == 0 || n > LX_LIMIT_ID ||
        strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != n)
        return lx_fail(err, LX_ECONFIG,
                       "id: \"%.48s\" is not accepted; accepted: 1 to %d of A-Z a-z 0-9 _ -", text,
                       LX_LIMIT_ID);
    memcpy(r->id, text, n + 1);
    return LX_OK;
}

static lx_status set_name(cli_request *r, const char *text, lx_err *err)
{
    if (!lx_job_output_name_ok(text))
        return lx_fail(err, LX_ECONFIG,
                       "name: \"%.64s\" is not accepted; accepted: a file name of 1 to %d of A-Z "
                       "a-z 0-9 . _ - without leading dot or dash (-o takes paths)",
                       text, LX_LIMIT_NAME);
    snprintf(r->output, sizeof r->output, "%s", text);
    return LX_OK;
}

lx_status cli_request_set(cli_request *r, const char *field, const char *text, lx_err *err)
{
    if (strcmp(field, "size") == 0)
        return set_size(r, text, err);
    if (strcmp(field, "frames") == 0)
        return set_frames(r, text, err);
    if (strcmp(field, "seed") == 0)
        return set_seed(r, text, err);
    if (strcmp(field, "steps-list") == 0) {
        if (lx_parse_steps(text, r->steps, &r->n_steps, err) == LX_OK)
            return LX_OK;
        return lx_wrap(err, "steps-list");
    }
    if (strcmp(field, "shift") == 0)
        return set_real(&r->shift, field, text, LX_JOB_SHIFT_MIN, LX_JOB_SHIFT_MAX, err);
    if (strcmp(field, "fps") == 0)
        return set_real(&r->fps, field, text, LX_JOB_FPS_MIN, LX_JOB_FPS_MAX, err);
    if (strcmp(field, "sampler") == 0)
        return set_sampler(r, text, err);
    if (strcmp(field, "rng") == 0)
        return set_rng(r, text, err);
    if (strcmp(field, "id") == 0)
        return set_id(r, text, err);
    if (strcmp(field, "name") == 0)
        return set_name(r, text, err);
    static const char *const known[] = {"prompt",  "size", "frames", "seed", "steps-list", "shift",
                                        "sampler", "rng",  "fps",    "id",   "name"};
    const char *near = lx_nearest(field, known, sizeof known / sizeof *known);
    return lx_fail(err, LX_ECONFIG,
                   "%.64s: unknown%s%s%s; known: prompt, size, frames, seed, steps-list, shift, "
                   "sampler, rng, fps, id, name",
                   field, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

lx_client_request cli_request_view(const cli_request *r)
{
    return (lx_client_request){
        .id = *r->id ? r->id : NULL,
        .prompt = r->prompt,
        .width = r->width,
        .height = r->height,
        .frames = r->frames,
        .fps = r->fps,
        .seed = r->seed,
        .sampler = *r->sampler ? r->sampler : NULL,
        .shift = r->shift,
        .n_steps = r->n_steps,
        .steps = r->steps,
        .rng = *r->rng ? r->rng : NULL,
        .output = *r->output ? r->output : NULL,
    };
}

lx_status cli_requests_add(cli_requests *all, const cli_request *like, const char *prompt,
                           cli_request **out, lx_err *err)
{
    if (all->n == all->room) {
        if (all->n >= LX_LIMIT_QUEUE)
            return lx_fail(err, LX_ECONFIG, "more than %d jobs in one go", LX_LIMIT_QUEUE);
        size_t room = all->room ? 2 * all->room : 16;
        cli_request *list = realloc(all->list, room * sizeof *list);
        if (!list)
            return lx_fail(err, LX_EAGAIN, "out of memory for %zu jobs", room);
        all->list = list;
        all->room = room;
    }
    cli_request *r = &all->list[all->n];
    *r = *like;
    r->prompt = strdup(prompt);
    if (!r->prompt)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    all->n++;
    if (out)
        *out = r;
    return LX_OK;
}

void cli_requests_free(cli_requests *all)
{
    for (size_t i = 0; i < all->n; i++)
        free(all->list[i].prompt);
    free(all->list);
    *all = (cli_requests){0};
}
