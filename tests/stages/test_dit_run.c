/*
 * test_dit_run.c - `lx2v-dit run`: files in, files out, and what it says to wrong flags
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_helpers.h"

static const lx_patch_dims DIMS = {16, 2, 8, 6}; /* 5 frames of 48x64 */

typedef struct folder {
    char model[512], input[512], context[512], output[512];
    store s;
} folder;

static void write_input(const char *path, const store *s, bool with_latent)
{
    float *context = normals(1, (size_t)(6 * s->text)), *latent = normals(2, latent_size(&DIMS));
    lx_named_tensor t[] = {
        {"context", {LX_DTYPE_F32, LX_SHAPE(6, s->text), context}},
        {"latent", {LX_DTYPE_F32, LX_SHAPE(DIMS.channels, DIMS.t, DIMS.h, DIMS.w), latent}}};
    assert_int_equal(lx_safetensors_write(path, t, with_latent ? 2 : 1, NULL), LX_OK);
    free(context), free(latent);
}

static int run(const char *const *words)
{
    char *argv[32];
    int argc = 0;
    for (; words[argc]; argc++)
        argv[argc] = (char *)words[argc]; /* dit_run only reads them */
    return dit_run(argc, argv);
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static lx_weights *open_output(const folder *f)
{
    lx_err err = {0};
    lx_weights *out = NULL;
    if (lx_weights_open(&out, f->output, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    return out;
}

static const float *output(lx_weights *w, const char *name, lx_shape shape)
{
    lx_weight t;
    if (!lx_weights_find(w, name, &t))
        fail_msg("no output %s", name);
    assert_int_equal(t.dtype, LX_DTYPE_F32);
    assert_true(lx_shape_equal(&t.shape, &shape));
    return t.data;
}

static void test_run_writes_the_fixed_outputs(void **state)
{
    folder *f = *state;
    lx_weight none;
    assert_int_equal(RUN("--weights", f->model, "--input", f->input, "--output", f->output,
                         "--text-len", "16", "--threads", "1"),
                     0);
    lx_weights *out = open_output(f);
    lx_shape one = LX_SHAPE(16, 2, 8, 6);
    const float *latent = output(out, "latent", one);
    const float *velocity = output(out, "velocity", LX_SHAPE(4, 16, 2, 8, 6));
    assert_true(output(out, "sigmas", LX_SHAPE(4))[3] == 0.625f);
    assert_true(output(out, "timesteps", LX_SHAPE(4))[1] == 937.5f);
    assert_false(lx_weights_find(out, "noise", &none)); /* it was given, not drawn */

    bench b;
    float *want, *want_velocity, *context = normals(1, (size_t)(6 * f->s.text));
    float *start = normals(2, latent_size(&DIMS));
    bench_open(&b, f->model, &(dit_options){.text_len = 16}, &DIMS, 1);
    bench_run(&b, &DIMS, context, 6, start, &want, &want_velocity);
    assert_memory_equal(latent, want, latent_size(&DIMS) * sizeof *want);
    assert_memory_equal(velocity, want_velocity, 4 * latent_size(&DIMS) * sizeof *want);
    free(want), free(want_velocity), free(context), free(start);
    bench_close(&b);
    lx_weights_close(&out);
}

static void test_run_draws_and_reports_its_noise(void **state)
{
    folder *f = *state;
    assert_int_equal(RUN("--weights", f->model, "--input", f->context, "--output", f->output,
                         "--text-len", "16", "--seed", "7", "--rng", "torch-cpu", "--frames", "5",
                         "--size", "48x64", "--sampler", "lcm", "--steps-list", "1000,500",
                         "--shift", "3"),
                     0);
    lx_weights *out = open_output(f);
    lx_shape one = LX_SHAPE(16, 2, 8, 6);
    size_t n = latent_size(&DIMS);
    const float *noise = output(out, "noise", one), *latent = output(out, "latent", one);
    const float *v = output(out, "velocity", LX_SHAPE(2, 16, 2, 8, 6));
    const float *sigma = output(out, "sigmas", LX_SHAPE(2));
    lx_rng rng = {.kind = LX_RNG_TORCH_CPU};
    float *draw[2] = {floats(n), floats(n)};
    lx_rng_normal(&rng, 7, 0, n, draw[0]);
    lx_rng_normal(&rng, 7, 1, n, draw[1]);
    assert_memory_equal(noise, draw[0], n * sizeof *noise);
    for (size_t i = 0; i < n; i++) { /* the lcm recurrence over what was put out */
        double x0 = (double)noise[i] - (double)sigma[0] * (double)v[i];
        double x1 = (1 - (double)sigma[1]) * x0 + (double)sigma[1] * (double)draw[1][i];
        double want = x1 - (double)sigma[1] * (double)v[n + i];
        assert_true(fabs((double)latent[i] - want) < 1e-5);
    }
    free(draw[0]), free(draw[1]);
    lx_weights_close(&out);
}

static void test_run_noise_only_needs_no_weights(void **state)
{
    folder *f = *state;
    lx_weight none;
    assert_int_equal(RUN("--output", f->output, "--noise-only", "--seed", "42", "--frames", "5",
                         "--size", "48x64"),
                     0);
    lx_weights *out = open_output(f);
    const float *noise = output(out, "noise", LX_SHAPE(16, 2, 8, 6));
    assert_true(noise[0] == -0.97018981f); /* docs/noise.md */
    output(out, "sigmas", LX_SHAPE(4));
    assert_false(lx_weights_find(out, "velocity", &none));
    lx_weights_close(&out);
}

/* Every name of the list; padded shapes for what depends on the context. */
static void test_run_dumps_layers(void **state)
{
    folder *f = *state;
    const int64_t d = f->s.dim, s = 24, l = 16;
    const struct {
        const char *name;
        int64_t rows, cols;
    } layers[] = {{"patch_embedding", s, d},
                  {"text_embedding", l, d},
                  {"time_embedding", 1, d},
                  {"time_projection", 6, d},
                  {"blocks.1.self_attn.q", s, d},
                  {"blocks.1.self_attn.k", s, d},
                  {"blocks.1.self_attn.v", s, d},
                  {"blocks.1.self_attn.o", s, d},
                  {"blocks.1.cross_attn.q", s, d},
                  {"blocks.1.cross_attn.k", l, d},
                  {"blocks.1.cross_attn.v", l, d},
                  {"blocks.1.cross_attn.o", s, d},
                  {"blocks.1.ffn.0", s, f->s.ffn},
                  {"blocks.1.ffn.2", s, d},
                  {"blocks.1", s, d},
                  {"blocks.0", s, d},
                  {"head", s, 64}};
    char names[1024] = "";
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? "," : "",
                 layers[i].name);
    assert_int_equal(RUN("--weights", f->model, "--input", f->input, "--output", f->output,
                         "--text-len", "16", "--dump", names),
                     0);
    lx_weights *out = open_output(f);
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        output(out, layers[i].name, LX_SHAPE(layers[i].rows, layers[i].cols));
    /* The block's output is its input and what its three parts add, gates included. */
    lx_shape shape = LX_SHAPE(s, d);
    const float *before = output(out, "blocks.0", shape), *after = output(out, "blocks.1", shape);
    const float *o = output(out, "blocks.1.self_attn.o", shape);
    const float *c = output(out, "blocks.1.cross_attn.o", shape);
    const float *h = output(out, "blocks.1.ffn.2", shape);
    const float *e0 = output(out, "time_projection", LX_SHAPE(6, d));
    const float *table = store_find(&f->s, "blocks.1.modulation")->data;
    for (int64_t i = 0; i < s * d; i++) {
        double gate_o = (double)table[2 * d + i % d] + (double)e0[2 * d + i % d];
        double gate_h = (double)table[5 * d + i % d] + (double)e0[5 * d + i % d];
        double want =
            (double)before[i] + gate_o * (double)o[i] + (double)c[i] + gate_h * (double)h[i];
        assert_true(fabs((double)after[i] - want) < 1e-4);
    }
    lx_weights_close(&out);
}

static void test_run_refuses(void **state)
{
    folder *f = *state;
#define FILES "--weights", f->model, "--input", f->context, "--output", f->output
    const struct {
        const char *words[12];
        int code;
    } bad[] = {
        {{FILES, "--frames", "6"}, 2},
        {{FILES, "--size", "50x64"}, 2},
        {{FILES, "--sampler", "unipc"}, 2},
        {{FILES, "--rng", "torch-cuda:gtx1"}, 2},
        {{FILES, "--steps-list", "250,500"}, 2},
        {{FILES, "--shift", "-1"}, 2},
        {{FILES, "--seed", "-2"}, 2},
        {{FILES, "--text-len", "5"}, 2}, /* the context has six rows */
        {{FILES, "--text-len", "0"}, 2},
        {{FILES, "--stepslist", "1000"}, 2},
        {{FILES, "--device", "cuda:0"}, 2},
        {{FILES, "--frames", "5", "--residency", "disk"}, 2}, /* on the CPU */
        {{FILES, "--residency", "partial:0"}, 2},
        {{FILES, "--residency", "host:2"}, 2},
        {{FILES, "--attention", "int8"}, 2},
        {{FILES, "--frames", "5", "--attention", "int8-fp16"}, 2}, /* on the CPU */
        {{FILES, "--frames", "5", "--accumulate", "fp16"}, 2},
        {{FILES, "--chunk", "100"}, 2},
        {{FILES, "--frames", "5", "--profile"}, 2},
        {{FILES, "--ram", "3XB"}, 2},
        {{FILES, "--frames", "5", "--vram", "1KiB"}, 3},
        {{"--weights", f->model, "--input", f->input, "--output", f->output, "--size", "48x64"}, 2},
        {{"--weights", f->model, "--output", f->output}, 2},
        {{"--noise-only", "--frames", "5"}, 2},
        {{"--weights", "/nowhere", "--input", f->context, "--output", f->output}, 2},
    };
    unlink(f->output);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int code = run(bad[i].words);
        if (code != bad[i].code)
            fail_msg("case %d: exit code %d, not %d", (int)i, code, bad[i].code);
        assert_int_equal(access(f->output, F_OK), -1); /* nothing left behind */
    }
    assert_int_equal(RUN("--weights", f->model, "--input", f->input, "--output", f->output,
                         "--text-len", "16", "--dump", "blocks.9.ffn.0"),
                     2);
    assert_int_equal(access(f->output, F_OK), -1);
}

static int setup(void **state)
{
    folder *f = need(calloc(1, sizeof *f));
    store_make(&f->s, 1, 96, 32, 2);
    temp_path(f->model, sizeof f->model, "run-model");
    temp_path(f->input, sizeof f->input, "run-input");
    temp_path(f->context, sizeof f->context, "run-context");
    temp_path(f->output, sizeof f->output, "run-output");
    store_write(&f->s, f->model);
    write_input(f->input, &f->s, true);
    write_input(f->context, &f->s, false);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    folder *f = *state;
    unlink(f->model), unlink(f->input), unlink(f->context), unlink(f->output);
    store_free(&f->s);
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_writes_the_fixed_outputs),
        cmocka_unit_test(test_run_draws_and_reports_its_noise),
        cmocka_unit_test(test_run_noise_only_needs_no_weights),
        cmocka_unit_test(test_run_dumps_layers),
        cmocka_unit_test(test_run_refuses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
