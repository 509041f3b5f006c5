/*
 * lx_stage.c - the working thread's side of a stage: jobs, lending, borrowing, progress
 * SPDX-License-Identifier: Apache-2.0
 *
 * Two threads. The control thread (lx_stage_control.c) owns the socket: it beats, takes orders and
 * sends what the working thread posts. They meet in struct lx_stage under one lock.
 */
#include "lx_stage.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "lx_fault.h"
#include "lx_log.h"
#include "lx_process.h"
#include "lx_stage_control.h"
#include "lx_utf8.h"

#define HANDOVER_BYTES 512
#define WAIT_S         1 /* a lost wake-up costs at most this; there is none known */

struct lx_stage_job {
    lx_stage *stage;
    lx_job params;
    lx_ticket input; /* serial 0: none, or already borrowed */
    int32_t attempt, n_chunks_out;
    uint64_t lent[STAGE_LENT_MAX]; /* serials published for this job */
    size_t n_lent;
    double start_s, end_s; /* end_s: when the last artifact was handed on; 0: not yet */
    double wait_s;         /* of this: for slots and chunks */
    int n_tokens, n_dropped, n_frames, n_step_s;
    double step_s[LX_LIMIT_STEPS];
    uint64_t file_bytes;
    uint64_t given_bytes, saved_bytes; /* of the latent in the spool: when given, now */
    uint32_t given_crc, saved_crc;
    char notice[LX_LIMIT_TEXT];
};

/* --- opening --------------------------------------------------------------------------------- */

typedef struct stage_args {
    const char *config;
    int replica, handover, shared, settings;
    int64_t vram, ram, lease;
} stage_args;

static lx_status parse_bytes(const char *flag, const char *text, int64_t *out, lx_err *err)
{
    if (lx_parse_i64(text, out) && *out >= 0)
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%s %.40s: a number of bytes is accepted", flag, text);
}

static lx_status parse_args(int argc, char **argv, stage_args *out, lx_err *err)
{
    static const struct option options[] = {{"config", required_argument, 0, 'c'},
                                            {"replica", required_argument, 0, 'r'},
                                            {"handover", required_argument, 0, 'h'},
                                            {"vram", required_argument, 0, 'v'},
                                            {"ram", required_argument, 0, 'm'},
                                            {"lease", required_argument, 0, 'l'},
                                            {"shared", required_argument, 0, 's'},
                                            {"settings", required_argument, 0, 'g'},
                                            {0}};
    *out = (stage_args){.handover = -1, .settings = -1};
    opterr = 0;
    lx_status status = LX_OK;
    for (int c; status == LX_OK && (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'c')
            out->config = optarg;
        else if (c == 'r')
            out->replica = atoi(optarg);
        else if (c == 'h')
            out->handover = atoi(optarg);
        else if (c == 's')
            out->shared = atoi(optarg);
        else if (c == 'g')
            out->settings = atoi(optarg);
        else if (c == 'v')
            status = parse_bytes("--vram", optarg, &out->vram, err);
        else if (c == 'm')
            status = parse_bytes("--ram", optarg, &out->ram, err);
        else if (c == 'l')
            status = parse_bytes("--lease", optarg, &out->lease, err);
        else
            return lx_fail(err, LX_ECONFIG,
                           "unknown option %s; `%s run --help` runs one stage by hand",
                           argv[optind - 1], argv[0]);
    }
    if (status != LX_OK)
        return status;
    if (!out->config || out->handover < 0)
        return lx_fail(
            err, LX_ECONFIG,
            "this is a stage of lx2v: lx2v-launch starts it. To run it by hand: %s run --help",
            argv[0]);
    if (out->replica < 0 || out->replica >= LX_LIMIT_REPLICAS)
        return lx_fail(err, LX_ECONFIG, "--replica %d: 0 to %d", out->replica,
                       LX_LIMIT_REPLICAS - 1);
    return LX_OK;
}

/* One line from the launcher: where to connect and how to prove who we are. If it says so, its end
 * stays open for as long as the launcher lives. */
static lx_status read_handover(lx_stage *stage, int fd, lx_err *err)
{
    char line[HANDOVER_BYTES] = "";
    size_t n = 0;
    while (n < sizeof line - 1 && !memchr(line, '\n', n)) {
        ssize_t got = read(fd, line + n, sizeof line - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    _Static_assert(sizeof stage->endpoint > 200, "scanned width");
    char stays[8] = "";
    int found = sscanf(
        line, "endpoint=%200s token=%32[0-9a-f] instance=%32[0-9a-f] epoch=%" SCNu64 " stays=%7s",
        stage->endpoint, stage->token, stage->instance, &stage->epoch, stays);
    if (found == 5 && !strcmp(stays, "open") && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0)
        stage->lifeline = fd;
    else
        close(fd);
    return found >= 4 ? LX_OK : lx_fail(err, LX_ECONFIG, "the launcher's hand-over is incomplete");
}

/* What the launcher follows, not what the file has become meanwhile. */
static lx_status read_config(lx_stage *stage, const stage_args *args, lx_err *err)
{
    if (args->settings < 0)
        return lx_config_load(&stage->config, args->config, err);
    lx_status status = lx_config_from_fd(&stage->config, args->settings, err);
    close(args->settings);
    return status;
}

static lx_status start_control(lx_stage *stage, lx_err *err)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&stage->lock, NULL);
    pthread_cond_init(&stage->news, &attributes);
    pthread_condattr_destroy(&attributes);
    stage->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stage->wake_fd < 0)
        return lx_fail(err, LX_ESTAGE, "eventfd: %s", strerror(errno));
    lx_status status = lx_bus_connect(&stage->bus, stage->endpoint, err);
    if (status != LX_OK)
        return status;
    int failed = pthread_create(&stage->control, NULL, stage_control_thread, stage);
    if (failed)
        return lx_fail(err, LX_ESTAGE, "control thread: %s", strerror(failed));
    stage->has_control = true;
    return LX_OK;
}

static void post_hello(lx_stage *stage)
{
    lx_msg msg = {.kind = LX_MSG_HELLO};
    memcpy(msg.u.hello.token, stage->token, sizeof msg.u.hello.token);
    msg.u.hello.stage = (int32_t)stage->kind;
    msg.u.hello.replica = stage->replica;
    msg.u.hello.epoch = stage->epoch;
    msg.u.hello.pid = getpid();
    snprintf(msg.u.hello.version, sizeof msg.u.hello.version, "%s", LX2V_VERSION);
    stage_post(stage, &msg);
}

static lx_status progress_step(void *self, const char *unit, uint64_t done, uint64_t total,
                               lx_err *err);

/* The outbox is large and used bit by bit: have its pages now, so that memory is flat later. */
static void touch_pages(lx_stage *stage)
{
    volatile char *bytes = (volatile char *)stage;
    for (size_t i = 0; i < sizeof *stage; i += 1024)
        bytes[i] = 0;
}

lx_status lx_stage_open(lx_stage **out, int argc, char **argv, lx_stage_kind kind, lx_err *err)
{
    lx_log_open(lx_stage_kind_name(kind), LX_LOG_INFO);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* beyond a limit of file sizes: an error, as on a full disk */
    signal(SIGINT, SIG_IGN);  /* Ctrl-C reaches the whole group; the launcher decides the order */
    stage_args args;
    lx_status status = parse_args(argc, argv, &args, err);
    if (status != LX_OK)
        return status;
    bool is_orphan = LX_FAULT("stage.orphan") != 0; /* nothing tells it of its launcher's end */
    prctl(PR_SET_PDEATHSIG, is_orphan || LX_FAULT("stage.deathsig") ? 0 : SIGKILL);
    lx_stage *stage = calloc(1, sizeof *stage);
    if (!stage)
        return lx_fail(err, LX_EAGAIN, "out of memory for the stage's record");
    touch_pages(stage);
    *out = stage; /* the caller closes it, whatever happens from here on */
    stage->kind = kind;
    stage->replica = args.replica;
    stage->vram = (uint64_t)args.vram;
    stage->ram = (uint64_t)args.ram;
    stage->is_leased = args.lease != 0;
    stage->wake_fd = stage->term_fd = stage->lifeline = -1;
    stage->opened_s = lx_now_s();
    stage->progress = (lx_progress){.step = progress_step, .self = stage};
    status = read_handover(stage, args.handover, err);
    stage->is_deaf = is_orphan;
    if (status == LX_OK)
        status = read_config(stage, &args, err);
    if (status == LX_OK)
        status = lx_config_check_build(&stage->config, err);
    if (status != LX_OK)
        return status;
    lx_log_open(lx_stage_kind_name(kind), stage->config.log_level);
    if (args.shared > 0 && fcntl(args.shared, F_SETFD, FD_CLOEXEC) == 0)
        stage->shared_fd = args.shared; /* open for as long as we live: the lock on it is ours */
    if (args.replica >= stage->config.stage[kind].n_replicas)
        return lx_fail(err, LX_ECONFIG, "replica %d of %s, config.yaml has %d", args.replica,
                       lx_stage_kind_name(kind), stage->config.stage[kind].n_replicas);
    const char *slow = getenv("LX2V_TEST_SLOW_UNIT_MS"); /* for tests: a machine 100 times slower */
    stage->slow_ms = slow ? atoi(slow) : 0;
    status = stage_catch_term(stage, err);
    if (status == LX_OK)
        status = start_control(stage, err);
    if (status == LX_OK)
        post_hello(stage);
    return status;
}

const lx_config *lx_stage_config_of(const lx_stage *stage)
{
    return &stage->config;
}

const lx_replica_config *lx_stage_replica(const lx_stage *stage)
{
    return &stage->config.stage[stage->kind].replica[stage->replica];
}

int lx_stage_shared_fd(const lx_stage *stage)
{
    return stage->shared_fd;
}

uint64_t lx_stage_vram(const lx_stage *stage)
{
    return stage->vram;
}

uint64_t lx_stage_ram(const lx_stage *stage)
{
    return stage->ram;
}

const lx_progress *lx_stage_progress(lx_stage *stage)
{
    return &stage->progress;
}

void lx_stage_ready(lx_stage *stage, const char *weights_id, uint64_t weight_bytes,
                    uint64_t arena_bytes)
{
    lx_msg msg = {.kind = LX_MSG_READY};
    (void)LX_FAULT("stage.load");
    stage->is_ready = true;
    msg.u.ready.load_s = lx_now_s() - stage->opened_s;
    msg.u.ready.weight_bytes = weight_bytes;
    msg.u.ready.arena_bytes = arena_bytes;
    snprintf(msg.u.ready.weights_id, sizeof msg.u.ready.weights_id, "%s",
             weights_id ? weights_id : "");
    stage_post(stage, &msg);
    LX_I("ready load_ms=%.0f weights_mib=%.1f arena_mib=%.1f", msg.u.ready.load_s * 1e3,
         (double)weight_bytes / 0x1p20, (double)arena_bytes / 0x1p20);
}

/* --- progress and waiting -------------------------------------------------------------------- */

lx_status stage_stopped_locked(const lx_stage *stage, lx_err *err)
{
    if (stage->stop)
        return lx_fail(err, LX_ECANCEL, "the stage was told to stop");
    if (stage->aborted)
        return lx_fail(err, LX_ECANCEL, "the job was aborted");
    return LX_OK;
}

static lx_status progress_step(void *self, const char *unit, uint64_t done, uint64_t total,
                               lx_err *err)
{
    lx_stage *stage = self;
    if (stage->is_ready)
        (void)LX_FAULT("stage.compute");
    pthread_mutex_lock(&stage->lock);
    snprintf(stage->unit, sizeof stage->unit, "%s", unit);
    stage->done = done;
    stage->total = total;
    stage->moved++;
    lx_status status = stage_stopped_locked(stage, err);
    pthread_mutex_unlock(&stage->lock);
    if (status == LX_OK && stage->slow_ms > 0 && strcmp(unit, "byte")) {
        struct timespec t = {stage->slow_ms / 1000, stage->slow_ms % 1000 * 1000000L};
        nanosleep(&t, NULL);
    }
    return status;
}

/* Sleeps until the control thread has news; the caller holds the lock and looks again. */
static void wait_news_locked(lx_stage *stage)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_S;
    pthread_cond_timedwait(&stage->news, &stage->lock, &until);
}

/* The same inside a job, whose time this is not: another stage is behind. */
static void wait_other_locked(lx_stage_job *job)
{
    double from_s = lx_now_s();
    wait_news_locked(job->stage);
    job->wait_s += lx_now_s() - from_s;
}

/* --- inside a handler ------------------------------------------------------------------------ */

static lx_msg job_msg(const lx_stage_job *job, lx_msg_kind kind)
{
    lx_msg msg = {.kind = kind, .attempt = job->attempt};
    memcpy(msg.job, job->params.id, sizeof msg.job);
    return msg;
}

const lx_job *lx_stage_job_of(const lx_stage_job *job)
{
    return &job->params;
}

int lx_stage_attempt(const lx_stage_job *job)
{
    return job->attempt;
}

lx_status lx_stage_input_shape(lx_stage_job *job, lx_dtype *dtype, lx_shape *shape, lx_err *err)
{
    if (!job->input.serial)
        return lx_fail(err, LX_EJOB, "the job came without an input");
    *dtype = (lx_dtype)job->input.dtype;
    shape->n_dims = job->input.n_dims;
    memcpy(shape->dim, job->input.dims, sizeof shape->dim);
    return lx_shape_bytes(shape, *dtype, NULL, NULL, err);
}

static lx_status borrow_and_release(lx_stage_job *job, const lx_ticket *ticket, bool is_on_card,
                                    void *dst, uint64_t dst_bytes, lx_err *err)
{
    lx_status status = stage_borrow(job->stage, ticket, is_on_card, dst, dst_bytes, err);
    if (status != LX_OK)
        return status;
    (void)LX_FAULT("stage.borrowed");
    lx_msg msg = job_msg(job, LX_MSG_RELEASED);
    msg.u.lease.serial = ticket->serial;
    stage_post(job->stage, &msg);
    return LX_OK;
}

lx_status lx_stage_borrow(lx_stage_job *job, void *dst, uint64_t dst_bytes, lx_err *err)
{
    if (!job->input.serial)
        return lx_fail(err, LX_EJOB, "the job came without an input");
    return borrow_and_release(job, &job->input, false, dst, dst_bytes, err);
}

lx_status lx_stage_borrow_on_card(lx_stage_job *job, void *dst_device, uint64_t dst_bytes,
                                  lx_err *err)
{
    if (!job->input.serial)
        return lx_fail(err, LX_EJOB, "the job came without an input");
    return borrow_and_release(job, &job->input, true, dst_device, dst_bytes, err);
}

lx_status lx_stage_next_chunk(lx_stage_job *job, void *dst, uint64_t dst_bytes, lx_shape *shape,
                              bool *is_last, lx_err *err)
{
    lx_stage *stage = job->stage;
    stage_chunk chunk;
    pthread_mutex_lock(&stage->lock);
    lx_status status;
    while ((status = stage_stopped_locked(stage, err)) == LX_OK && !stage->n_chunks)
        wait_other_locked(job);
    if (status == LX_OK) {
        chunk = stage->chunk[stage->first_chunk];
        stage->first_chunk = (stage->first_chunk + 1) % STAGE_CHUNKS;
        stage->n_chunks--;
    }
    pthread_mutex_unlock(&stage->lock);
    if (status != LX_OK)
        return status;
    shape->n_dims = chunk.ticket.n_dims;
    memcpy(shape->dim, chunk.ticket.dims, sizeof shape->dim);
    *is_last = chunk.is_last;
    if (chunk.ticket.dtype != LX_DTYPE_U8)
        return lx_fail(err, LX_EJOB, "chunk of frames with dtype %s",
                       lx_dtype_name((lx_dtype)chunk.ticket.dtype));
    return borrow_and_release(job, &chunk.ticket, false, dst, dst_bytes, err);
}

lx_status lx_stage_lend(lx_stage_job *job, lx_dtype dtype, const lx_shape *shape, lx_tensor *out,
                        lx_err *err)
{
    lx_stage *stage = job->stage;
    pthread_mutex_lock(&stage->lock);
    lx_status status = LX_OK;
    for (;;) {
        stage_apply_retirements_locked(stage);
        status = stage_stopped_locked(stage, err);
        if (status == LX_OK)
            status = lx_share_begin(stage->desk, dtype, shape, out, err);
        if (status != LX_EAGAIN)
            break;
        wait_other_locked(job);
    }
    pthread_mutex_unlock(&stage->lock);
    return status;
}

/* From the slot, or from the card's memory where src_device is given. */
static lx_status publish(lx_stage_job *job, const void *src_device, bool is_last, lx_err *err)
{
    lx_msg msg = job_msg(job, LX_MSG_ARTIFACT);
    lx_share *desk = job->stage->desk;
    lx_ticket *ticket = &msg.u.artifact.ticket;
    lx_status status = src_device ? lx_share_publish_from(desk, src_device, ticket, err)
                                  : lx_share_publish(desk, ticket, err);
    if (status != LX_OK)
        return status;
    msg.u.artifact.index = job->n_chunks_out++;
    msg.u.artifact.is_last = is_last;
    if (is_last) /* before anybody hears of it: the next stage cannot begin before this ends */
        job->end_s = lx_now_s();
    if (job->n_lent < STAGE_LENT_MAX)
        job->lent[job->n_lent++] = msg.u.artifact.ticket.serial;
    stage_post(job->stage, &msg);
    return LX_OK;
}

lx_status lx_stage_publish(lx_stage_job *job, bool is_last, lx_err *err)
{
    return publish(job, NULL, is_last, err);
}

lx_status lx_stage_publish_from_card(lx_stage_job *job, const void *src_device, bool is_last,
                                     lx_err *err)
{
    return publish(job, src_device, is_last, err);
}

void lx_stage_note_tokens(lx_stage_job *job, int n_tokens, int n_dropped)
{
    job->n_tokens = n_tokens;
    job->n_dropped = n_dropped;
}

void lx_stage_note_steps(lx_stage_job *job, int n, const double *step_s)
{
    job->n_step_s = n < LX_LIMIT_STEPS ? n : LX_LIMIT_STEPS;
    memcpy(job->step_s, step_s, (size_t)job->n_step_s * sizeof *step_s);
}

uint64_t lx_stage_saved(const lx_stage_job *job, uint32_t *crc)
{
    *crc = job->given_crc;
    return job->given_bytes;
}

void lx_stage_note_saved(lx_stage_job *job, uint64_t bytes, uint32_t crc)
{
    job->saved_bytes = bytes;
    job->saved_crc = crc;
}

void lx_stage_note_file(lx_stage_job *job, int n_frames, uint64_t file_bytes)
{
    job->n_frames = n_frames;
    job->file_bytes = file_bytes;
}

void lx_stage_note(lx_stage_job *job, const char *notice)
{
    lx_utf8_copy(job->notice, sizeof job->notice, notice);
}

/* --- the loop -------------------------------------------------------------------------------- */

/* Waits for an order, and serves tests of links meanwhile. *go: false when the stage shall end. */
static lx_status next_job(lx_stage *stage, lx_stage_job *job, bool *go, lx_err *err)
{
    lx_status status = LX_OK;
    memset(job, 0, sizeof *job);
    job->stage = stage;
    pthread_mutex_lock(&stage->lock);
    while (status == LX_OK && !stage->stop &&
           (!stage->has_job || stage->n_links || stage->is_recalled)) {
        if (stage->is_recalled) {
            pthread_mutex_unlock(&stage->lock);
            stage_give_back(stage);
            pthread_mutex_lock(&stage->lock);
            continue;
        }
        if (!stage->n_links) {
            wait_news_locked(stage);
            continue;
        }
        pthread_mutex_unlock(&stage->lock);
        status = stage_serve_link(stage, err);
        pthread_mutex_lock(&stage->lock);
    }
    *go = status == LX_OK && !stage->stop;
    if (*go) {
        job->params = stage->job.u.work.job;
        job->input = stage->job.u.work.ticket;
        job->given_bytes = stage->job.u.work.saved_bytes;
        job->given_crc = (uint32_t)stage->job.u.work.saved_crc;
        job->attempt = stage->job.attempt;
    }
    pthread_mutex_unlock(&stage->lock);
    if (*go)
        (void)LX_FAULT("stage.given");
    return status;
}

/* A failed attempt's tensors have no reader any more: the launcher drops what it still gets. */
static void take_back(lx_stage_job *job)
{
    lx_stage *stage = job->stage;
    if (!stage->desk)
        return;
    pthread_mutex_lock(&stage->lock);
    lx_share_publish(stage->desk, NULL, NULL);
    for (size_t i = 0; i < job->n_lent; i++)
        lx_share_retire(stage->desk, job->lent[i]);
    pthread_mutex_unlock(&stage->lock);
}

static void report(lx_stage_job *job, lx_status status, const lx_err *err)
{
    lx_msg msg = job_msg(job, status == LX_OK ? LX_MSG_DONE : LX_MSG_FAILED);
    if (status == LX_OK) {
        msg.u.done.start_s = job->start_s;
        msg.u.done.end_s = job->end_s > 0 ? job->end_s : lx_now_s();
        msg.u.done.wait_s = job->wait_s;
        msg.u.done.peak_bytes = lx_peak_bytes();
        msg.u.done.n_step_s = job->n_step_s;
        memcpy(msg.u.done.step_s, job->step_s, sizeof msg.u.done.step_s);
        msg.u.done.n_tokens = job->n_tokens;
        msg.u.done.n_dropped = job->n_dropped;
        msg.u.done.n_frames = job->n_frames;
        msg.u.done.file_bytes = job->file_bytes;
        msg.u.done.saved_bytes = job->saved_bytes;
        msg.u.done.saved_crc = job->saved_crc;
        memcpy(msg.u.done.notice, job->notice, sizeof msg.u.done.notice);
        LX_I("job=%s attempt=%d done ms=%.0f", msg.job, msg.attempt,
             (msg.u.done.end_s - job->start_s) * 1e3);
    } else {
        msg.u.failed.status = (int32_t)status;
        lx_utf8_copy(msg.u.failed.text, sizeof msg.u.failed.text, err->message);
        LX_I("job=%s attempt=%d %s why=\"%s\"", msg.job, msg.attempt, lx_status_name(status),
             err->message);
    }
    stage_end_job(job->stage, &msg);
}

static void announce_start(lx_stage_job *job)
{
    job->start_s = lx_now_s();
    lx_msg msg = job_msg(job, LX_MSG_STARTED);
    msg.u.beat.at_s = job->start_s;
    stage_post(job->stage, &msg);
}

lx_status lx_stage_run(lx_stage *stage, lx_job_fn on_job, void *model, lx_err *err)
{
    static lx_stage_job job; /* one at a time; too large for a stack of unknown depth */
    for (bool go;;) {
        lx_err why = {0};
        lx_status waited = next_job(stage, &job, &go, err);
        if (!go)
            return waited;
        lx_status status = stage_hold(stage, &why);
        if (status == LX_OK) {
            announce_start(&job);
            status = on_job(model, &job, &why);
        }
        if (status != LX_OK)
            take_back(&job);
        report(&job, status, &why);
        if (status != LX_OK && status != LX_EJOB && status != LX_ECANCEL && status != LX_EAGAIN) {
            if (err)
                *err = why;
            return status;
        }
    }
}

/* Why it cannot even start: the launcher's obituary quotes it. */
static void post_last_words(lx_stage *stage, const lx_err *err)
{
    lx_msg msg = {.kind = LX_MSG_FAILED};
    msg.u.failed.status = (int32_t)err->status;
    lx_utf8_copy(msg.u.failed.text, sizeof msg.u.failed.text, err->message);
    stage_post(stage, &msg);
}

void lx_stage_close(lx_stage **stage, const lx_err *err)
{
    lx_err last = err ? *err : (lx_err){0};
    lx_stage *s = stage ? *stage : NULL;
    if (s && s->has_control && !s->is_ready && last.status == LX_EAGAIN)
        stage_blame_users(s, &last);
    if (last.status != LX_OK)
        LX_E("%s: %s (%s:%d)", lx_status_name(last.status), last.message, last.file, last.line);
    if (!s)
        return;
    (void)LX_FAULT("stage.stop");
    if (s->has_control && !s->is_ready && last.status != LX_OK)
        post_last_words(s, &last);
    if (s->has_control)
        stage_control_join(s);
    lx_bus_close(&s->bus);
    lx_share_close(&s->desk);
    if (s->term_fd >= 0)
        close(s->term_fd);
    if (s->lifeline >= 0)
        close(s->lifeline);
    if (s->wake_fd >= 0) {
        close(s->wake_fd);
        pthread_cond_destroy(&s->news);
        pthread_mutex_destroy(&s->lock);
    }
    free(s);
    *stage = NULL;
}
