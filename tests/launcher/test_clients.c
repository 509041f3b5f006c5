/*
 * test_clients.c - what people's programs are answered
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients.h"
#include "world.h"

#define HEARD_MAX 4096

typedef struct heard { /* one message to one client */
    uint8_t peer;
    lx_msg_kind kind;
    uint64_t req;
    int32_t state, status, is_new;
    int64_t seed, ahead, retry_after_ms;
    uint64_t done;
    char job[LX_LIMIT_ID + 1], text[160], field[LX_LIMIT_WORD], output[LX_LIMIT_NAME + 1];
} heard;

typedef struct desk {
    world *w;
    clients *clients;
    replicas *replicas;
    service_mode mode;
    lx_config config;
    char dir[64];
    heard heard[HEARD_MAX];
    int n_heard;
    bool is_remote[256];             /* it came by tcp */
    uint64_t key[256];               /* and with this key */
    bool is_deaf[256], is_gone[256]; /* by peer */
    lx_msg msg;
} desk;

static void note_body(heard *h, const lx_msg *msg)
{
    switch (msg->kind) {
    case LX_MSG_REFUSED:
        h->status = msg->u.failed.status;
        h->retry_after_ms = msg->u.failed.retry_after_ms;
        memcpy(h->field, msg->u.failed.field, sizeof h->field);
        snprintf(h->text, sizeof h->text, "%.150s", msg->u.failed.text);
        break;
    case LX_MSG_ACCEPTED:
        h->is_new = msg->u.accepted.is_new;
        h->seed = msg->u.accepted.seed;
        h->ahead = msg->u.accepted.ahead;
        memcpy(h->output, msg->u.accepted.output, sizeof h->output);
        break;
    case LX_MSG_EVENT:
        h->state = msg->u.event.state;
        h->done = msg->u.event.done;
        snprintf(h->text, sizeof h->text, "%.150s", msg->u.event.text);
        break;
    case LX_MSG_JOB_INFO:
        h->state = msg->u.job_info.state;
        h->seed = msg->u.job_info.seed;
        break;
    case LX_MSG_OK:
        snprintf(h->text, sizeof h->text, "%.150s", msg->u.ok.text);
        break;
    case LX_MSG_END:
        snprintf(h->text, sizeof h->text, "%.150s", msg->u.end.state);
        break;
    default:
        break;
    }
}

static bool desk_send(void *self, const lx_peer *peer, const lx_msg *msg, bool *is_full)
{
    static unsigned char buffer[LX_LIMIT_MESSAGE];
    desk *d = self;
    *is_full = d->is_deaf[peer->id[0]];
    if (*is_full || d->is_gone[peer->id[0]])
        return false;
    size_t n;
    lx_err err = {0};
    if (lx_msg_encode(msg, buffer, sizeof buffer, &n, &err) != LX_OK)
        fail_msg("%s", err.message); /* it would never leave the launcher */
    assert_true(d->n_heard < HEARD_MAX);
    heard *h = &d->heard[d->n_heard++];
    *h = (heard){.peer = peer->id[0], .kind = msg->kind, .req = msg->req};
    memcpy(h->job, msg->job, sizeof h->job);
    note_body(h, msg);
    return true;
}

static void desk_news(void *owner, lx_entry *e, bool new_state)
{
    desk *d = owner;
    clients_news(d->clients, e, new_state, d->w->now_s);
}

static int set_up(void **state)
{
    desk *d = calloc(1, sizeof *d);
    snprintf(d->dir, sizeof d->dir, "/tmp/lx2v-clients-XXXXXX");
    if (!mkdtemp(d->dir))
        return -1;
    char text[512];
    snprintf(text, sizeof text,
             "model: /nowhere\noutput: {dir: %s}\ndefaults: {size: 64x32, frames: 5}\n"
             "limits: {size: 128x64, frames: 9, queue: %d, clients: 3, prompt_bytes: 100}\n",
             d->dir, WORLD_LIVE);
    lx_err err = {0};
    if (lx_config_parse(&d->config, text, strlen(text), "/tmp/config.yaml", &err) != LX_OK)
        fail_msg("%s", err.message);
    d->w = world_new(1, 1, 1, 1, 2);
    d->w->news = desk_news;
    d->w->owner = d;
    replicas_options ro = {.config = &d->config};
    assert_int_equal(replicas_create(&d->replicas, &ro, NULL), LX_OK);
    replicas_set_route(d->replicas, d->w->route);
    clients_options co = {.config = &d->config,
                          .jobs = d->w->jobs,
                          .route = d->w->route,
                          .replicas = d->replicas,
                          .mode = &d->mode,
                          .send = desk_send,
                          .self = d};
    assert_int_equal(clients_create(&d->clients, &co, NULL), LX_OK);
    *state = d;
    return 0;
}

static int tear_down(void **state)
{
    desk *d = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", d->dir);
    clients_destroy(&d->clients);
    replicas_destroy(&d->replicas);
    world_free(d->w);
    int failed = system(command);
    free(d);
    return failed;
}

/* --- asking ----------------------------------------------------------------------------------- */

static const heard *last(const desk *d)
{
    assert_true(d->n_heard > 0);
    return &d->heard[d->n_heard - 1];
}

/* Sends d->msg as this peer; the answer is last(). */
static const heard *ask(desk *d, uint8_t peer, lx_msg_kind kind)
{
    d->msg.kind = kind;
    lx_peer from = {.n = 1, .id = {peer}, .is_remote = d->is_remote[peer], .key = d->key[peer]};
    d->w->now_s += 0.001;
    clients_message(d->clients, &from, &d->msg, d->w->now_s);
    return d->n_heard ? last(d) : NULL;
}

static void ask_nothing_special(desk *d, const char *id)
{
    d->msg = (lx_msg){.req = 5};
    lx_job *job = &d->msg.u.work.job;
    snprintf(job->id, sizeof job->id, "%s", id);
    snprintf(job->prompt, sizeof job->prompt, "a red ball");
    job->seed = LX_SEED_DRAW;
    job->sampler = -1;
}

static const heard *submit(desk *d, const char *id)
{
    ask_nothing_special(d, id);
    return ask(d, 1, LX_MSG_SUBMIT);
}

static const heard *command(desk *d, uint8_t peer, lx_command what, const char *id)
{
    d->msg = (lx_msg){.req = 6, .u.command.command = (int32_t)what};
    snprintf(d->msg.job, sizeof d->msg.job, "%s", id);
    return ask(d, peer, LX_MSG_COMMAND);
}

static const heard *watch(desk *d, uint8_t peer, const char *id)
{
    d->msg = (lx_msg){.req = 70u + peer};
    snprintf(d->msg.job, sizeof d->msg.job, "%s", id);
    return ask(d, peer, LX_MSG_WATCH);
}

static int count(const desk *d, uint8_t peer, lx_msg_kind kind)
{
    int n = 0;
    for (int i = 0; i < d->n_heard; i++)
        n += d->heard[i].peer == peer && d->heard[i].kind == kind;
    return n;
}

/* --- submit ----------------------------------------------------------------------------------- */

static void test_submit_fills_in_the_defaults(void **state)
{
    desk *d = *state;
    const heard *h = submit(d, "clip");
    assert_int_equal(h->kind, LX_MSG_ACCEPTED);
    assert_int_equal(h->req, 5);
    assert_string_equal(h->job, "clip");
    assert_string_equal(h->output, "clip.mp4");
    assert_true(h->seed >= 0 && h->seed < INT64_C(1) << 53);
    assert_int_equal(h->is_new, 1);
    const lx_job *job = lx_jobs_find(d->w->jobs, "clip")->job;
    assert_int_equal(job->width, 64);
    assert_int_equal(job->height, 32);
    assert_int_equal(job->frames, 5);
    assert_int_equal(job->n_steps, 4);
    assert_int_equal(job->steps[3], 250);
    assert_int_equal(job->sampler, LX_SAMPLER_EULER);
    assert_true(job->fps == 16 && job->shift == 5);
    assert_string_equal(job->rng, "lx2v");
    assert_int_equal(lx_job_check(job, NULL), LX_OK);
    int64_t seed = h->seed;
    assert_int_equal(submit(d, "clop")->ahead, 1);
    assert_true(last(d)->seed != seed);
    assert_int_equal(strlen(submit(d, "")->job), 12); /* an id is drawn */
    ask_nothing_special(d, "-dash");
    assert_string_equal(ask(d, 1, LX_MSG_SUBMIT)->output, "job-dash.mp4");
    ask_nothing_special(d, "named");
    snprintf(d->msg.u.work.job.output, sizeof d->msg.u.work.job.output, "my.clip");
    assert_string_equal(ask(d, 1, LX_MSG_SUBMIT)->output, "my.clip.mp4");
}

static void test_submit_twice_is_once(void **state)
{
    desk *d = *state;
    int64_t seed = submit(d, "a")->seed;
    const heard *h = submit(d, "a");
    assert_int_equal(h->kind, LX_MSG_ACCEPTED);
    assert_int_equal(h->is_new, 0);
    assert_int_equal(h->seed, seed);
    assert_int_equal(lx_jobs_live(d->w->jobs), 1);
    ask_nothing_special(d, "a");
    d->msg.u.work.job.frames = 9;
    h = ask(d, 1, LX_MSG_SUBMIT);
    assert_int_equal(h->kind, LX_MSG_REFUSED);
    assert_string_equal(h->field, "id");
    ask_nothing_special(d, "a");
    d->msg.u.work.job.seed = seed; /* a drawn seed that is named later is the same */
    assert_int_equal(ask(d, 1, LX_MSG_SUBMIT)->kind, LX_MSG_ACCEPTED);
    ask_nothing_special(d, "b");
    d->msg.u.work.job.seed = 7;
    assert_int_equal(ask(d, 1, LX_MSG_SUBMIT)->seed, 7);
    assert_int_equal(submit(d, "b")->kind, LX_MSG_REFUSED); /* 7 was asked for, any is not 7 */
}

static void test_submit_takes_no_ticket(void **state)
{
    desk *d = *state;
    ask_nothing_special(d, "a");
    d->msg.u.work.ticket = (lx_ticket){.serial = 1, .epoch = 1, .bytes = 4, .n_dims = 1};
    snprintf(d->msg.u.work.ticket.name, sizeof d->msg.u.work.ticket.name, "/lx2v.%s.1.0", INSTANCE);
    const heard *h = ask(d, 1, LX_MSG_SUBMIT);
    assert_int_equal(h->kind, LX_MSG_REFUSED);
    assert_string_equal(h->field, "ticket");
    assert_int_equal(lx_jobs_live(d->w->jobs), 0);
}

/* Who is on this machine is told where files lie; who is not, is not. */
static void test_paths_stay_at_home(void **state)
{
    desk *d = *state;
    d->is_remote[2] = true;
    assert_string_equal(command(d, 1, LX_COMMAND_HELLO, "")->text, d->dir);
    assert_string_equal(command(d, 2, LX_COMMAND_HELLO, "")->text, "");
    submit(d, "a");
    watch(d, 1, "a");
    watch(d, 2, "a");
    static const char why[] = "/home/anna/x.pth: bad (see '/var/log/y', a/b), 3/4 of /";
    route_park(d->w->route, E, 0, why, d->w->now_s);
    const heard *told[3] = {0};
    for (int i = 0; i < d->n_heard; i++)
        if (d->heard[i].kind == LX_MSG_EVENT && d->heard[i].state == LX_JOB_FAILED)
            told[d->heard[i].peer] = &d->heard[i];
    assert_non_null(told[1]);
    assert_non_null(told[2]);
    assert_non_null(strstr(told[1]->text, why));
    assert_non_null(strstr(told[2]->text, "x.pth: bad (see 'y', a/b), 3/4 of "));
    assert_null(strstr(told[2]->text, "anna"));
}

typedef struct bad_request {
    const char *field;
    int32_t width, height, frames;
    const char *prompt, *output, *rng;
} bad_request;

static void test_submit_refuses_by_name_of_the_field(void **state)
{
    desk *d = *state;
    char long_prompt[128];
    memset(long_prompt, 'x', 101);
    long_prompt[101] = 0;
    const bad_request bad[] = {
        {"size", 256, 64, 0, NULL, NULL, NULL},
        {"size", 80, 128, 0, NULL, NULL, NULL}, /* 64x128 would fit: portrait */
        {"width", 65, 64, 0, NULL, NULL, NULL},
        {"height", 64, 0, 0, NULL, NULL, NULL},
        {"frames", 64, 32, 6, NULL, NULL, NULL},
        {"frames", 64, 32, 13, NULL, NULL, NULL},
        {"prompt", 0, 0, 0, long_prompt, NULL, NULL},
        {"output", 0, 0, 0, NULL, "../clip.mp4", NULL},
        {"output", 0, 0, 0, NULL, ".clip.mp4", NULL},
        {"output", 0, 0, 0, NULL, "a/b.mp4", NULL},
        {"output", 0, 0, 0, NULL, "clip.avi", NULL},
        {"rng", 0, 0, 0, NULL, NULL, "dice"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ask_nothing_special(d, "bad");
        lx_job *job = &d->msg.u.work.job;
        job->width = bad[i].width;
        job->height = bad[i].height;
        job->frames = bad[i].frames;
        if (bad[i].prompt)
            snprintf(job->prompt, sizeof job->prompt, "%s", bad[i].prompt);
        if (bad[i].output)
            snprintf(job->output, sizeof job->output, "%s", bad[i].output);
        if (bad[i].rng)
            snprintf(job->rng, sizeof job->rng, "%s", bad[i].rng);
        const heard *h = ask(d, 1, LX_MSG_SUBMIT);
        assert_int_equal(h->kind, LX_MSG_REFUSED);
        assert_string_equal(h->field, bad[i].field);
        /* Over a limit is a refusal; what is wrong as such, a person must change. */
        assert_int_equal(h->status, strstr(h->text, "limits.") ? LX_EJOB : LX_ECONFIG);
        assert_null(strstr(h->text, d->dir)); /* no paths to clients */
    }
    assert_int_equal(lx_jobs_live(d->w->jobs), 0);
}

static void test_submit_refuses_a_taken_output(void **state)
{
    desk *d = *state;
    char path[128];
    submit(d, "a");
    ask_nothing_special(d, "b");
    snprintf(d->msg.u.work.job.output, sizeof d->msg.u.work.job.output, "a.mp4");
    assert_string_equal(ask(d, 1, LX_MSG_SUBMIT)->field, "output"); /* a live job writes it */
    snprintf(path, sizeof path, "%s/c.mp4", d->dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_string_equal(submit(d, "c")->field, "output");
    assert_int_equal(last(d)->status, LX_ECONFIG); /* a person must choose another */
    ask_nothing_special(d, "e");
    snprintf(d->msg.u.work.job.output, sizeof d->msg.u.work.job.output, "e.mp4");
    d->config.mux.format = LX_FORMAT_PNG; /* a folder of that name would be no mp4 */
    assert_string_equal(ask(d, 1, LX_MSG_SUBMIT)->field, "output");
    assert_int_equal(last(d)->status, LX_ECONFIG);
    d->config.mux.format = LX_FORMAT_MP4;
    d->config.output.overwrite = true;
    assert_int_equal(submit(d, "c")->kind, LX_MSG_ACCEPTED);
    d->config.output.overwrite = false;
    snprintf(d->config.output.dir, sizeof d->config.output.dir, "%s/gone", d->dir);
    assert_string_equal(submit(d, "d")->field, "output");
    assert_int_equal(last(d)->status, LX_ECONFIG);
}

/* Jobs j0, j1, ... until no more are taken. */
static void fill_queue(desk *d)
{
    char id[16];
    for (int i = 0; i < WORLD_LIVE; i++) {
        snprintf(id, sizeof id, "j%d", i);
        assert_int_equal(submit(d, id)->kind, LX_MSG_ACCEPTED);
    }
}

static void test_submit_full_queue_says_when(void **state)
{
    desk *d = *state;
    fill_queue(d);
    const heard *h = submit(d, "more");
    assert_int_equal(h->kind, LX_MSG_REFUSED);
    assert_int_equal(h->status, LX_EAGAIN);
    assert_true(h->retry_after_ms > 0);
    assert_int_equal(submit(d, "j7")->kind, LX_MSG_ACCEPTED); /* known ones are still known */
}

/* Measured: the answer names the time that the next clip should take. */
static void test_submit_full_queue_knows_the_pace(void **state)
{
    desk *d = *state;
    fill_queue(d);
    world_pump(d->w);
    world_lends(d->w, E, 0, true);
    world_done(d->w, E, 0, 2);
    world_lends(d->w, D, 0, true);
    world_done(d->w, D, 0, 90);
    const heard *h = submit(d, "more");
    assert_int_equal(h->status, LX_EAGAIN);
    assert_true(h->retry_after_ms >= 89000 && h->retry_after_ms <= 91000);
}

static void test_submit_one_client_leaves_room(void **state)
{
    desk *d = *state;
    d->config.limits.per_client = 2;
    submit(d, "a");
    assert_int_equal(submit(d, "b")->kind, LX_MSG_ACCEPTED);
    assert_int_equal(submit(d, "c")->kind, LX_MSG_REFUSED);
    assert_int_equal(last(d)->status, LX_EAGAIN);
    assert_non_null(strstr(last(d)->text, "per_client"));
    ask_nothing_special(d, "c");
    assert_int_equal(ask(d, 2, LX_MSG_SUBMIT)->kind, LX_MSG_ACCEPTED); /* another one may */
    command(d, 1, LX_COMMAND_CANCEL, "b");
    assert_int_equal(submit(d, "d")->kind, LX_MSG_ACCEPTED);
}

/* Connecting again makes nobody another: the key counts. */
static void test_submit_one_key_is_one_client(void **state)
{
    desk *d = *state;
    d->config.limits.per_client = 2;
    for (uint8_t peer = 2; peer < 5; peer++) {
        d->is_remote[peer] = true;
        d->key[peer] = peer < 4 ? 77 : 78;
    }
    ask_nothing_special(d, "a");
    assert_int_equal(ask(d, 2, LX_MSG_SUBMIT)->kind, LX_MSG_ACCEPTED);
    ask_nothing_special(d, "b");
    assert_int_equal(ask(d, 3, LX_MSG_SUBMIT)->kind, LX_MSG_ACCEPTED);
    ask_nothing_special(d, "c");
    assert_int_equal(ask(d, 2, LX_MSG_SUBMIT)->kind, LX_MSG_REFUSED);
    assert_int_equal(last(d)->status, LX_EAGAIN);
    assert_true(last(d)->retry_after_ms > 0);
    ask_nothing_special(d, "c");
    assert_int_equal(ask(d, 3, LX_MSG_SUBMIT)->kind, LX_MSG_REFUSED);
    ask_nothing_special(d, "c");
    assert_int_equal(ask(d, 4, LX_MSG_SUBMIT)->kind, LX_MSG_ACCEPTED);
}

/* Neither is a job that is tried again let in by a back door, nor counted for who gave it up. */
static void test_retry_counts_for_who_asks(void **state)
{
    desk *d = *state;
    d->config.limits.per_client = 2;
    submit(d, "a");
    submit(d, "b");
    command(d, 1, LX_COMMAND_CANCEL, "a");
    assert_int_equal(submit(d, "c")->kind, LX_MSG_ACCEPTED);
    assert_int_equal(command(d, 1, LX_COMMAND_RETRY, "a")->kind, LX_MSG_REFUSED);
    assert_int_equal(last(d)->status, LX_EAGAIN);
    assert_non_null(strstr(last(d)->text, "per_client"));
    assert_int_equal(command(d, 2, LX_COMMAND_RETRY, "a")->kind, LX_MSG_OK);
    command(d, 1, LX_COMMAND_CANCEL, "b");
    assert_int_equal(submit(d, "d")->kind, LX_MSG_ACCEPTED); /* a is another's now */
}

/* What is not on disk is not said; a journal without room is a refusal. */
typedef struct keeper {
    int n_kept;
    uint64_t key; /* of the last one */
    bool is_again;
    lx_status answer;
} keeper;

static keeper kept;

static lx_status keep(void *self, const lx_job *job, uint64_t key, bool has_drawn_seed,
                      bool is_again, lx_err *err)
{
    (void)self;
    assert_true(job->seed >= 0 && has_drawn_seed && is_again == kept.is_again);
    kept.key = key;
    if (kept.answer != LX_OK)
        return lx_fail(err, kept.answer, "journal: no space: needs 1 MiB");
    kept.n_kept++;
    return LX_OK;
}

static void test_submit_is_answered_when_it_is_safe(void **state)
{
    desk *d = *state;
    clients_destroy(&d->clients);
    clients_options co = {.config = &d->config,
                          .jobs = d->w->jobs,
                          .route = d->w->route,
                          .replicas = d->replicas,
                          .mode = &d->mode,
                          .send = desk_send,
                          .keep = keep,
                          .self = d};
    assert_int_equal(clients_create(&d->clients, &co, NULL), LX_OK);
    kept = (keeper){0};
    submit(d, "a");
    submit(d, "a");
    assert_int_equal(kept.n_kept, 1);
    assert_int_equal(count(d, 1, LX_MSG_ACCEPTED), 0);
    clients_kept(d->clients);
    assert_int_equal(count(d, 1, LX_MSG_ACCEPTED), 2);
    assert_int_equal(last(d)->is_new, 0);
    assert_true(kept.key == 0); /* a connection is not known again */
    d->is_remote[2] = true;
    d->key[2] = 77;
    ask_nothing_special(d, "k");
    ask(d, 2, LX_MSG_SUBMIT);
    assert_true(kept.n_kept == 2 && kept.key == 77);
    assert_true(lx_jobs_find(d->w->jobs, "k")->key == 77); /* what a rewrite of the journal keeps */
    d->is_remote[3] = true;
    d->key[3] = 78;
    kept.is_again = true;
    assert_int_equal(command(d, 3, LX_COMMAND_CANCEL, "k")->kind, LX_MSG_OK);
    assert_int_equal(command(d, 3, LX_COMMAND_RETRY, "k")->kind, LX_MSG_OK);
    assert_true(kept.n_kept == 3 && kept.key == 78); /* it is now the job of who asked */
    assert_true(lx_jobs_find(d->w->jobs, "k")->key == 78);
    kept.is_again = false;
    kept.answer = LX_EAGAIN;
    assert_int_equal(submit(d, "b")->kind, LX_MSG_REFUSED);
    assert_int_equal(last(d)->status, LX_EAGAIN);
    assert_null(lx_jobs_find(d->w->jobs, "b"));
}

static void test_submit_parked_stage_is_told_early(void **state)
{
    desk *d = *state;
    route_down(d->w->route, V, 0, "gone", d->w->now_s);
    route_park(d->w->route, V, 0, "vae[0] cannot read its weights", d->w->now_s);
    const heard *h = submit(d, "a");
    assert_int_equal(h->kind, LX_MSG_REFUSED);
    assert_int_equal(h->status, LX_ESTAGE);
    assert_non_null(strstr(h->text, "cannot read its weights"));
}

/* --- query ------------------------------------------------------------------------------------ */

static void test_query_lists_in_order_and_ends(void **state)
{
    desk *d = *state;
    submit(d, "a");
    submit(d, "b");
    submit(d, "c");
    d->n_heard = 0;
    d->msg = (lx_msg){.req = 9, .u.query = {.want_jobs = 1, .want_stages = 1}};
    assert_int_equal(ask(d, 2, LX_MSG_QUERY)->kind, LX_MSG_END);
    assert_int_equal(d->n_heard, 3 + LX_STAGE_COUNT + 1);
    const char *const ids[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(d->heard[i].kind, LX_MSG_JOB_INFO);
        assert_string_equal(d->heard[i].job, ids[i]);
        assert_int_equal(d->heard[i].req, 9);
    }
    assert_int_equal(count(d, 2, LX_MSG_STAGE_INFO), LX_STAGE_COUNT);
    assert_string_equal(last(d)->text, "running");
    d->n_heard = 0;
    d->msg = (lx_msg){.req = 10, .job = "b", .u.query.want_jobs = 1};
    ask(d, 2, LX_MSG_QUERY);
    assert_int_equal(d->n_heard, 2);
    assert_string_equal(d->heard[0].job, "b");
    d->msg = (lx_msg){.req = 11, .job = "zz", .u.query.want_jobs = 1};
    assert_string_equal(ask(d, 2, LX_MSG_QUERY)->field, "job");
}

static void test_query_of_a_slow_reader_goes_on_later(void **state)
{
    desk *d = *state;
    submit(d, "a");
    submit(d, "b");
    d->n_heard = 0;
    d->is_deaf[2] = true;
    d->msg = (lx_msg){.req = 9, .u.query = {.want_jobs = 1}};
    ask(d, 2, LX_MSG_QUERY);
    assert_int_equal(d->n_heard, 0);
    assert_true(clients_tick(d->clients, d->w->now_s) < d->w->now_s + 1); /* it wants to go on */
    d->is_deaf[2] = false;
    clients_tick(d->clients, d->w->now_s + 1);
    assert_int_equal(count(d, 2, LX_MSG_JOB_INFO), 2);
    assert_int_equal(count(d, 2, LX_MSG_END), 1);
    d->is_deaf[2] = true;
    ask(d, 2, LX_MSG_QUERY);
    clients_tick(d->clients, d->w->now_s + 60); /* it never reads: forgotten */
    d->is_deaf[2] = false;
    clients_tick(d->clients, d->w->now_s + 61);
    assert_int_equal(count(d, 2, LX_MSG_END), 1);
}

/* --- events ----------------------------------------------------------------------------------- */

static void beat(desk *d, uint64_t done, double after_s)
{
    lx_msg msg = world_says(d->w, E, 0, LX_MSG_BEAT);
    msg.u.beat.done = done;
    msg.u.beat.total = 1000;
    d->w->now_s += after_s;
    route_message(d->w->route, E, 0, &msg, d->w->now_s);
    clients_tick(d->clients, d->w->now_s);
}

static void test_events_are_coalesced(void **state)
{
    desk *d = *state;
    submit(d, "a");
    world_pump(d->w);
    watch(d, 2, "");
    clients_tick(d->clients, d->w->now_s + 0.2);
    d->w->now_s += 0.2;
    d->n_heard = 0;
    for (uint64_t i = 1; i <= 100; i++)
        beat(d, i, 0.01); /* a hundred units in one second */
    int n = count(d, 2, LX_MSG_EVENT);
    assert_true(n >= 9 && n <= 11);
    clients_tick(d->clients, d->w->now_s + 0.2);
    assert_int_equal(last(d)->done, 100); /* the last word is not lost */
    assert_int_equal(last(d)->req, 72);
}

static void test_events_of_one_job_only(void **state)
{
    desk *d = *state;
    submit(d, "a");
    submit(d, "b");
    const heard *h = watch(d, 2, "b");
    assert_int_equal(h->kind, LX_MSG_EVENT); /* how it stands */
    assert_int_equal(h->state, LX_JOB_QUEUED);
    watch(d, 3, "");
    d->n_heard = 0;
    command(d, 1, LX_COMMAND_CANCEL, "a");
    assert_int_equal(count(d, 2, LX_MSG_EVENT), 0);
    assert_int_equal(count(d, 3, LX_MSG_EVENT), 1);
    command(d, 1, LX_COMMAND_CANCEL, "b");
    assert_int_equal(count(d, 2, LX_MSG_EVENT), 1);
    d->n_heard = 0;
    assert_int_equal(watch(d, 2, "a")->state, LX_JOB_CANCELLED); /* an ended job says so at once */
    assert_int_equal(watch(d, 2, "zz")->kind, LX_MSG_REFUSED);
}

static void test_events_deaf_or_gone_watchers_harm_nobody(void **state)
{
    desk *d = *state;
    submit(d, "a");
    world_pump(d->w);
    watch(d, 2, "");
    watch(d, 3, "");
    d->is_deaf[2] = true;
    d->is_gone[3] = true;
    for (uint64_t i = 1; i <= 300; i++)
        beat(d, i, 0.11);
    d->is_deaf[2] = d->is_gone[3] = false;
    d->n_heard = 0;
    beat(d, 301, 0.11);
    assert_int_equal(count(d, 2, LX_MSG_EVENT) + count(d, 3, LX_MSG_EVENT), 0); /* both let go */
}

/* --- commands --------------------------------------------------------------------------------- */

static void test_command_hello_names_the_output_folder(void **state)
{
    desk *d = *state;
    assert_string_equal(command(d, 1, LX_COMMAND_HELLO, "")->text, d->dir);
}

static void test_command_cancel_and_retry(void **state)
{
    desk *d = *state;
    submit(d, "a");
    assert_int_equal(command(d, 1, LX_COMMAND_CANCEL, "nope")->kind, LX_MSG_REFUSED);
    assert_int_equal(command(d, 1, LX_COMMAND_RETRY, "a")->kind, LX_MSG_REFUSED);
    assert_int_equal(command(d, 1, LX_COMMAND_CANCEL, "a")->kind, LX_MSG_OK);
    assert_int_equal(lx_jobs_find(d->w->jobs, "a")->state, LX_JOB_CANCELLED);
    assert_int_equal(command(d, 1, LX_COMMAND_CANCEL, "a")->kind, LX_MSG_REFUSED);
    ask_nothing_special(d, "b");
    snprintf(d->msg.u.work.job.output, sizeof d->msg.u.work.job.output, "a.mp4");
    ask(d, 1, LX_MSG_SUBMIT);
    assert_string_equal(command(d, 1, LX_COMMAND_RETRY, "a")->field,
                        "output"); /* b writes it now */
    command(d, 1, LX_COMMAND_CANCEL, "b");
    assert_int_equal(command(d, 1, LX_COMMAND_RETRY, "a")->kind, LX_MSG_OK);
    assert_int_equal(lx_jobs_find(d->w->jobs, "a")->state, LX_JOB_QUEUED);
}

static void test_command_pause_and_resume(void **state)
{
    desk *d = *state;
    assert_string_equal(command(d, 1, LX_COMMAND_PAUSE, "")->text, "paused");
    submit(d, "a");
    world_pump(d->w);
    assert_int_equal(lx_jobs_find(d->w->jobs, "a")->state, LX_JOB_QUEUED);
    assert_string_equal(command(d, 1, LX_COMMAND_RESUME, "")->text, "running");
    world_pump(d->w);
    assert_int_equal(lx_jobs_find(d->w->jobs, "a")->state, LX_JOB_RUNNING);
}

static void test_command_drain_answers_when_empty(void **state)
{
    desk *d = *state;
    submit(d, "a");
    d->n_heard = 0;
    command(d, 2, LX_COMMAND_DRAIN, "");
    clients_tick(d->clients, d->w->now_s);
    assert_int_equal(d->n_heard, 0);
    assert_int_equal(submit(d, "b")->kind, LX_MSG_REFUSED);
    assert_int_equal(last(d)->status, LX_EAGAIN);
    command(d, 1, LX_COMMAND_CANCEL, "a");
    d->n_heard = 0;
    clients_tick(d->clients, d->w->now_s);
    assert_int_equal(count(d, 2, LX_MSG_OK), 1);
    assert_string_equal(last(d)->text, "drained");
    clients_tick(d->clients, d->w->now_s);
    assert_int_equal(count(d, 2, LX_MSG_OK), 1);
    command(d, 1, LX_COMMAND_RESUME, "");
    assert_int_equal(submit(d, "b")->kind, LX_MSG_ACCEPTED);
}

static void test_command_shutdown_is_answered_at_once(void **state)
{
    desk *d = *state;
    assert_int_equal(command(d, 1, LX_COMMAND_SHUTDOWN, "")->kind, LX_MSG_OK);
    assert_true(d->mode.is_stopping);
    assert_int_equal(submit(d, "a")->kind, LX_MSG_REFUSED);
}

/* --- places ----------------------------------------------------------------------------------- */

static void test_places_are_bounded_and_given_on(void **state)
{
    desk *d = *state; /* three places */
    for (uint8_t peer = 1; peer <= 3; peer++)
        assert_int_equal(command(d, peer, LX_COMMAND_HELLO, "")->kind, LX_MSG_OK);
    const heard *h = command(d, 4, LX_COMMAND_HELLO, "");
    assert_int_equal(h->kind, LX_MSG_REFUSED);
    assert_int_equal(h->status, LX_EAGAIN);
    assert_true(h->retry_after_ms > 0);
    d->w->now_s += 60; /* the others have long been silent */
    assert_int_equal(command(d, 4, LX_COMMAND_HELLO, "")->kind, LX_MSG_OK);
}

static void test_places_of_dead_watchers_are_found(void **state)
{
    desk *d = *state;
    for (uint8_t peer = 1; peer <= 3; peer++)
        watch(d, peer, "");
    d->w->now_s += 60;
    assert_int_equal(command(d, 4, LX_COMMAND_HELLO, "")->kind, LX_MSG_REFUSED); /* all there */
    d->is_gone[2] = true; /* it was interrupted; nothing has happened that it could be told */
    d->w->now_s += 1;
    assert_int_equal(command(d, 4, LX_COMMAND_HELLO, "")->kind, LX_MSG_OK);
}

/* Many short commands, one after the other, faster than anything can time out. */
static void test_places_of_a_crowd_of_short_clients(void **state)
{
    desk *d = *state;
    for (uint8_t peer = 1; peer < 200; peer++) {
        assert_int_equal(command(d, peer, LX_COMMAND_HELLO, "")->kind, LX_MSG_OK);
        d->is_gone[peer] = true;
    }
}

#define DESK_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DESK_TEST(test_submit_fills_in_the_defaults),
        DESK_TEST(test_submit_twice_is_once),
        DESK_TEST(test_submit_takes_no_ticket),
        DESK_TEST(test_paths_stay_at_home),
        DESK_TEST(test_submit_refuses_by_name_of_the_field),
        DESK_TEST(test_submit_refuses_a_taken_output),
        DESK_TEST(test_submit_full_queue_says_when),
        DESK_TEST(test_submit_full_queue_knows_the_pace),
        DESK_TEST(test_submit_one_client_leaves_room),
        DESK_TEST(test_submit_one_key_is_one_client),
        DESK_TEST(test_retry_counts_for_who_asks),
        DESK_TEST(test_submit_is_answered_when_it_is_safe),
        DESK_TEST(test_submit_parked_stage_is_told_early),
        DESK_TEST(test_query_lists_in_order_and_ends),
        DESK_TEST(test_query_of_a_slow_reader_goes_on_later),
        DESK_TEST(test_events_are_coalesced),
        DESK_TEST(test_events_of_one_job_only),
        DESK_TEST(test_events_deaf_or_gone_watchers_harm_nobody),
        DESK_TEST(test_command_hello_names_the_output_folder),
        DESK_TEST(test_command_cancel_and_retry),
        DESK_TEST(test_command_pause_and_resume),
        DESK_TEST(test_command_drain_answers_when_empty),
        DESK_TEST(test_command_shutdown_is_answered_at_once),
        DESK_TEST(test_places_are_bounded_and_given_on),
        DESK_TEST(test_places_of_dead_watchers_are_found),
        DESK_TEST(test_places_of_a_crowd_of_short_clients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
