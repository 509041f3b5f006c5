/*
 * load.c - a crowd of clients that ask for more than is made
 * SPDX-License-Identifier: Apache-2.0
 *
 *   load [--clients 500] [--submits 10000] [--queue 200] [--places 512] [--patience 1]
 *
 * Every client has a connection of its own and asks again and again, each time for a new job; one
 * that is refused comes back after --patience times the time that it was told. First the launcher
 * is paused, so that what must be accepted can be counted; then it works while they ask. Shown:
 *   honest     exactly limits.queue jobs are accepted while nothing is made, and everybody else is
 *              told to come back, and when; the same beyond limits.clients
 *   bounded    resident memory of the launcher before, at its peak and after
 *   no hunger  the longest time without a finished job while they asked; no stage was lost
 *   answers    how long somebody who asks for the stages' state waits meanwhile
 *   one end    the history judge over all of it
 * Exit code 0: all of that holds.
 */
#include <math.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fault.h"
#include "lx_bus.h"
#include "lx_client_wire.h"

#define CLIENTS_MAX 1000
#define ANSWER_S    20.0 /* for one answer, on a machine that others use too */
#define PROBE_S     0.1
#define PROBES_MAX  100000
#define HUNGER_S    5.0 /* between two finished jobs of 20 ms each, while all ask */
#define AHEAD_ROUND 2   /* questions of each client while nothing is made */
/* Measured: 48 KiB for a connection, which malloc keeps for later ones; as they come and go its
 * holes grow, by less each time, to 97. What is not forgotten is 20 KiB each time. */
#define BASE_KIB       8192
#define CONNECTION_KIB 128
#define WAVES          6
#define WAVE_KIB       8

typedef struct asker {
    lx_bus *bus;
    char id[32];
    bool is_waiting;
    double next_s, asked_s;
    int n_asked;
} asker;

typedef struct crowd {
    int n_clients, n_submits, queue, places;
    double patience;
    rig r;
    history h;
    asker asker[CLIENTS_MAX];
    lx_bus *watcher, *prober;
    int n_asked, n_waiting, n_accepted, n_full, n_busy, n_ended, n_ended_loaded;
    double last_end_s, longest_gap_s, loaded_s;
    double probe_s, probe[PROBES_MAX];
    int n_probes;
    long rss_before, rss_peak, rss_after, rss_wave[WAVES]; /* KiB */
} crowd;

static crowd c = {.n_clients = 500, .n_submits = 10000, .queue = 200, .places = 512, .patience = 1};
static lx_msg msg; /* scratch */

static void must(lx_status status, const lx_err *err)
{
    if (status != LX_OK)
        fail_msg("%s", err->message);
}

/* --- memory ----------------------------------------------------------------------------------- */

static long rss_kib(void)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)c.r.pid);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1)
        fail_msg("%s: cannot be read", path);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* --- the crowd -------------------------------------------------------------------------------- */

static void ask(asker *a, int number)
{
    lx_err err = {0};
    lx_client_request request = rig_request(a->id);
    snprintf(a->id, sizeof a->id, "c%d-%d", number, a->n_asked++);
    request.seed = 40 + c.n_asked % 5;
    request.frames = 1;
    must(lx_wire_submit(&msg, &request, &err), &err);
    msg.req = (uint64_t)a->n_asked;
    fprintf(c.h.file, "ask %s %d\n", a->id, (int)request.seed);
    must(lx_bus_send(a->bus, NULL, &msg, &err), &err);
    a->asked_s = rig_now_s();
    a->is_waiting = true;
    c.n_waiting++;
    c.n_asked++;
}

/* Refused: because of the queue or of the places, and told when to come back. Never otherwise. */
static void on_refusal(asker *a, double now_s)
{
    bool is_full = strstr(msg.u.failed.text, "queue is full") != NULL;
    bool is_busy = strstr(msg.u.failed.text, "clients are connected") != NULL;
    if (!is_full && !is_busy)
        fail_msg("%s: %s", a->id, msg.u.failed.text);
    if (msg.u.failed.status != LX_EAGAIN || msg.u.failed.retry_after_ms < 1)
        fail_msg("%s is not told when to come back: %s", a->id, msg.u.failed.text);
    c.n_full += is_full;
    c.n_busy += is_busy;
    fprintf(c.h.file, "told %s refused %s\n", a->id, is_full ? "full" : "busy");
    a->next_s = now_s + (double)msg.u.failed.retry_after_ms * 1e-3 * c.patience;
}

static void hear(asker *a, double now_s)
{
    if (!a->is_waiting || lx_bus_receive(a->bus, NULL, &msg, 0, NULL) != LX_OK) {
        if (a->is_waiting && now_s - a->asked_s > ANSWER_S)
            fail_msg("%s: no answer within %.0f s", a->id, ANSWER_S);
        return;
    }
    if (msg.req != (uint64_t)a->n_asked)
        return; /* libzmq's and the launcher's small talk */
    a->is_waiting = false;
    c.n_waiting--;
    if (msg.kind == LX_MSG_REFUSED) {
        on_refusal(a, now_s);
        return;
    }
    assert_int_equal(msg.kind, LX_MSG_ACCEPTED);
    c.n_accepted++;
    fprintf(c.h.file, "told %s accepted -\n", a->id);
    a->next_s = now_s;
}

/* --- who looks on ----------------------------------------------------------------------------- */

static void hear_ends(double now_s)
{
    while (lx_bus_receive(c.watcher, NULL, &msg, 0, NULL) == LX_OK) {
        if (msg.kind != LX_MSG_EVENT || msg.u.event.state <= LX_CLIENT_RUNNING)
            continue;
        bool is_done = msg.u.event.state == LX_CLIENT_DONE;
        fprintf(c.h.file, "end %s %s %s%s\n", msg.job,
                lx_client_state_name((lx_client_state)msg.u.event.state),
                is_done ? msg.job : msg.u.event.text, is_done ? ".mp4" : "");
        if (now_s - c.last_end_s > c.longest_gap_s)
            c.longest_gap_s = now_s - c.last_end_s;
        c.last_end_s = now_s;
        c.n_ended++;
    }
}

/* Asks for all stages, again and again, and takes the time. */
static void probe(double now_s)
{
    lx_err err = {0};
    bool is_waiting = c.probe_s > 0;
    while (is_waiting && lx_bus_receive(c.prober, NULL, &msg, 0, NULL) == LX_OK)
        if (msg.kind == LX_MSG_END || msg.kind == LX_MSG_REFUSED) { /* refused: no place as yet */
            is_waiting = false;
            if (msg.kind == LX_MSG_END && c.n_probes < PROBES_MAX)
                c.probe[c.n_probes++] = now_s - c.probe_s;
            c.probe_s = -now_s;
        }
    if (is_waiting && now_s - c.probe_s > ANSWER_S)
        fail_msg("nobody says how the stages are");
    if (is_waiting || now_s + c.probe_s < PROBE_S)
        return;
    msg = (lx_msg){.kind = LX_MSG_QUERY, .req = 9};
    msg.u.query.want_stages = 1;
    must(lx_bus_send(c.prober, NULL, &msg, &err), &err);
    c.probe_s = now_s;
}

static void look_on(double now_s)
{
    static double looked_s;
    hear_ends(now_s);
    probe(now_s);
    if (now_s - looked_s < 0.02)
        return;
    looked_s = now_s;
    long rss = rss_kib();
    c.rss_peak = rss > c.rss_peak ? rss : c.rss_peak;
}

/* --- phases ----------------------------------------------------------------------------------- */

/* Everybody asks until `most` questions have been asked in all, and has an answer. */
static void crowd_asks(int most)
{
    while (c.n_asked < most || c.n_waiting > 0) {
        double now_s = rig_now_s();
        int asked_before = c.n_asked, waiting_before = c.n_waiting;
        for (int i = 0; i < c.n_clients; i++) {
            asker *a = &c.asker[i];
            hear(a, now_s);
            if (!a->is_waiting && now_s >= a->next_s && c.n_asked < most)
                ask(a, i);
        }
        look_on(now_s);
        if (c.n_asked == asked_before && c.n_waiting == waiting_before)
            rig_sleep(0.001);
    }
}

/* An earlier crowd's places are found to be free a second later. */
static void watch(void)
{
    lx_err err = {0};
    for (double until = rig_now_s() + ANSWER_S;; rig_sleep(0.2)) {
        msg = (lx_msg){.kind = LX_MSG_WATCH, .req = 9};
        must(lx_bus_send(c.watcher, NULL, &msg, &err), &err);
        must(lx_bus_receive(c.watcher, NULL, &msg, (int)(ANSWER_S * 1e3), &err), &err);
        if (msg.kind == LX_MSG_OK)
            return;
        if (msg.kind != LX_MSG_REFUSED || rig_now_s() > until)
            fail_msg("no place for a watcher");
    }
}

static void open_crowd(void)
{
    lx_err err = {0};
    static struct rlimit files; /* a socket has two, and the launcher's own limit stays as it is */
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    must(lx_bus_connect(&c.watcher, c.r.endpoint, &err), &err);
    must(lx_bus_connect(&c.prober, c.r.endpoint, &err), &err);
    watch();
    c.probe_s = 0;
    probe(rig_now_s()); /* these two have their places first */
    for (int i = 0; i < c.n_clients; i++)
        must(lx_bus_connect(&c.asker[i].bus, c.r.endpoint, &err), &err);
}

static void order(lx_client_order what)
{
    lx_err err = {0};
    must(lx_client_command(c.r.client, what, NULL, 0, &err), &err);
}

static int paused_asks(void)
{
    int most = c.n_clients * AHEAD_ROUND;
    return most < 2 * c.queue ? 2 * c.queue : most;
}

/* Nothing is made: what is accepted is what the queue holds, to the last place. */
static void fill_queue(void)
{
    order(LX_CLIENT_PAUSE);
    crowd_asks(paused_asks());
    printf("paused: %d asked, %d accepted, %d told full, %d told busy; limits.queue %d\n",
           c.n_asked, c.n_accepted, c.n_full, c.n_busy, c.queue);
    assert_int_equal(c.n_accepted, c.queue);
    assert_int_equal(c.n_ended, 0);
    order(LX_CLIENT_RESUME);
}

static void work_under_load(void)
{
    double from_s = rig_now_s();
    c.last_end_s = from_s;
    crowd_asks(c.n_submits);
    c.loaded_s = rig_now_s() - from_s;
    c.n_ended_loaded = c.n_ended;
}

static void wait_for_ends(void)
{
    for (double until = rig_now_s() + 600; c.n_ended < c.n_accepted; rig_sleep(0.002)) {
        look_on(rig_now_s());
        if (rig_now_s() > until)
            fail_msg("%d of %d jobs have ended", c.n_ended, c.n_accepted);
    }
}

static long disperse(void)
{
    for (int i = 0; i < c.n_clients; i++)
        lx_bus_close(&c.asker[i].bus);
    lx_bus_close(&c.watcher);
    lx_bus_close(&c.prober);
    rig_sleep(0.5);
    return rss_kib();
}

/* As many connections once more: what the earlier ones took must do for them. */
static long come_again(void)
{
    lx_err err = {0};
    open_crowd();
    for (int i = 0; i < c.n_clients; i++) {
        msg = (lx_msg){.kind = LX_MSG_COMMAND, .req = 1}; /* HELLO */
        must(lx_bus_send(c.asker[i].bus, NULL, &msg, &err), &err);
        must(lx_bus_receive(c.asker[i].bus, NULL, &msg, (int)(ANSWER_S * 1e3), &err), &err);
    }
    return disperse();
}

/* --- what is shown ---------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(void)
{
    qsort(c.probe, (size_t)c.n_probes, sizeof *c.probe, by_value);
    long most = BASE_KIB + (long)c.n_clients * CONNECTION_KIB;
    printf("%d clients, %d submits: %d accepted, %d told full, %d told busy, none otherwise\n",
           c.n_clients, c.n_asked, c.n_accepted, c.n_full, c.n_busy);
    printf(
        "launcher's memory: %.1f MiB before, %.1f at its peak, %.1f after, %.1f and %.1f after %d "
        "and %d more crowds; allowed is %.1f\n",
        (double)c.rss_before / 1024, (double)c.rss_peak / 1024, (double)c.rss_after / 1024,
        (double)c.rss_wave[WAVES - 2] / 1024, (double)c.rss_wave[WAVES - 1] / 1024, WAVES - 1,
        WAVES, (double)(c.rss_before + most) / 1024);
    printf("under load: %.1f s, %d jobs made, longest time without one %.2f s\n", c.loaded_s,
           c.n_ended_loaded, c.longest_gap_s);
    printf("the stages' state, asked %d times: median %.1f ms, 99th %.1f, worst %.1f\n", c.n_probes,
           c.probe[c.n_probes / 2] * 1e3, c.probe[(int)(0.99 * c.n_probes)] * 1e3,
           c.probe[c.n_probes - 1] * 1e3);
    assert_true(c.rss_peak <= c.rss_before + most);
    assert_true(c.rss_wave[WAVES - 1] <= c.rss_before + most);
    assert_true(c.rss_wave[WAVES - 1] - c.rss_wave[WAVES - 2] <=
                WAVE_KIB * ((long)c.n_clients + 50));
    assert_true(c.n_ended_loaded > 0 && c.longest_gap_s < HUNGER_S * RIG_SLACK);
}

static void test_c03_crowd_of_clients(void **state)
{
    (void)state;
    char config[128];
    snprintf(config, sizeof config, "limits: {queue: %d, clients: %d}\n", c.queue, c.places);
    fault_start(&c.r, NULL, config);
    history_open(&c.h, &c.r);
    leak_ledger before = leak_count(&c.r);
    c.rss_before = c.rss_peak = rss_kib();
    open_crowd();
    fill_queue();
    work_under_load();
    wait_for_ends();
    c.rss_after = disperse();
    for (int i = 0; i < WAVES; i++)
        c.rss_wave[i] = come_again();
    report();
    rig_sleep(1.1); /* until the places of the last crowd are found to be free */
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&c.r, stage).restarts, 0);
    leak_check(&c.r, &before);
    assert_true(history_submit(&c.h, &c.r, "afterwards", 7)); /* there is room again */
    assert_int_equal(history_end(&c.h, &c.r, "afterwards", 60), LX_CLIENT_DONE);
    history_check(&c.h, &c.r);
    rig_stop(&c.r, SIGTERM);
    rig_remove(&c.r);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: load [--clients 1..%d] [--submits N] [--queue N] [--places 1..1000] "
            "[--patience 0..]\n",
            CLIENTS_MAX);
    return 2;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--clients"))
            c.n_clients = atoi(value);
        else if (!strcmp(argv[i], "--submits"))
            c.n_submits = atoi(value);
        else if (!strcmp(argv[i], "--queue"))
            c.queue = atoi(value);
        else if (!strcmp(argv[i], "--places"))
            c.places = atoi(value);
        else if (!strcmp(argv[i], "--patience"))
            c.patience = atof(value);
        else
            return usage();
    }
    if (c.n_clients < 1 || c.n_clients > CLIENTS_MAX || c.queue < 1 ||
        c.n_submits <= paused_asks() || c.places < 4 || c.patience < 0)
        return usage();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_c03_crowd_of_clients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
