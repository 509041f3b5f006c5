/*
 * lx_folder.c - mkdir, and a sync of the folder above
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int lx_folder_make(const char *path, mode_t mode)
{
    char above[PATH_MAX];
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    if (mkdir(path, mode))
        return errno == EEXIST ? 0 : errno;
    if (n >= sizeof above)
        return ENAMETOOLONG;
    snprintf(above, sizeof above, "%.*s", n ? (int)n : 1, n ? path : ".");
    int fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 || (fsync(fd) && errno != EINVAL) ? errno : 0; /* EINVAL: it cannot, there */
    if (fd >= 0)
        close(fd);
    return error == EACCES ? 0 : error; /* a folder above that may not be read may be written */
}
