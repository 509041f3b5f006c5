/*
 * test_attention_image.c - images of keys and values, read as wgmma is documented to read operands
 * SPDX-License-Identifier: Apache-2.0
 *
 * Model     PTX ISA, wgmma: a descriptor of a K-major operand with 128-byte swizzle gives start and
 *           stride; byte b of row n of a step is at start + n / 8 * stride + n % 8 * 128 + b, with
 *           bits 4-6 of that address XORed with bits 7-9. Of a 64-row operand A in registers and of
 *           sums, warp w has rows 16 w .. 16 w + 15, lane 4 g + t as below. So products over these
 *           images are done here in integers, and must be those of the matrices.
 */
#include "check.h"
#include "cuda/attention_image.h"

enum { KEYS = LX_CU_IMAGE_KEYS, CHANNELS = LX_CU_IMAGE_CHANNELS, BASE = 3 * 1024 };

/* Shared memory; an image begins at BASE. */
typedef struct memory {
    uint8_t byte[BASE + LX_CU_IMAGE_V_F16_BYTES];
} memory;

/* Address of byte `b` of row n that the hardware reads for this descriptor. */
static int read_at(uint64_t descriptor, int n, int b)
{
    int start = (int)(descriptor & 0x3fff) << 4, stride = (int)(descriptor >> 32 & 0x3fff) << 4;
    assert_int_equal(descriptor >> 62, 1);       /* 128-byte swizzle */
    assert_int_equal(descriptor >> 46 & 0xf, 0); /* reserved */
    assert_int_equal(descriptor >> 49 & 7, 0);   /* base offset: images begin at 1,024 bytes */
    int linear = start + n / 8 * stride + n % 8 * 128 + b;
    return linear ^ (linear >> 7 & 7) << 4;
}

/* A number that tells row and column apart from all others nearby. */
static uint8_t number(int key, int channel)
{
    return (uint8_t)(key * 31 + channel * 7 + key * channel % 13);
}

static uint16_t number16(int key, int channel)
{
    return (uint16_t)(key * 128 + channel + 1);
}

static memory *make(int bytes, int (*at)(int key, int channel), bool is_16)
{
    memory *m = check_alloc(1, sizeof *m);
    uint8_t *was_written = check_alloc(bytes, 1);
    for (int key = 0; key < KEYS; key++)
        for (int c = 0; c < CHANNELS; c++)
            for (int b = 0; b <= is_16; b++) {
                int place = at(key, c) + b;
                assert_in_range(place, 0, bytes - 1);
                assert_int_equal(was_written[place]++, 0);
                m->byte[BASE + place] =
                    is_16 ? (uint8_t)(number16(key, c) >> 8 * b) : number(key, c);
            }
    free(was_written);
    return m;
}

static void test_keys_are_rows_of_operand_b(void **state)
{
    (void)state;
    memory *m = make(LX_CU_IMAGE_OPERAND, lx_cu_image_key_at, false);
    for (int step = 0; step < CHANNELS / 32; step++)
        for (int key = 0; key < KEYS; key++)
            for (int b = 0; b < 32; b++) {
                uint64_t d = lx_cu_image_descriptor(BASE) + 2 * (uint64_t)step;
                assert_int_equal(m->byte[read_at(d, key, b)], number(key, 32 * step + b));
            }
    free(m);
}

/* A lane's two scales are those of every key that it has a score of. */
static void test_scales_are_those_of_a_lane(void **state)
{
    (void)state;
    for (int i = 0; i < 64; i++) /* scores of a lane */
        for (int t = 0; t < 4; t++) {
            int key = i / 4 * 8 + 2 * t + i % 2;
            assert_int_equal(lx_cu_image_scale_at(lx_cu_image_group(key)),
                             lx_cu_image_scale_at(t) + 16 * (i / 32));
        }
    assert_true(lx_cu_image_scale_at(0) == LX_CU_IMAGE_OPERAND); /* what is copied ends there */
    assert_true(lx_cu_image_scale_at(8) <= LX_CU_IMAGE_K_BYTES && LX_CU_IMAGE_OPERAND % 16 == 0);
}

/* Which of a warp's rows and which key a score of lane (g, t) is of; and at which k of its step the
 * tensor cores take its weight. */
typedef struct weight {
    int row, key, k;
} weight;

static weight weight_of(int score, int g, int t)
{
    return (weight){.row = score / 2 % 2 * 8 + g, .key = score / 4 * 8 + 2 * t + score % 2};
}

static void check_values(const memory *m, bool is_fp8)
{
    int parts = is_fp8 ? 4 : 2, registers = is_fp8 ? 16 : 32, of_step = is_fp8 ? 32 : 16;
    uint8_t was_seen[16][KEYS] = {{0}};
    for (int lane = 0; lane < 32; lane++)
        for (int reg = 0; reg < registers; reg++)
            for (int part = 0; part < parts; part++) {
                int g = lane / 4, t = lane % 4, step = reg / 4;
                int score =
                    is_fp8 ? lx_cu_image_fp8_score(reg) + part / 2 * 4 + part % 2 : 2 * reg + part;
                weight w = weight_of(score, g, t);
                w.k = reg % 4 / 2 * (of_step / 2) + t * parts + part;
                assert_int_equal(w.row, g + 8 * (reg % 2));
                was_seen[w.row][w.key]++;
                uint64_t d = lx_cu_image_descriptor(BASE) + 2 * (uint64_t)(step % 4);
                d += is_fp8 ? 0 : (uint64_t)(step / 4) * (LX_CU_IMAGE_OPERAND / 16);
                for (int c = 0; c < CHANNELS; c++) {
                    const uint8_t *b = m->byte + read_at(d, c, w.k * (is_fp8 ? 1 : 2));
                    int is = is_fp8 ? b[0] : b[0] | b[1] << 8;
                    assert_int_equal(is, is_fp8 ? number(w.key, c) : number16(w.key, c));
                }
            }
    for (int i = 0; i < 16 * KEYS; i++)
        assert_int_equal(was_seen[i / KEYS][i % KEYS], 1);
}

static void test_weights_meet_their_values_in_fp8(void **state)
{
    (void)state;
    memory *m = make(LX_CU_IMAGE_V_FP8_BYTES, lx_cu_image_fp8_at, false);
    check_values(m, true);
    free(m);
}

static void test_weights_meet_their_values_in_f16(void **state)
{
    (void)state;
    memory *m = make(LX_CU_IMAGE_V_F16_BYTES, lx_cu_image_f16_at, true);
    check_values(m, false);
    free(m);
}

/* Token at each place of 16, as operand A of FP8 products lies in a lane. */
static void test_places_are_those_of_operand_a(void **state)
{
    (void)state;
    static const int token[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
    for (int p = 0; p < 16; p++)
        assert_int_equal(lx_cu_image_fp8_place(token[p]), p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_are_rows_of_operand_b),
        cmocka_unit_test(test_scales_are_those_of_a_lane),
        cmocka_unit_test(test_places_are_those_of_operand_a),
        cmocka_unit_test(test_weights_meet_their_values_in_fp8),
        cmocka_unit_test(test_weights_meet_their_values_in_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
