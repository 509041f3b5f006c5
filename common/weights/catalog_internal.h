/*
 * catalog_internal.h - look-alikes, told apart by their tensors and names
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_CATALOG_INTERNAL_H
#define LX_CATALOG_INTERNAL_H

#include "lx_weights.h"

/** LX_ECONFIG with what the file really is, if it is a known thing but not this model. What cannot
 *  be told: a Wan2.2 A14B expert or the undistilled T2V model under a neutral name (same shapes),
 *  and a VAE of the same architecture trained for another model. */
lx_status lx_refuse_for_dit(const lx_weights *weights, lx_err *err);
lx_status lx_refuse_for_t5(const lx_weights *weights, lx_err *err);
lx_status lx_refuse_for_vae(const lx_weights *weights, lx_err *err);

/** File name or its folders say that the model is step-distilled, or a manifest beside it does. */
bool lx_says_distilled(const char *path);

#endif
