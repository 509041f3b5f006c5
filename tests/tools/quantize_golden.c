/*
 * quantize_golden.c - the per-block int8 and fp8 forms of the golden DiT, made instead of kept
 * SPDX-License-Identifier: Apache-2.0
 *
 * usage: quantize_golden distill_model.safetensors OUT
 * Writes OUT/distill_int8 and OUT/distill_fp8: block_N.safetensors, non_block.safetensors. Every
 * tensor is bit-identical to LightX2V's converter on the same file (tests/golden/quantized.fnv).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "mk.h"
#include "weights/lx_catalog.h"

#define MAX_TENSORS 64 /* of one file */

typedef struct part {
    lx_named_tensor tensor[MAX_TENSORS];
    void *owned[2 * MAX_TENSORS];
    char names[MAX_TENSORS][128];
    size_t n, n_owned;
} part;

static void part_free(part *p)
{
    for (size_t i = 0; i < p->n_owned; i++)
        free(p->owned[i]);
    *p = (part){0};
}

/* The ten linears of a block, which LightX2V's converter quantizes. */
static bool is_linear(const lx_weight *w)
{
    return w->shape.n_dims == 2 && !strncmp(w->name, "blocks.", 7) &&
           (strstr(w->name, ".self_attn.") || strstr(w->name, ".cross_attn.") ||
            strstr(w->name, ".ffn."));
}

static bool add_quantized(part *p, const lx_weight *w, lx_dtype dtype)
{
    int64_t rows = w->shape.dim[0], cols = w->shape.dim[1];
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    unsigned char *codes = malloc((size_t)(rows * cols));
    float *scale = malloc((size_t)rows * sizeof *scale);
    p->owned[p->n_owned++] = codes;
    p->owned[p->n_owned++] = scale;
    bool ok = values && codes && scale && p->n + 2 <= MAX_TENSORS &&
              lx_widen_to_f32(values, w->data, w->dtype, (size_t)(rows * cols));
    for (int64_t r = 0; ok && r < rows; r++)
        mk_quantize_row(values + r * cols, (size_t)cols, dtype, false, codes + r * cols, &scale[r]);
    free(values);
    if (!ok)
        return false;
    snprintf(p->names[p->n], sizeof p->names[0], "%s_scale", w->name);
    p->tensor[p->n] = (lx_named_tensor){p->names[p->n], {LX_DTYPE_F32, LX_SHAPE(rows, 1), scale}};
    p->n++;
    p->tensor[p->n++] = (lx_named_tensor){w->name, {dtype, w->shape, codes}};
    return true;
}

/* Block `n`, or what is in no block (-1). */
static bool write_part(const lx_weights *weights, const char *folder, int64_t n, lx_dtype dtype,
                       lx_err *err)
{
    static part p; /* too large for the stack */
    char prefix[32], path[4200];
    bool ok = true;
    snprintf(prefix, sizeof prefix, "blocks.%" PRId64 ".", n);
    for (size_t i = 0; ok && i < lx_weights_count(weights); i++) {
        lx_weight w = lx_weights_at(weights, i);
        bool is_mine =
            n < 0 ? strncmp(w.name, "blocks.", 7) != 0 : !strncmp(w.name, prefix, strlen(prefix));
        if (!is_mine)
            continue;
        if (is_linear(&w))
            ok = add_quantized(&p, &w, dtype);
        else if ((ok = p.n < MAX_TENSORS))
            p.tensor[p.n++] = (lx_named_tensor){w.name, {w.dtype, w.shape, (void *)w.data}};
    }
    if (n < 0)
        snprintf(path, sizeof path, "%s/non_block.safetensors", folder);
    else
        snprintf(path, sizeof path, "%s/block_%" PRId64 ".safetensors", folder, n);
    ok = ok && lx_safetensors_write(path, p.tensor, p.n, err) == LX_OK;
    part_free(&p);
    return ok;
}

static bool write_folder(const lx_weights *weights, int64_t n_blocks, const char *folder,
                         lx_dtype dtype, lx_err *err)
{
    if (mkdir(folder, 0755) && errno != EEXIST)
        return mk_failed(folder, "cannot be made");
    bool ok = true;
    for (int64_t n = -1; ok && n < n_blocks; n++)
        ok = write_part(weights, folder, n, dtype, err);
    return ok;
}

int main(int argc, char **argv)
{
    lx_err err = {0};
    lx_weights *weights = NULL;
    lx_dit_dims dims;
    if (argc != 3)
        return fprintf(stderr, "usage: quantize_golden distill_model.safetensors OUT\n"), 2;
    bool ok = lx_weights_open(&weights, argv[1], NULL, &err) == LX_OK &&
              lx_catalog_dit(weights, &dims, &err) == LX_OK;
    char folder[4100];
    if (ok && mkdir(argv[2], 0755) && errno != EEXIST)
        ok = mk_failed(argv[2], "cannot be made");
    snprintf(folder, sizeof folder, "%s/distill_int8", argv[2]);
    ok = ok && write_folder(weights, dims.n_blocks, folder, LX_DTYPE_I8, &err);
    snprintf(folder, sizeof folder, "%s/distill_fp8", argv[2]);
    ok = ok && write_folder(weights, dims.n_blocks, folder, LX_DTYPE_F8_E4M3, &err);
    if (!ok)
        fprintf(stderr, "quantize_golden: %s\n", *err.message ? err.message : "failed");
    lx_weights_close(&weights);
    return ok ? 0 : 1;
}
