/*
 * colour.c - the colour family on a card
 * SPDX-License-Identifier: Apache-2.0
 */
#include "conv_card.h"

static lx_cu_colour colour_of(const lx_colour_args *a)
{
    return (lx_cu_colour){.in = lx_cuda_image_of(a->in),
                          .y = a->y,
                          .x = a->x,
                          .height = a->height,
                          .width = a->width,
                          .out_frame = a->out_frame,
                          .out_y = a->out_y,
                          .out_x = a->out_x,
                          .out_frames = a->out_frames,
                          .out_height = a->out_height,
                          .out_width = a->out_width};
}

lx_status lx_cuda_i420(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err)
{
    lx_cu_colour colour = colour_of(args);
    lx_status status = lx_cuda_image_check(args->in, "I420", err);
    if (status != LX_OK)
        return status;
    return lx_cuda_status(x->cuda, x->cuda->module->conv->i420(x->cuda->dev, &colour, out), "I420",
                          err);
}

lx_status lx_cuda_rgb8(lx_exec *x, const lx_colour_args *args, uint8_t *out, lx_err *err)
{
    lx_cu_colour colour = colour_of(args);
    lx_status status = lx_cuda_image_check(args->in, "8-bit RGB", err);
    if (status != LX_OK)
        return status;
    return lx_cuda_status(x->cuda, x->cuda->module->conv->rgb8(x->cuda->dev, &colour, out),
                          "8-bit RGB", err);
}

lx_status lx_cuda_planes(lx_exec *x, const lx_colour_args *args, float *out, lx_err *err)
{
    lx_cu_colour colour = colour_of(args);
    lx_status status = lx_cuda_image_check(args->in, "planes", err);
    if (status != LX_OK)
        return status;
    return lx_cuda_status(x->cuda, x->cuda->module->conv->planes(x->cuda->dev, &colour, out),
                          "planes of RGB", err);
}
