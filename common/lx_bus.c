/*
 * lx_bus.c - ROUTER and DEALER with the options that make them safe
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_bus.h"

#include <czmq.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lx_log.h"

#define BUS_HWM          256 /* messages queued per peer before EAGAIN */
#define BUS_HANDSHAKE_MS 5000
#define BUS_HEARTBEAT_MS 2000
#define BUS_LINGER_MS    500 /* a DEALER's last words; a ROUTER waits for nobody */
#define UNIX_PATH_MAX    107 /* of sockaddr_un, less its NUL */

struct lx_bus {
    zsock_t *socket; /* owned */
    void *handle;    /* libzmq's, borrowed from socket */
    bool is_router;
    uint64_t dropped;
    unsigned char buffer[LX_LIMIT_MESSAGE]; /* one message on its way in or out */
};

static void set_options(zsock_t *socket, int type)
{
    zsock_set_maxmsgsize(socket, LX_LIMIT_MESSAGE);
    zsock_set_sndhwm(socket, BUS_HWM);
    zsock_set_rcvhwm(socket, BUS_HWM);
    zsock_set_linger(socket, type == ZMQ_DEALER ? BUS_LINGER_MS : 0);
    zsock_set_handshake_ivl(socket, BUS_HANDSHAKE_MS);
    zsock_set_heartbeat_ivl(socket, BUS_HEARTBEAT_MS);
    zsock_set_heartbeat_timeout(socket, 3 * BUS_HEARTBEAT_MS);
}

static lx_status bus_open(lx_bus **out, int type, lx_err *err)
{
    /* czmq would otherwise take SIGINT and SIGTERM from the process. */
    zsys_handler_set(NULL);
    lx_bus *bus = calloc(1, sizeof *bus);
    if (!bus)
        return lx_fail(err, LX_EAGAIN, "out of memory for a socket");
    bus->socket = zsock_new(type);
    if (!bus->socket) {
        free(bus);
        return lx_fail(err, LX_ESTAGE, "cannot make a ZeroMQ socket: %s", zmq_strerror(errno));
    }
    set_options(bus->socket, type);
    bus->is_router = type == ZMQ_ROUTER;
    bus->handle = zsock_resolve(bus->socket);
    *out = bus;
    return LX_OK;
}

static lx_status check_endpoint(const char *endpoint, lx_err *err)
{
    if (strncmp(endpoint, "ipc:///", 7))
        return lx_fail(err, LX_ECONFIG, "endpoint %s: only ipc:///PATH is supported", endpoint);
    size_t length = strlen(endpoint + 6);
    if (length > UNIX_PATH_MAX)
        return lx_fail(err, LX_ECONFIG,
                       "socket path %s has %zu bytes, the system allows %d: choose a shorter "
                       "state.dir in config.yaml",
                       endpoint + 6, length, UNIX_PATH_MAX);
    return LX_OK;
}

lx_status lx_bus_bind(lx_bus **out, const char *endpoint, lx_err *err)
{
    lx_bus *bus = NULL;
    lx_status status = check_endpoint(endpoint, err);
    if (status == LX_OK)
        status = bus_open(&bus, ZMQ_ROUTER, err);
    if (status != LX_OK)
        return status;
    zsock_set_router_mandatory(bus->socket, 1);
    mode_t before = umask(077); /* connecting needs write permission on the socket file */
    int bound = zmq_bind(bus->handle, endpoint);
    umask(before);
    if (bound) {
        status = lx_fail(err, LX_ECONFIG, "cannot listen on %s: %s", endpoint, zmq_strerror(errno));
        lx_bus_close(&bus);
        return status;
    }
    *out = bus;
    return LX_OK;
}

lx_status lx_bus_connect(lx_bus **out, const char *endpoint, lx_err *err)
{
    lx_bus *bus = NULL;
    lx_status status = check_endpoint(endpoint, err);
    if (status == LX_OK)
        status = bus_open(&bus, ZMQ_DEALER, err);
    if (status != LX_OK)
        return status;
    if (zmq_connect(bus->handle, endpoint)) {
        status =
            lx_fail(err, LX_ECONFIG, "cannot connect to %s: %s", endpoint, zmq_strerror(errno));
        lx_bus_close(&bus);
        return status;
    }
    *out = bus;
    return LX_OK;
}

void lx_bus_close(lx_bus **bus)
{
    if (!bus || !*bus)
        return;
    zsock_destroy(&(*bus)->socket);
    free(*bus);
    *bus = NULL;
}

lx_status lx_bus_send(lx_bus *bus, const lx_peer *peer, const lx_msg *msg, lx_err *err)
{
    size_t n = 0;
    lx_status status = lx_msg_encode(msg, bus->buffer, sizeof bus->buffer, &n, err);
    if (status != LX_OK)
        return status;
    int sent = 0;
    if (bus->is_router)
        sent = zmq_send(bus->handle, peer->id, peer->n, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (sent >= 0)
        sent = zmq_send(bus->handle, bus->buffer, n, ZMQ_DONTWAIT);
    if (sent >= 0)
        return LX_OK;
    if (errno == EAGAIN)
        return lx_fail(err, LX_EAGAIN, "%s: the peer does not read", lx_msg_kind_name(msg->kind));
    return lx_fail(err, LX_EJOB, "%s: %s", lx_msg_kind_name(msg->kind), zmq_strerror(errno));
}

static void count_dropped(lx_bus *bus, const char *why)
{
    bus->dropped++;
    if (!(bus->dropped & (bus->dropped - 1))) /* the 1st, 2nd, 4th, ...: a flood stays readable */
        LX_W("message dropped total=%llu why=\"%s\"", (unsigned long long)bus->dropped, why);
}

/* One frame into `room` bytes: its size, -1 nothing there, -2 too long. *more: frames follow. */
static long receive_frame(lx_bus *bus, void *at, size_t room, bool *more)
{
    int n = zmq_recv(bus->handle, at, room, ZMQ_DONTWAIT);
    if (n < 0)
        return -1;
    *more = zsock_rcvmore(bus->socket) != 0;
    return (size_t)n > room ? -2 : n;
}

/* Reads one whole multipart message; false if its form is wrong (it is read to its end anyway). */
static bool receive_parts(lx_bus *bus, lx_peer *peer, long *size, bool *nothing)
{
    bool more = false, good = true;
    *nothing = false;
    if (bus->is_router) {
        lx_peer from = {0};
        long n = receive_frame(bus, from.id, sizeof from.id, &more);
        if (n == -1) {
            *nothing = true;
            return false;
        }
        good = n > 0 && more;
        from.n = (uint8_t)(n > 0 ? n : 0);
        *peer = from;
    }
    if (!bus->is_router || more) {
        *size = receive_frame(bus, bus->buffer, sizeof bus->buffer, &more);
        if (*size == -1 && !bus->is_router) {
            *nothing = true;
            return false;
        }
        good = good && *size >= 0 && !more;
    }
    while (more) {
        unsigned char rest[64];
        if (receive_frame(bus, rest, sizeof rest, &more) == -1)
            break;
    }
    return good;
}

lx_status lx_bus_receive(lx_bus *bus, lx_peer *peer, lx_msg *msg, int timeout_ms, lx_err *err)
{
    double deadline = lx_now_s() + timeout_ms * 1e-3;
    for (;;) {
        lx_peer from = {0};
        long size = 0;
        bool nothing;
        lx_err why = {0};
        if (receive_parts(bus, &from, &size, &nothing)) {
            if (lx_msg_decode(msg, bus->buffer, (size_t)size, &why) == LX_OK) {
                if (peer)
                    *peer = from;
                return LX_OK;
            }
            count_dropped(bus, why.message);
            continue;
        }
        if (!nothing) {
            count_dropped(bus, "not one frame of at most 64 KiB");
            continue;
        }
        double left_ms = (deadline - lx_now_s()) * 1e3;
        if (timeout_ms >= 0 && left_ms <= 0)
            return lx_fail(err, LX_EAGAIN, "no message within %d ms", timeout_ms);
        zmq_pollitem_t item = {.socket = bus->handle, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, timeout_ms < 0 ? -1 : (long)left_ms + 1) < 0)
            return lx_fail(err, errno == EINTR ? LX_EAGAIN : LX_ESTAGE, "waiting for messages: %s",
                           zmq_strerror(errno));
    }
}

int lx_bus_fd(const lx_bus *bus)
{
    return (int)zsock_fd(bus->socket);
}

uint64_t lx_bus_dropped(const lx_bus *bus)
{
    return bus->dropped;
}

void lx_bus_versions(char *text, size_t text_bytes)
{
    int z[3], c[3];
    zmq_version(&z[0], &z[1], &z[2]);
    zsys_version(&c[0], &c[1], &c[2]);
    snprintf(text, text_bytes, "zmq=%d.%d.%d czmq=%d.%d.%d", z[0], z[1], z[2], c[0], c[1], c[2]);
}
