/*
 * encoder.h - the text encoder: prompt -> context
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Cleans a prompt, turns it into at most 512 token ids and those into the context that
 *           the DiT reads: F32 [n, dim], one row per id, end-of-text included, no padding rows (the
 *           DiT knows that the rest up to 512 are zeros).
 * Promise   Same ids as the reference; f32 arithmetic (W8A8 where the checkpoint is quantized);
 *           same settings, same bits. All memory is planned by a dry run for 512 tokens and taken
 *           at open; jobs allocate nothing. A prompt seen before comes from the cache.
 * Device    The CPU, or a card: layers run there and their weights pass through. Tokenizer, token
 *           embedding, cache and the finished context are the host's either way.
 * Source    Wan2.1 wan/modules/t5.py and tokenizers.py
 * Threads   One encoder, one thread; the kernels use more inside.
 * Tests     tests/stages/test_encoder_*.c, tests/gpu/test_cuda_encoder.c
 *
 * Treacherous details, and the test that guards each
 *   - Chinese commas reach the tokenizer as ASCII: cleaning is part of the model
 *                                                  test_encoder_clean
 *   - "&amp;amp;lt;" loses three levels of escaping; '<' stops only the first
 *                                                  test_encoder_clean
 *   - ties ("xxx", "----") need sums in double, per word; the first to arrive wins
 *                                                  test_encoder_tokenizer
 *   - unknown characters are id 3, one per run and word; no byte pieces
 *                                                  test_encoder_tokenizer
 *   - literal "</s>" in a prompt really is token 1 test_encoder_tokenizer
 *   - <extra_id_k> ids fall as k grows             test_encoder_tokenizer
 *   - q k^T is not scaled by 1/sqrt(64)            test_encoder_umt5 (golden)
 *   - every layer has its own bias table; keys after the query use the upper half of its buckets
 *                                                  test_encoder_umt5 (golden, buckets)
 *   - GELU (tanh form) is on gate.0, not on fc1    test_encoder_umt5 (golden)
 *   - a row of the context does not depend on padding: only real tokens are run
 *                                                  test_encoder_umt5 (golden)
 */
#ifndef ENCODER_H
#define ENCODER_H

#include "clean.h"
#include "lx_cuda.h"
#include "lx_stage.h"
#include "tokenizer.h"
#include "umt5.h"

#define ENCODER_TEXT_LEN     512  /* tokens the DiT was trained with */
#define ENCODER_TEXT_LEN_MAX 4096 /* of ids given by hand */

typedef struct encoder encoder;

typedef struct encoder_options {
    const char *weights;   /* file or folder */
    const char *tokenizer; /* file or folder; NULL: ids only */
    int64_t max_tokens;    /* memory is planned for so many; 0: ENCODER_TEXT_LEN */
    int cache_entries;
    const char *device;            /* "cpu" or NULL, "cuda:N" or another name of a card */
    int n_threads;                 /* 0: one per core */
    const lx_progress *progress;   /* unit "byte" while loading, "layer" while encoding; or NULL */
    lx_run *run;                   /* dumps; NULL: none */
    lx_residency_choice residency; /* of the layers on a card; AUTO is HOST */
    uint64_t pinned;               /* host memory for their way; 0: a good size */
    int shared_fd;                 /* memory that replicas share for weights (lx_weights.h); 0 */
    bool is_deferred;              /* on a card: its memory is left alone until encoder_take */
    uint64_t max_bytes; /* take no more than this of the device's memory; 0: no limit. Weights do
                           not count on the CPU; on a card those of the layers that are there do */
    bool is_lending;    /* a stage: what lending takes of a card counts in max_bytes, too */
    int n_twins;        /* of these contexts that are lent in the card's memory */
} encoder_options;

/** Load everything, plan, take memory. Strings are borrowed during the call, progress and run until
 *  encoder_close. LX_ECONFIG, LX_EAGAIN with figures. */
lx_status encoder_open(encoder **out, const encoder_options *options, lx_err *err);
/** Take the card's memory, after encoder_give or a deferred open. LX_EAGAIN: it is not there at
 *  this moment, and nothing was taken. */
lx_status encoder_take(encoder *model, lx_err *err);
/** Give it back; what the host has stays: weights, kept contexts. */
void encoder_give(encoder *model);
void encoder_close(encoder **model);

typedef struct encoder_prompt {
    const int32_t *ids; /* borrowed until the next encoder_tokens */
    encoder_token_counts counts;
    bool looks_garbled;
} encoder_prompt;

/** Clean and tokenize. LX_EJOB: not UTF-8, or too long. */
lx_status encoder_tokens(encoder *model, const char *prompt, size_t bytes, encoder_prompt *out,
                         lx_err *err);

typedef struct encoder_context {
    const float *rows; /* [n, dim], borrowed until the next encoder_encode */
    int64_t n, dim;
    bool was_cached;
} encoder_context;

/** Encode ids, or find them in the cache. LX_EJOB, LX_ECANCEL. */
lx_status encoder_encode(encoder *model, const int32_t *ids, int64_t n, encoder_context *out,
                         lx_err *err);

/**
 * Run once on a single token, so that a damaged checkpoint is found before the first job, and one
 * layer on prompts of many lengths, so that libraries take now what memory they take per shape.
 */
lx_status encoder_warm_up(encoder *model, lx_err *err);

/** One line about what was dropped or looks wrong in a prompt; "" if all is well. */
void encoder_notice(const encoder_prompt *prompt, char *text, size_t bytes);

const umt5 *encoder_model(const encoder *model);
uint64_t encoder_arena_bytes(const encoder *model);   /* device memory planned and taken */
uint64_t encoder_planned_bytes(const encoder *model); /* the same before it is taken */
uint64_t encoder_arena_peak(const encoder *model);    /* used so far */
uint64_t encoder_host_bytes(const encoder *model); /* host memory beside a card's; CPU: the same */
uint64_t encoder_host_peak(const encoder *model);
const char *encoder_describe(const encoder *model); /* which arithmetic runs */

/* --- memory ----------------------------------------------------------------------------------- */

typedef struct encoder_memory {
    uint64_t device, host; /* bytes of the two arenas; on the CPU host is 0 */
    uint64_t weights;      /* of device: layers that stay */
    uint64_t slots;        /* of device: layers on their way */
    uint64_t pinned;       /* host memory beside the arena */
    int64_t n_resident;    /* layers that stay on the card */
} encoder_memory;

/** What options->max_tokens, cache_entries, residency and run need, dry: the very code that will
 *  run. card: NULL on the CPU, else what kind of card, which need not be in this machine. Whether
 *  that is within max_bytes is the caller's affair; PARTIAL keeps as many layers as that allows. */
lx_status encoder_measure(const umt5 *model, const lx_card_kind *card,
                          const encoder_options *options, encoder_memory *out, lx_err *err);

/** Open the layers' way to the device as measured; a dry exec measures. */
lx_status encoder_open_layers(lx_residency **out, lx_exec *x, const umt5 *model,
                              const encoder_memory *memory, const encoder_options *options,
                              lx_err *err);

/** Bytes of a card that lending takes, beside the arena. */
uint64_t encoder_lent_bytes(const umt5 *model, const encoder_options *options);

/** What stays for the whole life, from the host's arena: the kept contexts, and the one that is
 *  made. */
struct encoder_cache;
lx_status encoder_take_standing(struct encoder_cache *cache, lx_arena *host,
                                const encoder_options *options, int64_t dim, float **context,
                                lx_err *err);

/* --- as a stage ------------------------------------------------------------------------------- */

/** Lend in the card's memory until encoder_close; stage is borrowed until then. Nothing happens on
 *  the CPU. */
lx_status encoder_join(encoder *model, lx_stage *stage, lx_err *err);
/** Load what the config names, make the lending desk, run once on a single token. */
lx_status encoder_stage_open(encoder **out, lx_stage *stage, lx_err *err);
/** The lx_job_fn; self is the encoder. */
lx_status encoder_on_job(void *self, lx_stage_job *job, lx_err *err);

/** `lx2v-encoder run ...`; argv after "run". Returns the exit code. */
int encoder_run(int argc, char **argv);
/** `lx2v-encoder plan ...`, lx_plan.h; argv after "plan". Returns the exit code. */
int encoder_plan_main(int argc, char **argv);

#endif
