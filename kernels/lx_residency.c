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
 * The carrier fills slots in the order of running; a slot that was in use is filled behind its done
 * event, and kernels begin behind its ready event, so neither thread waits for the card here. What
 * the carrier does wait for is a pinned buffer whose last copy has not run yet. With no slot to
 * fill it reads ahead.
 */
#include "lx_residency.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

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
    lx_residency_device device; /* the arena has the memory */
    bool is_host, is_dry;
    lx_layers layers;
    lx_residency_plan plan;
    lx_weight *placed;    /* [n_layers * n_weights] as kernels see them; owned, NULL on the CPU */
    unsigned char **kept; /* [n_resident] on the card; owned */
    lx_ring_part *parts;  /* of all layers; owned, as the next two */
    int64_t *first_part;  /* [n_layers + 1] */
    lx_ring *ring;        /* NULL: nothing is carried */
    slot slots[LX_RESIDENCY_SLOTS];
    int64_t next_layer; /* the next that the carrier will be asked for */
    double waited_s;
    bool has_carrier, is_closing;
    lx_status failure; /* of the carrier; every enter from then on reports it */
    lx_err failure_err;
    pthread_t carrier;
    pthread_mutex_t lock;
    pthread_cond_t moved;
};

/* --- the card -------------------------------------------------------------------------------- */

static lx_status cuda_pin(void *card, size_t bytes, void **out, lx_err *err)
{
    return lx_cuda_pin(card, bytes, out, err);
}

static void cuda_unpin(void *card, void *memory)
{
    lx_cuda_unpin(card, memory);
}

static lx_status cuda_copy_in(void *card, void *dst, const void *src, size_t bytes, lx_err *err)
{
    return lx_cuda_copy_in(card, dst, src, bytes, err);
}

static lx_status cuda_mark(void *card, int event, lx_cuda_queue queue, lx_err *err)
{
    return lx_cuda_mark(card, event, queue, err);
}

static lx_status cuda_after(void *card, int event, lx_cuda_queue queue, lx_err *err)
{
    return lx_cuda_after(card, event, queue, err);
}

static lx_status cuda_reached(void *card, int event, lx_err *err)
{
    return lx_cuda_reached(card, event, err);
}

static const lx_card_ops cuda_ops = {cuda_pin,  cuda_unpin, cuda_copy_in,
                                     cuda_mark, cuda_after, cuda_reached};

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

static lx_status add_part(lx_residency *r, const lx_ring_part *part, int64_t *n, lx_err *err)
{
    if (!part->bytes)
        return LX_OK;
    if (!part->data && !part->extent.disk)
        return lx_fail(err, LX_ECONFIG, "a layer's weight was not read and is not on disk");
    r->parts[(*n)++] = *part;
    return LX_OK;
}

/* What the ring brings for each layer: the same places as bind_layer's. */
static lx_status list_parts(lx_residency *r, lx_err *err)
{
    const lx_layers *l = &r->layers;
    const size_t n_weights = (size_t)l->n_layers * (size_t)l->n_weights;
    int64_t n = 0;
    r->parts = calloc(2 * n_weights, sizeof *r->parts);
    r->first_part = calloc((size_t)l->n_layers + 1, sizeof *r->first_part);
    if (!r->parts || !r->first_part)
        return lx_fail(err, LX_EAGAIN, "out of memory for the list of layers");
    for (int64_t i = 0; i < l->n_layers; i++) {
        uint64_t at = 0;
        for (int k = 0; k < l->n_weights; k++) {
            const lx_weight *w = layer_at(l, i) + k;
            lx_ring_part data = {.data = w->data,
                                 .bytes = weight_bytes(w),
                                 .at = at,
                                 .dtype = w->dtype,
                                 .name = w->name};
            if (!w->data && l->extents)
                data.extent = l->extents[i * l->n_weights + k];
            if (data.extent.disk && data.extent.bytes != data.bytes)
                return lx_fail(err, LX_ESTAGE, "%s: %" PRIu64 " bytes on disk, %" PRIu64 " wanted",
                               w->name, data.extent.bytes, data.bytes);
            at += align_up(data.bytes);
            lx_ring_part scale = {
                .data = w->scale, .bytes = scale_bytes(w), .at = at, .dtype = LX_DTYPE_F32};
            at += align_up(scale.bytes);
            lx_status status = add_part(r, &data, &n, err);
            if (status == LX_OK)
                status = add_part(r, &scale, &n, err);
            if (status != LX_OK)
                return lx_wrap(err, "%.200s", w->name ? w->name : "?");
        }
        r->first_part[i + 1] = n;
    }
    return LX_OK;
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

static int buffer_event(const lx_residency *r)
{
    return r->plan.first_event + 2 * LX_RESIDENCY_SLOTS;
}

static lx_status fill_slot(lx_residency *r, int index, lx_err *err)
{
    const lx_residency_device *d = &r->device;
    slot *s = &r->slots[index];
    lx_status status = d->ops->after(d->card, done_event(r, index), LX_CUDA_COPY, err);
    if (status == LX_OK)
        status = lx_ring_fill(r->ring, s->layer, s->data, err);
    if (status == LX_OK)
        status = d->ops->mark(d->card, ready_event(r, index), LX_CUDA_COPY, err);
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

/* With the lock. */
static void fail(lx_residency *r, lx_status status, const lx_err *err)
{
    /* Every enter from now on reports it: a stage that went on would fail job after job. */
    bool is_final = status == LX_ECANCEL || status == LX_ECONFIG;
    r->failure = is_final ? status : LX_ESTAGE;
    r->failure_err = *err;
    r->failure_err.status = r->failure;
}

/* One slot, or something for later; with the lock, without it meanwhile. False: nothing to do. */
static bool work(lx_residency *r)
{
    lx_err err = {0};
    lx_status status;
    bool did = true;
    int index = first_asked(r);
    pthread_mutex_unlock(&r->lock);
    if (index >= 0)
        status = fill_slot(r, index, &err);
    else
        status = lx_ring_ahead(r->ring, &did, &err);
    pthread_mutex_lock(&r->lock);
    if (status != LX_OK)
        fail(r, status, &err);
    else if (index >= 0)
        r->slots[index].state = SLOT_FILLED;
    else if (!did)
        did = first_asked(r) >= 0; /* asked for meanwhile */
    pthread_cond_broadcast(&r->moved);
    return did;
}

static void *carrier_main(void *self)
{
    lx_residency *r = self;
    pthread_mutex_lock(&r->lock);
    while (!r->is_closing) /* asked again before the wait: work() lets go of the lock */
        if ((r->failure != LX_OK || !work(r)) && !r->is_closing)
            pthread_cond_wait(&r->moved, &r->lock);
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
        status = lx_arena_take(r->device.arena, (size_t)layer_bytes(&r->layers, i), &data, err);
        if (status == LX_OK)
            r->kept[i] = data;
    }
    uint64_t slot_bytes = 0; /* of the carried layers */
    for (int64_t i = r->plan.n_resident; i < r->layers.n_layers; i++) {
        uint64_t bytes = layer_bytes(&r->layers, i);
        slot_bytes = bytes > slot_bytes ? bytes : slot_bytes;
    }
    for (int i = 0; i < r->plan.n_slots && status == LX_OK; i++) {
        status = lx_arena_take(r->device.arena, (size_t)slot_bytes, &data, err);
        if (status == LX_OK)
            r->slots[i].data = data;
    }
    return status;
}

static lx_status open_ring(lx_residency *r, lx_err *err)
{
    const lx_ring_layers layers = {r->parts, r->first_part, r->layers.n_layers};
    uint64_t bytes = r->plan.ring_bytes ? r->plan.ring_bytes : RING_DEFAULT;
    return lx_ring_open(&r->ring, r->device.ops, r->device.card, &layers, bytes, buffer_event(r),
                        err);
}

static lx_status load_resident(lx_residency *r, const lx_progress *progress, lx_err *err)
{
    const lx_residency_device *d = &r->device;
    uint64_t done = 0, total = 0;
    lx_status status = LX_OK;
    for (int64_t i = 0; i < r->plan.n_resident; i++)
        total += layer_bytes(&r->layers, i);
    lx_ring_begin(r->ring, 0, r->plan.n_resident, false);
    for (int64_t i = 0; i < r->plan.n_resident && status == LX_OK; i++) {
        status = lx_ring_fill(r->ring, i, r->kept[i], err);
        bind_layer(r, i, r->kept[i]);
        done += layer_bytes(&r->layers, i);
        if (status == LX_OK)
            status = lx_progress_step(progress, "byte", done, total, err);
    }
    /* Kernels that read them need no event: the copies have run. */
    if (status == LX_OK && r->plan.n_resident > 0)
        status = d->ops->mark(d->card, ready_event(r, 0), LX_CUDA_COPY, err);
    if (status == LX_OK && r->plan.n_resident > 0)
        status = d->ops->reached(d->card, ready_event(r, 0), err);
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
    lx_ring_begin(r->ring, r->plan.n_resident, r->layers.n_layers, true);
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
    if (status != LX_OK || r->is_dry)
        return status;
    status = list_parts(r, err);
    if (status == LX_OK)
        status = open_ring(r, err);
    if (status == LX_OK)
        status = load_resident(r, progress, err);
    if (status == LX_OK && r->plan.n_slots > 0)
        status = start_carrier(r, err);
    else
        lx_ring_close(&r->ring); /* all are there: nothing stays pinned */
    return status;
}

static lx_status check(const lx_layers *layers, const lx_residency_plan *plan, bool is_host,
                       lx_err *err)
{
    int64_t carried = layers->n_layers - plan->n_resident;
    if (plan->n_resident < 0 || carried < 0 || plan->n_slots > LX_RESIDENCY_SLOTS ||
        (carried > 0 && plan->n_slots < 2 && !is_host) || plan->first_event < 0 ||
        plan->first_event + LX_RESIDENCY_EVENTS > LX_CUDA_EVENTS)
        return lx_fail(err, LX_EJOB,
                       "%" PRId64 " of %" PRId64 " layers on the card and %d slots for the others "
                       "(2 to %d) is not possible",
                       plan->n_resident, layers->n_layers, plan->n_slots, LX_RESIDENCY_SLOTS);
    for (int64_t i = 0; is_host && layers->extents && i < layers->n_layers * layers->n_weights; i++)
        if (layers->extents[i].disk)
            return lx_fail(err, LX_ECONFIG,
                           "%.200s is on disk: on the CPU all weights are in memory",
                           layers->weights[i].name);
    return LX_OK;
}

/* device NULL: the CPU. */
static lx_status open_any(lx_residency **out, const lx_residency_device *device,
                          const lx_layers *layers, const lx_residency_plan *plan,
                          const lx_progress *progress, lx_err *err)
{
    lx_status status = check(layers, plan, !device, err);
    if (status != LX_OK)
        return status;
    lx_residency *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a residency");
    const int64_t carried = layers->n_layers - plan->n_resident;
    r->is_host = !device;
    if (device) {
        r->device = *device;
        r->is_dry = lx_arena_is_dry(device->arena);
    }
    r->layers = *layers;
    r->plan = *plan;
    r->plan.n_slots = carried == 0 ? 0 : plan->n_slots > carried ? (int)carried : plan->n_slots;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->moved, NULL);
    status = r->is_host ? LX_OK : open_on_card(r, progress, err);
    if (status != LX_OK)
        lx_residency_close(&r);
    else
        *out = r;
    return status;
}

lx_status lx_residency_open(lx_residency **out, lx_exec *x, const lx_layers *layers,
                            const lx_residency_plan *plan, const lx_progress *progress, lx_err *err)
{
    const lx_residency_device device = {&cuda_ops, x->cuda, x->arena};
    return open_any(out, lx_exec_is_host(x) ? NULL : &device, layers, plan, progress, err);
}

lx_status lx_residency_open_on(lx_residency **out, const lx_residency_device *device,
                               const lx_layers *layers, const lx_residency_plan *plan,
                               const lx_progress *progress, lx_err *err)
{
    return open_any(out, device, layers, plan, progress, err);
}

void lx_residency_close(lx_residency **residency)
{
    if (!residency || !*residency)
        return;
    lx_residency *r = *residency;
    if (r->has_carrier) {
        lx_ring_stop(r->ring);
        pthread_mutex_lock(&r->lock);
        r->is_closing = true;
        pthread_cond_broadcast(&r->moved);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->carrier, NULL);
    }
    lx_ring_close(&r->ring);
    pthread_cond_destroy(&r->moved);
    pthread_mutex_destroy(&r->lock);
    free(r->placed);
    free(r->kept);
    free(r->parts);
    free(r->first_part);
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

/* The slot that layer i's kernels read; -1: none. Called with the lock. */
static int slot_in_use(const lx_residency *r, int64_t i)
{
    for (int k = 0; k < r->plan.n_slots; k++)
        if (r->slots[k].state == SLOT_IN_USE && r->slots[k].layer == i)
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
    if (status != LX_OK) {
        if (err)
            *err = r->failure_err;
    } else if (*index < 0) {
        status = lx_fail(err, LX_ESTAGE, "layer %" PRId64 " has no slot: two layers are in use", i);
    } else {
        r->slots[*index].state = SLOT_IN_USE;
    }
    pthread_mutex_unlock(&r->lock);
    r->waited_s += lx_now_s() - start;
    return status;
}

lx_status lx_residency_enter(lx_residency *r, int64_t i, const lx_weight **weights, lx_err *err)
{
    const lx_residency_device *d = &r->device;
    if (r->is_host) {
        *weights = layer_at(&r->layers, i);
        return LX_OK;
    }
    if (r->is_dry) {
        bind_layer(r, i, is_carried(r, i) ? r->slots[0].data : r->kept[i]);
    } else if (is_carried(r, i)) {
        int index;
        lx_status status = wait_for(r, i, &index, err);
        if (status == LX_OK)
            status = d->ops->after(d->card, ready_event(r, index), LX_CUDA_COMPUTE, err);
        if (status != LX_OK)
            return status;
        bind_layer(r, i, r->slots[index].data);
    }
    *weights = r->placed + i * r->layers.n_weights;
    return LX_OK;
}

lx_status lx_residency_leave(lx_residency *r, int64_t i, lx_err *err)
{
    const lx_residency_device *d = &r->device;
    if (r->is_host || r->is_dry || !is_carried(r, i))
        return LX_OK;
    pthread_mutex_lock(&r->lock);
    int index = slot_in_use(r, i);
    lx_status status =
        index >= 0 ? d->ops->mark(d->card, done_event(r, index), LX_CUDA_COMPUTE, err)
                   : lx_fail(err, LX_ESTAGE, "layer %" PRId64 " was left and never entered", i);
    if (status == LX_OK) {
        r->slots[index].layer = r->next_layer;
        r->slots[index].state = SLOT_ASKED;
        r->next_layer = carried_after(r, r->next_layer);
        pthread_cond_broadcast(&r->moved);
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

void lx_residency_stats_of(lx_residency *r, lx_residency_stats *out)
{
    lx_ring_stats ring = {0};
    if (r->ring)
        lx_ring_stats_of(r->ring, &ring);
    *out = (lx_residency_stats){.memory_bytes = ring.memory_bytes,
                                .disk_bytes = ring.disk_bytes,
                                .read_s = ring.read_s,
                                .link_s = ring.link_s,
                                .waited_s = r->waited_s};
}
