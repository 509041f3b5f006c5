/*
 * lx_cpu.h - what the CPU implementations share: entries, threads, first error
 * SPDX-License-Identifier: Apache-2.0
 *
 * Threads   Loops are OpenMP's, on oneDNN's own team (libgomp). A compiler without OpenMP builds
 *           them serial, and oneDNN is then told to use one thread.
 */
#ifndef LX_CPU_H
#define LX_CPU_H

#ifdef _OPENMP
#include <omp.h>
#endif

#include "lx_backend.h"

/** Set the thread count of oneDNN and of our loops; returns what there will be. */
int lx_cpu_set_threads(int n_threads);

/** Run every kind of product once on every thread, at full tile size. oneDNN generates its code and
 *  takes its buffers at first use; this way both happen at start, and memory is flat from there. */
void lx_cpu_warm_up(const lx_exec *x);

/** This thread's place in the team, 0 outside. */
static inline int lx_cpu_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/** Keep the first failure of a parallel loop: code 0 is none. */
static inline void lx_cpu_note(int *first, int code)
{
    if (code)
        __atomic_store_n(first, code, __ATOMIC_RELAXED);
}

static inline int64_t lx_ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static inline int64_t lx_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/** Take floats for every thread of x; part i begins at i * n (n is rounded up to 64 bytes). */
lx_status lx_cpu_take_per_thread(lx_exec *x, int64_t *n, float **out, lx_err *err);

/** w's n elements as f32: w itself if it is F32, else widened into the arena. w NULL: *out NULL. */
lx_status lx_cpu_vector(lx_exec *x, const lx_weight *w, int64_t n, const float **out, lx_err *err);

/** One row of lx_quantize_rows; in may be the row itself if out is F32. */
void lx_cpu_quantize_row(const float *in, lx_act *out, int64_t row);

lx_dtype lx_cpu_act_dtype(const lx_exec *x, const lx_weight *w);
lx_status lx_cpu_quantize_rows(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err);
lx_status lx_cpu_linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                        const lx_mat *out, lx_act *act, lx_err *err);
lx_status lx_cpu_norm_rows(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out,
                           lx_err *err);
lx_status lx_cpu_rope_table_build(lx_exec *x, lx_rope_table *table, lx_err *err);
lx_status lx_cpu_qk_norm_rope(lx_exec *x, const lx_mat *q, int64_t first_token,
                              const lx_weight *gain, float eps, const lx_rope_table *table,
                              lx_err *err);
lx_status lx_cpu_kv_prepare(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from, lx_kv *kv,
                            lx_err *err);
lx_status lx_cpu_attention(lx_exec *x, const lx_attention_args *args, lx_err *err);
lx_status lx_cpu_silu(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err);
lx_status lx_cpu_axpby(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                       lx_err *err);
lx_status lx_cpu_widen(lx_exec *x, const lx_weight *weight, int64_t n, float *out, lx_err *err);
lx_status lx_cpu_patchify(lx_exec *x, const lx_patch_dims *dims, const float *latent, float *rows,
                          lx_err *err);
lx_status lx_cpu_unpatchify(lx_exec *x, const lx_patch_dims *dims, const float *rows, float *latent,
                            lx_err *err);
lx_status lx_cpu_find_nonfinite(lx_exec *x, const float *in, int64_t n, int64_t *first,
                                lx_err *err);

/* copy.c: host to host */
lx_status lx_cpu_copy(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err);
lx_status lx_cpu_zero(lx_exec *x, void *dst, size_t bytes, lx_err *err);
lx_status lx_cpu_mat_widen(lx_exec *x, const lx_mat *in, float *out, lx_err *err);
lx_status lx_cpu_nothing(lx_exec *x, lx_err *err);

#endif
