/*
 * lx_write.c - bytes to a descriptor, all of them
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_write.h"

#include <errno.h>
#include <unistd.h>

#define MOST (1u << 30) /* bytes of one call: what every kernel takes */

int lx_write_all(int fd, const void *bytes, uint64_t n)
{
    const unsigned char *at = bytes;
    while (n > 0) {
        ssize_t done = write(fd, at, n < MOST ? (size_t)n : MOST);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        at += done;
        n -= (uint64_t)done;
    }
    return 0;
}
