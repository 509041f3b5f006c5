/*
 * gpu_attention_kernel.h - attention's kernels, each launched by itself: test_cuda_attention, _fp8,
 *                          _wgmma
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_TESTS_GPU_ATTENTION_KERNEL_H
#define LX_TESTS_GPU_ATTENTION_KERNEL_H

#include "gpu_attention.h"

#define STORE_BYTES   ((size_t)1 << 30)
#define SCRATCH_BYTES ((size_t)256 << 20)

/* For a group of tests; ends the program, as skipped, on a card without. */
static inline gpu *begin_with(void **state, bool (*has)(const lx_card_kind *card), const char *what)
{
    gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES);
    gpu *g = *state;
    if (has(&g->cuda->card))
        return g;
    printf("skipped: this card, or this build, has no %s\n", what);
    exit(77);
}

/* What SageAttention makes on this input is 0.0113 with F16 values and 0.0379 with FP8. Returns how
 * many of the two fail. */
static inline int n_beyond_bars(gpu *g, int64_t n_checked)
{
    static const double bars[] = {[LX_ATTENTION_INT8] = 0.0115, [LX_ATTENTION_INT8_FP8] = 0.038};
    int n_bad = 0;
    for (int kind = LX_ATTENTION_INT8; kind <= LX_ATTENTION_INT8_FP8; kind++) {
        shape s = {.n_q = 4096, .n_k = 4096, .n_heads = 8, .head_dim = 128, .is_gaussian = true};
        s.kind = (lx_attention_kind)kind;
        s.k_shift = 3;
        s.n_checked = n_checked;
        s.allowed = bars[kind];
        n_bad += is_bad(g, &s);
    }
    return n_bad;
}

/* --- one launch ------------------------------------------------------------------------------ */

typedef int (*kernel_fn)(lx_cuda_dev *dev, const lx_cu_attention *a);

/* A launch of a kernel by itself, in one piece. */
static inline lx_cu_attention direct_of(const lx_attention_args *args)
{
    const lx_kv *kv = args->kv;
    return (lx_cu_attention){.q = args->q.data,
                             .k = kv->k.data,
                             .v = kv->v.data,
                             .out = args->out.data,
                             .q_stride = args->q.stride,
                             .k_stride = kv->k.stride,
                             .v_stride = kv->v.stride,
                             .out_stride = args->out.stride,
                             .n_q = args->q.rows,
                             .n_k = kv->n,
                             .n_heads = (int)kv->n_heads,
                             .head_dim = (int)kv->head_dim,
                             .scale = args->scale,
                             .key_bias = args->key_bias,
                             .codes = kv->codes,
                             .k_scale = kv->scale,
                             .k_images = kv->k_images,
                             .v_images = kv->v_images,
                             .v_scale = kv->v_scale,
                             .v_shift = kv->v_shift,
                             .k_mean = kv->k_mean,
                             .units_per_launch = 1 << 20};
}

/* Fails, telling how it was launched, unless it gives these bits. */
static inline void check_launch(gpu *g, const char *how, const problem *p, kernel_fn kernel,
                                const lx_cu_attention *a, const float *want)
{
    gpu_ok(lx_zero(&g->x, p->d_out.data, (size_t)(p->s.n_q * p->width) * 2, err));
    gpu_ok(lx_cuda_status(g->cuda, kernel(g->cuda->dev, a), "attention", err));
    float *got = gpu_mat_get(g, &p->d_out);
    for (int64_t e = 0; e < p->s.n_q * p->width; e++)
        if (memcmp(got + e, want + e, sizeof *got))
            fail_msg("%s: query %d, column %d is %.9g, was %.9g", how, (int)(e / p->width),
                     (int)(e % p->width), (double)got[e], (double)want[e]);
    free(got);
}

/* For check_runs. */
static const int64_t RUN_KEYS[] = {1, 128, 130, 600, 4097};
enum { N_RUN_KEYS = sizeof RUN_KEYS / sizeof *RUN_KEYS };

/* Races show as bits that change: many runs, in many launches and one. what: for failures. */
static inline void check_runs(gpu *g, const char *what, lx_attention_kind kind, int64_t n_k,
                              kernel_fn kernel)
{
    shape s = {.n_q = 1000, .n_k = n_k, .n_heads = 9, .head_dim = 128, .kind = kind};
    if (gpu_is_small() && n_k > 600)
        return;
    problem p = make(g, &s);
    float *want = run(g, &p);
    lx_kv kv;
    size_t mark = lx_arena_mark(g->scratch);
    gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, s.n_heads, &kv, err));
    lx_attention_args args = args_of(&p, &kv);
    for (int turn = 0; turn < 12; turn++) {
        char how[64];
        lx_cu_attention a = direct_of(&args);
        a.has_f16_sums = g->x.sums == LX_SUMS_F16;
        a.units_per_launch = turn % 3 ? 1 << 20 : 5 + turn;
        snprintf(how, sizeof how, "%s, run %d", what, turn);
        check_launch(g, how, &p, kernel, &a, want);
    }
    lx_arena_reset(g->scratch, mark);
    free(want);
    destroy(g, &p);
}

#endif
