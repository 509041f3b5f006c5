/*
 * lx_job.c - what a job may ask for
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every message of a refusal begins with the name of the field, then the value, then what is
 * accepted: it is shown to a person as it is.
 */
#include "lx_job.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "lx_rng.h"
#include "lx_utf8.h"

static const char *const stage_names[] = {
    [LX_STAGE_ENCODER] = "encoder",
    [LX_STAGE_DIT] = "dit",
    [LX_STAGE_VAE] = "vae",
    [LX_STAGE_MUX] = "mux",
};
static_assert(sizeof stage_names / sizeof *stage_names == LX_STAGE_COUNT, "one name per stage");

static const char *const sampler_names[] = {
    [LX_SAMPLER_EULER] = "euler",
    [LX_SAMPLER_LCM] = "lcm",
};
static_assert(sizeof sampler_names / sizeof *sampler_names == LX_SAMPLER_COUNT,
              "one name per sampler");

const char *lx_stage_kind_name(lx_stage_kind kind)
{
    return (unsigned)kind < LX_STAGE_COUNT ? stage_names[kind] : "unknown";
}

const char *lx_sampler_name(lx_sampler sampler)
{
    return (unsigned)sampler < LX_SAMPLER_COUNT ? sampler_names[sampler] : "unknown";
}

bool lx_sampler_parse(const char *name, lx_sampler *out)
{
    for (unsigned i = 0; i < LX_SAMPLER_COUNT; i++)
        if (strcmp(name, sampler_names[i]) == 0) {
            *out = (lx_sampler)i;
            return true;
        }
    return false;
}

void lx_job_latent_dims(const lx_job *job, int64_t *t, int64_t *h, int64_t *w)
{
    *t = ((int64_t)job->frames - 1) / LX_VAE_STRIDE_TIME + 1;
    *h = job->height / LX_VAE_STRIDE;
    *w = job->width / LX_VAE_STRIDE;
}

/* --- size and frames -------------------------------------------------------------------------- */

static lx_status check_side(const char *field, int64_t side, lx_err *err)
{
    if (side < LX_SIZE_MULTIPLE || side > LX_LIMIT_SIDE)
        return lx_fail(err, LX_EJOB, "%s: %" PRId64 " is out of range; accepted: %d to %d pixels",
                       field, side, LX_SIZE_MULTIPLE, LX_LIMIT_SIDE);
    if (side % LX_SIZE_MULTIPLE == 0)
        return LX_OK;
    int64_t below = side - side % LX_SIZE_MULTIPLE;
    return lx_fail(err, LX_EJOB,
                   "%s: %" PRId64 " is not a multiple of %d; the nearest are %" PRId64
                   " and %" PRId64,
                   field, side, LX_SIZE_MULTIPLE, below, below + LX_SIZE_MULTIPLE);
}

lx_status lx_job_check_size(int64_t width, int64_t height, int64_t frames, lx_err *err)
{
    lx_status status = check_side("width", width, err);
    if (status == LX_OK)
        status = check_side("height", height, err);
    if (status != LX_OK)
        return status;
    if (frames < 1 || frames > LX_LIMIT_FRAMES)
        return lx_fail(err, LX_EJOB, "frames: %" PRId64 " is out of range; accepted: 1 to %d",
                       frames, LX_LIMIT_FRAMES);
    if ((frames - 1) % LX_VAE_STRIDE_TIME == 0)
        return LX_OK;
    int64_t below = frames - (frames - 1) % LX_VAE_STRIDE_TIME;
    return lx_fail(err, LX_EJOB,
                   "frames: %" PRId64 " is not of the form 4n+1; the nearest are %" PRId64
                   " and %" PRId64,
                   frames, below, below + LX_VAE_STRIDE_TIME);
}

bool lx_job_size_fits(int32_t width, int32_t height, int32_t limit_width, int32_t limit_height)
{
    return (width <= limit_width && height <= limit_height) ||
           (height <= limit_width && width <= limit_height);
}

/* --- words ------------------------------------------------------------------------------------ */

static bool is_letter_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* 1 to limit characters, letters, digits and those in `also`. */
static bool word_ok(const char *text, size_t limit, const char *also)
{
    size_t n = strnlen(text, limit + 1);
    if (n == 0 || n > limit)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!is_letter_or_digit(text[i]) && !strchr(also, text[i]))
            return false;
    return true;
}

bool lx_job_output_name_ok(const char *name)
{
    return word_ok(name, LX_LIMIT_NAME, "._-") && name[0] != '.' && name[0] != '-';
}

static lx_status check_prompt(const char *prompt, lx_err *err)
{
    size_t n = strnlen(prompt, LX_LIMIT_PROMPT + 1);
    if (n == 0)
        return lx_fail(err, LX_EJOB, "prompt: is empty");
    if (n > LX_LIMIT_PROMPT)
        return lx_fail(err, LX_EJOB, "prompt: more than %d bytes", LX_LIMIT_PROMPT);
    size_t bad = lx_utf8_bad(prompt, n);
    if (bad < n)
        return lx_fail(err, LX_EJOB, "prompt: not UTF-8 at byte %zu (0x%02x)", bad,
                       (unsigned char)prompt[bad]);
    return LX_OK;
}

/* --- sampling --------------------------------------------------------------------------------- */

lx_status lx_job_check_rng(const char *rng, lx_err *err)
{
    lx_rng parsed;
    if (strnlen(rng, LX_LIMIT_WORD) == LX_LIMIT_WORD)
        return lx_fail(err, LX_EJOB, "rng: longer than %d bytes", LX_LIMIT_WORD - 1);
    lx_err why = {0};
    if (lx_rng_parse(rng, &parsed, &why) == LX_OK)
        return LX_OK;
    /* Its own message begins with the word too. */
    const char *rest = strncmp(why.message, "rng ", 4) == 0 ? why.message + 4 : why.message;
    return lx_fail(err, LX_EJOB, "rng: %s", rest);
}

lx_status lx_job_check_steps(const int32_t *steps, int64_t n, lx_err *err)
{
    if (n < 1 || n > LX_LIMIT_STEPS)
        return lx_fail(err, LX_EJOB, "steps: %" PRId64 " entries; accepted: 1 to %d", n,
                       LX_LIMIT_STEPS);
    for (int64_t i = 0; i < n; i++) {
        if (steps[i] < 1 || steps[i] > 1000)
            return lx_fail(err, LX_EJOB, "steps: %" PRId32 " is out of range; accepted: 1 to 1000",
                           steps[i]);
        if (i > 0 && steps[i] >= steps[i - 1])
            return lx_fail(err, LX_EJOB,
                           "steps: %" PRId32 " after %" PRId32
                           "; each must be below the one before",
                           steps[i], steps[i - 1]);
    }
    return LX_OK;
}

static lx_status check_real(const char *field, double value, double low, double high, lx_err *err)
{
    if (isfinite(value) && value >= low && value <= high)
        return LX_OK;
    return lx_fail(err, LX_EJOB, "%s: %g is out of range; accepted: %g to %g", field, value, low,
                   high);
}

lx_status lx_job_check(const lx_job *job, lx_err *err)
{
    if (!word_ok(job->id, LX_LIMIT_ID, "_-"))
        return lx_fail(err, LX_EJOB, "id: accepted: 1 to %d of A-Z a-z 0-9 _ -", LX_LIMIT_ID);
    if (!lx_job_output_name_ok(job->output))
        return lx_fail(err, LX_EJOB,
                       "output: accepted: a file name of 1 to %d of A-Z a-z 0-9 . _ - that does "
                       "not begin with a dot or a dash",
                       LX_LIMIT_NAME);
    lx_status status = check_prompt(job->prompt, err);
    if (status == LX_OK)
        status = lx_job_check_size(job->width, job->height, job->frames, err);
    if (status == LX_OK)
        status = check_real("fps", job->fps, LX_JOB_FPS_MIN, LX_JOB_FPS_MAX, err);
    if (status == LX_OK)
        status = check_real("shift", job->shift, LX_JOB_SHIFT_MIN, LX_JOB_SHIFT_MAX, err);
    if (status == LX_OK)
        status = lx_job_check_steps(job->steps, job->n_steps, err);
    if (status == LX_OK)
        status = lx_job_check_rng(job->rng, err);
    if (status != LX_OK)
        return status;
    if (job->seed < LX_SEED_DRAW)
        return lx_fail(err, LX_EJOB,
                       "seed: %" PRId64 " is out of range; accepted: 0 to %" PRId64
                       ", or -1 to have one drawn",
                       job->seed, INT64_MAX);
    if (job->sampler < 0 || job->sampler >= LX_SAMPLER_COUNT)
        return lx_fail(err, LX_EJOB, "sampler: %" PRId32 " is unknown; accepted: euler, lcm",
                       job->sampler);
    return LX_OK;
}
