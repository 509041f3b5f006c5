/*
 * test_report.c - lx2v report: what it tells, and that it never tells a prompt
 * SPDX-License-Identifier: Apache-2.0
 *
 * Runs the built command. A thread answers as a launcher does, on the real bus, with jobs whose
 * prompts also stand in errors, in a stage's last words and in the log, whole and in parts, as a
 * bug elsewhere could put them there.
 */
#include "played_launcher.h"

#include <jansson.h>

#define PROMPT      "a heron named Quillabamba dances with seventeen zeppelins"
#define PROMPT_PART "Quillabamba dances with"
#define SHORT       "ruby cat"

static void reply_job(const lx_peer *peer, const char *id, int state, const char *prompt,
                      const char *error)
{
    snprintf(out.job, sizeof out.job, "%s", id);
    out.u.job_info.state = state;
    out.u.job_info.width = 256;
    out.u.job_info.height = 128;
    out.u.job_info.frames = 17;
    snprintf(out.u.job_info.output, sizeof out.u.job_info.output, "Quillabamba.mp4");
    snprintf(out.u.job_info.prompt, sizeof out.u.job_info.prompt, "%s", prompt);
    snprintf(out.u.job_info.error, sizeof out.u.job_info.error, "%s", error);
    for (int i = 0; i < LX_STAGE_COUNT; i++) {
        out.u.job_info.start_s[i] = 100 + i;
        out.u.job_info.finish_s[i] = 101 + i;
    }
    answer(peer, LX_MSG_JOB_INFO);
}

static void on_query(const lx_peer *peer)
{
    reply_job(peer, "broken", LX_JOB_FAILED, PROMPT, "token 7 of \"" PROMPT "\" is out of range");
    reply_job(peer, "fine", LX_JOB_DONE, SHORT, "");
    out.u.stage_info.stage = LX_STAGE_DIT;
    snprintf(out.u.stage_info.state, sizeof out.u.stage_info.state, "parked");
    snprintf(out.u.stage_info.device, sizeof out.u.stage_info.device, "cuda:0");
    snprintf(out.u.stage_info.text, sizeof out.u.stage_info.text,
             "signal 11 at \"..." PROMPT_PART "...\" (" SHORT ")");
    answer(peer, LX_MSG_STAGE_INFO);
    out.u.end.now_s = 200;
    snprintf(out.u.end.state, sizeof out.u.end.state, "degraded");
    answer(peer, LX_MSG_END);
}

static void on_message(const lx_peer *peer)
{
    if (in.kind == LX_MSG_QUERY)
        on_query(peer);
    else if (in.kind == LX_MSG_COMMAND)
        answer(peer, LX_MSG_OK);
}

static int set_up(void **state)
{
    (void)state;
    if (play_launcher("report", on_message) != 0)
        return -1;
    setenv("HOME", folder, 1);
    setenv("LX2V_TOKEN", "Zanzibar", 1);
    return 0;
}

static char text[256 * 1024];

static void has(const char *words)
{
    if (!strcasestr(text, words))
        fail_msg("the report lacks \"%s\":\n%s", words, text);
}

static void has_not(const char *words)
{
    const char *at = strcasestr(text, words);
    if (at)
        fail_msg("the report tells \"%s\": ...%.200s", words, at > text + 60 ? at - 60 : text);
}

static void make_report(void)
{
    write_file(
        "config.yaml",
        "# my favourite: " PROMPT "\n"
        "model: ~/models  # " SHORT "\n"
        "output: {dir: \"out # not a comment\"}\n"
        "prompt: " PROMPT "\n"
        "gateway:\n  api_token: Zanzibar\n  secrets:\n    - Zanzibar\n    - again: Zanzibar\n"
        "limits: {prompt_bytes: 4096}\n");
    write_file("launch.log", "I launch[1] job=broken accepted\n"
                             "D encoder[2] prompt=Xylophone\n"
                             "W dit[3] job=broken near " PROMPT_PART " it went slow\n"
                             "Xylophone said something\n"
                             "E dit[3] stage: out of memory: needed 5 GiB, available 4 GiB\n");
    unlink("r.txt");
    run("report", "-o", "r.txt", "--log", "launch.log", "--config", "config.yaml", "--endpoint",
        endpoint, NULL);
    expect(0, "no prompts");
    assert_non_null(strstr(result.out, "r.txt"));
    read_file("r.txt", text, sizeof text);
}

static void test_report_never_tells_a_prompt(void **state)
{
    (void)state;
    make_report();
    /* No word of the prompts, wherever it was planted. */
    has_not("heron");
    has_not("Quillabamba");
    has_not("zeppelins");
    has_not("seventeen");
    has_not("dances");
    has_not(SHORT);
    has_not("Xylophone"); /* only errors and warnings are taken from a log */
    has_not("Zanzibar");  /* secrets of config and environment */
    has_not(folder);      /* the home folder */
}

static void test_report_tells_what_helps(void **state)
{
    (void)state;
    make_report();
    has("lx2v " LX2V_VERSION ", built for " LX2V_BACKEND);
    has("libzmq ");
    has("glibc ");
    has("model: ~/models");
    has("out # not a comment");
    has("prompt: ***");
    has("api_token: ***");
    has("prompt_bytes: 4096");
    has("== plan");
    has("== doctor");
    has("cpu ");
    has("\"probe\": 1"); /* of lx2v-probe, driver or not */
    has("degraded, 0 queued");
    has("dit[0] parked on cuda:0");
    has("broken failed 256x128, 17 frames, prompt of 57 bytes");
    has("is out of range"); /* the error, but for the prompt in it */
    has("it went slow");
    has("out of memory: needed 5 GiB, available 4 GiB");
}

static void test_report_without_launcher_and_config(void **state)
{
    (void)state;
    unlink("r.txt");
    assert_int_equal(mkdir("empty", 0755), 0);
    run("report", "-o", "empty/r.txt", "--config", "empty/none.yaml", "--json", NULL);
    assert_int_equal(result.code, 0);
    json_t *json = json_loads(result.out, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "file")), "empty/r.txt");
    assert_true(json_integer_value(json_object_get(json, "bytes")) > 500);
    json_decref(json);
    struct stat st;
    assert_int_equal(stat("empty/r.txt", &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    read_file("empty/r.txt", text, sizeof text);
    has("none.yaml: No such file");
    has("== launcher");
    has("no log file is known");
    /* What is there is never written over. */
    run("report", "-o", "empty/r.txt", NULL);
    expect(2, "File exists");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_report_never_tells_a_prompt),
        cmocka_unit_test(test_report_tells_what_helps),
        cmocka_unit_test(test_report_without_launcher_and_config),
    };
    return cmocka_run_group_tests(tests, set_up, end_launcher);
}
