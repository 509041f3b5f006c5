/*
 * integrity.c - one sentence about files that nobody vouches for
 * SPDX-License-Identifier: Apache-2.0
 */
#include "integrity.h"

#include <stdio.h>
#include <sys/stat.h>

#include "lx_log.h"
#include "weights/lx_manifest.h"

lx_status integrity_judge(const lx_config *config, const char *role, const char *unlisted,
                          lx_err *err)
{
    if (!unlisted)
        return LX_OK;
    if (config->weights.require_manifest)
        return lx_fail(err, LX_ECONFIG,
                       "%s: no manifest.sha256 beside it or one folder up lists this file, and "
                       "weights.require_manifest is set; get the publisher's manifest, or, if you "
                       "trust what you have, write one with sha256sum",
                       unlisted);
    LX_W("model.%s file=%s integrity=unchecked: no manifest.sha256 lists it", role, unlisted);
    return LX_OK;
}

lx_status integrity_judge_tokenizer(const lx_config *config, const char *path, lx_err *err)
{
    static const char *const names[] = {"tokenizer.json", "spiece.model"};
    char file[LX_LIMIT_PATH + 32];
    struct stat st;
    snprintf(file, sizeof file, "%s", path);
    for (size_t i = 0; i < 2 && stat(file, &st) == 0 && S_ISDIR(st.st_mode); i++) {
        snprintf(file, sizeof file, "%s/%s", path, names[i]);
        if (stat(file, &st))
            snprintf(file, sizeof file, "%s", path);
    }
    return integrity_judge(config, "tokenizer", lx_manifest_lists(file) ? NULL : file, err);
}
