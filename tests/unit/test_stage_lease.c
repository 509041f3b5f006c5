/*
 * test_stage_lease.c - a stage that takes turns with others on its card
 * SPDX-License-Identifier: Apache-2.0
 *
 * The stage's "device memory" is a file beside the config: "held" is there while it has it, "busy"
 * lets the next attempt fail.
 */
#include "tools/hand_launcher.h"

#include "lx_stage.h"

#define BYTES 12345678

/* --- the stage ------------------------------------------------------------------------------- */

static char folder_of_stage[64];

static const char *beside(const char *folder, const char *name)
{
    static char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static lx_status take(void *self, lx_err *err)
{
    (void)self;
    if (access(beside(folder_of_stage, "busy"), F_OK) == 0)
        return lx_fail(err, LX_EAGAIN, "11.8 MiB of device memory are needed, 3 MiB are free");
    FILE *file = fopen(beside(folder_of_stage, "held"), "w");
    if (file)
        fclose(file);
    return LX_OK;
}

static void give(void *self)
{
    (void)self;
    unlink(beside(folder_of_stage, "held"));
}

/* Lends one tensor; only with its memory. */
static lx_status handle(void *model, lx_stage_job *job, lx_err *err)
{
    (void)model;
    lx_tensor t;
    lx_shape shape = LX_SHAPE(16);
    if (access(beside(folder_of_stage, "held"), F_OK))
        return lx_fail(err, LX_ESTAGE, "a job without memory");
    usleep(20000);
    lx_status status = lx_stage_lend(job, LX_DTYPE_U8, &shape, &t, err);
    if (status != LX_OK)
        return status;
    memset(t.data, 1, 16);
    return lx_stage_publish(job, true, err);
}

static int run_stage(int argc, char **argv)
{
    lx_err err = {0};
    lx_stage *stage = NULL;
    const lx_stage_arena arena = {.take = take, .give = give, .bytes = BYTES};
    if (lx_stage_open(&stage, argc, argv, LX_STAGE_DIT, &err) != LX_OK)
        goto out;
    const char *path = lx_stage_config_of(stage)->path;
    snprintf(folder_of_stage, sizeof folder_of_stage, "%.*s", (int)(strrchr(path, '/') - path),
             path);
    if (lx_stage_hold(stage, &arena, &err) != LX_OK || lx_stage_lends(stage, 1, 64, &err) != LX_OK)
        goto out;
    lx_stage_ready(stage, "none", 0, 0);
    lx_stage_run(stage, handle, NULL, &err);
out:
    lx_stage_close(&stage, &err);
    return lx_exit_code(err.status);
}

/* --- the launcher ---------------------------------------------------------------------------- */

static bool is_there(const launch *l, const char *name)
{
    return access(beside(l->folder, name), F_OK) == 0;
}

/* Nothing but beats for a while. */
static void expect_silence(launch *l, double seconds)
{
    for (double until = lx_now_s() + seconds; lx_now_s() < until;)
        if (lx_bus_receive(l->bus, &l->peer, &l->msg, 50, NULL) == LX_OK)
            assert_int_equal(l->msg.kind, LX_MSG_BEAT);
}

/* About memory: LEASE, RELEASE, STOP. */
static void say(launch *l, lx_msg_kind kind)
{
    lx_msg msg = {.kind = kind};
    msg.u.arena.bytes = kind == LX_MSG_LEASE ? BYTES : 0;
    tell(l, &msg);
}

/* A job from its start to its end; returns the serial of what is lent. */
static uint64_t one_job(launch *l)
{
    expect(l, LX_MSG_STARTED);
    uint64_t serial = expect(l, LX_MSG_ARTIFACT)->u.artifact.ticket.serial;
    expect(l, LX_MSG_DONE);
    return serial;
}

static int start_one(void **state, bool takes_turns)
{
    launch *l = launch_open("model: .\n");
    launch_start(l, takes_turns);
    *state = l;
    expect(l, LX_MSG_HELLO);
    return 0;
}

static int start_in_turn(void **state)
{
    return start_one(state, true);
}

static int start_plain(void **state)
{
    return start_one(state, false);
}

static int end(void **state)
{
    launch *l = *state;
    int status = -1;
    say(l, LX_MSG_STOP);
    for (double until = lx_now_s() + 10; waitpid(l->pid, &status, WNOHANG) == 0;) {
        lx_bus_receive(l->bus, &l->peer, &l->msg, 50, NULL);
        assert_true(lx_now_s() < until);
    }
    assert_true(WIFEXITED(status));
    l->pid = 0;
    unlink(beside(l->folder, "held"));
    unlink(beside(l->folder, "busy"));
    launch_close(l);
    return 0;
}

/* Nothing is taken before it is granted; it stays until asked back, and comes back for a job. */
static void test_lease_is_asked_granted_given_back(void **state)
{
    launch *l = *state;
    assert_true(expect(l, LX_MSG_LEASE)->u.arena.bytes == BYTES);
    expect_silence(l, 0.3);
    assert_false(is_there(l, "held"));
    say(l, LX_MSG_LEASE);
    expect(l, LX_MSG_READY);
    assert_true(is_there(l, "held"));
    order(l, "a", 1, "");
    retire(l, one_job(l));
    expect_silence(l, 0.2);
    assert_true(is_there(l, "held")); /* nobody waits: it stays */
    say(l, LX_MSG_RELEASE);
    assert_true(expect(l, LX_MSG_RELEASE)->u.arena.bytes == BYTES);
    assert_false(is_there(l, "held"));
    order(l, "b", 1, "");
    expect(l, LX_MSG_LEASE);
    expect_silence(l, 0.2); /* no start before the grant */
    say(l, LX_MSG_LEASE);
    retire(l, one_job(l));
}

/* Asked back in a job: after it. */
static void test_lease_asked_back_in_a_job(void **state)
{
    launch *l = *state;
    expect(l, LX_MSG_LEASE);
    say(l, LX_MSG_LEASE);
    expect(l, LX_MSG_READY);
    order(l, "a", 1, "");
    expect(l, LX_MSG_STARTED);
    say(l, LX_MSG_RELEASE);
    expect(l, LX_MSG_ARTIFACT);
    expect(l, LX_MSG_DONE);
    expect(l, LX_MSG_RELEASE);
    assert_false(is_there(l, "held"));
}

/* The only slot is lent: the next job waits without the memory that the borrower may need. */
static void test_lease_is_not_held_while_waiting_for_a_slot(void **state)
{
    launch *l = *state;
    expect(l, LX_MSG_LEASE);
    say(l, LX_MSG_LEASE);
    expect(l, LX_MSG_READY);
    order(l, "a", 1, "");
    uint64_t serial = one_job(l);
    order(l, "b", 1, "");
    expect_silence(l, 0.2);
    say(l, LX_MSG_RELEASE);
    expect(l, LX_MSG_RELEASE);
    assert_false(is_there(l, "held"));
    expect_silence(l, 0.2); /* not asked for before there is a slot */
    retire(l, serial);
    expect(l, LX_MSG_LEASE);
    say(l, LX_MSG_LEASE);
    retire(l, one_job(l));
}

/* A job may be aborted while it waits for memory; a grant that comes later is used or returned. */
static void test_lease_wait_can_be_aborted(void **state)
{
    launch *l = *state;
    expect(l, LX_MSG_LEASE);
    say(l, LX_MSG_LEASE);
    expect(l, LX_MSG_READY);
    say(l, LX_MSG_RELEASE);
    expect(l, LX_MSG_RELEASE);
    order(l, "a", 1, "");
    expect(l, LX_MSG_LEASE);
    lx_msg abort_msg = {.kind = LX_MSG_ABORT, .attempt = 1, .job = "a"};
    assert_int_equal(lx_bus_send(l->bus, &l->peer, &abort_msg, NULL), LX_OK);
    assert_int_equal(expect(l, LX_MSG_FAILED)->u.failed.status, LX_ECANCEL);
    say(l, LX_MSG_LEASE);
    say(l, LX_MSG_RELEASE);
    expect(l, LX_MSG_RELEASE); /* granted, never taken, given back */
    assert_false(is_there(l, "held"));
    order(l, "b", 1, "");
    expect(l, LX_MSG_LEASE);
    say(l, LX_MSG_LEASE);
    retire(l, one_job(l));
}

/* Without turns it is taken once and kept. */
static void test_memory_is_kept_without_turns(void **state)
{
    launch *l = *state;
    expect(l, LX_MSG_READY); /* no turns: nobody is asked */
    assert_true(is_there(l, "held"));
}

static int start_busy(void **state)
{
    if (start_one(state, true) != 0)
        return -1;
    launch *l = *state;
    FILE *file = fopen(beside(l->folder, "busy"), "w");
    fclose(file);
    return 0;
}

static void test_memory_that_others_have_is_retried(void **state)
{
    launch *l = *state;
    expect(l, LX_MSG_LEASE);
    say(l, LX_MSG_LEASE);
    expect_silence(l, 0.5);
    assert_false(is_there(l, "held"));
    unlink(beside(l->folder, "busy"));
    expect(l, LX_MSG_READY);
    assert_true(is_there(l, "held"));
}

static void test_memory_wait_hears_stop(void **state)
{
    launch *l = *state;
    expect(l, LX_MSG_LEASE);
    say(l, LX_MSG_LEASE);
    expect_silence(l, 0.3); /* end() tells it to stop, and it leaves */
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return run_stage(argc, argv);
#define IN_TURN(test) cmocka_unit_test_setup_teardown(test, start_in_turn, end)
    const struct CMUnitTest tests[] = {
        IN_TURN(test_lease_is_asked_granted_given_back),
        IN_TURN(test_lease_asked_back_in_a_job),
        IN_TURN(test_lease_is_not_held_while_waiting_for_a_slot),
        IN_TURN(test_lease_wait_can_be_aborted),
        cmocka_unit_test_setup_teardown(test_memory_is_kept_without_turns, start_plain, end),
        cmocka_unit_test_setup_teardown(test_memory_that_others_have_is_retried, start_busy, end),
        cmocka_unit_test_setup_teardown(test_memory_wait_hears_stop, start_busy, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
