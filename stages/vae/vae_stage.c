/*
 * vae_stage.c - the decoder behind the launcher: one replica and its jobs
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lx_copy.h"
#include "lx_device.h"
#include "lx_log.h"
#include "vae.h"
#include "weights/lx_model_dir.h"

struct vae_stage {
    vae *model;                  /* owned */
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

static lx_status open_on(vae_stage *s, lx_stage *stage, lx_err *err)
{
    const lx_config *config = lx_stage_config_of(stage);
    lx_model_paths paths;
    s->progress = lx_stage_progress(stage);
    VAE_TRY(lx_model_of_config(&paths, config, err));
    vae_options options = {.weights = paths.vae,
                           .device = lx_stage_replica(stage)->device,
                           .threads = lx_stage_replica(stage)->threads,
                           .largest = vae_largest_of(config),
                           .turns = true,
                           .lends = true,
                           .progress = s->progress};
    uint64_t vram = lx_stage_vram(stage); /* of the process; the arena is what is not context */
    if (!lx_device_is_card(options.device))
        options.budget = config->memory.ram;
    else if (vram)
        options.budget = vram > VAE_CONTEXT ? vram - VAE_CONTEXT : 1;
    if (vae_open(&s->model, &options, err) != LX_OK) {
        if (!err || err->status != LX_EAGAIN)
            return lx_wrap(err, "stages.vae");
        err->status = LX_ECONFIG; /* trying again would not help: a person must act */
        return lx_wrap(err, "stages.vae (memory.ram, vae.tile, limits.size and limits.frames in "
                            "config.yaml say how much it may need)");
    }
    const vae_clip *clip = vae_largest(s->model);
    VAE_TRY(lx_stage_lends(stage, config->links.depth, vae_slot_bytes(clip), err));
    LX_I("%s width=%" PRId64 " chunk=%" PRId64 " piece=%" PRId64 " tile=%" PRId64 "x%" PRId64,
         lx_exec_describe(vae_exec(s->model)), vae_decoder_dims(vae_decoder_of(s->model))->width[0],
         clip->chunk, clip->piece, clip->tile_h, clip->tile_w);
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
    lx_tensor slot; /* the chunk being filled */
    int64_t n_lent; /* frames handed on so far */
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

/* Whole frames of a chunk: on the CPU straight into the slot, on a card into a chunk of its own. */
static lx_status take_whole(lending *l, const vae_frames *frames, lx_err *err)
{
    lx_colour_args args = frames->place;
    int64_t of = args.out_frames, end = frames->chunk_first + frames->chunk_frames;
    bool is_host = lx_exec_is_host(l->x), ends_chunk = args.out_frame + args.in->frames == end;
    if (args.out_frame == frames->chunk_first)
        VAE_TRY(lend_chunk(l, &args, frames->chunk_frames, err));
    args.out_frame -= frames->chunk_first;
    args.out_frames = frames->chunk_frames;
    VAE_TRY(lx_colour_i420(l->x, &args, is_host ? l->slot.data : l->room.i420, err));
    if (ends_chunk && !is_host)
        VAE_TRY(lx_download(l->x, l->slot.data, l->room.i420,
                            (size_t)(args.out_frames * args.out_height * args.out_width * 3 / 2),
                            err));
    return ends_chunk ? publish_chunk(l, frames->chunk_frames, of, err) : LX_OK;
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
    int64_t of = vae_frame_count(clip->frames);
    lx_colour_args size = {.out_height = clip->height * LX_VAE_STRIDE,
                           .out_width = clip->width * LX_VAE_STRIDE};
    size_t frame = (size_t)(size.out_height * size.out_width * 3 / 2);
    for (int64_t t = 0; t < clip->frames && l->n_lent < of; t += clip->chunk) {
        int64_t until = t + clip->chunk < clip->frames ? t + clip->chunk : clip->frames;
        int64_t frames = vae_frame_count(until) - l->n_lent;
        VAE_TRY(lend_chunk(l, &size, frames, err));
        VAE_TRY(lx_download(l->x, l->slot.data, l->room.i420 + (size_t)l->n_lent * frame,
                            (size_t)frames * frame, err));
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

static lx_status work(vae_stage *s, lx_stage_job *job, lx_err *err)
{
    vae_clip clip;
    lending l = {.job = job, .x = vae_exec(s->model)};
    vae_sink sink = {.frames = take_frames, .self = &l};
    vae_room *room = &l.room;
    VAE_TRY(read_clip(s, job, &clip, err));
    VAE_TRY(vae_room_take(l.x, &clip, true, room, err));
    l.is_tiled = clip.tile_h > 0;
    VAE_TRY(lx_stage_borrow(job, room->latent_host, room->latent_bytes, err));
    VAE_TRY(vae_latent_check(room->latent_host, &clip, err));
    VAE_TRY(lx_upload(l.x, room->latent, room->latent_host, room->latent_bytes, err));
    VAE_TRY(
        vae_decode(vae_decoder_of(s->model), l.x, &clip, room->latent, &sink, s->progress, err));
    return l.n_lent == 0 ? lend_clip(&l, &clip, err) : LX_OK;
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
