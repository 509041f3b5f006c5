/*
 * test_leases.c - one card's memory, in turn: never too much, never starved
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "leases.h"

#define E LX_STAGE_ENCODER
#define D LX_STAGE_DIT
#define V LX_STAGE_VAE

/* What the ledger said, in order: "+dit", "?vae" (asked back). */
static char said[4096];
static leases *ledger;

static void say(const char *mark, lx_stage_kind kind, int replica)
{
    size_t n = strlen(said);
    snprintf(said + n, sizeof said - n, "%s%s%s", n ? " " : "", mark, lx_stage_kind_name(kind));
    if (replica)
        snprintf(said + strlen(said), sizeof said - strlen(said), "%d", replica);
}

static void on_grant(void *self, lx_stage_kind kind, int replica, uint64_t bytes)
{
    (void)self;
    assert_true(bytes > 0);
    say("+", kind, replica);
}

static void on_recall(void *self, lx_stage_kind kind, int replica)
{
    (void)self;
    say("?", kind, replica);
}

static void expect(const char *words)
{
    if (strcmp(said, words) != 0)
        fail_msg("said \"%s\", expected \"%s\"", said, words);
    said[0] = 0;
}

static const leases_hands hands = {.grant = on_grant, .recall = on_recall};

/* A card of 100 with a context of 10 in each of three processes: 70 may be held. Another card whose
 * stages overlap has a second VAE. */
static int open_ledger(void **state)
{
    (void)state;
    plan *p = calloc(1, sizeof *p);
    lx_err err = {0};
    p->card[0] = (plan_card){.n = 3, .budget = 100, .policy = LX_POLICY_ALTERNATE};
    p->card[1] = (plan_card){.n = 1, .budget = 100, .policy = LX_POLICY_OVERLAP};
    const lx_stage_kind kinds[] = {E, D, V, V};
    for (int i = 0; i < 4; i++)
        p->process[p->n++] = (plan_process){
            .kind = kinds[i], .replica = i == 3, .card = i == 3, .need = {.context = 10}};
    assert_int_equal(leases_create(&ledger, p, hands, &err), LX_OK);
    free(p);
    said[0] = 0;
    assert_true(leases_of_card(ledger, 0).capacity == 70);
    return 0;
}

static int close_ledger(void **state)
{
    (void)state;
    leases_destroy(&ledger);
    assert_null(ledger);
    return 0;
}

static uint64_t held(void)
{
    leases_sums s = leases_of_card(ledger, 0);
    assert_true(s.held <= s.capacity && s.most <= s.capacity);
    return s.held;
}

static void test_leases_what_fits_is_granted_at_once(void **state)
{
    (void)state;
    leases_ask(ledger, E, 0, 20);
    leases_ask(ledger, V, 0, 50);
    expect("+encoder +vae");
    assert_true(held() == 70);
    leases_ask(ledger, V, 0, 50); /* asked twice is asked once */
    expect("");
    assert_true(held() == 70);
}

static void test_leases_a_waiting_stage_gets_holders_asked_back(void **state)
{
    (void)state;
    leases_ask(ledger, V, 0, 40);
    leases_ask(ledger, D, 0, 60);
    expect("+vae ?vae");
    assert_true(leases_waits(ledger, D, 0) && !leases_waits(ledger, V, 0));
    leases_given_back(ledger, V, 0, 40);
    expect("+dit");
    assert_true(held() == 60 && !leases_waits(ledger, D, 0));
    /* The VAE's next clip: now the DiT is asked. */
    leases_ask(ledger, V, 0, 40);
    expect("?dit");
    leases_given_back(ledger, D, 0, 60);
    expect("+vae");
}

/* Only as many as are needed, those that have held longest. */
static void test_leases_no_more_are_asked_back_than_needed(void **state)
{
    (void)state;
    leases_ask(ledger, E, 0, 20);
    leases_ask(ledger, V, 0, 40);
    leases_ask(ledger, D, 0, 30);
    expect("+encoder +vae ?encoder");
    leases_given_back(ledger, E, 0, 20);
    expect("+dit");
    assert_true(held() == 70);
}

static void test_leases_order_of_asking_is_kept(void **state)
{
    (void)state;
    leases_ask(ledger, V, 0, 50);
    leases_ask(ledger, D, 0, 60);
    leases_ask(ledger, E, 0, 10); /* would fit, but was second */
    expect("+vae ?vae");
    leases_given_back(ledger, V, 0, 50);
    expect("+dit +encoder");
    assert_true(held() == 70);
}

static void test_leases_of_the_dead_are_free(void **state)
{
    (void)state;
    leases_ask(ledger, D, 0, 60);
    leases_ask(ledger, V, 0, 40);
    expect("+dit ?dit");
    leases_gone(ledger, D, 0);
    expect("+vae");
    leases_ask(ledger, D, 0, 60); /* its next process */
    expect("?vae");
    leases_gone(ledger, D, 0); /* dies while it waits: nobody is served for it */
    leases_given_back(ledger, V, 0, 40);
    expect("");
    assert_true(held() == 0);
}

/* A recall and a stage's own giving back may cross, and the same may be told twice. */
static void test_leases_words_that_cross_do_no_harm(void **state)
{
    (void)state;
    leases_given_back(ledger, D, 0, 60); /* never held */
    leases_ask(ledger, D, 0, 60);
    leases_given_back(ledger, D, 0, 60);
    leases_given_back(ledger, D, 0, 60);
    leases_gone(ledger, D, 0);
    expect("+dit");
    assert_true(held() == 0);
    leases_ask(ledger, V, 1, 90); /* no ledger on that card */
    leases_ask(ledger, LX_STAGE_MUX, 0, 5);
    leases_ask(ledger, D, 7, 5);
    leases_ask(ledger, D, -1, 5);
    expect("");
    assert_true(!leases_has(ledger, V, 1) && leases_has(ledger, V, 0));
}

static void test_leases_more_than_there_is_waits_for_an_empty_card(void **state)
{
    (void)state;
    leases_ask(ledger, E, 0, 10);
    leases_ask(ledger, D, 0, 1000);
    expect("+encoder ?encoder");
    leases_given_back(ledger, E, 0, 10);
    expect("+dit");
    assert_true(held() == 70);
}

/* A pipeline's rounds with random timing: each stage that holds works, then gives back if it was
 * asked; whoever waits is served within a few rounds. */
static void test_leases_nobody_starves(void **state)
{
    (void)state;
    static const uint64_t bytes[] = {20, 60, 50};
    enum { IDLE, ASKED, WORKS } at[3] = {IDLE, IDLE, IDLE};
    int waited[3] = {0}, served[3] = {0};
    unsigned random = 12345;
    for (int round = 0; round < 20000; round++) {
        random = random * 1664525u + 1013904223u;
        int k = (int)(random >> 16) % 3;
        said[0] = 0;
        if (at[k] == IDLE) {
            leases_ask(ledger, (lx_stage_kind)k, 0, bytes[k]);
            at[k] = ASKED;
        } else if (at[k] == WORKS) {
            leases_given_back(ledger, (lx_stage_kind)k, 0, bytes[k]);
            at[k] = IDLE;
        }
        for (int i = 0; i < 3; i++) {
            if (at[i] == ASKED && !leases_waits(ledger, (lx_stage_kind)i, 0)) {
                at[i] = WORKS;
                served[i]++;
                waited[i] = 0;
            }
            waited[i] += at[i] == ASKED;
            assert_true(waited[i] < 200); /* rounds, of which one in three is each stage's */
        }
        held();
    }
    for (int i = 0; i < 3; i++)
        assert_true(served[i] > 1000);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_ledger, close_ledger)
    const struct CMUnitTest tests[] = {
        TEST(test_leases_what_fits_is_granted_at_once),
        TEST(test_leases_a_waiting_stage_gets_holders_asked_back),
        TEST(test_leases_no_more_are_asked_back_than_needed),
        TEST(test_leases_order_of_asking_is_kept),
        TEST(test_leases_of_the_dead_are_free),
        TEST(test_leases_words_that_cross_do_no_harm),
        TEST(test_leases_more_than_there_is_waits_for_an_empty_card),
        TEST(test_leases_nobody_starves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
