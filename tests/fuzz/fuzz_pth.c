/*
 * fuzz_pth.c - any bytes as the pickle of a sound archive, then as an archive
 * SPDX-License-Identifier: Apache-2.0
 *
 * A mutated zip is nearly always refused by its CRC or its directory, so the pickle reader is
 * reached directly: the input becomes data.pkl of an archive with two small storages. An input
 * that itself begins like a zip is opened as it is.
 */
#include <string.h>

#include "fuzz_weights.h"
#include "weights/zip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(uint8_t *out, size_t *at, uint64_t value, int n)
{
    memset(out + *at, 0, (size_t)n);
    for (int i = 0; i < n && i < 8; i++)
        out[*at + (size_t)i] = (uint8_t)(value >> (8 * i));
    *at += (size_t)n;
}

static void put_bytes(uint8_t *out, size_t *at, const void *data, size_t n)
{
    if (n)
        memcpy(out + *at, data, n);
    *at += n;
}

static void put_local(uint8_t *out, size_t *at, const char *name, const void *data, size_t n)
{
    put(out, at, 0x04034b50, 4);
    put(out, at, 0, 22);
    put(out, at, strlen(name), 2);
    put(out, at, 0, 2);
    put_bytes(out, at, name, strlen(name));
    put_bytes(out, at, data, n);
}

static void put_central(uint8_t *out, size_t *at, const char *name, const void *data, size_t n,
                        size_t local)
{
    put(out, at, 0x02014b50, 4);
    put(out, at, 0, 12);
    put(out, at, lx_crc32(0, data, n), 4);
    put(out, at, n, 4);
    put(out, at, n, 4);
    put(out, at, strlen(name), 2);
    put(out, at, 0, 12);
    put(out, at, local, 4);
    put_bytes(out, at, name, strlen(name));
}

static void open_as_pickle(const uint8_t *data, size_t size)
{
    static const uint8_t storage[64] = {0, 0, 0x80, 0x3f, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    const struct {
        const char *name;
        const void *data;
        size_t n;
    } record[] = {{"a/data.pkl", data, size},
                  {"a/data/0", storage, sizeof storage},
                  {"a/data/1", storage, 8},
                  {"a/version", "3\n", 2}};
    uint8_t *zip = malloc(size + 1024);
    size_t local[4], at = 0;
    if (!zip)
        return;
    for (int i = 0; i < 4; i++) {
        local[i] = at;
        put_local(zip, &at, record[i].name, record[i].data, record[i].n);
    }
    size_t directory = at;
    for (int i = 0; i < 4; i++)
        put_central(zip, &at, record[i].name, record[i].data, record[i].n, local[i]);
    size_t bytes = at - directory;
    put(zip, &at, 0x06054b50, 4);
    put(zip, &at, 0, 4);
    put(zip, &at, 4, 2);
    put(zip, &at, 4, 2);
    put(zip, &at, bytes, 4);
    put(zip, &at, directory, 4);
    put(zip, &at, 0, 2);
    fuzz_open(zip, at, NULL);
    free(zip);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4 && !memcmp(data, "PK\x03\x04", 4)) {
        lx_weights_options options = {.verify = true};
        fuzz_open(data, size, NULL);
        fuzz_open(data, size, &options);
    } else {
        open_as_pickle(data, size);
    }
    return 0;
}
