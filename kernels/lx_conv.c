/*
 * lx_conv.c - checks and scratch of the convolution family; the device does the rest
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_conv.h"

#include <inttypes.h>

#include "lx_backend.h"
#include "lx_conv_ops.h"

static bool all_positive(const lx_image *image)
{
    return image->frames > 0 && image->height > 0 && image->width > 0 && image->channels > 0;
}

lx_status lx_gain_load(lx_exec *x, const lx_weight *weight, int64_t n, float **out, lx_err *err)
{
    uint64_t elements, bytes;
    lx_status status = lx_shape_bytes(&weight->shape, weight->dtype, &elements, &bytes, err);
    if (status != LX_OK)
        return status;
    if (!lx_weight_is_vector(weight, n))
        return lx_fail(err, LX_ECONFIG,
                       "%s: %s with %" PRIu64 " elements, a float tensor of %" PRId64 " is needed",
                       weight->name, lx_dtype_name(weight->dtype), elements, n);
    status = lx_arena_take_f32(x->arena, elements, out, err);
    if (status == LX_OK && !x->is_dry)
        x->backend->conv->widen(weight, *out);
    return status;
}

/* [o, i, kt, kh, kw] or [o, i, kh, kw] into out's sizes. */
static lx_status kernel_sizes(const lx_weight *weight, const lx_weight *bias, lx_conv *out,
                              lx_err *err)
{
    const lx_shape *s = &weight->shape;
    char text[128];
    bool is_volume = s->n_dims == 5;
    if ((!is_volume && s->n_dims != 4) || !lx_dtype_is_float(weight->dtype))
        return lx_fail(err, LX_ECONFIG,
                       "%s: %s %s is no convolution: [out, in, (time,) height, width] of a float "
                       "type is needed",
                       weight->name, lx_dtype_name(weight->dtype),
                       lx_shape_text(s, text, sizeof text));
    out->c_out = s->dim[0];
    out->c_in = s->dim[1];
    out->kt = is_volume ? s->dim[2] : 1;
    out->kh = s->dim[s->n_dims - 2];
    out->kw = s->dim[s->n_dims - 1];
    if (out->c_out <= 0 || out->c_in <= 0 || (out->kt != 1 && out->kt != 3) ||
        (out->kh != 1 && out->kh != 3) || out->kw != out->kh)
        return lx_fail(err, LX_ECONFIG,
                       "%s: %s: kernels of 1 or 3 taps in time and 1x1 or 3x3 in space are served",
                       weight->name, lx_shape_text(s, text, sizeof text));
    if (!lx_weight_is_vector(bias, out->c_out))
        return lx_fail(err, LX_ECONFIG, "%s: %s, floats of [%" PRId64 "] are needed", bias->name,
                       lx_shape_text(&bias->shape, text, sizeof text), out->c_out);
    return LX_OK;
}

lx_status lx_conv_load(lx_exec *x, const lx_weight *weight, const lx_weight *bias, lx_conv *out,
                       lx_err *err)
{
    lx_conv conv = {0};
    uint64_t elements, bytes;
    float *widened;
    lx_status status = kernel_sizes(weight, bias, &conv, err);
    if (status == LX_OK)
        status = lx_shape_bytes(&weight->shape, weight->dtype, &elements, &bytes, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, x->backend->conv->packed(&conv), &conv.packed, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, (uint64_t)conv.c_out, &conv.bias, err);
    if (status != LX_OK)
        return status;
    size_t mark = lx_arena_mark(x->arena);
    status = lx_arena_take_f32(x->arena, elements, &widened, err);
    if (status == LX_OK && !x->is_dry)
        x->backend->conv->pack(weight, bias, &conv, widened);
    lx_arena_reset(x->arena, mark);
    if (status == LX_OK)
        *out = conv;
    return status;
}

static lx_status conv_check(const lx_conv *conv, const lx_image *in, bool upsample,
                            const lx_image *residual, const lx_image *out, lx_err *err)
{
    int64_t scale = upsample ? 2 : 1;
    if (!all_positive(in) || !all_positive(out) || in->channels != conv->c_in ||
        out->channels != conv->c_out || in->frames != out->frames + conv->kt - 1 ||
        out->height != scale * in->height || out->width != scale * in->width ||
        (upsample && conv->kh == 1))
        return lx_fail(err, LX_EJOB,
                       "convolution %" PRId64 "->%" PRId64 ", %" PRId64 " taps in time: [%" PRId64
                       ", %" PRId64 ", %" PRId64 ", %" PRId64 "] cannot become [%" PRId64
                       ", %" PRId64 ", %" PRId64 ", %" PRId64 "]",
                       conv->c_in, conv->c_out, conv->kt, in->frames, in->height, in->width,
                       in->channels, out->frames, out->height, out->width, out->channels);
    if (out->history[0] || (in->history[0] && (conv->kt != 3 || !in->history[1])))
        return lx_fail(err, LX_EJOB, "convolution: only the input of three taps has a history");
    if (residual && (residual->frames != out->frames || residual->height != out->height ||
                     residual->width != out->width || residual->channels != out->channels))
        return lx_fail(err, LX_EJOB,
                       "convolution: residual of %" PRId64 " frames of %" PRId64 "x%" PRId64
                       "x%" PRId64 " differs from the output",
                       residual->frames, residual->height, residual->width, residual->channels);
    return LX_OK;
}

lx_status lx_conv_run(lx_exec *x, const lx_conv *conv, const lx_image *in, bool upsample,
                      const lx_image *residual, lx_image *out, lx_err *err)
{
    lx_status status = conv_check(conv, in, upsample, residual, out, err);
    if (status != LX_OK)
        return status;
    const lx_conv_ops *ops = x->backend->conv;
    size_t mark = lx_arena_mark(x->arena);
    lx_conv_call call = {.conv = conv,
                         .in = in,
                         .upsample = upsample,
                         .residual = residual,
                         .out = out,
                         .n_threads = x->n_threads};
    status = lx_arena_take_f32(x->arena, ops->scratch(conv, x->n_threads), &call.scratch, err);
    if (status == LX_OK && !x->is_dry)
        status = ops->run(&call, err);
    lx_arena_reset(x->arena, mark);
    return status;
}

lx_status lx_channel_norm(lx_exec *x, const lx_image *in, const float *gamma, bool silu,
                          lx_image *out, lx_err *err)
{
    if (!all_positive(in) || in->frames != out->frames || in->height != out->height ||
        in->width != out->width || in->channels != out->channels)
        return lx_fail(err, LX_EJOB,
                       "channel norm: [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                       "] cannot become [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]",
                       in->frames, in->height, in->width, in->channels, out->frames, out->height,
                       out->width, out->channels);
    if (!x->is_dry)
        x->backend->conv->norm(in, gamma, silu, out, x->n_threads);
    return LX_OK;
}

/* --- moving images ------------------------------------------------------------------------- */

lx_status lx_image_take(lx_exec *x, int64_t frames, int64_t height, int64_t width, int64_t channels,
                        lx_image *out, lx_err *err)
{
    lx_image image = {
        .frames = frames, .height = height, .width = width, .channels = channels, .data = NULL};
    lx_shape shape = LX_SHAPE(frames, height, width, channels);
    uint64_t elements, bytes;
    if (!all_positive(&image))
        return lx_fail(err, LX_EJOB,
                       "image of %" PRId64 " frames of %" PRId64 "x%" PRId64 "x%" PRId64
                       ": every side must be positive",
                       frames, height, width, channels);
    lx_status status = lx_shape_bytes(&shape, LX_DTYPE_F32, &elements, &bytes, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, elements, &image.data, err);
    if (status == LX_OK)
        *out = image;
    return status;
}

lx_status lx_history_take(lx_exec *x, int64_t height, int64_t width, int64_t channels,
                          float *history[2], lx_err *err)
{
    lx_image image = {0};
    for (int i = 0; i < 2; i++) {
        lx_status status = lx_image_take(x, 1, height, width, channels, &image, err);
        if (status != LX_OK)
            return status;
        history[i] = image.data;
    }
    lx_history_clear(x, height, width, channels, history);
    return LX_OK;
}

void lx_history_clear(lx_exec *x, int64_t height, int64_t width, int64_t channels,
                      float *history[2])
{
    for (int i = 0; i < 2 && !x->is_dry; i++)
        x->backend->conv->zero(history[i], (uint64_t)(height * width * channels));
}

void lx_history_keep(lx_exec *x, const lx_image *in, float *history[2])
{
    uint64_t n = (uint64_t)(in->height * in->width * in->channels);
    const lx_conv_ops *ops = x->backend->conv;
    if (x->is_dry)
        return;
    if (in->frames == 3) { /* one new frame: the older history frame makes room for it */
        float *newer = history[1];
        history[1] = history[0];
        history[0] = newer;
        ops->copy(history[1], in->data, n, x->n_threads);
        return;
    }
    for (int i = 0; i < 2 && in->frames > 3; i++)
        ops->copy(history[i], lx_image_frame(in, in->frames - 2 + i), n, x->n_threads);
}

lx_status lx_image_crop(lx_exec *x, const lx_image *in, int64_t y, int64_t x0, lx_image *out,
                        lx_err *err)
{
    if (!all_positive(out) || in->frames != out->frames || in->channels != out->channels || y < 0 ||
        x0 < 0 || y > in->height - out->height || x0 > in->width - out->width)
        return lx_fail(err, LX_EJOB,
                       "window of %" PRId64 "x%" PRId64 " at (%" PRId64 ", %" PRId64
                       ") is not inside %" PRId64 "x%" PRId64,
                       out->height, out->width, y, x0, in->height, in->width);
    if (!x->is_dry)
        x->backend->conv->crop(in, y, x0, out, x->n_threads);
    return LX_OK;
}

lx_status lx_image_from_planes(lx_exec *x, const float *planes, int64_t n_frames, int64_t first,
                               const float *scale, const float *shift, lx_image *out, lx_err *err)
{
    if (!all_positive(out) || first < 0 || first > n_frames - out->frames)
        return lx_fail(err, LX_EJOB,
                       "frames %" PRId64 " to %" PRId64 " asked of planes with %" PRId64, first,
                       first + out->frames - 1, n_frames);
    if (!x->is_dry)
        x->backend->conv->from_planes(planes, n_frames, first, scale, shift, out);
    return LX_OK;
}
