/*
 * lx_device.h - the cards of this machine, and how people name them
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      What launcher, plan, doctor and stages know about cards without linking CUDA: the
 *           answer of lx2v-probe, a short-lived process of its own, and the names that a config
 *           may use: `cpu`, `cuda` (the first card), `cuda:N` (place in PCI bus order),
 *           `cuda:GPU-8f1c...` or `GPU-8f1c...` (UUID or its beginning), `cuda:rtx3060` (a part of
 *           the card's name, without regard to case and spaces).
 * Promise   Nothing here touches the driver. The probe's text is hostile until checked: counts,
 *           ranges, types. A probe that crashes, hangs or prints junk is an error message.
 *           A part of a name must fit exactly one card, or the message lists the cards.
 * Order     N counts in PCI bus order, also where CUDA would count fastest first: whoever opens a
 *           card by N sets CUDA_DEVICE_ORDER=PCI_BUS_ID in its environment before it loads CUDA.
 * Link      naming: lx_core; reading and running the probe: lx_devices
 * Tests     tests/unit/test_device.c, tests/unit/test_probe.c
 */
#ifndef LX_DEVICE_H
#define LX_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lx_status.h"

#define LX_CARDS_MAX          16
#define LX_CARD_PROCESSES_MAX 16
#define LX_PROBE_TIMEOUT_S    20.0
#define LX_PROBE_MEASURE_S    120.0 /* time-out with measure: 16 cards and a slow link */
#define LX_PROBE_FORMAT       1     /* "probe" in its JSON */

typedef struct lx_card_process {
    int64_t pid;
    char name[32];  /* "" if not told */
    uint64_t bytes; /* on the card; 0: the driver does not tell */
} lx_card_process;

typedef enum lx_check { LX_CHECK_UNKNOWN, LX_CHECK_OK, LX_CHECK_FAILED } lx_check;

typedef struct lx_card {
    char name[96], uuid[64], pci[16]; /* "NVIDIA GeForce RTX 3060", "GPU-...", "0000:01:00.0" */
    int major, minor;                 /* compute capability */
    int multiprocessors, threads_per_multiprocessor;
    uint64_t shared_bytes; /* per block, opt-in */
    uint64_t l2_bytes;
    uint64_t vram_bytes, vram_free_bytes;
    bool has_display;  /* one is attached or active: memory and a limit on kernel time */
    bool has_ipc;      /* the driver says so; see ipc */
    bool has_energy;   /* NVML counts joules */
    bool is_exclusive; /* compute mode lets one process in, or none */
    bool is_mig;       /* partitioned; what is counted here is a part */
    bool is_integrated;
    int numa_node;        /* -1: unknown */
    double power_limit_w; /* 0: unknown */
    struct {
        int gen, width;         /* now; 0: unknown. Idle cards lower it */
        int gen_max, width_max; /* of card and slot */
        bool under_load;        /* gen and width were read while copying */
    } pcie;
    int n_processes; /* others that use the card */
    lx_card_process process[LX_CARD_PROCESSES_MAX];
    /* --measure; 0 and unknown without */
    double to_card_gbs, from_card_gbs; /* 1e9 bytes/s, pinned host memory */
    lx_check copies, ipc, ipc_event;   /* bytes compared; across two processes */
    char trouble[160];                 /* why a measurement failed, or "" */
} lx_card;

typedef struct lx_card_link { /* from one card to another */
    bool has_access;          /* the driver says: without the host in between */
    lx_check copies;          /* --measure: bytes compared */
    double gbs;               /* --measure; 0: not measured */
} lx_card_link;

typedef struct lx_cards {
    char driver[32];  /* "580.65.06"; "" without a driver */
    char reason[512]; /* why there is no driver, or no card; "" if all is well */
    int cuda;         /* of the driver: 13000 = 13.0; 0: unknown */
    int cuda_needed;  /* by this build; 0: built without CUDA */
    bool has_nvml;
    char hidden_by[128]; /* CUDA_VISIBLE_DEVICES where it hides cards from others, or "" */
    int n;
    lx_card card[LX_CARDS_MAX];                    /* PCI bus order */
    lx_card_link link[LX_CARDS_MAX][LX_CARDS_MAX]; /* [from][to]; the diagonal means nothing */
} lx_cards;

/* --- names: lx_device.c ----------------------------------------------------------------------- */

#define LX_DEVICE_CPU (-1)

/** Is this a device name at all? Cards are not asked. LX_ECONFIG says what is accepted. */
lx_status lx_device_check(const char *text, lx_err *err);

/** Does the name mean a card (as opposed to the CPU)? text passed lx_device_check. */
bool lx_device_is_card(const char *text);

/** True if the name alone tells the index: cpu, cuda (0), cuda:N. No card is asked. */
bool lx_device_index(int *index, const char *text);

/**
 * Which of these cards is it?
 *
 * @param index  place in cards->card, or LX_DEVICE_CPU
 * @retval LX_ECONFIG  not a name, no such card, several such cards: with the list of cards; or no
 *                     driver: with the probe's reason
 */
lx_status lx_device_resolve(int *index, const char *text, const lx_cards *cards, lx_err *err);

/** The same for one who has no list: runs the probe where lx_device_index does not tell. Link
 *  lx_devices. */
lx_status lx_device_find(int *index, const char *text, lx_err *err);

/* --- cards: lx_device_probe.c ---------------------------------------------------------------- */

/** Read the probe's JSON. LX_EJOB: what is wrong with it. 200 KiB: keep lx_cards off the stack of
 *  a thread. */
lx_status lx_cards_parse(lx_cards *out, const char *json, size_t bytes, lx_err *err);

typedef struct lx_probe_options {
    const char *binary; /* NULL: lx2v-probe beside this program */
    bool measure;       /* copies, IPC and peer round trips: seconds, and some memory on the card */
    double timeout_s;   /* 0: LX_PROBE_TIMEOUT_S, or LX_PROBE_MEASURE_S with measure */
    char **json;        /* NULL, or where to leave the checked text; owned by the caller: free() */
} lx_probe_options;

/**
 * Run lx2v-probe and read its answer. No driver is no error: then out->n is 0 and out->reason says.
 *
 * @param options  may be NULL
 * @retval LX_ECONFIG   the program is not there
 * @retval LX_ETIMEOUT  it hung and was killed
 * @retval LX_EJOB      it died, or its answer is not to be believed
 */
lx_status lx_device_probe(lx_cards *out, const lx_probe_options *options, lx_err *err);

/** What a compute capability is called: "Ampere" (8.0, 8.6), "Ada", "Hopper", ...; "" unknown. */
const char *lx_card_family(int major, int minor);

#endif
