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
#include <unistd.h>

#include "lx_log.h"
#include "lx_share.h"
#include "replica_private.h"
#include "spawn.h"
#include "text.h"

#define DEATHS_S     60.0
#define REST_LONGEST 32.0
#define EXIT_CONFIG  2
#define EXIT_AGAIN   3   /* nothing is wrong but that others have the memory */
#define EXIT_LOADER  127 /* ld.so: a library is missing, or glibc too old */

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

lx_status replicas_create(replicas **out, const replicas_options *options, lx_err *err)
{
    replicas *r = calloc(1, sizeof *r);
    if (!r)
        return lx_fail(err, LX_EAGAIN, "table of stages: out of memory");
    r->o = *options;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        r->first[kind] = r->n;
        for (int i = 0; i < replica_count(r, kind); i++) {
            r->all[r->n].kind = (lx_stage_kind)kind;
            r->all[r->n++].index = i;
        }
    }
    open_shared(r);
    lx_status status = replicas_open_leases(r, err);
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
    if (replicas_hopeless(r))
        return; /* the launcher ends; jobs of the journal wait for its next start */
    route_park(r->route, p->kind, p->index, p->obituary, now_s);
}

static bool dies_too_often(const replica *p, double now_s)
{
    return p->n_deaths >= REPLICA_DEATHS &&
           now_s - p->death_s[p->n_deaths % REPLICA_DEATHS] <= DEATHS_S;
}

/* The process is gone (or never came to be); what now? The obituary is written. */
static void bury(replicas *r, replica *p, int exit_code, double now_s)
{
    p->death_s[p->n_deaths++ % REPLICA_DEATHS] = now_s;
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
                    "died %d times within %.0f s; the last time: %s", REPLICA_DEATHS, DEATHS_S,
                    last);
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
    replica *p = replica_at(r, kind, replica_index);
    if (p->pid <= 0 || p->is_killed)
        return;
    p->is_killed = true;
    text_format(p->kill_why, sizeof p->kill_why, "%s", why);
    LX_W("stage=%s replica=%d pid=%d killed: %s", lx_stage_kind_name(kind), replica_index,
         (int)p->pid, why);
    kill(p->pid, SIGKILL);
}

/* --- stopping --------------------------------------------------------------------------------- */

static void tell_to_stop(replicas *r, replica *p, double now_s)
{
    if (p->is_told_to_stop)
        return;
    p->is_told_to_stop = true;
    p->kill_s = now_s + r->o.config->supervision.stop_s;
    if (p->state == REPLICA_READY) {
        lx_msg msg = {.kind = LX_MSG_STOP};
        replica_say(r, p, &msg, NULL);
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
        for (int i = 0; i < replica_count(r, kind); i++)
            if (replica_at(r, (lx_stage_kind)kind, i)->pid > 0) {
                is_left = true;
                tell_to_stop(r, replica_at(r, (lx_stage_kind)kind, i), now_s);
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
        is_any = is_any || replica_is_on_card(r, &r->all[k]);
    return is_any ? replica_is_on_card(r, p) : p->kind != LX_STAGE_MUX;
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
    replicas_forgive(r, now_s);
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
        } else if (p->pid > 0 && !p->is_killed && replica_check_alive(r, p, now_s, &due_s, why)) {
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
        for (int i = 0; i < replica_count(r, kind); i++) {
            const replica *p = replica_look_at(r, (lx_stage_kind)kind, i);
            n += p->state == REPLICA_PARKED && p->is_config_fault && !p->was_ever_ready;
        }
        if (n == replica_count(r, kind))
            return replica_look_at(r, (lx_stage_kind)kind, 0)->obituary;
    }
    return NULL;
}

void replicas_info(const replicas *r, lx_stage_kind kind, int replica_index, lx_msg *out)
{
    static const char *const words[] = {"dead", "starting", "loading", "ready",
                                        "dead", "parked",   "dead",    "released"};
    const replica *p = replica_look_at(r, kind, replica_index);
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
    for (int i = 0; i < replica_count(r, (int)kind); i++) {
        const replica *p = replica_look_at(r, (lx_stage_kind)kind, i);
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
