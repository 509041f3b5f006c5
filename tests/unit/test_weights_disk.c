/*
 * test_weights_disk.c - tensors that stay in their file: where they lie, that they stay the same
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>

#include "weights/weights_internal.h"
#include "weights_make.h"

#define N_BIG 20000 /* values of "big": several pages, and no multiple of one */

static unsigned char big_at(size_t i)
{
    return (unsigned char)(i * 7 + i / 251);
}

/* big begins right behind `first` bytes of another tensor, so anywhere in a page. */
static void put_model(const char *path, size_t first)
{
    char header[512];
    bytes b = {.n = 0};
    snprintf(header, sizeof header,
             "{\"a\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[0,%zu]},"
             "\"big.weight\":{\"dtype\":\"I8\",\"shape\":[2,%d],\"data_offsets\":[%zu,%zu]},"
             "\"big.weight_scale\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[%zu,%zu]}}",
             first, first, N_BIG / 2, first, first + N_BIG, first + N_BIG, first + N_BIG + 8);
    put_le(&b, strlen(header), 8);
    put_text(&b, header);
    for (size_t i = 0; i < first; i++)
        put_le(&b, i & 63, 1);
    for (size_t i = 0; i < N_BIG; i++)
        put_le(&b, big_at(i), 1);
    put_n(&b, (float[]){1, 2}, 8);
    put_file(path, b.data, b.n);
}

static bool all(const char *name, uint64_t n, void *self)
{
    (void)name, (void)n;
    ++*(int *)self;
    return true;
}

static lx_weights *open_on_disk(const char *path, int *n_asked)
{
    lx_weights *w = NULL;
    lx_err err = {0};
    *n_asked = 0;
    lx_weights_options options = {.on_disk = all, .self = n_asked};
    if (lx_weights_open(&w, path, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    return w;
}

/* The extent's bytes through reads of whole pages, `pages` at a time. */
static lx_status read_extent(const lx_extent *e, size_t pages, unsigned char *out, lx_err *err)
{
    const uint64_t page = LX_DISK_ALIGN, lead = e->offset % page, end = e->offset + e->bytes;
    unsigned char *buffer = aligned_alloc(page, pages * page);
    lx_status status = LX_OK;
    assert_non_null(buffer);
    for (uint64_t at = e->offset - lead; at < end && status == LX_OK; at += pages * page) {
        status = lx_disk_read(e->disk, at, buffer, pages * page, err);
        for (uint64_t i = 0; i < pages * page && status == LX_OK; i++)
            if (at + i >= e->offset && at + i < end)
                out[at + i - e->offset] = buffer[i];
    }
    free(buffer);
    return status;
}

static void check_model(const scratch *s, size_t first)
{
    int n_asked;
    unsigned char got[N_BIG] = {0};
    lx_weight w;
    lx_extent e;
    lx_err err = {0};
    put_model(in(s, "m.safetensors"), first);
    lx_weights *weights = open_on_disk(in(s, "m.safetensors"), &n_asked);
    assert_int_equal(n_asked, 2); /* not for the scale */
    assert_true(lx_weights_find(weights, "big.weight", &w));
    assert_null(w.data);
    assert_true(w.scale[0] == 1 && w.scale[1] == 2);
    assert_int_equal(w.shape.dim[1], N_BIG / 2);
    assert_true(lx_weights_extent(weights, "big.weight", &e));
    assert_false(lx_weights_extent(weights, "missing", &e));
    assert_int_equal(e.bytes, N_BIG);
    assert_int_equal(lx_weights_held_bytes(weights), 8);
    assert_int_equal(lx_weights_bytes(weights), first + N_BIG + 8);
    assert_string_equal(lx_disk_path(e.disk), in(s, "m.safetensors"));
    for (size_t pages = 1; pages < 9; pages += 3) {
        memset(got, 0, sizeof got);
        if (read_extent(&e, pages, got, &err) != LX_OK)
            fail_msg("%s", err.message);
        for (size_t i = 0; i < N_BIG; i++)
            assert_int_equal(got[i], big_at(i));
    }
    assert_int_equal(lx_disk_unchanged(e.disk, &err), LX_OK);
    lx_weights_close(&weights);
}

static void test_bytes_are_exact_at_any_offset(void **state)
{
    (void)state;
    static const size_t first[] = {1, 63, 511, 512, 3000, 4095, 4096, 4097, 9000};
    scratch s = scratch_open();
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        check_model(&s, first[i]);
    remove_tree(s.dir);
}

/* Where O_DIRECT may not be had: the same bytes. */
static void test_memory_file_system(void **state)
{
    (void)state;
    scratch s = {"/dev/shm/lx2v-test-XXXXXX"};
    if (!mkdtemp(s.dir))
        skip();
    check_model(&s, 77);
    remove_tree(s.dir);
}

static void test_changed_file_is_named(void **state)
{
    (void)state;
    scratch s = scratch_open();
    unsigned char got[N_BIG];
    for (int i = 0; i < 3; i++) {
        int n_asked;
        lx_extent e;
        lx_err err = {0};
        put_model(in(&s, "m.safetensors"), 100);
        lx_weights *weights = open_on_disk(in(&s, "m.safetensors"), &n_asked);
        assert_true(lx_weights_extent(weights, "big.weight", &e));
        lx_status status;
        if (i == 0) { /* cut */
            assert_int_equal(truncate(in(&s, "m.safetensors"), 9000), 0);
            status = read_extent(&e, 2, got, &err);
            assert_int_equal(status, LX_ECONFIG);
            assert_non_null(strstr(err.message, "m.safetensors"));
        }
        if (i == 1) /* written to, same size, another time */
            assert_int_equal(utimensat(AT_FDCWD, in(&s, "m.safetensors"),
                                       (struct timespec[]){{.tv_sec = 5}, {.tv_sec = 5}}, 0),
                             0);
        if (i == 2) { /* replaced by name: the open one is still there */
            put_model(in(&s, "new"), 200);
            assert_int_equal(rename(in(&s, "new"), in(&s, "m.safetensors")), 0);
        }
        status = lx_disk_unchanged(e.disk, &err);
        assert_int_equal(status, i < 2 ? LX_ECONFIG : LX_OK);
        if (status != LX_OK)
            assert_non_null(strstr(err.message, "m.safetensors"));
        else
            assert_int_equal(read_extent(&e, 3, got, &err), LX_OK);
        lx_weights_close(&weights);
    }
    remove_tree(s.dir);
}

/* Records of a .pth lie there uncompressed; a transposed view has to be gathered. */
static void test_pth_records(void **state)
{
    (void)state;
    scratch s = scratch_open();
    zip_maker z = {.n = 0};
    const float data[6] = {1, 2, 3, 4, 5, 6};
    static const char transposed[] =
        "X\x01\0\0\0t" PK_V2
        "(" PK_STORAGE("FloatStorage", "0", "\x06") "K\0K\x03K\x02\x86K\x01K\x03\x86" PK_HOOKS "tR";
    bytes pickle = {.n = 0};
    put_n(&pickle, "\x80\x02}(", 4);
    put_n(&pickle, PK_W, sizeof(PK_W) - 1);
    put_n(&pickle, transposed, sizeof transposed - 1);
    put_text(&pickle, "u.");
    zip_add(&z, "a/data.pkl", pickle.data, pickle.n);
    zip_add(&z, "a/version", "3\n", 2);
    zip_add(&z, "a/data/0", data, sizeof data);
    zip_finish(&z);
    put_file(in(&s, "m.pth"), z.b.data, z.b.n);
    int n_asked;
    lx_weights *weights = open_on_disk(in(&s, "m.pth"), &n_asked);
    lx_extent e;
    lx_weight t;
    float got[6];
    lx_err err = {0};
    assert_true(lx_weights_extent(weights, "w", &e));
    assert_int_equal(read_extent(&e, 1, (unsigned char *)got, &err), LX_OK);
    assert_memory_equal(got, data, sizeof data);
    assert_false(lx_weights_extent(weights, "t", &e));
    assert_true(lx_weights_find(weights, "t", &t));
    assert_memory_equal(t.data, ((const float[]){1, 4, 2, 5, 3, 6}), sizeof data);
    lx_weights_close(&weights);
    remove_tree(s.dir);
}

/* What is wrong with a file is found though its data is not read. */
static void test_headers_are_checked_all_the_same(void **state)
{
    (void)state;
    scratch s = scratch_open();
    int n_asked = 0;
    lx_weights *w = NULL;
    lx_err err = {0};
    lx_weights_options options = {.on_disk = all, .self = &n_asked};
    put_model(in(&s, "m.safetensors"), 100);
    assert_int_equal(truncate(in(&s, "m.safetensors"), 9000), 0);
    assert_int_equal(lx_weights_open(&w, in(&s, "m.safetensors"), &options, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "truncated"));
    remove_tree(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_exact_at_any_offset),
        cmocka_unit_test(test_memory_file_system),
        cmocka_unit_test(test_changed_file_is_named),
        cmocka_unit_test(test_pth_records),
        cmocka_unit_test(test_headers_are_checked_all_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
