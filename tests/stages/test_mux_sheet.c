/*
 * test_mux_sheet.c - contact sheets: which frames, where, how large, and what is refused
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_helpers.h"

#include "lx_run.h"
#include "mux.h"
#include "mux_check.h"
#include "mux_sheet.h"
#include "weights/lx_weights.h"

static char *folder;
static char sheet[1024];

static int setup(void **state)
{
    (void)state;
    folder = make_folder();
    path_in(sheet, folder, "sheet.png");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

#define RUN(...) run((char *[]){__VA_ARGS__, NULL})

static int run(char **argv)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    return mux_run(argc, argv);
}

/* Each frame tells its number by its grey. */
static int grey_of(int64_t frame)
{
    return 16 + (int)frame * 10;
}

/* rgb8 of n frames; returns path. With bars: eight colours from left to right instead of grey. */
static char *write_frames(char *path, const char *name, int n, int height, int width, bool is_bars)
{
    const size_t plane = (size_t)height * (size_t)width;
    uint8_t *rgb = malloc(3 * (size_t)n * plane);
    assert_non_null(rgb);
    for (int p = 0; p < 3; p++)
        for (int f = 0; f < n; f++)
            for (size_t i = 0; i < plane; i++)
                rgb[((size_t)p * (size_t)n + (size_t)f) * plane + i] =
                    is_bars ? bars[i % (size_t)width * 8 / (size_t)width][p] : (uint8_t)grey_of(f);
    lx_named_tensor tensor = {"rgb8", {LX_DTYPE_U8, LX_SHAPE(3, n, height, width), rgb}};
    lx_err err = {0};
    if (lx_safetensors_write(path_in(path, folder, name), &tensor, 1, &err) != LX_OK)
        fail_msg("%s", err.message);
    free(rgb);
    return path;
}

/* The same frames as an mp4. */
static char *write_clip(char *path, const char *name, int n, int height, int width)
{
    char frames[1024];
    write_frames(frames, "frames.safetensors", n, height, width, false);
    assert_int_equal(RUN("--input", frames, "--output", path_in(path, folder, name)), 0);
    return path;
}

/* All of a rectangle has this grey, to within what H.264 changes. */
static void check_grey(const picture *p, int x, int y, int width, int height, int grey, int error)
{
    for (int row = y; row < y + height; row++)
        for (int i = x * 3; i < (x + width) * 3; i++)
            if (abs(p->rgb[row * p->width * 3 + i] - grey) > error)
                fail_msg("row %d, column %d: %d instead of %d", row, i / 3,
                         p->rgb[row * p->width * 3 + i], grey);
}

/* Cells of one strip, at its top, in these frames' greys; -1: an empty place. */
static void check_strip(const picture *p, int top, int width, int height, int pitch, int columns,
                        const int *frames, int n)
{
    for (int i = 0; i < n; i++) {
        int x = i % columns * pitch, y = top + i / columns * (height + MUX_SHEET_GAP);
        check_grey(p, x, y, width, height, frames[i] < 0 ? MUX_SHEET_GREY : grey_of(frames[i]),
                   frames[i] < 0 ? 0 : 2);
        if (x)
            check_grey(p, x - MUX_SHEET_GAP, y, MUX_SHEET_GAP, height, MUX_SHEET_GREY, 0);
    }
}

static void test_sheet_takes_evenly_spaced_frames(void **state)
{
    (void)state;
    enum { W = 64, H = 48, N = 21 };
    static const int eight[8] = {0, 3, 6, 9, 11, 14, 17, 20}, one[1] = {10};
    char frames[1024], clip[1024];
    write_frames(frames, "in.safetensors", N, H, W, false);
    path_in(clip, folder, "clip.mp4");
    /* Both outputs at once, then the sheet of the clip. */
    assert_int_equal(RUN("--input", frames, "--output", clip, "--contact-sheet", sheet, "--columns",
                         "4", "--rows", "2"),
                     0);
    for (int of_clip = 0; of_clip < 2; of_clip++) {
        picture p = read_png(sheet);
        assert_int_equal(p.width, 4 * W + 3 * MUX_SHEET_GAP);
        assert_int_equal(p.height, 2 * H + MUX_SHEET_GAP);
        check_strip(&p, 0, W, H, W + MUX_SHEET_GAP, 4, eight, 8);
        check_grey(&p, 0, H, p.width, MUX_SHEET_GAP, MUX_SHEET_GREY, 0);
        free(p.rgb);
        if (!of_clip)
            assert_int_equal(RUN("--contact-sheet", sheet, "--columns", "4", "--rows=2", clip), 0);
    }
    assert_int_equal(RUN("--contact-sheet", sheet, "--columns", "1", clip), 0);
    picture p = read_png(sheet);
    check_strip(&p, 0, W, H, W + MUX_SHEET_GAP, 1, one, 1);
    assert_true(p.width == W && p.height == H);
    free(p.rgb);
    assert_int_equal(count_entries(folder), 3);
}

static void test_sheet_of_several_clips(void **state)
{
    (void)state;
    /* Wide, with fewer frames than places; and a small one. The sheet's width halves the first. */
    static const int first[4] = {0, 1, 2, -1}, second[4] = {0, 4, 8, 12};
    char wide[1024], tall[1024];
    write_clip(wide, "wide.mp4", 3, 64, 192);
    write_clip(tall, "tall.mp4", 13, 64, 32);
    assert_int_equal(
        RUN("--width", "399", "--columns", "4", "--contact-sheet", sheet, "--input", wide, tall),
        0);
    picture p = read_png(sheet);
    /* (399 - 3 gaps) / 4 = 96: the wide one halved; the other as it is. */
    assert_int_equal(p.width, 4 * 96 + 3 * MUX_SHEET_GAP);
    assert_int_equal(p.height, 32 + MUX_SHEET_GAP + 64);
    check_strip(&p, 0, 96, 32, 96 + MUX_SHEET_GAP, 4, first, 4);
    check_strip(&p, 32 + MUX_SHEET_GAP, 32, 64, 96 + MUX_SHEET_GAP, 4, second, 4);
    check_grey(&p, 32, 32 + MUX_SHEET_GAP, 64, 64, MUX_SHEET_GREY, 0);
    free(p.rgb);
}

static void test_sheet_keeps_the_picture(void **state)
{
    (void)state;
    enum { W = 512, H = 64, SMALL = 256 };
    char frames[1024];
    write_frames(frames, "in.safetensors", 1, H, W, true);
    assert_int_equal(RUN("--contact-sheet", sheet, "--width", "256", "--columns", "1", frames), 0);
    picture p = read_png(sheet);
    assert_true(p.width == SMALL && p.height == H / 2);
    for (int i = 0; i < SMALL * H / 2; i++) {
        int x = i % SMALL;
        for (int c = 0; c < 3 && x % 32 >= 4 && x % 32 < 28; c++) /* edges are blended */
            assert_in_range(abs(p.rgb[i * 3 + c] - bars[x * 8 / SMALL][c]), 0, 2);
    }
    free(p.rgb);
}

/* Exit code, nothing new in the folder, and the sheet of before is still there. */
static void check_refused(int code, int expected)
{
    assert_int_equal(code, expected);
    size_t bytes;
    uint8_t *text = read_whole(folder, "sheet.png", &bytes);
    assert_string_equal((const char *)text, "old");
    free(text);
    assert_int_equal(count_entries(folder), 3);
}

static void test_sheet_refusals_leave_all_as_it_was(void **state)
{
    (void)state;
    char clip[1024], text[1024];
    write_clip(clip, "clip.mp4", 9, 64, 64);
    write_text(folder, "sheet.png", "old");
    check_refused(RUN("--contact-sheet", sheet), 2);
    check_refused(RUN("--contact-sheet", sheet, "/no/such.mp4"), 2);
    check_refused(RUN("--contact-sheet", sheet, "--columns", "0", clip), 2);
    check_refused(RUN("--contact-sheet", sheet, "--rows", "65", clip), 2);
    check_refused(RUN("--contact-sheet", sheet, "--columns", "64", "--width", "500", clip), 2);
    check_refused(RUN("--contact-sheet", "/no/such/sheet.png", clip), 2);
    check_refused(RUN("--contact-sheet", folder, clip), 2);
    check_refused(RUN("--contact-sheet", sheet, sheet), 2); /* no clip at all */
    check_refused(RUN("--input", clip, "--output", path_in(text, folder, "again.mp4")), 2);
    check_refused(RUN("--output", path_in(text, folder, "again.mp4"), clip), 2);
    check_refused(RUN("--input", clip, "--output", path_in(text, folder, "again.mp4"), clip), 2);
    char *many[LX_RUN_WORDS + 4] = {"--contact-sheet", sheet};
    for (int i = 0; i <= LX_RUN_WORDS; i++)
        many[2 + i] = clip;
    check_refused(run(many), 2);
}

/* The index says nine frames; the last bytes are not there. */
static void test_sheet_of_a_torn_clip(void **state)
{
    (void)state;
    char clip[1024];
    struct stat st;
    write_clip(clip, "clip.mp4", 9, 64, 64);
    write_text(folder, "sheet.png", "old");
    assert_int_equal(stat(clip, &st), 0);
    assert_int_equal(truncate(clip, st.st_size - 40), 0);
    check_refused(RUN("--contact-sheet", sheet, clip), 1);
    char *argv[] = {clip};
    assert_int_equal(mux_check(1, argv), 1); /* it reads clips in the same way */
    assert_int_equal(truncate(clip, 40), 0); /* "ftyp" and no index */
    check_refused(RUN("--contact-sheet", sheet, clip), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_sheet_takes_evenly_spaced_frames),
        T(test_sheet_of_several_clips),
        T(test_sheet_keeps_the_picture),
        T(test_sheet_refusals_leave_all_as_it_was),
        T(test_sheet_of_a_torn_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
