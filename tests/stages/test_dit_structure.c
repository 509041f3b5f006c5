/*
 * test_dit_structure.c - what the architecture says about its own numbers, and refusals
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_helpers.h"

static const lx_patch_dims DIMS = {16, 2, 6, 4}; /* 12 tokens */
#define TEXT_LEN  16
#define N_CONTEXT 5

/* Entries 0, 1, 64, 127 of the cosines, then of the sines, as float64 gives them. */
static void test_timestep_embedding(void **state)
{
    (void)state;
    const struct {
        double t;
        double want[8];
    } rows[] = {
        {1000,
         {0.56237906, 0.78961474, -0.83907151, 0.99423164, 0.82687956, 0.61360294, -0.54402111,
          0.10725408}},
        {937.5,
         {0.26230213, 0.58048731, -0.99876136, 0.99492955, 0.96498579, -0.81426930, 0.04975741,
          0.10057415}},
        {833.33331298828125,
         {-0.68858546, -0.87915820, -0.46120387, 0.99599302, -0.72515523, 0.47653008, 0.88729417,
          0.08943101}},
        {625,
         {-0.98438728, -0.91596717, 0.99944943, 0.99774539, 0.17601627, -0.40125325, -0.03317922,
          0.06711251}},
    };
    const int at[] = {0, 1, 64, 127, 128, 129, 192, 255};
    for (size_t i = 0; i < 4; i++) {
        float p[256];
        dit_timestep_embedding(rows[i].t, 256, p);
        for (int k = 0; k < 8; k++)
            assert_true(fabs((double)p[at[k]] - rows[i].want[k]) < 6e-8);
    }
}

/* Owned by the caller. */
static float *first_velocity(store *s)
{
    bench b;
    float *out, *velocity;
    bench_open_store(&b, s, &(dit_options){.text_len = TEXT_LEN}, &DIMS, 1);
    float *context = normals(1, (size_t)(N_CONTEXT * s->text));
    float *latent = normals(2, latent_size(&DIMS));
    bench_run(&b, &DIMS, context, N_CONTEXT, latent, &out, &velocity);
    free(context), free(latent), free(out);
    bench_close(&b);
    return velocity;
}

static void test_zero_head_gives_its_bias(void **state)
{
    store *s = *state;
    store_tensor *w = store_find(s, "head.head.weight"), *b = store_find(s, "head.head.bias");
    float *kept = floats(w->n);
    memcpy(kept, w->data, w->n * sizeof *kept);
    memset(w->data, 0, w->n * sizeof *kept);
    float *v = first_velocity(s);
    for (int64_t c = 0; c < 16; c++)
        for (int64_t t = 0; t < DIMS.t; t++)
            for (int64_t y = 0; y < DIMS.h; y++)
                for (int64_t x = 0; x < DIMS.w; x++) {
                    float want = b->data[(y % 2 * 2 + x % 2) * 16 + c];
                    assert_true(v[((c * DIMS.t + t) * DIMS.h + y) * DIMS.w + x] == want);
                }
    memcpy(w->data, kept, w->n * sizeof *kept);
    free(kept), free(v);
}

/* Swap heads 0 and 1: rows [out, in] of a matrix, entries of a vector; or columns. */
static void swap_heads(store_tensor *t, bool columns)
{
    int64_t cols = t->shape.n_dims == 2 ? t->shape.dim[1] : 1, rows = t->shape.dim[0];
    for (int64_t r = 0; r < (columns ? rows : 128); r++)
        for (int64_t c = 0; c < (columns ? 128 : cols); c++) {
            float *a = t->data + r * cols + c;
            float *b = columns ? a + 128 : a + 128 * cols;
            float kept = *a;
            *a = *b, *b = kept;
        }
}

static void swap_all_heads(store *s, bool with_norms)
{
    const char *const kinds[] = {"self_attn", "cross_attn"};
    char name[96];
    for (int64_t n = 0; n < s->blocks; n++)
        for (int k = 0; k < 2; k++) {
            for (const char *part = "qkv"; *part; part++) {
                snprintf(name, sizeof name, "blocks.%d.%s.%c.weight", (int)n, kinds[k], *part);
                swap_heads(store_find(s, name), false);
                snprintf(name, sizeof name, "blocks.%d.%s.%c.bias", (int)n, kinds[k], *part);
                swap_heads(store_find(s, name), false);
            }
            snprintf(name, sizeof name, "blocks.%d.%s.o.weight", (int)n, kinds[k]);
            swap_heads(store_find(s, name), true);
            for (const char *part = "qk"; with_norms && *part; part++) {
                snprintf(name, sizeof name, "blocks.%d.%s.norm_%c.weight", (int)n, kinds[k], *part);
                swap_heads(store_find(s, name), false);
            }
        }
}

static void test_heads_may_be_permuted_together(void **state)
{
    store *s = *state;
    size_t n = latent_size(&DIMS);
    float *before = first_velocity(s);
    swap_all_heads(s, true);
    float *after = first_velocity(s);
    assert_true(rel_l2(after, before, n) < 1e-5);
    free(after);
    swap_all_heads(s, true);
    swap_all_heads(s, false); /* the norms' gains belong to their heads */
    after = first_velocity(s);
    assert_true(rel_l2(after, before, n) > 1e-3);
    swap_all_heads(s, false);
    free(after), free(before);
}

/* Ten times larger rows of Wq and Wk for head 0 would not change its normalised q and k if every
 * head were normalised by itself; over the full width they outweigh the other head. */
static void test_norm_is_over_all_heads(void **state)
{
    store *s = *state;
    size_t n = latent_size(&DIMS);
    float *before = first_velocity(s);
    const char *const names[] = {"blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.bias"};
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < 2; k++) {
            store_tensor *t = store_find(s, names[k]);
            int64_t cols = t->shape.n_dims == 2 ? t->shape.dim[1] : 1;
            for (int64_t i = 0; i < 128 * cols; i++)
                t->data[i] *= pass ? 0.125f : 8.0f;
            if (pass == 0 && k == 1) {
                float *after = first_velocity(s);
                assert_true(rel_l2(after, before, n) > 1e-4);
                free(after);
            }
        }
    free(before);
}

static void test_nan_names_the_step(void **state)
{
    store *s = *state;
    bench b;
    lx_err err = {0};
    dit_schedule schedule;
    dit_schedule_default(&schedule);
    bench_open_store(&b, s, &(dit_options){.text_len = TEXT_LEN}, &DIMS, 1);
    float *context = normals(1, (size_t)(N_CONTEXT * s->text));
    float *latent = normals(2, latent_size(&DIMS));
    latent[17] = NAN;
    dit_request r = {
        .latent = DIMS, .context = context, .n_context = N_CONTEXT, .schedule = &schedule};
    assert_int_equal(dit_denoise(b.engine, &r, latent, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "step 1 of 4"));
    assert_int_equal(lx_arena_mark(dit_engine_exec(b.engine)->arena), 0);
    /* The stage goes on: the next job is as if nothing had been. */
    free(latent);
    latent = normals(2, latent_size(&DIMS));
    assert_int_equal(dit_denoise(b.engine, &r, latent, &err), LX_OK);
    free(context), free(latent);
    bench_close(&b);
}

typedef struct counter {
    int calls;
    uint64_t done, total;
    uint64_t cancel_at; /* this many blocks; 0: never */
} counter;

static lx_status count(void *self, const char *unit, uint64_t done, uint64_t total, lx_err *err)
{
    counter *c = self;
    if (strcmp(unit, "block") != 0)
        return LX_OK;
    c->calls++;
    assert_true(done >= c->done && done <= total);
    c->done = done;
    c->total = total;
    return c->cancel_at && done >= c->cancel_at ? lx_fail(err, LX_ECANCEL, "asked") : LX_OK;
}

static void test_progress_counts_blocks_and_cancels(void **state)
{
    store *s = *state;
    bench b;
    lx_err err = {0};
    dit_schedule schedule;
    dit_schedule_default(&schedule);
    bench_open_store(&b, s, &(dit_options){.text_len = TEXT_LEN, .chunk = 5}, &DIMS, 1);
    float *context = normals(1, (size_t)(N_CONTEXT * s->text));
    float *latent = normals(2, latent_size(&DIMS));
    counter c = {0};
    lx_progress progress = {count, &c};
    dit_request r = {.latent = DIMS,
                     .context = context,
                     .n_context = N_CONTEXT,
                     .schedule = &schedule,
                     .progress = &progress};
    assert_int_equal(dit_denoise(b.engine, &r, latent, &err), LX_OK);
    assert_int_equal(c.total, 4 * s->blocks);
    assert_int_equal(c.done, c.total);
    assert_int_equal(c.calls, 3 * 4 * s->blocks); /* 12 tokens in chunks of 5: heard three times */
    c = (counter){.cancel_at = 3};
    assert_int_equal(dit_denoise(b.engine, &r, latent, &err), LX_ECANCEL);
    assert_int_equal(c.done, 3);
    assert_int_equal(lx_arena_mark(dit_engine_exec(b.engine)->arena), 0);
    free(context), free(latent);
    bench_close(&b);
}

static void test_impossible_requests_are_refused(void **state)
{
    store *s = *state;
    bench b;
    dit_schedule schedule;
    dit_schedule_default(&schedule);
    bench_open_store(&b, s, &(dit_options){.text_len = TEXT_LEN}, &DIMS, 1);
    float *context = normals(1, (size_t)((TEXT_LEN + 1) * s->text));
    float *latent = normals(2, 4 * latent_size(&DIMS));
    const struct {
        lx_patch_dims d;
        int64_t n;
        const char *says;
    } bad[] = {{DIMS, 0, "1 to 16"},
               {DIMS, TEXT_LEN + 1, "17 rows"},
               {{16, 2, 5, 4}, 5, "even h and w"},
               {{12, 2, 6, 4}, 5, "takes [16"},
               {{16, 8, 6, 4}, 5, "planned memory is too small"},
               {{16, (int64_t)1 << 39, 6, 4}, 5, ""}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lx_err err = {0};
        dit_request r = {
            .latent = bad[i].d, .context = context, .n_context = bad[i].n, .schedule = &schedule};
        assert_int_equal(dit_denoise(b.engine, &r, latent, &err), LX_EJOB);
        if (!strstr(err.message, bad[i].says))
            fail_msg("%s", err.message);
        assert_int_equal(lx_arena_mark(dit_engine_exec(b.engine)->arena), 0);
    }
    free(context), free(latent);
    bench_close(&b);
}

static int setup(void **state)
{
    return store_begin(state, 256, 48);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timestep_embedding),
        cmocka_unit_test(test_zero_head_gives_its_bias),
        cmocka_unit_test(test_heads_may_be_permuted_together),
        cmocka_unit_test(test_norm_is_over_all_heads),
        cmocka_unit_test(test_nan_names_the_step),
        cmocka_unit_test(test_progress_counts_blocks_and_cancels),
        cmocka_unit_test(test_impossible_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, store_end);
}
