/*
 * soak.c - many small jobs while processes are killed and stopped at random
 * SPDX-License-Identifier: Apache-2.0
 *
 *   soak [--jobs N] [--seconds S] [--every SECONDS] [--seed N] [--launcher]
 *
 * A driver keeps a few jobs in the queue, each under an id of its own, and writes down what it
 * asked and was told. Every so often (a third to five thirds of --every) one process is killed, or
 * stopped for a moment; with --launcher also the launcher, which is then started again. At the end
 * the history is judged and the ledgers are compared. Exit code 0: nothing lost, double, partial or
 * different, and nothing leaked. `--seed` makes the choice of victims repeatable, not their moment.
 */
#include <inttypes.h>
#include <unistd.h>

#include "fault.h"

#define AHEAD 6 /* jobs in the queue */
#define SEEDS 5 /* different clips, so that there is something to compare */

typedef struct soak {
    int n_jobs;
    double seconds, every_s;
    unsigned seed;
    bool with_launcher;
    rig r;
    history h;
    int n_asked, n_ended, n_done, n_failed, n_killed[5], n_stopped;
    uint64_t n_retries;
    double next_s;
    double killed_s[4][4]; /* per stage, the last four */
} soak;

static soak s = {.n_jobs = 100, .seconds = 1e9, .every_s = 1, .seed = 1};

static unsigned draw(unsigned n)
{
    s.seed = s.seed * 1664525u + 1013904223u;
    return (s.seed >> 16) % n;
}

static void plan_next(void)
{
    s.next_s = rig_now_s() + s.every_s * (1.0 / 3 + draw(1000) / 750.0);
}

static void kill_launcher(void)
{
    kill(s.r.pid, SIGKILL);
    rig_wait_exit(&s.r, 10);
    rig_launch(&s.r, 0);
    fault_open(&s.r);
    s.n_killed[4]++;
}

static void strike(void)
{
    int victim = (int)draw(s.with_launcher ? 5 : 4);
    plan_next();
    if (victim == 4) {
        kill_launcher();
        return;
    }
    lx_client_stage stage = rig_stage(&s.r, victim);
    /* Five deaths in a minute park a stage: that is another test. */
    double *oldest = &s.killed_s[victim][s.n_killed[victim] % 4];
    if (stage.pid < 2 || (strcmp(stage.state, "ready") && strcmp(stage.state, "busy")) ||
        rig_now_s() - *oldest < 61)
        return;
    if (draw(5) == 0) {
        kill((pid_t)stage.pid, SIGSTOP);
        rig_sleep(0.2);
        kill((pid_t)stage.pid, SIGCONT);
        s.n_stopped++;
        return;
    }
    kill((pid_t)stage.pid, SIGKILL);
    *oldest = rig_now_s();
    s.n_killed[victim]++;
}

static void wait_end(int i)
{
    char id[24];
    snprintf(id, sizeof id, "job-%d", i);
    while (rig_job(&s.r, id).state <= LX_CLIENT_RUNNING) {
        if (rig_now_s() > s.next_s)
            strike();
        rig_sleep(0.01);
    }
    lx_client_state state = history_end(&s.h, &s.r, id, 60);
    s.n_ended++;
    s.n_done += state == LX_CLIENT_DONE;
    s.n_failed += state == LX_CLIENT_FAILED;
    s.n_retries += rig_job(&s.r, id).retries;
}

static void work(void)
{
    double from_s = rig_now_s();
    char id[24];
    memset(s.killed_s, 0xff, sizeof s.killed_s); /* not a number: no comparison holds */
    plan_next();
    while (s.n_ended < s.n_jobs) {
        bool is_over = rig_now_s() - from_s > s.seconds;
        while (!is_over && s.n_asked < s.n_jobs && s.n_asked - s.n_ended < AHEAD) {
            snprintf(id, sizeof id, "job-%d", s.n_asked);
            if (!history_submit(&s.h, &s.r, id, 40 + s.n_asked % SEEDS))
                fail_msg("%s was not accepted", id);
            s.n_asked++;
        }
        if (s.n_ended == s.n_asked)
            break;
        wait_end(s.n_ended);
    }
    printf("seconds=%.0f jobs=%d done=%d failed=%d retries=%" PRIu64
           " killed: encoder=%d dit=%d vae=%d mux=%d launcher=%d stopped=%d\n",
           rig_now_s() - from_s, s.n_ended, s.n_done, s.n_failed, s.n_retries, s.n_killed[0],
           s.n_killed[1], s.n_killed[2], s.n_killed[3], s.n_killed[4], s.n_stopped);
}

static void test_p15_soak(void **state)
{
    (void)state;
    fault_start(&s.r, NULL, "encoder: {cache_entries: 0}\n");
    history_open(&s.h, &s.r);
    leak_ledger before = leak_count(&s.r);
    work();
    rig_wait_ready(&s.r, 60);
    leak_check(&s.r, &before);
    history_check(&s.h, &s.r);
    rig_stop(&s.r, SIGTERM);
    rig_remove(&s.r);
}

static int usage(void)
{
    fprintf(stderr, "usage: soak [--jobs N] [--seconds S] [--every SECONDS] [--seed N] "
                    "[--launcher]\n");
    return 2;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--launcher")) {
            s.with_launcher = true;
            continue;
        }
        if (!strcmp(argv[i], "--jobs"))
            s.n_jobs = atoi(value);
        else if (!strcmp(argv[i], "--seconds"))
            s.seconds = atof(value);
        else if (!strcmp(argv[i], "--every"))
            s.every_s = atof(value);
        else if (!strcmp(argv[i], "--seed"))
            s.seed = (unsigned)atoi(value);
        else
            return usage();
        i++;
    }
    if (s.n_jobs < 1 || s.every_s <= 0 || s.seconds <= 0)
        return usage();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_p15_soak)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
