/*
 * tracer.h - a process that watches others call the system, and kills one of them at its k-th call
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      tracer_run() is the whole life of a parent; its child drives the pipeline and gives
 *           orders through a socket. The parent, because what it watches must descend from it
 *           where ptrace is restricted.
 * Promise   The victim dies at the entry of the call: that call has not happened, all before have.
 *           Where nobody was killed, all go on as if they had not been watched.
 * Threads   All threads of the watched processes are, also those that they make meanwhile; forked
 *           children are not.
 */
#ifndef TRACER_H
#define TRACER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct tracer_order {
    pid_t pid[2];         /* whom to watch; 0: nobody */
    int victim;           /* 0 or 1: whose calls are counted, and who dies */
    int opener;           /* 0 or 1: whose call opens the window; -1: it is open at once */
    long open_nr;         /* that call */
    bool opens_at_return; /* when it returns, instead of when it is made */
    long close_nr;        /* the victim's call that closes it: all are let go; 0: none does */
    uint64_t at;          /* die at this call, counted from 1 */
} tracer_order;

typedef enum tracer_word {
    TRACER_WATCHES,  /* the answer to an order */
    TRACER_KILLED,   /* comes by itself */
    TRACER_LEFT,     /* the answer to tracer_leave, or the window has closed: all are let go */
    TRACER_FORBIDDEN /* the answer to an order that the system did not allow */
} tracer_word;

typedef struct tracer_news {
    tracer_word word;
    uint64_t count; /* calls in the window so far */
    long nr;        /* killed: the call that it was about to make */
} tracer_news;

/** Serve orders until the driver ends; returns its exit code, 128 + N for signal N. */
int tracer_run(int fd, pid_t driver);

/* --- the child's side ------------------------------------------------------------------------- */

/** Returns when all are watched. */
tracer_news tracer_watch(int fd, const tracer_order *order);
/** Has it been killed? Does not wait; true once. */
bool tracer_has_killed(int fd, tracer_news *news);
/** Where a call closes the window: what it came to. */
tracer_news tracer_wait(int fd);
/** Stop watching. TRACER_KILLED: it was too late for that. */
tracer_news tracer_leave(int fd);

#endif
