/*
 * cli_machine.c - CPU, memory, disks, cards
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli_machine.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lx_host.h"

/* The kernel's list knows more than the compiler's built-ins, and whether the system saves the
 * registers. */
static bool has_flag(const char *flags, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = strstr(flags, name); p; p = strstr(p + n, name))
        if ((p == flags || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\n' || p[n] == 0))
            return true;
    return false;
}

static void look_at_cpu(cli_machine *m)
{
    static const char name[] = "model name", flags[] = "flags";
    char line[8192];
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (!colon)
            continue;
        if (strncmp(line, name, sizeof name - 1) == 0 && !*m->cpu)
            snprintf(m->cpu, sizeof m->cpu, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        if (strncmp(line, flags, sizeof flags - 1) == 0) {
            m->has_avx2 = has_flag(colon + 1, "avx2");
            m->has_avx512 = has_flag(colon + 1, "avx512f") && has_flag(colon + 1, "avx512bw");
            m->has_vnni = has_flag(colon + 1, "avx512_vnni") || has_flag(colon + 1, "avx_vnni");
            m->has_bf16 = has_flag(colon + 1, "avx512_bf16");
            m->has_amx = has_flag(colon + 1, "amx_int8");
            break;
        }
    }
    if (file)
        fclose(file);
    cpu_set_t set;
    m->n_cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                             : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

static void look_at_memory(cli_machine *m)
{
    lx_host_memory memory;
    struct rlimit limit;
    lx_host_memory_look(&memory);
    m->ram_bytes = memory.all;
    m->free_bytes = memory.available;
    m->limit_bytes = memory.limit;
    m->memlock_bytes = UINT64_MAX;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        m->memlock_bytes = limit.rlim_cur;
}

void cli_machine_look(cli_machine *m)
{
    struct statvfs shm;
    memset(m, 0, sizeof *m);
    look_at_cpu(m);
    look_at_memory(m);
    if (statvfs("/dev/shm", &shm) == 0) {
        m->shm_bytes = (uint64_t)shm.f_blocks * shm.f_frsize;
        m->shm_free_bytes = (uint64_t)shm.f_bavail * shm.f_frsize;
    }
    for (int i = 0; i < 16; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/nvidia%d", i);
        m->n_nvidia += access(path, F_OK) == 0;
    }
}

uint64_t cli_disk_free(const char *path)
{
    char at[4096];
    struct statvfs fs;
    if ((size_t)snprintf(at, sizeof at, "%s", path) >= sizeof at)
        return 0;
    /* A folder that is not there yet will be on the file system of its parent. */
    while (statvfs(at, &fs) != 0) {
        char *slash = strrchr(at, '/');
        if (!slash || slash == at)
            return 0;
        *slash = 0;
    }
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

static bool is_safetensors(const char *name)
{
    static const char end[] = ".safetensors";
    size_t n = strlen(name), m = sizeof end - 1;
    return n > m && strcmp(name + n - m, end) == 0;
}

uint64_t cli_weights_size(const char *path)
{
    struct stat st;
    uint64_t bytes = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return stat(path, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
    /* Encoder and VAE may lie in the same folder, as .pth: they are no part of this model. */
    for (struct dirent *entry; (entry = readdir(dir));)
        if (is_safetensors(entry->d_name) && fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 &&
            st.st_size > 0)
            bytes += (uint64_t)st.st_size;
    closedir(dir);
    return bytes;
}
