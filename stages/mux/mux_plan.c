/*
 * mux_plan.c - `lx2v-mux plan`: host memory of chunk and encoder
 * SPDX-License-Identifier: Apache-2.0
 */
#include <sched.h>
#include <stdio.h>

#include "lx_plan.h"
#include "mux.h"

/* What libx264 keeps, in frames of I420, for preset medium: look-ahead and references, and some for
 * each of its threads. Measured with libavcodec 59 at 832x480 and 1280x720 with 1, 4 and 16
 * threads; slower presets keep up to half as much again. */
#define FRAMES_KEPT       160
#define FRAMES_PER_THREAD 10
#define PROCESS_BYTES     ((uint64_t)48 << 20) /* libraries, heap */

static uint64_t threads_of(const lx_config *config, int replica)
{
    cpu_set_t set;
    int n = config->stage[LX_STAGE_MUX].replica[replica].threads;
    if (n == 0)
        n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return (uint64_t)n;
}

static lx_status answer(lx_plan_need *need, const lx_plan_question *q, const lx_config *config,
                        lx_err *err)
{
    (void)err;
    uint64_t frame = (uint64_t)config->limits.width * (uint64_t)config->limits.height * 3 / 2;
    uint64_t kept = config->mux.format == LX_FORMAT_PNG
                        ? 4 /* RGB twice, and what deflate needs */
                        : FRAMES_KEPT + FRAMES_PER_THREAD * threads_of(config, q->replica);
    need->activations = mux_chunk_bytes(config) + frame * kept;
    need->host = need->activations + PROCESS_BYTES;
    need->fits = !q->ram || need->host <= q->ram;
    snprintf(need->how, sizeof need->how, "host memory");
    return LX_OK;
}

int mux_plan_main(int argc, char **argv)
{
    return lx_plan_main(LX_STAGE_MUX, answer, argc, argv);
}
