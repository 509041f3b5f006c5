/*
 * test_points.c - fault points themselves: rules, counts, ledgers
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault.h"

/* A child that visits a.b and a.c in turn, n times; ends with the bits of what a.b answered. */
static int visits(const char *rules, const char *ledger, int n, int of_b[8])
{
    int ends[2], answers[8] = {0}, status = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("LX2V_FAULT", rules, 1);
        setenv("LX2V_FAULT_LEDGER", ledger, 1);
        for (int i = 0; i < n && i < 8; i++) {
            answers[i] = LX_FAULT("a.b");
            (void)LX_FAULT("a.c");
        }
        _exit(write(ends[1], answers, sizeof answers) != sizeof answers);
    }
    close(ends[1]);
    if (of_b && read(ends[0], of_b, 8 * sizeof *of_b) < 0)
        fail_msg("no answers");
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_point_fires_at_its_visit(void **state)
{
    (void)state;
    NEEDS_POINTS();
    int b[8];
    assert_int_equal(visits("a.b:2:ENOSPC,a.b:4+,a.c:2:sleep=1", "", 5, b), 0);
    const int expected[] = {0, ENOSPC, 0, EIO, EIO};
    assert_memory_equal(b, expected, sizeof expected);
    assert_int_equal(visits("other/a.b:1+,test_points/a.b:1:nan", "", 2, b), 0);
    assert_int_equal(b[0], LX_FAULT_NAN);
    assert_int_equal(b[1], 0);
}

static void test_point_ends_the_process(void **state)
{
    (void)state;
    NEEDS_POINTS();
    assert_int_equal(visits("a.c:3:kill", "", 5, NULL), 128 + SIGKILL);
    assert_int_equal(visits("a.b:1:abort", "", 5, NULL), 128 + SIGABRT);
    assert_int_equal(visits("a.c:1:exit=7", "", 5, NULL), 7);
    assert_int_equal(visits("a.c:6:kill", "", 5, NULL), 0);
}

static void test_point_counts_on_in_the_next_process(void **state)
{
    (void)state;
    NEEDS_POINTS();
    int b[8];
    rig r = {0};
    strcpy(r.root, "/tmp/lx2v-points-XXXXXX");
    assert_non_null(mkdtemp(r.root));
    char path[96];
    snprintf(path, sizeof path, "%s/faults", r.root);
    assert_int_equal(visits("a.b:5", path, 3, b), 0);
    assert_int_equal(visits("a.b:5", path, 3, b), 0);
    assert_int_equal(b[0], 0); /* the 4th */
    assert_int_equal(b[1], EIO);
    assert_int_equal(fault_seen(&r, "test_points/a.b").visits, 6);
    assert_int_equal(fault_seen(&r, "test_points/a.b").fired, 1);
    assert_int_equal(fault_seen(&r, "test_points/a.c").visits, 6);
    assert_int_equal(fault_seen(&r, "test_points/a.d").visits, 0);
    unlink(path);
    rmdir(r.root);
}

static void test_point_refuses_what_it_does_not_understand(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static const char *const bad[] = {"a.b",         "a.b:0",     "a.b:x",       "a.b:1:EWRONG",
                                      "/a.b:1",      "a.b:1:",    "a.b:1:exit=", "A.B:1",
                                      "a.b:1:kill;", "a.b:1+2+3", ":1:kill",     "a.b:1:kill:kill"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (visits(bad[i], "", 1, NULL) != 2)
            fail_msg("\"%s\" was taken", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_point_fires_at_its_visit),
        cmocka_unit_test(test_point_ends_the_process),
        cmocka_unit_test(test_point_counts_on_in_the_next_process),
        cmocka_unit_test(test_point_refuses_what_it_does_not_understand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
