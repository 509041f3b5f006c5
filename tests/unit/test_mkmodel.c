/*
 * test_mkmodel.c - the model maker's layouts all hold the same model
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#include "weights/lx_catalog.h"
#include "weights/lx_model_dir.h"
#include "weights_hash.h"
#include "weights_make.h"

/* Runs lx2v-mkmodel into a subfolder of the scratch folder. */
static void make(const scratch *s, const char *name, const char *flags)
{
    char command[1024];
    snprintf(command, sizeof command, LX2V_BIN_DIR "/lx2v-mkmodel %s/%s --quiet %s", s->dir, name,
             flags);
    if (system(command) != 0)
        fail_msg("%s", command);
}

static void expect_same(const char *a, const char *b)
{
    lx_weights *x = open_ok(a), *y = open_ok(b);
    assert_int_equal(lx_weights_count(x), lx_weights_count(y));
    for (size_t i = 0; i < lx_weights_count(x); i++) {
        lx_weight p = lx_weights_at(x, i), q = lx_weights_at(y, i);
        assert_string_equal(p.name, q.name);
        if (hash_of(&p) != hash_of(&q))
            fail_msg("%s differs in %s and %s", p.name, a, b);
    }
    lx_weights_close(&x);
    lx_weights_close(&y);
}

static void test_layouts_hold_the_same_model(void **state)
{
    (void)state;
    scratch s = scratch_open();
    make(&s, "file", "--dit int8 --dit-layout file --t5 int8 --t5-format safetensors --threads 1");
    make(&s, "blocks", "--dit int8 --dit-layout blocks --t5 int8 --threads 3");
    make(&s, "sharded", "--dit int8 --dit-layout sharded --t5 int8 --zip64");
    expect_same(in(&s, "file/distill_model.safetensors"), in(&s, "blocks"));
    expect_same(in(&s, "file/distill_model.safetensors"),
                in(&s, "sharded/diffusion_pytorch_model.safetensors.index.json"));
    expect_same(in(&s, "file/models_t5_umt5-xxl-enc-int8.safetensors"),
                in(&s, "blocks/models_t5_umt5-xxl-enc-int8.pth"));
    expect_same(in(&s, "file/models_t5_umt5-xxl-enc-int8.safetensors"),
                in(&s, "sharded/models_t5_umt5-xxl-enc-int8.pth"));
    make(&s, "other", "--dit none --t5 none --vae-format safetensors");
    expect_same(in(&s, "other/Wan2.1_VAE.safetensors"), in(&s, "file/Wan2.1_VAE.pth"));
    remove_tree(s.dir);
}

/* Codes times scale are the bf16 model's values within half a step (int8) or 1/16 (e4m3). */
static void test_quantized_forms_are_near_the_source(void **state)
{
    (void)state;
    scratch s = scratch_open();
    const char *flags[] = {"--dit bf16 --t5 bf16 --vae none", "--dit int8 --t5 int8 --vae none",
                           "--dit fp8 --t5 fp8 --vae none"};
    lx_weights *w[3];
    for (int i = 0; i < 3; i++) {
        make(&s, "m", flags[i]);
        w[i] = open_ok(i ? in(&s, "m") : in(&s, "m/distill_model.safetensors"));
        remove_tree(in(&s, "m"));
    }
    lx_weight x[3];
    for (int i = 0; i < 3; i++)
        assert_true(lx_weights_find(w[i], "blocks.1.ffn.2.weight", &x[i]));
    double sum = 0;
    size_t rows = (size_t)x[0].shape.dim[0], cols = (size_t)x[0].shape.dim[1];
    for (size_t i = 0; i < rows * cols; i++) {
        float v = lx_f32_from_bf16(((const uint16_t *)x[0].data)[i]);
        float q = (float)((const int8_t *)x[1].data)[i] * x[1].scale[i / cols];
        float f = lx_f32_from_f8_e4m3(((const uint8_t *)x[2].data)[i]) * x[2].scale[i / cols];
        assert_true(fabsf(v - q) <= 0.5001f * x[1].scale[i / cols]);
        assert_true(fabsf(v - f) <= fabsf(v) / 16 + x[2].scale[i / cols] / 512);
        sum += (double)v * v;
    }
    double deviation = sqrt(sum / (double)(rows * cols)) * sqrt((double)cols);
    assert_true(deviation > 0.97 && deviation < 1.03); /* 1 / sqrt(fan_in) */
    for (int i = 0; i < 3; i++)
        lx_weights_close(&w[i]);
    remove_tree(s.dir);
}

static void check_models(const lx_model_paths *p, lx_dit_dims *d, lx_t5_dims *t, lx_vae_dims *v)
{
    lx_err err = {0};
    lx_weights *w = open_ok(p->dit);
    if (lx_catalog_dit(w, d, &err) != LX_OK)
        fail_msg("%s", err.message);
    lx_weights_close(&w);
    w = open_ok(p->text);
    if (lx_catalog_t5(w, t, &err) != LX_OK)
        fail_msg("%s", err.message);
    lx_weights_close(&w);
    w = open_ok(p->vae);
    if (lx_catalog_vae(w, v, &err) != LX_OK)
        fail_msg("%s", err.message);
    lx_weights_close(&w);
}

static void test_any_dimensions_in_a_tree(void **state)
{
    (void)state;
    static lx_model_paths p;
    lx_dit_dims d;
    lx_t5_dims t;
    lx_vae_dims v;
    lx_err err = {0};
    scratch s = scratch_open();
    make(&s, "m",
         "--tree --dit fp8 --non-block bf16 --t5 f32 --vae bf16 --dit-dim 384 --dit-ffn 200 "
         "--dit-blocks 3 --freq-dim 64 --text-dim 96 --t5-vocab 700 --t5-dim 96 --t5-attn 60 "
         "--t5-ffn 100 --t5-layers 1 --t5-heads 3 --t5-buckets 16 --vae-base 4");
    if (lx_model_resolve(&p, in(&s, "m"), NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    check_models(&p, &d, &t, &v);
    assert_true(d.dim == 384 && d.ffn_dim == 200 && d.n_blocks == 3 && d.freq_dim == 64);
    assert_true(d.text_dim == 96 && d.n_heads == 3 && d.quant == LX_QUANT_FP8);
    assert_true(d.says_distilled);
    assert_true(t.vocab == 700 && t.dim == 96 && t.dim_attn == 60 && t.dim_ffn == 100);
    assert_true(t.n_layers == 1 && t.n_heads == 3 && t.n_buckets == 16);
    assert_true(v.width[0] == 16 && v.width[4] == 4);
    remove_tree(s.dir);
}

static void test_repeated_blocks_are_links(void **state)
{
    (void)state;
    struct stat st;
    lx_dit_dims d;
    scratch s = scratch_open();
    make(&s, "m", "--repeat-blocks --dit-blocks 5 --t5 none --vae none --tokenizer no");
    assert_int_equal(stat(in(&s, "m/block_4.safetensors"), &st), 0);
    assert_int_equal(st.st_nlink, 5);
    lx_weights *w = open_ok(in(&s, "m"));
    assert_int_equal(lx_catalog_dit(w, &d, NULL), LX_OK);
    assert_int_equal(d.n_blocks, 5);
    lx_weights_close(&w);
    remove_tree(s.dir);
}

/* What config.yaml uses as it stands. */
static void test_the_built_model_is_whole(void **state)
{
    (void)state;
    static lx_model_paths p;
    lx_dit_dims d;
    lx_t5_dims t;
    lx_vae_dims v;
    lx_err err = {0};
    if (lx_model_resolve(&p, LX2V_BUILD_DIR "/models/random", NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    check_models(&p, &d, &t, &v);
    assert_int_equal(d.text_dim, t.dim);
    assert_int_equal(d.quant, LX_QUANT_INT8);
    json_t *tokenizer =
        json_load_file(LX2V_BUILD_DIR "/models/random/google/umt5-xxl/tokenizer.json", 0, NULL);
    assert_non_null(tokenizer);
    size_t pieces = json_array_size(json_object_get(json_object_get(tokenizer, "model"), "vocab"));
    size_t added = json_array_size(json_object_get(tokenizer, "added_tokens"));
    assert_true(pieces + added - 4 <= (size_t)t.vocab); /* every id has a row */
    json_decref(tokenizer);
}

static void test_bad_flags_are_refused(void **state)
{
    (void)state;
    static const char *const flags[] = {"--dit int4",  "--dit-dim 100", "--t5-heads 3",
                                        "--nothing 1", "--threads 0",   "--preset huge",
                                        "--t5-vocab",  "--dit-dim 0"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        char command[512];
        snprintf(command, sizeof command,
                 LX2V_BIN_DIR "/lx2v-mkmodel /tmp/lx2v-unused %s 2>&1 "
                              "> /dev/null | grep -q .",
                 flags[i]);
        assert_int_equal(system(command), 0); /* something is said */
        snprintf(command, sizeof command,
                 LX2V_BIN_DIR "/lx2v-mkmodel /tmp/lx2v-unused %s 2> /dev/null", flags[i]);
        assert_int_equal(WEXITSTATUS(system(command)), 2);
    }
    assert_int_equal(access("/tmp/lx2v-unused", F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layouts_hold_the_same_model),
        cmocka_unit_test(test_quantized_forms_are_near_the_source),
        cmocka_unit_test(test_any_dimensions_in_a_tree),
        cmocka_unit_test(test_repeated_blocks_are_links),
        cmocka_unit_test(test_the_built_model_is_whole),
        cmocka_unit_test(test_bad_flags_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
