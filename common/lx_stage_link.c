/*
 * lx_stage_link.c - how tensors come and go: the card, tests of links, falling back
 * SPDX-License-Identifier: Apache-2.0
 *
 * A link is known by the epoch of its lender, so that a process that was restarted is tested again.
 * What comes over a link that is not known yet comes through the slot, which always works.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lx_device.h"
#include "lx_log.h"
#include "lx_stage_control.h"
#include "lx_utf8.h"

/* --- the card -------------------------------------------------------------------------------- */

void lx_stage_on_card(lx_stage *stage, const lx_share_device *device)
{
    stage->device = device;
}

void lx_stage_leave_card(lx_stage *stage)
{
    if (stage->device)
        lx_share_close(&stage->desk);
    stage->device = NULL;
}

bool lx_stage_wants_twins(const lx_config *config, lx_stage_kind kind)
{
    if (kind + 1 >= LX_STAGE_COUNT || lx_config_wish(config, kind) == LX_WISH_RING)
        return false;
    const lx_stage_config *next = &config->stage[kind + 1];
    for (int i = 0; i < next->n_replicas; i++)
        if (lx_device_is_card(next->replica[i].device))
            return true;
    return false;
}

static lx_status make_desk(lx_stage *stage, int n_slots, uint64_t slot_bytes, bool is_exported,
                           lx_err *err)
{
    lx_share_options o = {.instance = stage->instance,
                          .epoch = stage->epoch,
                          .n_slots = n_slots,
                          .slot_bytes = slot_bytes,
                          .device = stage->device,
                          .is_exported = is_exported,
                          .has_test_slot = true};
    return lx_share_open_on(&stage->desk, &o, err);
}

lx_status lx_stage_lends(lx_stage *stage, int n_slots, uint64_t slot_bytes, lx_err *err)
{
    return make_desk(stage, n_slots, slot_bytes, false, err);
}

lx_status lx_stage_lends_on_card(lx_stage *stage, int n_slots, uint64_t slot_bytes, lx_err *err)
{
    lx_err why = {0};
    bool wants = stage->device && lx_stage_wants_twins(&stage->config, stage->kind);
    if (!wants)
        return make_desk(stage, n_slots, slot_bytes, false, err);
    lx_status status = make_desk(stage, n_slots, slot_bytes, true, &why);
    if (status == LX_OK)
        return LX_OK;
    bool is_cards = status == LX_EJOB || status == LX_EAGAIN; /* else the host's fault */
    if (is_cards && lx_config_wish(&stage->config, stage->kind) == LX_WISH_AUTO) {
        LX_W("tensors are lent through host memory alone: %s", why.message);
        return make_desk(stage, n_slots, slot_bytes, false, err);
    }
    return lx_fail(err, is_cards ? LX_ECONFIG : status, "%s%s",
                   is_cards ? "links.transport insists on the card's memory: " : "", why.message);
}

/* --- what is known of a link ----------------------------------------------------------------- */

static stage_way *way_of(lx_stage *stage, uint64_t epoch)
{
    for (size_t i = 0; i < STAGE_WAYS && i < stage->n_ways; i++)
        if (stage->way[i].epoch == epoch)
            return &stage->way[i];
    return NULL;
}

static void learn_way(lx_stage *stage, uint64_t epoch, lx_transport transport)
{
    stage_way *way = way_of(stage, epoch);
    if (!way)
        way = &stage->way[stage->n_ways++ % STAGE_WAYS];
    *way = (stage_way){.epoch = epoch, .transport = transport};
}

static void post_result(lx_stage *stage, uint64_t seed, const lx_ticket *ticket,
                        const lx_link_result *result)
{
    lx_msg msg = {.kind = LX_MSG_LINK_RESULT};
    msg.u.link.seed = seed;
    msg.u.link.transport = (int32_t)result->transport;
    msg.u.link.ms = result->ms;
    msg.u.link.ticket = *ticket;
    lx_utf8_copy(msg.u.link.text, sizeof msg.u.link.text, result->why);
    stage_post(stage, &msg);
}

/* --- borrowing ------------------------------------------------------------------------------- */

/* The better way failed and the slot did not: the link is worse than its test said. */
static void fall_back(lx_stage *stage, const lx_ticket *ticket, lx_transport from,
                      const char *reason)
{
    lx_link_result result = {.transport = LX_TRANSPORT_RING};
    snprintf(result.why, sizeof result.why, "%s failed in a job: %.200s", lx_transport_text(from),
             reason);
    LX_W("lender_epoch=%" PRIu64 " %s; from now on by %s", ticket->epoch, result.why,
         lx_transport_text(result.transport));
    learn_way(stage, ticket->epoch, LX_TRANSPORT_RING);
    post_result(stage, 0, ticket, &result);
}

lx_status stage_borrow(lx_stage *stage, const lx_ticket *ticket, bool is_on_card, void *dst,
                       uint64_t dst_bytes, lx_err *err)
{
    if (!is_on_card)
        return lx_share_borrow(ticket, stage->instance, dst, dst_bytes, err);
    if (!stage->device)
        return lx_fail(err, LX_ESTAGE, "a stage on the CPU borrows into a card's memory");
    lx_err why = {0};
    const stage_way *way = way_of(stage, ticket->epoch);
    lx_transport by =
        way && way->transport > LX_TRANSPORT_RING ? way->transport : LX_TRANSPORT_RING;
    lx_status status = lx_share_borrow_on(ticket, stage->instance, stage->device, by, dst,
                                          dst_bytes, by > LX_TRANSPORT_RING ? &why : err);
    if (status == LX_OK || by == LX_TRANSPORT_RING)
        return status;
    if (status != LX_EJOB) {
        if (err)
            *err = why;
        return status;
    }
    status = lx_share_borrow_on(ticket, stage->instance, stage->device, LX_TRANSPORT_RING, dst,
                                dst_bytes, err);
    if (status == LX_OK)
        fall_back(stage, ticket, by, why.message);
    return status;
}

/* --- tests of links -------------------------------------------------------------------------- */

void stage_apply_retirements_locked(lx_stage *stage)
{
    for (size_t i = 0; i < stage->n_retired && stage->desk; i++)
        lx_share_retire(stage->desk, stage->retired[i]);
    stage->n_retired = 0;
}

static lx_status lend_test(lx_stage *stage, uint64_t seed, lx_err *err)
{
    lx_msg msg = {.kind = LX_MSG_LINK_LENT, .u.link.seed = seed};
    lx_err why = {0};
    lx_status status = stage->desk ? lx_share_lend_test(stage->desk, seed, &msg.u.link.ticket, &why)
                                   : lx_fail(&why, LX_EJOB, "this stage lends nothing");
    if (status == LX_ESTAGE) {
        if (err)
            *err = why;
        return status;
    }
    if (status != LX_OK)
        lx_utf8_copy(msg.u.link.text, sizeof msg.u.link.text, why.message);
    stage_post(stage, &msg);
    return LX_OK;
}

static lx_status borrow_test(lx_stage *stage, uint64_t seed, const lx_ticket *ticket, lx_err *err)
{
    lx_link_result result;
    lx_transport_wish wish = stage->kind > LX_STAGE_ENCODER
                                 ? lx_config_wish(&stage->config, stage->kind - 1)
                                 : LX_WISH_RING;
    lx_status status =
        lx_share_test(ticket, stage->instance, stage->device, wish, seed, &result, err);
    if (status != LX_OK)
        return status;
    learn_way(stage, ticket->epoch, result.transport);
    post_result(stage, seed, ticket, &result);
    return LX_OK;
}

lx_status stage_serve_link(lx_stage *stage, lx_err *err)
{
    pthread_mutex_lock(&stage->lock);
    stage_apply_retirements_locked(stage);
    if (!stage->n_links) {
        pthread_mutex_unlock(&stage->lock);
        return LX_OK;
    }
    lx_msg_kind kind = stage->link_kind[0];
    uint64_t seed = stage->link_seed[0];
    lx_ticket ticket = stage->link_ticket[0];
    size_t rest = --stage->n_links;
    memmove(stage->link_kind, stage->link_kind + 1, rest * sizeof *stage->link_kind);
    memmove(stage->link_seed, stage->link_seed + 1, rest * sizeof *stage->link_seed);
    memmove(stage->link_ticket, stage->link_ticket + 1, rest * sizeof *stage->link_ticket);
    pthread_mutex_unlock(&stage->lock);
    return kind == LX_MSG_LINK_ASK ? lend_test(stage, seed, err)
                                   : borrow_test(stage, seed, &ticket, err);
}
