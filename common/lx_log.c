/*
 * lx_log.c - one call, one line, one write
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static const char *log_who = "lx2v";
static lx_log_level log_level = LX_LOG_INFO;
static atomic_ulong log_dropped;

void lx_log_open(const char *who, lx_log_level most_verbose)
{
    log_who = who;
    log_level = most_verbose;
}

/* Escapes control characters; returns bytes written, never more than room. */
static size_t escape_into(char *out, size_t room, const char *text)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p && n + 5 < room; p++) {
        if (*p >= 0x20 && *p != 0x7f)
            out[n++] = (char)*p;
        else
            n += (size_t)snprintf(out + n, room - n, "\\x%02x", *p);
    }
    return n;
}

void lx_log_line(lx_log_level level, const char *format, ...)
{
    if (level > log_level)
        return;
    char text[LX_LOG_LINE], line[LX_LOG_LINE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int head = snprintf(line, sizeof line, "%c %s[%d] ", "EWID"[level], log_who, (int)getpid());
    size_t n = (size_t)head;
    n += escape_into(line + n, sizeof line - n - 1, text);
    line[n++] = '\n';
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    /* A blocked reader must not stop the service: the line is dropped and counted. */
    if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT) ||
        write(STDERR_FILENO, line, n) != (ssize_t)n)
        atomic_fetch_add(&log_dropped, 1);
}
