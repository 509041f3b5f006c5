/*
 * plan_ask.h - `lx2v-STAGE plan`, asked and remembered
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      One question to one stage's binary, run as a child; the same question twice is asked
 *           once, because advice and sharing try many ways that differ in one process only.
 */
#ifndef PLAN_ASK_H
#define PLAN_ASK_H

#include "lx_config.h"
#include "lx_plan.h"

#define PLAN_ASK_TIMEOUT_S 60.0 /* headers of a checkpoint on a slow disk */

typedef struct plan_asker plan_asker;

lx_status plan_asker_open(plan_asker **out, const char *binary_dir, lx_err *err);
void plan_asker_close(plan_asker **asker);

/** out->fits tells whether it fits. Failures as plan_make's. */
lx_status plan_ask(plan_asker *asker, lx_stage_kind kind, const lx_plan_question *question,
                   lx_plan_need *out, lx_err *err);

#endif
