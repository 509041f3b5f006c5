/*
 * pace.h - how long one unit of work may take before it counts as hung
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A unit is a DiT block, an encoder layer, a VAE chunk, a frame muxed. Its limit is the
 *           longest of: the configured floor (supervision.hang_s), 8 x what the plan predicts for
 *           this device, 8 x what recent ones took here (the median). Until that is known, 8 x what
 *           a slow machine would need stands for it.
 * Promise   A slow machine is never taken for a hung one; a hung one is found in bounded time.
 * Tests     tests/launcher/test_pace.c
 */
#ifndef PACE_H
#define PACE_H

#include "lx_job.h"

#define PACE_UNITS  15
#define PACE_FACTOR 8.0

typedef struct pace {
    double unit_s[PACE_UNITS];
    double work[PACE_UNITS]; /* pace_work of the job that the unit was of */
    int n, next;
} pace;

/** A unit of a job was done in unit_s seconds. */
void pace_note(pace *p, double unit_s, double work);

/** What a unit's time grows with: tokens of clip (DiT) or frame (VAE, mux), 1 (encoder). */
double pace_work(lx_stage_kind kind, const lx_job *job);

/**
 * Seconds one unit should take on a machine that reaches only 20 GFLOP/s.
 *
 * weight_bytes  of the stage's checkpoint as loaded, 0 if it has none
 * n_units       of one pass through the model: blocks, layers; 0 if unknown
 * chunk         latent frames per VAE chunk
 */
double pace_predicted_s(lx_stage_kind kind, const lx_job *job, uint64_t weight_bytes,
                        uint64_t n_units, int chunk);

typedef struct pace_guess {
    double planned_s; /* by the plan, for this device; 0: it predicts nothing */
    double slowest_s; /* pace_predicted_s */
    bool is_card;     /* the slowest card has a hundred times that machine's rate */
} pace_guess;

/** The limit for a unit of a job with this work. */
double pace_limit_s(const pace *p, double hang_s, pace_guess guess, double work);

#endif
