/*
 * linear_plan.h - which product a linear on a card becomes: kind, design, bands and scratch
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LINEAR_PLAN_H
#define LINEAR_PLAN_H

#include "cu_linear.h"
#include "lx_cuda_priv.h"

typedef enum linear_kind {
    LINEAR_OWN,   /* INT8, FP8 or BF16 by a kernel of ours that finishes its sums too */
    LINEAR_CODES, /* INT8 or FP8 by cuBLASLt */
    LINEAR_BF16,  /* by cuBLASLt, of any float weights */
    LINEAR_FEW,   /* few rows in F32 */
    LINEAR_SHORT  /* short rows in F32 */
} linear_kind;

typedef struct linear_job {
    lx_exec *x;
    const lx_act *in;
    const lx_weight *w;
    const lx_epilogue *e;
    lx_cu_mat out;
    float *out_scale;
    int64_t m, n, k;
    int64_t band_m, band_n; /* of one product */
    linear_kind kind;
    int design;      /* OWN: of lx_cu_int8, whatever its types */
    size_t room;     /* OWN: bytes at acc, for bands and workspace */
    bool whole_rows; /* the output is quantized: a row must be complete */
    void *acc;       /* [band_m, n] if whole_rows, else [band_m, band_n] */
    void *acc2;      /* OWN: every second band of f32 that becomes codes */
    uint32_t *most;  /* [m]: largest magnitudes of its rows */
    float *squares;  /* OWN: [parts, m], where the rows' sums are wanted */
    void *blas;      /* workspace of work_bytes */
    size_t work_bytes;
    void *w_band, *x_band; /* BF16 copies (SHORT: F32, of w alone), or NULL */
    lx_err *err;
} linear_job;

/** Kind, design and bands, out of the shapes and the card's kind alone: a plan needs no card. */
void lx_cuda_linear_plan(linear_job *j);

/** Takes what the plan needs from the arena. LX_EJOB: it does not have it. */
lx_status lx_cuda_linear_scratch(linear_job *j);

/** What a table measured on this card says instead, within the scratch that was taken. */
void lx_cuda_linear_table(linear_job *j);

/** Rows before they are codes: F16 or F32. */
int lx_cuda_dtype_before_codes(const linear_job *j);

#endif
