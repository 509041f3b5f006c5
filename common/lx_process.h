/*
 * lx_process.h - what a process knows about itself
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_PROCESS_H
#define LX_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

double lx_now_s(void);        /* CLOCK_MONOTONIC: the same clock in every process of the machine */
uint64_t lx_rss_bytes(void);  /* resident now, 0 if unknown */
uint64_t lx_peak_bytes(void); /* resident at most, so far */

/** An amount of memory as a person reads it: "1.50 GiB", below that "300 MiB". Returns text; 24
 *  bytes are enough. */
const char *lx_bytes_text(uint64_t bytes, char *text, size_t room);

/** From now on the first SIGINT or SIGTERM only sets what lx_interrupted() tells, so that work can
 *  end in order; the second one kills as ever. A signal that is ignored stays ignored. */
void lx_catch_interrupt(void);
bool lx_interrupted(void);

#endif
