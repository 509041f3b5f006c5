/*
 * lx_bar.h - one line of a terminal that shows how far long work is
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      For tools that do one thing and end. The client's table of jobs is its own.
 */
#ifndef LX_BAR_H
#define LX_BAR_H

#include <stdint.h>

/** Draw over the line of the last call, on stderr; at the end a newline. unit "byte": also GB/s.
 *  start_s: lx_now_s() when the work began. */
void lx_bar_draw(const char *unit, uint64_t done, uint64_t total, double start_s);

#endif
