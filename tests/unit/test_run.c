/*
 * test_run.c - the flags, inputs, dumps and outputs that every `run` shares
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>

#include "lx_run.h"
#include "weights_make.h"

static const char *text_len;
static bool noise_only;
static const lx_run_flag own[] = {
    {.name = "text-len", .value = &text_len, .help = "tokens"},
    {.name = "noise-only", .present = &noise_only, .help = "draw and stop"},
};
static lx_run run; /* large */

#define PARSE(err, ...) parse((char *[]){__VA_ARGS__, NULL}, (err))

static lx_status parse(char **argv, lx_err *err)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    text_len = NULL;
    noise_only = false;
    return lx_run_parse(&run, argc, argv, own, 2, err);
}

static void test_flags_are_read(void **state)
{
    (void)state;
    lx_err err = {0};
    assert_int_equal(PARSE(&err, "--weights", "w", "--input=in", "--output", "out", "--threads",
                           "3", "--dump", "a.b,c", "--vram", "1.5GiB", "--json", "--text-len", "64",
                           "--noise-only", "--device", "cpu"),
                     LX_OK);
    assert_string_equal(run.weights, "w");
    assert_string_equal(run.input, "in");
    assert_string_equal(run.output, "out");
    assert_string_equal(run.device, "cpu");
    assert_int_equal(run.threads, 3);
    assert_int_equal(run.vram_bytes, 3u << 29);
    assert_true(run.json && noise_only);
    assert_string_equal(text_len, "64");
    assert_true(lx_run_wants(&run, "a.b") && lx_run_wants(&run, "c") && !lx_run_wants(&run, "a"));
    assert_false(lx_run_wants(NULL, "a"));
    assert_int_equal(lx_run_parse(&run, 0, NULL, own, 2, &err), LX_OK);
    assert_string_equal(run.device, "cpu");
    assert_null(run.weights);
    /* Whether there is such a card is found out where it is opened. */
    assert_int_equal(PARSE(&err, "--device", "cuda:3"), LX_OK);
    assert_string_equal(run.device, "cuda:3");
    assert_int_equal(PARSE(&err, "--device", "cuda:rtx3060"), LX_OK);
    assert_string_equal(run.device, "cuda:rtx3060");
}

static void test_flags_are_refused(void **state)
{
    (void)state;
    const struct {
        char *argv[3];
        const char *words;
    } row[] = {
        {{"--wieghts", "w"}, "unknown flag --wieghts; did you mean --weights"},
        {{"--text-length", "w"}, "did you mean --text-len"},
        {{"--zzzzzzzzzzzz"}, "unknown flag"},
        {{"file"}, "unexpected argument \"file\""},
        {{"--weights"}, "--weights needs a value"},
        {{"--json=1"}, "takes no value"},
        {{"--noise-only=1"}, "takes no value"},
        {{"--threads", "0"}, "expected 1 to 1024"},
        {{"--threads", "two"}, "expected 1 to 1024"},
        {{"--vram", "much"}, "such as 6GiB"},
        {{"--vram", "-1"}, "such as 6GiB"},
        {{"--device", "gpu"}, "--device: \"gpu\" is not accepted; accepted: cpu, cuda"},
        {{"--device", "cuda:"}, "--device: \"cuda:\" is not accepted"},
        {{"--device", "cuda:64"}, "--device: \"cuda:64\" is not accepted"},
        {{"--lora", "x.safetensors"}, "not supported yet"},
        {{"--dump", "a,,b"}, "a name must have"},
        {{"--"}, "unexpected argument"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        lx_err err = {0};
        lx_status status = parse((char **)(uintptr_t)row[i].argv, &err);
        if (status != LX_ECONFIG || !strstr(err.message, row[i].words))
            fail_msg("%s: %s, \"%s\"", row[i].argv[0], lx_status_name(status), err.message);
    }
}

static void test_words_are_taken_where_a_stage_takes_them(void **state)
{
    (void)state;
    lx_err err = {0};
    lx_run_words words = {.what = "run [FILE ...]"};
    char *argv[] = {"a", "--threads", "3", "b c", "--noise-only", "d", NULL};
    noise_only = false;
    assert_int_equal(lx_run_parse_words(&run, 6, argv, own, 2, &words, &err), LX_OK);
    assert_int_equal(words.n, 3);
    assert_string_equal(words.word[0], "a");
    assert_string_equal(words.word[1], "b c");
    assert_string_equal(words.word[2], "d");
    assert_true(run.threads == 3 && noise_only);
    char *many[LX_RUN_WORDS + 1];
    for (int i = 0; i <= LX_RUN_WORDS; i++)
        many[i] = "w";
    words.n = 0;
    assert_int_equal(lx_run_parse_words(&run, LX_RUN_WORDS, many, own, 2, &words, &err), LX_OK);
    words.n = 0;
    assert_int_equal(lx_run_parse_words(&run, LX_RUN_WORDS + 1, many, own, 2, &words, &err),
                     LX_ECONFIG);
}

static void test_counts_keep_their_range(void **state)
{
    (void)state;
    lx_err err = {0};
    int64_t n = 7;
    assert_int_equal(lx_run_count("rows", NULL, 1, 9, &n, &err), LX_OK);
    assert_int_equal(n, 7);
    assert_int_equal(lx_run_count("rows", "9", 1, 9, &n, &err), LX_OK);
    assert_int_equal(n, 9);
    const char *bad[] = {"0", "10", "-1", "two", "", "3x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(lx_run_count("rows", bad[i], 1, 9, &n, &err), LX_ECONFIG);
        assert_non_null(strstr(err.message, "--rows"));
    }
}

/* Without what a sanitizer does at exit: its search for leaks may hang in a forked process. */
static void leave(int exit_code, void *unused)
{
    (void)unused;
    fflush(stdout);
    _exit(exit_code);
}

static void test_help_ends_with_success(void **state)
{
    (void)state;
    int wait_status, out[2];
    char text[4096];
    assert_int_equal(pipe(out), 0);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        dup2(out[1], STDOUT_FILENO);
        on_exit(leave, NULL);
        PARSE(NULL, "--help");
        _exit(9);
    }
    close(out[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(out[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = 0;
    close(out[0]);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
    assert_non_null(strstr(text, "--noise-only"));
    assert_non_null(strstr(text, "--dump NAME,..."));
}

static void test_outputs_are_copied_and_written(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_err err = {0};
    lx_weights *w = NULL;
    lx_weight found;
    char out[512];
    snprintf(out, sizeof out, "--output=%s", in(&s, "out.safetensors"));
    assert_int_equal(PARSE(&err, out, "--dump", "q,late"), LX_OK);
    float data[6] = {1, 2, 3, 4, 5, 6};
    assert_int_equal(lx_run_add(&run, "x", LX_DTYPE_F32, &LX_SHAPE(6), data, &err), LX_OK);
    assert_int_equal(lx_run_dump(&run, "q", data, 2, 2, 3, &err), LX_OK); /* rows 3 apart */
    data[0] = 99;
    assert_int_equal(lx_run_dump(&run, "q", data, 2, 3, 3, &err), LX_OK); /* the first stays */
    assert_int_equal(lx_run_dump(&run, "unasked", data, 1, 6, 6, &err), LX_OK);
    assert_int_equal(lx_run_add(NULL, "x", LX_DTYPE_F32, &LX_SHAPE(6), data, &err), LX_OK);
    assert_int_equal(lx_run_dump(NULL, "x", data, 1, 6, 6, &err), LX_OK);
    assert_int_equal(lx_run_finish(&run, "dit", &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "--dump late: no layer of the dit"));
    assert_int_equal(lx_run_dump(&run, "late", data, 1, 1, 1, &err), LX_OK);
    assert_int_equal(lx_run_finish(&run, "dit", &err), LX_OK);
    lx_run_close(&run);
    assert_int_equal(lx_weights_open(&w, in(&s, "out.safetensors"), NULL, &err), LX_OK);
    assert_int_equal(lx_weights_count(w), 3);
    assert_true(lx_weights_find(w, "q", &found));
    assert_true(lx_shape_equal(&found.shape, &LX_SHAPE(2, 2)));
    assert_memory_equal(found.data, ((float[]){1, 2, 4, 5}), 16);
    assert_true(lx_weights_find(w, "x", &found));
    assert_true(*(const float *)found.data == 1);
    lx_weights_close(&w);
    remove_tree(s.dir);
}

/* In a child: the flag of an interrupt stays set for the life of a process. */
static void test_an_interrupt_stops_the_work_and_leaves_nothing(void **state)
{
    (void)state;
    scratch s = scratch_open();
    const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        int wait_status;
        pid_t child = fork();
        if (!child) {
            static char data[32 << 20];
            lx_err err = {0};
            char out[512];
            snprintf(out, sizeof out, "--output=%s", in(&s, "out.safetensors"));
            bool is_ok =
                PARSE(&err, out) == LX_OK &&
                lx_run_add(&run, "x", LX_DTYPE_U8, &LX_SHAPE(sizeof data), data, &err) == LX_OK &&
                lx_progress_step(&run.progress, "block", 1, 2, &err) == LX_OK;
            kill(getpid(), numbers[i]);
            lx_status status = LX_OK;
            for (int k = 0; k < 5000 && status == LX_OK; k++) {
                usleep(1000);
                status = lx_progress_step(&run.progress, "block", 1, 2, &err);
            }
            is_ok = is_ok && status == LX_ECANCEL;
            is_ok = is_ok && lx_run_finish(&run, "dit", &err) == LX_ECANCEL;
            if (is_ok)
                kill(getpid(), numbers[1 - i]); /* the second one ends the process */
            sleep(5);
            _exit(9);
        }
        assert_int_equal(waitpid(child, &wait_status, 0), child);
        assert_true(WIFSIGNALED(wait_status));
        assert_int_equal(WTERMSIG(wait_status), numbers[1 - i]);
        assert_int_not_equal(access(in(&s, "out.safetensors"), F_OK), 0);
        assert_int_not_equal(access(in(&s, "out.safetensors.part"), F_OK), 0);
    }
    remove_tree(s.dir);
}

static void test_dumps_are_checked_before_the_work(void **state)
{
    (void)state;
    lx_err err = {0};
    char text[24];
    assert_int_equal(PARSE(&err, "--dump", "a.q,b"), LX_OK);
    lx_run_know(NULL, "a.q");
    lx_run_know(&run, "a.q");
    lx_run_know(&run, "a");
    assert_int_equal(lx_run_check_dumps(&run, "dit", &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "--dump b: no layer of the dit"));
    lx_run_know(&run, "b");
    assert_int_equal(lx_run_check_dumps(&run, "dit", &err), LX_OK);
    assert_string_equal(lx_bytes_text(300u << 20, text, sizeof text), "300 MiB");
    assert_string_equal(lx_bytes_text(3u << 29, text, sizeof text), "1.50 GiB");
}

static void test_inputs_are_widened(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_err err = {0};
    uint16_t half[2] = {0x3c00, 0xc000};
    int64_t ids[2] = {7, -1}, large[1] = {1LL << 40};
    int32_t plain[2] = {3, 4};
    const lx_named_tensor t[] = {{"half", {LX_DTYPE_F16, LX_SHAPE(2), half}},
                                 {"ids", {LX_DTYPE_I64, LX_SHAPE(2), ids}},
                                 {"large", {LX_DTYPE_I64, LX_SHAPE(1), large}},
                                 {"plain", {LX_DTYPE_I32, LX_SHAPE(2), plain}}};
    char input[512];
    snprintf(input, sizeof input, "--input=%s", in(&s, "in.safetensors"));
    assert_int_equal(lx_safetensors_write(in(&s, "in.safetensors"), t, 4, &err), LX_OK);
    assert_int_equal(PARSE(&err, input), LX_OK);
    lx_shape shape;
    float *f = NULL;
    int32_t *i = NULL;
    assert_int_equal(lx_run_read_f32(&run, "half", &shape, &f, &err), LX_OK);
    assert_true(shape.n_dims == 1 && shape.dim[0] == 2 && f[0] == 1 && f[1] == -2);
    free(f);
    assert_int_equal(lx_run_read_i32(&run, "ids", &shape, &i, &err), LX_OK);
    assert_true(i[0] == 7 && i[1] == -1);
    free(i);
    assert_int_equal(lx_run_read_i32(&run, "plain", &shape, &i, &err), LX_OK);
    assert_true(i[0] == 3 && i[1] == 4);
    free(i);
    assert_true(lx_run_has_input(&run, "ids"));
    assert_false(lx_run_has_input(&run, "nothing"));
    assert_int_equal(lx_run_read_i32(&run, "large", &shape, &i, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "out of range"));
    assert_int_equal(lx_run_read_i32(&run, "half", &shape, &i, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "half is F16, I32 or I64 is expected"));
    assert_int_equal(lx_run_read_f32(&run, "ids", &shape, &f, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "ids is I64, a float type is expected"));
    assert_int_equal(lx_run_read_f32(&run, "nothing", &shape, &f, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "no tensor nothing"));
    assert_int_equal(lx_run_parse(&run, 0, NULL, own, 2, &err), LX_OK);
    assert_int_equal(lx_run_read_f32(&run, "x", &shape, &f, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "--input"));
    remove_tree(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* first: it forks, and the others leave a thread that waits for interrupts */
        cmocka_unit_test(test_an_interrupt_stops_the_work_and_leaves_nothing),
        cmocka_unit_test(test_flags_are_read),
        cmocka_unit_test(test_flags_are_refused),
        cmocka_unit_test(test_words_are_taken_where_a_stage_takes_them),
        cmocka_unit_test(test_counts_keep_their_range),
        cmocka_unit_test(test_help_ends_with_success),
        cmocka_unit_test(test_outputs_are_copied_and_written),
        cmocka_unit_test(test_dumps_are_checked_before_the_work),
        cmocka_unit_test(test_inputs_are_widened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
