/*
 * mux_main.c - lx2v-mux: frames to mp4
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "lx_log.h"
#include "mux.h"
#include "mux_check.h"
#include "mux_codecs.h"

static int serve(int argc, char **argv)
{
    lx_err err = {0};
    lx_stage *stage = NULL;
    mux *model = NULL;
    lx_status status = lx_stage_open(&stage, argc, argv, LX_STAGE_MUX, &err);
    if (status == LX_OK)
        status = mux_load(&model, lx_stage_config_of(stage), lx_stage_replica(stage),
                          lx_stage_progress(stage), &err);
    if (status == LX_OK) {
        lx_stage_ready(stage, "", 0, mux_arena_bytes(model)); /* from here on jobs may arrive */
        status = lx_stage_run(stage, mux_on_job, model, &err);
    }
    mux_destroy(&model);
    lx_stage_close(&stage, &err); /* logs err, if any */
    return lx_exit_code(status);
}

int main(int argc, char **argv)
{
    lx_log_open("mux", LX_LOG_INFO);
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("lx2v-mux " LX2V_VERSION " (" LX2V_BACKEND ")");
        return 0;
    }
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        puts("lx2v-mux: frames to a clip; lx2v-launch starts it. By hand: lx2v-mux run --help\n"
             "usage: lx2v-mux --config FILE [--replica N] --handover FD | run ... | plan ... |\n"
             "       codecs | check FILE.mp4 | --version");
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "run"))
        return mux_run(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "plan"))
        return mux_plan_main(argc - 2, argv + 2);
    if (argc == 2 && !strcmp(argv[1], "codecs"))
        return mux_codecs();
    if (argc > 1 && !strcmp(argv[1], "check"))
        return mux_check(argc - 2, argv + 2);
    return serve(argc, argv);
}
