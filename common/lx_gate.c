/*
 * lx_gate.c - one thread that answers "may this one in?"
 * SPDX-License-Identifier: Apache-2.0
 *
 * A request has the frames version, number, domain, address, identity, mechanism, credentials. For
 * a unix socket the address ends in ":UID:GID:PID", as the kernel told libzmq.
 */
#include "lx_gate.h"

#include <czmq.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lx_keys.h"
#include "lx_log.h"

#define GATE_ADDRESS "inproc://zeromq.zap.01" /* RFC 27's */
#define NAME_MAX_    64
#define SETTLED_S    2 /* a folder that changed within this may change again in the same tick */
#define FRAMES       7
#define FRAME_BYTES  256

typedef struct friend
{
    uint8_t key[LX_KEY_BYTES];
    char name[NAME_MAX_ + 1];
}
friend;

struct lx_gate {
    zsock_t *socket; /* owned; of the thread while that runs */
    pthread_t thread;
    bool is_running;
    int stop;        /* owned: an eventfd */
    char path[4096]; /* of the folder, for messages */
    int dir;         /* owned; -1: no key is good */
    /* of the thread from here on */
    friend *friends; /* owned, [LX_GATE_CLIENTS] */
    int n;
    struct timespec read_at; /* modification time of the folder when it was read */
    uint64_t n_refused;
};

/* --- whose keys are good ---------------------------------------------------------------------- */

/* "NAME.pub": the length of NAME, 0 for any other file. */
static size_t name_bytes(const char *file)
{
    size_t n = strspn(file, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
    if (file[n] || n <= 4 || n - 4 > NAME_MAX_ || file[0] == '.' || strcmp(file + n - 4, ".pub"))
        return 0;
    return n - 4;
}

static lx_status add_friend(lx_gate *g, const char *file, size_t name_length, lx_err *err)
{
    lx_keys keys;
    if (g->n == LX_GATE_CLIENTS)
        return lx_fail(err, LX_ECONFIG, "%s: more than %d clients", g->path, LX_GATE_CLIENTS);
    if (lx_keys_read_public(&keys, g->dir, file, err) != LX_OK)
        return lx_wrap(err, "%s", g->path);
    friend *f = &g->friends[g->n++];
    zmq_z85_decode(f->key, keys.public_key);
    snprintf(f->name, sizeof f->name, "%.*s", (int)name_length, file);
    return LX_OK;
}

/* A file that is no key makes the whole folder unread: nobody is let in by a mistake. */
static lx_status read_folder(lx_gate *g, lx_err *err)
{
    struct stat st;
    g->n = 0;
    if (fstat(g->dir, &st))
        return lx_fail(err, LX_ECONFIG, "%s: %s", g->path, strerror(errno));
    if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        return lx_fail(err, LX_ECONFIG,
                       "%s: others may write there, and so let in whom they like; run: chmod go-w "
                       "\"%s\"",
                       g->path, g->path);
    int fd = openat(g->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = fd < 0 ? NULL : fdopendir(fd);
    if (!listing) {
        if (fd >= 0)
            close(fd);
        return lx_fail(err, LX_ECONFIG, "%s: %s", g->path, strerror(errno));
    }
    lx_status status = LX_OK;
    for (struct dirent *e; status == LX_OK && (e = readdir(listing));) {
        size_t n = name_bytes(e->d_name);
        if (n)
            status = add_friend(g, e->d_name, n, err);
    }
    closedir(listing);
    if (status != LX_OK)
        g->n = 0;
    g->read_at = st.st_mtim;
    return status;
}

/* Files came or went since it was read, or may have without a trace. */
static bool is_stale(const lx_gate *g)
{
    struct stat st;
    struct timespec now;
    if (fstat(g->dir, &st))
        return true;
    clock_gettime(CLOCK_REALTIME, &now);
    return st.st_mtim.tv_sec != g->read_at.tv_sec || st.st_mtim.tv_nsec != g->read_at.tv_nsec ||
           now.tv_sec - st.st_mtim.tv_sec <= SETTLED_S;
}

/* The name of the client with this key, or NULL. */
static const char *find_friend(lx_gate *g, const uint8_t *key)
{
    lx_err err = {0};
    if (g->dir < 0)
        return NULL;
    if (is_stale(g) && read_folder(g, &err) != LX_OK)
        LX_W("nobody is let in by tcp: %s", err.message);
    for (int i = 0; i < g->n; i++)
        if (memcmp(g->friends[i].key, key, LX_KEY_BYTES) == 0)
            return g->friends[i].name;
    return NULL;
}

/* --- one question ----------------------------------------------------------------------------- */

typedef struct question {
    char frame[FRAMES][FRAME_BYTES]; /* terminated */
    size_t bytes[FRAMES];
    int n;
} question;

enum { VERSION, NUMBER, DOMAIN_, ADDRESS, IDENTITY, MECHANISM, CREDENTIALS };

static bool read_question(void *socket, question *q)
{
    int more = 1;
    bool good = true;
    memset(q, 0, sizeof *q);
    while (more) {
        char frame[FRAME_BYTES];
        size_t size = sizeof more;
        int n = zmq_recv(socket, frame, sizeof frame - 1, 0);
        if (n < 0 || zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size))
            return false;
        if (q->n == FRAMES || n > (int)sizeof frame - 1) { /* identities may be as long */
            good = good && q->n == IDENTITY;
            n = 0;
        }
        if (q->n < FRAMES) {
            memcpy(q->frame[q->n], frame, (size_t)n);
            q->bytes[q->n++] = (size_t)n;
        }
    }
    return good && q->n >= CREDENTIALS && strcmp(q->frame[VERSION], "1.0") == 0;
}

/* The user at the end of "...:UID:GID:PID"; false if the kernel did not tell. */
static bool user_of(const char *address, unsigned long *uid)
{
    const char *at = address + strlen(address);
    for (int colons = 0; colons < 3 && at > address; at--)
        if (at[-1] == ':' && ++colons == 3)
            break;
    char *end;
    unsigned gid, pid;
    int used = 0;
    if (at == address)
        return false;
    *uid = strtoul(at, &end, 10);
    return end != at && sscanf(end, ":%u:%u%n", &gid, &pid, &used) == 2 && !end[used];
}

/* As whom this one comes in, or "" and *why. */
static void judge(lx_gate *g, const question *q, char user[NAME_MAX_ + 8], const char **why)
{
    unsigned long uid;
    user[0] = 0;
    if (strcmp(q->frame[DOMAIN_], LX_GATE_DOMAIN)) {
        *why = "not our socket";
    } else if (strcmp(q->frame[MECHANISM], "NULL") == 0) {
        /* tcp never comes here: there the mechanism is CURVE, and both ends must agree. */
        *why = "another user";
        if (!user_of(q->frame[ADDRESS], &uid) || uid == geteuid() || uid == 0)
            snprintf(user, NAME_MAX_ + 8, "local");
    } else if (strcmp(q->frame[MECHANISM], "CURVE") == 0 && q->n == FRAMES &&
               q->bytes[CREDENTIALS] == LX_KEY_BYTES) {
        const char *name = find_friend(g, (const uint8_t *)q->frame[CREDENTIALS]);
        *why = "its key is in no file of the clients' folder";
        if (name)
            snprintf(user, NAME_MAX_ + 8, "key:%s", name);
    } else {
        *why = "neither a unix socket nor a key";
    }
}

static void answer(lx_gate *g, void *socket)
{
    question q;
    char user[NAME_MAX_ + 8] = "";
    const char *why = "libzmq asks in an unknown form";
    if (read_question(socket, &q))
        judge(g, &q, user, &why);
    g->n_refused += !user[0];
    if (!user[0] && !(g->n_refused & (g->n_refused - 1))) /* 1st, 2nd, 4th, ... */
        LX_W("connection refused total=%llu address=%s why=\"%s\"",
             (unsigned long long)g->n_refused, q.frame[ADDRESS], why);
    zmq_send(socket, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(socket, q.frame[NUMBER], q.bytes[NUMBER], ZMQ_SNDMORE);
    zmq_send(socket, user[0] ? "200" : "400", 3, ZMQ_SNDMORE);
    zmq_send(socket, user[0] ? "OK" : "NO", 2, ZMQ_SNDMORE);
    zmq_send(socket, user, strlen(user), ZMQ_SNDMORE);
    zmq_send(socket, "", 0, 0);
}

/* --- life ------------------------------------------------------------------------------------- */

static void *stand_guard(void *self)
{
    lx_gate *g = self;
    void *socket = zsock_resolve(g->socket);
    zmq_pollitem_t item[] = {{.socket = socket, .events = ZMQ_POLLIN},
                             {.fd = g->stop, .events = ZMQ_POLLIN}};
    for (;;) {
        if (zmq_poll(item, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (item[1].revents)
            return NULL;
        if (item[0].revents)
            answer(g, socket);
    }
}

static lx_status open_friends(lx_gate *g, const char *clients_dir, lx_err *err)
{
    snprintf(g->path, sizeof g->path, "%s", clients_dir);
    g->friends = calloc(LX_GATE_CLIENTS, sizeof *g->friends);
    if (!g->friends)
        return lx_fail(err, LX_EAGAIN, "out of memory for clients' keys");
    g->dir = open(clients_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (g->dir < 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s; `lx2v keys` makes it", clients_dir,
                       strerror(errno));
    return read_folder(g, err);
}

/* Bound before there is a thread, so that libzmq asks here from now on. */
static lx_status start(lx_gate *g, lx_err *err)
{
    zsys_handler_set(NULL); /* czmq would otherwise take SIGINT and SIGTERM from the process */
    g->socket = zsock_new(ZMQ_REP);
    if (!g->socket)
        return lx_fail(err, LX_ESTAGE, "cannot make a ZeroMQ socket: %s", zmq_strerror(errno));
    zsock_set_linger(g->socket, 0);
    if (zmq_bind(zsock_resolve(g->socket), GATE_ADDRESS))
        return lx_fail(err, LX_ESTAGE, "%s: %s", GATE_ADDRESS,
                       errno == EADDRINUSE ? "this process has a gate already"
                                           : zmq_strerror(errno));
    g->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->stop < 0)
        return lx_fail(err, LX_EAGAIN, "no descriptor for the gate: %s", strerror(errno));
    int error = pthread_create(&g->thread, NULL, stand_guard, g);
    g->is_running = error == 0;
    return error ? lx_fail(err, LX_EAGAIN, "no thread for the gate: %s", strerror(error)) : LX_OK;
}

lx_status lx_gate_open(lx_gate **out, const char *clients_dir, lx_err *err)
{
    lx_gate *g = calloc(1, sizeof *g);
    if (!g)
        return lx_fail(err, LX_EAGAIN, "out of memory for the gate");
    g->dir = g->stop = -1;
    lx_status status = clients_dir ? open_friends(g, clients_dir, err) : LX_OK;
    if (status == LX_OK)
        status = start(g, err);
    if (status != LX_OK)
        lx_gate_close(&g);
    else
        *out = g;
    return status;
}

void lx_gate_close(lx_gate **gate)
{
    if (!gate || !*gate)
        return;
    lx_gate *g = *gate;
    if (g->is_running) {
        eventfd_write(g->stop, 1);
        pthread_join(g->thread, NULL);
    }
    zsock_destroy(&g->socket);
    if (g->stop >= 0)
        close(g->stop);
    if (g->dir >= 0)
        close(g->dir);
    free(g->friends);
    free(g);
    *gate = NULL;
}
