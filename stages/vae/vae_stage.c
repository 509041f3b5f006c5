/*
 * vae_stage.c - the decoder behind the launcher: one replica and its jobs
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_copy.h"
#include "lx_cuda_share.h"
#include "lx_device.h"
#include "lx_log.h"
#include "vae.h"
#include "weights/lx_model_dir.h"

/* Of the card: frames are made; a chunk is in its slot. */
enum { EVENT_MADE, EVENT_OUT };

struct vae_stage {
    vae *model;                  /* owned */
    lx_stage *stage;             /* borrowed */
    lx_cuda_share *share;        /* owned; NULL on the CPU */
    const lx_progress *progress; /* borrowed from the lx_stage */
};

vae_clip vae_largest_of(const lx_config *config)
{
    lx_job job = {.width = config->limits.width,
                  .height = config->limits.height,
                  .frames = config->limits.frames};
    vae_clip clip = {
        .chunk = config->vae.chunk, .tile_h = config->vae.tile_h, .tile_w = config->vae.tile_w};
    lx_job_latent_dims(&job, &clip.frames, &clip.height, &clip.width);
    return clip;
}

/* 4 frames per latent, no more than there are. */
uint64_t vae_slot_bytes(const vae_clip *clip)
{
    int64_t frames = vae_frame_count(clip->frames), chunk = clip->chunk * LX_VAE_STRIDE_TIME;
    int64_t pixels = clip->height * clip->width * LX_VAE_STRIDE * LX_VAE_STRIDE;
    return (uint64_t)(chunk < frames ? chunk : frames) * (uint64_t)pixels * 3 / 2;
}

static lx_status take_device(void *self, lx_err *err)
{
    return vae_take(self, err);
}

static void give_device(void *self)
{
    vae_give(self);
}

/* On a card memory may have to be waited for, and comes and goes in turn with other stages. */
static lx_status hold_device(vae *model, lx_stage *stage, const char *device, lx_err *err)
{
    lx_stage_arena arena = {
        .take = take_device, .give = give_device, .self = model, .bytes = vae_planned_bytes(model)};
    VAE_TRY(lx_device_find(&arena.card, device, err));
    VAE_TRY(lx_stage_hold(stage, &arena, err));
    if (!lx_stage_takes_turns(stage))
        vae_keep_memory(model);
    return LX_OK;
}

static lx_status open_on(vae_stage *s, lx_stage *stage, lx_err *err)
{
    const lx_config *config = lx_stage_config_of(stage);
    lx_model_paths paths;
    s->progress = lx_stage_progress(stage);
    s->stage = stage;
    VAE_TRY(lx_model_of_config(&paths, config, err));
    vae_options options = {.weights = paths.vae,
                           .device = lx_stage_replica(stage)->device,
                           .threads = lx_stage_replica(stage)->threads,
                           .largest = vae_largest_of(config),
                           .turns = true,
                           .lends = true,
                           .accumulate = lx_stage_replica(stage)->accumulate,
                           .progress = s->progress};
    uint64_t vram = lx_stage_vram(stage); /* of the process; the arena is what is left of it */
    uint64_t beside = VAE_CONTEXT + lx_cuda_share_bytes(0, 0);
    if (!lx_device_is_card(options.device))
        options.budget = config->memory.ram;
    else if (vram)
        options.budget = vram > beside ? vram - beside : 1;
    options.is_deferred = lx_device_is_card(options.device);
    if (vae_open(&s->model, &options, err) != LX_OK) {
        /* A card's memory is planned by the launcher: what is missing there, others have. */
        if (!err || err->status != LX_EAGAIN || options.is_deferred)
            return lx_wrap(err, "stages.vae");
        err->status = LX_ECONFIG; /* trying again would not help: a person must act */
        return lx_wrap(err, "stages.vae (memory.ram, vae.tile, limits.size and limits.frames in "
                            "config.yaml say how much it may need)");
    }
    if (options.is_deferred)
        VAE_TRY(hold_device(s->model, stage, options.device, err));
    const vae_clip *clip = vae_largest(s->model);
    if (vae_exec(s->model)->cuda) {
        VAE_TRY(lx_cuda_share_open(&s->share, vae_exec(s->model)->cuda, err));
        lx_stage_on_card(stage, lx_cuda_share_device(s->share));
    }
    VAE_TRY(lx_stage_lends(stage, config->links.depth, vae_slot_bytes(clip), err));
    LX_I("%s width=%" PRId64 " chunk=%" PRId64 " piece=%" PRId64 " tile=%" PRId64 "x%" PRId64
         " sums=%s",
         lx_exec_describe(vae_exec(s->model)), vae_decoder_dims(vae_decoder_of(s->model))->width[0],
         clip->chunk, clip->piece, clip->tile_h, clip->tile_w, vae_sums_name(s->model));
    return LX_OK;
}

lx_status vae_stage_open(vae_stage **out, lx_stage *stage, lx_err *err)
{
    vae_stage *s = calloc(1, sizeof *s);
    if (!s)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a stage");
    lx_status status = open_on(s, stage, err);
    if (status != LX_OK) {
        vae_stage_destroy(&s);
        return status;
    }
    *out = s;
    return LX_OK;
}

void vae_stage_destroy(vae_stage **stage)
{
    if (!stage || !*stage)
        return;
    if ((*stage)->stage)
        lx_stage_leave_card((*stage)->stage);
    lx_cuda_share_close(&(*stage)->share);
    vae_destroy(&(*stage)->model);
    free(*stage);
    *stage = NULL;
}

const vae *vae_stage_model(const vae_stage *stage)
{
    return stage->model;
}

/* --- one job --------------------------------------------------------------------------------- */

typedef struct lending {
    lx_stage_job *job;
    lx_exec *x;
    bool is_tiled; /* room->i420 has the clip */
    vae_room room;
    lx_tensor slot; /* the chunk being filled, or on its way from the card */
    int64_t n_lent; /* frames handed on so far */
    int half;       /* of room->i420: where the card writes the next chunk */
    int64_t n_out;  /* frames of the chunk that is on its way; 0: none */
} lending;

static lx_status lend_chunk(lending *l, const lx_colour_args *clip, int64_t frames, lx_err *err)
{
    lx_shape shape = LX_SHAPE(frames, clip->out_height * 3 / 2, clip->out_width);
    return lx_stage_lend(l->job, LX_DTYPE_U8, &shape, &l->slot, err);
}

static lx_status publish_chunk(lending *l, int64_t frames, int64_t of, lx_err *err)
{
    l->n_lent += frames;
    return lx_stage_publish(l->job, l->n_lent == of, err);
}

/* --- frames of a card: one chunk is copied into its slot while the next is made --------------- */

/* Hand on the chunk that is on its way, once it is there. */
static lx_status arrive(lending *l, int64_t of, lx_err *err)
{
    int64_t frames = l->n_out;
    l->n_out = 0;
    if (!frames)
        return LX_OK;
    VAE_TRY(lx_cuda_reached(l->x->cuda, EVENT_OUT, err));
    return publish_chunk(l, frames, of, err);
}

/* What is queued so far makes `frames` at `from`: let them follow it into a slot. */
static lx_status depart(lending *l, const lx_colour_args *clip, const uint8_t *from, int64_t frames,
                        lx_err *err)
{
    size_t bytes = (size_t)(frames * clip->out_height * clip->out_width * 3 / 2);
    VAE_TRY(lx_cuda_mark(l->x->cuda, EVENT_MADE, LX_CUDA_COMPUTE, err));
    VAE_TRY(lx_cuda_after(l->x->cuda, EVENT_MADE, LX_CUDA_COPY, err));
    VAE_TRY(arrive(l, clip->out_frames, err));
    VAE_TRY(lend_chunk(l, clip, frames, err));
    VAE_TRY(lx_cuda_copy_out(l->x->cuda, l->slot.data, from, bytes, err));
    l->n_out = frames; /* from here on the slot is written to */
    return lx_cuda_mark(l->x->cuda, EVENT_OUT, LX_CUDA_COPY, err);
}

/* A job that failed leaves no copy into a slot that others will use. */
static lx_status settle(lending *l, lx_status status)
{
    if (l->n_out)
        (void)lx_cuda_reached(l->x->cuda, EVENT_OUT, NULL);
    l->n_out = 0;
    return status;
}

/* --- frames as they come ---------------------------------------------------------------------- */

/* Where the card makes a chunk: at its place, where there is room for the clip, else in a half. */
static uint8_t *chunk_on_card(const lending *l, const lx_colour_args *clip, int64_t first)
{
    size_t frame = (size_t)(clip->out_height * clip->out_width * 3 / 2);
    return l->room.i420 +
           (l->is_tiled ? (size_t)first * frame : (size_t)l->half * l->room.i420_bytes);
}

/* Whole frames of a chunk: on the CPU straight into the slot, on a card beside it. */
static lx_status take_whole(lending *l, const vae_frames *frames, lx_err *err)
{
    lx_colour_args args = frames->place;
    lx_colour_args clip = args;
    int64_t end = frames->chunk_first + frames->chunk_frames;
    bool is_host = lx_exec_is_host(l->x), ends_chunk = args.out_frame + args.in->frames == end;
    if (is_host && args.out_frame == frames->chunk_first)
        VAE_TRY(lend_chunk(l, &args, frames->chunk_frames, err));
    args.out_frame -= frames->chunk_first;
    args.out_frames = frames->chunk_frames;
    uint8_t *to = is_host ? l->slot.data : chunk_on_card(l, &clip, frames->chunk_first);
    VAE_TRY(lx_colour_i420(l->x, &args, to, err));
    if (!ends_chunk)
        return LX_OK;
    if (is_host)
        return publish_chunk(l, frames->chunk_frames, clip.out_frames, err);
    l->half = !l->half;
    return depart(l, &clip, to, frames->chunk_frames, err);
}

static lx_status take_frames(void *self, const vae_frames *frames, lx_err *err)
{
    lending *l = self;
    const lx_colour_args *args = &frames->place;
    bool is_part = args->height < args->out_height || args->width < args->out_width;
    return l->is_tiled && is_part ? lx_colour_i420(l->x, args, l->room.i420, err)
                                  : take_whole(l, frames, err);
}

/* The clip that tiles made, in the same chunks as without tiles. */
static lx_status lend_clip(lending *l, const vae_clip *clip, lx_err *err)
{
    int64_t of = vae_frame_count(clip->frames), done = 0;
    lx_colour_args size = {.out_frames = of,
                           .out_height = clip->height * LX_VAE_STRIDE,
                           .out_width = clip->width * LX_VAE_STRIDE};
    size_t frame = (size_t)(size.out_height * size.out_width * 3 / 2);
    for (int64_t t = 0; t < clip->frames && done < of; t += clip->chunk) {
        int64_t until = t + clip->chunk < clip->frames ? t + clip->chunk : clip->frames;
        int64_t frames = vae_frame_count(until) - done;
        const uint8_t *from = l->room.i420 + (size_t)done * frame;
        done += frames;
        if (!lx_exec_is_host(l->x)) {
            VAE_TRY(depart(l, &size, from, frames, err));
            continue;
        }
        VAE_TRY(lend_chunk(l, &size, frames, err));
        VAE_TRY(lx_download(l->x, l->slot.data, from, (size_t)frames * frame, err));
        VAE_TRY(publish_chunk(l, frames, of, err));
    }
    return LX_OK;
}

static lx_status read_clip(const vae_stage *s, lx_stage_job *job, vae_clip *clip, lx_err *err)
{
    const lx_job *params = lx_stage_job_of(job);
    lx_dtype dtype;
    lx_shape shape;
    char text[128];
    const vae_clip *largest = vae_largest(s->model);
    VAE_TRY(lx_job_check_size(params->width, params->height, params->frames, err));
    bool is_turned = (params->height > params->width) != (largest->height > largest->width);
    *clip = is_turned ? vae_turned(largest) : *largest; /* tiles lie as planned for it */
    lx_job_latent_dims(params, &clip->frames, &clip->height, &clip->width);
    VAE_TRY(lx_stage_input_shape(job, &dtype, &shape, err));
    lx_shape want = LX_SHAPE(LX_LATENT_CHANNELS, clip->frames, clip->height, clip->width);
    if (dtype != LX_DTYPE_F32 || !lx_shape_equal(&shape, &want))
        return lx_fail(err, LX_EJOB,
                       "latent is %s %s, a clip of %" PRId32 "x%" PRId32 " with %" PRId32
                       " frames has F32 [%d, %" PRId64 ", %" PRId64 ", %" PRId64 "]",
                       lx_dtype_name(dtype), lx_shape_text(&shape, text, sizeof text),
                       params->width, params->height, params->frames, LX_LATENT_CHANNELS,
                       clip->frames, clip->height, clip->width);
    return LX_OK;
}

static lx_status borrow_latent(vae_stage *s, lx_stage_job *job, const vae_clip *clip,
                               const vae_room *room, lx_err *err)
{
    if (!s->share) {
        VAE_TRY(lx_stage_borrow(job, room->latent, room->latent_bytes, err));
        return vae_latent_check(room->latent, clip, err);
    }
    VAE_TRY(lx_stage_borrow_on_card(job, room->latent, room->latent_bytes, err));
    return vae_latent_check_on(vae_exec(s->model), room->latent, clip, err);
}

static lx_status decode(vae_stage *s, lending *l, const vae_clip *clip, lx_err *err)
{
    vae_sink sink = {.frames = take_frames, .self = l};
    const vae_room *room = &l->room;
    VAE_TRY(
        vae_decode(vae_decoder_of(s->model), l->x, clip, room->latent, &sink, s->progress, err));
    if (l->is_tiled && l->n_lent == 0 && l->n_out == 0)
        VAE_TRY(lend_clip(l, clip, err));
    return arrive(l, vae_frame_count(clip->frames), err);
}

static lx_status work(vae_stage *s, lx_stage_job *job, lx_err *err)
{
    vae_clip clip;
    lending l = {.job = job, .x = vae_exec(s->model)};
    VAE_TRY(read_clip(s, job, &clip, err));
    VAE_TRY(vae_room_take(l.x, &clip, true, &l.room, err));
    l.is_tiled = clip.tile_h > 0;
    VAE_TRY(borrow_latent(s, job, &clip, &l.room, err));
    return settle(&l, decode(s, &l, &clip, err));
}

/* Memory of the host beside the card's; on the CPU they are one. */
static size_t host_mark(const lx_exec *x)
{
    return x->host == x->arena ? 0 : lx_arena_mark(x->host);
}

lx_status vae_on_job(void *self, lx_stage_job *job, lx_err *err)
{
    vae_stage *s = self;
    lx_exec *x = vae_exec(s->model);
    size_t mark = lx_arena_mark(x->arena), host = host_mark(x);
    lx_status status = work(s, job, err);
    lx_arena_reset(x->arena, mark);
    if (x->host != x->arena)
        lx_arena_reset(x->host, host);
    return status;
}
