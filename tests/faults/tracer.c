/*
 * tracer.c - ptrace: seize, count, kill or let go
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tracer.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS_MAX  256
#define SYSCALL_TRAP (SIGTRAP | 0x80) /* PTRACE_O_TRACESYSGOOD */
#define OPTIONS      (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL)

typedef struct thread {
    pid_t tid;
    int owner;       /* 0 or 1: of which process; -1: its maker's word of it is still to come */
    bool is_opening; /* in the call that opens the window */
} thread;

typedef struct tracer {
    int fd;
    pid_t driver;
    int driver_status;
    tracer_order order;
    bool is_open, is_leaving, has_killed;
    uint64_t count;
    long nr;
    int n;
    thread thread[THREADS_MAX];
} tracer;

static void say(const tracer *t, tracer_word word)
{
    tracer_news news = {.word = word, .count = t->count, .nr = t->nr};
    if (write(t->fd, &news, sizeof news) != sizeof news)
        fprintf(stderr, "the driver does not listen\n"); /* its end is noticed by tracer_run */
}

static long go_on(pid_t tid, int sig)
{
    return ptrace(PTRACE_SYSCALL, tid, NULL, (void *)(intptr_t)sig);
}

/* --- threads ---------------------------------------------------------------------------------- */

static thread *find(tracer *t, pid_t tid)
{
    for (int i = 0; i < t->n; i++)
        if (t->thread[i].tid == tid)
            return &t->thread[i];
    return NULL;
}

static thread *add(tracer *t, pid_t tid, int owner)
{
    thread *x = find(t, tid);
    if (!x) {
        if (t->n == THREADS_MAX) {
            fprintf(stderr, "more than %d threads\n", THREADS_MAX);
            exit(2);
        }
        x = &t->thread[t->n++];
        *x = (thread){.tid = tid};
    }
    x->owner = owner;
    return x;
}

static void drop(tracer *t, pid_t tid)
{
    thread *x = find(t, tid);
    if (x)
        *x = t->thread[--t->n];
}

/* Stop all for a moment. Who is not there any more is forgotten: its end may have been told before
 * its birth was. */
static void interrupt_all(tracer *t)
{
    for (int i = t->n - 1; i >= 0; i--)
        if (ptrace(PTRACE_INTERRUPT, t->thread[i].tid, NULL, NULL) && errno == ESRCH)
            drop(t, t->thread[i].tid);
}

static bool seize_thread(tracer *t, pid_t tid, int owner)
{
    if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)(intptr_t)OPTIONS)) {
        if (errno != ESRCH)
            perror("ptrace");
        return errno == ESRCH;
    }
    ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
    add(t, tid, owner);
    return true;
}

/* A thread may be made while its siblings are being found: look until there is no new one. */
static bool seize_process(tracer *t, int owner)
{
    char path[64];
    bool is_allowed = true;
    snprintf(path, sizeof path, "/proc/%d/task", (int)t->order.pid[owner]);
    for (int before = -1; is_allowed && before != t->n;) {
        before = t->n;
        DIR *dir = opendir(path);
        for (struct dirent *e; dir && is_allowed && (e = readdir(dir));) {
            pid_t tid = (pid_t)atoi(e->d_name);
            if (tid > 0 && !find(t, tid))
                is_allowed = seize_thread(t, tid, owner);
        }
        if (dir)
            closedir(dir);
    }
    return is_allowed;
}

/* --- what happens to them --------------------------------------------------------------------- */

/* Entry or return of a call. True: the victim is dead, and its threads must not be moved. */
static bool on_call(tracer *t, thread *x)
{
    struct __ptrace_syscall_info info = {0};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, x->tid, (void *)sizeof info, &info) <= 0)
        return false;
    if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
        t->is_open = t->is_open || x->is_opening;
        x->is_opening = false;
        return false;
    }
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY)
        return false;
    if (!t->is_open && x->owner == t->order.opener && (long)info.entry.nr == t->order.open_nr) {
        t->is_open = !t->order.opens_at_return;
        x->is_opening = t->order.opens_at_return;
    }
    if (!t->is_open || x->owner != t->order.victim || t->has_killed)
        return false;
    if (t->order.close_nr && (long)info.entry.nr == t->order.close_nr) {
        t->is_leaving = true;
        interrupt_all(t);
        return false;
    }
    if (++t->count != t->order.at)
        return false;
    t->nr = (long)info.entry.nr;
    t->has_killed = true;
    kill(t->order.pid[t->order.victim], SIGKILL);
    return true;
}

static void on_stop(tracer *t, pid_t tid, int status)
{
    int sig = WSTOPSIG(status), event = status >> 16;
    thread *x = find(t, tid);
    if (!x)
        x = add(t, tid, -1);
    if (event == PTRACE_EVENT_CLONE) {
        unsigned long child = 0;
        ptrace(PTRACE_GETEVENTMSG, tid, NULL, &child);
        int owner = x->owner;
        if (child)
            add(t, (pid_t)child, owner);
        x = find(t, tid);
    }
    if (event || sig == SYSCALL_TRAP)
        sig = 0; /* nothing that the thread itself shall hear of */
    if (t->is_leaving) {
        ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)sig);
        drop(t, tid);
    } else if (!(WSTOPSIG(status) == SYSCALL_TRAP && on_call(t, x))) {
        go_on(tid, sig);
    }
}

static void collect(tracer *t)
{
    int status;
    for (pid_t tid; (tid = waitpid(-1, &status, __WALL | WNOHANG)) > 0;) {
        if (tid == t->driver) {
            t->driver_status = status;
            t->driver = 0;
        } else if (WIFSTOPPED(status)) {
            on_stop(t, tid, status);
        } else {
            drop(t, tid);
        }
    }
}

/* --- orders ----------------------------------------------------------------------------------- */

static void begin(tracer *t, const tracer_order *order)
{
    t->order = *order;
    t->n = 0;
    t->count = 0;
    t->nr = -1;
    t->has_killed = t->is_leaving = false;
    t->is_open = order->opener < 0;
    bool is_allowed = true;
    for (int i = 0; i < 2 && is_allowed; i++)
        is_allowed = order->pid[i] <= 0 || seize_process(t, i);
    say(t, is_allowed ? TRACER_WATCHES : TRACER_FORBIDDEN);
}

/* False: nobody gives orders any more. */
static bool serve(tracer *t)
{
    tracer_order order;
    if (read(t->fd, &order, sizeof order) != sizeof order)
        return false;
    if (order.at > 0) {
        begin(t, &order);
    } else if (!t->has_killed) { /* else TRACER_KILLED is the answer */
        t->is_leaving = true;
        interrupt_all(t);
        if (t->n == 0)
            say(t, TRACER_LEFT);
    }
    return true;
}

int tracer_run(int fd, pid_t driver)
{
    tracer t = {.fd = fd, .driver = driver};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    while (t.driver) {
        struct pollfd p[] = {{.fd = signals, .events = POLLIN}, {.fd = t.fd, .events = POLLIN}};
        poll(p, 2, 100);
        struct signalfd_siginfo info;
        while (read(signals, &info, sizeof info) == sizeof info)
            ;
        int before = t.n;
        collect(&t);
        if (t.has_killed && t.n > 0 && !p[0].revents && !p[1].revents)
            interrupt_all(&t);
        if (before > 0 && t.n == 0)
            say(&t, t.has_killed ? TRACER_KILLED : TRACER_LEFT);
        if (p[1].revents && !serve(&t))
            t.fd = -1;
    }
    close(signals);
    return WIFEXITED(t.driver_status) ? WEXITSTATUS(t.driver_status)
                                      : 128 + WTERMSIG(t.driver_status);
}

/* --- the child's side ------------------------------------------------------------------------- */

static tracer_news hear(int fd)
{
    tracer_news news;
    if (read(fd, &news, sizeof news) != sizeof news) {
        fprintf(stderr, "the tracer is gone\n");
        exit(2);
    }
    return news;
}

static tracer_news ask(int fd, const tracer_order *order)
{
    if (write(fd, order, sizeof *order) != sizeof *order)
        perror("tracer");
    return hear(fd);
}

tracer_news tracer_watch(int fd, const tracer_order *order)
{
    return ask(fd, order);
}

bool tracer_has_killed(int fd, tracer_news *news)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 0) != 1)
        return false;
    *news = hear(fd);
    return news->word == TRACER_KILLED;
}

tracer_news tracer_wait(int fd)
{
    return hear(fd);
}

tracer_news tracer_leave(int fd)
{
    return ask(fd, &(tracer_order){.at = 0});
}
