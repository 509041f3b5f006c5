/*
 * test_rng.c - the noise: lx2v's bits, torch's numbers, names
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lx_rng.h"
#include "lx_sha256.h"
#include "weights/lx_weights.h"

/* tests/unit/rng_bits.c at each level. */
void rng_bits_O0(uint64_t seed, uint32_t draw, uint64_t n, float *out);
void rng_bits_O3(uint64_t seed, uint32_t draw, uint64_t n, float *out);

#define LATENT_480P81 ((uint64_t)16 * 21 * 60 * 104)

static float *draw(const char *name, uint64_t seed, uint32_t number, uint64_t n)
{
    lx_err err = {0};
    lx_rng rng;
    if (lx_rng_parse(name, &rng, &err) != LX_OK)
        fail_msg("%s", err.message);
    float *out = malloc(n * sizeof *out);
    assert_non_null(out);
    lx_rng_normal(&rng, seed, number, n, out);
    return out;
}

static void test_philox_known_answers(void **state)
{
    (void)state;
    const uint32_t zero[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    const uint32_t of_zero[4] = {0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8};
    const uint32_t of_ones[4] = {0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD};
    uint32_t out[4];
    lx_philox(zero, 0, out);
    assert_memory_equal(out, of_zero, sizeof out);
    lx_philox(ones, ~(uint64_t)0, out);
    assert_memory_equal(out, of_ones, sizeof out);
}

/* ln and cos against libm over their whole range, ends included. */
static void test_rng_functions_are_accurate(void **state)
{
    (void)state;
    const uint32_t edges[] = {0,          1,          0x3FFFFFFF, 0x40000000, 0x7FFFFFFF,
                              0x80000000, 0xBFFFFFFF, 0xC0000000, 0xFFFFFFFE, 0xFFFFFFFF};
    for (uint32_t i = 0; i < 100000; i++) {
        uint32_t r = i < 10 ? edges[i] : i * 2654435761u;
        double u = (r + 0.5) / 4294967296.0;
        double ln = log(u), cosine = cos(6.283185307179586 * u);
        assert_true(fabs(lx_rng_ln(u) - ln) <= 4e-16 * fabs(ln));
        assert_true(fabs(lx_rng_cos_turn(r) - cosine) <= 1e-15);
    }
}

static void test_lx2v_same_bits_at_every_level(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed;
        float first[3];
        const char *sha256; /* of the 480p, 81 frames latent; docs/noise.md */
    } known[] = {
        {0,
         {0.991137683f, -0.153638229f, -1.18635786f},
         "e1a7c44c399d846039e62e66f7d7910dc943748314fd481f00627a49768ffce6"},
        {42,
         {-0.97018981f, -0.07318151f, -0.336961865f},
         "06a893b1cc6917a6e318d198b9c12738c393871cb1c87723a6b7788112841c85"},
    };
    float *z = malloc(LATENT_480P81 * sizeof *z);
    assert_non_null(z);
    for (size_t i = 0; i < 2; i++) {
        void (*const bits[])(uint64_t, uint32_t, uint64_t, float *) = {rng_bits_O0, rng_bits_O3};
        for (size_t k = 0; k < 2; k++) {
            char hex[65];
            bits[k](known[i].seed, 0, LATENT_480P81, z);
            assert_memory_equal(z, known[i].first, sizeof known[i].first);
            lx_sha256 sha;
            lx_sha256_open(&sha);
            lx_sha256_add(&sha, z, LATENT_480P81 * sizeof *z);
            lx_sha256_hex(&sha, hex);
            assert_string_equal(hex, known[i].sha256);
        }
    }
    float *by_name = draw("lx2v", 42, 0, LATENT_480P81);
    assert_memory_equal(by_name, z, LATENT_480P81 * sizeof *z); /* seed 42 came last */
    free(by_name);
    free(z);
}

/* Mean, variance and tails; and that draws and both halves of the seed make a difference. */
static void test_lx2v_is_normal_and_independent(void **state)
{
    (void)state;
    const uint64_t n = 1 << 20;
    float *z[4] = {draw("lx2v", 7, 0, n), draw("lx2v", 7, 1, n), draw("lx2v", 8, 0, n),
                   draw("lx2v", 7 + ((uint64_t)1 << 32), 0, n)};
    double dn = (double)n;
    for (int a = 0; a < 4; a++) {
        double sum = 0, square = 0, fourth = 0;
        for (uint64_t i = 0; i < n; i++) {
            double v = z[a][i];
            sum += v, square += v * v, fourth += v * v * v * v;
        }
        assert_true(fabs(sum / dn) < 5 / sqrt(dn));
        assert_true(fabs(square / dn - 1) < 5 * sqrt(2 / dn));
        assert_true(fabs(fourth / dn - 3) < 5 * sqrt(96 / dn));
        for (int b = 0; b < a; b++) {
            double product = 0;
            for (uint64_t i = 0; i < n; i++)
                product += (double)z[a][i] * (double)z[b][i];
            assert_true(fabs(product / dn) < 5 / sqrt(dn));
        }
    }
    for (int a = 0; a < 4; a++)
        free(z[a]);
}

/* Every randn.DEVICE.SEED.SHAPE of the golden file: its first 4096 and last 64 values. */
static void test_torch_rng_matches_golden(void **state)
{
    (void)state;
    lx_err err = {0};
    lx_weights *golden = NULL;
    if (lx_weights_open(&golden, LX2V_SOURCE_DIR "/tests/golden/io.safetensors", NULL, &err) !=
        LX_OK)
        fail_msg("%s", err.message);
    int met = 0;
    for (size_t i = 0; i < lx_weights_count(golden); i++) {
        lx_weight w = lx_weights_at(golden, i);
        char device[8];
        unsigned long long seed;
        unsigned dim[4];
        if (sscanf(w.name, "randn.%4[a-z].%llu.%ux%ux%ux%u", device, &seed, dim, dim + 1, dim + 2,
                   dim + 3) != 6)
            continue;
        met++;
        int is_cpu = strcmp(device, "cpu") == 0;
        uint64_t n = (uint64_t)dim[0] * dim[1] * dim[2] * dim[3];
        float *z = draw(is_cpu ? "torch-cpu" : "torch-cuda:132x2048", seed, 0, n);
        const float *want = w.data;
        for (uint64_t k = 0; k < 4096 + 64; k++) {
            float got = k < 4096 ? z[k] : z[n - 64 + (k - 4096)];
            assert_true(fabsf(got - want[k]) <= (is_cpu ? 2e-6f : 3e-6f));
        }
        free(z);
    }
    assert_int_equal(met, 12);
    lx_weights_close(&golden);
}

static void expect_near(const char *name, uint64_t seed, uint32_t number, uint64_t n,
                        const double *at_and_value, size_t n_pairs)
{
    float *z = draw(name, seed, number, n);
    for (size_t i = 0; i < n_pairs; i++) {
        double got = (double)z[(size_t)at_and_value[2 * i]];
        if (fabs(got - at_and_value[2 * i + 1]) > 3e-6)
            fail_msg("%s: element %.0f is %.8f, not %.8f", name, at_and_value[2 * i], got,
                     at_and_value[2 * i + 1]);
    }
    free(z);
}

/* docs/noise.md: what other cards draw, and sizes that are not multiples of 16. */
static void test_torch_rng_geometries_and_odd_sizes(void **state)
{
    (void)state;
    expect_near("torch-cuda:rtx3060", 42, 0, LATENT_480P81,
                (double[]){100000, 0.46921331, 1000000, 0.19127963}, 2);
    expect_near("torch-cuda:82x1536", 42, 0, LATENT_480P81,
                (double[]){100000, 1.13047576, 1000000, 0.17547691}, 2);
    expect_near("torch-cuda:rtx4090", 42, 0, LATENT_480P81, (double[]){1000000, -0.40970021}, 1);
    expect_near("torch-cuda:a100", 42, 0, LATENT_480P81, (double[]){1000000, 0.07730212}, 1);
    expect_near("torch-cuda:rtx5090", 42, 0, LATENT_480P81, (double[]){1000000, 1.65854824}, 1);
    expect_near("torch-cuda:h100", ((uint64_t)1 << 40) + 7, 0, 4,
                (double[]){0, -0.47904953, 1, -1.27825058, 2, -0.24156630, 3, -0.38499945}, 4);
    expect_near("torch-cuda:h100", 42, 0, 10, (double[]){8, 0.52796447, 9, -1.27534986}, 2);
    expect_near("torch-cuda:h100", 42, 0, (uint64_t)16 * 21 * 90 * 160,
                (double[]){4838398, 0.23862647, 4838399, -0.07409237}, 2);
    expect_near("torch-cpu", 42, 0, 20,
                (double[]){0, 1.92691529, 3, -2.10552096, 4, -0.75813115, 5, 1.07831764}, 4);
    expect_near("torch-cpu", 42, 0, 10,
                (double[]){0, 0.33669037, 1, 0.12880941, 8, 0.46165723, 9, 0.26735088}, 4);
}

/* A later draw goes on where the generator stands: on the CPU that is plain concatenation in
 * multiples of 16 and below 16; on CUDA each call moves the offset by whole passes, so the second
 * draw of one pass is the second pass of a draw of twice the size. */
static void test_torch_rng_later_draws_continue(void **state)
{
    (void)state;
    const uint64_t sizes[] = {4608, 16, 6};
    for (int i = 0; i < 3; i++) {
        uint64_t n = sizes[i];
        float *third = draw("torch-cpu", 9, 2, n);
        float *whole = NULL;
        if (n >= 16) { /* uniforms are taken in order, groups of 16 are independent */
            whole = draw("torch-cpu", 9, 0, 3 * n);
            assert_memory_equal(third, whole + 2 * n, n * sizeof(float));
        } else { /* 12 normals of draws 0 and 1 are the first 12 of a stream of pairs */
            whole = draw("torch-cpu", 9, 0, 15);
            assert_memory_equal(third, whole + 12, 3 * sizeof(float));
        }
        free(third);
        free(whole);
    }
    const uint64_t per_pass = 4 * 256; /* one multiprocessor of 256 threads */
    float *second = draw("torch-cuda:1x256", 9, 1, per_pass);
    float *both = draw("torch-cuda:1x256", 9, 0, 2 * per_pass);
    assert_memory_equal(second, both + per_pass, per_pass * sizeof(float));
    free(second);
    free(both);
}

static void test_rng_refuses_unknown_names(void **state)
{
    (void)state;
    const char *bad[] = {"",
                         "torch",
                         "LX2V",
                         "lx2v ",
                         "torch-cuda",
                         "torch-cuda:",
                         "torch-cuda:0x2048",
                         "torch-cuda:132x",
                         "torch-cuda:132x255",
                         "torch-cuda:132x2048x",
                         "torch-cuda:-1x2048",
                         "torch-cuda: 1x2048",
                         "torch-cuda:99999999999x2048",
                         "torch-cuda:rtx9999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lx_err err = {0};
        lx_rng rng = {.kind = LX_RNG_TORCH_CPU, .n_multiprocessors = 77};
        assert_int_equal(lx_rng_parse(bad[i], &rng, &err), LX_ECONFIG);
        assert_non_null(strstr(err.message, "torch-cuda:SMSxTHREADS"));
        assert_int_equal(rng.n_multiprocessors, 77); /* outputs only on success */
    }
    lx_rng rng;
    assert_int_equal(lx_rng_parse("torch-cuda:rtx3090", &rng, NULL), LX_OK);
    assert_int_equal(rng.n_multiprocessors, 82);
    assert_int_equal(rng.threads_each, 1536);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_rng_functions_are_accurate),
        cmocka_unit_test(test_lx2v_same_bits_at_every_level),
        cmocka_unit_test(test_lx2v_is_normal_and_independent),
        cmocka_unit_test(test_torch_rng_matches_golden),
        cmocka_unit_test(test_torch_rng_geometries_and_odd_sizes),
        cmocka_unit_test(test_torch_rng_later_draws_continue),
        cmocka_unit_test(test_rng_refuses_unknown_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
