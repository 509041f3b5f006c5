/*
 * pace.c - unit times and their limit
 * SPDX-License-Identifier: Apache-2.0
 */
#include "pace.h"

#include <stdlib.h>

#define FEWEST_UNITS 24   /* layers of UMT5-XXL; the DiTs have 30 and 40 blocks */
#define SLOW_FLOPS   20e9 /* two cores of ten years ago */
#define CARD_FACTOR  100  /* 2 TFLOP/s: a tenth of what the slowest card served here reaches */

void pace_note(pace *p, double unit_s, double work)
{
    p->unit_s[p->next] = unit_s;
    p->work[p->next] = work;
    p->next = (p->next + 1) % PACE_UNITS;
    if (p->n < PACE_UNITS)
        p->n++;
}

double pace_work(lx_stage_kind kind, const lx_job *job)
{
    int64_t t, h, w;
    lx_job_latent_dims(job, &t, &h, &w);
    if (kind == LX_STAGE_ENCODER)
        return 1;
    return (double)h * (double)w * (kind == LX_STAGE_DIT ? (double)t : 1.0);
}

double pace_predicted_s(lx_stage_kind kind, const lx_job *job, uint64_t weight_bytes,
                        uint64_t n_units, int chunk)
{
    double bytes = (double)weight_bytes, units = n_units > 0 ? (double)n_units : FEWEST_UNITS;
    double work = pace_work(kind, job);
    switch (kind) {
    case LX_STAGE_ENCODER: /* 2 flops per weight and token, 512 tokens, a byte or more per weight */
        return 2 * bytes * 512 / units / SLOW_FLOPS;
    case LX_STAGE_DIT: /* tokens are 2x2 latents; doubled: of 32,760, attention costs as much */
        return 2 * 2 * bytes * (work / 4) / units / SLOW_FLOPS;
    case LX_STAGE_VAE: /* 12 TFLOP per latent frame of 60x104 with 292 MB of f32 weights: 6.6 flops
                          per byte and latent; with weights of 2 bytes twice that, rounded up */
        return 16 * bytes * work * chunk / SLOW_FLOPS;
    case LX_STAGE_MUX:
    case LX_STAGE_COUNT:
        break;
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double pace_limit_s(const pace *p, double hang_s, pace_guess guess, double work)
{
    double sorted[PACE_UNITS];
    for (int i = 0; i < p->n; i++) {
        /* A larger clip than the ones measured: attention grows with the square of its tokens. */
        double ratio = p->work[i] > 0 && work > p->work[i] ? work / p->work[i] : 1;
        sorted[i] = p->unit_s[i] * ratio * ratio;
    }
    qsort(sorted, (size_t)p->n, sizeof *sorted, by_value);
    double expected = guess.slowest_s / (guess.is_card ? CARD_FACTOR : 1);
    if (p->n > 0 && sorted[p->n / 2] > expected)
        expected = sorted[p->n / 2];
    /* Once enough was measured here, the pessimistic guess has served its turn. */
    if (p->n == PACE_UNITS)
        expected = sorted[p->n / 2];
    if (guess.planned_s > expected)
        expected = guess.planned_s;
    return expected * PACE_FACTOR > hang_s ? expected * PACE_FACTOR : hang_s;
}
