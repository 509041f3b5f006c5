/*
 * fuzz_safetensors.c - any bytes as a checkpoint, read whole and in part
 * SPDX-License-Identifier: Apache-2.0
 */
#include "fuzz_weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lx_weights_options options = {.wants = lx_catalog_vae_wants};
    fuzz_open(data, size, NULL);
    fuzz_open(data, size, &options);
    return 0;
}
