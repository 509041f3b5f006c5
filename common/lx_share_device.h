/*
 * lx_share_device.h - what lending and borrowing ask of a card
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A table of functions, so that lx_share.h can lend memory of a card while nothing in
 *           common/ knows CUDA. kernels/lx_cuda_share.h makes one; tests make one of plain memory.
 * Hostile   An lx_share_export that a borrower reads came from another process: pull checks it
 *           against the driver before a byte is copied.
 * Errors    LX_EJOB: this way does not work here and the card is well, so another may be tried;
 *           LX_ESTAGE: the card is lost for this process.
 * Threads   All calls come from the thread that owns the card.
 */
#ifndef LX_SHARE_DEVICE_H
#define LX_SHARE_DEVICE_H

#include <stdint.h>

#include "lx_status.h"

/* How a tensor went from one process to another; later ones are better. */
typedef enum lx_transport {
    LX_TRANSPORT_NONE,
    LX_TRANSPORT_SHM,  /* host memory to host memory */
    LX_TRANSPORT_RING, /* through pinned host memory: to, from or between cards */
    LX_TRANSPORT_PEER, /* card to card */
    LX_TRANSPORT_IPC,  /* inside one card */
    LX_TRANSPORT_COUNT
} lx_transport;

/* What config.yaml wants of a link. */
typedef enum lx_transport_wish {
    LX_WISH_AUTO, /* the best that passes its test */
    LX_WISH_IPC,  /* this or nothing, likewise the next; on links between two cards' stages */
    LX_WISH_PEER,
    LX_WISH_RING, /* host memory */
    LX_WISH_SAME, /* of one link: as for all */
} lx_transport_wish;

const char *lx_transport_name(lx_transport transport); /* "none", "shm", "ring", "peer", "ipc" */
const char *lx_transport_text(lx_transport transport); /* for people: "cuda ipc" */

/* A slot in a card's memory, as another process finds it. Handle bytes are never logged. */
typedef struct lx_share_export {
    unsigned char memory[64], event[64]; /* CUDA IPC handles */
    unsigned char card[16];              /* the card's UUID */
    uint64_t offset, bytes;              /* of the slot in that memory */
} lx_share_export;

typedef struct lx_share_device {
    void *self;
    void *scratch; /* LX_SHARE_TEST_BYTES of the card, for tests of a link */
    void *staging; /* pinned host memory: what comes by ring passes through here */
    uint64_t staging_bytes;

    /* --- lender --- */
    /** Take n slots of the card's memory, once; out[i] says how slot i is found. */
    lx_status (*open)(void *self, int n, const uint64_t *slot_bytes, lx_share_export *out,
                      lx_err *err);
    void (*close)(void *self);
    /** Pin host memory that exists, so that the card copies to it at full speed. */
    lx_status (*pin)(void *self, void *memory, uint64_t bytes, lx_err *err);
    void (*unpin)(void *self, void *memory);
    /** Fill slot and host from src, after the work queued so far, and mark the slot's event; src
     *  NULL: the bytes are in `host` already. Returns when all is there. */
    lx_status (*push)(void *self, int slot, const void *src, void *host, uint64_t bytes,
                      lx_err *err);

    /* --- borrower --- */
    /** What the driver claims for memory of this card: IPC, PEER or NONE. */
    lx_transport (*reach)(void *self, const unsigned char card[16]);
    /** Wait for the lender's event, open, check the range, copy to dst, close. *held_s: how long it
     *  was open. */
    lx_status (*pull)(void *self, const lx_share_export *from, void *dst, uint64_t bytes,
                      double *held_s, lx_err *err);
    /** Between host and card; both wait until the bytes are there. */
    lx_status (*upload)(void *self, void *dst, const void *src_host, uint64_t bytes, lx_err *err);
    lx_status (*download)(void *self, void *dst_host, const void *src, uint64_t bytes, lx_err *err);
} lx_share_device;

#define LX_SHARE_TEST_BYTES ((uint64_t)256 << 10) /* of the tensor that tests a link */

#endif
