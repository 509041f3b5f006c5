/*
 * test_weights_shared.c - one copy of a checkpoint for several processes, whoever dies when
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "weights/shared.h"
#include "weights/weights_internal.h"
#include "weights_make.h"

/* a: bytes; n: its fifth value is an infinity; q: int8 with a 16-bit scale of 1 (0x3f80). */
#define HEADER                                                                                     \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]},"                              \
    "\"n\":{\"dtype\":\"BF16\",\"shape\":[6],\"data_offsets\":[5,17]},"                            \
    "\"q.weight\":{\"dtype\":\"I8\",\"shape\":[2,3],\"data_offsets\":[17,23]},"                    \
    "\"q.weight_scale\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[23,27]}}"

static void put_model(const char *path, unsigned char first, uint16_t scale)
{
    bytes b = {.n = 0};
    put_le(&b, strlen(HEADER), 8);
    put_text(&b, HEADER);
    for (int i = 0; i < 5; i++)
        put_le(&b, (uint64_t)(first + i), 1);
    for (int i = 0; i < 6; i++)
        put_le(&b, i == 4 ? 0x7f80 : 0x3f80, 2);
    for (int i = 0; i < 6; i++)
        put_le(&b, (uint64_t)(20 + i), 1);
    put_le(&b, 0x3f80, 2);
    put_le(&b, scale, 2);
    put_file(path, b.data, b.n);
}

static int new_memory(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd > 2);
    return fd;
}

/* --- progress that does something ------------------------------------------------------------- */

typedef struct watcher {
    int n_steps;
    int cancel_at; /* 0: never */
    int release;   /* a byte goes here with the third step; 0: none */
    int wait_for;  /* a byte is waited for here; 0: none */
    bool dies;
} watcher;

static lx_status watch(void *self, const char *unit, uint64_t done, uint64_t total, lx_err *err)
{
    watcher *w = self;
    char byte = 1;
    assert_string_equal(unit, "byte");
    assert_true(done <= total);
    w->n_steps++;
    if (w->dies)
        raise(SIGKILL);
    if (w->release && w->n_steps == 3)
        assert_int_equal(write(w->release, &byte, 1), 1);
    if (w->wait_for)
        assert_int_equal(read(w->wait_for, &byte, 1), 1);
    return w->n_steps == w->cancel_at ? lx_fail(err, LX_ECANCEL, "told to stop") : LX_OK;
}

static lx_status open_shared(lx_weights **out, const char *path, int fd, watcher *w, lx_err *err)
{
    lx_progress progress = {watch, w};
    lx_weights_options options = {.progress = &progress, .shared_fd = fd};
    return lx_weights_open(out, path, &options, err);
}

/* The bytes of put_model(first, ...), wherever they are. */
static bool is_right(const lx_weights *w, unsigned char first)
{
    lx_weight a, n, q;
    if (!lx_weights_find(w, "a", &a) || !lx_weights_find(w, "n", &n) ||
        !lx_weights_find(w, "q.weight", &q) || lx_weights_count(w) != 3 || !q.scale)
        return false;
    const unsigned char *x = a.data, *y = q.data;
    for (int i = 0; i < 5; i++)
        if (x[i] != first + i)
            return false;
    for (int i = 0; i < 6; i++)
        if (y[i] != 20 + i)
            return false;
    return q.scale[0] == 1.0f && q.scale[1] == 1.0f && (uintptr_t)x % 256 == 0 &&
           (uintptr_t)y % 256 == 0 && lx_weights_first_bad(w, 0) == UINT64_MAX &&
           lx_weights_first_bad(w, 1) == 4;
}

/* Opens and closes; how many steps of progress it took: 0 means that nothing was read. */
static int steps_to_open(const char *path, int fd, unsigned char first)
{
    watcher w = {0};
    lx_err err = {0};
    lx_weights *weights = NULL;
    if (open_shared(&weights, path, fd, &w, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_true(is_right(weights, first));
    lx_weights_close(&weights);
    return w.n_steps;
}

/* The same in a process of its own, which stays until a byte comes down `hold` (0: does not). */
static pid_t open_in_child(const char *path, int fd, unsigned char first, watcher w, int say,
                           int hold)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    lx_err err = {0};
    lx_weights *weights = NULL;
    char byte = 0;
    bool is_ok = open_shared(&weights, path, fd, &w, &err) == LX_OK && is_right(weights, first);
    if (say && write(say, &byte, 1) != 1)
        is_ok = false;
    if (hold && read(hold, &byte, 1) != 1)
        is_ok = false;
    lx_weights_close(&weights);
    _exit(is_ok ? 0 : 1);
}

static void expect_exit(pid_t pid, int wait_status)
{
    int got = -1;
    assert_int_equal(waitpid(pid, &got, 0), pid);
    assert_int_equal(got, wait_status);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_second_process_reads_nothing(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int fd = new_memory();
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    expect_exit(open_in_child(in(&s, "m.safetensors"), fd, 7, (watcher){0}, 0, 0), 0);
    uint64_t used = lx_shared_bytes(fd);
    assert_true(used > 0);
    assert_int_equal(steps_to_open(in(&s, "m.safetensors"), fd, 7), 0);
    assert_int_equal(steps_to_open(in(&s, "m.safetensors"), fd, 7), 0); /* as a restarted one */
    assert_int_equal(lx_shared_bytes(fd), used);                        /* one copy */
    assert_int_equal(ftruncate(fd, 0), -1);                             /* no SIGBUS for anybody */
    assert_int_equal(errno, EPERM);
    close(fd);
    remove_tree(s.dir);
}

static void test_pth_is_shared_too(void **state)
{
    (void)state;
    scratch s = scratch_open();
    zip_maker z = {.n = 0};
    const float data[6] = {1, 2, 3, 4, 5, 6};
    ZIP_PICKLE(&z, PK_MAP(PK_W));
    zip_add(&z, "a/version", "3\n", 2);
    zip_add(&z, "a/data/0", data, sizeof data);
    zip_finish(&z);
    put_file(in(&s, "m.pth"), z.b.data, z.b.n);
    int fd = new_memory();
    for (int i = 0; i < 2; i++) {
        watcher w = {0};
        lx_err err = {0};
        lx_weights *weights = NULL;
        lx_weight tensor;
        if (open_shared(&weights, in(&s, "m.pth"), fd, &w, &err) != LX_OK)
            fail_msg("%s", err.message);
        assert_true(lx_weights_find(weights, "w", &tensor));
        assert_memory_equal(tensor.data, data, sizeof data);
        assert_int_equal(w.n_steps > 0, i == 0);
        lx_weights_close(&weights);
    }
    close(fd);
    remove_tree(s.dir);
}

static void test_filler_that_dies_leaves_nothing_that_counts(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int fd = new_memory();
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    watcher w = {.dies = true};
    expect_exit(open_in_child(in(&s, "m.safetensors"), fd, 7, w, 0, 0), SIGKILL);
    assert_true(steps_to_open(in(&s, "m.safetensors"), fd, 7) > 0); /* filled again */
    assert_int_equal(steps_to_open(in(&s, "m.safetensors"), fd, 7), 0);
    close(fd);
    remove_tree(s.dir);
}

/* A child that holds the lock, in the middle of filling. */
static pid_t stuck_filler(const scratch *s, int fd, int go[2])
{
    int at[2];
    assert_int_equal(pipe(go), 0);
    assert_int_equal(pipe(at), 0);
    pid_t pid = fork();
    if (pid == 0) {
        watcher w = {.wait_for = go[0]};
        lx_err err = {0};
        lx_weights *weights = NULL;
        char byte = 0;
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
        /* Taken here as well, so that the parent knows it is held; closing is releasing. */
        bool is_ok = fcntl(fd, F_SETLK, &lock) == 0 && write(at[1], &byte, 1) == 1 &&
                     open_shared(&weights, in(s, "m.safetensors"), fd, &w, &err) == LX_OK;
        lx_weights_close(&weights);
        _exit(is_ok ? 0 : 1);
    }
    char byte;
    assert_int_equal(read(at[0], &byte, 1), 1);
    close(at[0]), close(at[1]);
    return pid;
}

static void test_waiting_beats_and_ends_when_the_other_is_done(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int fd = new_memory(), go[2];
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    pid_t pid = stuck_filler(&s, fd, go);
    watcher w = {.release = go[1]}; /* the third beat lets the other go on */
    lx_err err = {0};
    lx_weights *weights = NULL;
    if (open_shared(&weights, in(&s, "m.safetensors"), fd, &w, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_true(is_right(weights, 7));
    assert_true(w.n_steps >= 3);
    expect_exit(pid, 0);
    lx_weights_close(&weights);
    close(go[0]), close(go[1]), close(fd);
    remove_tree(s.dir);
}

static void test_waiting_hears_cancel(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int fd = new_memory(), go[2];
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    pid_t pid = stuck_filler(&s, fd, go);
    watcher w = {.cancel_at = 2};
    lx_err err = {0};
    lx_weights *weights = NULL;
    assert_int_equal(open_shared(&weights, in(&s, "m.safetensors"), fd, &w, &err), LX_ECANCEL);
    assert_null(weights);
    kill(pid, SIGKILL);
    expect_exit(pid, SIGKILL);
    close(go[0]), close(go[1]), close(fd);
    remove_tree(s.dir);
}

static void test_failed_filling_gives_memory_back(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int fd = new_memory();
    lx_weights *weights = NULL;
    watcher quiet = {0}, cancelling = {.cancel_at = 1};
    lx_err err = {0};
    put_model(in(&s, "m.safetensors"), 7, 0xbf80); /* a scale of -1 */
    assert_int_equal(open_shared(&weights, in(&s, "m.safetensors"), fd, &quiet, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "scale must be finite"));
    assert_int_equal(lx_shared_bytes(fd), 0);
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    assert_int_equal(open_shared(&weights, in(&s, "m.safetensors"), fd, &cancelling, &err),
                     LX_ECANCEL);
    assert_int_equal(lx_shared_bytes(fd), 0);
    assert_true(steps_to_open(in(&s, "m.safetensors"), fd, 7) > 0);
    close(fd);
    remove_tree(s.dir);
}

/* Other files: own memory while somebody uses the old ones, a new copy when nobody does. */
static void test_other_files_never_disturb_a_user(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int fd = new_memory(), say[2], hold[2];
    char byte = 0;
    assert_int_equal(pipe(say), 0);
    assert_int_equal(pipe(hold), 0);
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    put_model(in(&s, "other.safetensors"), 90, 0x3f80);
    pid_t user = open_in_child(in(&s, "m.safetensors"), fd, 7, (watcher){0}, say[1], hold[0]);
    assert_int_equal(read(say[0], &byte, 1), 1);
    uint64_t used = lx_shared_bytes(fd);
    assert_true(steps_to_open(in(&s, "other.safetensors"), fd, 90) > 0);
    assert_true(steps_to_open(in(&s, "other.safetensors"), fd, 90) > 0); /* never became shared */
    assert_int_equal(lx_shared_bytes(fd), used);
    assert_int_equal(steps_to_open(in(&s, "m.safetensors"), fd, 7), 0); /* and the copy is whole */
    assert_int_equal(write(hold[1], &byte, 1), 1);
    expect_exit(user, 0);
    assert_true(steps_to_open(in(&s, "other.safetensors"), fd, 90) > 0);
    assert_int_equal(steps_to_open(in(&s, "other.safetensors"), fd, 90), 0);
    put_model(in(&s, "other.safetensors"), 91, 0x3f80); /* the same name and size, written anew */
    assert_true(steps_to_open(in(&s, "other.safetensors"), fd, 91) > 0);
    close(say[0]), close(say[1]), close(hold[0]), close(hold[1]), close(fd);
    remove_tree(s.dir);
}

/* Whatever stands in the memory: read again or refused, never believed. */
static void test_hostile_memory(void **state)
{
    (void)state;
    static const struct {
        off_t at;
        uint64_t value;
    } poke_at[] = {{0, 0},
                   /* magic */ {8, 0}, /* identity */
                   {80, UINT64_MAX},
                   {80, 1}, /* bytes of the file */
                   {4096, 0},
                   {4096, 1 + 6}, /* states: absent; bad value 5 of 5 */
                   {4096, UINT64_MAX},
                   {4096 + 8, 0}};
    scratch s = scratch_open();
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    for (size_t i = 0; i < sizeof poke_at / sizeof *poke_at; i++) {
        int fd = new_memory();
        steps_to_open(in(&s, "m.safetensors"), fd, 7);
        assert_int_equal(steps_to_open(in(&s, "m.safetensors"), fd, 7), 0);
        assert_int_equal(pwrite(fd, &poke_at[i].value, 8, poke_at[i].at), 8);
        if (steps_to_open(in(&s, "m.safetensors"), fd, 7) == 0)
            fail_msg("row %zu was believed", i);
        close(fd);
    }
    for (off_t size = 1; size < 9000; size += 1365) { /* cut anywhere */
        char start[3 * 4096];
        int whole = new_memory(), fd = new_memory();
        steps_to_open(in(&s, "m.safetensors"), whole, 7);
        assert_true(pread(whole, start, (size_t)size, 0) > 0);
        assert_int_equal(pwrite(fd, start, (size_t)size, 0), size);
        assert_true(steps_to_open(in(&s, "m.safetensors"), fd, 7) > 0);
        close(fd), close(whole);
    }
    remove_tree(s.dir);
}

static void test_descriptors_that_are_no_memory(void **state)
{
    (void)state;
    scratch s = scratch_open();
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    put_file(in(&s, "plain"), "x", 1);
    int fd = open(in(&s, "plain"), O_RDWR | O_CLOEXEC);
    watcher w = {0};
    lx_err err = {0};
    lx_weights *weights = NULL;
    assert_int_equal(open_shared(&weights, in(&s, "m.safetensors"), fd, &w, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "no memory file"));
    close(fd);
    assert_int_equal(open_shared(&weights, in(&s, "m.safetensors"), fd, &w, &err), LX_ECONFIG);
    assert_null(weights);
    assert_true(steps_to_open(in(&s, "m.safetensors"), 0, 7) > 0); /* none was given */
    remove_tree(s.dir);
}

static bool leaves_q(const char *name, uint64_t n, void *self)
{
    (void)n, (void)self;
    return !strcmp(name, "q.weight");
}

/* Who wants more finds what is there and adds the rest; who wants less takes it from there. */
static void test_wishes_for_disk_may_differ(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int fd = new_memory();
    lx_weight q;
    lx_extent extent;
    put_model(in(&s, "m.safetensors"), 7, 0x3f80);
    lx_weights_options options = {.shared_fd = fd, .on_disk = leaves_q};
    for (int i = 0; i < 2; i++) {
        lx_weights *weights = NULL;
        lx_err err = {0};
        if (lx_weights_open(&weights, in(&s, "m.safetensors"), &options, &err) != LX_OK)
            fail_msg("%s", err.message);
        assert_true(lx_weights_find(weights, "q.weight", &q));
        assert_int_equal(lx_weights_extent(weights, "q.weight", &extent), i == 0);
        assert_int_equal(q.data == NULL, i == 0);
        assert_int_equal(lx_weights_held_bytes(weights), i == 0 ? 21 : 27);
        assert_true(q.scale[1] == 1.0f);
        lx_weights_close(&weights);
        assert_int_equal(steps_to_open(in(&s, "m.safetensors"), fd, 7) > 0, i == 0);
    }
    close(fd);
    remove_tree(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_process_reads_nothing),
        cmocka_unit_test(test_pth_is_shared_too),
        cmocka_unit_test(test_filler_that_dies_leaves_nothing_that_counts),
        cmocka_unit_test(test_waiting_beats_and_ends_when_the_other_is_done),
        cmocka_unit_test(test_waiting_hears_cancel),
        cmocka_unit_test(test_failed_filling_gives_memory_back),
        cmocka_unit_test(test_other_files_never_disturb_a_user),
        cmocka_unit_test(test_hostile_memory),
        cmocka_unit_test(test_descriptors_that_are_no_memory),
        cmocka_unit_test(test_wishes_for_disk_may_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
