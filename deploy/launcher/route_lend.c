/*
 * route_lend.c - tickets between lenders and borrowers
 * SPDX-License-Identifier: Apache-2.0
 *
 * A ticket is referred to from two places: the job (context, latent) and the table of chunks of the
 * VAE replica that lent it. Shared memory survives its maker, so a dead lender's names are swept
 * only when neither refers to its epoch.
 */
#include <inttypes.h>
#include <string.h>

#include "lx_log.h"
#include "lx_share.h"
#include "route_private.h"

void route_tell(route *r, lx_stage_kind kind, int replica, lx_msg *msg)
{
    if (!r->worker[kind][replica].is_up || r->hands.send(r->hands.self, kind, replica, msg))
        return;
    r->hands.kill(r->hands.self, kind, replica, "it does not read its messages");
}

bool route_ticket_ok(const route *r, const route_worker *w, const lx_ticket *ticket)
{
    return lx_share_ticket_is_of(ticket, r->instance, w->epoch);
}

void route_retire(route *r, lx_stage_kind kind, int replica, const lx_ticket *ticket)
{
    route_worker *w = &r->worker[kind][replica];
    if (!w->is_up || w->epoch != ticket->epoch)
        return;
    w->free_since_s = r->now_s;
    r->out = (lx_msg){.kind = LX_MSG_RETIRE, .u.lease.serial = ticket->serial};
    route_tell(r, kind, replica, &r->out);
}

void route_drop_lent(route *r, lx_stage_kind kind, lx_lent *lent)
{
    if (!lent->ticket.serial)
        return;
    route_retire(r, kind, lent->replica, &lent->ticket);
    *lent = (lx_lent){0};
    route_sweep_dead(r);
}

bool route_check_lent(route *r, lx_lent *lent)
{
    if (lent->ticket.serial && !r->hands.is_lent(r->hands.self, &lent->ticket))
        *lent = (lx_lent){0};
    return lent->ticket.serial != 0;
}

/* --- chunks of frames ------------------------------------------------------------------------- */

static void send_chunk(route *r, route_chunk *chunk, int mux)
{
    route_worker *w = &r->worker[LX_STAGE_MUX][mux];
    chunk->borrower = mux;
    w->free_since_s = r->now_s;
    r->out = (lx_msg){.kind = LX_MSG_INPUT, .attempt = w->attempt};
    memcpy(r->out.job, chunk->entry->job->id, sizeof r->out.job);
    r->out.u.artifact.index = chunk->index;
    r->out.u.artifact.is_last = chunk->is_last;
    r->out.u.artifact.ticket = chunk->ticket;
    route_tell(r, LX_STAGE_MUX, mux, &r->out);
}

void route_add_chunk(route *r, int vae, lx_entry *entry, const lx_msg *msg)
{
    route_worker *w = &r->worker[LX_STAGE_VAE][vae];
    if (w->n_chunks == ROUTE_CHUNKS) {
        r->hands.kill(r->hands.self, LX_STAGE_VAE, vae, "it lends more chunks than a desk has");
        return;
    }
    route_chunk *chunk = &w->chunk[w->n_chunks++];
    *chunk = (route_chunk){.entry = entry,
                           .index = msg->u.artifact.index,
                           .is_last = msg->u.artifact.is_last,
                           .borrower = -1,
                           .ticket = msg->u.artifact.ticket};
    const lx_part *mux = &entry->part[LX_STAGE_MUX];
    if (mux->state == LX_PART_RUNNING)
        send_chunk(r, chunk, mux->replica);
}

void route_forward_chunks(route *r, lx_entry *entry, int mux)
{
    for (int i = 0; i < r->n_replicas[LX_STAGE_VAE]; i++) {
        route_worker *w = &r->worker[LX_STAGE_VAE][i];
        for (int k = 0; k < w->n_chunks; k++)
            if (w->chunk[k].entry == entry && w->chunk[k].borrower < 0)
                send_chunk(r, &w->chunk[k], mux);
    }
}

static void remove_chunk(route *r, int vae, int k)
{
    route_worker *w = &r->worker[LX_STAGE_VAE][vae];
    route_retire(r, LX_STAGE_VAE, vae, &w->chunk[k].ticket);
    memmove(&w->chunk[k], &w->chunk[k + 1], (size_t)(w->n_chunks - k - 1) * sizeof w->chunk[k]);
    w->n_chunks--;
}

void route_chunk_released(route *r, int mux, uint64_t serial)
{
    for (int i = 0; i < r->n_replicas[LX_STAGE_VAE]; i++) {
        route_worker *w = &r->worker[LX_STAGE_VAE][i];
        for (int k = 0; k < w->n_chunks; k++)
            if (w->chunk[k].borrower == mux && w->chunk[k].ticket.serial == serial) {
                remove_chunk(r, i, k);
                route_sweep_dead(r);
                return;
            }
    }
}

void route_drop_chunks(route *r, const lx_entry *entry, int mux)
{
    for (int i = 0; i < r->n_replicas[LX_STAGE_VAE]; i++) {
        route_worker *w = &r->worker[LX_STAGE_VAE][i];
        for (int k = w->n_chunks - 1; k >= 0; k--)
            if (w->chunk[k].borrower == mux && (!entry || w->chunk[k].entry == entry))
                remove_chunk(r, i, k);
    }
    route_sweep_dead(r);
}

bool route_chunks_are_lent(route *r, const lx_entry *entry)
{
    for (int i = 0; i < r->n_replicas[LX_STAGE_VAE]; i++) {
        const route_worker *w = &r->worker[LX_STAGE_VAE][i];
        for (int k = 0; k < w->n_chunks; k++)
            if (w->chunk[k].entry == entry && !r->hands.is_lent(r->hands.self, &w->chunk[k].ticket))
                return false;
    }
    return true;
}

int route_lent_by(const route *r, lx_stage_kind kind, const route_worker *w)
{
    int n = 0;
    for (int k = 0; k < w->n_chunks; k++)
        n += w->chunk[k].ticket.epoch == w->epoch;
    for (lx_entry *e = lx_jobs_first(r->jobs, LX_LIST_RUNNING); e; e = e->next) {
        const lx_lent *lent = kind == LX_STAGE_ENCODER ? &e->context : &e->latent;
        n += lent->ticket.serial && lent->ticket.epoch == w->epoch;
    }
    return n;
}

/* --- dead lenders ----------------------------------------------------------------------------- */

static bool is_referred_to(const route *r, uint64_t epoch)
{
    for (int i = 0; i < r->n_replicas[LX_STAGE_VAE]; i++) {
        const route_worker *w = &r->worker[LX_STAGE_VAE][i];
        for (int k = 0; k < w->n_chunks; k++)
            if (w->chunk[k].ticket.epoch == epoch)
                return true;
    }
    for (lx_entry *e = lx_jobs_first(r->jobs, LX_LIST_RUNNING); e; e = e->next)
        if ((e->context.ticket.serial && e->context.ticket.epoch == epoch) ||
            (e->latent.ticket.serial && e->latent.ticket.epoch == epoch))
            return true;
    return false;
}

void route_mourn(route *r, uint64_t epoch)
{
    /* Each remembered one is held by a running job, and few run at once; should the list be full
     * all the same, the names stay until the launcher ends and sweeps all of them. */
    if (r->n_dead < ROUTE_DEAD)
        r->dead[r->n_dead++] = epoch;
    else
        LX_W("epoch=%" PRIu64 " names are swept at the end: too many dead lenders", epoch);
}

void route_sweep_dead(route *r)
{
    for (int i = r->n_dead - 1; i >= 0; i--)
        if (!is_referred_to(r, r->dead[i])) {
            r->hands.sweep(r->hands.self, r->dead[i]);
            r->dead[i] = r->dead[--r->n_dead];
        }
}
