/*
 * cli_process.h - a program that runs beside this one
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      `bench` keeps a launcher and a probe, `selftest` runs stages; lx_child.h is for short
 *           answers, this is for programs that stay.
 * Promise   Its own process group: Ctrl-C reaches us alone, and we end it. It is told to end when
 *           we die. No shell; no other descriptor is inherited.
 * Threads   Start from the main thread: the kernel's notice of our death watches the thread.
 * Tests     tests/pipeline/test_bench.c
 */
#ifndef CLI_PROCESS_H
#define CLI_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lx_status.h"

typedef struct cli_process_plan {
    char *const *argv;      /* argv[0] is a path; NULL-terminated; borrowed during the call */
    const char *setting[2]; /* further variables, "NAME=value"; NULL: none */
    const char *log;        /* file that gets its stderr; NULL: /dev/null */
    bool is_fed;            /* stdin is a pipe to .in, else empty */
    int death_signal;       /* that it gets when we die */
} cli_process_plan;

typedef struct cli_process {
    pid_t pid;      /* 0: ended, or never started */
    int in, out;    /* our ends of its stdin and stdout; -1: none */
    int exit_code;  /* once it has ended; 128 + N for signal N */
    char line[512]; /* of its stdout, so far */
    size_t line_bytes;
} cli_process;

/** LX_ECONFIG: the program is not there; LX_EAGAIN: no process or pipe to be had. */
lx_status cli_process_start(cli_process *p, const cli_process_plan *plan, lx_err *err);

/** Wait for its end. False: it still runs after this long, or cli_interrupted(). */
bool cli_process_wait(cli_process *p, double seconds);

/** The next line of its stdout, without its end, in p->line. False: none within this long, none
 *  will come, or cli_interrupted(). Lines are cut at the size of p->line. */
bool cli_process_line(cli_process *p, double seconds);

/** SIGTERM, after `seconds` SIGKILL, and its end is waited for. */
void cli_process_stop(cli_process *p, double seconds);

/** The last lines of a log that a person should see: those of level E, or the very last. */
void cli_process_last_words(const char *log, char *out, size_t out_bytes);

/** A private folder under $XDG_RUNTIME_DIR or /tmp, short enough for sockets in it. */
lx_status cli_folder_make(char out[64], const char *purpose, lx_err *err);
/** Remove a folder and all in it, without following links. */
void cli_folder_remove(const char *path);

#endif
