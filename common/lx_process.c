/*
 * lx_process.c - clock, memory and interrupts of this process
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_process.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
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

/* Interrupts are waited for by a thread of their own and blocked in all others. When a handler ran
 * on a computing thread, the heap was found corrupt in oneDNN 2.6's sgemm soon after ("corrupted
 * size vs. prev_size", again and again; never since). Why is not proven: perhaps its generated code
 * keeps data where a signal's frame goes. */
static atomic_bool is_interrupted;

static void *wait_for_interrupts(void *unused)
{
    (void)unused;
    sigset_t set;
    int number = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    while (sigwait(&set, &number))
        ;
    atomic_store(&is_interrupted, true);
    while (sigwait(&set, &number))
        ;
    signal(number, SIG_DFL); /* asked twice: now */
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    raise(number);
    return NULL;
}

void lx_catch_interrupt(void)
{
    static _Atomic pid_t caught_in; /* a forked child has no such thread yet */
    pthread_t thread;
    sigset_t set;
    if (atomic_exchange(&caught_in, getpid()) == getpid())
        return;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, wait_for_interrupts, NULL))
        pthread_sigmask(SIG_UNBLOCK, &set, NULL); /* then a signal ends the process at once */
    else
        pthread_detach(thread);
}

bool lx_interrupted(void)
{
    return atomic_load(&is_interrupted);
}
