/*
 * cli_selftest.h - what `lx2v selftest` found out, line by line
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Runs every stage once by hand on the configured weights, judges what comes out, and
 *           says which file to suspect.
 * Rule      A verdict needs a reason that is told: a definition (the velocity is noise minus clip),
 *           or figures measured on the real weights, with their source. Where neither exists the
 *           value is told without verdict. Random weights pass all but the warnings.
 * Tests     tests/unit/test_selftest_checks.c, tests/pipeline/test_selftest.c
 */
#ifndef CLI_SELFTEST_H
#define CLI_SELFTEST_H

#include <jansson.h>

#include "weights/lx_catalog.h"
#include "weights/lx_model_dir.h"

typedef enum selftest_verdict {
    SELFTEST_OK,
    SELFTEST_VALUE, /* told, not judged */
    SELFTEST_WARNING,
    SELFTEST_FAILED,
    SELFTEST_SKIPPED,
    SELFTEST_VERDICT_COUNT
} selftest_verdict;

typedef struct selftest_check {
    const char *stage; /* "encoder", "dit", "vae", "mux" */
    char what[48];
    selftest_verdict verdict;
    char value[320];
    char expected[160]; /* "" if nothing is known */
    char source[200];   /* where that comes from */
    char advice[1024];  /* what to do; "" if all is well */
} selftest_check;

#define SELFTEST_CHECKS_MAX 48

typedef struct selftest {
    const lx_model_paths *paths; /* borrowed */
    char folder[64];             /* for what the stages hand on */
    lx_t5_dims t5;
    lx_dit_dims dit;
    lx_vae_dims vae;
    bool has_t5, has_dit, has_vae; /* the files are what they should be */
    bool must_act;                 /* a person must: exit code 2 */
    int n;
    selftest_check check[SELFTEST_CHECKS_MAX];
} selftest;

/* --- cli_selftest_checks.c: from the stages' files to verdicts -------------------------------- */

/** The next line; the caller fills in the rest. Never NULL: past the last, the last again. */
selftest_check *selftest_add(selftest *s, const char *stage, const char *what,
                             selftest_verdict verdict);

/* A file that a stage wrote. */
typedef struct selftest_tensor {
    const float *data;
    const int32_t *ids;
    int64_t n; /* values */
    lx_shape shape;
} selftest_tensor;

/** Are the three files what they are configured as? Headers only. */
void selftest_files(selftest *s);

/** Contexts of the two prompts, and of the first one again. LX_OK if they could be read. */
lx_status selftest_encoder(selftest *s, const char *first, const char *again, const char *second,
                           lx_err *err);
/** The prompts, 0 and 1. */
const char *selftest_prompt(int i);

/** Noise, latent and velocities of one clip, by euler. */
lx_status selftest_dit(selftest *s, const char *output, lx_err *err);
lx_status selftest_vae(selftest *s, const char *output, lx_err *err);
/** The clip's frames, as `lx2v-mux check` counted them (its JSON). */
lx_status selftest_mux(selftest *s, const char *json, int64_t n_frames, lx_err *err);

/** Inputs of our own, where a stage before failed: a context that the DiT takes, a latent. */
lx_status selftest_make_context(const selftest *s, const char *path, lx_err *err);
lx_status selftest_make_latent(const char *path, int64_t t, int64_t h, int64_t w, lx_err *err);

/* --- cli_selftest_print.c -------------------------------------------------------------------- */

void selftest_print(const selftest_check *check);
json_t *selftest_json(const selftest *s, const char *config);
const char *selftest_verdict_name(selftest_verdict verdict); /* "ok", "value", "warning", ... */
selftest_verdict selftest_worst(const selftest *s);

#endif
