/*
 * spawn.c - fork, clean, exec
 * SPDX-License-Identifier: Apache-2.0
 *
 * libzmq's threads live in this process: between fork and exec only async-signal-safe calls are
 * made, and everything that needs memory is prepared before.
 */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lx_fault.h"

extern char **environ;

#define HANDOVER_FD 3
#define SHARED_FD   4
#define CONFIG_FD   5
#define FD_ASIDE    16 /* beyond all three */
#define ENV_MAX     128

/* What a stage may know of our environment. A name ending in '_' stands for all that begin so. */
static const char *const passed_on[] = {"PATH",
                                        "HOME",
                                        "XDG_CACHE_HOME",
                                        "LANG",
                                        "LC_ALL",
                                        "TMPDIR",
                                        "LD_LIBRARY_PATH",
                                        "ASAN_OPTIONS",
                                        "TSAN_OPTIONS",
                                        "UBSAN_OPTIONS",
                                        "LSAN_OPTIONS",
                                        "OMP_",
                                        "DNNL_",
                                        "ONEDNN_",
                                        "LX2V_"};

static bool is_passed_on(const char *variable)
{
    size_t n = strcspn(variable, "=");
    for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++) {
        size_t m = strlen(passed_on[i]);
        bool is_prefix = passed_on[i][m - 1] == '_';
        if ((is_prefix ? n >= m : n == m) && strncmp(variable, passed_on[i], m) == 0)
            return true;
    }
    return false;
}

/* Pointers into our own environment: nothing is copied. */
static void make_environment(char *out[ENV_MAX])
{
    static char passive[] =
        "OMP_WAIT_POLICY=passive"; /* idle threads must not eat another stage's */
    int n = 0;
    for (char **v = environ; *v && n < ENV_MAX - 2; v++)
        if (is_passed_on(*v) && strncmp(*v, "OMP_WAIT_POLICY=", 16))
            out[n++] = *v;
    out[n++] = passive;
    out[n] = NULL;
}

/* A pipe with the hand-over line already in it (it is far smaller than a pipe's buffer). Its other
 * end is kept: that it closes tells the stage of our death. */
static lx_status make_handover(int ends[2], const spawn_request *q, lx_err *err)
{
    char line[LX_LIMIT_PATH + 256];
    int n = snprintf(line, sizeof line,
                     "endpoint=%s token=%s instance=%s epoch=%" PRIu64 " stays=open\n", q->endpoint,
                     q->token, q->instance, q->epoch);
    if (pipe2(ends, O_CLOEXEC))
        return lx_fail(err, LX_EAGAIN, "no pipe for the hand-over: %s", strerror(errno));
    ssize_t written = write(ends[1], line, (size_t)n);
    explicit_bzero(line, sizeof line);
    if (written != n) {
        close(ends[0]);
        close(ends[1]);
        return lx_fail(err, LX_EAGAIN, "hand-over: %s", strerror(errno));
    }
    return LX_OK;
}

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* nobody to tell */
}

static void give_up_in_child(const char *binary, int error)
{
    const char *why = strerrordesc_np(error); /* no locale, no allocation */
    say("E lx2v-launch cannot start ");
    say(binary);
    say(": ");
    say(why ? why : "?");
    say("\n");
    _exit(error == ENOENT || error == EACCES || error == ENOEXEC ? 2 : 1);
}

/* The descriptors a stage inherits, at their places; nothing else stays open. One may lie where
 * another belongs, so all step aside first. */
static bool hand_down(const int fds[3])
{
    int aside[3];
    for (int i = 0; i < 3; i++)
        aside[i] = fds[i] > 0 ? fcntl(fds[i], F_DUPFD, FD_ASIDE) : -1;
    for (int i = 0; i < 3; i++) {
        if (fds[i] <= 0)
            close(HANDOVER_FD + i);
        else if (dup2(aside[i], HANDOVER_FD + i) < 0)
            return false;
    }
    return close_range(CONFIG_FD + 1, ~0U, 0) == 0;
}

/* fds: hand-over, weights, config; oom: what its oom_score_adj shall be */
static void become_stage(pid_t parent, const int fds[3], int null, const char *oom,
                         char *const argv[], char *const env[])
{
    setpgid(0, 0); /* Ctrl-C is for the launcher, which then stops us in order */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the line above */
        _exit(1);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0}); /* a core would hold prompts and tensors */
    int adj = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (adj >= 0 && write(adj, oom, strlen(oom)) < 0)
        say("W lx2v-launch cannot write oom_score_adj of a stage\n");
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigaction(SIGPIPE, &plain, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(null, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 || !hand_down(fds))
        _exit(1);
    execve(argv[0], argv, env);
    give_up_in_child(argv[0], errno);
}

/* Short of memory a stage goes, not the launcher: 500 above ours, which a service manager may have
 * set; 1000 is the most there is. */
static void make_oom_score(char out[16])
{
    int own = 0;
    FILE *file = fopen("/proc/self/oom_score_adj", "re");
    if (!file || fscanf(file, "%d", &own) != 1)
        own = 0;
    if (file)
        fclose(file);
    snprintf(out, 16, "%d", own + 500 < 1000 ? own + 500 : 1000);
}

/* The command line; its texts live as long as this. */
typedef struct command {
    int n, n_texts;
    char *argv[24];
    char binary[LX_LIMIT_PATH + 32], config[LX_LIMIT_PATH];
    char text[16][32];
} command;

static void add_word(command *c, const char *word)
{
    char *text = c->text[c->n_texts++];
    snprintf(text, sizeof c->text[0], "%s", word);
    c->argv[c->n++] = text;
}

static void add_number(command *c, const char *flag, uint64_t number)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%" PRIu64, number);
    add_word(c, flag);
    add_word(c, digits);
}

static void make_command(command *c, const spawn_request *q)
{
    memset(c, 0, sizeof *c);
    snprintf(c->binary, sizeof c->binary, "%s/lx2v-%s", q->binary_dir, lx_stage_kind_name(q->kind));
    snprintf(c->config, sizeof c->config, "%s", q->config_path);
    c->argv[c->n++] = c->binary;
    add_word(c, "--config");
    c->argv[c->n++] = c->config;
    add_number(c, "--replica", (uint64_t)q->replica);
    add_number(c, "--handover", HANDOVER_FD);
    if (q->shared_fd > 0)
        add_number(c, "--shared", SHARED_FD);
    if (q->config_fd > 0)
        add_number(c, "--settings", CONFIG_FD);
    if (q->vram)
        add_number(c, "--vram", q->vram);
    if (q->ram)
        add_number(c, "--ram", q->ram);
    if (q->is_leased)
        add_number(c, "--lease", 1);
}

lx_status spawn_stage(pid_t *pid, int *lifeline, const spawn_request *q, lx_err *err)
{
    command c; /* 9 KiB */
    make_command(&c, q);
    if (access(c.binary, X_OK))
        return lx_fail(err, LX_ECONFIG, "%s: %s; it is built and installed beside lx2v-launch",
                       c.binary, strerror(errno));
    char *env[ENV_MAX], oom[16];
    make_environment(env);
    make_oom_score(oom);

    int handover[2];
    lx_status status = make_handover(handover, q, err);
    if (status != LX_OK)
        return status;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    pid_t parent = getpid();
    int failed = LX_FAULT("spawn.fork");
    pid_t child = null < 0 || failed ? -1 : fork();
    if (child == 0)
        become_stage(parent, (const int[]){handover[0], q->shared_fd, q->config_fd}, null, oom,
                     c.argv, env);
    int error = failed ? failed : errno;
    close(handover[0]);
    if (null >= 0)
        close(null);
    if (child < 0) {
        close(handover[1]);
        return lx_fail(err, LX_EAGAIN, "cannot start %s: %s", c.binary, strerror(error));
    }
    *pid = child;
    *lifeline = handover[1];
    return LX_OK;
}

lx_status spawn_binary_dir(char *out, lx_err *err)
{
    ssize_t n = readlink("/proc/self/exe", out, LX_LIMIT_PATH - 1);
    if (n <= 0)
        return lx_fail(err, LX_ESTAGE, "/proc/self/exe: %s", strerror(errno));
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash)
        return lx_fail(err, LX_ESTAGE, "/proc/self/exe: %s is no path", out);
    *slash = 0;
    return LX_OK;
}
