/*
 * cli_text.c - numbers and foreign text for people
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdarg.h>
#include <string.h>

#include "cli.h"
#include "lx_utf8.h"

char *cli_safe(const char *text, char *out, size_t out_bytes)
{
    size_t n = lx_utf8_cut(text, strlen(text), out_bytes - 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        /* C1 controls (U+0080 to U+009F) are the bytes c2 80 to c2 9f. */
        bool is_c1 = c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] < 0xa0;
        if (is_c1)
            out[i++] = '?';
        out[i] = c < 0x20 || c == 0x7f || is_c1 ? '?' : (char)c;
    }
    out[n] = 0;
    return out;
}

char *cli_bytes(uint64_t bytes, char *out, size_t out_bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        unit++;
    }
    snprintf(out, out_bytes, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

char *cli_seconds(double seconds, char *out, size_t out_bytes)
{
    if (seconds < 0)
        seconds = 0;
    long whole = seconds < 1e9 ? (long)(seconds + 0.5) : 1000000000;
    if (seconds < 60)
        snprintf(out, out_bytes, "%.1f s", seconds);
    else if (seconds < 3600)
        snprintf(out, out_bytes, "%ld min %02ld s", whole / 60, whole % 60);
    else
        snprintf(out, out_bytes, "%ld h %02ld min", whole / 3600, whole / 60 % 60);
    return out;
}

void cli_say(const char *format, ...)
{
    char text[2048], safe[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "lx2v: %s\n", cli_safe(text, safe, sizeof safe));
}
