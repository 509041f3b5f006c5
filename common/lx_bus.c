/*
 * lx_bus.c - ROUTER and DEALER with the options that make them safe
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_bus.h"

#include <czmq.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lx_gate.h"
#include "lx_hash.h"
#include "lx_log.h"

#define LEAST_VERSION    ZMQ_MAKE_VERSION(4, 3, 3)
#define BUS_HWM          256 /* messages queued per peer before EAGAIN */
#define BUS_HANDSHAKE_MS 5000
#define BUS_TRIAL_MS     2000 /* for a refusal, on this machine */
#define BUS_HEARTBEAT_MS 2000
#define BUS_LINGER_MS    500 /* a DEALER's last words; a ROUTER waits for nobody */
#define UNIX_PATH_MAX    107 /* of sockaddr_un, less its NUL */
#define ENFORCE_DOMAIN   93  /* ZMQ_ZAP_ENFORCE_DOMAIN, which zmq.h shows only to some */

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
    int v[3];
    zmq_version(&v[0], &v[1], &v[2]);
    if (ZMQ_MAKE_VERSION(v[0], v[1], v[2]) < LEAST_VERSION)
        return lx_fail(err, LX_ECONFIG,
                       "libzmq %d.%d.%d runs here; 4.3.3 is the first without known holes", v[0],
                       v[1], v[2]);
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

static lx_status check_path(const char *endpoint, lx_err *err)
{
    if (strncmp(endpoint, "ipc:///", 7))
        return lx_fail(err, LX_ECONFIG, "endpoint %.160s: accepted: ipc:///PATH", endpoint);
    size_t length = strlen(endpoint + 6);
    if (length > UNIX_PATH_MAX)
        return lx_fail(err, LX_ECONFIG,
                       "socket path %s has %zu bytes, the system allows %d: choose a shorter "
                       "state.dir in config.yaml",
                       endpoint + 6, length, UNIX_PATH_MAX);
    return LX_OK;
}

/* tcp://HOST:PORT without anything else that libzmq would read into it (sources, interfaces). */
static lx_status check_tcp(const char *endpoint, lx_err *err)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:-[]";
    const char *colon = strrchr(endpoint, ':');
    size_t n = strlen(endpoint);
    if (strncmp(endpoint, "tcp://", 6) || n >= LX_ENDPOINT - 16 || !colon ||
        colon <= endpoint + 6 || !colon[1] || strlen(colon + 1) > 5 ||
        colon[1 + strspn(colon + 1, "0123456789")] || atoi(colon + 1) > 65535 ||
        strspn(endpoint + 6, letters) != n - 6)
        return lx_fail(err, LX_ECONFIG,
                       "endpoint %.160s: accepted: ipc:///PATH, or tcp://HOST:PORT with a key",
                       endpoint);
    return LX_OK;
}

lx_status lx_bus_bind(lx_bus **out, const char *endpoint, lx_err *err)
{
    lx_bus *bus = NULL;
    lx_status status = check_path(endpoint, err);
    if (status == LX_OK)
        status = bus_open(&bus, ZMQ_ROUTER, err);
    if (status != LX_OK)
        return status;
    zsock_set_router_mandatory(bus->socket, 1);
    zsock_set_zap_domain(bus->socket, LX_GATE_DOMAIN);
    mode_t before = umask(0177); /* connecting needs write permission on the socket file */
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

/* Options count for what is bound after them: the unix socket stays as it is. */
lx_status lx_bus_listen(lx_bus *bus, const char *endpoint, const lx_keys *server,
                        char at[LX_ENDPOINT], lx_err *err)
{
    int one = 1;
    size_t n = LX_ENDPOINT;
    lx_status status = check_tcp(endpoint, err);
    if (status != LX_OK)
        return status;
    if (!zmq_has("curve") || zmq_setsockopt(bus->handle, ZMQ_CURVE_SERVER, &one, sizeof one) ||
        zmq_setsockopt(bus->handle, ZMQ_CURVE_SECRETKEY, server->secret, LX_KEY_TEXT) ||
        zmq_setsockopt(bus->handle, ENFORCE_DOMAIN, &one, sizeof one))
        return lx_fail(err, LX_ECONFIG,
                       "tcp: this libzmq cannot enforce keys (%s), so nothing listens there",
                       zmq_strerror(errno));
    zsock_set_ipv6(bus->socket, endpoint[6] == '[');
    if (zmq_bind(bus->handle, endpoint) || zmq_getsockopt(bus->handle, ZMQ_LAST_ENDPOINT, at, &n))
        return lx_fail(err, LX_ECONFIG, "cannot listen on %s: %s", endpoint, zmq_strerror(errno));
    return LX_OK;
}

/* --- knocking --------------------------------------------------------------------------------- */

typedef enum knock {
    KNOCK_SILENCE,
    KNOCK_IN,
    KNOCK_REFUSED,       /* a gate said no */
    KNOCK_MISUNDERSTOOD, /* another protocol, or none that is spoken without a key */
    KNOCK_DROPPED,       /* hung up without a word: another server's key, or no gate */
} knock;

/* What becomes of this socket's next connection. `watch` was attached before it connected. */
static knock await_handshake(zsock_t *watch, int timeout_ms)
{
    double until = lx_now_s() + timeout_ms * 1e-3;
    for (double left_s; (left_s = until - lx_now_s()) > 0;) {
        unsigned char frame[512];
        uint16_t event = 0;
        int n;
        zmq_pollitem_t item = {.socket = zsock_resolve(watch), .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, (long)(left_s * 1e3) + 1) <= 0)
            continue;
        n = zmq_recv(item.socket, frame, sizeof frame, ZMQ_DONTWAIT);
        if (n >= (int)sizeof event)
            memcpy(&event, frame, sizeof event);
        while (zsock_rcvmore(watch) && zmq_recv(item.socket, frame, sizeof frame, 0) >= 0)
            ;
        if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
            return KNOCK_IN;
        if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
            return KNOCK_REFUSED;
        if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
            return KNOCK_MISUNDERSTOOD;
        if (event == ZMQ_EVENT_DISCONNECTED)
            return KNOCK_DROPPED;
    }
    return KNOCK_SILENCE;
}

/* Connects and tells what came of it. libzmq goes on trying by itself: one look is enough. */
static knock connect_and_look(lx_bus *bus, const char *endpoint, int timeout_ms)
{
    static atomic_uint serial; /* a monitor's name is good for one process and one time */
    char name[64];
    snprintf(name, sizeof name, "inproc://lx2v-knock-%u", atomic_fetch_add(&serial, 1));
    int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_DISCONNECTED;
    knock seen = KNOCK_SILENCE;
    zsock_t *watch = zsock_new(ZMQ_PAIR);
    if (watch && zmq_socket_monitor(bus->handle, name, events) == 0 &&
        zmq_connect(zsock_resolve(watch), name) == 0 && zmq_connect(bus->handle, endpoint) == 0)
        seen = await_handshake(watch, timeout_ms);
    zmq_socket_monitor(bus->handle, NULL, 0);
    zsock_destroy(&watch);
    return seen;
}

static bool take_keys(lx_bus *bus, const lx_keys *keys)
{
    return !zmq_setsockopt(bus->handle, ZMQ_CURVE_SERVERKEY, keys->server, LX_KEY_TEXT) &&
           !zmq_setsockopt(bus->handle, ZMQ_CURVE_PUBLICKEY, keys->public_key, LX_KEY_TEXT) &&
           !zmq_setsockopt(bus->handle, ZMQ_CURVE_SECRETKEY, keys->secret, LX_KEY_TEXT);
}

/* keys: NULL knocks in plain. */
static lx_status knock_once(const char *endpoint, const lx_keys *keys, knock *out, lx_err *err)
{
    lx_bus *bus = NULL;
    lx_status status = bus_open(&bus, ZMQ_DEALER, err);
    if (status != LX_OK)
        return status;
    zsock_set_linger(bus->socket, 0);
    zsock_set_ipv6(bus->socket, endpoint[6] == '[');
    if (keys && !take_keys(bus, keys))
        status = lx_fail(err, LX_ECONFIG, "no CURVE in this libzmq: %s", zmq_strerror(errno));
    else
        *out = connect_and_look(bus, endpoint, BUS_TRIAL_MS);
    lx_bus_close(&bus);
    return status;
}

lx_status lx_bus_try_stranger(const char *endpoint, const char *server_public, lx_err *err)
{
    static const char *const seen[] = {"nothing came back", "it was let in", "it was refused",
                                       "it was not understood", "it was dropped, by no gate"};
    lx_keys keys;
    knock plain = KNOCK_SILENCE, keyed = KNOCK_SILENCE;
    lx_status status = lx_keys_make(&keys, err);
    if (status != LX_OK)
        return status;
    memcpy(keys.server, server_public, sizeof keys.server);
    status = knock_once(endpoint, NULL, &plain, err);
    if (status == LX_OK)
        status = knock_once(endpoint, &keys, &keyed, err);
    lx_keys_forget(&keys);
    if (status != LX_OK)
        return status;
    if (plain == KNOCK_SILENCE || plain == KNOCK_IN)
        return lx_fail(err, LX_ECONFIG, "%s: a stranger without a key was to be refused, and %s",
                       endpoint, seen[plain]);
    if (keyed != KNOCK_REFUSED)
        return lx_fail(err, LX_ECONFIG,
                       "%s: a stranger with a key of its own was to be refused, and %s", endpoint,
                       seen[keyed]);
    return LX_OK;
}

/* --- a DEALER --------------------------------------------------------------------------------- */

static lx_status connect_tcp(lx_bus *bus, const char *endpoint, const lx_keys *keys, lx_err *err)
{
    if (!take_keys(bus, keys))
        return lx_fail(err, LX_ECONFIG,
                       "the key has no server in it, or this libzmq no CURVE (%s); a client's key "
                       "is made by `lx2v keys DIR --client NAME`",
                       zmq_strerror(errno));
    zsock_set_ipv6(bus->socket, endpoint[6] == '[');
    switch (connect_and_look(bus, endpoint, BUS_HANDSHAKE_MS)) {
    case KNOCK_IN:
        return LX_OK;
    case KNOCK_REFUSED:
        return lx_fail(err, LX_ECONFIG,
                       "%s refuses this key: its .pub file is not in the launcher's folder "
                       "listen.keys/clients",
                       endpoint);
    case KNOCK_MISUNDERSTOOD:
    case KNOCK_DROPPED:
        return lx_fail(err, LX_ECONFIG,
                       "%s is no launcher of lx2v, or another than the one this key is for",
                       endpoint);
    case KNOCK_SILENCE:
        break;
    }
    return lx_fail(err, LX_ETIMEOUT,
                   "%s: no handshake within %d s; is it the launcher that this key was made for?",
                   endpoint, BUS_HANDSHAKE_MS / 1000);
}

lx_status lx_bus_connect_as(lx_bus **out, const char *endpoint, const lx_keys *keys, lx_err *err)
{
    lx_bus *bus = NULL;
    lx_status status = keys ? check_tcp(endpoint, err) : check_path(endpoint, err);
    if (status == LX_OK)
        status = bus_open(&bus, ZMQ_DEALER, err);
    if (status != LX_OK)
        return status;
    if (keys)
        status = connect_tcp(bus, endpoint, keys, err);
    else if (zmq_connect(bus->handle, endpoint))
        status =
            lx_fail(err, LX_ECONFIG, "cannot connect to %s: %s", endpoint, zmq_strerror(errno));
    if (status != LX_OK)
        lx_bus_close(&bus);
    else
        *out = bus;
    return status;
}

lx_status lx_bus_connect(lx_bus **out, const char *endpoint, lx_err *err)
{
    return lx_bus_connect_as(out, endpoint, NULL, err);
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

/* As whom the gate let it in: "local", or "key:" and the name of the key's file. */
static void set_user(lx_peer *peer, const char *user)
{
    peer->is_remote = user && strncmp(user, "key:", 4) == 0;
    peer->key = 0;
    if (!peer->is_remote)
        return;
    peer->key = lx_hash_add(LX_HASH_START, user, strlen(user)) | 1;
}

/* One frame into `room` bytes: its size, -1 nothing there, -2 too long. *more: frames follow.
 * peer (may be NULL): as whom its sender was let in. */
static long receive_frame(lx_bus *bus, void *at, size_t room, bool *more, lx_peer *peer)
{
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    int n = zmq_msg_recv(&frame, bus->handle, ZMQ_DONTWAIT);
    if (n >= 0) {
        if (peer)
            set_user(peer, zmq_msg_gets(&frame, "User-Id"));
        *more = zmq_msg_more(&frame) != 0;
        if ((size_t)n <= room)
            memcpy(at, zmq_msg_data(&frame), (size_t)n);
    }
    zmq_msg_close(&frame);
    return n < 0 ? -1 : (size_t)n > room ? -2 : n;
}

/* Reads one whole multipart message; false if its form is wrong (it is read to its end anyway). */
static bool receive_parts(lx_bus *bus, lx_peer *peer, long *size, bool *nothing)
{
    bool more = false, good = true;
    *nothing = false;
    if (bus->is_router) {
        lx_peer from = {0};
        long n = receive_frame(bus, from.id, sizeof from.id, &more, NULL);
        if (n == -1) {
            *nothing = true;
            return false;
        }
        good = n > 0 && more;
        from.n = (uint8_t)(n > 0 ? n : 0);
        *peer = from;
    }
    if (!bus->is_router || more) {
        /* Asked of this frame: the one before loses it in libzmq 4.3.4 when it was polled for. */
        *size = receive_frame(bus, bus->buffer, sizeof bus->buffer, &more, peer);
        if (*size == -1 && !bus->is_router) {
            *nothing = true;
            return false;
        }
        good = good && *size >= 0 && !more;
    }
    while (more) {
        unsigned char rest[64];
        if (receive_frame(bus, rest, sizeof rest, &more, NULL) == -1)
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
