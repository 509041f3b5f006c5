/*
 * rigs.h - answers of lx2v-probe for made-up machines
 * SPDX-License-Identifier: Apache-2.0
 *
 * In the probe's own form, so that the reader is tested on what it will meet: one 3060 in a x4 slot
 * that drives a display; a 3090 and a 3060 without peer access; one H100, measured.
 */
#ifndef RIGS_H
#define RIGS_H

#define RIG_HEAD(driver, cuda)                                                                     \
    "{\"probe\": 1, \"driver\": \"" driver "\", \"reason\": null, \"cuda\": " #cuda                \
    ", \"cuda_needed\": 12000, \"nvml\": true, \"hidden_by\": null, \"cards\": ["

#define RIG_CARD_3060(index, pci)                                                                  \
    "{\"index\": " #index ", \"uuid\": \"GPU-3060aaaa-0000-4000-8000-00000000000" #index "\", "    \
    "\"name\": \"NVIDIA GeForce RTX 3060\", \"pci\": \"" pci "\", \"major\": 8, \"minor\": 6, "    \
    "\"multiprocessors\": 28, \"threads_per_multiprocessor\": 1536, \"shared_bytes\": 101376, "    \
    "\"l2_bytes\": 2359296, \"vram_bytes\": 12622168064, \"vram_free_bytes\": 11811160064, "       \
    "\"display\": true, \"ipc\": true, \"energy\": true, \"exclusive\": false, \"mig\": false, "   \
    "\"integrated\": false, \"numa_node\": -1, \"power_limit_w\": 170, \"pcie\": {\"gen\": 1, "    \
    "\"width\": 4, \"gen_max\": 4, \"width_max\": 16, \"under_load\": false}, \"processes\": "     \
    "[{\"pid\": 1234, \"name\": \"Xorg\", \"bytes\": 335544320}, {\"pid\": 77, \"name\": null, "   \
    "\"bytes\": null}], \"measured\": null}"

#define RIG_CARD_3090(index, pci)                                                                  \
    "{\"index\": " #index ", \"uuid\": \"GPU-3090bbbb-0000-4000-8000-00000000000" #index "\", "    \
    "\"name\": \"NVIDIA GeForce RTX 3090\", \"pci\": \"" pci "\", \"major\": 8, \"minor\": 6, "    \
    "\"multiprocessors\": 82, \"threads_per_multiprocessor\": 1536, \"shared_bytes\": 101376, "    \
    "\"l2_bytes\": 6291456, \"vram_bytes\": 25438126080, \"vram_free_bytes\": 25165824000, "       \
    "\"display\": false, \"ipc\": true, \"energy\": true, \"exclusive\": false, \"mig\": false, "  \
    "\"integrated\": false, \"numa_node\": 0, \"power_limit_w\": 350, \"pcie\": {\"gen\": 4, "     \
    "\"width\": 16, \"gen_max\": 4, \"width_max\": 16, \"under_load\": false}, \"processes\": "    \
    "[], \"measured\": null}"

#define RIG_CARD_H100(index, pci)                                                                  \
    "{\"index\": " #index ", \"uuid\": \"GPU-4100cccc-0000-4000-8000-00000000000" #index "\", "    \
    "\"name\": \"NVIDIA H100 80GB HBM3\", \"pci\": \"" pci "\", \"major\": 9, \"minor\": 0, "      \
    "\"multiprocessors\": 132, \"threads_per_multiprocessor\": 2048, \"shared_bytes\": 232448, "   \
    "\"l2_bytes\": 52428800, \"vram_bytes\": 84929347584, \"vram_free_bytes\": 84329347584, "      \
    "\"display\": false, \"ipc\": true, \"energy\": true, \"exclusive\": false, \"mig\": false, "  \
    "\"integrated\": false, \"numa_node\": 1, \"power_limit_w\": 700, \"pcie\": {\"gen\": 5, "     \
    "\"width\": 16, \"gen_max\": 5, \"width_max\": 16, \"under_load\": true}, \"processes\": [], " \
    "\"measured\": {\"to_card_gbs\": 55.25, \"from_card_gbs\": 54.5, \"copies\": true, \"ipc\": "  \
    "true, \"ipc_event\": false, \"trouble\": \"IPC: a reason\"}}"

#define RIG_3060 RIG_HEAD("550.54.14", 12040) RIG_CARD_3060(0, "0000:01:00.0") "], \"links\": []}"

#define RIG_3090_3060                                                                              \
    RIG_HEAD("550.54.14", 12040)                                                                   \
    RIG_CARD_3090(0, "0000:01:00.0")                                                               \
    ", " RIG_CARD_3060(1, "0000:05:00.0") "], \"links\": [{\"from\": 0, \"to\": 1, \"access\": "   \
                                          "false, \"copies\": true, \"gbs\": 2.75}, {\"from\": "   \
                                          "1, \"to\": 0, \"access\": true, \"copies\": false, "    \
                                          "\"gbs\": null}]}"

#define RIG_H100 RIG_HEAD("580.65.06", 13000) RIG_CARD_H100(0, "0000:19:00.0") "], \"links\": []}"

#define RIG_NONE                                                                                   \
    "{\"probe\": 1, \"driver\": null, \"reason\": \"no NVIDIA driver: libcuda.so.1 is not "        \
    "installed\", \"cuda\": 0, \"cuda_needed\": 12000, \"nvml\": false, \"hidden_by\": null, "     \
    "\"cards\": [], \"links\": []}"

#endif
