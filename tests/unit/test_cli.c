/*
 * test_cli.c - lx2v as its users meet it: words, exit codes, JSON
 * SPDX-License-Identifier: Apache-2.0
 *
 * Runs the built binary. Where a launcher is needed, a thread of this test plays it.
 */
#include "played_launcher.h"

#include <errno.h>
#include <signal.h>

#include <jansson.h>

#include "lx_config.h"

/* --- the other end ---------------------------------------------------------------------------- */

static atomic_int n_submitted;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of last_prompt */
static char last_prompt[64];
static bool is_draining; /* the playing thread's */

/* About the job that was asked for. */
static void reply(const lx_peer *peer, lx_msg_kind kind)
{
    memcpy(out.job, in.job, sizeof out.job);
    answer(peer, kind);
}

static void refuse(const lx_peer *peer, lx_status status, const char *field, const char *text)
{
    out.u.failed.status = (int32_t)status;
    snprintf(out.u.failed.field, sizeof out.u.failed.field, "%s", field);
    snprintf(out.u.failed.text, sizeof out.u.failed.text, "%s", text);
    out.u.failed.retry_after_ms = status == LX_EAGAIN ? 1500 : 0;
    reply(peer, LX_MSG_REFUSED);
}

static void on_submit(const lx_peer *peer)
{
    const lx_job *job = &in.u.work.job;
    pthread_mutex_lock(&lock);
    snprintf(last_prompt, sizeof last_prompt, "%.60s", job->prompt);
    pthread_mutex_unlock(&lock);
    if (strcmp(job->prompt, "mute") == 0)
        return;
    if (strcmp(job->prompt, "full") == 0) {
        refuse(peer, LX_EAGAIN, "", "the queue is full");
        return;
    }
    if (strcmp(job->prompt, "taken") == 0) {
        refuse(peer, LX_ECONFIG, "output", "output: clip.mp4 exists");
        return;
    }
    if (strcmp(job->prompt, "large") == 0) {
        refuse(peer, LX_EJOB, "size", "size: larger than memory is planned for");
        return;
    }
    n_submitted++;
    out.u.accepted.seed = job->seed < 0 ? 77 : job->seed;
    out.u.accepted.is_new = 1;
    snprintf(out.u.accepted.output, sizeof out.u.accepted.output, "%s.mp4", job->id);
    reply(peer, LX_MSG_ACCEPTED);
}

/* What a job is follows from its id: done..., fail..., gone..., slow... */
static bool fill_info(const char *id)
{
    int state = strncmp(id, "done", 4) == 0   ? LX_JOB_DONE
                : strncmp(id, "fail", 4) == 0 ? LX_JOB_FAILED
                : strncmp(id, "gone", 4) == 0 ? LX_JOB_CANCELLED
                : strncmp(id, "slow", 4) == 0 ? LX_JOB_RUNNING
                                              : -1;
    if (state < 0)
        return false;
    out.u.job_info.state = state;
    out.u.job_info.seed = 42;
    out.u.job_info.width = 256;
    out.u.job_info.height = 128;
    out.u.job_info.frames = 17;
    snprintf(out.u.job_info.output, sizeof out.u.job_info.output, "clip.mp4");
    snprintf(out.u.job_info.prompt, sizeof out.u.job_info.prompt, "red \x1b[31m ball");
    if (state == LX_JOB_FAILED)
        snprintf(out.u.job_info.error, sizeof out.u.job_info.error, "it broke");
    out.u.job_info.submit_s = 100;
    out.u.job_info.end_s = state == LX_JOB_RUNNING ? 0 : 112.5;
    for (int i = 0; i < LX_STAGE_COUNT; i++) {
        bool began = state != LX_JOB_RUNNING || i == 0;
        out.u.job_info.replica[i] = began ? 0 : -1;
        out.u.job_info.start_s[i] = began ? 101 + 2 * i : -1;
        out.u.job_info.finish_s[i] = state == LX_JOB_RUNNING ? -1 : 102 + 2 * i;
        out.u.job_info.peak_bytes[i] = 3u << 20;
    }
    return true;
}

static void on_query(const lx_peer *peer)
{
    char wanted[LX_LIMIT_ID + 1];
    memcpy(wanted, in.job, sizeof wanted);
    const char *all[] = {"done1", "fail1", "slow1"};
    if (*wanted && !fill_info(wanted)) {
        refuse(peer, LX_EJOB, "job", "job: there is no such job");
        return;
    }
    if (*wanted)
        reply(peer, LX_MSG_JOB_INFO);
    for (int i = 0; i < 3 && !*wanted && in.u.query.want_jobs; i++) {
        memset(in.job, 0, sizeof in.job);
        snprintf(in.job, sizeof in.job, "%s", all[i]);
        fill_info(all[i]);
        reply(peer, LX_MSG_JOB_INFO);
    }
    memset(in.job, 0, sizeof in.job);
    if (in.u.query.want_stages) {
        out.u.stage_info.stage = LX_STAGE_DIT;
        snprintf(out.u.stage_info.state, sizeof out.u.stage_info.state, "ready");
        snprintf(out.u.stage_info.device, sizeof out.u.stage_info.device, "cpu");
        out.u.stage_info.pid = 4711;
        reply(peer, LX_MSG_STAGE_INFO);
    }
    out.u.end.now_s = 200;
    out.u.end.n_running = 1;
    snprintf(out.u.end.state, sizeof out.u.end.state, is_draining ? "draining" : "running");
    reply(peer, LX_MSG_END);
}

static void on_watch(const lx_peer *peer)
{
    reply(peer, LX_MSG_OK);
    out.u.event.now_s = 105;
    out.u.event.state = LX_JOB_RUNNING;
    out.u.event.stage = LX_STAGE_DIT;
    snprintf(out.u.event.unit, sizeof out.u.event.unit, "block");
    out.u.event.done = 5;
    out.u.event.total = 20;
    out.u.event.elapsed_s = 5;
    out.u.event.eta_s = 15;
    if (*in.job)
        reply(peer, LX_MSG_EVENT);
    memset(&out, 0, sizeof out);
}

static void on_message(const lx_peer *peer)
{
    if (in.kind == LX_MSG_SUBMIT) {
        on_submit(peer);
    } else if (in.kind == LX_MSG_QUERY) {
        on_query(peer);
    } else if (in.kind == LX_MSG_WATCH) {
        on_watch(peer);
    } else if (in.kind == LX_MSG_COMMAND && in.u.command.command == LX_COMMAND_CANCEL &&
               strncmp(in.job, "done", 4) == 0) {
        refuse(peer, LX_EJOB, "", "it has ended");
    } else if (in.kind == LX_MSG_COMMAND && in.u.command.command == LX_COMMAND_DRAIN) {
        is_draining = true; /* answered when the last job has ended: never */
    } else if (in.kind == LX_MSG_COMMAND) {
        snprintf(out.u.ok.text, sizeof out.u.ok.text, "%s/output", folder);
        reply(peer, LX_MSG_OK);
    }
}

static int set_up(void **state)
{
    (void)state;
    unsetenv("LX2V_ENDPOINT");
    if (play_launcher("cli", on_message) != 0 || mkdir("output", 0755) != 0)
        return -1;
    write_file("output/clip.mp4", "a clip");
    return 0;
}

/* --- usage ------------------------------------------------------------------------------------ */

static void test_cli_version_says_cuda_or_cpu(void **state)
{
    (void)state;
    run("--version", NULL);
    assert_int_equal(result.code, 0);
    assert_string_equal(result.out, "lx2v " LX2V_VERSION " (" LX2V_BACKEND ")\n");
}

static void test_cli_unknown_words_name_the_nearest(void **state)
{
    (void)state;
    run(NULL);
    expect(2, "no command");
    run("sumbit", "x", NULL);
    expect(2, "did you mean submit?");
    run("dance", NULL);
    expect(2, "dance: unknown command; there are: submit, watch");
    run("submit", "x", "--farmes", "17", NULL);
    expect(2, "did you mean --frames?");
    run("submit", "x", "-z", NULL);
    expect(2, "-z: unknown flag");
    run("submit", "x", "--seed", NULL);
    expect(2, "--seed: needs a value");
    run("submit", "x", "--seed=1", "--seed", "2", NULL);
    expect(2, "--seed: given twice");
    run("submit", "x", "--wait=1", NULL);
    expect(2, "--wait: takes no value");
}

static void test_cli_submit_refuses_before_it_connects(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *value, *words;
    } bad[] = {
        {"--frames", "80", "--frames: 80 is not of the form 4n+1; the nearest are 77 and 81"},
        {"--frames", "0", "--frames"},
        {"--size", "833x480", "832 and 848"},
        {"--size", "x", "--size"},
        {"--seed", "-2", "--seed"},
        {"--seed", "1.5", "--seed"},
        {"--steps-list", "250,500", "--steps-list"},
        {"--shift", "nan", "--shift"},
        {"--shift", "0", "--shift"},
        {"--fps", "0", "--fps"},
        {"--sampler", "dpm", "euler, lcm"},
        {"--rng", "torch", "torch-cpu"},
        {"--name", "../x.mp4", "--name"},
        {"--id", "a b", "--id"},
        {"-n", "0", "1 to 10000"},
        {"--image", "a.png", "text-to-video"},
        {"-o", "/no/such/folder/clip.mp4", "there is no folder"},
        {"-o", "output/clip.mp4", "--force"},
        {"--file", "no-such.txt", "no-such.txt"},
    };
    int before = n_submitted;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        bool is_file = strcmp(bad[i].flag, "--file") == 0;
        run("submit", "--endpoint", endpoint, bad[i].flag, bad[i].value, is_file ? NULL : "x",
            NULL);
        expect(2, bad[i].words);
    }
    run("submit", "--endpoint", endpoint, NULL);
    expect(2, "no prompt");
    run("submit", "--endpoint", endpoint, "two", "prompts", NULL);
    expect(2, "2 prompts");
    run("submit", "--endpoint", endpoint, "\xff", NULL);
    expect(2, "not UTF-8");
    run("submit", "--endpoint", endpoint, "x", "-o", "clip.avi", NULL);
    expect(2, "give a name with .mp4");
    run("submit", "--endpoint", endpoint, "x", "-n", "2", "-o", "clip.mp4", NULL);
    expect(2, "one file for 2 clips");
    run("submit", "--endpoint", endpoint, "x", "-n", "2", "--seed", "9223372036854775807", NULL);
    expect(2, "too large");
    assert_int_equal(n_submitted, before);
}

static void test_cli_files_name_line_and_key(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *words;
    } bad[] = {
        {"a.jsonl", "{\"prompt\": \"x\"}\n{\"prompt\": \"y\", \"siez\": \"480p\"}\n",
         "a.jsonl:2: siez: unknown; did you mean size?"},
        {"a.jsonl", "{\"size\": \"480p\"}\n", "a.jsonl:1: prompt: missing"},
        {"a.jsonl", "\n{\"prompt\": \"x\", \"frames\": 80}\n", "a.jsonl:2: frames: 80"},
        {"a.jsonl", "{\"prompt\": \"x\", \"prompt\": \"y\"}\n", "a.jsonl:1: not JSON"},
        {"a.jsonl", "{\"prompt\": \"x\", \"seed\": null}\n", "a.jsonl:1: seed"},
        {"a.jsonl", "[1]\n", "a.jsonl:1: accepted: an object"},
        {"a.txt", "good\nb\xff\n", "a.txt:2: prompt: not UTF-8"},
        {"a.txt", "\n\n", "no job in it"},
        {"a.jsonl", "{\"prompt\": \"x\", \"id\": \"a\"}\n\n{\"prompt\": \"y\", \"id\": \"a\"}\n",
         "a.jsonl:3: id: \"a\" is that of line 1 already"},
        {"a.jsonl", "{\"prompt\": \"x\", \"name\": \"b\"}\n{\"prompt\": \"y\", \"name\": \"b\"}\n",
         "a.jsonl:2: name: \"b\" is that of line 1 already"},
    };
    int before = n_submitted;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(bad[i].name, bad[i].text);
        run("submit", "--endpoint", endpoint, "--file", bad[i].name, NULL);
        expect(2, bad[i].words);
    }
    assert_int_equal(n_submitted, before); /* nothing of a file with a mistake */
    run("submit", "x", "--file", "a.txt", NULL);
    expect(2, "exclude each other");
    write_file("a.txt", "first\n\nlarge\nlast\n"); /* only the launcher knows its limits */
    run("submit", "--endpoint", endpoint, "--file", "a.txt", NULL);
    expect(3, "job 2 of 3, line 3 of the file (the 1 before it are accepted; go on from this one)");
    assert_int_equal(n_submitted, before + 1);
    assert_non_null(strchr(result.out, '\n'));
    assert_null(strchr(strchr(result.out, '\n') + 1, '\n')); /* one id */
    run("submit", "--endpoint", endpoint, "--file", "a.txt", "--json", NULL);
    expect(3, "line 3 of the file");
    assert_non_null(strstr(result.out, "\"is_new\":true"));
    assert_non_null(strstr(result.out, "\"class\":\"again\""));
}

static void test_cli_commands_check_their_words(void **state)
{
    (void)state;
    run("cancel", NULL);
    expect(2, "which job?");
    run("wait", NULL);
    expect(2, "which job?");
    run("pause", "x", NULL);
    expect(2, "takes no words");
    run("status", "a", "b", NULL);
    expect(2, "too many words");
    run("init", NULL);
    expect(2, "which model folder?");
    run("plan", "a.yaml", "b.yaml", NULL);
    expect(2, "one config file, not 2");
    run("plan", "--help", NULL);
    expect(0, "");
    assert_non_null(strstr(result.out, "--rig TEXT"));
    run("status", "--endpoint", endpoint, "no good id", NULL);
    expect(2, "no job id");
    run("status", "--endpoint", endpoint, "--timeout", "-1", NULL);
    expect(2, "--timeout");
}

/* --- finding the launcher --------------------------------------------------------------------- */

static void test_cli_says_where_it_looked_for_the_launcher(void **state)
{
    (void)state;
    run("status", NULL);
    expect(2, "no config.yaml here");
    run("status", "--endpoint", "ipc:///tmp/lx2v-no-such-socket", NULL);
    expect(2, "no launcher at ipc:///tmp/lx2v-no-such-socket");
    expect(2, "lx2v-launch config.yaml");
    run("status", "--endpoint", "udp://127.0.0.1:1", NULL);
    expect(2, "accepted: ipc:///PATH");
    run("status", "--endpoint", "tcp://127.0.0.1:1", NULL);
    expect(2, "no launcher at tcp://127.0.0.1:1");
    write_file("rig.yaml", "model: m\nstate: {dir: st}\n");
    run("status", "--config", "rig.yaml", NULL);
    char where[256];
    snprintf(where, sizeof where, "no launcher at ipc://%s/st/clients.sock", folder);
    expect(2, where);
    write_file("bad.yaml", "model: m\nmuxx: {crf: 1}\n");
    run("status", "--config", "bad.yaml", "--json", NULL);
    expect(2, "bad.yaml:2: muxx: unknown key; did you mean mux?");
    json_t *answer = json_loads(result.out, 0, NULL);
    assert_non_null(answer);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(answer, "error"), "class")), "config");
    json_decref(answer);
    setenv("LX2V_ENDPOINT", endpoint, 1);
    run("pause", NULL);
    expect(0, "pause: ok");
    unsetenv("LX2V_ENDPOINT");
}

static void assert_prompt(const char *expected)
{
    pthread_mutex_lock(&lock);
    assert_string_equal(last_prompt, expected);
    pthread_mutex_unlock(&lock);
}

/* --- with an answer --------------------------------------------------------------------------- */

static void test_cli_submit_prints_the_id(void **state)
{
    (void)state;
    run("submit", "--endpoint", endpoint, "a red ball", "--seed", "5", "--id", "done7", NULL);
    expect(0, "done7 accepted: seed 5");
    assert_string_equal(result.out, "done7\n");
    assert_prompt("a red ball");
    run("submit", "--endpoint", endpoint, "--", "--prompt with dashes", NULL);
    expect(0, "seed 77");
    assert_prompt("--prompt with dashes");
    assert_int_equal(strlen(result.out), 11); /* a drawn id of ten characters */
}

static void test_cli_submit_many_with_consecutive_seeds(void **state)
{
    (void)state;
    run("submit", "--endpoint", endpoint, "x", "-n", "3", "--seed", "41", "--json", NULL);
    assert_int_equal(result.code, 0);
    json_t *answer = json_loads(result.out, 0, NULL);
    json_t *jobs = json_object_get(answer, "jobs");
    assert_int_equal(json_array_size(jobs), 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(json_integer_value(json_object_get(json_array_get(jobs, i), "seed")),
                         41 + (int)i);
    json_decref(answer);
    write_file("two.jsonl", "{\"prompt\": \"x\", \"seed\": 9, \"steps_list\": [1000, 500]}\n"
                            "{\"prompt\": \"y\", \"id\": \"mine\", \"size\": \"480p\"}\n");
    run("submit", "--endpoint", endpoint, "--file", "two.jsonl", NULL);
    expect(0, "seed 9");
    assert_non_null(strstr(result.out, "\nmine\n"));
}

static void test_cli_notes_about_sizes(void **state)
{
    (void)state;
    run("submit", "--endpoint", endpoint, "x", "--size", "480x832", NULL);
    expect(0, "portrait");
    assert_null(strstr(result.err, "quality"));
    run("submit", "--endpoint", endpoint, "x", "--size", "256x128", NULL);
    expect(0, "expect lower quality");
    run("submit", "--endpoint", endpoint, "x", "--size", "720p", NULL);
    assert_null(strstr(result.err, "quality"));
}

static void test_cli_refusals_have_their_exit_codes(void **state)
{
    (void)state;
    run("submit", "--endpoint", endpoint, "full", NULL);
    expect(3, "the queue is full; try again in 1.5 s");
    run("submit", "--endpoint", endpoint, "large", NULL);
    expect(3, "size: larger than memory is planned for");
    run("submit", "--endpoint", endpoint, "mute", "--timeout", "0.5", NULL);
    expect(4, "gives no answer");
    run("submit", "--endpoint", endpoint, "taken", NULL);
    expect(2, "output: clip.mp4 exists");
    run("drain", "--endpoint", endpoint, "--timeout", "0.5", NULL);
    expect(4, "is draining; after 0.5 s 0 queued and 1 running jobs are left");
    run("cancel", "--endpoint", endpoint, "done1", NULL);
    expect(1, "it has ended");
    run("status", "--endpoint", endpoint, "nobody", NULL);
    expect(2, "there is no such job");
}

static void test_cli_wait_follows_the_state_of_the_job(void **state)
{
    (void)state;
    run("wait", "--endpoint", endpoint, "done1", NULL);
    expect(0, "encoder");
    expect(0, "peak memory 3.0 MiB");
    run("wait", "--endpoint", endpoint, "done1", "fail1", NULL);
    expect(1, "fail1 failed: it broke");
    run("wait", "--endpoint", endpoint, "gone1", NULL);
    expect(130, "cancelled");
    run("wait", "--endpoint", endpoint, "slow1", "--timeout", "0.5", NULL);
    expect(4, "have not ended");
    run("watch", "--endpoint", endpoint, "slow1", "--timeout", "0.5", NULL);
    expect(4, "slow1: dit block 5/20, 5.0 s, 15.0 s left"); /* plain: no terminal here */
    assert_null(strchr(result.err, '\x1b'));
}

static void test_cli_interrupt_leaves_the_job_alone(void **state)
{
    (void)state;
    char *argv[] = {(char *)"lx2v",   (char *)"wait",  (char *)"--endpoint",
                    (char *)endpoint, (char *)"slow1", NULL};
    pid_t pid = start(argv);
    usleep(700 * 1000);
    kill(pid, SIGINT);
    finish(pid);
    expect(130, "the job goes on (lx2v cancel slow1)");
}

static void test_cli_copies_the_clip(void **state)
{
    (void)state;
    char text[64];
    run("submit", "--endpoint", endpoint, "x", "--id", "done2", "-o", "mine.mp4", NULL);
    expect(0, "mine.mp4");
    assert_string_equal(result.out, "mine.mp4\n");
    read_file("mine.mp4", text, sizeof text);
    assert_string_equal(text, "a clip");
    write_file("mine.mp4", "older");
    run("submit", "--endpoint", endpoint, "x", "--id", "done3", "-o", "mine.mp4", "--force", NULL);
    assert_int_equal(result.code, 0);
    read_file("mine.mp4", text, sizeof text);
    assert_string_equal(text, "a clip");
    run("submit", "--endpoint", endpoint, "x", "--id", "done", "-n", "2", "-o", "c{i}-{seed}.mp4",
        NULL);
    assert_int_equal(result.code, 0);
    assert_int_equal(access("c1-42.mp4", F_OK), 0);
    assert_int_equal(access("c2-42.mp4", F_OK), 0);
    unlink("output/clip.mp4");
    run("submit", "--endpoint", endpoint, "x", "--id", "done4", "-o", "other.mp4", NULL);
    expect(1, "its copy failed");
    assert_int_equal(access("other.mp4", F_OK), -1);
    write_file("output/clip.mp4", "a clip");
}

static void test_cli_copies_a_folder_of_frames(void **state)
{
    (void)state;
    char text[64];
    unlink("output/clip.mp4");
    assert_int_equal(mkdir("output/clip.mp4", 0755), 0);
    write_file("output/clip.mp4/00000.png", "frame");
    run("submit", "--endpoint", endpoint, "x", "--id", "done5", "-o", "frames", NULL);
    assert_int_equal(result.code, 0);
    read_file("frames/00000.png", text, sizeof text);
    assert_string_equal(text, "frame");
    unlink("output/clip.mp4/00000.png");
    rmdir("output/clip.mp4");
    write_file("output/clip.mp4", "a clip");
}

static void test_cli_status_json_has_the_timeline(void **state)
{
    (void)state;
    run("status", "--endpoint", endpoint, "--json", NULL);
    assert_int_equal(result.code, 0);
    json_t *answer = json_loads(result.out, 0, NULL);
    assert_non_null(answer);
    assert_true(json_real_value(json_object_get(answer, "now_s")) == 200);
    json_t *jobs = json_object_get(answer, "jobs");
    assert_int_equal(json_array_size(jobs), 3);
    json_t *job = json_array_get(jobs, 0);
    assert_string_equal(json_string_value(json_object_get(job, "id")), "done1");
    assert_string_equal(json_string_value(json_object_get(job, "state")), "done");
    assert_int_equal(json_integer_value(json_object_get(job, "seed")), 42);
    assert_true(json_is_null(json_object_get(job, "error")));
    json_t *stages = json_object_get(job, "stages");
    assert_int_equal(json_array_size(stages), 4);
    json_t *dit = json_array_get(stages, 1);
    assert_string_equal(json_string_value(json_object_get(dit, "name")), "dit");
    assert_true(json_real_value(json_object_get(dit, "start_s")) == 103);
    assert_true(json_real_value(json_object_get(dit, "end_s")) == 104);
    json_t *slow = json_object_get(json_array_get(jobs, 2), "stages");
    assert_int_equal(json_array_size(slow), 1); /* the others have not begun */
    assert_true(json_is_null(json_object_get(json_array_get(slow, 0), "end_s")));
    json_t *processes = json_object_get(answer, "stages");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(processes, 0), "pid")),
                     4711);
    json_decref(answer);
}

static void test_cli_text_for_a_terminal_has_no_control_characters(void **state)
{
    (void)state;
    run("list", "--endpoint", endpoint, NULL);
    assert_int_equal(result.code, 0);
    assert_non_null(strstr(result.out, "red ?[31m ball"));
    assert_null(strchr(result.out, '\x1b'));
    run("status", "--endpoint", endpoint, "fail1", NULL);
    assert_non_null(strstr(result.out, "it broke"));
}

static void test_cli_doctor_tells_facts(void **state)
{
    (void)state;
    run("doctor", "--json", NULL);
    assert_int_equal(result.code, 0);
    json_t *answer = json_loads(result.out, 0, NULL);
    assert_non_null(answer);
    assert_string_equal(json_string_value(json_object_get(answer, "backend")), LX2V_BACKEND);
    assert_true(json_integer_value(json_object_get(answer, "cores")) >= 1);
    assert_true(json_integer_value(json_object_get(answer, "ram_bytes")) > 1 << 20);
    json_decref(answer);
    run("doctor", "--config", "bad.yaml", NULL);
    expect(2, "unknown key");
    run("doctor", "--weights", "/no/such/folder", NULL);
    assert_int_equal(result.code, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cli_version_says_cuda_or_cpu),
        cmocka_unit_test(test_cli_unknown_words_name_the_nearest),
        cmocka_unit_test(test_cli_commands_check_their_words),
        cmocka_unit_test(test_cli_submit_refuses_before_it_connects),
        cmocka_unit_test(test_cli_files_name_line_and_key),
        cmocka_unit_test(test_cli_says_where_it_looked_for_the_launcher),
        cmocka_unit_test(test_cli_submit_prints_the_id),
        cmocka_unit_test(test_cli_submit_many_with_consecutive_seeds),
        cmocka_unit_test(test_cli_notes_about_sizes),
        cmocka_unit_test(test_cli_refusals_have_their_exit_codes),
        cmocka_unit_test(test_cli_wait_follows_the_state_of_the_job),
        cmocka_unit_test(test_cli_interrupt_leaves_the_job_alone),
        cmocka_unit_test(test_cli_copies_the_clip),
        cmocka_unit_test(test_cli_copies_a_folder_of_frames),
        cmocka_unit_test(test_cli_status_json_has_the_timeline),
        cmocka_unit_test(test_cli_text_for_a_terminal_has_no_control_characters),
        cmocka_unit_test(test_cli_doctor_tells_facts),
    };
    return cmocka_run_group_tests(tests, set_up, end_launcher);
}
