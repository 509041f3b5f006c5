/*
 * vae.c - a loaded decoder with its memory
 * SPDX-License-Identifier: Apache-2.0
 */
#include "vae.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_device.h"
#include "lx_log.h"
#include "lx_patch.h"

struct vae {
    vae_decoder *decoder; /* owned */
    lx_cuda *cuda;        /* owned; NULL on the CPU */
    lx_arena *arena;      /* owned; memory of the device */
    lx_arena *host;       /* owned; NULL on the CPU */
    lx_exec x;
    lx_weights *weights; /* owned; NULL once packed for good */
    vae_plan plan;
    int threads;
    bool keeps_weights, is_tested;
    vae_clip largest;
    char weights_id[LX_LIMIT_WORD];
    uint64_t weight_bytes;
};

static lx_status look_at_frames(void *self, const vae_frames *frames, lx_err *err)
{
    const lx_image *in = frames->place.in;
    int64_t bad;
    VAE_TRY(lx_find_nonfinite(self, in->data, in->frames * in->height * in->width * in->channels,
                              &bad, err));
    return bad < 0 ? LX_OK
                   : lx_fail(err, LX_ECONFIG,
                             "the decoder makes frames that are not finite from a latent of zeros");
}

/* Two latents of two by two: every weight is read once, every kernel runs. */
static lx_status self_test(vae *model, lx_err *err)
{
    static const float zeros[LX_LATENT_CHANNELS * 2 * 2 * 2] = {0};
    const vae_clip *l = &model->largest;
    const float *latent;
    vae_clip tiny = {.frames = l->frames < 2 ? l->frames : 2,
                     .height = l->height < 2 ? l->height : 2,
                     .width = l->width < 2 ? l->width : 2,
                     .chunk = 1,
                     .piece = l->piece};
    vae_sink sink = {.frames = look_at_frames, .self = &model->x};
    size_t mark = lx_arena_mark(model->arena);
    lx_status status = vae_latent_place(&model->x, &tiny, zeros, &latent, err);
    if (status == LX_OK)
        status = vae_decode(model->decoder, &model->x, &tiny, latent, &sink, NULL, err);
    lx_arena_reset(model->arena, mark);
    return status;
}

/* Both arenas, as planned, and the exec on them. */
static lx_status take_memory(vae *model, lx_err *err)
{
    const vae_plan *plan = &model->plan;
    if (!model->cuda) {
        VAE_TRY(lx_arena_create(&model->arena, (size_t)plan->total_bytes, err));
        return lx_exec_open_cpu(&model->x, model->arena, model->threads, err);
    }
    VAE_TRY(lx_cuda_arena(model->cuda, (size_t)plan->total_bytes, &model->arena, err));
    VAE_TRY(lx_arena_create(&model->host, (size_t)plan->host_bytes, err));
    VAE_TRY(lx_exec_open_cuda(&model->x, model->cuda, model->arena, model->host, err));
    model->x.sums = plan->sums;
    return LX_OK;
}

lx_status vae_take(vae *model, lx_err *err)
{
    lx_status status = take_memory(model, err);
    if (status == LX_OK)
        status = vae_decoder_load(&model->decoder, &model->x, model->weights, err);
    if (status == LX_OK && !model->is_tested) {
        status = self_test(model, err);
        if (status != LX_OK)
            lx_wrap(err, "self-test of %s", lx_weights_path(model->weights));
        model->is_tested = status == LX_OK; /* else, if it is tried again, so is this */
    }
    if (status != LX_OK)
        vae_give(model);
    else if (!model->keeps_weights)
        lx_weights_close(&model->weights); /* packed by now */
    return status;
}

void vae_give(vae *model)
{
    vae_decoder_destroy(&model->decoder);
    lx_arena_destroy(&model->host);
    lx_arena_destroy(&model->arena);
}

static lx_status plan_all(vae *model, const vae_options *o, lx_err *err)
{
    const lx_card_kind *card = model->cuda ? lx_cuda_card(model->cuda) : NULL;
    const vae_plan *plan = &model->plan;
    VAE_TRY(vae_plan_memory(model->weights, o, card, &model->plan, err));
    model->largest = o->largest;
    model->largest.piece = plan->piece;
    model->largest.tile_h = plan->tile_h;
    model->largest.tile_w = plan->tile_w;
    model->weight_bytes = plan->weight_bytes;
    model->threads = o->threads;
    model->keeps_weights = o->is_deferred;
    snprintf(model->weights_id, sizeof model->weights_id, "%s", lx_weights_id(model->weights));
    return LX_OK;
}

lx_status vae_open(vae **out, const vae_options *options, lx_err *err)
{
    lx_weights_options reading = {.progress = options->progress, .wants = lx_catalog_vae_wants};
    int card = LX_DEVICE_CPU;
    VAE_TRY(lx_device_find(&card, options->device ? options->device : "cpu", err));
    vae *model = calloc(1, sizeof *model);
    if (!model)
        return lx_fail(err, LX_EAGAIN, "out of memory for the decoder's record");
    lx_status status = LX_OK;
    if (card != LX_DEVICE_CPU)
        status = lx_cuda_open(&model->cuda, card, NULL, err);
    if (status == LX_OK)
        status = lx_weights_open(&model->weights, options->weights, &reading, err);
    if (status == LX_OK)
        status = plan_all(model, options, err);
    if (status == LX_OK && !options->is_deferred)
        status = vae_take(model, err);
    if (status != LX_OK)
        vae_destroy(&model);
    else
        *out = model;
    return status;
}

void vae_keep_memory(vae *model)
{
    model->keeps_weights = false;
    lx_weights_close(&model->weights);
}

uint64_t vae_planned_bytes(const vae *model)
{
    return model->plan.total_bytes;
}

void vae_destroy(vae **model)
{
    if (!model || !*model)
        return;
    vae_give(*model);
    lx_weights_close(&(*model)->weights);
    lx_cuda_close(&(*model)->cuda);
    free(*model);
    *model = NULL;
}

vae_decoder *vae_decoder_of(vae *model)
{
    return model->decoder;
}

lx_exec *vae_exec(vae *model)
{
    return &model->x;
}

const vae_clip *vae_largest(const vae *model)
{
    return &model->largest;
}

const char *vae_weights_id(const vae *model)
{
    return model->weights_id;
}

const char *vae_sums_name(const vae *model)
{
    return lx_accumulate_names[model->plan.sums == LX_SUMS_F16 ? LX_ACCUMULATE_FP16
                                                               : LX_ACCUMULATE_FP32];
}

uint64_t vae_weight_bytes(const vae *model)
{
    return model->weight_bytes;
}

uint64_t vae_arena_bytes(const vae *model)
{
    return lx_arena_bytes(model->arena);
}
