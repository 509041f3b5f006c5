/*
 * test_mux_video.c - what stands in the mp4, read back as a player reads it
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_helpers.h"

#include <jansson.h>

#include "mux_colour.h"
#include "mux_video.h"

static char *folder;

static int setup(void **state)
{
    (void)state;
    folder = make_folder();
    mux_ffmpeg_setup();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static mux_video_options options(int width, int height, int n_frames, const mux_meta *meta)
{
    return (mux_video_options){.width = width,
                               .height = height,
                               .fps = 16,
                               .crf = 18,
                               .preset = "medium",
                               .threads = 2,
                               .n_frames = n_frames,
                               .meta = meta};
}

typedef void (*fill_fn)(uint8_t *i420, int width, int height, int t);

/* Encode into NAME; returns its path in the static buffer. */
static const char *encode(const char *name, const mux_video_options *o, fill_fn fill)
{
    static char path[1024];
    lx_err err = {0};
    uint8_t *frame = malloc((size_t)o->width * (size_t)o->height * 3 / 2);
    int fd = open(path_in(path, folder, name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    mux_video *v = NULL;
    if (mux_video_open(&v, fd, o, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (int t = 0; t < o->n_frames; t++) {
        fill(frame, o->width, o->height, t);
        assert_int_equal(mux_video_add(v, frame, &err), LX_OK);
    }
    uint64_t bytes = 0;
    if (mux_video_finish(v, &bytes, &err) != LX_OK)
        fail_msg("%s", err.message);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(bytes, st.st_size);
    mux_video_close(&v);
    assert_null(v);
    close(fd);
    free(frame);
    return path;
}

static void test_video_is_what_players_expect(void **state)
{
    (void)state;
    mux_meta meta;
    mux_meta_of_file(&meta);
    mux_video_options o = options(96, 64, 97, &meta);
    decoded d = decode_file(encode("a.mp4", &o, fill_frame));
    const AVStream *s = d.container->streams[0];
    const AVCodecParameters *par = s->codecpar;
    assert_int_equal(par->codec_id, AV_CODEC_ID_H264);
    assert_int_equal(par->width, 96);
    assert_int_equal(par->height, 64);
    assert_int_equal(par->format, AV_PIX_FMT_YUV420P);
    assert_int_equal(s->nb_frames, 97);
    assert_int_equal(d.n_frames, 97);
    assert_int_equal(s->avg_frame_rate.num, 16);
    assert_int_equal(s->avg_frame_rate.den, 1);
    assert_int_equal(s->r_frame_rate.num, 16 * s->r_frame_rate.den);
    assert_int_equal(s->duration * 16 * s->time_base.num, 97 * (int64_t)s->time_base.den);
    assert_int_equal(par->color_range, AVCOL_RANGE_MPEG);
    assert_int_equal(par->color_space, AVCOL_SPC_BT709);
    assert_int_equal(par->color_primaries, AVCOL_PRI_BT709);
    assert_int_equal(par->color_trc, AVCOL_TRC_BT709);
    assert_int_equal(par->chroma_location, AVCHROMA_LOC_LEFT);
    assert_true(d.tags_on_all_frames);
    assert_true(d.key_frame_gap <= 80); /* five seconds */
    decoded_free(&d);
}

/* Positions of the boxes in the file's top level. */
static void test_video_index_comes_before_the_frames(void **state)
{
    (void)state;
    mux_meta meta;
    mux_meta_of_file(&meta);
    mux_video_options o = options(64, 64, 9, &meta);
    encode("a.mp4", &o, fill_frame);
    size_t n;
    uint8_t *data = read_whole(folder, "a.mp4", &n);
    size_t moov = 0, mdat = 0, at = 0;
    while (at + 8 <= n) {
        size_t size = (size_t)data[at] << 24 | (size_t)data[at + 1] << 16 |
                      (size_t)data[at + 2] << 8 | data[at + 3];
        if (!memcmp(data + at + 4, "moov", 4))
            moov = at;
        if (!memcmp(data + at + 4, "mdat", 4))
            mdat = at;
        assert_true(size >= 8);
        at += size;
    }
    assert_int_equal(at, n); /* the boxes fill the file exactly */
    assert_true(moov > 0 && mdat > moov);
    free(data);
}

static lx_job a_job(void)
{
    lx_job job = {.id = "j1",
                  .prompt = "a \"red\" ball\nrolls left",
                  .width = 64,
                  .height = 64,
                  .frames = 5,
                  .fps = 16,
                  .seed = 42,
                  .sampler = LX_SAMPLER_EULER,
                  .shift = 5,
                  .n_steps = 4,
                  .steps = {1000, 750, 500, 250},
                  .rng = "lx2v",
                  .output = "clip.mp4"};
    return job;
}

static void test_video_metadata_survives(void **state)
{
    (void)state;
    lx_job job = a_job();
    mux_meta meta;
    mux_meta_of_job(&meta, &job, LX_METADATA_FULL, "some-checkpoint");
    mux_video_options o = options(64, 64, 5, &meta);
    decoded d = decode_file(encode("a.mp4", &o, fill_frame));
    assert_string_equal(tag_of(&d, "title"), "a \"red\" ball rolls left");
    assert_string_equal(tag_of(&d, "prompt"), "a \"red\" ball rolls left");
    assert_string_equal(tag_of(&d, "seed"), "42");
    assert_string_equal(tag_of(&d, "sigmas"), "1 0.9375 0.833333313 0.625");
    assert_string_equal(tag_of(&d, "sampler"), "euler");
    assert_string_equal(tag_of(&d, "noise"), "lx2v");
    assert_string_equal(tag_of(&d, "checkpoint"), "some-checkpoint");
    assert_string_equal(tag_of(&d, "version"), "lx2v " LX2V_VERSION);
    json_t *comment = json_loads(tag_of(&d, "comment"), 0, NULL);
    assert_non_null(comment);
    assert_int_equal(json_integer_value(json_object_get(comment, "seed")), 42);
    json_decref(comment);
    assert_null(tag_of(&d, "creation_time"));
    decoded_free(&d);

    mux_meta_of_job(&meta, &job, LX_METADATA_OFF, "some-checkpoint");
    d = decode_file(encode("b.mp4", &o, fill_frame));
    const char *ours[] = {"title", "prompt", "seed", "comment", "version", "checkpoint"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        assert_null(tag_of(&d, ours[i]));
    decoded_free(&d);
}

/* Sixteen bars of 32 x 64 pixels; the clip is still. */
static void fill_bars(uint8_t *i420, int width, int height, int t)
{
    (void)t;
    size_t plane = (size_t)width * (size_t)height;
    uint8_t *rgb[3];
    for (int p = 0; p < 3; p++) {
        rgb[p] = malloc(plane);
        for (size_t i = 0; i < plane; i++)
            rgb[p][i] = bars[i % (size_t)width * 16 / (size_t)width][p];
    }
    mux_colour *c = NULL;
    assert_int_equal(mux_colour_open(&c, MUX_RGB_TO_I420, width, height, NULL), LX_OK);
    assert_int_equal(mux_colour_to_i420(c, rgb[0], rgb[1], rgb[2], i420, NULL), LX_OK);
    mux_colour_close(&c);
    for (int p = 0; p < 3; p++)
        free(rgb[p]);
}

static int worst_difference(const uint8_t *a, const uint8_t *b, size_t n)
{
    int worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = abs(a[i] - b[i]) > worst ? abs(a[i] - b[i]) : worst;
    return worst;
}

static void test_video_colour_bars_come_back_within_two(void **state)
{
    (void)state;
    enum { W = 512, H = 64, N = 9 };
    mux_meta meta;
    mux_meta_of_file(&meta);
    mux_video_options o = options(W, H, N, &meta);
    decoded d = decode_file(encode("a.mp4", &o, fill_bars));
    assert_int_equal(d.n_frames, N);
    static uint8_t sent[W * H * 3 / 2], rgb[W * H * 3];
    fill_bars(sent, W, H, 0);
    mux_colour *c = NULL;
    assert_int_equal(mux_colour_open(&c, MUX_I420_TO_RGB, W, H, NULL), LX_OK);
    for (int t = 0; t < N; t++) {
        const uint8_t *got = d.i420 + (size_t)t * sizeof sent; /* edges of bars included */
        assert_in_range(worst_difference(got, sent, sizeof sent), 0, 2);
        assert_int_equal(mux_colour_to_rgb24(c, got, rgb, W * 3, NULL), LX_OK);
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++) /* 4:2:0 blends two bars next to their edge */
                if (x % 32 >= 4 && x % 32 < 28)
                    for (int p = 0; p < 3; p++)
                        assert_in_range(abs(rgb[(y * W + x) * 3 + p] - bars[x / 32][p]), 0, 2);
    }
    mux_colour_close(&c);
    decoded_free(&d);
}

static void test_video_same_frames_same_bytes(void **state)
{
    (void)state;
    lx_job job = a_job();
    mux_meta meta;
    mux_meta_of_job(&meta, &job, LX_METADATA_FULL, "x");
    mux_video_options o = options(96, 64, 33, &meta);
    size_t n[2];
    uint8_t *data[2];
    const char *names[] = {"a.mp4", "b.mp4"};
    for (int i = 0; i < 2; i++) {
        encode(names[i], &o, fill_frame);
        data[i] = read_whole(folder, names[i], &n[i]);
        if (!i)
            sleep(1); /* a date in the file would have second grain */
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(data[0], data[1], n[0]);
    free(data[0]);
    free(data[1]);
}

static void test_video_one_frame_and_odd_rates(void **state)
{
    (void)state;
    mux_meta meta;
    mux_meta_of_file(&meta);
    mux_video_options o = options(16, 16, 1, &meta);
    decoded d = decode_file(encode("a.mp4", &o, fill_frame));
    assert_int_equal(d.n_frames, 1);
    decoded_free(&d);
    const struct {
        double fps;
        int num, den;
    } rates[] = {{16, 16, 1},
                 {24, 24, 1},
                 {29.97, 30000, 1001},
                 {23.976, 24000, 1001},
                 {12.5, 25, 2},
                 {59.94, 60000, 1001},
                 {1, 1, 1},
                 {240, 240, 1}};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        o = options(32, 32, 7, &meta);
        o.fps = rates[i].fps;
        d = decode_file(encode("b.mp4", &o, fill_frame));
        AVRational r = d.container->streams[0]->avg_frame_rate;
        assert_int_equal((int64_t)r.num * rates[i].den, (int64_t)rates[i].num * r.den);
        assert_int_equal(d.n_frames, 7);
        decoded_free(&d);
    }
}

static void test_video_refuses_what_it_cannot_do(void **state)
{
    (void)state;
    mux_meta meta;
    mux_meta_of_file(&meta);
    char path[1024];
    int fd = open(path_in(path, folder, "a.mp4"), O_RDWR | O_CREAT, 0600);
    mux_video *v = NULL;
    lx_err err = {0};
    mux_video_options o = options(65, 64, 5, &meta);
    assert_int_equal(mux_video_open(&v, fd, &o, &err), LX_EJOB);
    o = options(64, 64, 5, &meta);
    o.preset = "no-such";
    assert_int_equal(mux_video_open(&v, fd, &o, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "no-such"));
    o = options(64, 64, 5, &meta);
    o.fps = NAN;
    assert_int_equal(mux_video_open(&v, fd, &o, &err), LX_EJOB);
    o = options(64, 64, 0, &meta);
    assert_int_equal(mux_video_open(&v, fd, &o, &err), LX_EJOB);
    assert_null(v);
    /* Frames that do not come, and frames too many. */
    static uint8_t frame[64 * 64 * 3 / 2];
    o = options(64, 64, 2, &meta);
    assert_int_equal(mux_video_open(&v, fd, &o, &err), LX_OK);
    assert_int_equal(mux_video_add(v, frame, &err), LX_OK);
    assert_int_equal(mux_video_finish(v, NULL, &err), LX_EJOB);
    assert_int_equal(mux_video_add(v, frame, &err), LX_OK);
    assert_int_equal(mux_video_add(v, frame, &err), LX_EJOB);
    mux_video_close(&v);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_video_is_what_players_expect),    T(test_video_index_comes_before_the_frames),
        T(test_video_metadata_survives),         T(test_video_colour_bars_come_back_within_two),
        T(test_video_same_frames_same_bytes),    T(test_video_one_frame_and_odd_rates),
        T(test_video_refuses_what_it_cannot_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
