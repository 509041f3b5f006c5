/*
 * lx_residency.c - layers on the card: those that stay, and the ring for the others
 * SPDX-License-Identifier: Apache-2.0
 *
 * A slot's life, and who moves it on:
 *
 *            carrier            enter()            leave()
 *   EMPTY ──────────▶ FILLED ──────────▶ IN_USE ──────────▶ EMPTY
 *   (asked for layer i)  ready event marked on the copy queue, done event on the compute queue
 *
 * The carrier fills slots in the order of `want`; a slot that was in use is filled behind its done
 * event, and kernels begin behind its ready event, so neither thread waits for the card here. What
 * the carrier does wait for is a pinned buffer whose last copy has not run yet.
 */
#include "lx_residency.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lx_copy.h"
#include "lx_process.h"

#define ALIGN        ((uint64_t)256)
#define RING_DEFAULT ((uint64_t)256 << 20)

typedef enum slot_state { SLOT_EMPTY, SLOT_ASKED, SLOT_FILLED, SLOT_IN_USE } slot_state;

typedef struct slot {
    unsigned char *data; /* on the card */
    int64_t layer;
    slot_state state;
} slot;

struct lx_residency {
    lx_exec *x; /* borrowed; its arena has the memory */
    lx_layers layers;
    lx_residency_plan plan;
    lx_weight *placed;    /* [n_layers * n_weights] as kernels see them; owned, NULL on the CPU */
    unsigned char **kept; /* [n_resident] on the card; owned */
    slot slots[LX_RESIDENCY_SLOTS];
    unsigned char *buffer[LX_RESIDENCY_BUFFERS]; /* pinned */
    uint64_t buffer_bytes;
    int next_buffer;
    int64_t next_layer; /* the next that the carrier will be asked for */
    double waited_s;
    bool has_carrier, is_closing;
    lx_status failure; /* of the carrier; the next enter reports it */
    lx_err failure_err;
    pthread_t carrier;
    pthread_mutex_t lock;
    pthread_cond_t moved;
};

/* --- layout ---------------------------------------------------------------------------------- */

static uint64_t align_up(uint64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static uint64_t weight_bytes(const lx_weight *w)
{
    uint64_t bytes = 0;
    (void)lx_shape_bytes(&w->shape, w->dtype, NULL, &bytes, NULL); /* checked when it was read */
    return bytes;
}

static uint64_t scale_bytes(const lx_weight *w)
{
    return w->scale ? (uint64_t)w->shape.dim[0] * sizeof(float) : 0;
}

static const lx_weight *layer_at(const lx_layers *l, int64_t i)
{
    return l->weights + i * l->n_weights;
}

static uint64_t layer_bytes(const lx_layers *l, int64_t i)
{
    uint64_t bytes = 0;
    for (int k = 0; k < l->n_weights; k++) {
        const lx_weight *w = layer_at(l, i) + k;
        bytes += align_up(weight_bytes(w)) + align_up(scale_bytes(w));
    }
    return bytes;
}

uint64_t lx_residency_slot_bytes(const lx_layers *layers)
{
    uint64_t most = 0;
    for (int64_t i = 0; i < layers->n_layers; i++) {
        uint64_t bytes = layer_bytes(layers, i);
        most = bytes > most ? bytes : most;
    }
    return most;
}

uint64_t lx_residency_total_bytes(const lx_layers *layers)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < layers->n_layers; i++)
        sum += layer_bytes(layers, i);
    return sum;
}

/* The layer's weights as kernels will find them, with the layer beginning at `data`. */
static void bind_layer(lx_residency *r, int64_t i, unsigned char *data)
{
    uint64_t at = 0;
    for (int k = 0; k < r->layers.n_weights; k++) {
        const lx_weight *w = layer_at(&r->layers, i) + k;
        lx_weight *out = &r->placed[i * r->layers.n_weights + k];
        *out = *w;
        out->data = data + at;
        at += align_up(weight_bytes(w));
        out->scale = w->scale ? (const float *)(const void *)(data + at) : NULL;
        at += align_up(scale_bytes(w));
    }
}

/* --- the carrier ----------------------------------------------------------------------------- */

static int ready_event(const lx_residency *r, int slot_index)
{
    return r->plan.first_event + slot_index;
}

static int done_event(const lx_residency *r, int slot_index)
{
    return r->plan.first_event + LX_RESIDENCY_SLOTS + slot_index;
}

static int buffer_event(const lx_residency *r, int buffer)
{
    return r->plan.first_event + 2 * LX_RESIDENCY_SLOTS + buffer;
}

/* A run of bytes from the host to the card, through pinned buffers in turn. */
static lx_status carry_bytes(lx_residency *r, unsigned char *dst, const void *src, uint64_t bytes,
                             lx_err *err)
{
    const unsigned char *from = src;
    lx_status status = LX_OK;
    while (bytes > 0 && status == LX_OK) {
        uint64_t n = bytes < r->buffer_bytes ? bytes : r->buffer_bytes;
        int b = r->next_buffer;
        status = lx_cuda_reached(r->x->cuda, buffer_event(r, b), err);
        if (status != LX_OK)
            break;
        memcpy(r->buffer[b], from, (size_t)n);
        status = lx_cuda_copy_in(r->x->cuda, dst, r->buffer[b], (size_t)n, err);
        if (status == LX_OK)
            status = lx_cuda_mark(r->x->cuda, buffer_event(r, b), LX_CUDA_COPY, err);
        r->next_buffer = (b + 1) % LX_RESIDENCY_BUFFERS;
        from += n;
        dst += n;
        bytes -= n;
    }
    return status;
}

static lx_status carry_layer(lx_residency *r, int64_t i, unsigned char *data, lx_err *err)
{
    lx_status status = LX_OK;
    for (int k = 0; k < r->layers.n_weights && status == LX_OK; k++) {
        const lx_weight *w = layer_at(&r->layers, i) + k;
        status = carry_bytes(r, data, w->data, weight_bytes(w), err);
        data += align_up(weight_bytes(w));
        if (status == LX_OK && w->scale)
            status = carry_bytes(r, data, w->scale, scale_bytes(w), err);
        data += align_up(scale_bytes(w));
    }
    return status;
}

static lx_status fill_slot(lx_residency *r, int index, lx_err *err)
{
    slot *s = &r->slots[index];
    lx_status status = lx_cuda_after(r->x->cuda, done_event(r, index), LX_CUDA_COPY, err);
    if (status == LX_OK)
        status = carry_layer(r, s->layer, s->data, err);
    if (status == LX_OK)
        status = lx_cuda_mark(r->x->cuda, ready_event(r, index), LX_CUDA_COPY, err);
    return status;
}

/* The asked slot whose layer comes first in the order of running; -1: none. */
static int first_asked(const lx_residency *r)
{
    int best = -1;
    int64_t least = 0;
    for (int i = 0; i < r->plan.n_slots; i++) {
        const slot *s = &r->slots[i];
        if (s->state != SLOT_ASKED)
            continue;
        /* next_layer is the one after the last that was asked for: count from there. */
        int64_t n = r->layers.n_layers;
        int64_t ahead = (s->layer - r->next_layer + n) % n;
        if (best < 0 || ahead < least) {
            best = i;
            least = ahead;
        }
    }
    return best;
}

static void *carrier_main(void *self)
{
    lx_residency *r = self;
    pthread_mutex_lock(&r->lock);
    while (!r->is_closing) {
        int index = r->failure == LX_OK ? first_asked(r) : -1;
        if (index < 0) {
            pthread_cond_wait(&r->moved, &r->lock);
            continue;
        }
        lx_err err = {0};
        pthread_mutex_unlock(&r->lock);
        lx_status status = fill_slot(r, index, &err);
        pthread_mutex_lock(&r->lock);
        if (status != LX_OK) {
            r->failure = status;
            r->failure_err = err;
        } else {
            r->slots[index].state = SLOT_FILLED;
        }
        pthread_cond_broadcast(&r->moved);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* --- opening --------------------------------------------------------------------------------- */

static bool is_carried(const lx_residency *r, int64_t layer)
{
    return layer >= r->plan.n_resident;
}

/* The carried layer after `layer` in the order of running. */
static int64_t carried_after(const lx_residency *r, int64_t layer)
{
    int64_t next = layer + 1;
    return next < r->layers.n_layers ? next : r->plan.n_resident;
}

static lx_status take_memory(lx_residency *r, lx_err *err)
{
    void *data;
    lx_status status = LX_OK;
    for (int64_t i = 0; i < r->plan.n_resident && status == LX_OK; i++) {
        status = lx_arena_take(r->x->arena, (size_t)layer_bytes(&r->layers, i), &data, err);
        if (status == LX_OK)
            r->kept[i] = data;
    }
    uint64_t slot_bytes = 0; /* of the carried layers */
    for (int64_t i = r->plan.n_resident; i < r->layers.n_layers; i++) {
        uint64_t bytes = layer_bytes(&r->layers, i);
        slot_bytes = bytes > slot_bytes ? bytes : slot_bytes;
    }
    for (int i = 0; i < r->plan.n_slots && status == LX_OK; i++) {
        status = lx_arena_take(r->x->arena, (size_t)slot_bytes, &data, err);
        if (status == LX_OK)
            r->slots[i].data = data;
    }
    return status;
}

static lx_status pin_ring(lx_residency *r, lx_err *err)
{
    uint64_t ring = r->plan.ring_bytes ? r->plan.ring_bytes : RING_DEFAULT;
    lx_status status = LX_OK;
    r->buffer_bytes = align_up(ring / LX_RESIDENCY_BUFFERS);
    for (int i = 0; i < LX_RESIDENCY_BUFFERS && status == LX_OK; i++) {
        void *memory = NULL;
        status = lx_cuda_pin(r->x->cuda, (size_t)r->buffer_bytes, &memory, err);
        r->buffer[i] = memory;
    }
    return status;
}

static lx_status load_resident(lx_residency *r, const lx_progress *progress, lx_err *err)
{
    uint64_t done = 0, total = 0;
    lx_status status = LX_OK;
    for (int64_t i = 0; i < r->plan.n_resident; i++)
        total += layer_bytes(&r->layers, i);
    for (int64_t i = 0; i < r->plan.n_resident && status == LX_OK; i++) {
        status = carry_layer(r, i, r->kept[i], err);
        bind_layer(r, i, r->kept[i]);
        done += layer_bytes(&r->layers, i);
        if (status == LX_OK)
            status = lx_progress_step(progress, "byte", done, total, err);
    }
    for (int b = 0; b < LX_RESIDENCY_BUFFERS && status == LX_OK; b++)
        status = lx_cuda_reached(r->x->cuda, buffer_event(r, b), err);
    return status;
}

static lx_status start_carrier(lx_residency *r, lx_err *err)
{
    r->next_layer = r->plan.n_resident;
    for (int i = 0; i < r->plan.n_slots; i++) {
        r->slots[i].layer = r->next_layer;
        r->slots[i].state = SLOT_ASKED;
        r->next_layer = carried_after(r, r->next_layer);
    }
    if (pthread_create(&r->carrier, NULL, carrier_main, r) != 0)
        return lx_fail(err, LX_EAGAIN, "no thread to carry weights");
    r->has_carrier = true;
    return LX_OK;
}

static lx_status open_on_card(lx_residency *r, const lx_progress *progress, lx_err *err)
{
    size_t n = (size_t)r->layers.n_layers;
    r->placed = calloc(n * (size_t)r->layers.n_weights, sizeof *r->placed);
    r->kept = calloc(n, sizeof *r->kept);
    if (!r->placed || !r->kept)
        return lx_fail(err, LX_EAGAIN, "out of memory for the list of layers");
    lx_status status = take_memory(r, err);
    if (status != LX_OK || r->x->is_dry)
        return status;
    status = pin_ring(r, err);
    if (status == LX_OK)
        status = load_resident(r, progress, err);
    if (status == LX_OK && r->plan.n_slots > 0)
        status = start_carrier(r, err);
    return status;
}

lx_status lx_residency_open(lx_residency **out, lx_exec *x, const lx_layers *layers,
                            const lx_residency_plan *plan, const lx_progress *progress, lx_err *err)
{
    int64_t carried = layers->n_layers - plan->n_resident;
    if (plan->n_resident < 0 || carried < 0 || plan->n_slots > LX_RESIDENCY_SLOTS ||
        (carried > 0 && plan->n_slots < 2 && !lx_exec_is_host(x)) || plan->first_event < 0 ||
        plan->first_event + LX_RESIDENCY_EVENTS > LX_CUDA_EVENTS)
        return lx_fail(err, LX_EJOB,
                       "%" PRId64 " of %" PRId64 " layers on the card and %d slots for the others "
                       "(2 to %d) is not possible",
                       plan->n_resident, layers->n_layers, plan->n_slots, LX_RESIDENCY_SLOTS);
    lx_residency *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a residency");
    r->x = x;
    r->layers = *layers;
    r->plan = *plan;
    r->plan.n_slots = carried == 0 ? 0 : plan->n_slots > carried ? (int)carried : plan->n_slots;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->moved, NULL);
    lx_status status = lx_exec_is_host(x) ? LX_OK : open_on_card(r, progress, err);
    if (status != LX_OK)
        lx_residency_close(&r);
    else
        *out = r;
    return status;
}

void lx_residency_close(lx_residency **residency)
{
    if (!residency || !*residency)
        return;
    lx_residency *r = *residency;
    if (r->has_carrier) {
        pthread_mutex_lock(&r->lock);
        r->is_closing = true;
        pthread_cond_broadcast(&r->moved);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->carrier, NULL);
    }
    for (int b = 0; b < LX_RESIDENCY_BUFFERS && r->buffer[b]; b++) {
        (void)lx_cuda_reached(r->x->cuda, buffer_event(r, b), NULL);
        lx_cuda_unpin(r->x->cuda, r->buffer[b]);
    }
    pthread_cond_destroy(&r->moved);
    pthread_mutex_destroy(&r->lock);
    free(r->placed);
    free(r->kept);
    free(r);
    *residency = NULL;
}

/* --- use ------------------------------------------------------------------------------------- */

/* Where layer i is, or is on its way to; -1: nowhere. Called with the lock. */
static int slot_of(const lx_residency *r, int64_t i)
{
    for (int k = 0; k < r->plan.n_slots; k++)
        if (r->slots[k].state != SLOT_EMPTY && r->slots[k].layer == i)
            return k;
    return -1;
}

/* Another order than expected: everything that waits is asked for again, beginning with layer i. */
static void ask_anew(lx_residency *r, int64_t i)
{
    r->next_layer = i;
    for (int k = 0; k < r->plan.n_slots; k++) {
        while (r->slots[k].state == SLOT_ASKED && r->failure == LX_OK && !r->is_closing)
            pthread_cond_wait(&r->moved, &r->lock); /* it may be in the carrier's hands */
        if (r->slots[k].state == SLOT_IN_USE)
            continue;
        r->slots[k].layer = r->next_layer;
        r->slots[k].state = SLOT_ASKED;
        r->next_layer = carried_after(r, r->next_layer);
    }
    pthread_cond_broadcast(&r->moved);
}

static lx_status wait_for(lx_residency *r, int64_t i, int *index, lx_err *err)
{
    double start = lx_now_s();
    pthread_mutex_lock(&r->lock);
    *index = slot_of(r, i);
    if (*index < 0) {
        ask_anew(r, i);
        *index = slot_of(r, i);
    }
    while (*index >= 0 && r->slots[*index].state == SLOT_ASKED && r->failure == LX_OK)
        pthread_cond_wait(&r->moved, &r->lock);
    lx_status status = r->failure;
    if (status != LX_OK && err)
        *err = r->failure_err;
    else if (*index < 0)
        status = lx_fail(err, LX_ESTAGE, "layer %" PRId64 " has no slot: two layers are in use", i);
    else
        r->slots[*index].state = SLOT_IN_USE;
    pthread_mutex_unlock(&r->lock);
    r->waited_s += lx_now_s() - start;
    return status;
}

lx_status lx_residency_enter(lx_residency *r, int64_t i, const lx_weight **weights, lx_err *err)
{
    if (lx_exec_is_host(r->x)) {
        *weights = layer_at(&r->layers, i);
        return LX_OK;
    }
    const lx_weight *placed = r->placed + i * r->layers.n_weights;
    if (r->x->is_dry) {
        bind_layer(r, i, is_carried(r, i) ? r->slots[0].data : r->kept[i]);
    } else if (is_carried(r, i)) {
        int index;
        lx_status status = wait_for(r, i, &index, err);
        if (status == LX_OK)
            status = lx_cuda_after(r->x->cuda, ready_event(r, index), LX_CUDA_COMPUTE, err);
        if (status != LX_OK)
            return status;
        bind_layer(r, i, r->slots[index].data);
    }
    *weights = placed;
    return LX_OK;
}

lx_status lx_residency_leave(lx_residency *r, int64_t i, lx_err *err)
{
    if (lx_exec_is_host(r->x) || r->x->is_dry || !is_carried(r, i))
        return LX_OK;
    pthread_mutex_lock(&r->lock);
    int index = slot_of(r, i);
    lx_status status = lx_cuda_mark(r->x->cuda, done_event(r, index), LX_CUDA_COMPUTE, err);
    if (status == LX_OK) {
        r->slots[index].layer = r->next_layer;
        r->slots[index].state = SLOT_ASKED;
        r->next_layer = carried_after(r, r->next_layer);
        pthread_cond_broadcast(&r->moved);
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

double lx_residency_waited_s(const lx_residency *r)
{
    return r->waited_s;
}
