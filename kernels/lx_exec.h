/*
 * lx_exec.h - where and with what the op families run
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Model code is written once, as a sequence of calls into the op families of this folder.
 *           An lx_exec says which device runs them, gives them scratch from the stage's arena and,
 *           in a dry run, lets them only measure: a dry exec validates and takes the same scratch
 *           but touches no tensor, so running a model dry is the memory plan. A dry exec for a card
 *           needs no card.
 * Memory    `arena` is memory of the device: op families read and write it, the CPU must not unless
 *           lx_exec_is_host(). What the host prepares or reads is taken from `host` and goes
 *           through lx_copy.h. On the CPU both are one arena.
 * Order     On a card every op is queued and returns at once; ops run one by one, so memory
 *           given back to the arena may be taken again without waiting. lx_download waits.
 * Promise   Same arguments, same build, same device, same thread count: same bits. No op allocates:
 *           all scratch comes from the arena and is given back before the op returns.
 * Threads   One exec, one thread; ops use up to n_threads inside.
 */
#ifndef LX_EXEC_H
#define LX_EXEC_H

#include "lx_arena.h"
#include "lx_status.h"

typedef struct lx_backend lx_backend; /* table of implementations: kernels/lx_backend.h */

/* In what a card sums the products of F16 weights and values, where it has a choice. */
typedef enum lx_sums { LX_SUMS_AUTO, LX_SUMS_F32, LX_SUMS_F16 } lx_sums;

typedef struct lx_exec {
    const lx_backend *backend;
    lx_arena *arena; /* device memory; borrowed from the stage */
    lx_arena *host;  /* host memory; = arena on the CPU; borrowed likewise */
    int n_threads;
    bool is_dry;          /* = lx_arena_is_dry(arena) */
    lx_dtype rows;        /* activations between ops: F32 on the CPU, BF16 on a card */
    lx_dtype value;       /* what attention's values are kept in: F32, F16 on a card */
    lx_sums sums;         /* AUTO: F16, in short runs, where the card adds F32 at half rate */
    struct lx_cuda *cuda; /* the card (lx_cuda.h); NULL on the CPU */
} lx_exec;

/* Rows of numbers in device memory: an op's input or output. No ownership. */
typedef struct lx_mat {
    lx_dtype dtype; /* F32, or x->rows or x->value where a function says so */
    int64_t rows, cols;
    int64_t stride; /* elements from one row to the next, >= cols */
    void *data;
} lx_mat;

/** An exec on the CPU. n_threads 0: one per core. Sets oneDNN's and OpenMP's threads. */
lx_status lx_exec_open_cpu(lx_exec *out, lx_arena *arena, int n_threads, lx_err *err);

/** "avx512_core_vnni" or the like, and whether s8 products go to the library or to our own path. */
const char *lx_exec_describe(const lx_exec *exec);

/** True if device memory is host memory. */
static inline bool lx_exec_is_host(const lx_exec *exec)
{
    return !exec->cuda;
}

/** A dense matrix from the arena, uninitialised. */
lx_status lx_mat_take(lx_exec *x, lx_dtype dtype, int64_t rows, int64_t cols, lx_mat *out,
                      lx_err *err);
/** Dense rows of f32 that exist already. */
lx_mat lx_mat_f32(float *data, int64_t rows, int64_t cols);
/** The window of n rows from `first` on; of n columns from `first` on. Both must lie inside. */
lx_mat lx_mat_rows(const lx_mat *m, int64_t first, int64_t n);
lx_mat lx_mat_cols(const lx_mat *m, int64_t first, int64_t n);

#endif
