/*
 * lx_rope_ref.c - the definition of q/k norm and rotary embedding, in f64
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_rope.h"

/* Angle of pair p of a head for a token at (t, h, w): lx_rope.h. */
static double angle(const lx_rope_table *table, int64_t s, int64_t p)
{
    const lx_grid *g = &table->grid;
    int64_t side = table->head_dim / 6; /* pairs of row and of column */
    int64_t front = table->head_dim / 2 - 2 * side;
    int64_t at = s / (g->h * g->w), i = p, n = front;
    if (p >= front + side) {
        at = s % g->w;
        i = p - front - side;
        n = side;
    } else if (p >= front) {
        at = s / g->w % g->h;
        i = p - front;
        n = side;
    }
    return (double)at * pow(10000, -2.0 * (double)i / (double)(2 * n));
}

void lx_qk_norm_rope_ref(const lx_mat *q, int64_t first_token, const lx_weight *gain, float eps,
                         const lx_rope_table *table)
{
    const char *bytes = gain->data;
    const int64_t width = q->cols;
    for (int64_t s = 0; s < q->rows; s++) {
        float *row = (float *)q->data + s * q->stride;
        double square = 0;
        for (int64_t i = 0; i < width; i++)
            square += (double)row[i] * (double)row[i] / (double)width;
        double rstd = 1 / sqrt(square + (double)eps);
        for (int64_t i = 0; i < width; i++) {
            float g = 0;
            lx_widen_to_f32(&g, bytes + (size_t)i * lx_dtype_size(gain->dtype), gain->dtype, 1);
            row[i] = (float)((double)g * (double)row[i] * rstd);
        }
        for (int64_t i = 0; table && i < width; i += 2) {
            double theta = angle(table, first_token + s, i % table->head_dim / 2);
            double a = (double)row[i], b = (double)row[i + 1];
            row[i] = (float)(a * cos(theta) - b * sin(theta));
            row[i + 1] = (float)(a * sin(theta) + b * cos(theta));
        }
    }
}
