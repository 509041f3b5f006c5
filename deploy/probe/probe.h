/*
 * probe.h - what the files of lx2v-probe share
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      One short-lived process that asks the driver about the cards and prints JSON. It may
 *           crash or hang where a driver is broken: its callers expect that (common/lx_device.h).
 * Promise   Changes nothing on the machine: no clocks, no modes, no MIG, no reset. Ends by itself
 *           (alarm). Exit 0 with JSON also where there is no driver.
 * Order     Cards are counted in PCI bus order and none is hidden: CUDA_DEVICE_ORDER is set and
 *           CUDA_VISIBLE_DEVICES removed in our own environment, and reported.
 */
#ifndef PROBE_H
#define PROBE_H

#include <jansson.h>

#include "cuda_api.h"
#include "lx_device.h"
#include "nvml_api.h"

#define PROBE_ALARM_S   30u  /* whatever hangs: the caller's time-out is shorter */
#define PROBE_MEASURE_S 150u /* the same with --measure */

typedef struct probe {
    cu_api cu;
    nvml_api nvml;
    lx_cards cards;           /* the answer */
    int device[LX_CARDS_MAX]; /* CUDA's */
    cu_uuid uuid[LX_CARDS_MAX];
    nvml_device nvml_device[LX_CARDS_MAX]; /* NULL: unknown */
} probe;

/* --- probe_load.c ----------------------------------------------------------------------------- */

/** libcuda.so.1, and cuInit. False: cards.reason says why. */
bool probe_load_cuda(probe *p);
/** libnvidia-ml.so.1. Without it cards.has_nvml stays false. */
void probe_load_nvml(probe *p);
/** "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY"; returns text. */
const char *probe_error(const probe *p, const char *what, int code, char *text, size_t room);

/* --- probe_pci.c: what the kernel knows, driver or not --------------------------------------- */

/** Version of the kernel module, "" if it is not loaded. */
void probe_module_version(char *out, size_t out_bytes);
/** NVIDIA's cards on the bus and who drives them, as a sentence: "no NVIDIA card is on ...". */
void probe_pci_cards(char *out, size_t out_bytes);
void probe_pci_look(lx_card *card); /* NUMA node, and the link where NVML did not tell */

/* --- probe_cards.c ---------------------------------------------------------------------------- */

/** Which cards CUDA_VISIBLE_DEVICES leaves visible, asked from a child with the environment as it
 *  is. To be called before anything of CUDA is loaded. */
typedef struct probe_visible {
    bool is_set;
    char value[64];
    int n; /* -1: the child failed */
    cu_uuid uuid[LX_CARDS_MAX];
} probe_visible;

void probe_look_visible(probe_visible *visible);
void probe_list(probe *p, const probe_visible *visible);

/* --- probe_nvml.c ----------------------------------------------------------------------------- */

void probe_nvml_look(probe *p, int i);
/** Generation and width now; the larger of before and now is kept. */
void probe_nvml_link(probe *p, int i);

/* --- probe_measure.c, probe_ipc.c ------------------------------------------------------------ */

void probe_measure(probe *p);
/** A buffer of card i through a second process and back; context current. */
void probe_ipc_measure(probe *p, int i);
int probe_ipc_child(void); /* the second process; returns its exit code */

/* A known filling, and how many of n 8-byte words differ from it. */
void probe_fill(void *to, size_t bytes, uint64_t seed);
size_t probe_differences(const void *at, size_t bytes, uint64_t seed);

/* --- probe_watch.c ---------------------------------------------------------------------------- */

/** Watch these cards (PCI addresses) until stdin ends; returns the exit code. */
int probe_watch(int n, char **pci);

/* --- probe_json.c ----------------------------------------------------------------------------- */

json_t *probe_json(const lx_cards *cards);

#endif
