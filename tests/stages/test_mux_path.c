/*
 * test_mux_path.c - the output jail: names, links, parts, space
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mux_helpers.h"

#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "mux_path.h"

static char *folder;

static int setup(void **state)
{
    (void)state;
    folder = make_folder();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static lx_status begin_as(mux_out *out, mux_out_kind kind, const char *name, bool overwrite,
                          lx_err *err)
{
    mux_out_options o = {
        .kind = kind, .dir = folder, .name = name, .job = "job1", .overwrite = overwrite};
    return mux_out_begin(out, &o, err);
}

static lx_status begin(mux_out *out, const char *name, lx_err *err)
{
    return begin_as(out, MUX_OUT_FILE, name, false, err);
}

static void put(const mux_out *out, const char *text)
{
    assert_int_equal(write(out->fd, text, strlen(text)), strlen(text));
}

static void assert_content(const char *name, const char *text)
{
    size_t n;
    uint8_t *data = read_whole(folder, name, &n);
    assert_string_equal((char *)data, text);
    free(data);
}

static void test_path_refuses_names_that_are_not_names(void **state)
{
    (void)state;
    char too_long[LX_LIMIT_NAME + 2];
    memset(too_long, 'a', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = 0;
    const char *bad[] = {"",        ".",     "..",     "../up.mp4", "/etc/x",  "a/b.mp4",
                         ".hidden", "-flag", "a b",    "a\nb",      "a\\b",    "caf\xc3\xa9.mp4",
                         "a:b",     "a%s",   too_long, "x/../../y", "file:x?", "\x01"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mux_out out;
        lx_err err = {0};
        assert_int_equal(begin(&out, bad[i], &err), LX_EJOB);
        assert_non_null(strstr(err.message, "not allowed"));
        assert_int_equal(out.fd, -1);
        assert_int_equal(out.dir_fd, -1);
    }
    assert_int_equal(count_entries(folder), 0);
}

static void test_path_refuses_job_ids_that_would_leave(void **state)
{
    (void)state;
    const char *bad[] = {"", "../x", "a/b", "a.b", "0123456789012345678901234567890123456789x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mux_out out;
        lx_err err = {0};
        mux_out_options o = {.dir = folder, .name = "a.mp4", .job = bad[i]};
        assert_int_equal(mux_out_begin(&out, &o, &err), LX_EJOB);
    }
    assert_int_equal(count_entries(folder), 0);
}

static void test_path_shows_nothing_before_commit(void **state)
{
    (void)state;
    mux_out out;
    lx_err err = {0};
    assert_int_equal(begin(&out, "clip.mp4", &err), LX_OK);
    put(&out, "whole");
    assert_false(exists(folder, "clip.mp4"));
    assert_true(exists(folder, ".job1.part"));
    assert_int_equal(mux_out_commit(&out, &err), LX_OK);
    assert_content("clip.mp4", "whole");
    assert_int_equal(count_entries(folder), 1);
    char path[1024];
    struct stat st;
    assert_int_equal(stat(path_in(path, folder, "clip.mp4"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    mux_out_discard(&out); /* harmless now */
    assert_content("clip.mp4", "whole");
}

static void test_path_discard_leaves_nothing(void **state)
{
    (void)state;
    mux_out out;
    lx_err err = {0};
    assert_int_equal(begin(&out, "clip.mp4", &err), LX_OK);
    put(&out, "half");
    mux_out_discard(&out);
    assert_int_equal(count_entries(folder), 0);
    mux_out_discard(&out);
}

static void test_path_refuses_an_existing_file_unless_told(void **state)
{
    (void)state;
    write_text(folder, "clip.mp4", "old");
    mux_out out;
    lx_err err = {0};
    assert_int_equal(begin(&out, "clip.mp4", &err), LX_EJOB);
    assert_non_null(strstr(err.message, "clip.mp4 exists"));
    assert_int_equal(begin_as(&out, MUX_OUT_FILE, "clip.mp4", true, &err), LX_OK);
    put(&out, "new");
    assert_content("clip.mp4", "old");
    assert_int_equal(mux_out_commit(&out, &err), LX_OK);
    assert_content("clip.mp4", "new");
    assert_int_equal(count_entries(folder), 1);
}

static void test_path_does_not_replace_what_appeared_meanwhile(void **state)
{
    (void)state;
    mux_out out;
    lx_err err = {0};
    assert_int_equal(begin(&out, "clip.mp4", &err), LX_OK);
    put(&out, "ours");
    write_text(folder, "clip.mp4", "theirs");
    assert_int_equal(mux_out_commit(&out, &err), LX_EJOB);
    assert_content("clip.mp4", "theirs");
    assert_int_equal(count_entries(folder), 1);
}

static void test_path_never_follows_links(void **state)
{
    (void)state;
    char target[1024], link_path[1024];
    write_text(folder, "secret", "untouched");
    path_in(target, folder, "secret");
    assert_int_equal(symlink(target, path_in(link_path, folder, "clip.mp4")), 0);
    assert_int_equal(symlink(target, path_in(link_path, folder, ".job1.part")), 0);
    assert_int_equal(symlink("/nowhere/at/all", path_in(link_path, folder, "dangling.mp4")), 0);
    mux_out out;
    lx_err err = {0};
    assert_int_equal(begin(&out, "clip.mp4", &err), LX_EJOB);
    assert_int_equal(begin(&out, "dangling.mp4", &err), LX_EJOB);
    assert_int_equal(begin_as(&out, MUX_OUT_FILE, "clip.mp4", true, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "not a regular file"));
    /* A link where our part should be is removed, not written through. */
    assert_int_equal(begin(&out, "free.mp4", &err), LX_OK);
    put(&out, "clip");
    assert_int_equal(mux_out_commit(&out, &err), LX_OK);
    assert_content("free.mp4", "clip");
    assert_content("secret", "untouched");
}

static void test_path_refuses_a_directory_that_became_a_link(void **state)
{
    (void)state;
    char real[LX_LIMIT_PATH], sub[1024], away[1024];
    lx_err err = {0};
    path_in(sub, folder, "out");
    path_in(away, folder, "elsewhere");
    assert_int_equal(mux_dir_prepare(sub, real, &err), LX_OK); /* makes it */
    assert_int_equal(rmdir(sub), 0);
    assert_int_equal(mkdir(away, 0700), 0);
    assert_int_equal(symlink(away, sub), 0);
    mux_out out;
    mux_out_options o = {.dir = real, .name = "clip.mp4", .job = "job1"};
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "not a directory any more"));
    assert_int_equal(count_entries(away), 0);
    assert_int_equal(unlink(sub), 0);
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_EJOB); /* gone */
    assert_non_null(strstr(err.message, "No such file"));
}

static void test_path_prepare_says_what_is_wrong(void **state)
{
    (void)state;
    char real[LX_LIMIT_PATH], path[1024];
    lx_err err = {0};
    write_text(folder, "file", "x");
    assert_int_equal(mux_dir_prepare(path_in(path, folder, "file"), real, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "is a file"));
    assert_int_equal(mux_dir_prepare(path_in(path, folder, "no/such"), real, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "cannot be made"));
}

static void test_path_asks_for_space_first(void **state)
{
    (void)state;
    mux_out out;
    lx_err err = {0};
    mux_out_options o = {
        .dir = folder, .name = "clip.mp4", .job = "job1", .needs = (uint64_t)1 << 60};
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "no space: needs "));
    assert_non_null(strstr(err.message, ", has "));
    assert_int_equal(count_entries(folder), 0);
}

static void test_path_retry_replaces_only_its_own_part(void **state)
{
    (void)state;
    write_text(folder, ".job1.part", "of a dead attempt");
    write_text(folder, ".job2.part", "of another job");
    mux_out out;
    lx_err err = {0};
    assert_int_equal(begin(&out, "clip.mp4", &err), LX_OK);
    put(&out, "clip");
    assert_int_equal(mux_out_commit(&out, &err), LX_OK);
    assert_content("clip.mp4", "clip");
    assert_content(".job2.part", "of another job");
}

static void test_path_sweep_takes_dead_parts_only(void **state)
{
    (void)state;
    char path[1024];
    write_text(folder, ".dead.part", "x");
    assert_int_equal(mkdir(path_in(path, folder, ".dead_png.part"), 0700), 0);
    write_text(path, "00000.png", "x");
    const char *foreign[] = {".part",     "..part",       "job.part",
                             ".a.b.part", ".job.partial", "clip.mp4"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        write_text(folder, foreign[i], "x");
    /* A part that a living process writes is locked: here by a child. */
    int ready[2], leave[2];
    assert_int_equal(pipe(ready) | pipe(leave), 0);
    pid_t child = fork();
    if (child == 0) {
        mux_out out;
        char byte = (char)begin(&out, "live.mp4", NULL);
        if (write(ready[1], &byte, 1) == 1 && read(leave[0], &byte, 1) == 1)
            mux_out_discard(&out);
        _exit(0);
    }
    char byte = 1;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, LX_OK);
    assert_int_equal(mux_dir_sweep(folder), 2);
    assert_true(exists(folder, ".job1.part"));
    mux_out out;
    assert_int_equal(begin(&out, "other.mp4", NULL),
                     LX_EJOB); /* same job id: refused, not stolen */
    assert_int_equal(write(leave[1], &byte, 1), 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(count_entries(folder), sizeof foreign / sizeof *foreign);
}

static void test_path_sweep_never_follows_a_link(void **state)
{
    (void)state;
    char link[1024], inside[1024];
    assert_int_equal(mkdir(path_in(inside, folder, "elsewhere"), 0700), 0);
    write_text(inside, ".dead.part", "x");
    assert_int_equal(symlink("elsewhere", path_in(link, folder, "out")), 0);
    assert_int_equal(mux_dir_sweep(link), -1);
    assert_true(exists(inside, ".dead.part"));
    assert_int_equal(mux_dir_sweep(inside), 1);
}

static void test_path_folder_appears_at_once(void **state)
{
    (void)state;
    mux_out out;
    lx_err err = {0};
    for (int round = 0; round < 2; round++) { /* the second replaces the first */
        assert_int_equal(begin_as(&out, MUX_OUT_FOLDER, "frames", round == 1, &err), LX_OK);
        char name[] = "0.png";
        name[0] = (char)('0' + round);
        int fd = openat(out.fd, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
        assert_true(fd >= 0);
        close(fd);
        assert_int_equal(mux_out_commit(&out, &err), LX_OK);
        assert_true(exists(folder, "frames"));
        assert_int_equal(count_entries(folder), 1);
    }
    char path[1024];
    path_in(path, folder, "frames");
    assert_true(exists(path, "1.png"));
    assert_false(exists(path, "0.png"));
    assert_int_equal(begin_as(&out, MUX_OUT_FILE, "frames", true, &err), LX_EJOB);
    assert_int_equal(begin_as(&out, MUX_OUT_FOLDER, "frames", false, &err), LX_EJOB);
    assert_int_equal(begin_as(&out, MUX_OUT_FOLDER, "other", false, &err), LX_OK);
    int fd = openat(out.fd, "0.png", O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    close(fd);
    mux_out_discard(&out);
    assert_int_equal(count_entries(folder), 1);
}

static void test_path_users_own_names_may_have_spaces(void **state)
{
    (void)state;
    mux_out out;
    lx_err err = {0};
    mux_out_options o = {.dir = folder, .name = "my clip.mp4", .job = "run-1", .any_name = true};
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_OK);
    assert_int_equal(mux_out_commit(&out, &err), LX_OK);
    assert_true(exists(folder, "my clip.mp4"));
    /* The last two are parts, one its own: a sweep would take what was made. */
    const char *bad[] = {"", ".", "..", "a/b", ".job9.part", ".run-1.part"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.name = bad[i];
        assert_int_equal(mux_out_begin(&out, &o, &err), LX_ECONFIG);
    }
}

/* An attempt that died between the rename and its report: the next one makes the same bytes. */
static void test_path_same_bytes_again_are_no_conflict(void **state)
{
    (void)state;
    mux_out out;
    lx_err err = {0};
    mux_out_options o = {.dir = folder, .name = "a.mp4", .job = "job1"};
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_OK);
    put(&out, "the clip");
    assert_int_equal(mux_out_commit(&out, &err), LX_OK);
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_EJOB); /* a first attempt */
    o.is_again = true;
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_OK);
    put(&out, "the clip");
    assert_int_equal(mux_out_commit(&out, &err), LX_OK);
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_OK);
    put(&out, "the Clip");
    assert_int_equal(mux_out_commit(&out, &err), LX_EJOB); /* somebody else's */
    assert_non_null(strstr(err.message, "exists"));
    assert_content("a.mp4", "the clip");
    assert_int_equal(count_entries(folder), 1);
}

static void commit_folder(const char *text, lx_status expected)
{
    mux_out out;
    lx_err err = {0};
    mux_out_options o = {
        .kind = MUX_OUT_FOLDER, .dir = folder, .name = "frames", .job = "job1", .is_again = true};
    assert_int_equal(mux_out_begin(&out, &o, &err), LX_OK);
    int fd = openat(out.fd, "0.png", O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    assert_int_equal(mux_out_commit(&out, &err), expected);
}

static void test_path_same_folder_again_is_no_conflict(void **state)
{
    (void)state;
    commit_folder("one", LX_OK);
    commit_folder("one", LX_OK);
    commit_folder("two", LX_EJOB);
    assert_int_equal(count_entries(folder), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_path_refuses_names_that_are_not_names),
        T(test_path_refuses_job_ids_that_would_leave),
        T(test_path_shows_nothing_before_commit),
        T(test_path_discard_leaves_nothing),
        T(test_path_refuses_an_existing_file_unless_told),
        T(test_path_does_not_replace_what_appeared_meanwhile),
        T(test_path_never_follows_links),
        T(test_path_refuses_a_directory_that_became_a_link),
        T(test_path_prepare_says_what_is_wrong),
        T(test_path_asks_for_space_first),
        T(test_path_retry_replaces_only_its_own_part),
        T(test_path_sweep_takes_dead_parts_only),
        T(test_path_sweep_never_follows_a_link),
        T(test_path_folder_appears_at_once),
        T(test_path_users_own_names_may_have_spaces),
        T(test_path_same_bytes_again_are_no_conflict),
        T(test_path_same_folder_again_is_no_conflict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
