/*
 * test_cuda_attention_wgmma.c - Hopper's attention kernel, piece by piece
 * SPDX-License-Identifier: Apache-2.0
 *
 * Reading   Images wrong: preparation (attention_tiles.cu). Images right and one tile of 128 keys
 *           wrong: operands or registers, of values if with zeros for q and k too. One tile right
 *           and two wrong: the running softmax or what is in flight; five wrong: stages come round.
 *           Only lengths that are no multiple of 128 wrong: the tail. Bits that change: barriers.
 *           Scores that outgrow: near and far wrong: what scales weights; only those of 31 and 45:
 *           the products of one warp; still ones: rows disturb each other.
 */
#include "cuda/attention_image.h"
#include "gpu_attention_kernel.h"

static int begin(void **state)
{
    (void)begin_with(state, lx_card_has_wgmma, "wgmma kernels");
    return 0;
}

/* Tiles of 128 keys in 4 stages, 64 queries to a group: around each edge, and the model's length.
 * With zeros every weight is the same: only values can be wrong. */
static void test_int8_around_tiles(void **state)
{
    static const int64_t n_k[] = {1,   2,   63,  64,  65,  127, 128, 129, 191, 193,  255,
                                  256, 257, 384, 385, 511, 512, 513, 639, 641, 1025, 1153};
    static const int64_t n_q[] = {1, 63, 64, 65, 127, 128, 129, 300};
    int n_bad = 0;
    for (int kind = LX_ATTENTION_INT8; kind <= LX_ATTENTION_INT8_FP8; kind++) {
        shape s = {.n_q = 64, .n_k = 128, .n_heads = 1, .head_dim = 128, .is_zero = true};
        s.kind = (lx_attention_kind)kind;
        n_bad += is_bad(*state, &s);
        s.n_k = 300;
        n_bad += is_bad(*state, &s);
        for (int i = 0; i < 22; i++) {
            s = (shape){.n_q = n_q[i % 8], .n_k = n_k[i], .n_heads = 3, .head_dim = 128};
            s.kind = (lx_attention_kind)kind;
            s.slack = i % 3 ? 0 : 8;
            n_bad += is_bad(*state, &s);
        }
        s = (shape){.n_q = 32760, .n_k = 32760, .n_heads = 2, .head_dim = 128};
        s.kind = (lx_attention_kind)kind;
        n_bad += is_bad(*state, &s);
    }
    assert_int_equal(n_bad, 0);
}

static void test_error_is_within_the_bars(void **state)
{
    assert_int_equal(n_beyond_bars(*state, 400), 0);
}

/* The queries 3 i + which of all. A near one's weight may be shared by that key and by others: a
 * key of 13 in one channel has its others rounded to 0.1, which is 0.03 of such a weight. */
static bool are_bad(const problem *p, const sample *all, int64_t which)
{
    static const char *const names[] = {"still", "near", "far"};
    const double allowed = which == 1 ? fmax(all->allowed, FP8_ALLOWED) : all->allowed;
    int64_t d = p->s.head_dim, n = 0;
    float *got = check_floats(all->n * d), *want = check_floats(all->n * d);
    for (int64_t r = 0; r < all->n; r++)
        if (r % p->s.n_q % 3 == which) {
            memcpy(got + n * d, all->got + r * d, (size_t)d * sizeof *got);
            memcpy(want + n * d, all->want + r * d, (size_t)d * sizeof *want);
            n++;
        }
    gpu_error e = gpu_compare(got, want, n * d);
    bool is_bad = !(e.rel_l2 <= allowed);
    printf("  %s %-8s key %4d at %2g, queries that are %-5s: rel_l2 %.2e of %.2e\n",
           is_bad ? "BAD" : "ok ", kind_names[p->s.kind], (int)p->s.leap_at, (double)p->s.leap,
           names[which], e.rel_l2, allowed);
    free(got), free(want);
    return is_bad;
}

/* Beside calm queries instead of far ones all others have the bits they had: out. */
static bool is_disturbed(gpu *g, const shape *s, const float *out)
{
    shape calm = *s;
    calm.is_calm = true;
    problem p = make(g, &calm);
    float *again = run(g, &p);
    int64_t n = s->n_q * p.width, e = 0;
    while (e < n && (e / p.width % 3 == 2 || !memcmp(again + e, out + e, sizeof *out)))
        e++;
    if (e < n)
        printf("  BAD     query %d, column %d is %.9g beside far ones, else %.9g\n",
               (int)(e / p.width), (int)(e % p.width), (double)out[e], (double)again[e]);
    free(again);
    destroy(g, &p);
    return e < n;
}

static int n_bad_leaps(gpu *g, const shape *s)
{
    problem p = make(g, s);
    float *out = run(g, &p);
    sample all = sample_rows(&p, out);
    int n_bad = 0;
    assert_int_equal(all.n, s->n_q * s->n_heads); /* pairs in their order */
    for (int64_t which = 0; which < 3; which++)
        n_bad += are_bad(&p, &all, which);
    n_bad += is_disturbed(g, s, out);
    sample_free(&all);
    free(out);
    destroy(g, &p);
    return n_bad;
}

/* A key whose logit outgrows all before it, in the first tile, in the midst and in the last. It is
 * so many octaves in near and far queries: 8 and 22 (weights are scaled), 20 and 122 (sums of far
 * ones might be infinite), 75 and 258 (weights are). Still queries see nothing of it. */
static void test_scores_that_outgrow_all_before(void **state)
{
    static const float leaps[3][2] = {{5, 13}, {5, 31}, {13, 45}};
    static const int64_t at[] = {5, 300, 513, 1027, 2000, 2100};
    const bool is_small = gpu_is_small();
    int n_bad = 0;
    for (int i = 0; i < (is_small ? 9 : 18); i++)
        for (int kind = LX_ATTENTION_INT8; kind <= LX_ATTENTION_INT8_FP8; kind++) {
            shape s = {.n_q = 100, .n_k = is_small ? 515 : 2103, .n_heads = 2, .head_dim = 128};
            s.kind = (lx_attention_kind)kind;
            s.near_leap = leaps[i % 3][0];
            s.leap = leaps[i % 3][1];
            s.leap_at = at[i / 3];
            s.n_checked = s.n_q * s.n_heads;
            if (is_small) /* the leap's 15 neighbours have its coarse scale: many, of 515 keys */
                s.allowed = 2 * FP8_ALLOWED;
            n_bad += n_bad_leaps(*state, &s);
        }
    assert_int_equal(n_bad, 0);
}

static void test_wgmma_gives_the_same_bits_however_it_runs(void **state)
{
    gpu *g = *state;
    char what[32];
    for (int i = 0; i < 2 * N_RUN_KEYS; i++) {
        const lx_attention_kind kind = i < N_RUN_KEYS ? LX_ATTENTION_INT8 : LX_ATTENTION_INT8_FP8;
        const int64_t n_k = RUN_KEYS[i % N_RUN_KEYS];
        snprintf(what, sizeof what, "%s, %d keys", kind_names[kind], (int)n_k);
        check_runs(g, what, kind, n_k, g->cuda->module->attention->wgmma);
    }
}

/* The images of one head against what they stand for. */
static void check_images(const problem *p, int64_t h, const uint8_t *k, const uint8_t *v,
                         const float *v_scale)
{
    int64_t n_k = p->s.n_k, tiles = (n_k + LX_CU_IMAGE_KEYS - 1) / LX_CU_IMAGE_KEYS;
    int64_t v_bytes = v_scale ? LX_CU_IMAGE_V_FP8_BYTES : LX_CU_IMAGE_V_F16_BYTES;
    for (int64_t c = 0; c < 128; c++) {
        double mean = 0;
        for (int64_t j = 0; j < n_k; j++)
            mean += (double)p->k[j * p->width + h * 128 + c] / (double)n_k;
        for (int64_t j = 0; j < tiles * LX_CU_IMAGE_KEYS; j++) {
            int key = (int)(j % LX_CU_IMAGE_KEYS), ch = (int)c;
            const uint8_t *ki = k + (h * tiles + j / LX_CU_IMAGE_KEYS) * LX_CU_IMAGE_K_BYTES;
            const uint8_t *vi = v + (h * tiles + j / LX_CU_IMAGE_KEYS) * v_bytes;
            float scale, value;
            memcpy(&scale, ki + lx_cu_image_scale_at(lx_cu_image_group(key)), sizeof scale);
            double code = (int8_t)ki[lx_cu_image_key_at(key, ch)] * (double)scale;
            double want = j < n_k ? (double)p->k[j * p->width + h * 128 + c] - mean : 0;
            if (!(fabs(code - want) <= 0.501 * (double)scale * (j < n_k) + 1e-4 * (j < n_k)))
                fail_msg("keys: head %d, key %d, channel %d: %g for %g, scale %g", (int)h, (int)j,
                         ch, code, want, (double)scale);
            want = j < n_k ? (double)p->v[j * p->width + h * 128 + c] : 0;
            double unit = v_scale ? (double)v_scale[h * 128 + c] : 0;
            if (v_scale)
                value = gpu_widen(vi + lx_cu_image_fp8_at(key, ch), LX_DTYPE_F8_E4M3, 0);
            else
                value = gpu_widen(vi + lx_cu_image_f16_at(key, ch), LX_DTYPE_F16, 0);
            double is = v_scale ? (double)value * unit : (double)value;
            if (!(fabs(is - want) <= (v_scale ? 0.0626 * fabs(want) + unit * 0x1p-9 : 0)))
                fail_msg("values%s: head %d, key %d, channel %d: %g for %g",
                         v_scale ? " in FP8" : "", (int)h, (int)j, ch, is, want);
        }
    }
}

static void test_images_hold_keys_and_values(void **state)
{
    gpu *g = *state;
    for (int i = 0; i < 4; i++) {
        shape s = {.n_q = 1, .n_k = i % 2 ? 130 : 300, .n_heads = 2, .head_dim = 128};
        s.slack = i % 2 ? 8 : 0;
        s.kind = i < 2 ? LX_ATTENTION_INT8 : LX_ATTENTION_INT8_FP8;
        s.k_offset = 3;
        problem p = make(g, &s);
        lx_kv kv;
        size_t mark = lx_arena_mark(g->scratch);
        gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, s.n_heads, &kv, err));
        assert_int_equal(kv.kind, s.kind);
        assert_non_null(kv.k_images);
        size_t n = (size_t)(2 * ((s.n_k + 127) / 128));
        size_t v_bytes = n * (kv.v_scale ? LX_CU_IMAGE_V_FP8_BYTES : LX_CU_IMAGE_V_F16_BYTES);
        uint8_t *k = gpu_malloc((int64_t)n, LX_CU_IMAGE_K_BYTES), *v = gpu_malloc(1, v_bytes);
        float *v_scale = kv.v_scale ? check_floats(p.width) : NULL;
        gpu_get(g, k, kv.k_images, n * LX_CU_IMAGE_K_BYTES);
        gpu_get(g, v, kv.v_images, v_bytes);
        if (v_scale)
            gpu_get(g, v_scale, kv.v_scale, (size_t)p.width * sizeof *v_scale);
        for (int64_t h = 0; h < 2; h++)
            check_images(&p, h, k, v, v_scale);
        printf("  images of %d keys, %s: as they should be\n", (int)s.n_k, kind_names[s.kind]);
        free(k), free(v), free(v_scale);
        lx_arena_reset(g->scratch, mark);
        destroy(g, &p);
    }
}

/* With keys far from zero: their mean, which the scores lack, is in it. Two, four and ten tiles. */
static void test_log_of_the_sum(void **state)
{
    gpu *g = *state;
    static const int64_t n_k[] = {129, 385, 1153};
    for (int i = 0; i < 6; i++) {
        shape s = {.n_q = 130, .n_k = n_k[i / 2], .n_heads = 2, .head_dim = 128, .has_lse = true};
        s.kind = i % 2 ? LX_ATTENTION_INT8_FP8 : LX_ATTENTION_INT8;
        s.k_offset = 3;
        problem p = make(g, &s);
        lx_kv kv;
        float *lse = check_floats(260), want[128], plain[128];
        size_t mark = lx_arena_mark(g->scratch);
        gpu_ok(lx_kv_prepare(&g->x, s.kind, &p.d_k, &p.d_v, 2, &kv, err));
        lx_attention_args args = args_of(&p, &kv);
        gpu_ok(lx_attention(&g->x, &args, err));
        gpu_get(g, lse, p.d_lse, 260 * sizeof *lse);
        double worst = 0;
        for (int64_t r = 0; r < 260; r++) {
            double off = fabs((double)lse[r] - attend(&p, r / 130, r % 130, want, plain));
            worst = off <= worst ? worst : off; /* so NaN shows */
        }
        printf("  log of the sum, %s, %d keys: off by %.2e at most\n", kind_names[s.kind],
               (int)s.n_k, worst);
        assert_true(worst < 0.02);
        free(lse);
        lx_arena_reset(g->scratch, mark);
        destroy(g, &p);
    }
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* if a kernel never ends, the last line tells which */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_images_hold_keys_and_values),
        cmocka_unit_test(test_int8_around_tiles),
        cmocka_unit_test(test_error_is_within_the_bars),
        cmocka_unit_test(test_scores_that_outgrow_all_before),
        cmocka_unit_test(test_log_of_the_sum),
        cmocka_unit_test(test_wgmma_gives_the_same_bits_however_it_runs),
    };
    return cmocka_run_group_tests(tests, begin, gpu_end_tests);
}
