/*
 * cli_bench.h - what `lx2v bench` measured, and what follows from it
 * SPDX-License-Identifier: Apache-2.0
 *
 * Words     work: from the stage's start of a clip to its result, less `wait`.
 *           wait: of that time, for another stage (mux for frames, the others for a free slot).
 *           queue: from the moment the input was there to the start; for the encoder from submit,
 *           so it grows with the number of clips; none for mux, which joins the VAE.
 *           busy share: work / time of the run (first start to last end).
 *           The first clip to be done is the warm-up: it counts in the run, in clips/hour only as
 *           the start of the clock, and not in the medians.
 * Tests     tests/pipeline/test_bench.c
 */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include <jansson.h>

#include "cli_machine.h"
#include "cli_meter.h"
#include "lx_client.h"

typedef struct bench_spread { /* of n values; n 0: nothing is known */
    size_t n;
    double median, min, max;
} bench_spread;

typedef struct bench_stage {
    bench_spread work, wait, queue;
    double busy_s, busy_share; /* of all its replicas together; share of each one's time */
    int n_replicas;
} bench_stage;

typedef struct bench_replica {
    int32_t stage, replica;
    char device[64];
    int64_t pid;
    uint64_t restarts, restarts_before; /* during the run, before it */
    size_t n_clips;
    double busy_s, busy_share;
} bench_replica;

#define BENCH_REPLICAS_MAX 32 /* LX_CLIENT_STAGES x 8 */

typedef struct bench_figures {
    size_t n_clips, n_done;
    double start_s, end_s, wall_s; /* of the run: first start, last end */
    double clips_per_hour;         /* 0: fewer than two clips are done */
    double overlap;                /* sum of all work / wall_s */
    size_t warm_up;                /* index of the job; n_jobs if there is none */
    bench_stage stage[LX_CLIENT_STAGES];
    bench_spread steps;                     /* of the denoising, all together */
    bench_spread step[LX_CLIENT_STEPS_MAX]; /* the first of each clip, the second, ... */
    int n_steps;
} bench_figures;

typedef struct bench_result {
    const lx_client_job *jobs; /* borrowed, in the order of submission */
    size_t n_jobs;
    int n_replicas;
    bench_replica replica[BENCH_REPLICAS_MAX];
    bench_figures figures;
    cli_meter meter;
    cli_machine machine;
    lx_cards cards;
    bool is_own;
    double load_s; /* of our own pipeline */
    char endpoint[128];
    char note[512]; /* what disturbed it, or "" */
} bench_result;

/* --- cli_bench_figures.c --------------------------------------------------------------------- */

/** Fill in the figures and the replicas' shares from the jobs. */
void bench_calculate(bench_result *r);
/** Seconds of work of one stage on one clip; negative: it has not been done. */
double bench_work_s(const lx_client_job *job, int stage);

/* --- cli_bench_print.c ----------------------------------------------------------------------- */

/** "AMD Ryzen ..., 16 cores, 31.2 GiB; NVIDIA GeForce RTX 3060 (12.0 GiB), driver 550.54" */
void bench_hardware(const bench_result *r, char *out, size_t out_bytes);
void bench_print(const bench_result *r);
/** Who worked on which clip when: one row per replica, one column per moment. */
void bench_timeline(const bench_result *r);

/* --- cli_bench_json.c ------------------------------------------------------------------------ */

json_t *bench_json(const bench_result *r);

#endif
