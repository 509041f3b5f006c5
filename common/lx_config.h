/*
 * lx_config.h - config.yaml as one validated struct
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Reads the one annotated config that launcher, stages and local clients share.
 * Promise   After LX_OK every value is in range and every path absolute (relative ones are taken
 *           from the config file's folder). Unknown or duplicate keys, wrong types and values out
 *           of range are LX_ECONFIG with file, line, key, value, what is allowed and the nearest
 *           known key. Aliases, tags, several documents and files over 1 MiB are refused.
 * Tests     tests/unit/test_config.c, tests/fuzz/fuzz_config.c
 */
#ifndef LX_CONFIG_H
#define LX_CONFIG_H

#include "lx_job.h"
#include "lx_log.h"
#include "lx_share_device.h"

/* Where the weights of a stage on a card live: on it, in host memory or on disk. */
typedef enum lx_residency_choice {
    LX_RESIDENCY_AUTO, /* as many layers on the card as fit; on disk what the host cannot hold */
    LX_RESIDENCY_RESIDENT, /* all on the card, or it does not start */
    LX_RESIDENCY_PARTIAL,  /* as many as fit, the others in host memory */
    LX_RESIDENCY_HOST,     /* all in host memory */
    LX_RESIDENCY_DISK      /* all read from disk, again and again */
} lx_residency_choice;

extern const char *const lx_residency_names[]; /* by lx_residency_choice, NULL at the end */
/** A choice by its name. LX_ECONFIG says what is accepted, and what is near. */
lx_status lx_config_set_residency(lx_residency_choice *out, const char *text, lx_err *err);

/* What the DiT's attention multiplies on a card: queries x keys - weights x values. */
typedef enum lx_attention_choice {
    LX_ATTENTION_AUTO,      /* the fastest whose error is that of int8-fp16 or less */
    LX_ATTENTION_INT8_FP16, /* INT8 with smoothed keys - FP16 */
    LX_ATTENTION_INT8_E4M3, /* "int8-fp8": INT8 - FP8, from 8.9 on; three times that error */
    LX_ATTENTION_BF16       /* BF16 - FP16 */
} lx_attention_choice;

/* In what products of FP16 or FP8 are summed, of attention (dit) and of convolutions (vae). AUTO:
 * FP16 where the card adds FP32 at half rate. */
typedef enum { LX_ACCUMULATE_AUTO, LX_ACCUMULATE_FP32, LX_ACCUMULATE_FP16 } lx_accumulate_choice;

extern const char *const lx_attention_names[], *const lx_accumulate_names[]; /* as above */
lx_status lx_config_set_attention(lx_attention_choice *out, const char *text, lx_err *err);
lx_status lx_config_set_accumulate(lx_accumulate_choice *out, const char *text, lx_err *err);

typedef struct lx_replica_config {
    char device[LX_LIMIT_WORD];      /* as lx_device.h says: "cpu", "cuda:0", "cuda:rtx3060" */
    int threads;                     /* CPU threads; 0 = one per core */
    lx_residency_choice residency;   /* encoder and dit only */
    lx_attention_choice attention;   /* dit only, on a card */
    lx_accumulate_choice accumulate; /* dit and vae, on a card */
} lx_replica_config;

typedef struct lx_stage_config {
    int n_replicas;
    lx_replica_config replica[LX_LIMIT_REPLICAS];
} lx_stage_config;

typedef enum lx_mux_metadata {
    LX_METADATA_FULL,
    LX_METADATA_NO_PROMPT,
    LX_METADATA_OFF
} lx_mux_metadata;
typedef enum lx_mux_format { LX_FORMAT_MP4, LX_FORMAT_PNG } lx_mux_format;

/* How the stages of one card share its memory: all at once, or one after the other. */
typedef enum lx_memory_policy {
    LX_POLICY_AUTO, /* overlap where it fits */
    LX_POLICY_OVERLAP,
    LX_POLICY_ALTERNATE
} lx_memory_policy;

#define LX_VRAM_CARDS 8
typedef struct lx_vram_config { /* bytes that lx2v may have of a card; 0: auto */
    uint64_t every;             /* of a card that is not named */
    int n;
    struct {
        char device[LX_LIMIT_WORD]; /* as lx_device.h says */
        uint64_t bytes;
    } card[LX_VRAM_CARDS];
} lx_vram_config;

typedef struct lx_config {
    char path[LX_LIMIT_PATH]; /* of the file itself */
    struct {
        char dir[LX_LIMIT_PATH]; /* model: DIR, or model.dir */
        char dit[LX_LIMIT_PATH], text[LX_LIMIT_PATH], vae[LX_LIMIT_PATH];
        char tokenizer[LX_LIMIT_PATH]; /* "" = look in dir */
    } model;
    struct {
        char dir[LX_LIMIT_PATH];
        bool overwrite; /* an existing file of that name: replace (true) or refuse */
    } output;
    struct {
        char dir[LX_LIMIT_PATH]; /* sockets and lock, made 0700; default $XDG_RUNTIME_DIR/lx2v-HASH
                                    or /tmp/lx2v-UID-HASH, HASH of the config's path */
        char journal[LX_LIMIT_PATH]; /* what must survive a reboot; default: state.dir if that is
                                        given, else $XDG_STATE_HOME/lx2v/HASH */
    } state;
    struct {
        char tcp[LX_LIMIT_WORD];  /* IP:PORT; "": clients come by the unix socket only */
        char keys[LX_LIMIT_PATH]; /* folder that `lx2v keys` made */
        bool allow_any;           /* addresses that mean every network of the machine */
    } listen;
    struct {
        bool require_manifest; /* a file that no manifest.sha256 lists is refused */
    } weights;
    struct {
        int32_t width, height, frames; /* 832 480 81 */
        double fps;                    /* 16 */
        int64_t seed;                  /* LX_SEED_DRAW */
    } defaults;
    struct {
        lx_sampler sampler;
        double shift; /* sample_shift, 5 */
        int32_t n_steps;
        int32_t steps[LX_LIMIT_STEPS]; /* denoising_step_list */
        double guide_scale;            /* sample_guide_scale: only 1 */
        char rng[LX_LIMIT_WORD];
    } sampling;
    lx_stage_config stage[LX_STAGE_COUNT];
    struct {
        int cache_entries; /* embeddings kept for seed sweeps, 0 = off */
    } encoder;
    struct {
        int chunk;          /* latent frames per chunk */
        int tile_h, tile_w; /* latents; 0 = no tiling unless memory demands it */
    } vae;
    struct {
        int crf;
        char preset[LX_LIMIT_WORD];
        lx_mux_metadata metadata;
        lx_mux_format format;
    } mux;
    struct {
        int depth;                         /* artifacts in flight per link */
        lx_transport_wish transport;       /* how tensors go between stages */
        lx_transport_wish context, latent; /* LX_WISH_SAME, or of this link alone */
    } links;
    struct {
        int32_t width, height, frames; /* the largest clip: memory is planned for it */
        int32_t prompt_bytes, queue, clients;
        int32_t per_client; /* jobs of one client that have not ended */
    } limits;
    struct {
        bool latents; /* kept on disk until the clip is there, beside the journal */
    } spool;
    struct {
        uint64_t ram;    /* host memory; a stage on the CPU: for its activations. 0 = auto */
        uint64_t pinned; /* of the ring of one replica that streams weights; 0 = auto */
        lx_vram_config vram;
        lx_memory_policy policy;
    } memory;
    struct {
        double beat_s, hang_s; /* 1, 60 */
        double stop_s;         /* TERM to KILL, 10 */
    } supervision;
    lx_log_level log_level;
} lx_config;

/** Read and validate. out is only valid on LX_OK. $LX2V_STATE_DIR and $LX2V_OUTPUT_DIR (absolute)
 *  replace state.dir with state.journal, and output.dir: a second pipeline on one config. */
lx_status lx_config_load(lx_config *out, const char *path, lx_err *err);
/** The same from memory; path is used in messages and for relative paths. For tests and fuzzing. */
lx_status lx_config_parse(lx_config *out, const char *text, size_t bytes, const char *path,
                          lx_err *err);

/** May it run with this build? LX_ECONFIG: a stage is on a card, and there is no CUDA here. Not
 *  part of reading, because a rig is planned anywhere. */
lx_status lx_config_check_build(const lx_config *config, lx_err *err);

/** What is wished for tensors that this stage lends; frames always go through host memory. */
lx_transport_wish lx_config_wish(const lx_config *config, lx_stage_kind lender);

/** config for a child of this build, in a sealed memory file; -1: that cannot be made. */
int lx_config_to_fd(const lx_config *config, lx_err *err);
/** LX_ECONFIG: it is of another build. */
lx_status lx_config_from_fd(lx_config *out, int fd, lx_err *err);

/** The keys whose values differ, as "section.name"; returns how many. keys: borrowed for ever. */
int lx_config_differ(const lx_config *a, const lx_config *b, const char *keys[], int room);
/** Copy the value of one key that is no path and no section. */
void lx_config_take(lx_config *to, const lx_config *from, const char *key);

/* Shared with the command line: LX_ECONFIG says what is accepted. */
lx_status lx_parse_size(const char *text, int32_t *width, int32_t *height,
                        lx_err *err);                                     /* 832x480 480p */
lx_status lx_parse_bytes(const char *text, uint64_t *bytes, lx_err *err); /* 6GiB */
lx_status lx_parse_steps(const char *text, int32_t *steps, int32_t *n, lx_err *err); /* 1000,750 */

/** The whole text is one decimal number, finite and in range; no hexadecimal, no spaces. */
bool lx_parse_i64(const char *text, int64_t *out);
bool lx_parse_real(const char *text, double *out);

/** "did you mean ...": the nearest of n words by edit distance, NULL if none is near. */
const char *lx_nearest(const char *word, const char *const *known, size_t n);

#endif
