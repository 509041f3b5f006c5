/*
 * lx_host.h - how much memory this machine has, and how much of it may be taken
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      /proc/meminfo, and the limits of our control group (version 2) and of those above it:
 *           in a container they are less than what /proc/meminfo tells.
 */
#ifndef LX_HOST_H
#define LX_HOST_H

#include <stdint.h>

/* What a plan leaves of the host's memory to others. */
#define LX_HOST_KEEP ((uint64_t)2 << 30)

/* Bytes; 0 where it cannot be read. */
typedef struct lx_host_memory {
    uint64_t all, available; /* available: without swapping, and within all limits */
    uint64_t limit;          /* the lowest of our control groups' limits; 0: there is none */
} lx_host_memory;

void lx_host_memory_look(lx_host_memory *out);

#endif
