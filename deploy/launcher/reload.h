/*
 * reload.h - config.yaml is read again while the service runs
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What SIGHUP means: the file is read and checked as at the start. Keys that only the
 *           launcher follows, and none of whose memory was taken for, count at once; others are
 *           named, and count after a restart.
 * Promise   All or nothing: a file that is refused changes nothing, and the message names key and
 *           line. Stages are not disturbed, nor are jobs that were accepted.
 * Tests     tests/faults/test_reload.c
 */
#ifndef RELOAD_H
#define RELOAD_H

#include "lx_config.h"

/**
 * Read live->path again and change live, in place.
 *
 * @param text  what came of it, one line for the log
 *
 * @retval LX_ECONFIG  refused, and live is as it was
 */
lx_status reload_config(lx_config *live, char *text, size_t text_bytes, lx_err *err);

#endif
