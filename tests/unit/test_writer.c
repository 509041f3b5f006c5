/*
 * test_writer.c - files come from the writer whole and the same, or not at all
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdatomic.h>

#include "lx_each.h"
#include "weights/lx_writer.h"
#include "weights_make.h"

static const lx_planned plan[] = {
    {"b.weight", LX_DTYPE_F8_E4M3, {2, {3, 5}}},
    {"a.bias", LX_DTYPE_F32, {1, {3}}},
    {"\"quoted\"", LX_DTYPE_BF16, {3, {2, 1, 2}}},
    {"none", LX_DTYPE_I8, {2, {0, 4}}},
};
#define N_PLAN (sizeof plan / sizeof *plan)

static uint64_t bytes_of(size_t i)
{
    uint64_t n;
    assert_int_equal(lx_shape_bytes(&plan[i].shape, plan[i].dtype, NULL, &n, NULL), LX_OK);
    return n;
}

static unsigned char value_of(size_t i, uint64_t k)
{
    return (unsigned char)(17 * i + k + 1);
}

/* Tensors in the order `first`, first + 1, ..., in pieces of `step` bytes. */
static void write_plan(const char *path, const lx_writer_options *o, size_t first, uint64_t step)
{
    lx_writer *w = NULL;
    lx_err err = {0};
    unsigned char piece[16];
    if (lx_writer_open(&w, path, o, plan, N_PLAN, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (size_t k = 0; k < N_PLAN; k++) {
        size_t i = (first + k) % N_PLAN;
        for (uint64_t at = 0, n; at < bytes_of(i); at += n) {
            n = bytes_of(i) - at < step ? bytes_of(i) - at : step;
            for (uint64_t j = 0; j < n; j++)
                piece[j] = value_of(i, at + j);
            assert_int_equal(lx_writer_put(w, i, piece, n, &err), LX_OK);
        }
    }
    uint64_t whole = lx_writer_bytes(w);
    if (lx_writer_close(&w, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_null(w);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, whole);
}

static void expect_plan(const char *path)
{
    lx_weights_options options = {.verify = true};
    lx_weights *weights = NULL;
    lx_err err = {0};
    if (lx_weights_open(&weights, path, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_int_equal(lx_weights_count(weights), N_PLAN);
    for (size_t i = 0; i < N_PLAN; i++) {
        lx_weight w;
        assert_true(lx_weights_find(weights, plan[i].name, &w));
        assert_int_equal(w.dtype, plan[i].dtype);
        assert_true(lx_shape_equal(&w.shape, &plan[i].shape));
        for (uint64_t k = 0; k < bytes_of(i); k++)
            assert_int_equal(((const unsigned char *)w.data)[k], value_of(i, k));
    }
    lx_weights_close(&weights);
}

static void expect_same_files(const char *a, const char *b)
{
    char command[1200];
    snprintf(command, sizeof command, "cmp %s %s", a, b);
    assert_int_equal(system(command), 0);
}

static void test_order_of_pieces_and_name_do_not_show(void **state)
{
    (void)state;
    scratch s = scratch_open();
    for (int format = 0; format < 3; format++) {
        lx_writer_options o = {.format = format ? LX_FILE_PTH : LX_FILE_SAFETENSORS,
                               .zip64 = format == 2};
        write_plan(in(&s, "one"), &o, 0, 16);
        expect_plan(in(&s, "one"));
        write_plan(in(&s, "another.name"), &o, 2, 3);
        expect_same_files(in(&s, "one"), in(&s, "another.name"));
    }
    assert_int_not_equal(access(in(&s, "one.part"), F_OK), 0);
    remove_tree(s.dir);
}

/* lx_safetensors_write is the same writer. */
static void test_memory_and_pieces_give_the_same_file(void **state)
{
    (void)state;
    scratch s = scratch_open();
    unsigned char data[N_PLAN][16];
    lx_named_tensor list[N_PLAN];
    for (size_t i = 0; i < N_PLAN; i++) {
        for (uint64_t k = 0; k < bytes_of(i); k++)
            data[i][k] = value_of(i, k);
        list[i] = (lx_named_tensor){plan[i].name, {plan[i].dtype, plan[i].shape, data[i]}};
    }
    assert_int_equal(lx_safetensors_write(in(&s, "memory"), list, N_PLAN, NULL), LX_OK);
    write_plan(in(&s, "pieces"), &(lx_writer_options){0}, 1, 1);
    expect_same_files(in(&s, "memory"), in(&s, "pieces"));
    remove_tree(s.dir);
}

static void expect_empty(const scratch *s)
{
    char command[200];
    snprintf(command, sizeof command, "test -z \"$(ls -A %s)\"", s->dir);
    assert_int_equal(system(command), 0);
}

static void test_incomplete_leaves_nothing(void **state)
{
    (void)state;
    scratch s = scratch_open();
    const unsigned char piece[16] = {0};
    for (int format = 0; format < 2; format++) {
        lx_writer_options o = {.format = format ? LX_FILE_PTH : LX_FILE_SAFETENSORS};
        lx_writer *w = NULL;
        lx_err err = {0};
        assert_int_equal(lx_writer_open(&w, in(&s, "x"), &o, plan, N_PLAN, &err), LX_OK);
        assert_int_equal(lx_writer_put(w, 0, piece, 15, &err), LX_OK);
        assert_int_equal(lx_writer_put(w, 0, piece, 1, &err), LX_EJOB); /* it had 15 */
        assert_non_null(strstr(err.message, "b.weight"));
        assert_int_equal(lx_writer_close(&w, &err), LX_EJOB);
        assert_non_null(strstr(err.message, "a.bias"));
        assert_null(w);
        expect_empty(&s);
        assert_int_equal(lx_writer_open(&w, in(&s, "x"), &o, plan, N_PLAN, &err), LX_OK);
        lx_writer_discard(&w);
        lx_writer_discard(&w);
        expect_empty(&s);
    }
    remove_tree(s.dir);
}

static void test_plans_that_are_refused(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_writer *w = NULL;
    lx_err err = {0};
    const lx_writer_options o = {.format = LX_FILE_PTH};
    lx_planned bad[] = {plan[0], plan[0]};
    assert_int_equal(lx_writer_open(&w, in(&s, "x"), &o, bad, 2, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "given twice"));
    bad[1] = (lx_planned){"negative", LX_DTYPE_F32, LX_SHAPE(-1)};
    assert_int_equal(lx_writer_open(&w, in(&s, "x"), &o, bad, 2, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "negative"));
    /* 2^47 elements: no disk has room for it, and no file grows that long. */
    bad[1] = (lx_planned){"huge", LX_DTYPE_F64, LX_SHAPE(1 << 24, 1 << 23)};
    assert_int_equal(lx_writer_open(&w, in(&s, "x"), &o, bad, 2, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "no room"));
    assert_null(w);
    expect_empty(&s);
    /* What a link of the temporary name leads to is not written. */
    put_file(in(&s, "precious"), "old", 3);
    assert_int_equal(symlink("precious", in(&s, "x.part")), 0);
    assert_int_equal(lx_writer_open(&w, in(&s, "x"), &o, plan, N_PLAN, &err), LX_ECONFIG);
    struct stat st;
    assert_int_equal(stat(in(&s, "precious"), &st), 0);
    assert_int_equal(st.st_size, 3);
    remove_tree(s.dir);
}

/* --- lx_each --------------------------------------------------------------------------------- */

typedef struct items {
    atomic_int seen[100];
    size_t fails;
} items;

static lx_status see(void *self, size_t i, lx_err *err)
{
    items *x = self;
    atomic_fetch_add(&x->seen[i], 1);
    return i == x->fails ? lx_fail(err, LX_ECANCEL, "item %zu", i) : LX_OK;
}

static void test_each_item_once(void **state)
{
    (void)state;
    for (int threads = 0; threads < 9; threads += 4) {
        items x = {.fails = 100};
        assert_int_equal(lx_each(100, threads, see, &x, NULL), LX_OK);
        for (int i = 0; i < 100; i++)
            assert_int_equal(x.seen[i], 1);
    }
    assert_int_equal(lx_each(0, 4, see, NULL, NULL), LX_OK);
}

static void test_each_ends_at_a_failure(void **state)
{
    (void)state;
    items x = {.fails = 3};
    lx_err err = {0};
    assert_int_equal(lx_each(100, 1, see, &x, &err), LX_ECANCEL);
    assert_string_equal(err.message, "item 3");
    assert_int_equal(x.seen[3], 1);
    assert_int_equal(x.seen[4], 0);
    x = (items){.fails = 0};
    assert_int_equal(lx_each(100, 4, see, &x, NULL), LX_ECANCEL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_of_pieces_and_name_do_not_show),
        cmocka_unit_test(test_memory_and_pieces_give_the_same_file),
        cmocka_unit_test(test_incomplete_leaves_nothing),
        cmocka_unit_test(test_plans_that_are_refused),
        cmocka_unit_test(test_each_item_once),
        cmocka_unit_test(test_each_ends_at_a_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
