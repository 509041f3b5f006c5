/*
 * lx_client.c - one DEALER, questions with numbers, answers by number
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_client.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lx_bus.h"
#include "lx_client_wire.h"
#include "lx_config.h"

#define TICK_MS      100
#define KEPT_EVENTS  64   /* that come while an answer is awaited */
#define SLICE_S      1.0  /* of a wait; after each: is the launcher alive at all? */
#define QUIET_S      3.0  /* silence after which a watcher asks whether anybody is there */
#define GONE_S       10.0 /* how long a launcher may be away before a watch gives up */
#define SOCKET_NAME  "clients.sock"
#define PROBE_MS     3000
#define ENDPOINT_MAX 128

struct lx_client {
    lx_bus *bus; /* owned */
    char endpoint[ENDPOINT_MAX];
    char output_dir[LX_LIMIT_PATH];
    double timeout_s;
    uint64_t req;          /* of the question last asked; 0 is never used */
    lx_msg out, in;        /* scratch: 17 KiB each, too much for the stack */
    lx_client_event *kept; /* owned, KEPT_EVENTS; events that came in between */
    size_t n_kept;
};

const char *lx_client_state_name(lx_client_state state)
{
    return lx_job_state_name((lx_job_state)state);
}

const char *lx_client_stage_name(int32_t stage)
{
    return lx_stage_kind_name((lx_stage_kind)stage);
}

/* --- finding and reaching the launcher -------------------------------------------------------- */

lx_status lx_client_find(char *out, size_t out_bytes, const char *endpoint, const char *config,
                         lx_err *err)
{
    char text[LX_LIMIT_PATH + 32];
    const char *from = endpoint ? endpoint : getenv("LX2V_ENDPOINT");
    if (endpoint || (!config && from && *from)) {
        snprintf(text, sizeof text, "%s", from);
    } else {
        lx_config *c = malloc(sizeof *c);
        if (!c)
            return lx_fail(err, LX_EAGAIN, "out of memory");
        const char *path = config ? config : "config.yaml";
        if (!config && access(path, F_OK) != 0) {
            free(c);
            return lx_fail(err, LX_ECONFIG,
                           "where is the launcher? There is no config.yaml here; give --config "
                           "FILE, --endpoint ipc:///PATH or set LX2V_ENDPOINT");
        }
        lx_status status = lx_config_load(c, path, err);
        snprintf(text, sizeof text, "ipc://%s/%s", c->state.dir, SOCKET_NAME);
        free(c);
        if (status != LX_OK)
            return status;
    }
    int n = snprintf(out, out_bytes, "%s", text);
    if (n < 0 || (size_t)n >= out_bytes)
        return lx_fail(err, LX_ECONFIG, "endpoint %.64s...: longer than %zu bytes", text,
                       out_bytes - 1);
    return LX_OK;
}

/* Does anybody listen on this socket, and is it us? ZeroMQ would wait for ever, quietly, and would
 * as quietly talk to another user's socket in /tmp. */
static lx_status probe_unix(const char *endpoint, lx_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strncmp(endpoint, "ipc:///", 7) != 0 || strlen(endpoint + 6) >= sizeof address.sun_path)
        return lx_fail(err, LX_ECONFIG,
                       "endpoint \"%.160s\": accepted: ipc:///PATH with up to %zu bytes, or "
                       "tcp://HOST:PORT with --key",
                       endpoint, sizeof address.sun_path - 1);
    memcpy(address.sun_path, endpoint + 6, strlen(endpoint + 6));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return lx_fail(err, LX_EAGAIN, "no socket to be had: %s", strerror(errno));
    lx_status status = LX_OK;
    struct ucred peer;
    socklen_t peer_bytes = sizeof peer;
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0)
        status = lx_fail(err, LX_ECONFIG,
                         "no launcher at %s (%s); start one with: lx2v-launch config.yaml",
                         endpoint, strerror(errno));
    else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes) != 0 ||
             (peer.uid != geteuid() && peer.uid != 0))
        status = lx_fail(err, LX_ECONFIG, "%s: another user listens there; not used", endpoint);
    close(fd);
    return status;
}

static bool is_tcp(const char *endpoint)
{
    return strncmp(endpoint, "tcp://", 6) == 0;
}

/* Answers to nobody there at once; who it is, the handshake tells. */
static lx_status probe_tcp(const char *endpoint, lx_err *err)
{
    char host[ENDPOINT_MAX], *colon;
    struct addrinfo *found = NULL, hints = {.ai_socktype = SOCK_STREAM};
    snprintf(host, sizeof host, "%s", endpoint + 6);
    colon = strrchr(host, ':');
    if (!colon || colon == host)
        return lx_fail(err, LX_ECONFIG, "endpoint \"%.160s\": accepted: tcp://HOST:PORT", endpoint);
    *colon = 0;
    char *name = host;
    if (*name == '[' && colon[-1] == ']') {
        colon[-1] = 0;
        name++;
    }
    int error = getaddrinfo(name, colon + 1, &hints, &found);
    if (error)
        return lx_fail(err, LX_ECONFIG, "endpoint %s: %s", endpoint, gai_strerror(error));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    socklen_t bytes = sizeof error;
    error = fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
        error = ETIMEDOUT;
        if (poll(&p, 1, PROBE_MS) == 1)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
    }
    if (fd >= 0)
        close(fd);
    freeaddrinfo(found);
    return error ? lx_fail(err, LX_ECONFIG, "no launcher at %s (%s)", endpoint, strerror(error))
                 : LX_OK;
}

static lx_status probe(const char *endpoint, lx_err *err)
{
    return is_tcp(endpoint) ? probe_tcp(endpoint, err) : probe_unix(endpoint, err);
}

/* --- questions and answers -------------------------------------------------------------------- */

static void keep_event(lx_client *c)
{
    if (c->n_kept == KEPT_EVENTS) { /* the oldest tells least */
        memmove(c->kept, c->kept + 1, (KEPT_EVENTS - 1) * sizeof *c->kept);
        c->n_kept--;
    }
    lx_wire_event(&c->kept[c->n_kept++], &c->in);
}

/* The answer's class as it was sent. The request is what a person must change. */
static lx_status refused(const lx_msg *msg, lx_err *err)
{
    lx_status status = (lx_status)msg->u.failed.status;
    if (status <= LX_OK || status > LX_ECANCEL)
        status = LX_EJOB;
    if (status == LX_EJOB && strcmp(msg->u.failed.field, "job") == 0)
        status = LX_ECONFIG; /* no such job: somebody mistyped its id */
    const char *field = msg->u.failed.field, *text = msg->u.failed.text;
    bool named = *field && strcmp(field, "job") != 0 && strncmp(text, field, strlen(field)) != 0;
    if (status == LX_EAGAIN && msg->u.failed.retry_after_ms > 0)
        return lx_fail(err, status, "%s%s%s; try again in %.1f s", named ? field : "",
                       named ? ": " : "", text, (double)msg->u.failed.retry_after_ms * 1e-3);
    return lx_fail(err, status, "%s%s%s", named ? field : "", named ? ": " : "", text);
}

/* Waits for one message of the answer to c->req. Late answers to older questions are dropped. */
static lx_status next_answer(lx_client *c, double deadline, lx_err *err)
{
    for (;;) {
        double left_s = deadline - lx_now_s();
        int timeout_ms = left_s <= 0        ? 0
                         : left_s > SLICE_S ? (int)(SLICE_S * 1e3)
                                            : (int)(left_s * 1e3) + 1;
        lx_err why = {0};
        lx_status status = lx_bus_receive(c->bus, NULL, &c->in, timeout_ms, &why);
        if (status == LX_EAGAIN) {
            if (probe(c->endpoint, &why) != LX_OK)
                return lx_fail(err, LX_ESTAGE, "the launcher at %s has gone", c->endpoint);
            if (left_s <= 0)
                return lx_fail(err, LX_ETIMEOUT, "the launcher at %s gives no answer", c->endpoint);
        } else if (status != LX_OK) {
            return lx_fail(err, status, "%s", why.message);
        } else if (c->in.kind == LX_MSG_EVENT) {
            keep_event(c);
        } else if (c->in.req == c->req) {
            return c->in.kind == LX_MSG_REFUSED ? refused(&c->in, err) : LX_OK;
        }
    }
}

static lx_status ask(lx_client *c, lx_err *err)
{
    c->out.req = ++c->req;
    return lx_bus_send(c->bus, NULL, &c->out, err);
}

static lx_status unexpected(const lx_client *c, lx_err *err)
{
    return lx_fail(err, LX_ESTAGE, "the launcher answered %s to %s: versions differ?",
                   lx_msg_kind_name(c->in.kind), lx_msg_kind_name(c->out.kind));
}

/* One question, one answer of this kind. */
static lx_status ask_one(lx_client *c, lx_msg_kind kind, double timeout_s, lx_err *err)
{
    double deadline = timeout_s < 0 ? INFINITY : lx_now_s() + timeout_s;
    lx_status status = ask(c, err);
    if (status == LX_OK)
        status = next_answer(c, deadline, err);
    if (status == LX_OK && c->in.kind != kind)
        status = unexpected(c, err);
    return status;
}

static void set_job(lx_msg *msg, const char *id)
{
    snprintf(msg->job, sizeof msg->job, "%s", id ? id : "");
}

static lx_status check_id(const char *id, lx_err *err)
{
    size_t n = id ? strlen(id) : 0;
    bool good = n <= LX_LIMIT_ID &&
                (n == 0 || strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                      "0123456789_-") == n);
    if (good && (!id || n > 0))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "id: \"%.48s\" is no job id; accepted: 1 to %d of A-Z a-z 0-9 _ -", id,
                   LX_LIMIT_ID);
}

static lx_status send_command(lx_client *c, lx_command command, const char *id, double timeout_s,
                              lx_err *err)
{
    memset(&c->out, 0, sizeof c->out);
    c->out.kind = LX_MSG_COMMAND;
    c->out.u.command.command = (int32_t)command;
    set_job(&c->out, id);
    return ask_one(c, LX_MSG_OK, timeout_s, err);
}

/* --- life ------------------------------------------------------------------------------------- */

static lx_status connect_bus(lx_client *c, const char *key, lx_err *err)
{
    lx_keys keys;
    const char *path = key ? key : getenv("LX2V_KEY");
    if (!is_tcp(c->endpoint))
        return lx_bus_connect(&c->bus, c->endpoint, err);
    if (!path || !*path)
        return lx_fail(err, LX_ECONFIG,
                       "%s: nobody comes in there without a key; give --key FILE or set LX2V_KEY "
                       "(`lx2v keys DIR --client NAME` makes one)",
                       c->endpoint);
    lx_status status = lx_keys_read(&keys, path, err);
    if (status == LX_OK && !keys.server[0])
        status =
            lx_fail(err, LX_ECONFIG, "%s: has no server in it: is it a launcher's own key?", path);
    if (status == LX_OK)
        status = lx_bus_connect_as(&c->bus, c->endpoint, &keys, err);
    lx_keys_forget(&keys);
    return status;
}

lx_status lx_client_open_key(lx_client **out, const char *endpoint, const char *key,
                             double timeout_s, lx_err *err)
{
    lx_status status = probe(endpoint, err);
    if (status != LX_OK)
        return status;
    lx_client *c = calloc(1, sizeof *c);
    if (!c || !(c->kept = calloc(KEPT_EVENTS, sizeof *c->kept))) {
        free(c);
        return lx_fail(err, LX_EAGAIN, "out of memory");
    }
    snprintf(c->endpoint, sizeof c->endpoint, "%s", endpoint);
    c->timeout_s = timeout_s > 0 ? timeout_s : 10;
    status = connect_bus(c, key, err);
    if (status == LX_OK)
        status = send_command(c, LX_COMMAND_HELLO, NULL, c->timeout_s, err);
    if (status == LX_OK)
        snprintf(c->output_dir, sizeof c->output_dir, "%s", c->in.u.ok.text);
    if (status != LX_OK)
        lx_client_close(&c);
    else
        *out = c;
    return status;
}

lx_status lx_client_open(lx_client **out, const char *endpoint, double timeout_s, lx_err *err)
{
    return lx_client_open_key(out, endpoint, NULL, timeout_s, err);
}

void lx_client_close(lx_client **client)
{
    if (!client || !*client)
        return;
    lx_bus_close(&(*client)->bus);
    free((*client)->kept);
    free(*client);
    *client = NULL;
}

const char *lx_client_output_dir(const lx_client *client)
{
    return client->output_dir;
}

/* --- what can be asked ------------------------------------------------------------------------ */

lx_status lx_client_check(const lx_client_request *request, lx_err *err)
{
    lx_msg *msg = malloc(sizeof *msg);
    if (!msg)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    lx_status status = lx_wire_submit(msg, request, err);
    free(msg);
    return status;
}

lx_status lx_client_submit(lx_client *c, const lx_client_request *request, lx_client_accepted *out,
                           lx_err *err)
{
    lx_status status = lx_wire_submit(&c->out, request, err);
    if (status != LX_OK)
        return status;
    /* The same id again is the same job, so a lost answer is asked for once more. */
    status = ask_one(c, LX_MSG_ACCEPTED, c->timeout_s / 2, err);
    if (status == LX_ETIMEOUT)
        status = ask_one(c, LX_MSG_ACCEPTED, c->timeout_s / 2, err);
    if (status == LX_OK)
        lx_wire_accepted(out, &c->in);
    return status;
}

lx_status lx_client_query(lx_client *c, const char *id, const lx_client_sink *sink,
                          lx_client_summary *out, lx_err *err)
{
    if (check_id(id, err) != LX_OK)
        return LX_ECONFIG;
    memset(&c->out, 0, sizeof c->out);
    c->out.kind = LX_MSG_QUERY;
    set_job(&c->out, id);
    c->out.u.query.want_jobs = id || (sink && sink->job);
    c->out.u.query.want_stages = sink && sink->stage;
    lx_status status = ask(c, err);
    while (status == LX_OK) {
        /* Each part of the answer may take the whole time: a long list is not a slow launcher. */
        status = next_answer(c, lx_now_s() + c->timeout_s, err);
        if (status != LX_OK)
            break;
        if (c->in.kind == LX_MSG_JOB_INFO && sink && sink->job) {
            lx_client_job job;
            lx_wire_job(&job, &c->in);
            sink->job(sink->self, &job);
        } else if (c->in.kind == LX_MSG_STAGE_INFO && sink && sink->stage) {
            lx_client_stage stage;
            lx_wire_stage(&stage, &c->in);
            sink->stage(sink->self, &stage);
        } else if (c->in.kind == LX_MSG_LINK_INFO && sink && sink->link) {
            lx_client_link link;
            lx_wire_link(&link, &c->in);
            sink->link(sink->self, &link);
        } else if (c->in.kind == LX_MSG_END) {
            if (out)
                lx_wire_summary(out, &c->in);
            return LX_OK;
        } else if (c->in.kind != LX_MSG_JOB_INFO && c->in.kind != LX_MSG_STAGE_INFO &&
                   c->in.kind != LX_MSG_LINK_INFO) {
            status = unexpected(c, err);
        }
    }
    return status;
}

lx_status lx_client_command(lx_client *c, lx_client_order order, const char *id, double timeout_s,
                            lx_err *err)
{
    static const lx_command commands[] = {
        [LX_CLIENT_CANCEL] = LX_COMMAND_CANCEL,   [LX_CLIENT_RETRY] = LX_COMMAND_RETRY,
        [LX_CLIENT_PAUSE] = LX_COMMAND_PAUSE,     [LX_CLIENT_RESUME] = LX_COMMAND_RESUME,
        [LX_CLIENT_DRAIN] = LX_COMMAND_DRAIN,     [LX_CLIENT_SHUTDOWN] = LX_COMMAND_SHUTDOWN,
        [LX_CLIENT_RELEASE] = LX_COMMAND_RELEASE,
    };
    if (check_id(id, err) != LX_OK)
        return LX_ECONFIG;
    return send_command(c, commands[order], id, timeout_s == 0 ? c->timeout_s : timeout_s, err);
}

/* --- watching --------------------------------------------------------------------------------- */

static lx_status subscribe(lx_client *c, const char *id, lx_err *err)
{
    memset(&c->out, 0, sizeof c->out);
    c->out.kind = LX_MSG_WATCH;
    set_job(&c->out, id);
    return ask_one(c, LX_MSG_OK, c->timeout_s, err);
}

/* After a silence: is the launcher there? One that came back has forgotten who was watching, so the
 * question is the subscription itself. *enough: the watcher wants no more. */
static lx_status still_there(lx_client *c, const char *id, lx_client_event_fn on_event, void *self,
                             bool *enough, lx_err *err)
{
    double deadline = lx_now_s() + GONE_S;
    lx_err why = {0};
    while (probe(c->endpoint, &why) != LX_OK) {
        if (lx_now_s() > deadline)
            return lx_fail(err, LX_ESTAGE, "the launcher at %s has gone", c->endpoint);
        *enough = !on_event(self, NULL);
        if (*enough)
            return LX_OK;
        usleep(200 * 1000);
    }
    lx_status status = subscribe(c, id, &why);
    if (status == LX_ECONFIG)
        return lx_fail(err, LX_ESTAGE, "the launcher at %s was started again and knows no job %s",
                       c->endpoint, id);
    if (status != LX_OK)
        lx_fail(err, status, "%s", why.message);
    return status;
}

/* Hand over what came while answers were awaited; false: the watcher has seen enough. */
static bool deliver_kept(lx_client *c, lx_client_event_fn on_event, void *self)
{
    while (c->n_kept > 0) {
        lx_client_event event = c->kept[0];
        c->n_kept--;
        memmove(c->kept, c->kept + 1, c->n_kept * sizeof *c->kept);
        if (!on_event(self, &event))
            return false;
    }
    return true;
}

lx_status lx_client_watch(lx_client *c, const char *id, lx_client_event_fn on_event, void *self,
                          lx_err *err)
{
    lx_status status = check_id(id, err);
    if (status == LX_OK)
        status = subscribe(c, id, err);
    double heard_s = lx_now_s();
    bool enough = false;
    while (status == LX_OK && !enough) {
        if (!deliver_kept(c, on_event, self) || !on_event(self, NULL))
            return LX_OK;
        lx_err why = {0};
        status = lx_bus_receive(c->bus, NULL, &c->in, TICK_MS, &why);
        if (status == LX_OK) {
            heard_s = lx_now_s();
            if (c->in.kind == LX_MSG_EVENT)
                keep_event(c);
        } else if (status == LX_EAGAIN) {
            status = LX_OK;
            if (lx_now_s() - heard_s > QUIET_S) {
                status = still_there(c, id, on_event, self, &enough, err);
                heard_s = lx_now_s();
            }
        } else {
            status = lx_fail(err, status, "%s", why.message);
        }
    }
    return status;
}
