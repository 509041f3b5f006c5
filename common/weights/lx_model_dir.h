/*
 * lx_model_dir.h - the folder as people download it
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Finds DiT, text encoder, VAE and tokenizer in the root of the published repository, in
 *           one of its distill_* subfolders, or in a flat folder; and says what is missing,
 *           truncated or only a git-lfs pointer, against the published sizes.
 * Tests     tests/unit/test_model_dir.c
 */
#ifndef LX_MODEL_DIR_H
#define LX_MODEL_DIR_H

#include <stdbool.h>

#include "lx_config.h"

#define LX_PATH_MAX 4096

typedef struct lx_model_paths {
    char dit[LX_PATH_MAX];       /* file or folder */
    char text[LX_PATH_MAX];      /* models_t5_umt5-xxl-enc-*.pth or safetensors */
    char vae[LX_PATH_MAX];       /* Wan2.1_VAE.pth or .safetensors */
    char tokenizer[LX_PATH_MAX]; /* tokenizer.json or spiece.model, or the folder that has them */
} lx_model_paths;

/**
 * Resolve a model. dir may be NULL or "" if all four overrides are given; an empty override means
 * "look for it in dir". LX_ECONFIG lists every place that was searched.
 */
lx_status lx_model_resolve(lx_model_paths *out, const char *dir, const lx_model_paths *overrides,
                           lx_err *err);

/** The same for the `model` section of a config. */
lx_status lx_model_of_config(lx_model_paths *out, const lx_config *config, lx_err *err);

/** One part in dir, if it is a folder that has it: "dit", "text", "vae" or "tokenizer". False, and
 *  out untouched, if dir is a file, the part is nowhere, or several could be it. */
bool lx_model_part(char out[LX_PATH_MAX], const char *dir, const char *part);

/** Print found, missing, truncated files, free disk and the download command as text to stdout, or
 *  as JSON; LX_ECONFIG if the folder cannot be used as it is. */
lx_status lx_model_doctor(const char *dir, int as_json, lx_err *err);

#endif
