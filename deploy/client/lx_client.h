/*
 * lx_client.h - ask a running lx2v for clips
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The whole conversation with the launcher for programs other than `lx2v`: find it,
 *           submit jobs, follow them, give orders. Nothing of the wire shows here.
 * Promise   Every call ends within its timeout. Submitting again with the same id is submitting
 *           once. A launcher that restarts is found again without reopening.
 * Errors    LX_ECONFIG   no launcher there, no such job, a name or id that is taken, or the request
 *                        itself is wrong
 *           LX_EAGAIN    refused for now: the queue is full, the launcher is draining
 *           LX_EJOB      refused for good: over a limit, wrong state
 *           LX_ETIMEOUT  the launcher is there, and gave no answer in time
 * Threads   One client, one thread; distinct clients are independent.
 * Link      liblx_client.a and what it needs: libczmq, libzmq, libmsgpackc, libyaml
 * Tests     tests/unit/test_cli.c, tests/pipeline
 */
#ifndef LX_CLIENT_H
#define LX_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lx_status.h"

#define LX_CLIENT_STAGES    4 /* encoder, dit, vae, mux: the order in which a clip is made */
#define LX_CLIENT_STEPS_MAX 64

typedef struct lx_client lx_client;

/* What a clip shall be. Zero-initialise it, set seed to -1, then fill in what matters: 0, NULL and
 * -1 mean "as the launcher's config says". Pointers are borrowed during the call. */
typedef struct lx_client_request {
    const char *id;     /* [A-Za-z0-9_-]{1,40}; NULL: one is drawn */
    const char *prompt; /* UTF-8, 1 to 16384 bytes */
    int32_t width, height, frames;
    double fps;
    int64_t seed;        /* -1: drawn by the launcher and reported */
    const char *sampler; /* "euler", "lcm" */
    double shift;
    int32_t n_steps;
    const int32_t *steps;
    const char *rng;    /* "lx2v", "torch-cpu", "torch-cuda:132x2048" */
    const char *output; /* file name in the output directory: [A-Za-z0-9._-]{1,128} */
} lx_client_request;

typedef struct lx_client_accepted {
    char id[41];
    int64_t seed, ahead; /* jobs before this one */
    bool is_new;         /* false: this id had been accepted before, with the same content */
    char output[129];
    char notice[1024]; /* one line for a person, or "" */
} lx_client_accepted;

typedef enum lx_client_state {
    LX_CLIENT_QUEUED,
    LX_CLIENT_RUNNING,
    LX_CLIENT_DONE,
    LX_CLIENT_FAILED,
    LX_CLIENT_CANCELLED
} lx_client_state;

/* Times are CLOCK_MONOTONIC seconds of the machine; -1 or 0: has not happened. */
typedef struct lx_client_job {
    char id[41];
    lx_client_state state;
    int64_t seed;
    int32_t width, height, frames;
    char output[129]; /* its name in lx_client_output_dir() once it is done */
    char error[1024];
    char prompt[256]; /* its beginning */
    double submit_s, end_s;
    int32_t n_tokens, n_dropped; /* of the prompt; dropped: beyond what the model reads */
    uint64_t file_bytes, retries;
    struct {
        int64_t replica;       /* -1: not begun */
        double start_s, end_s; /* at work, without queueing */
        double wait_s;         /* of these: for another stage (a free slot, a chunk of frames) */
        uint64_t peak_bytes;   /* of that process */
    } stage[LX_CLIENT_STAGES];
    int32_t n_step_s;                   /* denoising steps whose time is known */
    double step_s[LX_CLIENT_STEPS_MAX]; /* seconds of each */
} lx_client_job;

typedef struct lx_client_stage {
    int32_t stage, replica;
    char state[64]; /* starting, loading, ready, busy, parked, dead */
    char device[64];
    int64_t pid;
    char job[41]; /* what it works on, or "" */
    char unit[64];
    uint64_t done, total, rss_bytes, peak_bytes, restarts, jobs;
    char text[1024]; /* how it last died, or "" */
} lx_client_stage;

/* How tensors go from one process to another, as a test at start showed. */
typedef struct lx_client_link {
    int32_t from, from_replica, to, to_replica; /* stages and their replicas */
    bool is_tested;                             /* both are ready, and have tried */
    char transport[64];                         /* ipc, peer, ring, shm; none: nothing works */
    double ms;                                  /* for a small tensor */
    char text[1024];                            /* why it is not a better one, or "" */
} lx_client_link;

typedef struct lx_client_summary {
    double now_s;
    int64_t n_queued, n_running;
    char state[64]; /* running, paused, draining, degraded, stopping */
} lx_client_summary;

typedef struct lx_client_event {
    char id[41];
    double now_s;
    lx_client_state state;
    int32_t stage; /* -1: none */
    char unit[64]; /* what is counted: block, layer, chunk, frame, byte */
    uint64_t done, total;
    double elapsed_s, eta_s; /* of the job; eta -1: unknown */
    char text[1024];
} lx_client_event;

/* What to receive; any function may be NULL. Pointers are borrowed during the call. */
typedef struct lx_client_sink {
    void (*job)(void *self, const lx_client_job *job);
    void (*stage)(void *self, const lx_client_stage *stage);
    void (*link)(void *self, const lx_client_link *link); /* only with a function for stages */
    void *self;
} lx_client_sink;

/** Called for every event, and with NULL at least every 100 ms; false ends the watching. It must
 *  not call into the same client except lx_client_query. */
typedef bool (*lx_client_event_fn)(void *self, const lx_client_event *event);

typedef enum lx_client_order {
    LX_CLIENT_CANCEL, /* one job */
    LX_CLIENT_RETRY,  /* one job that failed or was cancelled */
    LX_CLIENT_PAUSE,  /* start no more jobs */
    LX_CLIENT_RESUME,
    LX_CLIENT_DRAIN,    /* accept no more jobs; answered when the queue is empty */
    LX_CLIENT_SHUTDOWN, /* orderly stop; answered at once */
    LX_CLIENT_RELEASE   /* pause; running jobs end, then device memory is free until resume */
} lx_client_order;

/**
 * Where the launcher is: `endpoint` if given, else the socket that belongs to the config file
 * `config` if given, else $LX2V_ENDPOINT, else the socket of ./config.yaml.
 *
 * @retval LX_ECONFIG  none of them says; or the config is wrong
 */
lx_status lx_client_find(char *out, size_t out_bytes, const char *endpoint, const char *config,
                         lx_err *err);

/** Connect to ipc:///PATH and greet. LX_ECONFIG: nobody listens there, or another user does.
 *  timeout_s: for this and for every later answer. tcp://HOST:PORT needs a key: $LX2V_KEY. */
lx_status lx_client_open(lx_client **out, const char *endpoint, double timeout_s, lx_err *err);
/** The same with a key file of `lx2v keys DIR --client NAME`; NULL: $LX2V_KEY. On ipc none is read.
 *  LX_ECONFIG: the key is missing, others may read it, or the launcher refuses it. */
lx_status lx_client_open_key(lx_client **out, const char *endpoint, const char *key,
                             double timeout_s, lx_err *err);
void lx_client_close(lx_client **client);

/** Where clips appear; "": on another machine than this. Borrowed until close. */
const char *lx_client_output_dir(const lx_client *client);

/** Checks the request, sends it, waits for the answer. When none comes it is sent once more with
 *  the same id. */
lx_status lx_client_submit(lx_client *client, const lx_client_request *request,
                           lx_client_accepted *out, lx_err *err);

/** Check alone, without a launcher: LX_ECONFIG names the field and what is accepted. */
lx_status lx_client_check(const lx_client_request *request, lx_err *err);

/** One job (id) or all (NULL), and stages and links if sink has functions for them. out: may be
 *  NULL. */
lx_status lx_client_query(lx_client *client, const char *id, const lx_client_sink *sink,
                          lx_client_summary *out, lx_err *err);

/** Follow one job (id) or all (NULL) until on_event says false. LX_ESTAGE: the launcher has gone
 *  and did not come back within 10 s. */
lx_status lx_client_watch(lx_client *client, const char *id, lx_client_event_fn on_event,
                          void *self, lx_err *err);

/** Give an order. id: for cancel and retry, else NULL. timeout_s: for this answer alone (drain
 *  may take long), negative: for ever, 0: the client's own. */
lx_status lx_client_command(lx_client *client, lx_client_order order, const char *id,
                            double timeout_s, lx_err *err);

const char *lx_client_state_name(lx_client_state state); /* "queued", ..., "cancelled" */
const char *lx_client_stage_name(int32_t stage);         /* "encoder", "dit", "vae", "mux" */

#endif
