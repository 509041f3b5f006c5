/*
 * lx_folder.h - folders that outlast a loss of power
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What is synced in a new folder is lost all the same as long as the folder's own name is
 *           not: that lies in the folder above.
 * Tests     tests/faults/test_power.c
 */
#ifndef LX_FOLDER_H
#define LX_FOLDER_H

#include <sys/types.h>

/** mkdir, and sync the folder above. 0: it is there now, made or not; else errno. */
int lx_folder_make(const char *path, mode_t mode);

#endif
