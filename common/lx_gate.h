/*
 * lx_gate.h - who may connect at all
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Answers libzmq's question about every new connection (ZAP, RFC 27 of ZeroMQ): on a unix
 *           socket by the peer's user, on tcp by the peer's CURVE key.
 * Promise   In come: on a unix socket this user and root; on tcp keys that have a file NAME.pub in
 *           the clients' folder. Files may be added and removed at any time: the next connection
 *           counts. A unix socket is guarded by its folder's mode as well. Without a gate, and when
 *           it has ended, nobody comes in by tcp (lx_bus.h sets that).
 * Threads   A thread of its own. One gate per process: libzmq asks at one address.
 * Tests     tests/unit/test_gate.c, tests/pipeline/test_strangers.c
 */
#ifndef LX_GATE_H
#define LX_GATE_H

#include "lx_status.h"

typedef struct lx_gate lx_gate;

#define LX_GATE_DOMAIN  "lx2v" /* what a guarded socket calls itself when libzmq asks */
#define LX_GATE_CLIENTS 1000   /* keys at most */

/**
 * Stand guard from here on.
 *
 * @param clients_dir  folder of NAME.pub files; NULL: no key is good, tcp is not used
 * @retval LX_ECONFIG  the folder is missing, others may write it, or a file in it is no key
 * @retval LX_ESTAGE   there is a gate already
 */
lx_status lx_gate_open(lx_gate **out, const char *clients_dir, lx_err *err);
void lx_gate_close(lx_gate **gate);

#endif
