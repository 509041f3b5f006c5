/*
 * launcher.c - the loop
 * SPDX-License-Identifier: Apache-2.0
 */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients.h"
#include "inhibit.h"
#include "integrity.h"
#include "journal_jobs.h"
#include "links.h"
#include "listen.h"
#include "lx_bus.h"
#include "lx_folder.h"
#include "lx_jobs.h"
#include "lx_log.h"
#include "lx_share.h"
#include "lx_spool.h"
#include "notify.h"
#include "reload.h"
#include "replica.h"
#include "route.h"
#include "spawn.h"
#include "state_dir.h"
#include "submit.h"
#include "weights/lx_catalog.h"
#include "weights/lx_model_dir.h"

#define HISTORY    250  /* ended jobs that can still be asked for */
#define BATCH      256  /* messages of one bus before the other has its turn */
#define SLEEP_MAX  0.25 /* s; bounds the harm of a lost edge on a ZeroMQ descriptor */
#define UNTOLD     64   /* ends that wait for the journal; more are written at once */
#define FAREWELL_S 0.05 /* for last events to leave: sockets are closed without lingering */

struct launcher {
    const lx_config *config;
    lx_config *live;  /* the same: owned, changed by a reload only */
    int config_fd;    /* the same for stages; owned, 0: none */
    const plan *plan; /* borrowed */
    char binary_dir[LX_LIMIT_PATH];
    char client_endpoint[LX_LIMIT_PATH + 8], stage_endpoint[LX_LIMIT_PATH + 8];
    state_dir *dir;
    lx_gate *gate;
    lx_bus *client_bus, *stage_bus;
    lx_jobs *jobs;
    journal *journal;
    lx_entry *untold[UNTOLD]; /* have ended, and nobody has heard of it: not on disk yet */
    int n_untold;
    lx_err broken; /* the journal failed: nothing more may be promised */
    route *route;
    replicas *replicas;
    links *links;
    clients *clients;
    inhibit inhibit;
    notify notify;
    service_mode mode;
    int signal_fd;
    int n_interrupts;
    bool is_on_terminal; /* then SIGHUP means that it was closed */
    bool is_ready, is_leaving;
    double now_s;
    uint64_t n_sent; /* sends may swallow the edge of a descriptor: look again before sleeping */
    lx_msg in;
};

/* --- route's hands ---------------------------------------------------------------------------- */

static bool hand_send(void *self, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    launcher *l = self;
    l->n_sent++;
    return replicas_send(l->replicas, kind, replica, msg);
}

static void hand_kill(void *self, lx_stage_kind kind, int replica, const char *why)
{
    replicas_kill(((launcher *)self)->replicas, kind, replica, why);
}

static bool hand_is_lent(void *self, const lx_ticket *ticket)
{
    (void)self;
    int fd = shm_open(ticket->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

static void hand_sweep(void *self, uint64_t epoch)
{
    lx_share_sweep(state_dir_instance(((launcher *)self)->dir), epoch);
}

/* Put on disk what was accepted and what has ended since the last time, all of it with one sync;
 * then say so. False: that failed, and the launcher must end. */
static bool keep_promises(launcher *l)
{
    if (l->broken.status == LX_OK)
        journal_commit(l->journal, &l->broken);
    if (l->broken.status != LX_OK)
        return false;
    clients_kept(l->clients);
    for (int i = 0; i < l->n_untold; i++)
        clients_news(l->clients, l->untold[i], true, l->now_s);
    l->n_untold = 0;
    return true;
}

static void hand_news(void *self, lx_entry *entry, bool new_state)
{
    launcher *l = self;
    if (entry->list != LX_LIST_ENDED) {
        clients_news(l->clients, entry, new_state, l->now_s);
        return;
    }
    if (l->n_untold == UNTOLD)
        keep_promises(l);
    if (l->n_untold < UNTOLD)
        l->untold[l->n_untold++] = entry;
}

static lx_status hand_admit(void *self, const lx_job *job, lx_err *err)
{
    return submit_check_space(job, ((launcher *)self)->config, false, err);
}

static void hand_saved(void *self, lx_entry *entry)
{
    launcher *l = self;
    if (l->broken.status == LX_OK)
        journal_jobs_latent(l->journal, entry, &l->broken);
}

static void hand_ended(void *self, lx_entry *entry)
{
    launcher *l = self;
    if (entry->saved_bytes || entry->part[LX_STAGE_DIT].start_s >= 0)
        lx_spool_remove(l->config->state.journal, entry->job->id);
    if (l->broken.status == LX_OK)
        journal_jobs_end(l->journal, entry, &l->broken);
}

static lx_status keep_job(void *self, const lx_job *job, uint64_t key, bool has_drawn_seed,
                          bool is_again, lx_err *err)
{
    launcher *l = self;
    lx_err why = {0};
    lx_status status =
        journal_jobs_accept(l->journal, l->jobs, job, key, has_drawn_seed, l->now_s, &why);
    if (status == LX_OK && is_again)
        status = journal_commit(l->journal, &why);
    if (status == LX_ESTAGE && l->broken.status == LX_OK)
        l->broken = why;
    return status == LX_OK ? LX_OK : lx_fail(err, LX_EAGAIN, "%s", why.message);
}

static bool send_to_client(void *self, const lx_peer *peer, const lx_msg *msg, bool *is_full)
{
    launcher *l = self;
    lx_err err = {0};
    l->n_sent++;
    lx_status status = lx_bus_send(l->client_bus, peer, msg, &err);
    *is_full = status == LX_EAGAIN;
    if (status != LX_OK)
        LX_D("client: %s", err.message);
    return status == LX_OK;
}

/* --- opening ---------------------------------------------------------------------------------- */

typedef union model_dims {
    lx_dit_dims dit;
    lx_t5_dims t5;
    lx_vae_dims vae;
} model_dims;

/* Headers only, so that 15 GB are judged in a second: truncated, a pointer, another model. */
static lx_status check_part(const lx_config *config, const char *role, const char *path,
                            lx_err *err)
{
    model_dims dims;
    lx_weights *weights = NULL;
    bool is_dit = !strcmp(role, "dit"), is_text = !strcmp(role, "text");
    lx_weights_options options = {.wants = is_dit    ? lx_catalog_dit_wants
                                           : is_text ? lx_catalog_t5_wants
                                                     : lx_catalog_vae_wants,
                                  .headers_only = true};
    lx_status status = lx_weights_open(&weights, path, &options, err);
    if (status == LX_OK)
        status = is_dit    ? lx_catalog_dit(weights, &dims.dit, err)
                 : is_text ? lx_catalog_t5(weights, &dims.t5, err)
                           : lx_catalog_vae(weights, &dims.vae, err);
    if (status == LX_OK)
        status = integrity_judge(config, role, lx_weights_unlisted(weights), err);
    lx_weights_close(&weights);
    return status == LX_OK ? LX_OK : lx_wrap(err, "model.%s", role);
}

static lx_status check_model(const lx_config *config, const lx_model_paths *paths, lx_err *err)
{
    lx_status status = check_part(config, "dit", paths->dit, err);
    if (status == LX_OK)
        status = check_part(config, "text", paths->text, err);
    if (status == LX_OK)
        status = check_part(config, "vae", paths->vae, err);
    return status == LX_OK ? integrity_judge_tokenizer(config, paths->tokenizer, err) : status;
}

lx_status launcher_check(const lx_config *config, lx_err *err)
{
    char binary_dir[LX_LIMIT_PATH], binary[LX_LIMIT_PATH + 32];
    lx_status status = spawn_binary_dir(binary_dir, err);
    for (int kind = 0; kind < LX_STAGE_COUNT && status == LX_OK; kind++) {
        snprintf(binary, sizeof binary, "%s/lx2v-%s", binary_dir,
                 lx_stage_kind_name((lx_stage_kind)kind));
        if (access(binary, X_OK))
            status = lx_fail(err, LX_ECONFIG, "%s: %s", binary, strerror(errno));
    }
    lx_model_paths *paths = calloc(1, sizeof *paths); /* 16 KiB */
    if (status == LX_OK && !paths)
        status = lx_fail(err, LX_EAGAIN, "out of memory for the model's paths");
    if (status == LX_OK)
        status = lx_model_of_config(paths, config, err);
    if (status == LX_OK)
        status = check_model(config, paths, err);
    free(paths);
    return status;
}

/* Blocked before any thread is made, so that libzmq's threads block them too. */
static lx_status open_signals(launcher *l, lx_err *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    l->is_on_terminal = isatty(STDIN_FILENO);
    l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return l->signal_fd < 0 ? lx_fail(err, LX_ESTAGE, "signalfd: %s", strerror(errno)) : LX_OK;
}

static lx_status open_sockets(launcher *l, lx_err *err)
{
    lx_status status = state_dir_open(&l->dir, l->config->state.dir, err);
    if (status == LX_OK)
        status = state_dir_endpoint(l->dir, "clients.sock", l->client_endpoint, err);
    if (status == LX_OK)
        status = state_dir_endpoint(l->dir, "stages.sock", l->stage_endpoint, err);
    if (status == LX_OK)
        status = listen_gate(&l->gate, l->config, err);
    if (status == LX_OK)
        status = lx_bus_bind(&l->client_bus, l->client_endpoint, err);
    if (status == LX_OK)
        status = lx_bus_bind(&l->stage_bus, l->stage_endpoint, err);
    if (status == LX_OK)
        status = listen_tcp(l->client_bus, l->config, err);
    return status;
}

static lx_status open_tables(launcher *l, lx_err *err)
{
    route_options ro = {.depth = l->config->links.depth, .instance = state_dir_instance(l->dir)};
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        ro.n_replicas[kind] = l->config->stage[kind].n_replicas;
    route_hands hands = {.send = hand_send,
                         .kill = hand_kill,
                         .is_lent = hand_is_lent,
                         .sweep = hand_sweep,
                         .news = hand_news,
                         .saved = hand_saved,
                         .ended = hand_ended,
                         .admit = hand_admit,
                         .self = l};
    replicas_options po = {.config = l->config,
                           .config_fd = &l->config_fd,
                           .plan = l->plan,
                           .binary_dir = l->binary_dir,
                           .endpoint = l->stage_endpoint,
                           .dir = l->dir,
                           .bus = l->stage_bus};
    lx_status status = lx_jobs_create(&l->jobs, l->config->limits.queue, HISTORY, err);
    if (status == LX_OK)
        status = journal_jobs_open(&l->journal, l->config->state.journal, l->jobs, lx_now_s(), err);
    if (status == LX_OK)
        status = route_create(&l->route, l->jobs, &ro, hands, err);
    if (status == LX_OK)
        status = replicas_create(&l->replicas, &po, err);
    links_options lo = {.config = l->config,
                        .instance = ro.instance,
                        .send = hand_send,
                        .kill = hand_kill,
                        .self = l};
    if (status == LX_OK)
        status = links_create(&l->links, &lo, err);
    if (status != LX_OK)
        return status;
    replicas_set_route(l->replicas, l->route);
    replicas_set_links(l->replicas, l->links);
    clients_options co = {.config = l->config,
                          .jobs = l->jobs,
                          .route = l->route,
                          .replicas = l->replicas,
                          .links = l->links,
                          .mode = &l->mode,
                          .send = send_to_client,
                          .keep = keep_job,
                          .self = l};
    return clients_create(&l->clients, &co, err);
}

/* A job of an earlier launcher may be a clip already (that one was killed between the renaming and
 * the journal), or something that this config does not allow. */
static void settle_replayed(launcher *l, lx_entry *e)
{
    lx_err why = {0};
    uint64_t file_bytes;
    if (submit_is_made(e, l->config, &file_bytes)) {
        e->file_bytes = file_bytes;
        route_settle(l->route, e, LX_JOB_DONE, "", l->now_s);
    } else if (submit_check(e->job, l->config, &why) != LX_OK) {
        route_settle(l->route, e, LX_JOB_FAILED, why.message, l->now_s);
    }
}

static bool is_latent_wanted(void *self, const char *id)
{
    const launcher *l = self;
    const lx_entry *e = lx_jobs_find(l->jobs, id);
    return e && e->list != LX_LIST_ENDED && e->saved_bytes;
}

static lx_status go_on(launcher *l, lx_err *err)
{
    l->now_s = lx_now_s();
    int n = lx_jobs_live(l->jobs);
    for (lx_entry *e = lx_jobs_first(l->jobs, LX_LIST_QUEUED), *next; e; e = next) {
        next = e->next;
        if (!l->config->spool.latents)
            e->saved_bytes = 0;
        settle_replayed(l, e);
    }
    lx_spool_sweep(l->config->state.journal, is_latent_wanted, l);
    if (n > 0)
        LX_I("journal: unfinished=%d of an earlier start; go_on=%d", n, lx_jobs_live(l->jobs));
    if (!keep_promises(l)) {
        *err = l->broken;
        return err->status;
    }
    lx_err why = {0};
    lx_status status = journal_jobs_rewrite(l->journal, l->jobs, &why);
    if (status == LX_EAGAIN) { /* it goes on in the old file */
        LX_W("%s", why.message);
        return LX_OK;
    }
    if (status != LX_OK)
        *err = why;
    return status;
}

static lx_status make_output_dir(const lx_config *config, lx_err *err)
{
    int error = lx_folder_make(config->output.dir, 0755);
    return error ? lx_fail(err, LX_ECONFIG, "output.dir %s: cannot be made: %s", config->output.dir,
                           strerror(error))
                 : LX_OK;
}

/* For stages that start from now on: the file itself may be another one, or wrong, by then. */
static void pass_config(launcher *l)
{
    lx_err err = {0};
    int fd = lx_config_to_fd(l->config, &err);
    if (fd <= 0)
        LX_W("%s; stages that start read the file", err.message);
    if (l->config_fd > 0)
        close(l->config_fd);
    l->config_fd = fd > 0 ? fd : 0;
}

lx_status launcher_open(launcher **out, const lx_config *config, const plan *planned, lx_err *err)
{
    launcher *l = calloc(1, sizeof *l);
    if (!l)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    l->live = malloc(sizeof *l->live);
    if (!l->live) {
        free(l);
        return lx_fail(err, LX_EAGAIN, "out of memory");
    }
    *l->live = *config;
    l->config = l->live;
    pass_config(l);
    l->plan = planned;
    l->signal_fd = -1;
    lx_status status = spawn_binary_dir(l->binary_dir, err);
    if (status == LX_OK)
        status = open_signals(l, err);
    if (status == LX_OK)
        status = make_output_dir(config, err);
    if (status == LX_OK)
        status = open_sockets(l, err);
    if (status == LX_OK)
        status = open_tables(l, err);
    if (status == LX_OK)
        status = go_on(l, err);
    if (status != LX_OK) {
        launcher_close(&l);
        return status;
    }
    *out = l;
    return LX_OK;
}

void launcher_close(launcher **launcher_)
{
    if (!launcher_ || !*launcher_)
        return;
    launcher *l = *launcher_;
    inhibit_end(&l->inhibit);
    clients_destroy(&l->clients);
    replicas_destroy(&l->replicas); /* first: the names they lent are swept by the state dir */
    links_destroy(&l->links);
    route_destroy(&l->route);
    journal_close(&l->journal);
    lx_jobs_destroy(&l->jobs);
    lx_bus_close(&l->client_bus);
    lx_bus_close(&l->stage_bus);
    lx_gate_close(&l->gate);
    state_dir_close(&l->dir);
    if (l->signal_fd >= 0)
        close(l->signal_fd);
    if (l->config_fd > 0)
        close(l->config_fd);
    free(l->live);
    free(l);
    *launcher_ = NULL;
}

/* --- one turn --------------------------------------------------------------------------------- */

static int drain_stages(launcher *l)
{
    lx_peer peer;
    int n = 0;
    while (n < BATCH && lx_bus_receive(l->stage_bus, &peer, &l->in, 0, NULL) == LX_OK) {
        replicas_message(l->replicas, &peer, &l->in, l->now_s);
        n++;
    }
    return n;
}

static int drain_clients(launcher *l)
{
    lx_peer peer;
    int n = 0;
    while (n < BATCH && lx_bus_receive(l->client_bus, &peer, &l->in, 0, NULL) == LX_OK) {
        clients_message(l->clients, &peer, &l->in, l->now_s);
        n++;
    }
    return n;
}

static void reload(launcher *l)
{
    char text[2304];
    lx_err err = {0};
    if (reload_config(l->live, text, sizeof text, &err) != LX_OK) {
        LX_E("config read again, and refused; nothing has changed: %s", err.message);
        return;
    }
    lx_log_open("launch", l->config->log_level);
    pass_config(l);
    LX_I("config read again: %s", text);
}

static void read_signals(launcher *l)
{
    struct signalfd_siginfo info;
    while (read(l->signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        if (info.ssi_signo == SIGHUP && !l->is_on_terminal) {
            reload(l);
            continue;
        }
        l->mode.is_stopping = true;
        if (++l->n_interrupts > 1) {
            LX_W("asked to stop twice: stages are killed");
            replicas_kill_all(l->replicas);
        }
    }
    replicas_reap(l->replicas, l->now_s); /* signals of several deaths may be one */
}

static void leave(launcher *l)
{
    l->is_leaving = true;
    notify_say("STOPPING=1");
    int n = lx_jobs_live(l->jobs);
    if (n > 0)
        LX_W("stopping: %d job%s on at the next start", n, n > 1 ? "s go" : " goes");
    else
        LX_I("stopping");
    route_leave(l->route);
    replicas_stop(l->replicas, l->now_s);
}

static void say_ready(launcher *l)
{
    l->is_ready = true;
    printf("ready endpoint=%s\n", l->client_endpoint);
    fflush(stdout);
    notify_say("READY=1");
    LX_I("ready endpoint=%s output=%s", l->client_endpoint, l->config->output.dir);
}

static void sleep_until(launcher *l, double due_s)
{
    double wait_s = due_s - lx_now_s();
    if (wait_s > SLEEP_MAX)
        wait_s = SLEEP_MAX;
    struct pollfd fds[] = {{.fd = lx_bus_fd(l->client_bus), .events = POLLIN},
                           {.fd = lx_bus_fd(l->stage_bus), .events = POLLIN},
                           {.fd = l->signal_fd, .events = POLLIN}};
    poll(fds, 3, wait_s > 0 ? (int)(wait_s * 1e3) + 1 : 0);
}

/* Messages first, then deaths, then deadlines: a message that was waiting proves that its sender
 * lives. Returns false when there is nothing left to do. */
static bool turn(launcher *l)
{
    l->now_s = lx_now_s();
    notify_tick(&l->notify, l->now_s);
    uint64_t n_sent = l->n_sent;
    const int n_told = drain_stages(l);
    keep_promises(l); /* before a client can ask for what has ended */
    const int n_asked = drain_clients(l);
    keep_promises(l);
    read_signals(l);
    if (l->mode.is_stopping && !l->is_leaving)
        leave(l);
    if (!l->is_leaving) {
        links_pump(l->links); /* first: what it sends is there before a job is */
        route_pump(l->route, l->now_s);
    }
    /* Not under a job: what a stage has lent goes with its process. */
    replicas_release(l->replicas, l->mode.is_released && !lx_jobs_count(l->jobs, LX_LIST_RUNNING));
    bool has_work = lx_jobs_count(l->jobs, LX_LIST_RUNNING) > 0 ||
                    (lx_jobs_live(l->jobs) > 0 && !l->mode.is_paused);
    inhibit_tick(&l->inhibit, has_work, l->now_s);
    double stages_due_s = n_told < BATCH ? replicas_tick(l->replicas, l->now_s) : l->now_s;
    double clients_due_s = clients_tick(l->clients, l->now_s);
    keep_promises(l);
    if (l->broken.status != LX_OK)
        return false;
    if (journal_is_large(l->journal)) {
        lx_err why = {0};
        if (journal_jobs_rewrite(l->journal, l->jobs, &why) == LX_ESTAGE)
            l->broken = why;
    }
    if (!l->is_ready && replicas_all_ready(l->replicas) && links_settled(l->links, l->now_s) &&
        !links_refused(l->links))
        say_ready(l);
    if (l->is_leaving && replicas_all_gone(l->replicas))
        return false;
    if (n_told + n_asked == 0 && n_sent == l->n_sent)
        sleep_until(l, stages_due_s < clients_due_s ? stages_due_s : clients_due_s);
    return true;
}

static void print_plan(const launcher *l)
{
    const lx_config *c = l->config;
    char libraries[96];
    lx_bus_versions(libraries, sizeof libraries);
    LX_I("lx2v-launch " LX2V_VERSION " (" LX2V_BACKEND ") %s config=%s limits=%dx%dx%d queue=%d",
         libraries, c->path, c->limits.width, c->limits.height, c->limits.frames, c->limits.queue);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < c->stage[kind].n_replicas; i++) {
            const lx_replica_config *p = &c->stage[kind].replica[i];
            char threads[16] = "auto";
            if (p->threads > 0)
                snprintf(threads, sizeof threads, "%d", p->threads);
            LX_I("stage=%s replica=%d device=%s threads=%s",
                 lx_stage_kind_name((lx_stage_kind)kind), i, p->device, threads);
        }
    if (l->plan)
        plan_log(l->plan);
}

/* Why there is nothing to launch, or NULL. Links are only asked at the start: later, what works
 * goes on. */
static const char *cannot_serve(launcher *l)
{
    const char *why = replicas_hopeless(l->replicas);
    return why || l->is_ready ? why : links_refused(l->links);
}

lx_status launcher_run(launcher *l, lx_err *err)
{
    print_plan(l);
    notify_open(&l->notify);
    l->now_s = lx_now_s();
    replicas_start(l->replicas, l->now_s);
    const char *hopeless = NULL;
    while (!hopeless && turn(l))
        hopeless = l->is_leaving ? NULL : cannot_serve(l);
    if (hopeless)
        return lx_fail(err, LX_ECONFIG, "%s", hopeless);
    if (l->broken.status != LX_OK) {
        *err = l->broken;
        return err->status;
    }
    double until = lx_now_s() + FAREWELL_S;
    for (double now; (now = lx_now_s()) < until;) {
        l->now_s = now;
        clients_tick(l->clients, now);
        drain_clients(l);
        poll(NULL, 0, 10);
    }
    return LX_OK;
}
