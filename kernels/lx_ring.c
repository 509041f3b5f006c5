/*
 * lx_ring.c - buffers, the threads that fill them, and copies in order
 * SPDX-License-Identifier: Apache-2.0
 *
 * Two lanes, memory and disk, each a ring of buffers; a buffer's life:
 *
 *           place()                   readers                 send()             reached()
 *   FREE ────────────▶ LOADING ─ pieces of its segments ─▶ ... ───────▶ COPYING ────────▶ FREE
 *
 * place() decides what comes into a buffer and where: a segment is a run of one part's bytes. Disk
 * segments begin as far behind a page's start as they do in the file, so that direct I/O puts them
 * there. Whole pages around them are read, so a buffer's length is one of pages.
 */
#include "lx_ring.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lx_process.h"

#define MEMORY_BUFFERS 4
#define DISK_BUFFERS   (LX_RING_BUFFERS - MEMORY_BUFFERS)
#define BUFFER_LEAST   (LX_RING_LEAST / LX_RING_BUFFERS)
#define MEMORY_MOST    ((uint64_t)256 << 20) /* of a ring that also reads from disk */
#define PIECE          ((uint64_t)4 << 20)   /* of a thread's work; one read of a disk */
#define SEGMENTS       32
#define ALIGN          ((uint64_t)256) /* of segments from memory */
#define COPYING_MOST   2 /* copies that may be under way before their buffer is wanted back */
/* Besides the thread that asks. One more copies as fast as the fastest link; a disk wants several
 * reads at a time. */
#define MEMORY_READERS 1
#define DISK_READERS   3

typedef enum buffer_state { BUFFER_FREE, BUFFER_LOADING, BUFFER_COPYING } buffer_state;

typedef struct segment {
    const lx_ring_part *part;
    int64_t layer;
    uint64_t from;                         /* bytes of the part before it */
    uint64_t at, bytes;                    /* in the buffer */
    uint64_t read_at, read_bytes, file_at; /* disk: the pages around it */
} segment;

typedef struct buffer {
    unsigned char *data; /* pinned; owned */
    int event;
    buffer_state state;
    segment segment[SEGMENTS];
    int n_segments, n_sent;
    int next_segment; /* with next_at: the next piece for a reader */
    uint64_t next_at;
    int n_busy; /* pieces in readers' hands */
} buffer;

enum { LANE_MEMORY, LANE_DISK, LANES };

typedef struct lane {
    buffer *buffers; /* into ring.buffers */
    int n_buffers;   /* 0: no part comes this way */
    uint64_t buffer_bytes;
    int head;      /* the next to be placed */
    int n_loading; /* those before it */
    int n_copying; /* those before these */
    /* The next run of bytes to be placed. */
    int64_t layer, part;
    uint64_t done;
    bool is_over;
} lane;

struct lx_ring {
    const lx_card_ops *ops;
    void *card;
    lx_ring_layers layers;
    bool *is_checked;   /* owned; by part: its values are finite */
    int64_t first, end; /* layers expected */
    bool repeats;
    buffer buffers[LX_RING_BUFFERS];
    lane lanes[LANES];
    pthread_t readers[DISK_READERS];
    int n_readers;
    /* Under the lock: pieces, states, n_loading, stats, failure. Cursors are the asker's alone. */
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool is_closing, is_stopped;
    lx_status failure;
    lx_err failure_err;
    lx_ring_stats stats;
};

static uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static int lane_of(const lx_ring_part *part)
{
    return part->extent.disk ? LANE_DISK : LANE_MEMORY;
}

/* --- placing --------------------------------------------------------------------------------- */

/* Moves the cursor to the lane's next part, from the part it is at (itself included). */
static void seek(const lx_ring *r, lane *l)
{
    const int kind = (int)(l - r->lanes);
    for (int64_t n = r->end - r->first + 1; n > 0;) {
        for (; l->part < r->layers.first[l->layer + 1]; l->part++)
            if (lane_of(&r->layers.parts[l->part]) == kind)
                return;
        if (++l->layer == r->end) {
            if (!r->repeats)
                break;
            l->layer = r->first;
        }
        l->part = r->layers.first[l->layer];
        n--;
    }
    l->is_over = true; /* or there is none in any layer */
}

static void start_at(const lx_ring *r, lane *l, int64_t layer)
{
    l->layer = layer;
    l->done = 0;
    l->is_over = l->n_buffers == 0 || r->first == r->end;
    if (l->is_over)
        return;
    l->part = r->layers.first[layer];
    seek(r, l);
}

/* The cursor's next run into a buffer of which `used` bytes are taken. False: there is no room. */
static bool cut_segment(const lx_ring *r, const lane *l, uint64_t used, segment *out)
{
    const lx_ring_part *part = &r->layers.parts[l->part];
    const uint64_t left = part->bytes - l->done;
    *out = (segment){.part = part, .layer = l->layer, .from = l->done};
    if (!part->extent.disk) {
        out->at = align_up(used, ALIGN);
        if (out->at >= l->buffer_bytes)
            return false;
        out->bytes = left < l->buffer_bytes - out->at ? left : l->buffer_bytes - out->at;
        return true;
    }
    const uint64_t offset = part->extent.offset + l->done, lead = offset % LX_DISK_ALIGN;
    out->read_at = align_up(used, LX_DISK_ALIGN);
    out->file_at = offset - lead;
    out->at = out->read_at + lead;
    if (out->at >= l->buffer_bytes)
        return false;
    out->bytes = left;
    if (left > l->buffer_bytes - out->at) {
        out->bytes = l->buffer_bytes - out->at;
        out->bytes -= out->bytes % lx_dtype_size(part->dtype); /* no number in two buffers */
    }
    if (!out->bytes)
        return false;
    out->read_bytes = align_up(lead + out->bytes, LX_DISK_ALIGN); /* still inside: all are pages */
    return true;
}

static void place(lx_ring *r, lane *l, buffer *b)
{
    uint64_t used = 0;
    b->n_segments = b->n_sent = b->next_segment = b->n_busy = 0;
    b->next_at = 0;
    while (!l->is_over && b->n_segments < SEGMENTS) {
        segment *s = &b->segment[b->n_segments];
        if (!cut_segment(r, l, used, s))
            break;
        used = s->part->extent.disk ? s->read_at + s->read_bytes : s->at + s->bytes;
        b->n_segments++;
        l->done += s->bytes;
        if (l->done == s->part->bytes) {
            l->done = 0;
            l->part++;
            seek(r, l);
        }
    }
}

/* --- reading: pieces of segments, by any thread ---------------------------------------------- */

typedef struct piece {
    buffer *buffer;
    const segment *segment;
    uint64_t at, bytes; /* of the segment, or of the pages around it */
} piece;

/* With the lock. */
static bool take_piece(buffer *b, piece *out)
{
    if (b->state != BUFFER_LOADING || b->next_segment == b->n_segments)
        return false;
    const segment *s = &b->segment[b->next_segment];
    const uint64_t all = s->part->extent.disk ? s->read_bytes : s->bytes, left = all - b->next_at;
    *out = (piece){b, s, b->next_at, left < PIECE ? left : PIECE};
    b->next_at += out->bytes;
    if (b->next_at == all) {
        b->next_segment++;
        b->next_at = 0;
    }
    b->n_busy++;
    return true;
}

/* With the lock. Memory first: that is quick. */
static bool take_any(lx_ring *r, piece *out)
{
    for (int k = 0; k < LANES; k++) {
        lane *l = &r->lanes[k];
        for (int i = l->n_loading; i > 0; i--)
            if (take_piece(&l->buffers[(l->head - i + l->n_buffers) % l->n_buffers], out))
                return true;
    }
    return false;
}

static lx_status read_piece(const piece *p, lx_err *err)
{
    const segment *s = p->segment;
    const lx_ring_part *part = s->part;
    if (part->extent.disk)
        return lx_disk_read(part->extent.disk, s->file_at + p->at,
                            p->buffer->data + s->read_at + p->at, p->bytes, err);
    memcpy(p->buffer->data + s->at + p->at, (const unsigned char *)part->data + s->from + p->at,
           (size_t)p->bytes);
    return LX_OK;
}

/* With the lock; without it meanwhile. */
static void do_piece(lx_ring *r, const piece *p)
{
    lx_err err = {0};
    bool is_disk = p->segment->part->extent.disk != NULL;
    if (r->failure == LX_OK) {
        pthread_mutex_unlock(&r->lock);
        lx_status status = read_piece(p, &err);
        pthread_mutex_lock(&r->lock);
        *(is_disk ? &r->stats.disk_bytes : &r->stats.memory_bytes) += p->bytes;
        if (status != LX_OK && r->failure == LX_OK) {
            r->failure = status;
            r->failure_err = err;
        }
    }
    if (--p->buffer->n_busy == 0)
        pthread_cond_broadcast(&r->done);
}

static void *reader_main(void *self)
{
    lx_ring *r = self;
    piece p;
    pthread_mutex_lock(&r->lock);
    while (!r->is_closing) {
        if (take_any(r, &p))
            do_piece(r, &p);
        else
            pthread_cond_wait(&r->work, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* All of a buffer is there. This thread helps instead of sleeping. */
static lx_status wait_loaded(lx_ring *r, buffer *b, lx_err *err)
{
    piece p;
    const double start_s = lx_now_s();
    pthread_mutex_lock(&r->lock);
    for (;;) {
        if (take_piece(b, &p))
            do_piece(r, &p);
        else if (b->n_busy)
            pthread_cond_wait(&r->done, &r->lock);
        else
            break;
    }
    lx_status status = r->failure;
    if (status != LX_OK && err)
        *err = r->failure_err;
    r->stats.read_s += lx_now_s() - start_s;
    pthread_mutex_unlock(&r->lock);
    return status;
}

/* --- the ring's turns ------------------------------------------------------------------------- */

/* The next buffer: its copies have run, new bytes are on their way to it. */
static lx_status turn(lx_ring *r, lane *l, lx_err *err)
{
    buffer *b = &l->buffers[l->head];
    if (b->state == BUFFER_COPYING) {
        const double start_s = lx_now_s();
        lx_status status = r->ops->reached(r->card, b->event, err);
        if (status != LX_OK)
            return status;
        l->n_copying--;
        pthread_mutex_lock(&r->lock);
        r->stats.link_s += lx_now_s() - start_s;
        pthread_mutex_unlock(&r->lock);
    }
    pthread_mutex_lock(&r->lock);
    place(r, l, b);
    b->state = BUFFER_LOADING;
    l->head = (l->head + 1) % l->n_buffers;
    l->n_loading++;
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->lock);
    return LX_OK;
}

/* may_wait: for copies that are under way. A few always may be, so that the link has work. */
static lx_status top_up(lx_ring *r, lane *l, bool may_wait, bool *did, lx_err *err)
{
    lx_status status = LX_OK;
    while (status == LX_OK && !l->is_over && l->n_loading < l->n_buffers) {
        bool is_free = l->buffers[l->head].state == BUFFER_FREE;
        if (!is_free && !may_wait && l->n_loading && l->n_copying <= COPYING_MOST)
            break;
        status = turn(r, l, err);
        *did = true;
    }
    return status;
}

static buffer *oldest(lane *l)
{
    return &l->buffers[(l->head - l->n_loading + l->n_buffers) % l->n_buffers];
}

/* All of its segments are on the copy queue. */
static lx_status retire(lx_ring *r, lane *l, buffer *b, lx_err *err)
{
    lx_status status = r->ops->mark(r->card, b->event, LX_CUDA_COPY, err);
    if (status != LX_OK)
        return status;
    pthread_mutex_lock(&r->lock);
    b->state = BUFFER_COPYING;
    l->n_loading--;
    pthread_mutex_unlock(&r->lock);
    l->n_copying++;
    return LX_OK;
}

/* What was read ahead is of no use: give the buffers back, begin again with `layer`. */
static lx_status restart(lx_ring *r, lane *l, int64_t layer, lx_err *err)
{
    while (l->n_loading) {
        buffer *b = oldest(l);
        lx_status status = LX_OK;
        pthread_mutex_lock(&r->lock);
        b->next_segment = b->n_segments; /* no more pieces */
        while (b->n_busy)
            pthread_cond_wait(&r->done, &r->lock);
        pthread_mutex_unlock(&r->lock);
        /* Of those behind it none was sent from, so the order of states in the ring stays. */
        if (b->n_sent) {
            status = retire(r, l, b, err);
        } else {
            pthread_mutex_lock(&r->lock);
            b->state = BUFFER_FREE;
            l->n_loading--;
            pthread_mutex_unlock(&r->lock);
        }
        if (status != LX_OK)
            return status;
    }
    start_at(r, l, layer);
    return LX_OK;
}

static bool is_stopped(lx_ring *r)
{
    pthread_mutex_lock(&r->lock);
    bool yes = r->is_stopped;
    pthread_mutex_unlock(&r->lock);
    return yes;
}

/* In pieces of the stack, because a file may have its numbers at any address. */
static uint64_t first_not_finite(const unsigned char *data, lx_dtype dtype, uint64_t bytes)
{
    _Alignas(64) unsigned char some[16384];
    const uint64_t size = lx_dtype_size(dtype);
    for (uint64_t at = 0; at < bytes; at += sizeof some) {
        uint64_t n = bytes - at < sizeof some ? bytes - at : sizeof some;
        memcpy(some, data + at, (size_t)n);
        uint64_t bad = lx_first_not_finite(some, dtype, n / size);
        if (bad != UINT64_MAX)
            return at / size + bad;
    }
    return UINT64_MAX;
}

/* Of a part from disk: the file is the one that was opened, and what it holds are numbers. */
static lx_status check_segment(lx_ring *r, const buffer *b, const segment *s, lx_err *err)
{
    const lx_ring_part *part = s->part;
    bool *is_checked = &r->is_checked[part - r->layers.parts];
    lx_status status = lx_disk_unchanged(part->extent.disk, err);
    if (status != LX_OK || *is_checked)
        return status;
    uint64_t bad = first_not_finite(b->data + s->at, part->dtype, s->bytes);
    if (bad != UINT64_MAX)
        return lx_fail(err, LX_ECONFIG,
                       "%s: %.200s: element %" PRIu64
                       " is not finite (NaN or infinity): the file is damaged",
                       lx_disk_path(part->extent.disk), part->name ? part->name : "?",
                       s->from / lx_dtype_size(part->dtype) + bad);
    *is_checked = s->from + s->bytes == part->bytes; /* segments come in order */
    return LX_OK;
}

static lx_status send_segment(lx_ring *r, const buffer *b, const segment *s, unsigned char *dst,
                              lx_err *err)
{
    if (s->part->extent.disk) {
        lx_status status = check_segment(r, b, s, err);
        if (status != LX_OK)
            return status;
    }
    return r->ops->copy_in(r->card, dst + s->part->at + s->from, b->data + s->at, (size_t)s->bytes,
                           err);
}

/* The next run that the lane will deliver is the first one of `layer`. */
static bool is_expected(const lx_ring *r, lane *l, int64_t layer)
{
    const int kind = (int)(l - r->lanes);
    int64_t first = r->layers.first[layer];
    while (lane_of(&r->layers.parts[first]) != kind)
        first++;
    if (!l->n_loading)
        return !l->is_over && l->layer == layer && l->part == first && l->done == 0;
    const buffer *b = oldest(l);
    const segment *s = &b->segment[b->n_sent];
    return s->part == &r->layers.parts[first] && s->from == 0;
}

/* `left` bytes of a layer, the lane's part of it. */
static lx_status send(lx_ring *r, lane *l, int64_t layer, uint64_t left, unsigned char *dst,
                      lx_err *err)
{
    bool unused;
    lx_status status = is_expected(r, l, layer) ? LX_OK : restart(r, l, layer, err);
    while (status == LX_OK && left > 0) {
        if (is_stopped(r))
            return lx_fail(err, LX_ECANCEL, "the carrier of weights was told to stop");
        status = top_up(r, l, false, &unused, err);
        if (status != LX_OK)
            break;
        buffer *b = oldest(l);
        status = wait_loaded(r, b, err);
        while (status == LX_OK && left > 0 && b->n_sent < b->n_segments) {
            const segment *s = &b->segment[b->n_sent];
            status = send_segment(r, b, s, dst, err);
            b->n_sent++;
            left -= s->bytes;
        }
        if (status == LX_OK && b->n_sent == b->n_segments)
            status = retire(r, l, b, err);
    }
    return status;
}

lx_status lx_ring_fill(lx_ring *r, int64_t layer, void *dst, lx_err *err)
{
    uint64_t bytes[LANES] = {0};
    bool unused;
    lx_status status = LX_OK;
    for (int64_t i = r->layers.first[layer]; i < r->layers.first[layer + 1]; i++)
        bytes[lane_of(&r->layers.parts[i])] += r->layers.parts[i].bytes;
    /* The disk gets work before this thread is busy with memory. */
    if (!bytes[LANE_DISK])
        status = top_up(r, &r->lanes[LANE_DISK], false, &unused, err);
    for (int k = 0; k < LANES && status == LX_OK; k++)
        if (bytes[k])
            status = send(r, &r->lanes[k], layer, bytes[k], dst, err);
    return status;
}

lx_status lx_ring_ahead(lx_ring *r, bool *did, lx_err *err)
{
    *did = false;
    lx_status status = top_up(r, &r->lanes[LANE_DISK], true, did, err);
    return status == LX_OK ? top_up(r, &r->lanes[LANE_MEMORY], true, did, err) : status;
}

void lx_ring_begin(lx_ring *r, int64_t first, int64_t end, bool repeats)
{
    r->first = first;
    r->end = end;
    r->repeats = repeats;
    for (int k = 0; k < LANES; k++)
        (void)restart(r, &r->lanes[k], first, NULL);
}

void lx_ring_stop(lx_ring *r)
{
    pthread_mutex_lock(&r->lock);
    r->is_stopped = true;
    pthread_mutex_unlock(&r->lock);
}

void lx_ring_stats_of(lx_ring *r, lx_ring_stats *out)
{
    pthread_mutex_lock(&r->lock);
    *out = r->stats;
    pthread_mutex_unlock(&r->lock);
}

/* --- opening --------------------------------------------------------------------------------- */

static lx_status pin_lane(lx_ring *r, int kind, int n, uint64_t bytes, int *next, lx_err *err)
{
    lane *l = &r->lanes[kind];
    uint64_t each = bytes / (uint64_t)n / LX_DISK_ALIGN * LX_DISK_ALIGN;
    l->buffers = &r->buffers[*next];
    l->buffer_bytes = each < BUFFER_LEAST ? BUFFER_LEAST : each;
    for (int i = 0; i < n; i++) {
        void *memory = NULL;
        lx_status status = r->ops->pin(r->card, (size_t)l->buffer_bytes, &memory, err);
        if (status != LX_OK)
            return status;
        l->buffers[i].data = memory;
        l->n_buffers++;
        ++*next;
    }
    return LX_OK;
}

static lx_status pin(lx_ring *r, uint64_t bytes, lx_err *err)
{
    bool has[LANES] = {false};
    int next = 0;
    for (int64_t i = 0; i < r->layers.first[r->layers.n_layers]; i++)
        has[lane_of(&r->layers.parts[i])] = true;
    uint64_t memory = !has[LANE_MEMORY] ? 0 : has[LANE_DISK] ? bytes / 4 : bytes;
    if (has[LANE_DISK] && memory > MEMORY_MOST)
        memory = MEMORY_MOST;
    lx_status status = LX_OK;
    if (has[LANE_MEMORY])
        status = pin_lane(r, LANE_MEMORY, MEMORY_BUFFERS, memory, &next, err);
    if (has[LANE_DISK] && status == LX_OK)
        status = pin_lane(r, LANE_DISK, DISK_BUFFERS, bytes - memory, &next, err);
    return status;
}

/* Integers are finite; what is in memory was looked at when it was read. */
static lx_status list_unchecked(lx_ring *r, lx_err *err)
{
    const int64_t n = r->layers.first[r->layers.n_layers];
    r->is_checked = calloc((size_t)n + 1, sizeof *r->is_checked);
    if (!r->is_checked)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a ring");
    for (int64_t i = 0; i < n; i++)
        r->is_checked[i] = r->layers.parts[i].dtype == LX_DTYPE_I8;
    return LX_OK;
}

static lx_status start_readers(lx_ring *r, lx_err *err)
{
    int n = r->lanes[LANE_DISK].n_buffers ? DISK_READERS : MEMORY_READERS;
    for (; r->n_readers < n; r->n_readers++)
        if (pthread_create(&r->readers[r->n_readers], NULL, reader_main, r) != 0)
            return lx_fail(err, LX_EAGAIN, "no thread to read weights");
    return LX_OK;
}

lx_status lx_ring_open(lx_ring **out, const lx_card_ops *ops, void *card,
                       const lx_ring_layers *layers, uint64_t bytes, int first_event, lx_err *err)
{
    lx_ring *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a ring");
    r->ops = ops;
    r->card = card;
    r->layers = *layers;
    for (int i = 0; i < LX_RING_BUFFERS; i++)
        r->buffers[i].event = first_event + i;
    for (int k = 0; k < LANES; k++)
        r->lanes[k].is_over = true;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->work, NULL);
    pthread_cond_init(&r->done, NULL);
    lx_status status = list_unchecked(r, err);
    if (status == LX_OK)
        status = pin(r, bytes, err);
    if (status == LX_OK)
        status = start_readers(r, err);
    if (status != LX_OK)
        lx_ring_close(&r);
    else
        *out = r;
    return status;
}

/* No copy reads from the buffers any more. */
static void wait_for_copies(lx_ring *r)
{
    for (int i = 0; i < LX_RING_BUFFERS; i++) {
        buffer *b = &r->buffers[i];
        bool is_asked = b->state == BUFFER_COPYING;
        if (b->state == BUFFER_LOADING && b->n_sent)
            is_asked = r->ops->mark(r->card, b->event, LX_CUDA_COPY, NULL) == LX_OK;
        if (is_asked)
            (void)r->ops->reached(r->card, b->event, NULL);
    }
}

void lx_ring_close(lx_ring **ring)
{
    if (!ring || !*ring)
        return;
    lx_ring *r = *ring;
    pthread_mutex_lock(&r->lock);
    r->is_closing = true;
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < r->n_readers; i++)
        pthread_join(r->readers[i], NULL);
    wait_for_copies(r);
    for (int i = 0; i < LX_RING_BUFFERS; i++)
        if (r->buffers[i].data)
            r->ops->unpin(r->card, r->buffers[i].data);
    pthread_cond_destroy(&r->done);
    pthread_cond_destroy(&r->work);
    pthread_mutex_destroy(&r->lock);
    free(r->is_checked);
    free(r);
    *ring = NULL;
}
