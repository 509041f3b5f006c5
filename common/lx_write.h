/*
 * lx_write.h - bytes to a descriptor, all of them
 * SPDX-License-Identifier: Apache-2.0
 *
 * Tests     by who uses it: tests/unit/test_cache.c, test_spool.c
 */
#ifndef LX_WRITE_H
#define LX_WRITE_H

#include <stdint.h>

/** Goes on after a signal and after a part. 0, or errno (EIO: nothing was taken). */
int lx_write_all(int fd, const void *bytes, uint64_t n);

#endif
