/*
 * judge_background.c - the picture without its objects: one colour, or a gradient of two
 * SPDX-License-Identifier: Apache-2.0
 *
 * The median of each pixel over time takes most of a moving object away; a plane fitted from the
 * border inwards, with weights that vanish for what is far off it, the rest. Along a gradient the
 * plane is then replaced by the mean of each row or column: what a net draws is not quite linear.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "judge_parts.h"

typedef struct plane {
    double c[3][3]; /* channel: constant, by x, by y (both 0 to 1) */
} plane;

typedef struct picture {
    int width, height;
    uint8_t *rgb; /* [height][width][3] */
} picture;

static uint8_t median(uint8_t *values, int n)
{
    for (int i = 1; i < n; i++) { /* few values: by insertion */
        uint8_t v = values[i];
        int j = i;
        for (; j > 0 && values[j - 1] > v; j--)
            values[j] = values[j - 1];
        values[j] = v;
    }
    return values[n / 2];
}

static bool median_over_time(picture *still, const judge_clip *clip)
{
    size_t bytes = (size_t)clip->width * (size_t)clip->height * 3;
    uint8_t *values = calloc((size_t)clip->n_frames, 1);
    *still = (picture){clip->width, clip->height, malloc(bytes)};
    bool ok = values && still->rgb;
    for (size_t i = 0; ok && i < bytes; i++) {
        for (int t = 0; t < clip->n_frames; t++)
            values[t] = clip->rgb[(size_t)t * bytes + i];
        still->rgb[i] = median(values, clip->n_frames);
    }
    free(values);
    return ok;
}

static double plane_at(const plane *p, int channel, double u, double v)
{
    return p->c[channel][0] + p->c[channel][1] * u + p->c[channel][2] * v;
}

/* The distance of a pixel from the plane, in RGB. */
static double off_plane(const plane *p, const uint8_t *rgb, double u, double v)
{
    double sum = 0;
    for (int k = 0; k < 3; k++) {
        double d = rgb[k] - plane_at(p, k, u, v);
        sum += d * d;
    }
    return sqrt(sum);
}

/* a (3x3, symmetric, positive) x = b for three b: by Cramer's rule. */
static bool solve(double a[3][3], double b[3][3], plane *out)
{
    double minor[3][3];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            int i1 = (i + 1) % 3, i2 = (i + 2) % 3, j1 = (j + 1) % 3, j2 = (j + 2) % 3;
            minor[i][j] = a[i1][j1] * a[i2][j2] - a[i1][j2] * a[i2][j1];
        }
    double det = a[0][0] * minor[0][0] + a[0][1] * minor[0][1] + a[0][2] * minor[0][2];
    if (fabs(det) < 1e-9)
        return false;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < 3; i++)
            out->c[k][i] =
                (minor[0][i] * b[k][0] + minor[1][i] * b[k][1] + minor[2][i] * b[k][2]) / det;
    return true;
}

/* One weighted least-squares fit over the whole picture, or over a band at its border; `from`
 * NULL: all weigh the same. */
static void fit_plane(plane *p, const picture *im, int band, const plane *from)
{
    double a[3][3] = {{0}}, b[3][3] = {{0}};
    for (int y = 0; y < im->height; y++)
        for (int x = 0; x < im->width; x++) {
            if (band && x >= band && y >= band && x < im->width - band && y < im->height - band)
                continue;
            const uint8_t *rgb = im->rgb + ((size_t)y * (size_t)im->width + (size_t)x) * 3;
            double f[3] = {1, (x + 0.5) / im->width, (y + 0.5) / im->height}, w = 1;
            if (from) {
                double d = off_plane(from, rgb, f[1], f[2]) / 30;
                w = 1 / ((1 + d * d) * (1 + d * d));
            }
            for (int i = 0; i < 3; i++)
                for (int j = 0; j < 3; j++) {
                    a[i][j] += w * f[i] * f[j];
                    b[j][i] += w * f[i] * rgb[j];
                }
        }
    if (!solve(a, b, p) && from)
        *p = *from;
}

static const char *direction_of(const plane *p)
{
    double across = 0, along = 0;
    for (int k = 0; k < 3; k++) {
        across += p->c[k][1] * p->c[k][1];
        along += p->c[k][2] * p->c[k][2];
    }
    double major = sqrt(fmax(across, along)), minor = sqrt(fmin(across, along));
    if (major < 64) /* the ends of a gradient lie at least 150 apart */
        return "plain";
    if (major < 90 || minor > 0.4 * major)
        return JUDGE_UNCLEAR;
    return along > across ? "down" : "right";
}

/* The mean of one row (or column) of what is near the plane; the plane where that is little. */
static void line_mean(float out[3], const picture *im, const plane *p, bool is_row, int at)
{
    int n = is_row ? im->width : im->height, kept = 0;
    double sum[3] = {0}, middle[3];
    for (int i = 0; i < n; i++) {
        int x = is_row ? i : at, y = is_row ? at : i;
        const uint8_t *rgb = im->rgb + ((size_t)y * (size_t)im->width + (size_t)x) * 3;
        if (off_plane(p, rgb, (x + 0.5) / im->width, (y + 0.5) / im->height) > 60)
            continue;
        kept++;
        for (int k = 0; k < 3; k++)
            sum[k] += rgb[k];
    }
    for (int k = 0; k < 3; k++) {
        double u = is_row ? 0.5 : (at + 0.5) / im->width,
               v = is_row ? (at + 0.5) / im->height : 0.5;
        middle[k] = plane_at(p, k, u, v);
        out[k] = (float)(kept * 4 >= n ? sum[k] / kept : middle[k]);
    }
}

static void fill_gradient(judge_background *bg, const picture *im, const plane *p, bool is_row)
{
    int n = is_row ? im->height : im->width, strip = n / 20 > 1 ? n / 20 : 1;
    memset(bg->ends, 0, sizeof bg->ends);
    for (int at = 0; at < n; at++) {
        float mean[3];
        line_mean(mean, im, p, is_row, at);
        for (int i = 0; i < (is_row ? im->width : im->height); i++) {
            int x = is_row ? i : at, y = is_row ? at : i;
            memcpy(bg->model + ((size_t)y * (size_t)im->width + (size_t)x) * 3, mean, sizeof mean);
        }
        for (int k = 0; k < 3; k++) {
            if (at < strip)
                bg->ends[0][k] += mean[k] / (float)strip;
            if (at >= n - strip)
                bg->ends[1][k] += mean[k] / (float)strip;
        }
    }
}

static void fill_plane(judge_background *bg, const picture *im, const plane *p)
{
    float *out = bg->model;
    for (int y = 0; y < im->height; y++)
        for (int x = 0; x < im->width; x++)
            for (int k = 0; k < 3; k++)
                *out++ = (float)plane_at(p, k, (x + 0.5) / im->width, (y + 0.5) / im->height);
    for (int k = 0; k < 3; k++)
        bg->ends[0][k] = bg->ends[1][k] = (float)plane_at(p, k, 0.5, 0.5);
}

lx_status judge_background_fit(judge_background *bg, const judge_clip *clip, lx_err *err)
{
    picture still = {0};
    plane p = {{{0}}};
    *bg = (judge_background){
        .model = calloc((size_t)clip->width * (size_t)clip->height * 3, sizeof *bg->model)};
    if (!bg->model || !median_over_time(&still, clip)) {
        free(still.rgb);
        judge_background_free(bg);
        return lx_fail(err, LX_EAGAIN, "no memory for a picture of %dx%d", clip->width,
                       clip->height);
    }
    int band = clip->width / 32;
    fit_plane(&p, &still, band, NULL);
    for (int i = 0; i < 4; i++) { /* first the border alone: objects keep away from it */
        plane from = p;
        fit_plane(&p, &still, band, &from);
    }
    for (int i = 0; i < 8; i++) {
        plane from = p;
        fit_plane(&p, &still, 0, &from);
    }
    bg->direction = direction_of(&p);
    if (!strcmp(bg->direction, "down") || !strcmp(bg->direction, "right"))
        fill_gradient(bg, &still, &p, bg->direction[0] == 'd');
    else
        fill_plane(bg, &still, &p);
    free(still.rgb);
    return LX_OK;
}

void judge_background_free(judge_background *bg)
{
    free(bg->model);
    *bg = (judge_background){0};
}
