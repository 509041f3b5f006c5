/*
 * gpu_image.h - images of the tests on a card: random ones, on both sides
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_TESTS_GPU_IMAGE_H
#define LX_TESTS_GPU_IMAGE_H

#include "gpu.h"
#include "lx_conv.h"

/* Values in [-1, 1), the same for a seed everywhere. */
static inline float image_uniform(uint64_t *state)
{
    uint64_t s = *state += 0x9E3779B97F4A7C15u;
    s = (s ^ (s >> 30)) * 0xBF58476D1CE4E5B9u;
    s = (s ^ (s >> 27)) * 0x94D049BB133111EBu;
    return (float)((double)((s ^ (s >> 31)) >> 11) * 0x1p-52 - 1);
}

/* n random values as a card would hold them; free(). */
static inline float *image_floats(int64_t n, uint64_t seed, float scale, lx_dtype dtype)
{
    float *out = gpu_malloc(n, sizeof *out);
    for (int64_t i = 0; i < n; i++)
        out[i] = gpu_rounded(dtype, scale * image_uniform(&seed));
    return out;
}

static inline int64_t image_frame_size(const lx_image *image)
{
    return image->height * image->width * image->channels;
}

/* A host image around these floats, which stay the caller's. */
static inline lx_image image_host(float *data, int64_t frames, int64_t height, int64_t width,
                                  int64_t channels)
{
    return (lx_image){.dtype = LX_DTYPE_F32,
                      .frames = frames,
                      .height = height,
                      .width = width,
                      .channels = channels,
                      .data = data};
}

/* Frames first.. of a dense F32 image into dense device memory. */
static inline void *image_put(gpu *g, const lx_image *host, int64_t first, int64_t n,
                              lx_dtype dtype)
{
    int64_t frame = image_frame_size(host);
    size_t size = lx_dtype_size(dtype);
    unsigned char *bytes = gpu_malloc(n * frame, size);
    for (int64_t i = 0; i < n * frame; i++)
        gpu_narrow(bytes + (size_t)i * size, dtype, ((float *)host->data)[first * frame + i]);
    void *out = gpu_put(g, bytes, (size_t)(n * frame) * size);
    free(bytes);
    return out;
}

/* The same image on the card; has_history: its first two frames apart from the rest. */
static inline lx_image image_upload(gpu *g, const lx_image *host, lx_dtype dtype, bool has_history)
{
    lx_image out = *host;
    int64_t first = has_history ? 2 : 0;
    out.dtype = dtype;
    out.frame_stride = 0;
    for (int64_t i = 0; i < first; i++)
        out.history[i] = image_put(g, host, i, 1, dtype);
    out.data = image_put(g, host, first, host->frames - first, dtype);
    return out;
}

/* An image on the card, all ones (NaN). */
static inline lx_image image_blank(gpu *g, lx_dtype dtype, int64_t frames, int64_t height,
                                   int64_t width, int64_t channels)
{
    lx_image out = image_host(NULL, frames, height, width, channels);
    size_t bytes = (size_t)(frames * image_frame_size(&out)) * lx_dtype_size(dtype);
    unsigned char *ones = gpu_malloc((int64_t)bytes, 1);
    memset(ones, 0xff, bytes);
    out.dtype = dtype;
    out.data = gpu_put(g, ones, bytes);
    free(ones);
    return out;
}

/* Dense floats of an image on the card; free(). */
static inline float *image_get(gpu *g, const lx_image *image)
{
    int64_t frame = image_frame_size(image);
    float *out = gpu_malloc(image->frames * frame, sizeof *out);
    for (int64_t i = 0; i < image->frames; i++)
        gpu_ok(lx_image_download(&g->x, image, i, out + i * frame, err));
    return out;
}

#endif
