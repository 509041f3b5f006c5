/*
 * cli_bar.c - progress on a terminal, or one line per change where there is none
 * SPDX-License-Identifier: Apache-2.0
 *
 * One line per running job, at most BAR_LINES, redrawn in place with plain ANSI:
 *
 *   kx3f9a2b7c dit     [#######---------] step 2/4 block 20/48 12.3 s, 17.0 s left
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli.h"
#include "lx_process.h"
#include "lx_utf8.h"

#define BAR_LINES  8
#define MOST_CELLS 24
#define BESIDES    64 /* columns of a line without its cells */
#define DRAW_S     0.1
#define PLAIN_S    10.0 /* a plain line at least this often while a job moves */

typedef struct bar_line {
    lx_client_event event; /* the latest of a job that has not ended */
    double heard_s;        /* when, on our clock */
    double told_s;         /* plain: last line */
} bar_line;

struct cli_bar {
    bool is_plain;
    int n_lines; /* jobs shown */
    int n_drawn; /* lines on the screen that are ours */
    double drawn_s;
    bar_line line[BAR_LINES];
};

cli_bar *cli_bar_open(bool plain)
{
    cli_bar *bar = calloc(1, sizeof *bar);
    if (!bar)
        return NULL;
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    bar->is_plain = plain || !isatty(STDERR_FILENO) || !term || strcmp(term, "dumb") == 0 ||
                    (no_color && *no_color);
    return bar;
}

/* "step 2/4 block 20/48", "loading 1.2 GiB of 14.5 GiB", "". The launcher's text is shown as it
 * is: it knows what the units are part of. */
static void describe_units(const lx_client_event *e, char *out, size_t out_bytes)
{
    char done[32], total[32];
    int n = snprintf(out, out_bytes, "%.60s%s", e->text, *e->text && e->total > 0 ? " " : "");
    out += n;
    out_bytes -= (size_t)n;
    if (e->total == 0)
        *out = 0;
    else if (strcmp(e->unit, "byte") == 0)
        snprintf(out, out_bytes, "loading %s of %s", cli_bytes(e->done, done, sizeof done),
                 cli_bytes(e->total, total, sizeof total));
    else
        snprintf(out, out_bytes, "%s %llu/%llu", e->unit, (unsigned long long)e->done,
                 (unsigned long long)e->total);
}

static void describe_time(const lx_client_event *e, double since_s, char *out, size_t out_bytes)
{
    char elapsed[32], left[32];
    double left_s = e->eta_s - since_s;
    cli_seconds(e->elapsed_s + since_s, elapsed, sizeof elapsed);
    if (e->eta_s < 0)
        snprintf(out, out_bytes, "%s", elapsed);
    else
        snprintf(out, out_bytes, "%s, %s left", elapsed, cli_seconds(left_s, left, sizeof left));
}

static const char *what(const lx_client_event *e)
{
    return e->stage >= 0 ? lx_client_stage_name(e->stage) : lx_client_state_name(e->state);
}

/* --- plain ------------------------------------------------------------------------------------ */

static void tell_plain(bar_line *line)
{
    char units[160], times[96], safe[160];
    const lx_client_event *e = &line->event;
    describe_units(e, units, sizeof units);
    describe_time(e, 0, times, sizeof times);
    fprintf(stderr, "%s: %s%s%s, %s\n", e->id, what(e), *units ? " " : "",
            cli_safe(units, safe, sizeof safe), times);
    line->told_s = lx_now_s();
}

/* --- terminal --------------------------------------------------------------------------------- */

static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20)
        return size.ws_col;
    return 80;
}

static void draw_line(const bar_line *line, int columns)
{
    char cells[MOST_CELLS + 1], units[160], times[96], text[512], safe[512];
    const lx_client_event *e = &line->event;
    int n = columns - BESIDES;
    n = n < 4 ? 4 : n > MOST_CELLS ? MOST_CELLS : n;
    double share = e->total > 0 ? (double)e->done / (double)e->total : 0;
    int filled = (int)((share > 1 ? 1 : share) * n);
    memset(cells, '-', (size_t)n);
    memset(cells, '#', (size_t)filled);
    cells[n] = 0;
    describe_units(e, units, sizeof units);
    describe_time(e, lx_now_s() - line->heard_s, times, sizeof times);
    snprintf(text, sizeof text, "%-10s %-7s [%s] %-13s %s", e->id, what(e), cells, units, times);
    cli_safe(text, safe, sizeof safe);
    safe[lx_utf8_cut(safe, strlen(safe), (size_t)columns - 1)] = 0; /* a wrapped line stays */
    fprintf(stderr, "\r\033[2K%s\n", safe);
}

void cli_bar_clear(cli_bar *bar)
{
    if (!bar || bar->n_drawn == 0)
        return;
    fprintf(stderr, "\r\033[%dA\033[J", bar->n_drawn);
    bar->n_drawn = 0;
    bar->drawn_s = 0;
}

void cli_bar_draw(cli_bar *bar)
{
    double now_s = lx_now_s();
    if (!bar || bar->is_plain || now_s - bar->drawn_s < DRAW_S)
        return;
    cli_bar_clear(bar);
    int columns = terminal_columns();
    for (int i = 0; i < bar->n_lines; i++)
        draw_line(&bar->line[i], columns);
    bar->n_drawn = bar->n_lines;
    bar->drawn_s = now_s;
    fflush(stderr);
}

/* --- events ----------------------------------------------------------------------------------- */

static int find_line(const cli_bar *bar, const char *id)
{
    for (int i = 0; i < bar->n_lines; i++)
        if (strcmp(bar->line[i].event.id, id) == 0)
            return i;
    return -1;
}

static void remove_line(cli_bar *bar, int i)
{
    cli_bar_clear(bar);
    bar->n_lines--;
    memmove(&bar->line[i], &bar->line[i + 1], (size_t)(bar->n_lines - i) * sizeof *bar->line);
}

void cli_bar_event(cli_bar *bar, const lx_client_event *event)
{
    if (!bar)
        return;
    int i = find_line(bar, event->id);
    if (event->state != LX_CLIENT_RUNNING && event->state != LX_CLIENT_QUEUED) {
        if (i >= 0)
            remove_line(bar, i);
        return;
    }
    bool is_new = i < 0;
    if (is_new) {
        if (bar->n_lines == BAR_LINES)
            return; /* the others get a line when these have ended */
        i = bar->n_lines++;
        bar->line[i] = (bar_line){0};
    }
    bar_line *line = &bar->line[i];
    bool is_change =
        is_new || line->event.state != event->state || line->event.stage != event->stage;
    line->event = *event;
    line->heard_s = lx_now_s();
    if (bar->is_plain && (is_change || line->heard_s - line->told_s > PLAIN_S))
        tell_plain(line);
}

void cli_bar_close(cli_bar **bar)
{
    if (!bar || !*bar)
        return;
    cli_bar_clear(*bar);
    free(*bar);
    *bar = NULL;
}
