/*
 * test_cuda_faults_memory.c - other programs have the card's memory: refused, waited for, healed
 * SPDX-License-Identifier: Apache-2.0
 *
 * This program is the other one: it takes nearly all of the card, and gives it back when the log
 * says what is wrong. Needs a card, no fault points. Memory must be back after each test.
 */
#include "gpu_rig.h"

#include <pthread.h>
#include <unistd.h>

#include "lx_device.h"

#define FRAMES 33
#define WAIT_S 90

/* Planned for clips so large that an arena is no small change: 0.27 GiB for the DiT, 0.45 for the
 * VAE. The budget is said, so that what others have does not count when the plan is made. */
#define LARGE   "limits: {size: 1280x720, frames: 81}\n"
#define AT_ONCE LARGE "memory: {vram: 4GiB}\n"
/* 1.8 GiB of contexts, and room for the VAE or for the others, not for all. */
#define IN_TURN LARGE "memory: {vram: 2400MiB, policy: alternate}\n"

static witness card;
static uint64_t hash_undisturbed, used_bytes, free_bytes;

static void start(rig *r, const char *more, int slow_ms)
{
    gpu_rig_make(r, NULL, FRAMES, more);
    fault_arm(r, NULL);
    gpu_rig_launch(r, slow_ms);
    rig_sleep(0.5); /* descriptors and memory settle */
}

static void make_clip(rig *r, history *h, const char *id)
{
    char name[64];
    assert_true(history_submit(h, r, id, 42));
    assert_int_equal(history_end(h, r, id, WAIT_S), LX_CLIENT_DONE);
    snprintf(name, sizeof name, "%s.mp4", id);
    if (rig_hash(r, name) != hash_undisturbed)
        fail_msg("%s: other bits than undisturbed", name);
}

static int look_at_an_undisturbed_one(void **state)
{
    (void)state;
    rig r;
    uint64_t before = witness_free(&card);
    start(&r, AT_ONCE, 0);
    used_bytes = before - witness_free(&card);
    rig_submit(&r, "first");
    assert_int_equal(rig_wait(&r, "first", WAIT_S), LX_CLIENT_DONE);
    hash_undisturbed = rig_hash(&r, "first.mp4");
    printf("  three stages take %.0f MiB of the card\n", (double)used_bytes / 0x1p20);
    gpu_rig_end(&r);
    rig_sleep(1);
    free_bytes = witness_free(&card);
    return used_bytes < 500 * MIB || used_bytes > 8192 * MIB;
}

/* --- who has it ------------------------------------------------------------------------------- */

/* Does the driver tell of this process by its number? In a container it may not. */
static bool is_named_by_driver(void)
{
    static lx_cards cards; /* 200 KiB */
    lx_probe_options options = {.binary = LX2V_BIN_DIR "/lx2v-probe"};
    lx_err err = {0};
    if (lx_device_probe(&cards, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    const lx_card *c = &cards.card[gpu_index()];
    for (int i = 0; i < c->n_processes; i++)
        if (c->process[i].pid == getpid())
            return true;
    return false;
}

static void expect_named(const char *line)
{
    char words[32];
    bool is_named = is_named_by_driver();
    gpu_rig_expect(line, "the card is used by ");
    snprintf(words, sizeof words, "(pid %d)", (int)getpid());
    printf("  the driver %s this process (pid %d)\n  | %s",
           is_named ? "tells of" : "does not tell of", (int)getpid(), line);
    if (is_named)
        gpu_rig_expect(line, words);
}

/* --- at start --------------------------------------------------------------------------------- */

/* Nothing said: the budget is what is free, and that is refused before anything starts. */
static void test_g01_full_card_is_refused_with_figures(void **state)
{
    (void)state;
    static char text[65536];
    rig r;
    uint64_t before = witness_free(&card);
    gpu_rig_make(&r, NULL, FRAMES, LARGE);
    fault_arm(&r, NULL);
    witness_hold(&card, 800 * MIB);
    int code = rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config);
    witness_let_go(&card);
    const char *said = strstr(text, "do not fit: ");
    if (code != 3 || !said)
        fail_msg("exit code %d: %s", code, text);
    printf("  %s", said);
    gpu_rig_expect(said, "would need ");
    gpu_rig_expect(said, " are for lx2v");
    rig_remove(&r);
    witness_check(&card, before, "after it");
}

/* Gives the memory back once the log has n lines with these words, and a while after. */
typedef struct giver {
    const rig *r;
    const char *words;
    int n;
    double then_s, seen_s; /* seen_s: when, after the start; -1: not in time */
    char line[2048];       /* the first of them */
    pthread_t thread;
} giver;

static void *give_later(void *self)
{
    giver *g = self;
    lx_err err = {0};
    double from_s = rig_now_s();
    g->seen_s = -1;
    (void)lx_cuda_mark(card.cuda, 0, LX_CUDA_COMPUTE, &err); /* this thread's card, too */
    while (g->seen_s < 0 && rig_now_s() - from_s < 50) {
        if (gpu_rig_log(g->r, g->words, g->line) >= g->n)
            g->seen_s = rig_now_s() - from_s;
        rig_sleep(0.1);
    }
    rig_sleep(g->then_s);
    witness_let_go(&card);
    return NULL;
}

/* A launcher that cannot be ready before the giver has given; its first clip. */
static void heal(rig *r, giver *g)
{
    history h;
    g->r = r;
    assert_int_equal(pthread_create(&g->thread, NULL, give_later, g), 0);
    double from_s = rig_now_s();
    gpu_rig_launch(r, 0);
    double ready_s = rig_now_s() - from_s;
    pthread_join(g->thread, NULL);
    printf("  seen after %.1f s, given back %.1f s later, ready after %.1f s\n", g->seen_s,
           g->then_s, ready_s);
    if (g->seen_s < 0)
        fail_msg("the log never said \"%s\" %d times", g->words, g->n);
    assert_true(ready_s > g->seen_s + g->then_s); /* not before: it did wait */
    for (int stage = ENCODER; stage <= VAE; stage++) {
        lx_client_stage s = rig_stage(r, stage);
        printf("  %s: %d restarts; %s\n", lx_client_stage_name(stage), (int)s.restarts, s.text);
    }
    history_open(&h, r);
    make_clip(r, &h, "healed");
    history_check(&h, r);
}

/* Not even a context: each stage ends, and tries again after 1, 2, 4 ... s. Five such deaths are no
 * reason to give up. */
static void test_g01_no_memory_for_a_context_is_waited_for(void **state)
{
    (void)state;
    rig r;
    giver g = {.words = "stage=dit replica=0 died", .n = 5, .then_s = 0.5};
    uint64_t before = witness_free(&card);
    gpu_rig_make(&r, NULL, FRAMES, AT_ONCE);
    fault_arm(&r, NULL);
    witness_hold(&card, 40 * MIB);
    heal(&r, &g);
    assert_int_equal(gpu_rig_log(&r, "parked", NULL), 0);
    assert_true(rig_stage(&r, DIT).restarts >= 5);
    gpu_rig_expect(g.line, "no device memory for a context");
    gpu_rig_expect(g.line, "are free, the card is used by");
    expect_named(g.line);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* Room for the contexts and not for all arenas: which stage comes too late is chance. */
static void test_g01_too_little_memory_is_waited_for(void **state)
{
    (void)state;
    rig r;
    giver g = {.words = "device memory", .n = 1, .then_s = 5};
    uint64_t before = witness_free(&card);
    gpu_rig_make(&r, NULL, FRAMES, AT_ONCE);
    fault_arm(&r, NULL);
    witness_hold(&card, used_bytes - 300 * MIB);
    heal(&r, &g);
    printf("  | %s", g.line);
    assert_int_equal(gpu_rig_log(&r, "parked", NULL), 0);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* --- between two turns ------------------------------------------------------------------------ */

/* The DiT gives its memory back for the VAE, which needs more; the rest is taken meanwhile. */
static void test_g01_memory_taken_between_two_turns_is_waited_for(void **state)
{
    (void)state;
    rig r;
    history h;
    char line[2048];
    const char *const waits = "waiting for device memory";
    uint64_t before = witness_free(&card);
    start(&r, IN_TURN, 150); /* the DiT works on it for a second */
    history_open(&h, &r);
    gpu_rig_expect_log(&r, "device memory given back");
    assert_true(history_submit(&h, &r, "squeezed", 42));
    rig_wait_stage(&r, "squeezed", DIT, 60);
    witness_hold(&card, 64 * MIB);
    int n_before = gpu_rig_log(&r, waits, line);
    for (double until = rig_now_s() + 60; gpu_rig_log(&r, waits, line) == n_before; rig_sleep(0.05))
        if (rig_now_s() > until)
            fail_msg("nobody waits for memory; the job is %s",
                     lx_client_state_name(rig_job(&r, "squeezed").state));
    witness_hold(&card, 64 * MIB); /* what came back is taken as well */
    printf("  %d waited before; | %s", n_before, line);
    gpu_rig_expect(line, "of device memory are needed, ");
    gpu_rig_expect(line, " are free");
    expect_named(line);
    rig_sleep(3); /* a second attempt, in vain */
    assert_int_equal(rig_job(&r, "squeezed").state, LX_CLIENT_RUNNING);
    double from_s = rig_now_s();
    witness_let_go(&card);
    assert_int_equal(history_end(&h, &r, "squeezed", WAIT_S), LX_CLIENT_DONE);
    printf("  done %.1f s after the memory was there\n", rig_now_s() - from_s);
    if (rig_hash(&r, "squeezed.mp4") != hash_undisturbed)
        fail_msg("other bits than undisturbed");
    assert_int_equal(rig_job(&r, "squeezed").retries, 0);
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&r, stage).restarts, 0);
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* --- given back on request -------------------------------------------------------------------- */

/* `pause --release-vram`: all of it, contexts too; another program takes it meanwhile. */
static void test_release_gives_the_card_back_and_resume_takes_it(void **state)
{
    (void)state;
    rig r;
    history h;
    lx_err err = {0};
    uint64_t before = witness_free(&card);
    start(&r, AT_ONCE, 0);
    history_open(&h, &r);
    make_clip(&r, &h, "ahead");
    uint64_t ready = witness_free(&card);
    double from_s = rig_now_s();
    assert_int_equal(lx_client_command(r.client, LX_CLIENT_RELEASE, NULL, 0, &err), LX_OK);
    for (int stage = ENCODER; stage <= VAE; stage++)
        gpu_rig_wait_state(&r, stage, "released", 20);
    printf("  released after %.2f s\n", rig_now_s() - from_s);
    witness_check(&card, before, "while it is paused");
    assert_true(witness_free(&card) > ready + used_bytes / 2);
    assert_true(history_submit(&h, &r, "queued", 42));
    witness_hold(&card, 64 * MIB);
    rig_sleep(0.5);
    assert_int_equal(rig_job(&r, "queued").state, LX_CLIENT_QUEUED);
    witness_let_go(&card);
    assert_int_equal(lx_client_command(r.client, LX_CLIENT_RESUME, NULL, 0, &err), LX_OK);
    from_s = rig_now_s();
    assert_int_equal(history_end(&h, &r, "queued", WAIT_S), LX_CLIENT_DONE);
    printf("  a clip %.2f s after `resume`\n", rig_now_s() - from_s);
    if (rig_hash(&r, "queued.mp4") != hash_undisturbed)
        fail_msg("other bits than undisturbed");
    witness_check(&card, ready, "after `resume`");
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&r, stage).restarts, 0); /* nobody died */
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* Watched closely: the next process takes as much again, a quarter of a second later. */
static void test_p04_killed_vae_gives_its_memory_back_in_half_a_second(void **state)
{
    (void)state;
    rig r;
    history h;
    uint64_t before = witness_free(&card), most = 0;
    start(&r, AT_ONCE, 0);
    history_open(&h, &r);
    make_clip(&r, &h, "ahead");
    uint64_t ready = witness_free(&card);
    double from_s = rig_now_s(), back_s = -1;
    kill(rig_stage_pid(&r, VAE), SIGKILL);
    while (back_s < 0 && rig_now_s() - from_s < 3) {
        uint64_t now = witness_free(&card);
        most = now > most ? now : most;
        if (now > ready + 700 * MIB) /* its arena alone has 450 */
            back_s = rig_now_s() - from_s;
        rig_sleep(0.001);
    }
    printf("  %.0f MiB of a killed process are back after %.3f s\n",
           ((double)most - (double)ready) / 0x1p20, back_s);
    assert_true(back_s >= 0 && back_s <= 0.5);
    rig_wait_ready(&r, 30);
    printf("  ready again after %.2f s\n", rig_now_s() - from_s);
    make_clip(&r, &h, "after");
    witness_check(&card, ready, "with a new process");
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

static void test_card_memory_is_back_after_all_that_took_it(void **state)
{
    (void)state;
    witness_check(&card, free_bytes, "after all");
}

/* A test that failed in the middle must not leave the card full for the next. */
static int let_go(void **state)
{
    (void)state;
    witness_let_go(&card);
    return 0;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    card.cuda = gpu_card();
#define ALONE(test) cmocka_unit_test_teardown(test, let_go)
    const struct CMUnitTest tests[] = {
        ALONE(test_g01_full_card_is_refused_with_figures),
        ALONE(test_g01_too_little_memory_is_waited_for),
        ALONE(test_g01_memory_taken_between_two_turns_is_waited_for),
        ALONE(test_release_gives_the_card_back_and_resume_takes_it),
        ALONE(test_p04_killed_vae_gives_its_memory_back_in_half_a_second),
        ALONE(test_g01_no_memory_for_a_context_is_waited_for),
        ALONE(test_card_memory_is_back_after_all_that_took_it),
    };
    int failed = cmocka_run_group_tests(tests, look_at_an_undisturbed_one, NULL);
    lx_cuda_close(&card.cuda);
    return failed;
}
