/*
 * lx_bus.h - control messages over ZeroMQ
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      ROUTER in the launcher, DEALER in stages and clients, with the options that make them
 *           safe: MAXMSGSIZE, small HWM, LINGER 0, heartbeats, ROUTER_MANDATORY, 5 s handshake.
 *           Unix sockets; a ROUTER may listen on tcp as well, and then only with CURVE, enforced.
 * Promise   What arrives is decoded and valid; a malformed message is dropped, counted and logged
 *           once per peer; sending never blocks.
 * Threads   One bus, one thread.
 * Tests     tests/unit/test_bus.c, tests/unit/test_gate.c
 */
#ifndef LX_BUS_H
#define LX_BUS_H

#include "lx_keys.h"
#include "lx_msg.h"
#include "lx_process.h"

typedef struct lx_bus lx_bus;

#define LX_PEER_BYTES 16
typedef struct lx_peer { /* who sent it: ROUTER's identity of a connection */
    uint8_t n;
    uint8_t id[LX_PEER_BYTES];
    bool is_remote; /* came by tcp, with a key that the gate knows */
    uint64_t key;   /* the same for all connections with that key; 0: none */
} lx_peer;

/** Bind a ROUTER on ipc://PATH. Checks the path's length (<= 107) and makes the socket 0600. Where
 *  there is a gate (lx_gate.h), it is asked about each peer. */
lx_status lx_bus_bind(lx_bus **out, const char *endpoint, lx_err *err);

#define LX_ENDPOINT 320
/**
 * Let a ROUTER listen on tcp://IP:PORT too (port 0: any free one). Nobody comes in without a key,
 * or without a gate that knows it.
 *
 * @param server  pair of this launcher
 * @param at      the endpoint as it is
 */
lx_status lx_bus_listen(lx_bus *bus, const char *endpoint, const lx_keys *server,
                        char at[LX_ENDPOINT], lx_err *err);

/** Knock there as strangers do: in plain, and with a key that nobody knows. LX_ECONFIG unless both
 *  are refused, the second by a gate. */
lx_status lx_bus_try_stranger(const char *endpoint, const char *server_public, lx_err *err);

/** Connect a DEALER. keys: of this client with its server's, for tcp://HOST:PORT; NULL for ipc. On
 *  tcp the handshake is waited for, at most 5 s: LX_ECONFIG if the key is refused. */
lx_status lx_bus_connect_as(lx_bus **out, const char *endpoint, const lx_keys *keys, lx_err *err);
lx_status lx_bus_connect(lx_bus **out, const char *endpoint, lx_err *err);
void lx_bus_close(lx_bus **bus);

/** peer: NULL for a DEALER. LX_EAGAIN: its queue is full; LX_EJOB: no such peer, or msg invalid. */
lx_status lx_bus_send(lx_bus *bus, const lx_peer *peer, const lx_msg *msg, lx_err *err);

/** Wait up to timeout_ms (-1: for ever, 0: not at all). LX_EAGAIN: nothing came.
 *  peer: NULL for a DEALER. Malformed messages are dropped here and never returned. */
lx_status lx_bus_receive(lx_bus *bus, lx_peer *peer, lx_msg *msg, int timeout_ms, lx_err *err);

/** Readable when lx_bus_receive(0) should be called *until it says LX_EAGAIN* (edge-triggered). */
int lx_bus_fd(const lx_bus *bus);
uint64_t lx_bus_dropped(const lx_bus *bus);

/** "zmq=4.3.4 czmq=4.2.1": what runs, for the start-up line. */
void lx_bus_versions(char *text, size_t text_bytes);

#endif
