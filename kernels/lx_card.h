/*
 * lx_card.h - what decides which of our kernels a card runs
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Asked by the op families, by plans and by doctor, so that all say the same. No CUDA
 *           here.
 * Link      lx_card
 * Tests     tests/kernels/test_cuda_plan.c, tests/unit/test_probe.c
 */
#ifndef LX_CARD_H
#define LX_CARD_H

#include <stdbool.h>
#include <stdint.h>

#include "lx_status.h"

/* What decides which kernels run. */
typedef struct lx_card_kind {
    char name[96];
    int index;            /* in PCI order; -1: not in this machine */
    int major, minor;     /* compute capability */
    int n_sm;             /* multiprocessors */
    int shared_bytes;     /* shared memory that a block may have */
    uint64_t total_bytes; /* of device memory */
    int is_from;          /* 90: what it is, where something holds it to less; else 0 */
} lx_card_kind;

/** A module built for `archs` ("80 86 90a") runs its newest code of the card's own family that is
 *  no newer than the card: the card counts as that. Without any it stays what it is. Done where
 *  the module is at hand; plans and doctor reckon with code for the card itself. */
void lx_card_hold_to_archs(lx_card_kind *card, const char *archs);
/** FP8 products run natively (8.9 and later); else FP8 weights are widened to BF16. */
bool lx_card_has_fp8(const lx_card_kind *card);
/** Hopper's own kernels run on it. */
bool lx_card_has_wgmma(const lx_card_kind *card);
/** F16 products with F32 sums run at half rate, as on GeForce cards; all but the A100 and Hopper
 *  cards count so. A card that is only held to less keeps the rate that it has. */
bool lx_card_has_slow_f32_sums(const lx_card_kind *card);
/**
 * LX2V_ARCH_MAX=86, of the build (CMake) or the environment, the smaller one: the card counts as
 * one of compute capability 8.6, so no kernel of ours uses an instruction or more shared memory
 * than that has. Products of cuBLASLt are chosen by cuBLASLt. lx_card_of_plan, lx_exec_plan_cuda
 * and lx_cuda_open do this. LX_ECONFIG: the environment says no compute capability.
 */
lx_status lx_card_limit(lx_card_kind *card, lx_err *err);

#endif
