/*
 * convert_plan.c - which tensor goes into which file, as what
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"

#define SMALL (64u << 10) /* bytes: tensors up to this are read at once and kept */

static const char *name_of(lx_quant quant)
{
    return quant == LX_QUANT_INT8 ? "int8" : quant == LX_QUANT_FP8 ? "fp8" : "bf16";
}

/* --- the source ------------------------------------------------------------------------------ */

typedef struct wish {
    bool (*wants)(const char *, void *);
    size_t n_left_out;
} wish;

static bool wants(const char *name, void *self)
{
    wish *w = self;
    bool is_wanted = w->wants(name, NULL);
    w->n_left_out += !is_wanted;
    return is_wanted;
}

static bool stays_on_disk(const char *name, uint64_t bytes, void *self)
{
    (void)name;
    (void)self;
    return bytes > SMALL;
}

static lx_status open_source(convert_plan *p, int64_t *n_blocks, lx_err *err)
{
    const convert_job *job = p->job;
    wish w = {.wants = job->is_text ? lx_catalog_t5_wants : lx_catalog_dit_wants};
    const lx_weights_options options = {.wants = wants, .self = &w, .on_disk = stays_on_disk};
    lx_t5_dims t5;
    lx_dit_dims dit;
    lx_status status = lx_weights_open(&p->weights, job->source, &options, err);
    if (status != LX_OK)
        return status;
    p->n_left_out = w.n_left_out;
    status =
        job->is_text ? lx_catalog_t5(p->weights, &t5, err) : lx_catalog_dit(p->weights, &dit, err);
    if (status != LX_OK)
        return status;
    p->from = job->is_text ? t5.quant : dit.quant;
    *n_blocks = job->is_text ? 0 : dit.n_blocks;
    if (p->from != LX_QUANT_NONE && job->to != LX_QUANT_NONE && p->from != job->to)
        return lx_fail(err, LX_ECONFIG,
                       "%s: is %s already: to %s it would lose twice; convert the bf16 checkpoint "
                       "instead",
                       job->source, name_of(p->from), name_of(job->to));
    return LX_OK;
}

/* --- tensors --------------------------------------------------------------------------------- */

/* The linears of the blocks: 2-D weights whose third component is one of these (LightX2V,
 * tools/convert/converter.py). */
static bool is_linear(const lx_weight *w)
{
    static const char *const parts[] = {"self_attn.", "cross_attn.", "attn.", "ffn."};
    if (w->shape.n_dims != 2 || strncmp(w->name, "blocks.", 7))
        return false;
    const char *part = strchr(w->name + 7, '.');
    for (size_t i = 0; part && i < sizeof parts / sizeof *parts; i++)
        if (!strncmp(part + 1, parts[i], strlen(parts[i])))
            return true;
    return false;
}

static int file_of(const convert_plan *p, const char *name)
{
    if (!p->job->folder)
        return 0;
    return strncmp(name, "blocks.", 7) ? (int)p->n_files - 1 : (int)strtol(name + 7, NULL, 10);
}

static lx_status plan_tensor(convert_plan *p, convert_tensor *t, lx_weight from, lx_err *err)
{
    static const lx_dtype codes[] = {
        [LX_QUANT_NONE] = LX_DTYPE_BF16,
        [LX_QUANT_INT8] = LX_DTYPE_I8,
        [LX_QUANT_FP8] = LX_DTYPE_F8_E4M3,
    };
    const lx_quant to = p->job->to;
    bool is_code = from.scale != NULL;
    *t = (convert_tensor){.from = from, .dtype = from.dtype, .file = file_of(p, from.name)};
    lx_weights_extent(p->weights, from.name, &t->extent);
    if (to == LX_QUANT_NONE)
        t->how = is_code                       ? CONVERT_DEQUANTIZE
                 : from.dtype != LX_DTYPE_BF16 ? CONVERT_ROUND
                                               : CONVERT_KEEP;
    else
        t->how = is_linear(&from) && !is_code ? CONVERT_QUANTIZE : CONVERT_KEEP;
    if (t->how != CONVERT_KEEP)
        t->dtype = codes[to];
    uint64_t in, out, rows = (uint64_t)from.shape.dim[0];
    lx_shape_bytes(&from.shape, from.dtype, NULL, &in, NULL); /* the loader's, so checked */
    lx_shape_bytes(&from.shape, t->dtype, NULL, &out, NULL);
    p->bytes += in;
    p->bytes_out += out;
    if (t->how != CONVERT_QUANTIZE && !(t->how == CONVERT_KEEP && is_code))
        return LX_OK;
    p->bytes_out += rows * sizeof(float);
    if (asprintf(&t->scale_name, "%s_scale", from.name) < 0) {
        t->scale_name = NULL;
        return lx_fail(err, LX_EAGAIN, "out of memory");
    }
    return LX_OK;
}

/* Numbers within names count as numbers: block 2 is before block 10. */
static int in_order(const void *a, const void *b)
{
    const convert_tensor *x = a, *y = b;
    return x->file != y->file ? x->file - y->file : strverscmp(x->from.name, y->from.name);
}

static lx_status plan_files(convert_plan *p, int64_t n_blocks, lx_err *err)
{
    p->n_files = p->job->folder ? (size_t)n_blocks + 1 : 1;
    p->file = calloc(p->n_files, sizeof *p->file);
    if (!p->file)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    if (!p->job->folder)
        return LX_OK;
    for (size_t i = 0; i + 1 < p->n_files; i++)
        snprintf(p->file[i].name, sizeof p->file[i].name, "block_%d.safetensors", (int)i);
    snprintf(p->file[n_blocks].name, sizeof p->file->name, "non_block.safetensors");
    return LX_OK;
}

lx_status convert_plan_make(convert_plan *p, const convert_job *job, lx_err *err)
{
    int64_t n_blocks = 0;
    *p = (convert_plan){.job = job};
    lx_status status = open_source(p, &n_blocks, err);
    if (status == LX_OK)
        status = plan_files(p, n_blocks, err);
    size_t n = status == LX_OK ? lx_weights_count(p->weights) : 0;
    if (status == LX_OK && !(p->tensor = calloc(n, sizeof *p->tensor)))
        status = lx_fail(err, LX_EAGAIN, "%s: out of memory", job->source);
    while (status == LX_OK && p->n < n) {
        status = plan_tensor(p, &p->tensor[p->n], lx_weights_at(p->weights, p->n), err);
        p->n++;
    }
    if (status != LX_OK)
        return status;
    qsort(p->tensor, p->n, sizeof *p->tensor, in_order);
    for (size_t i = 0; i < p->n; i++) {
        convert_file *f = &p->file[p->tensor[i].file];
        if (!f->n++)
            f->first = i;
    }
    return LX_OK;
}

void convert_plan_free(convert_plan *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->tensor[i].scale_name);
    free(p->tensor);
    free(p->file);
    lx_weights_close(&p->weights);
    *p = (convert_plan){0};
}
