/*
 * mux_path.h - the output jail: where a finished clip may appear, and how
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Turns a client's output *name* into a descriptor below the output directory, and makes
 *           the finished artifact visible under that name in one step.
 * Promise   A name is [A-Za-z0-9._-]{1,128} without leading dot or dash; it is never followed as a
 *           path or a link. What is written is `.JOB.part` until mux_out_commit() has synced it; a
 *           file under its final name is whole. Discarding leaves nothing behind.
 * Not here  What is inside the file: mux_video.h, mux_png.h.
 *           A process that died between the rename and its report has done its work: the next
 *           attempt makes the same bytes, finds them there, and that is a success.
 * Threads   One thread per mux_out; several processes may share one directory (a part that is being
 *           written is locked, so that a sweep leaves it alone).
 * Tests     tests/stages/test_mux_path.c
 */
#ifndef MUX_PATH_H
#define MUX_PATH_H

#include <stdbool.h>
#include <stdint.h>

#include "lx_limits.h"
#include "lx_status.h"

#define MUX_NAME_BYTES 256               /* of any file name, with its 0 */
#define MUX_PART_BYTES (LX_LIMIT_ID + 8) /* ".JOB.part" and its 0 */

typedef enum mux_out_kind {
    MUX_OUT_FILE,  /* one file, written through fd */
    MUX_OUT_FOLDER /* many files, opened below fd with openat */
} mux_out_kind;

typedef struct mux_out_options {
    mux_out_kind kind;
    const char *dir;  /* real path of the directory; refused if a link has taken its place */
    const char *name; /* from outside: checked */
    const char *job;  /* id, [A-Za-z0-9_-]{1,40}: names the part; one of an earlier attempt goes */
    bool overwrite;   /* an existing artifact of the same kind is replaced */
    bool is_again;    /* an earlier attempt may have made it: the same bytes are no conflict */
    bool any_name;    /* `run` by hand: the user's own file name, any component but a part's */
    uint64_t needs;   /* bytes that the artifact may take; more than is free is refused */
} mux_out_options;

/* An artifact on its way to its name. Plain data; make it with mux_out_begin. */
typedef struct mux_out {
    mux_out_kind kind;
    int dir_fd; /* owned: the output directory; -1 when closed */
    int fd;     /* owned: the part, read and write, locked; -1 when closed */
    bool overwrite, is_again;
    char name[MUX_NAME_BYTES];
    char part[MUX_PART_BYTES];
} mux_out;

/** Make the directory if it is missing (its parent must exist) and write its real path, free of
 *  links, into real[LX_LIMIT_PATH]. LX_ECONFIG if it cannot be used for writing. */
lx_status mux_dir_prepare(const char *path, char *real, lx_err *err);

/** Remove parts that no living process writes. Returns how many went, -1 if dir is not readable,
 *  or a link. */
int mux_dir_sweep(const char *dir);

/** Check the name, the free space and that the name is not taken, then open `.JOB.part`. LX_EJOB:
 *  bad name, taken, no space ("no space: needs X, has Y"), directory gone. */
lx_status mux_out_begin(mux_out *out, const mux_out_options *options, lx_err *err);

/** fsync, rename to the name, fsync the directory. On failure the part is gone. */
lx_status mux_out_commit(mux_out *out, lx_err *err);

/** Remove the part and close; harmless after a commit, a failed begin, or on {0} with fds -1. */
void mux_out_discard(mux_out *out);

/** Explain a failed write: for ENOSPC, EDQUOT and EFBIG "no space: needs X, has Y". LX_EJOB.
 *  written: bytes of the part so far; needs: what the whole artifact would take. */
lx_status mux_out_write_failed(const mux_out *out, int error, uint64_t written, uint64_t needs,
                               lx_err *err);

#endif
