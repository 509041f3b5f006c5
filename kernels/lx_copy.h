/*
 * lx_copy.h - between host and device memory, and inside the device
 * SPDX-License-Identifier: Apache-2.0
 *
 * Order     Copies take their place in the exec's queue. lx_upload is done with `src` when it
 *           returns; lx_download waits until the bytes are there, and so for all work before.
 * Dry       Nothing happens.
 * Tests     tests/kernels/test_copy.c
 */
#ifndef LX_COPY_H
#define LX_COPY_H

#include "lx_exec.h"
#include "weights/lx_weights.h"

lx_status lx_upload(lx_exec *x, void *dst_device, const void *src_host, size_t bytes, lx_err *err);
lx_status lx_download(lx_exec *x, void *dst_host, const void *src_device, size_t bytes,
                      lx_err *err);
/** Inside the device; must not overlap. */
lx_status lx_copy(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err);
lx_status lx_zero(lx_exec *x, void *dst, size_t bytes, lx_err *err);

/** Rows of any float type as dense f32 on the host; scratch comes from both arenas. */
lx_status lx_mat_download(lx_exec *x, const lx_mat *in, float *out, lx_err *err);

/**
 * A weight that stays for as long as the arena's mark: on the CPU it is `in` itself, on a card its
 * bytes and scale are copied into the arena.
 */
lx_status lx_weight_place(lx_exec *x, const lx_weight *in, lx_weight *out, lx_err *err);

/** Everything queued so far has run. Reports what went wrong in it. */
lx_status lx_exec_wait(lx_exec *x, lx_err *err);

/**
 * Called once per unit of work (block, layer, chunk): returns when the unit before the last call
 * has run, so that the host is never more than two units ahead and progress and cancel are true.
 */
lx_status lx_exec_pace(lx_exec *x, lx_err *err);

#endif
