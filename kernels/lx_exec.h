/*
 * lx_exec.h - where and with what the op families run
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Model code is written once, as a sequence of calls into the op families of this folder.
 *           An lx_exec says which device runs them, gives them scratch from the stage's arena and,
 *           in a dry run, lets them only measure: a dry exec validates and takes the same scratch
 *           but touches no tensor, so running a model dry is the memory plan.
 * Promise   Same arguments, same build, same device, same thread count: same bits. No op allocates:
 *           all scratch comes from the arena and is given back before the op returns.
 * Threads   One exec, one thread; ops use up to n_threads inside.
 */
#ifndef LX_EXEC_H
#define LX_EXEC_H

#include "lx_arena.h"
#include "lx_status.h"

typedef struct lx_backend lx_backend; /* table of implementations: kernels/lx_backend.h */

typedef struct lx_exec {
    const lx_backend *backend; /* CPU now; the CUDA module brings another */
    lx_arena *arena;           /* borrowed from the stage */
    int n_threads;
    bool is_dry; /* = lx_arena_is_dry(arena) */
} lx_exec;

/** An exec on the CPU. n_threads 0: one per core. Sets oneDNN's and OpenMP's threads. */
lx_status lx_exec_open_cpu(lx_exec *out, lx_arena *arena, int n_threads, lx_err *err);

/** "avx512_core_vnni" or the like, and whether s8 products go to the library or to our own path. */
const char *lx_exec_describe(const lx_exec *exec);

#endif
