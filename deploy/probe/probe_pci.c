/*
 * probe_pci.c - cards as the kernel lists them
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"

#define DEVICES "/sys/bus/pci/devices"

/* The first line of a file of sysfs; "" if there is none. */
static void read_line(char *out, size_t out_bytes, const char *format, const char *name)
{
    char path[256];
    out[0] = 0;
    snprintf(path, sizeof path, format, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (!fgets(out, (int)out_bytes, file))
        out[0] = 0;
    out[strcspn(out, "\n")] = 0;
    fclose(file);
}

void probe_module_version(char *out, size_t out_bytes)
{
    read_line(out, out_bytes, "%s/version", "/sys/module/nvidia");
}

/* Vendor 10de, class 03xx: a display or 3-D controller (not the sound device on the same card). */
static bool is_nvidia_card(const char *name)
{
    char vendor[16], class[16];
    read_line(vendor, sizeof vendor, DEVICES "/%s/vendor", name);
    read_line(class, sizeof class, DEVICES "/%s/class", name);
    return strcmp(vendor, "0x10de") == 0 && strncmp(class, "0x03", 4) == 0;
}

static void driver_of(char *out, size_t out_bytes, const char *name)
{
    char path[256], target[256];
    snprintf(path, sizeof path, DEVICES "/%.32s/driver", name);
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = 0;
    const char *slash = strrchr(target, '/');
    snprintf(out, out_bytes, "%.31s", slash ? slash + 1 : "no driver");
}

void probe_pci_cards(char *out, size_t out_bytes)
{
    DIR *dir = opendir(DEVICES);
    char driver[32];
    int n = 0;
    size_t used = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || !is_nvidia_card(entry->d_name))
            continue;
        driver_of(driver, sizeof driver, entry->d_name);
        if (used < out_bytes)
            used +=
                (size_t)snprintf(out + used, out_bytes - used, "%s%.16s (%s)",
                                 n ? ", " : "NVIDIA cards on the PCI bus: ", entry->d_name, driver);
        n++;
    }
    if (dir)
        closedir(dir);
    if (n == 0)
        snprintf(out, out_bytes, "no NVIDIA card is on the PCI bus");
}

/* PCIe generation of "16.0 GT/s PCIe". */
static int generation_of(const char *speed)
{
    static const double rates[] = {2.5, 5, 8, 16, 32, 64, 128};
    double rate = strtod(speed, NULL);
    for (int i = 0; i < (int)(sizeof rates / sizeof *rates); i++)
        if (rate > rates[i] - 0.1 && rate < rates[i] + 0.1)
            return i + 1;
    return 0;
}

static int small_number(const char *text, int most)
{
    long n = strtol(text, NULL, 10);
    return n > 0 && n <= most ? (int)n : 0;
}

void probe_pci_look(lx_card *card)
{
    char text[64];
    card->numa_node = -1;
    read_line(text, sizeof text, DEVICES "/%s/numa_node", card->pci);
    if (*text && *text != '-')
        card->numa_node = small_number(text, 1024);
    if (card->pcie.width_max == 0) {
        read_line(text, sizeof text, DEVICES "/%s/max_link_width", card->pci);
        card->pcie.width_max = small_number(text, 64);
        read_line(text, sizeof text, DEVICES "/%s/max_link_speed", card->pci);
        card->pcie.gen_max = generation_of(text);
    }
    if (card->pcie.width == 0) {
        read_line(text, sizeof text, DEVICES "/%s/current_link_width", card->pci);
        card->pcie.width = small_number(text, 64);
        read_line(text, sizeof text, DEVICES "/%s/current_link_speed", card->pci);
        card->pcie.gen = generation_of(text);
    }
}
