/*
 * cli_meter.h - memory and energy of a pipeline while it works
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Peaks per process (resident and proportional set size from /proc, device memory from
 *           NVML) and per card, and the energy between two marks. The cards are watched by
 *           lx2v-probe --watch, a process of its own.
 * Promise   What cannot be measured is 0: no NVML, no smaps_rollup, a process of another user.
 *           Measuring takes at most a twentieth of one core.
 * Tests     tests/pipeline/test_bench.c, tests/unit/test_watch.c
 */
#ifndef CLI_METER_H
#define CLI_METER_H

#include <jansson.h>

#include "cli_process.h"
#include "lx_device.h"

#define CLI_METER_MAX  128 /* processes, restarted ones included */
#define CLI_METER_LAPS 64  /* whose peaks are kept; the last one takes all that follow */

typedef struct cli_metered {
    int32_t stage, replica; /* -1: the launcher */
    int64_t pid;
    uint64_t peak_rss;  /* VmHWM: of its whole life */
    uint64_t peak_pss;  /* shared pages divided among those who share them; as sampled */
    uint64_t peak_vram; /* NVML, CUDA context included; as sampled */
    uint64_t pss;       /* last sample */
} cli_metered;

typedef struct cli_metered_card {
    int index; /* place in the cards that were given */
    uint64_t first_bytes, peak_bytes;
    uint64_t lap_bytes[CLI_METER_LAPS];
    double joules; /* between the marks; 0: not told */
} cli_metered_card;

typedef struct cli_meter {
    int n;
    cli_metered process[CLI_METER_MAX];
    uint64_t peak_pss; /* of all together, at one time */
    uint64_t n_samples;
    int n_laps; /* that have ended */
    uint64_t lap_pss[CLI_METER_LAPS];
    int n_cards;
    cli_metered_card card[LX_CARDS_MAX];
    double joules_s;   /* seconds between the marks; 0: no energy is told */
    char trouble[256]; /* why cards are not told, or "" */
    /* its own */
    cli_process watch;
    double due_s, pss_due_s;
} cli_meter;

/** Begin. cards: what lx_device_probe found; may have none. */
void cli_meter_open(cli_meter *m, const lx_cards *cards);
/** Also look at this process from now on; known ones are ignored. */
void cli_meter_add(cli_meter *m, int32_t stage, int32_t replica, int64_t pid);
/** Look, if it is time to. */
void cli_meter_tick(cli_meter *m);
/** Energy is told from the first mark to the last. */
void cli_meter_mark(cli_meter *m);
/** A lap ends here, such as a clip: peaks are kept lap by lap, to show whether memory grows. */
void cli_meter_lap(cli_meter *m);
/** A last look, and what the probe saw. */
void cli_meter_close(cli_meter *m);

/** Peaks of a replica, whichever of its processes had them. */
cli_metered cli_meter_of(const cli_meter *m, int32_t stage, int32_t replica);

/** The parent of a process, 0 if unknown. */
int64_t cli_meter_parent(int64_t pid);

#endif
