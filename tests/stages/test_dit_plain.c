/*
 * test_dit_plain.c - dimensions of our own against the plain f64 forward pass
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_plain.h"

typedef struct dims_case {
    int64_t heads, ffn, text, blocks; /* model */
    lx_patch_dims latent;
    int64_t text_len, n_context;
} dims_case;

static void check(const dims_case *c)
{
    store s;
    bench b;
    float *out, *velocity;
    const size_t n = latent_size(&c->latent);
    store_make(&s, c->heads, c->ffn, c->text, c->blocks);
    bench_open_store(&b, &s, &(dit_options){.text_len = c->text_len}, &c->latent, 1);
    assert_int_equal(dit_dims(b.model)->n_heads, c->heads);
    float *context = normals(1, (size_t)(c->n_context * c->text)), *latent = normals(2, n);
    bench_run(&b, &c->latent, context, c->n_context, latent, &out, &velocity);

    dit_schedule schedule;
    dit_schedule_default(&schedule);
    for (int i = 0; i < 2; i++) { /* the second from where our first step led */
        float *want = plain_forward(&s, &c->latent, c->text_len, context, c->n_context, latent,
                                    (double)schedule.timestep[i]);
        double error = rel_l2(velocity + (size_t)i * n, want, n);
        if (!(error <= 1e-5))
            fail_msg("%d heads, step %d: %g", (int)c->heads, i, error);
        for (size_t k = 0; k < n; k++)
            latent[k] += (schedule.sigma[1] - schedule.sigma[0]) * velocity[k];
        free(want);
    }
    free(out), free(velocity), free(context), free(latent);
    bench_close(&b);
    store_free(&s);
}

/* Three heads, three blocks, a grid of 2 x 5 x 3 and sizes without a common factor. */
static void test_dit_plain_odd_grid(void **state)
{
    (void)state;
    check(&(dims_case){3, 328, 96, 3, {16, 2, 10, 6}, 24, 7});
}

/* A still image, one token wide; the context fills its rows, so there is no padding key. */
static void test_dit_plain_one_frame_full_context(void **state)
{
    (void)state;
    check(&(dims_case){1, 200, 40, 2, {16, 1, 8, 2}, 9, 9});
}

/* One token in all, one row of context, and one padding row: weight ln 1. */
static void test_dit_plain_one_token(void **state)
{
    (void)state;
    check(&(dims_case){2, 64, 33, 1, {16, 1, 2, 2}, 2, 1});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dit_plain_one_token),
        cmocka_unit_test(test_dit_plain_one_frame_full_context),
        cmocka_unit_test(test_dit_plain_odd_grid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
