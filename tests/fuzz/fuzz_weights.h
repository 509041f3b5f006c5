/*
 * fuzz_weights.h - open a checkpoint from memory and ask every question about it
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_FUZZ_WEIGHTS_H
#define TESTS_FUZZ_WEIGHTS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lx_log.h"
#include "weights/lx_catalog.h"

/* The loader reads files, so the input becomes one that has no name. */
static inline void fuzz_open(const uint8_t *data, size_t size, const lx_weights_options *options)
{
    char path[64];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    lx_log_open("fuzz", LX_LOG_ERROR);
    lx_err err = {0};
    lx_weights *w = NULL;
    if (lx_weights_open(&w, path, options, &err) == LX_OK) {
        lx_dit_dims dit;
        lx_t5_dims t5;
        lx_vae_dims vae;
        uint64_t sum = 0;
        for (size_t i = 0; i < lx_weights_count(w); i++) {
            lx_weight x = lx_weights_at(w, i), found;
            uint64_t bytes = 0;
            if (!lx_weights_find(w, x.name, &found) || found.data != x.data ||
                lx_shape_bytes(&x.shape, x.dtype, NULL, &bytes, NULL) != LX_OK)
                abort();
            for (uint64_t k = 0; k < bytes; k++) /* a sanitizer sees every byte touched */
                sum += ((const uint8_t *)x.data)[k];
            for (int64_t k = 0; x.scale && k < x.shape.dim[0]; k++)
                sum += x.scale[k] > 0;
        }
        volatile uint64_t sink = sum;
        (void)sink;
        (void)lx_catalog_dit(w, &dit, &err);
        (void)lx_catalog_t5(w, &t5, &err);
        (void)lx_catalog_vae(w, &vae, &err);
        lx_weights_close(&w);
    } else if (!*err.message) {
        abort(); /* a refusal without a reason */
    }
    close(fd);
}

#endif
