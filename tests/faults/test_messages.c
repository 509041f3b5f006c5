/*
 * test_messages.c - control messages that come twice, late or in the wrong order; clients that
 * leave at once
 * SPDX-License-Identifier: Apache-2.0
 *
 * Between each stage and the launcher stands another process (shuffler.c).
 */
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault.h"
#include "lx_bus.h"

#define CONFIG "encoder: {cache_entries: 0}\n" /* the encoder must work for each job */
#define N_JOBS 4

static const char *const ids[N_JOBS] = {"a", "b", "c", "d"};

/* --- between launcher and stages -------------------------------------------------------------- */

static void start_shuffled(rig *r, const char *how)
{
    char name[32];
    rig_make(r, CONFIG);
    fault_programs(r);
    for (int stage = ENCODER; stage <= MUX; stage++) {
        snprintf(name, sizeof name, "lx2v-%s", lx_client_stage_name(stage));
        fault_link(r, name, LX2V_SHUFFLER);
    }
    fault_arm(r, NULL);
    setenv("LX2V_TEST_SHUFFLE", how, 1);
    rig_launch(r, 5); /* time enough to cancel one */
    unsetenv("LX2V_TEST_SHUFFLE");
    fault_open(r);
}

/* Undisturbed. */
static uint64_t reference(void)
{
    static uint64_t hash;
    rig r;
    if (hash)
        return hash;
    fault_start(&r, NULL, CONFIG);
    rig_submit(&r, "reference");
    assert_int_equal(rig_wait(&r, "reference", 60), LX_CLIENT_DONE);
    hash = rig_hash(&r, "reference.mp4");
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
    return hash;
}

/* All that is sent, both ways, comes again: at once, or behind what follows. Each stage works once
 * for each job, and a cancelled one stays cancelled. */
static void repeat(const char *how)
{
    rig r;
    lx_err err = {0};
    char name[32];
    uint64_t expected = reference();
    start_shuffled(&r, how);
    leak_ledger before = leak_count(&r);
    for (int i = 0; i < N_JOBS; i++)
        rig_submit(&r, ids[i]);
    rig_all_done(&r, ids, N_JOBS, 60);
    for (int i = 0; i < N_JOBS; i++) {
        snprintf(name, sizeof name, "%s.mp4", ids[i]);
        assert_true(rig_hash(&r, name) == expected);
        assert_int_equal(rig_job(&r, ids[i]).retries, 0);
    }
#ifdef LX2V_FAULTS /* its ledger counts */
    for (int stage = ENCODER; stage <= MUX; stage++) {
        snprintf(name, sizeof name, "%s/stage.given", lx_client_stage_name(stage));
        assert_int_equal(fault_seen(&r, name).visits, N_JOBS);
    }
#endif
    rig_submit(&r, "cancelled");
    fault_wait_running(&r, "cancelled");
    assert_int_equal(lx_client_command(r.client, LX_CLIENT_CANCEL, "cancelled", 0, &err), LX_OK);
    assert_int_equal(rig_wait(&r, "cancelled", 30), LX_CLIENT_CANCELLED);
    rig_submit(&r, "next");
    assert_int_equal(rig_wait(&r, "next", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_count_files(&r), N_JOBS + 1);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&r, stage).restarts, 0);
    leak_check(&r, &before);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_m04_messages_that_come_twice(void **state)
{
    (void)state;
    repeat("twice");
}

static void test_m04_messages_that_come_again_later(void **state)
{
    (void)state;
    repeat("late");
}

/* One is overtaken by the next. Nobody guesses what it said: that stage begins afresh, and so does
 * the job, from what is still lent. */
static void overtake(int stage, const char *kind)
{
    rig r;
    history h;
    char how[64];
    uint64_t expected = reference();
    snprintf(how, sizeof how, "%s:swap:%s", lx_client_stage_name(stage), kind);
    start_shuffled(&r, how);
    leak_ledger before = leak_count(&r);
    history_open(&h, &r);
    assert_true(history_submit(&h, &r, "hit", 42));
    assert_int_equal(history_end(&h, &r, "hit", 60), LX_CLIENT_DONE);
    assert_true(rig_job(&r, "hit").retries >= 1);
    assert_true(rig_hash(&r, "hit.mp4") == expected);
    rig_wait_ready(&r, 60);
    assert_true(history_submit(&h, &r, "next", 42));
    assert_int_equal(history_end(&h, &r, "next", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_job(&r, "next").retries, 0);
    for (int k = ENCODER; k <= MUX; k++)
        assert_int_equal(rig_stage(&r, k).restarts, k == stage);
    leak_check(&r, &before);
    history_check(&h, &r);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_m04_messages_out_of_order(void **state)
{
    (void)state;
    overtake(DIT, "artifact"); /* "done" comes first */
    overtake(MUX, "input");    /* its second chunk comes first */
}

/* --- clients ---------------------------------------------------------------------------------- */

static void say_submit(lx_bus *bus, const char *id, uint64_t req)
{
    lx_err err = {0};
    lx_msg msg = {.kind = LX_MSG_SUBMIT, .req = req};
    lx_job *job = &msg.u.work.job;
    snprintf(job->id, sizeof job->id, "%s", id);
    snprintf(job->prompt, sizeof job->prompt, "a red ball rolls to the left");
    job->seed = 42;
    job->sampler = -1;
    if (lx_bus_send(bus, NULL, &msg, &err) != LX_OK)
        fail_msg("%s", err.message);
}

/* Each is answered, and one job is made. */
static void test_m04_submits_that_come_again(void **state)
{
    (void)state;
    static lx_msg msg;
    rig r;
    lx_err err = {0};
    lx_bus *bus = NULL;
    int n_new = 0;
    fault_start(&r, NULL, CONFIG);
    assert_int_equal(lx_bus_connect(&bus, r.endpoint, &err), LX_OK);
    for (uint64_t i = 1; i <= 5; i++)
        say_submit(bus, "once", i < 4 ? 1 : i); /* the same message, and asked anew */
    for (int i = 0; i < 5; i++) {
        if (lx_bus_receive(bus, NULL, &msg, 5000, &err) != LX_OK)
            fail_msg("%s", err.message);
        if (msg.kind != LX_MSG_ACCEPTED)
            fail_msg("%s: %s", lx_msg_kind_name(msg.kind), msg.u.failed.text);
        assert_string_equal(msg.job, "once");
        n_new += msg.u.accepted.is_new;
    }
    assert_int_equal(n_new, 1);
    assert_int_equal(rig_wait(&r, "once", 60), LX_CLIENT_DONE);
    say_submit(bus, "once", 6); /* and when it is over */
    assert_int_equal(lx_bus_receive(bus, NULL, &msg, 5000, &err), LX_OK);
    assert_int_equal(msg.kind, LX_MSG_ACCEPTED);
    assert_false(msg.u.accepted.is_new);
    assert_int_equal(rig_count_files(&r), 1);
    lx_bus_close(&bus);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static bool is_known(rig *r, const char *id)
{
    lx_err err = {0};
    return lx_client_query(r->client, id, &(lx_client_sink){0}, NULL, &err) == LX_OK;
}

/* It hangs up behind its last word, and takes no answer. */
static void test_c01_client_gone_behind_its_submit(void **state)
{
    (void)state;
    rig r;
    lx_err err = {0};
    lx_client_accepted accepted;
    fault_start(&r, NULL, NULL);
    leak_ledger before = leak_count(&r);
    for (int i = 0; i < N_JOBS; i++) {
        lx_bus *bus = NULL;
        assert_int_equal(lx_bus_connect(&bus, r.endpoint, &err), LX_OK);
        say_submit(bus, ids[i], 1);
        lx_bus_close(&bus);
    }
    double until = rig_now_s() + 5 * RIG_SLACK;
    for (int i = 0; i < N_JOBS; i++)
        while (!is_known(&r, ids[i]) && rig_now_s() < until)
            rig_sleep(0.01);
    rig_all_done(&r, ids, N_JOBS, 60); /* asked for later, by another one */
    for (int i = 0; i < N_JOBS; i++) {
        lx_client_request request = rig_request(ids[i]);
        assert_int_equal(lx_client_submit(r.client, &request, &accepted, &err), LX_OK);
        assert_false(accepted.is_new);
    }
    assert_int_equal(rig_count_files(&r), N_JOBS);
    leak_check(&r, &before); /* nor is its place or socket kept */
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* `lx2v submit`, killed sooner or later. Whether its job was heard is seen by asking; the same id
 * settles it. */
static void kill_client(const rig *r, const char *id, int after_ms)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        execl(LX2V_BIN_DIR "/lx2v", "lx2v", "submit", "--config", r->config, "--id", id, "--seed",
              "42", "a red ball rolls to the left", (char *)NULL);
        _exit(127);
    }
    rig_sleep(after_ms * 1e-3);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_c01_client_killed_around_its_submit(void **state)
{
    (void)state;
    enum { N = 5 };
    static const int after_ms[N] = {0, 10, 20, 40, 120};
    rig r;
    int n_heard = 0;
    lx_err err = {0};
    fault_start(&r, NULL, NULL);
    for (int i = 0; i < N; i++) {
        char id[16];
        lx_client_accepted accepted;
        snprintf(id, sizeof id, "killed-%d", i);
        kill_client(&r, id, after_ms[i] * RIG_SLACK);
        rig_sleep(0.05 * RIG_SLACK); /* what is on its way arrives */
        bool was_known = is_known(&r, id);
        lx_client_request request = rig_request(id);
        if (lx_client_submit(r.client, &request, &accepted, &err) != LX_OK)
            fail_msg("%s", err.message);
        assert_int_equal(accepted.is_new, !was_known);
        n_heard += was_known;
        assert_int_equal(rig_wait(&r, id, 60), LX_CLIENT_DONE);
    }
    printf("of %d killed clients %d had been heard\n", N, n_heard);
    assert_true(n_heard >= 1 && n_heard < N);
    assert_int_equal(rig_count_files(&r), N);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_m04_messages_that_come_twice),
        cmocka_unit_test(test_m04_messages_that_come_again_later),
        cmocka_unit_test(test_m04_messages_out_of_order),
        cmocka_unit_test(test_m04_submits_that_come_again),
        cmocka_unit_test(test_c01_client_gone_behind_its_submit),
        cmocka_unit_test(test_c01_client_killed_around_its_submit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
