/*
 * test_bench.c - lx2v bench on the small model: figures that agree with the times they come from
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

static char text[1 << 20];

/* --- JSON ------------------------------------------------------------------------------------- */

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        fail_msg("%s: a number is documented", key);
    return json_number_value(value);
}

static double number_in(const json_t *object, const char *key, const char *inner)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_object(value))
        fail_msg("%s: an object is documented", key);
    return number(value, inner);
}

static json_t *parse(int code)
{
    json_error_t why;
    json_t *root = json_loads(text, 0, &why);
    if (code != 0 || !root)
        fail_msg("exit code %d, %s: %s", code, why.text, text);
    return root;
}

static double stage_time(const json_t *job, size_t stage, const char *key)
{
    const json_t *one = json_array_get(json_object_get(job, "stages"), stage);
    return number(one, key);
}

static double work_s(const json_t *job, size_t stage)
{
    double s = stage_time(job, stage, "end_s") - stage_time(job, stage, "start_s") -
               stage_time(job, stage, "wait_s");
    return s > 0 ? s : 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* --- checks ----------------------------------------------------------------------------------- */

static void near(double got, double wanted, const char *what)
{
    if (fabs(got - wanted) > 1e-6 * (1 + fabs(wanted)))
        fail_msg("%s: %.9g, from the jobs it is %.9g", what, got, wanted);
}

/* The same arithmetic once more, from the jobs' own times. */
static void check_speed(const json_t *root, size_t n)
{
    const json_t *jobs = json_object_get(root, "jobs");
    double first_end = INFINITY, last_end = 0, first_start = INFINITY, sum = 0;
    assert_int_equal(json_array_size(jobs), n);
    for (size_t i = 0; i < n; i++) {
        const json_t *job = json_array_get(jobs, i);
        assert_string_equal(json_string_value(json_object_get(job, "state")), "done");
        first_end = fmin(first_end, number(job, "end_s"));
        last_end = fmax(last_end, number(job, "end_s"));
        for (size_t s = 0; s < 4; s++) {
            first_start = fmin(first_start, stage_time(job, s, "start_s"));
            sum += work_s(job, s);
        }
        assert_int_equal(json_array_size(json_object_get(job, "step_s")), 4);
        double steps = 0;
        for (size_t k = 0; k < 4; k++)
            steps += json_number_value(json_array_get(json_object_get(job, "step_s"), k));
        assert_true(steps > 0 && steps <= work_s(job, DIT) + 1e-3);
    }
    near(number(root, "clips_per_hour"), 3600 * (double)(n - 1) / (last_end - first_end),
         "clips_per_hour");
    near(number(root, "wall_s"), last_end - first_start, "wall_s");
    near(number(root, "overlap"), sum / (last_end - first_start), "overlap");
}

/* Medians are of all clips but the warm-up. */
static void check_stages(const json_t *root, size_t n)
{
    const json_t *jobs = json_object_get(root, "jobs"), *stages = json_object_get(root, "stages");
    const char *warm_up = json_string_value(json_object_get(root, "warm_up"));
    assert_non_null(warm_up);
    assert_int_equal(json_array_size(stages), 4);
    for (size_t s = 0; s < 4; s++) {
        const json_t *stage = json_array_get(stages, s);
        double values[16];
        size_t k = 0;
        for (size_t i = 0; i < n && k < 16; i++) {
            const json_t *job = json_array_get(jobs, i);
            if (strcmp(json_string_value(json_object_get(job, "id")), warm_up) != 0)
                values[k++] = work_s(job, s);
        }
        assert_int_equal(k, n - 1);
        qsort(values, k, sizeof *values, by_value);
        near(number_in(stage, "work_s", "min"), values[0], "min");
        near(number_in(stage, "work_s", "max"), values[k - 1], "max");
        near(number_in(stage, "work_s", "median"),
             k % 2 ? values[k / 2] : (values[k / 2 - 1] + values[k / 2]) / 2, "median");
        assert_true(number_in(stage, "wait_s", "min") >= 0);
        assert_true(number_in(stage, "queue_s", "min") >= 0);
        assert_true(number(stage, "busy_share") >= 0 && number(stage, "busy_share") <= 1);
        assert_true(number(stage, "busy_s") <= number(root, "wall_s") * number(stage, "replicas"));
    }
    assert_int_equal(number_in(root, "step_s", "n"), 4 * (n - 1));
    assert_true(number_in(root, "step_s", "min") <= number_in(root, "step_s", "median"));
    assert_int_equal(json_array_size(json_object_get(json_object_get(root, "step_s"), "medians")),
                     4);
}

static void check_processes(const json_t *root, size_t n)
{
    const json_t *list = json_object_get(root, "processes");
    size_t n_clips = 0, n_stages = json_array_size(list) - 1;
    assert_true(n_stages >= 4);
    for (size_t i = 0; i <= n_stages; i++) {
        const json_t *one = json_array_get(list, i);
        assert_true(number(one, "pid") > 1);
        assert_true(number(one, "peak_rss_bytes") > 1 << 20);
        const json_t *pss = json_object_get(one, "peak_pss_bytes");
        assert_true(json_is_null(pss) || json_number_value(pss) > 1 << 18);
        assert_true(json_object_get(one, "peak_vram_bytes") != NULL);
        if (i == n_stages) {
            assert_string_equal(json_string_value(json_object_get(one, "name")), "launcher");
            continue;
        }
        assert_true(number(one, "busy_share") >= 0 && number(one, "busy_share") <= 1);
        assert_int_equal(number(one, "restarts"), 0);
        n_clips += (size_t)number(one, "clips");
    }
    assert_int_equal(n_clips, 4 * n); /* each clip went through each stage */
}

static void check_all(const json_t *root, size_t n, bool is_own)
{
    static const char *const keys[] = {"version", "backend", "machine",       "load_s",
                                       "cards",   "note",    "cards_trouble", "ram_peak_bytes"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!json_object_get(root, keys[i]))
            fail_msg("%s is documented", keys[i]);
    assert_int_equal(json_is_true(json_object_get(root, "own")), is_own);
    assert_int_equal(number(root, "clips"), n);
    assert_int_equal(number(root, "done"), n);
    const json_t *laps = json_object_get(root, "ram_peak_by_clip_bytes");
    assert_int_equal(json_array_size(laps), n);
    for (size_t i = 0; i < n; i++) {
        json_int_t peak = json_integer_value(json_array_get(laps, i));
        assert_true(peak > 0 && (double)peak <= number(root, "ram_peak_bytes"));
    }
    assert_true(number_in(root, "machine", "cores") >= 1);
    check_speed(root, n);
    check_stages(root, n);
    check_processes(root, n);
}

/* --- tests ------------------------------------------------------------------------------------ */

static int entries(const char *folder, const char *prefix)
{
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
             strncmp(e->d_name, prefix, strlen(prefix)) == 0;
    if (dir)
        closedir(dir);
    return n;
}

/* The instance of bench's own pipeline, while that runs: names its shared memory. */
static bool find_instance(const rig *r, char instance[33], double seconds)
{
    for (double until = rig_now_s() + seconds; rig_now_s() < until; rig_sleep(0.01)) {
        DIR *dir = opendir(r->root);
        char path[512] = "";
        for (struct dirent *e; dir && (e = readdir(dir));)
            if (strncmp(e->d_name, "lx2v-bench-", 11) == 0)
                snprintf(path, sizeof path, "%s/%s/run", r->root, e->d_name);
        closedir(dir);
        FILE *file = *path ? fopen(path, "r") : NULL;
        bool is_found = file && fscanf(file, "instance %32s", instance) == 1;
        if (file)
            fclose(file);
        if (is_found)
            return true;
    }
    return false;
}

static void check_nothing_left(rig *r, const char *instance)
{
    char prefix[64];
    snprintf(prefix, sizeof prefix, "lx2v.%s.", instance);
    assert_int_equal(entries("/dev/shm", prefix), 0);
    rig_check_ledger(r);
    assert_int_equal(entries(r->root, ""), 1); /* the config */
}

static pid_t start_bench(const rig *r, const char *clips, int out, bool is_slow)
{
    pid_t pid = fork();
    if (pid == 0) {
        setenv("XDG_RUNTIME_DIR", r->root, 1); /* its private folder is made there */
        if (is_slow)
            setenv("LX2V_TEST_SLOW_UNIT_MS", "50", 1);
        dup2(out, STDOUT_FILENO);
        execl(LX2V_BIN_DIR "/lx2v", "lx2v", "bench", "--config", r->config, "--clips", clips,
              "--json", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static int exit_of(pid_t pid)
{
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void test_bench_on_its_own_pipeline_leaves_nothing(void **state)
{
    (void)state;
    rig r;
    char instance[33] = "";
    int ends[2];
    rig_make(&r, NULL);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = start_bench(&r, "4", ends[1], false);
    close(ends[1]);
    assert_true(find_instance(&r, instance, 20));
    size_t used = 0;
    for (ssize_t n; (n = read(ends[0], text + used, sizeof text - 1 - used)) > 0;)
        used += (size_t)n;
    text[used] = 0;
    close(ends[0]);
    json_t *root = parse(exit_of(pid));
    check_all(root, 4, true);
    assert_true(number(root, "load_s") > 0);
    json_decref(root);
    check_nothing_left(&r, instance);
    rig_remove(&r);
}

static void test_bench_interrupted_leaves_nothing(void **state)
{
    (void)state;
    rig r;
    char instance[33] = "";
    rig_make(&r, NULL);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    pid_t pid = start_bench(&r, "50", null, true);
    close(null);
    assert_true(find_instance(&r, instance, 20));
    rig_sleep(1.5);
    kill(pid, SIGINT);
    assert_int_equal(exit_of(pid), 130);
    check_nothing_left(&r, instance);
    rig_remove(&r);
}

static void test_bench_on_a_running_pipeline_takes_its_clips_away(void **state)
{
    (void)state;
    rig r;
    rig_start(&r, (rig_options){.config = "stages: {vae: {replicas: 2}}\n"});
    rig_submit(&r, "mine");
    assert_int_equal(rig_wait(&r, "mine", 60), LX_CLIENT_DONE);
    int code =
        rig_run(text, sizeof text, "lx2v bench --config %s --clips 5 --seed 7 --json", r.config);
    json_t *root = parse(code);
    check_all(root, 5, false);
    assert_true(json_is_null(json_object_get(root, "load_s")));
    const json_t *jobs = json_object_get(root, "jobs");
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(number(json_array_get(jobs, i), "seed"), 7 + i);
    json_decref(root);
    assert_int_equal(rig_count_files(&r), 1); /* the user's own clip */
    assert_true(rig_has_file(&r, "mine.mp4"));
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_bench_tells_a_person(void **state)
{
    (void)state;
    rig r;
    rig_start(&r, (rig_options){0});
    assert_int_equal(
        rig_run(text, sizeof text, "lx2v bench --config %s --clips 2 --timeline 2>&1", r.config),
        0);
    static const char *const words[] = {"clips/hour", "overlap",    "warm-up",  "encoder[0]",
                                        "peak PSS",   "queueing",   "machine ", "timeline",
                                        "mux[0]",     "step      ", "launcher"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(text, words[i]))
            fail_msg("\"%s\" is missing in: %s", words[i], text);
    assert_int_equal(rig_run(text, sizeof text, "lx2v bench --config %s --clips 1 2>&1", r.config),
                     0);
    assert_non_null(strstr(text, "clips/hour needs two"));
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void test_bench_reads_prompts_from_a_file(void **state)
{
    (void)state;
    rig r;
    char path[128];
    rig_start(&r, (rig_options){0});
    snprintf(path, sizeof path, "%s/prompts.txt", r.root);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("a red ball\na blue ball\n\na green ball\n", file);
    fclose(file);
    json_t *root = parse(
        rig_run(text, sizeof text, "lx2v bench --config %s --prompts %s --json", r.config, path));
    check_all(root, 3, false);
    const json_t *jobs = json_object_get(root, "jobs");
    assert_string_equal(json_string_value(json_object_get(json_array_get(jobs, 2), "prompt")),
                        "a green ball");
    json_decref(root);
    rig_stop(&r, SIGTERM);
    rig_remove(&r);
}

static void expect_code(int code, const char *words, const char *format, const char *a)
{
    char command[512];
    snprintf(command, sizeof command, format, a);
    int got = rig_run(text, sizeof text, "lx2v bench %s 2>&1", command);
    if (got != code || !strstr(text, words))
        fail_msg("bench %s: wanted %d and \"%s\", got %d and %s", command, code, words, got, text);
}

static void test_bench_wrong_arguments_are_usage(void **state)
{
    (void)state;
    rig r;
    rig_make(&r, NULL);
    expect_code(2, "accepted: 1 to 10000", "--clips 0 --config %s", r.config);
    expect_code(2, "accepted: 1 to 10000", "--clips many --config %s", r.config);
    expect_code(2, "did you mean --clips", "--clip 3 --config %s", r.config);
    expect_code(2, "--frames", "--frames 8 --config %s", r.config);
    expect_code(2, "--size", "--size 10x10 --config %s", r.config);
    expect_code(2, "--seed", "--seed -1 --config %s", r.config);
    expect_code(2, "cannot be read", "--prompts /no/such/file --config %s", r.config);
    expect_code(2, "Prompts are given as --prompts", "\"a red ball\" --config %s", r.config);
    expect_code(2, "exclude each other", "--own --endpoint ipc:///tmp/x%s", "");
    expect_code(2, "exclude each other", "--timeline --json --config %s", r.config);
    expect_code(2, "no launcher at", "--endpoint ipc:///tmp/no-such-socket%s", "");
    expect_code(2, "cannot be read", "--own --config /no/such/config.yaml%s", "");
    /* The launcher's own words about a config that does not load. */
    FILE *file = fopen(r.config, "a");
    assert_non_null(file);
    fputs("no_such_key: 1\n", file);
    fclose(file);
    expect_code(2, "no_such_key", "--own --config %s", r.config);
    assert_int_equal(entries(r.root, ""), 1);
    rig_remove(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_wrong_arguments_are_usage),
        cmocka_unit_test(test_bench_on_its_own_pipeline_leaves_nothing),
        cmocka_unit_test(test_bench_interrupted_leaves_nothing),
        cmocka_unit_test(test_bench_on_a_running_pipeline_takes_its_clips_away),
        cmocka_unit_test(test_bench_reads_prompts_from_a_file),
        cmocka_unit_test(test_bench_tells_a_person),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
