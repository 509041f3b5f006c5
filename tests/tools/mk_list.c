/*
 * mk_list.c - the tensors of DiT, UMT5 encoder and VAE in Wan's naming
 * SPDX-License-Identifier: Apache-2.0
 *
 * Written from the names in Wan2.1's modules, and not shared with the catalog, so
 * that each can show the other's mistakes.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "mk.h"

static mk_tensor *add(mk_list *list, mk_kind kind, lx_shape shape, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* On failure list->tensor stays NULL-terminated by n = SIZE_MAX, which the callers report. */
static mk_tensor *add(mk_list *list, mk_kind kind, lx_shape shape, const char *format, ...)
{
    static mk_tensor lost; /* swallows writes after a failure */
    if (list->n == SIZE_MAX)
        return &lost;
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 256;
        mk_tensor *grown = realloc(list->tensor, room * sizeof *grown);
        if (!grown) {
            list->n = SIZE_MAX;
            return &lost;
        }
        list->tensor = grown;
        list->room = room;
    }
    mk_tensor *t = &list->tensor[list->n++];
    *t = (mk_tensor){.shape = shape, .kind = kind, .group = -1};
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
    return t;
}

void mk_list_free(mk_list *list)
{
    free(list->tensor);
    *list = (mk_list){0};
}

static bool done(mk_list *list)
{
    if (list->n != SIZE_MAX)
        return true;
    list->n = 0;
    mk_list_free(list);
    return false;
}

static void linear(mk_list *list, int64_t out, int64_t in, const char *name)
{
    add(list, MK_WEIGHT, LX_SHAPE(out, in), "%s.weight", name);
    add(list, MK_BIAS, LX_SHAPE(out), "%s.bias", name);
}

static void dit_block(mk_list *list, const mk_dims *d, int n)
{
    static const char *const attention[] = {"self_attn", "cross_attn"};
    size_t first = list->n;
    add(list, MK_MODULATION, LX_SHAPE(1, 6, d->dit_dim), "blocks.%d.modulation", n);
    add(list, MK_GAIN, LX_SHAPE(d->dit_dim), "blocks.%d.norm3.weight", n);
    add(list, MK_BIAS, LX_SHAPE(d->dit_dim), "blocks.%d.norm3.bias", n);
    for (int a = 0; a < 2; a++)
        for (const char *l = "qkvo"; *l; l++) {
            add(list, MK_WEIGHT, LX_SHAPE(d->dit_dim, d->dit_dim), "blocks.%d.%s.%c.weight", n,
                attention[a], *l)
                ->is_linear = true;
            add(list, MK_BIAS, LX_SHAPE(d->dit_dim), "blocks.%d.%s.%c.bias", n, attention[a], *l);
            if (*l == 'q' || *l == 'k')
                add(list, MK_GAIN, LX_SHAPE(d->dit_dim), "blocks.%d.%s.norm_%c.weight", n,
                    attention[a], *l);
        }
    add(list, MK_WEIGHT, LX_SHAPE(d->dit_ffn, d->dit_dim), "blocks.%d.ffn.0.weight", n)->is_linear =
        true;
    add(list, MK_BIAS, LX_SHAPE(d->dit_ffn), "blocks.%d.ffn.0.bias", n);
    add(list, MK_WEIGHT, LX_SHAPE(d->dit_dim, d->dit_ffn), "blocks.%d.ffn.2.weight", n)->is_linear =
        true;
    add(list, MK_BIAS, LX_SHAPE(d->dit_dim), "blocks.%d.ffn.2.bias", n);
    for (size_t i = first; list->n != SIZE_MAX && i < list->n; i++)
        list->tensor[i].group = n;
}

bool mk_list_dit(mk_list *list, const mk_dims *d)
{
    *list = (mk_list){0};
    add(list, MK_WEIGHT, LX_SHAPE(d->dit_dim, 16, 1, 2, 2), "patch_embedding.weight");
    add(list, MK_BIAS, LX_SHAPE(d->dit_dim), "patch_embedding.bias");
    linear(list, d->dit_dim, d->text_dim, "text_embedding.0");
    linear(list, d->dit_dim, d->dit_dim, "text_embedding.2");
    linear(list, d->dit_dim, d->freq_dim, "time_embedding.0");
    linear(list, d->dit_dim, d->dit_dim, "time_embedding.2");
    linear(list, 6 * d->dit_dim, d->dit_dim, "time_projection.1");
    add(list, MK_MODULATION, LX_SHAPE(1, 2, d->dit_dim), "head.modulation");
    linear(list, 64, d->dit_dim, "head.head");
    for (int n = 0; n < d->dit_blocks; n++)
        dit_block(list, d, n);
    return done(list);
}

bool mk_list_t5(mk_list *list, const mk_dims *d)
{
    *list = (mk_list){0};
    add(list, MK_EMBEDDING, LX_SHAPE(d->t5_vocab, d->t5_dim), "token_embedding.weight");
    for (int n = 0; n < d->t5_layers; n++) {
        const struct {
            mk_kind kind;
            int64_t out, in; /* in 0: a vector */
            const char *name;
        } row[] = {
            {MK_GAIN, d->t5_dim, 0, "norm1"},
            {MK_QUERY, d->t5_attn, d->t5_dim, "attn.q"},
            {MK_WEIGHT, d->t5_attn, d->t5_dim, "attn.k"},
            {MK_WEIGHT, d->t5_attn, d->t5_dim, "attn.v"},
            {MK_WEIGHT, d->t5_dim, d->t5_attn, "attn.o"},
            {MK_GAIN, d->t5_dim, 0, "norm2"},
            {MK_WEIGHT, d->t5_ffn, d->t5_dim, "ffn.gate.0"},
            {MK_WEIGHT, d->t5_ffn, d->t5_dim, "ffn.fc1"},
            {MK_WEIGHT, d->t5_dim, d->t5_ffn, "ffn.fc2"},
            {MK_TABLE, d->t5_buckets, d->t5_heads, "pos_embedding.embedding"},
        };
        for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
            lx_shape shape = row[i].in ? LX_SHAPE(row[i].out, row[i].in) : LX_SHAPE(row[i].out);
            add(list, row[i].kind, shape, "blocks.%d.%s.weight", n, row[i].name)->is_linear =
                row[i].kind == MK_WEIGHT || row[i].kind == MK_QUERY;
        }
    }
    add(list, MK_GAIN, LX_SHAPE(d->t5_dim), "norm.weight");
    return done(list);
}

static void residual(mk_list *list, int64_t a, int64_t b, const char *name)
{
    add(list, MK_GAIN, LX_SHAPE(a, 1, 1, 1), "%s.residual.0.gamma", name);
    add(list, MK_WEIGHT, LX_SHAPE(b, a, 3, 3, 3), "%s.residual.2.weight", name);
    add(list, MK_BIAS, LX_SHAPE(b), "%s.residual.2.bias", name);
    add(list, MK_GAIN, LX_SHAPE(b, 1, 1, 1), "%s.residual.3.gamma", name);
    add(list, MK_WEIGHT, LX_SHAPE(b, b, 3, 3, 3), "%s.residual.6.weight", name);
    add(list, MK_BIAS, LX_SHAPE(b), "%s.residual.6.bias", name);
    if (a != b) {
        add(list, MK_WEIGHT, LX_SHAPE(b, a, 1, 1, 1), "%s.shortcut.weight", name);
        add(list, MK_BIAS, LX_SHAPE(b), "%s.shortcut.bias", name);
    }
}

static void resample(mk_list *list, int64_t w, int at, bool has_time)
{
    add(list, MK_WEIGHT, LX_SHAPE(w / 2, w, 3, 3), "decoder.upsamples.%d.resample.1.weight", at);
    add(list, MK_BIAS, LX_SHAPE(w / 2), "decoder.upsamples.%d.resample.1.bias", at);
    if (!has_time)
        return;
    add(list, MK_WEIGHT, LX_SHAPE(2 * w, w, 3, 1, 1), "decoder.upsamples.%d.time_conv.weight", at);
    add(list, MK_BIAS, LX_SHAPE(2 * w), "decoder.upsamples.%d.time_conv.bias", at);
}

/* Decoder, conv2, and two tensors of the encoder's side that a reader must skip. */
bool mk_list_vae(mk_list *list, const mk_dims *d)
{
    const int64_t b = d->vae_base, top = 4 * b;
    const struct {
        int64_t in, out;
    } stage[] = {{top, top}, {top / 2, top}, {top / 2, 2 * b}, {b, b}};
    char name[64];
    *list = (mk_list){0};
    add(list, MK_WEIGHT, LX_SHAPE(b, 3, 3, 3, 3), "encoder.conv1.weight");
    add(list, MK_BIAS, LX_SHAPE(b), "encoder.conv1.bias");
    add(list, MK_WEIGHT, LX_SHAPE(32, 32, 1, 1, 1), "conv1.weight");
    add(list, MK_BIAS, LX_SHAPE(32), "conv1.bias");
    add(list, MK_WEIGHT, LX_SHAPE(16, 16, 1, 1, 1), "conv2.weight");
    add(list, MK_BIAS, LX_SHAPE(16), "conv2.bias");
    add(list, MK_WEIGHT, LX_SHAPE(top, 16, 3, 3, 3), "decoder.conv1.weight");
    add(list, MK_BIAS, LX_SHAPE(top), "decoder.conv1.bias");
    residual(list, top, top, "decoder.middle.0");
    add(list, MK_GAIN, LX_SHAPE(top, 1, 1), "decoder.middle.1.norm.gamma");
    add(list, MK_WEIGHT, LX_SHAPE(3 * top, top, 1, 1), "decoder.middle.1.to_qkv.weight");
    add(list, MK_BIAS, LX_SHAPE(3 * top), "decoder.middle.1.to_qkv.bias");
    add(list, MK_WEIGHT, LX_SHAPE(top, top, 1, 1), "decoder.middle.1.proj.weight");
    add(list, MK_BIAS, LX_SHAPE(top), "decoder.middle.1.proj.bias");
    residual(list, top, top, "decoder.middle.2");
    for (int s = 0; s < 4; s++) {
        for (int r = 0; r < 3; r++) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", 4 * s + r);
            residual(list, r ? stage[s].out : stage[s].in, stage[s].out, name);
        }
        if (s < 3)
            resample(list, stage[s].out, 4 * s + 3, s < 2);
    }
    add(list, MK_GAIN, LX_SHAPE(b, 1, 1, 1), "decoder.head.0.gamma");
    add(list, MK_WEIGHT, LX_SHAPE(3, b, 3, 3, 3), "decoder.head.2.weight");
    add(list, MK_BIAS, LX_SHAPE(3), "decoder.head.2.bias");
    return done(list);
}
