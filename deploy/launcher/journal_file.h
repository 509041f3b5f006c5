/*
 * journal_file.h - a journal's file as it is written; private to journal*.c
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef JOURNAL_FILE_H
#define JOURNAL_FILE_H

#include "journal.h"

#define JOURNAL_BUFFER (256 * 1024)

typedef struct journal_file {
    int fd;
    uint64_t end;       /* of what was written */
    uint64_t allocated; /* bytes that the file has on disk */
    uint64_t sequence;  /* of the next record */
    size_t used;        /* bytes in buffer */
    unsigned char *buffer;
} journal_file;

/** dir/journal.new, empty but for its head. */
lx_status journal_file_begin(journal_file *f, int dir, uint64_t sequence, lx_err *err);
/** Into the buffer; writes that when it is full. LX_ESTAGE */
lx_status journal_file_add(journal_file *f, const journal_fact *fact, uint16_t back, lx_err *err);
lx_status journal_file_flush(journal_file *f, lx_err *err);
/** Have so many bytes of the disk. LX_EAGAIN with figures. */
lx_status journal_file_allocate(journal_file *f, uint64_t bytes, lx_err *err);
/** Flush, sync, and become dir/journal. LX_EAGAIN: it did not, and is removed; LX_ESTAGE: nobody
 *  knows which of the two a power cut would leave. */
lx_status journal_file_publish(journal_file *f, int dir, lx_err *err);
void journal_file_drop(journal_file *f);

/** Open the folder, made if need be, and take its lock. */
lx_status journal_folder(const char *dir, bool make, int *dir_fd, int *lock_fd, lx_err *err);

#endif
