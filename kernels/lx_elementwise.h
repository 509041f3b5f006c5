/*
 * lx_elementwise.h - the few vector operations around the op families
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What models need besides linears, norms and attention: SiLU of the time vector, the
 *           sampler's update, rows of an embedding table.
 * Numbers   f32; SiLU within 4 ulp of x / (1 + e^-x); axpby rounds each product and the sum; a
 *           gathered row is widened exactly.
 * Tests     tests/kernels/test_elementwise.c
 */
#ifndef LX_ELEMENTWISE_H
#define LX_ELEMENTWISE_H

#include "lx_exec.h"
#include "weights/lx_weights.h"

/** out[i] = in[i] / (1 + exp(-in[i])), i < n. in and out may be the same. */
lx_status lx_silu(lx_exec *x, const float *in, int64_t n, float *out, lx_err *err);

/** out[i] = a * in[i] + b * out[i], i < n: the sampler's step (Euler: b = 1). */
lx_status lx_axpby(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                   lx_err *err);

/** out [n] f32 <- a weight's n elements, of any float dtype; all in device memory. */
lx_status lx_widen(lx_exec *x, const lx_weight *weight, float *out, lx_err *err);

/**
 * out [n, cols] f32, in device memory <- rows ids[0..n) of weight [rows, cols], of any float dtype,
 * no scale. weight and ids are in host memory: an embedding table never goes to a card.
 * @retval LX_EJOB  an id is not in [0, rows): the message has place, id and rows
 */
lx_status lx_gather_rows(lx_exec *x, const lx_weight *weight, const int32_t *ids, int64_t n,
                         float *out, lx_err *err);

/* The definitions; ids must be valid. */
void lx_silu_ref(const float *in, int64_t n, float *out);
void lx_axpby_ref(float a, const float *in, float b, int64_t n, float *out);
void lx_gather_rows_ref(const lx_weight *weight, const int32_t *ids, int64_t n, float *out);

#endif
