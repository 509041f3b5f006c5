/*
 * encoder_stage.c - the encoder behind the launcher: one replica and its jobs
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "encoder.h"
#include "lx_device.h"
#include "lx_log.h"
#include "lx_plan.h"
#include "weights/lx_model_dir.h"

static lx_status take_device(void *self, lx_err *err)
{
    return encoder_take(self, err);
}

static void give_device(void *self)
{
    encoder_give(self);
}

/* On a card memory may have to be waited for, and comes and goes in turn with other stages. */
static lx_status hold_device(encoder *e, lx_stage *stage, const char *device, lx_err *err)
{
    lx_stage_arena arena = {
        .take = take_device, .give = give_device, .self = e, .bytes = encoder_planned_bytes(e)};
    lx_status status = lx_device_find(&arena.card, device, err);
    return status == LX_OK ? lx_stage_hold(stage, &arena, err) : status;
}

static lx_status open_model(encoder **out, lx_stage *stage, const lx_model_paths *paths,
                            lx_err *err)
{
    const lx_config *config = lx_stage_config_of(stage);
    encoder_options options = {.weights = paths->text,
                               .tokenizer = paths->tokenizer,
                               .cache_entries = config->encoder.cache_entries,
                               .device = lx_stage_replica(stage)->device,
                               .n_threads = lx_stage_replica(stage)->threads,
                               .progress = lx_stage_progress(stage),
                               .is_lending = true};
    if (lx_stage_wants_twins(config, LX_STAGE_ENCODER))
        options.n_twins = config->links.depth;
    options.residency = lx_stage_replica(stage)->residency;
    options.pinned = config->memory.pinned;
    options.shared_fd = lx_stage_shared_fd(stage);
    uint64_t vram = lx_stage_vram(stage); /* of the process; the arena is what is not context */
    if (vram && lx_device_is_card(options.device))
        options.max_bytes = vram > LX_PLAN_CONTEXT ? vram - LX_PLAN_CONTEXT : 1;
    encoder *e = NULL;
    options.is_deferred = lx_device_is_card(options.device);
    lx_status status = encoder_open(&e, &options, err);
    if (status != LX_OK)
        return status;
    if (options.is_deferred)
        status = hold_device(e, stage, options.device, err);
    uint64_t bytes = ENCODER_TEXT_LEN * (uint64_t)umt5_dims(encoder_model(e))->dim * sizeof(float);
    if (status == LX_OK)
        status = encoder_join(e, stage, err);
    if (status == LX_OK)
        status = lx_stage_lends_on_card(stage, config->links.depth, bytes, err);
    if (status == LX_OK)
        status = encoder_warm_up(e, err);
    if (status == LX_EJOB) { /* no job is at fault here */
        err->status = status = LX_ECONFIG;
        lx_wrap(err, "self-test");
    }
    if (status != LX_OK) {
        encoder_close(&e);
        return status;
    }
    const lx_t5_dims *d = umt5_dims(encoder_model(e));
    LX_I("%s layers=%" PRId64 " dim=%" PRId64 " vocab=%" PRId64 " cache_entries=%d device_mib=%.1f",
         encoder_describe(e), d->n_layers, d->dim, d->vocab, options.cache_entries,
         (double)encoder_arena_bytes(e) / 0x1p20);
    *out = e;
    return LX_OK;
}

lx_status encoder_stage_open(encoder **out, lx_stage *stage, lx_err *err)
{
    const lx_config *config = lx_stage_config_of(stage);
    lx_model_paths paths;
    lx_status status = lx_model_of_config(&paths, config, err);
    return status == LX_OK ? open_model(out, stage, &paths, err) : status;
}

/* --- one job ---------------------------------------------------------------------------------- */

lx_status encoder_on_job(void *self, lx_stage_job *job, lx_err *err)
{
    encoder *e = self;
    const lx_job *params = lx_stage_job_of(job);
    const size_t bytes = strlen(params->prompt);
    encoder_prompt prompt;
    encoder_context context;
    char notice[LX_LIMIT_TEXT];
    lx_status status = encoder_tokens(e, params->prompt, bytes, &prompt, err);
    if (status != LX_OK)
        return status;
    lx_stage_note_tokens(job, prompt.counts.n, prompt.counts.n_dropped);
    encoder_notice(&prompt, notice, sizeof notice);
    if (notice[0]) {
        LX_W("job=%s %s", params->id, notice);
        lx_stage_note(job, notice);
    }
    status = encoder_encode(e, prompt.ids, prompt.counts.n, &context, err);
    if (status != LX_OK)
        return status;
    LX_I("job=%s prompt_bytes=%zu tokens=%d cached=%d", params->id, bytes, prompt.counts.n,
         context.was_cached);
    lx_tensor lent;
    lx_shape shape = LX_SHAPE(context.n, context.dim);
    status = lx_stage_lend(job, LX_DTYPE_F32, &shape, &lent, err);
    if (status != LX_OK)
        return status;
    memcpy(lent.data, context.rows, (size_t)context.n * (size_t)context.dim * sizeof(float));
    return lx_stage_publish(job, true, err);
}
