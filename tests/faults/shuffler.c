/*
 * shuffler.c - stands between the launcher and a stage, and disturbs their messages
 * SPDX-License-Identifier: Apache-2.0
 *
 * Started by the launcher under the name of a stage (a link in another folder of programs): it
 * becomes that stage, and a child of it passes messages on, in the way LX2V_TEST_SHUFFLE says:
 *   twice               each is sent twice
 *   late                each is sent again when three more have passed
 *   STAGE:swap:KIND     this stage's first message of that kind comes after the one behind it
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "lx_bus.h"

#define LATE   3
#define HELD_S 5.0 /* when nothing comes behind it, it was last anyway */

typedef struct way {
    lx_bus *to;
    const lx_peer *peer; /* NULL: towards the launcher */
    lx_msg past[LATE];
    uint64_t n;
    lx_msg held;
    bool is_holding, has_held;
    double held_s;
} way;

static const char *mode, *kind;

static void pass(way *w, const lx_msg *msg)
{
    lx_err err = {0};
    lx_status status;
    while ((status = lx_bus_send(w->to, w->peer, msg, &err)) == LX_EAGAIN)
        poll(NULL, 0, 1);
    if (status != LX_OK)
        fprintf(stderr, "W shuffler %s\n", err.message);
}

static void take(way *w, const lx_msg *msg)
{
    bool is_swap = !strcmp(mode, "swap") && !w->has_held;
    if (is_swap && !strcmp(lx_msg_kind_name(msg->kind), kind)) {
        w->held = *msg;
        w->is_holding = w->has_held = true;
        w->held_s = lx_now_s();
        return;
    }
    pass(w, msg);
    if (w->is_holding) {
        fprintf(stderr, "W shuffler %s after %s\n", kind, lx_msg_kind_name(msg->kind));
        pass(w, &w->held);
        w->is_holding = false;
    }
    if (!strcmp(mode, "twice"))
        pass(w, msg);
    if (!strcmp(mode, "late") && w->n >= LATE)
        pass(w, &w->past[w->n % LATE]);
    w->past[w->n++ % LATE] = *msg;
}

static void let_go(way *w)
{
    if (w->is_holding && lx_now_s() - w->held_s > HELD_S) {
        pass(w, &w->held);
        w->is_holding = false;
    }
}

/* Until the launcher is gone; the end of the stage ends this process too. */
static void stand_between(lx_bus *stage, lx_bus *launcher, int lifeline)
{
    static lx_msg msg;
    static way up, down;
    lx_peer peer = {0}, from;
    up.to = launcher;
    down.to = stage;
    down.peer = &peer;
    for (;;) {
        struct pollfd fds[] = {{.fd = lx_bus_fd(stage), .events = POLLIN},
                               {.fd = lx_bus_fd(launcher), .events = POLLIN},
                               {.fd = lifeline, .events = 0}};
        while (lx_bus_receive(stage, &from, &msg, 0, NULL) == LX_OK) {
            peer = from;
            take(&up, &msg);
        }
        while (lx_bus_receive(launcher, NULL, &msg, 0, NULL) == LX_OK)
            take(&down, &msg);
        let_go(&up);
        let_go(&down);
        poll(fds, 3, 5);
        if (fds[2].revents)
            _exit(0);
    }
}

static void read_mode(const char *stage)
{
    static char copy[64];
    const char *text = getenv("LX2V_TEST_SHUFFLE");
    snprintf(copy, sizeof copy, "%s", text ? text : "plain");
    char *rest = copy, *first = strsep(&rest, ":");
    mode = first;
    if (rest) { /* STAGE:swap:KIND */
        mode = strsep(&rest, ":");
        kind = rest ? rest : "";
        if (strcmp(first, stage))
            mode = "plain";
    }
}

/* The child that passes messages on. Its own end says so to the stage, by the pipe. */
static void become_shuffler(pid_t stage_pid, const char *name, const char *endpoint,
                            const char *own, int lifeline, int ready)
{
    lx_bus *stage = NULL, *launcher = NULL;
    lx_err err = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != stage_pid)
        _exit(1);
    read_mode(name + strlen("lx2v-"));
    if (lx_bus_bind(&stage, own, &err) != LX_OK ||
        lx_bus_connect(&launcher, endpoint, &err) != LX_OK || write(ready, "", 1) != 1) {
        fprintf(stderr, "E shuffler %s\n", err.message);
        _exit(1);
    }
    stand_between(stage, launcher, lifeline);
}

/* endpoint, what follows it. Only a swap is for the first process of a stage alone. */
static bool read_handover(int fd, char endpoint[201], char rest[256], unsigned long long *epoch)
{
    char line[512] = "", token[40], instance[40];
    ssize_t n = read(fd, line, sizeof line - 1);
    return n > 0 && sscanf(line, "endpoint=%200s %255[^\n]", endpoint, rest) == 2 &&
           sscanf(rest, "token=%39s instance=%39s epoch=%llu", token, instance, epoch) == 3;
}

int main(int argc, char **argv)
{
    char real[512], endpoint[201], own[256], rest[256], line[600], byte;
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    unsigned long long epoch;
    int fd = -1, pipes[2], ready[2];
    snprintf(real, sizeof real, "%s/%s", LX2V_BIN_DIR, name);
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--handover"))
            fd = atoi(argv[i + 1]);
    if (fd < 0) /* it is asked for its plan */
        return execv(real, argv);
    if (!read_handover(fd, endpoint, rest, &epoch) || pipe(pipes) || pipe(ready))
        return 1;
    if (epoch > 4)
        setenv("LX2V_TEST_SHUFFLE", "plain", 1);
    /* Beside the state folder, whose files are counted. */
    snprintf(own, sizeof own, "%.*s/../%s.sock", (int)(strrchr(endpoint, '/') - endpoint), endpoint,
             name);
    pid_t self = getpid(), child = fork();
    if (child == 0) {
        close(pipes[0]);
        become_shuffler(self, name, endpoint, own, fd, ready[1]);
    }
    close(ready[1]);
    int n = snprintf(line, sizeof line, "endpoint=%s %s\n", own, rest);
    if (child < 0 || read(ready[0], &byte, 1) != 1 || write(pipes[1], line, (size_t)n) != n ||
        dup2(pipes[0], fd) != fd)
        return 1;
    close(ready[0]);
    close(pipes[0]);
    close(pipes[1]);
    return execv(real, argv);
}
