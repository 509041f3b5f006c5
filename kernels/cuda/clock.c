/*
 * clock.c - how long each kind of operation takes on a card, for a person who measures
 * SPDX-License-Identifier: Apache-2.0
 *
 * Plan      Another table in front of the card's: each entry calls the plain one and then puts a
 *           moment into the compute queue. What lies between two moments belongs to the operation
 *           before the second, waiting included, so the parts add up to the whole.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cu_linear.h"
#include "lx_cuda_priv.h"

struct lx_cuda_clock {
    const lx_backend *plain;
    lx_backend table;
    int n_marks, used; /* mark 0 is the beginning */
    int64_t n_lost;    /* operations for which no mark was left */
    uint8_t *kind;     /* [n_marks] of the operation before each mark, owned */
    int n_kinds;
    lx_cuda_timed timed[LX_CUDA_TIMED_MOST]; /* the last one: all that find no place */
    int code;                                /* of the first mark that failed */
};

static int kind_of(struct lx_cuda_clock *k, const char *what)
{
    for (int i = 0; i < k->n_kinds; i++)
        if (strcmp(k->timed[i].what, what) == 0)
            return i;
    if (k->n_kinds == LX_CUDA_TIMED_MOST)
        return LX_CUDA_TIMED_MOST - 1;
    bool is_last = k->n_kinds == LX_CUDA_TIMED_MOST - 1;
    snprintf(k->timed[k->n_kinds].what, sizeof k->timed->what, "%s", is_last ? "all else" : what);
    return k->n_kinds++;
}

void lx_cuda_clock_mark(lx_cuda *c, const char *what)
{
    struct lx_cuda_clock *k = c->clock;
    if (!k || k->code)
        return;
    if (k->used == k->n_marks) {
        k->n_lost++;
        return;
    }
    k->kind[k->used] = (uint8_t)kind_of(k, what);
    k->code = c->module->base->clock_mark(c->dev, k->used++);
}

void lx_cuda_clock_close(lx_cuda *c)
{
    if (!c->clock)
        return;
    c->module->base->clock_close(c->dev);
    free(c->clock->kind);
    free(c->clock);
    c->clock = NULL;
}

/* --- the table ------------------------------------------------------------------------------- */

static const lx_backend *plain_of(const lx_exec *x)
{
    return x->cuda->clock->plain;
}

/* Of pageable memory: weights that are on the card only while they are used, and small things. */
static lx_status upload(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err)
{
    lx_status status = plain_of(x)->upload(x, dst, src, bytes, err);
    lx_cuda_clock_mark(x->cuda, "other: uploads");
    return status;
}

static lx_status linear(lx_exec *x, const lx_act *in, const lx_weight *w, const lx_epilogue *e,
                        const lx_mat *out, lx_act *act, lx_err *err)
{
    char what[64];
    lx_status status = plain_of(x)->linear(x, in, w, e, out, act, err);
    snprintf(what, sizeof what, "linear %" PRId64 " -> %" PRId64 " %s%s%s%s%s", in->cols,
             w->shape.dim[0], lx_dtype_name(in->dtype),
             e->activation == LX_ACTIVATION_GELU   ? ", gelu"
             : e->activation == LX_ACTIVATION_SILU ? ", silu"
                                                   : "",
             act ? ", codes" : "", e->gate ? ", gate" : "", e->add_to_out ? ", residual" : "");
    lx_cuda_clock_mark(x->cuda, what);
    return status;
}

static lx_status quantize_rows(lx_exec *x, const lx_mat *in, lx_act *out, lx_err *err)
{
    lx_status status = plain_of(x)->quantize_rows(x, in, out, err);
    lx_cuda_clock_mark(x->cuda, "other: quantize rows");
    return status;
}

static lx_status norm_rows(lx_exec *x, const float *in, const lx_norm *norm, lx_act *out,
                           lx_err *err)
{
    lx_status status = plain_of(x)->norm_rows(x, in, norm, out, err);
    lx_cuda_clock_mark(x->cuda, "other: norm, modulation, quantize");
    return status;
}

static lx_status qk_norm_rope(lx_exec *x, const lx_mat *q, int64_t first_token,
                              const lx_weight *gain, float eps, const lx_rope_table *table,
                              lx_err *err)
{
    lx_status status = plain_of(x)->qk_norm_rope(x, q, first_token, gain, eps, table, err);
    lx_cuda_clock_mark(x->cuda, "other: q/k norm and rotation in place");
    return status;
}

static lx_status kv_prepare(lx_exec *x, lx_attention_kind kind, const lx_kv_source *from, lx_kv *kv,
                            lx_err *err)
{
    lx_status status = plain_of(x)->kv_prepare(x, kind, from, kv, err);
    if (kv->kind != LX_ATTENTION_PLAIN)
        lx_cuda_clock_mark(x->cuda, "attention: keys and values");
    return status;
}

static lx_status attention(lx_exec *x, const lx_attention_args *args, lx_err *err)
{
    static const char *const kinds[] = {"bf16", "int8-fp16", "int8-fp8"};
    char what[64];
    lx_status status = plain_of(x)->attention(x, args, err);
    snprintf(what, sizeof what, "attention: %s", kinds[args->kv->kind]);
    lx_cuda_clock_mark(x->cuda, what);
    return status;
}

static lx_status axpby(lx_exec *x, float a, const float *in, float b, int64_t n, float *out,
                       lx_err *err)
{
    lx_status status = plain_of(x)->axpby(x, a, in, b, n, out, err);
    lx_cuda_clock_mark(x->cuda, "other: vectors and copies");
    return status;
}

static lx_status widen(lx_exec *x, const lx_weight *weight, int64_t n, float *out, lx_err *err)
{
    lx_status status = plain_of(x)->widen(x, weight, n, out, err);
    lx_cuda_clock_mark(x->cuda, "other: vectors and copies");
    return status;
}

static lx_status unpatchify(lx_exec *x, const lx_patch_dims *dims, const float *rows, float *latent,
                            lx_err *err)
{
    lx_status status = plain_of(x)->unpatchify(x, dims, rows, latent, err);
    lx_cuda_clock_mark(x->cuda, "other: vectors and copies");
    return status;
}

lx_backend lx_cuda_clocked(const lx_backend *plain)
{
    lx_backend t = *plain;
    t.upload = upload;
    t.linear = linear;
    t.quantize_rows = quantize_rows;
    t.norm_rows = norm_rows;
    t.qk_norm_rope = qk_norm_rope;
    t.kv_prepare = kv_prepare;
    t.attention = attention;
    t.axpby = axpby;
    t.widen = widen;
    t.unpatchify = unpatchify;
    return t;
}

/* --- by hand --------------------------------------------------------------------------------- */

lx_status lx_cuda_clock_open(lx_exec *x, int n_marks, lx_err *err)
{
    lx_cuda *c = x->cuda;
    if (!c || x->is_dry || c->clock || n_marks < 2)
        return lx_fail(err, LX_EJOB, "only operations on a card can be timed, and only once");
    struct lx_cuda_clock *k = calloc(1, sizeof *k);
    uint8_t *kind = calloc((size_t)n_marks, sizeof *kind);
    if (!k || !kind) {
        free(k), free(kind);
        return lx_fail(err, LX_EAGAIN, "out of memory for %d moments", n_marks);
    }
    *k = (struct lx_cuda_clock){.plain = x->backend, .n_marks = n_marks, .kind = kind};
    k->table = lx_cuda_clocked(x->backend);
    c->clock = k;
    lx_status status =
        lx_cuda_status(c, c->module->base->clock_open(c->dev, n_marks), "making moments", err);
    if (status != LX_OK) {
        lx_cuda_clock_close(c);
        return status;
    }
    x->backend = &k->table;
    lx_cuda_clock_mark(c, "all else");
    return LX_OK;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const lx_cuda_timed *)a)->s, y = ((const lx_cuda_timed *)b)->s;
    return x < y ? 1 : x > y ? -1 : 0;
}

int lx_cuda_clock_read(lx_exec *x, lx_cuda_timed out[LX_CUDA_TIMED_MOST], int64_t *n_lost,
                       lx_err *err)
{
    lx_cuda *c = x->cuda;
    struct lx_cuda_clock *k = c ? c->clock : NULL;
    if (!k) {
        (void)lx_fail(err, LX_EJOB, "nothing was timed");
        return -1;
    }
    int code = k->code;
    for (int i = 1; i < k->used && !code; i++) {
        float ms = 0;
        code = c->module->base->clock_read(c->dev, i - 1, i, &ms);
        k->timed[k->kind[i]].n++;
        k->timed[k->kind[i]].s += (double)ms / 1e3;
    }
    if (lx_cuda_status(c, code, "reading moments", err) != LX_OK)
        return -1;
    int n = k->n_kinds;
    memcpy(out, k->timed, sizeof k->timed);
    qsort(out, (size_t)n, sizeof *out, by_time);
    *n_lost = k->n_lost;
    k->used = k->n_kinds = 0;
    k->n_lost = 0;
    memset(k->timed, 0, sizeof k->timed);
    lx_cuda_clock_mark(c, "all else");
    return n;
}

/* --- one call, again and again --------------------------------------------------------------- */

static lx_status mark_both(lx_exec *x, lx_status (*call)(lx_exec *x, void *self, lx_err *err),
                           void *self, int n, float *ms, lx_err *err)
{
    lx_cuda *c = x->cuda;
    const lx_cuda_base_ops *base = c->module->base;
    lx_status status = call(x, self, err);
    if (status == LX_OK)
        status = lx_cuda_status(c, base->clock_mark(c->dev, 0), "marking a moment", err);
    for (int i = 0; i < n && status == LX_OK; i++)
        status = call(x, self, err);
    if (status == LX_OK)
        status = lx_cuda_status(c, base->clock_mark(c->dev, 1), "marking a moment", err);
    if (status == LX_OK)
        status = lx_cuda_status(c, base->clock_read(c->dev, 0, 1, ms), "reading moments", err);
    return status;
}

lx_status lx_cuda_time(lx_exec *x, lx_status (*call)(lx_exec *x, void *self, lx_err *err),
                       void *self, int n, double *s, lx_err *err)
{
    lx_cuda *c = x->cuda;
    float ms = 0;
    if (!c || x->is_dry || c->clock || n < 1)
        return lx_fail(err, LX_EJOB, "only operations on a card can be timed");
    lx_status status =
        lx_cuda_status(c, c->module->base->clock_open(c->dev, 2), "making moments", err);
    if (status != LX_OK)
        return status;
    status = mark_both(x, call, self, n, &ms, err);
    c->module->base->clock_close(c->dev);
    *s = (double)ms / 1e3 / n;
    return status;
}

static lx_status call_rate(lx_exec *x, void *self, lx_err *err)
{
    const lx_cuda *c = x->cuda;
    return lx_cuda_status(c, c->module->linear->int8_rate(c->dev, self), "mma.sync alone", err);
}

lx_status lx_cuda_int8_rate(lx_exec *x, double *rate, lx_err *err)
{
    double operations = 0, s = 1;
    lx_status status = lx_cuda_time(x, call_rate, &operations, 10, &s, err);
    *rate = s > 0 ? operations / s : 0;
    return status;
}
