/*
 * dit_run.c - `lx2v-dit run`: one clip's denoising by hand, files in, files out
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dit_model.h"
#include "lx_bus.h"
#include "lx_log.h"

#define MARKS 65536 /* operations that --profile times: 8 steps of the 14B in chunks of 4096 */

/* The flags as typed; NULL where absent. */
typedef struct run_flags {
    const char *text_len, *shift, *steps, *sampler, *seed, *rng, *frames, *size, *attention,
        *accumulate, *residency, *ram, *chunk;
    bool noise_only, profile;
} run_flags;

/* A run and what it owns. */
typedef struct job_by_hand {
    lx_run run;
    int64_t text_len;
    dit_schedule schedule;
    lx_sampler sampler;
    lx_rng rng;
    uint64_t seed;
    lx_patch_dims latent;
    lx_attention_choice attention;
    lx_accumulate_choice accumulate;
    int64_t chunk; /* 0: a good one */
    lx_residency_choice residency;
    int64_t n_resident;
    uint64_t ram;
    bool noise_only, profile, is_drawn; /* is_drawn: the initial noise comes from the seed */
    dit *model;
    dit_engine *engine;
    float *context, *state, *velocity; /* malloc'd */
    int64_t n_context;
} job_by_hand;

/* A wrong flag is usage, not a failed job. */
static lx_status as_usage(lx_status status, lx_err *err)
{
    if (status == LX_EJOB) {
        err->status = LX_ECONFIG;
        return LX_ECONFIG;
    }
    return status;
}

static lx_status parse_seed(const char *text, uint64_t *out, lx_err *err)
{
    int64_t seed = LX_SEED_DRAW;
    DIT_TRY(lx_run_count("seed", text, LX_SEED_DRAW, INT64_MAX, &seed, err));
    if (seed == LX_SEED_DRAW) { /* 32 bits: torch-cpu would ignore the rest */
        uint32_t drawn;
        if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
            return lx_fail(err, LX_ESTAGE, "the kernel gave no random number for a seed");
        seed = drawn;
    }
    *out = (uint64_t)seed;
    return LX_OK;
}

static lx_status parse_schedule(const run_flags *f, dit_schedule *out, lx_err *err)
{
    dit_schedule_default(out);
    int32_t labels[LX_LIMIT_STEPS], n = out->n_steps;
    double shift = out->shift;
    for (int32_t i = 0; i < n; i++)
        labels[i] = out->label[i];
    if (f->steps)
        DIT_TRY(lx_parse_steps(f->steps, labels, &n, err));
    if (f->shift && !lx_parse_real(f->shift, &shift))
        return lx_fail(err, LX_ECONFIG, "--shift %.40s: expected a number such as 5", f->shift);
    DIT_TRY(as_usage(dit_schedule_make(out, labels, n, shift, err), err));
    char notice[LX_LIMIT_TEXT];
    dit_schedule_notice(out, notice, sizeof notice);
    if (notice[0])
        LX_W("%s", notice);
    return LX_OK;
}

/* Size and frames to a latent; 832x480 and 81 where nothing is said. */
static lx_status parse_size(const run_flags *f, lx_patch_dims *out, lx_err *err)
{
    lx_job job = {.width = 832, .height = 480};
    int64_t frames = 81;
    if (f->size)
        DIT_TRY(lx_parse_size(f->size, &job.width, &job.height, err));
    DIT_TRY(lx_run_count("frames", f->frames, 1, LX_LIMIT_FRAMES, &frames, err));
    job.frames = (int32_t)frames;
    DIT_TRY(as_usage(lx_job_check_size(job.width, job.height, job.frames, err), err));
    out->channels = LX_LATENT_CHANNELS;
    lx_job_latent_dims(&job, &out->t, &out->h, &out->w);
    return LX_OK;
}

/* "partial:12": so many blocks stay on the card. */
static lx_status parse_residency(const char *text, job_by_hand *j, lx_err *err)
{
    size_t n = text ? strcspn(text, ":") : 0;
    for (int i = 0; text && lx_residency_names[i]; i++) {
        const char *name = lx_residency_names[i];
        if (strlen(name) != n || strncmp(text, name, n) || (text[n] && i != LX_RESIDENCY_PARTIAL))
            continue;
        j->residency = (lx_residency_choice)i;
        return text[n]
                   ? lx_run_count("residency partial", text + n + 1, 1, 100000, &j->n_resident, err)
                   : LX_OK;
    }
    return text ? lx_fail(err, LX_ECONFIG,
                          "--residency %.40s: expected auto, resident, partial, partial:N, host or "
                          "disk",
                          text)
                : LX_OK;
}

static lx_status parse(job_by_hand *j, int argc, char **argv, lx_err *err)
{
    run_flags f = {0};
    const lx_run_flag flags[] = {
        {"text-len", &f.text_len, NULL, "rows that the context is padded to (512)"},
        {"shift", &f.shift, NULL, "flow shift (5)"},
        {"steps-list", &f.steps, NULL, "training steps, falling (1000,750,500,250)"},
        {"sampler", &f.sampler, NULL, "euler or lcm (euler)"},
        {"seed", &f.seed, NULL, "of the noise; absent or -1: drawn and reported"},
        {"rng", &f.rng, NULL, "lx2v, torch-cpu, torch-cuda:132x2048, torch-cuda:rtx3060 (lx2v)"},
        {"frames", &f.frames, NULL, "4n+1 (81); not with a latent in the input"},
        {"size", &f.size, NULL, "WxH (832x480); not with a latent in the input"},
        {"attention", &f.attention, NULL, "auto, int8-fp16, int8-fp8 or bf16 (auto); on a card"},
        {"accumulate", &f.accumulate, NULL,
         "of FP16 or FP8 products of attention: auto, fp32 or fp16 (auto)"},
        {"residency", &f.residency, NULL, "of blocks: auto, resident, partial[:N], host, disk"},
        {"ram", &f.ram, NULL, "host memory, e.g. 14GiB: what does not fit is read from disk"},
        {"chunk", &f.chunk, NULL, "tokens of the row-wise work at once (as memory allows)"},
        {"profile", NULL, &f.profile, "time each kind of kernel on the card"},
        {"noise-only", NULL, &f.noise_only, "write the noise and the schedule; needs no weights"},
    };
    DIT_TRY(lx_run_parse(&j->run, argc, argv, flags, sizeof flags / sizeof *flags, err));
    j->noise_only = f.noise_only;
    DIT_TRY(parse_residency(f.residency, j, err));
    if (f.ram && lx_parse_bytes(f.ram, &j->ram, err) != LX_OK)
        return lx_wrap(err, "--ram");
    if (f.attention && lx_config_set_attention(&j->attention, f.attention, err) != LX_OK)
        return lx_wrap(err, "--attention");
    if (f.accumulate && lx_config_set_accumulate(&j->accumulate, f.accumulate, err) != LX_OK)
        return lx_wrap(err, "--accumulate");
    DIT_TRY(lx_run_count("chunk", f.chunk, 128, INT32_MAX, &j->chunk, err));
    j->profile = f.profile;
    j->text_len = DIT_TEXT_LEN;
    DIT_TRY(lx_run_count("text-len", f.text_len, 1, DIT_TEXT_LEN_MAX, &j->text_len, err));
    DIT_TRY(parse_schedule(&f, &j->schedule, err));
    if (f.sampler && !lx_sampler_parse(f.sampler, &j->sampler))
        return lx_fail(err, LX_ECONFIG, "--sampler %.40s: expected euler or lcm", f.sampler);
    DIT_TRY(lx_rng_parse(f.rng ? f.rng : "lx2v", &j->rng, err));
    DIT_TRY(parse_seed(f.seed, &j->seed, err));
    if (!j->run.output)
        return lx_fail(err, LX_ECONFIG, "--output FILE is needed");
    DIT_TRY(lx_run_check_output(&j->run, err));
    if (!f.noise_only && (!j->run.weights || !j->run.input))
        return lx_fail(err, LX_ECONFIG, "--weights FILE|DIR and --input FILE are needed");
    lx_run_find_weights(&j->run, "dit");
    j->is_drawn = f.noise_only || !lx_run_has_input(&j->run, "latent");
    if (!j->is_drawn && (f.frames || f.size))
        return lx_fail(err, LX_ECONFIG,
                       "%s has a latent, which says the size: leave out --frames and --size",
                       j->run.input);
    return j->is_drawn ? parse_size(&f, &j->latent, err) : LX_OK;
}

static lx_shape latent_shape(const lx_patch_dims *d)
{
    return LX_SHAPE(d->channels, d->t, d->h, d->w);
}

static lx_status draw(job_by_hand *j, lx_err *err)
{
    lx_shape shape = latent_shape(&j->latent);
    uint64_t n, bytes;
    DIT_TRY(lx_shape_bytes(&shape, LX_DTYPE_F32, &n, &bytes, err));
    j->state = malloc((size_t)bytes);
    if (!j->state)
        return lx_fail(err, LX_EAGAIN, "no memory for a latent of %" PRIu64 " bytes", bytes);
    lx_rng_normal(&j->rng, j->seed, 0, n, j->state);
    return lx_run_add(&j->run, "noise", LX_DTYPE_F32, &shape, j->state, err);
}

static lx_status read_latent(job_by_hand *j, lx_err *err)
{
    lx_shape shape;
    char text[128];
    DIT_TRY(lx_run_read_f32(&j->run, "latent", &shape, &j->state, err));
    j->latent = (lx_patch_dims){shape.dim[0], shape.dim[1], shape.dim[2], shape.dim[3]};
    if (shape.n_dims != 4 || shape.dim[0] != LX_LATENT_CHANNELS || shape.dim[1] < 1 ||
        shape.dim[2] < 2 || shape.dim[3] < 2 || shape.dim[2] % 2 || shape.dim[3] % 2)
        return lx_fail(err, LX_ECONFIG,
                       "%s: latent is %s, expected [%d, T, h, w] with even h and w", j->run.input,
                       lx_shape_text(&shape, text, sizeof text), LX_LATENT_CHANNELS);
    return LX_OK;
}

static lx_status read_context(job_by_hand *j, lx_err *err)
{
    lx_shape shape;
    char text[128];
    int64_t cols = dit_dims(j->model)->text_dim;
    DIT_TRY(lx_run_read_f32(&j->run, "context", &shape, &j->context, err));
    if (shape.n_dims != 2 || shape.dim[0] < 1 || shape.dim[0] > j->text_len || shape.dim[1] != cols)
        return lx_fail(err, LX_ECONFIG,
                       "%s: context is %s, expected [1 to %" PRId64 " (--text-len), %" PRId64
                       " (of %s)]",
                       j->run.input, lx_shape_text(&shape, text, sizeof text), j->text_len, cols,
                       j->run.weights);
    j->n_context = shape.dim[0];
    return LX_OK;
}

static lx_status load(job_by_hand *j, lx_err *err)
{
    dit_options options = {.text_len = j->text_len, .chunk = j->chunk, .is_header_only = true};
    DIT_TRY(dit_load(&j->model, j->run.weights, &options, &j->run.progress, err));
    DIT_TRY(read_context(j, err));
    DIT_TRY(j->is_drawn ? draw(j, err) : read_latent(j, err));
    dit_setup setup = {.device = j->run.device,
                       .n_threads = j->run.threads,
                       .vram = j->run.vram_bytes,
                       .ram = j->ram,
                       .residency = j->residency,
                       .n_resident = j->n_resident,
                       .attention = j->attention,
                       .accumulate = j->accumulate,
                       .largest = j->latent,
                       .run = &j->run};
    DIT_TRY(as_usage(dit_engine_open(&j->engine, j->model, &setup, &j->run.progress, err), err));
    DIT_TRY(lx_run_check_dumps(&j->run, "dit", err));
    j->run.load_s = lx_now_s() - j->run.start_s;
    return LX_OK;
}

static void say_memory(const dit_memory *m)
{
    char total[32], weights[32], activations[32], host[32], pinned[32];
    LX_I("memory total=%s weights=%s activations=%s resident=%" PRId64 "/%" PRId64 " chunk=%" PRId64
         " host_weights=%s pinned=%s on_disk=%" PRId64 " disk_gb_per_step=%.2f",
         lx_bytes_text(m->total, total, sizeof total),
         lx_bytes_text(m->weights + m->slots, weights, sizeof weights),
         lx_bytes_text(m->activations, activations, sizeof activations), m->n_resident, m->n_blocks,
         m->chunk, lx_bytes_text(m->host_weights, host, sizeof host),
         lx_bytes_text(m->pinned, pinned, sizeof pinned), m->n_on_disk, (double)m->disk_step / 1e9);
    LX_I("attention: %s", m->attention_how);
}

static void say_streaming(const dit_engine *engine)
{
    lx_residency_stats s;
    dit_engine_stats(engine, &s);
    if (s.memory_bytes + s.disk_bytes > 0)
        LX_I("streamed memory_gb=%.2f disk_gb=%.2f read_s=%.2f link_s=%.2f waited_s=%.3f",
             (double)s.memory_bytes / 1e9, (double)s.disk_bytes / 1e9, s.read_s, s.link_s,
             s.waited_s);
}

/* Where a step's time goes, over all steps, by kind and by family. The first step warms up, and
 * makes the prompt's keys. */
static lx_status say_profile(job_by_hand *j, lx_err *err)
{
    static const char *const families[] = {"attention", "linear", "other", "all else"};
    lx_cuda_timed all[LX_CUDA_TIMED_MOST];
    double sum[4] = {0}, whole = 0;
    int64_t n_lost = 0;
    int n = lx_cuda_clock_read(dit_engine_exec(j->engine), all, &n_lost, err);
    if (n < 0)
        return err->status;
    double steps = j->schedule.n_steps;
    for (int i = 0; i < n; i++)
        whole += all[i].s;
    for (int i = 0; i < n; i++) {
        LX_I("profile ms_a_step=%.2f share=%.1f%% calls_a_step=%.1f what=\"%s\"",
             all[i].s / steps * 1e3, 100 * all[i].s / whole, (double)all[i].n / steps, all[i].what);
        for (int f = 0; f < 4; f++)
            sum[f] += strncmp(all[i].what, families[f], strlen(families[f])) ? 0 : all[i].s;
    }
    for (int f = 0; f < 4; f++)
        LX_I("profile family=\"%s\" ms_a_step=%.2f share=%.1f%%", families[f], sum[f] / steps * 1e3,
             100 * sum[f] / whole);
    if (n_lost)
        LX_W("profile: %" PRId64 " operations were not timed: fewer steps (--steps-list)", n_lost);
    return LX_OK;
}

static lx_status denoise(job_by_hand *j, lx_err *err)
{
    double step_s[LX_LIMIT_STEPS];
    lx_shape one = latent_shape(&j->latent);
    lx_shape all = LX_SHAPE(j->schedule.n_steps, one.dim[0], one.dim[1], one.dim[2], one.dim[3]);
    uint64_t bytes;
    DIT_TRY(lx_shape_bytes(&all, LX_DTYPE_F32, NULL, &bytes, err));
    j->velocity = malloc((size_t)bytes);
    if (!j->velocity)
        return lx_fail(err, LX_EAGAIN, "no memory for velocities of %" PRIu64 " bytes", bytes);
    LX_I("%s seed=%" PRIu64 " sampler=%s steps=%d", lx_exec_describe(dit_engine_exec(j->engine)),
         j->seed, lx_sampler_name(j->sampler), (int)j->schedule.n_steps);
    say_memory(dit_engine_memory(j->engine));
    dit_request request = {.latent = j->latent,
                           .context = j->context,
                           .n_context = j->n_context,
                           .schedule = &j->schedule,
                           .sampler = j->sampler,
                           .rng = &j->rng,
                           .seed = j->seed,
                           .progress = &j->run.progress,
                           .run = &j->run,
                           .step_s = step_s,
                           .velocity = j->velocity};
    if (j->profile)
        DIT_TRY(as_usage(lx_cuda_clock_open(dit_engine_exec(j->engine), MARKS, err), err));
    DIT_TRY(dit_denoise(j->engine, &request, j->state, err));
    for (int32_t i = 0; i < j->schedule.n_steps; i++)
        LX_I("step=%d/%d s=%.3f", (int)i + 1, (int)j->schedule.n_steps, step_s[i]);
    say_streaming(j->engine);
    if (j->profile)
        DIT_TRY(say_profile(j, err));
    DIT_TRY(lx_run_add(&j->run, "latent", LX_DTYPE_F32, &one, j->state, err));
    return lx_run_add(&j->run, "velocity", LX_DTYPE_F32, &all, j->velocity, err);
}

static lx_status by_hand(job_by_hand *j, int argc, char **argv, lx_err *err)
{
    DIT_TRY(parse(j, argc, argv, err));
    if (j->noise_only) {
        LX_I("seed=%" PRIu64, j->seed);
        DIT_TRY(draw(j, err));
    } else {
        DIT_TRY(load(j, err));
        DIT_TRY(denoise(j, err));
    }
    lx_shape steps = LX_SHAPE(j->schedule.n_steps);
    DIT_TRY(lx_run_add(&j->run, "sigmas", LX_DTYPE_F32, &steps, j->schedule.sigma, err));
    DIT_TRY(lx_run_add(&j->run, "timesteps", LX_DTYPE_F32, &steps, j->schedule.timestep, err));
    return lx_run_finish(&j->run, "dit", err);
}

int dit_run(int argc, char **argv)
{
    lx_err err = {0};
    job_by_hand *j = calloc(1, sizeof *j);
    lx_status status = j ? by_hand(j, argc, argv, &err)
                         : lx_fail(&err, LX_EAGAIN, "out of memory for the record of a run");
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    if (j) {
        lx_run_close(&j->run);
        dit_engine_close(&j->engine);
        dit_destroy(&j->model);
        free(j->context);
        free(j->state);
        free(j->velocity);
        free(j);
    }
    return lx_exit_code(status);
}
