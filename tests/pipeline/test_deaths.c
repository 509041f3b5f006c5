/*
 * test_deaths.c - kill -9 of any stage in the middle of a job costs time and nothing else
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

#define SLOW_MS 40 /* long enough in each stage to be hit */

static rig shared;
static uint64_t undisturbed;

static int set_up(void **state)
{
    *state = &shared;
    /* No cache: the encoder must work for each. */
    rig_start(&shared,
              (rig_options){.slow_ms = SLOW_MS, .config = "encoder: {cache_entries: 0}\n"});
    rig_submit(&shared, "undisturbed");
    assert_int_equal(rig_wait(&shared, "undisturbed", 60), LX_CLIENT_DONE);
    undisturbed = rig_hash(&shared, "undisturbed.mp4");
    return 0;
}

static int tear_down(void **state)
{
    rig_remove(*state);
    return 0;
}

static void kill_in(rig *r, int stage, const char *id)
{
    char name[64];
    rig_submit(r, id);
    rig_wait_stage(r, id, stage, 30);
    pid_t pid = rig_stage_pid(r, stage);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(rig_wait(r, id, 60), LX_CLIENT_DONE);
    snprintf(name, sizeof name, "%s.mp4", id);
    assert_true(rig_hash(r, name) == undisturbed);
    lx_client_job job = rig_job(r, id);
    assert_int_equal(job.retries, 1);
    lx_client_stage after = rig_stage(r, stage);
    assert_true(after.pid != pid);
    assert_non_null(strstr(after.text, "signal 9")); /* the obituary */
    rig_wait_ready(r, 30);
    assert_int_equal(rig_stage(r, stage).restarts, 1);
}

static void test_encoder_killed(void **state)
{
    kill_in(*state, ENCODER, "no-encoder");
}

static void test_dit_killed(void **state)
{
    rig *r = *state;
    kill_in(r, DIT, "no-dit");
    /* It went on from the lent context: the encoder computed it once. */
    lx_client_job job = rig_job(r, "no-dit");
    assert_true(job.stage[ENCODER].end_s < job.stage[DIT].start_s);
    assert_int_equal(rig_stage(r, ENCODER).restarts, 1); /* from the test before */
}

static void test_vae_killed(void **state)
{
    rig *r = *state;
    uint64_t denoised = rig_stage(r, DIT).jobs;
    kill_in(r, VAE, "no-vae");
    assert_int_equal(rig_stage(r, DIT).jobs, denoised + 1); /* denoised once */
}

static void test_mux_killed(void **state)
{
    rig *r = *state;
    uint64_t denoised = rig_stage(r, DIT).jobs;
    kill_in(r, MUX, "no-mux");
    assert_int_equal(rig_stage(r, DIT).jobs, denoised + 1);
}

static void test_two_killed_together(void **state)
{
    rig *r = *state;
    rig_submit(r, "no-two");
    rig_wait_stage(r, "no-two", DIT, 30);
    pid_t encoder = rig_stage_pid(r, ENCODER), dit = rig_stage_pid(r, DIT);
    kill(encoder, SIGKILL);
    kill(dit, SIGKILL);
    assert_int_equal(rig_wait(r, "no-two", 60), LX_CLIENT_DONE);
    assert_true(rig_hash(r, "no-two.mp4") == undisturbed);
}

/* One asked to go by somebody else takes its names with it; who needs them starts earlier. */
static void test_lender_sent_away(void **state)
{
    rig *r = *state;
    const int lender[] = {ENCODER, DIT}, borrower[] = {DIT, VAE};
    for (int i = 0; i < 2; i++) {
        char id[32], name[40];
        snprintf(id, sizeof id, "away-%s", lx_client_stage_name(lender[i]));
        snprintf(name, sizeof name, "%s.mp4", id);
        rig_submit(r, id);
        rig_wait_stage(r, id, borrower[i], 30);
        kill(rig_stage_pid(r, lender[i]), SIGTERM);
        assert_int_equal(rig_wait(r, id, 60), LX_CLIENT_DONE);
        assert_true(rig_hash(r, name) == undisturbed);
        rig_wait_ready(r, 30);
    }
}

/* The second death under one job: it is buried, and the next one is served. */
static void test_poison_is_buried(void **state)
{
    rig *r = *state;
    rig_submit(r, "poison");
    rig_submit(r, "behind");
    for (int i = 0; i < 2; i++) {
        rig_wait_stage(r, "poison", VAE, 30);
        kill(rig_stage_pid(r, VAE), SIGKILL);
        for (int k = 0; k < 100 && rig_job(r, "poison").retries == (uint64_t)i; k++) {
            if (rig_job(r, "poison").state == LX_CLIENT_FAILED)
                break;
            rig_sleep(0.02);
        }
    }
    assert_int_equal(rig_wait(r, "poison", 30), LX_CLIENT_FAILED);
    lx_client_job job = rig_job(r, "poison");
    assert_non_null(strstr(job.error, "2 tries"));
    assert_non_null(strstr(job.error, "vae"));
    assert_false(rig_has_file(r, "poison.mp4"));
    assert_int_equal(rig_wait(r, "behind", 60), LX_CLIENT_DONE);
    assert_true(rig_hash(r, "behind.mp4") == undisturbed);
}

/* Five deaths in a minute: parked. Its jobs fail with the obituary, new ones are refused, and the
 * launcher stays up. */
static void test_five_deaths_park_a_stage(void **state)
{
    rig *r = *state;
    lx_err err = {0};
    rig_submit(r, "waits");
    rig_wait_stage(r, "waits", ENCODER, 30);
    while (strcmp(rig_stage(r, MUX).state, "parked")) {
        lx_client_stage mux = rig_stage(r, MUX);
        if (mux.pid > 0 && !strcmp(mux.state, "ready"))
            kill((pid_t)mux.pid, SIGKILL);
        assert_true(mux.restarts <= 5 + 1); /* one of them in a test before */
        rig_sleep(0.02);
    }
    assert_int_equal(rig_wait(r, "waits", 10), LX_CLIENT_FAILED);
    assert_non_null(strstr(rig_job(r, "waits").error, "mux"));
    assert_non_null(strstr(rig_job(r, "waits").error, "signal 9"));
    lx_client_request request = rig_request("refused");
    lx_client_accepted accepted;
    assert_int_equal(lx_client_submit(r->client, &request, &accepted, &err), LX_ESTAGE);
    assert_non_null(strstr(err.message, "parked"));
    lx_client_summary summary;
    assert_int_equal(lx_client_query(r->client, NULL, &(lx_client_sink){0}, &summary, NULL), LX_OK);
    assert_string_equal(summary.state, "degraded");
}

static void test_deaths_leave_nothing(void **state)
{
    rig_stop(*state, SIGTERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder_killed),
        cmocka_unit_test(test_dit_killed),
        cmocka_unit_test(test_vae_killed),
        cmocka_unit_test(test_mux_killed),
        cmocka_unit_test(test_two_killed_together),
        cmocka_unit_test(test_poison_is_buried),
        cmocka_unit_test(test_lender_sent_away),
        cmocka_unit_test(test_five_deaths_park_a_stage),
        cmocka_unit_test(test_deaths_leave_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
