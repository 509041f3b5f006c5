/*
 * lx_exec.c - opening the CPU, and checks that the families share
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_exec.h"

#include <sched.h>

#include "cpu/lx_cpu.h"
#include "lx_backend.h"

#define THREADS_MAX 1024

/* Cores that this process may use: its affinity mask, not what the machine has. */
static int usable_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
}

lx_status lx_exec_open_cpu(lx_exec *out, lx_arena *arena, int n_threads, lx_err *err)
{
    if (n_threads < 0 || n_threads > THREADS_MAX)
        return lx_fail(err, LX_ECONFIG, "%d threads: allowed are 0 (one per core) to %d", n_threads,
                       THREADS_MAX);
    lx_exec exec = {.backend = lx_backend_cpu(),
                    .arena = arena,
                    .n_threads = n_threads ? n_threads : usable_cores(),
                    .is_dry = lx_arena_is_dry(arena)};
    exec.n_threads = lx_cpu_set_threads(exec.n_threads);
    if (!exec.is_dry)
        lx_cpu_warm_up(&exec);
    *out = exec;
    return LX_OK;
}

const char *lx_exec_describe(const lx_exec *exec)
{
    return exec->backend->describe(exec);
}

bool lx_dtype_is_float(lx_dtype dtype)
{
    switch (dtype) {
    case LX_DTYPE_F64:
    case LX_DTYPE_F32:
    case LX_DTYPE_F16:
    case LX_DTYPE_BF16:
    case LX_DTYPE_F8_E4M3:
    case LX_DTYPE_F8_E5M2:
        return true;
    default:
        return false;
    }
}

bool lx_weight_is_vector(const lx_weight *w, int64_t n)
{
    uint64_t elements;
    return lx_dtype_is_float(w->dtype) &&
           lx_shape_bytes(&w->shape, w->dtype, &elements, NULL, NULL) == LX_OK &&
           elements == (uint64_t)n;
}

bool lx_matrix_is_sane(int64_t rows, int64_t cols)
{
    return rows >= 1 && cols >= 1 && rows <= LX_LIMIT_DIM && cols <= LX_LIMIT_DIM &&
           (uint64_t)rows <= LX_LIMIT_ELEMENTS / (uint64_t)cols;
}
