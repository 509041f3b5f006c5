/*
 * lx_plan.h - what one process needs, as a stage says it and the launcher adds it up
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Only a stage knows its model; only the launcher knows the machine. `lx2v-STAGE plan`
 *           reads headers, runs its model dry and prints one line of JSON for the launcher.
 * Promise   The numbers come from the code that will run, so a plan cannot drift from the program.
 *           No weights are read, no card is touched: a rig that is not here is planned alike.
 * Link      lx_devices; lx_plan_main: lx_control
 * Tests     tests/unit/test_plan_words.c, tests/launcher/test_plan.c
 */
#ifndef LX_PLAN_H
#define LX_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lx_job.h"

#define LX_PLAN_CHOICES 8

/* What the driver takes of a card for each process: context, kernels, cuBLASLt's tables. Measured
 * 0.52 GiB on an H200 with driver 580 and CUDA 13.0; no plan may be below what is measured. */
#define LX_PLAN_CONTEXT ((uint64_t)600 << 20)

/* What was asked: `lx2v-STAGE plan --config FILE --replica N [--kind KIND] [--vram N] [--ram N]
 * [--size WxH] [--frames N] [--residency auto]`. */
typedef struct lx_plan_question {
    const char *config;
    int replica;
    /* The card, as lx_plan_kind_text writes it; empty: the CPU. */
    struct {
        char name[96];
        int major, minor, n_sm, shared_bytes;
        uint64_t total_bytes;
    } kind;
    bool is_card;
    uint64_t vram, ram; /* bytes that this process may have; 0: as many as it likes. ram counts the
                           weights, which it may share with others */
    int32_t width, height, frames; /* the largest clip; 0: as the config's limits say */
    bool is_residency_auto;        /* whatever residency the config forces */
} lx_plan_question;

/* Another way to run, and what it would cost. */
typedef struct lx_plan_choice {
    char what[64];         /* "12 of 40 blocks resident" */
    uint64_t device, host; /* bytes */
    uint64_t stream, disk; /* bytes to the card, and from disk, in every step */
    bool fits;             /* in what was allowed */
} lx_plan_choice;

/* The answer; bytes. On the CPU everything is host memory. */
typedef struct lx_plan_need {
    char stage[16], how[96]; /* "dit", "partial: 12 of 40 blocks resident, chunks of 4096" */
    bool fits;
    char advice[256]; /* where it does not: what is needed, what would help */
    uint64_t weights; /* that stay on the device */
    uint64_t slots;   /* of layers on their way */
    uint64_t activations;
    uint64_t context;        /* the driver's own, and slots lent from: not given back in turn */
    uint64_t device;         /* their sum: 0 on the CPU */
    uint64_t least;          /* the smallest sum that works at all */
    uint64_t host_weights;   /* the one copy per machine */
    uint64_t host;           /* of this process alone */
    uint64_t pinned, shared; /* of host memory: rings, lent slots */
    uint64_t stream_bytes;   /* that travel to the card in every step */
    uint64_t disk_bytes;     /* read from disk in every step */
    uint64_t ops8, ops16; /* of a step: a product and a sum are two; on 8-bit numbers, on others */
    uint64_t attention8, attention16; /* of these, in attention */
    uint64_t short16;                 /* of attention16, summed in F16 where that is quicker */
    uint64_t row_bytes; /* of a step: read and written by what is no product and no attention */
    int n_choices;
    lx_plan_choice choice[LX_PLAN_CHOICES];
} lx_plan_need;

/** Parse the arguments after "plan". LX_ECONFIG names the flag. */
lx_status lx_plan_ask(lx_plan_question *out, int argc, char **argv, lx_err *err);
struct lx_config;
/** Size and frames of the question into the config's limits; its residency into the replicas'. */
void lx_plan_apply(const lx_plan_question *question, struct lx_config *config);
/** The value of --kind: "NAME;cc=8.6;sm=28;shared=101376;vram=12884901888". */
void lx_plan_kind_text(const lx_plan_question *question, char *text, size_t bytes);

/** One line of JSON on `out`. */
lx_status lx_plan_say(const lx_plan_need *need, FILE *out, lx_err *err);

/** A stage's own part: what this replica (of config, question applied) needs; stage is set. */
typedef lx_status lx_plan_answer(lx_plan_need *need, const lx_plan_question *question,
                                 const struct lx_config *config, lx_err *err);
/** All of `lx2v-STAGE plan`; argv after "plan". Returns the exit code: 3 where it does not fit. */
int lx_plan_main(lx_stage_kind stage, lx_plan_answer *answer, int argc, char **argv);

/** Read a need back; hostile until checked. LX_EJOB: what is wrong. */
lx_status lx_plan_hear(lx_plan_need *out, const char *text, size_t bytes, lx_err *err);

#endif
