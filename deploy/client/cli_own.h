/*
 * cli_own.h - a pipeline of our own, started and stopped
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      lx2v-launch on a config, with state and clips in a private folder that is gone
 *           afterwards. A pipeline that already runs on the same config is not touched.
 * Tests     tests/pipeline/test_bench.c
 */
#ifndef CLI_OWN_H
#define CLI_OWN_H

#include "cli_process.h"

typedef struct cli_own {
    cli_process launcher;
    char folder[64];
    char endpoint[128];
    double load_s; /* from start to ready */
} cli_own;

/**
 * Start and wait until every stage is ready.
 *
 * @param timeout_s    0: as long as it takes
 * @retval LX_ECONFIG  the config or a file is wrong: the launcher's last words
 * @retval LX_EJOB     the launcher ended otherwise, likewise
 * @retval LX_ETIMEOUT, LX_ECANCEL
 */
lx_status cli_own_start(cli_own *own, const char *config, double timeout_s, lx_err *err);
/** Stop it in order and remove its folder. Zeros are nothing to stop. */
void cli_own_stop(cli_own *own);

#endif
