/*
 * tune.h - lx2v-tune: what is measured, and what is chosen of it
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Runs each linear of a DiT with INT8 weights as the stage would (lx_linear), once for
 *           each design and band of the card, by forcing a table of one entry.
 * Promise   Designs take turns, so that a card that grows warm is no one's disadvantage; what
 *           counts is the median. The built-in choice stays where nothing is clearly faster.
 * Tests     tests/kernels/test_tune.c, tests/gpu/test_cuda_tune.c
 */
#ifndef TUNE_H
#define TUNE_H

#include "lx_linear.h"
#include "lx_tune.h"

#define TUNE_WAYS        48   /* designs and bands of one linear */
#define TUNE_REPEATS     15   /* at most */
#define TUNE_ROWS        16   /* row counts, at most */
#define TUNE_LINEARS     4    /* of a DiT's block */
#define TUNE_GAIN_LEAST  0.02 /* share of its time that another design must save */
#define TUNE_DIT_WIDTH   5120 /* of the 14B */
#define TUNE_DIT_HIDDEN  13824
#define TUNE_HEAD_COLS   128
#define TUNE_CHUNK_LEAST 512 /* as stages/dit/dit_engine.c has chunks */
#define TUNE_CHUNK       4096

typedef struct tune_linear {
    int64_t n, k;
    lx_tune_end end;
} tune_linear;

typedef struct tune_options {
    const char *device, *weights;
    int64_t width, hidden; /* of the DiT; 0: as the weights, or the 14B, are */
    int64_t rows[TUNE_ROWS];
    int n_rows; /* 0: the chunks that a plan has */
    int repeats;
    bool is_dry, is_quiet; /* is_dry: measure, write nothing */
} tune_options;

/* One way to compute a linear, and how long it took. */
typedef struct tune_way {
    int design; /* LX_TUNE_BUILT_IN first */
    int64_t band;
    int n; /* times */
    double ms[TUNE_REPEATS], median;
} tune_way;

/* --- tune_choose.c: no card ------------------------------------------------------------------- */

/** The linears of a DiT's block. */
void tune_linears(int64_t width, int64_t hidden, tune_linear out[TUNE_LINEARS]);
/** Chunks that a plan for this card may have, smallest first. Returns how many. */
int tune_chunks(const lx_card_kind *card, int64_t width, int64_t out[TUNE_ROWS]);
/** Is that linear in the table? A block may have one twice, and a user may name rows twice. */
bool tune_has(const lx_tune_table *table, const tune_linear *linear, int64_t rows);
/** Every way that the card has. Returns how many; the first is the built-in choice. */
int tune_ways(const lx_card_kind *card, const tune_linear *linear, int64_t rows,
              tune_way out[TUNE_WAYS]);
/** Fills in the medians; returns the way that is to be used. */
int tune_choose(tune_way *ways, int n);

/* --- tune_measure.c --------------------------------------------------------------------------- */

/** Measure all linears on an open card, print a line for each way, and fill the table. */
lx_status tune_measure(lx_cuda *cuda, const tune_options *options, lx_tune_table *out, lx_err *err);

#endif
