/*
 * attention.c - attention on the CPU, in tiles, with the softmax carried along
 * SPDX-License-Identifier: Apache-2.0
 *
 * Plan      One task is TILE_Q queries of one head. It walks over the keys TILE_K at a time: scores
 *           by oneDNN into [TILE_Q, TILE_K], maximum and exponentials by rows, then weights x
 *           values added to what there is, after that has been scaled to the new maximum (online
 *           softmax). Scratch is one tile of scores per thread, whatever the length.
 * Order     Keys pass in order and a task is never split: same bits for any number of threads.
 */
#include <math.h>

#include "lx_cpu.h"
#include "lx_dnnl.h"
#include "lx_rows.h"

#define TILE_Q 256
#define TILE_K 512

typedef struct job {
    const lx_attention_args *a;
    const lx_rows *rows;
    int64_t tile_q, tile_k, q_tiles;
    float *scratch; /* of all threads: scores, maxima, sums */
    int64_t per_thread;
} job;

/* Queries i0.. of head h, with running maxima and sums of the softmax. */
typedef struct task {
    int64_t h, i0, n;
    const float *q;
    float *out, *scores, *max, *sum;
} task;

static int add_keys(const job *j, const task *t, int64_t k0, int64_t n)
{
    const lx_attention_args *a = j->a;
    const lx_kv *kv = a->kv;
    const float *k = (const float *)kv->k.data + k0 * kv->k.stride + t->h * kv->head_dim;
    const float *v = (const float *)kv->v.data + k0 * kv->v.stride + t->h * kv->head_dim;
    lx_gemm scores = {.b_is_transposed = true, .m = t->n, .n = n, .k = kv->head_dim};
    scores.lda = a->q.stride;
    scores.ldb = kv->k.stride;
    scores.ldc = n;
    scores.alpha = a->scale;
    int code = lx_dnnl_sgemm(&scores, t->q, k, t->scores);
    for (int64_t i = 0; i < t->n && !code; i++) {
        float *s = t->scores + i * n, *out = t->out + i * a->out.stride;
        const float *rel = NULL;
        if (a->rel)
            rel = a->rel + t->h * (2 * kv->n - 1) + k0 - (t->i0 + i) + kv->n - 1;
        float max = j->rows->score_max(s, rel, a->key_bias ? a->key_bias + k0 : NULL, n);
        if (k0 && max > t->max[i]) {
            float factor = t->max[i] - max;
            j->rows->exp_sum(&factor, 1, 0);
            t->sum[i] *= factor;
            j->rows->scale(out, kv->head_dim, factor);
        }
        t->max[i] = k0 && t->max[i] > max ? t->max[i] : max;
        float sum = j->rows->exp_sum(s, n, t->max[i]);
        t->sum[i] = k0 ? t->sum[i] + sum : sum;
    }
    lx_gemm values = {.m = t->n, .n = kv->head_dim, .k = n, .lda = n, .alpha = 1};
    values.ldb = kv->v.stride;
    values.ldc = a->out.stride;
    values.beta = k0 ? 1.0f : 0.0f;
    return code ? code : lx_dnnl_sgemm(&values, t->scores, v, t->out);
}

static int run_task(const job *j, int64_t index)
{
    const lx_attention_args *a = j->a;
    const lx_kv *kv = a->kv;
    task t = {.h = index / j->q_tiles, .i0 = index % j->q_tiles * j->tile_q};
    t.n = lx_min_i64(j->tile_q, a->q.rows - t.i0);
    t.q = (const float *)a->q.data + t.i0 * a->q.stride + t.h * kv->head_dim;
    t.out = (float *)a->out.data + t.i0 * a->out.stride + t.h * kv->head_dim;
    t.scores = j->scratch + lx_cpu_thread() * j->per_thread;
    t.max = t.scores + j->tile_q * j->tile_k;
    t.sum = t.max + j->tile_q;
    for (int64_t k0 = 0; k0 < kv->n; k0 += j->tile_k) {
        int code = add_keys(j, &t, k0, lx_min_i64(j->tile_k, kv->n - k0));
        if (code)
            return code;
    }
    for (int64_t i = 0; i < t.n; i++) {
        j->rows->scale(t.out + i * a->out.stride, kv->head_dim, 1.0f / t.sum[i]);
        if (a->lse)
            a->lse[t.h * a->q.rows + t.i0 + i] = t.max[i] + logf(t.sum[i]);
    }
    return 0;
}

/* In place: products read rows many times here. */
static lx_status norm_in_place(lx_exec *x, const lx_mat *rows, const lx_qk_norm *n, lx_err *err)
{
    return n ? lx_cpu_qk_norm_rope(x, rows, n->first_token, n->gain, n->eps, n->table, err) : LX_OK;
}

lx_status lx_cpu_kv_prepare(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from, lx_kv *kv,
                            lx_err *err)
{
    (void)kind;
    kv->kind = LX_ATTENTION_PLAIN; /* float products are fast here */
    return norm_in_place(x, &kv->k, from->k_norm, err);
}

lx_status lx_cpu_attention(lx_exec *x, const lx_attention_args *args, lx_err *err)
{
    job j = {.a = args, .rows = lx_rows_best()};
    j.tile_q = lx_min_i64(args->q.rows, TILE_Q);
    j.tile_k = lx_min_i64(args->kv->n, TILE_K);
    j.q_tiles = lx_ceil_div(args->q.rows, j.tile_q);
    j.per_thread = j.tile_q * (j.tile_k + 2);
    int code = 0;
    lx_status status = norm_in_place(x, &args->q, args->q_norm, err);
    size_t mark = lx_arena_mark(x->arena);
    if (status == LX_OK)
        status = lx_cpu_take_per_thread(x, &j.per_thread, &j.scratch, err);
    if (status == LX_OK && !x->is_dry) {
        int64_t tasks = j.q_tiles * args->kv->n_heads;
#pragma omp parallel for schedule(dynamic) num_threads(x->n_threads) if (tasks > 1)
        for (int64_t i = 0; i < tasks; i++)
            lx_cpu_note(&code, run_task(&j, i));
        status = lx_dnnl_check(code, "attention", err);
    }
    lx_arena_reset(x->arena, mark);
    return status;
}
