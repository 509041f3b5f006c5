/*
 * lx_each.c - a counter and some threads
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_each.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define MOST_THREADS 64

typedef struct each {
    size_t n;
    lx_each_fn fn;
    void *self;
    atomic_size_t next;
    atomic_bool has_failed;
    lx_err first; /* written by whoever sets has_failed */
} each;

static void *work(void *argument)
{
    each *e = argument;
    for (size_t i; !e->has_failed && (i = atomic_fetch_add(&e->next, 1)) < e->n;) {
        lx_err err = {0};
        lx_status status = e->fn(e->self, i, &err);
        if (status != LX_OK && !atomic_exchange(&e->has_failed, true)) {
            e->first = err;
            e->first.status = status;
        }
    }
    return NULL;
}

lx_status lx_each(size_t n, int threads, lx_each_fn fn, void *self, lx_err *err)
{
    each e = {.n = n, .fn = fn, .self = self};
    pthread_t thread[MOST_THREADS];
    int started = 0;
    /* A thread less is no error: whoever is there does the work. */
    while (started + 1 < threads && started + 1 < MOST_THREADS && (size_t)started + 1 < n &&
           !pthread_create(&thread[started], NULL, work, &e))
        started++;
    work(&e);
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    if (!e.has_failed)
        return LX_OK;
    if (err)
        *err = e.first;
    return e.first.status;
}
