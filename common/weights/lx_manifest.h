/*
 * lx_manifest.h - manifest.sha256 beside the files of a model
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Lines as sha256sum writes them, in the file's folder or the one above, with names
 *           relative to the manifest. lx_weights_open checks what it reads by itself.
 * Tests     tests/unit/test_sha256.c
 */
#ifndef LX_MANIFEST_H
#define LX_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>

#include "lx_status.h"

/** Does a manifest have a hash for this file? */
bool lx_manifest_lists(const char *path);

/** LX_ECONFIG if these bytes of a whole file are not those that a manifest lists; LX_OK if they
 *  are, or if no manifest lists the file. */
lx_status lx_manifest_check_bytes(const char *path, const void *data, size_t n, lx_err *err);

#endif
