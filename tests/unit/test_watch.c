/*
 * test_watch.c - lx2v-probe --watch: peaks and energy, and the end of stdin
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#define PROBE LX2V_BIN_DIR "/lx2v-probe"
#define GIB   ((json_int_t)1 << 30)

static char text[65536], played[4200];

static int shell(const char *command)
{
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    text[fread(text, 1, sizeof text - 1, pipe)] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static json_t *watch(const char *input, const char *folder, const char *cards)
{
    char command[8192];
    snprintf(command, sizeof command, "(%s) | LD_LIBRARY_PATH=%s " PROBE " --watch %s", input,
             folder, cards);
    assert_int_equal(shell(command), 0);
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    return root;
}

/* Beside this program; a test folder that travelled without it has nothing to ask. */
static int find_played(void **state)
{
    (void)state;
    ssize_t n = readlink("/proc/self/exe", played, 4000);
    if (n <= 0)
        return -1;
    played[n] = 0;
    snprintf(strrchr(played, '/'), 64, "/nvml");
    return 0;
}

static void need_played(void)
{
    char path[4300];
    snprintf(path, sizeof path, "%s/libnvidia-ml.so.1", played);
    if (access(path, R_OK) != 0)
        skip();
}

static json_int_t whole(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static void test_watch_tells_peaks_and_energy(void **state)
{
    (void)state;
    need_played();
    json_t *root = watch("sleep 0.4; echo mark; sleep 0.1; echo mark; echo mark", played,
                         "0000:01:00.0 0000:02:00.0");
    assert_true(json_is_true(json_object_get(root, "nvml")));
    assert_true(whole(root, "samples") >= 5);
    json_t *card = json_array_get(json_object_get(root, "cards"), 0);
    assert_true(json_is_true(json_object_get(card, "found")));
    assert_int_equal(whole(card, "total_bytes"), 12 * GIB);
    assert_int_equal(whole(card, "first_bytes"), 1 * GIB);
    assert_int_equal(whole(card, "peak_bytes"), 7 * GIB);
    /* From the first of three marks to the last. */
    assert_true(json_real_value(json_object_get(card, "joules")) == 5.0);
    double seconds = json_real_value(json_object_get(root, "joules_s"));
    assert_true(seconds > 0.05 && seconds < json_real_value(json_object_get(root, "seconds")));
    json_t *processes = json_object_get(card, "processes");
    assert_int_equal(json_array_size(processes), 2);
    assert_int_equal(whole(json_array_get(processes, 0), "pid"), 4711);
    assert_int_equal(whole(json_array_get(processes, 0), "peak_bytes"), 7 * GIB / 2);
    assert_true(json_is_null(json_object_get(json_array_get(processes, 1), "peak_bytes")));
    json_t *other = json_array_get(json_object_get(root, "cards"), 1);
    assert_true(json_is_false(json_object_get(other, "found")));
    assert_true(json_is_null(json_object_get(other, "joules")));
    json_decref(root);
}

static void test_watch_with_one_mark_tells_no_energy(void **state)
{
    (void)state;
    need_played();
    json_t *root = watch("echo mark; sleep 0.1; echo else", played, "0000:01:00.0");
    json_t *card = json_array_get(json_object_get(root, "cards"), 0);
    assert_true(json_is_null(json_object_get(card, "joules")));
    assert_true(json_is_null(json_object_get(root, "joules_s")));
    json_decref(root);
}

static void test_watch_tells_the_peak_of_each_lap(void **state)
{
    (void)state;
    need_played();
    json_t *root =
        watch("sleep 0.4; echo lap; sleep 0.2; echo lap; sleep 0.1", played, "0000:01:00.0");
    json_t *laps = json_object_get(json_array_get(json_object_get(root, "cards"), 0), "lap_bytes");
    assert_int_equal(json_array_size(laps), 2);
    assert_int_equal(json_integer_value(json_array_get(laps, 0)), 7 * GIB);
    assert_int_equal(json_integer_value(json_array_get(laps, 1)), 5 * GIB);
    json_decref(root);
}

static void test_watch_ends_with_its_stdin_on_any_machine(void **state)
{
    (void)state;
    json_t *root = watch("true", "/nowhere", "0000:01:00.0");
    assert_int_equal(whole(root, "watch"), 1);
    assert_int_equal(json_array_size(json_object_get(root, "cards")), 1);
    json_decref(root);
}

static void test_watch_checks_its_words(void **state)
{
    (void)state;
    assert_int_equal(shell(PROBE " --watch '../etc' 2>&1 </dev/null"), 2);
    assert_non_null(strstr(text, "no PCI address"));
    assert_int_equal(shell(PROBE " --watch 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 2>&1 </dev/null"), 2);
    assert_non_null(strstr(text, "more than 16 cards"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watch_tells_peaks_and_energy),
        cmocka_unit_test(test_watch_with_one_mark_tells_no_energy),
        cmocka_unit_test(test_watch_tells_the_peak_of_each_lap),
        cmocka_unit_test(test_watch_ends_with_its_stdin_on_any_machine),
        cmocka_unit_test(test_watch_checks_its_words),
    };
    return cmocka_run_group_tests(tests, find_played, NULL);
}
