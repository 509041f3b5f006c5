/*
 * dit_linear.c - linears with their inputs and dumps
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dit_model.h"

lx_status dit_tap_open(lx_exec *x, lx_run *run, const char *name, int64_t rows, int64_t cols,
                       dit_tap *out, lx_err *err)
{
    *out = (dit_tap){.name = name};
    if (x->is_dry)
        lx_run_know(run, name);
    if (!run || !lx_run_wants(run, name))
        return LX_OK;
    return lx_mat_take(x, LX_DTYPE_F32, rows, cols, &out->rows, err);
}

lx_status dit_tap_close(lx_exec *x, lx_run *run, const dit_tap *tap, lx_err *err)
{
    return tap->rows.data ? dit_dump(x, run, tap->name, &tap->rows, err) : LX_OK;
}

lx_status dit_dump(lx_exec *x, lx_run *run, const char *name, const lx_mat *rows, lx_err *err)
{
    float *host;
    if (x->is_dry)
        lx_run_know(run, name);
    if (!run || !lx_run_wants(run, name))
        return LX_OK;
    size_t mark = lx_arena_mark(x->host);
    DIT_TRY(lx_arena_take_f32(x->host, (uint64_t)rows->rows * (uint64_t)rows->cols, &host, err));
    DIT_TRY(lx_mat_download(x, rows, host, err));
    lx_status status = LX_OK;
    if (!x->is_dry)
        status = lx_run_dump(run, name, host, rows->rows, rows->cols, rows->cols, err);
    lx_arena_reset(x->host, mark);
    return status;
}

lx_status dit_tap_linear(lx_exec *x, const dit_linear *lin, const lx_act *in, const dit_tap *tap,
                         int64_t first_row, lx_err *err)
{
    if (!tap || !tap->rows.data)
        return LX_OK;
    lx_epilogue plain = {.bias = &lin->b};
    lx_mat rows = lx_mat_rows(&tap->rows, first_row, in->rows);
    return lx_linear(x, in, &lin->w, &plain, &rows, err);
}

lx_status dit_linear_run(lx_exec *x, const dit_linear *lin, const lx_act *in, lx_epilogue epilogue,
                         const lx_mat *out, const dit_tap *tap, int64_t first_row, lx_err *err)
{
    epilogue.bias = &lin->b;
    DIT_TRY(dit_tap_linear(x, lin, in, tap, first_row, err));
    return lx_linear(x, in, &lin->w, &epilogue, out, err);
}

lx_status dit_linear_place(lx_exec *x, const dit_linear *in, dit_linear *out, lx_err *err)
{
    dit_linear placed = *in;
    DIT_TRY(lx_weight_place(x, &in->w, &placed.w, err));
    DIT_TRY(lx_weight_place(x, &in->b, &placed.b, err));
    *out = placed;
    return LX_OK;
}
