/*
 * inhibit.c - one child that holds a lock of logind's
 * SPDX-License-Identifier: Apache-2.0
 */
#include "inhibit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lx_log.h"

#define REFUSED_S 5.0 /* ended by itself within that: it will not do better next time */

/* `cat` ends when our end of the pipe does, and systemd-inhibit with it. */
static void become_inhibitor(int read_end)
{
    static char *const argv[] = {
        "systemd-inhibit", "--what=sleep", "--who=lx2v", "--why=clips are being made",
        "--mode=block",    "cat",          NULL};
    sigset_t none;
    setpgid(0, 0); /* Ctrl-C is for the launcher */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_WRONLY);
    if (null < 0 || dup2(read_end, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
        dup2(null, STDERR_FILENO) < 0 || close_range(STDERR_FILENO + 1, ~0U, 0))
        _exit(1);
    execvp(argv[0], argv);
    _exit(127);
}

static void begin(inhibit *i, double now_s)
{
    int ends[2];
    i->asked_s = now_s;
    if (pipe2(ends, O_CLOEXEC))
        return; /* short of descriptors: the jobs matter more */
    pid_t pid = fork();
    if (pid == 0)
        become_inhibitor(ends[0]);
    close(ends[0]);
    if (pid < 0) {
        close(ends[1]);
        return;
    }
    i->pid = pid;
    i->pipe = ends[1];
    i->is_leaving = false;
}

static void let_go(inhibit *i)
{
    if (!i->is_leaving)
        close(i->pipe);
    i->is_leaving = true;
}

static void reap(inhibit *i, double now_s)
{
    int status;
    if (waitpid(i->pid, &status, WNOHANG) != i->pid)
        return;
    i->pid = 0;
    if (i->is_leaving)
        return;
    close(i->pipe);
    i->is_useless = now_s - i->asked_s < REFUSED_S;
    if (i->is_useless)
        LX_I("this machine may fall asleep over a queue: systemd-inhibit %s",
             WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not installed"
                                                             : "got no lock from logind");
}

void inhibit_tick(inhibit *i, bool wanted, double now_s)
{
    if (i->pid)
        reap(i, now_s);
    if (wanted && !i->pid && !i->is_useless)
        begin(i, now_s);
    else if (!wanted && i->pid)
        let_go(i);
}

void inhibit_end(inhibit *i)
{
    if (!i->pid)
        return;
    let_go(i);
    kill(i->pid, SIGTERM);
    waitpid(i->pid, NULL, 0);
    i->pid = 0;
}
