/*
 * weights_make.h - small checkpoints made in memory, right or broken in one place
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_WEIGHTS_MAKE_H
#define TESTS_WEIGHTS_MAKE_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/lx_weights.h"
#include "weights/zip.h"

/* --- folders and files ----------------------------------------------------------------------- */

typedef struct scratch {
    char dir[64];
} scratch;

static inline scratch scratch_open(void)
{
    scratch s = {"/tmp/lx2v-test-XXXXXX"};
    assert_non_null(mkdtemp(s.dir));
    return s;
}

static inline void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    char child[4096];
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            snprintf(child, sizeof child, "%.1800s/%.255s", path, e->d_name);
            if (unlink(child))
                remove_tree(child);
        }
    if (dir)
        closedir(dir);
    rmdir(path);
}

/* Path of a file in the scratch folder; good until the next call but four. */
static inline const char *in(const scratch *s, const char *name)
{
    static char path[4][512];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", s->dir, name);
    return path[at];
}

static inline void put_file(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* --- bytes ----------------------------------------------------------------------------------- */

typedef struct bytes {
    unsigned char data[1 << 16];
    size_t n;
} bytes;

static inline void put_n(bytes *b, const void *data, size_t n)
{
    assert_true(b->n + n <= sizeof b->data);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static inline void put_le(bytes *b, uint64_t value, int n)
{
    for (int i = 0; i < n; i++) {
        unsigned char byte = 0; /* past the eighth: a shift by 64 is not defined */
        if (i < 8)
            byte = (unsigned char)(value >> (8 * i));
        put_n(b, &byte, 1);
    }
}

static inline void put_text(bytes *b, const char *text)
{
    put_n(b, text, strlen(text));
}

static inline void poke(bytes *b, size_t at, uint64_t value, int n)
{
    for (int i = 0; i < n; i++)
        b->data[at + (size_t)i] = (unsigned char)(value >> (8 * i));
}

/* --- safetensors ----------------------------------------------------------------------------- */

/* A file with this header text and n bytes of data 0, 1, 2, ... */
static inline void put_safetensors(const char *path, const char *header, size_t n)
{
    bytes b = {.n = 0};
    put_le(&b, strlen(header), 8);
    put_text(&b, header);
    for (size_t i = 0; i < n; i++)
        put_le(&b, i & 63, 1);
    put_file(path, b.data, b.n);
}

/* --- zip and pickle -------------------------------------------------------------------------- */

/* A zip in the making; positions of its parts stay known, so that a test can break one. */
typedef struct zip_maker {
    bytes b, central;
    struct {
        size_t local, data, central;
    } at[16];
    int n;
    size_t directory, end; /* set by zip_finish */
} zip_maker;

static inline void zip_add(zip_maker *z, const char *name, const void *data, size_t n)
{
    size_t local = z->b.n, name_bytes = strlen(name), head = 30 + name_bytes + 4;
    size_t padding = (64 - (local + head) % 64) % 64;
    uint32_t crc = lx_crc32(0, data, n);
    z->at[z->n].local = local;
    z->at[z->n].central = z->central.n;
    put_le(&z->b, 0x04034b50, 4);
    put_le(&z->b, 0, 2);
    put_le(&z->b, 0x0808, 2);
    put_le(&z->b, 0, 18); /* torch leaves CRC and sizes to the descriptor */
    put_le(&z->b, name_bytes, 2);
    put_le(&z->b, 4 + padding, 2);
    put_text(&z->b, name);
    put_text(&z->b, "FB");
    put_le(&z->b, padding, 2);
    for (size_t i = 0; i < padding; i++)
        put_text(&z->b, "Z");
    z->at[z->n++].data = z->b.n;
    put_n(&z->b, data, n);
    put_le(&z->b, 0x08074b50, 4);
    put_le(&z->b, crc, 4);
    put_le(&z->b, n, 4);
    put_le(&z->b, n, 4);
    put_le(&z->central, 0x02014b50, 4);
    put_le(&z->central, 0, 4);
    put_le(&z->central, 0x0808, 2);
    put_le(&z->central, 0, 6);
    put_le(&z->central, crc, 4);
    put_le(&z->central, n, 4);
    put_le(&z->central, n, 4);
    put_le(&z->central, name_bytes, 2);
    put_le(&z->central, 0, 12);
    put_le(&z->central, local, 4);
    put_text(&z->central, name);
}

static inline void zip_finish(zip_maker *z)
{
    z->directory = z->b.n;
    put_n(&z->b, z->central.data, z->central.n);
    z->end = z->b.n;
    put_le(&z->b, 0x06054b50, 4);
    put_le(&z->b, 0, 4);
    put_le(&z->b, (uint64_t)z->n, 2);
    put_le(&z->b, (uint64_t)z->n, 2);
    put_le(&z->b, z->central.n, 4);
    put_le(&z->b, z->directory, 4);
    put_le(&z->b, 0, 2);
}

/* Offset in the finished file of byte `field` of entry i's central record. */
static inline size_t zip_field(const zip_maker *z, int i, size_t field)
{
    return z->directory + z->at[i].central + field;
}

/* Adds data.pkl from a C string literal, which may hold NULs. */
#define ZIP_PICKLE(z, literal) zip_add((z), "a/data.pkl", (literal), sizeof(literal) - 1)

/* A storage: ('storage', torch.<class>, key, 'cpu', numel) BINPERSID; numel one byte. */
#define PK_STORAGE(class, key, numel)                                                              \
    "(X\x07\0\0\0storagectorch\n" class "\nX\x01\0\0\0" key "X\x03\0\0\0"                          \
                                        "cpuK" numel "tQ"
#define PK_V2 "ctorch._utils\n_rebuild_tensor_v2\n"
#define PK_V3 "ctorch._utils\n_rebuild_tensor_v3\n"
#define PK_HOOKS                                                                                   \
    "\x89"                                                                                         \
    "ccollections\nOrderedDict\n)R"
/* "w": float32 [2, 3], contiguous, storage "0" of 6. */
#define PK_W                                                                                       \
    "X\x01\0\0\0w" PK_V2 "(" PK_STORAGE("FloatStorage", "0", "\x06") "K\0K\x02K\x03\x86K\x03K"     \
                                                                     "\x01\x86" PK_HOOKS "tR"
#define PK_MAP(items) "\x80\x02}(" items "u."

#endif
