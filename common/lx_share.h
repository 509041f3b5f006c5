/*
 * lx_share.h - lend a tensor to another process
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The only way tensor bytes cross a process wall. A desk owns a few slots of POSIX shared
 *           memory, made and filled with real pages at start; messages carry a ticket to a slot. On
 *           a card each slot may have a twin in the card's memory: the slot's header says how to
 *           find it. The bytes are always in the slot too, so there is a way that always works.
 * Promise   A published tensor is immutable until it is retired. A borrower gets all of it or an
 *           error, also when the lender is killed or its name removed in between. A /dev/shm that
 *           is too small is an error with figures at start, never SIGBUS.
 * Not here  Who may borrow, and when to retire: the launcher (deploy/launcher).
 * Threads   Calls on one desk must not overlap; borrowing is independent of any desk.
 * Tests     tests/unit/test_share.c, tests/unit/test_share_device.c, tests/gpu/test_cuda_share.c
 */
#ifndef LX_SHARE_H
#define LX_SHARE_H

#include "lx_msg.h"
#include "lx_share_device.h"

typedef struct lx_share lx_share;

typedef struct lx_share_options {
    const char *instance; /* 32 hex digits of this start of the launcher */
    uint64_t epoch;       /* of this process */
    int n_slots;
    uint64_t slot_bytes;
    const lx_share_device *device; /* borrowed until close; slots are pinned for it. NULL: none */
    bool is_exported;              /* slots have twins on the card */
    bool has_test_slot;            /* one more, for lx_share_lend_test */
} lx_share_options;

lx_status lx_share_open_on(lx_share **out, const lx_share_options *options, lx_err *err);
/** The same in host memory alone. */
lx_status lx_share_open(lx_share **out, const char *instance, uint64_t epoch, int n_slots,
                        uint64_t slot_bytes, lx_err *err);
void lx_share_close(lx_share **desk); /* also unlinks its names */
bool lx_share_is_exported(const lx_share *desk);

/** A free slot to fill, shaped as asked. LX_EAGAIN: all slots are lent out; LX_EJOB: too large. */
lx_status lx_share_begin(lx_share *desk, lx_dtype dtype, const lx_shape *shape, lx_tensor *out,
                         lx_err *err);
/** Publish the tensor of the last begin (or give it back with ticket NULL). */
lx_status lx_share_publish(lx_share *desk, lx_ticket *ticket, lx_err *err);
/** The same with the bytes in the card's memory: nothing has been written into the slot. The desk
 *  has a device. A failure gives the slot back. */
lx_status lx_share_publish_from(lx_share *desk, const void *src_device, lx_ticket *ticket,
                                lx_err *err);
/** Lend LX_SHARE_TEST_BYTES made from a seed, the way that a tensor goes. LX_EAGAIN: the last one
 *  is not retired. */
lx_status lx_share_lend_test(lx_share *desk, uint64_t seed, lx_ticket *ticket, lx_err *err);
/** The slot of this serial is free again; an unknown serial is ignored. */
void lx_share_retire(lx_share *desk, uint64_t serial);
int lx_share_free_slots(const lx_share *desk);

/* --- borrowing ------------------------------------------------------------------------------- */

/** Can this ticket have been made by that process? (Name and epoch; a launcher's check.) */
bool lx_share_ticket_is_of(const lx_ticket *ticket, const char *instance, uint64_t epoch);

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

/**
 * The same into a card's memory, by one transport: IPC and PEER open the twin, which is the same to
 * them; RING copies from the slot.
 *
 * @retval LX_EJOB    also: the lender has no twin, or the card will not open it
 * @retval LX_ESTAGE  the card is lost
 */
lx_status lx_share_borrow_on(const lx_ticket *ticket, const char *instance,
                             const lx_share_device *device, lx_transport by, void *dst,
                             uint64_t dst_bytes, lx_err *err);

typedef struct lx_link_result {
    lx_transport transport; /* NONE: no transport that is allowed works */
    double ms;              /* from opening to the copy's end */
    char why[256];          /* why it is not the one that was hoped for, or "" */
} lx_link_result;

/** Borrow a test tensor by every transport that is allowed and possible, and compare bytes. device
 *  NULL: host memory. LX_ESTAGE: the card is lost. Everything else is a result. */
lx_status lx_share_test(const lx_ticket *ticket, const char *instance,
                        const lx_share_device *device, lx_transport_wish wish, uint64_t seed,
                        lx_link_result *out, lx_err *err);

/** Unlink names of `instance` (epoch 0: of all its epochs). Returns how many went. */
int lx_share_sweep(const char *instance, uint64_t epoch);

#endif
