/*
 * encoder_golden.h - the context against the public PyTorch definition, on any device
 * SPDX-License-Identifier: Apache-2.0
 *
 * Goldens: tests/golden/README.md. Q is the distance of a quantized golden from the float32 one.
 */
#ifndef ENCODER_GOLDEN_H
#define ENCODER_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "encoder.h"
#include "encoder_helpers.h"

#define N 37 /* ids of the golden */

static lx_weights *golden;

static inline const void *golden_data(const char *name)
{
    lx_weight w;
    if (!lx_weights_find(golden, name, &w))
        fail_msg("io.safetensors lacks %s", name);
    return w.data;
}

/* ids come as I32 or I64. */
static inline void golden_ids(int32_t *ids)
{
    lx_weight w;
    assert_true(lx_weights_find(golden, "t5.ids", &w));
    assert_int_equal(w.shape.dim[0], N);
    for (int i = 0; i < N; i++)
        ids[i] = w.dtype == LX_DTYPE_I64 ? (int32_t)((const int64_t *)w.data)[i]
                                         : ((const int32_t *)w.data)[i];
}

static inline int open_golden(void **state)
{
    (void)state;
    lx_err err = {0};
    if (lx_weights_open(&golden, GOLDEN "/io.safetensors", NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    return 0;
}

static inline int close_golden(void **state)
{
    (void)state;
    lx_weights_close(&golden);
    return 0;
}

static inline size_t values_of(const encoder *e, int64_t n)
{
    return (size_t)(n * umt5_dims(encoder_model(e))->dim);
}

static inline const float *encode(encoder *e, const int32_t *ids, int64_t n)
{
    encoder_context context;
    lx_err err = {0};
    if (encoder_encode(e, ids, n, &context, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_int_equal(context.n, n);
    assert_int_equal(context.dim, umt5_dims(encoder_model(e))->dim);
    return context.rows;
}

/* A dump of this name and shape. */
static inline const float *output(const lx_run *run, const char *name, int64_t rows, int64_t cols)
{
    for (int i = 0; i < run->n_out; i++)
        if (!strcmp(run->out[i].name, name)) {
            const lx_shape *shape = &run->out[i].tensor.shape;
            assert_int_equal(shape->dim[0], rows);
            assert_int_equal(shape->dim[1], cols);
            return run->out[i].tensor.data;
        }
    fail_msg("no dump of %s", name);
    return NULL;
}

/* A run that dumps the first quantized linear; end_run when its encoder is closed. */
static inline lx_run *run_of_first_linear(void)
{
    lx_run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    run->n_dumps = 1;
    strcpy(run->dump_names[0], "blocks.0.attn.q");
    return run;
}

static inline void end_run(lx_run *run)
{
    lx_run_close(run);
    free(run);
}

/* How far a device may be: the linear in relative L2, the context in parts of Q. */
typedef struct golden_bars {
    double first, of_quantized, of_float;
} golden_bars;

/* e: opened with `run`. context, first: names of goldens; first NULL where the device reads other
 * activations than the reference. */
static inline void compare_quantized(encoder *e, const lx_run *run, const char *context,
                                     const char *first, const golden_bars *bars)
{
    int32_t ids[N];
    golden_ids(ids);
    const lx_t5_dims *d = umt5_dims(encoder_model(e));
    const size_t values = values_of(e, N);
    const float *rows = encode(e, ids, N);
    const float *quantized = golden_data(context), *wide = golden_data("t5.context");
    const float *made = output(run, "blocks.0.attn.q", N, d->dim_attn);
    double q = relative_l2(quantized, wide, values);
    double linear =
        first ? relative_l2(made, golden_data(first), N * (size_t)d->dim_attn) : (double)NAN;
    double from_quantized = relative_l2(rows, quantized, values) / q;
    double from_float = relative_l2(rows, wide, values) / q;
    print_message("%s: first linear %.3g, %.3g Q from quantized, %.4g Q from float (Q %.3g)\n",
                  context, linear, from_quantized, from_float, q);
    assert_true(!first || linear <= bars->first);
    assert_true(from_quantized <= bars->of_quantized);
    assert_true(from_float <= bars->of_float);
}

#endif
