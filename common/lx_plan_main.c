/*
 * lx_plan_main.c - `lx2v-STAGE plan`: what all stages do around their own answer
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>

#include "lx_config.h"
#include "lx_log.h"
#include "lx_plan.h"

static lx_status load_config(lx_config *config, const lx_plan_question *q, lx_stage_kind stage,
                             lx_err *err)
{
    lx_status status = lx_config_load(config, q->config, err);
    if (status != LX_OK)
        return status;
    int n = config->stage[stage].n_replicas;
    if (q->replica < 0 || q->replica >= n)
        return lx_fail(err, LX_ECONFIG, "replica %d of %s, %s has %d", q->replica,
                       lx_stage_kind_name(stage), q->config, n);
    lx_plan_apply(q, config);
    return LX_OK;
}

int lx_plan_main(lx_stage_kind stage, lx_plan_answer *answer, int argc, char **argv)
{
    static lx_config config; /* 60 KiB */
    lx_err err = {0};
    lx_plan_question q;
    lx_plan_need need = {.fits = false};
    snprintf(need.stage, sizeof need.stage, "%s", lx_stage_kind_name(stage));
    lx_log_open(need.stage, LX_LOG_WARN);
    lx_status status = lx_plan_ask(&q, argc, argv, &err);
    if (status == LX_OK)
        status = load_config(&config, &q, stage, &err);
    if (status == LX_OK)
        status = answer(&need, &q, &config, &err);
    if (status == LX_OK)
        status = lx_plan_say(&need, stdout, &err);
    if (status != LX_OK)
        LX_E("%s: %s", lx_status_name(status), err.message);
    return status == LX_OK && !need.fits ? 3 : lx_exit_code(status);
}
