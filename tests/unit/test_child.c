/*
 * test_child.c - programs run for what they print
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_child.h"
#include "lx_process.h"

static char out[8192];
static lx_child child;

static lx_status run(const char *script, double timeout_s, lx_err *err)
{
    char shell[] = "/bin/sh", flag[] = "-c", text[512];
    char *argv[] = {shell, flag, text, NULL};
    snprintf(text, sizeof text, "%s", script);
    child.argv = argv;
    child.timeout_s = timeout_s;
    child.out = out;
    child.out_room = sizeof out;
    lx_err_clear(err);
    lx_status status = lx_child_run(&child, err);
    child.argv = NULL;
    return status;
}

static void test_child_output_and_exit_code(void **state)
{
    (void)state;
    lx_err err = {0};
    child = (lx_child){0};
    assert_int_equal(run("printf 'one\\ntwo'; printf 'a\\033b\\n' >&2; exit 7", 5, &err), LX_OK);
    assert_string_equal(out, "one\ntwo");
    assert_int_equal(child.out_bytes, 7);
    assert_string_equal(child.err, "a b");
    assert_int_equal(child.exit_code, 7);
    assert_false(child.is_cut);
    /* Many writes, then an end at once: nothing is lost. */
    assert_int_equal(run("i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done", 10, &err),
                     LX_OK);
    assert_non_null(strstr(out, "line 199\n"));
    assert_int_equal(run("head -c 20000 /dev/zero", 5, &err), LX_OK);
    assert_true(child.is_cut);
    assert_int_equal(child.out_bytes, sizeof out - 1);
}

static void test_child_input(void **state)
{
    (void)state;
    lx_err err = {0};
    char large[LX_CHILD_INPUT + 1] = "";
    child = (lx_child){.input = "hello", .input_bytes = 5};
    assert_int_equal(run("cat", 5, &err), LX_OK);
    assert_string_equal(out, "hello");
    child = (lx_child){.input = large, .input_bytes = sizeof large};
    assert_int_equal(run("cat", 5, &err), LX_EAGAIN);
    child = (lx_child){0};
    assert_int_equal(run("wc -c", 5, &err), LX_OK); /* without input: empty, not our terminal */
    assert_int_equal(atoi(out), 0);
}

static void test_child_signals_and_time_out(void **state)
{
    (void)state;
    lx_err err = {0};
    child = (lx_child){0};
    assert_int_equal(run("kill -ABRT $$", 5, &err), LX_EJOB);
    assert_int_equal(child.signal, SIGABRT);
    double start = lx_now_s();
    assert_int_equal(run("echo begun; exec >&- 2>&-; sleep 30", 0.4, &err), LX_ETIMEOUT);
    assert_true(lx_now_s() - start < 5);
    assert_true(child.has_timed_out);
    assert_string_equal(out, "begun\n"); /* what came before is kept */
    char none[] = "/no/such/program";
    char *argv[] = {none, NULL};
    child.argv = argv;
    assert_int_equal(lx_child_run(&child, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "/no/such/program"));
}

/* One that ended and left something behind that holds the pipe: no waiting for that. */
static void test_child_leaves_nobody(void **state)
{
    (void)state;
    lx_err err = {0};
    child = (lx_child){0};
    double start = lx_now_s();
    assert_int_equal(run("sleep 30 & echo done", 20, &err), LX_OK);
    assert_true(lx_now_s() - start < 5);
    assert_string_equal(out, "done\n");
}

/* Signals blocked or ignored here do not stay so there; other descriptors do not go along. */
static void test_child_begins_fresh(void **state)
{
    (void)state;
    lx_err err = {0};
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, &before);
    signal(SIGPIPE, SIG_IGN);
    int null = open("/dev/null", O_RDONLY);
    int fd = dup2(null, 77); /* inheritable */
    assert_int_equal(fd, 77);
    char script[128];
    snprintf(script, sizeof script, "grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd");
    child = (lx_child){0};
    assert_int_equal(run(script, 5, &err), LX_OK);
    close(fd);
    close(null);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    assert_non_null(strstr(out, "SigBlk:\t0000000000000000"));
    const char *ignored = strstr(out, "SigIgn:");
    assert_non_null(ignored); /* the C library's own, 32 and 33, stay */
    assert_int_equal(strtoull(ignored + 7, NULL, 16) & (1u << (SIGPIPE - 1)), 0);
    assert_null(strstr(out, "\n77\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_child_output_and_exit_code),
        cmocka_unit_test(test_child_input),
        cmocka_unit_test(test_child_signals_and_time_out),
        cmocka_unit_test(test_child_leaves_nobody),
        cmocka_unit_test(test_child_begins_fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
