/*
 * lx_tensor.h - shapes, element types and checked sizes
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A dense row-major tensor: where its bytes are, what they mean. No ownership: data
 *           belongs to an arena, a weight file or a lending desk, and the owner's header says for
 *           how long.
 * Promise   Every size that came from outside goes through the checked helpers before it is used.
 * Tests     tests/unit/test_tensor.c
 */
#ifndef LX_TENSOR_H
#define LX_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lx_status.h"

typedef enum lx_dtype {
    LX_DTYPE_F64,
    LX_DTYPE_F32,
    LX_DTYPE_F16,
    LX_DTYPE_BF16,
    LX_DTYPE_F8_E4M3, /* the "fn" variant: no infinities, NaN = 0x7f/0xff, largest 448 */
    LX_DTYPE_F8_E5M2,
    LX_DTYPE_I64,
    LX_DTYPE_I32,
    LX_DTYPE_I16,
    LX_DTYPE_I8,
    LX_DTYPE_U8,
    LX_DTYPE_BOOL,
    LX_DTYPE_COUNT
} lx_dtype;

#define LX_LIMIT_DIMS     8
#define LX_LIMIT_DIM      ((int64_t)1 << 40)  /* one dimension */
#define LX_LIMIT_ELEMENTS ((uint64_t)1 << 48) /* their product */

typedef struct lx_shape {
    int n_dims;
    int64_t dim[LX_LIMIT_DIMS];
} lx_shape;

typedef struct lx_tensor {
    lx_dtype dtype;
    lx_shape shape;
    void *data; /* borrowed from its owner */
} lx_tensor;

size_t lx_dtype_size(lx_dtype dtype);      /* bytes per element */
bool lx_dtype_is_code(lx_dtype dtype);     /* I8 and F8_E4M3: 8 bits that want a scale */
const char *lx_dtype_name(lx_dtype dtype); /* "F32", "BF16", ...: the safetensors spelling */
bool lx_dtype_parse(const char *name, lx_dtype *out);

bool lx_mul_u64(uint64_t a, uint64_t b, uint64_t *out); /* false on overflow, *out untouched */
bool lx_add_u64(uint64_t a, uint64_t b, uint64_t *out);

/** Elements and bytes of a shape. LX_EJOB if a dimension is negative, a limit is passed or a
 *  product overflows. */
lx_status lx_shape_bytes(const lx_shape *shape, lx_dtype dtype, uint64_t *elements, uint64_t *bytes,
                         lx_err *err);

/** "[3, 81, 480, 832]" into text (cut to fit). Returns text. */
char *lx_shape_text(const lx_shape *shape, char *text, size_t text_bytes);

bool lx_shape_equal(const lx_shape *a, const lx_shape *b);

#define LX_SHAPE(...)                                                                              \
    ((lx_shape){.n_dims = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),               \
                .dim = {__VA_ARGS__}})

/* Number formats, exact: widening never rounds; narrowing rounds to nearest, ties to even. */
float lx_f32_from_bf16(uint16_t bits);
float lx_f32_from_f16(uint16_t bits);
float lx_f32_from_f8_e4m3(uint8_t bits);
float lx_f32_from_f8_e5m2(uint8_t bits);
uint16_t lx_bf16_from_f32(float value);
uint16_t lx_f16_from_f32(float value);
uint8_t lx_f8_e4m3_from_f32(float value); /* saturates at +-448; NaN stays NaN */

/** Widen n elements of any float type (F64 is rounded) to f32; false if dtype is no float. */
bool lx_widen_to_f32(float *out, const void *in, lx_dtype dtype, size_t n);

/** Narrow n f32 to F32, F16 or BF16; false if dtype is none of them. */
bool lx_narrow_from_f32(void *out, const float *in, lx_dtype dtype, size_t n);

#endif
