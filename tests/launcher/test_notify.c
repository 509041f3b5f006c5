/*
 * test_notify.c - what a service manager hears
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "notify.h"

static char path[64];

static int listen_at(const char *name, size_t bytes)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    memcpy(at.sun_path, name, bytes);
    socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, n), 0);
    return fd;
}

static void assert_hears(int fd, const char *text)
{
    char got[64] = "";
    ssize_t n = recv(fd, got, sizeof got - 1, 0);
    if (!text) {
        assert_int_equal(n, -1);
        return;
    }
    assert_int_equal(n, (ssize_t)strlen(text));
    assert_string_equal(got, text);
}

static void test_says_it_to_the_socket(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/lx2v-notify-%d", (int)getpid());
    int fd = listen_at(path, strlen(path));
    setenv("NOTIFY_SOCKET", path, 1);
    notify_say("READY=1");
    assert_hears(fd, "READY=1");
    close(fd);
    unlink(path);
    notify_say("READY=1"); /* nobody there: no harm */

    char name[64];
    int n = snprintf(name, sizeof name, "@lx2v-notify-%d", (int)getpid());
    setenv("NOTIFY_SOCKET", name, 1);
    name[0] = 0; /* an abstract one */
    fd = listen_at(name, (size_t)n);
    notify_say("STOPPING=1");
    assert_hears(fd, "STOPPING=1");
    setenv("NOTIFY_SOCKET", "relative", 1);
    notify_say("READY=1");
    unsetenv("NOTIFY_SOCKET");
    notify_say("READY=1");
    assert_hears(fd, NULL);
    close(fd);
}

static void test_feeds_the_watchdog_three_times_a_period(void **state)
{
    (void)state;
    notify n;
    char text[32];
    snprintf(path, sizeof path, "/tmp/lx2v-notify-%d", (int)getpid());
    int fd = listen_at(path, strlen(path));
    setenv("NOTIFY_SOCKET", path, 1);
    notify_open(&n);
    notify_tick(&n, 100); /* no period: no watchdog */
    assert_hears(fd, NULL);
    setenv("WATCHDOG_USEC", "30000000", 1);
    setenv("WATCHDOG_PID", "1", 1); /* another's */
    notify_open(&n);
    notify_tick(&n, 100);
    assert_hears(fd, NULL);
    snprintf(text, sizeof text, "%d", (int)getpid());
    setenv("WATCHDOG_PID", text, 1);
    notify_open(&n);
    notify_tick(&n, 100);
    assert_hears(fd, "WATCHDOG=1");
    notify_tick(&n, 109.9);
    assert_hears(fd, NULL);
    notify_tick(&n, 110);
    assert_hears(fd, "WATCHDOG=1");
    setenv("WATCHDOG_USEC", "never", 1);
    notify_open(&n);
    notify_tick(&n, 200);
    assert_hears(fd, NULL);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_says_it_to_the_socket),
        cmocka_unit_test(test_feeds_the_watchdog_three_times_a_period),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
