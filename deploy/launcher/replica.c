/*
 * replica.c - the life of a stage process, seen from the launcher
 * SPDX-License-Identifier: Apache-2.0
 */
#include "replica.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "leases.h"
#include "lx_device.h"
#include "lx_log.h"
#include "lx_number.h"
#include "lx_process.h"
#include "lx_share.h"
#include "pace.h"
#include "spawn.h"
#include "text.h"

#define BEATS_MISSED 3
#define HELLO_S      30.0 /* exec and dynamic linking from a cold disk */
/* Loading has no time limit, but a disk that gives nothing for that many hang_s is gone. */
#define LOAD_FACTOR  10
#define DEATHS       5
#define DEATHS_S     60.0
#define REST_LONGEST 32.0
#define EXIT_CONFIG  2
#define EXIT_AGAIN   3   /* nothing is wrong but that others have the memory */
#define EXIT_LOADER  127 /* ld.so: a library is missing, or glibc too old */
#define LATE_S       1.0 /* the loop wakes several times a second */

typedef enum replica_state {
    REPLICA_IDLE,
    REPLICA_STARTING,
    REPLICA_LOADING,
    REPLICA_READY,
    REPLICA_RESTING,
    REPLICA_PARKED,
    REPLICA_GONE,
    REPLICA_RELEASED
} replica_state;

typedef struct replica {
    lx_stage_kind kind;
    int index;
    replica_state state;
    pid_t pid;    /* 0: no process */
    int lifeline; /* valid while there is a process: closed by our death, it ends */
    uint64_t epoch;
    char token[33];
    lx_peer peer; /* valid from LOADING on */
    lx_number number;
    double started_s, heard_s, moved_s, restart_s;
    uint64_t moved;
    char unit[LX_LIMIT_WORD];
    uint64_t done, total, rss_bytes, peak_bytes, weight_bytes;
    pace pace;
    bool was_ready;      /* this process */
    bool was_ever_ready; /* any of its predecessors */
    bool is_killed, is_told_to_stop;
    double kill_s;        /* told to stop: when patience ends */
    bool is_config_fault; /* parked by exit code 2, or 127 of the loader */
    char kill_why[160];
    int n_rests; /* restarts in a row without having been ready */
    double death_s[DEATHS];
    uint64_t n_deaths;
    char last_words[512];         /* why it cannot start, if it could still say so */
    char obituary[LX_LIMIT_TEXT]; /* of the last death, or "" */
} replica;

struct replicas {
    replicas_options o;
    route *route;   /* borrowed */
    links *links;   /* borrowed; may be NULL */
    leases *leases; /* owned; NULL: nothing was planned */
    uint64_t last_epoch;
    double tick_s, stop_by_s;
    bool is_stopping;
    bool is_released;             /* memory of devices goes back: no process has any */
    int n, first[LX_STAGE_COUNT]; /* where each kind begins in `all` */
    /* Memory files that all replicas of a kind share for their weights; owned, 0: none. They are
     * empty until a stage fills them, and outlive it: a restart finds its weights there. */
    int shared_fd[LX_STAGE_COUNT];
    lx_msg out; /* scratch */
    replica all[LX_STAGE_COUNT * LX_LIMIT_REPLICAS];
};

static replica *at(replicas *r, lx_stage_kind kind, int i)
{
    return &r->all[r->first[kind] + i];
}

static const replica *look_at(const replicas *r, lx_stage_kind kind, int i)
{
    return &r->all[r->first[kind] + i];
}

static int count(const replicas *r, int kind)
{
    return r->o.config->stage[kind].n_replicas;
}

static bool is_on_card(const replicas *r, const replica *p)
{
    return lx_device_is_card(r->o.config->stage[p->kind].replica[p->index].device);
}

/* One copy per checkpoint; the VAE's is small and mux has none. Without it all works as well. */
static void open_shared(replicas *r)
{
    static const struct {
        lx_stage_kind kind;
        const char *name;
    } large[] = {{LX_STAGE_ENCODER, "lx2v-weights-encoder"}, {LX_STAGE_DIT, "lx2v-weights-dit"}};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        int fd = memfd_create(large[i].name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd > 0)
            r->shared_fd[large[i].kind] = fd;
        else
            LX_W("no shared memory for weights: %s; every replica reads its own", strerror(errno));
    }
}

static lx_status say(replicas *r, replica *p, const lx_msg *msg, lx_err *err)
{
    r->out = *msg;
    return lx_number_send(&p->number, r->o.bus, &p->peer, &r->out, err);
}

/* The ledger's hands: also a stage that is still loading may be told. */
static void tell_of_lease(replicas *r, lx_stage_kind kind, int i, lx_msg_kind what, uint64_t bytes)
{
    replica *p = at(r, kind, i);
    lx_msg msg = {.kind = what};
    lx_err err = {0};
    msg.u.arena.bytes = bytes;
    if (p->pid > 0 && (p->state == REPLICA_LOADING || p->state == REPLICA_READY) &&
        say(r, p, &msg, &err) != LX_OK)
        replicas_kill(r, kind, i, "it takes no messages");
}

static void grant_lease(void *self, lx_stage_kind kind, int i, uint64_t bytes)
{
    at(self, kind, i)->moved_s = lx_now_s(); /* what it waited is no hang */
    tell_of_lease(self, kind, i, LX_MSG_LEASE, bytes);
}

static void recall_lease(void *self, lx_stage_kind kind, int i)
{
    tell_of_lease(self, kind, i, LX_MSG_RELEASE, 0);
}

static lx_status open_leases(replicas *r, lx_err *err)
{
    const leases_hands hands = {.grant = grant_lease, .recall = recall_lease, .self = r};
    return r->o.plan ? leases_create(&r->leases, r->o.plan, hands, err) : LX_OK;
}

lx_status replicas_create(replicas **out, const replicas_options *options, lx_err *err)
{
    replicas *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "table of stages: out of memory");
    r->o = *options;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        r->first[kind] = r->n;
        for (int i = 0; i < count(r, kind); i++) {
            r->all[r->n].kind = (lx_stage_kind)kind;
            r->all[r->n++].index = i;
        }
    }
    open_shared(r);
    lx_status status = open_leases(r, err);
    if (status != LX_OK)
        replicas_destroy(&r);
    else
        *out = r;
    return status;
}

void replicas_destroy(replicas **r)
{
    if (!r || !*r)
        return;
    replicas_kill_all(*r);
    for (int k = 0; k < (*r)->n; k++)
        if ((*r)->all[k].pid > 0)
            waitpid((*r)->all[k].pid, NULL, 0);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        if ((*r)->shared_fd[kind] > 0)
            close((*r)->shared_fd[kind]);
    leases_destroy(&(*r)->leases);
    free(*r);
    *r = NULL;
}

void replicas_set_route(replicas *r, struct route *to)
{
    r->route = to;
}

void replicas_set_links(replicas *r, links *to)
{
    r->links = to;
}

/* --- birth ------------------------------------------------------------------------------------ */

static void record(const replicas *r)
{
    state_stage stages[LX_STAGE_COUNT * LX_LIMIT_REPLICAS];
    int n = 0;
    for (int k = 0; k < r->n; k++) {
        const replica *p = &r->all[k];
        if (p->pid > 0) {
            stages[n].pid = p->pid;
            snprintf(stages[n].name, sizeof stages[n].name, "%s[%d]", lx_stage_kind_name(p->kind),
                     p->index);
            n++;
        }
    }
    state_dir_record(r->o.dir, stages, n);
}

static void bury(replicas *r, replica *p, int exit_code, double now_s);

static void start(replicas *r, replica *p, double now_s)
{
    p->epoch = ++r->last_epoch;
    p->started_s = p->heard_s = p->moved_s = now_s;
    p->was_ready = p->is_killed = p->is_told_to_stop = false;
    p->moved = p->done = p->total = 0;
    p->number = (lx_number){0};
    p->rss_bytes = p->peak_bytes = 0;
    p->kill_why[0] = p->unit[0] = p->last_words[0] = 0;
    p->state = REPLICA_STARTING;
    lx_err err = {0};
    const plan_process *planned = r->o.plan ? plan_of(r->o.plan, p->kind, p->index) : NULL;
    lx_status status = state_random_hex(p->token, 32, &err);
    spawn_request q = {.binary_dir = r->o.binary_dir,
                       .config_path = r->o.config->path,
                       .kind = p->kind,
                       .replica = p->index,
                       .vram = planned ? planned->vram : 0,
                       .ram = planned ? planned->ram : 0,
                       .is_leased = r->leases && leases_has(r->leases, p->kind, p->index),
                       .endpoint = r->o.endpoint,
                       .token = p->token,
                       .instance = state_dir_instance(r->o.dir),
                       .epoch = p->epoch,
                       .shared_fd = r->shared_fd[p->kind],
                       .config_fd = *r->o.config_fd};
    if (status == LX_OK)
        status = spawn_stage(&p->pid, &p->lifeline, &q, &err);
    if (status == LX_OK) {
        record(r);
        LX_I("stage=%s replica=%d pid=%d epoch=%" PRIu64 " device=%s started",
             lx_stage_kind_name(p->kind), p->index, (int)p->pid, p->epoch,
             r->o.config->stage[p->kind].replica[p->index].device);
        return;
    }
    p->pid = 0;
    text_format(p->obituary, sizeof p->obituary, "%s", err.message);
    bury(r, p, status == LX_ECONFIG ? EXIT_CONFIG : 1, now_s);
}

void replicas_start(replicas *r, double now_s)
{
    r->tick_s = now_s;
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        start(r, p, now_s);
    }
}

/* --- death ------------------------------------------------------------------------------------ */

static void park(replicas *r, replica *p, double now_s)
{
    p->state = REPLICA_PARKED;
    LX_E("stage=%s replica=%d parked: %s", lx_stage_kind_name(p->kind), p->index, p->obituary);
    route_park(r->route, p->kind, p->index, p->obituary, now_s);
}

static bool dies_too_often(const replica *p, double now_s)
{
    return p->n_deaths >= DEATHS && now_s - p->death_s[p->n_deaths % DEATHS] <= DEATHS_S;
}

/* The process is gone (or never came to be); what now? The obituary is written. */
static void bury(replicas *r, replica *p, int exit_code, double now_s)
{
    p->death_s[p->n_deaths++ % DEATHS] = now_s;
    if (r->is_stopping) {
        p->state = REPLICA_GONE;
        return;
    }
    /* Without memory it starts again and again, ever more seldom, until the memory is there. */
    bool is_short = exit_code == EXIT_AGAIN && !p->was_ready;
    p->is_config_fault =
        exit_code == EXIT_CONFIG || (exit_code == EXIT_LOADER && p->state < REPLICA_READY);
    if (!p->is_config_fault) /* else park() says the same */
        LX_W("stage=%s replica=%d died: %s", lx_stage_kind_name(p->kind), p->index, p->obituary);
    if (p->is_config_fault) {
        park(r, p, now_s);
    } else if (dies_too_often(p, now_s) && !is_short) {
        char last[LX_LIMIT_TEXT];
        text_put(last, sizeof last, p->obituary);
        text_format(p->obituary, sizeof p->obituary,
                    "died %d times within %.0f s; the last time: %s", DEATHS, DEATHS_S, last);
        park(r, p, now_s);
    } else {
        double rest_s = 0;
        if (!p->was_ready) {
            rest_s = p->n_rests < 5 ? (double)(1 << p->n_rests) : REST_LONGEST;
            p->n_rests++;
        }
        p->state = REPLICA_RESTING;
        p->restart_s = now_s + rest_s;
    }
}

/* How it died, and what it was doing. */
static void write_obituary(const replicas *r, replica *p, int wait_status)
{
    char how[256], doing[256] = "";
    if (p->is_killed)
        text_format(how, sizeof how, "was killed by the launcher: %s", p->kill_why);
    else if (WIFSIGNALED(wait_status))
        text_format(how, sizeof how, "was ended by signal %d (%s)", WTERMSIG(wait_status),
                    strsignal(WTERMSIG(wait_status)));
    else if (WEXITSTATUS(wait_status) == EXIT_CONFIG)
        text_format(how, sizeof how,
                    "ended with exit code 2 (config or files; its last line on stderr says what)");
    else if (WEXITSTATUS(wait_status) == EXIT_LOADER)
        text_format(how, sizeof how,
                    "ended with exit code 127 (the system cannot load it: its last line on stderr "
                    "says which library)");
    else
        text_format(how, sizeof how, "ended with exit code %d", WEXITSTATUS(wait_status));
    const lx_entry *e = route_holds(r->route, p->kind, p->index);
    if (p->state < REPLICA_READY)
        text_format(doing, sizeof doing, " while starting%s", p->unit[0] ? " (loading)" : "");
    else if (e && p->unit[0])
        text_format(doing, sizeof doing, " at %s %" PRIu64 " of %" PRIu64, p->unit, p->done,
                    p->total);
    else if (e)
        text_format(doing, sizeof doing, " with a job");
    text_format(p->obituary, sizeof p->obituary, "%s[%d] (pid %d) %s%s%s%s",
                lx_stage_kind_name(p->kind), p->index, (int)p->pid, how, doing,
                p->last_words[0] ? ": " : "", p->last_words);
}

void replicas_reap(replicas *r, double now_s)
{
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        int wait_status = 0;
        if (p->pid <= 0 || waitpid(p->pid, &wait_status, WNOHANG) != p->pid)
            continue;
        bool is_leaving = r->is_released && p->is_told_to_stop;
        if (!is_leaving)
            write_obituary(r, p, wait_status);
        p->pid = 0;
        close(p->lifeline);
        record(r);
        route_down(r->route, p->kind, p->index, p->obituary, now_s);
        if (r->leases)
            leases_gone(r->leases, p->kind, p->index);
        if (r->links)
            links_down(r->links, p->kind, p->index);
        /* A stage that was never up may have made shared memory all the same. */
        if (!p->was_ready)
            lx_share_sweep(state_dir_instance(r->o.dir), p->epoch);
        if (is_leaving)
            p->state = REPLICA_RELEASED;
        else
            bury(r, p, WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1, now_s);
    }
}

void replicas_kill(replicas *r, lx_stage_kind kind, int replica_index, const char *why)
{
    replica *p = at(r, kind, replica_index);
    if (p->pid <= 0 || p->is_killed)
        return;
    p->is_killed = true;
    text_format(p->kill_why, sizeof p->kill_why, "%s", why);
    LX_W("stage=%s replica=%d pid=%d killed: %s", lx_stage_kind_name(kind), replica_index,
         (int)p->pid, why);
    kill(p->pid, SIGKILL);
}

/* --- messages --------------------------------------------------------------------------------- */

static bool same_peer(const lx_peer *a, const lx_peer *b)
{
    return a->n == b->n && memcmp(a->id, b->id, a->n) == 0;
}

static void on_hello(replicas *r, const lx_peer *peer, const lx_msg *msg, double now_s)
{
    int kind = msg->u.hello.stage, i = msg->u.hello.replica;
    replica *p = NULL;
    if (kind >= 0 && kind < LX_STAGE_COUNT && i >= 0 && i < count(r, kind))
        p = at(r, (lx_stage_kind)kind, i);
    if (!p || p->state != REPLICA_STARTING || p->is_killed || msg->u.hello.epoch != p->epoch ||
        strcmp(msg->u.hello.token, p->token) || msg->u.hello.pid != p->pid) {
        LX_W("hello refused: not a stage that was started here and now");
        return;
    }
    if (strcmp(msg->u.hello.version, LX2V_VERSION)) {
        char why[160];
        text_format(why, sizeof why,
                    "it is version %s, this launcher is " LX2V_VERSION ": install them together",
                    msg->u.hello.version);
        replicas_kill(r, p->kind, p->index, why);
        return;
    }
    explicit_bzero(p->token, sizeof p->token); /* good for one hello */
    p->token[0] = '-';
    p->peer = *peer;
    p->number.heard = msg->req; /* a beat may have come before, from nobody that was known */
    p->state = REPLICA_LOADING;
    p->heard_s = p->moved_s = now_s;
}

static void on_ready(replicas *r, replica *p, const lx_msg *msg, double now_s)
{
    if (p->state != REPLICA_LOADING)
        return;
    p->state = REPLICA_READY;
    p->was_ready = p->was_ever_ready = true;
    p->n_rests = 0;
    p->weight_bytes = msg->u.ready.weight_bytes;
    p->unit[0] = 0; /* what was loaded is no work of a job */
    p->done = p->total = 0;
    p->moved_s = now_s;
    LX_I("stage=%s replica=%d ready load_s=%.2f weights_mib=%.1f arena_mib=%.1f weights_id=%s",
         lx_stage_kind_name(p->kind), p->index, msg->u.ready.load_s,
         (double)p->weight_bytes / 0x1p20, (double)msg->u.ready.arena_bytes / 0x1p20,
         msg->u.ready.weights_id[0] ? msg->u.ready.weights_id : "-");
    route_up(r->route, p->kind, p->index, p->epoch);
    if (r->links)
        links_up(r->links, p->kind, p->index, p->epoch, now_s);
}

static void on_beat(replicas *r, replica *p, const lx_msg *msg, double now_s)
{
    const lx_entry *e = route_holds(r->route, p->kind, p->index);
    if (msg->u.beat.moved != p->moved) {
        double since = route_free_since_s(r->route, p->kind, p->index);
        double from = p->moved_s > since ? p->moved_s : since;
        if (p->state == REPLICA_READY && e && msg->u.beat.moved > p->moved)
            pace_note(&p->pace, (now_s - from) / (double)(msg->u.beat.moved - p->moved),
                      pace_work(p->kind, e->job));
        p->moved = msg->u.beat.moved;
        p->moved_s = now_s;
    }
    memcpy(p->unit, msg->u.beat.unit, sizeof p->unit);
    p->done = msg->u.beat.done;
    p->total = msg->u.beat.total;
    p->rss_bytes = msg->u.beat.rss_bytes;
    p->peak_bytes = msg->u.beat.peak_bytes;
}

static void on_lease(replicas *r, const replica *p, const lx_msg *msg)
{
    if (!r->leases)
        return;
    if (msg->kind == LX_MSG_LEASE)
        leases_ask(r->leases, p->kind, p->index, msg->u.arena.bytes);
    else
        leases_given_back(r->leases, p->kind, p->index, msg->u.arena.bytes);
}

void replicas_message(replicas *r, const lx_peer *peer, const lx_msg *msg, double now_s)
{
    if (msg->kind == LX_MSG_HELLO) {
        on_hello(r, peer, msg, now_s);
        return;
    }
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        if (p->pid <= 0 || p->state < REPLICA_LOADING || p->state > REPLICA_READY ||
            !same_peer(&p->peer, peer))
            continue;
        lx_heard heard = lx_number_hear(&p->number, msg);
        if (heard == LX_HEARD_GAP)
            replicas_kill(r, p->kind, p->index, "a message of it is missing");
        if (heard != LX_HEARD_NEXT)
            return;
        p->heard_s = now_s; /* any message counts as a beat */
        if (msg->kind == LX_MSG_BEAT)
            on_beat(r, p, msg, now_s);
        if (msg->kind == LX_MSG_FAILED && p->state == REPLICA_LOADING)
            text_put(p->last_words, sizeof p->last_words, msg->u.failed.text);
        if (msg->kind == LX_MSG_READY)
            on_ready(r, p, msg, now_s);
        else if (msg->kind == LX_MSG_LEASE || msg->kind == LX_MSG_RELEASE)
            on_lease(r, p, msg);
        else if (p->state == REPLICA_READY && r->links &&
                 (msg->kind == LX_MSG_LINK_LENT || msg->kind == LX_MSG_LINK_RESULT))
            links_message(r->links, p->kind, p->index, msg);
        else if (p->state == REPLICA_READY)
            route_message(r->route, p->kind, p->index, msg, now_s);
        return;
    }
    LX_D("message %s from nobody that is known", lx_msg_kind_name(msg->kind));
}

bool replicas_send(replicas *r, lx_stage_kind kind, int replica_index, const lx_msg *msg)
{
    replica *p = at(r, kind, replica_index);
    lx_err err = {0};
    if (p->state != REPLICA_READY || p->is_killed)
        return true; /* on its way out: its death will be told */
    if (say(r, p, msg, &err) == LX_OK)
        return true;
    LX_W("stage=%s replica=%d %s", lx_stage_kind_name(kind), replica_index, err.message);
    return false;
}

/* --- watching --------------------------------------------------------------------------------- */

static double unit_limit_s(const replicas *r, const replica *p, const lx_entry *e)
{
    const lx_config *c = r->o.config;
    /* `total` may count all steps of the DiT; a pass is one of them. */
    uint64_t pass = p->kind == LX_STAGE_DIT && e->job->n_steps > 0
                        ? p->total / (uint64_t)e->job->n_steps
                        : p->total;
    const plan_process *planned = r->o.plan ? plan_of(r->o.plan, p->kind, p->index) : NULL;
    double step_s =
        planned ? fmax(planned->compute_s, fmax(planned->stream_s, planned->disk_s)) : 0;
    pace_guess guess = {.planned_s = pass > 0 ? step_s / (double)pass : 0,
                        .slowest_s =
                            pace_predicted_s(p->kind, e->job, p->weight_bytes, pass, c->vae.chunk),
                        .is_card = is_on_card(r, p)};
    return pace_limit_s(&p->pace, c->supervision.hang_s, guess, pace_work(p->kind, e->job));
}

/* NULL if all is well, else why not. Lowers *due_s to when it must be looked at again. */
static const char *check_alive(const replicas *r, const replica *p, double now_s, double *due_s,
                               char why[160])
{
    const lx_config *c = r->o.config;
    double silent_by = p->state == REPLICA_STARTING
                           ? p->started_s + HELLO_S
                           : p->heard_s + BEATS_MISSED * c->supervision.beat_s;
    double stuck_by = HUGE_VAL;
    const lx_entry *e = route_holds(r->route, p->kind, p->index);
    if (r->leases && leases_waits(r->leases, p->kind, p->index)) {
        stuck_by = HUGE_VAL; /* others have the card; they are watched themselves */
    } else if (p->state == REPLICA_LOADING) {
        stuck_by = p->moved_s + LOAD_FACTOR * c->supervision.hang_s;
    } else if (p->state == REPLICA_READY && e && !route_may_wait(r->route, p->kind, p->index)) {
        double since = route_free_since_s(r->route, p->kind, p->index);
        stuck_by = (p->moved_s > since ? p->moved_s : since) + unit_limit_s(r, p, e);
    }
    double by = silent_by < stuck_by ? silent_by : stuck_by;
    if (by < *due_s)
        *due_s = by;
    if (now_s < by)
        return NULL;
    if (silent_by <= now_s)
        snprintf(why, 160, "no word for %.1f s", now_s - p->heard_s);
    else
        snprintf(why, 160, "no progress for %.1f s", now_s - p->moved_s);
    return why;
}

/* If this process did not run for a while, messages wait unread and nobody else is late. */
static void forgive(replicas *r, double now_s)
{
    double late = now_s - r->tick_s;
    r->tick_s = now_s;
    if (late < LATE_S)
        return;
    LX_W("the launcher was away for %.1f s", late);
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        p->heard_s += late;
        p->moved_s += late;
        p->started_s += late;
    }
}

static void tell_to_stop(replicas *r, replica *p, double now_s)
{
    if (p->is_told_to_stop)
        return;
    p->is_told_to_stop = true;
    p->kill_s = now_s + r->o.config->supervision.stop_s;
    if (p->state == REPLICA_READY) {
        lx_msg msg = {.kind = LX_MSG_STOP};
        say(r, p, &msg, NULL);
    }
    kill(p->pid, SIGTERM);
    kill(p->pid, SIGCONT); /* a stopped process hears TERM only then */
}

/* The first kind on the data's way that still has a process is the one that leaves now. */
static double tick_stopping(replicas *r, double now_s)
{
    if (now_s >= r->stop_by_s) {
        replicas_kill_all(r);
        return now_s + 0.1;
    }
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        bool is_left = false;
        for (int i = 0; i < count(r, kind); i++)
            if (at(r, (lx_stage_kind)kind, i)->pid > 0) {
                is_left = true;
                tell_to_stop(r, at(r, (lx_stage_kind)kind, i), now_s);
            }
        if (is_left)
            break;
    }
    return r->stop_by_s;
}

/* --- giving memory back ----------------------------------------------------------------------- */

/* Does it hold memory of a device that people want back? Where no stage has a card, that is the
 * host's, and mux has next to none. */
static bool has_memory(const replicas *r, const replica *p)
{
    bool is_any = false;
    for (int k = 0; k < r->n; k++)
        is_any = is_any || is_on_card(r, &r->all[k]);
    return is_any ? is_on_card(r, p) : p->kind != LX_STAGE_MUX;
}

/* Its whole process goes: what a driver keeps for a process (0.3 to 0.5 GB) goes only with it. */
static void tick_released(replicas *r, replica *p, double now_s)
{
    if (p->state == REPLICA_RESTING) {
        p->state = REPLICA_RELEASED;
    } else if (p->pid > 0 && p->is_told_to_stop && now_s >= p->kill_s) {
        replicas_kill(r, p->kind, p->index, "it did not give its memory back");
    } else if (p->pid > 0 && !route_holds(r->route, p->kind, p->index)) {
        tell_to_stop(r, p, now_s);
    }
}

void replicas_release(replicas *r, bool is_released)
{
    if (r->is_released == is_released)
        return;
    r->is_released = is_released;
    LX_I("memory of devices is %s", is_released ? "given back" : "taken again");
}

double replicas_tick(replicas *r, double now_s)
{
    forgive(r, now_s);
    if (r->is_stopping)
        return tick_stopping(r, now_s);
    double due_s = HUGE_VAL;
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        char why[160];
        if (r->is_released && has_memory(r, p)) {
            tick_released(r, p, now_s);
        } else if (p->state == REPLICA_RELEASED) {
            start(r, p, now_s);
        } else if (p->state == REPLICA_RESTING) {
            if (now_s >= p->restart_s)
                start(r, p, now_s);
            else if (p->restart_s < due_s)
                due_s = p->restart_s;
        } else if (p->pid > 0 && !p->is_killed && check_alive(r, p, now_s, &due_s, why)) {
            replicas_kill(r, p->kind, p->index, why);
        }
    }
    return due_s;
}

/* --- the end ---------------------------------------------------------------------------------- */

void replicas_stop(replicas *r, double now_s)
{
    if (r->is_stopping)
        return;
    r->is_stopping = true;
    r->stop_by_s = now_s + r->o.config->supervision.stop_s;
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        if (p->pid <= 0)
            p->state = REPLICA_GONE;
    }
    tick_stopping(r, now_s);
}

void replicas_kill_all(replicas *r)
{
    r->is_stopping = true;
    for (int k = 0; k < r->n; k++) {
        replica *p = &r->all[k];
        if (p->pid > 0)
            kill(p->pid, SIGKILL);
    }
}

bool replicas_all_gone(const replicas *r)
{
    for (int k = 0; k < r->n; k++) {
        const replica *p = &r->all[k];
        if (p->pid > 0)
            return false;
    }
    return true;
}

/* --- answers ---------------------------------------------------------------------------------- */

bool replicas_all_ready(const replicas *r)
{
    for (int k = 0; k < r->n; k++) {
        const replica *p = &r->all[k];
        if (p->state != REPLICA_READY)
            return false;
    }
    return true;
}

bool replicas_any_parked(const replicas *r)
{
    for (int k = 0; k < r->n; k++) {
        const replica *p = &r->all[k];
        if (p->state == REPLICA_PARKED)
            return true;
    }
    return false;
}

const char *replicas_hopeless(const replicas *r)
{
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        int n = 0;
        for (int i = 0; i < count(r, kind); i++) {
            const replica *p = look_at(r, (lx_stage_kind)kind, i);
            n += p->state == REPLICA_PARKED && p->is_config_fault && !p->was_ever_ready;
        }
        if (n == count(r, kind))
            return look_at(r, (lx_stage_kind)kind, 0)->obituary;
    }
    return NULL;
}

void replicas_info(const replicas *r, lx_stage_kind kind, int replica_index, lx_msg *out)
{
    static const char *const words[] = {"dead", "starting", "loading", "ready",
                                        "dead", "parked",   "dead",    "released"};
    const replica *p = look_at(r, kind, replica_index);
    const char *word = words[p->state];
    if (p->state == REPLICA_READY && route_holds(r->route, kind, replica_index))
        word = "busy";
    *out = (lx_msg){.kind = LX_MSG_STAGE_INFO};
    out->u.stage_info.stage = (int32_t)kind;
    out->u.stage_info.replica = replica_index;
    snprintf(out->u.stage_info.state, sizeof out->u.stage_info.state, "%s", word);
    memcpy(out->u.stage_info.device, r->o.config->stage[kind].replica[replica_index].device,
           sizeof out->u.stage_info.device);
    out->u.stage_info.pid = p->pid;
    memcpy(out->u.stage_info.unit, p->unit, sizeof out->u.stage_info.unit);
    out->u.stage_info.done = p->done;
    out->u.stage_info.total = p->total;
    out->u.stage_info.rss_bytes = p->rss_bytes;
    out->u.stage_info.peak_bytes = p->peak_bytes;
    out->u.stage_info.restarts = p->n_deaths;
    out->u.stage_info.jobs = route_jobs_done(r->route, kind, replica_index);
    text_put(out->u.stage_info.text, sizeof out->u.stage_info.text, p->obituary);
}

bool replicas_loading(const replicas *r, lx_stage_kind kind, uint64_t *done, uint64_t *total)
{
    bool is_found = false;
    for (int i = 0; i < count(r, (int)kind); i++) {
        const replica *p = look_at(r, (lx_stage_kind)kind, i);
        if (p->state == REPLICA_READY)
            return false;
        if (p->state == REPLICA_LOADING && (!is_found || p->done > *done)) {
            *done = p->done;
            *total = p->total;
            is_found = true;
        }
    }
    return is_found;
}
