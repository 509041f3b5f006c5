/*
 * test_encoder_stage.c - the encoder as a stage, against a hand-driven launcher
 * SPDX-License-Identifier: Apache-2.0
 *
 * The test is the launcher; the stage is this same program started again as a real process, doing
 * what encoder_main.c does.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "encoder.h"
#include "encoder_helpers.h"
#include "lx_bus.h"

#define TOKEN "0123456789abcdef0123456789abcdef"
#define DIM   128
#define ROOM  (ENCODER_TEXT_LEN * DIM)

/* A sanitizer keeps freed memory for a while: resident memory says nothing then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED true
#elif defined(__has_feature)
#define IS_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define IS_SANITIZED false
#endif

static const char *self_path;

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

typedef struct launch {
    char folder[64], endpoint[128], config[128], tokenizer[128], instance[33];
    lx_bus *bus;
    lx_peer peer;
    pid_t pid;
    lx_msg msg; /* the last one expected */
    int n_jobs;
} launch;

static const lx_msg *expect(launch *l, lx_msg_kind kind)
{
    double until = lx_now_s() + 20;
    do {
        assert_true(lx_now_s() < until);
        if (lx_bus_receive(l->bus, &l->peer, &l->msg, 20000, NULL) != LX_OK)
            fail_msg("no message, expected %s", lx_msg_kind_name(kind));
    } while (l->msg.kind == LX_MSG_BEAT);
    assert_string_equal(lx_msg_kind_name(l->msg.kind), lx_msg_kind_name(kind));
    return &l->msg;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void start(launch *l)
{
    int fds[2];
    char number[16];
    assert_int_equal(pipe(fds), 0);
    snprintf(number, sizeof number, "%d", fds[0]);
    l->pid = fork();
    if (!l->pid) {
        close(fds[1]);
        execl(self_path, self_path, "--config", l->config, "--replica", "0", "--handover", number,
              (char *)NULL);
        _exit(127);
    }
    close(fds[0]);
    dprintf(fds[1], "endpoint=%s token=" TOKEN " instance=%s epoch=3\n", l->endpoint, l->instance);
    close(fds[1]);
}

static int exit_of(launch *l)
{
    int status = 0;
    assert_int_equal(waitpid(l->pid, &status, 0), l->pid);
    l->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int prepare(void **state)
{
    launch *l = calloc(1, sizeof *l);
    strcpy(l->folder, "/tmp/lx2v-encoder-XXXXXX");
    if (!mkdtemp(l->folder))
        return -1;
    snprintf(l->endpoint, sizeof l->endpoint, "ipc://%s/s.sock", l->folder);
    snprintf(l->config, sizeof l->config, "%s/config.yaml", l->folder);
    snprintf(l->tokenizer, sizeof l->tokenizer, "%s/tokenizer.json", l->folder);
    snprintf(l->instance, sizeof l->instance, "%032x", (unsigned)getpid());
    write_file(l->tokenizer, json_small());
    write_file(l->config, "model:\n"
                          "  dit: " GOLDEN "/distill_model.safetensors\n"
                          "  vae: " GOLDEN "/Wan2.1_VAE.pth\n"
                          "  text: " T5("int8") "\n"
                                                "  tokenizer: tokenizer.json\n"
                                                "encoder:\n"
                                                "  cache_entries: 2\n"
                                                "links:\n"
                                                "  depth: 1\n");
    *state = l;
    return lx_bus_bind(&l->bus, l->endpoint, NULL) == LX_OK ? 0 : -1;
}

static int end(void **state)
{
    launch *l = *state;
    if (l->pid) {
        kill(l->pid, SIGKILL);
        waitpid(l->pid, NULL, 0);
    }
    lx_share_sweep(l->instance, 0);
    lx_bus_close(&l->bus);
    unlink(l->endpoint + 6);
    unlink(l->config);
    unlink(l->tokenizer);
    rmdir(l->folder);
    free(l);
    return 0;
}

/* One job from order to done; returns its number of tokens. */
static int64_t encode(launch *l, const char *prompt, float *context)
{
    lx_msg msg = {.kind = LX_MSG_JOB, .attempt = 1};
    snprintf(msg.job, sizeof msg.job, "job-%d", ++l->n_jobs);
    strcpy(msg.u.work.job.id, msg.job);
    strcpy(msg.u.work.job.prompt, prompt);
    assert_int_equal(lx_bus_send(l->bus, &l->peer, &msg, NULL), LX_OK);
    expect(l, LX_MSG_STARTED);
    lx_ticket ticket = expect(l, LX_MSG_ARTIFACT)->u.artifact.ticket;
    assert_true(l->msg.u.artifact.is_last);
    assert_int_equal(ticket.dtype, LX_DTYPE_F32);
    assert_int_equal(ticket.n_dims, 2);
    assert_int_equal(ticket.dims[1], DIM);
    assert_int_equal(lx_share_borrow(&ticket, l->instance, context, ROOM * sizeof *context, NULL),
                     LX_OK);
    lx_msg retire = {.kind = LX_MSG_RETIRE, .u.lease.serial = ticket.serial};
    assert_int_equal(lx_bus_send(l->bus, &l->peer, &retire, NULL), LX_OK);
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
    start(l);
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
    start(l);
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
    start(l);
    assert_int_equal(exit_of(l), 2);
}

int main(int argc, char **argv)
{
    self_path = argv[0];
    if (argc > 1)
        return serve(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_jobs_from_prompt_to_context, prepare, end),
        cmocka_unit_test_setup_teardown(test_memory_is_flat, prepare, end),
        cmocka_unit_test_setup_teardown(test_what_cannot_work_is_exit_2, prepare, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
