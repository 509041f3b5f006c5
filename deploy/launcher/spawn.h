/*
 * spawn.h - start one stage process
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      fork and exec of `lx2v-STAGE --config FILE --replica N [--vram BYTES] [--ram BYTES]
 *           --handover FD [--shared FD] [--settings FD]`, with everything taken away that a child
 *           must not inherit.
 * Promise   The child dies with the thread that called spawn_stage (call it from the main thread).
 *           It inherits stderr, the hand-over, the memory for its weights and the config, nothing
 *           else; stdin is empty, stdout is stderr; the environment is an allow-list. Secrets go
 *           down the hand-over, never by argument.
 * Tests     tests/pipeline
 */
#ifndef SPAWN_H
#define SPAWN_H

#include <sys/types.h>

#include "lx_job.h"

typedef struct spawn_request {
    const char *binary_dir;  /* where lx2v-STAGE lies */
    const char *config_path; /* absolute */
    lx_stage_kind kind;
    int replica;
    uint64_t vram, ram; /* bytes that the plan gives it; 0: it is told nothing */
    bool is_leased;     /* it takes turns with other stages of its card */
    const char *endpoint, *token, *instance; /* for the hand-over line */
    uint64_t epoch;
    int shared_fd; /* memory file for the stage's weights; borrowed; 0: none */
    int config_fd; /* of lx_config_to_fd; borrowed; 0: none, it reads the file */
} spawn_request;

/** lifeline: close it when the process is gone; should it close before (because we are), the stage
 *  leaves. LX_EAGAIN: no process or descriptor now; LX_ECONFIG: the binary is not there. */
lx_status spawn_stage(pid_t *pid, int *lifeline, const spawn_request *request, lx_err *err);

/** The folder this program was started from, into out[LX_LIMIT_PATH]. */
lx_status spawn_binary_dir(char *out, lx_err *err);

#endif
