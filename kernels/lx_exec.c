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
                    .host = arena,
                    .rows = LX_DTYPE_F32,
                    .value = LX_DTYPE_F32,
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

bool lx_mat_is_sane(const lx_exec *x, const lx_mat *m, bool may_be_value)
{
    bool has_dtype =
        m->dtype == LX_DTYPE_F32 || m->dtype == x->rows || (may_be_value && m->dtype == x->value);
    return has_dtype && m->data && m->stride >= m->cols && lx_matrix_is_sane(m->rows, m->stride) &&
           m->cols >= 1;
}

bool lx_matrix_is_sane(int64_t rows, int64_t cols)
{
    return rows >= 1 && cols >= 1 && rows <= LX_LIMIT_DIM && cols <= LX_LIMIT_DIM &&
           (uint64_t)rows <= LX_LIMIT_ELEMENTS / (uint64_t)cols;
}

/* --- matrices -------------------------------------------------------------------------------- */

lx_status lx_mat_take(lx_exec *x, lx_dtype dtype, int64_t rows, int64_t cols, lx_mat *out,
                      lx_err *err)
{
    void *data;
    if (!lx_matrix_is_sane(rows, cols))
        return lx_fail(err, LX_EJOB, "a matrix of %lld x %lld is not possible", (long long)rows,
                       (long long)cols);
    uint64_t bytes = (uint64_t)rows * (uint64_t)cols * lx_dtype_size(dtype);
    lx_status status = lx_arena_take(x->arena, (size_t)bytes, &data, err);
    if (status == LX_OK)
        *out = (lx_mat){.dtype = dtype, .rows = rows, .cols = cols, .stride = cols, .data = data};
    return status;
}

lx_mat lx_mat_f32(float *data, int64_t rows, int64_t cols)
{
    return (lx_mat){
        .dtype = LX_DTYPE_F32, .rows = rows, .cols = cols, .stride = cols, .data = data};
}

static void *mat_at(const lx_mat *m, int64_t element)
{
    return (unsigned char *)m->data + (size_t)element * lx_dtype_size(m->dtype);
}

lx_mat lx_mat_rows(const lx_mat *m, int64_t first, int64_t n)
{
    lx_mat part = *m;
    part.data = mat_at(m, first * m->stride);
    part.rows = n;
    return part;
}

lx_mat lx_mat_cols(const lx_mat *m, int64_t first, int64_t n)
{
    lx_mat part = *m;
    part.data = mat_at(m, first);
    part.cols = n;
    return part;
}
