/*
 * plan.h - who may take how much of which memory, before anything loads
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Asks every replica's own binary (`lx2v-STAGE plan`) what it needs, adds up per card and
 *           for the host, and shares out: every process first gets what it needs at least, the
 *           VAE then up to its usual size, and the DiT what is left, for blocks that stay on the
 *           card. Where the host is short, blocks of the DiT stay on disk.
 * Promise   What does not fit is known here, with the numbers of every process and with advice in
 *           this order: less that is forced onto the card, sharing in turn, encoder off the card,
 *           fewer frames, a smaller size; each is planned itself before it is given.
 * Policy    overlap: all processes of a card hold their memory at once. alternate: contexts stay,
 *           arenas go back and forth, so the card holds the largest of them. auto: overlap if it
 *           fits.
 * Not here  Rates of cards: rig.h. What a model needs: each stage.
 * Tests     tests/launcher/test_plan.c
 */
#ifndef PLAN_H
#define PLAN_H

#include <stdio.h>

#include "lx_plan.h"
#include "rig.h"

#define PLAN_PROCESSES (LX_STAGE_COUNT * LX_LIMIT_REPLICAS)
#define PLAN_ADVICE    7

typedef struct plan_process {
    lx_stage_kind kind;
    int replica;
    int card; /* place in the rig, or LX_DEVICE_CPU */
    lx_plan_need need;
    uint64_t vram, ram; /* what it is told that it may take; 0: it is told nothing */
    /* Of a DiT on a card: seconds of one step as peaks and rates predict them; they overlap, so the
     * step takes the longest. 0: not predicted. */
    double compute_s, stream_s, disk_s;
} plan_process;

typedef struct plan_card {
    int n; /* processes on it */
    bool fits;
    lx_memory_policy policy; /* overlap or alternate */
    uint64_t budget;
    uint64_t total; /* at most at any time, as planned */
} plan_card;

typedef struct plan_host {
    bool fits;
    uint64_t budget;
    uint64_t weights; /* one copy of each checkpoint for all replicas */
    uint64_t pinned, shared;
    uint64_t own;     /* of the processes: activations, caches, frames */
    uint64_t runtime; /* libraries and driver, an estimate */
    uint64_t total;
} plan_host;

typedef struct plan_advice {
    char what[160]; /* "stages.encoder.device: cpu" */
    char then[96];  /* "cuda:0 would hold 6.10 GiB of 6.83" */
    bool fits;
} plan_advice;

typedef struct plan {
    const rig *rig;          /* borrowed */
    const lx_config *config; /* likewise */
    int32_t width, height, frames;
    bool fits;
    int n;
    plan_process process[PLAN_PROCESSES]; /* in the order encoder, dit, vae, mux */
    plan_card card[LX_CARDS_MAX];
    plan_host host;
    int n_advice;
    plan_advice advice[PLAN_ADVICE];
} plan;

typedef struct plan_request {
    const lx_config *config; /* borrowed for the plan's life, as the rig */
    const rig *rig;
    const char *binary_dir; /* where lx2v-STAGE lies */
} plan_request;

/**
 * @param out  owned: plan_destroy. Also made where it does not fit: see fits and advice.
 *
 * @retval LX_ECONFIG   a device that the rig does not have; what a stage says is wrong with config
 *                      or checkpoint
 * @retval LX_ETIMEOUT  a stage did not answer
 * @retval LX_EJOB      a stage died, or its answer is not to be believed
 */
lx_status plan_make(plan **out, const plan_request *request, lx_err *err);
void plan_destroy(plan **p);

/** True if a process is on a card. */
bool plan_has_card(const plan *p);
/** The process of this replica, or NULL. */
const plan_process *plan_of(const plan *p, lx_stage_kind kind, int replica);
/** Predicted seconds of a step; 0: none. */
double plan_step_s(const plan_process *p);
/** How an artifact travels between two processes, by what their cards claim to do and what the
 *  config wishes; a test at start has the last word. */
const char *plan_link(const plan *p, const plan_process *from, const plan_process *to);

/* --- plan_text.c ------------------------------------------------------------------------------ */

void plan_print(const plan *p, FILE *to);
/** One line of JSON: docs/json.md, `plan`. */
lx_status plan_print_json(const plan *p, FILE *to, lx_err *err);
/** A few lines at info level. */
void plan_log(const plan *p);
/** Why it does not fit, in one line, and the first advice that helps. LX_EAGAIN. */
lx_status plan_refuse(const plan *p, lx_err *err);

#endif
