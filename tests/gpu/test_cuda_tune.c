/*
 * test_cuda_tune.c - lx2v-tune on a card: its table is written, read back and used
 * SPDX-License-Identifier: Apache-2.0
 *
 * Which kernel runs is seen by a table of the module's functions in front of the real one. The
 * arena of each call is as large as a plan without a table says; behind it lie ones, and stay.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "cuda/cu_tune.h"
#include "cuda/lx_cuda_priv.h"
#include "gpu_linear.h"
#include "lx_cache.h"
#include "lx_child.h"
#include "lx_limits.h"

#define STORE_BYTES   ((size_t)512 << 20)
#define SCRATCH_BYTES ((size_t)256 << 20)
#define GUARD         ((size_t)1 << 20)

static char cache[64];

/* --- what is called -------------------------------------------------------------------------- */

static struct {
    const lx_cuda_linear_ops *real;
    lx_cuda_linear_ops linear;
    lx_cuda_module module;
    int n_int8, n_product, design;
    int64_t band; /* rows of the first call */
} seen;

static int see_int8(lx_cuda_dev *dev, const lx_cu_int8 *p)
{
    seen.band = seen.n_int8++ ? seen.band : p->e.m;
    seen.design = p->design;
    return seen.real->int8(dev, p);
}

static int see_product(lx_cuda_dev *dev, const lx_cu_product *p)
{
    seen.n_product++;
    return seen.real->product(dev, p);
}

static void watch(gpu *g)
{
    seen.real = g->cuda->module->linear;
    seen.linear = *seen.real;
    seen.linear.int8 = see_int8;
    seen.linear.product = see_product;
    seen.module = *g->cuda->module;
    seen.module.linear = &seen.linear;
    g->cuda->module = &seen.module;
}

/* --- one linear, forced ---------------------------------------------------------------------- */

/* The exec for one call, its scratch just as planned, and what lies behind that. */
typedef struct guarded {
    lx_exec x;
    unsigned char *behind;
} guarded;

static void leave(void *self, void *memory)
{
    (void)self;
    (void)memory;
}

static size_t planned(const gpu *g, const problem *p, const lx_epilogue *e, const lx_mat *rows,
                      lx_act *act)
{
    lx_exec x = {0};
    lx_arena *arena = NULL, *host = NULL;
    gpu_ok(lx_arena_create_dry(&arena, err));
    gpu_ok(lx_arena_create_dry(&host, err));
    gpu_ok(lx_exec_plan_cuda(&x, lx_cuda_card(g->cuda), arena, host, err));
    gpu_ok(act ? lx_linear_to_act(&x, &p->d_in, &p->d_w, e, act, err)
               : lx_linear(&x, &p->d_in, &p->d_w, e, rows, err));
    size_t bytes = lx_arena_peak(arena);
    lx_exec_plan_done(&x);
    lx_arena_destroy(&arena);
    lx_arena_destroy(&host);
    return bytes;
}

static guarded guard(gpu *g, size_t bytes)
{
    guarded out = {.x = g->x};
    unsigned char *ones = check_alloc(1, GUARD), *memory = gpu_take(g, bytes + GUARD);
    memset(ones, 0xff, GUARD);
    out.behind = memory + bytes;
    gpu_ok(lx_upload(&g->x, out.behind, ones, GUARD, err));
    gpu_ok(lx_arena_create_on(&out.x.arena, memory, bytes, leave, NULL, err));
    free(ones);
    return out;
}

static void check_guard(gpu *g, const char *what, guarded *from)
{
    unsigned char *bytes = check_alloc(1, GUARD);
    gpu_get(g, bytes, from->behind, GUARD);
    for (size_t i = 0; i < GUARD; i++)
        if (bytes[i] != 0xff)
            fail_msg("%s: byte %zu behind the scratch was written", what, i);
    free(bytes);
    lx_arena_destroy(&from->x.arena);
}

static void force(gpu *g, const problem *p, lx_tune_end end, int design, int64_t band)
{
    lx_tune_table table = {.n = 1, .entry = {{p->n, p->k, p->m, end, design, band, 0}}};
    gpu_ok(lx_cuda_tune_use(g->cuda, &table, err));
    seen.n_int8 = seen.n_product = 0;
    seen.design = LX_TUNE_BUILT_IN;
}

static void check_seen(const char *what, int design)
{
    bool is_it = design == LX_TUNE_BLAS ? seen.n_product > 0 && seen.n_int8 == 0
                                        : seen.n_int8 > 0 && seen.design == design;
    if (!is_it)
        fail_msg("%s: %d calls by %s, %d of cuBLASLt", what, seen.n_int8,
                 lx_tune_design_name(seen.design), seen.n_product);
}

static void check_rows(gpu *g, problem *p, lx_tune_end end, int design)
{
    char what[112];
    bool is_added = end == LX_TUNE_RESIDUAL;
    finish f = {.bias = true, .out = is_added ? LX_DTYPE_F32 : LX_DTYPE_BF16};
    f.gate = f.add = is_added;
    size_t mark = lx_arena_mark(g->store), bytes = (size_t)(p->m * p->n) * lx_dtype_size(f.out);
    lx_epilogue e = epilogue_of(p, &f);
    lx_mat out = {f.out, p->m, p->n, p->n, gpu_take(g, bytes)};
    e.square = is_added ? NULL : gpu_take(g, (size_t)p->m * sizeof(float));
    guarded at = guard(g, planned(g, p, &e, &out, NULL));
    snprintf(what, sizeof what, "%s by %s %dx%dx%d", lx_tune_end_name(end),
             lx_tune_design_name(design), (int)p->m, (int)p->n, (int)p->k);
    if (is_added)
        gpu_ok(lx_upload(&g->x, out.data, p->out0, bytes, err));
    force(g, p, end, design, 0);
    gpu_ok(lx_linear(&at.x, &p->d_in, &p->d_w, &e, &out, err));
    check_seen(what, design);
    unsigned char *raw = check_alloc(1, bytes);
    gpu_get(g, raw, out.data, bytes);
    check_guard(g, what, &at);
    sample s = sample_of(p);
    problem part = part_of(p, &s);
    float *want = defined(&part, &f), *f32 = plain(&part, &f), *got = check_floats(part.m * part.n);
    for (int64_t i = 0; i < part.m; i++)
        for (int64_t j = 0; j < part.n; j++)
            got[i * part.n + j] = gpu_widen(raw, f.out, s.rows[i] * p->n + s.cols[j]);
    gpu_report_allowed(what, got, want, f32, part.m * part.n, part.n, f.out, 0);
    destroy_part(&part);
    free(s.rows), free(s.cols), free(want), free(f32), free(got), free(raw);
    lx_arena_reset(g->store, mark);
}

/* Codes: half a step from the definition, and what F16 in between adds (cu_linear.h). */
static void check_codes(gpu *g, problem *p, int design, int64_t band)
{
    char what[112];
    finish f = {.bias = true, .activation = LX_ACTIVATION_GELU, .out = LX_DTYPE_F32};
    size_t mark = lx_arena_mark(g->store);
    lx_epilogue e = epilogue_of(p, &f);
    lx_act act = {LX_DTYPE_I8, p->m, p->n, gpu_take(g, (size_t)(p->m * p->n)),
                  gpu_take(g, (size_t)p->m * sizeof(float))};
    guarded at = guard(g, planned(g, p, &e, NULL, &act));
    snprintf(what, sizeof what, "codes by %s %dx%dx%d, band %d", lx_tune_design_name(design),
             (int)p->m, (int)p->n, (int)p->k, (int)band);
    force(g, p, LX_TUNE_CODES, design, band);
    gpu_ok(lx_linear_to_act(&at.x, &p->d_in, &p->d_w, &e, &act, err));
    check_seen(what, design);
    if (band && design != LX_TUNE_BLAS && seen.band != band)
        fail_msg("%s: a band of %d rows", what, (int)seen.band);
    int8_t *codes = check_alloc(p->m * p->n, 1);
    float *scale = check_floats(p->m), worst = 0;
    gpu_get(g, codes, act.data, (size_t)(p->m * p->n));
    gpu_get(g, scale, act.scale, (size_t)p->m * sizeof(float));
    check_guard(g, what, &at);
    sample s = sample_of(p);
    problem part = part_of(p, &s);
    float *want = defined(&part, &f);
    for (int64_t i = 0; i < part.m * part.n; i++) {
        int64_t row = s.rows[i / part.n], col = s.cols[i % part.n];
        float off = fabsf((float)codes[row * p->n + col] * scale[row] - want[i]) / scale[row];
        if (!(off <= 0.57f))
            fail_msg("%s: [%d, %d]: %d x %g for %g", what, (int)row, (int)col,
                     codes[row * p->n + col], (double)scale[row], (double)want[i]);
        worst = off > worst ? off : worst;
    }
    printf("  %-64s off by %.3f of a code at most\n", what, (double)worst);
    destroy_part(&part);
    free(s.rows), free(s.cols), free(want), free(codes), free(scale);
    lx_arena_reset(g->store, mark);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_each_design_is_used_and_right(void **state)
{
    gpu *g = *state;
    static const int64_t shapes[][3] = {{256, 512, 256}, {300, 1024, 512}, {1000, 512, 1024}};
    check_rng r = {41};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (gpu_is_small() && i)
            break;
        problem p =
            make(g, &r, variants[0], CHECK_RANDOM, shapes[i][0], shapes[i][1], shapes[i][2]);
        p.out0 = random_elements(&r, LX_DTYPE_F32, p.m * p.n, 1);
        for (int design = 0; design < lx_tune_designs(); design++) {
            if (!lx_tune_can(lx_cuda_card(g->cuda), design, p.n))
                continue;
            check_rows(g, &p, LX_TUNE_ROWS, design);
            check_rows(g, &p, LX_TUNE_RESIDUAL, design);
            check_codes(g, &p, design, 0);
            check_codes(g, &p, design, 128);
        }
        destroy(g, &p);
    }
    gpu_ok(lx_cuda_tune_use(g->cuda, NULL, err));
}

/* Rows enough for several bands of the plan itself. */
static void test_many_bands(void **state)
{
    gpu *g = *state;
    check_rng r = {42};
    if (gpu_is_small())
        skip();
    problem p = make(g, &r, variants[0], CHECK_RANDOM, 6000, 13824, 64);
    for (int design = 0; design < lx_tune_designs(); design++)
        if (lx_tune_can(lx_cuda_card(g->cuda), design, p.n)) {
            check_codes(g, &p, design, 0);
            check_codes(g, &p, design, 384);
        }
    destroy(g, &p);
    gpu_ok(lx_cuda_tune_use(g->cuda, NULL, err));
}

static void tune(const char *sides, const char *rows)
{
    static char said[1 << 16];
    char device[32];
    char tuner[] = LX2V_BIN_DIR "/lx2v-tune";
    snprintf(device, sizeof device, "%s", gpu_device());
    char *argv[] = {tuner,
                    "--device",
                    device,
                    "--sides",
                    (char *)(uintptr_t)sides,
                    "--rows",
                    (char *)(uintptr_t)rows,
                    "--repeats",
                    "3",
                    NULL};
    lx_child child = {.argv = argv, .timeout_s = 120, .out = said, .out_room = sizeof said};
    gpu_ok(lx_child_run(&child, err));
    printf("%s", said);
    if (child.exit_code)
        fail_msg("lx2v-tune: exit code %d: %s", child.exit_code, child.err);
    assert_non_null(strstr(said, "linears, "));
}

static void test_the_table_is_written_and_used(void **state)
{
    gpu *g = *state;
    char path[LX_LIMIT_PATH];
    struct stat st;
    lx_err why = {0};
    lx_tune_table *table = check_alloc(1, sizeof *table);
    const lx_card_kind *card = lx_cuda_card(g->cuda);
    const char *module = lx_cuda_module_id(g->cuda);
    assert_int_equal(strlen(module), 40);
    gpu_ok(lx_tune_path(path, sizeof path, card, module, err));
    assert_int_equal(lx_tune_read(table, path, card, module, &why), LX_EAGAIN);
    lx_cuda_tune(g->cuda);
    assert_null(lx_cuda_tuned(g->cuda));
    tune("512,1024", "256,512");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    gpu_ok(lx_tune_read(table, path, card, module, err));
    assert_int_equal(table->n, 8);
    for (int i = 0; i < table->n; i++)
        assert_true(table->entry[i].ms > 0);
    setenv("LX2V_TUNE", "off", 1);
    lx_cuda_tune(g->cuda);
    assert_null(lx_cuda_tuned(g->cuda));
    unsetenv("LX2V_TUNE");
    lx_cuda_tune(g->cuda);
    assert_non_null(lx_cuda_tuned(g->cuda));
    assert_int_equal(lx_cuda_tuned(g->cuda)->n, 8);
    gpu_ok(lx_cuda_tune_use(g->cuda, NULL, err));
    gpu_ok(lx_cache_write(path, "{", 1, err));
    lx_cuda_tune(g->cuda); /* one warning */
    assert_null(lx_cuda_tuned(g->cuda));
    free(table);
}

/* Of a DiT as wide as its hidden layer two linears are one, and here the rows are said twice. */
static void test_no_linear_is_measured_twice(void **state)
{
    gpu *g = *state;
    char path[LX_LIMIT_PATH];
    lx_tune_table *table = check_alloc(1, sizeof *table);
    const lx_card_kind *card = lx_cuda_card(g->cuda);
    const char *module = lx_cuda_module_id(g->cuda);
    tune("512,512", "256,256");
    gpu_ok(lx_tune_path(path, sizeof path, card, module, err));
    gpu_ok(lx_tune_read(table, path, card, module, err));
    assert_int_equal(table->n, 3);
    free(table);
}

static int open_card(void **state)
{
    snprintf(cache, sizeof cache, "/tmp/lx2v-tune-XXXXXX");
    if (!mkdtemp(cache))
        return 1;
    setenv("XDG_CACHE_HOME", cache, 1);
    unsetenv("LX2V_TUNE");
    if (gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES))
        return 1;
    return 0;
}

static int close_card(void **state)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", cache);
    return gpu_end_tests(state) | system(command);
}

/* The module's number is of the module itself, so that test comes before the watched ones. */
static int begin_watching(void **state)
{
    watch(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_table_is_written_and_used),
        cmocka_unit_test(test_no_linear_is_measured_twice),
        cmocka_unit_test_setup(test_each_design_is_used_and_right, begin_watching),
        cmocka_unit_test(test_many_bands),
    };
    return cmocka_run_group_tests(tests, open_card, close_card);
}
