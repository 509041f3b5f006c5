/*
 * state_dir.h - the folder that makes a launcher the only one
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Holds the lock, the sockets and the record of who was started: `lock`, `clients.sock`,
 *           `stages.sock`, `run`.
 * Promise   Mode 0700 and ours, or refused. One launcher per folder: a second one is refused and
 *           the first undisturbed (a second bind would silently steal the socket). Also refused
 *           while a stage of an earlier launcher still lives. Shared memory names and sockets that
 *           a dead launcher left are swept at open.
 * Tests     tests/launcher/test_state_dir.c
 */
#ifndef STATE_DIR_H
#define STATE_DIR_H

#include <stdbool.h>
#include <sys/types.h>

#include "lx_limits.h"
#include "lx_status.h"

typedef struct state_dir state_dir;

typedef struct state_stage { /* a process that was started */
    pid_t pid;
    char name[32]; /* "dit[0]" */
} state_stage;

/** Make, check, lock, sweep. LX_ECONFIG with path and pid when somebody else is there. */
lx_status state_dir_open(state_dir **out, const char *path, lx_err *err);
/** Unlinks sockets and record, sweeps this start's shared memory names, unlocks. */
void state_dir_close(state_dir **dir);

const char *state_dir_instance(const state_dir *dir); /* 32 hex digits drawn for this start */

/** "ipc://DIR/NAME" into out[LX_LIMIT_PATH + 8]; LX_ECONFIG if it cannot be a socket's path. */
lx_status state_dir_endpoint(const state_dir *dir, const char *name, char *out, lx_err *err);

/** Replace the record of living stages; a failure is logged and harmless until a crash. */
void state_dir_record(const state_dir *dir, const state_stage *stages, int n);

/** n/2 random bytes as n hex digits and a 0, from the kernel. */
lx_status state_random_hex(char *out, int n, lx_err *err);

#endif
