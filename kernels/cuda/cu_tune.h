/*
 * cu_tune.h - what linear_plan.c asks a table for
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CU_TUNE_H
#define CU_TUNE_H

#include "cu_linear.h"
#include "lx_tune.h"

/* cuBLASLt's product and the epilogue's kernel, in bands: a design beside cu_linear.h's. */
enum { LX_TUNE_BLAS = LX_CU_INT8_DESIGNS };

#endif
