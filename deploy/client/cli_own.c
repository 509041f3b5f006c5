/*
 * cli_own.c - lx2v-launch, our own
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli_own.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "lx_child.h"
#include "lx_limits.h"
#include "lx_process.h"

#define STOP_S 30.0 /* the launcher itself gives its stages supervision.stop_s */
#define NEWS_S 10.0

static const char ready[] = "ready endpoint=";

/* It ended, or we gave up: why. */
static lx_status not_ready(cli_own *own, const char *log, double timeout_s, lx_err *err)
{
    char words[512];
    if (cli_interrupted())
        return lx_fail(err, LX_ECANCEL, "interrupted while the pipeline was starting");
    if (!cli_process_wait(&own->launcher, 1))
        return lx_fail(err, LX_ETIMEOUT, "the pipeline is not ready after %.0f s", timeout_s);
    cli_process_last_words(log, words, sizeof words);
    int code = own->launcher.exit_code;
    return lx_fail(err, code == 2 ? LX_ECONFIG : LX_EJOB,
                   "lx2v-launch ended with code %d before it was ready: %s", code, words);
}

/* The launcher's next line. Large models load for minutes: say now and then that it goes on. */
static bool wait_line(cli_process *p, const char *log, double until_s)
{
    char words[256];
    for (;;) {
        double left_s = until_s - lx_now_s();
        if (cli_process_line(p, left_s < NEWS_S ? left_s : NEWS_S))
            return true;
        if (cli_interrupted() || lx_now_s() >= until_s || cli_process_wait(p, 0))
            return false;
        cli_process_last_words(log, words, sizeof words);
        cli_say("loading; %s", words);
    }
}

static lx_status start(cli_own *own, const char *config, double timeout_s, lx_err *err)
{
    char path[LX_LIMIT_PATH], file[LX_LIMIT_PATH], log[96], state[96], output[96];
    snprintf(file, sizeof file, "%s", config);
    snprintf(log, sizeof log, "%s/log", own->folder);
    snprintf(state, sizeof state, "LX2V_STATE_DIR=%s", own->folder);
    snprintf(output, sizeof output, "LX2V_OUTPUT_DIR=%s/clips", own->folder);
    lx_status status = lx_child_beside(path, sizeof path, "lx2v-launch", err);
    char *argv[] = {path, file, NULL};
    cli_process_plan plan = {
        .argv = argv, .setting = {state, output}, .log = log, .death_signal = SIGTERM};
    double from_s = lx_now_s();
    if (status == LX_OK)
        status = cli_process_start(&own->launcher, &plan, err);
    if (status != LX_OK)
        return status;
    double until_s = timeout_s > 0 ? from_s + timeout_s : INFINITY;
    while (wait_line(&own->launcher, log, until_s)) {
        const char *line = own->launcher.line;
        if (strncmp(line, ready, sizeof ready - 1) != 0)
            continue;
        own->load_s = lx_now_s() - from_s;
        size_t n =
            (size_t)snprintf(own->endpoint, sizeof own->endpoint, "%s", line + sizeof ready - 1);
        return n < sizeof own->endpoint
                   ? LX_OK
                   : lx_fail(err, LX_ESTAGE, "lx2v-launch: its endpoint is too long");
    }
    return not_ready(own, log, timeout_s, err);
}

lx_status cli_own_start(cli_own *own, const char *config, double timeout_s, lx_err *err)
{
    *own = (cli_own){.launcher = {.in = -1, .out = -1}};
    lx_status status = cli_folder_make(own->folder, "bench", err);
    if (status != LX_OK) {
        own->folder[0] = 0;
        return status;
    }
    status = start(own, config, timeout_s, err);
    if (status != LX_OK)
        cli_own_stop(own);
    return status;
}

void cli_own_stop(cli_own *own)
{
    if (!own->folder[0])
        return;
    cli_process_stop(&own->launcher, STOP_S);
    cli_folder_remove(own->folder);
    own->folder[0] = 0;
}
