/*
 * dit_model.c - a checkpoint's tensors, in the places where the forward pass looks for them
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_model.h"

#include <ctype.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Smaller tensors (biases, gains, modulation) stay in memory: not worth a read of a disk. */
#define DISK_LEAST ((uint64_t)64 << 10)

static lx_status find(const dit *m, const char *name, lx_weight *out, lx_err *err)
{
    if (lx_weights_find(m->weights, name, out))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG, "%s: tensor %s is missing", lx_weights_path(m->weights), name);
}

static lx_status find_in(const dit *m, const char *prefix, const char *suffix, lx_weight *out,
                         lx_err *err)
{
    char name[2 * DIT_NAME];
    snprintf(name, sizeof name, "%s.%s", prefix, suffix);
    return find(m, name, out, err);
}

static lx_status find_linear(const dit *m, const char *prefix, const char *suffix, dit_linear *out,
                             lx_err *err)
{
    snprintf(out->name, sizeof out->name, "%s%s%s", prefix, *prefix ? "." : "", suffix);
    DIT_TRY(find_in(m, out->name, "weight", &out->w, err));
    DIT_TRY(find_in(m, out->name, "bias", &out->b, err));
    return LX_OK;
}

/* [1, n, D] viewed as one row, as lx_gather_rows reads it. */
static lx_status find_modulation(const dit *m, const char *prefix, int64_t n, lx_weight *out,
                                 lx_err *err)
{
    DIT_TRY(find_in(m, prefix, "modulation", out, err));
    uint64_t elements;
    DIT_TRY(lx_shape_bytes(&out->shape, out->dtype, &elements, NULL, err));
    if (elements != (uint64_t)n * (uint64_t)m->dims.dim)
        return lx_fail(err, LX_ECONFIG, "%s: %s has %" PRIu64 " values, %" PRId64 " are needed",
                       lx_weights_path(m->weights), out->name, elements, n * m->dims.dim);
    out->shape = LX_SHAPE(1, n * m->dims.dim);
    return LX_OK;
}

static lx_status find_attention(const dit *m, const char *block, const char *kind,
                                dit_attention *out, lx_err *err)
{
    char prefix[DIT_NAME];
    snprintf(prefix, sizeof prefix, "%.40s.%s", block, kind);
    DIT_TRY(find_linear(m, prefix, "q", &out->q, err));
    DIT_TRY(find_linear(m, prefix, "k", &out->k, err));
    DIT_TRY(find_linear(m, prefix, "v", &out->v, err));
    DIT_TRY(find_linear(m, prefix, "o", &out->o, err));
    DIT_TRY(find_in(m, prefix, "norm_q.weight", &out->norm_q, err));
    return find_in(m, prefix, "norm_k.weight", &out->norm_k, err);
}

static bool is_coded(const dit_linear *l)
{
    return l->w.dtype == LX_DTYPE_I8 || (l->w.dtype == LX_DTYPE_F8_E4M3 && l->w.scale);
}

static bool have_one_form(const dit_linear *a, const dit_linear *b)
{
    return is_coded(a) == is_coded(b) && (!is_coded(a) || a->w.dtype == b->w.dtype);
}

/* Linears that share one input must want it in one form. */
static lx_status check_shared_inputs(const dit *m, const dit_block *b, lx_err *err)
{
    const dit_block *first = &m->blocks[0];
    if (have_one_form(&b->self.k, &b->self.q) && have_one_form(&b->self.v, &b->self.q) &&
        have_one_form(&b->cross.k, &first->cross.k) && have_one_form(&b->cross.v, &first->cross.k))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "%s: %s: q, k, v are stored in different types; all must be float, I8 or "
                   "F8_E4M3",
                   lx_weights_path(m->weights), b->name);
}

static lx_status find_block(dit *m, int64_t n, lx_err *err)
{
    dit_block *b = &m->blocks[n];
    snprintf(b->name, sizeof b->name, "blocks.%" PRId64, n);
    DIT_TRY(find_modulation(m, b->name, 6, &b->modulation, err));
    DIT_TRY(find_in(m, b->name, "norm3.weight", &b->norm3_gain, err));
    DIT_TRY(find_in(m, b->name, "norm3.bias", &b->norm3_bias, err));
    DIT_TRY(find_attention(m, b->name, "self_attn", &b->self, err));
    DIT_TRY(find_attention(m, b->name, "cross_attn", &b->cross, err));
    DIT_TRY(find_linear(m, b->name, "ffn.0", &b->ffn0, err));
    DIT_TRY(find_linear(m, b->name, "ffn.2", &b->ffn2, err));
    return check_shared_inputs(m, b, err);
}

/* --- a block as lists ------------------------------------------------------------------------ */

#define AT(member) offsetof(dit_block, member)

static const size_t main_at[DIT_MAIN_WEIGHTS] = {
    AT(modulation),  AT(norm3_gain), AT(norm3_bias), AT(self.q.w),  AT(self.q.b),  AT(self.k.w),
    AT(self.k.b),    AT(self.v.w),   AT(self.v.b),   AT(self.o.w),  AT(self.o.b),  AT(self.norm_q),
    AT(self.norm_k), AT(cross.q.w),  AT(cross.q.b),  AT(cross.o.w), AT(cross.o.b), AT(cross.norm_q),
    AT(ffn0.w),      AT(ffn0.b),     AT(ffn2.w),     AT(ffn2.b)};
static const size_t keys_at[DIT_KEYS_WEIGHTS] = {AT(cross.k.w), AT(cross.k.b), AT(cross.v.w),
                                                 AT(cross.v.b), AT(cross.norm_k)};

static const lx_weight *weight_at(const dit_block *b, size_t at)
{
    return (const lx_weight *)(const void *)((const char *)b + at);
}

void dit_block_list_main(const dit_block *block, lx_weight *weights)
{
    for (size_t i = 0; i < DIT_MAIN_WEIGHTS; i++)
        weights[i] = *weight_at(block, main_at[i]);
}

void dit_block_list_keys(const dit_block *block, lx_weight *weights)
{
    for (size_t i = 0; i < DIT_KEYS_WEIGHTS; i++)
        weights[i] = *weight_at(block, keys_at[i]);
}

void dit_block_bind_main(dit_block *block, const lx_weight *weights)
{
    for (size_t i = 0; i < DIT_MAIN_WEIGHTS; i++)
        *(lx_weight *)(void *)((char *)block + main_at[i]) = weights[i];
}

void dit_block_bind_keys(dit_block *block, const lx_weight *weights)
{
    for (size_t i = 0; i < DIT_KEYS_WEIGHTS; i++)
        *(lx_weight *)(void *)((char *)block + keys_at[i]) = weights[i];
}

static lx_status check_dims(const dit *m, lx_err *err)
{
    const lx_dit_dims *d = &m->dims;
    if (d->n_blocks < 1 || d->in_dim != d->out_dim || d->freq_dim % 2 ||
        d->n_heads * d->head_dim != d->dim || d->head_dim % 2)
        return lx_fail(err, LX_ECONFIG,
                       "%s: not a text-to-video DiT: %" PRId64 " blocks, %" PRId64
                       " channels in and %" PRId64 " out, %" PRId64 " heads of %" PRId64
                       " for a width of %" PRId64,
                       lx_weights_path(m->weights), d->n_blocks, d->in_dim, d->out_dim, d->n_heads,
                       d->head_dim, d->dim);
    return LX_OK;
}

static lx_status find_all(dit *m, lx_err *err)
{
    DIT_TRY(lx_catalog_dit(m->weights, &m->dims, err));
    DIT_TRY(check_dims(m, err));
    DIT_TRY(find_linear(m, "", "patch_embedding", &m->patch, err));
    DIT_TRY(find_linear(m, "", "text_embedding.0", &m->text0, err));
    DIT_TRY(find_linear(m, "", "text_embedding.2", &m->text2, err));
    DIT_TRY(find_linear(m, "", "time_embedding.0", &m->time0, err));
    DIT_TRY(find_linear(m, "", "time_embedding.2", &m->time2, err));
    DIT_TRY(find_linear(m, "", "time_projection.1", &m->time_proj, err));
    DIT_TRY(find_linear(m, "", "head.head", &m->head, err));
    DIT_TRY(find_modulation(m, "head", 2, &m->head_modulation, err));
    m->blocks = calloc((size_t)m->dims.n_blocks, sizeof *m->blocks);
    if (!m->blocks)
        return lx_fail(err, LX_EAGAIN, "out of memory for the records of %" PRId64 " blocks",
                       m->dims.n_blocks);
    for (int64_t n = 0; n < m->dims.n_blocks; n++)
        DIT_TRY(find_block(m, n, err));
    return LX_OK;
}

static lx_status take_options(dit *m, const dit_options *options, lx_err *err)
{
    if (options)
        m->options = *options;
    if (m->options.text_len == 0)
        m->options.text_len = DIT_TEXT_LEN;
    if (m->options.text_len < 1 || m->options.text_len > DIT_TEXT_LEN_MAX || m->options.chunk < 0)
        return lx_fail(err, LX_ECONFIG, "text_len %" PRId64 ": accepted are 1 to %d",
                       m->options.text_len, DIT_TEXT_LEN_MAX);
    return LX_OK;
}

/* Who is asked about tensors while they are read. */
typedef struct reader {
    const dit *model;
    const dit_memory *plan; /* NULL: everything into memory */
} reader;

static bool is_wanted(const char *name, void *self)
{
    (void)self;
    return lx_catalog_dit_wants(name, NULL);
}

static bool stays_on_disk(const char *name, uint64_t bytes, void *self)
{
    const reader *r = self;
    char *end;
    if (!r->plan || strncmp(name, "blocks.", 7) || !isdigit((unsigned char)name[7]))
        return false;
    long long i = strtoll(name + 7, &end, 10);
    return *end == '.' && i < r->plan->n_blocks && bytes >= DISK_LEAST &&
           dit_is_on_disk(r->plan, i);
}

static lx_status open_weights(dit *m, const char *path, const dit_memory *plan,
                              const lx_progress *progress, lx_err *err)
{
    reader asked = {m, plan};
    lx_weights_options how = {.progress = progress,
                              .wants = is_wanted,
                              .on_disk = stays_on_disk,
                              .self = &asked,
                              .shared_fd = m->options.shared_fd,
                              .headers_only = m->options.is_header_only};
    DIT_TRY(lx_weights_open(&m->weights, path, &how, err));
    return find_all(m, err);
}

lx_status dit_load(dit **out, const char *path, const dit_options *options,
                   const lx_progress *progress, lx_err *err)
{
    dit *m = calloc(1, sizeof *m);
    if (!m)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a model");
    lx_status status = take_options(m, options, err);
    if (status == LX_OK)
        status = open_weights(m, path, NULL, progress, err);
    if (status != LX_OK) {
        dit_destroy(&m);
        return status;
    }
    *out = m;
    return LX_OK;
}

lx_status dit_read(dit *m, const dit_memory *plan, const lx_progress *progress, lx_err *err)
{
    if (!m->options.is_header_only)
        return LX_OK;
    lx_weights *headers = m->weights;
    m->weights = NULL;
    free(m->blocks);
    m->blocks = NULL;
    m->options.is_header_only = false;
    lx_status status = open_weights(m, lx_weights_path(headers), plan, progress, err);
    lx_weights_close(&headers);
    return status;
}

void dit_disk_bytes(const dit *m, int64_t i, uint64_t *all, uint64_t *step)
{
    lx_weight weights[DIT_MAIN_WEIGHTS + DIT_KEYS_WEIGHTS];
    *all = *step = 0;
    dit_block_list_main(&m->blocks[i], weights);
    dit_block_list_keys(&m->blocks[i], weights + DIT_MAIN_WEIGHTS);
    for (int k = 0; k < DIT_MAIN_WEIGHTS + DIT_KEYS_WEIGHTS; k++) {
        uint64_t bytes = 0;
        (void)lx_shape_bytes(&weights[k].shape, weights[k].dtype, NULL, &bytes, NULL);
        if (bytes < DISK_LEAST)
            continue;
        *all += bytes;
        *step += k < DIT_MAIN_WEIGHTS ? bytes : 0;
    }
}

void dit_destroy(dit **model)
{
    if (!model || !*model)
        return;
    if ((*model)->weights)
        lx_weights_close(&(*model)->weights);
    free((*model)->blocks);
    free(*model);
    *model = NULL;
}

const lx_dit_dims *dit_dims(const dit *model)
{
    return &model->dims;
}

const lx_weights *dit_weights(const dit *model)
{
    return model->weights;
}

int64_t dit_text_len(const dit *model)
{
    return model->options.text_len;
}
