/*
 * cli_process.c - start, listen, stop
 * SPDX-License-Identifier: Apache-2.0
 *
 * libzmq's threads may live here: between fork and exec only async-signal-safe calls are made.
 */
#include "cli_process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "lx_process.h"

extern char **environ;

#define SLICE_MS    20
#define ENV_MAX     512
#define DEPTH_MAX   8 /* of a folder that is removed */
#define TAIL_BYTES  16384
#define FOLDER_ROOT 40 /* bytes: what is longer leaves no room for socket names */

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Pointers into our own environment, with the plan's settings in front: the first one counts, and
 * an older one of the same name is left out. */
static void make_environment(char *out[ENV_MAX], const cli_process_plan *plan)
{
    int n = 0;
    for (size_t i = 0; i < 2; i++)
        if (plan->setting[i])
            out[n++] = (char *)(uintptr_t)plan->setting[i]; /* exec does not write to it */
    int n_own = n;
    for (char **v = environ; *v && n < ENV_MAX - 1; v++) {
        bool is_set = false;
        for (int i = 0; i < n_own; i++) {
            size_t name = strcspn(out[i], "=") + 1;
            is_set = is_set || strncmp(*v, out[i], name) == 0;
        }
        if (!is_set)
            out[n++] = *v;
    }
    out[n] = NULL;
}

typedef struct ends {
    int in, out, log; /* the child's */
    int death_signal;
    pid_t parent;
} ends;

static void become(const ends *e, char *const argv[], char *const env[])
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, e->death_signal);
    if (getppid() != e->parent) /* we died before the line above */
        _exit(1);
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigaction(SIGINT, &plain, NULL);
    sigaction(SIGPIPE, &plain, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(e->in, STDIN_FILENO) < 0 || dup2(e->out, STDOUT_FILENO) < 0 ||
        dup2(e->log, STDERR_FILENO) < 0 || close_range(STDERR_FILENO + 1, ~0U, 0))
        _exit(127);
    execve(argv[0], argv, env);
    _exit(127);
}

static lx_status open_ends(ends *e, cli_process *p, const cli_process_plan *plan, lx_err *err)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    const char *log = plan->log ? plan->log : "/dev/null";
    e->log = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (e->log < 0)
        return lx_fail(err, LX_EAGAIN, "%s: %s", log, strerror(errno));
    if (plan->is_fed ? pipe2(in, O_CLOEXEC) != 0
                     : (in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
        return lx_fail(err, LX_EAGAIN, "no pipe: %s", strerror(errno));
    e->in = in[0];
    p->in = in[1];
    if (pipe2(out, O_CLOEXEC))
        return lx_fail(err, LX_EAGAIN, "no pipe: %s", strerror(errno));
    p->out = out[0];
    e->out = out[1];
    fcntl(p->out, F_SETFL, O_NONBLOCK);
    return LX_OK;
}

lx_status cli_process_start(cli_process *p, const cli_process_plan *plan, lx_err *err)
{
    char *env[ENV_MAX];
    ends e = {.in = -1, .out = -1, .log = -1, .death_signal = plan->death_signal};
    *p = (cli_process){.in = -1, .out = -1, .exit_code = -1};
    if (access(plan->argv[0], X_OK) != 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s; it is built and installed beside lx2v",
                       plan->argv[0], strerror(errno));
    lx_status status = open_ends(&e, p, plan, err);
    if (status == LX_OK) {
        make_environment(env, plan);
        signal(SIGPIPE, SIG_IGN); /* it may be gone when we write to it */
        e.parent = getpid();
        p->pid = fork();
        if (p->pid == 0)
            become(&e, plan->argv, env);
        if (p->pid < 0) {
            p->pid = 0;
            status = lx_fail(err, LX_EAGAIN, "%s: %s", plan->argv[0], strerror(errno));
        }
    }
    close_one(&e.in);
    close_one(&e.out);
    close_one(&e.log);
    if (status != LX_OK) {
        close_one(&p->in);
        close_one(&p->out);
    }
    return status;
}

/* True once it has ended. */
static bool reap(cli_process *p)
{
    int status = 0;
    pid_t got = p->pid > 0 ? waitpid(p->pid, &status, WNOHANG) : 0;
    if (p->pid > 0 && got != p->pid && !(got < 0 && errno == ECHILD))
        return false;
    if (got == p->pid && p->pid > 0)
        p->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    p->pid = 0;
    return true;
}

bool cli_process_wait(cli_process *p, double seconds)
{
    double until = lx_now_s() + seconds;
    while (!reap(p)) {
        if (cli_interrupted() || lx_now_s() >= until)
            return false;
        sleep_ms(SLICE_MS);
    }
    return true;
}

/* One byte at a time: what comes after the line stays for the next call. */
static bool take_line(cli_process *p, bool *is_over)
{
    char c;
    for (ssize_t n; (n = read(p->out, &c, 1)) != 0;) {
        if (n < 0)
            return false; /* nothing there now, or a signal */
        if (c == '\n') {
            p->line[p->line_bytes] = 0;
            p->line_bytes = 0;
            return true;
        }
        if (p->line_bytes < sizeof p->line - 1)
            p->line[p->line_bytes++] = c;
    }
    *is_over = true;
    return false;
}

bool cli_process_line(cli_process *p, double seconds)
{
    double until = lx_now_s() + seconds;
    bool is_over = p->out < 0;
    while (!is_over) {
        if (take_line(p, &is_over))
            return true;
        if (is_over || cli_interrupted() || lx_now_s() >= until)
            break;
        struct pollfd out = {.fd = p->out, .events = POLLIN};
        poll(&out, 1, SLICE_MS);
    }
    return false;
}

void cli_process_stop(cli_process *p, double seconds)
{
    close_one(&p->in);
    if (p->pid > 0)
        kill(p->pid, SIGTERM);
    for (double until = lx_now_s() + seconds; !reap(p) && lx_now_s() < until;)
        sleep_ms(SLICE_MS);
    if (p->pid > 0) {
        kill(-p->pid, SIGKILL);
        kill(p->pid, SIGKILL);
        for (double until = lx_now_s() + 5; !reap(p) && lx_now_s() < until;)
            sleep_ms(SLICE_MS);
    }
    close_one(&p->out);
}

void cli_process_last_words(const char *log, char *out, size_t out_bytes)
{
    char *text = malloc(TAIL_BYTES + 1), *rest = NULL;
    struct stat st;
    int fd = open(log, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = -1;
    snprintf(out, out_bytes, "it left no word");
    if (text && fd >= 0 && fstat(fd, &st) == 0)
        n = pread(fd, text, TAIL_BYTES, st.st_size > TAIL_BYTES ? st.st_size - TAIL_BYTES : 0);
    if (n > 0) {
        bool is_error = false;
        text[n] = 0;
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
            bool is_e = strncmp(line, "E ", 2) == 0;
            if (is_e || !is_error)
                cli_safe(line, out, out_bytes);
            is_error = is_error || is_e;
        }
    }
    if (fd >= 0)
        close(fd);
    free(text);
}

/* --- folders ---------------------------------------------------------------------------------- */

lx_status cli_folder_make(char out[64], const char *purpose, lx_err *err)
{
    const char *root = getenv("XDG_RUNTIME_DIR");
    if (!root || *root != '/' || strlen(root) > FOLDER_ROOT || access(root, W_OK) != 0)
        root = "/tmp";
    snprintf(out, 64, "%s/lx2v-%.8s-XXXXXX", root, purpose);
    return mkdtemp(out) ? LX_OK : lx_fail(err, LX_EAGAIN, "%s: %s", out, strerror(errno));
}

static void empty_folder(int fd, int depth)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(dir), e->d_name, 0) == 0 || depth == 0)
            continue;
        int inner = openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner >= 0)
            empty_folder(inner, depth - 1);
        unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
    }
    closedir(dir);
}

void cli_folder_remove(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0)
        empty_folder(fd, DEPTH_MAX);
    rmdir(path);
}
