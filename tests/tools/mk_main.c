/*
 * mk_main.c - lx2v-mkmodel: write a random, deterministic model in a layout of the real ones
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mk.h"
#include "weights/lx_writer.h"

static const char usage[] =
    "usage: lx2v-mkmodel DIR [flags]\n"
    "  --preset small|1.3b|14b   dimensions (default small); single ones override:\n"
    "  --dit-dim --dit-ffn --dit-blocks --freq-dim --text-dim\n"
    "  --t5-vocab --t5-dim --t5-attn --t5-ffn --t5-layers --t5-heads --t5-buckets --vae-base N\n"
    "  --dit int8|fp8|bf16|f32|none      --dit-layout blocks|file|sharded (default blocks for\n"
    "                                    int8 and fp8, file otherwise)\n"
    "  --non-block f32|bf16              what is not quantized (default f32)\n"
    "  --t5 int8|fp8|bf16|f32|none       --t5-format pth|safetensors\n"
    "  --vae f32|bf16|none               --vae-format pth|safetensors\n"
    "  --tokenizer yes|no\n"
    "  --tree       as downloaded: DIR/distill_int8 (fp8, models) and DIR/google/umt5-xxl;\n"
    "               without it all files lie flat in DIR (a per-block DiT: with the rest)\n"
    "  --repeat-blocks  write one block file and hard-link the others to it\n"
    "  --sparse     headers and no values (they read as zeros): full size, no disk; for plans\n"
    "  --zip64      ZIP64 records in .pth files even where they are not needed\n"
    "  --seed N (default 1)   --threads N (default: one per core)   --quiet\n";

typedef struct settings {
    const char *out;
    mk_dims dims;
    const char *dit, *dit_layout, *non_block, *t5, *t5_format, *vae, *vae_format, *tokenizer;
    bool is_tree, repeat_blocks, is_quiet;
    mk_job job;
} settings;

static const struct {
    const char *name;
    mk_dims dims;
} presets[] = {
    {"small", {256, 512, 2, 256, 128, 1280, 128, 128, 256, 2, 2, 32, 8}},
    {"1.3b", {1536, 8960, 30, 256, 4096, 256384, 4096, 4096, 10240, 24, 64, 32, 96}},
    {"14b", {5120, 13824, 40, 256, 4096, 256384, 4096, 4096, 10240, 24, 64, 32, 96}},
};

/* --- flags ----------------------------------------------------------------------------------- */

static bool set_number(settings *s, const char *name, const char *text)
{
    const struct {
        const char *name;
        int64_t *value, least, most;
    } row[] = {
        {"dit-dim", &s->dims.dit_dim, 128, 65536},   {"dit-ffn", &s->dims.dit_ffn, 1, 1 << 20},
        {"dit-blocks", &s->dims.dit_blocks, 1, 999}, {"freq-dim", &s->dims.freq_dim, 2, 65536},
        {"text-dim", &s->dims.text_dim, 1, 65536},   {"t5-vocab", &s->dims.t5_vocab, 1, 1 << 24},
        {"t5-dim", &s->dims.t5_dim, 1, 65536},       {"t5-attn", &s->dims.t5_attn, 1, 65536},
        {"t5-ffn", &s->dims.t5_ffn, 1, 1 << 20},     {"t5-layers", &s->dims.t5_layers, 1, 999},
        {"t5-heads", &s->dims.t5_heads, 1, 4096},    {"t5-buckets", &s->dims.t5_buckets, 1, 4096},
        {"vae-base", &s->dims.vae_base, 1, 4096},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (strcmp(name, row[i].name))
            continue;
        char *end;
        long long value = strtoll(text, &end, 10);
        if (end == text || *end || value < row[i].least || value > row[i].most) {
            fprintf(stderr, "lx2v-mkmodel: --%s %s: expected %" PRId64 " to %" PRId64 "\n", name,
                    text, row[i].least, row[i].most);
            return false;
        }
        *row[i].value = value;
        return true;
    }
    fprintf(stderr, "lx2v-mkmodel: unknown flag --%s\n%s", name, usage);
    return false;
}

static bool set_word(settings *s, const char *name, const char *value, bool *is_known)
{
    const struct {
        const char *name, **value, *words;
    } row[] = {
        {"dit", &s->dit, "int8 fp8 bf16 f32 none"},
        {"dit-layout", &s->dit_layout, "blocks file sharded"},
        {"non-block", &s->non_block, "f32 bf16"},
        {"t5", &s->t5, "int8 fp8 bf16 f32 none"},
        {"t5-format", &s->t5_format, "pth safetensors"},
        {"vae", &s->vae, "f32 bf16 none"},
        {"vae-format", &s->vae_format, "pth safetensors"},
        {"tokenizer", &s->tokenizer, "yes no"},
    };
    *is_known = false;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        if (strcmp(name, row[i].name))
            continue;
        *is_known = true;
        size_t n = strlen(value);
        for (const char *w = row[i].words; *w; w += strcspn(w, " "), w += *w == ' ')
            if (n == strcspn(w, " ") && !strncmp(w, value, n)) {
                *row[i].value = value;
                return true;
            }
        fprintf(stderr, "lx2v-mkmodel: --%s %s: expected one of: %s\n", name, value, row[i].words);
        return false;
    }
    return true;
}

static bool set_value(settings *s, const char *name, const char *value)
{
    char *end;
    if (!strcmp(name, "seed") || !strcmp(name, "threads")) {
        uint64_t n = strtoull(value, &end, 10);
        if (end == value || *end || (*name == 't' && (n < 1 || n > 64))) {
            fprintf(stderr, "lx2v-mkmodel: --%s %s: not a number in range\n", name, value);
            return false;
        }
        if (*name == 's')
            s->job.seed = n;
        else
            s->job.threads = (int)n;
        return true;
    }
    if (!strcmp(name, "preset")) {
        for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
            if (!strcmp(presets[i].name, value)) {
                s->dims = presets[i].dims;
                return true;
            }
        fprintf(stderr, "lx2v-mkmodel: --preset %s: expected small, 1.3b or 14b\n", value);
        return false;
    }
    bool is_known;
    if (!set_word(s, name, value, &is_known))
        return false;
    return is_known || set_number(s, name, value);
}

static bool parse(settings *s, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (strncmp(word, "--", 2)) {
            if (s->out)
                return fprintf(stderr, "%s", usage), false;
            s->out = word;
        } else if (!strcmp(word, "--tree")) {
            s->is_tree = true;
        } else if (!strcmp(word, "--repeat-blocks")) {
            s->repeat_blocks = true;
        } else if (!strcmp(word, "--sparse")) {
            s->job.sparse = true;
        } else if (!strcmp(word, "--zip64")) {
            s->job.zip64 = true;
        } else if (!strcmp(word, "--quiet")) {
            s->is_quiet = true;
        } else if (i + 1 == argc || !strcmp(word, "--help")) {
            return fprintf(stderr, "%s", usage), false;
        } else if (!set_value(s, word + 2, argv[++i])) {
            return false;
        }
    }
    if (!s->out)
        return fprintf(stderr, "%s", usage), false;
    if (s->dims.dit_dim % 128 || s->dims.t5_attn % s->dims.t5_heads || s->dims.freq_dim % 2) {
        fprintf(stderr,
                "lx2v-mkmodel: --dit-dim must be a multiple of 128, --t5-attn of --t5-heads, "
                "--freq-dim of 2\n");
        return false;
    }
    return true;
}

/* --- files ----------------------------------------------------------------------------------- */

static lx_dtype dtype_of(const char *word)
{
    return !strcmp(word, "int8")   ? LX_DTYPE_I8
           : !strcmp(word, "fp8")  ? LX_DTYPE_F8_E4M3
           : !strcmp(word, "bf16") ? LX_DTYPE_BF16
                                   : LX_DTYPE_F32;
}

static bool is_coded(const char *word)
{
    return !strcmp(word, "int8") || !strcmp(word, "fp8");
}

static bool make_folder(const char *path)
{
    if (mkdir(path, 0755) && errno != EEXIST)
        return mk_failed(path, "cannot be made");
    return true;
}

static bool in_group(const mk_tensor *t, int64_t group)
{
    return t->group == group;
}

/* Halves of a sharded checkpoint: even blocks with the rest, odd blocks. */
static bool in_shard(const mk_tensor *t, int64_t shard)
{
    return (t->group < 0 ? 0 : t->group % 2) == shard;
}

/* The file that a tensor of a per-block or sharded checkpoint is in. */
static void name_file(char file[64], const mk_tensor *t, bool is_sharded)
{
    if (is_sharded)
        snprintf(file, 64, "diffusion_pytorch_model-0000%d-of-00002.safetensors",
                 in_shard(t, 1) ? 2 : 1);
    else if (t->group < 0)
        snprintf(file, 64, "non_block.safetensors");
    else
        snprintf(file, 64, "block_%d.safetensors", t->group);
}

static bool write_index(const char *folder, const mk_list *list, const mk_format *format,
                        bool is_sharded)
{
    char path[4200], (*text)[64 + 112] = calloc(list->n ? list->n : 1, sizeof *text);
    lx_index_line *line = calloc(list->n ? 2 * list->n : 1, sizeof *line);
    lx_err err = {0};
    size_t n = 0;
    bool ok = text && line;
    for (size_t i = 0; ok && i < list->n; i++) {
        const mk_tensor *t = &list->tensor[i];
        name_file(text[i], t, is_sharded);
        line[n++] = (lx_index_line){t->name, text[i]};
        if (!t->is_linear || !lx_dtype_is_code(format->linear))
            continue;
        snprintf(text[i] + 64, 112, "%s_scale", t->name);
        line[n++] = (lx_index_line){text[i] + 64, text[i]};
    }
    snprintf(path, sizeof path, "%s/diffusion_pytorch_model.safetensors.index.json", folder);
    ok = ok && lx_index_write(path, line, n, 0, &err) == LX_OK;
    free(text);
    free(line);
    return ok || mk_failed(path, *err.message ? err.message : "no memory");
}

static bool write_block(const settings *s, const char *folder, const mk_list *list,
                        const mk_format *format, int64_t n)
{
    char path[4200], first[4200];
    snprintf(path, sizeof path, "%s/block_%" PRId64 ".safetensors", folder, n);
    if (!s->repeat_blocks || !n)
        return mk_write(path, list, &(mk_part){in_group, n}, format, &s->job);
    snprintf(first, sizeof first, "%s/block_0.safetensors", folder);
    unlink(path);
    return link(first, path) == 0 || mk_failed(path, "cannot be linked");
}

static bool write_dit(const settings *s, const char *folder)
{
    mk_list list;
    char path[4200];
    bool coded = is_coded(s->dit);
    const char *layout = s->dit_layout ? s->dit_layout : coded ? "blocks" : "file";
    lx_dtype other = coded ? dtype_of(s->non_block) : dtype_of(s->dit);
    mk_format format = {.linear = dtype_of(s->dit), .other = other, .scale = LX_DTYPE_F32};
    if (!mk_list_dit(&list, &s->dims))
        return mk_failed(folder, "no memory");
    bool ok = true;
    if (!strcmp(layout, "file")) {
        snprintf(path, sizeof path, "%s/distill_model.safetensors", folder);
        ok = mk_write(path, &list, NULL, &format, &s->job);
    } else if (!strcmp(layout, "sharded")) {
        for (int shard = 0; ok && shard < 2; shard++) {
            snprintf(path, sizeof path, "%s/diffusion_pytorch_model-0000%d-of-00002.safetensors",
                     folder, shard + 1);
            ok = mk_write(path, &list, &(mk_part){in_shard, shard}, &format, &s->job);
        }
        ok = ok && write_index(folder, &list, &format, true);
    } else {
        for (int64_t n = 0; ok && n < s->dims.dit_blocks; n++) {
            ok = write_block(s, folder, &list, &format, n);
            if (!s->is_quiet)
                fprintf(stderr, "block %" PRId64 " of %" PRId64 "\r", n + 1, s->dims.dit_blocks);
        }
        snprintf(path, sizeof path, "%s/non_block.safetensors", folder);
        ok = ok && mk_write(path, &list, &(mk_part){in_group, -1}, &format, &s->job);
        /* Linked blocks are named by their files; an index would contradict them. */
        ok = ok && (s->repeat_blocks || write_index(folder, &list, &format, false));
    }
    mk_list_free(&list);
    return ok;
}

static bool write_one(const settings *s, const char *path, const mk_list *list,
                      const mk_format *format)
{
    if (!s->is_quiet)
        fprintf(stderr, "%s\n", path);
    return mk_write(path, list, NULL, format, &s->job);
}

static bool write_t5(const settings *s, const char *folder)
{
    mk_list list;
    char path[4200];
    bool coded = is_coded(s->t5);
    lx_dtype other = coded ? LX_DTYPE_BF16 : dtype_of(s->t5);
    mk_format format = {.linear = dtype_of(s->t5), .other = other, .scale = LX_DTYPE_BF16};
    snprintf(path, sizeof path, "%s/models_t5_umt5-xxl-enc-%s.%s", folder, s->t5, s->t5_format);
    if (!mk_list_t5(&list, &s->dims))
        return mk_failed(folder, "no memory");
    bool ok = write_one(s, path, &list, &format);
    mk_list_free(&list);
    return ok;
}

static bool write_vae(const settings *s, const char *folder)
{
    mk_list list;
    char path[4200];
    lx_dtype type = dtype_of(s->vae);
    mk_format format = {.linear = type, .other = type, .scale = LX_DTYPE_F32};
    snprintf(path, sizeof path, "%s/Wan2.1_VAE.%s", folder, s->vae_format);
    if (!mk_list_vae(&list, &s->dims))
        return mk_failed(folder, "no memory");
    bool ok = write_one(s, path, &list, &format);
    mk_list_free(&list);
    return ok;
}

static bool write_model(const settings *s)
{
    char models[4100], tokenizer[4100];
    snprintf(models, sizeof models, "%s", s->out);
    snprintf(tokenizer, sizeof tokenizer, "%s", s->out);
    bool ok = make_folder(s->out), has_tokenizer = !strcmp(s->tokenizer, "yes");
    if (s->is_tree) {
        snprintf(models, sizeof models, "%s/distill_%s", s->out,
                 is_coded(s->dit) ? s->dit : "models");
        ok = ok && make_folder(models);
        snprintf(tokenizer, sizeof tokenizer, "%s/google", s->out);
        ok = ok && (!has_tokenizer || make_folder(tokenizer));
        snprintf(tokenizer, sizeof tokenizer, "%s/google/umt5-xxl", s->out);
        ok = ok && (!has_tokenizer || make_folder(tokenizer));
    }
    ok = ok && (!strcmp(s->dit, "none") || write_dit(s, models));
    ok = ok && (!strcmp(s->t5, "none") || write_t5(s, models));
    ok = ok && (!strcmp(s->vae, "none") || write_vae(s, models));
    return ok && (!has_tokenizer || mk_write_tokenizer(tokenizer, s->dims.t5_vocab));
}

int main(int argc, char **argv)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    settings s = {.dims = presets[0].dims,
                  .dit = "int8",
                  .non_block = "f32",
                  .t5 = "int8",
                  .t5_format = "pth",
                  .vae = "f32",
                  .vae_format = "pth",
                  .tokenizer = "yes",
                  .job = {.seed = 1, .threads = cores > 0 && cores < 64 ? (int)cores : 1}};
    if (!parse(&s, argc, argv))
        return 2;
    return write_model(&s) ? 0 : 1;
}
