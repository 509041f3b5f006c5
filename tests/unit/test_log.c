/*
 * test_log.c - lines to somebody who does not read
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_log.h"

#define LINES     2000 /* more than a pipe or a socket holds */
#define PROCESSES 4
#define LAST      20

/* Writes all lines to `to` as its stderr, says so, and writes some more when `go` ends. */
static void be_talkative(int to, int go, int done)
{
    char byte;
    alarm(20); /* should it wait after all */
    signal(SIGPIPE, SIG_IGN);
    dup2(to, STDERR_FILENO);
    lx_log_open("talker", LX_LOG_INFO);
    for (int i = 0; i < LINES; i++)
        LX_I("line=%d of=%d and some words that take room", i, LINES);
    if (write(done, "", 1) == 1 && read(go, &byte, 1) == 0)
        for (int i = 0; i < LAST; i++)
            LX_I("last=%d", i);
    _exit(0);
}

static bool has_input(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) == 1 && p.revents & POLLIN;
}

/* Until nothing comes any more; only whole lines, and those at the front of text. */
static size_t drain(int from, char *text, size_t room)
{
    size_t n = 0;
    while (n < room - 1 && has_input(from, 200)) {
        ssize_t got = read(from, text + n, room - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = 0;
    assert_true(n == 0 || text[n - 1] == '\n');
    for (char *line = text; *line; line = strchr(line, '\n') + 1)
        if (strncmp(line, "I talker[", 9) && strncmp(line, "W talker[", 9))
            fail_msg("no whole line: \"%.60s\"", line);
    return n;
}

static void nobody_waits(int to, int from)
{
    static char text[1 << 20];
    int go[2], done[2], status;
    char byte;
    pid_t pid[PROCESSES];
    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    assert_int_equal(pipe2(done, O_CLOEXEC), 0);
    fflush(NULL);
    for (int i = 0; i < PROCESSES; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            close(go[1]);
            be_talkative(to, go[0], done[1]);
        }
    }
    for (int i = 0; i < PROCESSES; i++) /* all are through, with most of it dropped */
        assert_int_equal(read(done[0], &byte, 1), 1);
    assert_true(drain(from, text, sizeof text) > 2048);
    assert_null(strstr(text, "line=1999 "));
    close(go[1]);
    drain(from, text, sizeof text);
    for (int i = 0; i < PROCESSES; i++) {
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    const char *told = strstr(text, "log lines_dropped=");
    assert_non_null(told);
    assert_true(atoi(told + strlen("log lines_dropped=")) > LINES / 10);
    assert_non_null(strstr(text, "last=19")); /* and it is written again */
    close(go[0]);
    close(done[0]);
    close(done[1]);
}

static void test_log_to_a_full_pipe(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    nobody_waits(ends[1], ends[0]);
    assert_false(fcntl(ends[1], F_GETFL) & O_NONBLOCK); /* others use it too */
    close(ends[0]);
    close(ends[1]);
}

/* As a journal has it. */
static void test_log_to_a_full_socket(void **state)
{
    (void)state;
    int ends[2], room = 16384;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    nobody_waits(ends[1], ends[0]);
    close(ends[0]);
    close(ends[1]);
}

static void test_log_without_any_stderr(void **state)
{
    (void)state;
    char path[] = "/tmp/lx2v-log-XXXXXX", text[8] = "";
    int fd = mkstemp(path), status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(STDIN_FILENO);
        close(STDERR_FILENO);
        lx_log_open("talker", LX_LOG_INFO);
        int own = open(path, O_RDWR);
        LX_E("nothing of this may be in the file");
        _exit(own <= STDERR_FILENO);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read(fd, text, sizeof text), 0);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_to_a_full_pipe),
        cmocka_unit_test(test_log_to_a_full_socket),
        cmocka_unit_test(test_log_without_any_stderr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
