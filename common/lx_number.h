/*
 * lx_number.h - messages between launcher and stage are counted, so that each is obeyed once
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Each side numbers what it sends from 1 (lx_msg.req) and knows the latest it heard.
 * Promise   What comes again is ignored, however late. What is missing cannot be made up for: the
 *           launcher kills the stage, a stage leaves, and the next process begins afresh. Number 0
 *           is not counted: messages by hand (tests).
 * Tests     tests/faults/test_messages.c
 */
#ifndef LX_NUMBER_H
#define LX_NUMBER_H

#include "lx_bus.h"

typedef struct lx_number {
    uint64_t said, heard; /* the latest */
} lx_number;

typedef enum lx_heard { LX_HEARD_NEXT, LX_HEARD_AGAIN, LX_HEARD_GAP } lx_heard;

/** After a gap everything is LX_HEARD_AGAIN. */
static inline lx_heard lx_number_hear(lx_number *n, const lx_msg *msg)
{
    if (!msg->req || msg->req == n->heard + 1) {
        n->heard += msg->req != 0;
        return LX_HEARD_NEXT;
    }
    if (msg->req <= n->heard)
        return LX_HEARD_AGAIN;
    n->heard = UINT64_MAX;
    return LX_HEARD_GAP;
}

/** lx_bus_send. A message that found no room takes no number. */
static inline lx_status lx_number_send(lx_number *n, lx_bus *bus, const lx_peer *peer, lx_msg *msg,
                                       lx_err *err)
{
    msg->req = n->said + 1;
    lx_status status = lx_bus_send(bus, peer, msg, err);
    n->said += status == LX_OK;
    return status;
}

#endif
