/*
 * lx_share_slot.h - what lies in a lent slot (private to common/lx_share*.c)
 * SPDX-License-Identifier: Apache-2.0
 *
 * A slot is one header page and the tensor's bytes. The header names the serial that is published,
 * 0 while the slot is free or being filled. A borrower reads header, bytes, header: if the serial
 * is the ticket's both times, the bytes between are the tensor's, because a lender clears the
 * serial before it writes again. That holds for the slot's twin in a card's memory as well.
 */
#ifndef LX_SHARE_SLOT_H
#define LX_SHARE_SLOT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "lx_share.h"

#define SHARE_MAGIC  UINT64_C(0x7865726168733378)
#define SHARE_HEADER 4096

typedef enum share_kind {
    SHARE_HOST,     /* lent by a process without a card */
    SHARE_PINNED,   /* the bytes came from a card */
    SHARE_EXPORTED, /* and are in its memory as well */
    SHARE_KIND_COUNT
} share_kind;

typedef struct share_header {
    uint64_t magic;
    _Atomic uint64_t serial;
    uint64_t bytes;
    uint64_t kind; /* share_kind */
    lx_share_export device;
} share_header;
static_assert(sizeof(share_header) <= SHARE_HEADER, "one page");

bool share_instance_ok(const char *instance);
/** The bytes of a test tensor. */
void share_pattern(uint64_t seed, void *out, uint64_t bytes);

#endif
