/*
 * test_transports.c - the links between the stages are tried at start, and after a death again
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

typedef struct seen {
    int n, n_tested, n_shm;
} seen;

static void ignore_stage(void *self, const lx_client_stage *stage)
{
    (void)self;
    (void)stage;
}

static void count_link(void *self, const lx_client_link *link)
{
    seen *s = self;
    assert_int_equal(link->to, link->from + 1);
    assert_string_equal(link->text, "");
    s->n++;
    s->n_tested += link->is_tested;
    s->n_shm += link->is_tested && !strcmp(link->transport, "shm") && link->ms > 0;
}

static seen ask(rig *r)
{
    lx_err err = {0};
    seen s = {0};
    lx_client_sink sink = {.stage = ignore_stage, .link = count_link, .self = &s};
    if (lx_client_query(r->client, NULL, &sink, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    return s;
}

/* Between processes without a card the wish for a card's transport means nothing. */
static void test_links_are_known_when_the_launcher_says_ready(void **state)
{
    rig r;
    (void)state;
    rig_start(&r, (rig_options){.config = "stages: {dit: {replicas: 2}}\n"
                                          "links: {transport: ipc, context: ring}\n"});
    seen s = ask(&r);
    assert_int_equal(s.n, 2 + 2 + 1);
    assert_int_equal(s.n_shm, s.n);
    rig_submit(&r, "a");
    assert_int_equal(rig_wait(&r, "a", 60), LX_CLIENT_DONE);
    rig_stop(&r, 0);
    rig_remove(&r);
}

static void test_links_of_a_restarted_stage_are_tested_again(void **state)
{
    rig r;
    (void)state;
    rig_start(&r, (rig_options){0});
    kill(rig_stage_pid(&r, DIT), SIGKILL);
    for (double until = rig_now_s() + 10; ask(&r).n_tested == 3; rig_sleep(0.005))
        assert_true(rig_now_s() < until);
    rig_wait_ready(&r, 30);
    for (double until = rig_now_s() + 10; ask(&r).n_shm < 3; rig_sleep(0.02))
        assert_true(rig_now_s() < until);
    rig_submit(&r, "b");
    assert_int_equal(rig_wait(&r, "b", 60), LX_CLIENT_DONE);
    rig_stop(&r, 0);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_links_are_known_when_the_launcher_says_ready),
        cmocka_unit_test(test_links_of_a_restarted_stage_are_tested_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
