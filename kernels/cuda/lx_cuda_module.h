/*
 * lx_cuda_module.h - the wall between our C and liblx2v_cuda.so
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The module exports one function that returns a table of plain C functions. On our side
 *           kernels/cuda/<family>.c decides: variant, scratch, order; on the other
 *           kernels/cuda/<family>.cu launches. So what a job needs is known without a card.
 * Promise   Every function returns 0 or a CUDA error code, text by error_text; cuBLASLt's statuses
 *           come as LX_CUDA_BLAS + status. Launchers queue on the card's compute queue, check the
 *           launch and return: they never allocate and never wait.
 * Both      This header is read by C17 and by C++17.
 */
#ifndef LX_CUDA_MODULE_H
#define LX_CUDA_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LX_CUDA_ABI  9
#define LX_CUDA_BLAS 100000

typedef struct lx_cuda_dev lx_cuda_dev; /* the module's own record of an open card */

/* Element types as lx_dtype numbers them (lx_tensor.h; static_assert in lx_cuda.c). */
enum {
    LX_CU_F64,
    LX_CU_F32,
    LX_CU_F16,
    LX_CU_BF16,
    LX_CU_F8_E4M3,
    LX_CU_F8_E5M2,
    LX_CU_I8 = 9,
    LX_CU_U8 = 10
};

/* A vector of parameters in device memory, of any float type; data NULL: absent. */
typedef struct lx_cu_vec {
    int dtype;
    const void *data;
} lx_cu_vec;

/* Rows in device memory. */
typedef struct lx_cu_mat {
    int dtype;
    int64_t rows, cols, stride; /* stride in elements */
    void *data;
} lx_cu_mat;

typedef struct lx_cuda_card_facts {
    char name[96];
    int major, minor, n_sm, shared_bytes;
    uint64_t total_bytes;
} lx_cuda_card_facts;

/* module.cu */
typedef struct lx_cuda_base_ops {
    int (*open)(int index, lx_cuda_dev **out, lx_cuda_card_facts *facts);
    void (*close)(lx_cuda_dev *dev);
    int (*memory)(lx_cuda_dev *dev, uint64_t *free_bytes, uint64_t *total_bytes);
    int (*alloc)(lx_cuda_dev *dev, size_t bytes, void **out);
    void (*free)(lx_cuda_dev *dev, void *memory);
    int (*pin)(lx_cuda_dev *dev, size_t bytes, void **out);
    void (*unpin)(lx_cuda_dev *dev, void *memory);
    int (*upload)(lx_cuda_dev *dev, void *dst, const void *src, size_t bytes);   /* src reusable */
    int (*download)(lx_cuda_dev *dev, void *dst, const void *src, size_t bytes); /* waits */
    int (*copy)(lx_cuda_dev *dev, void *dst, const void *src, size_t bytes);
    int (*zero)(lx_cuda_dev *dev, void *dst, size_t bytes);
    int (*wait)(lx_cuda_dev *dev);
    int (*copy_in)(lx_cuda_dev *dev, void *dst, const void *src_pinned, size_t bytes);
    int (*mark)(lx_cuda_dev *dev, int event, int queue);
    int (*after)(lx_cuda_dev *dev, int event, int queue);
    int (*reached)(lx_cuda_dev *dev, int event);
    int (*copy_out)(lx_cuda_dev *dev, void *dst_pinned, const void *src, size_t bytes);
    /* Moments of the compute queue, to time kernels by hand: never on a job's path. */
    int (*clock_open)(lx_cuda_dev *dev, int n_marks);
    void (*clock_close)(lx_cuda_dev *dev);
    int (*clock_mark)(lx_cuda_dev *dev, int mark);
    int (*clock_read)(lx_cuda_dev *dev, int from, int to, float *ms); /* waits for `to` */
} lx_cuda_base_ops;

/* Tables of the families, each in kernels/cuda/cu_<family>.h. */
struct lx_cuda_linear_ops;
struct lx_cuda_rows_ops;
struct lx_cuda_attention_ops;
struct lx_cuda_conv_ops;
struct lx_cuda_share_ops;
struct lx_cuda_fault_ops;

typedef struct lx_cuda_module {
    uint32_t abi;      /* LX_CUDA_ABI */
    const char *archs; /* "86 90a": what this module was built for */
    const char *(*error_text)(int code);
    bool (*is_memory)(int code); /* out of memory: try later */
    const lx_cuda_base_ops *base;
    const struct lx_cuda_linear_ops *linear;       /* cu_linear.h: products, quantize, widen */
    const struct lx_cuda_rows_ops *rows;           /* cu_rows.h: norms, rope, elementwise, patch */
    const struct lx_cuda_attention_ops *attention; /* cu_attention.h */
    const struct lx_cuda_conv_ops *conv;           /* cu_conv.h: convolution, colour */
    const struct lx_cuda_share_ops *share;         /* cu_share.h: memory of other processes */
    const struct lx_cuda_fault_ops *faults;        /* cu_fault.h; NULL in a release */
} lx_cuda_module;

typedef const lx_cuda_module *(*lx_cuda_module_fn)(void);
#define LX_CUDA_MODULE_SYMBOL "lx_cuda_module_get"

#ifdef __cplusplus
}
#endif

#endif
