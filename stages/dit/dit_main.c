/*
 * dit_main.c - lx2v-dit: context to latent
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "dit.h"
#include "lx_log.h"

static int serve(int argc, char **argv)
{
    lx_err err = {0};
    lx_stage *stage = NULL;
    dit_stage *model = NULL;
    lx_status status = lx_stage_open(&stage, argc, argv, LX_STAGE_DIT, &err);
    if (status == LX_OK)
        status = dit_stage_open(&model, stage, &err);
    if (status == LX_OK) {
        const lx_weights *weights = dit_weights(dit_stage_model(model));
        lx_stage_ready(stage, lx_weights_id(weights), lx_weights_bytes(weights),
                       dit_stage_arena_bytes(model)); /* from here on jobs may arrive */
        status = lx_stage_run(stage, dit_on_job, model, &err);
    }
    dit_stage_destroy(&model);
    lx_stage_close(&stage, &err); /* logs err, if any */
    return lx_exit_code(status);
}

int main(int argc, char **argv)
{
    lx_log_open("dit", LX_LOG_INFO);
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("lx2v-dit " LX2V_VERSION " (" LX2V_BACKEND ")");
        return 0;
    }
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        puts("lx2v-dit: context to latent; lx2v-launch starts it. By hand: lx2v-dit run --help\n"
             "usage: lx2v-dit --config FILE [--replica N] --handover FD | run ... | plan ... | "
             "--version");
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "run"))
        return dit_run(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "plan"))
        return dit_plan_main(argc - 2, argv + 2);
    return serve(argc, argv);
}
