/*
 * test_stages.c - each stage killed in each phase of its work, and refused what it asks for
 * SPDX-License-Identifier: Apache-2.0
 */
#include <unistd.h>

#include "fault.h"

#define CONFIG "encoder: {cache_entries: 0}\n" /* the encoder must work for each job */

/* Jobs one after the other until every rule has fired; each must be done, with the same bits, after
 * at most one more try. Rules count across restarts, so each fires once. */
static void survive(int stage, const char *rules, const char *const *points, int n_points)
{
    rig r;
    history h;
    char name[64];
    fault_start(&r, rules, CONFIG);
    history_open(&h, &r);
    leak_ledger before = leak_count(&r);
    int n_left = n_points;
    for (int i = 0; n_left > 0 && i < 24; i++) {
        char id[16];
        snprintf(id, sizeof id, "j%d", i);
        assert_true(history_submit(&h, &r, id, 42));
        assert_int_equal(history_end(&h, &r, id, 60), LX_CLIENT_DONE);
        assert_true(rig_job(&r, id).retries <= 1);
        rig_wait_ready(&r, 60);
        n_left = 0;
        for (int k = 0; k < n_points; k++) {
            snprintf(name, sizeof name, "%s/%s", lx_client_stage_name(stage), points[k]);
            n_left += fault_seen(&r, name).fired == 0;
        }
    }
    for (int k = 0; k < n_points; k++) {
        snprintf(name, sizeof name, "%s/%s", lx_client_stage_name(stage), points[k]);
        if (fault_seen(&r, name).fired != 1)
            fail_msg("%s fired %d times in %d visits", name, (int)fault_seen(&r, name).fired,
                     (int)fault_seen(&r, name).visits);
    }
    assert_int_equal(rig_stage(&r, stage).restarts, n_points);
    for (int other = ENCODER; other <= MUX; other++) /* the others were not disturbed */
        if (other != stage)
            assert_int_equal(rig_stage(&r, other).restarts, 0);
    leak_check(&r, &before);
    history_check(&h, &r);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_p01_encoder_killed_in_each_phase(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static const char *const points[] = {"stage.given", "stage.lent", "stage.compute"};
    survive(ENCODER,
            "encoder/stage.given:1:kill,encoder/stage.lent:4:kill,"
            "encoder/stage.compute:21:kill",
            points, 3);
}

static void test_p02_dit_killed_in_each_phase(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static const char *const points[] = {"stage.given", "stage.borrowed", "stage.released",
                                         "stage.compute"};
    survive(DIT,
            "dit/stage.given:1:kill,dit/stage.borrowed:3:kill,dit/stage.released:5:kill,"
            "dit/stage.compute:75:kill",
            points, 4);
}

/* The latent is lent when its maker dies: it is denoised once. */
static void test_p03_dit_killed_when_its_latent_is_lent(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "dit/stage.lent:1:kill", CONFIG);
    rig_submit(&r, "lent");
    assert_int_equal(rig_wait(&r, "lent", 60), LX_CLIENT_DONE);
    assert_int_equal(fault_seen(&r, "dit/stage.lent").fired, 1);
    assert_int_equal(fault_seen(&r, "dit/stage.given").visits, 1);
    rig_wait_ready(&r, 60);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_p04_vae_killed_in_each_phase(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static const char *const points[] = {"stage.given", "stage.borrowed", "stage.released",
                                         "stage.lent"};
    survive(VAE,
            "vae/stage.given:1:kill,vae/stage.borrowed:3:kill,vae/stage.released:5:kill,"
            "vae/stage.lent:20:kill",
            points, 4);
}

static void test_p05_mux_killed_in_each_phase(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static const char *const points[] = {"stage.given", "mux.write", "mux.sync", "mux.rename"};
    survive(MUX, "mux/stage.given:1:kill,mux.write:8:kill,mux.sync:5:kill,mux.rename:6:kill",
            points, 4);
}

/* The file has its name and nobody heard of it: the next try finds it there. */
static void test_p05_mux_killed_after_the_rename(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "mux.renamed:1:kill", CONFIG);
    rig_submit(&r, "renamed");
    lx_client_state end = rig_wait(&r, "renamed", 60);
    assert_int_equal(rig_count_files(&r), 1);
    assert_true(rig_hash(&r, "renamed.mp4") != 0);
    if (end != LX_CLIENT_DONE)
        fail_msg("the clip is there and whole, and its job is said to have failed: %s",
                 rig_job(&r, "renamed").error);
    rig_wait_ready(&r, 60);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* Killed in the same moment, each pair. */
static void test_p07_two_killed_together(void **state)
{
    (void)state;
    rig r;
    history h;
    fault_start(&r, NULL, CONFIG);
    history_open(&h, &r);
    int n = 0;
    for (int a = ENCODER; a <= MUX; a++)
        for (int b = a + 1; b <= MUX; b++) {
            char id[16];
            snprintf(id, sizeof id, "pair-%d", n++);
            pid_t first = rig_stage_pid(&r, a), second = rig_stage_pid(&r, b);
            assert_true(history_submit(&h, &r, id, 42));
            rig_sleep(0.01 * n);
            kill(first, SIGKILL);
            kill(second, SIGKILL);
            assert_int_equal(history_end(&h, &r, id, 60), LX_CLIENT_DONE);
            rig_wait_ready(&r, 60);
        }
    history_check(&h, &r);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* Runs one job that must fail with these words, and one behind it that must not. */
static void fail_once(rig *r, const char *words)
{
    rig_submit(r, "hit");
    assert_int_equal(rig_wait(r, "hit", 60), LX_CLIENT_FAILED);
    if (!strstr(rig_job(r, "hit").error, words))
        fail_msg("\"%s\" does not say \"%s\"", rig_job(r, "hit").error, words);
    assert_int_equal(rig_count_files(r), 0);
    rig_submit(r, "next");
    assert_int_equal(rig_wait(r, "next", 60), LX_CLIENT_DONE);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(r, stage).restarts, 0);
    rig_stop(r, SIGTERM);
    rig_remove(r);
}

/* A launcher whose first jobs meet this rule: how often a point is visited while all becomes ready
 * (tests of links and of the stages themselves) is counted in another one before. */
static void start_with_rule(rig *r, const char *point, int nth, const char *action)
{
    char rule[96];
    fault_start(r, NULL, CONFIG);
    rig_sleep(0.3 * RIG_SLACK); /* tests of links go on behind "ready" */
    uint64_t n = fault_seen(r, point).visits;
    rig_stop(r, SIGTERM);
    rig_remove(r);
    snprintf(rule, sizeof rule, "%s:%d:%s", point, (int)n + nth, action);
    fault_start(r, rule, CONFIG);
    rig_sleep(0.3 * RIG_SLACK);
}

static void test_g02_no_memory_in_a_job(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    start_with_rule(&r, "dit/arena.alloc", 3, "ENOMEM");
    fail_once(&r, "needs ");
}

static void test_g04_wrong_numbers_are_found_in_their_step(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    start_with_rule(&r, "dit/dit.step", 2, "nan");
    fail_once(&r, "step 2 of 4");
}

static void test_d01_disk_full_at_the_first_write(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    start_with_rule(&r, "mux/mux.write", 1, "ENOSPC");
    fail_once(&r, "no space: needs ");
}

static void test_d01_disk_full_at_the_sync(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    start_with_rule(&r, "mux/mux.sync", 1, "ENOSPC");
    fail_once(&r, "no space: needs ");
}

static void test_d03_write_error_of_a_clip(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    start_with_rule(&r, "mux/mux.rename", 1, "EIO");
    fail_once(&r, "Input/output error");
}

/* Slots are filled with pages at start: a small /dev/shm is found then and not in a clip. */
static void test_r01_shared_memory_full(void **state)
{
    (void)state;
    NEEDS_POINTS();
    static char text[16384];
    rig r;
    rig_make(&r, CONFIG);
    fault_arm(&r, "dit/share.open:1:ENOSPC");
    assert_int_equal(rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config), 2);
    assert_non_null(strstr(text, "shared memory: needs "));
    assert_non_null(strstr(text, " are free"));
    rig_remove(&r);
}

/* No descriptor for the moment: the job is tried again, and no process goes. */
static void test_r02_no_descriptor_for_a_loan(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    start_with_rule(&r, "vae/share.borrow", 1, "EMFILE");
    rig_submit(&r, "hit");
    assert_int_equal(rig_wait(&r, "hit", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_job(&r, "hit").retries, fault_seen(&r, "vae/share.borrow").fired);
    assert_int_equal(rig_stage(&r, VAE).restarts, 0);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_p01_encoder_killed_in_each_phase),
        cmocka_unit_test(test_p02_dit_killed_in_each_phase),
        cmocka_unit_test(test_p03_dit_killed_when_its_latent_is_lent),
        cmocka_unit_test(test_p04_vae_killed_in_each_phase),
        cmocka_unit_test(test_p05_mux_killed_in_each_phase),
        cmocka_unit_test(test_p05_mux_killed_after_the_rename),
        cmocka_unit_test(test_p07_two_killed_together),
        cmocka_unit_test(test_g02_no_memory_in_a_job),
        cmocka_unit_test(test_g04_wrong_numbers_are_found_in_their_step),
        cmocka_unit_test(test_d01_disk_full_at_the_first_write),
        cmocka_unit_test(test_d01_disk_full_at_the_sync),
        cmocka_unit_test(test_d03_write_error_of_a_clip),
        cmocka_unit_test(test_r01_shared_memory_full),
        cmocka_unit_test(test_r02_no_descriptor_for_a_loan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
