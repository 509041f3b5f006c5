/*
 * cli_bench_print.c - figures and timeline for a person
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <string.h>

#include "cli.h"
#include "cli_bench.h"

#define TIMELINE 88 /* columns of time: with the row's name 100 */

void bench_hardware(const bench_result *r, char *out, size_t out_bytes)
{
    char bytes[32];
    const cli_machine *m = &r->machine;
    size_t used = (size_t)snprintf(out, out_bytes, "%s, %d cores, %s", m->cpu, m->n_cores,
                                   cli_bytes(m->ram_bytes, bytes, sizeof bytes));
    for (int i = 0; i < r->cards.n && used < out_bytes; i++)
        used += (size_t)snprintf(out + used, out_bytes - used, "%s %s (%s)", i ? "," : ";",
                                 r->cards.card[i].name,
                                 cli_bytes(r->cards.card[i].vram_bytes, bytes, sizeof bytes));
    if (used < out_bytes)
        snprintf(out + used, out_bytes - used, "%s%s",
                 r->cards.n == 0    ? "; no NVIDIA card"
                 : *r->cards.driver ? ", driver "
                                    : "",
                 r->cards.n > 0 ? r->cards.driver : "");
}

/* "-" where nothing was measured. */
static const char *bytes_text(uint64_t bytes, char *out, size_t out_bytes)
{
    if (bytes > 0)
        return cli_bytes(bytes, out, out_bytes);
    snprintf(out, out_bytes, "-");
    return out;
}

/* Seconds with three figures, in a column. */
static const char *seconds_text(const bench_spread *s, double value, char *out, size_t out_bytes)
{
    if (s->n == 0)
        snprintf(out, out_bytes, "-");
    else
        snprintf(out, out_bytes, value >= 99.95 ? "%.0f" : value >= 9.995 ? "%.1f" : "%.3f", value);
    return out;
}

static void print_speed(const bench_result *r)
{
    const bench_figures *f = &r->figures;
    if (f->clips_per_hour > 0)
        printf("speed      %.1f clips/hour, %.2f s a clip, from the first done to the last; "
               "%zu clips in %.1f s\n",
               f->clips_per_hour, 3600 / f->clips_per_hour, f->n_done, f->wall_s);
    else
        printf("speed      %zu clip%s in %.1f s; clips/hour needs two\n", f->n_done,
               f->n_done == 1 ? "" : "s", f->wall_s);
    printf("overlap    %.2f: seconds of work of all stages in one second of the run\n", f->overlap);
    if (f->warm_up == r->n_jobs || f->n_done < 2)
        return;
    const lx_client_job *job = &r->jobs[f->warm_up];
    printf("warm-up    the first clip, not in the medians:");
    for (int stage = 0; stage < LX_CLIENT_STAGES; stage++)
        printf("%s %s %.3f s", stage ? "," : "", lx_client_stage_name(stage),
               bench_work_s(job, stage));
    printf("\n");
}

static void print_stages(const bench_result *r)
{
    const bench_figures *f = &r->figures;
    printf("\nseconds    work: median     min     max   waiting  queueing    busy\n");
    for (int stage = 0; stage < LX_CLIENT_STAGES; stage++) {
        const bench_stage *s = &f->stage[stage];
        char text[5][16];
        printf("%-10s %12s %7s %7s %9s %9s %6.1f%%\n", lx_client_stage_name(stage),
               seconds_text(&s->work, s->work.median, text[0], sizeof text[0]),
               seconds_text(&s->work, s->work.min, text[1], sizeof text[1]),
               seconds_text(&s->work, s->work.max, text[2], sizeof text[2]),
               seconds_text(&s->wait, s->wait.median, text[3], sizeof text[3]),
               seconds_text(&s->queue, s->queue.median, text[4], sizeof text[4]),
               100 * s->busy_share);
    }
    if (f->steps.n == 0)
        return;
    char text[3][16];
    printf("step       %12s %7s %7s   ",
           seconds_text(&f->steps, f->steps.median, text[0], sizeof text[0]),
           seconds_text(&f->steps, f->steps.min, text[1], sizeof text[1]),
           seconds_text(&f->steps, f->steps.max, text[2], sizeof text[2]));
    for (int i = 0; i < f->n_steps && i < 8; i++)
        printf("%s%s", i ? " " : "of a clip: ",
               seconds_text(&f->step[i], f->step[i].median, text[0], sizeof text[0]));
    printf("%s\n", f->n_steps > 8 ? " ..." : "");
}

static double mib_between(uint64_t from, uint64_t to)
{
    return ((double)to - (double)from) / (1 << 20);
}

static void print_memory(const bench_result *r)
{
    char a[3][32];
    cli_metered launcher = cli_meter_of(&r->meter, -1, -1);
    printf("\nprocess      device        clips   busy   peak RSS   peak PSS  peak VRAM\n");
    for (int k = 0; k < r->n_replicas; k++) {
        const bench_replica *p = &r->replica[k];
        cli_metered m = cli_meter_of(&r->meter, p->stage, p->replica);
        char name[32], device[64];
        snprintf(name, sizeof name, "%s[%d]", lx_client_stage_name(p->stage), p->replica);
        printf("%-12s %-12.12s %6zu %5.1f%% %10s %10s %10s%s\n", name,
               cli_safe(p->device, device, sizeof device), p->n_clips, 100 * p->busy_share,
               bytes_text(m.peak_rss, a[0], sizeof a[0]), bytes_text(m.peak_pss, a[1], sizeof a[1]),
               bytes_text(m.peak_vram, a[2], sizeof a[2]), p->restarts ? "  RESTARTED" : "");
    }
    printf("%-12s %-12s %6s %6s %10s %10s\n", "launcher", "-", "-", "-",
           bytes_text(launcher.peak_rss, a[0], sizeof a[0]),
           bytes_text(launcher.peak_pss, a[1], sizeof a[1]));
    printf("%-12s %-12s %6s %6s %10s %10s\n", "together", "-", "-", "-", "-",
           bytes_text(r->meter.peak_pss, a[0], sizeof a[0]));
}

/* Does memory grow from clip to clip? The first clip is a warm-up. */
static void print_growth(const bench_result *r)
{
    const cli_meter *m = &r->meter;
    int last = (m->n_laps < CLI_METER_LAPS ? m->n_laps : CLI_METER_LAPS) - 1;
    if (last < 2)
        return;
    printf("growth     of the peak from the clip done 2nd to the one done last: host %+.0f MiB",
           mib_between(m->lap_pss[1], m->lap_pss[last]));
    for (int i = 0; i < r->cards.n && !*m->trouble; i++)
        printf(", cuda:%d %+.0f MiB", i,
               mib_between(m->card[i].lap_bytes[1], m->card[i].lap_bytes[last]));
    printf("\n");
}

static void print_cards(const bench_result *r)
{
    char a[3][32];
    size_t n = r->figures.n_done > 1 ? r->figures.n_done - 1 : 1;
    if (r->cards.n == 0)
        return;
    if (*r->meter.trouble)
        printf("cards      memory and energy are not told: %s\n", r->meter.trouble);
    for (int i = 0; i < r->cards.n && !*r->meter.trouble; i++) {
        const cli_metered_card *c = &r->meter.card[i];
        printf("cuda:%d     peak %s of %s, %s before the run; ", i,
               bytes_text(c->peak_bytes, a[0], sizeof a[0]),
               bytes_text(r->cards.card[i].vram_bytes, a[1], sizeof a[1]),
               bytes_text(c->first_bytes, a[2], sizeof a[2]));
        if (c->joules > 0)
            printf("%.0f J a clip, %.0f W\n", c->joules / (double)n,
                   r->meter.joules_s > 0 ? c->joules / r->meter.joules_s : 0.0);
        else
            printf("energy is not told\n");
    }
}

void bench_print(const bench_result *r)
{
    char hardware[2048], seconds[32];
    const lx_client_job *any = &r->jobs[0];
    printf("bench      %zu clip%s of %dx%d, %d frames, %s", r->n_jobs, r->n_jobs == 1 ? "" : "s",
           any->width, any->height, any->frames, r->is_own ? "own pipeline" : "a running pipeline");
    if (r->is_own)
        printf(", ready after %s", cli_seconds(r->load_s, seconds, sizeof seconds));
    bench_hardware(r, hardware, sizeof hardware);
    printf("\nmachine    %s\nlx2v       %s, built for %s\n", hardware, LX2V_VERSION, LX2V_BACKEND);
    print_speed(r);
    print_stages(r);
    print_memory(r);
    print_growth(r);
    print_cards(r);
    if (*r->note)
        printf("note       %s\n", r->note);
}

/* --- timeline --------------------------------------------------------------------------------- */

static char symbol(size_t i)
{
    static const char symbols[] = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    return symbols[i % (sizeof symbols - 1)];
}

/* Seconds that [a, b) and [c, d) have in common. */
static double common_s(double a, double b, double c, double d)
{
    double from = a > c ? a : c, to = b < d ? b : d;
    return to > from ? to - from : 0;
}

/* The encoder and the dit wait at their end, with the result in hand; where the waiting of the
 * others lies within their time is not known. */
static double waits_from_s(const lx_client_job *job, int stage)
{
    return stage <= 1 ? job->stage[stage].start_s + bench_work_s(job, stage)
                      : job->stage[stage].end_s;
}

static void draw_row(const bench_result *r, const bench_replica *p, char row[TIMELINE + 1])
{
    const double from_s = r->figures.start_s, cell_s = r->figures.wall_s / TIMELINE;
    const int stage = p->stage;
    for (int x = 0; x < TIMELINE; x++) {
        double best_s = 0, a = from_s + x * cell_s, b = a + cell_s;
        row[x] = ' ';
        for (size_t i = 0; i < r->n_jobs; i++) {
            const lx_client_job *job = &r->jobs[i];
            if (job->stage[stage].replica != p->replica || bench_work_s(job, stage) < 0)
                continue;
            double until_s = waits_from_s(job, stage);
            double work_s = common_s(a, b, job->stage[stage].start_s, until_s);
            double wait_s = common_s(a, b, until_s, job->stage[stage].end_s);
            if (work_s > best_s || wait_s > best_s) {
                best_s = work_s > wait_s ? work_s : wait_s;
                row[x] = wait_s > work_s ? '-' : work_s > cell_s / 4 ? symbol(i) : '.';
            }
        }
    }
    row[TIMELINE] = 0;
}

void bench_timeline(const bench_result *r)
{
    char row[TIMELINE + 1], name[32], end[32];
    if (r->figures.wall_s <= 0)
        return;
    printf("\n%-11s|0%*s|\n", "timeline", TIMELINE - 1,
           cli_seconds(r->figures.wall_s, end, sizeof end));
    for (int k = 0; k < r->n_replicas; k++) {
        const bench_replica *p = &r->replica[k];
        draw_row(r, p, row);
        snprintf(name, sizeof name, "%s[%d]", lx_client_stage_name(p->stage), p->replica);
        printf("%-11s|%s|\n", name, row);
    }
    printf("%-11s 1 to 9, a to z: the clips as submitted; - waits with its result; mux also waits "
           "for frames\n",
           "");
}
