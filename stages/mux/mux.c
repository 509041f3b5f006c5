/*
 * mux.c - the stage: chunks of frames to one clip
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lx_arena.h"
#include "lx_log.h"
#include "mux_clip.h"
#include "mux_ffmpeg.h"
#include "mux_video.h"
#include "weights/lx_model_dir.h"

#define FRAMES_PER_LATENT 4

struct mux {
    const lx_config *config;          /* borrowed until destroy */
    const lx_replica_config *replica; /* likewise */
    const lx_progress *progress;      /* likewise */
    lx_arena *arena;                  /* owned */
    uint8_t *chunk;                   /* of the arena: one chunk of frames */
    uint64_t chunk_bytes;
    char dir[LX_LIMIT_PATH];
    char checkpoint[LX_LIMIT_NAME + 1];
};

/* --- start ----------------------------------------------------------------------------------- */

/* Five grey frames through encoder, container and check, into memory: everything that a first job
 * would need of FFmpeg. */
static lx_status self_test(const mux *model, lx_err *err)
{
    enum { SIDE = 64, FRAMES = 5 };
    uint8_t grey[SIDE * SIDE * 3 / 2];
    memset(grey, 128, sizeof grey);
    mux_meta meta;
    mux_meta_of_file(&meta);
    mux_video_options options = {.width = SIDE,
                                 .height = SIDE,
                                 .fps = model->config->defaults.fps,
                                 .crf = model->config->mux.crf,
                                 .preset = model->config->mux.preset,
                                 .threads = 1,
                                 .n_frames = FRAMES,
                                 .meta = &meta};
    int fd = memfd_create("lx2v-mux-self-test", MFD_CLOEXEC);
    if (fd < 0)
        return lx_fail(err, LX_EAGAIN, "self-test: no memory file");
    mux_video *video = NULL;
    lx_status status = mux_video_open(&video, fd, &options, err);
    for (int i = 0; i < FRAMES && status == LX_OK; i++)
        status = mux_video_add(video, grey, err);
    if (status == LX_OK)
        status = mux_video_finish(video, NULL, err);
    mux_video_close(&video);
    close(fd);
    return status == LX_OK ? LX_OK : lx_wrap(err, "mux self-test");
}

/* The DiT that the dit stage loads: which of a folder's several precisions stands in its path. A
 * model that cannot be found is that stage's trouble; its folder is still a name. */
static void name_checkpoint(mux *model)
{
    const lx_config *c = model->config;
    lx_model_paths paths;
    const char *path = c->model.dit[0] ? c->model.dit : c->model.dir;
    if (lx_model_of_config(&paths, c, NULL) == LX_OK)
        path = paths.dit;
    mux_meta_checkpoint(model->checkpoint, sizeof model->checkpoint, path);
}

/* The VAE hands on at most vae.chunk latent frames, that is four times as many frames. Limits keep
 * the product small: 2001 frames of 16384x16384. */
uint64_t mux_chunk_bytes(const lx_config *c)
{
    int64_t frames = (int64_t)c->vae.chunk * FRAMES_PER_LATENT;
    if (frames > c->limits.frames)
        frames = c->limits.frames;
    /* I420: 3/2 bytes per pixel */
    return (uint64_t)frames * (uint64_t)c->limits.width * (uint64_t)c->limits.height * 3 / 2;
}

static lx_status take_memory(mux *model, lx_err *err)
{
    model->chunk_bytes = mux_chunk_bytes(model->config);
    lx_status status =
        lx_arena_create(&model->arena, (size_t)model->chunk_bytes + LX_ARENA_ALIGN, err);
    void *memory = NULL;
    if (status == LX_OK)
        status = lx_arena_take(model->arena, (size_t)model->chunk_bytes, &memory, err);
    model->chunk = memory;
    return status;
}

lx_status mux_load(mux **out, const lx_config *config, const lx_replica_config *replica,
                   const lx_progress *progress, lx_err *err)
{
    mux *model = calloc(1, sizeof *model);
    if (!model)
        return lx_fail(err, LX_EAGAIN, "no memory for the stage");
    model->config = config;
    model->replica = replica;
    model->progress = progress;
    mux_ffmpeg_setup();
    name_checkpoint(model);
    lx_status status = mux_dir_prepare(config->output.dir, model->dir, err);
    if (status == LX_OK) {
        int swept = mux_dir_sweep(model->dir);
        if (swept > 0)
            LX_I("dir=%s swept_parts=%d", model->dir, swept);
        status = take_memory(model, err);
    }
    if (status == LX_OK)
        status = self_test(model, err);
    if (status != LX_OK) {
        mux_destroy(&model);
        return status;
    }
    LX_I("dir=%s codec=libx264 crf=%d preset=%s libavcodec=%u.%u libavformat=%u.%u", model->dir,
         config->mux.crf, config->mux.preset, AV_VERSION_MAJOR(avcodec_version()),
         AV_VERSION_MINOR(avcodec_version()), AV_VERSION_MAJOR(avformat_version()),
         AV_VERSION_MINOR(avformat_version()));
    *out = model;
    return LX_OK;
}

uint64_t mux_arena_bytes(const mux *model)
{
    return lx_arena_bytes(model->arena);
}

void mux_destroy(mux **model)
{
    if (!model || !*model)
        return;
    lx_arena_destroy(&(*model)->arena);
    free(*model);
    *model = NULL;
}

/* --- one job --------------------------------------------------------------------------------- */

static lx_status begin(const mux *model, lx_stage_job *given, mux_clip **clip, lx_err *err)
{
    const lx_job *job = lx_stage_job_of(given);
    const lx_config *c = model->config;
    mux_meta meta;
    mux_meta_of_job(&meta, job, c->mux.metadata, model->checkpoint);
    mux_clip_options options = {.format = c->mux.format,
                                .dir = model->dir,
                                .name = job->output,
                                .job = job->id,
                                .overwrite = c->output.overwrite,
                                .is_again = lx_stage_attempt(given) > 0,
                                .width = job->width,
                                .height = job->height,
                                .fps = job->fps,
                                .n_frames = job->frames,
                                .crf = c->mux.crf,
                                .preset = c->mux.preset,
                                .threads = model->replica->threads,
                                .meta = &meta};
    return mux_clip_begin(clip, &options, err);
}

static lx_status check_chunk(const lx_job *job, const lx_shape *shape, lx_err *err)
{
    char text[128];
    if (shape->n_dims == 3 && shape->dim[0] >= 0 && shape->dim[1] == job->height / 2 * 3 &&
        shape->dim[2] == job->width)
        return LX_OK;
    return lx_fail(err, LX_EJOB, "frames of shape %s, expected [n, %d, %d]",
                   lx_shape_text(shape, text, sizeof text), job->height / 2 * 3, job->width);
}

/* The encoder's trouble with one job is the job's, unless the machine is at fault. A chunk
 * that cannot be borrowed now is not: the job is tried again. */
static lx_status as_job_failure(lx_status status, lx_err *err)
{
    if (status != LX_EAGAIN && status != LX_ECONFIG)
        return status;
    if (err)
        err->status = LX_EJOB;
    return LX_EJOB;
}

/* Frames as they come, until the last chunk. */
static lx_status take_frames(mux *model, lx_stage_job *job, mux_clip *clip, lx_err *err)
{
    const lx_job *what = lx_stage_job_of(job);
    size_t frame_bytes = (size_t)what->width * (size_t)what->height / 2 * 3;
    for (bool is_last = false; !is_last;) {
        lx_shape shape;
        lx_status status =
            lx_stage_next_chunk(job, model->chunk, model->chunk_bytes, &shape, &is_last, err);
        if (status == LX_OK)
            status = check_chunk(what, &shape, err);
        for (int64_t i = 0; status == LX_OK && i < shape.dim[0]; i++) {
            status = as_job_failure(mux_clip_add(clip, model->chunk + (size_t)i * frame_bytes, err),
                                    err);
            if (status == LX_OK)
                status = lx_progress_step(model->progress, "frame", (uint64_t)mux_clip_frames(clip),
                                          (uint64_t)what->frames, err);
        }
        if (status != LX_OK)
            return status;
    }
    return LX_OK;
}

lx_status mux_on_job(void *model, lx_stage_job *job, lx_err *err)
{
    mux *m = model;
    const lx_job *what = lx_stage_job_of(job);
    mux_clip *clip = NULL;
    uint64_t bytes = 0;
    lx_status status = as_job_failure(begin(m, job, &clip, err), err);
    if (status == LX_OK)
        status = take_frames(m, job, clip, err);
    if (status == LX_OK)
        status = as_job_failure(mux_clip_finish(&clip, &bytes, err), err);
    mux_clip_abort(&clip);
    /* The encoder's memory of one clip goes back to the system, so that a service stays flat. */
    malloc_trim(0);
    if (status != LX_OK)
        return status;
    lx_stage_note_file(job, what->frames, bytes);
    return LX_OK;
}
