/*
 * vae_main.c - lx2v-vae: latent to frames
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "lx_log.h"
#include "vae.h"

static int serve(int argc, char **argv)
{
    lx_err err = {0};
    lx_stage *stage = NULL;
    vae_stage *model = NULL;
    lx_status status = lx_stage_open(&stage, argc, argv, LX_STAGE_VAE, &err);
    if (status == LX_OK)
        status = vae_stage_open(&model, stage, &err);
    if (status == LX_OK) {
        const vae *decoder = vae_stage_model(model);
        lx_stage_ready(stage, vae_weights_id(decoder), vae_weight_bytes(decoder),
                       vae_arena_bytes(decoder)); /* from here on jobs may arrive */
        status = lx_stage_run(stage, vae_on_job, model, &err);
    }
    vae_stage_destroy(&model);
    lx_stage_close(&stage, &err); /* logs err, if any */
    return lx_exit_code(status);
}

int main(int argc, char **argv)
{
    lx_log_open("vae", LX_LOG_INFO);
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("lx2v-vae " LX2V_VERSION " (" LX2V_BACKEND ")");
        return 0;
    }
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        puts("lx2v-vae: latent to frames; lx2v-launch starts it. By hand: lx2v-vae run --help\n"
             "usage: lx2v-vae --config FILE [--replica N] --handover FD | run ... | plan ... | "
             "--version");
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "run"))
        return vae_run(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "plan"))
        return vae_plan_main(argc - 2, argv + 2);
    return serve(argc, argv);
}
