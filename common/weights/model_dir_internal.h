/*
 * model_dir_internal.h - one search, shared by resolving and by the doctor
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_MODEL_DIR_INTERNAL_H
#define LX_MODEL_DIR_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "lx_model_dir.h"

typedef enum lx_role {
    LX_ROLE_DIT,
    LX_ROLE_TEXT,
    LX_ROLE_VAE,
    LX_ROLE_TOKENIZER,
    LX_ROLES
} lx_role;

const char *lx_role_name(lx_role role); /* "dit", "text", "vae", "tokenizer" */

#define LX_PLACES 8

/* Folders that are looked into, in order. */
typedef struct lx_places {
    char path[LX_PATH_MAX]; /* the folder asked for, without trailing '/' */
    char place[LX_PLACES][LX_PATH_MAX];
    int n;
    char dit[LX_PATH_MAX]; /* "" if none was found */
    char other[64];        /* other distill_* folders that were passed over, for the log */
} lx_places;

/** Find the DiT and the places for the rest. LX_ECONFIG only for what must not be guessed: several
 *  candidates, a Wan2.2 pair; nothing found is LX_OK with dit = "". */
lx_status lx_places_find(lx_places *out, const char *dir, lx_err *err);

/** Find a role's file or folder; false if it is nowhere. */
bool lx_places_role(const lx_places *places, lx_role role, char out[LX_PATH_MAX]);

/** The root of the published tree that `path` belongs to: itself, or its parent if it is one of
 *  the distill_* subfolders. */
void lx_model_root(const char *path, char out[LX_PATH_MAX]);

#endif
