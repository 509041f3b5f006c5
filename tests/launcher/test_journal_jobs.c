/*
 * test_journal_jobs.c - the table that a launcher starts with is the one that the last one had
 * SPDX-License-Identifier: Apache-2.0
 */
#include <unistd.h>

#include "journal_jobs.h"
#include "world.h"

#define LIVE    6
#define HISTORY 4

typedef struct desk {
    char dir[64];
    lx_jobs *jobs;
    journal *journal;
    double now_s;
} desk;

static void load(desk *d, int32_t max_live, lx_status expected, lx_err *err)
{
    assert_int_equal(lx_jobs_create(&d->jobs, max_live, HISTORY, NULL), LX_OK);
    lx_status status = journal_jobs_open(&d->journal, d->dir, d->jobs, d->now_s, err);
    if (status != expected)
        fail_msg("%s", err->message);
}

static void unload(desk *d)
{
    journal_close(&d->journal);
    lx_jobs_destroy(&d->jobs);
}

static void reload(desk *d)
{
    lx_err err = {0};
    unload(d);
    load(d, LIVE, LX_OK, &err);
}

static int set_up(void **state)
{
    desk *d = calloc(1, sizeof *d);
    lx_err err = {0};
    snprintf(d->dir, sizeof d->dir, "/tmp/lx2v-journal-XXXXXX");
    if (!mkdtemp(d->dir))
        return -1;
    d->now_s = 100;
    load(d, LIVE, LX_OK, &err);
    *state = d;
    return 0;
}

static int tear_down(void **state)
{
    desk *d = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", d->dir);
    unload(d);
    int failed = system(command);
    free(d);
    return failed;
}

/* As clients_accept.c, route.c and launcher.c do it together. */
static lx_entry *submit_with(desk *d, const char *id, uint64_t key)
{
    lx_job job = world_job(id);
    lx_entry *e = NULL;
    job.seed = 5;
    d->now_s += 1;
    assert_int_equal(journal_jobs_accept(d->journal, d->jobs, &job, key, true, d->now_s, NULL),
                     LX_OK);
    assert_int_equal(lx_jobs_add(d->jobs, &job, d->now_s, &e, NULL), LX_OK);
    e->has_drawn_seed = true;
    e->submit_wall_us = journal_wall_us();
    e->owner = key ? key : 1234; /* of a connection */
    e->key = key;
    return e;
}

static lx_entry *submit(desk *d, const char *id)
{
    return submit_with(d, id, 0);
}

static void end(desk *d, const char *id, lx_job_state state, const char *error)
{
    lx_entry *e = lx_jobs_find(d->jobs, id);
    e->begin_s = d->now_s;
    e->end_s = d->now_s += 1;
    e->file_bytes = 99;
    e->n_frames = 5;
    e->part[D] = (lx_part){.state = LX_PART_DONE, .start_s = d->now_s - 1, .end_s = d->now_s};
    snprintf(e->error, sizeof e->error, "%s", error);
    assert_int_equal(lx_jobs_move(d->jobs, e, state, NULL), LX_OK);
    assert_int_equal(journal_jobs_end(d->journal, e, NULL), LX_OK);
    e->saved_bytes = 0;
}

static void expect_list(const desk *d, lx_job_list list, const char *ids)
{
    char found[256] = "";
    for (const lx_entry *e = lx_jobs_first(d->jobs, list); e; e = e->next)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s ", e->job->id);
    assert_string_equal(found, ids);
}

static void run_a_while(desk *d)
{
    for (const char *id = "abcdefg"; *id; id++) {
        submit(d, (char[]){*id, 0});
        if (*id == 'b' || *id == 'd')
            end(d, (char[]){*id, 0}, LX_JOB_DONE, "");
        if (*id == 'e')
            end(d, "e", LX_JOB_FAILED, "dit: why");
    }
    lx_entry *c = lx_jobs_find(d->jobs, "c");
    c->saved_bytes = 4096;
    c->saved_crc = 0xabcdef01;
    assert_int_equal(journal_jobs_latent(d->journal, c, NULL), LX_OK);
}

static void check_table(const desk *d)
{
    expect_list(d, LX_LIST_QUEUED, "a c f g ");
    expect_list(d, LX_LIST_RUNNING, "");
    expect_list(d, LX_LIST_ENDED, "b d e ");
    const lx_entry *c = lx_jobs_find(d->jobs, "c"), *e = lx_jobs_find(d->jobs, "e");
    lx_job job = world_job("c");
    job.seed = 5;
    assert_memory_equal(c->job, &job, sizeof job);
    assert_true(c->has_drawn_seed && c->saved_bytes == 4096 && c->saved_crc == 0xabcdef01);
    assert_true(c->submit_s > 100 && c->submit_s < d->now_s && c->end_s == 0);
    assert_int_equal(e->state, LX_JOB_FAILED);
    assert_string_equal(e->error, "dit: why");
    assert_true(e->file_bytes == 99 && e->n_frames == 5 && e->end_s > e->begin_s);
    assert_true(e->part[D].state == LX_PART_DONE && e->part[D].end_s == e->end_s);
    assert_true(e->part[E].start_s < 0 && e->saved_bytes == 0);
}

static void test_table_comes_back(void **state)
{
    desk *d = *state;
    run_a_while(d);
    reload(d);
    check_table(d);
    reload(d); /* reading changes nothing */
    check_table(d);
}

/* A rewritten file says the same, and no more. */
static void test_rewriting_keeps_exactly_what_matters(void **state)
{
    desk *d = *state;
    run_a_while(d);
    lx_entry *a = lx_jobs_find(d->jobs, "a");
    assert_int_equal(lx_jobs_move(d->jobs, a, LX_JOB_RUNNING, NULL), LX_OK);
    uint64_t before = journal_bytes(d->journal);
    assert_int_equal(journal_jobs_rewrite(d->journal, d->jobs, NULL), LX_OK);
    assert_int_equal(journal_bytes(d->journal), before); /* all of it mattered */
    int64_t accepted_us = a->submit_wall_us;
    reload(d);
    check_table(d);
    assert_int_equal(lx_jobs_find(d->jobs, "a")->submit_wall_us, accepted_us);
    for (int i = 0; i < 200; i++) { /* what is forgotten costs no room for long */
        char id[8];
        snprintf(id, sizeof id, "x%d", i);
        submit(d, id);
        end(d, id, LX_JOB_DONE, "");
    }
    before = journal_bytes(d->journal);
    assert_int_equal(journal_jobs_rewrite(d->journal, d->jobs, NULL), LX_OK);
    assert_true(journal_bytes(d->journal) < before / 10);
    reload(d);
    expect_list(d, LX_LIST_QUEUED, "a c f g ");
    expect_list(d, LX_LIST_ENDED, "x197 x198 x199 "); /* the fourth made room for "a" */
}

static void test_retried_job_stands_at_the_end(void **state)
{
    desk *d = *state;
    run_a_while(d);
    const lx_entry *e = lx_jobs_find(d->jobs, "e");
    assert_int_equal(journal_jobs_accept(d->journal, d->jobs, e->job, 78, true, d->now_s, NULL),
                     LX_OK);
    reload(d);
    expect_list(d, LX_LIST_QUEUED, "a c f g e ");
    expect_list(d, LX_LIST_ENDED, "b d ");
    e = lx_jobs_find(d->jobs, "e");
    assert_true(e->retries == 1 && !e->error[0] && e->file_bytes == 0);
    assert_true(e->part[D].start_s < 0);
    assert_true(e->owner == 78); /* whose key asked for it again */
}

/* Another start changes nothing about whose jobs are counted; a connection is gone with it. */
static void test_jobs_count_for_their_key(void **state)
{
    desk *d = *state;
    submit_with(d, "a", 77);
    submit(d, "b");
    submit_with(d, "c", 77);
    submit_with(d, "d", 79);
    for (int again = 0; again < 2; again++) {
        reload(d);
        expect_list(d, LX_LIST_QUEUED, "a b c d ");
        assert_int_equal(lx_jobs_live_of(d->jobs, 77), 2);
        assert_int_equal(lx_jobs_live_of(d->jobs, 79), 1);
        assert_int_equal(lx_jobs_live_of(d->jobs, 1234), 0);
        assert_int_equal(journal_jobs_rewrite(d->journal, d->jobs, NULL), LX_OK);
    }
}

static void test_shorter_queue_is_refused_with_figures(void **state)
{
    desk *d = *state;
    lx_err err = {0};
    run_a_while(d);
    unload(d);
    load(d, 3, LX_ECONFIG, &err);
    assert_non_null(strstr(err.message, "more than 3 unfinished jobs"));
    assert_non_null(strstr(err.message, "limits.queue"));
    lx_jobs_destroy(&d->jobs);
    load(d, LIVE, LX_OK, &err);
    check_table(d);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_table_comes_back),
        CASE(test_rewriting_keeps_exactly_what_matters),
        CASE(test_retried_job_stands_at_the_end),
        CASE(test_jobs_count_for_their_key),
        CASE(test_shorter_queue_is_refused_with_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
