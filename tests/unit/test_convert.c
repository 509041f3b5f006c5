/*
 * test_convert.c - lx2v-convert: what LightX2V's converter makes, there and back, and refusals
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "weights/lx_catalog.h"
#include "weights_hash.h"
#include "weights_make.h"

#define GOLDEN LX2V_SOURCE_DIR "/tests/golden/"
#define INDEX  "diffusion_pytorch_model.safetensors.index.json"

static int run(char *said, size_t room, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A shell command; what it says, stderr too, goes to `said`. */
static int run(char *said, size_t room, const char *format, ...)
{
    char command[2048] = "exec 2>&1; cd " LX2V_BIN_DIR "; ";
    size_t n = strlen(command);
    va_list args;
    va_start(args, format);
    vsnprintf(command + n, sizeof command - n, format, args);
    va_end(args);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    n = fread(said, 1, room - 1, pipe);
    said[n] = 0;
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define MUST(...)                                                                                  \
    do {                                                                                           \
        char said_[4096];                                                                          \
        int code_ = run(said_, sizeof said_, __VA_ARGS__);                                         \
        if (code_)                                                                                 \
            fail_msg("exit code %d: %s", code_, said_);                                            \
    } while (0)

/* Exit code and a word of what is said. */
#define REFUSED(code, word, ...)                                                                   \
    do {                                                                                           \
        char said_[4096];                                                                          \
        int code_ = run(said_, sizeof said_, __VA_ARGS__);                                         \
        if (code_ != (code) || !strstr(said_, word))                                               \
            fail_msg("exit code %d, not %d with \"%s\": %s", code_, code, word, said_);            \
    } while (0)

/* --- what the reference's converter makes ----------------------------------------------------- */

/* tests/golden/quantized.fnv: folder, tensor, FNV-1a over dtype, shape, bytes, scales of the files
 * that LightX2V's converter made from the same distill_model.safetensors. */
static void test_dit_is_the_references(void **state)
{
    (void)state;
    scratch s = scratch_open();
    lx_weights *w = NULL;
    char folder[32], name[128], open_folder[32] = "";
    uint64_t expected;
    int n = 0;
    MUST("./lx2v-convert dit --to int8 %sdistill_model.safetensors %s/distill_int8", GOLDEN, s.dir);
    MUST("./lx2v-convert dit --to fp8 %sdistill_model.safetensors %s/distill_fp8", GOLDEN, s.dir);
    FILE *list = fopen(GOLDEN "quantized.fnv", "r");
    assert_non_null(list);
    while (fscanf(list, "%31s %127s %" SCNx64, folder, name, &expected) == 3) {
        lx_weight found;
        if (strcmp(folder, open_folder) != 0) {
            lx_weights_close(&w);
            w = open_ok(in(&s, folder));
            snprintf(open_folder, sizeof open_folder, "%.31s", folder);
        }
        assert_true(lx_weights_find(w, name, &found));
        if (hash_of(&found) != expected)
            fail_msg("%s: %s differs", folder, name);
        n++;
    }
    fclose(list);
    lx_weights_close(&w);
    assert_int_equal(n, 2 * 69);
    remove_tree(s.dir);
}

static void expect_same(const char *a, const char *b)
{
    lx_weights *x = open_ok(a), *y = open_ok(b);
    assert_int_equal(lx_weights_count(x), lx_weights_count(y));
    for (size_t i = 0; i < lx_weights_count(x); i++) {
        lx_weight p = lx_weights_at(x, i), q = lx_weights_at(y, i);
        assert_string_equal(p.name, q.name);
        if (hash_of(&p) != hash_of(&q))
            fail_msg("%s differs in %s and %s", p.name, a, b);
    }
    lx_weights_close(&x);
    lx_weights_close(&y);
}

/* models_t5_*-int8.pth and -fp8.pth are recorded whole. */
static void test_text_is_the_references(void **state)
{
    (void)state;
    scratch s = scratch_open();
    static const char *const types[] = {"bf16", "int8", "fp8"};
    for (int i = 0; i < 3; i++) {
        char golden[512];
        snprintf(golden, sizeof golden, GOLDEN "models_t5_umt5-xxl-enc-%s.pth", types[i]);
        MUST("./lx2v-convert text --to %s %smodels_t5_umt5-xxl-enc-bf16.pth %s/t5.pth --force",
             types[i], GOLDEN, s.dir);
        expect_same(in(&s, "t5.pth"), golden);
        MUST("./lx2v-convert text --to %s %s %s/t5.safetensors --force", types[i], golden, s.dir);
        expect_same(in(&s, "t5.safetensors"), golden);
    }
    remove_tree(s.dir);
}

/* --- the same bytes --------------------------------------------------------------------------- */

static void same_files(const scratch *s, const char *a, const char *b)
{
    MUST("diff -r %s/%s %s/%s", s->dir, a, s->dir, b);
}

/* Layout, number of threads and names leave no trace. Tensors are large enough for several chunks
 * and for the disk. */
static void test_output_is_the_same_every_time(void **state)
{
    (void)state;
    scratch s = scratch_open();
    static const char *const layouts[] = {"file", "blocks", "sharded"};
    static const int threads[] = {1, 2, 7};
    const char *dims = "--dit-ffn 4200 --freq-dim 64 --t5-vocab 9000 --t5-layers 11";
    for (int i = 0; i < 3; i++) {
        MUST("./lx2v-mkmodel %s/m%d --quiet %s --dit bf16 --non-block bf16 --dit-layout %s "
             "--vae none --tokenizer no --t5 bf16 --t5-format %s",
             s.dir, i, dims, layouts[i], i ? "pth" : "safetensors");
        const char *source = i ? "" : "/distill_model.safetensors";
        for (int k = 0; k < 2; k++)
            MUST("./lx2v-convert dit --to %s --threads %d %s/m%d%s %s/%s%d", k ? "fp8" : "int8",
                 threads[i], s.dir, i, source, s.dir, k ? "fp8-" : "int8-", i);
        MUST("./lx2v-convert text --to int8 --threads %d %s/m%d/models_t5_umt5-xxl-enc-bf16.%s "
             "%s/name%d.pth",
             threads[i], s.dir, i, i ? "pth" : "safetensors", s.dir, i);
    }
    same_files(&s, "int8-0", "int8-1");
    same_files(&s, "int8-0", "int8-2");
    same_files(&s, "fp8-0", "fp8-1");
    same_files(&s, "fp8-0", "fp8-2");
    same_files(&s, "name0.pth", "name1.pth");
    same_files(&s, "name0.pth", "name2.pth");
    remove_tree(s.dir);
}

/* One file -> blocks -> one file, and codes that only move. */
static void test_layouts_there_and_back(void **state)
{
    (void)state;
    scratch s = scratch_open();
    MUST("./lx2v-mkmodel %s/m --quiet --dit bf16 --dit-blocks 3 --vae none --tokenizer no "
         "--t5 none",
         s.dir);
    MUST("./lx2v-convert dit --to bf16 %s/m/distill_model.safetensors --blocks %s/blocks/", s.dir,
         s.dir);
    MUST("./lx2v-convert dit --to bf16 --single %s/back.safetensors %s/blocks", s.dir, s.dir);
    same_files(&s, "m/distill_model.safetensors", "back.safetensors");
    for (int k = 0; k < 2; k++) {
        const char *type = k ? "fp8" : "int8";
        MUST("./lx2v-mkmodel %s/%s --quiet --dit %s --dit-blocks 3 --vae none --tokenizer no "
             "--t5 none",
             s.dir, type, type);
        MUST("./lx2v-convert dit --to %s %s/%s --single %s/%s.safetensors", type, s.dir, type,
             s.dir, type);
        MUST("./lx2v-convert dit --to %s %s/%s.safetensors %s/%s-again", type, s.dir, type, s.dir,
             type);
        /* The model maker's index does not know the total size. */
        MUST("rm %s/%s/" INDEX " %s/%s-again/" INDEX, s.dir, type, s.dir, type);
        char again[32];
        snprintf(again, sizeof again, "%s-again", type);
        same_files(&s, type, again);
    }
    remove_tree(s.dir);
}

/* --- values ----------------------------------------------------------------------------------- */

/* Tensor by tensor: bf16 is code x scale, rounded once; the rest of an F32 source is rounded. */
static void test_back_to_bf16_is_code_times_scale(void **state)
{
    (void)state;
    scratch s = scratch_open();
    for (int k = 0; k < 2; k++) {
        const char *type = k ? "fp8" : "int8";
        MUST("./lx2v-mkmodel %s/%s --quiet --dit %s --vae none --tokenizer no --t5 none", s.dir,
             type, type);
        REFUSED(0, "what quantizing lost is not restored",
                "./lx2v-convert dit --to bf16 %s/%s --single %s/bf16.safetensors --force", s.dir,
                type, s.dir);
        lx_weights *q = open_ok(in(&s, type)), *b = open_ok(in(&s, "bf16.safetensors"));
        int n_codes = 0;
        for (size_t i = 0; i < lx_weights_count(q); i++) {
            lx_weight from = lx_weights_at(q, i), to;
            uint64_t n;
            assert_true(lx_weights_find(b, from.name, &to));
            assert_int_equal(to.dtype, LX_DTYPE_BF16);
            lx_shape_bytes(&to.shape, to.dtype, &n, NULL, NULL);
            for (uint64_t e = 0, cols = n / (uint64_t)to.shape.dim[0]; e < n; e++) {
                float x = k && from.scale ? lx_f32_from_f8_e4m3(((const uint8_t *)from.data)[e])
                          : from.scale    ? (float)((const int8_t *)from.data)[e]
                                          : ((const float *)from.data)[e];
                uint16_t want = lx_bf16_from_f32(from.scale ? x * from.scale[e / cols] : x);
                assert_int_equal(((const uint16_t *)to.data)[e], want);
            }
            n_codes += from.scale != NULL;
        }
        assert_int_equal(n_codes, 2 * 10);
        lx_weights_close(&q);
        lx_weights_close(&b);
    }
    remove_tree(s.dir);
}

/* Only the linears of the blocks lose anything. */
static void test_the_rest_keeps_its_type(void **state)
{
    (void)state;
    scratch s = scratch_open();
    MUST("./lx2v-mkmodel %s/m --quiet --dit f32 --vae none --tokenizer no --t5 none", s.dir);
    MUST("./lx2v-convert dit --to int8 %s/m/distill_model.safetensors %s/int8", s.dir, s.dir);
    MUST("./lx2v-mkmodel %s/direct --quiet --dit int8 --non-block f32 --vae none --tokenizer no "
         "--t5 none",
         s.dir);
    expect_same(in(&s, "int8"), in(&s, "direct"));
    remove_tree(s.dir);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void test_usage_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *words, *said;
    } row[] = {
        {"", "expected dit or text"},
        {"vae --to int8 a b", "expected dit or text"},
        {"dit a b", "--to is missing"},
        {"dit --to int4 a b", "int8, fp8 or bf16"},
        {"dit --to", "needs a value"},
        {"dit --to int8", "SOURCE is missing"},
        {"dit --to int8 a", "exactly one output"},
        {"dit --to int8 a b --single c.safetensors", "exactly one output"},
        {"dit --to int8 a b c", "one word too many"},
        {"dit --to int8 a --single b.pth", "must end in .safetensors"},
        {"text --to int8 a b", "must end in .pth or .safetensors"},
        {"text --to int8 a --single b.pth", "a text encoder is one file"},
        {"dit --too int8 a b", "did you mean --to"},
        {"dit --to int8 --threads 0 a b", "expected 1 to 16"},
        {"dit --to int8 /nowhere/a /tmp/lx2v-unused", "No such file"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        REFUSED(2, row[i].said, "./lx2v-convert %s", row[i].words);
    REFUSED(0, "usage:", "./lx2v-convert --help");
    assert_int_equal(access("/tmp/lx2v-unused", F_OK), -1);
}

static void test_what_is_there_is_not_replaced(void **state)
{
    (void)state;
    scratch s = scratch_open();
    const char *dit = GOLDEN "distill_model.safetensors";
    MUST("mkdir %s/d; echo mine > %s/d/notes.txt", s.dir, s.dir);
    MUST("./lx2v-convert dit --to int8 %s %s/d", dit, s.dir);
    REFUSED(2, "has block_0.safetensors already; --force", "./lx2v-convert dit --to fp8 %s %s/d",
            dit, s.dir);
    MUST("./lx2v-convert dit --to fp8 --force %s %s/d", dit, s.dir);
    MUST("cp %s %s/one.safetensors", dit, s.dir);
    REFUSED(2, "--force replaces it", "./lx2v-convert dit --to int8 %s --single %s/one.safetensors",
            dit, s.dir);
    REFUSED(2, "both source and output",
            "./lx2v-convert dit --to int8 --force %s/one.safetensors --single %s/one.safetensors",
            s.dir, s.dir);
    REFUSED(2, "both source and output", "./lx2v-convert dit --to bf16 --force %s/d %s/d/", s.dir,
            s.dir);
    /* A block of a longer model would be read with ours, by who reads no index. */
    MUST("cp %s/d/block_1.safetensors %s/d/block_2.safetensors", s.dir, s.dir);
    REFUSED(2, "block_2.safetensors is of another checkpoint",
            "./lx2v-convert dit --to int8 --force %s %s/d", dit, s.dir);
    MUST("test \"$(cat %s/d/notes.txt)\" = mine", s.dir);
    MUST("test -z \"$(ls -A %s/d | grep part)\"", s.dir);
    remove_tree(s.dir);
}

static void test_other_sources_are_refused(void **state)
{
    (void)state;
    scratch s = scratch_open();
    const char *dit = GOLDEN "distill_model.safetensors";
    MUST("./lx2v-convert dit --to int8 %s %s/distill_int8", dit, s.dir);
    REFUSED(2, "would lose twice", "./lx2v-convert dit --to fp8 %s/distill_int8 %s/x", s.dir,
            s.dir);
    REFUSED(2, "text encoder",
            "./lx2v-convert dit --to int8 %smodels_t5_umt5-xxl-enc-bf16.pth %s/x", GOLDEN, s.dir);
    REFUSED(2, "VAE", "./lx2v-convert text --to int8 %sWan2.1_VAE.pth %s/x.pth", GOLDEN, s.dir);
    MUST("head -c 1000000 %s > %s/cut.safetensors", dit, s.dir);
    REFUSED(2, "truncated", "./lx2v-convert dit --to int8 %s/cut.safetensors %s/x", s.dir, s.dir);
    /* A NaN in the middle of a tensor that stays on disk: blocks.0.ffn.0.weight, element 70000. */
    lx_weights *w = open_ok(dit);
    lx_weight ffn;
    assert_true(lx_weights_find(w, "blocks.0.ffn.0.weight", &ffn));
    FILE *file = fopen(dit, "rb");
    static unsigned char all[5 << 20];
    size_t n = fread(all, 1, sizeof all, file);
    fclose(file);
    unsigned char *found = memmem(all, n, ffn.data, 4096);
    assert_non_null(found);
    memcpy(found + 2 * 70000, "\xc0\x7f", 2);
    put_file(in(&s, "nan.safetensors"), all, n);
    lx_weights_close(&w);
    static const char *const types[] = {"int8", "bf16"};
    for (int i = 0; i < 2; i++) {
        REFUSED(2, "blocks.0.ffn.0.weight [512, 256]: element 70000 is not finite",
                "./lx2v-convert dit --to %s %s/nan.safetensors %s/x", types[i], s.dir, s.dir);
        assert_int_equal(access(in(&s, "x"), F_OK), -1);
    }
    remove_tree(s.dir);
}

/* 400 blocks that take no disk, but 27 TB as int8: refused before a byte is written. */
static void test_a_small_disk_is_refused(void **state)
{
    (void)state;
    scratch s = scratch_open();
    struct statvfs disk;
    assert_int_equal(statvfs(s.dir, &disk), 0);
    if (disk.f_bavail > (20ULL << 40) / disk.f_frsize) {
        remove_tree(s.dir);
        print_message("skipped: this disk is large enough for anything\n");
        skip();
    }
    MUST("./lx2v-mkmodel %s/m --quiet --sparse --repeat-blocks --dit bf16 --dit-layout blocks "
         "--dit-dim 65536 --dit-ffn 262144 --dit-blocks 400 --vae none --tokenizer no --t5 none",
         s.dir);
    REFUSED(3, "the disk has", "./lx2v-convert dit --to int8 %s/m %s/x", s.dir, s.dir);
    assert_int_equal(access(in(&s, "x"), F_OK), -1);
    remove_tree(s.dir);
}

/* --- size and interruption -------------------------------------------------------------------- */

/* 240 MB of bf16 as a hole. */
static void make_large(const scratch *s)
{
    MUST("./lx2v-mkmodel %s/large --quiet --sparse --dit bf16 --dit-dim 1536 --dit-ffn 6144 "
         "--dit-blocks 3 --vae none --tokenizer no --t5 none",
         s->dir);
}

static pid_t start(const char *const argv[])
{
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        execv(LX2V_BIN_DIR "/lx2v-convert", (char *const *)argv);
        _exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

static void test_memory_does_not_grow_with_the_model(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    print_message("skipped: the sanitizer's own memory would be measured\n");
    skip();
#endif
    scratch s = scratch_open();
    make_large(&s);
    char source[512], out[512];
    snprintf(source, sizeof source, "%s/large/distill_model.safetensors", s.dir);
    snprintf(out, sizeof out, "%s/out", s.dir);
    const char *const argv[] = {"lx2v-convert", "dit", "--to", "int8", "--quiet",
                                "--threads",    "2",   source, out,    NULL};
    struct rusage usage;
    int status;
    pid_t pid = start(argv);
    assert_int_equal(wait4(pid, &status, 0, &usage), pid);
    assert_int_equal(status, 0);
    struct stat st;
    assert_int_equal(stat(source, &st), 0);
    assert_true(st.st_size > 200 << 20);
    if (usage.ru_maxrss > 64 << 10) /* KiB */
        fail_msg("%ld KiB for a model of %jd", usage.ru_maxrss, (intmax_t)st.st_size);
    remove_tree(s.dir);
}

static void wait_for(const char *path)
{
    for (int i = 0; i < 2000 && access(path, F_OK); i++)
        usleep(5000);
    assert_int_equal(access(path, F_OK), 0);
}

static void test_interrupted_leaves_nothing(void **state)
{
    (void)state;
    scratch s = scratch_open();
    make_large(&s);
    char source[512], out[512], part[600];
    snprintf(source, sizeof source, "%s/large/distill_model.safetensors", s.dir);
    for (int is_file = 0; is_file < 2; is_file++) {
        snprintf(out, sizeof out, "%s/out%s", s.dir, is_file ? ".safetensors" : "");
        snprintf(part, sizeof part, "%s%s", out,
                 is_file ? ".part" : "/.lx2v-convert.part/block_0.safetensors.part");
        const char *const argv[] = {"lx2v-convert",
                                    "dit",
                                    "--to",
                                    "fp8",
                                    "--quiet",
                                    "--threads",
                                    "1",
                                    source,
                                    is_file ? "--single" : "--blocks",
                                    out,
                                    NULL};
        int status;
        pid_t pid = start(argv);
        wait_for(part);
        kill(pid, is_file ? SIGINT : SIGTERM);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 130);
        assert_int_equal(access(out, F_OK), -1);
        assert_int_equal(access(part, F_OK), -1);
    }
    /* What a kill leaves is named, and --force takes it away. */
    snprintf(out, sizeof out, "%s/killed", s.dir);
    snprintf(part, sizeof part, "%s/.lx2v-convert.part/block_0.safetensors.part", out);
    const char *const argv[] = {"lx2v-convert", "dit", "--to", "fp8", source, out, NULL};
    pid_t pid = start(argv);
    wait_for(part);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    REFUSED(2, "an interrupted conversion left it",
            "./lx2v-convert dit --to int8 %sdistill_model.safetensors %s", GOLDEN, out);
    MUST("./lx2v-convert dit --to int8 --force %sdistill_model.safetensors %s", GOLDEN, out);
    MUST("test \"$(ls -A %s | wc -l)\" = 4", out);
    remove_tree(s.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dit_is_the_references),
        cmocka_unit_test(test_text_is_the_references),
        cmocka_unit_test(test_output_is_the_same_every_time),
        cmocka_unit_test(test_layouts_there_and_back),
        cmocka_unit_test(test_back_to_bf16_is_code_times_scale),
        cmocka_unit_test(test_the_rest_keeps_its_type),
        cmocka_unit_test(test_usage_is_refused),
        cmocka_unit_test(test_what_is_there_is_not_replaced),
        cmocka_unit_test(test_other_sources_are_refused),
        cmocka_unit_test(test_a_small_disk_is_refused),
        cmocka_unit_test(test_memory_does_not_grow_with_the_model),
        cmocka_unit_test(test_interrupted_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
