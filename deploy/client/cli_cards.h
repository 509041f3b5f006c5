/*
 * cli_cards.h - the cards, told to a person
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Text and advice for `doctor`: what a card's compute capability means for lx2v, what
 *           its slot gives, what the cards can hand to each other.
 */
#ifndef CLI_CARDS_H
#define CLI_CARDS_H

#include <stdio.h>

#include "lx_device.h"

#define CLI_NOTES_MAX 24

typedef struct cli_notes { /* what a person may want to act on */
    int n;
    char text[CLI_NOTES_MAX][320];
} cli_notes;

void cli_note(cli_notes *notes, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef struct cli_card_use { /* which kernels will run */
    char held_to[8]; /* "8.6": the compute capability that LX2V_ARCH_MAX leaves; "": its own */
    bool has_fp8;    /* FP8 products run natively */
    const char *attention; /* of long clips, by "wgmma" or "mma.sync" */
    const char *sums;      /* of which, in "fp32" or "fp16" */
} cli_card_use;

/** What lx2v uses of this card, by this build and environment. False: it is too old for any. */
bool cli_card_use_of(cli_card_use *out, const lx_card *card);

/** Driver, cards, links: lines of "word      text". */
void cli_cards_print(FILE *to, const lx_cards *cards);
void cli_cards_advise(cli_notes *notes, const lx_cards *cards);

/** Oldest driver for a CUDA version (13000 = 13.0): "580"; "" if unknown. */
const char *cli_cards_driver_for(int cuda);

#endif
