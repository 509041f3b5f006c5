/*
 * cli_choose.h - which stage goes where on this machine
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What `init` proposes, with the reason for each device. A proposal only: whether it fits
 *           is what the plan says.
 * Rules     The DiT takes the usable card with the most memory. The VAE takes the next card of
 *           4 GiB and more, or shares the DiT's. The text encoder stays on the CPU if that has 8
 *           cores with AVX2 and host memory for all weights; else it goes to the VAE's card. A
 *           card is usable from compute capability 8.0, with a driver new enough for this build.
 * Tests     tests/unit/test_init.c
 */
#ifndef CLI_CHOOSE_H
#define CLI_CHOOSE_H

#include "cli_machine.h"
#include "lx_device.h"

#define CLI_CHOICE_NOTES 8

typedef struct cli_facts {
    const cli_machine *machine; /* borrowed, as the next */
    const lx_cards *cards;      /* NULL: the probe failed */
    bool has_cuda;              /* this build */
    uint64_t weights_bytes;     /* of DiT, text encoder and VAE as they lie on disk */
} cli_facts;

typedef struct cli_place {
    int card;      /* as `cuda:N`; LX_DEVICE_CPU */
    int threads;   /* 0: one per core */
    char why[320]; /* a sentence; no control characters */
} cli_place;

typedef struct cli_choice {
    cli_place encoder, dit, vae, mux;
    int n_notes; /* cards that are left out, and why; what else could be done */
    char note[CLI_CHOICE_NOTES][320];
} cli_choice;

void cli_choose(cli_choice *out, const cli_facts *facts);

#endif
