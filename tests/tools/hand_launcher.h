/*
 * hand_launcher.h - a launcher driven by hand, and one real stage
 * SPDX-License-Identifier: Apache-2.0
 *
 * The test is the launcher; the stage is this same program started again with the arguments of a
 * stage: main looks whether it has any. Messages go over the real bus.
 */
#ifndef HAND_LAUNCHER_H
#define HAND_LAUNCHER_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_bus.h"
#include "lx_process.h"
#include "lx_share.h"

#define TOKEN "0123456789abcdef0123456789abcdef"
#define EPOCH 9

typedef struct launch {
    char folder[64], endpoint[128], config[128], instance[33];
    lx_bus *bus;
    lx_peer peer;
    pid_t pid;  /* of the stage; 0: none */
    lx_msg msg; /* the last one expected */
} launch;

static inline void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* A folder with a config, and a bus that waits for a stage. */
static inline launch *launch_open(const char *config)
{
    launch *l = calloc(1, sizeof *l);
    assert_non_null(l);
    strcpy(l->folder, "/tmp/lx2v-stage-XXXXXX");
    assert_non_null(mkdtemp(l->folder));
    snprintf(l->endpoint, sizeof l->endpoint, "ipc://%s/s.sock", l->folder);
    snprintf(l->config, sizeof l->config, "%s/config.yaml", l->folder);
    snprintf(l->instance, sizeof l->instance, "%032x", (unsigned)getpid());
    write_file(l->config, config);
    assert_int_equal(lx_bus_bind(&l->bus, l->endpoint, NULL), LX_OK);
    return l;
}

/* takes_turns: with its card's memory. */
static inline void launch_start(launch *l, bool takes_turns)
{
    int fds[2];
    char number[16];
    assert_int_equal(pipe(fds), 0);
    snprintf(number, sizeof number, "%d", fds[0]);
    l->pid = fork();
    if (!l->pid) {
        close(fds[1]);
        execl("/proc/self/exe", "stage", "--config", l->config, "--replica", "0", "--handover",
              number, takes_turns ? "--lease" : NULL, "1", (char *)NULL);
        _exit(127);
    }
    close(fds[0]);
    dprintf(fds[1], "endpoint=%s token=" TOKEN " instance=%s epoch=%d\n", l->endpoint, l->instance,
            EPOCH);
    close(fds[1]);
}

/* The next message that is not a beat. */
static inline const lx_msg *expect(launch *l, lx_msg_kind kind)
{
    double until = lx_now_s() + 20;
    do {
        assert_true(lx_now_s() < until);
        if (lx_bus_receive(l->bus, &l->peer, &l->msg, 20000, NULL) != LX_OK)
            fail_msg("no message, expected %s", lx_msg_kind_name(kind));
    } while (l->msg.kind == LX_MSG_BEAT && kind != LX_MSG_BEAT);
    assert_string_equal(lx_msg_kind_name(l->msg.kind), lx_msg_kind_name(kind));
    return &l->msg;
}

static inline void tell(launch *l, const lx_msg *msg)
{
    assert_int_equal(lx_bus_send(l->bus, &l->peer, msg, NULL), LX_OK);
}

static inline void order(launch *l, const char *id, int attempt, const char *prompt)
{
    lx_msg msg = {.kind = LX_MSG_JOB, .attempt = attempt};
    snprintf(msg.job, sizeof msg.job, "%s", id);
    snprintf(msg.u.work.job.id, sizeof msg.u.work.job.id, "%s", id);
    snprintf(msg.u.work.job.prompt, sizeof msg.u.work.job.prompt, "%s", prompt);
    tell(l, &msg);
}

static inline void retire(launch *l, uint64_t serial)
{
    lx_msg msg = {.kind = LX_MSG_RETIRE, .u.lease.serial = serial};
    tell(l, &msg);
}

/* Wait for the stage's end. */
static inline int exit_of(launch *l)
{
    int status = 0;
    assert_int_equal(waitpid(l->pid, &status, 0), l->pid);
    l->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* A stage that still runs is killed. Files that the test put into the folder are gone by now. */
static inline void launch_close(launch *l)
{
    if (l->pid) {
        kill(l->pid, SIGKILL);
        waitpid(l->pid, NULL, 0);
    }
    (void)lx_share_sweep(l->instance, 0); /* what it lent */
    lx_bus_close(&l->bus);
    unlink(l->endpoint + 6);
    unlink(l->config);
    rmdir(l->folder);
    free(l);
}

#endif
