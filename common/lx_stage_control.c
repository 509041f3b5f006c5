/*
 * lx_stage_control.c - the control thread: beats, orders, outgoing messages
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_stage_control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "lx_fault.h"
#include "lx_log.h"
#include "lx_process.h"

#define TICK_MS 100 /* progress is told at most this often */
#define FLUSH_S 1.0
#define LEAVE_S 1.0 /* after the launcher's death a stage has this long to clean up */

/* Blocked in every thread and read here: a handler would run on a computing thread (lx_process.c
 * says what that did). */
lx_status stage_catch_term(lx_stage *stage, lx_err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    stage->term_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return stage->term_fd < 0 ? lx_fail(err, LX_ESTAGE, "signalfd: %s", strerror(errno)) : LX_OK;
}

static bool term_came(const lx_stage *stage)
{
    struct signalfd_siginfo info;
    return read(stage->term_fd, &info, sizeof info) == sizeof info;
}

static void wake_control(lx_stage *stage)
{
    uint64_t one = 1;
    if (write(stage->wake_fd, &one, sizeof one) < 0)
        LX_D("wake-up already pending");
}

static void post_locked(lx_stage *stage, const lx_msg *msg)
{
    while (stage->n_out == STAGE_OUTBOX && !stage->closing)
        pthread_cond_wait(&stage->news, &stage->lock);
    if (stage->n_out == STAGE_OUTBOX)
        return;
    stage->outbox[(stage->first_out + stage->n_out) % STAGE_OUTBOX] = *msg;
    stage->n_out++;
}

void stage_post(lx_stage *stage, const lx_msg *msg)
{
    pthread_mutex_lock(&stage->lock);
    post_locked(stage, msg);
    pthread_mutex_unlock(&stage->lock);
    wake_control(stage);
}

void stage_end_job(lx_stage *stage, const lx_msg *msg)
{
    pthread_mutex_lock(&stage->lock);
    post_locked(stage, msg);
    stage->has_job = stage->aborted = false;
    stage->n_chunks = 0;
    stage->unit[0] = 0;
    stage->done = stage->total = 0;
    pthread_mutex_unlock(&stage->lock);
    wake_control(stage);
}

/* --- orders ---------------------------------------------------------------------------------- */

static bool is_current_locked(const lx_stage *stage, const lx_msg *msg)
{
    return stage->has_job && stage->job.attempt == msg->attempt &&
           !strcmp(stage->job.job, msg->job);
}

static void take_job_locked(lx_stage *stage, const lx_msg *msg)
{
    if (stage->has_job) {
        lx_msg no = {.kind = LX_MSG_FAILED, .attempt = msg->attempt};
        memcpy(no.job, msg->job, sizeof no.job);
        no.u.failed.status = LX_EAGAIN;
        snprintf(no.u.failed.text, sizeof no.u.failed.text, "busy with another job");
        post_locked(stage, &no);
        return;
    }
    stage->job = *msg;
    stage->has_job = true;
    stage->aborted = false;
    stage->n_chunks = 0;
}

static void take_chunk_locked(lx_stage *stage, const lx_msg *msg)
{
    if (stage->n_chunks == STAGE_CHUNKS) { /* cannot happen: a lender has fewer slots */
        LX_W("job=%s chunk=%d dropped: the queue is full", msg->job, msg->u.artifact.index);
        stage->aborted = true;
        return;
    }
    stage->chunk[(stage->first_chunk + stage->n_chunks) % STAGE_CHUNKS] =
        (stage_chunk){msg->u.artifact.ticket, msg->u.artifact.is_last != 0};
    stage->n_chunks++;
}

static void take_link_locked(lx_stage *stage, const lx_msg *msg)
{
    if (stage->n_links == STAGE_LINKS) { /* a launcher tests one link of a stage at a time */
        LX_W("%s dropped: the queue is full", lx_msg_kind_name(msg->kind));
        return;
    }
    stage->link_kind[stage->n_links] = msg->kind;
    stage->link_seed[stage->n_links] = msg->u.link.seed;
    stage->link_ticket[stage->n_links++] = msg->u.link.ticket;
}

/* Without it nobody knows what this stage should be doing. */
static void lose(lx_stage *stage)
{
    LX_E("a message of the launcher is missing: leaving");
    pthread_mutex_lock(&stage->lock);
    stage->stop = true;
    pthread_cond_broadcast(&stage->news);
    pthread_mutex_unlock(&stage->lock);
}

static void obey(lx_stage *stage, const lx_msg *msg)
{
    lx_heard heard = lx_number_hear(&stage->number, msg);
    if (heard == LX_HEARD_GAP)
        lose(stage);
    if (heard != LX_HEARD_NEXT)
        return;
    pthread_mutex_lock(&stage->lock);
    switch (msg->kind) {
    case LX_MSG_JOB:
        take_job_locked(stage, msg);
        break;
    case LX_MSG_INPUT:
        if (is_current_locked(stage, msg) && !stage->aborted)
            take_chunk_locked(stage, msg);
        break;
    case LX_MSG_RETIRE:
        if (stage->n_retired < STAGE_RETIRED)
            stage->retired[stage->n_retired++] = msg->u.lease.serial;
        break;
    case LX_MSG_LINK_ASK:
    case LX_MSG_LINK_TEST:
        take_link_locked(stage, msg);
        break;
    case LX_MSG_ABORT:
        if (is_current_locked(stage, msg))
            stage->aborted = true;
        break;
    case LX_MSG_STOP:
        stage->stop = true;
        break;
    case LX_MSG_LEASE:
        stage->has_lease = true;
        break;
    case LX_MSG_RELEASE:
        stage->is_recalled = true;
        break;
    default:
        LX_W("message %s is not for a stage", lx_msg_kind_name(msg->kind));
    }
    pthread_cond_broadcast(&stage->news);
    pthread_mutex_unlock(&stage->lock);
}

/* --- sending --------------------------------------------------------------------------------- */

/* Until all is sent, or the launcher takes no more. */
static void send_outbox(lx_stage *stage)
{
    static lx_msg msg; /* this thread's only; 20 KiB */
    for (;;) {
        pthread_mutex_lock(&stage->lock);
        bool empty = !stage->n_out;
        if (!empty)
            msg = stage->outbox[stage->first_out];
        pthread_mutex_unlock(&stage->lock);
        if (empty)
            return;
        lx_err why = {0};
        lx_status status = lx_number_send(&stage->number, stage->bus, NULL, &msg, &why);
        if (status == LX_EAGAIN)
            return;
        if (status != LX_OK)
            LX_E("cannot send %s: %s", lx_msg_kind_name(msg.kind), why.message);
        if (msg.kind == LX_MSG_ARTIFACT)
            (void)LX_FAULT("stage.lent");
        else if (msg.kind == LX_MSG_RELEASED)
            (void)LX_FAULT("stage.released");
        pthread_mutex_lock(&stage->lock);
        stage->first_out = (stage->first_out + 1) % STAGE_OUTBOX;
        stage->n_out--;
        pthread_cond_broadcast(&stage->news);
        pthread_mutex_unlock(&stage->lock);
    }
}

static void send_beat(lx_stage *stage)
{
    lx_msg msg = {.kind = LX_MSG_BEAT};
    pthread_mutex_lock(&stage->lock);
    if (stage->has_job) {
        memcpy(msg.job, stage->job.job, sizeof msg.job);
        msg.attempt = stage->job.attempt;
    }
    memcpy(msg.u.beat.unit, stage->unit, sizeof msg.u.beat.unit);
    msg.u.beat.done = stage->done;
    msg.u.beat.total = stage->total;
    msg.u.beat.moved = stage->moved;
    pthread_mutex_unlock(&stage->lock);
    msg.u.beat.at_s = lx_now_s();
    msg.u.beat.rss_bytes = lx_rss_bytes();
    msg.u.beat.peak_bytes = lx_peak_bytes();
    /* A beat that finds no room is not missed. */
    lx_number_send(&stage->number, stage->bus, NULL, &msg, NULL);
}

static void beat_if_due(lx_stage *stage, double *last_s, uint64_t *last_moved)
{
    pthread_mutex_lock(&stage->lock);
    uint64_t moved = stage->moved;
    pthread_mutex_unlock(&stage->lock);
    double now = lx_now_s(), since = now - *last_s;
    if (since >= stage->config.supervision.beat_s ||
        (moved != *last_moved && since >= TICK_MS * 1e-3)) {
        send_beat(stage);
        *last_s = now;
        *last_moved = moved;
    }
}

/* The launcher is gone. PR_SET_PDEATHSIG says so too, and sooner; this holds where that is lost. */
static void note_orphaned(lx_stage *stage)
{
    LX_W("the launcher is gone");
    stage->is_deaf = true;
    stage->orphaned_s = lx_now_s();
    pthread_mutex_lock(&stage->lock);
    stage->stop = true;
    stage->n_out = 0; /* nobody reads it */
    pthread_cond_broadcast(&stage->news);
    pthread_mutex_unlock(&stage->lock);
}

static void sleep_until_woken(lx_stage *stage)
{
    struct pollfd fds[] = {{.fd = lx_bus_fd(stage->bus), .events = POLLIN},
                           {.fd = stage->wake_fd, .events = POLLIN},
                           {.fd = stage->term_fd, .events = POLLIN},
                           {.fd = stage->is_deaf ? -1 : stage->lifeline, .events = 0}};
    uint64_t count;
    poll(fds, 4, TICK_MS);
    if (fds[3].revents)
        note_orphaned(stage);
    if (read(stage->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        LX_D("wake-up descriptor: %s", strerror(errno));
}

/* Whether the thread shall end: asked to, and all said (or a second gone by). */
static bool is_over(lx_stage *stage, double *closing_s)
{
    bool is_told = term_came(stage);
    pthread_mutex_lock(&stage->lock);
    if (is_told && !stage->stop) {
        stage->stop = true;
        pthread_cond_broadcast(&stage->news);
    }
    /* Looked at together: what was posted before closing is sent, however fast the job was. */
    bool closing = stage->closing, unsent = stage->n_out > 0;
    pthread_mutex_unlock(&stage->lock);
    if (!closing)
        return false;
    if (*closing_s == 0)
        *closing_s = lx_now_s();
    return !unsent || lx_now_s() - *closing_s > FLUSH_S;
}

void *stage_control_thread(void *self)
{
    lx_stage *stage = self;
    static lx_msg msg; /* this thread's only */
    double last_beat_s = 0, closing_s = 0;
    uint64_t last_moved = 0;
    for (;;) {
        send_outbox(stage);
        while (lx_bus_receive(stage->bus, NULL, &msg, 0, NULL) == LX_OK)
            obey(stage, &msg);
        if (is_over(stage, &closing_s))
            break;
        if (stage->orphaned_s > 0 && lx_now_s() - stage->orphaned_s > LEAVE_S)
            _exit(1); /* it computes, and would for minutes */
        beat_if_due(stage, &last_beat_s, &last_moved);
        sleep_until_woken(stage);
    }
    return NULL;
}

void stage_control_join(lx_stage *stage)
{
    pthread_mutex_lock(&stage->lock);
    stage->closing = true;
    pthread_cond_broadcast(&stage->news);
    pthread_mutex_unlock(&stage->lock);
    wake_control(stage);
    pthread_join(stage->control, NULL);
}
