/*
 * played_launcher.h - lx2v as its users run it, and a launcher that a thread of the test plays
 * SPDX-License-Identifier: Apache-2.0
 *
 * For tests of one command at a time, on the real bus: the thread answers with what the test needs,
 * such as a full queue or no answer at all. The real launcher is met in tests/pipeline.
 */
#ifndef PLAYED_LAUNCHER_H
#define PLAYED_LAUNCHER_H

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lx_bus.h"

static char folder[64]; /* a fresh one; current while the tests run */
static char endpoint[128];

/* --- running lx2v ----------------------------------------------------------------------------- */

typedef struct outcome {
    int code;
    char out[16384], err[16384];
} outcome;

static outcome result; /* of the last run */

/* Returns text; "" if there is no such file. */
static inline const char *read_file(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "r");
    size_t n = file ? fread(text, 1, room - 1, file) : 0;
    text[n] = 0;
    if (file)
        fclose(file);
    return text;
}

static inline void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    fclose(file);
}

static inline pid_t start(char **argv)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int out = open("out.txt", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int err = open("err.txt", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        int in = open("/dev/null", O_RDONLY);
        dup2(in, 0);
        dup2(out, 1);
        dup2(err, 2);
        execv(LX2V_BIN_DIR "/lx2v", argv);
        _exit(127);
    }
    return pid;
}

static inline void finish(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_file("out.txt", result.out, sizeof result.out);
    read_file("err.txt", result.err, sizeof result.err);
}

/* lx2v with up to 15 words, NULL-terminated. */
static inline void run(const char *first, ...)
{
    char *argv[18] = {(char *)"lx2v", (char *)(uintptr_t)first};
    va_list args;
    va_start(args, first);
    for (int i = 2; i < 17 && first; i++)
        if (!(argv[i] = va_arg(args, char *)))
            break;
    va_end(args);
    finish(start(argv));
}

static inline void expect(int code, const char *words)
{
    if (result.code != code || !strstr(result.err, words))
        fail_msg("expected %d and \"%s\", got %d:\n%s%s", code, words, result.code, result.out,
                 result.err);
}

/* --- the other end ---------------------------------------------------------------------------- */

static lx_bus *bus;
static pthread_t thread;
static atomic_bool stop;
static lx_msg in, out; /* the playing thread's */

/* Send `out`, and begin it anew. */
static inline void answer(const lx_peer *peer, lx_msg_kind kind)
{
    out.kind = kind;
    out.req = in.req;
    lx_bus_send(bus, peer, &out, NULL);
    memset(&out, 0, sizeof out);
}

typedef void played_part(const lx_peer *peer); /* `in` has come */

/* self: the part. */
static inline void *play(void *self)
{
    played_part *part;
    memcpy(&part, self, sizeof part);
    while (!stop) {
        lx_peer peer;
        if (lx_bus_receive(bus, &peer, &in, 20, NULL) != LX_OK)
            continue;
        memset(&out, 0, sizeof out);
        part(&peer);
    }
    return NULL;
}

/* Into a folder of its own, whose name has this word; non-zero: failed. */
static inline int play_launcher(const char *word, played_part *part)
{
    static played_part *kept;
    kept = part;
    snprintf(folder, sizeof folder, "/tmp/lx2v-%s-XXXXXX", word);
    if (!mkdtemp(folder) || chdir(folder) != 0)
        return -1;
    snprintf(endpoint, sizeof endpoint, "ipc://%s/s", folder);
    if (lx_bus_bind(&bus, endpoint, NULL) != LX_OK)
        return -1;
    return pthread_create(&thread, NULL, play, &kept);
}

static inline int end_launcher(void **state)
{
    (void)state;
    stop = true;
    pthread_join(thread, NULL);
    lx_bus_close(&bus);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return chdir("/") != 0 || system(command) != 0;
}

#endif
