/*
 * test_model_dir.c - the folder as people have it: found, ambiguous, missing, broken
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>

#include "weights/lx_model_dir.h"
#include "weights_make.h"

#define HEADER "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

/* Makes folders on the way; what the file holds matters to the doctor only. */
static void touch(const scratch *s, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    for (char *p = path + strlen(s->dir) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        mkdir(path, 0755);
    }
    if (strstr(name, ".safetensors") && !strstr(name, ".json"))
        put_safetensors(path, HEADER, 4);
    else if (strstr(name, ".pth")) {
        static zip_maker z;
        static float six[6];
        z = (zip_maker){.n = 0};
        ZIP_PICKLE(&z, PK_MAP(PK_W));
        zip_add(&z, "a/data/0", six, sizeof six);
        zip_add(&z, "a/version", "3\n", 2);
        zip_finish(&z);
        put_file(path, z.b.data, z.b.n);
    } else {
        put_file(path, "{}", 2);
    }
}

static void touch_all(const scratch *s, const char *const *names)
{
    for (; *names; names++)
        touch(s, *names);
}

static lx_model_paths found;

static void expect_paths(const scratch *s, const char *dir, const char *dit, const char *text,
                         const char *vae, const char *tokenizer)
{
    lx_err err = {0};
    char path[512];
    const char *expected[] = {dit, text, vae, tokenizer};
    const char *got[] = {found.dit, found.text, found.vae, found.tokenizer};
    snprintf(path, sizeof path, "%s/%s", s->dir, dir);
    if (lx_model_resolve(&found, path, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s%s%s", s->dir, *expected[i] ? "/" : "", expected[i]);
        assert_string_equal(got[i], path);
    }
}

static void expect_problem(const char *dir, const lx_model_paths *overrides, const char *words)
{
    lx_err err = {0};
    lx_status status = lx_model_resolve(&found, dir, overrides, &err);
    if (status != LX_ECONFIG || !strstr(err.message, words))
        fail_msg("status %s, message \"%s\", expected \"%s\"", lx_status_name(status), err.message,
                 words);
}

static const char *const published[] = {
    "distill_int8/block_0.safetensors",
    "distill_int8/non_block.safetensors",
    "distill_int8/diffusion_pytorch_model.safetensors.index.json",
    "distill_int8/models_t5_umt5-xxl-enc-int8.pth",
    "distill_int8/Wan2.1_VAE.pth",
    "google/umt5-xxl/tokenizer.json",
    "google/umt5-xxl/spiece.model",
    NULL,
};

static void test_published_tree(void **state)
{
    (void)state;
    scratch s = scratch_open();
    touch_all(&s, published);
    const char *dirs[] = {"", "/", "distill_int8", "distill_int8/"};
    for (int i = 0; i < 4; i++)
        expect_paths(&s, dirs[i], "distill_int8", "distill_int8/models_t5_umt5-xxl-enc-int8.pth",
                     "distill_int8/Wan2.1_VAE.pth", "google/umt5-xxl");
    remove_tree(s.dir);
}

/* Several forms: int8 before fp8 before bf16; the encoder beside the DiT, then at the root. */
static void test_preference(void **state)
{
    static const char *const files[] = {
        "distill_models/distill_model.safetensors",
        "distill_fp8/block_0.safetensors",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "models_t5_umt5-xxl-enc-fp8.pth",
        "Wan2.1_VAE.safetensors",
        "google/umt5-xxl/spiece.model",
        NULL,
    };
    (void)state;
    scratch s = scratch_open();
    touch_all(&s, files);
    expect_paths(&s, "", "distill_fp8", "models_t5_umt5-xxl-enc-fp8.pth", "Wan2.1_VAE.safetensors",
                 "google/umt5-xxl");
    expect_paths(&s, "distill_models", "distill_models/distill_model.safetensors",
                 "models_t5_umt5-xxl-enc-fp8.pth", "Wan2.1_VAE.safetensors", "google/umt5-xxl");
    touch(&s, "distill_int8/block_0.safetensors");
    touch(&s, "distill_int8/models_t5_umt5-xxl-enc-bf16.pth");
    touch(&s, "distill_int8/Wan2.1_VAE.pth");
    expect_paths(&s, "", "distill_int8", "distill_int8/models_t5_umt5-xxl-enc-bf16.pth",
                 "distill_int8/Wan2.1_VAE.pth", "google/umt5-xxl");
    remove_tree(s.dir);
}

static void test_flat_folders(void **state)
{
    (void)state;
    static const struct {
        const char *dit, *found; /* found NULL: the folder itself */
    } row[] = {
        {"distill_model.safetensors", "distill_model.safetensors"},
        {"wan2.1_t2v_14b_int8_lightx2v_4step.safetensors",
         "wan2.1_t2v_14b_int8_lightx2v_4step.safetensors"},
        {"block_0.safetensors", NULL},
        {"m.safetensors.index.json", "m.safetensors.index.json"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        scratch s = scratch_open();
        const char *files[] = {row[i].dit,
                               "models_t5_umt5-xxl-enc-bf16.safetensors",
                               "wan_2.1_vae.safetensors",
                               "Wan21_T2V_14B_lora_rank64.safetensors",
                               "tokenizer.json",
                               NULL};
        touch_all(&s, files);
        expect_paths(&s, "", row[i].found ? row[i].found : "",
                     "models_t5_umt5-xxl-enc-bf16.safetensors", "wan_2.1_vae.safetensors", "");
        remove_tree(s.dir);
    }
}

static void test_overrides(void **state)
{
    (void)state;
    scratch s = scratch_open();
    static lx_model_paths o;
    lx_err err = {0};
    touch_all(&s, published);
    touch(&s, "my/vae.safetensors");
    snprintf(o.vae, sizeof o.vae, "%s/my/vae.safetensors", s.dir);
    assert_int_equal(lx_model_resolve(&found, s.dir, &o, &err), LX_OK);
    assert_string_equal(found.vae, o.vae);
    assert_non_null(strstr(found.text, "enc-int8.pth"));
    snprintf(o.dit, sizeof o.dit, "%s/distill_int8", s.dir);
    snprintf(o.text, sizeof o.text, "%s/distill_int8/Wan2.1_VAE.pth", s.dir);
    snprintf(o.tokenizer, sizeof o.tokenizer, "%s/google/umt5-xxl/spiece.model", s.dir);
    assert_int_equal(lx_model_resolve(&found, NULL, &o, &err), LX_OK); /* no folder needed */
    assert_string_equal(found.tokenizer, o.tokenizer);
    snprintf(o.vae, sizeof o.vae, "%s/my/nothing", s.dir);
    expect_problem(s.dir, &o, "model.vae: ");
    expect_problem(s.dir, &o, "No such file");
    /* A given DiT need not be chosen among candidates. */
    static lx_model_paths dit;
    touch(&s, "flat/one.safetensors");
    touch(&s, "flat/two.safetensors");
    touch(&s, "flat/models_t5_umt5-xxl-enc-int8.pth");
    touch(&s, "flat/Wan2.1_VAE.pth");
    touch(&s, "flat/spiece.model");
    expect_problem(in(&s, "flat"), NULL, "2 files could be the DiT");
    snprintf(dit.dit, sizeof dit.dit, "%s/flat/two.safetensors", s.dir);
    assert_int_equal(lx_model_resolve(&found, in(&s, "flat"), &dit, &err), LX_OK);
    assert_string_equal(found.dit, dit.dit);
    remove_tree(s.dir);
}

static void test_what_is_missing_is_named(void **state)
{
    (void)state;
    scratch s = scratch_open();
    expect_problem(NULL, NULL, "no model: set model: DIR");
    expect_problem("", NULL, "no model");
    expect_problem("/nowhere/at/all", NULL, "is not a folder");
    expect_problem(s.dir, NULL, "no dit found: looked for block_0.safetensors");
    touch(&s, "distill_fp8/block_0.safetensors");
    expect_problem(s.dir, NULL, "no text found: looked for models_t5_umt5-xxl-enc-{int8,fp8,bf16}");
    expect_problem(s.dir, NULL, s.dir);
    expect_problem(s.dir, NULL, "/distill_fp8, ");
    touch(&s, "models_t5_umt5-xxl-enc-bf16.pth");
    expect_problem(s.dir, NULL, "no vae found");
    touch(&s, "Wan2.1_VAE.pth");
    expect_problem(s.dir, NULL, "no tokenizer found");
    touch(&s, "distill_int8/high_noise_model.safetensors");
    touch(&s, "distill_int8/low_noise_model.safetensors");
    expect_problem(s.dir, NULL, "Wan2.2 A14B");
    remove_tree(s.dir);
}

/* What `run --weights` looks for: one part, whatever else is missing. */
static void test_one_part(void **state)
{
    static char path[LX_PATH_MAX];
    (void)state;
    scratch s = scratch_open();
    static const char *const rows[][3] = {
        /* asked, part, found ("" nothing) */
        {"root", "dit", "root/distill_fp8"},
        {"root/", "text", "root/distill_fp8/models_t5_umt5-xxl-enc-fp8.pth"},
        {"root", "vae", "root/Wan2.1_VAE.pth"},
        {"root", "tokenizer", "root/google/umt5-xxl"},
        {"root/distill_fp8", "vae", "root/Wan2.1_VAE.pth"},
        {"root/distill_fp8", "tokenizer", "root/google/umt5-xxl"},
        {"root/mine", "vae", ""},
        {"root/mine", "dit", "root/mine/one.safetensors"},
        {"root/Wan2.1_VAE.pth", "vae", ""},
        {"two", "dit", ""},
        {"two", "vae", "two/Wan2.1_VAE.pth"},
        {"nowhere", "dit", ""},
    };
    static const char *const files[] = {"root/distill_fp8/block_0.safetensors",
                                        "root/distill_fp8/models_t5_umt5-xxl-enc-fp8.pth",
                                        "root/Wan2.1_VAE.pth",
                                        "root/google/umt5-xxl/spiece.model",
                                        "root/mine/one.safetensors",
                                        "two/one.safetensors",
                                        "two/two.safetensors",
                                        "two/Wan2.1_VAE.pth",
                                        NULL};
    touch_all(&s, files);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        *path = 0;
        bool is_found = lx_model_part(path, in(&s, rows[i][0]), rows[i][1]);
        assert_int_equal(is_found, *rows[i][2] != 0);
        assert_string_equal(path, is_found ? in(&s, rows[i][2]) : "");
    }
    remove_tree(s.dir);
}

/* --- doctor ---------------------------------------------------------------------------------- */

static char *run_doctor(const char *dir, int as_json, lx_status *status, lx_err *err)
{
    static char text[1 << 16];
    char name[] = "/tmp/lx2v-test-doctor-XXXXXX";
    int fd = mkstemp(name), kept = dup(STDOUT_FILENO);
    assert_true(fd >= 0 && kept >= 0);
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    *status = lx_model_doctor(dir, as_json, err);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    close(fd);
    unlink(name);
    return text;
}

static void test_doctor_finds_all_sound(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_status status;
    lx_err err = {0};
    touch_all(&s, published);
    char *text = run_doctor(s.dir, 0, &status, &err);
    assert_int_equal(status, LX_OK);
    assert_non_null(strstr(text, "all parts are there"));
    assert_null(strstr(text, "hf download"));
    json_t *root = json_loads(run_doctor(s.dir, 1, &status, &err), 0, NULL);
    assert_true(json_is_true(json_object_get(root, "ok")));
    assert_int_equal(json_array_size(json_object_get(root, "files")), 5);
    json_decref(root);
    remove_tree(s.dir);
}

static const char *state_of(const json_t *root, const char *name)
{
    size_t i;
    json_t *file;
    json_array_foreach(
        json_object_get(root, "files"), i,
        file) if (strstr(json_string_value(json_object_get(file, "path")),
                         name)) return json_string_value(json_object_get(file, "state"));
    return "not listed";
}

static void test_doctor_names_what_is_broken(void **state)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
                                  "size 351000000\n";
    (void)state;
    scratch s = scratch_open();
    lx_status status;
    lx_err err = {0};
    touch_all(&s, published);
    touch(&s, "distill_int8/block_3.safetensors"); /* so 1 and 2 are missing */
    put_file(in(&s, "distill_int8/non_block.safetensors"), pointer, sizeof pointer - 1);
    assert_int_equal(truncate(in(&s, "distill_int8/block_0.safetensors"), 60), 0);
    assert_int_equal(truncate(in(&s, "distill_int8/Wan2.1_VAE.pth"), 300), 0);
    put_file(in(&s, "distill_int8/models_t5_umt5-xxl-enc-int8.pth"), "<html>sorry</html>", 18);
    json_t *root = json_loads(run_doctor(s.dir, 1, &status, &err), 0, NULL);
    assert_int_equal(status, LX_ECONFIG);
    assert_non_null(strstr(err.message, "6 of 8 files are missing or broken"));
    assert_string_equal(state_of(root, "block_0."), "truncated");
    assert_string_equal(state_of(root, "block_1."), "missing");
    assert_string_equal(state_of(root, "block_2."), "missing");
    assert_string_equal(state_of(root, "block_3."), "ok");
    assert_string_equal(state_of(root, "non_block."), "lfs-pointer");
    assert_string_equal(state_of(root, "VAE"), "truncated");
    assert_string_equal(state_of(root, "enc-int8"), "damaged");
    assert_string_equal(state_of(root, "tokenizer.json"), "ok");
    const char *command = json_string_value(json_object_get(root, "download"));
    assert_non_null(strstr(command, "hf download lightx2v/Wan2.1-T2V-14B-"));
    assert_non_null(strstr(command, " --include \"distill_int8/*block*\""));
    assert_non_null(strstr(command, " --include \"distill_int8/Wan2.1_VAE.pth\""));
    assert_true(json_integer_value(json_object_get(root, "needed_bytes")) > 351000000 + 507609880);
    assert_true(json_integer_value(json_object_get(root, "free_bytes")) > 0);
    json_decref(root);
    char *text = run_doctor(in(&s, "distill_int8"), 0, &status, &err);
    assert_int_equal(status, LX_ECONFIG);
    assert_non_null(strstr(text, "git lfs pull"));
    assert_non_null(strstr(text, s.dir)); /* the command's --local-dir is the root */
    remove_tree(s.dir);
}

/* A flat folder: the index knows of a last block that is not there, the tokenizer ends early, and
 * the command speaks of the repository's folders, not of this one's. */
static void test_doctor_of_a_flat_folder(void **state)
{
    static const char index[] = "{\"weight_map\":{\"a\":\"block_0.safetensors\",\"b\":"
                                "\"block_3.safetensors\",\"c\":\"other.safetensors\"}}";
    static const char *const files[] = {"block_0.safetensors",   "block_2.safetensors",
                                        "non_block.safetensors", "models_t5_umt5-xxl-enc-int8.pth",
                                        "Wan2.1_VAE.pth",        NULL};
    (void)state;
    scratch s = scratch_open();
    lx_status status;
    lx_err err = {0};
    touch_all(&s, files);
    put_file(in(&s, "m.safetensors.index.json"), index, sizeof index - 1);
    put_file(in(&s, "tokenizer.json"), "{\"model\": {\"vocab\": [[\"a\", 0", 28);
    assert_int_equal(truncate(in(&s, "Wan2.1_VAE.pth"), 300), 0);
    json_t *root = json_loads(run_doctor(s.dir, 1, &status, &err), 0, NULL);
    assert_int_equal(status, LX_ECONFIG);
    assert_string_equal(state_of(root, "/block_0."), "ok");
    assert_string_equal(state_of(root, "/block_1."), "missing"); /* a gap */
    assert_string_equal(state_of(root, "/block_2."), "ok");
    assert_string_equal(state_of(root, "/block_3."), "missing"); /* only the index knows */
    assert_string_equal(state_of(root, "other."), "not listed");
    assert_string_equal(state_of(root, "tokenizer.json"), "truncated");
    assert_int_equal(json_array_size(json_object_get(root, "files")), 8);
    const char *command = json_string_value(json_object_get(root, "download"));
    assert_non_null(strstr(command, " \"distill_int8/*block*\""));
    assert_non_null(strstr(command, " \"distill_int8/Wan2.1_VAE.pth\""));
    assert_non_null(strstr(command, " \"google/umt5-xxl/*\""));
    assert_null(strstr(command, "enc-int8"));
    json_decref(root);
    remove_tree(s.dir);
}

static void test_doctor_of_an_empty_folder(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_status status;
    lx_err err = {0};
    json_t *root = json_loads(run_doctor(s.dir, 1, &status, &err), 0, NULL);
    assert_int_equal(status, LX_ECONFIG);
    assert_int_equal(json_array_size(json_object_get(root, "files")), 4);
    assert_string_equal(state_of(root, "distill_int8"), "missing");
    assert_non_null(strstr(json_string_value(json_object_get(root, "download")), "google/umt5"));
    json_decref(root);
    assert_int_equal(lx_model_doctor("", 0, &err), LX_ECONFIG);
    remove_tree(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_tree),
        cmocka_unit_test(test_preference),
        cmocka_unit_test(test_flat_folders),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_what_is_missing_is_named),
        cmocka_unit_test(test_one_part),
        cmocka_unit_test(test_doctor_finds_all_sound),
        cmocka_unit_test(test_doctor_names_what_is_broken),
        cmocka_unit_test(test_doctor_of_a_flat_folder),
        cmocka_unit_test(test_doctor_of_an_empty_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
