/*
 * judge_palette.c - the names of colours
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "judge_parts.h"

/* COLORS of models/demo/train/scenes.py. */
static const struct {
    const char *name;
    float rgb[3];
} palette[] = {
    {"red", {220, 20, 30}},     {"orange", {255, 135, 0}}, {"yellow", {255, 230, 40}},
    {"green", {30, 160, 50}},   {"cyan", {40, 210, 225}},  {"blue", {20, 70, 230}},
    {"purple", {150, 30, 175}}, {"pink", {255, 135, 195}}, {"white", {250, 250, 250}},
    {"black", {12, 12, 12}},    {"gray", {130, 130, 130}}, {"brown", {120, 65, 20}},
};

static float cube_root_of_lab(float t)
{
    return t > 0.008856f ? cbrtf(t) : 7.787f * t + 16.0f / 116;
}

/* sRGB (D65) to CIE L*a*b*. */
static void to_lab(const float rgb[3], float lab[3])
{
    float c[3];
    for (int i = 0; i < 3; i++) {
        float v = fminf(fmaxf(rgb[i] / 255, 0), 1);
        c[i] = v <= 0.04045f ? v / 12.92f : powf((v + 0.055f) / 1.055f, 2.4f);
    }
    float x = (0.4124f * c[0] + 0.3576f * c[1] + 0.1805f * c[2]) / 0.9505f;
    float y = 0.2126f * c[0] + 0.7152f * c[1] + 0.0722f * c[2];
    float z = (0.0193f * c[0] + 0.1192f * c[1] + 0.9505f * c[2]) / 1.089f;
    float fx = cube_root_of_lab(x), fy = cube_root_of_lab(y), fz = cube_root_of_lab(z);
    lab[0] = 116 * fy - 16;
    lab[1] = 500 * (fx - fy);
    lab[2] = 200 * (fy - fz);
}

/* Lab alone puts blue near purple, RGB alone orange near yellow; both together are even. */
float judge_color_distance(const float a[3], const float b[3])
{
    float la[3], lb[3], sum = 0;
    to_lab(a, la);
    to_lab(b, lb);
    for (int i = 0; i < 3; i++) {
        float d_rgb = (a[i] - b[i]) / 3, d_lab = la[i] - lb[i];
        sum += d_rgb * d_rgb + d_lab * d_lab;
    }
    return sqrtf(sum);
}

const char *judge_color_name(const float rgb[3])
{
    float best = INFINITY, second = INFINITY;
    const char *name = JUDGE_UNCLEAR;
    for (size_t i = 0; i < sizeof palette / sizeof *palette; i++) {
        float d = judge_color_distance(rgb, palette[i].rgb);
        if (d < best) {
            second = best;
            best = d;
            name = palette[i].name;
        } else if (d < second) {
            second = d;
        }
    }
    /* Two names lie 60 apart: nearer than half of that is sure; farther, the others must be. */
    return best < 28 || (best < 45 && best < 0.65f * second) ? name : JUDGE_UNCLEAR;
}
