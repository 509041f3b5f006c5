/*
 * test_promises.c - the journal fails or the launcher dies at its worst moments: what was
 * acknowledged is made, once
 * SPDX-License-Identifier: Apache-2.0
 */
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fault.h"

/* A client that does not wait long for a launcher that is gone. */
static void open_short(rig *r)
{
    lx_err err = {0};
    lx_client_close(&r->client);
    if (lx_client_open(&r->client, r->endpoint, 0.5 * RIG_SLACK, &err) != LX_OK)
        fail_msg("%s", err.message);
}

static lx_status submit(rig *r, const char *id, bool *is_new)
{
    lx_err err = {0};
    lx_client_request request = rig_request(id);
    lx_client_accepted accepted = {0};
    lx_status status = lx_client_submit(r->client, &request, &accepted, &err);
    *is_new = accepted.is_new;
    return status;
}

static void fail_at(const char *rule, int exit_code)
{
    rig r;
    bool is_new;
    fault_start(&r, rule, NULL);
    open_short(&r);
    assert_int_equal(submit(&r, "told", &is_new), LX_OK);
    assert_int_not_equal(submit(&r, "untold", &is_new), LX_OK);
    assert_int_equal(rig_wait_exit(&r, 15), exit_code);
    rig_launch(&r, 0);
    open_short(&r);
    assert_int_equal(submit(&r, "told", &is_new), LX_OK);
    assert_false(is_new); /* kept */
    assert_int_equal(submit(&r, "untold", &is_new), LX_OK);
    assert_int_equal(rig_wait(&r, "told", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_wait(&r, "untold", 60), LX_CLIENT_DONE);
    assert_true(rig_hash(&r, "told.mp4") == rig_hash(&r, "untold.mp4"));
    assert_int_equal(rig_count_files(&r), 2);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* Never a second sync after a failed one: it ends, and the next start reads what is there. */
static void test_d03_failed_sync_ends_the_launcher(void **state)
{
    (void)state;
    NEEDS_POINTS();
    fail_at("launch/journal.sync:2:EIO", 1);
}

static void test_d03_failed_write_ends_the_launcher(void **state)
{
    (void)state;
    NEEDS_POINTS();
    /* After the new file's head, the head of its replacement at start, and the first job. */
    fail_at("launch/journal.write:4:ENOSPC", 1);
}

/* The kernel's own refusal: no file may grow beyond so much. */
static void limit_files(pid_t pid, rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(prlimit(pid, RLIMIT_FSIZE, NULL, &limit), 0);
    limit.rlim_cur = bytes == RLIM_INFINITY ? limit.rlim_max : bytes;
    assert_int_equal(prlimit(pid, RLIMIT_FSIZE, &limit, NULL), 0);
}

/* Of a clip: that job fails with the reason. Of the journal: the launcher ends, and what it had
 * acknowledged is made by the next. */
static void test_d03_write_error_of_the_kernel(void **state)
{
    (void)state;
    rig r;
    bool is_new;
    fault_start(&r, NULL, NULL);
    limit_files(rig_stage_pid(&r, MUX), 4096);
    rig_submit(&r, "hit");
    assert_int_equal(rig_wait(&r, "hit", 60), LX_CLIENT_FAILED);
    assert_non_null(strstr(rig_job(&r, "hit").error, "no space: needs "));
    assert_int_equal(rig_count_files(&r), 0);
    assert_int_equal(rig_stage(&r, MUX).restarts, 0);
    limit_files(rig_stage_pid(&r, MUX), RLIM_INFINITY);
    open_short(&r);
    assert_int_equal(submit(&r, "told", &is_new), LX_OK);
    limit_files(r.pid, 1);
    assert_int_not_equal(submit(&r, "untold", &is_new), LX_OK);
    assert_int_equal(rig_wait_exit(&r, 15), 1);
    rig_launch(&r, 0);
    open_short(&r);
    assert_int_equal(submit(&r, "told", &is_new), LX_OK);
    assert_false(is_new);
    assert_int_equal(submit(&r, "untold", &is_new), LX_OK);
    assert_int_equal(rig_wait(&r, "told", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_wait(&r, "untold", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_count_files(&r), 2);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_p06_killed_before_the_sync(void **state)
{
    (void)state;
    NEEDS_POINTS();
    fail_at("launch/journal.sync:2:kill", 128 + SIGKILL);
}

static void test_p06_killed_between_sync_and_answer(void **state)
{
    (void)state;
    NEEDS_POINTS();
    fail_at("launch/journal.synced:2:kill", 128 + SIGKILL);
}

static void test_d02_no_space_for_the_journal_is_a_refusal(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    bool is_new;
    lx_err err = {0};
    lx_client_accepted accepted;
    fault_start(&r, "launch/journal.allocate:1:ENOSPC", NULL);
    lx_client_request request = rig_request("refused");
    assert_int_equal(lx_client_submit(r.client, &request, &accepted, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, "no space"));
    assert_int_equal(submit(&r, "refused", &is_new), LX_OK); /* there is space again */
    assert_int_equal(rig_wait(&r, "refused", 60), LX_CLIENT_DONE);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* The saved latent is insurance: without it a clip is made all the same. */
static void test_d01_full_spool_costs_no_clip(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    fault_start(&r, "dit/spool.write:1+:ENOSPC", NULL);
    rig_submit(&r, "clip");
    assert_int_equal(rig_wait(&r, "clip", 60), LX_CLIENT_DONE);
    assert_true(fault_seen(&r, "dit/spool.write").fired == 1);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_d03_failed_sync_ends_the_launcher),
        cmocka_unit_test(test_d03_failed_write_ends_the_launcher),
        cmocka_unit_test(test_d03_write_error_of_the_kernel),
        cmocka_unit_test(test_p06_killed_before_the_sync),
        cmocka_unit_test(test_p06_killed_between_sync_and_answer),
        cmocka_unit_test(test_d02_no_space_for_the_journal_is_a_refusal),
        cmocka_unit_test(test_d01_full_spool_costs_no_clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
