/*
 * test_vae_cases.c - every layer's output against Wan2.1's module in float64; what time_conv does
 * SPDX-License-Identifier: Apache-2.0
 */
#include "vae_fixture.h"

#define LIGHT LX2V_BUILD_DIR "/test_vae_cases_light.safetensors"
#define FULL  LX2V_BUILD_DIR "/test_vae_cases_full.safetensors"
#define MUTE  LX2V_BUILD_DIR "/test_vae_cases_mute.safetensors"
#define LIMIT 1e-4 /* absolute */

enum { N_POINTS = 10, N_LAYERS = 14, N_FRAMES = 13 };

typedef struct point {
    int c, t, y, x;
    double value;
} point;

typedef struct layer_facts {
    const char *name;
    double mean, rms, first, last;
} layer_facts;

typedef struct golden_case {
    int64_t base;
    vae_clip clip;
    double mean, rms, min, max;
    double frame_mean[N_FRAMES];
    point points[N_POINTS];
    layer_facts layers[N_LAYERS];
} golden_case;

static const golden_case case_a = {
    .base = 24,
    .clip = {.frames = 4, .height = 3, .width = 4, .chunk = 2},
    .mean = 0.162863232,
    .rms = 0.536982111,
    .min = -1.836458962,
    .max = 2.552535424,
    .frame_mean = {0.207674, 0.040384, 0.016921, 0.294483, 0.238785, 0.200010, 0.038928, 0.106757,
                   0.223362, 0.219519, 0.109244, 0.277594, 0.143560},
    .points = {{0, 0, 0, 0, 0.290493786},
               {1, 0, 12, 16, -0.063293458},
               {2, 0, 23, 31, 0.142585607},
               {0, 1, 0, 0, 0.075910967},
               {1, 2, 3, 5, -0.844486556},
               {2, 3, 12, 1, -0.578430656},
               {0, 4, 23, 31, 0.929757324},
               {1, 5, 7, 9, 0.094180566},
               {2, 8, 22, 3, 0.049423137},
               {0, 12, 12, 31, 1.062253312}},
    .layers = {{"conv2", -0.14413917, 2.09716554, 1.07457099, 0.35902960},
               {"decoder.conv1", -0.04676935, 1.45957059, 0.25294355, -0.17682590},
               {"decoder.middle.0", -0.05328505, 1.52312823, 0.06626199, 0.54010229},
               {"decoder.middle.1", -0.05581699, 1.59741728, -0.32404248, 0.60589422},
               {"decoder.middle.2", -0.06187658, 1.65555874, -0.50044590, -0.33570942},
               {"decoder.upsamples.2", -0.02231798, 1.80703545, -1.19583893, 0.12534202},
               {"decoder.upsamples.3", 0.09056688, 1.36054357, 1.31411065, 0.57583958},
               {"decoder.upsamples.4", 0.00587853, 1.43815161, 0.80214004, 1.75781950},
               {"decoder.upsamples.6", -0.00810194, 1.60794671, 0.96555259, 1.72195902},
               {"decoder.upsamples.7", 0.01812420, 1.37938305, 0.57190546, -0.54277452},
               {"decoder.upsamples.10", 0.01203684, 1.70548837, 0.17641253, -0.44395364},
               {"decoder.upsamples.11", -0.08842389, 1.71300245, 0.43597671, 0.69767008},
               {"decoder.upsamples.14", -0.08381932, 1.93508022, 0.77812295, 0.15159345},
               {"decoder.head.2", 0.16286323, 0.53698211, 0.29049379, -0.18241103}},
};

static const golden_case case_b = {
    .base = 96,
    .clip = {.frames = 3, .height = 2, .width = 3, .chunk = 3},
    .mean = 0.284383066,
    .rms = 0.559132585,
    .min = -1.300560155,
    .max = 2.159329944,
    .frame_mean = {0.040568, 0.007141, 0.457302, 0.405624, 0.276085, 0.436323, 0.371979, 0.352264,
                   0.212163},
    .points = {{0, 0, 0, 0, 0.007242020},
               {1, 0, 8, 12, 0.509892523},
               {2, 0, 15, 23, 0.021703362},
               {0, 1, 0, 0, -0.066341367},
               {1, 2, 3, 5, 0.156278128},
               {2, 3, 8, 1, 0.378173170},
               {0, 4, 15, 23, -0.125415974},
               {1, 5, 7, 9, 0.816178212},
               {2, 8, 14, 3, -0.039578784},
               {0, 8, 8, 23, 0.087677252}},
    .layers = {{"conv2", -0.23660882, 2.16136525, 2.62888365, 0.22805423},
               {"decoder.conv1", -0.02945883, 1.24779441, -0.22497406, 0.96151679},
               {"decoder.middle.0", -0.03151175, 1.29370939, -0.37171221, 0.74951339},
               {"decoder.middle.1", -0.02375392, 1.41692393, -0.48458751, 0.88916933},
               {"decoder.middle.2", -0.01512995, 1.46916694, -0.35456249, 0.70999145},
               {"decoder.upsamples.2", -0.03611623, 1.59359075, 0.06024275, 1.22898357},
               {"decoder.upsamples.3", -0.00054620, 1.04003732, 0.58640377, -1.12356858},
               {"decoder.upsamples.4", -0.00351933, 1.14916478, 1.21672969, -1.03970420},
               {"decoder.upsamples.6", 0.01025447, 1.33311593, 1.33121041, -0.85424984},
               {"decoder.upsamples.7", -0.01281886, 1.08117806, 0.67067664, 0.48468600},
               {"decoder.upsamples.10", -0.02972834, 1.42807879, 1.04824611, 0.36363768},
               {"decoder.upsamples.11", -0.07141973, 1.41810441, -0.61146757, 0.49012021},
               {"decoder.upsamples.14", -0.14298116, 1.69679690, -0.81722022, 0.68808279},
               {"decoder.head.2", 0.28438307, 0.55913258, 0.00724202, -0.53963578}},
};

/* Sums over a layer's stream as it goes by. */
typedef struct watch {
    const golden_case *golden;
    fixture_frames frames;
    double sum[N_LAYERS], square[N_LAYERS], first[N_LAYERS], last[N_LAYERS];
    int64_t n[N_LAYERS], frames_seen[N_LAYERS];
} watch;

static lx_status watch_frames(void *self, const vae_frames *frames, lx_err *err)
{
    return fixture_take(&((watch *)self)->frames, frames, err);
}

static lx_status watch_layer(void *self, const char *name, const lx_image *image, int64_t first,
                             int64_t total, lx_err *err)
{
    (void)err;
    watch *w = self;
    int i = 0;
    while (i < N_LAYERS && strcmp(w->golden->layers[i].name, name) != 0)
        i++;
    if (i == N_LAYERS)
        return LX_OK;
    int64_t n = image->frames * image->height * image->width * image->channels;
    const float *data = lx_image_f32(image, 0);
    assert_int_equal(first, w->frames_seen[i]); /* in order, without gaps */
    assert_true(first + image->frames <= total);
    if (first == 0)
        w->first[i] = data[0];
    w->last[i] = data[n - 1];
    for (int64_t k = 0; k < n; k++) {
        w->sum[i] += data[k];
        w->square[i] += (double)data[k] * data[k];
    }
    w->n[i] += n;
    w->frames_seen[i] += image->frames;
    return LX_OK;
}

static void near(const char *what, double got, double want, double limit)
{
    if (!(fabs(got - want) <= limit))
        fail_msg("%s: %.9f, want %.9f", what, got, want);
}

static void check_layers(const watch *w)
{
    for (int i = 0; i < N_LAYERS; i++) {
        const layer_facts *want = &w->golden->layers[i];
        assert_true(w->n[i] > 0);
        double n = (double)w->n[i];
        near(want->name, w->sum[i] / n, want->mean, LIMIT);
        near(want->name, sqrt(w->square[i] / n), want->rms, LIMIT);
        near(want->name, w->first[i], want->first, LIMIT);
        near(want->name, w->last[i], want->last, LIMIT);
    }
}

static void check_frames(const golden_case *g, const fixture_frames *f)
{
    double sum = 0, square = 0, min = INFINITY, max = -INFINITY, frame[N_FRAMES] = {0};
    int64_t pixels = f->height * f->width;
    for (size_t i = 0; i < fixture_size(f); i++) {
        double v = f->data[i];
        sum += v;
        square += v * v;
        min = fmin(min, v);
        max = fmax(max, v);
        frame[(int64_t)i / pixels % f->frames] += v / (3 * (double)pixels);
    }
    near("mean", sum / (double)fixture_size(f), g->mean, LIMIT);
    near("RMS", sqrt(square / (double)fixture_size(f)), g->rms, LIMIT);
    near("min", min, g->min, LIMIT);
    near("max", max, g->max, LIMIT);
    for (int64_t t = 0; t < f->frames; t++)
        near("frame mean", frame[t], g->frame_mean[t], LIMIT);
    for (int i = 0; i < N_POINTS; i++) {
        const point *p = &g->points[i];
        near("value", f->data[((p->c * f->frames + p->t) * f->height + p->y) * f->width + p->x],
             p->value, LIMIT);
    }
}

static void check_case(const golden_case *g, const char *path)
{
    lx_err err = {0};
    watch w = {.golden = g};
    fixture_write(path, g->base, false);
    vae *model = fixture_open(path, g->clip, 0);
    unlink(path);
    float *latent = fixture_latent(&g->clip, "latent");
    w.frames = (fixture_frames){.x = vae_exec(model),
                                .frames = vae_frame_count(g->clip.frames),
                                .height = 8 * g->clip.height,
                                .width = 8 * g->clip.width};
    w.frames.data = calloc(fixture_size(&w.frames), sizeof(float));
    assert_non_null(w.frames.data);
    vae_sink sink = {.frames = watch_frames, .layer = watch_layer, .self = &w};
    if (vae_decode(vae_decoder_of(model), vae_exec(model), &g->clip, latent, &sink, NULL, &err) !=
        LX_OK)
        fail_msg("%s", err.message);
    check_layers(&w);
    check_frames(g, &w.frames);
    free(w.frames.data);
    free(latent);
    vae_destroy(&model);
}

/* The generator itself, against values computed outside of this code. */
static void test_vae_generator_is_the_one_meant(void **state)
{
    (void)state;
    assert_true(fixture_seed("latent") == 0x37644263818f67ebu);
    near("u[0]", fixture_unit(fixture_seed("latent"), 0), 0.57543084, 1e-8);
    near("u[2]", fixture_unit(fixture_seed("latent"), 2), -0.25846192, 1e-8);
    near("conv2.bias", 0.1 * fixture_unit(fixture_seed("conv2.bias"), 0), -0.033282181797, 1e-11);
}

static void test_vae_case_a(void **state)
{
    (void)state;
    check_case(&case_a, LIGHT);
}

static void test_vae_case_b(void **state)
{
    (void)state;
    check_case(&case_b, FULL);
}

/* With zero weights time_conv says the same of every frame but the first, which it never sees. */
static void test_vae_first_frame_bypasses_time_conv(void **state)
{
    (void)state;
    vae_clip clip = {.frames = 3, .height = 2, .width = 2, .chunk = 1};
    float *latent = fixture_latent(&clip, "latent");
    fixture_frames whole, mute, other;
    fixture_write(LIGHT, 8, false);
    fixture_write(MUTE, 8, true);
    vae *model = fixture_open(LIGHT, clip, 0), *silent = fixture_open(MUTE, clip, 0);
    unlink(LIGHT);
    unlink(MUTE);
    whole = fixture_decode(model, &clip, latent);
    mute = fixture_decode(silent, &clip, latent);
    size_t pixels = (size_t)(mute.height * mute.width), n = fixture_size(&mute) / 3;
    for (size_t c = 0; c < 3; c++)
        assert_memory_equal(whole.data + c * n, mute.data + c * n, pixels * sizeof(float));
    /* Later latents no longer matter: all that reaches the second frame on is the bias, and the
     * first frame through the convolutions' history. */
    for (int64_t i = 0; i < 16 * 12; i++)
        if (i % 12 >= 4)
            latent[i] = -latent[i];
    other = fixture_decode(silent, &clip, latent);
    assert_memory_equal(mute.data, other.data, fixture_size(&mute) * sizeof(float));
    free(other.data);
    other = fixture_decode(model, &clip, latent);
    assert_memory_not_equal(whole.data, other.data, fixture_size(&whole) * sizeof(float));
    free(whole.data), free(mute.data), free(other.data), free(latent);
    vae_destroy(&model);
    vae_destroy(&silent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vae_generator_is_the_one_meant),
        cmocka_unit_test(test_vae_first_frame_bypasses_time_conv),
        cmocka_unit_test(test_vae_case_a),
        cmocka_unit_test(test_vae_case_b),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
