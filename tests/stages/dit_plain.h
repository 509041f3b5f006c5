/*
 * dit_plain.h - the DiT's forward pass once more, in f64 and without cleverness
 * SPDX-License-Identifier: Apache-2.0
 *
 * Written from formulas alone, one loop for each, every padding row kept. It shares no
 * code with stages/dit or kernels: an error would have to be made twice.
 */
#ifndef TESTS_DIT_PLAIN_H
#define TESTS_DIT_PLAIN_H

#include "dit_helpers.h"

typedef struct plain {
    store *s;
    int64_t dim, heads, tokens, text_len;
    int64_t t, h2, w2;
} plain;

static inline double *doubles(int64_t n)
{
    return need(calloc((size_t)n, sizeof(double)));
}

static inline const float *plain_get(const plain *p, int64_t block, const char *name)
{
    char full[96];
    if (block < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "blocks.%d.%s", (int)block, name);
    return store_find(p->s, full)->data;
}

/* y[m][n] = b[n] + sum_k x[m][k] W[n][k] */
static inline double *plain_linear(const plain *p, int64_t block, const char *name, const double *x,
                                   int64_t rows, int64_t in, int64_t out)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    const float *w = plain_get(p, block, weight), *b = plain_get(p, block, bias);
    double *y = doubles(rows * out);
    for (int64_t m = 0; m < rows; m++)
        for (int64_t n = 0; n < out; n++) {
            double sum = (double)b[n];
            for (int64_t k = 0; k < in; k++)
                sum += x[m * in + k] * (double)w[n * in + k];
            y[m * out + n] = sum;
        }
    return y;
}

static inline void plain_gelu(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = 0.5 * x[i] *
               (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x[i] + 0.044715 * pow(x[i], 3))));
}

static inline void plain_silu(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] / (1 + exp(-x[i]));
}

/* Layer norm; then * gain + shift (affine) or * (1 + gain) + shift (modulation). */
static inline double *plain_norm(const plain *p, const double *x, const double *shift,
                                 const double *gain)
{
    double *y = doubles(p->tokens * p->dim);
    for (int64_t s = 0; s < p->tokens; s++) {
        double mean = 0, var = 0;
        for (int64_t i = 0; i < p->dim; i++)
            mean += x[s * p->dim + i] / (double)p->dim;
        for (int64_t i = 0; i < p->dim; i++)
            var += pow(x[s * p->dim + i] - mean, 2) / (double)p->dim;
        for (int64_t i = 0; i < p->dim; i++)
            y[s * p->dim + i] = (x[s * p->dim + i] - mean) / sqrt(var + 1e-6) * gain[i] + shift[i];
    }
    return y;
}

static inline void plain_rms(const plain *p, double *x, int64_t rows, const float *gain)
{
    for (int64_t s = 0; s < rows; s++) {
        double square = 0;
        for (int64_t i = 0; i < p->dim; i++)
            square += x[s * p->dim + i] * x[s * p->dim + i];
        for (int64_t i = 0; i < p->dim; i++)
            x[s * p->dim + i] *= (double)gain[i] / sqrt(square / (double)p->dim + 1e-6);
    }
}

/* 22 pairs of each head turn with the frame, 21 with the row, 21 with the column. */
static inline void plain_rope(const plain *p, double *x)
{
    for (int64_t s = 0; s < p->tokens; s++) {
        int64_t frame = s / (p->h2 * p->w2), row = s / p->w2 % p->h2, col = s % p->w2;
        for (int64_t i = 0; i < p->dim / 2; i++) {
            int64_t pair = i % 64;
            double angle;
            if (pair < 22)
                angle = (double)frame * pow(10000, -2.0 * (double)pair / 44);
            else if (pair < 43)
                angle = (double)row * pow(10000, -2.0 * (double)(pair - 22) / 42);
            else
                angle = (double)col * pow(10000, -2.0 * (double)(pair - 43) / 42);
            double *at = x + s * p->dim + 2 * i, a = at[0], b = at[1];
            at[0] = a * cos(angle) - b * sin(angle);
            at[1] = a * sin(angle) + b * cos(angle);
        }
    }
}

static inline double *plain_attention(const plain *p, const double *q, const double *k,
                                      const double *v, int64_t n_k)
{
    double *out = doubles(p->tokens * p->dim), *weight = doubles(n_k);
    for (int64_t s = 0; s < p->tokens; s++)
        for (int64_t h = 0; h < p->heads; h++) {
            const double *qh = q + s * p->dim + h * 128;
            double sum = 0;
            for (int64_t j = 0; j < n_k; j++) { /* logits here are far from exp's limits */
                double dot = 0;
                for (int64_t i = 0; i < 128; i++)
                    dot += qh[i] * k[j * p->dim + h * 128 + i];
                weight[j] = exp(dot / sqrt(128));
                sum += weight[j];
            }
            for (int64_t j = 0; j < n_k; j++)
                for (int64_t i = 0; i < 128; i++)
                    out[s * p->dim + h * 128 + i] += weight[j] / sum * v[j * p->dim + h * 128 + i];
        }
    free(weight);
    return out;
}

/* x += y * gate; gate NULL: 1. Frees y. */
static inline void plain_add(const plain *p, double *x, double *y, const double *gate)
{
    for (int64_t i = 0; i < p->tokens * p->dim; i++)
        x[i] += y[i] * (gate ? gate[i % p->dim] : 1);
    free(y);
}

static inline void plain_self(const plain *p, int64_t b, double *x, const double *m)
{
    const int64_t d = p->dim, n = p->tokens;
    double *a = plain_norm(p, x, m, m + d);
    double *q = plain_linear(p, b, "self_attn.q", a, n, d, d);
    double *k = plain_linear(p, b, "self_attn.k", a, n, d, d);
    double *v = plain_linear(p, b, "self_attn.v", a, n, d, d);
    plain_rms(p, q, n, plain_get(p, b, "self_attn.norm_q.weight"));
    plain_rms(p, k, n, plain_get(p, b, "self_attn.norm_k.weight"));
    plain_rope(p, q);
    plain_rope(p, k);
    double *o = plain_attention(p, q, k, v, n);
    plain_add(p, x, plain_linear(p, b, "self_attn.o", o, n, d, d), m + 2 * d);
    free(a), free(q), free(k), free(v), free(o);
}

static inline void plain_cross(const plain *p, int64_t b, double *x, const double *context)
{
    const int64_t d = p->dim, n = p->tokens;
    const float *g = plain_get(p, b, "norm3.weight"), *h = plain_get(p, b, "norm3.bias");
    double *gain = doubles(d), *shift = doubles(d);
    for (int64_t i = 0; i < d; i++)
        gain[i] = (double)g[i], shift[i] = (double)h[i];
    double *a = plain_norm(p, x, shift, gain);
    double *q = plain_linear(p, b, "cross_attn.q", a, n, d, d);
    double *k = plain_linear(p, b, "cross_attn.k", context, p->text_len, d, d);
    double *v = plain_linear(p, b, "cross_attn.v", context, p->text_len, d, d);
    plain_rms(p, q, n, plain_get(p, b, "cross_attn.norm_q.weight"));
    plain_rms(p, k, p->text_len, plain_get(p, b, "cross_attn.norm_k.weight"));
    double *o = plain_attention(p, q, k, v, p->text_len);
    plain_add(p, x, plain_linear(p, b, "cross_attn.o", o, n, d, d), NULL);
    free(gain), free(shift), free(a), free(q), free(k), free(v), free(o);
}

static inline void plain_ffn(const plain *p, int64_t b, double *x, const double *m)
{
    const int64_t d = p->dim, n = p->tokens, f = p->s->ffn;
    double *a = plain_norm(p, x, m + 3 * d, m + 4 * d);
    double *hidden = plain_linear(p, b, "ffn.0", a, n, d, f);
    plain_gelu(hidden, n * f);
    plain_add(p, x, plain_linear(p, b, "ffn.2", hidden, n, f, d), m + 5 * d);
    free(a), free(hidden);
}

/* modulation + e0, with 1 added to the scales, which are rows 1 and 4 (of the head: 1). */
static inline double *plain_modulation(const plain *p, const float *table, const double *e,
                                       int64_t rows, bool e_is_one_row)
{
    double *m = doubles(rows * p->dim);
    for (int64_t i = 0; i < rows * p->dim; i++)
        m[i] =
            (double)table[i] + e[e_is_one_row ? i % p->dim : i] + (i / p->dim % 3 == 1 ? 1.0 : 0.0);
    return m;
}

static inline double *plain_patches(const plain *p, const float *latent)
{
    double *rows = doubles(p->tokens * 64);
    int64_t h = 2 * p->h2, w = 2 * p->w2;
    for (int64_t s = 0; s < p->tokens; s++)
        for (int64_t k = 0; k < 64; k++) {
            int64_t c = k / 4, y = s / p->w2 % p->h2 * 2 + k / 2 % 2, x = s % p->w2 * 2 + k % 2;
            int64_t t = s / (p->h2 * p->w2);
            rows[s * 64 + k] = (double)latent[((c * p->t + t) * h + y) * w + x];
        }
    return rows;
}

static inline double *plain_context(const plain *p, const float *context, int64_t n)
{
    double *padded = doubles(p->text_len * p->s->text);
    for (int64_t i = 0; i < n * p->s->text; i++)
        padded[i] = (double)context[i];
    double *hidden =
        plain_linear(p, -1, "text_embedding.0", padded, p->text_len, p->s->text, p->dim);
    plain_gelu(hidden, p->text_len * p->dim);
    double *out = plain_linear(p, -1, "text_embedding.2", hidden, p->text_len, p->dim, p->dim);
    free(padded), free(hidden);
    return out;
}

/* velocity (f32, owned by the caller) of a latent [16, t, h, w]. */
static inline float *plain_forward(store *s, const lx_patch_dims *dims, int64_t text_len,
                                   const float *context, int64_t n_context, const float *latent,
                                   double timestep)
{
    plain p = {s,        s->dim,  s->dim / 128, dims->t * (dims->h / 2) * (dims->w / 2),
               text_len, dims->t, dims->h / 2,  dims->w / 2};
    double *angles = doubles(s->freq), *patches = plain_patches(&p, latent);
    for (int64_t i = 0; i < s->freq / 2; i++) {
        double w = pow(10000, -(double)i / ((double)s->freq / 2));
        angles[i] = cos(timestep * w);
        angles[s->freq / 2 + i] = sin(timestep * w);
    }
    double *c = plain_context(&p, context, n_context);
    double *hidden = plain_linear(&p, -1, "time_embedding.0", angles, 1, s->freq, p.dim);
    plain_silu(hidden, p.dim);
    double *e = plain_linear(&p, -1, "time_embedding.2", hidden, 1, p.dim, p.dim);
    memcpy(hidden, e, (size_t)p.dim * sizeof *e);
    plain_silu(hidden, p.dim);
    double *e0 = plain_linear(&p, -1, "time_projection.1", hidden, 1, p.dim, 6 * p.dim);
    double *x = plain_linear(&p, -1, "patch_embedding", patches, p.tokens, 64, p.dim);
    for (int64_t b = 0; b < s->blocks; b++) {
        double *m = plain_modulation(&p, plain_get(&p, b, "modulation"), e0, 6, false);
        plain_self(&p, b, x, m);
        plain_cross(&p, b, x, c);
        plain_ffn(&p, b, x, m);
        free(m);
    }
    double *m = plain_modulation(&p, plain_get(&p, -1, "head.modulation"), e, 2, true);
    double *z = plain_norm(&p, x, m, m + p.dim);
    double *r = plain_linear(&p, -1, "head.head", z, p.tokens, p.dim, 64);
    float *v = floats(latent_size(dims));
    for (int64_t token = 0; token < p.tokens; token++)
        for (int64_t k = 0; k < 64; k++) { /* channel fastest: k = (ph * 2 + pw) * 16 + c */
            int64_t y = token / p.w2 % p.h2 * 2 + k / 32, col = token % p.w2 * 2 + k / 16 % 2;
            int64_t t = token / (p.h2 * p.w2);
            v[((k % 16 * p.t + t) * dims->h + y) * dims->w + col] = (float)r[token * 64 + k];
        }
    free(angles), free(patches), free(c), free(hidden), free(e), free(e0), free(x), free(m);
    free(z), free(r);
    return v;
}

#endif
