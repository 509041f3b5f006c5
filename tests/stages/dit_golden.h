/*
 * dit_golden.h - velocity and latent against the public PyTorch definitions, on any device
 * SPDX-License-Identifier: Apache-2.0
 *
 * The quantized models are judged as tests/golden/README.md says: the first quantized linear
 * tightly, the whole model by Q, the distance of the quantized golden from the float32 one.
 *
 * Why the latent is near 1 Q (int8 0.97, fp8 0.82) while the first velocity is at 0.004 and 0.03:
 * in the recorded quantized runs the layer that was dumped, blocks.0.self_attn.q, went on returning
 * its first step's output in steps 2 to 4. With that substitution made by hand the latents agree to
 * 0.16 and 0.32 Q; the model here computes every step anew.
 */
#ifndef DIT_GOLDEN_H
#define DIT_GOLDEN_H

#include "dit_helpers.h"

#define TEXT_LEN 64
#define N_STEPS  4

static const lx_patch_dims DIMS = {16, 3, 8, 12};

static inline const float *golden(lx_weights *io, const char *name, size_t *n)
{
    lx_weight w;
    uint64_t elements;
    if (!lx_weights_find(io, name, &w))
        fail_msg("golden tensor %s is missing", name);
    assert_int_equal(w.dtype, LX_DTYPE_F32);
    assert_int_equal(lx_shape_bytes(&w.shape, w.dtype, &elements, NULL, NULL), LX_OK);
    if (n)
        *n = elements;
    return w.data;
}

static inline double distance(lx_weights *io, const float *got, const char *name)
{
    size_t n;
    const float *want = golden(io, name, &n);
    return rel_l2(got, want, n);
}

static inline void expect_at_most(double value, double limit, const char *what)
{
    print_message("%-40s %.3g (at most %.3g)\n", what, value, limit);
    if (!(value <= limit))
        fail_msg("%s: %g, at most %g", what, value, limit);
}

typedef struct result {
    float *latent, *velocity;
    lx_run run; /* its outputs are the dumps */
} result;

/* How far a device may be: relative L2, and parts of Q. */
typedef struct golden_bars {
    double velocity, latent, lcm;  /* from the float32 golden */
    double first_int8, first_fp8;  /* the first quantized linear */
    double of_quantized, of_float; /* of Q, from the quantized and from the float32 golden */
} golden_bars;

/* With `latent` NULL it is drawn, and lcm goes on with the generator. */
static inline void denoise(lx_weights *io, const dit_setup *how, const char *weights,
                           lx_sampler sampler, const float *latent, result *out)
{
    lx_err err = {0};
    dit *model = NULL;
    dit_engine *engine = NULL;
    lx_rng rng;
    dit_schedule schedule;
    size_t n = latent_size(&DIMS), n_context;
    *out = (result){.latent = floats(n), .velocity = floats(N_STEPS * n)};
    snprintf(out->run.dump_names[0], sizeof out->run.dump_names[0], "blocks.0.self_attn.q");
    out->run.n_dumps = 1;
    dit_schedule_default(&schedule);
    dit_setup setup = *how;
    setup.largest = DIMS;
    setup.run = &out->run;
    const float *context = golden(io, "t5.context", &n_context);
    assert_int_equal(lx_rng_parse("torch-cuda:132x2048", &rng, &err), LX_OK);
    const dit_options options = {.text_len = TEXT_LEN, .is_header_only = true};
    if (dit_load(&model, weights, &options, NULL, &err) != LX_OK ||
        dit_engine_open(&engine, model, &setup, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    if (latent)
        memcpy(out->latent, latent, n * sizeof *latent);
    else
        lx_rng_normal(&rng, 42, 0, n, out->latent);
    dit_request r = {.latent = DIMS,
                     .context = context,
                     .n_context = (int64_t)n_context / dit_dims(model)->text_dim,
                     .schedule = &schedule,
                     .sampler = sampler,
                     .rng = &rng,
                     .seed = 42,
                     .run = &out->run,
                     .velocity = out->velocity};
    if (dit_denoise(engine, &r, out->latent, &err) != LX_OK)
        fail_msg("%s", err.message);
    dit_engine_close(&engine);
    dit_destroy(&model);
}

static inline void result_free(result *r)
{
    lx_run_close(&r->run);
    free(r->latent), free(r->velocity);
}

static inline void check_float(lx_weights *io, const dit_setup *how, const golden_bars *bars)
{
    result r;
    denoise(io, how, GOLDEN "distill_model.safetensors", LX_SAMPLER_EULER,
            golden(io, "dit.latent_in", NULL), &r);
    expect_at_most(distance(io, r.velocity, "dit.velocity_step0"), bars->velocity, "velocity");
    expect_at_most(distance(io, r.latent, "dit.latent_out"), bars->latent, "latent");
    result_free(&r);
}

static inline void check_lcm(lx_weights *io, const dit_setup *how, const golden_bars *bars)
{
    result r;
    denoise(io, how, GOLDEN "distill_model.safetensors", LX_SAMPLER_LCM, NULL, &r);
    expect_at_most(distance(io, r.latent, "dit.latent_out_lcm_seed42"), bars->lcm, "lcm latent");
    result_free(&r);
}

static inline void check_quantized(lx_weights *io, const dit_setup *how, const char *kind,
                                   double first_linear, const golden_bars *bars)
{
    char path[512], dump[64], velocity[64], latent[64];
    result r;
    snprintf(path, sizeof path, LX2V_BUILD_DIR "/golden/distill_%s", kind);
    snprintf(dump, sizeof dump, "dit.dump.blocks.0.self_attn.q_%s", kind);
    snprintf(velocity, sizeof velocity, "dit.velocity_step0_%s", kind);
    snprintf(latent, sizeof latent, "dit.latent_out_%s", kind);
    denoise(io, how, path, LX_SAMPLER_EULER, golden(io, "dit.latent_in", NULL), &r);
    assert_int_equal(r.run.n_out, 1);
    expect_at_most(distance(io, r.run.out[0].tensor.data, dump), first_linear, dump);
    double q_velocity = distance(io, golden(io, velocity, NULL), "dit.velocity_step0");
    double q_latent = distance(io, golden(io, latent, NULL), "dit.latent_out");
    expect_at_most(distance(io, r.velocity, velocity) / q_velocity, bars->of_quantized,
                   "velocity, of Q");
    expect_at_most(distance(io, r.latent, latent) / q_latent, bars->of_quantized, "latent, of Q");
    expect_at_most(distance(io, r.velocity, "dit.velocity_step0") / q_velocity, bars->of_float,
                   "velocity from float32, of Q");
    expect_at_most(distance(io, r.latent, "dit.latent_out") / q_latent, bars->of_float,
                   "latent from float32, of Q");
    result_free(&r);
}

static inline int golden_open(void **state)
{
    lx_err err = {0};
    lx_weights *io = NULL;
    if (lx_weights_open(&io, GOLDEN "io.safetensors", NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    *state = io;
    return 0;
}

static inline int golden_close(void **state)
{
    lx_weights *io = *state;
    lx_weights_close(&io);
    return 0;
}

#endif
