/*
 * test_sha256.c - FIPS 180-4 examples, and manifests that accept and refuse
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lx_sha256.h"
#include "weights/lx_manifest.h"
#include "weights_make.h"

static void hex_of(const void *data, size_t n, size_t step, char out[65])
{
    lx_sha256 s;
    lx_sha256_open(&s);
    for (size_t at = 0; at < n; at += step)
        lx_sha256_add(&s, (const char *)data + at, n - at < step ? n - at : step);
    lx_sha256_hex(&s, out);
}

static void test_published_examples(void **state)
{
    static const struct {
        const char *text, *hex;
    } row[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    (void)state;
    char out[65];
    for (size_t i = 0; i < 3; i++)
        for (size_t step = 1; step < 70; step += 17) {
            hex_of(row[i].text, strlen(row[i].text), step, out);
            assert_string_equal(out, row[i].hex);
        }
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    for (size_t step = 63; step < 1000; step += 100) {
        hex_of(million, 1000000, step, out);
        assert_string_equal(out,
                            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
    free(million);
}

#define HEADER "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

/* A manifest that gives `hash` for `name`. */
static void put_manifest(const char *path, const char *hash, const char *name)
{
    char text[512];
    int n = snprintf(text, sizeof text, "# comment\n%064d  other\n%s  %s\n", 0, hash, name);
    put_file(path, text, (size_t)n);
}

static void test_manifests(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_weights *w = NULL;
    lx_err err = {0};
    unsigned char file[512];
    char good[65], bad[65];
    mkdir(in(&s, "sub"), 0755);
    const char *path = in(&s, "sub/x.safetensors");
    put_safetensors(path, HEADER, 4);
    FILE *f = fopen(path, "rb");
    size_t n_file = fread(file, 1, sizeof file, f);
    hex_of(file, n_file, 64, good);
    fclose(f);
    memcpy(bad, good, sizeof bad);
    bad[0] = bad[0] == '0' ? '1' : '0';
    const struct {
        const char *manifest, *name, *hash;
        lx_status status;
    } row[] = {
        {"sub/manifest.sha256", "x.safetensors", good, LX_OK},
        {"sub/manifest.sha256", "./x.safetensors", good, LX_OK},
        {"sub/manifest.sha256", "x.safetensors", bad, LX_ECONFIG},
        {"sub/manifest.sha256", "y.safetensors", bad, LX_OK}, /* not listed: a warning */
        {"manifest.sha256", "sub/x.safetensors", good, LX_OK},
        {"manifest.sha256", "sub/x.safetensors", bad, LX_ECONFIG},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char manifest[512];
        snprintf(manifest, sizeof manifest, "%s/%s", s.dir, row[i].manifest);
        put_manifest(manifest, row[i].hash, row[i].name);
        snprintf(manifest, sizeof manifest, "%s/sub/x.safetensors", s.dir);
        lx_status status = lx_weights_open(&w, manifest, NULL, &err);
        assert_int_equal(status, row[i].status);
        if (status != LX_OK)
            assert_non_null(strstr(err.message, "the manifest says"));
        else if (strstr(row[i].name, "x.saf"))
            assert_null(lx_weights_unlisted(w));
        else
            assert_string_equal(lx_weights_unlisted(w), manifest);
        /* As a whole in memory: how a tokenizer is read. */
        assert_int_equal(lx_manifest_check_bytes(manifest, file, n_file, &err), row[i].status);
        lx_weights_close(&w);
        unlink(in(&s, row[i].manifest));
    }
    remove_tree(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_examples),
        cmocka_unit_test(test_manifests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
