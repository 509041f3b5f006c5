/*
 * test_cuda_transport.c - the whole system on cards: the same clip by every way between its stages
 * SPDX-License-Identifier: Apache-2.0
 *
 * A clip's bits do not depend on how its context and latent went from stage to stage, so its file
 * does not either. With a second card (LX2V_TEST_DEVICE2=N, else the next one) encoder and VAE run
 * there as well.
 */
#include "gpu.h"

#include "cuda/cu_share.h"
#include "cuda/lx_cuda_priv.h"
#include "pipeline/rig.h"

typedef struct seen {
    char transport[3][64], text[3][256]; /* by lender; 0: encoder -> dit */
} seen;

static void ignore_stage(void *self, const lx_client_stage *stage)
{
    (void)self;
    (void)stage;
}

static void note_link(void *self, const lx_client_link *link)
{
    seen *s = self;
    assert_true(link->from >= 0 && link->from < 3);
    snprintf(s->transport[link->from], sizeof s->transport[0], "%s", link->transport);
    snprintf(s->text[link->from], sizeof s->text[0], "%.250s", link->text);
    printf("  %s -> %s: %s %.2f ms %s\n", lx_client_stage_name(link->from),
           lx_client_stage_name(link->to), link->transport, link->ms, link->text);
}

static seen ask(rig *r)
{
    lx_err err = {0};
    seen s = {0};
    lx_client_sink sink = {.stage = ignore_stage, .link = note_link, .self = &s};
    if (lx_client_query(r->client, NULL, &sink, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    return s;
}

/* Three clips; returns the hash of the first's file. */
static uint64_t make_clips(rig *r)
{
    const char *ids[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++)
        rig_submit(r, ids[i]);
    rig_all_done(r, ids, 3, 120);
    uint64_t hash = rig_hash(r, "a.mp4");
    assert_true(hash == rig_hash(r, "b.mp4") && hash == rig_hash(r, "c.mp4"));
    return hash;
}

static uint64_t run(int dit, int others, const char *links, seen *out)
{
    rig r;
    char config[512];
    snprintf(config, sizeof config,
             "stages:\n  encoder: {device: cuda:%d}\n  dit: {device: cuda:%d}\n"
             "  vae: {device: cuda:%d}\nlinks: {%s}\n",
             others, dit, others, links);
    printf("dit on %d, encoder and vae on %d, %s\n", dit, others, links);
    rig_start(&r, (rig_options){.config = config});
    *out = ask(&r);
    uint64_t hash = make_clips(&r);
    *out = ask(&r); /* also after the work: nothing fell back */
    rig_stop(&r, 0);
    rig_remove(&r);
    return hash;
}

static void expect(const seen *s, const char *transport)
{
    for (int i = 0; i < 2; i++)
        if (strcmp(s->transport[i], transport) || s->text[i][0])
            fail_msg("link %d: %s (%s), expected %s", i, s->transport[i], s->text[i], transport);
    assert_string_equal(s->transport[2], "ring"); /* frames: from the card to shared memory */
}

static void test_transport_clip_is_the_same_by_ipc_and_ring(void **state)
{
    (void)state;
    seen s;
    int card = gpu_index();
    uint64_t by_auto = run(card, card, "transport: auto", &s);
    expect(&s, "ipc");
    uint64_t by_ring = run(card, card, "transport: ring", &s);
    expect(&s, "ring");
    uint64_t mixed = run(card, card, "transport: ipc, latent: ring", &s);
    assert_string_equal(s.transport[0], "ipc");
    assert_string_equal(s.transport[1], "ring");
    assert_true(by_auto == by_ring && by_auto == mixed);
}

/* The launcher does not serve what it cannot do as it was told. */
static void test_transport_that_is_insisted_on_ends_the_start(void **state)
{
    (void)state;
    rig r;
    char config[512];
    static char text[1 << 16]; /* all of a start's log: the reason is its end */
    snprintf(config, sizeof config,
             "stages:\n  encoder: {device: cuda:%d}\n  dit: {device: cuda:%d}\n"
             "  vae: {device: cuda:%d}\nlinks: {transport: peer}\n",
             gpu_index(), gpu_index(), gpu_index());
    rig_make(&r, config);
    int code = rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config);
    assert_int_equal(code, 2);
    if (!strstr(text, "peer copy is asked for"))
        fail_msg("no reason in: %s", text);
    rig_remove(&r);
}

/* A DiT that is killed comes back on the card, is tested again, and its clip is the same. */
static void test_transport_of_a_restarted_stage_is_found_again(void **state)
{
    (void)state;
    rig r;
    char config[512];
    snprintf(config, sizeof config,
             "stages:\n  encoder: {device: cuda:%d}\n  dit: {device: cuda:%d}\n"
             "  vae: {device: cuda:%d}\n",
             gpu_index(), gpu_index(), gpu_index());
    rig_start(&r, (rig_options){.config = config, .slow_ms = 20});
    rig_submit(&r, "before");
    assert_int_equal(rig_wait(&r, "before", 120), LX_CLIENT_DONE);
    rig_submit(&r, "struck");
    rig_wait_stage(&r, "struck", DIT, 60);
    kill(rig_stage_pid(&r, DIT), SIGKILL);
    assert_int_equal(rig_wait(&r, "struck", 120), LX_CLIENT_DONE);
    assert_true(rig_hash(&r, "before.mp4") == rig_hash(&r, "struck.mp4"));
    seen s = ask(&r);
    for (double until = rig_now_s() + 10; strcmp(s.transport[1], "ipc"); s = ask(&r)) {
        assert_true(rig_now_s() < until);
        rig_sleep(0.2);
    }
    expect(&s, "ipc");
    rig_stop(&r, 0);
    rig_remove(&r);
}

/* The other card, -1: there is none. *can: the driver claims peer access. */
static int second_card(bool *can)
{
    lx_cu_card cards[16];
    int n = 0;
    lx_cuda *cuda = gpu_card();
    const char *named = getenv("LX2V_TEST_DEVICE2");
    int other = named ? atoi(named) : gpu_index() + 1;
    int code = cuda->module->share->cards(cuda->dev, 16, cards, &n);
    bool is_there = !code && other < n && other != gpu_index();
    *can = is_there && cards[other].can_reach;
    lx_cuda_close(&cuda);
    return is_there ? other : -1;
}

static void test_transport_clip_is_the_same_across_cards(void **state)
{
    (void)state;
    seen s;
    bool can;
    int other = second_card(&can);
    if (other < 0) {
        printf("  one card: not tried\n");
        return;
    }
    uint64_t by_auto = run(gpu_index(), other, "transport: auto", &s);
    expect(&s, can ? "peer" : "ring");
    uint64_t by_ring = run(gpu_index(), other, "transport: ring", &s);
    expect(&s, "ring");
    assert_true(by_auto == by_ring);
}

int main(void)
{
    gpu_skip_without_card();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transport_clip_is_the_same_by_ipc_and_ring),
        cmocka_unit_test(test_transport_that_is_insisted_on_ends_the_start),
        cmocka_unit_test(test_transport_of_a_restarted_stage_is_found_again),
        cmocka_unit_test(test_transport_clip_is_the_same_across_cards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
