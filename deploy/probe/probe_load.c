/*
 * probe_load.c - the driver's libraries, if they are there
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "probe.h"

/* Where the loader does not look by itself: WSL, NixOS. */
static const char *const folders[] = {"", "/usr/lib/wsl/lib/", "/run/opengl-driver/lib/"};

typedef struct symbol {
    const char *name;
    size_t offset;
    int is_required;
} symbol;

static const symbol cuda_symbols[] = {
#define X(field, symbol, required, parameters) {symbol, offsetof(cu_api, field), required},
    CU_FUNCTIONS(X)
#undef X
};

static const symbol nvml_symbols[] = {
#define X(field, symbol, parameters) {symbol, offsetof(nvml_api, field), 0},
    NVML_FUNCTIONS(X)
#undef X
};

static void *open_library(const char *name, char *why, size_t why_bytes)
{
    char path[128];
    why[0] = 0;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s%s", folders[i], name);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
        const char *text = dlerror();
        if (i == 0)
            snprintf(why, why_bytes, "%s", text ? text : "cannot be loaded");
    }
    return NULL;
}

/* The name of the first required function that is missing, or NULL. */
static const char *find_symbols(void *library, void *api, const symbol *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *found = dlsym(library, list[i].name);
        if (!found && list[i].is_required)
            return list[i].name;
        /* ISO C has no conversion from data to function pointers; POSIX promises equal size. */
        memcpy((char *)api + list[i].offset, &found, sizeof found);
    }
    return NULL;
}

const char *probe_error(const probe *p, const char *what, int code, char *text, size_t room)
{
    const char *name = NULL;
    if (!p->cu.error_name || p->cu.error_name(code, &name) != CU_SUCCESS || !name)
        snprintf(text, room, "%s: CUDA error %d", what, code);
    else
        snprintf(text, room, "%s: %s", what, name);
    return text;
}

static bool start_cuda(probe *p)
{
    int code = p->cu.init(0);
    if (code == CU_SUCCESS) {
        p->cu.driver_version(&p->cards.cuda);
        return true;
    }
    char text[96];
    const char *words = NULL;
    probe_error(p, "cuInit", code, text, sizeof text);
    if (p->cu.error_string(code, &words) != CU_SUCCESS || !words)
        words = "no explanation";
    snprintf(p->cards.reason, sizeof p->cards.reason, "%s: %s", text, words);
    return false;
}

/* The kernel's half without the user's is what a container has that was started without cards. */
static void explain_absence(lx_cards *cards, const char *why)
{
    char version[32], list[160];
    bool is_absent = strstr(why, "No such file") != NULL;
    probe_module_version(version, sizeof version);
    probe_pci_cards(list, sizeof list);
    snprintf(cards->reason, sizeof cards->reason, "no NVIDIA driver: %s%s%s%s; %s",
             is_absent ? "libcuda.so.1 is not installed" : why,
             *version ? ", but the kernel has module " : "", version,
             *version ? " (a container? give it the cards: --gpus all)" : "", list);
}

bool probe_load_cuda(probe *p)
{
    char why[128];
    void *library = open_library("libcuda.so.1", why, sizeof why);
    if (!library) {
        explain_absence(&p->cards, why);
        return false;
    }
    const char *missing =
        find_symbols(library, &p->cu, cuda_symbols, sizeof cuda_symbols / sizeof *cuda_symbols);
    if (missing) {
        p->cu.init = NULL;
        snprintf(p->cards.reason, sizeof p->cards.reason,
                 "the NVIDIA driver is too old: libcuda.so.1 has no %s", missing);
        return false;
    }
    return start_cuda(p);
}

void probe_load_nvml(probe *p)
{
    char why[128];
    void *library = open_library("libnvidia-ml.so.1", why, sizeof why);
    if (!library)
        return;
    find_symbols(library, &p->nvml, nvml_symbols, sizeof nvml_symbols / sizeof *nvml_symbols);
    p->cards.has_nvml = p->nvml.init && p->nvml.by_pci && p->nvml.init() == 0;
    if (p->cards.has_nvml && p->nvml.driver &&
        p->nvml.driver(p->cards.driver, sizeof p->cards.driver) != 0)
        p->cards.driver[0] = 0;
}
