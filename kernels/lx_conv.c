/*
 * lx_conv.c - checks and scratch of the convolution family; the device does the rest
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_conv.h"

#include <inttypes.h>

#include "lx_backend.h"
#include "lx_conv_ops.h"
#include "lx_copy.h"

static bool all_positive(const lx_image *image)
{
    return image->frames > 0 && image->height > 0 && image->width > 0 && image->channels > 0;
}

/* n floats of a host vector of any float dtype, widened, into device memory. */
static lx_status place_vector(lx_exec *x, const lx_weight *weight, uint64_t n, float *out,
                              lx_err *err)
{
    float *wide = out;
    size_t mark = lx_arena_mark(x->host);
    lx_status status = LX_OK;
    if (!lx_exec_is_host(x))
        status = lx_arena_take_f32(x->host, n, &wide, err);
    if (status == LX_OK && !x->is_dry) {
        lx_widen_to_f32(wide, weight->data, weight->dtype, (size_t)n);
        if (wide != out)
            status = lx_upload(x, out, wide, (size_t)n * sizeof *out, err);
    }
    if (wide != out)
        lx_arena_reset(x->host, mark);
    return status;
}

lx_status lx_gain_load(lx_exec *x, const lx_weight *weight, int64_t n, float **out, lx_err *err)
{
    uint64_t elements, bytes;
    float *gain;
    lx_status status = lx_shape_bytes(&weight->shape, weight->dtype, &elements, &bytes, err);
    if (status != LX_OK)
        return status;
    if (!lx_weight_is_vector(weight, n))
        return lx_fail(err, LX_ECONFIG,
                       "%s: %s with %" PRIu64 " elements, a float tensor of %" PRId64 " is needed",
                       weight->name, lx_dtype_name(weight->dtype), elements, n);
    status = lx_arena_take_f32(x->arena, elements, &gain, err);
    if (status == LX_OK)
        status = place_vector(x, weight, elements, gain, err);
    if (status == LX_OK)
        *out = gain;
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

static lx_dtype input_of(const lx_exec *x, const lx_conv *conv, const float *weight,
                         const float *gain)
{
    const lx_conv_ops *ops = x->backend->conv;
    return ops->input ? ops->input(x, conv, weight, gain) : x->rows;
}

/* The packed form is made in host memory; on a card it is copied from there. What the weights'
 * values decide is decided here: conv->input. gain: NULL, or [c_in]. */
static lx_status place_weight(lx_exec *x, const lx_weight *weight, const lx_weight *gain,
                              lx_conv *conv, uint64_t n, lx_err *err)
{
    float *wide, *wide_gain = NULL;
    void *packed = conv->packed;
    size_t bytes = (size_t)x->backend->conv->packed(conv), mark = lx_arena_mark(x->host);
    lx_status status = lx_arena_take_f32(x->host, n, &wide, err);
    if (status == LX_OK && gain)
        status = lx_arena_take_f32(x->host, (uint64_t)conv->c_in, &wide_gain, err);
    if (status == LX_OK && !lx_exec_is_host(x))
        status = lx_arena_take(x->host, bytes, &packed, err);
    conv->input = gain ? input_of(x, conv, NULL, NULL) : x->rows;
    if (status == LX_OK && !x->is_dry) {
        lx_widen_to_f32(wide, weight->data, weight->dtype, (size_t)n);
        if (gain) {
            lx_widen_to_f32(wide_gain, gain->data, gain->dtype, (size_t)conv->c_in);
            conv->input = input_of(x, conv, wide, wide_gain);
        }
        x->backend->conv->pack(conv, wide, packed);
        if (packed != conv->packed)
            status = lx_upload(x, conv->packed, packed, bytes, err);
    }
    lx_arena_reset(x->host, mark);
    return status;
}

lx_status lx_conv_load(lx_exec *x, const lx_weight *weight, const lx_weight *bias, lx_conv *out,
                       lx_err *err)
{
    return lx_conv_load_normed(x, weight, bias, NULL, out, err);
}

lx_status lx_conv_load_normed(lx_exec *x, const lx_weight *weight, const lx_weight *bias,
                              const lx_weight *gain, lx_conv *out, lx_err *err)
{
    lx_conv conv = {0};
    uint64_t elements, bytes;
    lx_status status = kernel_sizes(weight, bias, &conv, err);
    if (status == LX_OK && gain && !lx_weight_is_vector(gain, conv.c_in))
        status = lx_fail(err, LX_ECONFIG,
                         "%s: a vector of %" PRId64 " floats is needed, as many as %s has inputs",
                         gain->name, conv.c_in, weight->name);
    if (status == LX_OK)
        status = lx_shape_bytes(&weight->shape, weight->dtype, &elements, &bytes, err);
    if (status == LX_OK)
        status =
            lx_arena_take(x->arena, (size_t)x->backend->conv->packed(&conv), &conv.packed, err);
    if (status == LX_OK)
        status = lx_arena_take_f32(x->arena, (uint64_t)conv.c_out, &conv.bias, err);
    if (status == LX_OK)
        status = place_weight(x, weight, gain, &conv, elements, err);
    if (status == LX_OK)
        status = place_vector(x, bias, (uint64_t)conv.c_out, conv.bias, err);
    if (status == LX_OK)
        *out = conv;
    return status;
}

static lx_status dtype_check(const lx_exec *x, const char *what, const lx_image *image,
                             bool may_be_other, lx_err *err)
{
    if (image->dtype == x->rows ||
        (may_be_other && (image->dtype == x->value || image->dtype == LX_DTYPE_F32)))
        return LX_OK;
    return lx_fail(err, LX_EJOB, "%s of %s, this device computes in %s", what,
                   lx_dtype_name(image->dtype), lx_dtype_name(x->rows));
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

static lx_status conv_check_dtypes(const lx_exec *x, const lx_conv *conv, const lx_image *in,
                                   const lx_image *residual, const lx_image *out, lx_err *err)
{
    lx_status status = LX_OK;
    if (in->dtype != conv->input)
        status = lx_fail(err, LX_EJOB, "convolution: input of %s, its weights are for %s",
                         lx_dtype_name(in->dtype), lx_dtype_name(conv->input));
    if (status == LX_OK && residual)
        status = dtype_check(x, "convolution: residual", residual, false, err);
    return status == LX_OK ? dtype_check(x, "convolution: output", out, true, err) : status;
}

lx_status lx_conv_run(lx_exec *x, const lx_conv *conv, const lx_image *in, bool upsample,
                      const lx_image *residual, lx_image *out, lx_err *err)
{
    lx_status status = conv_check(conv, in, upsample, residual, out, err);
    if (status == LX_OK)
        status = conv_check_dtypes(x, conv, in, residual, out, err);
    if (status != LX_OK)
        return status;
    const lx_conv_ops *ops = x->backend->conv;
    size_t mark = lx_arena_mark(x->arena);
    lx_conv_call call = {
        .conv = conv, .in = in, .upsample = upsample, .residual = residual, .out = out};
    uint64_t scratch = ops->scratch(x, conv);
    if (scratch)
        status = lx_arena_take(x->arena, (size_t)scratch, &call.scratch, err);
    if (status == LX_OK && !x->is_dry)
        status = ops->run(x, &call, err);
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
    lx_status status = dtype_check(x, "channel norm: input", in, false, err);
    if (status == LX_OK && out->dtype != x->value)
        status = dtype_check(x, "channel norm: output", out, false, err);
    return status == LX_OK && !x->is_dry ? x->backend->conv->norm(x, in, gamma, silu, out, err)
                                         : status;
}

/* --- moving images ------------------------------------------------------------------------- */

static uint64_t frame_bytes(const lx_image *image)
{
    return (uint64_t)(image->height * image->width * image->channels) * lx_dtype_size(image->dtype);
}

lx_status lx_image_take_as(lx_exec *x, lx_dtype dtype, const lx_shape *shape, lx_image *out,
                           lx_err *err)
{
    lx_image image = {.dtype = dtype,
                      .frames = shape->dim[0],
                      .height = shape->dim[1],
                      .width = shape->dim[2],
                      .channels = shape->dim[3]};
    uint64_t elements, bytes;
    if (!all_positive(&image))
        return lx_fail(err, LX_EJOB,
                       "image of %" PRId64 " frames of %" PRId64 "x%" PRId64 "x%" PRId64
                       ": every side must be positive",
                       image.frames, image.height, image.width, image.channels);
    lx_status status = lx_shape_bytes(shape, dtype, &elements, &bytes, err);
    if (status == LX_OK)
        status = lx_arena_take(x->arena, (size_t)bytes, &image.data, err);
    if (status == LX_OK)
        *out = image;
    return status;
}

lx_status lx_image_take(lx_exec *x, int64_t frames, int64_t height, int64_t width, int64_t channels,
                        lx_image *out, lx_err *err)
{
    lx_shape shape = LX_SHAPE(frames, height, width, channels);
    return lx_image_take_as(x, x->rows, &shape, out, err);
}

lx_status lx_history_take(lx_exec *x, int64_t height, int64_t width, int64_t channels,
                          void *history[2], lx_err *err)
{
    lx_image image = {0};
    for (int i = 0; i < 2; i++) {
        lx_status status = lx_image_take(x, 1, height, width, channels, &image, err);
        if (status != LX_OK)
            return status;
        history[i] = image.data;
    }
    return lx_history_clear(x, height, width, channels, history, err);
}

lx_status lx_history_clear(lx_exec *x, int64_t height, int64_t width, int64_t channels,
                           void *history[2], lx_err *err)
{
    const lx_image like = {
        .dtype = x->rows, .frames = 1, .height = height, .width = width, .channels = channels};
    lx_status status = LX_OK;
    for (int i = 0; i < 2 && status == LX_OK; i++)
        status = lx_zero(x, history[i], (size_t)frame_bytes(&like), err);
    return status;
}

lx_status lx_history_keep(lx_exec *x, const lx_image *in, void *history[2], lx_err *err)
{
    size_t bytes = (size_t)frame_bytes(in);
    const lx_conv_ops *ops = x->backend->conv;
    lx_status status = LX_OK;
    if (x->is_dry)
        return LX_OK;
    if (in->frames == 3) { /* one new frame: the older history frame makes room for it */
        void *newer = history[1];
        history[1] = history[0];
        history[0] = newer;
        return ops->copy(x, history[1], in->data, bytes, err);
    }
    for (int i = 0; i < 2 && in->frames > 3 && status == LX_OK; i++)
        status = ops->copy(x, history[i], lx_image_frame(in, in->frames - 2 + i), bytes, err);
    return status;
}

lx_status lx_image_crop(lx_exec *x, const lx_image *in, int64_t y, int64_t x0, lx_image *out,
                        lx_err *err)
{
    if (!all_positive(out) || in->frames != out->frames || in->channels != out->channels || y < 0 ||
        x0 < 0 || y > in->height - out->height || x0 > in->width - out->width ||
        in->dtype != out->dtype)
        return lx_fail(err, LX_EJOB,
                       "window of %" PRId64 "x%" PRId64 " %s at (%" PRId64 ", %" PRId64
                       ") is not inside %" PRId64 "x%" PRId64 " %s",
                       out->height, out->width, lx_dtype_name(out->dtype), y, x0, in->height,
                       in->width, lx_dtype_name(in->dtype));
    return x->is_dry ? LX_OK : x->backend->conv->crop(x, in, y, x0, out, err);
}

lx_status lx_image_from_planes(lx_exec *x, const float *planes, int64_t n_frames, int64_t first,
                               const float *scale, const float *shift, lx_image *out, lx_err *err)
{
    if (!all_positive(out) || first < 0 || first > n_frames - out->frames)
        return lx_fail(err, LX_EJOB,
                       "frames %" PRId64 " to %" PRId64 " asked of planes with %" PRId64, first,
                       first + out->frames - 1, n_frames);
    if (out->channels > 64)
        return lx_fail(err, LX_EJOB, "planes of %" PRId64 " channels, at most 64 are served",
                       out->channels);
    lx_status status = dtype_check(x, "image from planes", out, false, err);
    if (status != LX_OK || x->is_dry)
        return status;
    return x->backend->conv->from_planes(x, planes, n_frames, first, scale, shift, out, err);
}

lx_status lx_image_download(lx_exec *x, const lx_image *image, int64_t i, float *out, lx_err *err)
{
    int64_t pixels = image->height * image->width, n = image->channels;
    int64_t slice = (int64_t)(LX_IMAGE_SLICE / sizeof *out) / n;
    lx_mat all = {.dtype = image->dtype,
                  .rows = pixels,
                  .cols = n,
                  .stride = n,
                  .data = lx_image_frame(image, i)};
    lx_status status = LX_OK;
    slice = slice < 1 ? 1 : slice;
    for (int64_t p = 0; p < pixels && status == LX_OK; p += slice) {
        lx_mat part = lx_mat_rows(&all, p, pixels - p < slice ? pixels - p : slice);
        status = lx_mat_download(x, &part, out + p * n, err);
    }
    return status;
}
