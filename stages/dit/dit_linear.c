/*
 * dit_linear.c - linears with their inputs and dumps
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_model.h"

static lx_status take_matrix(lx_exec *x, int64_t rows, int64_t cols, float **out, lx_err *err)
{
    uint64_t n;
    if (rows < 0 || cols < 0 || !lx_mul_u64((uint64_t)rows, (uint64_t)cols, &n))
        return lx_fail(err, LX_EJOB, "a tensor of the DiT is too large");
    return lx_arena_take_f32(x->arena, n, out, err);
}

lx_status dit_tap_open(lx_exec *x, lx_run *run, const char *name, int64_t rows, int64_t cols,
                       dit_tap *out, lx_err *err)
{
    *out = (dit_tap){.name = name, .rows = rows, .cols = cols};
    if (x->is_dry)
        lx_run_know(run, name);
    if (!run || !lx_run_wants(run, name))
        return LX_OK;
    return take_matrix(x, rows, cols, &out->data, err);
}

lx_status dit_tap_close(lx_exec *x, lx_run *run, const dit_tap *tap, lx_err *err)
{
    if (!tap->data)
        return LX_OK;
    return dit_dump(x, run, tap->name, tap->data, tap->rows, tap->cols, tap->cols, err);
}

lx_status dit_dump(lx_exec *x, lx_run *run, const char *name, const float *data, int64_t rows,
                   int64_t cols, int64_t stride, lx_err *err)
{
    if (x->is_dry)
        lx_run_know(run, name);
    if (x->is_dry || !run)
        return LX_OK;
    return lx_run_dump(run, name, data, rows, cols, stride, err);
}

lx_status dit_input(lx_exec *x, const dit_linear *lin, float *rows, int64_t n, int64_t cols,
                    lx_act *out, lx_err *err)
{
    if (lin->act == LX_DTYPE_F32) {
        *out = (lx_act){.dtype = LX_DTYPE_F32, .rows = n, .cols = cols, .data = rows};
        return LX_OK;
    }
    DIT_TRY(lx_act_take(x, lin->act, n, cols, out, err));
    return lx_quantize_rows(x, rows, out, err);
}

lx_status dit_linear_run(lx_exec *x, const dit_linear *lin, const lx_act *in, lx_epilogue epilogue,
                         float *out, int64_t stride, const dit_tap *tap, int64_t first_row,
                         lx_err *err)
{
    epilogue.bias = &lin->b;
    if (tap && tap->data) {
        lx_epilogue plain = {.bias = &lin->b};
        DIT_TRY(
            lx_linear(x, in, &lin->w, &plain, tap->data + first_row * tap->cols, tap->cols, err));
    }
    return lx_linear(x, in, &lin->w, &epilogue, out, stride, err);
}
