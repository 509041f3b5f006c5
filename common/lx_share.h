/*
 * lx_share.h - lend a tensor to another process
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The only way tensor bytes cross a process wall. A desk owns a few slots of POSIX shared
 *           memory, made and filled with real pages at start; messages carry a ticket to a slot.
 * Promise   A published tensor is immutable until it is retired. A borrower gets all of it or an
 *           error, also when the lender is killed or its name removed in between. A /dev/shm that
 *           is too small is an error with figures at start, never SIGBUS.
 * Not here  Who may borrow, and when to retire: the launcher (deploy/launcher).
 * Threads   Calls on one desk must not overlap; borrowing is independent of any desk.
 * Tests     tests/unit/test_share.c
 */
#ifndef LX_SHARE_H
#define LX_SHARE_H

#include "lx_msg.h"

typedef struct lx_share lx_share;

/** instance: 32 hex digits of this start of the launcher; epoch: of this process. */
lx_status lx_share_open(lx_share **out, const char *instance, uint64_t epoch, int n_slots,
                        uint64_t slot_bytes, lx_err *err);
void lx_share_close(lx_share **desk); /* also unlinks its names */

/** A free slot to fill, shaped as asked. LX_EAGAIN: all slots are lent out; LX_EJOB: too large. */
lx_status lx_share_begin(lx_share *desk, lx_dtype dtype, const lx_shape *shape, lx_tensor *out,
                         lx_err *err);
/** Publish the tensor of the last begin (or give it back with ticket NULL). */
lx_status lx_share_publish(lx_share *desk, lx_ticket *ticket, lx_err *err);
/** The slot of this serial is free again; an unknown serial is ignored. */
void lx_share_retire(lx_share *desk, uint64_t serial);
int lx_share_free_slots(const lx_share *desk);

/**
 * Borrow: open, check, copy out, close. Reads with pread, so that a truncated or removed region is
 * an error and never a signal.
 *
 * @param ticket    from the launcher only
 * @param instance  the ticket's name must belong to it
 * @param dst       at least ticket->bytes
 *
 * @retval LX_EJOB    forged, stale or retired ticket: says which check failed
 * @retval LX_EAGAIN  out of descriptors
 */
lx_status lx_share_borrow(const lx_ticket *ticket, const char *instance, void *dst,
                          uint64_t dst_bytes, lx_err *err);

/** Unlink names of `instance` (epoch 0: of all its epochs). Returns how many went. */
int lx_share_sweep(const char *instance, uint64_t epoch);

#endif
