/*
 * dit_stage.c - the DiT behind the launcher: one replica and its jobs
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dit_model.h"
#include "lx_cuda_share.h"
#include "lx_device.h"
#include "lx_log.h"
#include "lx_process.h"
#include "lx_spool.h"
#include "weights/lx_model_dir.h"

struct dit_stage {
    dit *model;           /* owned */
    dit_engine *engine;   /* owned */
    lx_stage *stage;      /* borrowed */
    lx_cuda_share *share; /* owned; NULL on the CPU */
    float *context;       /* [text_len, text_dim], owned */
    float *latent;        /* of the largest clip, owned */
    size_t latent_values;
    const lx_progress *progress; /* borrowed from the lx_stage */
};

lx_patch_dims dit_largest(const lx_config *config, const dit *model)
{
    lx_job job = {.width = config->limits.width,
                  .height = config->limits.height,
                  .frames = config->limits.frames};
    lx_patch_dims d = {.channels = dit_dims(model)->in_dim};
    lx_job_latent_dims(&job, &d.t, &d.h, &d.w);
    return d;
}

static uint64_t latent_bytes(const lx_patch_dims *d)
{
    return (uint64_t)d->channels * (uint64_t)d->t * (uint64_t)d->h * (uint64_t)d->w * sizeof(float);
}

uint64_t dit_lent_bytes(const lx_config *config, const dit *model)
{
    lx_patch_dims d = dit_largest(config, model);
    int n = lx_stage_wants_twins(config, LX_STAGE_DIT) ? config->links.depth : 0;
    return lx_cuda_share_bytes(n, latent_bytes(&d));
}

/* One step on noise; n_blocks 0: all of them. */
static lx_status try_once(dit_stage *s, int64_t n_context, const lx_patch_dims *latent_dims,
                          int64_t n_blocks, lx_err *err)
{
    dit_schedule schedule;
    lx_rng rng = {.kind = LX_RNG_LX2V};
    const int32_t label = 1000;
    DIT_TRY(dit_schedule_make(&schedule, &label, 1, 5, err));
    const lx_patch_dims *d = latent_dims;
    uint64_t n = (uint64_t)d->channels * (uint64_t)d->t * (uint64_t)d->h * (uint64_t)d->w;
    uint64_t n_text = (uint64_t)n_context * (uint64_t)dit_dims(s->model)->text_dim;
    lx_rng_normal(&rng, 0, 0, n_text, s->context);
    lx_rng_normal(&rng, 0, 1, n, s->latent);
    dit_request r = {.latent = *d,
                     .context = s->context,
                     .n_context = n_context,
                     .schedule = &schedule,
                     .progress = s->progress,
                     .n_blocks = n_blocks};
    return dit_denoise(s->engine, &r, s->latent, err);
}

/* One block with contexts of every order of length and a few grids, so that what the kernels make
 * on first use is made now and memory is flat from the first jobs; then all blocks on the smallest
 * latent: every weight is read once, and a damaged checkpoint is found before the first job. */
static lx_status self_test(dit_stage *s, const lx_patch_dims *largest, lx_err *err)
{
    static const int64_t sides[] = {2, 4, 6, 10, 14, 26};
    const size_t n_sides = sizeof sides / sizeof *sides;
    lx_patch_dims d = {largest->channels, 1, 2, 2};
    lx_status status = LX_OK;
    size_t i = 0;
    for (int64_t n = dit_text_len(s->model); n >= 1 && status == LX_OK; n /= 2, i++) {
        int64_t h = sides[i % n_sides], w = sides[i / 2 % n_sides];
        d.h = h < largest->h ? h : largest->h;
        d.w = w < largest->w ? w : largest->w;
        status = try_once(s, n, &d, 1, err);
    }
    d.h = d.w = 2;
    if (status == LX_OK)
        status = try_once(s, 1, &d, 0, err);
    if (status == LX_OK)
        return LX_OK;
    if (status == LX_EJOB) /* no job is at fault here */
        err->status = LX_ECONFIG;
    return lx_wrap(err, "self-test of %s", lx_weights_path(dit_weights(s->model)));
}

/* Host memory: the noise of a job, and a context for the self-test. */
static lx_status take_host(dit_stage *s, const lx_patch_dims *d, lx_err *err)
{
    uint64_t n_text = (uint64_t)dit_text_len(s->model) * (uint64_t)dit_dims(s->model)->text_dim;
    s->latent_values = (size_t)(d->channels * d->t * d->h * d->w);
    s->context = calloc((size_t)n_text, sizeof *s->context);
    s->latent = calloc(s->latent_values, sizeof *s->latent);
    if (!s->context || !s->latent)
        return lx_fail(err, LX_EAGAIN, "out of memory for a context and a latent");
    return LX_OK;
}

static lx_status take_device(void *self, lx_err *err)
{
    dit_stage *s = self;
    return dit_engine_take(s->engine, s->progress, err);
}

static void give_device(void *self)
{
    dit_engine_give(((dit_stage *)self)->engine);
}

/* The device's memory: on a card it may have to be waited for, and comes and goes in turn. */
static lx_status hold_device(dit_stage *s, lx_stage *stage, const char *device, lx_err *err)
{
    const dit_memory *m = dit_engine_memory(s->engine);
    lx_stage_arena arena = {.take = take_device,
                            .give = give_device,
                            .self = s,
                            .bytes = m->total - m->context - m->beside};
    DIT_TRY(lx_device_find(&arena.card, device, err));
    return lx_stage_hold(stage, &arena, err);
}

static lx_status take_memory(dit_stage *s, lx_stage *stage, lx_err *err)
{
    const lx_config *config = lx_stage_config_of(stage);
    const lx_replica_config *replica = lx_stage_replica(stage);
    dit_setup setup = {.device = replica->device,
                       .n_threads = replica->threads,
                       .largest = dit_largest(config, s->model)};
    bool is_host = strcmp(replica->device, "cpu") == 0;
    setup.vram = is_host ? config->memory.ram : lx_stage_vram(stage);
    setup.beside = dit_lent_bytes(config, s->model);
    setup.ram = lx_stage_ram(stage) ? lx_stage_ram(stage) : config->memory.ram;
    setup.residency = replica->residency;
    setup.attention = replica->attention;
    setup.accumulate = replica->accumulate;
    setup.pinned = config->memory.pinned;
    setup.is_deferred = !is_host;
    lx_status status = dit_engine_open(&s->engine, s->model, &setup, s->progress, err);
    if (status == LX_OK && !is_host)
        status = hold_device(s, stage, replica->device, err);
    if (status == LX_EAGAIN && is_host && config->memory.ram) {
        err->status = LX_ECONFIG; /* waiting will not help */
        return lx_wrap(err,
                       "a clip of %dx%d with %d frames (raise memory.ram, or lower limits.size "
                       "or limits.frames)",
                       config->limits.width, config->limits.height, config->limits.frames);
    }
    return status == LX_OK ? take_host(s, &setup.largest, err) : status;
}

static lx_status open_on(dit_stage *s, lx_stage *stage, lx_err *err)
{
    const lx_config *config = lx_stage_config_of(stage);
    lx_model_paths paths;
    s->progress = lx_stage_progress(stage);
    s->stage = stage;
    DIT_TRY(lx_model_of_config(&paths, config, err));
    dit_options options = {.is_header_only = true, .shared_fd = lx_stage_shared_fd(stage)};
    DIT_TRY(dit_load(&s->model, paths.dit, &options, s->progress, err));
    DIT_TRY(take_memory(s, stage, err));
    lx_patch_dims d = dit_largest(config, s->model);
    lx_cuda *card = dit_engine_exec(s->engine)->cuda;
    if (card) {
        DIT_TRY(lx_cuda_share_open(&s->share, card, err));
        lx_stage_on_card(stage, lx_cuda_share_device(s->share));
    }
    DIT_TRY(lx_stage_lends_on_card(stage, config->links.depth, latent_bytes(&d), err));
    const dit_memory *m = dit_engine_memory(s->engine);
    LX_I("%s blocks=%" PRId64 " dim=%" PRId64 " resident=%" PRId64 " on_disk=%" PRId64
         " host_weights_mib=%.1f pinned_mib=%.1f",
         lx_exec_describe(dit_engine_exec(s->engine)), m->n_blocks, dit_dims(s->model)->dim,
         m->n_resident, m->n_on_disk, (double)m->host_weights / 0x1p20, (double)m->pinned / 0x1p20);
    LX_I("attention: %s", m->attention_how);
    return self_test(s, &d, err);
}

lx_status dit_stage_open(dit_stage **out, lx_stage *stage, lx_err *err)
{
    dit_stage *s = calloc(1, sizeof *s);
    if (!s)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a stage");
    lx_status status = open_on(s, stage, err);
    if (status != LX_OK) {
        dit_stage_destroy(&s);
        return status;
    }
    *out = s;
    return LX_OK;
}

void dit_stage_destroy(dit_stage **stage)
{
    if (!stage || !*stage)
        return;
    if ((*stage)->stage)
        lx_stage_leave_card((*stage)->stage);
    lx_cuda_share_close(&(*stage)->share);
    dit_engine_close(&(*stage)->engine);
    dit_destroy(&(*stage)->model);
    free((*stage)->context);
    free((*stage)->latent);
    free(*stage);
    *stage = NULL;
}

const dit *dit_stage_model(const dit_stage *stage)
{
    return stage->model;
}

uint64_t dit_stage_arena_bytes(const dit_stage *stage)
{
    return dit_engine_memory(stage->engine)->total;
}

/* --- one job --------------------------------------------------------------------------------- */

/* Everything of the request that the job's record says. */
static lx_status read_job(const dit_stage *s, const lx_job *job, dit_request *r, lx_rng *rng,
                          dit_schedule *schedule, lx_err *err)
{
    if (lx_rng_parse(job->rng, rng, err) != LX_OK) {
        if (err)
            err->status = LX_EJOB; /* a wrong name in a job is the job's fault */
        return LX_EJOB;
    }
    DIT_TRY(dit_schedule_make(schedule, job->steps, job->n_steps, job->shift, err));
    DIT_TRY(lx_job_check_size(job->width, job->height, job->frames, err));
    *r = (dit_request){.latent = {.channels = dit_dims(s->model)->in_dim},
                       .schedule = schedule,
                       .sampler = (lx_sampler)job->sampler,
                       .rng = rng,
                       .seed = (uint64_t)job->seed,
                       .progress = s->progress};
    lx_job_latent_dims(job, &r->latent.t, &r->latent.h, &r->latent.w);
    return LX_OK;
}

/* One job while it runs. */
typedef struct working {
    dit_stage *stage;
    lx_stage_job *job;
    dit_request request;
    lx_shape shape; /* of the latent */
    double step_s[LX_LIMIT_STEPS];
} working;

static lx_status check_context(const dit_stage *s, lx_stage_job *job, dit_request *r, lx_err *err)
{
    lx_dtype dtype;
    lx_shape shape;
    char text[128];
    DIT_TRY(lx_stage_input_shape(job, &dtype, &shape, err));
    int64_t cols = dit_dims(s->model)->text_dim, rows = shape.n_dims == 2 ? shape.dim[0] : 0;
    if (dtype != LX_DTYPE_F32 || rows < 1 || rows > dit_text_len(s->model) || shape.dim[1] != cols)
        return lx_fail(err, LX_EJOB,
                       "context is %s %s, this DiT takes F32 [1 to %" PRId64 ", %" PRId64
                       "]: text encoder and DiT are not of one model",
                       lx_dtype_name(dtype), lx_shape_text(&shape, text, sizeof text),
                       dit_text_len(s->model), cols);
    r->n_context = rows;
    return LX_OK;
}

static lx_status bring_context(void *self, void *dst, size_t bytes, lx_err *err)
{
    working *w = self;
    return w->stage->share ? lx_stage_borrow_on_card(w->job, dst, bytes, err)
                           : lx_stage_borrow(w->job, dst, bytes, err);
}

/* After it was lent, so that nobody waits for the disk; the slot stays as it is until the clip is
 * there. Without it a crash costs time, not the job. */
static void save_latent(working *w, const void *bytes, size_t n)
{
    const lx_config *config = lx_stage_config_of(w->stage->stage);
    lx_err why = {0};
    uint32_t crc;
    if (!config->spool.latents)
        return;
    if (lx_spool_write(config->state.journal, lx_stage_job_of(w->job)->id, bytes, n, &crc, &why) ==
        LX_OK)
        lx_stage_note_saved(w->job, n, crc);
    else
        LX_W("job=%s latent not saved: %s", lx_stage_job_of(w->job)->id, why.message);
}

/* From where it was made to whoever borrows it; on a card it does not pass the host on its way. */
static lx_status take_latent(void *self, const float *latent, size_t bytes, lx_err *err)
{
    working *w = self;
    lx_tensor lent;
    lx_stage_note_steps(w->job, w->request.schedule->n_steps, w->step_s);
    DIT_TRY(lx_stage_lend(w->job, LX_DTYPE_F32, &w->shape, &lent, err));
    if (w->stage->share) {
        DIT_TRY(lx_stage_publish_from_card(w->job, latent, true, err));
    } else {
        memcpy(lent.data, latent, bytes);
        DIT_TRY(lx_stage_publish(w->job, true, err));
    }
    save_latent(w, lent.data, bytes);
    return LX_OK;
}

/* It was denoised before, and lies in the spool: only lent again. The launcher takes a failure for
 * "denoise it once more". */
static lx_status lend_saved(working *w, uint64_t n_bytes, uint64_t saved_bytes, uint32_t crc,
                            lx_err *err)
{
    const char *id = lx_stage_job_of(w->job)->id;
    lx_tensor lent;
    if (saved_bytes != n_bytes)
        return lx_fail(err, LX_EAGAIN, "spool: %" PRIu64 " bytes saved, the latent has %" PRIu64,
                       saved_bytes, n_bytes);
    DIT_TRY(lx_stage_lend(w->job, LX_DTYPE_F32, &w->shape, &lent, err));
    const char *dir = lx_stage_config_of(w->stage->stage)->state.journal;
    DIT_TRY(lx_spool_read(dir, id, lent.data, n_bytes, crc, err));
    DIT_TRY(lx_stage_publish(w->job, true, err));
    lx_stage_note_saved(w->job, n_bytes, crc);
    LX_I("job=%s latent from the spool", id);
    return LX_OK;
}

static lx_status work(dit_stage *s, lx_stage_job *job, lx_err *err)
{
    working w = {.stage = s, .job = job};
    dit_request *r = &w.request;
    dit_schedule schedule;
    lx_rng rng;
    char notice[LX_LIMIT_TEXT];
    uint64_t n;
    DIT_TRY(read_job(s, lx_stage_job_of(job), r, &rng, &schedule, err));
    w.shape = LX_SHAPE(r->latent.channels, r->latent.t, r->latent.h, r->latent.w);
    uint64_t n_bytes;
    uint32_t crc;
    DIT_TRY(lx_shape_bytes(&w.shape, LX_DTYPE_F32, &n, &n_bytes, err));
    uint64_t saved_bytes = lx_stage_saved(job, &crc);
    if (saved_bytes > 0)
        return lend_saved(&w, n_bytes, saved_bytes, crc, err);
    dit_schedule_notice(&schedule, notice, sizeof notice);
    if (notice[0]) {
        LX_W("job=%s %s", lx_stage_job_of(job)->id, notice);
        lx_stage_note(job, notice);
    }
    DIT_TRY(check_context(s, job, r, err));
    if (n > s->latent_values)
        return lx_fail(err, LX_EJOB,
                       "planned memory is too small: a latent of %" PRIu64
                       " values, %zu were planned at start (limits.size and limits.frames in "
                       "config.yaml)",
                       n, s->latent_values);
    lx_rng_normal(&rng, r->seed, 0, n, s->latent);
    r->step_s = w.step_s;
    r->bring_context = bring_context;
    r->take_latent = take_latent;
    r->self = &w;
    return dit_denoise(s->engine, r, s->latent, err);
}

lx_status dit_on_job(void *self, lx_stage_job *job, lx_err *err)
{
    return work(self, job, err);
}
