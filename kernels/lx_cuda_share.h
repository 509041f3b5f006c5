/*
 * lx_cuda_share.h - lending and borrowing by an open card
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The lx_share_device of a real card: slots that other processes find by CUDA IPC, memory
 *           of other processes opened, copied from and closed, slots in host memory pinned.
 * Promise   Another's memory is open for one copy and no longer (50 ms are meant; 0.3 to 5 ms
 *           measured), so a slow borrower holds nobody's memory. What a handle opens is checked
 *           against the driver's range before it is read. A lender that dies while its memory is
 *           open hurts nobody: the driver keeps it until it is closed.
 * Memory    One allocation for a desk's slots, in steps of 2 MiB so that nothing else lies in it: a
 *           handle opens whole allocations. 256 KiB for tests of links, 1 MiB of pinned staging.
 * Threads   The thread that owns the card.
 * Tests     tests/gpu/test_cuda_share.c
 */
#ifndef LX_CUDA_SHARE_H
#define LX_CUDA_SHARE_H

#include "lx_cuda.h"
#include "lx_share_device.h"

typedef struct lx_cuda_share lx_cuda_share;

/** cuda: borrowed until close. LX_EAGAIN: no memory for staging or tests. */
lx_status lx_cuda_share_open(lx_cuda_share **out, lx_cuda *cuda, lx_err *err);
void lx_cuda_share_close(lx_cuda_share **share);
/** For lx_share_open_on and lx_share_borrow_on; borrowed until lx_cuda_share_close. */
const lx_share_device *lx_cuda_share_device(const lx_cuda_share *share);

/** Device memory of all that, with the slots of a desk and its slot for tests; n_slots 0: lends
 *  nothing on the card. For memory plans. */
uint64_t lx_cuda_share_bytes(int n_slots, uint64_t slot_bytes);

/** The first half of publishing: fill the slot behind the work queued so far and mark its event,
 *  without waiting. A borrower that opens the slot now gets the finished bytes. */
lx_status lx_cuda_share_queue(lx_cuda_share *share, int slot, const void *src, uint64_t bytes,
                              lx_err *err);

#endif
