/*
 * gpu_check.h - what the tests of the op families on a card share beyond gpu.h
 * SPDX-License-Identifier: Apache-2.0
 *
 * Pass rule  Relative L2 against the f64 definition on the same rounded inputs: at most twice what
 *            rounding the wanted result to the output's format makes, plus twice the error of the
 *            formula done plainly in f32, plus what the card's sums are documented to lose
 *            (GPU_SUM_*), plus a few ulp of f32 for exponentials and divisions.
 */
#ifndef LX_TESTS_GPU_CHECK_H
#define LX_TESTS_GPU_CHECK_H

#include "gpu.h"
#include "kernels/check.h"

/* Tensor cores add 16 products at a time and cut the sum instead of rounding it: one ulp of f32
 * each time at the worst, all in one direction. */
#define GPU_SUM_F32(k) (0x1p-23 * ((double)(k) / 16 + 16))
/* Hopper's FP8 sums keep 14 bits for up to 128 products, then f32. */
#define GPU_SUM_FP8 1e-3
/* Our own kernels keep 14 bits for all of them: twice what fp8_wgmma.cu says of mixed signs. */
#define GPU_SUM_FP8_OWN(k) (5e-5 * sqrt((double)(k)) + GPU_SUM_F32(k))

static inline void gpu_report_allowed(const char *what, const float *got, const float *want,
                                      const float *plain, int64_t n, int64_t cols, lx_dtype dtype,
                                      double sums)
{
    double allowed = 2 * gpu_rounding(dtype, want, n) + sums + 3e-7;
    if (plain)
        allowed += 2 * gpu_compare(plain, want, n).rel_l2;
    gpu_pass(what, got, want, n, cols, allowed);
}

/* An exec that plans for the same card; gpu_plan_close gives it back. */
static inline lx_exec gpu_plan_open(const gpu *g)
{
    lx_exec dry = {0};
    lx_arena *arena = NULL, *host = NULL;
    gpu_ok(lx_arena_create_dry(&arena, err));
    gpu_ok(lx_arena_create_dry(&host, err));
    gpu_ok(lx_exec_plan_cuda(&dry, lx_cuda_card(g->cuda), arena, host, err));
    assert_true(dry.is_dry);
    return dry;
}

static inline void gpu_plan_close(lx_exec *dry)
{
    lx_exec_plan_done(dry);
    lx_arena_destroy(&dry->arena);
    lx_arena_destroy(&dry->host);
}

#endif
