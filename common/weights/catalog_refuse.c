/*
 * catalog_refuse.c - files that look like the model and are not
 * SPDX-License-Identifier: Apache-2.0
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "catalog_internal.h"

/* How a tensor's name is compared. */
typedef enum where { START, END, INSIDE } where;

typedef struct sign {
    where where;
    const char *text;
    const char *what; /* what the file is, and what to do */
} sign;

static bool shows(const char *name, const sign *s)
{
    size_t n = strlen(name), m = strlen(s->text);
    if (s->where == START)
        return !strncmp(name, s->text, m);
    if (s->where == END)
        return n >= m && !strcmp(name + n - m, s->text);
    return strstr(name, s->text) != NULL;
}

/* The signs in their order of importance; the first that any tensor shows is the answer. */
static lx_status refuse_by_names(const lx_weights *w, const sign *signs, size_t n, lx_err *err)
{
    for (size_t s = 0; s < n; s++)
        for (size_t i = 0; i < lx_weights_count(w); i++) {
            const char *name = lx_weights_at(w, i).name;
            if (shows(name, &signs[s]))
                return lx_fail(err, LX_ECONFIG, "%s: this is %s (it has %.120s)",
                               lx_weights_path(w), signs[s].what, name);
        }
    return LX_OK;
}

#define LORA "a LoRA, not a model; LoRA files are not supported yet, use the merged checkpoint"
#define COMFY                                                                                      \
    "a ComfyUI scaled checkpoint (one scale per tensor); not supported yet, use "                  \
    "LightX2V's own int8 or fp8 checkpoint"
#define DIFFUSERS                                                                                  \
    "a diffusers checkpoint; diffusers naming is not supported yet, use the "                      \
    "original or LightX2V layout"
#define I2V     "an image-to-video model; only text-to-video is supported"
#define ANY_VAE "a VAE, not this model; it belongs under model.vae"

static const sign common_signs[] = {
    {INSIDE, ".lora_down.", LORA}, {INSIDE, ".lora_up.", LORA}, {INSIDE, ".lora_A.", LORA},
    {INSIDE, ".lora_B.", LORA},    {INSIDE, "_lora.", LORA},    {INSIDE, ".lora.", LORA},
    {END, ".diff", LORA},          {END, ".diff_b", LORA},      {END, ".diff_m", LORA},
    {END, ".scale_weight", COMFY}, {END, "scaled_fp8", COMFY},  {END, ".comfy_quant", COMFY},
};

static const sign dit_signs[] = {
    {START, "condition_embedder.", DIFFUSERS},
    {INSIDE, ".attn1.", DIFFUSERS},
    {START, "img_emb.", I2V},
    {INSIDE, ".k_img.", I2V},
    {INSIDE, ".v_img.", I2V},
    {INSIDE, ".affine_norm",
     "an advanced-PTQ checkpoint; its channel smoothing is not supported, use the plain int8 or "
     "fp8 checkpoint"},
    {END, ".weight_global_scale", "an nvfp4 checkpoint; not supported, use int8 or fp8"},
    {START, "token_embedding.", "a T5 text encoder, not a DiT; it belongs under model.text"},
    {START, "encoder.block.", "a T5 text encoder, not a DiT; it belongs under model.text"},
    {START, "decoder.", ANY_VAE},
};

static const sign t5_signs[] = {
    {START, "token_embd.",
     "a GGUF-named encoder; not supported yet, use "
     "models_t5_umt5-xxl-enc-*.pth"},
    {START, "patch_embedding.", "a DiT, not a text encoder; it belongs under model.dit"},
    {START, "decoder.middle.", ANY_VAE},
};

static const sign vae_signs[] = {
    {START, "decoder.upsamples.0.upsamples.0.",
     "the Wan2.2 VAE (48 channels); Wan2.1 needs Wan2.1_VAE.pth"},
    {START, "decoder.conv_in.",
     "a diffusers VAE; diffusers naming is not supported yet, use "
     "Wan2.1_VAE.pth"},
    {START, "decoder.22.", "a tiny decoder (TAEHV); not supported yet, use Wan2.1_VAE.pth"},
    {START, "first_stage_model.", "a prefixed VAE of another tool; use Wan2.1_VAE.pth"},
    {START, "patch_embedding.", "a DiT, not a VAE; it belongs under model.dit"},
    {START, "token_embedding.", "a T5 text encoder, not a VAE; it belongs under model.text"},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* --- names on disk --------------------------------------------------------------------------- */

/* Lower case, without separators: "Wan2_2-T2V-A14B" -> "wan22t2va14b". */
static void squeeze(char *out, size_t room, const char *text)
{
    size_t n = 0;
    for (; *text && n + 1 < room; text++)
        if (isalnum((unsigned char)*text))
            out[n++] = (char)tolower((unsigned char)*text);
    out[n] = 0;
}

/* The k-th component of a path from its end (0: the file), squeezed; "" if there is none. */
static void component(char *out, size_t room, const char *path, int k)
{
    const char *end = path + strlen(path);
    while (end > path && end[-1] == '/')
        end--;
    for (;; k--) {
        const char *start = end;
        while (start > path && start[-1] != '/')
            start--;
        if (!k || start == path) {
            char part[256];
            snprintf(part, sizeof part, "%.*s", k ? 0 : (int)(end - start), start);
            squeeze(out, room, part);
            return;
        }
        end = start - 1;
    }
}

/* Names of the two experts of Wan2.2 A14B: their shapes are those of Wan2.1 14B. */
static bool says_wan22(const char *name)
{
    return strstr(name, "highnoise") || strstr(name, "lownoise") || strstr(name, "wan22") ||
           strstr(name, "a14b");
}

static lx_status refuse_wan22(const lx_weights *w, lx_err *err)
{
    char name[256];
    for (int k = 0; k < 2; k++) {
        component(name, sizeof name, lx_weights_path(w), k);
        if (strstr(name, "wan21"))
            return LX_OK;
        if (says_wan22(name))
            return lx_fail(err, LX_ECONFIG,
                           "%s: its name says Wan2.2 (one of two experts of A14B, high or low "
                           "noise); only Wan2.1 text-to-video is supported",
                           lx_weights_path(w));
    }
    return LX_OK;
}

/* "step_distill", "distill_int8", "lightx2v_4step", ... in a file's or folder's name. */
bool lx_says_distilled(const char *path)
{
    char name[256];
    for (int k = 0; k < 3; k++) {
        component(name, sizeof name, path, k);
        if (strstr(name, "distill") || strstr(name, "4step"))
            return true;
    }
    /* A manifest in the folder, or beside the file, may say it in its text. */
    char manifest[4096], line[512];
    FILE *file = NULL;
    const char *slash = strrchr(path, '/');
    const int folder = slash ? (int)(slash - path) + 1 : 0;
    snprintf(manifest, sizeof manifest, "%s/manifest.sha256", path);
    file = fopen(manifest, "re");
    if (!file) {
        snprintf(manifest, sizeof manifest, "%.*smanifest.sha256", folder, path);
        file = fopen(manifest, "re");
    }
    bool says = false;
    for (int n = 0; file && !says && n < 10000 && fgets(line, sizeof line, file); n++)
        says = strstr(line, "distill") != NULL;
    if (file)
        fclose(file);
    return says;
}

/* --- the three questions --------------------------------------------------------------------- */

static int64_t dim(const lx_weights *w, const char *name, int d)
{
    lx_weight found;
    return lx_weights_find(w, name, &found) && d < found.shape.n_dims ? found.shape.dim[d] : 0;
}

lx_status lx_refuse_for_dit(const lx_weights *w, lx_err *err)
{
    lx_status status = refuse_by_names(w, common_signs, COUNT(common_signs), err);
    if (status == LX_OK)
        status = refuse_by_names(w, dit_signs, COUNT(dit_signs), err);
    if (status != LX_OK)
        return status;
    int64_t channels = dim(w, "patch_embedding.weight", 1);
    if (channels == 36)
        return lx_fail(err, LX_ECONFIG,
                       "%s: this is an image-to-video model (36 input channels; without img_emb "
                       "it is Wan2.2 I2V-A14B); only text-to-video is supported",
                       lx_weights_path(w));
    if (channels == 48)
        return lx_fail(err, LX_ECONFIG,
                       "%s: this is Wan2.2 TI2V-5B or a control model (48 input channels); only "
                       "Wan2.1 text-to-video is supported",
                       lx_weights_path(w));
    lx_weight q;
    if (lx_weights_find(w, "blocks.0.self_attn.q.weight", &q) && q.dtype == LX_DTYPE_U8)
        return lx_fail(err, LX_ECONFIG,
                       "%s: this is an nvfp4 or mxfp4 checkpoint (U8 weights); not supported, use "
                       "int8 or fp8",
                       lx_weights_path(w));
    return refuse_wan22(w, err);
}

/* Hugging Face naming. T5 v1.1 has one bias table for all layers and 32128 rows. */
static lx_status refuse_hf_t5(const lx_weights *w, lx_err *err)
{
    lx_weight unused;
    bool is_hf = lx_weights_find(w, "shared.weight", &unused) ||
                 lx_weights_find(w, "encoder.embed_tokens.weight", &unused);
    bool has_second_table = lx_weights_find(
        w, "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", &unused);
    bool has_second_layer =
        lx_weights_find(w, "encoder.block.1.layer.0.SelfAttention.q.weight", &unused);
    if (dim(w, "shared.weight", 0) == 32128 || dim(w, "token_embedding.weight", 0) == 32128 ||
        dim(w, "encoder.embed_tokens.weight", 0) == 32128 ||
        (is_hf && has_second_layer && !has_second_table) ||
        lx_weights_find(w, "pos_embedding.embedding.weight", &unused))
        return lx_fail(err, LX_ECONFIG, "%s: this is a T5 v1.1 encoder, Wan needs UMT5-XXL",
                       lx_weights_path(w));
    if (is_hf)
        return lx_fail(err, LX_ECONFIG,
                       "%s: this is a Hugging Face (or ComfyUI) text encoder; its naming is not "
                       "supported yet, use models_t5_umt5-xxl-enc-*.pth",
                       lx_weights_path(w));
    return LX_OK;
}

lx_status lx_refuse_for_t5(const lx_weights *w, lx_err *err)
{
    lx_status status = refuse_hf_t5(w, err);
    if (status == LX_OK)
        status = refuse_by_names(w, common_signs, COUNT(common_signs), err);
    return status == LX_OK ? refuse_by_names(w, t5_signs, COUNT(t5_signs), err) : status;
}

lx_status lx_refuse_for_vae(const lx_weights *w, lx_err *err)
{
    lx_status status = refuse_by_names(w, common_signs, COUNT(common_signs), err);
    if (status == LX_OK)
        status = refuse_by_names(w, vae_signs, COUNT(vae_signs), err);
    if (status == LX_OK && dim(w, "conv2.weight", 0) == 48)
        status = lx_fail(err, LX_ECONFIG,
                         "%s: this is the Wan2.2 VAE (48 channels); Wan2.1 needs Wan2.1_VAE.pth",
                         lx_weights_path(w));
    return status;
}
