/*
 * rig.c - start, drive, stop and count what is left
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READY_S 60.0 /* sanitizers and a busy machine included */
#define POLL_S  0.02

double rig_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void rig_sleep(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* A failed test jumps out of the middle: what it started is ended, shown and removed when the
 * program ends. */
#define UNFINISHED_MAX 16
static rig unfinished[UNFINISHED_MAX];

static void remember(const rig *r)
{
    int at = -1;
    for (int i = 0; i < UNFINISHED_MAX; i++)
        if (!strcmp(unfinished[i].root, r->root) || (at < 0 && !unfinished[i].root[0]))
            at = i;
    if (at >= 0) {
        unfinished[at] = *r;
        unfinished[at].client = NULL;
        unfinished[at].out = -1;
    }
}

static void forget(const rig *r)
{
    for (int i = 0; i < UNFINISHED_MAX; i++)
        if (!strcmp(unfinished[i].root, r->root))
            unfinished[i].root[0] = 0;
}

static void remove_unfinished(void)
{
    for (int i = 0; i < UNFINISHED_MAX; i++)
        rig_remove(&unfinished[i]);
}

/* --- folder ----------------------------------------------------------------------------------- */

void rig_make(rig *r, const char *config)
{
    static bool is_registered;
    if (!is_registered)
        atexit(remove_unfinished);
    is_registered = true;
    *r = (rig){.out = -1};
    snprintf(r->root, sizeof r->root, "/tmp/lx2v-rig-XXXXXX");
    assert_non_null(mkdtemp(r->root));
    snprintf(r->config, sizeof r->config, "%s/config.yaml", r->root);
    snprintf(r->output, sizeof r->output, "%s/out", r->root);
    snprintf(r->state, sizeof r->state, "%s/state", r->root);
    snprintf(r->log, sizeof r->log, "%s/log", r->root);
    FILE *file = fopen(r->config, "w");
    assert_non_null(file);
    fprintf(file, "model: %s\noutput: {dir: out}\nstate: {dir: state}\n",
            LX2V_BUILD_DIR "/models/random");
    fprintf(file, "defaults: {size: 128x64, frames: 9}\nmux: {preset: ultrafast}\n%s",
            config ? config : "");
    fclose(file);
    remember(r);
}

/* Names in a folder that begin like this. */
static int count_names(const char *folder, const char *prefix)
{
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += !strncmp(e->d_name, prefix, strlen(prefix)) && strcmp(e->d_name, ".") &&
             strcmp(e->d_name, "..");
    if (dir)
        closedir(dir);
    return n;
}

/* After a launcher that was killed: its next start would do this. */
static void sweep(const rig *r)
{
    char prefix[64];
    snprintf(prefix, sizeof prefix, "lx2v.%s.", r->instance);
    DIR *dir = r->instance[0] ? opendir("/dev/shm") : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (!strncmp(e->d_name, prefix, strlen(prefix)))
            unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
}

static void show_log(const rig *r)
{
    char line[2048];
    struct stat st;
    bool is_plain = stat(r->log, &st) == 0 && S_ISREG(st.st_mode); /* a pipe would not end */
    FILE *file = is_plain ? fopen(r->log, "r") : NULL;
    while (file && fgets(line, sizeof line, file))
        fprintf(stderr, "| %s", line);
    if (file)
        fclose(file);
}

void rig_remove(rig *r)
{
    char command[128];
    if (!r->root[0])
        return;
    if (r->pid > 0) { /* a test failed before it stopped the launcher */
        show_log(r);
        kill(r->pid, SIGKILL);
        waitpid(r->pid, NULL, 0);
        sweep(r);
    }
    snprintf(command, sizeof command, "rm -rf %s", r->root);
    forget(r);
    lx_client_close(&r->client);
    if (r->out >= 0)
        close(r->out);
    if (system(command))
        fprintf(stderr, "failed: %s\n", command);
    *r = (rig){.out = -1};
}

/* --- processes -------------------------------------------------------------------------------- */

static void become_launcher(const rig *r, int out, int slow_ms)
{
    char slow[16];
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes leaves nothing running */
    int log = open(r->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(out, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    snprintf(slow, sizeof slow, "%d", slow_ms);
    if (slow_ms > 0)
        setenv("LX2V_TEST_SLOW_UNIT_MS", slow, 1);
    char path[128];
    snprintf(path, sizeof path, "%s/lx2v-launch", r->bin[0] ? r->bin : LX2V_BIN_DIR);
    execl(path, "lx2v-launch", r->config, (char *)NULL);
    _exit(127);
}

/* The one line that the launcher promises. */
static void read_ready(rig *r)
{
    char line[256];
    size_t n = 0;
    double until = rig_now_s() + READY_S;
    while (n < sizeof line - 1 && !memchr(line, '\n', n)) {
        struct pollfd p = {.fd = r->out, .events = POLLIN};
        int left_ms = (int)((until - rig_now_s()) * 1e3);
        if (left_ms <= 0 || poll(&p, 1, left_ms) < 1)
            fail_msg("the launcher did not become ready within %.0f s", READY_S);
        ssize_t got = read(r->out, line + n, sizeof line - 1 - n);
        if (got <= 0)
            fail_msg("the launcher ended with code %d instead of becoming ready",
                     rig_wait_exit(r, 5));
        n += (size_t)got;
    }
    line[n] = 0;
    assert_int_equal(sscanf(line, "ready endpoint=%159s", r->endpoint), 1);
    assert_string_equal(strchr(line, '\n'), "\n"); /* one line, nothing after it */
}

static void read_instance(rig *r)
{
    char path[128];
    snprintf(path, sizeof path, "%s/run", r->state);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "instance %32s", r->instance), 1);
    fclose(file);
}

void rig_launch(rig *r, int slow_ms)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    r->pid = fork();
    if (r->pid == 0)
        become_launcher(r, ends[1], slow_ms);
    close(ends[1]);
    if (r->out >= 0)
        close(r->out);
    r->out = ends[0];
    remember(r);
    read_ready(r);
    read_instance(r);
    remember(r);
}

void rig_start(rig *r, rig_options options)
{
    lx_err err = {0};
    rig_make(r, options.config);
    rig_launch(r, options.slow_ms);
    if (lx_client_open(&r->client, r->endpoint, 10, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_string_equal(lx_client_output_dir(r->client), r->output);
}

int rig_wait_exit(rig *r, double seconds)
{
    int status;
    for (double until = rig_now_s() + seconds; rig_now_s() < until; rig_sleep(POLL_S))
        if (waitpid(r->pid, &status, WNOHANG) == r->pid) {
            r->pid = 0;
            remember(r);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    fail_msg("the launcher still lives after %.1f s", seconds);
    return -1;
}

/* Processes that were started with this rig's config (zombies have no command line). */
static int count_processes(const rig *r)
{
    int n = 0;
    DIR *dir = opendir("/proc");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[300], text[1024];
        snprintf(path, sizeof path, "/proc/%s/cmdline", e->d_name);
        int fd = e->d_name[0] >= '0' && e->d_name[0] <= '9' ? open(path, O_RDONLY) : -1;
        ssize_t got = fd < 0 ? 0 : read(fd, text, sizeof text);
        if (fd >= 0)
            close(fd);
        n += got > 0 && memmem(text, (size_t)got, r->root, strlen(r->root)) != NULL;
    }
    closedir(dir);
    return n;
}

void rig_check_ledger(const rig *r)
{
    char prefix[64];
    snprintf(prefix, sizeof prefix, "lx2v.%s.", r->instance);
    assert_int_equal(count_names("/dev/shm", prefix), 0);
    assert_int_equal(count_processes(r), 0);
    assert_int_equal(count_names(r->state, "clients.sock"), 0);
    assert_int_equal(count_names(r->state, "stages.sock"), 0);
    assert_int_equal(count_names(r->output, "."), 0); /* .JOB.part */
}

/* A sanitizer's report in a process that goes on, or was about to end anyway. */
static void check_log(const rig *r)
{
    static const char *const bad[] = {"runtime error:", "AddressSanitizer", "LeakSanitizer",
                                      "ThreadSanitizer"};
    char line[2048];
    FILE *file = fopen(r->log, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
            if (strstr(line, bad[i])) {
                show_log(r);
                fail_msg("%s", line);
            }
    fclose(file);
}

void rig_stop(rig *r, int signal_number)
{
    lx_err err = {0};
    if (signal_number)
        kill(r->pid, signal_number);
    else if (lx_client_command(r->client, LX_CLIENT_SHUTDOWN, NULL, 0, &err) != LX_OK)
        fail_msg("shutdown: %s", err.message);
    assert_int_equal(rig_wait_exit(r, 15), 0);
    rig_check_ledger(r);
    check_log(r);
}

int rig_run(char *text, size_t text_bytes, const char *format, ...)
{
    char command[2048];
    int n = snprintf(command, sizeof command, "%s/", LX2V_BIN_DIR);
    va_list args;
    va_start(args, format);
    vsnprintf(command + n, sizeof command - (size_t)n, format, args);
    va_end(args);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t used = fread(text, 1, text_bytes - 1, pipe);
    text[used] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* --- jobs ------------------------------------------------------------------------------------- */

lx_client_request rig_request(const char *id)
{
    return (lx_client_request){.id = id, .prompt = "a red ball rolls to the left", .seed = 42};
}

void rig_submit(rig *r, const char *id)
{
    lx_err err = {0};
    lx_client_accepted accepted;
    lx_client_request request = rig_request(id);
    if (lx_client_submit(r->client, &request, &accepted, &err) != LX_OK)
        fail_msg("submit %s: %s", id, err.message);
    assert_true(accepted.is_new);
}

static void keep_job(void *self, const lx_client_job *job)
{
    *(lx_client_job *)self = *job;
}

lx_client_job rig_job(rig *r, const char *id)
{
    lx_err err = {0};
    lx_client_job job = {0};
    lx_client_sink sink = {.job = keep_job, .self = &job};
    if (lx_client_query(r->client, id, &sink, NULL, &err) != LX_OK)
        fail_msg("status %s: %s", id, err.message);
    assert_string_equal(job.id, id);
    return job;
}

lx_client_state rig_wait(rig *r, const char *id, double seconds)
{
    for (double until = rig_now_s() + seconds; rig_now_s() < until; rig_sleep(POLL_S)) {
        lx_client_job job = rig_job(r, id);
        if (job.state > LX_CLIENT_RUNNING) {
            if (job.state == LX_CLIENT_FAILED)
                fprintf(stderr, "%s failed: %s\n", id, job.error);
            return job.state;
        }
    }
    fail_msg("%s is still %s after %.0f s", id, lx_client_state_name(rig_job(r, id).state),
             seconds);
    return LX_CLIENT_FAILED;
}

void rig_wait_stage(rig *r, const char *id, int stage, double seconds)
{
    for (double until = rig_now_s() + seconds; rig_now_s() < until; rig_sleep(POLL_S / 2)) {
        lx_client_job job = rig_job(r, id);
        if (job.stage[stage].start_s >= 0 && job.stage[stage].end_s < 0)
            return;
        if (job.state > LX_CLIENT_RUNNING || job.stage[stage].end_s >= 0)
            break;
    }
    fail_msg("%s was not seen in %s", id, lx_client_stage_name(stage));
}

void rig_all_done(rig *r, const char *const *ids, int n, double seconds)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(rig_wait(r, ids[i], seconds), LX_CLIENT_DONE);
}

typedef struct stage_wish {
    int stage;
    lx_client_stage found;
    int n_ready, n;
} stage_wish;

static void keep_stage(void *self, const lx_client_stage *stage)
{
    stage_wish *wish = self;
    if (stage->stage == wish->stage && stage->replica == 0)
        wish->found = *stage;
    wish->n++;
    wish->n_ready += !strcmp(stage->state, "ready") || !strcmp(stage->state, "busy");
}

static stage_wish ask_stages(rig *r, int stage)
{
    lx_err err = {0};
    stage_wish wish = {.stage = stage};
    lx_client_sink sink = {.stage = keep_stage, .self = &wish};
    if (lx_client_query(r->client, NULL, &sink, NULL, &err) != LX_OK)
        fail_msg("stages: %s", err.message);
    return wish;
}

lx_client_stage rig_stage(rig *r, int stage)
{
    return ask_stages(r, stage).found;
}

pid_t rig_stage_pid(rig *r, int stage)
{
    pid_t pid = (pid_t)rig_stage(r, stage).pid;
    assert_true(pid > 1);
    return pid;
}

void rig_wait_ready(rig *r, double seconds)
{
    for (double until = rig_now_s() + seconds; rig_now_s() < until; rig_sleep(POLL_S)) {
        stage_wish wish = ask_stages(r, 0);
        if (wish.n > 0 && wish.n_ready == wish.n)
            return;
    }
    fail_msg("not all stages are ready after %.0f s", seconds);
}

/* --- files ------------------------------------------------------------------------------------ */

static FILE *open_output(const rig *r, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", r->output, name);
    return fopen(path, "rb");
}

uint64_t rig_hash(const rig *r, const char *name)
{
    FILE *file = open_output(r, name);
    if (!file)
        fail_msg("%s: no such clip", name);
    uint64_t hash = UINT64_C(0xcbf29ce484222325), n = 0;
    for (int c; (c = getc(file)) != EOF; n++)
        hash = (hash ^ (uint64_t)c) * UINT64_C(0x100000001b3);
    fclose(file);
    assert_true(n > 500);
    return hash;
}

bool rig_has_file(const rig *r, const char *name)
{
    FILE *file = open_output(r, name);
    if (file)
        fclose(file);
    return file != NULL;
}

int rig_count_files(const rig *r)
{
    return count_names(r->output, "");
}
