/*
 * test_mux_run.c - `lx2v-mux run`: a tensor in, a clip out, and what it says to bad input
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_helpers.h"

#include "mux.h"
#include "mux_colour.h"
#include "weights/lx_weights.h"

enum { W = 512, H = 64, N = 9 };

static char *folder;
static char in_path[1024], out_path[1024];

static int setup(void **state)
{
    (void)state;
    folder = make_folder();
    path_in(in_path, folder, "in.safetensors");
    path_in(out_path, folder, "a clip.mp4");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static int run(const char *flag, const char *value)
{
    char *argv[] = {"--input", in_path, "--output", out_path, (char *)flag, (char *)value, NULL};
    return mux_run(flag ? 6 : 4, argv);
}

/* rgb8 of the given shape and type, as eight bars of the full range. */
static void write_input(const char *name, lx_dtype dtype, lx_shape shape)
{
    uint64_t bytes;
    assert_int_equal(lx_shape_bytes(&shape, dtype, NULL, &bytes, NULL), LX_OK);
    uint8_t *data = calloc(1, bytes + 1);
    assert_non_null(data);
    int64_t width = shape.dim[shape.n_dims - 1];
    int64_t plane = shape.n_dims == 4 ? shape.dim[1] * shape.dim[2] * shape.dim[3] : 0;
    for (uint64_t i = 0; dtype == LX_DTYPE_U8 && plane && i < bytes; i++)
        data[i] = bars[(int64_t)i % width * 8 / width][(int64_t)i / plane % 3];
    lx_named_tensor tensor = {name, {dtype, shape, data}};
    lx_err err = {0};
    if (lx_safetensors_write(in_path, &tensor, 1, &err) != LX_OK)
        fail_msg("%s", err.message);
    free(data);
}

static void test_run_bars_come_back_as_rgb(void **state)
{
    (void)state;
    write_input("rgb8", LX_DTYPE_U8, LX_SHAPE(3, N, H, W));
    assert_int_equal(run(NULL, NULL), 0);
    assert_int_equal(count_entries(folder), 2);
    decoded d = decode_file(out_path);
    assert_int_equal(d.n_frames, N);
    assert_int_equal(d.width, W);
    assert_int_equal(d.height, H);
    assert_int_equal(d.container->streams[0]->avg_frame_rate.num, 16);
    assert_true(d.tags_on_all_frames);
    static uint8_t rgb[W * H * 3];
    mux_colour *c = NULL;
    assert_int_equal(mux_colour_open(&c, MUX_I420_TO_RGB, W, H, NULL), LX_OK);
    for (int t = 0; t < N; t++) {
        const uint8_t *i420 = d.i420 + (size_t)t * W * H * 3 / 2;
        assert_int_equal(mux_colour_to_rgb24(c, i420, rgb, W * 3, NULL), LX_OK);
        for (int i = 0; i < W * H; i++)
            for (int p = 0, x = i % W; p < 3; p++)
                if (x % 64 >= 4 && x % 64 < 60) /* 4:2:0 blends next to an edge */
                    assert_in_range(abs(rgb[i * 3 + p] - bars[x * 8 / W][p]), 0, 2);
    }
    mux_colour_close(&c);
    decoded_free(&d);
}

static void test_run_fps_and_overwrite(void **state)
{
    (void)state;
    write_input("rgb8", LX_DTYPE_U8, LX_SHAPE(3, 1, 16, 16));
    write_text(folder, "a clip.mp4", "old");
    assert_int_equal(run("--fps", "24"), 0);
    decoded d = decode_file(out_path);
    assert_int_equal(d.container->streams[0]->avg_frame_rate.num, 24);
    assert_int_equal(d.n_frames, 1);
    decoded_free(&d);
    const char *bad[] = {"0", "-1", "nan", "inf", "16x", "", "1e9", "0x10"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(run("--fps", bad[i]), 2);
}

static void test_run_refuses_bad_input_with_2(void **state)
{
    (void)state;
    assert_int_equal(run(NULL, NULL), 2); /* no such file */
    write_text(folder, "in.safetensors", "not a safetensors file");
    assert_int_equal(run(NULL, NULL), 2);
    const struct {
        const char *name;
        lx_dtype dtype;
        lx_shape shape;
    } cases[] = {
        {"frames", LX_DTYPE_U8, LX_SHAPE(3, 1, 16, 16)},
        {"rgb8", LX_DTYPE_F32, LX_SHAPE(3, 1, 16, 16)},
        {"rgb8", LX_DTYPE_U8, LX_SHAPE(1, 3, 16, 16)},
        {"rgb8", LX_DTYPE_U8, LX_SHAPE(3, 16, 16)},
        {"rgb8", LX_DTYPE_U8, LX_SHAPE(3, 0, 16, 16)},
        {"rgb8", LX_DTYPE_U8, LX_SHAPE(3, 1, 16, 17)},
        {"rgb8", LX_DTYPE_U8, LX_SHAPE(3, 1, 8, 16)},
        {"rgb8", LX_DTYPE_U8, LX_SHAPE(3, 1, 16, LX_LIMIT_SIDE + 2)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_input(cases[i].name, cases[i].dtype, cases[i].shape);
        assert_int_equal(run(NULL, NULL), 2);
        assert_int_equal(count_entries(folder), 1);
    }
}

static void test_run_refuses_outputs_that_are_no_files(void **state)
{
    (void)state;
    write_input("rgb8", LX_DTYPE_U8, LX_SHAPE(3, 1, 16, 16));
    const char *bad[] = {"/dev/null", "/no/such/folder/x.mp4", folder, "/tmp/", "", "."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(out_path, sizeof out_path, "%s", bad[i]);
        assert_int_equal(run(NULL, NULL), 2);
    }
    assert_int_equal(count_entries(folder), 1);
    char *incomplete[] = {"--input", in_path, NULL};
    assert_int_equal(mux_run(2, incomplete), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_run_bars_come_back_as_rgb),
        T(test_run_fps_and_overwrite),
        T(test_run_refuses_bad_input_with_2),
        T(test_run_refuses_outputs_that_are_no_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
