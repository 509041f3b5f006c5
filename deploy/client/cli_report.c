/*
 * cli_report.c - lx2v report: one text file for a bug report
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every part may fail without the others: what could not be found out is said in its place.
 */
#include "cli_report.h"

#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "cli.h"
#include "cli_machine.h"
#include "lx_child.h"
#include "lx_config.h"
#include "lx_device.h"
#include "lx_sha256.h"
#include "lx_write.h"

#define CHILD_ROOM (512 * 1024) /* bytes of what a child prints */
#define PLAN_S     120.0
#define DOCTOR_S   180.0
#define LOG_TAIL   (1024 * 1024) /* bytes looked at */
#define LOG_LINES  100           /* shown */
#define JOBS_SHOWN 40

#if defined(__x86_64__)
#define LOADER "/lib64/ld-linux-x86-64.so.2"
#elif defined(__aarch64__)
#define LOADER "/lib/ld-linux-aarch64.so.1"
#else
#define LOADER "/lib/ld.so.1"
#endif

typedef struct report {
    FILE *to;
    const cli_common *common;
    const char *config; /* path */
    const char *log;    /* path, or NULL */
    bool measure;
    cli_scrub scrub;
} report;

static void section(report *r, const char *title)
{
    fprintf(r->to, "\n== %s\n", title);
}

/* Scrubbed and on one line. */
static void line(report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void line(report *r, const char *format, ...)
{
    char text[4096], shown[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(r->to, "  %s\n", cli_scrub_line(&r->scrub, shown, sizeof shown, text));
}

/* --- versions --------------------------------------------------------------------------------- */

static void distribution(char *out, size_t out_bytes)
{
    static const char key[] = "PRETTY_NAME=";
    char text[256];
    snprintf(out, out_bytes, "unknown distribution");
    FILE *file = fopen("/etc/os-release", "re");
    while (file && fgets(text, sizeof text, file))
        if (strncmp(text, key, sizeof key - 1) == 0) {
            char *value = text + sizeof key - 1;
            value += *value == '"';
            value[strcspn(value, "\"\n")] = 0;
            snprintf(out, out_bytes, "%s", value);
        }
    if (file)
        fclose(file);
}

static bool matters(const char *name)
{
    static const char *const libraries[] = {
        "libzmq", "libczmq", "libmsgpack", "libyaml",   "libjansson", "libutf8proc",
        "libav",  "libsw",   "libx264",    "libdnnl",   "libgomp",    "libcu",
        "libnv",  "liblx2v", "libc.so",    "libstdc++", "libnvidia"};
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++)
        if (strncmp(name, libraries[i], strlen(libraries[i])) == 0)
            return true;
    return false;
}

/* One line of the loader's list: "libzmq.so.5 => /lib/.../libzmq.so.5 (0x...)". The file behind the
 * link carries the version. */
static void tell_library(report *r, char *text, char *seen, size_t seen_bytes)
{
    char name[128], path[512], real[4096], mark[160];
    bool is_missing = strstr(text, "not found") != NULL;
    if (sscanf(text, " %127s => %511s", name, path) != 2 || (!matters(name) && !is_missing))
        return;
    snprintf(mark, sizeof mark, " %s ", name);
    size_t used = strlen(seen);
    if (strstr(seen, mark))
        return;
    snprintf(seen + used, seen_bytes - used, "%s", mark);
    if (is_missing)
        line(r, "%-24s MISSING", name);
    else
        line(r, "%-24s %s", name, realpath(path, real) ? real : path);
}

static void list_libraries(report *r)
{
    static const char *const programs[] = {"lx2v",     "lx2v-launch", "lx2v-encoder",
                                           "lx2v-mux", "lx2v-probe",  "liblx2v_cuda.so"};
    char seen[4096] = "", path[LX_LIMIT_PATH], loader[] = LOADER, flag[] = "--list";
    char *text = malloc(CHILD_ROOM), *rest = NULL;
    for (size_t i = 0; text && i < sizeof programs / sizeof *programs; i++) {
        char *argv[] = {loader, flag, path, NULL};
        lx_err err = {0};
        lx_child child = {.argv = argv, .timeout_s = 10, .out = text, .out_room = CHILD_ROOM};
        if (lx_child_beside(path, sizeof path, programs[i], &err) != LX_OK || access(path, R_OK))
            continue;
        if (lx_child_run(&child, &err) != LX_OK) {
            line(r, "%s", err.message);
            continue;
        }
        for (char *at = strtok_r(text, "\n", &rest); at; at = strtok_r(NULL, "\n", &rest))
            tell_library(r, at, seen, sizeof seen);
    }
    free(text);
}

static void tell_environment(report *r)
{
    extern char **environ;
    static const char *const prefixes[] = {"CUDA_", "NVIDIA_", "OMP_", "DNNL_", "ONEDNN_", "LX2V_"};
    for (char **v = environ; *v; v++)
        for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
            if (strncmp(*v, prefixes[i], strlen(prefixes[i])) == 0 && !strstr(*v, "TOKEN") &&
                !strstr(*v, "KEY") && !strstr(*v, "PROMPT"))
                line(r, "%s", *v);
}

static void tell_versions(report *r)
{
    char distro[128];
    int major, minor, patch;
    struct utsname kernel;
    section(r, "versions");
    distribution(distro, sizeof distro);
    zmq_version(&major, &minor, &patch);
    line(r, "lx2v %s, built for %s", LX2V_VERSION, LX2V_BACKEND);
    if (uname(&kernel) == 0)
        line(r, "%s %s %s, %s, glibc %s", kernel.sysname, kernel.release, kernel.machine, distro,
             gnu_get_libc_version());
    line(r, "libzmq %d.%d.%d, msgpack %s, jansson %s", major, minor, patch, msgpack_version(),
         JANSSON_VERSION);
    list_libraries(r);
    section(r, "environment");
    tell_environment(r);
}

/* --- config, plan, doctor --------------------------------------------------------------------- */

static void tell_config(report *r)
{
    section(r, "config (without comments)");
    FILE *file = fopen(r->config, "re");
    if (!file) {
        line(r, "%s: %s", r->config, strerror(errno));
        return;
    }
    line(r, "# %s", r->config);
    cli_scrub_yaml(&r->scrub, r->to, file);
    fclose(file);
}

/* What a program beside this one prints. */
static void tell_command(report *r, const char *program, char *const *words, double timeout_s)
{
    char path[LX_LIMIT_PATH];
    char *argv[12] = {path};
    lx_err err = {0};
    char *text = malloc(CHILD_ROOM);
    for (int i = 0; i < 10 && words[i]; i++)
        argv[i + 1] = words[i];
    lx_child child = {.argv = argv, .timeout_s = timeout_s, .out = text, .out_room = CHILD_ROOM};
    if (!text || lx_child_beside(path, sizeof path, program, &err) != LX_OK) {
        line(r, "%s", text ? err.message : "out of memory");
    } else {
        lx_status status = lx_child_run(&child, &err);
        cli_scrub_text(&r->scrub, r->to, text);
        if (status != LX_OK)
            line(r, "%s", err.message);
        else if (child.exit_code != 0)
            line(r, "exit code %d: %s", child.exit_code, child.err);
    }
    free(text);
}

/* --config and --endpoint as we were given them. */
static int add_common(const report *r, char **words, int n)
{
    static char config[] = "--config", endpoint[] = "--endpoint";
    if (r->common->config) {
        words[n++] = config;
        words[n++] = (char *)(uintptr_t)r->common->config; /* argv of a child is not written to */
    }
    if (r->common->endpoint) {
        words[n++] = endpoint;
        words[n++] = (char *)(uintptr_t)r->common->endpoint;
    }
    return n;
}

static void tell_plan_and_doctor(report *r)
{
    char plan[] = "plan", doctor[] = "doctor", measure[] = "--measure";
    char *plan_words[] = {plan, (char *)(uintptr_t)r->config, NULL};
    char *doctor_words[8] = {doctor}, *no_words[] = {NULL};
    section(r, "plan");
    tell_command(r, "lx2v", plan_words, PLAN_S);
    section(r, "doctor");
    doctor_words[add_common(r, doctor_words, 1)] = r->measure ? measure : NULL;
    tell_command(r, "lx2v", doctor_words, DOCTOR_S);
    section(r, "lx2v-probe");
    tell_command(r, "lx2v-probe", no_words, LX_PROBE_TIMEOUT_S);
}

/* --- the launcher ----------------------------------------------------------------------------- */

static void prompt_hash(const char *prompt, char out[65])
{
    lx_sha256 sha;
    lx_sha256_open(&sha);
    lx_sha256_add(&sha, prompt, strlen(prompt));
    lx_sha256_hex(&sha, out);
}

/* Jobs come as they are asked for; all prompts must be known before the first text is shown. Jobs
 * that have only waited have no story: the summary counts them. */
typedef struct state {
    report *r;
    lx_client_job jobs[JOBS_SHOWN]; /* the last ones, in a ring */
    size_t n_jobs;
    lx_client_stage stages[64];
    size_t n_stages;
    bool is_short; /* of memory */
} state;

static void on_job(void *self, const lx_client_job *job)
{
    state *s = self;
    if (job->state == LX_CLIENT_QUEUED && job->retries == 0 && !*job->error)
        return;
    s->is_short |= !cli_scrub_learn(&s->r->scrub, job->prompt);
    s->jobs[s->n_jobs++ % JOBS_SHOWN] = *job;
}

static void on_stage(void *self, const lx_client_stage *stage)
{
    state *s = self;
    if (s->n_stages < sizeof s->stages / sizeof *s->stages)
        s->stages[s->n_stages++] = *stage;
}

static void tell_stage(report *r, const lx_client_stage *s)
{
    char rss[32], peak[32];
    line(r, "%s[%d] %s on %s, memory %s, at most %s, restarts %" PRIu64 ", jobs %" PRIu64 "%s%s",
         lx_client_stage_name(s->stage), s->replica, s->state, s->device,
         cli_bytes(s->rss_bytes, rss, sizeof rss), cli_bytes(s->peak_bytes, peak, sizeof peak),
         s->restarts, s->jobs, *s->text ? "; last death: " : "", s->text);
}

static void tell_job(report *r, const lx_client_job *job)
{
    char hash[65], times[256] = "";
    prompt_hash(job->prompt, hash);
    for (int i = 0; i < LX_CLIENT_STAGES; i++) {
        size_t used = strlen(times);
        double seconds = job->stage[i].end_s - job->stage[i].start_s;
        if (job->stage[i].replica >= 0 && seconds >= 0 && seconds < 1e7)
            snprintf(times + used, sizeof times - used, " %s %.2f s", lx_client_stage_name(i),
                     seconds);
    }
    line(r,
         "%s %s %dx%d, %d frames, prompt of %zu bytes%s (sha256 %.12s), %d tokens%s%s, retries "
         "%" PRIu64 "%s%s",
         job->id, lx_client_state_name(job->state), job->width, job->height, job->frames,
         strlen(job->prompt), strlen(job->prompt) >= sizeof job->prompt - 1 ? " or more" : "", hash,
         job->n_tokens, *times ? "," : "", times, job->retries, *job->error ? "; " : "",
         job->error);
}

/* Fills in what the scrubber must know: comes before every text that may quote a prompt. */
static lx_status ask_launcher(report *r, state *s, lx_client_summary *summary, lx_err *err)
{
    lx_client *client = NULL;
    lx_client_sink sink = {.job = on_job, .stage = on_stage, .self = s};
    lx_status status = cli_connect(&client, r->common, err);
    if (status == LX_OK)
        status = lx_client_query(client, NULL, &sink, summary, err);
    lx_client_close(&client);
    if (status == LX_OK && s->is_short)
        status = lx_fail(err, LX_EAGAIN, "out of memory: its texts are left out");
    return status;
}

static void tell_launcher(report *r, const state *s, const lx_client_summary *summary)
{
    line(r, "%s, %" PRId64 " queued, %" PRId64 " running", summary->state, summary->n_queued,
         summary->n_running);
    for (size_t i = 0; i < s->n_stages; i++)
        tell_stage(r, &s->stages[i]);
    size_t first = s->n_jobs > JOBS_SHOWN ? s->n_jobs - JOBS_SHOWN : 0;
    if (first > 0)
        line(r, "%zu earlier jobs are left out", first);
    for (size_t i = first; i < s->n_jobs; i++)
        tell_job(r, &s->jobs[i % JOBS_SHOWN]);
}

/* --- the log ---------------------------------------------------------------------------------- */

/* Where the running launcher's stderr goes, if that is a file. */
static bool find_log(const report *r, char *out, size_t out_bytes)
{
    lx_config *config = malloc(sizeof *config);
    char path[LX_LIMIT_PATH + 16], exe[LX_LIMIT_PATH];
    int pid = 0;
    struct stat st;
    bool found = config && lx_config_load(config, r->config, NULL) == LX_OK;
    if (found) {
        snprintf(path, sizeof path, "%s/lock", config->state.dir);
        FILE *file = fopen(path, "re");
        found = file && fscanf(file, "%9d", &pid) == 1 && pid > 1;
        if (file)
            fclose(file);
    }
    free(config);
    if (!found)
        return false;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    const char *slash = strrchr(exe, '/');
    snprintf(out, out_bytes, "/proc/%d/fd/2", pid);
    return slash && strncmp(slash, "/lx2v-launch", 12) == 0 && stat(out, &st) == 0 &&
           S_ISREG(st.st_mode);
}

/* The last errors and warnings of ours; other lines may say anything. */
static void tell_log(report *r)
{
    char found[64];
    section(r, "last errors and warnings of the log");
    const char *path = r->log ? r->log : find_log(r, found, sizeof found) ? found : NULL;
    if (!path) {
        line(r, "no log file is known: lx2v-launch writes to its stderr; give it with --log FILE");
        return;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char *text = malloc(LOG_TAIL + 1), *rest = NULL;
    if (fd < 0 || !text || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        line(r, "%s: %s", path, fd < 0 ? strerror(errno) : "not a file");
    } else {
        off_t at = st.st_size > LOG_TAIL ? st.st_size - LOG_TAIL : 0;
        ssize_t n = pread(fd, text, LOG_TAIL, at);
        n = n > 0 ? n : 0;
        for (ssize_t i = 0; i < n; i++) /* a log has no NUL; one would hide the rest */
            text[i] = text[i] ? text[i] : '?';
        text[n] = 0;
        char *last[LOG_LINES];
        size_t n_found = 0;
        for (char *l = strtok_r(text, "\n", &rest); l; l = strtok_r(NULL, "\n", &rest))
            if (cli_scrub_is_error(l))
                last[n_found++ % LOG_LINES] = l;
        for (size_t i = n_found > LOG_LINES ? n_found - LOG_LINES : 0; i < n_found; i++)
            line(r, "%s", last[i % LOG_LINES]);
        if (n_found == 0)
            line(r, "none");
    }
    free(text);
    if (fd >= 0)
        close(fd);
}

/* --- the file --------------------------------------------------------------------------------- */

static lx_status compose(report *r, lx_err *err)
{
    lx_err unreached = {0};
    lx_client_summary summary = {0};
    state *s = calloc(1, sizeof *s); /* 250 KiB */
    if (!s)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    s->r = r;
    lx_status asked = ask_launcher(r, s, &summary, &unreached);
    fprintf(r->to,
            "lx2v report. It contains no prompts, only their length and hash. The home folder "
            "is written\nas ~. Look through it before you send it.\n");
    tell_versions(r);
    tell_config(r);
    tell_plan_and_doctor(r);
    section(r, "launcher");
    if (asked == LX_OK)
        tell_launcher(r, s, &summary);
    else
        line(r, "%s", unreached.message);
    if (s->is_short) /* without every prompt known the log could not be cleaned */
        line(r, "the log is left out: out of memory");
    else
        tell_log(r);
    free(s);
    return LX_OK;
}

static lx_status save(const char *path, const char *text, size_t bytes, lx_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s; name another file with -o", path, strerror(errno));
    int error = lx_write_all(fd, text, bytes);
    close(fd);
    if (error) {
        unlink(path);
        return lx_fail(err, LX_EJOB, "%s: %s", path, strerror(error));
    }
    return LX_OK;
}

static lx_status make(report *r, const char *path, bool as_json, lx_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    cli_scrub_open(&r->scrub);
    r->to = open_memstream(&text, &bytes);
    lx_status status = r->to ? compose(r, err) : lx_fail(err, LX_EAGAIN, "out of memory");
    if (r->to && fclose(r->to) != 0 && status == LX_OK)
        status = lx_fail(err, LX_EAGAIN, "out of memory");
    if (status == LX_OK)
        status = save(path, text, bytes, err);
    if (status == LX_OK) {
        cli_say("the report has no prompts; look through it before you send it");
        if (as_json)
            cli_json_print(
                json_pack("{s:o, s:I}", "file", cli_json_text(path), "bytes", (json_int_t)bytes));
        else
            printf("%s\n", path);
    }
    free(text);
    cli_scrub_close(&r->scrub);
    return status;
}

lx_status cli_report_file(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    const char *output = NULL, *log = NULL;
    char name[64];
    bool done = false, measure = false;
    const cli_flag flags[] = {
        {"output", 'o', "FILE", "where to write it (default: lx2v-report-DATE.txt here)", &output,
         NULL},
        {"log", 0, "FILE", "the launcher's log (default: its stderr, if that is a file)", &log,
         NULL},
        {"measure", 0, NULL, "with the measurements of doctor", NULL, &measure},
    };
    lx_status status = cli_begin(self, &args, argc, argv, flags, 3, &done, err);
    if (status == LX_OK && !done && args.n_words > 0)
        status = lx_fail(err, LX_ECONFIG, "report: \"%.64s\"? A file is given as -o FILE",
                         args.words[0]);
    if (status == LX_OK && !done) {
        time_t now = time(NULL);
        struct tm local;
        if (!localtime_r(&now, &local) ||
            !strftime(name, sizeof name, "lx2v-report-%Y%m%d-%H%M%S.txt", &local))
            snprintf(name, sizeof name, "lx2v-report.txt");
        report r = {.common = &args.common,
                    .config = args.common.config ? args.common.config : "config.yaml",
                    .log = log,
                    .measure = measure};
        status = make(&r, output ? output : name, args.common.json, err);
    }
    free(args.words);
    return status;
}
