/*
 * lx_host.c - the memory of this machine, as /proc and /sys tell
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_host.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void look_at_machine(lx_host_memory *m)
{
    char line[256];
    unsigned long long kib;
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemTotal: %llu kB", &kib) == 1)
            m->all = kib * 1024;
        else if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            m->available = kib * 1024;
    }
    if (file)
        fclose(file);
}

/* The path of our control group behind its "0::"; false if there is none. */
static bool find_group(char *line, int line_bytes)
{
    bool found = false;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && !found && fgets(line, line_bytes, file))
        found = strncmp(line, "0::/", 4) == 0;
    if (file)
        fclose(file);
    line[found ? strcspn(line, "\n") : 0] = 0;
    return found;
}

/* A figure of a group; false: it is not there, or "max". */
static bool read_figure(const char *group, const char *name, uint64_t *out)
{
    char path[4352], text[32];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, name);
    FILE *file = fopen(path, "re");
    bool is_number = file && fgets(text, sizeof text, file) && *text >= '0' && *text <= '9';
    if (is_number)
        *out = strtoull(text, NULL, 10);
    if (file)
        fclose(file);
    return is_number;
}

void lx_host_memory_look(lx_host_memory *m)
{
    char line[4096];
    *m = (lx_host_memory){0};
    look_at_machine(m);
    if (!find_group(line, sizeof line))
        return;
    for (char *at = line + 3; *at; *strrchr(at, '/') = 0) {
        uint64_t most, used = 0;
        if (!read_figure(at, "memory.max", &most) || most == 0)
            continue;
        (void)read_figure(at, "memory.current", &used);
        uint64_t left = most > used ? most - used : 0;
        m->available = left < m->available ? left : m->available;
        m->limit = m->limit && m->limit < most ? m->limit : most;
    }
}
