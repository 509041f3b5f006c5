/*
 * lx_residency.h - where the weights of a model's layers live, and how they come to a card in time
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A model is a sequence of layers that run in order, again and again. The weights of some
 *           stay on the card, the others pass through a ring of slots there: a thread of its own
 *           carries them from host memory or from disk through a small ring of pinned buffers
 *           (lx_ring.h) and queues their copies beside the kernels, so that a layer is there before
 *           it is needed.
 * Promise   Nothing is allocated after open, no more than ring_bytes is ever pinned, and what a
 *           kernel reads is never overwritten under it. On the CPU a layer's weights are used where
 *           they lie and nothing here costs anything.
 * Threads   One thread calls; the carrier is inside.
 * Tests     tests/kernels/test_residency.c, tests/gpu/test_cuda_residency.c
 */
#ifndef LX_RESIDENCY_H
#define LX_RESIDENCY_H

#include "lx_cuda.h"
#include "lx_progress.h"
#include "lx_ring.h"
#include "weights/lx_weights.h"

typedef struct lx_residency lx_residency;

typedef struct lx_residency_plan {
    int64_t n_resident;  /* layers that stay on the card, the first ones; all: nothing is carried */
    int n_slots;         /* slots on the card for the others: 2, or more where loading is uneven */
    uint64_t ring_bytes; /* pinned host memory for the carrier; 0: 256 MiB. With layers on disk
                            more is better: a few layers' worth is read ahead */
    int first_event;     /* the card's events first_event.. are ours: lx_residency_events */
} lx_residency_plan;

#define LX_RESIDENCY_SLOTS 4
/* Events that one residency uses: two for each slot, one for each buffer. */
#define LX_RESIDENCY_EVENTS (2 * LX_RESIDENCY_SLOTS + LX_RING_BUFFERS)

/* The layers: weight w of layer i is weights[i * n_weights + w]. Its bytes are in host memory, or,
 * where .data is NULL, in a file: extents has as many entries then (NULL: nothing is on disk). */
typedef struct lx_layers {
    const lx_weight *weights; /* borrowed until close, as the next */
    const lx_extent *extents;
    int64_t n_layers;
    int n_weights;
} lx_layers;

/**
 * Take slots and resident layers from x's arena, pin the ring, start the carrier, load what stays.
 * In a dry exec only the arena is asked, and *out may be closed like any other.
 *
 * @param progress  unit "byte" for what stays; may be NULL
 *
 * @retval LX_EJOB    the arena was planned smaller
 * @retval LX_EAGAIN  no pinned memory
 * @retval LX_ECONFIG a layer on disk without a card; a file that was changed, cannot be read, or
 *                    has a value that is not finite (enter says so, too)
 */
lx_status lx_residency_open(lx_residency **out, lx_exec *x, const lx_layers *layers,
                            const lx_residency_plan *plan, const lx_progress *progress,
                            lx_err *err);
void lx_residency_close(lx_residency **r);

/**
 * The weights of layer i, [n_weights], for kernels queued until lx_residency_leave. Layers are
 * expected in order, the first after the last; another order works, and waits.
 */
lx_status lx_residency_enter(lx_residency *r, int64_t i, const lx_weight **weights, lx_err *err);
/** All kernels that read layer i are queued: its slot may be filled again behind them. */
lx_status lx_residency_leave(lx_residency *r, int64_t i, lx_err *err);

/** Bytes of the largest layer as a slot holds it, and of all layers. */
uint64_t lx_residency_slot_bytes(const lx_layers *layers);
uint64_t lx_residency_total_bytes(const lx_layers *layers);

typedef struct lx_residency_stats {
    uint64_t memory_bytes, disk_bytes; /* carried since open */
    double read_s;                     /* that the carrier waited for reading */
    double link_s;                     /* that it waited for the link to the card */
    double waited_s;                   /* that the caller waited in enter: what streaming cost */
} lx_residency_stats;

void lx_residency_stats_of(lx_residency *r, lx_residency_stats *out);

/* The same on anything that copies as a card does: how tests/kernels runs this without one. */
typedef struct lx_residency_device {
    const lx_card_ops *ops;
    void *card;
    lx_arena *arena;
} lx_residency_device;

lx_status lx_residency_open_on(lx_residency **out, const lx_residency_device *device,
                               const lx_layers *layers, const lx_residency_plan *plan,
                               const lx_progress *progress, lx_err *err);

#endif
