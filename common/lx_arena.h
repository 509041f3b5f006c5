/*
 * lx_arena.h - memory with one owner, taken once
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      All tensors of a stage live in one block, reserved and touched at start. A job takes
 *           memory by moving a mark and gives it back by moving it again, so there is no allocation
 *           on the job path.
 * Promise   A dry arena has no memory behind it: it hands out addresses that must not be touched
 *           and remembers the highest mark. Running a model dry for the largest clip *is* the
 *           memory plan.
 * Threads   One thread at a time.
 * Tests     tests/unit/test_arena.c
 */
#ifndef LX_ARENA_H
#define LX_ARENA_H

#include "lx_tensor.h"

typedef struct lx_arena lx_arena;

/** Reserve and touch `bytes`. LX_EAGAIN with needed and available figures if they are not there. */
lx_status lx_arena_create(lx_arena **out, size_t bytes, lx_err *err);
/** The same over memory that exists, a card's for example; `release` (may be NULL) gets it when the
 *  arena is destroyed. memory is moved on success. */
lx_status lx_arena_create_on(lx_arena **out, void *memory, size_t bytes,
                             void (*release)(void *self, void *memory), void *self, lx_err *err);
lx_status lx_arena_create_dry(lx_arena **out, lx_err *err);
void lx_arena_destroy(lx_arena **arena);

#define LX_ARENA_ALIGN 256 /* bytes; what is taken is rounded up to it */

/** Take `bytes`, so aligned (a card's widest accesses), uninitialised. LX_EJOB with figures
 *  when it is too small. */
lx_status lx_arena_take(lx_arena *arena, size_t bytes, void **out, lx_err *err);

/** Take n floats, the commonest need; n is checked. */
lx_status lx_arena_take_f32(lx_arena *arena, uint64_t n, float **out, lx_err *err);

size_t lx_arena_mark(const lx_arena *arena);
void lx_arena_reset(lx_arena *arena, size_t mark); /* gives back everything taken since the mark */
size_t lx_arena_peak(const lx_arena *arena);       /* highest mark so far, bytes */
size_t lx_arena_bytes(const lx_arena *arena);      /* 0 for a dry arena */
bool lx_arena_is_dry(const lx_arena *arena);

#endif
