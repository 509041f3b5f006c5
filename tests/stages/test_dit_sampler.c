/*
 * test_dit_sampler.c - the sigma table bit by bit, and the arithmetic of a step
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_helpers.h"

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Shift 5, entries 1000, 750, 500, 250: the bits that PyTorch 2.11 has. */
static void test_sampler_own_table_is_exact(void **state)
{
    (void)state;
    const uint32_t sigma[] = {0x3F800000, 0x3F700000, 0x3F555555, 0x3F200000};
    const uint32_t timestep[] = {0x447A0000, 0x446A6000, 0x44505555, 0x441C4000};
    dit_schedule s;
    dit_schedule_default(&s);
    assert_int_equal(s.n_steps, 4);
    assert_true(s.is_own);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(bits_of(s.sigma[i]), sigma[i]);
        assert_int_equal(bits_of(s.timestep[i]), timestep[i]);
    }
    char text[256] = "?";
    dit_schedule_notice(&s, text, sizeof text);
    assert_string_equal(text, "");
}

static void test_sampler_other_shifts_and_lists(void **state)
{
    (void)state;
    const int32_t own[] = {1000, 750, 500, 250};
    const struct {
        double shift;
        float sigma[4];
    } rows[] = {{3, {1, 0.9f, 0.75f, 0.5f}},
                {8, {1, 0.96f, 0.88888890f, 0.72727275f}},
                {1, {1, 0.75f, 0.5f, 0.25f}}};
    dit_schedule s;
    char text[1024];
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(dit_schedule_make(&s, own, 4, rows[i].shift, NULL), LX_OK);
        for (int k = 0; k < 4; k++)
            assert_int_equal(bits_of(s.sigma[k]), bits_of(rows[i].sigma[k]));
        assert_false(s.is_own);
        dit_schedule_notice(&s, text, sizeof text);
        assert_non_null(strstr(text, "1, 0.9375, 0.8333, 0.625")); /* what would be its own */
    }
    const int32_t eight[] = {1000, 875, 750, 625, 500, 375, 250, 125};
    const double t[] = {1000, 972.22, 937.5, 892.86, 833.33, 750, 625, 416.67};
    assert_int_equal(dit_schedule_make(&s, eight, 8, 5, NULL), LX_OK);
    for (int k = 0; k < 8; k++)
        assert_true(fabs((double)s.timestep[k] - t[k]) < 0.005);
    assert_false(s.is_own);
    dit_schedule_notice(&s, text, sizeof text);
    assert_non_null(strstr(text, "0.9722"));
    dit_schedule_notice(&s, text, 10); /* cut, not overrun */
    assert_true(strlen(text) < 10);
}

static void test_sampler_matches_golden_schedule(void **state)
{
    (void)state;
    lx_err err = {0};
    lx_weights *golden = NULL;
    lx_weight sigmas, timesteps;
    dit_schedule s;
    dit_schedule_default(&s);
    if (lx_weights_open(&golden, GOLDEN "io.safetensors", NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_true(lx_weights_find(golden, "sched.sigmas", &sigmas));
    assert_true(lx_weights_find(golden, "sched.timesteps", &timesteps));
    assert_memory_equal(s.sigma, sigmas.data, 4 * sizeof(float));
    assert_memory_equal(s.timestep, timesteps.data, 4 * sizeof(float));
    lx_weights_close(&golden);
}

static void test_sampler_refuses(void **state)
{
    (void)state;
    const struct {
        int32_t list[3];
        int32_t n;
        double shift;
    } bad[] = {{{1000, 0, 0}, 2, 5},    {{1001, 500, 0}, 2, 5},     {{500, 500, 0}, 2, 5},
               {{250, 500, 0}, 2, 5},   {{1000, 0, 0}, 0, 5},       {{1000, 0, 0}, 65, 5},
               {{1000, 500, -1}, 3, 5}, {{1000, 0, 0}, 1, 0},       {{1000, 0, 0}, 1, -3},
               {{1000, 0, 0}, 1, NAN},  {{1000, 0, 0}, 1, INFINITY}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dit_schedule s = {.n_steps = 77};
        lx_err err = {0};
        assert_int_equal(dit_schedule_make(&s, bad[i].list, bad[i].n, bad[i].shift, &err), LX_EJOB);
        assert_true(err.message[0] != 0);
        assert_int_equal(s.n_steps, 77);
    }
}

/* Every product and sum rounded to f32 on its own: volatile keeps the compiler from better. */
static float euler(float x, float v, float sigma, float next)
{
    volatile float p = sigma * v;
    volatile float x0 = x - p;
    volatile float q = v * next;
    return x0 + q;
}

static float lcm(float x, float v, float noise, float sigma, float next)
{
    volatile float p = sigma * v;
    volatile float x0 = x - p;
    volatile float keep = 1 - next;
    volatile float a = keep * x0, b = next * noise;
    return a + b;
}

static void test_sampler_steps_round_separately(void **state)
{
    (void)state;
    enum { N = 1000 };
    lx_arena *arena = NULL;
    lx_exec x;
    dit_schedule s;
    dit_schedule_default(&s);
    assert_int_equal(lx_arena_create(&arena, 1 << 20, NULL), LX_OK);
    assert_int_equal(lx_exec_open_cpu(&x, arena, 1, NULL), LX_OK);
    float *v = normals(0, N), *noise = normals(1, N), *start = normals(2, N), *got = floats(N);
    for (int32_t i = 0; i < 4; i++)
        for (int sampler = 0; sampler < LX_SAMPLER_COUNT; sampler++) {
            memcpy(got, start, N * sizeof *got);
            assert_int_equal(dit_sampler_step(&x, &s, (lx_sampler)sampler, i, v,
                                              sampler == LX_SAMPLER_LCM ? noise : NULL, N, got,
                                              NULL),
                             LX_OK);
            for (int k = 0; k < N; k++) {
                volatile float p = s.sigma[i] * v[k];
                float want = start[k] - p;
                if (i < 3 && sampler == LX_SAMPLER_EULER)
                    want = euler(start[k], v[k], s.sigma[i], s.sigma[i + 1]);
                else if (i < 3)
                    want = lcm(start[k], v[k], noise[k], s.sigma[i], s.sigma[i + 1]);
                assert_int_equal(bits_of(got[k]), bits_of(want));
            }
        }
    free(v), free(noise), free(start), free(got);
    lx_arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_own_table_is_exact),
        cmocka_unit_test(test_sampler_other_shifts_and_lists),
        cmocka_unit_test(test_sampler_matches_golden_schedule),
        cmocka_unit_test(test_sampler_refuses),
        cmocka_unit_test(test_sampler_steps_round_separately),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
