/*
 * test_cuda_attention_planted.c - attention with single channels of k and v far off, on a card
 * SPDX-License-Identifier: Apache-2.0
 *
 * Channel 5 of each head of k, or of v, is planted: keys 30 or 100 from zero, which is what models
 * have and what smoothing takes away; values 30 or 100 times as large, or so far from zero. Errors
 * are relative L2 against float64, of that channel and of the others by themselves: together the
 * planted one would hide the others. All kernels that attention on this card may come to, and the
 * mma.sync ones of other cards; INT8 with F16 values is what `auto` takes from 2,048 tokens on.
 *
 * Reading   With keys planted and all INT8 kernels wrong: the mean. One kernel: its quantisation.
 *           With values planted and only the others wrong: a scale that channels share.
 */
#include "gpu_attention.h"

#define STORE_BYTES   ((size_t)256 << 20)
#define SCRATCH_BYTES ((size_t)256 << 20)
#define DIM           128
#define CHANNEL       5
#define ROWS          301 /* checked, of queries x heads */

/* Of normal q, k and v: what all kernels are held to (test_error_is_within_the_bars). A tenth more
 * here: keys 100 from zero are rounded to BF16's steps of 0.5 there, so the largest of a group of
 * 16 x 128, about 3.5 from the mean, and with it the group's scale, rise by at most 0.25 / 3.5.
 * Without smoothing the scale would be 100 / 127 instead of 3.5 / 127. */
static const double BARS[] = {[LX_ATTENTION_PLAIN] = 1.1 * 0.0115,
                              [LX_ATTENTION_INT8] = 1.1 * 0.0115,
                              [LX_ATTENTION_INT8_FP8] = 1.1 * 0.038};
/* A channel of values m + noise, m large: the result is nearly m. It is rounded to BF16, by 2^-9
 * at most; F16 weights and sums add a fourth of that. E4M3 keeps 3 bits, off by 2^-4 at most and
 * 2^-4 / sqrt 3 on average, of weights and of values alike; of 4,096 normal keys about 4,096 / e
 * count, so 0.036 sqrt(2 / 1507) = 1.3e-3 is left of it. Twice that, as rows differ. */
static const double FAR_BARS[] = {[LX_ATTENTION_PLAIN] = 1.25 * 0x1p-9,
                                  [LX_ATTENTION_INT8] = 1.25 * 0x1p-9,
                                  [LX_ATTENTION_INT8_FP8] = 1.25 * 0x1p-9 + 2 * 1.3e-3};

typedef struct plant {
    const char *name;
    float k_at, v_at, v_times;
} plant;

static const plant PLANTS[] = {
    {"nothing", 0, 0, 1},
    {"keys 30 from zero", 30, 0, 1},
    {"keys -100 away", -100, 0, 1},
    {"values 30 times", 0, 0, 30},
    {"values 100 times", 0, 0, 100},
    {"values 30 from zero", 0, 30, 1},
    {"values -100 away", 0, -100, 1},
    {"both 100", 100, 0, 100},
};
enum { N_PLANTS = sizeof PLANTS / sizeof *PLANTS };

/* Normal q, k and v, 3 normal numbers per channel added to k, and the plant. */
static problem make_planted(gpu *g, const plant *how)
{
    shape s = {.n_q = 256, .n_k = 4096, .n_heads = 2, .head_dim = DIM, .is_gaussian = true};
    s.k_shift = 3;
    s.k_outlier = how->k_at;
    problem p = make(g, &s);
    for (int64_t i = CHANNEL; i < s.n_k * p.width; i += DIM)
        p.v[i] = gpu_rounded(LX_DTYPE_F16, p.v[i] * how->v_times + how->v_at);
    p.d_v = gpu_mat(g, LX_DTYPE_F16, p.v, s.n_k, p.width, p.width);
    return p;
}

/* Query and head of a checked row: spread evenly, the first and last among them. */
static int64_t pair_of(const problem *p, int64_t row)
{
    return row * (p->s.n_q * p->s.n_heads - 1) / (ROWS - 1);
}

static float *definition(const problem *p)
{
    float *want = check_floats(ROWS * DIM), plain[DIM];
    for (int64_t r = 0; r < ROWS; r++)
        attend(p, pair_of(p, r) / p->s.n_q, pair_of(p, r) % p->s.n_q, want + r * DIM, plain);
    return want;
}

/* Relative L2 of the planted channel, or of all others. A NaN is in it, and fails. */
static double error_of(const problem *p, const float *out, const float *want, bool is_planted)
{
    double off = 0, all = 0;
    for (int64_t r = 0; r < ROWS; r++) {
        int64_t pair = pair_of(p, r), h = pair / p->s.n_q, i = pair % p->s.n_q;
        for (int64_t c = 0; c < DIM; c++) {
            double e = want[r * DIM + c];
            if ((c == CHANNEL) != is_planted)
                continue;
            off += pow((double)out[i * p->width + h * DIM + c] - e, 2);
            all += e * e;
        }
    }
    return sqrt(off / all);
}

static int check_design(gpu *g, problem *p, const plant *how, const attention_design *d,
                        const float *want)
{
    p->s.kind = d->kind;
    float *out = run(g, p);
    double planted = error_of(p, out, want, true), others = error_of(p, out, want, false);
    double bar = BARS[d->kind], own = how->v_at != 0 ? FAR_BARS[d->kind] : bar;
    bool is_good = planted <= own && others <= bar;
    printf("  %s %-20s %-32s channel %d: %.2e of %.2e, others: %.2e of %.2e\n",
           is_good ? "ok " : "BAD", how->name, d->name, CHANNEL, planted, own, others, bar);
    free(out);
    return is_good ? 0 : 1;
}

static void test_planted_channels_are_held(void **state)
{
    gpu *g = *state;
    const lx_card_kind real = g->cuda->card;
    int n_bad = 0;
    for (int i = 0; i < N_PLANTS; i++) {
        problem p = make_planted(g, &PLANTS[i]);
        float *want = definition(&p);
        for (int d = 0; d < N_DESIGNS; d++) {
            if (!has_design(&real, &DESIGNS[d]))
                continue;
            if (DESIGNS[d].major)
                pretend(g, DESIGNS[d].major, DESIGNS[d].minor);
            g->x.sums = DESIGNS[d].sums;
            n_bad += check_design(g, &p, &PLANTS[i], &DESIGNS[d], want);
            g->x.sums = LX_SUMS_AUTO;
            g->cuda->card = real;
        }
        free(want);
        destroy(g, &p);
    }
    assert_int_equal(n_bad, 0);
}

static int begin(void **state)
{
    return gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* if a kernel never ends, the last line tells which */
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_planted_channels_are_held)};
    return cmocka_run_group_tests(tests, begin, gpu_end_tests);
}
