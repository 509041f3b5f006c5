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
    uint64_t ram_bytes, free_bytes; /* free: available without swapping */
    uint64_t shm_bytes, shm_free_bytes;
    int n_nvidia; /* cards whose device file is there */
} cli_machine;

void cli_machine_look(cli_machine *machine);

/** Free bytes of the file system that `path` is or will be on; 0 if unknown. */
uint64_t cli_disk_free(const char *path);

/** Bytes of a file, or of the *.safetensors in a folder; 0 if there are none. */
uint64_t cli_weights_size(const char *path);

#endif
