/*
 * fake_card.h - what a card's copy and compute queues promise, on the CPU
 * SPDX-License-Identifier: Apache-2.0
 *
 * Two threads run two queues: copies really copy, marks and waits order the queues as events do,
 * and a "kernel" compares a layer's weights, on whatever is there when it runs. So a buffer that is
 * filled again too early, or a slot, shows as wrong bytes, and to a thread sanitizer as a race.
 */
#ifndef TESTS_FAKE_CARD_H
#define TESTS_FAKE_CARD_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lx_residency.h"

#define FAKE_OPS     8192
#define FAKE_WEIGHTS 8

typedef struct fake_op {
    enum { FAKE_COPY, FAKE_MARK, FAKE_WAIT, FAKE_KERNEL } kind;
    void *dst;
    const void *src;
    size_t bytes;
    int event;
    uint64_t generation;
    lx_weight found[FAKE_WEIGHTS];
    const lx_weight *expected;
    int n_weights;
} fake_op;

typedef struct fake_queue {
    struct fake_card *card;
    pthread_t thread;
    fake_op op[FAKE_OPS];
    size_t n, at; /* queued, done */
} fake_queue;

typedef struct fake_card {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    fake_queue queue[2]; /* by lx_cuda_queue */
    uint64_t marked[LX_CUDA_EVENTS], reached[LX_CUDA_EVENTS];
    bool is_closing;
    int delay_us;                         /* of every copy and kernel */
    int n_copies, fail_copy;              /* fail_copy: the copy that fails, 0: none */
    size_t pinned, pinned_most, fail_pin; /* fail_pin: no more than so many bytes, 0: no limit */
    uint64_t n_checked, n_wrong;
    char wrong[256];
} fake_card;

static inline uint64_t fake_bytes(const lx_weight *w)
{
    uint64_t bytes = 0;
    (void)lx_shape_bytes(&w->shape, w->dtype, NULL, &bytes, NULL);
    return bytes;
}

static inline void fake_kernel(fake_card *card, const fake_op *op)
{
    uint64_t wrong = 0;
    const char *name = "";
    for (int k = 0; k < op->n_weights; k++) {
        const lx_weight *f = &op->found[k], *e = &op->expected[k];
        bool is_same = memcmp(f->data, e->data, fake_bytes(e)) == 0;
        if (e->scale)
            is_same &= f->scale && memcmp(f->scale, e->scale, (size_t)e->shape.dim[0] * 4) == 0;
        if (!is_same) {
            wrong++;
            name = e->name;
        }
    }
    pthread_mutex_lock(&card->lock);
    card->n_checked++;
    if (wrong)
        snprintf(card->wrong, sizeof card->wrong, "%s", name);
    card->n_wrong += wrong;
    pthread_mutex_unlock(&card->lock);
}

static inline void fake_run(fake_card *card, const fake_op *op)
{
    if (card->delay_us && (op->kind == FAKE_COPY || op->kind == FAKE_KERNEL))
        nanosleep(&(struct timespec){.tv_nsec = card->delay_us * 1000L}, NULL);
    if (op->kind == FAKE_COPY)
        memcpy(op->dst, op->src, op->bytes);
    if (op->kind == FAKE_KERNEL)
        fake_kernel(card, op);
}

static inline void *fake_main(void *self)
{
    fake_queue *q = self;
    fake_card *card = q->card;
    pthread_mutex_lock(&card->lock);
    for (;;) {
        while (q->at == q->n && !card->is_closing)
            pthread_cond_wait(&card->moved, &card->lock);
        if (q->at == q->n)
            break;
        const fake_op *op = &q->op[q->at % FAKE_OPS];
        if (op->kind == FAKE_WAIT && card->reached[op->event] < op->generation) {
            pthread_cond_wait(&card->moved, &card->lock);
            continue;
        }
        if (op->kind == FAKE_MARK) {
            card->reached[op->event] = op->generation;
        } else {
            pthread_mutex_unlock(&card->lock);
            fake_run(card, op);
            pthread_mutex_lock(&card->lock);
        }
        q->at++;
        pthread_cond_broadcast(&card->moved);
    }
    pthread_mutex_unlock(&card->lock);
    return NULL;
}

/* With the lock. */
static inline void fake_push(fake_card *card, int queue, const fake_op *op)
{
    fake_queue *q = &card->queue[queue];
    while (q->n - q->at == FAKE_OPS)
        pthread_cond_wait(&card->moved, &card->lock);
    q->op[q->n++ % FAKE_OPS] = *op;
    pthread_cond_broadcast(&card->moved);
}

static inline lx_status fake_pin(void *self, size_t bytes, void **out, lx_err *err)
{
    fake_card *card = self;
    if (card->fail_pin && card->pinned + bytes > card->fail_pin)
        return lx_fail(err, LX_EAGAIN, "no pinned memory");
    *out = aligned_alloc(4096, bytes);
    if (!*out)
        return lx_fail(err, LX_EAGAIN, "no memory");
    memset(*out, 0xee, bytes);
    card->pinned += bytes;
    if (card->pinned > card->pinned_most)
        card->pinned_most = card->pinned;
    return LX_OK;
}

static inline void fake_unpin(void *self, void *memory)
{
    (void)self;
    free(memory);
}

static inline lx_status fake_copy_in(void *self, void *dst, const void *src, size_t bytes,
                                     lx_err *err)
{
    fake_card *card = self;
    lx_status status = LX_OK;
    pthread_mutex_lock(&card->lock);
    if (++card->n_copies == card->fail_copy)
        status = lx_fail(err, LX_ESTAGE, "the card fell off the bus");
    else
        fake_push(card, LX_CUDA_COPY,
                  &(fake_op){.kind = FAKE_COPY, .dst = dst, .src = src, .bytes = bytes});
    pthread_mutex_unlock(&card->lock);
    return status;
}

static inline lx_status fake_mark(void *self, int event, lx_cuda_queue queue, lx_err *err)
{
    fake_card *card = self;
    (void)err;
    pthread_mutex_lock(&card->lock);
    fake_push(card, (int)queue,
              &(fake_op){.kind = FAKE_MARK, .event = event, .generation = ++card->marked[event]});
    pthread_mutex_unlock(&card->lock);
    return LX_OK;
}

static inline lx_status fake_after(void *self, int event, lx_cuda_queue queue, lx_err *err)
{
    fake_card *card = self;
    (void)err;
    pthread_mutex_lock(&card->lock);
    fake_push(card, (int)queue,
              &(fake_op){.kind = FAKE_WAIT, .event = event, .generation = card->marked[event]});
    pthread_mutex_unlock(&card->lock);
    return LX_OK;
}

static inline lx_status fake_reached(void *self, int event, lx_err *err)
{
    fake_card *card = self;
    (void)err;
    pthread_mutex_lock(&card->lock);
    uint64_t generation = card->marked[event];
    while (card->reached[event] < generation)
        pthread_cond_wait(&card->moved, &card->lock);
    pthread_mutex_unlock(&card->lock);
    return LX_OK;
}

static const lx_card_ops fake_ops = {fake_pin,  fake_unpin, fake_copy_in,
                                     fake_mark, fake_after, fake_reached};

/* Queue the comparison of a layer. */
static inline void fake_check(fake_card *card, const lx_weight *found, const lx_weight *expected,
                              int n_weights)
{
    fake_op op = {.kind = FAKE_KERNEL, .expected = expected, .n_weights = n_weights};
    memcpy(op.found, found, (size_t)n_weights * sizeof *found);
    pthread_mutex_lock(&card->lock);
    fake_push(card, LX_CUDA_COMPUTE, &op);
    pthread_mutex_unlock(&card->lock);
}

static inline void fake_wait(fake_card *card)
{
    pthread_mutex_lock(&card->lock);
    for (int i = 0; i < 2; i++)
        while (card->queue[i].at < card->queue[i].n)
            pthread_cond_wait(&card->moved, &card->lock);
    pthread_mutex_unlock(&card->lock);
}

static inline fake_card *fake_open(int delay_us)
{
    fake_card *card = calloc(1, sizeof *card);
    if (!card)
        abort();
    card->delay_us = delay_us;
    pthread_mutex_init(&card->lock, NULL);
    pthread_cond_init(&card->moved, NULL);
    for (int i = 0; i < 2; i++) {
        card->queue[i].card = card;
        if (pthread_create(&card->queue[i].thread, NULL, fake_main, &card->queue[i]))
            abort();
    }
    return card;
}

static inline void fake_close(fake_card *card)
{
    fake_wait(card);
    pthread_mutex_lock(&card->lock);
    card->is_closing = true;
    pthread_cond_broadcast(&card->moved);
    pthread_mutex_unlock(&card->lock);
    for (int i = 0; i < 2; i++)
        pthread_join(card->queue[i].thread, NULL);
    pthread_cond_destroy(&card->moved);
    pthread_mutex_destroy(&card->lock);
    free(card);
}

#endif
