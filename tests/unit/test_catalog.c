/*
 * test_catalog.c - dimensions from shapes, what is missing or wrong, look-alikes by name
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "weights/lx_catalog.h"
#include "weights_make.h"

#define GOLDEN LX2V_SOURCE_DIR "/tests/golden/"
#define DIT    GOLDEN "distill_model.safetensors"
#define T5     GOLDEN "models_t5_umt5-xxl-enc-bf16.pth"
#define T5_I8  GOLDEN "models_t5_umt5-xxl-enc-int8.pth"
#define VAE    GOLDEN "Wan2.1_VAE.pth"

typedef enum model { MODEL_DIT, MODEL_T5, MODEL_VAE } model;

/* What is done to a golden model before it is checked. */
typedef struct edit {
    const char *remove; /* a tensor, or all that begin with it if it ends in '*' */
    const char *add;    /* an F32 tensor of `shape`, all zero (replaces one of that name) */
    lx_shape shape;
    lx_dtype dtype;   /* of `add` */
    const char *file; /* name to write it under */
} edit;

#define MAX_TENSORS 256

static unsigned char zeros[1 << 20];

static bool matches(const char *name, const char *pattern)
{
    size_t n = pattern ? strlen(pattern) : 0;
    return n && (pattern[n - 1] == '*' ? !strncmp(name, pattern, n - 1) : !strcmp(name, pattern));
}

/* Writes the edited model into `path`; scales become tensors of their own again. */
static void write_edited(const char *golden, const edit *e, const char *path)
{
    static lx_named_tensor t[MAX_TENSORS];
    static char names[MAX_TENSORS][128];
    lx_weights *w = NULL;
    lx_err err = {0};
    size_t n = 0;
    if (lx_weights_open(&w, golden, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < lx_weights_count(w); i++) {
        lx_weight x = lx_weights_at(w, i);
        if (matches(x.name, e->remove) || (e->add && !strcmp(x.name, e->add)))
            continue;
        t[n++] = (lx_named_tensor){x.name, {x.dtype, x.shape, (void *)x.data}};
        snprintf(names[n], sizeof names[n], "%s_scale", x.name);
        if (!x.scale || matches(names[n], e->remove))
            continue;
        t[n] = (lx_named_tensor){
            names[n], {LX_DTYPE_F32, LX_SHAPE(x.shape.dim[0]), (void *)(uintptr_t)x.scale}};
        n++;
    }
    if (e->add)
        t[n++] = (lx_named_tensor){e->add, {e->dtype, e->shape, zeros}};
    assert_int_equal(lx_safetensors_write(path, t, n, &err), LX_OK);
    lx_weights_close(&w);
}

static lx_status check_opened(model m, const char *path, const lx_weights_options *options,
                              lx_err *err)
{
    lx_weights *w = NULL;
    lx_dit_dims dit;
    lx_t5_dims t5;
    lx_vae_dims vae;
    lx_status status = lx_weights_open(&w, path, options, err);
    if (status == LX_OK)
        status = m == MODEL_DIT  ? lx_catalog_dit(w, &dit, err)
                 : m == MODEL_T5 ? lx_catalog_t5(w, &t5, err)
                                 : lx_catalog_vae(w, &vae, err);
    lx_weights_close(&w);
    return status;
}

static lx_status check(model m, const char *path, lx_err *err)
{
    return check_opened(m, path, NULL, err);
}

/* words NULL: accepted. */
static void expect_edit(model m, const char *golden, const edit *e, const char *words)
{
    scratch s = scratch_open();
    lx_err err = {0};
    const char *path = in(&s, e->file ? e->file : "distill.safetensors");
    write_edited(golden, e, path);
    lx_status status = check(m, path, &err);
    if (words ? status != LX_ECONFIG || !strstr(err.message, words) : status != LX_OK)
        fail_msg("-%s +%s: status %s, message \"%s\", expected \"%s\"", e->remove ? e->remove : "",
                 e->add ? e->add : "", lx_status_name(status), err.message, words ? words : "ok");
    remove_tree(s.dir);
}

/* --- dimensions ------------------------------------------------------------------------------ */

static void test_golden_dimensions(void **state)
{
    (void)state;
    lx_weights *w = NULL;
    lx_dit_dims d;
    lx_t5_dims t;
    lx_vae_dims v;
    lx_err err = {0};
    assert_int_equal(lx_weights_open(&w, DIT, NULL, &err), LX_OK);
    assert_int_equal(lx_catalog_dit(w, &d, &err), LX_OK);
    lx_weights_close(&w);
    assert_int_equal(d.dim, 256);
    assert_int_equal(d.ffn_dim, 512);
    assert_int_equal(d.freq_dim, 256);
    assert_int_equal(d.text_dim, 128);
    assert_int_equal(d.in_dim, 16);
    assert_int_equal(d.out_dim, 16);
    assert_int_equal(d.n_heads, 2);
    assert_int_equal(d.head_dim, 128);
    assert_int_equal(d.n_blocks, 2);
    assert_int_equal(d.quant, LX_QUANT_NONE);
    assert_true(d.says_distilled);
    assert_int_equal(lx_weights_open(&w, T5_I8, NULL, &err), LX_OK);
    assert_int_equal(lx_catalog_t5(w, &t, &err), LX_OK);
    lx_weights_close(&w);
    assert_int_equal(t.vocab, 512);
    assert_int_equal(t.dim, 128);
    assert_int_equal(t.dim_attn, 128);
    assert_int_equal(t.dim_ffn, 256);
    assert_int_equal(t.n_heads, 2);
    assert_int_equal(t.n_layers, 3);
    assert_int_equal(t.n_buckets, 32);
    assert_int_equal(t.quant, LX_QUANT_INT8);
    lx_weights_options options = {.wants = lx_catalog_vae_wants};
    assert_int_equal(lx_weights_open(&w, VAE, &options, &err), LX_OK);
    lx_weight unused;
    assert_false(lx_weights_find(w, "conv1.weight", &unused));
    assert_int_equal(lx_catalog_vae(w, &v, &err), LX_OK);
    lx_weights_close(&w);
    assert_int_equal(v.z_dim, 16);
    assert_memory_equal(v.width, ((int64_t[]){32, 32, 32, 16, 8}), sizeof v.width);
}

static void test_quantized_folders(void **state)
{
    static const struct {
        const char *folder;
        lx_quant quant;
    } row[] = {{LX2V_BUILD_DIR "/golden/distill_int8", LX_QUANT_INT8},
               {LX2V_BUILD_DIR "/golden/distill_fp8", LX_QUANT_FP8}};
    (void)state;
    for (int i = 0; i < 2; i++) {
        lx_weights *w = NULL;
        lx_dit_dims d;
        lx_err err = {0};
        if (lx_weights_open(&w, row[i].folder, NULL, &err) != LX_OK ||
            lx_catalog_dit(w, &d, &err) != LX_OK)
            fail_msg("%s", err.message);
        assert_int_equal(d.quant, row[i].quant);
        assert_int_equal(d.n_blocks, 2);
        lx_weights_close(&w);
    }
}

/* --- DiT ------------------------------------------------------------------------------------- */

#define Q0 "blocks.0.self_attn.q.weight"

static void test_dit_faults(void **state)
{
    const struct {
        edit e;
        const char *words;
    } row[] = {
        {{0}, NULL},
        {{.add = "vace_blocks.0.self_attn.q.weight", .shape = LX_SHAPE(4)}, NULL},
        {{.add = "vace_patch_embedding.bias", .shape = LX_SHAPE(4)}, NULL},
        {{.remove = "head.head.bias"},
         "1 tensors of the text-to-video DiT are missing: head.head.b"},
        {{.remove = "blocks.0.*"},
         "27 tensors of the text-to-video DiT are missing: blocks.0.modu"},
        {{.remove = "blocks.*"}, "27 tensors"},
        {{.remove = "patch_embedding.weight"}, "patch_embedding.weight"},
        {{.add = "blocks.3.norm3.bias", .shape = LX_SHAPE(256)}, "53 tensors"},
        {{.add = Q0, .shape = LX_SHAPE(256, 128)}, "shape [256, 128], expected [256, 256]"},
        {{.add = "blocks.1.modulation", .shape = LX_SHAPE(6, 256)},
         "has shape [6, 256], expected [1, 6, 256]"},
        {{.add = Q0, .shape = LX_SHAPE(256, 256), .dtype = LX_DTYPE_I64},
         "is I64; allowed are BF16"},
        {{.add = Q0, .shape = LX_SHAPE(256, 256), .dtype = LX_DTYPE_I8},
         "is I8 without " Q0 "_scale"},
        {{.add = Q0, .shape = LX_SHAPE(256, 256), .dtype = LX_DTYPE_F8_E4M3}, "is F8_E4M3 without"},
        {{.add = "head.head.weight", .shape = LX_SHAPE(64, 256), .dtype = LX_DTYPE_F8_E4M3},
         "is F8_E4M3; allowed are BF16, F16, F32"},
        {{.add = Q0, .shape = LX_SHAPE(256, 256), .dtype = LX_DTYPE_F16}, NULL},
        {{.add = Q0, .shape = LX_SHAPE(256, 256), .dtype = LX_DTYPE_U8}, "nvfp4"},
        {{.add = "extra.thing", .shape = LX_SHAPE(1)},
         "1 tensors that a text-to-video DiT does not"},
        {{.add = "x.weight_scale", .shape = LX_SHAPE(1)}, "x.weight_scale"},
        {{.add = "patch_embedding.weight", .shape = LX_SHAPE(256, 36, 1, 2, 2)}, "image-to-video"},
        {{.add = "patch_embedding.weight", .shape = LX_SHAPE(256, 48, 1, 2, 2)}, "TI2V-5B"},
        {{.add = "patch_embedding.weight", .shape = LX_SHAPE(256, 8, 1, 2, 2)}, "takes 8 channels"},
        {{.add = "patch_embedding.weight", .shape = LX_SHAPE(200, 16, 1, 2, 2)},
         "not a multiple of 128"},
        {{.add = "head.head.weight", .shape = LX_SHAPE(32, 256)}, "makes 8 channels"},
        {{.add = "img_emb.proj.0.weight", .shape = LX_SHAPE(4)}, "image-to-video"},
        {{.add = "blocks.0.cross_attn.k_img.weight", .shape = LX_SHAPE(4)}, "image-to-video"},
        {{.add = "blocks.0.ffn.0.lora_down.weight", .shape = LX_SHAPE(4)}, "a LoRA"},
        {{.add = "blocks.0.diff_m", .shape = LX_SHAPE(4)}, "a LoRA"},
        {{.add = "blocks.0.ffn.0.scale_weight", .shape = LX_SHAPE(1)}, "ComfyUI scaled"},
        {{.add = "scaled_fp8", .shape = LX_SHAPE(2)}, "ComfyUI scaled"},
        {{.add = "condition_embedder.time_proj.bias", .shape = LX_SHAPE(2)}, "diffusers"},
        {{.add = "blocks.0.attn1.to_q.bias", .shape = LX_SHAPE(2)}, "diffusers"},
        {{.add = "blocks.0.affine_norm1.weight", .shape = LX_SHAPE(2)}, "advanced-PTQ"},
        {{.file = "wan2.2_t2v_A14B_distill.safetensors"}, "says Wan2.2"},
        {{.file = "high_noise_model.safetensors"}, "says Wan2.2"},
        {{.file = "Wan2_2-low-noise.safetensors"}, "says Wan2.2"},
        {{.file = "wan2.1_t2v_14b_lightx2v_4step.safetensors"}, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        edit e = row[i].e;
        if (e.dtype == LX_DTYPE_F64)
            e.dtype = LX_DTYPE_F32;
        expect_edit(MODEL_DIT, DIT, &e, row[i].words);
    }
}

static void test_quantized_dit_faults(void **state)
{
    const char *folder = LX2V_BUILD_DIR "/golden/distill_int8";
    (void)state;
    expect_edit(MODEL_DIT, folder, &(edit){0}, NULL);
    expect_edit(MODEL_DIT, folder, &(edit){.remove = Q0 "_scale"}, "is I8 without");
    expect_edit(MODEL_DIT, folder,
                &(edit){.add = Q0, .shape = LX_SHAPE(256, 256), .dtype = LX_DTYPE_BF16}, NULL);
}

/* One NaN in one tensor: found, with its place. */
static void test_values_must_be_finite(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_err err = {0};
    const char *path = in(&s, "distill.safetensors");
    zeros[7 * 2 + 1] = 0x7f; /* element 7 of a BF16 tensor becomes 0x7fc0 */
    zeros[7 * 2] = 0xc0;
    edit e = {.add = "blocks.0.norm3.bias", .shape = LX_SHAPE(256), .dtype = LX_DTYPE_BF16};
    write_edited(DIT, &e, path);
    zeros[7 * 2] = zeros[7 * 2 + 1] = 0;
    assert_int_equal(check(MODEL_DIT, path, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "blocks.0.norm3.bias: element 7 is not finite"));
    remove_tree(s.dir);
}

/* The name says it, or a manifest in the folder; shapes cannot. */
static void test_distilled_is_said_not_seen(void **state)
{
    static const struct {
        const char *file, *manifest;
        bool says;
    } row[] = {{"model.safetensors", NULL, false},
               {"wan2.1_t2v_14b_lightx2v_4step.safetensors", NULL, true},
               {"Wan2.1-T2V-14B-StepDistill.safetensors", NULL, true},
               {"model.safetensors", "0123 distill_model.safetensors\n", true},
               {"model.safetensors", "0123 model.safetensors\n", false}};
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        scratch s = scratch_open();
        lx_weights *w = NULL;
        lx_dit_dims d;
        write_edited(DIT, &(edit){0}, in(&s, row[i].file));
        assert_int_equal(lx_weights_open(&w, in(&s, row[i].file), NULL, NULL), LX_OK);
        if (row[i].manifest)
            put_file(in(&s, "manifest.sha256"), row[i].manifest, strlen(row[i].manifest));
        assert_int_equal(lx_catalog_dit(w, &d, NULL), LX_OK);
        assert_int_equal(d.says_distilled, row[i].says);
        lx_weights_close(&w);
        remove_tree(s.dir);
    }
}

/* --- T5 and VAE ------------------------------------------------------------------------------ */

static void test_t5_faults(void **state)
{
    const struct {
        edit e;
        const char *words;
    } row[] = {
        {{0}, NULL},
        {{.add = "spiece_model", .shape = LX_SHAPE(8), .dtype = LX_DTYPE_U8}, NULL},
        {{.remove = "norm.weight"}, "1 tensors of the UMT5 encoder are missing: norm.weight"},
        {{.remove = "blocks.1.*"}, "10 tensors of the UMT5 encoder are missing"},
        {{.remove = "blocks.2.pos_embedding.embedding.weight"}, "blocks.2.pos_embedding"},
        {{.add = "blocks.0.ffn.fc2.weight", .shape = LX_SHAPE(128, 128)}, "expected [128, 256]"},
        {{.add = "token_embedding.weight", .shape = LX_SHAPE(32128, 8)}, "T5 v1.1"},
        {{.add = "pos_embedding.embedding.weight", .shape = LX_SHAPE(32, 2)}, "T5 v1.1"},
        {{.remove = "blocks.*", .add = "shared.weight", .shape = LX_SHAPE(512, 8)}, "Hugging Face"},
        {{.remove = "*", .add = "shared.weight", .shape = LX_SHAPE(32128, 8)}, "T5 v1.1"},
        {{.remove = "*", .add = "patch_embedding.bias", .shape = LX_SHAPE(8)}, "a DiT, not a text"},
        {{.remove = "*", .add = "token_embd.weight", .shape = LX_SHAPE(8)}, "GGUF-named"},
        {{.add = "blocks.0.attn.q.scale_weight", .shape = LX_SHAPE(1)}, "ComfyUI scaled"},
        {{.add = "blocks.0.pos_embedding.embedding.weight", .shape = LX_SHAPE(32, 3)},
         "not a multiple of the 3 heads"},
        {{.add = "token_embedding.weight", .shape = LX_SHAPE(0, 128)}, "it is empty"},
        {{.add = "extra", .shape = LX_SHAPE(3)}, "1 tensors that a UMT5 encoder does not have"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        edit e = row[i].e;
        if (e.dtype == LX_DTYPE_F64)
            e.dtype = LX_DTYPE_F32;
        expect_edit(MODEL_T5, T5, &e, row[i].words);
    }
    expect_edit(MODEL_T5, T5_I8, &(edit){.remove = "blocks.0.attn.q.weight_scale"},
                "is I8 without");
}

#define UP "decoder.upsamples."

static void test_vae_faults(void **state)
{
    const struct {
        edit e;
        const char *words;
    } row[] = {
        {{0}, NULL},
        {{.remove = "conv1.*"}, NULL}, /* the encoder's */
        {{.remove = "encoder.*"}, NULL},
        {{.remove = "conv2.bias"}, "1 tensors of the VAE decoder are missing: conv2.bias"},
        {{.remove = "decoder.conv1.weight"}, "1 tensors of the VAE decoder are missing: decoder.c"},
        {{.remove = UP "4.shortcut.*"}, "2 tensors of the VAE decoder"},
        {{.remove = UP "7.time_conv.weight"}, UP "7.time_conv.weight"},
        {{.add = UP "11.time_conv.weight", .shape = LX_SHAPE(4)}, "1 tensors that a VAE decoder"},
        {{.add = "decoder.conv1.weight", .shape = LX_SHAPE(32, 16, 3, 3)},
         "expected [32, 16, 3, 3, 3]"},
        {{.add = "conv2.weight", .shape = LX_SHAPE(48, 48, 1, 1, 1)}, "Wan2.2 VAE"},
        {{.add = "conv2.weight", .shape = LX_SHAPE(8, 8, 1, 1, 1)}, "8 latent channels"},
        {{.add = UP "0.upsamples.0.residual.2.weight", .shape = LX_SHAPE(4)}, "Wan2.2 VAE"},
        {{.add = "decoder.conv_in.weight", .shape = LX_SHAPE(4)}, "diffusers VAE"},
        {{.remove = "*", .add = "decoder.22.bias", .shape = LX_SHAPE(3)}, "tiny decoder"},
        {{.add = "decoder.head.2.bias", .shape = LX_SHAPE(3), .dtype = LX_DTYPE_I32}, "is I32"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        edit e = row[i].e;
        if (e.dtype == LX_DTYPE_F64)
            e.dtype = LX_DTYPE_F32;
        expect_edit(MODEL_VAE, VAE, &e, row[i].words);
    }
}

static void test_models_are_not_confused(void **state)
{
    (void)state;
    lx_err err = {0};
    assert_int_equal(check(MODEL_DIT, T5, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "a T5 text encoder"));
    assert_int_equal(check(MODEL_DIT, VAE, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "a VAE"));
    assert_int_equal(check(MODEL_T5, DIT, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "a DiT"));
    assert_int_equal(check(MODEL_VAE, T5, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "a T5 text encoder"));
}

/* Without reading a tensor: each golden model passes as itself and as nothing else. */
static void test_headers_are_enough(void **state)
{
    (void)state;
    static const struct {
        model m;
        const char *path;
    } row[] = {{MODEL_DIT, DIT}, {MODEL_T5, T5}, {MODEL_T5, T5_I8}, {MODEL_VAE, VAE}};
    const lx_weights_options headers = {.headers_only = true};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (int m = MODEL_DIT; m <= MODEL_VAE; m++) {
            lx_err err = {0};
            lx_status status = check_opened((model)m, row[i].path, &headers, &err);
            if (status != ((model)m == row[i].m ? LX_OK : LX_ECONFIG))
                fail_msg("%s as %d: %s, \"%s\"", row[i].path, m, lx_status_name(status),
                         err.message);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_dimensions),
        cmocka_unit_test(test_quantized_folders),
        cmocka_unit_test(test_dit_faults),
        cmocka_unit_test(test_quantized_dit_faults),
        cmocka_unit_test(test_values_must_be_finite),
        cmocka_unit_test(test_distilled_is_said_not_seen),
        cmocka_unit_test(test_t5_faults),
        cmocka_unit_test(test_vae_faults),
        cmocka_unit_test(test_headers_are_enough),
        cmocka_unit_test(test_models_are_not_confused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
