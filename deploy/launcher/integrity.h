/*
 * integrity.h - are the model's files those that were published?
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What the launcher says about files that no manifest.sha256 lists: a warning, or, with
 *           weights.require_manifest, a refusal. Who loads a listed file checks its hash.
 * Tests     tests/pipeline/test_life.c
 */
#ifndef INTEGRITY_H
#define INTEGRITY_H

#include "lx_config.h"

/** role: "dit", ... unlisted: the file in question, NULL if there is none. LX_ECONFIG: refused. */
lx_status integrity_judge(const lx_config *config, const char *role, const char *unlisted,
                          lx_err *err);

/** The tokenizer's file: `path`, or the one of its names that lies in the folder `path`. */
lx_status integrity_judge_tokenizer(const lx_config *config, const char *path, lx_err *err);

#endif
