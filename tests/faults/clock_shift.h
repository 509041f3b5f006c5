/*
 * clock_shift.h - the file between test_clock.c and the programs whose clock it sets
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLOCK_SHIFT_H
#define CLOCK_SHIFT_H

#include <stdatomic.h>

typedef struct clock_shift {
    atomic_long seconds;  /* off */
    atomic_ulong n_asked; /* how often somebody was told a time that is off */
} clock_shift;

#endif
