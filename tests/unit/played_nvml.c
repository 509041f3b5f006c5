/*
 * played_nvml.c - a libnvidia-ml.so.1 whose answers are known: for test_watch
 * SPDX-License-Identifier: Apache-2.0
 *
 * One card, 0000:01:00.0, 12 GiB. Its used memory is 1, 3, 7, then 5 GiB; each look at the energy
 * counter finds 2.5 J more. Process 4711 has half of what is used; 4712's memory is not told.
 */
#include <string.h>

#define GIB (1ULL << 30)

typedef struct memory {
    unsigned long long total, free, used;
} memory;

typedef struct process {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
} process;

static int card, n_looks;
static unsigned long long used_bytes, millijoules = 1000;

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **device);
int nvmlDeviceGetMemoryInfo(void *device, memory *out);
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out);
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *n, process *list);

int nvmlInit_v2(void)
{
    return 0;
}

int nvmlShutdown(void)
{
    return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **device)
{
    *device = &card;
    return strcmp(pci, "0000:01:00.0") == 0 ? 0 : 6;
}

int nvmlDeviceGetMemoryInfo(void *device, memory *out)
{
    static const unsigned long long gib[] = {1, 3, 7, 5};
    (void)device;
    used_bytes = gib[n_looks < 3 ? n_looks : 3] * GIB;
    n_looks++;
    *out = (memory){.total = 12 * GIB, .free = 12 * GIB - used_bytes, .used = used_bytes};
    return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out)
{
    (void)device;
    *out = millijoules;
    millijoules += 2500;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *n, process *list)
{
    (void)device;
    if (*n < 2)
        return 7;
    list[0] = (process){.pid = 4711, .bytes = used_bytes / 2};
    list[1] = (process){.pid = 4712, .bytes = ~0ULL};
    *n = 2;
    return 0;
}
