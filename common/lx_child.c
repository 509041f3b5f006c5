/*
 * lx_child.c - spawn, read, wait, kill
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lx_process.h"

#define SLICE_MS  20  /* how late the child's end may be seen */
#define LINGER_S  2.0 /* a killed process that a driver holds in the kernel is then left to init */
#define FIRST_OWN 3   /* descriptors from here on are ours alone */

extern char **environ;

typedef struct pipes {
    int in, out, err; /* our ends; in: read end of the child's stdin */
    int child_out, child_err;
} pipes;

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_pipes(pipes *p)
{
    close_one(&p->in);
    close_one(&p->out);
    close_one(&p->err);
    close_one(&p->child_out);
    close_one(&p->child_err);
}

static lx_status open_input(pipes *p, const lx_child *c, lx_err *err)
{
    int ends[2];
    if (!c->input) {
        p->in = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return p->in >= 0 ? LX_OK : lx_fail(err, LX_EAGAIN, "/dev/null: %s", strerror(errno));
    }
    if (c->input_bytes > LX_CHILD_INPUT || pipe2(ends, O_CLOEXEC))
        return lx_fail(err, LX_EAGAIN, "no pipe for %zu bytes", c->input_bytes);
    p->in = ends[0];
    ssize_t n = write(ends[1], c->input, c->input_bytes);
    close(ends[1]);
    return n == (ssize_t)c->input_bytes ? LX_OK
                                        : lx_fail(err, LX_EAGAIN, "pipe: %s", strerror(errno));
}

static lx_status open_pipes(pipes *p, const lx_child *c, lx_err *err)
{
    int out[2], errors[2];
    *p = (pipes){-1, -1, -1, -1, -1};
    lx_status status = open_input(p, c, err);
    if (status != LX_OK)
        return status;
    if (pipe2(out, O_CLOEXEC))
        return lx_fail(err, LX_EAGAIN, "no pipe: %s", strerror(errno));
    p->out = out[0];
    p->child_out = out[1];
    if (pipe2(errors, O_CLOEXEC))
        return lx_fail(err, LX_EAGAIN, "no pipe: %s", strerror(errno));
    p->err = errors[0];
    p->child_err = errors[1];
    fcntl(p->out, F_SETFL, O_NONBLOCK);
    fcntl(p->err, F_SETFL, O_NONBLOCK);
    return LX_OK;
}

/* Its own process group, so that what it started dies with it; signals as in a fresh process. */
static int spawn(pid_t *pid, const lx_child *c, const pipes *p)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                              POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_adddup2(&actions, p->in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, p->child_out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, p->child_err, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&actions, FIRST_OWN);
    int error =
        posix_spawn(pid, c->argv[0], &actions, &attributes, c->argv, c->env ? c->env : environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return error;
}

/* All that is there now. False: nothing more will come. */
static bool drain(int fd, char *text, size_t room, size_t *used, bool *is_cut)
{
    char bytes[4096];
    for (;;) {
        ssize_t n = read(fd, bytes, sizeof bytes);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        if (n == 0)
            return false;
        size_t take = room - 1 - *used;
        if (take > (size_t)n)
            take = (size_t)n;
        memcpy(text + *used, bytes, take);
        *used += take;
        if (take < (size_t)n)
            *is_cut = true;
    }
}

static void drain_both(lx_child *c, pipes *p, size_t *err_used)
{
    bool unused = false;
    if (p->out >= 0 && !drain(p->out, c->out, c->out_room, &c->out_bytes, &c->is_cut))
        close_one(&p->out);
    if (p->err >= 0 && !drain(p->err, c->err, sizeof c->err, err_used, &unused))
        close_one(&p->err);
}

/* Reads until the child has ended or time is up. False: it still runs. */
static bool follow(lx_child *c, pid_t pid, pipes *p, int *wait_status)
{
    double until = lx_now_s() + c->timeout_s;
    size_t err_used = 0;
    for (;;) {
        struct pollfd fds[2] = {{p->out, POLLIN, 0}, {p->err, POLLIN, 0}};
        poll(fds, 2, SLICE_MS); /* negative descriptors are skipped */
        pid_t got = waitpid(pid, wait_status, WNOHANG);
        drain_both(c, p, &err_used); /* after looking: what a dead child wrote is all there */
        c->out[c->out_bytes] = 0;
        c->err[err_used] = 0;
        if (got == pid)
            return true;
        if (got < 0 && errno != EINTR) {
            *wait_status = -1; /* somebody else took its end: unknown */
            return true;
        }
        if (lx_now_s() > until)
            return false;
        /* It closed both and goes on: poll would not sleep. */
        if (p->out < 0 && p->err < 0)
            nanosleep(&(struct timespec){.tv_nsec = SLICE_MS * 1000000L}, NULL);
    }
}

static void kill_group(pid_t pid)
{
    int unused;
    double until = lx_now_s() + LINGER_S;
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    while (waitpid(pid, &unused, WNOHANG) == 0 && lx_now_s() < until)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

static void make_one_line(char *text)
{
    size_t n = strlen(text);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        text[--n] = 0;
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
}

lx_status lx_child_run(lx_child *c, lx_err *err)
{
    pipes p;
    pid_t pid = 0;
    int wait_status = 0;
    c->out_bytes = 0;
    c->out[0] = c->err[0] = 0;
    c->is_cut = c->has_timed_out = false;
    c->exit_code = -1;
    c->signal = 0;
    lx_status status = open_pipes(&p, c, err);
    if (status != LX_OK)
        goto out;
    int error = spawn(&pid, c, &p);
    if (error) {
        status = lx_fail(err, LX_ECONFIG, "%s: cannot be started: %s", c->argv[0], strerror(error));
        goto out;
    }
    close_one(&p.child_out);
    close_one(&p.child_err);
    if (!follow(c, pid, &p, &wait_status)) {
        kill_group(pid);
        c->has_timed_out = true;
        status =
            lx_fail(err, LX_ETIMEOUT, "%s: no end after %.0f s; killed", c->argv[0], c->timeout_s);
    } else {
        kill(-pid, SIGKILL); /* what it may have left behind in its group */
        if (wait_status != -1 && WIFSIGNALED(wait_status)) {
            c->signal = WTERMSIG(wait_status);
            status = lx_fail(err, LX_EJOB, "%s: died from signal %d (%s)", c->argv[0], c->signal,
                             strsignal(c->signal));
        } else if (wait_status != -1) {
            c->exit_code = WEXITSTATUS(wait_status);
        }
    }
    make_one_line(c->err);
out:
    close_pipes(&p);
    return status;
}

lx_status lx_child_beside(char *out, size_t out_bytes, const char *name, lx_err *err)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return lx_fail(err, LX_ESTAGE, "/proc/self/exe: %s", strerror(errno));
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (!slash)
        return lx_fail(err, LX_ESTAGE, "/proc/self/exe: %s is no path", self);
    *slash = 0;
    if ((size_t)snprintf(out, out_bytes, "%s/%s", self, name) >= out_bytes)
        return lx_fail(err, LX_ECONFIG, "%s/%s: the path is too long", self, name);
    return LX_OK;
}
