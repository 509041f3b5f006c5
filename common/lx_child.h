/*
 * lx_child.h - run a program to its end, for what it prints
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Helpers that may crash or hang (a driver below them) run as processes of their own.
 * Promise   Returns within the time-out (plus 2 s if the kernel does not let the child die); its
 *           process group is killed then. No shell; stdin is empty or the given bytes; no other
 *           descriptor is inherited.
 * Tests     tests/unit/test_child.c
 */
#ifndef LX_CHILD_H
#define LX_CHILD_H

#include <stdbool.h>
#include <stddef.h>

#include "lx_status.h"

#define LX_CHILD_INPUT 4096 /* bytes of stdin at most: a pipe's buffer takes them at once */

typedef struct lx_child {
    /* asked */
    char *const *argv; /* borrowed; argv[0] is a path, NULL-terminated */
    char *const *env;  /* borrowed; NULL: ours */
    const void *input; /* borrowed; NULL: nothing */
    size_t input_bytes;
    double timeout_s;
    char *out; /* borrowed: its stdout, always terminated with 0 */
    size_t out_room;
    /* answered */
    size_t out_bytes;
    bool is_cut;   /* it printed more than out_room - 1 */
    char err[512]; /* the beginning of its stderr, one line, without control characters */
    int exit_code; /* if it ended by itself */
    int signal;    /* that it died from, or 0 */
    bool has_timed_out;
} lx_child;

/**
 * @retval LX_OK        it ended by itself: see exit_code
 * @retval LX_ECONFIG   it cannot be started
 * @retval LX_ETIMEOUT  it was killed after timeout_s
 * @retval LX_EJOB      a signal killed it
 */
lx_status lx_child_run(lx_child *child, lx_err *err);

/** Path of a program that is installed beside this one: "DIR/NAME". LX_ESTAGE: /proc is missing. */
lx_status lx_child_beside(char *out, size_t out_bytes, const char *name, lx_err *err);

#endif
