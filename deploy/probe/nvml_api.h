/*
 * nvml_api.h - the few functions of NVML that the probe calls
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Own prototypes for libnvidia-ml.so.1, found at run time. All are optional: what is not
 *           there or not supported by a card stays unknown.
 * Source    NVML API reference
 */
#ifndef NVML_API_H
#define NVML_API_H

typedef void *nvml_device;

typedef struct nvml_memory {
    unsigned long long total, free, used; /* bytes */
} nvml_memory;

typedef struct nvml_process {
    unsigned pid;
    unsigned long long bytes; /* all ones: not told */
    unsigned gpu_instance, compute_instance;
} nvml_process;

/* field, symbol, parameters; all return nvmlReturn_t, an int, 0 is success */
#define NVML_FUNCTIONS(X)                                                                          \
    X(init, "nvmlInit_v2", (void))                                                                 \
    X(shutdown, "nvmlShutdown", (void))                                                            \
    X(driver, "nvmlSystemGetDriverVersion", (char *text, unsigned bytes))                          \
    X(by_pci, "nvmlDeviceGetHandleByPciBusId_v2", (const char *pci, nvml_device *device))          \
    X(memory, "nvmlDeviceGetMemoryInfo", (nvml_device device, nvml_memory * memory))               \
    X(display_active, "nvmlDeviceGetDisplayActive", (nvml_device device, unsigned *yes))           \
    X(pcie_gen, "nvmlDeviceGetCurrPcieLinkGeneration", (nvml_device device, unsigned *gen))        \
    X(pcie_width, "nvmlDeviceGetCurrPcieLinkWidth", (nvml_device device, unsigned *width))         \
    X(pcie_gen_max, "nvmlDeviceGetMaxPcieLinkGeneration", (nvml_device device, unsigned *gen))     \
    X(pcie_width_max, "nvmlDeviceGetMaxPcieLinkWidth", (nvml_device device, unsigned *width))      \
    X(power_limit, "nvmlDeviceGetEnforcedPowerLimit", (nvml_device device, unsigned *milliwatts))  \
    X(energy, "nvmlDeviceGetTotalEnergyConsumption",                                               \
      (nvml_device device, unsigned long long *millijoules))                                       \
    X(mig, "nvmlDeviceGetMigMode", (nvml_device device, unsigned *now, unsigned *pending))         \
    X(compute_processes, "nvmlDeviceGetComputeRunningProcesses_v3",                                \
      (nvml_device device, unsigned *n, nvml_process *list))                                       \
    X(graphics_processes, "nvmlDeviceGetGraphicsRunningProcesses_v3",                              \
      (nvml_device device, unsigned *n, nvml_process *list))

typedef struct nvml_api {
#define X(field, symbol, parameters) int(*field) parameters;
    NVML_FUNCTIONS(X)
#undef X
} nvml_api;

#endif
