/*
 * lx_log.c - one call, one line, one write
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *log_who = "lx2v";
static atomic_int log_level = LX_LOG_INFO; /* may change while threads log */
static int log_fd = STDERR_FILENO;
static bool log_is_socket; /* a journal's, as a rule */
static atomic_ulong log_dropped;

/* A standard descriptor that was closed would be the next file's, and log lines would go there. */
static void keep_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) < 0)
            return;
}

/* Several processes write into one pipe: that it has room says little a moment later, and its flags
 * are everybody's. A description of our own may be told not to wait. */
static void find_stderr(void)
{
    struct stat st;
    if (fstat(STDERR_FILENO, &st))
        return;
    log_is_socket = S_ISSOCK(st.st_mode);
    int own = S_ISFIFO(st.st_mode)
                  ? open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY)
                  : -1;
    if (own > STDERR_FILENO)
        log_fd = own;
}

void lx_log_open(const char *who, lx_log_level most_verbose)
{
    static bool is_open;
    if (!is_open) {
        is_open = true;
        keep_standard();
        find_stderr();
    }
    log_who = who;
    atomic_store(&log_level, (int)most_verbose);
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

/* False: there is no room, or nobody reads. A line is less than PIPE_BUF: all of it or nothing. */
static bool put(const char *line, size_t n)
{
    struct pollfd ready = {.fd = log_fd, .events = POLLOUT};
    if (log_is_socket)
        return send(log_fd, line, n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)n;
    bool has_room = log_fd != STDERR_FILENO || (poll(&ready, 1, 0) == 1 && ready.revents & POLLOUT);
    return has_room && write(log_fd, line, n) == (ssize_t)n;
}

static bool tell_dropped(unsigned long count)
{
    char line[128];
    int n = snprintf(line, sizeof line, "W %s[%d] log lines_dropped=%lu\n", log_who, (int)getpid(),
                     count);
    return n > 0 && put(line, (size_t)n);
}

void lx_log_line(lx_log_level level, const char *format, ...)
{
    if ((int)level > atomic_load(&log_level))
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
    unsigned long n_dropped = atomic_exchange(&log_dropped, 0);
    if (n_dropped && tell_dropped(n_dropped))
        n_dropped = 0;
    if (n_dropped || !put(line, n))
        atomic_fetch_add(&log_dropped, n_dropped + 1);
}
