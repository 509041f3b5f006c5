/*
 * lx_cache.h - files that can be made again
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      $XDG_CACHE_HOME/lx2v, by default ~/.cache/lx2v: what was measured on this machine.
 * Promise   A file appears whole, mode 0600, or not at all. What is read is a regular file, no
 *           link, of ours or root's, that nobody else may write, of a bounded size, or it is
 *           refused.
 * Tests     tests/unit/test_cache.c
 */
#ifndef LX_CACHE_H
#define LX_CACHE_H

#include <stddef.h>

#include "lx_status.h"

/** The folder `name` in the cache; it need not exist. LX_ECONFIG: neither XDG_CACHE_HOME nor HOME
 *  is an absolute path, or the path is too long. */
lx_status lx_cache_folder(char *out, size_t room, const char *name, lx_err *err);
/** Write aside, sync, rename; folders above are made, 0700. LX_EAGAIN: nothing is left. */
lx_status lx_cache_write(const char *path, const void *bytes, size_t n, lx_err *err);
/** Up to `most` bytes and a 0 behind them. LX_EAGAIN: there is no such file. LX_ECONFIG: it is not
 *  to be believed. *out is the caller's: free(). */
lx_status lx_cache_read(const char *path, size_t most, char **out, size_t *n, lx_err *err);

#endif
