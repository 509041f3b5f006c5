/*
 * cli_machine.h - what this machine has
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Facts for `doctor` and `init`, read now; what cannot be read is 0 or "".
 */
#ifndef CLI_MACHINE_H
#define CLI_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cli_machine {
    char cpu[128]; /* its name */
    int n_cores;   /* that this process may use */
    bool has_avx2, has_avx512, has_vnni, has_bf16, has_amx;
    uint64_t ram_bytes, free_bytes; /* free: without swapping, within all limits */
    uint64_t limit_bytes;           /* what our control group may take; 0: no limit */
    uint64_t memlock_bytes;         /* RLIMIT_MEMLOCK; UINT64_MAX: no limit */
    uint64_t shm_bytes, shm_free_bytes;
    int n_nvidia; /* cards whose device file is there */
} cli_machine;

void cli_machine_look(cli_machine *machine);

/** Free bytes of the file system that `path` is or will be on; 0 if unknown. */
uint64_t cli_disk_free(const char *path);

/* --- cli_disk.c ------------------------------------------------------------------------------- */

typedef struct cli_disk {
    char path[4096]; /* what was read */
    bool is_weights; /* a file of the model; false: a temporary one, gone again */
    bool is_direct;  /* past the page cache; false: what is told may be the cache's */
    uint64_t bytes;  /* read */
    double gbs;      /* 1e9 bytes/s */
    char trouble[256];
} cli_disk;

/** Read up to 1 GiB of the largest weight file among `paths` (files or folders; NULL-terminated),
 *  or of a temporary file in `folder` if there is none. False: trouble says why. */
bool cli_disk_measure(cli_disk *out, const char *const *paths, const char *folder);

/** Bytes of a file, or of the *.safetensors in a folder; 0 if there are none. */
uint64_t cli_weights_size(const char *path);

#endif
