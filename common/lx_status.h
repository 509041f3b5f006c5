/*
 * lx_status.h - what went wrong, and what to do about it
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      One status type whose value tells the caller what to do next, and an error context
 *           whose message tells a person what happened: file, key, value, needed and available.
 * Promise   Outputs are written only on LX_OK; moved arguments are untouched on failure.
 * Tests     tests/unit/test_status.c
 */
#ifndef LX_STATUS_H
#define LX_STATUS_H

#include <stdarg.h>

typedef enum lx_status {
    LX_OK = 0,
    LX_EAGAIN,   /* nothing wrong: try later (queue full, no memory this moment)   -> exit 3   */
    LX_EJOB,     /* this job cannot succeed: fail it, keep serving                 -> exit 1   */
    LX_ESTAGE,   /* this process can no longer be trusted: exit, be restarted      -> exit 1   */
    LX_ECONFIG,  /* a person must act (bad file, config, usage): no restart        -> exit 2   */
    LX_ETIMEOUT, /* the answer did not come in the time the caller gave            -> exit 4   */
    LX_ECANCEL,  /* somebody asked for it to end: not an error, nothing to mend    -> exit 130 */
} lx_status;

#define LX_ERR_TEXT 1024

/* Where an error's story is told. Zero-initialise it; wrapping adds a prefix. */
typedef struct lx_err {
    lx_status status;
    int line;
    const char *file; /* borrowed for ever: a string literal */
    char message[LX_ERR_TEXT];
} lx_err;

/** Record a failure and return its status: `return lx_fail(err, LX_ECONFIG, "%s: ...", path);`
 *  err may be NULL. */
#define lx_fail(err, status, ...) lx_fail_at((err), (status), __FILE__, __LINE__, __VA_ARGS__)

lx_status lx_fail_at(lx_err *err, lx_status status, const char *file, int line, const char *format,
                     ...) __attribute__((format(printf, 5, 6)));

/** Put "prefix: " before the message on the way up (once per module); returns err's status,
 *  so err must not be NULL where the status matters. */
lx_status lx_wrap(lx_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__
/* The analyser does not look into other files, and would believe that these may return LX_OK. */
#undef lx_fail
#define lx_fail(err, status, ...)                                                                  \
    (lx_fail_at((err), (status), __FILE__, __LINE__, __VA_ARGS__), (status))
#define lx_wrap(err, ...) (lx_wrap((err), __VA_ARGS__), LX_EJOB)
#endif

void lx_err_clear(lx_err *err);

/** "ok", "again", "job", "stage", "config", "timeout", "cancelled": the word for logs and JSON. */
const char *lx_status_name(lx_status status);

/** The process exit code for a status, the same for every binary: 0, 3, 1, 1, 2, 4, 130. */
int lx_exit_code(lx_status status);

#endif
