/*
 * lx_attention_ref.c - the definition of attention, in f64
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_attention.h"

static double score(const lx_attention_args *a, int64_t h, int64_t i, int64_t j)
{
    const float *q = a->q + i * a->q_stride + h * a->head_dim;
    const float *k = a->k + j * a->k_stride + h * a->head_dim;
    double s = 0;
    for (int64_t c = 0; c < a->head_dim; c++)
        s += (double)q[c] * (double)k[c];
    s *= (double)a->scale;
    if (a->rel)
        s += (double)a->rel[h * (a->n_q + a->n_k - 1) + j - i + a->n_q - 1];
    if (a->key_bias)
        s += (double)a->key_bias[j];
    return s;
}

void lx_attention_ref(const lx_attention_args *a)
{
    for (int64_t h = 0; h < a->n_heads; h++)
        for (int64_t i = 0; i < a->n_q; i++) {
            double max = -HUGE_VAL;
            for (int64_t j = 0; j < a->n_k; j++)
                max = fmax(max, score(a, h, i, j));
            float *out = a->out + i * a->out_stride + h * a->head_dim;
            double total = 0;
            for (int64_t j = 0; j < a->n_k; j++)
                total += exp(score(a, h, i, j) - max);
            for (int64_t c = 0; c < a->head_dim; c++) {
                double y = 0;
                for (int64_t j = 0; j < a->n_k; j++)
                    y += exp(score(a, h, i, j) - max) / total *
                         (double)a->v[j * a->v_stride + h * a->head_dim + c];
                out[c] = (float)y;
            }
        }
}
