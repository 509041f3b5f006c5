/*
 * lx_attention_ref.c - the definition of attention, in f64
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_attention.h"

static double score(const lx_attention_args *a, int64_t h, int64_t i, int64_t j)
{
    const lx_kv *kv = a->kv;
    const float *q = (const float *)a->q.data + i * a->q.stride + h * kv->head_dim;
    const float *k = (const float *)kv->k.data + j * kv->k.stride + h * kv->head_dim;
    double s = 0;
    for (int64_t c = 0; c < kv->head_dim; c++)
        s += (double)q[c] * (double)k[c];
    s *= (double)a->scale;
    if (a->rel)
        s += (double)a->rel[h * (a->q.rows + kv->n - 1) + j - i + a->q.rows - 1];
    if (a->key_bias)
        s += (double)a->key_bias[j];
    return s;
}

void lx_attention_ref(const lx_attention_args *a)
{
    const lx_kv *kv = a->kv;
    for (int64_t h = 0; h < kv->n_heads; h++)
        for (int64_t i = 0; i < a->q.rows; i++) {
            double max = -HUGE_VAL;
            for (int64_t j = 0; j < kv->n; j++)
                max = fmax(max, score(a, h, i, j));
            float *out = (float *)a->out.data + i * a->out.stride + h * kv->head_dim;
            double total = 0;
            for (int64_t j = 0; j < kv->n; j++)
                total += exp(score(a, h, i, j) - max);
            if (a->lse)
                a->lse[h * a->q.rows + i] = (float)(max + log(total));
            for (int64_t c = 0; c < kv->head_dim; c++) {
                double y = 0;
                for (int64_t j = 0; j < kv->n; j++)
                    y += exp(score(a, h, i, j) - max) / total *
                         (double)((const float *)
                                      kv->v.data)[j * kv->v.stride + h * kv->head_dim + c];
                out[c] = (float)y;
            }
        }
}
