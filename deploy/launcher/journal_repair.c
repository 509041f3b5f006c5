/*
 * journal_repair.c - what can be read of a damaged journal, in a new one
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "journal_file.h"

static lx_status keep_fact(void *self, const journal_fact *fact, lx_err *err)
{
    return journal_file_add(self, fact, 0, err);
}

/* The old file under a second name, before the first one is given to the new file. */
static lx_status keep_old(int dir, char kept_as[64], lx_err *err)
{
    snprintf(kept_as, 64, "journal.damaged-%" PRId64, journal_wall_us() / 1000000);
    if (linkat(dir, "journal", dir, kept_as, 0))
        return lx_fail(err, LX_ECONFIG, "the old file cannot be kept as %s: %s", kept_as,
                       strerror(errno));
    return LX_OK;
}

static lx_status copy_facts(int dir, int old, char kept_as[64], journal_scan *out, lx_err *err)
{
    journal_file file = {.fd = -1};
    journal_fact *fact = malloc(sizeof *fact); /* 20 KiB */
    if (!fact)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    lx_status status = journal_file_begin(&file, dir, 1, err);
    if (status == LX_OK)
        status = journal_read(old, true, fact, keep_fact, &file, out, err);
    if (status == LX_OK)
        status = keep_old(dir, kept_as, err);
    if (status == LX_OK)
        status = journal_file_publish(&file, dir, err);
    else
        unlinkat(dir, "journal.new", 0);
    journal_file_drop(&file);
    free(fact);
    return status;
}

lx_status journal_repair(const char *dir, char kept_as[64], journal_scan *out, lx_err *err)
{
    int dir_fd = -1, lock = -1, old = -1;
    lx_status status = journal_folder(dir, false, &dir_fd, &lock, err);
    if (status == LX_OK && (old = openat(dir_fd, "journal", O_RDONLY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        status = lx_fail(err, LX_ECONFIG, "%s/journal: %s", dir, strerror(errno));
    if (status == LX_OK)
        status = copy_facts(dir_fd, old, kept_as, out, err);
    int fds[] = {old, lock, dir_fd};
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return status;
}
