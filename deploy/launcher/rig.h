/*
 * rig.h - what the machine has that is planned for: this one, or one that is described
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Cards, host memory and rates behind a plan. `rig_look` asks this machine (lx2v-probe,
 *           /proc, its control group); `rig_parse` reads a description, so that a config can be
 *           planned for a machine that is not here:
 *             rtx3060:12GiB,display,pcie=3x4,ram=32GiB
 *             rtx3090+rtx3060,display,ram=64GiB,cpu=16,disk=3.5
 *           Cards are separated by '+' or ';', in PCI order. Of a card: NAME[:MEMORY], display,
 *           pcie=GENxLANES; of the machine, anywhere: ram=SIZE, shm=SIZE, cpu=CORES,
 *           disk=GB/s. A card of another kind than those known: sm=N,cc=M.N beside its memory.
 * Promise   What is not said has the card's usual value. Peaks and rates are of data sheets: they
 *           serve predictions, and no memory is planned with them.
 * Tests     tests/launcher/test_rig.c
 */
#ifndef RIG_H
#define RIG_H

#include "lx_config.h"
#include "lx_device.h"
#include "lx_plan.h"

typedef struct rig_rates {
    double tops8, tflops16; /* dense tensor-core peaks: int8; bf16 with float32 sums */
    double memory_gbs;      /* 1e9 bytes/s, as all rates */
    double pcie_gbs;        /* from the host to the card */
    bool is_measured;       /* pcie_gbs was measured here */
} rig_rates;

typedef struct rig {
    bool is_described;                  /* by rig_parse; else this machine, now */
    lx_cards cards;                     /* 200 KiB: keep a rig off the stack */
    rig_rates rates[LX_CARDS_MAX];      /* of each card */
    uint64_t ram_bytes, ram_free_bytes; /* free: what may be taken without swapping */
    uint64_t shm_free_bytes;            /* of /dev/shm, where tensors are lent */
    int n_cores;
    double disk_gbs; /* of the disk that weights lie on; 0: not known */
} rig;

/** This machine as it is now. needs_cards: false leaves the driver alone.
 *  LX_ECONFIG, LX_ETIMEOUT, LX_EJOB: the probe's trouble. */
lx_status rig_look(rig *out, bool needs_cards, lx_err *err);
/** LX_ECONFIG: the word that is not understood, and what is accepted. */
lx_status rig_parse(rig *out, const char *text, lx_err *err);

/** Bytes that lx2v may have of a card: as the config says, never more than there are; "auto": what
 *  is free less 1 GiB where a display hangs on the card, else less 0.3 GiB. */
lx_status rig_vram(const rig *r, const lx_config *config, int card, uint64_t *out, lx_err *err);
/** Likewise of host memory; "auto": what is free less 2 GiB. */
uint64_t rig_ram(const rig *r, const lx_config *config);

/** The card as `lx2v-STAGE plan` is asked for it. */
void rig_kind(const rig *r, int card, lx_plan_question *question);

#endif
