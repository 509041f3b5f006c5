/*
 * listen.h - the doors for clients
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Opens the unix socket, the gate, and tcp where the config asks for it; and knocks there
 *           as a stranger before anybody else can.
 * Promise   By default one unix socket and nothing else. What listens on tcp has just refused a
 *           stranger without a key and one with a key of its own, or the launcher does not start.
 * Tests     tests/pipeline/test_strangers.c
 */
#ifndef LISTEN_H
#define LISTEN_H

#include "lx_bus.h"
#include "lx_config.h"
#include "lx_gate.h"

/** Open the gate; before any socket is bound. LX_ECONFIG: the keys' folder is not as it must be. */
lx_status listen_gate(lx_gate **out, const lx_config *config, lx_err *err);

/** Let the clients' bus listen on tcp if the config says so. LX_ECONFIG with the reason. */
lx_status listen_tcp(lx_bus *bus, const lx_config *config, lx_err *err);

#endif
