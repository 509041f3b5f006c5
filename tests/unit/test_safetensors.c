/*
 * test_safetensors.c - the reader refuses every malformed file, and reads what the writer writes
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "weights/weights_internal.h"
#include "weights_make.h"

#define A "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"

/* Opens; expects LX_ECONFIG, the path and `words` in the message. */
static void expect_refused(const char *path, const char *words)
{
    lx_err err = {0};
    lx_weights *w = NULL;
    lx_status status = lx_weights_open(&w, path, NULL, &err);
    if (status != LX_ECONFIG || !strstr(err.message, words) || !strstr(err.message, "/tmp/"))
        fail_msg("%s: status %s, message \"%s\", expected words \"%s\"", path,
                 lx_status_name(status), err.message, words);
    assert_null(w);
}

static void test_headers_that_are_refused(void **state)
{
    static const struct {
        const char *header;
        size_t data;
        const char *words;
    } row[] = {
        {"[1,2]", 0, "begins with byte 0x5b"},
        {" {" A "}", 4, "begins with byte 0x20"},
        {"{" A "", 4, "the object is not closed"},
        {"{" A "} x", 4, "only spaces may follow"},
        {"{" A "}\n", 4, "only spaces may follow"},
        {"{" A "," A "}", 4, "occurs twice"},
        {"{" A ",\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]}}", 4,
         "occurs twice"},
        {"{" A "," A, 4, "the object is not closed"},
        {"{" A " " A "}", 4, "',' or '}' expected"},
        {"{a:1}", 0, "key in quotes"},
        {"{\"a\" 1}", 0, "':' expected"},
        {"{\"a\":}", 0, "a value is missing"},
        {"{\"a\":[1,2}", 0, "']' expected"},
        {"{\"a\":[1,2", 0, "not closed"},
        {"{\"a\":\"x}", 0, "a string is not closed"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[[[1]]]],\"data_offsets\":[0,1]}}", 1,
         "nested too deep"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor name"},
        {"{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
         "tensor name"},
        {"{\"\\ud800\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor name"},
        {"{\"\\x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor name"},
        {"{\"\xff\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor name"},
        {"{\"a\":{\"dtype\":\"\xff\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "tensor a"},
        {"{\"a\":4}", 4, "is not an object"},
        {"{\"a\":[4]}", 4, "is not an object"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, "exactly dtype, shape, data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"x\":1}}", 4, "exactly"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
         "duplicate"},
        {"{\"a\":{\"dtype\":8,\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "dtype is not a string"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":4,\"data_offsets\":[0,4]}}", 4, "not an array"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"4\"],\"data_offsets\":[0,4]}}", 4, "shape[0]"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}", 4, "plain integers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}}", 4, "plain integers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4e0],\"data_offsets\":[0,4]}}", 4, "plain integers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[+4],\"data_offsets\":[0,4]}}", 4, "plain integers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,9223372036854775808]}}", 4,
         "too big"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}", 4, "[begin, end]"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,8]}}", 4, "[begin, end]"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", 4, "before they begin"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,4],\"data_offsets\":[0,4]}}", 4,
         "9 dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1099511627777],\"data_offsets\":[0,4]}}", 4, "2^40"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1073741824,1073741824],\"data_offsets\":[0,4]}}", 4,
         "2^48"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "needs 8 bytes"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "not supported"},
        {"{\"a\":{\"dtype\":\"X9\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
         "dtype X9 of tensor a is not supported"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", 5, "a hole"},
        {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}", 9, "a hole"},
        {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}", 7, "an overlap"},
        {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "an overlap"},
        {"{" A "}", 3, "truncated"},
        {"{" A "}", 5, "1 bytes follow the last tensor"},
        {"{\"__metadata__\":[]," A "}", 4, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"x\":1}," A "}", 4, "is not a string"},
        {"{\"__metadata__\":{\"x\":{}}," A "}", 4, "is not a string"},
        {"{\"__metadata__\":{},\"__metadata__\":{}," A "}", 4, "occurs twice"},
    };
    (void)state;
    scratch s = scratch_open();
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        put_safetensors(in(&s, "x.safetensors"), row[i].header, row[i].data);
        expect_refused(in(&s, "x.safetensors"), row[i].words);
    }
    remove_tree(s.dir);
}

/* Sub-byte types are only checked for whole bytes when nobody wants the tensor. */
static bool wants_a(const char *name, void *self)
{
    (void)self;
    return !strcmp(name, "a");
}

static void test_unwanted_tensors_are_checked_but_not_read(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_weights_options options = {.wants = wants_a};
    lx_weights *w = NULL;
    lx_err err = {0};
    put_safetensors(in(&s, "x.safetensors"),
                    "{" A ",\"b\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[4,6]}}", 6);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), &options, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "not whole bytes"));
    put_safetensors(in(&s, "x.safetensors"),
                    "{" A ",\"b\":{\"dtype\":\"NEW\",\"shape\":[3],\"data_offsets\":[4,6]}}", 6);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), &options, &err), LX_OK);
    assert_int_equal(lx_weights_count(w), 1);
    assert_int_equal(lx_weights_bytes(w), 4);
    lx_weights_close(&w);
    assert_null(w);
    remove_tree(s.dir);
}

static void test_lengths_that_cannot_be(void **state)
{
    static const struct {
        uint64_t length;
        size_t bytes; /* of the file */
        const char *words;
    } row[] = {
        {0, 40, "allowed are 2 to"},
        {1, 40, "allowed are 2 to"},
        {100000001, 40, "allowed are 2 to"},
        {UINT64_MAX, 40, "allowed are 2 to"},
        {1000, 40, "truncated"},
        {33, 40, "truncated"},
        {8, 7, "too few"},
        {2, 0, "0 bytes"},
    };
    (void)state;
    scratch s = scratch_open();
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        bytes b = {.n = 0};
        put_le(&b, row[i].length, 8);
        put_text(&b, "{}                                                             ");
        put_file(in(&s, "x.safetensors"), b.data, row[i].bytes);
        expect_refused(in(&s, "x.safetensors"), row[i].words);
    }
    remove_tree(s.dir);
}

static void test_other_formats_are_named(void **state)
{
    static const struct {
        const char *bytes;
        const char *words;
    } row[] = {
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 351\n", "git-lfs pointer"},
        {"GGUF\x03zzzzzzzzzzzzzzzzz", "GGUF"},
        {"<!DOCTYPE html><html>....", "HTML"},
        {"\n\n<html><body>.......", "HTML"},
        {"PYTORCH1............", "preview container"},
        {"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "legacy"},
        {"\x1f\x8b.......................", "gzip"},
        {"{\"weight_map\": {}}         ", "JSON"},
    };
    (void)state;
    scratch s = scratch_open();
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        put_file(in(&s, "x.safetensors"), row[i].bytes, strlen(row[i].bytes));
        expect_refused(in(&s, "x.safetensors"), row[i].words);
    }
    expect_refused(in(&s, "nothing.safetensors"), "No such file");
    unlink(in(&s, "x.safetensors"));
    expect_refused(in(&s, ""), "no *.safetensors in this folder");
    assert_int_equal(mkfifo(in(&s, "pipe"), 0600), 0);
    expect_refused(in(&s, "pipe"), "not a regular file"); /* and does not wait for a writer */
    remove_tree(s.dir);
}

static void fill_pattern(unsigned char *out, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (unsigned char)((i * 7 + seed) % 120);
}

static void test_written_files_read_back(void **state)
{
    (void)state;
    scratch s = scratch_open();
    unsigned char data[6][64];
    for (unsigned i = 0; i < 6; i++)
        fill_pattern(data[i], sizeof data[i], i);
    const lx_named_tensor t[] = {
        {"z.u8", {LX_DTYPE_U8, LX_SHAPE(3), data[0]}},
        {"b.f32", {LX_DTYPE_F32, LX_SHAPE(2, 3), data[1]}},
        {"a.bf16", {LX_DTYPE_BF16, LX_SHAPE(5), data[2]}},
        {"c \"quoted\" \xc3\xbc", {LX_DTYPE_I64, {.n_dims = 0}, data[3]}},
        {"empty", {LX_DTYPE_F16, LX_SHAPE(0, 4), data[4]}},
        {"five", {LX_DTYPE_F8_E4M3, LX_SHAPE(2, 1, 1, 2, 2), data[5]}},
    };
    lx_weights *w = NULL;
    lx_err err = {0};
    assert_int_equal(lx_safetensors_write(in(&s, "x.safetensors"), t, 6, &err), LX_OK);
    assert_int_equal(access(in(&s, "x.safetensors.part"), F_OK), -1);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), NULL, &err), LX_OK);
    assert_int_equal(lx_weights_count(w), 6);
    for (size_t i = 0; i < 6; i++) {
        lx_weight found;
        uint64_t n;
        assert_true(lx_weights_find(w, t[i].name, &found));
        assert_int_equal(found.dtype, t[i].tensor.dtype);
        assert_true(lx_shape_equal(&found.shape, &t[i].tensor.shape));
        assert_int_equal((uintptr_t)found.data % 64, 0);
        lx_shape_bytes(&found.shape, found.dtype, NULL, &n, NULL);
        assert_memory_equal(found.data, t[i].tensor.data, n);
    }
    for (size_t i = 1; i < 6; i++)
        assert_true(strcmp(lx_weights_at(w, i - 1).name, lx_weights_at(w, i).name) < 0);
    assert_int_equal(strlen(lx_weights_id(w)), 16);
    lx_weights_close(&w);
    remove_tree(s.dir);
}

/* Falling element size, then name; header padded to 8: the reference writer's file, byte for byte.
 * Made with the Python package safetensors 0.4: save({"b": f32[1], "a": u8[2], "c": f32[1]}). */
static void test_writer_has_reference_order(void **state)
{
    static const char expected[] =
        "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
        "\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[8,10]}}";
    (void)state;
    scratch s = scratch_open();
    float one = 1, two = 2;
    unsigned char u[2] = {3, 4}, file[512];
    const lx_named_tensor t[] = {{"b", {LX_DTYPE_F32, LX_SHAPE(1), &one}},
                                 {"a", {LX_DTYPE_U8, LX_SHAPE(2), u}},
                                 {"c", {LX_DTYPE_F32, LX_SHAPE(1), &two}}};
    assert_int_equal(lx_safetensors_write(in(&s, "x"), t, 3, NULL), LX_OK);
    FILE *in_file = fopen(in(&s, "x"), "rb");
    size_t n = fread(file, 1, sizeof file, in_file);
    fclose(in_file);
    size_t header = (sizeof expected - 1 + 7) / 8 * 8;
    assert_int_equal(n, 8 + header + 10);
    assert_int_equal(file[0], header);
    assert_memory_equal(file + 8, expected, sizeof expected - 1);
    assert_memory_equal(file + 8 + header, &one, 4);
    assert_memory_equal(file + 8 + header + 8, u, 2);
    lx_err err = {0};
    const lx_named_tensor twice[] = {t[0], t[0]};
    assert_int_equal(lx_safetensors_write(in(&s, "x"), twice, 2, &err), LX_EJOB);
    assert_int_equal(lx_safetensors_write("/nowhere/x", t, 3, &err), LX_ECONFIG);
    remove_tree(s.dir);
}

/* Two rows of I8 and their scale, in every spelling of the scale. */
static void test_scales_are_folded_and_widened(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int8_t codes[6] = {1, 2, 3, 4, 5, 6};
    float f32[2] = {0.5f, 0.25f};
    uint16_t bf16[2] = {0x3f00, 0x3e80}, f16[2] = {0x3800, 0x3400};
    const struct {
        lx_dtype dtype;
        void *data;
    } row[] = {{LX_DTYPE_F32, f32}, {LX_DTYPE_BF16, bf16}, {LX_DTYPE_F16, f16}};
    for (int i = 0; i < 6; i++) {
        lx_shape shape = i % 2 ? LX_SHAPE(2, 1) : LX_SHAPE(2);
        const lx_named_tensor t[] = {
            {"diffusion_model.x.weight", {LX_DTYPE_I8, LX_SHAPE(2, 3), codes}},
            {"diffusion_model.x.weight_scale", {row[i / 2].dtype, shape, row[i / 2].data}}};
        lx_weights *w = NULL;
        lx_weight found;
        lx_err err = {0};
        assert_int_equal(lx_safetensors_write(in(&s, "x.safetensors"), t, 2, &err), LX_OK);
        assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), NULL, &err), LX_OK);
        assert_int_equal(lx_weights_count(w), 1);
        assert_true(lx_weights_find(w, "x.weight", &found)); /* the prefix is gone */
        assert_non_null(found.scale);
        assert_true(found.scale[0] == 0.5f && found.scale[1] == 0.25f);
        assert_false(lx_weights_find(w, "x.weight_scale", &found));
        lx_weights_close(&w);
    }
    remove_tree(s.dir);
}

static void test_bad_scales_are_refused(void **state)
{
    static float good[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    static float zero[2] = {1, 0}, minus[2] = {1, -1}, nan_[2] = {1, 0}, inf[2] = {1, 0};
    const struct {
        lx_dtype dtype;
        lx_shape shape;
        float *data;
        const char *words;
    } row[] = {
        {LX_DTYPE_F32, LX_SHAPE(3, 1), good, "must be [2, 1] or [2]"},
        {LX_DTYPE_F32, LX_SHAPE(1), good, "must be [2, 1] or [2]"},
        {LX_DTYPE_F32, LX_SHAPE(2, 2), good, "must be [2, 1] or [2]"},
        {LX_DTYPE_F32, {.n_dims = 0}, good, "must be [2, 1] or [2]"},
        {LX_DTYPE_I32, LX_SHAPE(2, 1), good, "must be F32, BF16 or F16"},
        {LX_DTYPE_F32, LX_SHAPE(2, 1), zero, "must be finite and > 0"},
        {LX_DTYPE_F32, LX_SHAPE(2, 1), minus, "must be finite and > 0"},
        {LX_DTYPE_F32, LX_SHAPE(2, 1), nan_, "must be finite and > 0"},
        {LX_DTYPE_F32, LX_SHAPE(2, 1), inf, "must be finite and > 0"},
    };
    (void)state;
    nan_[1] = lx_f32_from_bf16(0x7fc0);
    inf[1] = lx_f32_from_bf16(0x7f80);
    scratch s = scratch_open();
    int8_t codes[6] = {1, 2, 3, 4, 5, 6};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const lx_named_tensor t[] = {{"x.weight", {LX_DTYPE_I8, LX_SHAPE(2, 3), codes}},
                                     {"x.weight_scale", {row[i].dtype, row[i].shape, row[i].data}}};
        assert_int_equal(lx_safetensors_write(in(&s, "x.safetensors"), t, 2, NULL), LX_OK);
        expect_refused(in(&s, "x.safetensors"), row[i].words);
    }
    remove_tree(s.dir);
}

#define ONE(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

static void test_folders_and_indexes(void **state)
{
    static const struct {
        const char *index, *words; /* words NULL: opens */
    } row[] = {
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}", NULL},
        {"{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"1.safetensors\"}}", NULL},
        {"[]", "not a JSON object"},
        {"{}", "no weight_map"},
        {"{\"weight_map\":{}}", "is empty"},
        {"{\"weight_map\":[]}", "not a JSON object"},
        {"{\"weight_map\":{\"a\":1}}", "is not a file name"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\"}} x", "text follows"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"a\":\"1.safetensors\"}}", "twice"},
        {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"c:\\\\x\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"3.safetensors\"}}", "3.safetensors"},
        {"{\"weight_map\":{\"a\":\"2.safetensors\"}}", "tensor a is not in 2.safetensors"},
        {"{\"weight_map\":{\"b\":\"1.safetensors\",\"c\":\"2.safetensors\"}}",
         "tensor b is said to be in 1.safetensors, but is in 2.safetensors"},
    };
    (void)state;
    scratch s = scratch_open();
    lx_weights *w = NULL;
    put_safetensors(in(&s, "1.safetensors"), ONE("a"), 4);
    put_safetensors(in(&s, "2.safetensors"), ONE("b"), 4);
    assert_int_equal(lx_weights_open(&w, s.dir, NULL, NULL), LX_OK);
    assert_int_equal(lx_weights_count(w), 2);
    lx_weights_close(&w);
    const char *index = "m.safetensors.index.json";
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        lx_err err = {0};
        put_file(in(&s, index), row[i].index, strlen(row[i].index));
        if (row[i].words) {
            expect_refused(s.dir, row[i].words);
            continue;
        }
        if (lx_weights_open(&w, in(&s, index), NULL, &err) != LX_OK)
            fail_msg("%s", err.message);
        lx_weights_close(&w);
    }
    unlink(in(&s, index));
    put_safetensors(in(&s, "3.safetensors"), ONE("diffusion_model.a"), 4);
    expect_refused(s.dir, "tensor a is there twice");
    remove_tree(s.dir);
}

/* Beside block files other safetensors (a VAE) are not the DiT's; a block file linked a second
 * time stands for another block. */
static void test_block_folders(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_weights *w = NULL;
    lx_weight found;
    put_safetensors(in(&s, "block_0.safetensors"), ONE("blocks.0.norm3.bias"), 4);
    put_safetensors(in(&s, "non_block.safetensors"), ONE("head.modulation"), 4);
    put_safetensors(in(&s, "Wan2.1_VAE.safetensors"), ONE("conv2.bias"), 4);
    assert_int_equal(link(in(&s, "block_0.safetensors"), in(&s, "block_12.safetensors")), 0);
    assert_int_equal(lx_weights_open(&w, s.dir, NULL, NULL), LX_OK);
    assert_int_equal(lx_weights_count(w), 3);
    assert_true(lx_weights_find(w, "blocks.12.norm3.bias", &found));
    assert_true(lx_weights_find(w, "blocks.0.norm3.bias", &found));
    lx_weights_close(&w);
    remove_tree(s.dir);
}

/* --- files that change under us -------------------------------------------------------------- */

typedef struct meddler {
    const char *path;
    bool truncates;
    uint64_t last;
} meddler;

static lx_status meddle(void *self, const char *unit, uint64_t done, uint64_t total, lx_err *err)
{
    (void)err;
    meddler *m = self;
    assert_string_equal(unit, "byte");
    assert_true(done <= total && done >= m->last);
    m->last = done;
    if (m->path && m->truncates)
        assert_int_equal(truncate(m->path, 100), 0);
    else if (m->path)
        unlink(m->path);
    return m->path ? LX_OK : lx_fail(err, LX_ECANCEL, "enough");
}

/* 24 MiB: more than one chunk, so that the meddler comes in between. */
static void put_large(const char *path)
{
    size_t n = 24u << 20;
    unsigned char *data = calloc(1, n);
    assert_non_null(data);
    const lx_named_tensor t = {"a", {LX_DTYPE_U8, LX_SHAPE((int64_t)n), data}};
    assert_int_equal(lx_safetensors_write(path, &t, 1, NULL), LX_OK);
    free(data);
}

static void test_files_that_change_while_read(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_err err = {0};
    lx_weights *w = NULL;
    meddler m = {.path = in(&s, "x.safetensors"), .truncates = true};
    lx_progress progress = {.step = meddle, .self = &m};
    lx_weights_options options = {.progress = &progress};
    put_large(m.path);
    assert_int_equal(lx_weights_open(&w, m.path, &options, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "shrank"));
    put_large(m.path);
    m = (meddler){.path = m.path}; /* replaced: what we opened stays what it is */
    assert_int_equal(lx_weights_open(&w, m.path, &options, &err), LX_OK);
    assert_int_equal(m.last, 24u << 20);
    lx_weights_close(&w);
    m = (meddler){0};
    put_large(in(&s, "x.safetensors"));
    assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), &options, &err), LX_ECANCEL);
    remove_tree(s.dir);
}

static void test_truncation_after_loading_is_no_concern(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_weights *w = NULL;
    lx_weight found;
    put_safetensors(in(&s, "x.safetensors"), ONE("a"), 4);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), NULL, NULL), LX_OK);
    assert_int_equal(truncate(in(&s, "x.safetensors"), 0), 0);
    assert_true(lx_weights_find(w, "a", &found));
    assert_memory_equal(found.data, "\0\1\2\3", 4);
    lx_weights_close(&w);
    remove_tree(s.dir);
}

/* A sparse file can claim a terabyte; the machine cannot hold it. */
static void test_too_large_for_memory_says_so(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_err err = {0};
    lx_weights *w = NULL;
    bytes b = {.n = 0};
    static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1099511627776],"
                                 "\"data_offsets\":[0,1099511627776]}}";
    put_le(&b, sizeof header - 1, 8);
    put_text(&b, header);
    put_file(in(&s, "x.safetensors"), b.data, b.n);
    if (truncate(in(&s, "x.safetensors"), (off_t)(b.n + 1099511627776)) == 0) {
        assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), NULL, &err), LX_EAGAIN);
        assert_non_null(strstr(err.message, "needs 1024.00 GiB"));
        lx_weights_options headers = {.headers_only = true};
        assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), &headers, &err), LX_OK);
        assert_int_equal(lx_weights_count(w), 1);
        assert_int_equal(lx_weights_at(w, 0).shape.dim[0], 1099511627776);
        assert_null(lx_weights_at(w, 0).data);
        lx_weights_close(&w);
    }
    remove_tree(s.dir);
}

static void test_first_value_that_is_not_finite(void **state)
{
    (void)state;
    static const struct {
        lx_dtype dtype;
        uint64_t bad;
    } row[] = {{LX_DTYPE_F64, 0x7ff0000000000000},
               {LX_DTYPE_F32, 0xff800000},
               {LX_DTYPE_F16, 0x7c01},
               {LX_DTYPE_BF16, 0x7f80},
               {LX_DTYPE_F8_E4M3, 0xff},
               {LX_DTYPE_F8_E5M2, 0x7c}};
    enum { N = 10000 };
    unsigned char *data = calloc(N, 8);
    assert_non_null(data);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        size_t size = lx_dtype_size(row[i].dtype);
        memset(data, 0, N * 8);
        assert_true(lx_first_not_finite(data, row[i].dtype, N) == UINT64_MAX);
        memcpy(data + 9999 * size, &row[i].bad, size);
        assert_int_equal(lx_first_not_finite(data, row[i].dtype, N), 9999);
        memcpy(data + 4096 * size, &row[i].bad, size);
        assert_int_equal(lx_first_not_finite(data, row[i].dtype, N), 4096);
    }
    assert_true(lx_first_not_finite(data, LX_DTYPE_I8, N) == UINT64_MAX);
    free(data);
}

/* A header of many tiny entries costs a small multiple of its size. */
static void test_memory_follows_the_header(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* a sanitizer keeps freed memory back: this would measure it, not the loader */
#endif
    enum { N = 20000 };
    scratch s = scratch_open();
    char *header = malloc(N * 80);
    assert_non_null(header);
    size_t n = (size_t)sprintf(header, "{");
    for (int i = 0; i < N; i++)
        n += (size_t)sprintf(header + n,
                             "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],"
                             "\"data_offsets\":[0,0]}",
                             i ? "," : "", i);
    n += (size_t)sprintf(header + n, "}");
    FILE *file = fopen(in(&s, "x.safetensors"), "wb");
    uint64_t length = n;
    fwrite(&length, 8, 1, file);
    fwrite(header, 1, n, file);
    fclose(file);
    free(header);
    struct rusage before, after;
    lx_weights *w = NULL;
    getrusage(RUSAGE_SELF, &before);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.safetensors"), NULL, NULL), LX_OK);
    getrusage(RUSAGE_SELF, &after);
    assert_int_equal(lx_weights_count(w), N);
    assert_true((uint64_t)(after.ru_maxrss - before.ru_maxrss) * 1024 < 40 * length);
    lx_weights_close(&w);
    remove_tree(s.dir);
}

/* A rename would replace a device by a file: nothing but a regular file gives way. */
static void test_only_regular_files_are_replaced(void **state)
{
    (void)state;
    scratch s = scratch_open();
    float data[2] = {1, 2};
    lx_named_tensor one = {.name = "x",
                           .tensor = {.dtype = LX_DTYPE_F32, .shape = LX_SHAPE(2), .data = data}};
    assert_int_equal(mkfifo(in(&s, "fifo"), 0600), 0);
    assert_int_equal(mkdir(in(&s, "folder"), 0700), 0);
    put_file(in(&s, "file"), "old", 3);
    assert_int_equal(symlink("file", in(&s, "link")), 0);
    static const struct {
        const char *name, *words;
    } row[] = {
        {"fifo", "a device, pipe or socket, not a regular file"},
        {"folder", "a folder, not a regular file"},
        {"link", "a symbolic link, not a regular file"},
        {"none/x", "No such file"},
        {"file/x", "not a folder"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct stat before = {0}, after = {0};
        lx_err err = {0};
        lstat(in(&s, row[i].name), &before);
        lx_status status = lx_safetensors_write(in(&s, row[i].name), &one, 1, &err);
        if (status != LX_ECONFIG || !strstr(err.message, row[i].words))
            fail_msg("%s: %s, \"%s\"", row[i].name, lx_status_name(status), err.message);
        lstat(in(&s, row[i].name), &after);
        assert_int_equal(before.st_mode, after.st_mode);
        assert_int_equal(before.st_ino, after.st_ino);
    }
    lx_err err = {0};
    assert_int_equal(lx_safetensors_check("/dev/full", &err), LX_ECONFIG);
    assert_int_equal(lx_safetensors_write(in(&s, "file"), &one, 1, &err), LX_OK);
    assert_int_not_equal(access(in(&s, "file.part"), F_OK), 0);
    remove_tree(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers_that_are_refused),
        cmocka_unit_test(test_unwanted_tensors_are_checked_but_not_read),
        cmocka_unit_test(test_lengths_that_cannot_be),
        cmocka_unit_test(test_other_formats_are_named),
        cmocka_unit_test(test_written_files_read_back),
        cmocka_unit_test(test_writer_has_reference_order),
        cmocka_unit_test(test_scales_are_folded_and_widened),
        cmocka_unit_test(test_bad_scales_are_refused),
        cmocka_unit_test(test_folders_and_indexes),
        cmocka_unit_test(test_block_folders),
        cmocka_unit_test(test_files_that_change_while_read),
        cmocka_unit_test(test_truncation_after_loading_is_no_concern),
        cmocka_unit_test(test_too_large_for_memory_says_so),
        cmocka_unit_test(test_only_regular_files_are_replaced),
        cmocka_unit_test(test_first_value_that_is_not_finite),
        cmocka_unit_test(test_memory_follows_the_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
