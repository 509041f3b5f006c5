/*
 * judge_outline.c - the outline of one object in one frame, and the shape it is
 * SPDX-License-Identifier: Apache-2.0
 *
 * The radius from the centre outwards, ray by ray, as a sum of waves: a triangle has three to the
 * turn, a square four, a star five, a cross four that are much higher, a circle and a ring none.
 * Turning an object turns the phases and leaves the amplitudes alone.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "judge_parts.h"

#define PI 3.14159265358979f

/* Amplitudes of the 2nd to 5th wave of the ideal shapes, as render.py draws them. A ring's outline
 * is a circle. */
static const struct {
    const char *name;
    float wave[4];
} ideal[] = {
    {"circle", {0, 0, 0, 0}},    {"triangle", {0, 0.276f, 0, 0}}, {"square", {0, 0, 0.140f, 0}},
    {"star", {0, 0, 0, 0.312f}}, {"cross", {0, 0, 0.337f, 0}},
};

static float sample(const float *alpha, int width, int height, float x, float y)
{
    float fx = x - 0.5f, fy = y - 0.5f; /* pixel centres lie at halves */
    int ix = (int)floorf(fx), iy = (int)floorf(fy);
    if (ix < 0 || iy < 0 || ix + 1 >= width || iy + 1 >= height)
        return 0;
    float u = fx - (float)ix, v = fy - (float)iy;
    const float *p = alpha + (size_t)iy * (size_t)width + (size_t)ix;
    return (p[0] * (1 - u) + p[1] * u) * (1 - v) + (p[width] * (1 - u) + p[width + 1] * u) * v;
}

static void measure_centre(judge_spot *spot, const float *alpha, int width, int height)
{
    double sum = 0, sx = 0, sy = 0;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            float a = alpha[(size_t)y * (size_t)width + (size_t)x];
            sum += a;
            sx += a * (x + 0.5);
            sy += a * (y + 0.5);
            if (a > 0.5f && (x == 0 || y == 0 || x == width - 1 || y == height - 1))
                spot->at_border = true;
        }
    spot->area = (float)sum;
    spot->x = sum > 0 ? (float)(sx / sum) : 0;
    spot->y = sum > 0 ? (float)(sy / sum) : 0;
}

/* How far the object reaches along a ray: the outermost place where it covers half a pixel. */
static float radius(const judge_spot *spot, const float *alpha, int width, int height, float angle,
                    float most)
{
    const float step = 0.5f;
    float c = cosf(angle), s = sinf(angle), outer = 0, before = 1;
    for (float r = 0; r <= most; r += step) {
        float a = sample(alpha, width, height, spot->x + r * c, spot->y + r * s);
        if (before >= 0.5f && a < 0.5f)
            outer = r - step * (0.5f - a) / (before - a + 1e-6f);
        before = a;
    }
    return outer;
}

static void measure_waves(judge_spot *spot, const float *alpha, int width, int height)
{
    float ray[JUDGE_RAYS], mean = 0, most = 3 * sqrtf(spot->area);
    for (int i = 0; i < JUDGE_RAYS; i++) {
        ray[i] = radius(spot, alpha, width, height, 2 * PI * (float)i / JUDGE_RAYS, most);
        mean += ray[i] / JUDGE_RAYS;
    }
    for (int k = 1; k < 9; k++) {
        float c = 0, s = 0;
        for (int i = 0; i < JUDGE_RAYS; i++) {
            float turn = 2 * PI * (float)(k * i % JUDGE_RAYS) / JUDGE_RAYS;
            c += ray[i] * cosf(turn);
            s += ray[i] * sinf(turn);
        }
        spot->wave[k] = mean > 0 ? 2 * hypotf(c, s) / JUDGE_RAYS / mean : 0;
        spot->phase[k] = atan2f(s, c);
    }
}

/* What the outside cannot reach is a hole: flood from the border over what is not the object. */
static void measure_hole(judge_spot *spot, const float *alpha, int *queue, int width, int height)
{
    int n = 0, n_pixels = width * height, outside = 0, inside = 0;
    uint8_t *seen = calloc((size_t)n_pixels, 1);
    if (!seen)
        return;
    for (int i = 0; i < n_pixels; i++) {
        int x = i % width, y = i / width;
        bool is_edge = x == 0 || y == 0 || x == width - 1 || y == height - 1;
        if (alpha[i] > 0.5f) {
            inside++;
            seen[i] = 1;
        } else if (is_edge) {
            seen[i] = 1;
            queue[n++] = i;
        }
    }
    while (outside < n) {
        int i = queue[outside++], x = i % width;
        const int near[4] = {x > 0 ? i - 1 : i, x < width - 1 ? i + 1 : i,
                             i >= width ? i - width : i, i + width < n_pixels ? i + width : i};
        for (int k = 0; k < 4; k++)
            if (!seen[near[k]]) {
                seen[near[k]] = 1;
                queue[n++] = near[k];
            }
    }
    int hole = n_pixels - inside - outside;
    spot->hole = inside ? (float)hole / (float)(hole + inside) : 0;
    free(seen);
}

/* The nearest ideal shape, if it is near and clearly nearer than the next. */
static const char *shape_of(const judge_spot *spot)
{
    float best = INFINITY, second = INFINITY;
    const char *name = JUDGE_UNCLEAR;
    for (size_t i = 0; i < sizeof ideal / sizeof *ideal; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            float d = spot->wave[2 + k] - ideal[i].wave[k];
            sum += d * d;
        }
        float d = sqrtf(sum);
        if (d < best) {
            second = best;
            best = d;
            name = ideal[i].name;
        } else if (d < second) {
            second = d;
        }
    }
    if (best > 0.14f || best > 0.8f * second)
        return JUDGE_UNCLEAR;
    if (spot->hole > 0.08f) /* a ring's hole is a quarter of it */
        return strcmp(name, "circle") ? JUDGE_UNCLEAR : "ring";
    return name;
}

void judge_outline_measure(judge_spot *spot, const float *alpha, int *scratch, int width,
                           int height)
{
    *spot = (judge_spot){.is_seen = true};
    measure_centre(spot, alpha, width, height);
    measure_waves(spot, alpha, width, height);
    measure_hole(spot, alpha, scratch, width, height);
    spot->shape = shape_of(spot);
}
