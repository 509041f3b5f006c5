/*
 * encoder_main.c - lx2v-encoder: prompt to context
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "encoder.h"
#include "lx_log.h"

static int serve(int argc, char **argv)
{
    lx_err err = {0};
    lx_stage *stage = NULL;
    encoder *model = NULL;
    lx_status status = lx_stage_open(&stage, argc, argv, LX_STAGE_ENCODER, &err);
    if (status == LX_OK)
        status = encoder_stage_open(&model, stage, &err);
    if (status == LX_OK) {
        const lx_weights *weights = umt5_weights(encoder_model(model));
        lx_stage_ready(stage, lx_weights_id(weights), lx_weights_bytes(weights),
                       encoder_arena_bytes(model)); /* from here on jobs may arrive */
        status = lx_stage_run(stage, encoder_on_job, model, &err);
    }
    encoder_close(&model);
    lx_stage_close(&stage, &err); /* logs err, if any */
    return lx_exit_code(status);
}

int main(int argc, char **argv)
{
    lx_log_open("encoder", LX_LOG_INFO);
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("lx2v-encoder " LX2V_VERSION " (" LX2V_BACKEND ")");
        return 0;
    }
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        puts(
            "lx2v-encoder: prompt to context; lx2v-launch starts it. By hand: "
            "lx2v-encoder run --help\n"
            "usage: lx2v-encoder --config FILE [--replica N] --handover FD | run ... | plan ... |\n"
            "       --version");
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "run"))
        return encoder_run(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "plan"))
        return encoder_plan_main(argc - 2, argv + 2);
    return serve(argc, argv);
}
