/*
 * layout.h - which tensor goes where in memory, before anything is read
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Order, duplicates, companions and addresses of a table's tensors. The same files and
 *           the same wishes give the same layout in every process: shared memory depends on it.
 */
#ifndef LX_LAYOUT_H
#define LX_LAYOUT_H

#include "weights_internal.h"

#define LX_WEIGHTS_ALIGN 256 /* bytes: a card's widest accesses */
#define LX_NO_COMPANION  SIZE_MAX

/* All arrays are owned, [n_entries of the table]. */
typedef struct lx_layout {
    lx_table *table;   /* borrowed; sorted by name from here on */
    uint64_t *at;      /* where an entry's bytes go; unset for a private entry on disk */
    uint64_t *wide_at; /* where a 16-bit scale is widened to; 0 = not needed */
    size_t *companion; /* index of the entry's scale */
    bool *is_scale;    /* folded into another entry */
    bool *is_on_disk;  /* the options want it to stay in its file */
    size_t *order;     /* by file and offset */
    uint64_t states;   /* bytes at the start of shared memory, one u64 for each entry; else 0 */
    uint64_t total;    /* bytes of memory */
    uint64_t stored;   /* bytes of all tensors */
} lx_layout;

/** is_shared: every entry gets an address, behind a table of states. */
lx_status lx_layout_make(lx_layout *out, lx_table *table, bool is_shared, lx_err *err);
void lx_layout_free(lx_layout *layout);

/** 64 hex digits over names, types, shapes, files, offsets and addresses: who agrees on them may
 *  share memory. */
void lx_layout_identity(const lx_layout *layout, char out[65]);

#endif
