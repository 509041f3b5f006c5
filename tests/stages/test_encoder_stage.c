/*
 * test_encoder_stage.c - the encoder as a stage, against a hand-driven launcher
 * SPDX-License-Identifier: Apache-2.0
 *
 * The stage is a real process that does what encoder_main.c does.
 */
#include "tools/hand_launcher.h"

#include "encoder.h"
#include "encoder_helpers.h"

#define DIM  128
#define ROOM (ENCODER_TEXT_LEN * DIM)

/* A sanitizer keeps freed memory for a while: resident memory says nothing then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED true
#elif defined(__has_feature)
#define IS_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define IS_SANITIZED false
#endif

static int serve(int argc, char **argv)
{
    lx_err err = {0};
    lx_stage *stage = NULL;
    encoder *model = NULL;
    lx_status status = lx_stage_open(&stage, argc, argv, LX_STAGE_ENCODER, &err);
    if (status == LX_OK)
        status = encoder_stage_open(&model, stage, &err);
    if (status == LX_OK) {
        lx_stage_ready(stage, lx_weights_id(umt5_weights(encoder_model(model))), 1,
                       encoder_arena_bytes(model));
        status = lx_stage_run(stage, encoder_on_job, model, &err);
    }
    encoder_close(&model);
    lx_stage_close(&stage, &err);
    return lx_exit_code(status);
}

/* --- the launcher ----------------------------------------------------------------------------- */

static char tokenizer[128];

static int prepare(void **state)
{
    launch *l = launch_open("model:\n"
                            "  dit: " GOLDEN "/distill_model.safetensors\n"
                            "  vae: " GOLDEN "/Wan2.1_VAE.pth\n"
                            "  text: " T5("int8") "\n"
                                                  "  tokenizer: tokenizer.json\n"
                                                  "encoder:\n"
                                                  "  cache_entries: 2\n"
                                                  "links:\n"
                                                  "  depth: 1\n");
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", l->folder);
    write_file(tokenizer, json_small());
    *state = l;
    return 0;
}

static int end(void **state)
{
    launch *l = *state;
    unlink(tokenizer);
    launch_close(l);
    return 0;
}

/* One job from order to done; returns its number of tokens. */
static int64_t encode(launch *l, const char *prompt, float *context)
{
    static int n_jobs;
    char id[32];
    snprintf(id, sizeof id, "job-%d", ++n_jobs);
    order(l, id, 1, prompt);
    expect(l, LX_MSG_STARTED);
    lx_ticket ticket = expect(l, LX_MSG_ARTIFACT)->u.artifact.ticket;
    assert_true(l->msg.u.artifact.is_last);
    assert_int_equal(ticket.dtype, LX_DTYPE_F32);
    assert_int_equal(ticket.n_dims, 2);
    assert_int_equal(ticket.dims[1], DIM);
    assert_int_equal(lx_share_borrow(&ticket, l->instance, context, ROOM * sizeof *context, NULL),
                     LX_OK);
    retire(l, ticket.serial);
    expect(l, LX_MSG_DONE);
    assert_int_equal(l->msg.u.done.n_tokens, ticket.dims[0]);
    return ticket.dims[0];
}

static long resident_kib(pid_t pid)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*d %ld", &pages), 1);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

/* What the same ids give by hand. */
static void expect_same_as_by_hand(const float *context)
{
    const int32_t ids[] = {4, 7, 1};
    encoder *e = NULL;
    encoder_context by_hand;
    lx_err err = {0};
    encoder_options options = {.weights = T5("int8"), .max_tokens = 3};
    assert_int_equal(encoder_open(&e, &options, &err), LX_OK);
    assert_int_equal(encoder_encode(e, ids, 3, &by_hand, &err), LX_OK);
    assert_memory_equal(context, by_hand.rows, 3 * DIM * sizeof *context);
    encoder_close(&e);
}

static void test_jobs_from_prompt_to_context(void **state)
{
    launch *l = *state;
    static float first[ROOM], again[ROOM];
    static char prompt[2 * 700 + 1];
    launch_start(l, false);
    expect(l, LX_MSG_HELLO);
    assert_true(expect(l, LX_MSG_READY)->u.ready.arena_bytes > 0);
    assert_int_equal(encode(l, "ab", first), 3);
    assert_string_equal(l->msg.u.done.notice, "");
    expect_same_as_by_hand(first);
    assert_int_equal(encode(l, " &#97;b ", again), 3); /* the same once cleaned: from the cache */
    assert_memory_equal(first, again, 3 * DIM * sizeof *first);
    assert_int_equal(encode(l, "", again), 1);
    for (int i = 0; i < 700; i++)
        memcpy(prompt + 2 * i, "a ", 2);
    assert_int_equal(encode(l, prompt, again), ENCODER_TEXT_LEN);
    assert_int_equal(l->msg.u.done.n_dropped, 2 * 700 - (ENCODER_TEXT_LEN - 1));
    assert_non_null(strstr(l->msg.u.done.notice, "were dropped"));
    assert_int_equal(encode(l, "ab", again), 3); /* no longer kept: computed, the same bits */
    assert_memory_equal(first, again, 3 * DIM * sizeof *first);
}

static void test_memory_is_flat(void **state)
{
    launch *l = *state;
    static float context[ROOM];
    char prompt[256];
    launch_start(l, false);
    expect(l, LX_MSG_HELLO);
    expect(l, LX_MSG_READY);
    long before = 0;
    for (int i = 0; i < 40; i++) {
        int n = 1 + i * 37 % 120; /* every length, not in order */
        for (int k = 0; k < n; k++)
            memcpy(prompt + 2 * k, k % 3 ? "a " : "bx", 2);
        prompt[2 * n] = 0;
        encode(l, prompt, context);
        if (i == 1)
            before = resident_kib(l->pid);
    }
    long grown = resident_kib(l->pid) - before;
    print_message("resident memory grew by %ld KiB over 38 jobs\n", grown);
    assert_true(grown <= 1024 || IS_SANITIZED);
}

static void test_what_cannot_work_is_exit_2(void **state)
{
    launch *l = *state;
    char text[1024];
    snprintf(text, sizeof text, "model:\n  dit: %s\n  vae: %s\n  text: %s\n  tokenizer: %s\n",
             GOLDEN "/distill_model.safetensors", GOLDEN "/Wan2.1_VAE.pth", T5("int8"),
             GOLDEN "/tokenizer"); /* ids beyond this model's table */
    write_file(l->config, text);
    launch_start(l, false);
    assert_int_equal(exit_of(l), 2);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        return serve(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_jobs_from_prompt_to_context, prepare, end),
        cmocka_unit_test_setup_teardown(test_memory_is_flat, prepare, end),
        cmocka_unit_test_setup_teardown(test_what_cannot_work_is_exit_2, prepare, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
