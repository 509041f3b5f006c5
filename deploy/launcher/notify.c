/*
 * notify.c - datagrams to the service manager
 * SPDX-License-Identifier: Apache-2.0
 */
#include "notify.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lx_config.h"

#define FEEDS_PER_PERIOD 3 /* two may come late before it bites */

void notify_open(notify *n)
{
    const char *period = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    int64_t us = 0, whose = getpid();
    *n = (notify){0};
    if (!period || !lx_parse_i64(period, &us) || us <= 0 || (pid && !lx_parse_i64(pid, &whose)) ||
        whose != getpid())
        return;
    n->every_s = (double)us * 1e-6 / FEEDS_PER_PERIOD;
}

void notify_say(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@'))
        return;
    memcpy(to.sun_path, path, n);
    if (path[0] == '@') /* systemd's way to write an abstract name */
        to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&to, bytes) < 0) {
        /* Nobody listens: then nobody waits for it either. */
    }
    close(fd);
}

void notify_tick(notify *n, double now_s)
{
    if (n->every_s <= 0 || now_s - n->fed_s < n->every_s)
        return;
    n->fed_s = now_s;
    notify_say("WATCHDOG=1");
}
