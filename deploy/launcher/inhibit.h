/*
 * inhibit.h - the machine does not fall asleep over a queue
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Holds logind's inhibitor "sleep" while there are jobs, by a child that runs
 *           `systemd-inhibit`. Over D-Bus ourselves would mean libsystemd in the launcher for one
 *           call a day; the child needs nothing at build time, nothing where it is not there.
 * Promise   The child ends with the launcher, however that ends: it reads our pipe. Where
 *           there is no systemd-inhibit or no logind, one line in the log says so, once.
 * Threads   The launcher's one thread.
 * Tests     tests/faults/test_supervision.c
 */
#ifndef INHIBIT_H
#define INHIBIT_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct inhibit {
    pid_t pid;       /* of systemd-inhibit; 0: it does not run */
    int pipe;        /* what it reads from, while it runs */
    bool is_useless; /* it cannot be had here */
    bool is_leaving;
    double asked_s;
} inhibit;

/** wanted: there are jobs. Call in each turn; costs nothing while nothing changes. */
void inhibit_tick(inhibit *i, bool wanted, double now_s);
/** Let go, and wait for the child. */
void inhibit_end(inhibit *i);

#endif
