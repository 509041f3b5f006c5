/*
 * test_hangs.c - a hang is a death, slowness is not
 * SPDX-License-Identifier: Apache-2.0
 */
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "rig.h"

static void test_stopped_stage_is_declared_dead(void **state)
{
    (void)state;
    rig r;
    rig_start(&r, (rig_options){.slow_ms = 30, .config = "supervision: {beat_s: 0.5}\n"});
    rig_submit(&r, "before");
    assert_int_equal(rig_wait(&r, "before", 60), LX_CLIENT_DONE);
    rig_submit(&r, "stopped");
    rig_wait_stage(&r, "stopped", DIT, 30);
    pid_t pid = rig_stage_pid(&r, DIT);
    double stopped_s = rig_now_s();
    kill(pid, SIGSTOP);
    while (rig_stage_pid(&r, DIT) == pid && rig_now_s() - stopped_s < 10 * RIG_SLACK)
        rig_sleep(0.02);
    assert_true(rig_now_s() - stopped_s < 4 * RIG_SLACK); /* three beats, and a restart */
    assert_int_equal(rig_wait(&r, "stopped", 60), LX_CLIENT_DONE);
    assert_true(rig_hash(&r, "stopped.mp4") == rig_hash(&r, "before.mp4"));
    assert_non_null(strstr(rig_stage(&r, DIT).text, "no word for"));
    assert_int_equal(rig_job(&r, "stopped").retries, 1);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

/* Units take about 3 ms; now 200. Nobody dies of it, although the floor is 1.6 s. */
static void test_slow_stage_finishes_unkilled(void **state)
{
    (void)state;
    rig r;
    rig_start(&r,
              (rig_options){.slow_ms = 200, .config = "supervision: {beat_s: 0.5, hang_s: 1.6}\n"});
    lx_client_request request = rig_request("slow");
    lx_client_accepted accepted;
    request.frames = 5;
    assert_int_equal(lx_client_submit(r.client, &request, &accepted, NULL), LX_OK);
    assert_int_equal(rig_wait(&r, "slow", 60), LX_CLIENT_DONE);
    assert_int_equal(rig_job(&r, "slow").retries, 0);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&r, stage).restarts, 0);
    lx_client_job job = rig_job(&r, "slow");
    assert_true(job.stage[DIT].end_s - job.stage[DIT].start_s > 8 * 0.2);
    rig_stop(&r, SIGINT);
    rig_remove(&r);
}

/* One thread of the stage stands still, as in a kernel that never returns, while another goes on
 * beating: only the progress rule can find it. */
static void test_hung_unit_is_found_behind_a_beating_heart(void **state)
{
    (void)state;
    rig r;
    rig_start(&r,
              (rig_options){.slow_ms = 30, .config = "supervision: {beat_s: 0.5, hang_s: 1.6}\n"});
    rig_submit(&r, "before");
    assert_int_equal(rig_wait(&r, "before", 60), LX_CLIENT_DONE);
    rig_submit(&r, "hung");
    rig_wait_stage(&r, "hung", DIT, 30);
    pid_t pid = rig_stage_pid(&r, DIT);
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, pid, NULL, NULL)) {
        rig_stop(&r, SIGTERM);
        rig_remove(&r);
        print_message("ptrace is not allowed here\n");
        skip();
    }
    double stopped_s = rig_now_s();
    /* Until we have heard of its end, its parent does not. */
    for (int status = 0; !WIFSIGNALED(status) && rig_now_s() - stopped_s < 10 * RIG_SLACK;
         rig_sleep(0.02))
        if (waitpid(pid, &status, WNOHANG | __WALL) != pid)
            status = 0;
    double found_s = rig_now_s() - stopped_s;
    assert_int_equal(rig_wait(&r, "hung", 60), LX_CLIENT_DONE);
    assert_non_null(strstr(rig_stage(&r, DIT).text, "no progress for"));
    assert_true(found_s > 1.5 && found_s < 4 * RIG_SLACK);
    assert_true(rig_hash(&r, "hung.mp4") == rig_hash(&r, "before.mp4"));
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stopped_stage_is_declared_dead),
        cmocka_unit_test(test_slow_stage_finishes_unkilled),
        cmocka_unit_test(test_hung_unit_is_found_behind_a_beating_heart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
