/*
 * test_shortage.c - memory that is not there when a stage starts is waited for
 * SPDX-License-Identifier: Apache-2.0
 */
#include "fault.h"

/* A stage that ends with 3 says that nothing is wrong but the moment. That is tried again after 1,
 * 2, 4 and 8 s, and is no reason to park it: after five deaths it comes up. */
static void test_g01_no_memory_at_start_is_waited_for(void **state)
{
    (void)state;
    NEEDS_POINTS();
    rig r;
    history h;
    fault_start(&r,
                "dit/stage.load:2:exit=3,dit/stage.load:3:exit=3,dit/stage.load:4:exit=3,"
                "dit/stage.load:5:exit=3",
                NULL);
    history_open(&h, &r);
    double from_s = rig_now_s();
    kill(rig_stage_pid(&r, DIT), SIGKILL);
    for (int i = 0; i < 500 && !rig_stage(&r, DIT).restarts; i++)
        rig_sleep(0.01); /* a job that came before the launcher saw it would have a strike */
    assert_true(history_submit(&h, &r, "waits", 42));
    assert_int_equal(history_end(&h, &r, "waits", 60), LX_CLIENT_DONE);
    assert_true(rig_now_s() - from_s > 14.9); /* no busy loop: 15 s of rest */
    assert_int_equal(rig_stage(&r, DIT).restarts, 5);
    assert_non_null(strstr(rig_stage(&r, DIT).text, "exit code 3"));
    assert_int_equal(rig_job(&r, "waits").retries, 0);
    history_check(&h, &r);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_g01_no_memory_at_start_is_waited_for)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
