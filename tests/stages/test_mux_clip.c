/*
 * test_mux_clip.c - a clip appears whole or not at all: aborts, full disks, PNG, flat memory
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_helpers.h"

#include <malloc.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "lx_process.h"
#include "mux_clip.h"
#include "mux_colour.h"

enum { W = 96, H = 64, N = 13 };

static char *folder;
static mux_meta meta;

static int setup(void **state)
{
    (void)state;
    folder = make_folder();
    mux_ffmpeg_setup();
    mux_meta_of_file(&meta);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static mux_clip_options options(lx_mux_format format, const char *name)
{
    return (mux_clip_options){.format = format,
                              .dir = folder,
                              .name = name,
                              .job = "job-1",
                              .width = W,
                              .height = H,
                              .fps = 16,
                              .n_frames = N,
                              .crf = 18,
                              .preset = "veryfast",
                              .threads = 2,
                              .meta = &meta};
}

static lx_status add_frames(mux_clip *clip, const mux_clip_options *o, int n, lx_err *err)
{
    uint8_t *frame = malloc((size_t)o->width * (size_t)o->height * 3 / 2);
    lx_status status = LX_OK;
    for (int t = 0; t < n && status == LX_OK; t++) {
        fill_frame(frame, o->width, o->height, t);
        status = mux_clip_add(clip, frame, err);
    }
    free(frame);
    return status;
}

static lx_status make(const mux_clip_options *o, lx_err *err)
{
    mux_clip *clip = NULL;
    lx_status status = mux_clip_begin(&clip, o, err);
    if (status == LX_OK)
        status = add_frames(clip, o, (int)o->n_frames, err);
    if (status == LX_OK)
        status = mux_clip_finish(&clip, NULL, err);
    mux_clip_abort(&clip);
    return status;
}

static void test_clip_appears_only_when_whole(void **state)
{
    (void)state;
    lx_err err = {0};
    mux_clip_options o = options(LX_FORMAT_MP4, "clip.mp4");
    mux_clip *clip = NULL;
    assert_int_equal(mux_clip_begin(&clip, &o, &err), LX_OK);
    assert_int_equal(add_frames(clip, &o, N, &err), LX_OK);
    assert_false(exists(folder, "clip.mp4"));
    uint64_t bytes = 0;
    assert_int_equal(mux_clip_finish(&clip, &bytes, &err), LX_OK);
    assert_null(clip);
    assert_int_equal(count_entries(folder), 1);
    char path[1024];
    decoded d = decode_file(path_in(path, folder, "clip.mp4"));
    assert_int_equal(d.n_frames, N);
    decoded_free(&d);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(bytes, st.st_size);
}

static void test_clip_abort_leaves_nothing(void **state)
{
    (void)state;
    lx_err err = {0};
    const lx_mux_format formats[] = {LX_FORMAT_MP4, LX_FORMAT_PNG};
    for (int i = 0; i < 2; i++) {
        mux_clip_options o = options(formats[i], "clip");
        mux_clip *clip = NULL;
        assert_int_equal(mux_clip_begin(&clip, &o, &err), LX_OK);
        assert_int_equal(add_frames(clip, &o, N / 2, &err), LX_OK);
        mux_clip_abort(&clip);
        assert_null(clip);
        mux_clip_abort(&clip);
        assert_int_equal(count_entries(folder), 0);
        /* Frames missing at the end. */
        assert_int_equal(mux_clip_begin(&clip, &o, &err), LX_OK);
        assert_int_equal(add_frames(clip, &o, N - 1, &err), LX_OK);
        assert_int_equal(mux_clip_finish(&clip, NULL, &err), LX_EJOB);
        assert_non_null(strstr(err.message, "12 frames came, 13 were announced"));
        assert_null(clip);
        assert_int_equal(count_entries(folder), 0);
    }
}

static void test_clip_bad_preset_leaves_nothing(void **state)
{
    (void)state;
    lx_err err = {0};
    mux_clip_options o = options(LX_FORMAT_MP4, "clip.mp4");
    o.preset = "fastest-ever";
    assert_int_equal(make(&o, &err), LX_ECONFIG);
    assert_int_equal(count_entries(folder), 0);
}

/* --- full disks ------------------------------------------------------------------------------ */

/* In a child, because a limit on the size of files is for the whole process. */
static void with_file_limit(rlim_t bytes, lx_mux_format format, const char *name)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        lx_err err = {0};
        signal(SIGXFSZ, SIG_IGN); /* the write fails with EFBIG instead */
        struct rlimit limit = {bytes, bytes};
        setrlimit(RLIMIT_FSIZE, &limit);
        mux_clip_options o = options(format, name);
        lx_status status = make(&o, &err);
        bool said = strstr(err.message, "no space: needs ") && strstr(err.message, ", has ");
        _exit(status != LX_EJOB ? 1 : !said ? 2 : count_entries(folder) != 0 ? 3 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_clip_write_failure_at_any_byte_leaves_nothing(void **state)
{
    (void)state;
    lx_err err = {0};
    mux_clip_options o = options(LX_FORMAT_MP4, "whole.mp4");
    assert_int_equal(make(&o, &err), LX_OK);
    char path[1024];
    struct stat st;
    assert_int_equal(stat(path_in(path, folder, "whole.mp4"), &st), 0);
    unlink(path);
    /* In the header, among the frames, while the index moves, one byte before the end. */
    const rlim_t limits[] = {0, 40, (rlim_t)st.st_size / 3, (rlim_t)st.st_size - 600,
                             (rlim_t)st.st_size - 1};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        with_file_limit(limits[i], LX_FORMAT_MP4, "clip.mp4");
    with_file_limit(0, LX_FORMAT_PNG, "clip");
    with_file_limit(200, LX_FORMAT_PNG, "clip");
}

static void test_clip_full_file_system(void **state)
{
    (void)state;
    lx_err err = {0};
    if (mount("lx2v-test", folder, "tmpfs", 0, "size=512k,mode=700")) {
        print_message("skipped: mounting a small tmpfs is not permitted here (%s)\n",
                      strerror(errno));
        skip();
    }
    /* Frames that need more than the 512 KiB, though the estimate lets them begin. */
    mux_clip_options o = options(LX_FORMAT_MP4, "clip.mp4");
    o.width = o.height = 256;
    o.n_frames = 17;
    o.crf = 0;
    lx_status big = make(&o, &err);
    char message[LX_ERR_TEXT];
    snprintf(message, sizeof message, "%s", err.message);
    int left = count_entries(folder);
    /* Refused before the first frame: the estimate is larger than the whole file system. */
    o.width = o.height = 1024;
    o.n_frames = 81;
    mux_clip *clip = NULL;
    lx_status refused = mux_clip_begin(&clip, &o, &err);
    /* Space is there again: the next job is fine. */
    mux_clip_options small = options(LX_FORMAT_MP4, "clip.mp4");
    lx_status after = make(&small, NULL);
    int left_after = count_entries(folder);
    umount2(folder, MNT_DETACH);
    assert_int_equal(big, LX_EJOB);
    assert_non_null(strstr(message, "no space: needs "));
    assert_int_equal(left, 0);
    assert_int_equal(refused, LX_EJOB);
    assert_non_null(strstr(err.message, "no space: needs "));
    assert_int_equal(after, LX_OK);
    assert_int_equal(left_after, 1);
}

/* --- PNG ------------------------------------------------------------------------------------- */

/* The text of the iTXt chunk of that name must begin with `expected`. */
static void check_text(const char *dir, const char *name, const char *key, const char *expected)
{
    size_t bytes, n = strlen(key) + 1;
    uint8_t *file = read_whole(dir, name, &bytes);
    const uint8_t *at = memmem(file, bytes, key, n);
    assert_non_null(at);
    assert_memory_equal(at - 4, "iTXt", 4);
    assert_memory_equal(at + n + 4, expected, strlen(expected)); /* flags, language, translation */
    free(file);
}

static void test_clip_png_round_trip(void **state)
{
    (void)state;
    lx_err err = {0};
    mux_clip_options o = options(LX_FORMAT_PNG, "clip");
    if (make(&o, &err) != LX_OK)
        fail_msg("%s", err.message);
    char dir[1024], name[32], path[1024];
    path_in(dir, folder, "clip");
    assert_int_equal(count_entries(folder), 1);
    assert_int_equal(count_entries(dir), N);
    static uint8_t frame[W * H * 3 / 2], expected[W * H * 3];
    mux_colour *c = NULL;
    assert_int_equal(mux_colour_open(&c, MUX_I420_TO_RGB, W, H, &err), LX_OK);
    for (int t = 0; t < N; t++) {
        fill_frame(frame, W, H, t);
        assert_int_equal(mux_colour_to_rgb24(c, frame, expected, W * 3, &err), LX_OK);
        snprintf(name, sizeof name, "%05d.png", t);
        picture got = read_png(path_in(path, dir, name));
        assert_true(got.width == W && got.height == H);
        assert_memory_equal(got.rgb, expected, sizeof expected);
        free(got.rgb);
    }
    mux_colour_close(&c);
    check_text(dir, "00000.png", "version", "lx2v " LX2V_VERSION);
    /* An existing folder is refused, and left as it was. */
    assert_int_equal(make(&o, &err), LX_EJOB);
    assert_int_equal(count_entries(dir), N);
}

/* --- memory ---------------------------------------------------------------------------------- */

static void test_clip_memory_is_flat(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("skipped: sanitizers keep freed memory\n");
    skip();
#endif
    const int sizes[][3] = {{W, H, N}, {256, 128, 9}, {64, 320, 21}, {192, 192, 5}};
    uint64_t after_second = 0, after_last = 0;
    for (int i = 0; i < 24; i++) {
        mux_clip_options o = options(LX_FORMAT_MP4, "clip.mp4");
        o.overwrite = true;
        o.width = sizes[i % 4][0];
        o.height = sizes[i % 4][1];
        o.n_frames = sizes[i % 4][2];
        assert_int_equal(make(&o, NULL), LX_OK);
        malloc_trim(0); /* as the stage does after each job */
        if (i == 4)     /* every size once, then one again */
            after_second = lx_rss_bytes();
        after_last = lx_rss_bytes();
    }
    if (after_last > after_second + (1 << 20))
        fail_msg("resident memory grew from %llu to %llu bytes", (unsigned long long)after_second,
                 (unsigned long long)after_last);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_clip_appears_only_when_whole),
        T(test_clip_abort_leaves_nothing),
        T(test_clip_bad_preset_leaves_nothing),
        T(test_clip_write_failure_at_any_byte_leaves_nothing),
        T(test_clip_full_file_system),
        T(test_clip_png_round_trip),
        T(test_clip_memory_is_flat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
