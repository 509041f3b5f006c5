/*
 * clock_shift.c - preloaded: another time of day, as after somebody has set the clock
 * SPDX-License-Identifier: Apache-2.0
 *
 * CLOCK_REALTIME and what is made of it are so many seconds off as stands in the file that
 * LX2V_TEST_CLOCK names (clock_shift.h). CLOCK_MONOTONIC goes on, as it does on a real machine.
 */
#include "clock_shift.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static clock_shift *shift;

__attribute__((constructor)) static void find_shift(void)
{
    const char *path = getenv("LX2V_TEST_CLOCK");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at =
        fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *shift, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (at != MAP_FAILED)
        shift = at;
}

static time_t seconds_off(void)
{
    if (!shift)
        return 0;
    long seconds = atomic_load(&shift->seconds);
    if (seconds)
        atomic_fetch_add(&shift->n_asked, 1);
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, t);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        t->tv_sec += seconds_off();
    return failed;
}

int timespec_get(struct timespec *t, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, t) == 0 ? base : 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
