/*
 * lx_stage_lease.c - the working thread's side of a card's memory: taken, and given back in turn
 * SPDX-License-Identifier: Apache-2.0
 *
 * Where the stages of a card overlap, memory is taken once and kept. Where they take turns, the
 * launcher's ledger (deploy/launcher/leases.h) grants it before the first use and asks it back when
 * another stage waits; it goes back between two jobs, never in one.
 *
 * Treacherous  A stage that holds memory and waits for a slot to lend from could wait for ever: the
 *              slot is free when the next stage has done its part, and that one may be waiting for
 *              the memory. So a stage first waits for a slot, giving memory back if asked, and
 *              then asks for memory. The VAE's slots are emptied by mux, which needs no card.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lx_device.h"
#include "lx_log.h"
#include "lx_process.h"
#include "lx_stage_control.h"

#define RETRY_S 2    /* between two attempts to take memory that others have */
#define AGAIN_S 30.0 /* between two lines about it */

static void wait_locked(lx_stage *stage, long seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_cond_timedwait(&stage->news, &stage->lock, &until);
}

/* --- giving back ------------------------------------------------------------------------------ */

void stage_give_back(lx_stage *stage)
{
    pthread_mutex_lock(&stage->lock);
    bool is_asked = stage->is_recalled && stage->has_lease;
    stage->is_recalled = false;
    pthread_mutex_unlock(&stage->lock);
    if (!is_asked)
        return;
    double from_s = lx_now_s();
    if (stage->has_arena)
        stage->arena.give(stage->arena.self);
    stage->has_arena = false;
    stage->is_lease_asked = false; /* a grant may have come after its job was aborted */
    pthread_mutex_lock(&stage->lock);
    stage->has_lease = false;
    pthread_mutex_unlock(&stage->lock);
    lx_msg msg = {.kind = LX_MSG_RELEASE};
    msg.u.arena.bytes = stage->arena.bytes;
    stage_post(stage, &msg);
    LX_I("device memory given back mib=%.0f ms=%.0f", (double)stage->arena.bytes / 0x1p20,
         (lx_now_s() - from_s) * 1e3);
}

/* --- taking ----------------------------------------------------------------------------------- */

/* Returns with a free slot, if this stage lends to another one on a card. */
static lx_status wait_for_slot(lx_stage *stage, lx_err *err)
{
    if (!stage->desk || stage->kind == LX_STAGE_VAE)
        return LX_OK;
    for (;;) {
        stage_give_back(stage);
        pthread_mutex_lock(&stage->lock);
        stage_apply_retirements_locked(stage);
        lx_status status = stage_stopped_locked(stage, err);
        bool is_free = lx_share_free_slots(stage->desk) > 0;
        if (status == LX_OK && !is_free && !stage->is_recalled)
            wait_locked(stage, 1);
        pthread_mutex_unlock(&stage->lock);
        if (status != LX_OK || is_free)
            return status;
    }
}

static lx_status wait_for_lease(lx_stage *stage, lx_err *err)
{
    lx_msg msg = {.kind = LX_MSG_LEASE};
    msg.u.arena.bytes = stage->arena.bytes;
    if (!stage->has_lease && !stage->is_lease_asked) {
        stage->is_lease_asked = true;
        stage_post(stage, &msg);
    }
    double from_s = lx_now_s();
    pthread_mutex_lock(&stage->lock);
    lx_status status = LX_OK;
    while (!stage->has_lease && (status = stage_stopped_locked(stage, err)) == LX_OK)
        wait_locked(stage, 1);
    if (stage->has_lease)
        stage->is_lease_asked = false;
    pthread_mutex_unlock(&stage->lock);
    if (lx_now_s() - from_s > 1)
        LX_I("device memory leased waited_s=%.1f", lx_now_s() - from_s);
    return status;
}

/* "Xorg (pid 1234) 0.31 GiB, ..." of the card; asks a process of its own (lx2v-probe). Returns the
 * card's free bytes, 0: not known. */
static uint64_t name_users(int card, char *text, size_t bytes)
{
    lx_cards *cards = malloc(sizeof *cards); /* 200 KiB */
    uint64_t free_bytes = 0;
    text[0] = 0;
    if (cards && lx_device_probe(cards, NULL, NULL) == LX_OK && card >= 0 && card < cards->n) {
        const lx_card *c = &cards->card[card];
        free_bytes = c->vram_free_bytes;
        for (int i = 0; i < c->n_processes; i++) {
            const lx_card_process *p = &c->process[i];
            size_t n = strlen(text);
            if (p->pid == getpid())
                continue;
            snprintf(text + n, bytes - n, "%s%s (pid %" PRId64 ") %.2f GiB", n ? ", " : "",
                     p->name[0] ? p->name : "a program", p->pid, (double)p->bytes / 0x1p30);
        }
    }
    if (!text[0])
        snprintf(text, bytes, "programs that the driver does not name");
    free(cards);
    return free_bytes;
}

void stage_blame_users(const lx_stage *stage, lx_err *err)
{
    char users[512], has[32] = "", figure[48] = "";
    lx_err why = *err;
    int card;
    const char *device = stage->config.stage[stage->kind].replica[stage->replica].device;
    if (!lx_device_is_card(device) || lx_device_find(&card, device, NULL) != LX_OK)
        return;
    uint64_t free_bytes = name_users(card, users, sizeof users);
    if (free_bytes)
        snprintf(figure, sizeof figure, "%s are free, ",
                 lx_bytes_text(free_bytes, has, sizeof has));
    snprintf(err->message, sizeof err->message, "%.400s; %sthe card is used by %s", why.message,
             figure, users);
}

/* Somebody else has the card's memory: say who, and wait until it is there. */
static lx_status take_arena(lx_stage *stage, lx_err *err)
{
    double said_s = -AGAIN_S, from_s = lx_now_s();
    for (;;) {
        lx_err why = {0};
        lx_status status = stage->arena.take(stage->arena.self, &why);
        if (status != LX_EAGAIN) {
            if (status != LX_OK && err)
                *err = why;
            return status;
        }
        if (lx_now_s() - said_s >= AGAIN_S) {
            char users[512];
            name_users(stage->arena.card, users, sizeof users);
            LX_W("waiting for device memory since_s=%.0f: %s; the card is used by %s",
                 lx_now_s() - from_s, why.message, users);
            said_s = lx_now_s();
        }
        pthread_mutex_lock(&stage->lock);
        snprintf(stage->unit, sizeof stage->unit, "memory");
        stage->moved++; /* this is no hang */
        wait_locked(stage, RETRY_S);
        status = stage_stopped_locked(stage, err);
        pthread_mutex_unlock(&stage->lock);
        if (status != LX_OK)
            return status;
    }
}

lx_status stage_hold(lx_stage *stage, lx_err *err)
{
    lx_status status = LX_OK;
    if (!stage->arena.take)
        return LX_OK;
    if (stage->is_leased) {
        status = wait_for_slot(stage, err);
        if (status == LX_OK)
            status = wait_for_lease(stage, err);
    }
    if (status != LX_OK || stage->has_arena)
        return status;
    double from_s = lx_now_s();
    status = take_arena(stage, err);
    stage->has_arena = status == LX_OK;
    if (status == LX_OK && stage->is_leased)
        LX_I("device memory taken mib=%.0f ms=%.0f", (double)stage->arena.bytes / 0x1p20,
             (lx_now_s() - from_s) * 1e3);
    return status;
}

lx_status lx_stage_hold(lx_stage *stage, const lx_stage_arena *arena, lx_err *err)
{
    stage->arena = *arena;
    return stage_hold(stage, err);
}

bool lx_stage_takes_turns(const lx_stage *stage)
{
    return stage->is_leased;
}
