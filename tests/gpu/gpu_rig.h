/*
 * gpu_rig.h - the whole pipeline with its stages on a card, and that card's memory in the ledger
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      On top of the fault rig (faults/fault.h): a config for the card, the launcher's log,
 *           and a witness: the test program has the card open too. It sees how much is free, and
 *           is the other program that has the memory.
 */
#ifndef GPU_RIG_H
#define GPU_RIG_H

#include "gpu.h"

#include "faults/fault.h"

#define MIB    ((uint64_t)1 << 20)
#define GRAIN  (16 * MIB) /* the least that counts as a leak: half of the smallest arena here */
#define BACK_S 3.0        /* 0.5 s are stated; a slow exit is no leak */
#define PIECES 512

typedef struct witness {
    lx_cuda *cuda;
    lx_arena *held[PIECES];
    int n_held;
} witness;

/* --- the card's memory ------------------------------------------------------------------------ */

static inline uint64_t witness_free(const witness *w)
{
    uint64_t free_now = 0, total;
    gpu_ok(lx_cuda_memory(w->cuda, &free_now, &total, err));
    return free_now;
}

/* What was free before is free again. Tells both figures, and after how long. */
static inline void witness_check(const witness *w, uint64_t before, const char *what)
{
    double from_s = rig_now_s();
    uint64_t now = witness_free(w);
    while (now + GRAIN < before && rig_now_s() - from_s < BACK_S) {
        rig_sleep(0.02);
        now = witness_free(w);
    }
    printf("  %s: %.1f MiB free before, %.1f after (%+.1f) in %.2f s\n", what,
           (double)before / 0x1p20, (double)now / 0x1p20, ((double)now - (double)before) / 0x1p20,
           rig_now_s() - from_s);
    if (now + GRAIN < before)
        fail_msg("%s: %.1f MiB of device memory are missing", what,
                 (double)(before - now) / 0x1p20);
}

/* Take all but about `leave` bytes. */
static inline void witness_hold(witness *w, uint64_t leave)
{
    for (uint64_t piece = 1024 * MIB; piece >= 2 * MIB; piece /= 2)
        while (w->n_held < PIECES && witness_free(w) >= leave + piece &&
               lx_cuda_arena(w->cuda, (size_t)piece, &w->held[w->n_held], NULL) == LX_OK)
            w->n_held++;
    printf("  held in %d pieces; %.1f MiB are free\n", w->n_held, (double)witness_free(w) / 0x1p20);
}

static inline void witness_let_go(witness *w)
{
    while (w->n_held > 0)
        lx_arena_destroy(&w->held[--w->n_held]);
}

/* --- the pipeline ----------------------------------------------------------------------------- */

/* Every stage on the card; model NULL: the build's random one. more: further lines. */
static inline void gpu_rig_make(rig *r, const char *model, int frames, const char *more)
{
    rig_make(r, NULL);
    FILE *file = fopen(r->config, "w");
    assert_non_null(file);
    fprintf(file, "model: %s\noutput: {dir: out}\nstate: {dir: state}\n",
            model ? model : LX2V_BUILD_DIR "/models/random");
    fprintf(file, "defaults: {size: 128x64, frames: %d}\nmux: {preset: ultrafast}\n", frames);
    fprintf(file, "encoder: {cache_entries: 0}\nstages:\n");
    for (int stage = ENCODER; stage <= VAE; stage++)
        fprintf(file, "  %s: {device: %s}\n", lx_client_stage_name(stage), gpu_device());
    fputs(more ? more : "", file);
    fclose(file);
}

/* Further launches with the same folder; the client with it. */
static inline void gpu_rig_launch(rig *r, int slow_ms)
{
    lx_client_close(&r->client);
    double from_s = rig_now_s();
    rig_launch(r, slow_ms);
    fault_open(r);
    printf("  ready after %.1f s\n", rig_now_s() - from_s);
}

static inline void gpu_rig_end(rig *r)
{
    rig_stop(r, SIGTERM);
    rig_remove(r);
}

static inline void gpu_rig_wait_state(rig *r, int stage, const char *word, double seconds)
{
    for (double until = rig_now_s() + seconds; rig_now_s() < until; rig_sleep(0.02))
        if (!strcmp(rig_stage(r, stage).state, word))
            return;
    fail_msg("%s is %s after %.0f s, not %s", lx_client_stage_name(stage),
             rig_stage(r, stage).state, seconds, word);
}

/* Lines of the log with these words; the first of them in line (may be NULL). */
static inline int gpu_rig_log(const rig *r, const char *words, char line[2048])
{
    char text[2048];
    int n = 0;
    FILE *file = fopen(r->log, "r");
    while (file && fgets(text, sizeof text, file)) {
        if (!strstr(text, words))
            continue;
        if (n++ == 0 && line)
            memcpy(line, text, sizeof text);
    }
    if (file)
        fclose(file);
    return n;
}

static inline void gpu_rig_expect_log(const rig *r, const char *words)
{
    char line[2048];
    if (!gpu_rig_log(r, words, line))
        fail_msg("the log does not say \"%s\"", words);
    printf("  | %s", line);
}

static inline void gpu_rig_expect(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("\"%s\" does not say \"%s\"", text, words);
}

#endif
