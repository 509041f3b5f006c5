/*
 * judge_motion.c - what an object does: from its centre, its size and its turning
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every bound lies well inside what scenes.py draws (least way 44 pixels, growth 2, spin 0.4 turns,
 * orbit 0.7, 1.6 hops) and well outside of what a resting object does. Between them: unclear.
 */
#include <math.h>

#include "judge_parts.h"

#define PI          3.14159265f
#define MOST_POINTS 1024

typedef struct path {
    int n;
    float x[MOST_POINTS], y[MOST_POINTS], size[MOST_POINTS]; /* in 128ths of the width */
} path;

static float middle_of(float a, float b, float c)
{
    return fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
}

/* The seen places, each the median of itself and its neighbours: one odd frame does not count. */
static void take_path(path *p, const judge_track *track, int n_frames, int width)
{
    const judge_spot *seen[MOST_POINTS];
    p->n = 0;
    for (int t = 0; t < n_frames && p->n < MOST_POINTS; t++)
        if (track->spot[t].is_seen)
            seen[p->n++] = &track->spot[t];
    float scale = 128.0f / (float)width;
    for (int i = 0; i < p->n; i++) {
        const judge_spot *a = seen[i > 0 ? i - 1 : i], *b = seen[i],
                         *c = seen[i + 1 < p->n ? i + 1 : i];
        p->x[i] = scale * middle_of(a->x, b->x, c->x);
        p->y[i] = scale * middle_of(a->y, b->y, c->y);
        p->size[i] = scale * sqrtf(middle_of(a->area, b->area, c->area));
    }
}

/* The mean of three values at one end. */
static float end_of(const float *values, int n, bool is_last)
{
    const float *v = is_last ? values + n - 3 : values;
    return (v[0] + v[1] + v[2]) / 3;
}

static float range_of(const float *values, int n)
{
    float least = values[0], most = values[0];
    for (int i = 1; i < n; i++) {
        least = fminf(least, values[i]);
        most = fmaxf(most, values[i]);
    }
    return most - least;
}

/* How often a value turns back by more than `by`. */
static int reversals(const float *values, int n, float by)
{
    int turns = 0, way = 0;
    float extreme = values[0];
    for (int i = 1; i < n; i++) {
        float d = values[i] - extreme;
        if (way == 0 ? fabsf(d) > by : d * (float)way < -by) {
            turns += way != 0;
            way = d > 0 ? 1 : -1;
            extreme = values[i];
        } else if (d * (float)way > 0) {
            extreme = values[i];
        }
    }
    return turns;
}

static float length_of(const path *p)
{
    const int step = 4; /* frames: shorter ones would add up the jitter */
    float sum = 0;
    for (int i = 0; i + 1 < p->n; i += step) {
        int j = i + step < p->n ? i + step : p->n - 1;
        sum += hypotf(p->x[j] - p->x[i], p->y[j] - p->y[i]);
    }
    return sum;
}

/* --- around a centre -------------------------------------------------------------------------- */

typedef struct circle {
    float x, y, radius;
    float off;   /* root mean square distance of the path from it */
    float turns; /* of the path around its centre */
} circle;

/* The circle x^2 + y^2 + a x + b y + c = 0 that fits best (Kasa), about the mean. */
static circle fit_circle(const path *p)
{
    double mx = 0, my = 0, xx = 0, xy = 0, yy = 0, xz = 0, yz = 0, zz = 0;
    for (int i = 0; i < p->n; i++) {
        mx += p->x[i] / (double)p->n;
        my += p->y[i] / (double)p->n;
    }
    for (int i = 0; i < p->n; i++) {
        double u = p->x[i] - mx, v = p->y[i] - my, z = u * u + v * v;
        xx += u * u;
        xy += u * v;
        yy += v * v;
        xz += u * z;
        yz += v * z;
        zz += z;
    }
    double det = xx * yy - xy * xy;
    circle c = {.off = INFINITY};
    if (det < 1e-6 * (xx + yy) * (xx + yy))
        return c; /* on a line */
    double u = (xz * yy - yz * xy) / det / 2, v = (yz * xx - xz * xy) / det / 2;
    double off = 0, before = 0, turned = 0;
    c.radius = (float)sqrt(u * u + v * v + zz / p->n);
    c.x = (float)(mx + u);
    c.y = (float)(my + v);
    for (int i = 0; i < p->n; i++) {
        double dx = p->x[i] - c.x, dy = p->y[i] - c.y, angle = atan2(dy, dx);
        double d = sqrt(dx * dx + dy * dy) - c.radius;
        off += d * d / p->n;
        if (i > 0)
            turned += remainder(angle - before, 2 * (double)PI);
        before = angle;
    }
    c.off = (float)sqrt(off);
    c.turns = (float)(turned / (2 * (double)PI));
    return c;
}

/* --- about itself ----------------------------------------------------------------------------- */

/* The wave that the outline shows most: 3, 4 or 5 to the turn. */
static int strongest_wave(const judge_track *track, int n_frames)
{
    float sum[6] = {0};
    int best = 3;
    for (int t = 0; t < n_frames; t++)
        for (int k = 3; k <= 5; k++)
            sum[k] += track->spot[t].is_seen ? track->spot[t].wave[k] : 0;
    for (int k = 4; k <= 5; k++)
        if (sum[k] > sum[best])
            best = k;
    return best;
}

/* Turns, from the phase of that wave; 0 if it wavers, or if the outline is too round to tell. */
static float spin_of(const judge_track *track, int n_frames)
{
    int k = strongest_wave(track, n_frames);
    float sum = 0, way = 0;
    const judge_spot *before = NULL;
    for (int t = 0; t < n_frames; t++) {
        const judge_spot *spot = &track->spot[t];
        if (!spot->is_seen || spot->wave[k] < 0.04f)
            continue;
        if (before) {
            float d = remainderf(spot->phase[k] - before->phase[k], 2 * PI);
            sum += d;
            way += fabsf(d);
        }
        before = spot;
    }
    return fabsf(sum) < 0.7f * way ? 0 : sum / (float)k / (2 * PI);
}

/* --- all -------------------------------------------------------------------------------------- */

static const char *line_name(float dx, float dy)
{
    float ax = fabsf(dx), ay = fabsf(dy);
    bool is_right = dx > 0, is_down = dy > 0;
    if (ay < 0.36f * ax)
        return is_right ? "right" : "left";
    if (ax < 0.36f * ay)
        return is_down ? "down" : "up";
    if (fminf(ax, ay) < 0.48f * fmaxf(ax, ay))
        return JUDGE_UNCLEAR;
    if (is_right)
        return is_down ? "down_right" : "up_right";
    return is_down ? "down_left" : "up_left";
}

static const char *moving_name(const path *p, judge_motion *m)
{
    float rx = range_of(p->x, p->n), ry = range_of(p->y, p->n);
    float dx = end_of(p->x, p->n, true) - end_of(p->x, p->n, false);
    float dy = end_of(p->y, p->n, true) - end_of(p->y, p->n, false);
    float net = hypotf(dx, dy);
    circle c = fit_circle(p);
    if (fabsf(c.turns) > 0.5f && c.off < 0.22f * c.radius && c.radius > 12 && c.radius < 50) {
        m->turns = c.turns;
        return "orbit";
    }
    if (rx < 0.35f * ry && ry > 22 && reversals(p->y, p->n, 6) >= 2)
        return "bounce";
    if (net > 28 && net > 0.85f * length_of(p))
        return line_name(dx, dy);
    return JUDGE_UNCLEAR;
}

static const char *name_of(const path *p, judge_motion *m)
{
    float range = fmaxf(range_of(p->x, p->n), range_of(p->y, p->n));
    if (m->growth > 1.5f || m->growth < 1 / 1.5f)
        return range > 18 ? JUDGE_UNCLEAR : m->growth > 1 ? "grow" : "shrink";
    if (range > 14)
        return moving_name(p, m);
    if (range > 9 || m->growth > 1.3f || m->growth < 1 / 1.3f)
        return JUDGE_UNCLEAR;
    float turns = fabsf(m->turns);
    return turns > 0.27f ? "spin" : turns < 0.13f ? "still" : JUDGE_UNCLEAR;
}

judge_motion judge_motion_of(const judge_track *track, int n_frames, int width)
{
    judge_motion m = {.name = JUDGE_UNCLEAR, .growth = 1};
    path p;
    take_path(&p, track, n_frames, width);
    if (p.n < 9 || p.n * 10 < n_frames * 9) /* too few to be sure */
        return m;
    m.dx = (end_of(p.x, p.n, true) - end_of(p.x, p.n, false)) / 128;
    m.dy = (end_of(p.y, p.n, true) - end_of(p.y, p.n, false)) / 128;
    m.growth = end_of(p.size, p.n, true) / fmaxf(end_of(p.size, p.n, false), 1);
    m.turns = spin_of(track, n_frames);
    m.name = name_of(&p, &m);
    return m;
}
