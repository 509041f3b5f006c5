/*
 * lx_each.h - the same work on many items, on several threads
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      For tools that write files. Kernels have their own threads, stages their own loops.
 * Tests     tests/unit/test_writer.c
 */
#ifndef LX_EACH_H
#define LX_EACH_H

#include <stddef.h>

#include "lx_status.h"

/* Item i of n; self is shared by all threads. */
typedef lx_status (*lx_each_fn)(void *self, size_t i, lx_err *err);

/** Call fn once for each of n items, in rising order of their beginnings, on up to `threads`
 *  threads (at most 64), this one included. After a failure no item is begun; its error is returned
 *  when all have ended. */
lx_status lx_each(size_t n, int threads, lx_each_fn fn, void *self, lx_err *err);

#endif
