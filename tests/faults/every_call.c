/*
 * every_call.c - launcher and mux, killed before each of their system calls
 * SPDX-License-Identifier: Apache-2.0
 *
 *   every_call [--step N] [--only submit|finish|mux|start]
 *
 * Four windows, each gone through once for every call in it (tracer.h):
 *   submit  the launcher, from a client's request to "accepted" heard
 *   finish  the launcher, from mux's renaming of the clip to "done" heard
 *   mux     from the making of the part to "done" heard
 *   start   the launcher, started over an unfinished job, from its lock to its first stage
 * --step N: before each N-th call alone; of mux and start, which are long, each 3 N-th.
 * After each kill the launcher starts again (mux: is started again), the same id is submitted again
 * or asked for, and must end as done. In the end the history judge proves promises 1 to 4 and 10,
 * and the ledger that nothing leaked. Exit code 0: all holds; 77: ptrace is not allowed here.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault.h"
#include "lx_bus.h"
#include "lx_client_wire.h"
#include "tracer.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define SEEDS       5 /* different clips, so that there is something to compare */
#define WHOLE_TURNS 3 /* windows in a row that ended before the k-th call: there is no such call */
#define CALLS_MAX   100000
#define KILLS_MAX   4 /* of mux under one launcher: the fifth within a minute would park it */

typedef struct drive {
    const char *name;
    rig r;
    history h;
    lx_bus *bus; /* submit: an asker that does not wait when the launcher is dead */
    bool (*turn)(struct drive *, uint64_t at, tracer_news *news); /* true: it was killed */
    int n_turns, n_killed, n_asked, n_since_start;
    uint64_t longest; /* calls in a window that nobody cut short */
} drive;

static int tracer_fd;
static int step = 1;
static const char *only;

static void next_id(drive *d, char id[32])
{
    snprintf(id, 32, "%s-%d", d->name, d->n_asked++);
}

static void watch(const tracer_order *order)
{
    tracer_news news = tracer_watch(tracer_fd, order);
    if (news.word == TRACER_FORBIDDEN)
        fail_msg("ptrace was allowed a moment ago");
    assert_int_equal(news.word, TRACER_WATCHES);
}

/* HELLO: its place is taken, and its connection stands. */
static void greet(drive *d)
{
    static lx_msg msg;
    msg = (lx_msg){.kind = LX_MSG_COMMAND, .req = 1};
    assert_int_equal(lx_bus_send(d->bus, NULL, &msg, NULL), LX_OK);
    assert_int_equal(lx_bus_receive(d->bus, NULL, &msg, 10000, NULL), LX_OK);
}

static void launch(drive *d)
{
    lx_err err = {0};
    lx_bus_close(&d->bus);
    rig_launch(&d->r, 0);
    fault_open(&d->r);
    if (lx_bus_connect(&d->bus, d->r.endpoint, &err) != LX_OK)
        fail_msg("%s", err.message);
    greet(d);
    d->n_since_start = 0;
}

static void start_again(drive *d)
{
    assert_int_equal(rig_wait_exit(&d->r, 10), 128 + SIGKILL);
    launch(d);
}

/* --- submit ----------------------------------------------------------------------------------- */

/* Asks, and waits for the answer or the launcher's death; writes both down. True: killed. */
static bool ask_once(drive *d, const char *id, int64_t seed, tracer_news *news)
{
    static lx_msg msg;
    lx_err err = {0};
    lx_client_request request = rig_request(id);
    request.seed = seed;
    fprintf(d->h.file, "ask %s %" PRId64 "\n", id, seed);
    assert_int_equal(lx_wire_submit(&msg, &request, &err), LX_OK);
    msg.req = 7;
    assert_int_equal(lx_bus_send(d->bus, NULL, &msg, &err), LX_OK);
    bool is_killed = false, is_told = false;
    for (double until = rig_now_s() + 30; !is_killed && !is_told;) {
        if (rig_now_s() > until)
            fail_msg("%s: no answer, and no death", id);
        is_killed = tracer_has_killed(tracer_fd, news);
        /* Also after its death: the answer may be on its way. */
        is_told =
            lx_bus_receive(d->bus, NULL, &msg, is_killed ? 20 : 2, &err) == LX_OK && msg.req == 7;
    }
    if (is_told && msg.kind != LX_MSG_ACCEPTED)
        fail_msg("%s: %s", id, msg.u.failed.text);
    fprintf(d->h.file, "told %s %s -\n", id, is_told ? "accepted" : "nothing");
    fflush(d->h.file);
    return is_killed;
}

static bool turn_submit(drive *d, uint64_t at, tracer_news *news)
{
    char id[32];
    int64_t seed = 40 + d->n_asked % SEEDS;
    next_id(d, id);
    watch(&(tracer_order){.pid = {d->r.pid}, .opener = -1, .at = at});
    bool is_killed = ask_once(d, id, seed, news);
    if (!is_killed) {
        *news = tracer_leave(tracer_fd);
        is_killed = news->word == TRACER_KILLED;
    }
    if (is_killed) {
        start_again(d);
        if (!history_submit(&d->h, &d->r, id, seed))
            fail_msg("%s was refused when it was asked for again", id);
    }
    assert_int_equal(history_end(&d->h, &d->r, id, 60), LX_CLIENT_DONE);
    return is_killed;
}

/* --- finish and mux --------------------------------------------------------------------------- */

typedef struct vigil {
    const char *id;
    tracer_news *news;
    bool is_killed;
} vigil;

static bool on_event(void *self, const lx_client_event *event)
{
    vigil *v = self;
    v->is_killed = tracer_has_killed(tracer_fd, v->news);
    /* The end of an earlier one may be heard late. */
    return !v->is_killed &&
           (!event || strcmp(event->id, v->id) != 0 || event->state <= LX_CLIENT_RUNNING);
}

/* Submits under the tracer's eyes and follows the job to its end, or to the death of who is
 * watched. */
static bool follow(drive *d, const tracer_order *order, const char *id, tracer_news *news)
{
    lx_err err = {0};
    vigil v = {.id = id, .news = news};
    watch(order);
    if (!history_submit(&d->h, &d->r, id, 40 + d->n_asked % SEEDS))
        fail_msg("%s was refused", id);
    if (lx_client_watch(d->r.client, id, on_event, &v, &err) != LX_OK)
        fail_msg("%s", err.message);
    if (!v.is_killed) {
        *news = tracer_leave(tracer_fd);
        v.is_killed = news->word == TRACER_KILLED;
    }
    return v.is_killed;
}

static bool turn_finish(drive *d, uint64_t at, tracer_news *news)
{
    char id[32];
    next_id(d, id);
    tracer_order order = {.pid = {d->r.pid, rig_stage_pid(&d->r, MUX)},
                          .opener = 1,
                          .open_nr = SYS_renameat2,
                          .opens_at_return = true,
                          .at = at};
    bool is_killed = follow(d, &order, id, news);
    if (is_killed)
        start_again(d);
    assert_int_equal(history_end(&d->h, &d->r, id, 60), LX_CLIENT_DONE);
    return is_killed;
}

static bool turn_mux(drive *d, uint64_t at, tracer_news *news)
{
    char id[32];
    next_id(d, id);
    if (d->n_since_start == KILLS_MAX) {
        rig_stop(&d->r, SIGTERM);
        launch(d);
    }
    rig_wait_ready(&d->r, 60);
    tracer_order order = {
        .pid = {rig_stage_pid(&d->r, MUX)}, .opener = 0, .open_nr = SYS_openat2, .at = at};
    bool is_killed = follow(d, &order, id, news);
    d->n_since_start += is_killed;
    assert_int_equal(history_end(&d->h, &d->r, id, 60), LX_CLIENT_DONE);
    return is_killed;
}

/* --- start ------------------------------------------------------------------------------------ */

/* A launcher that waits, before it is one, to be watched. */
static pid_t start_doomed(drive *d)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int log = open(d->r.log, O_WRONLY | O_APPEND);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        raise(SIGSTOP);
        execl(LX2V_BIN_DIR "/lx2v-launch", "lx2v-launch", d->r.config, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    return pid;
}

static bool turn_start(drive *d, uint64_t at, tracer_news *news)
{
    char id[32];
    next_id(d, id);
    if (!history_submit(&d->h, &d->r, id, 40 + d->n_asked % SEEDS))
        fail_msg("%s was refused", id);
    kill(d->r.pid, SIGKILL);
    assert_int_equal(rig_wait_exit(&d->r, 10), 128 + SIGKILL);
    pid_t pid = start_doomed(d);
    watch(&(tracer_order){
        .pid = {pid}, .opener = 0, .open_nr = SYS_flock, .close_nr = SYS_clone, .at = at});
    kill(pid, SIGCONT);
    *news = tracer_wait(tracer_fd);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    launch(d);
    assert_int_equal(history_end(&d->h, &d->r, id, 60), LX_CLIENT_DONE);
    return news->word == TRACER_KILLED;
}

/* --- all -------------------------------------------------------------------------------------- */

static void go_through(const char *name, bool (*turn)(drive *, uint64_t, tracer_news *), int stride)
{
    if (only && strcmp(only, name))
        skip();
    drive d = {.name = name, .turn = turn};
    double from_s = rig_now_s();
    rig_make(&d.r, "encoder: {cache_entries: 0}\n");
    fault_arm(&d.r, NULL);
    launch(&d);
    history_open(&d.h, &d.r);
    leak_ledger before = leak_count(&d.r);
    int n_whole = 0;
    for (uint64_t at = 1; n_whole < WHOLE_TURNS && at < CALLS_MAX;) {
        tracer_news news = {0};
        bool is_killed = d.turn(&d, at, &news);
        d.n_turns++;
        d.n_killed += is_killed;
        n_whole = is_killed ? 0 : n_whole + 1;
        if (!is_killed && news.count > d.longest)
            d.longest = news.count;
        if (!is_killed && news.count == 0)
            fail_msg("%s: the window was not seen", name);
        at += is_killed ? (uint64_t)stride : 0;
    }
    rig_wait_ready(&d.r, 60);
    leak_check(&d.r, &before);
    history_check(&d.h, &d.r);
    rig_stop(&d.r, SIGTERM);
    printf("%s: killed before %d calls (each %d. of a window of up to %" PRIu64
           "), %d jobs, %.0f s; lost 0, double 0, partial 0, different 0, leaked 0\n",
           name, d.n_killed, stride, d.longest, d.n_turns, rig_now_s() - from_s);
    lx_bus_close(&d.bus);
    rig_remove(&d.r);
}

static void test_p06_launcher_killed_before_every_call_of_submit(void **state)
{
    (void)state;
    go_through("submit", turn_submit, step);
}

static void test_p06_launcher_killed_before_every_call_of_finish(void **state)
{
    (void)state;
    go_through("finish", turn_finish, step);
}

static void test_p05_mux_killed_before_every_call(void **state)
{
    (void)state;
    go_through("mux", turn_mux, step > 1 ? 3 * step : 1);
}

static void test_p06_launcher_killed_before_every_call_of_its_start(void **state)
{
    (void)state;
    go_through("start", turn_start, step > 1 ? 3 * step : 1);
}

static int drive_all(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_p06_launcher_killed_before_every_call_of_submit),
        cmocka_unit_test(test_p06_launcher_killed_before_every_call_of_finish),
        cmocka_unit_test(test_p05_mux_killed_before_every_call),
        cmocka_unit_test(test_p06_launcher_killed_before_every_call_of_its_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Asked of a child that only waits. */
static bool may_trace(void)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return false;
    tracer_fd = ends[1];
    pid_t driver = fork();
    if (driver == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            sleep(10);
            _exit(0);
        }
        tracer_news news = tracer_watch(tracer_fd, &(tracer_order){.pid = {pid}, .at = CALLS_MAX});
        kill(pid, SIGKILL);
        _exit(news.word != TRACER_WATCHES);
    }
    bool may = tracer_run(ends[0], driver) == 0;
    close(ends[0]);
    close(ends[1]);
    return may;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--step"))
            step = atoi(value);
        else if (!strcmp(argv[i], "--only"))
            only = value;
        else
            step = 0;
    }
    if (step < 1) {
        fprintf(stderr, "usage: every_call [--step N] [--only submit|finish|mux|start]\n");
        return 2;
    }
    if (!may_trace()) {
        printf("skipped: ptrace is not allowed here\n");
        return 77;
    }
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return 1;
    tracer_fd = ends[1];
    pid_t driver = fork();
    if (driver == 0) {
        close(ends[0]);
        exit(drive_all());
    }
    close(ends[1]);
    return tracer_run(ends[0], driver);
}
