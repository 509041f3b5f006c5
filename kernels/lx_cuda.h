/*
 * lx_cuda.h - op families on an NVIDIA card
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Opens a card for one process and makes the exec that runs on it. All CUDA code is the
 *           module liblx2v_cuda.so, loaded here at run time: nothing else of ours links CUDA, so
 *           every binary starts without a driver and can say what is missing.
 * Plan      lx_exec_plan_cuda makes a dry exec for a card that need not be in this machine: which
 *           kernels run and what they need follows from lx_card_kind alone.
 * Threads   One lx_cuda, one thread; lx_cuda_copy_* (the copy queue) may be used from one other.
 * Tests     tests/gpu
 */
#ifndef LX_CUDA_H
#define LX_CUDA_H

#include "lx_card.h"
#include "lx_exec.h"

typedef struct lx_cuda lx_cuda; /* one open card: context, queues, handles */

struct lx_plan_question;
/** The card of a plan's question. */
lx_card_kind lx_card_of_plan(const struct lx_plan_question *question);

/**
 * Load the module and open card `index` (PCI order). module: path of liblx2v_cuda.so; NULL: beside
 * this program or in ../lib.
 *
 * @retval LX_ECONFIG  no driver, no module, a driver that is too old, no such card, a card below
 *                     compute capability 8.0: what was found and what is needed
 * @retval LX_EAGAIN   the card has no memory for a context at this moment
 */
lx_status lx_cuda_open(lx_cuda **out, int index, const char *module, lx_err *err);
void lx_cuda_close(lx_cuda **cuda);
const lx_card_kind *lx_cuda_card(const lx_cuda *cuda);
/** Free and total bytes as the driver tells them now. */
lx_status lx_cuda_memory(lx_cuda *cuda, uint64_t *free_bytes, uint64_t *total_bytes, lx_err *err);

/** An arena of device memory, taken once. LX_EAGAIN with needed and free figures. */
lx_status lx_cuda_arena(lx_cuda *cuda, size_t bytes, lx_arena **out, lx_err *err);

/** The exec on an open card; n_threads is for what the host prepares. */
lx_status lx_exec_open_cuda(lx_exec *out, lx_cuda *cuda, lx_arena *arena, lx_arena *host,
                            lx_err *err);
/** A dry exec on a card of this kind. Both arenas are dry; *out keeps its own copy of the card. */
lx_status lx_exec_plan_cuda(lx_exec *out, const lx_card_kind *card, lx_arena *arena, lx_arena *host,
                            lx_err *err);
void lx_exec_plan_done(lx_exec *x); /* frees what lx_exec_plan_cuda made */

/* --- how long each kind of operation takes ---------------------------------------------------- */

/**
 * From now on the operations of this exec are timed, up to n_marks of them, by moments of the
 * compute queue. For a person who measures: it takes memory, and a little time.
 */
lx_status lx_cuda_clock_open(lx_exec *x, int n_marks, lx_err *err);
typedef struct lx_cuda_timed {
    char what[64]; /* "linear 5120 -> 13824 gelu", "attention: int8-fp8" */
    int64_t n;
    double s; /* of the queue: with gaps before each operation */
} lx_cuda_timed;
#define LX_CUDA_TIMED_MOST 48
/** Waits, and tells what has been timed since the last time, the longest first. Returns how many
 *  kinds; -1 with err where it failed. Operations after the last mark were not timed: *n_lost. */
int lx_cuda_clock_read(lx_exec *x, lx_cuda_timed out[LX_CUDA_TIMED_MOST], int64_t *n_lost,
                       lx_err *err);

/**
 * Seconds of one of n calls, by moments of the compute queue; one more goes before them untimed.
 * Not beside lx_cuda_clock_open. n >= 1.
 */
lx_status lx_cuda_time(lx_exec *x, lx_status (*call)(lx_exec *x, void *self, lx_err *err),
                       void *self, int n, double *s, lx_err *err);
/** INT8 operations per second of mma.sync alone, operands in registers: what no kernel by mma.sync
 *  passes on this card. */
lx_status lx_cuda_int8_rate(lx_exec *x, double *rate, lx_err *err);

/* --- the copy queue: weights and frames on their way while kernels run ----------------------- */

/** Pinned host memory, for the few buffers that copies start from. */
lx_status lx_cuda_pin(lx_cuda *cuda, size_t bytes, void **out, lx_err *err);
void lx_cuda_unpin(lx_cuda *cuda, void *memory);

#define LX_CUDA_EVENTS 64 /* per card; who uses which is the caller's affair */

/** Queue a copy from pinned memory to the card on the copy queue. */
lx_status lx_cuda_copy_in(lx_cuda *cuda, void *dst, const void *src_pinned, size_t bytes,
                          lx_err *err);
/** And one from the card to pinned memory. */
lx_status lx_cuda_copy_out(lx_cuda *cuda, void *dst_pinned, const void *src, size_t bytes,
                           lx_err *err);
typedef enum lx_cuda_queue { LX_CUDA_COMPUTE, LX_CUDA_COPY } lx_cuda_queue;
/** Mark the place that `queue` has reached. */
lx_status lx_cuda_mark(lx_cuda *cuda, int event, lx_cuda_queue queue, lx_err *err);
/** Work queued from now on `queue` begins after the mark; an event never marked is passed. */
lx_status lx_cuda_after(lx_cuda *cuda, int event, lx_cuda_queue queue, lx_err *err);
/** The host waits until the mark is reached. */
lx_status lx_cuda_reached(lx_cuda *cuda, int event, lx_err *err);

#endif
