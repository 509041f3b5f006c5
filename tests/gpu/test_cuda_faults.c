/*
 * test_cuda_faults.c - what breaks on a card, broken on purpose under the whole pipeline
 * SPDX-License-Identifier: Apache-2.0
 *
 * Needs a card and fault points (-DLX2V_FAULTS=ON); without either it ends as skipped. Points are
 * counted from a process's first visit on, so an undisturbed launcher tells first how often each is
 * visited until all is ready, and in a clip. Device memory must be back after each test.
 */
#include "gpu_rig.h"

#include <unistd.h>

#ifdef LX2V_FAULTS
#define HAS_POINTS 1
#else
#define HAS_POINTS 0
#endif

#define FRAMES  33  /* 5 pieces of the VAE: it works on one clip while the DiT is struck */
#define SLOW_MS 100 /* of every unit of work, where two stages shall be at work */
#define WAIT_S  90

static witness card;

/* Of an undisturbed launcher: visits of a point in the DiT until ready, and in one clip. */
static struct {
    int paces, allocs, steps, opens;
    int paces_of_clip, allocs_of_clip, steps_of_clip;
    uint64_t hash, free_bytes;
} known;

static int visits(const rig *r, const char *name)
{
    return (int)fault_seen(r, name).visits;
}

static void start(rig *r, const char *rules, const char *more, int slow_ms)
{
    gpu_rig_make(r, NULL, FRAMES, more);
    fault_arm(r, rules);
    gpu_rig_launch(r, slow_ms);
    rig_sleep(0.5); /* descriptors and memory settle */
}

/* One clip, after which all is loaded and opened that first use loads and opens. Returns what is
 * free of the card then. */
static uint64_t warm_up(rig *r, history *h)
{
    assert_true(history_submit(h, r, "first", 42));
    assert_int_equal(history_end(h, r, "first", WAIT_S), LX_CLIENT_DONE);
    rig_sleep(0.5);
    return witness_free(&card);
}

static void check_clip(const rig *r, const char *name)
{
    if (rig_hash(r, name) != known.hash)
        fail_msg("%s: other bits than undisturbed", name);
}

static int look_at_an_undisturbed_one(void **state)
{
    (void)state;
    rig r;
    start(&r, NULL, NULL, 0);
    known.opens = visits(&r, "dit/cuda.open");
    known.paces = visits(&r, "dit/cuda.illegal");
    known.allocs = visits(&r, "dit/arena.alloc");
    known.steps = visits(&r, "dit/dit.step");
    rig_submit(&r, "first");
    assert_int_equal(rig_wait(&r, "first", WAIT_S), LX_CLIENT_DONE);
    known.paces_of_clip = visits(&r, "dit/cuda.illegal") - known.paces;
    known.allocs_of_clip = visits(&r, "dit/arena.alloc") - known.allocs;
    known.steps_of_clip = visits(&r, "dit/dit.step") - known.steps;
    known.hash = rig_hash(&r, "first.mp4");
    printf(
        "  until ready: %d opens, %d paces, %d allocs, %d steps; in a clip %d, %d and %d; pulls of "
        "the vae: %d\n",
        known.opens, known.paces, known.allocs, known.steps, known.paces_of_clip,
        known.allocs_of_clip, known.steps_of_clip, visits(&r, "vae/cuda.pull"));
    gpu_rig_end(&r);
    rig_sleep(1);
    known.free_bytes = witness_free(&card);
    return known.opens < 1 || known.paces < 1 || known.paces_of_clip < 4;
}

/* --- a job that cannot succeed ---------------------------------------------------------------- */

/* It fails with these words; the stage lives, its memory is as before, the next job is made. */
static void fails_once(const char *rule, const char *words, const char *more_words)
{
    rig r;
    history h;
    uint64_t before = witness_free(&card);
    start(&r, rule, NULL, 0);
    history_open(&h, &r);
    uint64_t ready = warm_up(&r, &h);
    assert_true(history_submit(&h, &r, "hit", 42));
    assert_int_equal(history_end(&h, &r, "hit", WAIT_S), LX_CLIENT_FAILED);
    lx_client_job job = rig_job(&r, "hit");
    printf("  %s\n", job.error);
    gpu_rig_expect(job.error, words);
    gpu_rig_expect(job.error, more_words);
    assert_int_equal(rig_count_files(&r), 1); /* that of the first */
    assert_true(history_submit(&h, &r, "next", 42));
    assert_int_equal(history_end(&h, &r, "next", WAIT_S), LX_CLIENT_DONE);
    check_clip(&r, "next.mp4");
    for (int stage = ENCODER; stage <= MUX; stage++)
        assert_int_equal(rig_stage(&r, stage).restarts, 0);
    witness_check(&card, ready, "while it serves");
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

static void test_g02_no_device_memory_in_a_job(void **state)
{
    (void)state;
    char rule[96];
    snprintf(rule, sizeof rule, "dit/arena.alloc:%d:ENOMEM",
             known.allocs + known.allocs_of_clip + 3);
    fails_once(rule, "needs ", "were planned at start");
}

static void test_g04_wrong_numbers_on_the_card_are_found_in_their_step(void **state)
{
    (void)state;
    char rule[96];
    snprintf(rule, sizeof rule, "dit/dit.step:%d:nan", known.steps + known.steps_of_clip + 2);
    fails_once(rule, "dit: step 2 of 4", "the velocity is not finite, first at channel 0");
}

/* --- a context that is lost ------------------------------------------------------------------- */

static void wait_fired(const rig *r, const char *name)
{
    for (double until = rig_now_s() + WAIT_S; !fault_seen(r, name).fired; rig_sleep(0.005))
        if (rig_now_s() > until)
            fail_msg("%s did not fire in %d visits", name, visits(r, name));
}

/* One clip is in the VAE, whose latent came from the card's memory; the next is in the DiT, and the
 * rule strikes it there at its third block. */
static void strike(rig *r, history *h)
{
    int borrowed = visits(r, "vae/stage.borrowed");
    assert_true(history_submit(h, r, "ahead", 42));
    for (double until = rig_now_s() + WAIT_S; visits(r, "vae/stage.borrowed") == borrowed;
         rig_sleep(0.005))
        assert_true(rig_now_s() < until);
    assert_true(history_submit(h, r, "struck", 42));
    wait_fired(r, "dit/cuda.illegal");
    lx_client_job ahead = rig_job(r, "ahead");
    printf("  struck while \"ahead\" is %s in the vae\n",
           ahead.stage[VAE].end_s < 0 ? "still" : "no more");
}

static void check_others(rig *r)
{
    assert_int_equal(rig_job(r, "ahead").retries, 0);
    check_clip(r, "ahead.mp4");
    assert_int_equal(rig_stage(r, ENCODER).restarts, 0);
    assert_int_equal(rig_stage(r, VAE).restarts, 0);
    assert_int_equal(rig_stage(r, MUX).restarts, 0);
}

static void test_g03_illegal_address_costs_one_try(void **state)
{
    (void)state;
    rig r;
    history h;
    char rule[96];
    uint64_t before = witness_free(&card);
    snprintf(rule, sizeof rule, "dit/cuda.illegal:%d:EIO",
             known.paces + 2 * known.paces_of_clip + 3);
    start(&r, rule, NULL, SLOW_MS);
    history_open(&h, &r);
    uint64_t ready = warm_up(&r, &h);
    leak_ledger counted = leak_count(&r);
    strike(&r, &h);
    assert_int_equal(history_end(&h, &r, "ahead", WAIT_S), LX_CLIENT_DONE);
    assert_int_equal(history_end(&h, &r, "struck", WAIT_S), LX_CLIENT_DONE);
    check_others(&r);
    assert_int_equal(rig_job(&r, "struck").retries, 1);
    check_clip(&r, "struck.mp4");
    assert_int_equal(rig_stage(&r, DIT).restarts, 1);
    printf("  %s\n", rig_stage(&r, DIT).text);
    gpu_rig_expect(rig_stage(&r, DIT).text, "exit code 1");
    gpu_rig_expect_log(&r, "illegal memory access"); /* its report, and why it began again */
    gpu_rig_expect_log(&r, "job=struck attempt=1 again_from=dit");
    rig_wait_ready(&r, 30);
    leak_check(&r, &counted);
    witness_check(&card, ready, "with a new process");
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* The same, and the process that comes after finds no card. */
static void test_g05_lost_card_parks_its_stage(void **state)
{
    (void)state;
    rig r;
    history h;
    char rules[160];
    lx_err err = {0};
    lx_client_summary summary;
    lx_client_accepted accepted;
    uint64_t before = witness_free(&card);
    snprintf(rules, sizeof rules, "dit/cuda.illegal:%d:EIO,dit/cuda.open:%d+:EIO",
             known.paces + known.paces_of_clip + 3, known.opens + 1);
    start(&r, rules, NULL, SLOW_MS);
    history_open(&h, &r);
    strike(&r, &h);
    bool is_accepted = history_submit(&h, &r, "waits", 42); /* unless it was parked before */
    assert_int_equal(history_end(&h, &r, "struck", WAIT_S), LX_CLIENT_FAILED);
    if (is_accepted)
        assert_int_equal(history_end(&h, &r, "waits", 5), LX_CLIENT_FAILED);
    printf("  %s\n", rig_job(&r, "struck").error);
    gpu_rig_expect(rig_job(&r, "struck").error, "stage dit is parked");
    gpu_rig_expect(rig_job(&r, "struck").error, "cannot be opened: no CUDA-capable device");
    assert_string_equal(rig_stage(&r, DIT).state, "parked");
    assert_int_equal(fault_seen(&r, "dit/cuda.open").fired, 1); /* parked at once */
    assert_int_equal(history_end(&h, &r, "ahead", WAIT_S), LX_CLIENT_DONE);
    check_others(&r);
    assert_int_equal(lx_client_query(r.client, NULL, &(lx_client_sink){0}, &summary, &err), LX_OK);
    assert_string_equal(summary.state, "degraded");
    lx_client_request request = rig_request("refused");
    assert_int_equal(lx_client_submit(r.client, &request, &accepted, &err), LX_ESTAGE);
    printf("  %s\n", err.message);
    gpu_rig_expect(err.message, "stage dit is parked");
    assert_int_equal(kill(r.pid, 0), 0); /* the launcher lives */
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* --- a kernel that never ends ----------------------------------------------------------------- */

#define HANG_S 5.0

static void test_p09_kernel_that_never_ends_is_killed_at_its_deadline(void **state)
{
    (void)state;
    rig r;
    history h;
    char rule[96];
    uint64_t before = witness_free(&card);
    snprintf(rule, sizeof rule, "dit/cuda.spin:%d:EIO", known.paces + known.paces_of_clip + 3);
    start(&r, rule, "supervision: {beat_s: 0.5, hang_s: 5}\n", 0);
    history_open(&h, &r);
    uint64_t ready = warm_up(&r, &h);
    pid_t pid = rig_stage_pid(&r, DIT);
    assert_true(history_submit(&h, &r, "hung", 42));
    wait_fired(&r, "dit/cuda.spin");
    double from_s = rig_now_s();
    rig_sleep(3.5); /* seven beats: its heart is well */
    assert_int_equal(rig_stage_pid(&r, DIT), pid);
    while (rig_stage(&r, DIT).pid == pid && rig_now_s() - from_s < 6 * HANG_S)
        rig_sleep(0.02);
    double found_s = rig_now_s() - from_s;
    printf("  a kernel that never ends: its process is gone after %.2f s, stated are %.0f s\n",
           found_s, HANG_S);
    assert_true(found_s > HANG_S - 0.6 && found_s < HANG_S + 2);
    assert_int_equal(history_end(&h, &r, "hung", WAIT_S), LX_CLIENT_DONE);
    printf("  %s\n", rig_stage(&r, DIT).text);
    gpu_rig_expect(rig_stage(&r, DIT).text, "no progress for");
    assert_int_equal(rig_job(&r, "hung").retries, 1);
    assert_int_equal(rig_stage(&r, DIT).restarts, 1);
    check_clip(&r, "hung.mp4");
    rig_wait_ready(&r, 30);
    witness_check(&card, ready, "with a new process");
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* --- lent again ------------------------------------------------------------------------------- */

static void note_link(void *self, const lx_client_link *link)
{
    if (link->from == DIT)
        *(lx_client_link *)self = *link;
}

static void ignore_stage(void *self, const lx_client_stage *stage)
{
    (void)self;
    (void)stage;
}

static lx_client_link link_to_vae(rig *r)
{
    lx_err err = {0};
    lx_client_link link = {0};
    lx_client_sink sink = {.stage = ignore_stage, .link = note_link, .self = &link};
    if (lx_client_query(r->client, NULL, &sink, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    return link;
}

/* The launcher is killed under the VAE. The next one's DiT lends what was saved: up into the card's
 * memory, and from there by CUDA IPC. It is held back until the VAE is up, so that their link is
 * tested before the clip comes. */
static void test_p06_saved_latent_is_lent_again_through_the_card(void **state)
{
    (void)state;
    rig r;
    history h;
    char path[160];
    uint64_t before = witness_free(&card);
    start(&r, "dit/stage.load:2:sleep=3000", NULL, 60);
    history_open(&h, &r);
    assert_true(history_submit(&h, &r, "kept", 42));
    snprintf(path, sizeof path, "%s/spool/kept.latent", r.state);
    for (double until = rig_now_s() + WAIT_S; access(path, F_OK); rig_sleep(0.01))
        assert_true(rig_now_s() < until);
    rig_sleep(0.2); /* until the DiT's word of it is in the journal */
    assert_int_equal(rig_job(&r, "kept").state, LX_CLIENT_RUNNING);
    kill(r.pid, SIGKILL);
    assert_int_equal(rig_wait_exit(&r, 5), 128 + SIGKILL);
    assert_int_equal(access(path, F_OK), 0);
    witness_check(&card, before, "after the launcher's death");
    rig_sleep(0.3);
    int pulls = visits(&r, "vae/cuda.pull"), steps = visits(&r, "dit/dit.step");
    gpu_rig_launch(&r, 0);
    assert_int_equal(history_end(&h, &r, "kept", WAIT_S), LX_CLIENT_DONE);
    check_clip(&r, "kept.mp4");
    gpu_rig_expect_log(&r, "job=kept latent from the spool");
    assert_int_equal(rig_job(&r, "kept").n_step_s, 0);
    assert_int_equal(visits(&r, "dit/dit.step") - steps, known.steps); /* of the self-test */
    assert_int_equal(rig_stage(&r, ENCODER).jobs, 0);
    lx_client_link link = link_to_vae(&r);
    printf("  dit -> vae: %s %.2f ms %s; pulls of the new vae: %d\n", link.transport, link.ms,
           link.text, visits(&r, "vae/cuda.pull") - pulls);
    assert_string_equal(link.transport, "ipc");
    assert_string_equal(link.text, "");
    assert_int_equal(visits(&r, "vae/cuda.pull") - pulls, 2 + 1); /* the link's test, the clip */
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* The card's way fails in a job although its test went well: the slot in host memory serves. */
static void test_refused_handle_falls_back_to_host_memory(void **state)
{
    (void)state;
    rig r;
    history h;
    uint64_t before = witness_free(&card);
    start(&r, "vae/cuda.pull:3:EIO", NULL, 0);
    history_open(&h, &r);
    assert_true(history_submit(&h, &r, "one", 42));
    assert_int_equal(history_end(&h, &r, "one", WAIT_S), LX_CLIENT_DONE);
    assert_int_equal(fault_seen(&r, "vae/cuda.pull").fired, 1);
    assert_int_equal(rig_job(&r, "one").retries, 0);
    check_clip(&r, "one.mp4");
    gpu_rig_expect_log(&r, "failed in a job");
    assert_string_equal(link_to_vae(&r).transport, "ring");
    history_check(&h, &r);
    gpu_rig_end(&r);
    witness_check(&card, before, "after it");
}

/* --- weights ---------------------------------------------------------------------------------- */

/* The first n numbers of an F32 tensor become the largest there is: finite, as a file may have
 * them, and too much for what is computed from them. */
static void spoil(const char *path, const char *tensor, int n)
{
    static char header[1 << 16];
    const uint32_t largest = 0x7f7fffff;
    uint64_t bytes = 0;
    long at = -1;
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fread(&bytes, sizeof bytes, 1, file), 1);
    assert_true(bytes < sizeof header);
    assert_int_equal(fread(header, 1, bytes, file), bytes);
    const char *entry = strstr(header, tensor);
    const char *offsets = entry ? strstr(entry, "data_offsets\":[") : NULL;
    if (!offsets || sscanf(offsets, "data_offsets\":[%ld", &at) != 1)
        fail_msg("%s: no %s", path, tensor);
    assert_int_equal(fseek(file, (long)(sizeof bytes + bytes) + at, SEEK_SET), 0);
    for (int i = 0; i < n; i++)
        assert_int_equal(fwrite(&largest, sizeof largest, 1, file), 1);
    fclose(file);
}

/* A model of its own, spoiled so, is refused by the stage's self-test on the card, by name. */
static void refuse_spoiled(const char *flags, const char *name, const char *tensor,
                           const char *words)
{
    static char text[65536];
    rig models, r;
    char model[96], path[256], command[512];
    uint64_t before = witness_free(&card);
    rig_make(&models, NULL); /* for its folder */
    snprintf(model, sizeof model, "%s/spoiled", models.root);
    snprintf(command, sizeof command, LX2V_BIN_DIR "/lx2v-mkmodel %s --quiet %s", model, flags);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/%s", model, name);
    spoil(path, tensor, 256);
    gpu_rig_make(&r, model, FRAMES, NULL);
    fault_arm(&r, NULL);
    int code = rig_run(text, sizeof text, "lx2v-launch %s 2>&1", r.config);
    const char *found = strstr(text, "self-test");
    if (code != 2 || !found || !strstr(found, words) || !strstr(found, model))
        fail_msg("exit code %d: %s", code, text);
    printf("  %.240s\n", found);
    rig_remove(&r);
    rig_remove(&models);
    witness_check(&card, before, "after it");
}

static void test_w02_overflow_in_the_dit_is_found_by_its_self_test(void **state)
{
    (void)state;
    refuse_spoiled("", "non_block.safetensors", "\"head.head.weight\"",
                   "the velocity is not finite");
}

static void test_w02_overflow_in_the_encoder_is_found_by_its_self_test(void **state)
{
    (void)state;
    refuse_spoiled("--t5 f32 --t5-format safetensors", "models_t5_umt5-xxl-enc-f32.safetensors",
                   "\"blocks.0.ffn.fc2.weight\"", "the context is not finite");
}

static void test_card_memory_is_back_after_all(void **state)
{
    (void)state;
    witness_check(&card, known.free_bytes, "after all");
}

int main(void)
{
    if (!HAS_POINTS) {
        printf("skipped: built without fault points (-DLX2V_FAULTS=ON)\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    card.cuda = gpu_card();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_g02_no_device_memory_in_a_job),
        cmocka_unit_test(test_g04_wrong_numbers_on_the_card_are_found_in_their_step),
        cmocka_unit_test(test_g03_illegal_address_costs_one_try),
        cmocka_unit_test(test_g05_lost_card_parks_its_stage),
        cmocka_unit_test(test_p09_kernel_that_never_ends_is_killed_at_its_deadline),
        cmocka_unit_test(test_p06_saved_latent_is_lent_again_through_the_card),
        cmocka_unit_test(test_refused_handle_falls_back_to_host_memory),
        cmocka_unit_test(test_w02_overflow_in_the_dit_is_found_by_its_self_test),
        cmocka_unit_test(test_w02_overflow_in_the_encoder_is_found_by_its_self_test),
        cmocka_unit_test(test_card_memory_is_back_after_all),
    };
    int failed = cmocka_run_group_tests(tests, look_at_an_undisturbed_one, NULL);
    lx_cuda_close(&card.cuda);
    return failed;
}
