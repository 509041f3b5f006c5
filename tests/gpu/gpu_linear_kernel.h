/*
 * gpu_linear_kernel.h - linears' own kernels, each launched by itself: test_cuda_linear_int8, _fp8,
 *                       _bf16
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_TESTS_GPU_LINEAR_KERNEL_H
#define LX_TESTS_GPU_LINEAR_KERNEL_H

#include "cuda/cu_rows.h"
#include "gpu_linear.h"

/* --- shapes ---------------------------------------------------------------------------------- */

/* The simplest first: the first red line says most. One tile, then tails of each side, more tiles
 * than blocks, steps of K that are cut short. */
static const int64_t TILE_SHAPES[][3] = {
    {128, 256, 128}, {128, 256, 64},   {128, 256, 16},   {128, 256, 640},  {64, 64, 64},
    {1, 32, 16},     {1, 64, 16},      {17, 32, 48},     {127, 96, 80},    {129, 272, 144},
    {192, 256, 256}, {256, 512, 256},  {193, 320, 272},  {257, 288, 272},  {256, 512, 80},
    {300, 1024, 64}, {1000, 160, 336}, {1000, 192, 336}, {383, 544, 1040}, {383, 576, 1040},
    {130, 320, 384}, {385, 784, 128},
};
enum { N_TILE_SHAPES = sizeof TILE_SHAPES / sizeof *TILE_SHAPES };

/* Every block has several tiles, of one step of K, of two, of many. */
static const int64_t LARGE_SHAPES[][3] = {
    {1000, 1536, 1536}, {4096, 5120, 64},   {4100, 5120, 1024},  {4096, 5120, 5120},
    {1500, 13824, 512}, {900, 13824, 5120}, {1111, 5120, 13824}, {512, 5120, 5120},
    {1700, 5120, 256},  {1700, 5120, 384},  {1700, 5120, 640}};
enum { N_LARGE_SHAPES = sizeof LARGE_SHAPES / sizeof *LARGE_SHAPES };

/* With a sanitizer only such tiles. */
static inline bool is_small_shape(const int64_t shape[3])
{
    return shape[0] * shape[1] * shape[2] <= 10000000;
}

/* --- one call -------------------------------------------------------------------------------- */

static inline int launch(const gpu *g, const lx_cu_int8 *call)
{
    return g->cuda->module->linear->int8(g->cuda->dev, call);
}

/* A launch by itself: its code. */
static inline void must(const gpu *g, int code, const char *what)
{
    if (code)
        fail_msg("%s: %s (%d)", what, g->cuda->module->error_text(code), code);
}

/* All but which kind of operands these are, and the output. */
static inline lx_cu_int8 call_by(int design, const problem *p, const finish *f)
{
    lx_cu_int8 call = {.design = design, .k = p->k, .x = p->d_in.data, .w = p->d_w.data};
    call.e = (lx_cu_epilogue){.m = p->m, .n = p->n, .add_to_out = f->add};
    call.e.x_scale = p->d_in.scale;
    call.e.w_scale = p->d_w.scale;
    call.e.bias = f->bias ? lx_cu_vec_of(&p->d_bias) : (lx_cu_vec){0, NULL};
    call.e.activation = (int)f->activation;
    call.e.gate = f->gate ? p->d_gate : NULL;
    return call;
}

/* The output's bytes. by: what multiplies. */
static inline unsigned char *run_call(gpu *g, const problem *p, const finish *f, lx_cu_int8 call,
                                      const char *by)
{
    size_t bytes, mark = lx_arena_mark(g->store);
    unsigned char *out = out_before(p, f, &bytes);
    call.e.out = (lx_cu_mat){(int)f->out, p->m, p->n, p->n + f->gap, gpu_put(g, out, bytes)};
    must(g, launch(g, &call), by);
    gpu_get(g, out, call.e.out.data, bytes);
    check_gaps(p, f, out);
    lx_arena_reset(g->store, mark);
    return out;
}

/* The sums of squares of a BF16 output's rows: the parts that the kernel leaves, folded. */
static inline float *run_squares(gpu *g, const problem *p, lx_cu_int8 call, const char *by)
{
    const int64_t part = LX_CU_INT8_PART(call.design), parts = (p->n + part - 1) / part;
    size_t mark = lx_arena_mark(g->store), bytes = (size_t)(parts * p->m) * sizeof(float);
    float *sums = gpu_take(g, bytes), *square = gpu_take(g, (size_t)p->m * sizeof *square);
    void *out = gpu_take(g, (size_t)(p->m * p->n) * 2);
    call.e.out = (lx_cu_mat){LX_CU_BF16, p->m, p->n, p->n, out};
    call.squares = sums;
    must(g, launch(g, &call), by);
    must(g, g->cuda->module->rows->fold(g->cuda->dev, sums, (int)parts, p->m, square), "fold");
    float *got = check_floats(p->m);
    gpu_get(g, got, square, (size_t)p->m * sizeof *square);
    lx_arena_reset(g->store, mark);
    return got;
}

#endif
