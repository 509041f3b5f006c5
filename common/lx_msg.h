/*
 * lx_msg.h - what stands in every control message, and as which bytes it travels
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Fields of each kind (lx_msg_kind.h). A message is a msgpack map with fixed keys; "k"
 *           is its kind. Tensors never ride here, tickets do.
 * Promise   Decoding never allocates: limits (size, depth, counts against the bytes that are there)
 *           are checked before a field is looked at; unknown, missing, duplicate or out-of-range
 *           fields are refused by name. Floats are finite, strings valid UTF-8 without NUL.
 * Tests     tests/unit/test_msg.c, tests/fuzz/fuzz_msg.c
 */
#ifndef LX_MSG_H
#define LX_MSG_H

#include "lx_job.h"
#include "lx_msg_kind.h"
#include "lx_tensor.h"

/* A promise that a tensor may be read until the lender is told to retire it. */
typedef struct lx_ticket {
    uint64_t serial; /* of the lender, never reused; 0: no ticket */
    uint64_t epoch;  /* of the lending process */
    char name[96];   /* POSIX shared memory name: /lx2v.INSTANCE.EPOCH.SLOT */
    int32_t dtype;   /* lx_dtype */
    int32_t n_dims;
    int64_t dims[LX_LIMIT_DIMS];
    uint64_t bytes;
} lx_ticket;

typedef struct lx_msg {
    lx_msg_kind kind;
    uint64_t req;              /* client requests and their answers; between launcher and stage:
                                  number on its way, from 1 (0: by hand, not counted) */
    char job[LX_LIMIT_ID + 1]; /* job id where one is meant; "" = all or none */
    int32_t attempt;           /* of the job; messages of an older attempt are dropped */
    union {
        struct {
            char token[33]; /* 128 bits, hex, from the inherited descriptor */
            int32_t stage, replica;
            uint64_t epoch;
            int64_t pid;
            char version[LX_LIMIT_WORD];
        } hello;
        struct {
            double load_s;
            uint64_t weight_bytes, arena_bytes;
            char weights_id[LX_LIMIT_WORD];
        } ready;
        struct {            /* also the body of STARTED (job, at_s) */
            double at_s;    /* monotonic */
            uint64_t moved; /* grows with every unit: the progress rule watches it */
            char unit[LX_LIMIT_WORD];
            uint64_t done, total;
            uint64_t rss_bytes, peak_bytes;
        } beat;
        struct {
            int32_t index; /* chunk number from 0 */
            int32_t is_last;
            lx_ticket ticket;
        } artifact; /* ARTIFACT and INPUT */
        struct {
            uint64_t serial;
        } lease; /* RELEASED and RETIRE */
        struct {
            double start_s, end_s; /* monotonic */
            double wait_s;         /* of these: for a free slot, or for a chunk of frames */
            uint64_t peak_bytes;
            int32_t n_step_s;              /* dit: how many below */
            double step_s[LX_LIMIT_STEPS]; /* seconds of each denoising step */
            int32_t n_tokens, n_dropped;   /* encoder */
            uint64_t saved_bytes;          /* dit: of the latent in the spool; 0: none */
            uint64_t saved_crc;            /* its CRC-32C */
            int32_t n_frames;              /* mux */
            uint64_t file_bytes;           /* mux */
            char notice[LX_LIMIT_TEXT];    /* one line for the user, or "" */
        } done;
        struct {
            int32_t status; /* lx_status */
            char text[LX_LIMIT_TEXT];
            char field[LX_LIMIT_WORD]; /* REFUSED: which field; else "" */
            int64_t retry_after_ms;    /* REFUSED with LX_EAGAIN; else 0 */
        } failed;                      /* FAILED and REFUSED */
        struct {
            lx_job job;
            lx_ticket ticket; /* serial 0: none */
            /* JOB: dit need not denoise, the latent is in the spool; 0: it is not */
            uint64_t saved_bytes, saved_crc;
        } work; /* JOB (complete) and SUBMIT (0, "" or -1 = default) */
        struct {
            int32_t want_stages; /* also STAGE_INFO for every replica, LINK_INFO for every link */
            int32_t want_jobs;
        } query;
        struct {
            int32_t command; /* lx_command */
        } command;
        struct {
            char text[LX_LIMIT_PATH];
            int64_t value;
        } ok;
        struct {
            int64_t seed;
            int64_t ahead;  /* jobs before this one */
            int32_t is_new; /* 0: this id was already accepted with the same content */
            char output[LX_LIMIT_NAME + 1];
            char notice[LX_LIMIT_TEXT];
        } accepted;
        struct {
            int32_t state; /* lx_job_state */
            int64_t seed;
            int32_t width, height, frames;
            char output[LX_LIMIT_NAME + 1];
            char error[LX_LIMIT_TEXT];
            char prompt[256];       /* beginning, cut at a character */
            double submit_s, end_s; /* end_s 0: not ended */
            int32_t n_tokens, n_dropped;
            uint64_t file_bytes;
            /* per stage, -1 = has not happened; of the last attempt */
            int64_t replica[LX_STAGE_COUNT];
            double start_s[LX_STAGE_COUNT], finish_s[LX_STAGE_COUNT];
            double wait_s[LX_STAGE_COUNT]; /* as in DONE; 0 until then */
            uint64_t peak_bytes[LX_STAGE_COUNT];
            int32_t n_step_s;
            double step_s[LX_LIMIT_STEPS];
            uint64_t retries;
        } job_info;
        struct {
            int32_t stage, replica;
            char state[LX_LIMIT_WORD]; /* starting, loading, ready, busy, parked, dead */
            char device[LX_LIMIT_WORD];
            int64_t pid;
            char unit[LX_LIMIT_WORD];
            uint64_t done, total, rss_bytes, peak_bytes, restarts, jobs;
            char text[LX_LIMIT_TEXT]; /* obituary of the last death, or "" */
        } stage_info;
        struct {
            double now_s;
            int64_t n_queued, n_running;
            char state[LX_LIMIT_WORD]; /* running, paused, draining, degraded, stopping */
        } end;
        struct {
            double now_s;
            int32_t state; /* lx_job_state */
            int32_t stage; /* lx_stage_kind, -1 = none */
            char unit[LX_LIMIT_WORD];
            uint64_t done, total;
            double elapsed_s, eta_s; /* eta -1: unknown */
            char text[LX_LIMIT_TEXT];
        } event;
        struct {
            uint64_t seed;
            int32_t transport; /* RESULT: lx_transport that tensors go by; NONE: none works */
            double ms;         /* RESULT: of one borrowing */
            lx_ticket ticket;  /* RESULT: the one that was given, so that the lender is known */
            char text[LX_LIMIT_TEXT]; /* what failed, or "" */
        } link;                       /* LINK_ASK, _LENT, _TEST, _RESULT */
        struct {
            int32_t from, from_replica, to, to_replica; /* stages and their replicas */
            int32_t transport, is_tested;
            double ms;
            char text[LX_LIMIT_TEXT]; /* why it is not a better one, or "" */
        } link_info;
        struct {
            uint64_t bytes;
        } arena; /* LEASE and RELEASE */
    } u;
} lx_msg;

/** Encode into a caller's buffer of LX_LIMIT_MESSAGE bytes. LX_EJOB names the field that is wrong
 *  or does not fit. */
lx_status lx_msg_encode(const lx_msg *msg, void *buffer, size_t buffer_bytes, size_t *bytes,
                        lx_err *err);

/** Decode hostile bytes. LX_EJOB with kind and field. *msg is only valid on LX_OK. */
lx_status lx_msg_decode(lx_msg *msg, const void *bytes, size_t n, lx_err *err);

#endif
