/*
 * launcher.h - the one process that knows the pipeline
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Ties the parts together in one loop on the main thread: two ROUTER buses (clients,
 *           stages), a signal descriptor, and deadlines. No pixel, no weight, no CUDA in here.
 *             lx_jobs   which jobs there are          route    what happens to them next
 *             replica   the stage processes           clients  what people are told
 *             state_dir the lock and the sockets      spawn, pace, submit: one rule each
 * Promise   Single-threaded: nothing in the launcher needs a lock. Nobody is waited for: sends
 *           never block. After launcher_close no process, socket or shared memory name is left.
 * Tests     tests/launcher (the parts), tests/pipeline (the real thing)
 */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include "lx_config.h"
#include "plan.h"

typedef struct launcher launcher;

/** What can be checked without starting anything: model files, stage binaries. LX_ECONFIG. */
lx_status launcher_check(const lx_config *config, lx_err *err);

/** Lock, sockets, tables. config and planned: borrowed until close. Call from the main thread. */
lx_status launcher_open(launcher **out, const lx_config *config, const plan *planned, lx_err *err);

/** Start the stages and serve until told to stop. Prints one line on stdout when every stage is
 *  ready. LX_OK: an orderly stop. LX_ECONFIG: a stage can never start; says why. */
lx_status launcher_run(launcher *l, lx_err *err);

void launcher_close(launcher **l);

#endif
