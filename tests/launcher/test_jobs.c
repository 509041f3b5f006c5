/*
 * test_jobs.c - the job table keeps its order and its bounds
 * SPDX-License-Identifier: Apache-2.0
 */
#include "text.h"
#include "world.h"

static lx_entry *add(lx_jobs *jobs, int i)
{
    char id[16];
    snprintf(id, sizeof id, "job%d", i);
    lx_job job = world_job(id);
    lx_entry *e = NULL;
    assert_int_equal(lx_jobs_add(jobs, &job, i, &e, NULL), LX_OK);
    return e;
}

static void test_jobs_are_found_by_id_and_output(void **state)
{
    (void)state;
    lx_jobs *jobs = NULL;
    lx_jobs_create(&jobs, 100, 10, NULL);
    lx_entry *e[100];
    for (int i = 0; i < 100; i++)
        e[i] = add(jobs, i);
    for (int i = 0; i < 100; i++) {
        assert_ptr_equal(lx_jobs_find(jobs, e[i]->job->id), e[i]);
        assert_ptr_equal(lx_jobs_find_output(jobs, e[i]->job->output), e[i]);
    }
    assert_null(lx_jobs_find(jobs, "job100"));
    assert_null(lx_jobs_find_output(jobs, "job100.mp4"));
    lx_jobs_move(jobs, e[7], LX_JOB_DONE, NULL);
    assert_ptr_equal(lx_jobs_find(jobs, "job7"), e[7]); /* can still be asked for */
    assert_null(lx_jobs_find_output(jobs, "job7.mp4")); /* but its name is not being written */
    lx_jobs_destroy(&jobs);
    assert_null(jobs);
}

static void test_jobs_keep_the_order_of_the_queue(void **state)
{
    (void)state;
    lx_jobs *jobs = NULL;
    lx_jobs_create(&jobs, 10, 10, NULL);
    lx_entry *a = add(jobs, 0), *b = add(jobs, 1), *c = add(jobs, 2);
    lx_jobs_move(jobs, b, LX_JOB_FAILED, NULL);
    lx_jobs_move(jobs, b, LX_JOB_QUEUED, NULL); /* retried: to the end */
    assert_ptr_equal(lx_jobs_first(jobs, LX_LIST_QUEUED), a);
    assert_ptr_equal(a->next, c);
    assert_ptr_equal(c->next, b);
    assert_null(b->next);
    assert_ptr_equal(lx_jobs_oldest(jobs), a); /* the order of submission is another */
    assert_ptr_equal(a->younger, b);
    assert_int_equal(lx_jobs_count(jobs, LX_LIST_QUEUED), 3);
    lx_jobs_destroy(&jobs);
}

static void test_jobs_full_queue_refuses(void **state)
{
    (void)state;
    lx_jobs *jobs = NULL;
    lx_jobs_create(&jobs, 3, 2, NULL);
    lx_entry *first = add(jobs, 0);
    add(jobs, 1);
    lx_entry *third = add(jobs, 2);
    lx_job more = world_job("more");
    lx_entry *e = NULL;
    lx_err err = {0};
    assert_int_equal(lx_jobs_add(jobs, &more, 9, &e, &err), LX_EAGAIN);
    assert_non_null(strstr(err.message, "3 jobs"));
    assert_null(e);
    lx_jobs_move(jobs, first, LX_JOB_RUNNING, NULL); /* a running one still counts */
    assert_int_equal(lx_jobs_add(jobs, &more, 9, &e, NULL), LX_EAGAIN);
    lx_jobs_move(jobs, first, LX_JOB_DONE, NULL);
    assert_int_equal(lx_jobs_add(jobs, &more, 9, &e, NULL), LX_OK);
    assert_int_equal(lx_jobs_move(jobs, first, LX_JOB_QUEUED, NULL), LX_EAGAIN); /* no retry now */
    assert_int_equal(first->state, LX_JOB_DONE);
    assert_int_equal(third->state, LX_JOB_QUEUED);
    lx_jobs_destroy(&jobs);
}

static void test_jobs_forget_the_oldest_ended(void **state)
{
    (void)state;
    lx_jobs *jobs = NULL;
    lx_jobs_create(&jobs, 2, 3, NULL);
    for (int i = 0; i < 1000; i++)
        lx_jobs_move(jobs, add(jobs, i), LX_JOB_DONE, NULL);
    lx_entry *live = add(jobs, 1000);
    assert_int_equal(lx_jobs_count(jobs, LX_LIST_ENDED), 2); /* one of three made room */
    assert_null(lx_jobs_find(jobs, "job997"));
    assert_non_null(lx_jobs_find(jobs, "job998"));
    int n = 0;
    uint64_t last = 0;
    for (lx_entry *e = lx_jobs_oldest(jobs); e; e = e->younger, n++) {
        assert_true(e->serial > last);
        last = e->serial;
    }
    assert_int_equal(n, 3);
    for (int i = 0; i < 20; i++) /* a live one is never forgotten */
        lx_jobs_move(jobs, add(jobs, 2000 + i), LX_JOB_CANCELLED, NULL);
    assert_ptr_equal(lx_jobs_find(jobs, "job1000"), live);
    lx_jobs_destroy(&jobs);
}

static void test_text_is_cut_at_characters(void **state)
{
    (void)state;
    char out[8];
    text_put(out, sizeof out, "abcde\xc3\xbc\xc3\xbc");
    assert_string_equal(out, "abcde\xc3\xbc");
    text_put(out, sizeof out, "abcdef\xc3\xbc");
    assert_string_equal(out, "abcdef");
    text_put(out, sizeof out,
             "ab\xff"
             "cd"); /* what is no UTF-8 ends it */
    assert_string_equal(out, "ab");
    text_format(out, sizeof out, "%d%s", 123456, "\xe2\x82\xac");
    assert_string_equal(out, "123456");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_jobs_are_found_by_id_and_output),
        cmocka_unit_test(test_jobs_keep_the_order_of_the_queue),
        cmocka_unit_test(test_jobs_full_queue_refuses),
        cmocka_unit_test(test_jobs_forget_the_oldest_ended),
        cmocka_unit_test(test_text_is_cut_at_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
