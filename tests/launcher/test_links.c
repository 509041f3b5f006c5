/*
 * test_links.c - who is asked what until a link is known, and what a death in between leaves
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "links.h"

#define INSTANCE "00112233445566778899aabbccddeeff"
#define E        LX_STAGE_ENCODER
#define D        LX_STAGE_DIT
#define V        LX_STAGE_VAE
#define M        LX_STAGE_MUX
#define SENT_MAX 64

typedef struct sent {
    lx_stage_kind to;
    int replica;
    lx_msg msg;
} sent;

typedef struct world {
    lx_config config;
    links *links;
    sent sent[SENT_MAX];
    int n_sent, n_killed;
    uint64_t epoch[LX_STAGE_COUNT][LX_LIMIT_REPLICAS], last_epoch, last_serial;
} world;

static bool on_send(void *self, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    world *w = self;
    assert_true(w->n_sent < SENT_MAX);
    w->sent[w->n_sent++] = (sent){kind, replica, *msg};
    return true;
}

static void on_kill(void *self, lx_stage_kind kind, int replica, const char *why)
{
    (void)kind;
    (void)replica;
    (void)why;
    ((world *)self)->n_killed++;
}

static world *new_world(int n_dit)
{
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        w->config.stage[kind].n_replicas = kind == D ? n_dit : 1;
    links_options o = {
        .config = &w->config, .instance = INSTANCE, .send = on_send, .kill = on_kill, .self = w};
    assert_int_equal(links_create(&w->links, &o, NULL), LX_OK);
    return w;
}

static void end_world(world *w)
{
    links_destroy(&w->links);
    assert_null(w->links);
    free(w);
}

static void up(world *w, lx_stage_kind kind, int replica)
{
    w->epoch[kind][replica] = ++w->last_epoch;
    links_up(w->links, kind, replica, w->last_epoch, 100);
    links_pump(w->links);
}

/* The one message that was sent since the last look. */
static const sent *next(world *w, lx_stage_kind to, int replica, lx_msg_kind kind)
{
    if (w->n_sent != 1)
        fail_msg("%d messages, one was expected", w->n_sent);
    w->n_sent = 0;
    assert_int_equal(w->sent[0].to, to);
    assert_int_equal(w->sent[0].replica, replica);
    assert_string_equal(lx_msg_kind_name(w->sent[0].msg.kind), lx_msg_kind_name(kind));
    return &w->sent[0];
}

static lx_msg lent(world *w, lx_stage_kind kind, int replica, uint64_t seed)
{
    lx_msg msg = {.kind = LX_MSG_LINK_LENT, .u.link.seed = seed};
    lx_ticket *t = &msg.u.link.ticket;
    t->serial = ++w->last_serial;
    t->epoch = w->epoch[kind][replica];
    snprintf(t->name, sizeof t->name, "/lx2v." INSTANCE ".%d.2", (int)t->epoch);
    return msg;
}

static void says(world *w, lx_stage_kind kind, int replica, const lx_msg *msg)
{
    links_message(w->links, kind, replica, msg);
    links_pump(w->links);
}

static lx_msg result(const lx_msg *test, lx_transport transport, const char *text)
{
    lx_msg msg = *test;
    msg.kind = LX_MSG_LINK_RESULT;
    msg.u.link.transport = (int32_t)transport;
    msg.u.link.ms = 0.5;
    snprintf(msg.u.link.text, sizeof msg.u.link.text, "%s", text);
    return msg;
}

/* From the lender's being asked to the borrower's being asked; returns what the latter was told. */
static lx_msg until_test(world *w, lx_stage_kind from, int lender, int borrower)
{
    const sent *s = next(w, from, lender, LX_MSG_LINK_ASK);
    assert_true(s->msg.u.link.seed != 0);
    lx_msg msg = lent(w, from, lender, s->msg.u.link.seed);
    says(w, from, lender, &msg);
    s = next(w, from + 1, borrower, LX_MSG_LINK_TEST);
    assert_int_equal(s->msg.u.link.seed, msg.u.link.seed);
    assert_int_equal(s->msg.u.link.ticket.serial, msg.u.link.ticket.serial);
    return s->msg;
}

static lx_msg info(world *w, int i)
{
    lx_msg msg;
    links_info(w->links, i, &msg);
    return msg;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_links_are_tested_once_both_ends_are_ready(void **state)
{
    (void)state;
    world *w = new_world(1);
    assert_int_equal(links_count(w->links), 3);
    assert_true(links_settled(w->links, 100));
    up(w, E, 0);
    assert_int_equal(w->n_sent, 0);
    assert_true(links_settled(w->links, 100)); /* nobody to test with */
    up(w, D, 0);
    assert_false(links_settled(w->links, 101));
    lx_msg test = until_test(w, E, 0, 0);
    assert_int_equal(info(w, 0).u.link_info.is_tested, 0);
    lx_msg answer = result(&test, LX_TRANSPORT_IPC, "");
    says(w, D, 0, &answer);
    assert_int_equal(next(w, E, 0, LX_MSG_RETIRE)->msg.u.lease.serial, test.u.link.ticket.serial);
    assert_true(links_settled(w->links, 101));
    lx_msg i = info(w, 0);
    assert_int_equal(i.u.link_info.is_tested, 1);
    assert_int_equal(i.u.link_info.from, E);
    assert_int_equal(i.u.link_info.to, D);
    assert_int_equal(i.u.link_info.transport, LX_TRANSPORT_IPC);
    assert_true(i.u.link_info.ms == 0.5);
    assert_null(links_refused(w->links));
    links_pump(w->links);
    assert_int_equal(w->n_sent, 0); /* known: not again */
    end_world(w);
}

static void test_links_of_one_lender_are_tested_one_by_one(void **state)
{
    (void)state;
    world *w = new_world(2);
    assert_int_equal(links_count(w->links), 2 + 2 + 1);
    up(w, D, 0);
    up(w, D, 1);
    up(w, E, 0);
    lx_msg first = until_test(w, E, 0, 0), answer = result(&first, LX_TRANSPORT_IPC, "");
    says(w, D, 0, &answer);
    assert_int_equal(w->n_sent, 2); /* the first is retired before the second is asked for */
    assert_int_equal(w->sent[0].msg.kind, LX_MSG_RETIRE);
    assert_int_equal(w->sent[1].msg.kind, LX_MSG_LINK_ASK);
    assert_true(w->sent[1].msg.u.link.seed != first.u.link.seed);
    w->sent[0] = w->sent[1];
    w->n_sent = 1;
    until_test(w, E, 0, 1);
    end_world(w);
}

static void test_link_that_failed_is_refused_with_its_reason(void **state)
{
    (void)state;
    world *w = new_world(1);
    up(w, D, 0);
    up(w, V, 0);
    lx_msg test = until_test(w, D, 0, 0);
    lx_msg answer = result(&test, LX_TRANSPORT_NONE, "cuda ipc: invalid handle");
    says(w, V, 0, &answer);
    assert_true(links_settled(w->links, 101));
    assert_non_null(links_refused(w->links));
    assert_non_null(strstr(links_refused(w->links), "link dit#0 -> vae#0: cuda ipc: invalid"));
    assert_non_null(strstr(links_refused(w->links), "links.transport"));
    end_world(w);
}

static void test_lender_that_cannot_lend_is_a_failed_link(void **state)
{
    (void)state;
    world *w = new_world(1);
    up(w, V, 0);
    up(w, M, 0);
    lx_msg msg = {.kind = LX_MSG_LINK_LENT,
                  .u.link.seed = next(w, V, 0, LX_MSG_LINK_ASK)->msg.u.link.seed};
    strcpy(msg.u.link.text, "no");
    says(w, V, 0, &msg);
    assert_int_equal(w->n_sent, 0);
    assert_non_null(strstr(links_refused(w->links), "link vae#0 -> mux#0: no"));
    end_world(w);
}

static void test_restarted_ends_are_tested_again(void **state)
{
    (void)state;
    world *w = new_world(1);
    up(w, E, 0);
    up(w, D, 0);
    lx_msg test = until_test(w, E, 0, 0), answer = result(&test, LX_TRANSPORT_RING, "");
    says(w, D, 0, &answer);
    w->n_sent = 0;
    links_down(w->links, D, 0);
    assert_int_equal(info(w, 0).u.link_info.is_tested, 0);
    links_pump(w->links);
    assert_int_equal(w->n_sent, 0);
    up(w, D, 0);
    test = until_test(w, E, 0, 0);
    /* The lender dies while the borrower tries: nobody is left to retire, and its answer is old. */
    links_down(w->links, E, 0);
    answer = result(&test, LX_TRANSPORT_IPC, "");
    says(w, D, 0, &answer);
    assert_int_equal(w->n_sent, 0);
    up(w, E, 0);
    says(w, D, 0, &answer); /* also now */
    assert_int_equal(info(w, 0).u.link_info.is_tested, 0);
    test = until_test(w, E, 0, 0);
    answer = result(&test, LX_TRANSPORT_IPC, "");
    says(w, D, 0, &answer);
    assert_int_equal(info(w, 0).u.link_info.transport, LX_TRANSPORT_IPC);
    end_world(w);
}

static void test_dead_borrower_gives_the_test_back(void **state)
{
    (void)state;
    world *w = new_world(1);
    up(w, D, 0);
    up(w, V, 0);
    lx_msg test = until_test(w, D, 0, 0);
    links_down(w->links, V, 0);
    assert_int_equal(next(w, D, 0, LX_MSG_RETIRE)->msg.u.lease.serial, test.u.link.ticket.serial);
    up(w, V, 0);
    uint64_t seed = next(w, D, 0, LX_MSG_LINK_ASK)->msg.u.link.seed;
    links_down(w->links, V, 0); /* before the lender answered */
    assert_int_equal(w->n_sent, 0);
    lx_msg msg = lent(w, D, 0, seed);
    says(w, D, 0, &msg);
    assert_int_equal(next(w, D, 0, LX_MSG_RETIRE)->msg.u.lease.serial, msg.u.link.ticket.serial);
    end_world(w);
}

static void test_forged_test_ticket_is_fatal_for_the_forger(void **state)
{
    (void)state;
    world *w = new_world(1);
    up(w, E, 0);
    up(w, D, 0);
    lx_msg msg = lent(w, E, 0, next(w, E, 0, LX_MSG_LINK_ASK)->msg.u.link.seed), old = msg;
    strcpy(msg.u.link.ticket.name, "/lx2v.ffffffffffffffffffffffffffffffff.1.0");
    says(w, E, 0, &msg);
    assert_int_equal(w->n_killed, 1);
    old.u.link.ticket.epoch = 77;
    says(w, E, 0, &old);
    assert_int_equal(w->n_killed, 2);
    assert_int_equal(w->n_sent, 0);
    end_world(w);
}

static void test_transport_that_fails_in_a_job_is_told(void **state)
{
    (void)state;
    world *w = new_world(1);
    up(w, E, 0);
    up(w, D, 0);
    lx_msg test = until_test(w, E, 0, 0), answer = result(&test, LX_TRANSPORT_IPC, "");
    says(w, D, 0, &answer);
    w->n_sent = 0;
    lx_msg later = {.kind = LX_MSG_LINK_RESULT, .u.link.transport = LX_TRANSPORT_RING};
    later.u.link.ticket = test.u.link.ticket;
    strcpy(later.u.link.text, "cuda ipc failed in a job: no");
    later.u.link.ticket.epoch++; /* of another lender */
    says(w, D, 0, &later);
    assert_int_equal(info(w, 0).u.link_info.transport, LX_TRANSPORT_IPC);
    later.u.link.ticket.epoch--;
    says(w, D, 0, &later);
    assert_int_equal(info(w, 0).u.link_info.transport, LX_TRANSPORT_RING);
    assert_string_equal(info(w, 0).u.link_info.text, "cuda ipc failed in a job: no");
    assert_int_equal(w->n_sent, 0);
    end_world(w);
}

static void test_unanswered_test_is_not_waited_for_long(void **state)
{
    (void)state;
    world *w = new_world(1);
    up(w, E, 0);
    up(w, D, 0);
    assert_false(links_settled(w->links, 105));
    assert_true(links_settled(w->links, 111));
    end_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_links_are_tested_once_both_ends_are_ready),
        cmocka_unit_test(test_links_of_one_lender_are_tested_one_by_one),
        cmocka_unit_test(test_link_that_failed_is_refused_with_its_reason),
        cmocka_unit_test(test_lender_that_cannot_lend_is_a_failed_link),
        cmocka_unit_test(test_restarted_ends_are_tested_again),
        cmocka_unit_test(test_dead_borrower_gives_the_test_back),
        cmocka_unit_test(test_forged_test_ticket_is_fatal_for_the_forger),
        cmocka_unit_test(test_transport_that_fails_in_a_job_is_told),
        cmocka_unit_test(test_unanswered_test_is_not_waited_for_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
