/*
 * lx_progress.h - how long work says that it moves, and hears that it shall stop
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Model code calls lx_progress_step once per unit (DiT block, encoder layer, VAE chunk,
 *           bytes loaded). In a stage it feeds the beat; by hand it may draw a bar. It is also the
 *           only place where cancel is noticed, so a unit is the grain of cancel.
 * Threads   Called from the working thread only.
 */
#ifndef LX_PROGRESS_H
#define LX_PROGRESS_H

#include <stdint.h>

#include "lx_status.h"

typedef struct lx_progress {
    /* Returns LX_OK to go on, LX_ECANCEL to stop now (err says who asked). unit: "block", "layer",
     * "chunk", "byte", "frame", "step"; done of total units of this phase. */
    lx_status (*step)(void *self, const char *unit, uint64_t done, uint64_t total, lx_err *err);
    void *self;
} lx_progress;

/** progress may be NULL: then work is silent and cannot be cancelled. */
static inline lx_status lx_progress_step(const lx_progress *progress, const char *unit,
                                         uint64_t done, uint64_t total, lx_err *err)
{
    if (!progress || !progress->step)
        return LX_OK;
    return progress->step(progress->self, unit, done, total, err);
}

#endif
