/*
 * cli_bench_figures.c - from the times of clips to speed, shares and overlap
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "cli_bench.h"

enum { ENCODER, DIT, VAE, MUX };

double bench_work_s(const lx_client_job *job, int stage)
{
    double start_s = job->stage[stage].start_s, end_s = job->stage[stage].end_s;
    if (start_s <= 0 || end_s < start_s)
        return -1;
    double work_s = end_s - start_s - job->stage[stage].wait_s;
    return work_s > 0 ? work_s : 0;
}

static double queue_s(const lx_client_job *job, int stage)
{
    double there_s = stage == ENCODER ? job->submit_s : job->stage[stage - 1].end_s;
    double queued_s = job->stage[stage].start_s - there_s;
    return stage == MUX || queued_s < 0 ? 0 : queued_s;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bench_spread spread_of(double *values, size_t n)
{
    if (n == 0)
        return (bench_spread){0};
    qsort(values, n, sizeof *values, by_value);
    double middle = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return (bench_spread){.n = n, .median = middle, .min = values[0], .max = values[n - 1]};
}

static bool is_done(const lx_client_job *job)
{
    return job->state == LX_CLIENT_DONE && job->end_s > 0;
}

/* Only with a second one is the first a warm-up. */
static bool is_counted(const bench_result *r, size_t i)
{
    return is_done(&r->jobs[i]) && (r->figures.n_done == 1 || i != r->figures.warm_up);
}

static void find_run(bench_result *r)
{
    bench_figures *f = &r->figures;
    double first_end_s = 0;
    f->warm_up = r->n_jobs;
    for (size_t i = 0; i < r->n_jobs; i++) {
        const lx_client_job *job = &r->jobs[i];
        if (!is_done(job))
            continue;
        f->n_done++;
        if (f->warm_up == r->n_jobs || job->end_s < first_end_s) {
            f->warm_up = i;
            first_end_s = job->end_s;
        }
        f->end_s = job->end_s > f->end_s ? job->end_s : f->end_s;
        for (int stage = 0; stage < LX_CLIENT_STAGES; stage++) {
            double start_s = job->stage[stage].start_s;
            if (start_s > 0 && (f->start_s <= 0 || start_s < f->start_s))
                f->start_s = start_s;
        }
    }
    f->wall_s = f->n_done > 0 ? f->end_s - f->start_s : 0;
    if (f->n_done > 1 && f->end_s > first_end_s)
        f->clips_per_hour = 3600.0 * (double)(f->n_done - 1) / (f->end_s - first_end_s);
}

static void find_stages(bench_result *r, double *values)
{
    size_t n = r->n_jobs;
    for (int stage = 0; stage < LX_CLIENT_STAGES; stage++) {
        bench_stage *s = &r->figures.stage[stage];
        double *work = values, *wait = values + n, *queue = values + 2 * n;
        size_t k = 0;
        for (size_t i = 0; i < n; i++) {
            double seconds = bench_work_s(&r->jobs[i], stage);
            if (!is_counted(r, i) || seconds < 0)
                continue;
            work[k] = seconds;
            wait[k] = r->jobs[i].stage[stage].wait_s;
            queue[k++] = queue_s(&r->jobs[i], stage);
        }
        s->work = spread_of(work, k);
        s->wait = spread_of(wait, k);
        s->queue = spread_of(queue, k);
    }
}

static void find_steps(bench_result *r, double *values)
{
    bench_figures *f = &r->figures;
    size_t n_all = 0;
    for (int step = 0; step < LX_CLIENT_STEPS_MAX; step++) {
        size_t k = 0;
        for (size_t i = 0; i < r->n_jobs; i++)
            if (is_counted(r, i) && step < r->jobs[i].n_step_s)
                values[k++] = r->jobs[i].step_s[step];
        f->step[step] = spread_of(values, k);
        f->n_steps = k > 0 ? step + 1 : f->n_steps;
    }
    for (size_t i = 0; i < r->n_jobs; i++)
        for (int step = 0; is_counted(r, i) && step < r->jobs[i].n_step_s; step++)
            values[n_all++] = r->jobs[i].step_s[step];
    f->steps = spread_of(values, n_all);
}

/* Work that was thrown away (a retry) and clips that failed are not seen in the jobs' times. */
static void find_shares(bench_result *r)
{
    bench_figures *f = &r->figures;
    double sum_s = 0;
    for (int k = 0; k < r->n_replicas; k++) {
        bench_replica *p = &r->replica[k];
        bench_stage *s = &f->stage[p->stage];
        p->n_clips = 0;
        p->busy_s = 0;
        for (size_t i = 0; i < r->n_jobs; i++) {
            double seconds = bench_work_s(&r->jobs[i], p->stage);
            if (!is_done(&r->jobs[i]) || r->jobs[i].stage[p->stage].replica != p->replica ||
                seconds < 0)
                continue;
            p->n_clips++;
            p->busy_s += seconds;
        }
        p->busy_share = f->wall_s > 0 ? p->busy_s / f->wall_s : 0;
        s->n_replicas++;
        s->busy_s += p->busy_s;
        sum_s += p->busy_s;
    }
    for (int stage = 0; stage < LX_CLIENT_STAGES; stage++) {
        bench_stage *s = &f->stage[stage];
        if (f->wall_s > 0 && s->n_replicas > 0)
            s->busy_share = s->busy_s / (f->wall_s * s->n_replicas);
    }
    f->overlap = f->wall_s > 0 ? sum_s / f->wall_s : 0;
}

void bench_calculate(bench_result *r)
{
    memset(&r->figures, 0, sizeof r->figures);
    r->figures.n_clips = r->n_jobs;
    double *values = calloc(r->n_jobs * LX_CLIENT_STEPS_MAX + 1, sizeof *values);
    find_run(r);
    if (values) { /* without: no medians, and the rest all the same */
        find_stages(r, values);
        find_steps(r, values);
    }
    find_shares(r);
    free(values);
}
