/*
 * lx_rows_base.c - the row loops, compiled with the flags of kernels/CMakeLists.txt for this set
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_rows_impl.h"

const lx_rows lx_rows_base = LX_ROWS_TABLE("base");
