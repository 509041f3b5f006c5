/*
 * lx_run.h - what `lx2v-STAGE run` has in common: flags, dumps, outputs, timings
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      `lx2v-STAGE run`, one stage by hand: files in, files out. Each stage parses its
 *           own flags with lx_run_flag and leaves the common ones to lx_run_common_flag.
 * Tests     tests/unit/test_run.c, tests/stages
 */
#ifndef LX_RUN_H
#define LX_RUN_H

#include "lx_process.h"
#include "lx_progress.h"
#include "weights/lx_weights.h"

#define LX_RUN_DUMPS 64
#define LX_RUN_WORDS 64

typedef struct lx_run {
    const char *weights, *input, *output, *device; /* borrowed from argv; NULL if absent */
    int threads;
    uint64_t vram_bytes;
    bool json, has_bar;
    lx_progress progress; /* a bar if stderr is a terminal; hears SIGINT and SIGTERM */
    char dump_names[LX_RUN_DUMPS][128];
    bool is_known[LX_RUN_DUMPS]; /* the model has a layer of that name: lx_run_know */
    int n_dumps;
    /* outputs collected for the file; data owned here, freed by lx_run_close */
    lx_named_tensor out[LX_RUN_DUMPS + 16];
    char out_names[LX_RUN_DUMPS + 16][128];
    int n_out;
    double start_s, load_s; /* monotonic */
    char found[4096];       /* what lx_run_find_weights made of --weights */
} lx_run;

/* One flag of a stage: --NAME VALUE, or --NAME alone if !value. */
typedef struct lx_run_flag {
    const char *name;   /* "text-len" */
    const char **value; /* where to put it (borrowed from argv) */
    bool *present;      /* for flags without value */
    const char *help;
} lx_run_flag;

/* Plain words among the flags, such as the names of more files. */
typedef struct lx_run_words {
    const char *what; /* for --help: "FILE ...: more clips" */
    const char *word[LX_RUN_WORDS];
    int n;
} lx_run_words;

/** Parse argv after "run": common flags and the stage's. LX_ECONFIG names flag and nearest.
 *  --help prints all flags and ends the process with 0: nothing has been acquired yet. words NULL:
 *  a word that belongs to no flag is refused. */
lx_status lx_run_parse(lx_run *run, int argc, char **argv, const lx_run_flag *flags, size_t n_flags,
                       lx_err *err);
lx_status lx_run_parse_words(lx_run *run, int argc, char **argv, const lx_run_flag *flags,
                             size_t n_flags, lx_run_words *words, lx_err *err);

/** A flag's value, from low to high; text NULL (absent): *out stays. LX_ECONFIG. */
lx_status lx_run_count(const char *flag, const char *text, int64_t low, int64_t high, int64_t *out,
                       lx_err *err);

/** Can --output be written? Asked before anything is computed: see lx_safetensors_check. */
lx_status lx_run_check_output(const lx_run *run, lx_err *err);

/** --weights may name a model's folder as people download it: then run->weights becomes its part
 *  ("dit", "text", "vae"); any other file or folder stays as it is. */
void lx_run_find_weights(lx_run *run, const char *part);

/** True if the user asked for this intermediate tensor (by the name of the layer that makes it). */
bool lx_run_wants(const lx_run *run, const char *name);

/** Copy a tensor into the output file's list (F32 for dumps); a second of the same name is ignored.
 *  run may be NULL: then nothing happens. */
lx_status lx_run_add(lx_run *run, const char *name, lx_dtype dtype, const lx_shape *shape,
                     const void *data, lx_err *err);
/** The same without the copy: zeroed memory in the list, to be filled before lx_run_finish. *out is
 *  NULL if there is one of that name already. */
lx_status lx_run_reserve(lx_run *run, const char *name, lx_dtype dtype, const lx_shape *shape,
                         void **out, lx_err *err);
/** lx_run_add if wanted; rows of `cols` floats, `stride` apart. The usual call in model code. */
lx_status lx_run_dump(lx_run *run, const char *name, const float *data, int64_t rows, int64_t cols,
                      int64_t stride, lx_err *err);

/** The dry run of a model's plan says which names it can dump; then lx_run_check_dumps refuses the
 *  others (LX_ECONFIG) before anything is computed. run may be NULL for lx_run_know. */
void lx_run_know(lx_run *run, const char *name);
lx_status lx_run_check_dumps(const lx_run *run, const char *stage, lx_err *err);

/** Write --output and, with --json, print timings and peak memory on stdout. Every --dump name
 *  must have been met, else LX_ECONFIG names it. */
lx_status lx_run_finish(lx_run *run, const char *stage, lx_err *err);
void lx_run_close(lx_run *run);

/** Read one tensor of --input, any float dtype widened to f32 (or I32/I64 to int32) into memory
 *  owned by the caller (free). LX_ECONFIG: names file, tensor, expected and found. */
lx_status lx_run_read_f32(const lx_run *run, const char *name, lx_shape *shape, float **out,
                          lx_err *err);
lx_status lx_run_read_i32(const lx_run *run, const char *name, lx_shape *shape, int32_t **out,
                          lx_err *err);
bool lx_run_has_input(const lx_run *run, const char *name);

#endif
