/*
 * lx_bar.c - thirty characters and what they mean
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_bar.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lx_process.h"

void lx_bar_draw(const char *unit, uint64_t done, uint64_t total, double start_s)
{
    double s = lx_now_s() - start_s;
    double share = total ? (double)done / (double)total : 0;
    char bar[31];
    int filled = (int)(share * 30);
    for (int i = 0; i < 30; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[30] = 0;
    if (!strcmp(unit, "byte"))
        fprintf(stderr, "\r[%s] %.2f of %.2f GB  %.0f MB/s\033[K", bar, (double)done / 1e9,
                (double)total / 1e9, s > 0 ? (double)done / 1e6 / s : 0.0);
    else
        fprintf(stderr, "\r[%s] %s %" PRIu64 " of %" PRIu64 "  %.1f s\033[K", bar, unit, done,
                total, s);
    if (done >= total)
        fputc('\n', stderr);
    fflush(stderr);
}
