/*
 * test_orders.c - cancel, retry, pause, resume, drain, shutdown with real processes
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

#define SLOW_MS 60 /* of one unit: a DiT block, a VAE chunk */

static rig shared;

static int set_up(void **state)
{
    *state = &shared;
    rig_start(&shared, (rig_options){.slow_ms = SLOW_MS});
    return 0;
}

static int tear_down(void **state)
{
    rig_remove(*state);
    return 0;
}

static void order(rig *r, lx_client_order what, const char *id)
{
    lx_err err = {0};
    if (lx_client_command(r->client, what, id, 0, &err) != LX_OK)
        fail_msg("%s", err.message);
}

/* Seconds of one unit of this stage here and now, from a job that ran undisturbed. */
static double unit_s(rig *r, int stage)
{
    static const int n_units[] = {[ENCODER] = 2, [DIT] = 8, [VAE] = 3}; /* layers, blocks, chunks */
    lx_client_job job = rig_job(r, "measured");
    return (job.stage[stage].end_s - job.stage[stage].start_s) / n_units[stage];
}

/* In each stage that lasts; takes effect within one unit, and leaves no file. */
static void test_cancel_running(void **state)
{
    rig *r = *state;
    const int stages[] = {ENCODER, DIT, VAE};
    rig_submit(r, "measured");
    assert_int_equal(rig_wait(r, "measured", 60), LX_CLIENT_DONE);
    for (int i = 0; i < 3; i++) {
        char id[32];
        snprintf(id, sizeof id, "cancel-%s", lx_client_stage_name(stages[i]));
        lx_client_request request = rig_request(id);
        lx_client_accepted accepted;
        request.prompt = id; /* not from the encoder's cache */
        assert_int_equal(lx_client_submit(r->client, &request, &accepted, NULL), LX_OK);
        rig_wait_stage(r, id, stages[i], 30);
        double asked_s = rig_now_s();
        order(r, LX_CLIENT_CANCEL, id);
        assert_int_equal(rig_wait(r, id, 10), LX_CLIENT_CANCELLED);
        /* One unit; half of it again, and 0.3 s, for a busy machine. */
        assert_true(rig_job(r, id).end_s - asked_s < 0.3 + 1.5 * unit_s(r, stages[i]));
        rig_wait_ready(r, 1);
    }
    assert_int_equal(rig_count_files(r), 1); /* the measured one's */
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(r, stage).restarts, 0);
}

static void test_cancel_queued(void **state)
{
    rig *r = *state;
    order(r, LX_CLIENT_PAUSE, NULL);
    rig_submit(r, "cancel-queued");
    rig_sleep(0.2);
    assert_int_equal(rig_job(r, "cancel-queued").state, LX_CLIENT_QUEUED);
    order(r, LX_CLIENT_CANCEL, "cancel-queued");
    assert_int_equal(rig_job(r, "cancel-queued").state, LX_CLIENT_CANCELLED);
    order(r, LX_CLIENT_RESUME, NULL);
    lx_err err = {0};
    assert_int_equal(lx_client_command(r->client, LX_CLIENT_CANCEL, "cancel-queued", 0, &err),
                     LX_EJOB);
    assert_false(rig_has_file(r, "cancel-queued.mp4"));
}

static void test_retry_makes_the_same_clip(void **state)
{
    rig *r = *state;
    lx_client_request request = rig_request("again");
    lx_client_accepted accepted;
    request.seed = -1;
    assert_int_equal(lx_client_submit(r->client, &request, &accepted, NULL), LX_OK);
    rig_wait_stage(r, "again", DIT, 30);
    order(r, LX_CLIENT_CANCEL, "again");
    assert_int_equal(rig_wait(r, "again", 10), LX_CLIENT_CANCELLED);
    order(r, LX_CLIENT_RETRY, "again");
    assert_int_equal(rig_wait(r, "again", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_job(r, "again").seed, accepted.seed); /* drawn once */
    request.id = "straight";
    request.seed = accepted.seed;
    assert_int_equal(lx_client_submit(r->client, &request, &accepted, NULL), LX_OK);
    assert_int_equal(rig_wait(r, "straight", 60), LX_CLIENT_DONE);
    assert_true(rig_hash(r, "again.mp4") == rig_hash(r, "straight.mp4"));
    lx_err err = {0};
    assert_int_equal(lx_client_command(r->client, LX_CLIENT_RETRY, "again", 0, &err), LX_EJOB);
}

static void test_pause_holds_back_the_queue(void **state)
{
    rig *r = *state;
    rig_submit(r, "running");
    rig_wait_stage(r, "running", DIT, 30);
    order(r, LX_CLIENT_PAUSE, NULL);
    rig_submit(r, "held");
    assert_int_equal(rig_wait(r, "running", 60), LX_CLIENT_DONE); /* goes on through all stages */
    assert_int_equal(rig_job(r, "held").state, LX_CLIENT_QUEUED);
    order(r, LX_CLIENT_RESUME, NULL);
    assert_int_equal(rig_wait(r, "held", 60), LX_CLIENT_DONE);
}

typedef struct seen {
    int n_events, n_units, last_stage;
    double last_s;
    lx_client_state end;
    int n_fast; /* events less than 50 ms after the one before */
} seen;

static bool on_event(void *self, const lx_client_event *event)
{
    seen *s = self;
    if (!event)
        return true;
    s->n_events++;
    s->n_units += event->stage == DIT && !strcmp(event->unit, "block") && event->done > 0;
    if (event->state == LX_CLIENT_RUNNING) {
        s->n_fast += event->now_s - s->last_s < 0.05;
        s->last_s = event->now_s;
        assert_true(event->stage >= s->last_stage); /* the way of the data */
        s->last_stage = event->stage;
    }
    s->end = event->state;
    return event->state <= LX_CLIENT_RUNNING;
}

static void test_watch_tells_progress_and_end(void **state)
{
    rig *r = *state;
    seen s = {.last_stage = -1};
    rig_submit(r, "watched");
    lx_err err = {0};
    if (lx_client_watch(r->client, "watched", on_event, &s, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_int_equal(s.end, LX_CLIENT_DONE);
    assert_true(s.n_units >= 3); /* of 8 blocks, each 60 ms */
    assert_true(s.n_fast <= 3);  /* changes of state come at once, progress ten times a second */
    s = (seen){.last_stage = -1};
    assert_int_equal(lx_client_watch(r->client, "watched", on_event, &s, NULL), LX_OK);
    assert_int_equal(s.n_events, 1); /* it has ended: said at once */
}

static void test_drain_then_shutdown(void **state)
{
    rig *r = *state;
    lx_err err = {0};
    lx_client_accepted accepted;
    rig_submit(r, "last");
    if (lx_client_command(r->client, LX_CLIENT_DRAIN, NULL, 60, &err) != LX_OK)
        fail_msg("drain: %s", err.message);
    assert_int_equal(rig_job(r, "last").state, LX_CLIENT_DONE); /* answered when all was done */
    lx_client_request late = rig_request("late");
    assert_int_equal(lx_client_submit(r->client, &late, &accepted, &err), LX_EAGAIN);
    order(r, LX_CLIENT_RESUME, NULL);
    rig_submit(r, "cut-short");
    rig_wait_stage(r, "cut-short", DIT, 30);
    double asked_s = rig_now_s();
    rig_stop(r, 0); /* in the middle of a job: everything is cleaned up all the same */
    assert_true(rig_now_s() - asked_s < 3 * RIG_SLACK);
    assert_false(rig_has_file(r, "cut-short.mp4"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cancel_running),
        cmocka_unit_test(test_cancel_queued),
        cmocka_unit_test(test_retry_makes_the_same_clip),
        cmocka_unit_test(test_pause_holds_back_the_queue),
        cmocka_unit_test(test_watch_tells_progress_and_end),
        cmocka_unit_test(test_drain_then_shutdown),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
