/*
 * state_dir.c - lock, record, sweep
 * SPDX-License-Identifier: Apache-2.0
 *
 * `run` is text: "instance HEX", then "stage PID START NAME" per process. START is field 22 of
 * /proc/PID/stat, so that a process number that was given out again is not taken for a stage.
 */
#include "state_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lx_log.h"
#include "lx_process.h"
#include "lx_share.h"

#define ORPHAN_WAIT_S                                                                              \
    1.5 /* a dead launcher's stages are gone in milliseconds; loaded machines exist */

struct state_dir {
    char path[LX_LIMIT_PATH];
    char instance[33];
    int fd;   /* of the folder: everything in it is opened relative to this */
    int lock; /* descriptor that holds the flock */
};

lx_status state_random_hex(char *out, int n, lx_err *err)
{
    unsigned char bytes[64];
    size_t want = (size_t)n / 2;
    if (want > sizeof bytes || getrandom(bytes, want, 0) != (ssize_t)want)
        return lx_fail(err, LX_ESTAGE, "no random bytes: %s", strerror(errno));
    for (size_t i = 0; i < want; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return LX_OK;
}

/* --- folder and lock -------------------------------------------------------------------------- */

static lx_status open_folder(state_dir *dir, lx_err *err)
{
    if (mkdir(dir->path, 0700) && errno != EEXIST)
        return lx_fail(err, LX_ECONFIG, "state.dir %s: cannot be made: %s", dir->path,
                       strerror(errno));
    dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir->fd < 0)
        return lx_fail(err, LX_ECONFIG, "state.dir %s: %s", dir->path,
                       errno == ELOOP || errno == ENOTDIR ? "is not a folder (links are refused)"
                                                          : strerror(errno));
    struct stat st;
    if (fstat(dir->fd, &st))
        return lx_fail(err, LX_ECONFIG, "state.dir %s: %s", dir->path, strerror(errno));
    if (st.st_uid != geteuid())
        return lx_fail(err, LX_ECONFIG,
                       "state.dir %s: belongs to user %u, not to you (%u); set state.dir in "
                       "config.yaml to a folder of your own",
                       dir->path, st.st_uid, geteuid());
    if (st.st_mode & 077)
        return lx_fail(err, LX_ECONFIG,
                       "state.dir %s: mode %03o lets others in; run chmod 700 on it, or choose "
                       "another",
                       dir->path, st.st_mode & 0777);
    return LX_OK;
}

static lx_status take_lock(state_dir *dir, lx_err *err)
{
    dir->lock = openat(dir->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (dir->lock < 0)
        return lx_fail(err, LX_ECONFIG, "%s/lock: %s", dir->path, strerror(errno));
    if (flock(dir->lock, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK)
            return lx_fail(err, LX_ECONFIG, "%s/lock: %s", dir->path, strerror(errno));
        char pid[16] = "?";
        ssize_t n = pread(dir->lock, pid, sizeof pid - 1, 0);
        pid[n > 0 ? n : 1] = 0;
        pid[strcspn(pid, "\n")] = 0;
        return lx_fail(err, LX_ECONFIG,
                       "a launcher (pid %s) is already running with state.dir %s; stop it with "
                       "`lx2v shutdown`, or give this one another state.dir",
                       pid, dir->path);
    }
    char text[16];
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(dir->lock, 0) || pwrite(dir->lock, text, (size_t)n, 0) != n)
        return lx_fail(err, LX_ECONFIG, "%s/lock: %s", dir->path, strerror(errno));
    return LX_OK;
}

/* --- those who were here before --------------------------------------------------------------- */

/* When process pid began, in clock ticks since boot; 0: there is none (a zombie counts as none). */
static uint64_t start_of(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *p = strrchr(text, ')'); /* the name before it may contain anything */
    char state = 0;
    uint64_t start = 0;
    if (!p || sscanf(p + 1,
                     " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
                     "%" SCNu64,
                     &state, &start) != 2)
        return 0;
    return state == 'Z' || state == 'X' ? 0 : start;
}

/* The first living stage of the record, or 0. Waits a moment for those that are just dying. */
static pid_t find_orphan(const char *record, char name[32])
{
    double until = lx_now_s() + ORPHAN_WAIT_S;
    for (const char *line = strstr(record, "\nstage "); line; line = strstr(line + 1, "\nstage ")) {
        int pid;
        uint64_t start;
        if (sscanf(line, "\nstage %d %" SCNu64 " %31s", &pid, &start, name) != 3 || pid < 2)
            continue;
        while (start && start_of((pid_t)pid) == start) {
            if (lx_now_s() > until)
                return (pid_t)pid;
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        }
    }
    return 0;
}

static lx_status bury_the_dead(const state_dir *dir, lx_err *err)
{
    char record[8192];
    int fd = openat(dir->fd, "run", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, record, sizeof record - 1);
    if (fd >= 0)
        close(fd);
    record[n > 0 ? n : 0] = 0;
    char instance[33] = "", name[32];
    if (sscanf(record, "instance %32[0-9a-f]", instance) == 1 && strlen(instance) == 32) {
        pid_t orphan = find_orphan(record, name);
        if (orphan)
            return lx_fail(err, LX_ECONFIG,
                           "%s (pid %d) of an earlier launcher still lives; end it with kill -9 "
                           "%d, then start again",
                           name, (int)orphan, (int)orphan);
        int swept = lx_share_sweep(instance, 0);
        if (swept > 0)
            LX_W("swept=%d shared memory names of a launcher that died", swept);
    }
    static const char *const stale[] = {"clients.sock", "stages.sock", "run", "run.new"};
    for (size_t i = 0; i < sizeof stale / sizeof *stale; i++)
        if (unlinkat(dir->fd, stale[i], 0) && errno != ENOENT)
            return lx_fail(err, LX_ECONFIG, "%s/%s: cannot be removed: %s", dir->path, stale[i],
                           strerror(errno));
    return LX_OK;
}

/* --- life ------------------------------------------------------------------------------------- */

lx_status state_dir_open(state_dir **out, const char *path, lx_err *err)
{
    state_dir *dir = calloc(1, sizeof *dir);
    if (!dir)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    dir->fd = dir->lock = -1;
    snprintf(dir->path, sizeof dir->path, "%s", path);
    lx_status status = open_folder(dir, err);
    if (status == LX_OK)
        status = take_lock(dir, err);
    if (status == LX_OK)
        status = bury_the_dead(dir, err);
    char instance[33];
    if (status == LX_OK)
        status = state_random_hex(instance, 32, err);
    if (status != LX_OK) {
        state_dir_close(&dir); /* without an instance: touches nothing that is not ours */
        return status;
    }
    memcpy(dir->instance, instance, sizeof instance);
    state_dir_record(dir, NULL, 0);
    *out = dir;
    return LX_OK;
}

void state_dir_close(state_dir **dir)
{
    if (!dir || !*dir)
        return;
    state_dir *d = *dir;
    if (d->instance[0]) {
        lx_share_sweep(d->instance, 0);
        unlinkat(d->fd, "clients.sock", 0);
        unlinkat(d->fd, "stages.sock", 0);
        unlinkat(d->fd, "run", 0);
    }
    if (d->lock >= 0)
        close(d->lock); /* the file stays: removing it would race with the next launcher's lock */
    if (d->fd >= 0)
        close(d->fd);
    free(d);
    *dir = NULL;
}

const char *state_dir_instance(const state_dir *dir)
{
    return dir->instance;
}

lx_status state_dir_endpoint(const state_dir *dir, const char *name, char *out, lx_err *err)
{
    int n = snprintf(out, LX_LIMIT_PATH + 8, "ipc://%s/%s", dir->path, name);
    if (n < 0 || n >= LX_LIMIT_PATH + 8)
        return lx_fail(err, LX_ECONFIG, "state.dir %s: the path is too long", dir->path);
    return LX_OK;
}

static bool write_record(const state_dir *dir, const state_stage *stages, int n)
{
    int fd =
        openat(dir->fd, "run.new", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    fprintf(file, "instance %s\n", dir->instance);
    for (int i = 0; i < n; i++)
        fprintf(file, "stage %d %" PRIu64 " %s\n", (int)stages[i].pid, start_of(stages[i].pid),
                stages[i].name);
    return fclose(file) == 0 && renameat(dir->fd, "run.new", dir->fd, "run") == 0;
}

void state_dir_record(const state_dir *dir, const state_stage *stages, int n)
{
    if (!write_record(dir, stages, n))
        LX_W("%s/run: cannot be written: %s", dir->path, strerror(errno));
}
