/*
 * lx_ring.h - weights on their way to a card, through pinned buffers
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Brings the parts of one layer after the other from host memory and from disk to places
 *           on the card. Several threads fill the buffers, one of them asks the card. Reading goes
 *           on ahead of what was asked for, in the order of the layers, as far as there are
 *           buffers: memory and disk have buffers of their own, so that a slow disk has until its
 *           layer's turn, not only until the next one's.
 * Promise   Nothing is allocated after open. What was read from disk is copied to the card only if
 *           its file is still the one that was opened, and, the first time it comes by, if all of
 *           its values are finite: nobody has looked at them before.
 * Threads   lx_ring_fill and lx_ring_ahead from one thread; lx_ring_stop and stats from any.
 * Not here  When a layer is wanted and where its place is: lx_residency.c, the only user.
 * Tests     tests/kernels/test_residency.c
 */
#ifndef LX_RING_H
#define LX_RING_H

#include "lx_cuda.h"
#include "weights/lx_weights.h"

/* What is asked of a card; lx_cuda.h's functions, or a test's. */
typedef struct lx_card_ops {
    lx_status (*pin)(void *card, size_t bytes, void **out, lx_err *err);
    void (*unpin)(void *card, void *memory);
    lx_status (*copy_in)(void *card, void *dst, const void *src_pinned, size_t bytes, lx_err *err);
    lx_status (*mark)(void *card, int event, lx_cuda_queue queue, lx_err *err);
    lx_status (*after)(void *card, int event, lx_cuda_queue queue, lx_err *err);
    lx_status (*reached)(void *card, int event, lx_err *err);
} lx_card_ops;

/* A run of bytes that a layer needs. */
typedef struct lx_ring_part {
    const void *data; /* in host memory, or NULL: */
    lx_extent extent; /* in a file */
    uint64_t bytes;   /* > 0 */
    uint64_t at;      /* from the beginning of the layer's place */
    lx_dtype dtype;
    const char *name; /* of the tensor, for messages */
} lx_ring_part;

/* Layer i has parts[first[i]] to parts[first[i + 1] - 1]. All borrowed until close. */
typedef struct lx_ring_layers {
    const lx_ring_part *parts;
    const int64_t *first; /* [n_layers + 1] */
    int64_t n_layers;
} lx_ring_layers;

#define LX_RING_BUFFERS 16 /* and as many events */
/* With fewer bytes than this a ring pins more than it is given: 16 KiB for each buffer. */
#define LX_RING_LEAST ((uint64_t)LX_RING_BUFFERS * (16 << 10))

typedef struct lx_ring lx_ring;

/** Pin at most `bytes`, or LX_RING_LEAST where that is more; start the readers.
 *  LX_EAGAIN: no pinned memory, no thread. */
lx_status lx_ring_open(lx_ring **out, const lx_card_ops *ops, void *card,
                       const lx_ring_layers *layers, uint64_t bytes, int first_event, lx_err *err);
void lx_ring_close(lx_ring **ring);

/** From now on layers first to end - 1 are expected in this order, once or again and again. */
void lx_ring_begin(lx_ring *ring, int64_t first, int64_t end, bool repeats);

/**
 * Queue the copies of a layer to dst on the card. Another layer than the expected one works: what
 * was read ahead is lost then.
 *
 * @retval LX_ECONFIG  a file was changed, cannot be read, or has a value that is not finite
 * @retval LX_ECANCEL  lx_ring_stop
 */
lx_status lx_ring_fill(lx_ring *ring, int64_t layer, void *dst, lx_err *err);

/** Nothing is asked for: put free buffers to use. *did: there was something to do. */
lx_status lx_ring_ahead(lx_ring *ring, bool *did, lx_err *err);

/** A running lx_ring_fill ends soon. */
void lx_ring_stop(lx_ring *ring);

typedef struct lx_ring_stats {
    uint64_t memory_bytes, disk_bytes; /* read so far */
    double read_s;                     /* that copies waited for reading */
    double link_s;                     /* that reading waited for copies */
} lx_ring_stats;

void lx_ring_stats_of(lx_ring *ring, lx_ring_stats *out);

#endif
