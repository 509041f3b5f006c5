/*
 * lx_process.c - clock, memory and interrupts of this process
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_process.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

double lx_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

uint64_t lx_rss_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    uint64_t pages = 0;
    if (fscanf(file, "%*u %" SCNu64, &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t lx_peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (uint64_t)usage.ru_maxrss * 1024;
}

const char *lx_bytes_text(uint64_t bytes, char *text, size_t room)
{
    if (bytes >= (uint64_t)1 << 30)
        snprintf(text, room, "%.2f GiB", (double)bytes / 0x1p30);
    else
        snprintf(text, room, "%.4g MiB", (double)bytes / 0x1p20);
    return text;
}

static volatile sig_atomic_t is_interrupted;

static void on_interrupt(int number)
{
    (void)number;
    is_interrupted = 1;
    signal(SIGINT, SIG_DFL); /* both: the second signal need not be of the same kind */
    signal(SIGTERM, SIG_DFL);
}

void lx_catch_interrupt(void)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    struct sigaction old, catch = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigemptyset(&catch.sa_mask);
    for (int i = 0; i < 2; i++)
        if (!sigaction(numbers[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &catch, NULL);
}

bool lx_interrupted(void)
{
    return is_interrupted;
}
