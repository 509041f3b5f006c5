/*
 * shared.h - one copy of a checkpoint for all processes that were given its descriptor
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Memory in a memfd that the launcher made and every replica inherits: whoever needs a
 *           tensor that is not there yet fills it in, one process at a time; all others map it.
 * Promise   What is found is used only if it was made from the same files with the same layout. A
 *           process that dies while filling leaves nothing that counts as filled. Once something is
 *           in use the file cannot shrink, so no reader meets SIGBUS.
 * Locks     fcntl's, of processes: byte 0 is held while filling, byte 1 is shared by users. They
 *           end with their process. One lx_shared per process and descriptor.
 * Tests     tests/unit/test_weights_shared.c
 *
 *   [ header, one page | payload: u64 states[n], tensors ... ]
 */
#ifndef LX_SHARED_H
#define LX_SHARED_H

#include <stdbool.h>
#include <stdint.h>

#include "lx_progress.h"

typedef struct lx_shared {
    int fd;              /* borrowed; 0: none */
    unsigned char *map;  /* owned mapping of the whole file */
    unsigned char *data; /* the payload in it */
    uint64_t bytes;      /* of the file */
    bool is_filling;     /* byte 0 is ours */
    double waited_s;     /* for others to fill */
} lx_shared;

/**
 * Wait until nobody fills, then map the payload for writing and stay the only one who may: next
 * come lx_shared_done or lx_shared_close. While waiting, progress (unit "byte") tells how far the
 * other is, so that cancel is heard and the wait is no hang.
 *
 * @param identity  64 hex digits: lx_layout_identity
 *
 * On LX_OK *out has data NULL if the memory is in use with another identity: use your own.
 *
 * @retval LX_ECONFIG  the descriptor is no memory file
 * @retval LX_ECANCEL  progress said so
 */
lx_status lx_shared_open(lx_shared *out, int fd, const char identity[65], uint64_t bytes,
                         const lx_progress *progress, lx_err *err);

/** Have pages for [at, at + n) of the payload. LX_EAGAIN if there are none. */
lx_status lx_shared_reserve(lx_shared *shared, uint64_t at, uint64_t n, lx_err *err);
/** For those who wait. */
void lx_shared_note(lx_shared *shared, uint64_t done, uint64_t total);

/** All that was wanted is there: become a user, let others in; the mapping is read-only now. */
lx_status lx_shared_done(lx_shared *shared, lx_err *err);
/** Leave without using it; memory that nobody uses is given back. */
void lx_shared_close(lx_shared *shared);

/** Bytes of memory that a descriptor's file has by now; 0 if it is none. */
uint64_t lx_shared_bytes(int fd);

#endif
