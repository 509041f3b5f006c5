/*
 * listen.c - gate, keys, tcp, and the stranger's trial
 * SPDX-License-Identifier: Apache-2.0
 */
#include "listen.h"

#include <stdio.h>

#include "lx_log.h"

lx_status listen_gate(lx_gate **out, const lx_config *config, lx_err *err)
{
    char clients[LX_LIMIT_PATH + 16];
    snprintf(clients, sizeof clients, "%s/clients", config->listen.keys);
    return lx_gate_open(out, config->listen.tcp[0] ? clients : NULL, err);
}

lx_status listen_tcp(lx_bus *bus, const lx_config *config, lx_err *err)
{
    char path[LX_LIMIT_PATH + 16], endpoint[LX_LIMIT_WORD + 8], at[LX_ENDPOINT];
    lx_keys server;
    if (!config->listen.tcp[0])
        return LX_OK;
    snprintf(path, sizeof path, "%s/server.key", config->listen.keys);
    snprintf(endpoint, sizeof endpoint, "tcp://%s", config->listen.tcp);
    lx_status status = lx_keys_read(&server, path, err);
    if (status != LX_OK)
        return lx_wrap(err, "listen.keys");
    status = lx_bus_listen(bus, endpoint, &server, at, err);
    if (status == LX_OK)
        status = lx_bus_try_stranger(at, server.public_key, err);
    if (status == LX_OK)
        LX_I("listening endpoint=%s server_key=%s strangers=refused", at, server.public_key);
    lx_keys_forget(&server);
    return status == LX_OK ? LX_OK : lx_wrap(err, "listen.tcp");
}
