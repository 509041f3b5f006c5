/*
 * test_route.c - the way of a job, and every way it can go wrong
 * SPDX-License-Identifier: Apache-2.0
 */
#include "world.h"

/* --- the straight way ------------------------------------------------------------------------- */

static void test_route_follows_the_data(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    const sent *s = world_next(w, E, LX_MSG_JOB);
    assert_non_null(s);
    assert_int_equal(s->serial, 0);
    assert_int_equal(e->state, LX_JOB_RUNNING);
    uint64_t context = world_lends(w, E, 0, true);
    s = world_next(w, D, LX_MSG_JOB); /* as soon as the context is out, before the encoder's done */
    assert_non_null(s);
    assert_int_equal(s->serial, context);
    world_done(w, E, 0, 1);
    world_releases(w, D, 0, context);
    assert_int_equal(world_count(w, E, LX_MSG_RETIRE, 0), 0); /* a retry may need it */
    uint64_t latent = world_lends(w, D, 0, true);
    assert_int_equal(world_count(w, E, LX_MSG_RETIRE, context), 1); /* the latent is safe */
    s = world_next(w, V, LX_MSG_JOB);
    assert_non_null(s);
    assert_int_equal(s->serial, latent);
    assert_non_null(world_next(w, M, LX_MSG_JOB)); /* at the same time: chunks stream */
    world_done(w, D, 0, 1);
    world_releases(w, V, 0, latent);
    uint64_t chunk = world_lends(w, V, 0, false);
    assert_int_equal(world_count(w, M, LX_MSG_INPUT, chunk), 1);
    uint64_t last = world_lends(w, V, 0, true);
    world_releases(w, M, 0, chunk);
    assert_int_equal(world_count(w, V, LX_MSG_RETIRE, chunk), 1);
    world_done(w, V, 0, 1);
    world_releases(w, M, 0, last);
    assert_int_equal(world_count(w, D, LX_MSG_RETIRE, latent), 0);
    world_done(w, M, 0, 1);
    assert_int_equal(e->state, LX_JOB_DONE);
    assert_int_equal(world_count(w, D, LX_MSG_RETIRE, latent), 1);
    assert_int_equal(world_count(w, V, LX_MSG_RETIRE, last), 1);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        assert_null(route_holds(w->route, (lx_stage_kind)kind, 0));
        assert_int_equal(world_count(w, (lx_stage_kind)kind, LX_MSG_ABORT, 0), 0);
        assert_true(e->part[kind].end_s >= e->part[kind].start_s);
    }
    world_free(w);
}

static void test_route_overlaps_jobs(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *a = world_submit(w, "a"), *b = world_submit(w, "b"), *c = world_submit(w, "c");
    world_encode(w);
    world_encode(w);
    world_denoise(w);
    assert_ptr_equal(route_holds(w->route, V, 0), a);
    assert_ptr_equal(route_holds(w->route, D, 0), b);
    assert_ptr_equal(route_holds(w->route, E, 0), c);
    world_free(w);
}

static void test_route_depth_bounds_what_waits(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    char id[2] = "a";
    for (; id[0] < 'h'; id[0]++)
        world_submit(w, id);
    world_encode(w); /* a: to the DiT */
    world_encode(w); /* b, c: wait */
    world_encode(w);
    assert_null(route_holds(w->route, E, 0)); /* two contexts wait: the encoder rests */
    assert_int_equal(world_count(w, E, LX_MSG_JOB, 0), 3);
    world_denoise(w);
    assert_non_null(route_holds(w->route, E, 0));
    world_free(w);
}

static void test_route_mux_is_free_late(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *a = world_submit(w, "a"), *b = world_submit(w, "b");
    world_encode(w);
    world_denoise(w); /* a's; then b is encoded and denoised while mux still has a */
    world_lends(w, V, 0, true);
    world_done(w, V, 0, 1);
    world_encode(w);
    world_denoise(w);
    assert_ptr_equal(route_holds(w->route, V, 0), b);
    assert_ptr_equal(route_holds(w->route, M, 0), a);
    uint64_t first = world_lends(w, V, 0, false), second = world_lends(w, V, 0, true);
    assert_int_equal(world_count(w, M, LX_MSG_INPUT, first), 0); /* not into another job's clip */
    world_done(w, M, 0, 1);
    assert_ptr_equal(route_holds(w->route, M, 0), b);
    assert_int_equal(world_count(w, M, LX_MSG_INPUT, first), 1);
    assert_int_equal(world_count(w, M, LX_MSG_INPUT, second), 1);
    world_free(w);
}

static void test_route_takes_the_replica_that_ends_first(void **state)
{
    (void)state;
    world *w = world_new(1, 2, 1, 1, 4);
    const double slow_s = 10, fast_s = 1;
    for (int i = 0; i < 2; i++) { /* both are tried once */
        char id[3] = {'t', (char)('0' + i), 0};
        world_submit(w, id);
        world_encode(w);
    }
    for (int i = 0; i < 2; i++) {
        world_lends(w, D, i, true);
        world_done(w, D, i, i == 0 ? slow_s : fast_s);
    }
    lx_entry *a = world_submit(w, "a");
    world_encode(w);
    assert_ptr_equal(route_holds(w->route, D, 1), a); /* the fast one */
    world_submit(w, "b");
    world_encode(w);
    assert_null(route_holds(w->route, D, 0)); /* waiting 1 s for the fast one beats 10 s */
    world_free(w);
}

/* --- deaths ----------------------------------------------------------------------------------- */

static void test_encoder_dead_is_encoded_again(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_starts(w, E, 0);
    world_dies(w, E, 0);
    assert_int_equal(e->state, LX_JOB_RUNNING);
    assert_int_equal(e->attempt, 1);
    assert_int_equal(world_count(w, E, LX_MSG_JOB, 0), 1);
    world_up(w, E, 0);
    world_pump(w);
    assert_int_equal(world_count(w, E, LX_MSG_JOB, 0), 2);
    assert_int_equal(e->strikes, 1);
    world_free(w);
}

static void test_dit_dead_begins_from_the_lent_context(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    uint64_t context = world_lends(w, E, 0, true);
    world_done(w, E, 0, 1);
    world_releases(w, D, 0, context);
    world_dies(w, D, 0);
    world_up(w, D, 0);
    world_pump(w);
    assert_int_equal(world_count(w, D, LX_MSG_JOB, context), 2);
    assert_int_equal(world_count(w, E, LX_MSG_JOB, 0), 1); /* not encoded again */
    assert_int_equal(e->attempt, 1);
    world_free(w);
}

static void test_dit_dead_after_latent_is_not_repeated(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    uint64_t epoch = w->epoch[D][0];
    world_lends(w, D, 0, true); /* and no done */
    world_dies(w, D, 0);
    assert_int_equal(e->strikes, 0);
    assert_int_equal(e->attempt, 0);
    assert_ptr_equal(route_holds(w->route, V, 0), e);
    assert_false(world_has_swept(w, epoch)); /* the latent's name is needed */
    world_up(w, D, 0);
    world_lends(w, V, 0, true);
    world_done(w, V, 0, 1);
    world_done(w, M, 0, 1);
    assert_int_equal(e->state, LX_JOB_DONE);
    assert_true(world_has_swept(w, epoch));
    assert_int_equal(world_count(w, D, LX_MSG_RETIRE, 0), 0); /* the new process lent nothing */
    world_free(w);
}

static void test_lender_and_its_names_gone_begins_earlier(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    w->gone[w->n_gone++] = w->epoch[E][0]; /* it left in order: its names with it */
    world_dies(w, E, 0);
    /* The DiT had not borrowed yet: it is told to stop, the job is encoded again, no strike. */
    assert_int_equal(world_count(w, D, LX_MSG_ABORT, 0), 1);
    assert_int_equal(e->strikes, 0);
    world_up(w, E, 0);
    world_fails(w, D, 0, LX_ECANCEL);
    assert_ptr_equal(route_holds(w->route, E, 0), e);
    world_free(w);
}

static void test_lender_gone_after_borrowing_changes_nothing(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    uint64_t context = world_lends(w, E, 0, true);
    world_done(w, E, 0, 1);
    world_releases(w, D, 0, context);
    w->gone[w->n_gone++] = w->epoch[E][0];
    world_dies(w, E, 0);
    assert_int_equal(e->attempt, 0);
    assert_ptr_equal(route_holds(w->route, D, 0), e);
    world_denoise(w);
    assert_ptr_equal(route_holds(w->route, V, 0), e);
    world_free(w);
}

static void test_both_dead_begins_from_the_start(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    world_starts(w, D, 0);
    w->gone[w->n_gone++] = w->epoch[E][0];
    world_dies(w, D, 0); /* noticed first: the job goes to the encoder, which is dead as well */
    world_dies(w, E, 0);
    world_up(w, E, 0);
    world_up(w, D, 0);
    world_pump(w);
    assert_ptr_equal(route_holds(w->route, E, 0), e);
    assert_int_equal(e->strikes, 1);
    world_free(w);
}

static void test_vae_dead_begins_from_the_latent_with_mux(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    uint64_t latent = world_lends(w, D, 0, true);
    world_done(w, D, 0, 1);
    world_lends(w, V, 0, false);
    world_dies(w, V, 0);
    assert_int_equal(world_count(w, M, LX_MSG_ABORT, 0), 1);
    world_up(w, V, 0);
    world_pump(w);
    assert_int_equal(world_count(w, V, LX_MSG_JOB, latent), 1); /* mux has not let go */
    world_fails(w, M, 0, LX_ECANCEL);
    assert_int_equal(world_count(w, V, LX_MSG_JOB, latent), 2);
    assert_int_equal(world_count(w, M, LX_MSG_JOB, 0), 2);
    assert_int_equal(world_count(w, D, LX_MSG_JOB, 0), 1);
    world_lends(w, V, 0, true);
    world_done(w, V, 0, 1);
    world_done(w, M, 0, 1);
    assert_int_equal(e->state, LX_JOB_DONE);
    assert_int_equal(e->retries, 1);
    world_free(w);
}

static void test_vae_dead_after_last_chunk_is_not_repeated(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    world_denoise(w);
    uint64_t epoch = w->epoch[V][0], chunk = world_lends(w, V, 0, true);
    world_dies(w, V, 0);
    assert_int_equal(e->attempt, 0);
    assert_int_equal(world_count(w, M, LX_MSG_ABORT, 0), 0);
    assert_false(world_has_swept(w, epoch));
    world_releases(w, M, 0, chunk);
    assert_true(world_has_swept(w, epoch));
    world_done(w, M, 0, 1);
    assert_int_equal(e->state, LX_JOB_DONE);
    world_free(w);
}

static void test_mux_dead_gives_chunks_back(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    world_denoise(w);
    world_starts(w, M, 0);
    uint64_t chunk = world_lends(w, V, 0, false);
    world_dies(w, M, 0);
    assert_int_equal(world_count(w, V, LX_MSG_RETIRE, chunk), 1);
    assert_int_equal(world_count(w, V, LX_MSG_ABORT, 0), 1);
    assert_int_equal(e->strikes, 1);
    world_fails(w, V, 0, LX_ECANCEL);
    assert_int_equal(world_count(w, V, LX_MSG_JOB, 0), 2);
    world_free(w);
}

static void test_retry_does_not_abort_the_lender(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    uint64_t latent = world_lends(w, D, 0, true); /* the DiT has yet to say done */
    world_dies(w, V, 0);
    assert_int_equal(world_count(w, D, LX_MSG_ABORT, 0), 0);
    world_fails(w, M, 0, LX_ECANCEL);
    world_up(w, V, 0);
    world_done(w, D, 0, 1);
    assert_int_equal(world_count(w, V, LX_MSG_JOB, latent), 2);
    assert_ptr_equal(route_holds(w->route, V, 0), e);
    world_free(w);
}

static void test_second_death_buries_the_job(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *poison = world_submit(w, "a"), *next = world_submit(w, "b");
    world_encode(w);
    for (int i = 0; i < 2; i++) {
        assert_ptr_equal(route_holds(w->route, D, 0), poison);
        world_starts(w, D, 0);
        world_dies(w, D, 0);
        world_up(w, D, 0);
        world_pump(w);
    }
    assert_int_equal(poison->state, LX_JOB_FAILED);
    assert_non_null(strstr(poison->error, "it was killed"));
    world_encode(w);
    assert_ptr_equal(route_holds(w->route, D, 0), next); /* those behind it are served */
    assert_int_equal(next->strikes, 0);
    world_free(w);
}

static void test_death_before_the_start_is_excused_once(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(e->state, LX_JOB_RUNNING);
        assert_int_equal(e->strikes, i < 1 ? 0 : i - 1);
        world_dies(w, E, 0);
        world_up(w, E, 0);
        world_pump(w);
    }
    assert_int_equal(e->state,
                     LX_JOB_FAILED); /* or a job that kills at once would go on for ever */
    world_free(w);
}

static void test_new_attempt_waits_for_old_holders(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 2, 2, 2);
    world_submit(w, "a");
    world_encode(w);
    world_denoise(w);
    int vae = route_holds(w->route, V, 0) ? 0 : 1;
    world_dies(w, V, vae);
    /* A second VAE and a second mux are idle, but the first mux still has its part file. */
    assert_int_equal(world_count(w, V, LX_MSG_JOB, 0), 1);
    int mux = route_holds(w->route, M, 0) ? 0 : 1;
    world_fails(w, M, mux, LX_ECANCEL);
    assert_int_equal(world_count(w, V, LX_MSG_JOB, 0), 2);
    world_free(w);
}

static void test_old_attempts_are_not_heard(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    lx_msg old = world_says(w, E, 0, LX_MSG_FAILED);
    old.u.failed.status = LX_EJOB;
    world_dies(w, E, 0);
    world_up(w, E, 0);
    world_pump(w);
    world_tell(w, E, 0, &old);
    assert_int_equal(e->state, LX_JOB_RUNNING);
    assert_ptr_equal(route_holds(w->route, E, 0), e);
    world_free(w);
}

static void test_idle_death_harms_no_job(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    uint64_t epoch = w->epoch[M][0];
    lx_entry *e = world_submit(w, "a");
    world_dies(w, M, 0);
    assert_int_equal(e->strikes + e->attempt, 0);
    assert_true(world_has_swept(w, epoch));
    world_free(w);
}

/* --- failures --------------------------------------------------------------------------------- */

static void test_failed_job_stops_its_other_stage(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    world_denoise(w);
    world_fails(w, M, 0, LX_EJOB); /* no space, say */
    assert_int_equal(world_count(w, V, LX_MSG_ABORT, 0), 1);
    assert_int_equal(e->state, LX_JOB_RUNNING); /* until the VAE has let go */
    world_fails(w, V, 0, LX_ECANCEL);
    assert_int_equal(e->state, LX_JOB_FAILED);
    assert_non_null(strstr(e->error, "reason given by the stage"));
    assert_int_equal(e->retries, 0);
    world_free(w);
}

static void test_stage_error_keeps_its_words_for_the_obituary(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    for (int i = 0; i < 2; i++) {
        world_starts(w, E, 0);
        world_fails(w, E, 0, LX_ESTAGE); /* reports, then exits 1 */
        assert_int_equal(e->state, LX_JOB_RUNNING);
        world_dies(w, E, 0);
        world_up(w, E, 0);
        world_pump(w);
    }
    assert_int_equal(e->state, LX_JOB_FAILED);
    assert_non_null(strstr(e->error, "reason given by the stage"));
    world_free(w);
}

static void test_done_without_a_result_fails(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_done(w, E, 0, 1);
    assert_int_equal(e->state, LX_JOB_FAILED);
    world_free(w);
}

static void test_forged_ticket_is_fatal_for_the_forger(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    world_submit(w, "a");
    const char *const names[] = {"/etc/passwd", "/lx2v." INSTANCE ".77.0",
                                 "/lx2v.ffffffffffffffffffffffffffffffff.1.0"};
    for (int i = 0; i < 3; i++) {
        lx_msg msg = world_says(w, E, 0, LX_MSG_ARTIFACT);
        msg.u.artifact.ticket.serial = 9;
        msg.u.artifact.ticket.epoch = w->epoch[E][0];
        snprintf(msg.u.artifact.ticket.name, sizeof msg.u.artifact.ticket.name, "%s", names[i]);
        world_tell(w, E, 0, &msg);
        assert_int_equal(w->n_killed, i + 1);
        assert_int_equal(w->killed_kind, E);
    }
    assert_int_equal(world_count(w, D, LX_MSG_JOB, 0), 0);
    world_free(w);
}

static void test_parked_stage_fails_those_who_need_it(void **state)
{
    (void)state;
    world *w = world_new(1, 2, 1, 1, 2);
    lx_entry *decoded = world_submit(w, "a"), *waiting = world_submit(w, "b");
    world_encode(w);
    world_denoise(w); /* "a" needs no DiT any more */
    world_dies(w, D, 0);
    route_park(w->route, D, 0, "no such card", w->now_s);
    assert_null(route_parked(w->route, D)); /* one replica is left */
    assert_int_equal(waiting->list, LX_LIST_RUNNING);
    world_dies(w, D, 1);
    route_park(w->route, D, 1, "no such card", w->now_s);
    assert_string_equal(route_parked(w->route, D), "no such card");
    world_fails(w, E, 0, LX_ECANCEL);
    assert_int_equal(waiting->state, LX_JOB_FAILED);
    assert_non_null(strstr(waiting->error, "no such card"));
    assert_int_equal(decoded->state, LX_JOB_RUNNING);
    assert_int_equal(route_retry(w->route, waiting, w->now_s, NULL), LX_ESTAGE);
    world_free(w);
}

/* --- people ----------------------------------------------------------------------------------- */

static void test_cancel_queued_ends_at_once(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 1);
    world_submit(w, "a");
    lx_entry *b = world_submit(w, "b");
    assert_int_equal(b->state, LX_JOB_QUEUED);
    assert_int_equal(route_cancel(w->route, b, w->now_s, NULL), LX_OK);
    assert_int_equal(b->state, LX_JOB_CANCELLED);
    assert_int_equal(route_cancel(w->route, b, w->now_s, NULL), LX_EJOB);
    world_free(w);
}

static void test_cancel_running_waits_for_the_stages(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    uint64_t latent = world_lends(w, D, 0, true);
    world_done(w, D, 0, 1);
    uint64_t chunk = world_lends(w, V, 0, false);
    assert_int_equal(route_cancel(w->route, e, w->now_s, NULL), LX_OK);
    assert_int_equal(route_cancel(w->route, e, w->now_s, NULL), LX_OK); /* twice is once */
    assert_int_equal(world_count(w, V, LX_MSG_ABORT, 0), 1);
    assert_int_equal(world_count(w, M, LX_MSG_ABORT, 0), 1);
    world_fails(w, V, 0, LX_ECANCEL);
    assert_int_equal(e->state, LX_JOB_RUNNING);
    assert_int_equal(e->part[V].state, LX_PART_DONE);
    assert_int_equal(e->part[M].state, LX_PART_RUNNING);
    world_fails(w, M, 0, LX_ECANCEL);
    assert_int_equal(e->state, LX_JOB_CANCELLED);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) { /* nothing is at work any more */
        assert_int_equal(e->part[kind].state, LX_PART_DONE);
        assert_true(e->part[kind].end_s > 0 && e->part[kind].end_s <= e->end_s);
    }
    assert_int_equal(world_count(w, D, LX_MSG_RETIRE, latent), 1);
    assert_int_equal(world_count(w, V, LX_MSG_RETIRE, chunk), 1);
    world_free(w);
}

static void test_cancel_loses_against_done(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    world_encode(w);
    world_denoise(w);
    world_lends(w, V, 0, true);
    world_done(w, V, 0, 1);
    route_cancel(w->route, e, w->now_s, NULL);
    world_done(w, M, 0, 1); /* the rename was already made */
    assert_int_equal(e->state, LX_JOB_DONE);
    world_free(w);
}

static void test_cancelled_job_of_a_dying_stage_ends(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    route_cancel(w->route, e, w->now_s, NULL);
    world_dies(w, E, 0);
    assert_int_equal(e->state, LX_JOB_CANCELLED);
    assert_int_equal(e->strikes, 0);
    world_free(w);
}

static void test_late_artifact_is_retired(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *e = world_submit(w, "a");
    route_cancel(w->route, e, w->now_s, NULL);
    uint64_t context = world_lends(w, E, 0, true);
    assert_int_equal(world_count(w, E, LX_MSG_RETIRE, context), 1);
    world_done(w, E, 0, 1);
    assert_int_equal(e->state, LX_JOB_CANCELLED);
    assert_int_equal(world_count(w, D, LX_MSG_JOB, 0), 0);
    world_free(w);
}

static void test_retry_goes_to_the_end_with_the_same_seed(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 1);
    lx_entry *a = world_submit(w, "a"), *b = world_submit(w, "b");
    int64_t seed = a->job->seed;
    assert_int_equal(route_retry(w->route, a, w->now_s, NULL), LX_EJOB); /* it runs */
    world_fails(w, E, 0, LX_EJOB);
    assert_int_equal(a->state, LX_JOB_FAILED);
    assert_int_equal(route_retry(w->route, a, w->now_s, NULL), LX_OK);
    assert_int_equal(a->state, LX_JOB_QUEUED);
    assert_int_equal(a->error[0], 0);
    assert_int_equal(a->job->seed, seed);
    assert_ptr_equal(route_holds(w->route, E, 0), b);
    world_fails(w, E, 0, LX_EJOB);
    assert_ptr_equal(route_holds(w->route, E, 0), a);
    world_encode(w);
    world_denoise(w);
    world_lends(w, V, 0, true);
    world_done(w, V, 0, 1);
    world_done(w, M, 0, 1);
    assert_int_equal(a->state, LX_JOB_DONE);
    world_free(w);
}

static void test_pause_lets_running_jobs_go_on(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    world_submit(w, "a");
    route_pause(w->route, true);
    lx_entry *b = world_submit(w, "b");
    world_encode(w);
    world_denoise(w);
    assert_int_equal(b->state, LX_JOB_QUEUED);
    assert_int_equal(world_count(w, V, LX_MSG_JOB, 0), 1);
    route_pause(w->route, false);
    world_pump(w);
    assert_int_equal(b->state, LX_JOB_RUNNING);
    world_free(w);
}

/* The latent of an earlier launcher's attempt, or of this one's after DiT and VAE died. */
static void test_saved_latent_is_not_denoised_again(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_job job = world_job("a");
    lx_entry *e = NULL;
    assert_int_equal(lx_jobs_add(w->jobs, &job, w->now_s, &e, NULL), LX_OK);
    e->saved_bytes = 1;
    world_pump(w);
    assert_int_equal(world_count(w, E, LX_MSG_JOB, 0), 0);
    assert_ptr_equal(route_holds(w->route, D, 0), e);
    world_denoise(w); /* from the spool */
    assert_ptr_equal(route_holds(w->route, V, 0), e);
    world_starts(w, V, 0);
    w->gone[w->n_gone++] = w->epoch[D][0]; /* as if the lender's names had gone with it */
    world_dies(w, V, 0);
    world_fails(w, M, 0, LX_ECANCEL); /* it was asked to let go: from the spool once more */
    assert_int_equal(world_count(w, E, LX_MSG_JOB, 0), 0);
    assert_int_equal(world_count(w, D, LX_MSG_JOB, 0), 2);
    world_fails(w, D, 0, LX_EAGAIN); /* not what was saved: it starts over, and nobody is struck */
    assert_int_equal(e->saved_bytes, 0);
    assert_int_equal(e->strikes, 1); /* the VAE's death */
    assert_ptr_equal(route_holds(w->route, E, 0), e);
    world_encode(w);
    lx_msg done = world_says(w, D, 0, LX_MSG_ARTIFACT);
    world_lends(w, D, 0, true);
    done.kind = LX_MSG_DONE;
    done.u.done.start_s = done.u.done.end_s = w->now_s;
    memset(&done.u, 0, sizeof done.u);
    done.u.done.saved_bytes = 7; /* cannot be a latent of this size */
    world_tell(w, D, 0, &done);
    assert_int_equal(e->saved_bytes, 0);
    world_free(w);
}

/* A disk that has filled up since: known before the minutes of denoising, not after them. */
static void test_no_space_is_found_before_denoising(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *a = world_submit(w, "a"), *b = world_submit(w, "b");
    w->refusal = "output: no space: needs 2.0 MiB, has 1.0 MiB";
    world_encode(w);
    assert_int_equal(a->state, LX_JOB_FAILED);
    assert_string_equal(a->error, w->refusal);
    assert_int_equal(world_count(w, D, LX_MSG_JOB, 0), 0);
    w->refusal = NULL;
    world_encode(w);
    assert_ptr_equal(route_holds(w->route, D, 0), b); /* the next one is fine */
    world_free(w);
}

/* The launcher ends its stages: no death is anybody's fault, and a clip may be finished. */
static void test_leaving_changes_no_job(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *a = world_submit(w, "a"), *b = world_submit(w, "b"), *c = world_submit(w, "c");
    world_encode(w);
    world_denoise(w);
    world_lends(w, V, 0, true);
    world_starts(w, E, 0);
    route_leave(w->route);
    lx_msg done = world_says(w, M, 0, LX_MSG_DONE);
    done.u.done.start_s = done.u.done.end_s = w->now_s;
    route_message(w->route, M, 0, &done, w->now_s);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        route_down(w->route, (lx_stage_kind)kind, 0, "it was told to stop", w->now_s);
    assert_int_equal(a->state, LX_JOB_DONE);
    assert_int_equal(b->state, LX_JOB_RUNNING);
    assert_int_equal(c->state, LX_JOB_QUEUED);
    assert_true(b->strikes == 0 && c->strikes == 0 && b->attempt == 0);
    world_free(w);
}

/* --- excuses ---------------------------------------------------------------------------------- */

static void test_waiting_for_another_stage_is_no_hang(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    world_submit(w, "a");
    assert_false(route_may_wait(w->route, E, 0));
    world_encode(w);
    world_denoise(w);
    assert_true(route_may_wait(w->route, M, 0)); /* no chunk has come */
    assert_false(route_may_wait(w->route, V, 0));
    uint64_t chunk = world_lends(w, V, 0, false);
    assert_true(route_may_wait(w->route, V, 0)); /* perhaps it has no free slot */
    assert_false(route_may_wait(w->route, M, 0));
    double before = route_free_since_s(w->route, V, 0);
    world_releases(w, M, 0, chunk);
    assert_false(route_may_wait(w->route, V, 0));
    assert_true(route_free_since_s(w->route, V, 0) > before);
    assert_true(route_may_wait(w->route, M, 0));
    world_lends(w, V, 0, true);
    assert_false(route_may_wait(w->route, M, 0));
    world_free(w);
}

static void test_time_left_is_known_after_the_first_job(void **state)
{
    (void)state;
    world *w = world_new(1, 1, 1, 1, 2);
    lx_entry *a = world_submit(w, "a");
    assert_true(route_left_s(w->route, a, w->now_s) < 0);
    world_lends(w, E, 0, true);
    world_done(w, E, 0, 1);
    world_lends(w, D, 0, true);
    world_done(w, D, 0, 10);
    world_lends(w, V, 0, true);
    world_done(w, V, 0, 3);
    world_done(w, M, 0, 4);
    assert_true(route_left_s(w->route, a, w->now_s) <= 0);
    lx_entry *b = world_submit(w, "b");
    double left = route_left_s(w->route, b, w->now_s);
    assert_true(left > 14.9 && left < 15.1); /* 1 + 10 + the longer of 3 and 4 */
    world_lends(w, E, 0, true);
    world_done(w, E, 0, 1);
    lx_entry *c = world_submit(w, "c");
    assert_true(route_left_s(w->route, b, w->now_s) > 0);
    assert_true(route_left_s(w->route, c, w->now_s) < 0); /* b holds the DiT: nobody knows */
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route_follows_the_data),
        cmocka_unit_test(test_route_overlaps_jobs),
        cmocka_unit_test(test_route_depth_bounds_what_waits),
        cmocka_unit_test(test_route_mux_is_free_late),
        cmocka_unit_test(test_route_takes_the_replica_that_ends_first),
        cmocka_unit_test(test_encoder_dead_is_encoded_again),
        cmocka_unit_test(test_dit_dead_begins_from_the_lent_context),
        cmocka_unit_test(test_dit_dead_after_latent_is_not_repeated),
        cmocka_unit_test(test_lender_and_its_names_gone_begins_earlier),
        cmocka_unit_test(test_lender_gone_after_borrowing_changes_nothing),
        cmocka_unit_test(test_both_dead_begins_from_the_start),
        cmocka_unit_test(test_vae_dead_begins_from_the_latent_with_mux),
        cmocka_unit_test(test_vae_dead_after_last_chunk_is_not_repeated),
        cmocka_unit_test(test_mux_dead_gives_chunks_back),
        cmocka_unit_test(test_retry_does_not_abort_the_lender),
        cmocka_unit_test(test_second_death_buries_the_job),
        cmocka_unit_test(test_death_before_the_start_is_excused_once),
        cmocka_unit_test(test_new_attempt_waits_for_old_holders),
        cmocka_unit_test(test_old_attempts_are_not_heard),
        cmocka_unit_test(test_idle_death_harms_no_job),
        cmocka_unit_test(test_failed_job_stops_its_other_stage),
        cmocka_unit_test(test_stage_error_keeps_its_words_for_the_obituary),
        cmocka_unit_test(test_done_without_a_result_fails),
        cmocka_unit_test(test_forged_ticket_is_fatal_for_the_forger),
        cmocka_unit_test(test_parked_stage_fails_those_who_need_it),
        cmocka_unit_test(test_cancel_queued_ends_at_once),
        cmocka_unit_test(test_cancel_running_waits_for_the_stages),
        cmocka_unit_test(test_cancel_loses_against_done),
        cmocka_unit_test(test_cancelled_job_of_a_dying_stage_ends),
        cmocka_unit_test(test_late_artifact_is_retired),
        cmocka_unit_test(test_retry_goes_to_the_end_with_the_same_seed),
        cmocka_unit_test(test_pause_lets_running_jobs_go_on),
        cmocka_unit_test(test_no_space_is_found_before_denoising),
        cmocka_unit_test(test_saved_latent_is_not_denoised_again),
        cmocka_unit_test(test_leaving_changes_no_job),
        cmocka_unit_test(test_waiting_for_another_stage_is_no_hang),
        cmocka_unit_test(test_time_left_is_known_after_the_first_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
