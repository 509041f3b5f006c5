/*
 * rig.h - a real launcher with real stages in a folder of its own, and a client
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every function fails the running test by itself when something is not as promised. rig_stop ends
 * with the leak ledger: no process, no socket, no shared memory name, no part file is left.
 */
#ifndef RIG_H
#define RIG_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <cmocka.h>

#include "lx_client.h"

enum { ENCODER, DIT, VAE, MUX };

/* Stated times hold for the product; a sanitizer's build is several times slower. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RIG_SLACK 8
#else
#define RIG_SLACK 1
#endif

typedef struct rig {
    char root[64], config[96], output[96], state[96], log[96], endpoint[160];
    pid_t pid; /* of the launcher; 0: not running */
    int out;   /* its stdout */
    lx_client *client;
    char instance[33];
    char bin[96]; /* where lx2v-launch lies; "": where the build puts it */
} rig;

typedef struct rig_options {
    const char *config; /* further lines of config.yaml, or NULL */
    int slow_ms;        /* every unit of work takes that much longer */
} rig_options;

/** A folder with a config; nothing runs yet. */
void rig_make(rig *r, const char *config);
/** Start the launcher; returns when it says ready. */
void rig_launch(rig *r, int slow_ms);
/** Both, and a client. */
void rig_start(rig *r, rig_options options);
/** Stop in order (signal, or 0: `shutdown` by the client); the exit code must be 0. */
void rig_stop(rig *r, int signal_number);
/** Remove the folder. On a failed test its log is shown first. */
void rig_remove(rig *r);

/** Wait for the launcher's end, at most seconds; returns its exit code, 128 + N for signal N. */
int rig_wait_exit(rig *r, double seconds);
/** Nothing of this rig is left but files in the output folder. */
void rig_check_ledger(const rig *r);

/** Run a program of the build to its end; returns its exit code, its output in text (cut). */
int rig_run(char *text, size_t text_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* --- jobs ------------------------------------------------------------------------------------- */

/** 128x64, 9 frames, seed 42 unless the request says otherwise. */
lx_client_request rig_request(const char *id);
void rig_submit(rig *r, const char *id); /* rig_request, accepted */
lx_client_job rig_job(rig *r, const char *id);
/** Wait until it ends; returns how. */
lx_client_state rig_wait(rig *r, const char *id, double seconds);
/** Wait until a stage computes this job. */
void rig_wait_stage(rig *r, const char *id, int stage, double seconds);
/** All of these jobs, in order, must end as done. */
void rig_all_done(rig *r, const char *const *ids, int n, double seconds);

lx_client_stage rig_stage(rig *r, int stage);
pid_t rig_stage_pid(rig *r, int stage);
/** Wait until every stage is ready (or busy). */
void rig_wait_ready(rig *r, double seconds);

/** FNV-1a over a file of the output folder; fails if it is not there. */
uint64_t rig_hash(const rig *r, const char *name);
bool rig_has_file(const rig *r, const char *name);
/** Files in the output folder, part files included. */
int rig_count_files(const rig *r);

double rig_now_s(void);
void rig_sleep(double seconds);

#endif
