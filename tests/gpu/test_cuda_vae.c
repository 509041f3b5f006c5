/*
 * test_cuda_vae.c - the decoder on a card: goldens, and that chunks and tiles change no bit
 * SPDX-License-Identifier: Apache-2.0
 *
 * Sums in F32 and in F16, whatever the card's own choice is.
 *
 * --bench [PIECE [CHUNK [BUDGET_MIB]]]   seconds to decode 832x480x81 and 1280x720x81 with
 *                                        synthetic weights of full width, and the card's memory
 *                                        then in use, with both
 */
#include <sys/wait.h>

#include "../stages/vae_fixture.h"
#include "gpu.h"

#define GOLDEN    LX2V_SOURCE_DIR "/tests/golden/"
#define PROGRAM   LX2V_BIN_DIR "/lx2v-vae"
#define SYNTHETIC LX2V_BUILD_DIR "/test_cuda_vae_%d.safetensors"
#define IN        LX2V_BUILD_DIR "/test_cuda_vae_in.safetensors"
#define OUT       LX2V_BUILD_DIR "/test_cuda_vae_out.safetensors"
#define LIMIT     1.2e-2 /* relative L2 of frames against the float32 goldens */

/* "fp32", "fp16" */
static const lx_accumulate_choice both[] = {LX_ACCUMULATE_FP32, LX_ACCUMULATE_FP16};

/* --- by hand, as a user calls it -------------------------------------------------------------- */

static lx_weight tensor_of(const lx_weights *file, const char *name)
{
    lx_weight w;
    if (!lx_weights_find(file, name, &w))
        fail_msg("%s: no tensor %s", lx_weights_path(file), name);
    return w;
}

/* `run` on the card with up to six more words; the file it wrote. */
static lx_weights *run(const char *const *extra)
{
    const char *argv[20] = {PROGRAM,    "run",       "--weights", GOLDEN "Wan2.1_VAE.pth",
                            "--input",  IN,          "--output",  OUT,
                            "--device", gpu_device()};
    int argc = 10, state = 0;
    lx_weights *out = NULL;
    while (extra && *extra)
        argv[argc++] = *extra++;
    unlink(OUT);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execv(PROGRAM, (char **)(uintptr_t)argv);
        _exit(99);
    }
    assert_int_equal(waitpid(child, &state, 0), child);
    if (!WIFEXITED(state) || WEXITSTATUS(state) != 0)
        fail_msg("%s run %s %s: status %x", PROGRAM, argc > 10 ? argv[10] : "",
                 argc > 11 ? argv[11] : "", state);
    gpu_ok(lx_weights_open(&out, OUT, NULL, err));
    return out;
}

static size_t count_of(const lx_weight *w)
{
    uint64_t n;
    assert_int_equal(lx_shape_bytes(&w->shape, w->dtype, &n, NULL, NULL), LX_OK);
    return (size_t)n;
}

static float *floats_of(const lx_weight *w)
{
    float *out = gpu_malloc((int64_t)count_of(w), sizeof *out);
    assert_true(lx_widen_to_f32(out, w->data, w->dtype, count_of(w)));
    return out;
}

static void write_latent(const lx_weights *golden, const char *name)
{
    lx_weight w = tensor_of(golden, name);
    lx_named_tensor t = {
        .name = "latent",
        .tensor = {.dtype = w.dtype, .shape = w.shape, .data = (void *)(uintptr_t)w.data}};
    gpu_ok(lx_safetensors_write(IN, &t, 1, err));
}

static lx_weights *golden_file(void)
{
    lx_weights *golden = NULL;
    gpu_ok(lx_weights_open(&golden, GOLDEN "io.safetensors", NULL, err));
    return golden;
}

static void near_golden(const lx_weights *golden, const lx_weights *result, const char *name)
{
    lx_weight g = tensor_of(result, "frames"), w = tensor_of(golden, name);
    assert_true(lx_shape_equal(&g.shape, &w.shape));
    float *got = floats_of(&g), *want = floats_of(&w);
    gpu_pass(name, got, want, (int64_t)count_of(&g), g.shape.dim[3], LIMIT);
    free(got), free(want);
}

/* Codes of the frames that were written, exactly. */
static void rgb8_is_of_the_frames(const lx_weights *result)
{
    lx_weight f = tensor_of(result, "frames"), b = tensor_of(result, "rgb8");
    const float *frames = f.data;
    const uint8_t *codes = b.data;
    assert_int_equal(count_of(&f), count_of(&b));
    for (size_t i = 0; i < count_of(&f); i++)
        assert_int_equal(codes[i], (int)(255.0f * ((frames[i] + 1.0f) * 0.5f) + 0.5f));
}

static void test_golden_frames(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"vae.latent", "vae.frames"},
                                           {"dit.latent_out", "pipeline.frames"}};
    lx_weights *golden = golden_file();
    for (size_t i = 0; i < 4; i++) {
        const char *const sums[] = {"--accumulate", lx_accumulate_names[both[i / 2]], NULL};
        write_latent(golden, names[i % 2][0]);
        lx_weights *result = run(sums);
        printf("  sums in %s\n", sums[1]);
        near_golden(golden, result, names[i % 2][1]);
        rgb8_is_of_the_frames(result);
        lx_weights_close(&result);
    }
    lx_weights_close(&golden);
}

static void test_flags_change_no_bit(void **state)
{
    (void)state;
    static const char *const flags[][3] = {
        {"--chunk", "3", NULL}, {"--tile", "4x4", NULL}, {"--tile", "2x3", NULL}};
    lx_weights *golden = golden_file();
    write_latent(golden, "vae.latent");
    lx_weights *one = run(NULL);
    lx_weight frames = tensor_of(one, "frames"), codes = tensor_of(one, "rgb8");
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        lx_weights *other = run(flags[i]);
        lx_weight f = tensor_of(other, "frames"), c = tensor_of(other, "rgb8");
        assert_memory_equal(f.data, frames.data, count_of(&frames) * sizeof(float));
        assert_memory_equal(c.data, codes.data, count_of(&codes));
        lx_weights_close(&other);
    }
    lx_weights_close(&one);
    lx_weights_close(&golden);
}

static void test_dumps_are_the_layers(void **state)
{
    (void)state;
    static const char *const flags[] = {"--dump", "conv2,decoder.middle.1,decoder.head.2", NULL};
    lx_weights *golden = golden_file();
    write_latent(golden, "vae.latent");
    lx_weights *result = run(flags);
    lx_weight frames = tensor_of(result, "frames"), head = tensor_of(result, "decoder.head.2");
    lx_weight middle = tensor_of(result, "decoder.middle.1");
    assert_true(lx_shape_equal(&frames.shape, &head.shape));
    for (size_t i = 0; i < count_of(&frames); i++) /* only clamped */
        assert_true(((const float *)frames.data)[i] ==
                    fminf(fmaxf(((const float *)head.data)[i], -1), 1));
    for (size_t i = 0; i < count_of(&middle); i++)
        assert_true(isfinite(((const float *)middle.data)[i]));
    lx_weights_close(&result);
    lx_weights_close(&golden);
}

/* --- the library ------------------------------------------------------------------------------ */

/* Wide enough for tiles whose halo does not reach the frame's edge. */
static const vae_clip whole = {.frames = 4, .height = 4, .width = 20, .chunk = 1};

static const char *synthetic(int base)
{
    static char path[512];
    snprintf(path, sizeof path, SYNTHETIC, base);
    if (access(path, R_OK) != 0)
        fixture_write(path, base, false);
    return path;
}

static fixture_frames decode(const char *path, const vae_clip *clip, const float *latent,
                             lx_accumulate_choice sums)
{
    vae *model = fixture_open_as(gpu_device(), path, *clip, 0, sums);
    fixture_frames f = fixture_decode(model, clip, latent);
    assert_true(lx_arena_peak(vae_exec(model)->arena) <= vae_arena_bytes(model));
    vae_destroy(&model);
    return f;
}

/* base 24: tiles of 96, 48, 32 and 8 outputs; base 4: widths 16, 8 and 4, the last by one thread
 * per output. */
static void check_ways(int base, lx_accumulate_choice sums)
{
    const char *path = synthetic(base);
    float *latent = fixture_latent(&whole, "latent");
    fixture_frames want = decode(path, &whole, latent, sums);
    size_t bytes = fixture_size(&want) * sizeof(float);
    static const int ways[][4] = {{1, 4, 0, 0}, {4, 0, 0, 0},  {3, 2, 0, 0}, {1, 1, 0, 0},
                                  {2, 0, 4, 8}, {1, 1, 2, 12}, {5, 2, 3, 5}};
    for (size_t i = 0; i < fixture_size(&want); i++)
        assert_true(isfinite(want.data[i]));
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        vae_clip clip = whole;
        clip.chunk = ways[i][0];
        clip.piece = ways[i][1];
        clip.tile_h = ways[i][2];
        clip.tile_w = ways[i][3];
        fixture_frames got = decode(path, &clip, latent, sums);
        if (memcmp(got.data, want.data, bytes) != 0)
            gpu_pass("chunk, piece or tile", got.data, want.data, (int64_t)fixture_size(&want),
                     want.width, 0);
        free(got.data);
    }
    free(want.data), free(latent);
    unlink(path);
}

static void test_chunks_pieces_and_tiles_change_no_bit(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        check_ways(24, both[i]);
        check_ways(4, both[i]);
    }
}

/* The CPU's float32 is the definition; the bar is the goldens'. */
static void test_near_the_cpu(void **state)
{
    (void)state;
    const char *path = synthetic(24);
    float *latent = fixture_latent(&whole, "latent");
    vae *model = fixture_open(path, whole, 0);
    fixture_frames want = fixture_decode(model, &whole, latent), got[2];
    for (int i = 0; i < 2; i++) {
        got[i] = decode(path, &whole, latent, both[i]);
        gpu_pass(i ? "synthetic, base 24, F16 sums" : "synthetic, base 24", got[i].data, want.data,
                 (int64_t)fixture_size(&want), want.width, 1.5 * LIMIT);
    }
    assert_true(memcmp(got[0].data, got[1].data, fixture_size(&want) * sizeof(float)) != 0);
    free(want.data), free(got[0].data), free(got[1].data), free(latent);
    vae_destroy(&model);
    unlink(path);
}

/* Nothing of an earlier clip, nor of one that was cut short. */
static lx_status stop_at_second(void *self, const char *unit, uint64_t done, uint64_t total,
                                lx_err *err)
{
    (void)self, (void)unit, (void)total;
    return done < 2 ? LX_OK : lx_fail(err, LX_ECANCEL, "enough");
}

static void test_remembers_nothing_of_earlier_clips(void **state)
{
    (void)state;
    lx_err err = {0};
    const lx_progress progress = {.step = stop_at_second};
    float *latent = fixture_latent(&whole, "latent"), *other = fixture_latent(&whole, "another");
    vae *model = fixture_open_on(gpu_device(), synthetic(8), whole, 0);
    lx_exec *x = vae_exec(model);
    fixture_frames want = fixture_decode(model, &whole, latent), got;
    size_t mark = lx_arena_mark(x->arena);
    const float *placed;
    assert_int_equal(vae_latent_place(x, &whole, other, &placed, &err), LX_OK);
    assert_int_equal(vae_decode(vae_decoder_of(model), x, &whole, placed, NULL, &progress, &err),
                     LX_ECANCEL);
    lx_arena_reset(x->arena, mark);
    got = fixture_decode(model, &whole, latent);
    assert_memory_equal(got.data, want.data, fixture_size(&want) * sizeof(float));
    free(want.data), free(got.data), free(latent), free(other);
    vae_destroy(&model);
    unlink(synthetic(8));
}

/* --- --bench ---------------------------------------------------------------------------------- */

static lx_status drop_frames(void *self, const vae_frames *frames, lx_err *err)
{
    vae *model = self;
    (void)frames;
    return lx_exec_pace(vae_exec(model), err);
}

static void bench_clip(const char *path, vae_clip clip, uint64_t budget, lx_accumulate_choice sums)
{
    lx_err err = {0};
    vae *model = NULL;
    uint64_t free_bytes, total;
    vae_options o = {.weights = path,
                     .device = gpu_device(),
                     .largest = clip,
                     .budget = budget,
                     .accumulate = sums};
    gpu_must(vae_open(&model, &o, &err), &err);
    lx_exec *x = vae_exec(model);
    float *latent = fixture_latent(&clip, "latent");
    const float *placed;
    vae_clip how = *vae_largest(model);
    vae_sink sink = {.frames = drop_frames, .self = model};
    gpu_must(vae_latent_place(x, &clip, latent, &placed, &err), &err);
    for (int i = 0; i < 3; i++) {
        double from = gpu_now_s();
        gpu_must(vae_decode(vae_decoder_of(model), x, &how, placed, &sink, NULL, &err), &err);
        gpu_must(lx_exec_wait(x, &err), &err);
        printf("%lldx%lldx%lld chunk %lld piece %lld tile %lldx%lld sums %s: %.3f s\n",
               (long long)(8 * clip.width), (long long)(8 * clip.height),
               (long long)vae_frame_count(clip.frames), (long long)how.chunk, (long long)how.piece,
               (long long)how.tile_h, (long long)how.tile_w, vae_sums_name(model),
               gpu_now_s() - from);
    }
    gpu_must(lx_cuda_memory(x->cuda, &free_bytes, &total, &err), &err);
    printf("  arena %.1f MiB (weights %.1f), on the card %.1f MiB in use by all\n",
           (double)vae_arena_bytes(model) / 1048576, (double)vae_weight_bytes(model) / 1048576,
           (double)(total - free_bytes) / 1048576);
    free(latent);
    vae_destroy(&model);
}

static int bench(int argc, char **argv)
{
    const char *path = synthetic(96);
    int64_t piece = argc > 2 ? atoi(argv[2]) : 0, chunk = argc > 3 ? atoi(argv[3]) : 1;
    uint64_t budget = argc > 4 ? (uint64_t)atoi(argv[4]) << 20 : 0;
    vae_clip clip = {.frames = 21, .height = 60, .width = 104, .chunk = chunk, .piece = piece};
    for (int i = 0; i < 4; i++) {
        clip.height = i < 2 ? 60 : 90;
        clip.width = i < 2 ? 104 : 160;
        bench_clip(path, clip, budget, both[i % 2]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    gpu_skip_without_card();
    if (gpu_wants_bench(argc, argv))
        return bench(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_frames),
        cmocka_unit_test(test_flags_change_no_bit),
        cmocka_unit_test(test_dumps_are_the_layers),
        cmocka_unit_test(test_chunks_pieces_and_tiles_change_no_bit),
        cmocka_unit_test(test_near_the_cpu),
        cmocka_unit_test(test_remembers_nothing_of_earlier_clips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
