/*
 * test_cuda_linear_int8.c - every design of INT8 linears, each forced, against the f64 definition
 * SPDX-License-Identifier: Apache-2.0
 *
 * --bench [ROWS]   milliseconds, operations, and the share of what mma.sync alone reaches on this
 *           card, by time and by clocks (for wgmma too: there it may pass 100 %), beside cuBLASLt
 *           with the epilogue's kernel; ROWS: of so many alone.
 *
 * LX2V_TEST_DESIGNS=01   only these (lx_cu_int8's numbers).
 *
 * wgmma writes its results by the copy engine or from registers, as n and the output's alignment
 * let it (int8_wgmma.cuh, Serves): both are among the shapes and finishes.
 *
 * Every call runs twice: same bits. Outputs begin as all ones: what is not written shows.
 */
#include "gpu_linear_int8.h"

#define STORE_BYTES ((size_t)1 << 30)

/* --- one call -------------------------------------------------------------------------------- */

static lx_cu_int8 call_of(const problem *p, const finish *f, int design)
{
    lx_cu_int8 call = call_by(design, p, f);
    call.e.acc_is_s32 = true;
    return call;
}

/* The output's bytes. */
static unsigned char *run(gpu *g, const problem *p, const finish *f, int design)
{
    return run_call(g, p, f, call_of(p, f, design), names[design]);
}

static void check_design(gpu *g, const problem *p, const finish *f, int design)
{
    char what[112];
    name_problem(what, sizeof what, names[design], p, f);
    unsigned char *out = run(g, p, f, design), *again = run(g, p, f, design);
    check_outs(what, p, f, out, again, 0);
}

/* --- tests ----------------------------------------------------------------------------------- */

/* What the model asks for, and what else is served. */
static const finish finishes[] = {
    {.out = LX_DTYPE_F32},
    {.bias = true, .out = LX_DTYPE_F32, .gap = 8},
    {.bias = true, .out = LX_DTYPE_BF16},
    {.bias = true, .out = LX_DTYPE_F16, .gap = 16},
    {.bias = true, .gate = true, .out = LX_DTYPE_BF16, .gap = 1}, /* not aligned */
    {.bias = true, .out = LX_DTYPE_F32, .gap = 3},
    {.bias = true, .gate = true, .add = true, .out = LX_DTYPE_F32},
    {.add = true, .out = LX_DTYPE_F32, .gap = 1},
    {.bias = true, .activation = LX_ACTIVATION_GELU, .out = LX_DTYPE_F32},
    {.bias = true, .activation = LX_ACTIVATION_GELU, .gate = true, .out = LX_DTYPE_F16},
    {.gate = true, .add = true, .out = LX_DTYPE_F32, .gap = 8},
    {.bias = true, .activation = LX_ACTIVATION_GELU, .out = LX_DTYPE_BF16, .gap = 8},
    {.activation = LX_ACTIVATION_GELU, .gate = true, .add = true, .out = LX_DTYPE_F32},
};
enum { N_FINISHES = sizeof finishes / sizeof *finishes };

static void each_design(gpu *g, check_rng *r, const int64_t shape[3], size_t every)
{
    problem p = make(g, r, variants[0], CHECK_RANDOM, shape[0], shape[1], shape[2]);
    p.out0 = random_elements(r, LX_DTYPE_F32, p.m * p.n, 1);
    for (int design = 0; design < LX_CU_INT8_DESIGNS; design++)
        for (size_t i = 0; i < N_FINISHES && has_design(g, design, p.n); i += every)
            check_design(g, &p, &finishes[i], design);
    destroy(g, &p);
}

static void test_designs_over_shapes(void **state)
{
    check_rng r = {21};
    for (int i = 0; i < N_TILE_SHAPES; i++)
        if (!gpu_is_small() || is_small_shape(TILE_SHAPES[i]))
            each_design(*state, &r, TILE_SHAPES[i], 1);
}

/* Sides of 16 that are no multiple of 32: F32 alone on Hopper. */
static void test_designs_over_sixteens(void **state)
{
    gpu *g = *state;
    check_rng r = {22};
    problem p = make(g, &r, variants[0], CHECK_RANDOM, 150, 304, 208);
    for (int design = 0; design < LX_CU_INT8_DESIGNS; design++)
        for (int i = 0; i < 3; i++)
            if (has_design(g, design, i < 2 ? 32 : p.n))
                check_design(g, &p, &finishes[i], design);
    destroy(g, &p);
}

/* Every block has several tiles, of one step of K, of two, of many; every column and row of tiles.
 */
static void test_designs_over_model_shapes(void **state)
{
    check_rng r = {23};
    if (gpu_is_small())
        skip();
    for (int i = 0; i < N_LARGE_SHAPES; i++)
        each_design(*state, &r, LARGE_SHAPES[i], 3);
}

/* The largest sums that there are, with signs and without. */
static void test_designs_at_the_ends_of_s32(void **state)
{
    gpu *g = *state;
    check_rng r = {24};
    int64_t m = 130, n = 96, k = gpu_is_small() ? 528 : 131072;
    problem p = make(g, &r, variants[0], CHECK_RANDOM, m, n, k);
    int8_t *x = p.in.data, *w = (int8_t *)(uintptr_t)p.w.data;
    for (int64_t i = 0; i < m * k; i++)
        x[i] = i / k % 3 == 1 ? -127 : 127;
    for (int64_t i = 0; i < n * k; i++)
        w[i] = i / k % 2 ? -128 : 127;
    gpu_ok(lx_upload(&g->x, p.d_in.data, x, (size_t)(m * k), err));
    gpu_ok(lx_upload(&g->x, (void *)(uintptr_t)p.d_w.data, w, (size_t)(n * k), err));
    for (int design = 0; design < LX_CU_INT8_DESIGNS; design++)
        if (has_design(g, design, n))
            check_design(g, &p, &finishes[0], design);
    destroy(g, &p);
}

/* --- operands on both sides of a multiple of 2^32 --------------------------------------------- */

/* A copy of `codes`, into which such a multiple, `boundary`, is so many bytes. */
static void *across(gpu *g, unsigned char *boundary, const void *codes, int64_t bytes, int64_t into)
{
    gpu_ok(lx_upload(&g->x, boundary - into, codes, (size_t)bytes, err));
    return boundary - into;
}

/* Calls whose operands lie in one block of 2^32 bytes and, then, across its end: the same bits. Of
 * x and of w one row is across, in the middle of them or the last, anywhere in it; or the beginning
 * or the end is near. Only such a row could come out differently: all are compared, no sample. */
static void check_across(gpu *g, const problem *p, unsigned char *boundary, const finish *f,
                         int design)
{
    char what[112];
    const int64_t k = p->k, rows[2] = {p->m, p->n}, n_out = p->m * (p->n + f->gap);
    const size_t bytes = (size_t)n_out * lx_dtype_size(f->out);
    const int64_t in_row[] = {0, 16, 64, k / 32 * 16 + 16, k - 16};
    enum { IN_ROW = sizeof in_row / sizeof *in_row, PLACES = 2 * IN_ROW + 4 };
    unsigned char *want = run(g, p, f, design);
    name_problem(what, sizeof what, names[design], p, f);
    for (int i = 0; i < 2 * PLACES; i += gpu_is_small() ? 5 : 1) {
        const int64_t n = rows[i % 2], at = i / 2, ends[] = {-48, -16, n * k - 64, n * k};
        const int64_t row = at < IN_ROW ? n / 2 : n - 1;
        const int64_t into =
            at < 2 * IN_ROW ? row * k + in_row[at % IN_ROW] : ends[at - 2 * IN_ROW];
        problem moved = *p;
        if (i % 2)
            moved.d_w.data = across(g, boundary, p->w.data, n * k, into);
        else
            moved.d_in.data = across(g, boundary, p->in.data, n * k, into);
        unsigned char *got = run(g, &moved, f, design);
        if (memcmp(got, want, bytes))
            fail_msg("%s: other bits with %s across 2^32, %lld bytes into it", what,
                     i % 2 ? "weights" : "rows", (long long)into);
        free(got);
    }
    printf("  %-72s same bits across 2^32\n", what);
    free(want);
}

/* Tiles of 192 x 256 let addresses' upper halves be but where that matters. Blocks have one tile of
 * few steps and of many, with a tail and without; or several, of one step, of two, of four. */
static void test_designs_across_four_gib(void **state)
{
    static const int64_t shapes[][3] = {{200, 288, 160},  {300, 288, 208},  {700, 512, 64},
                                        {200, 544, 1040}, {3000, 5120, 64}, {3000, 5120, 128},
                                        {3000, 5120, 208}};
    static const finish all[] = {
        {.bias = true, .out = LX_DTYPE_BF16},
        {.bias = true, .gate = true, .add = true, .out = LX_DTYPE_F32},
        {.bias = true, .activation = LX_ACTIVATION_GELU, .out = LX_DTYPE_F16},
    };
    const size_t room = (size_t)64 << 20, four = (size_t)1 << 32;
    gpu *g = *state;
    lx_arena *wide = NULL;
    void *data = NULL;
    check_rng r = {32};
    lx_err why = {0};
    const lx_status status = lx_cuda_arena(g->cuda, four + room, &wide, &why);
    if (status == LX_EAGAIN) {
        printf("  %s\n", why.message);
        skip();
    }
    gpu_must(status, &why);
    gpu_ok(lx_arena_take(wide, four + room, &data, err));
    const uintptr_t middle = (uintptr_t)data + room / 2;
    unsigned char *boundary = (unsigned char *)((middle + four - 1) / four * four);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int64_t *s = shapes[i];
        if (gpu_is_small() && !is_small_shape(s))
            continue;
        problem p = make(g, &r, variants[0], CHECK_RANDOM, s[0], s[1], s[2]);
        p.out0 = random_elements(&r, LX_DTYPE_F32, p.m * p.n, 1);
        for (int design = LX_CU_MMA_192x256; design < LX_CU_INT8_DESIGNS; design++)
            for (size_t f = 0; f < (s[0] > 1000 ? 1 : sizeof all / sizeof *all); f++)
                if (has_design(g, design, p.n))
                    check_across(g, &p, boundary, &all[f], design);
        destroy(g, &p);
    }
    lx_arena_destroy(&wide);
}

/* --- sums of squares ------------------------------------------------------------------------- */

/* Each row's sum in f64 of what the same design writes as F32. */
static double *squares_wanted(gpu *g, const problem *p, int design)
{
    finish f = {.bias = true, .out = LX_DTYPE_F32};
    unsigned char *out = run(g, p, &f, design);
    double *sum = check_alloc(p->m, sizeof *sum);
    for (int64_t i = 0; i < p->m * p->n; i++) {
        double y = (double)gpu_widen(out, LX_DTYPE_F32, i);
        sum[i / p->n] += y * y;
    }
    free(out);
    return sum;
}

static void check_squares(const char *what, const float *got, const double *want, int64_t m,
                          double allowed)
{
    double worst = 0;
    for (int64_t i = 0; i < m; i++) {
        double off = fabs((double)got[i] - want[i]) / (want[i] + 1e-30);
        if (!(off <= allowed))
            fail_msg("%s: row %d: %.9g, not %.9g", what, (int)i, (double)got[i], want[i]);
        worst = off > worst ? off : worst;
    }
    printf("  %-64s off by %.1e at most\n", what, worst);
}

/* Parts that the design leaves, folded; twice. */
static void design_squares(gpu *g, const problem *p, int design)
{
    char what[96];
    finish f = {.bias = true, .out = LX_DTYPE_BF16};
    double *want = squares_wanted(g, p, design);
    float *got[2];
    for (int i = 0; i < 2; i++)
        got[i] = run_squares(g, p, call_of(p, &f, design), names[design]);
    snprintf(what, sizeof what, "%s %dx%dx%d: squares", names[design], (int)p->m, (int)p->n,
             (int)p->k);
    check_squares(what, got[0], want, p->m, 1e-5);
    assert_memory_equal(got[0], got[1], (size_t)p->m * sizeof(float));
    free(want), free(got[0]), free(got[1]);
}

static void test_designs_tell_squares(void **state)
{
    gpu *g = *state;
    static const int64_t all[][3] = {{1, 32, 16},    {64, 64, 64},    {129, 96, 80},
                                     {300, 288, 64}, {1000, 544, 64}, {700, 5120, 128}};
    check_rng r = {28};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        problem p = make(g, &r, variants[0], CHECK_RANDOM, all[i][0], all[i][1], all[i][2]);
        for (int design = 0; design < LX_CU_INT8_DESIGNS; design++)
            if (has_design(g, design, p.n) && (!gpu_is_small() || p.m * p.n < 100000))
                design_squares(g, &p, design);
        destroy(g, &p);
    }
}

/* As the model asks: whatever product it is. The rows themselves are rounded to BF16. */
static void test_linear_tells_squares(void **state)
{
    gpu *g = *state;
    check_rng r = {29};
    for (int v = 0; v < N_MODEL; v++)
        for (int64_t m = 5; m < 1000; m += 313) {
            char what[96];
            problem p = make(g, &r, variants[v], CHECK_RANDOM, m, 320, 96);
            finish f = {.bias = true};
            lx_epilogue e = epilogue_of(&p, &f);
            float *zeros = check_floats(m * 320);
            lx_mat y = gpu_mat(g, LX_DTYPE_BF16, zeros, m, 320, 328);
            float *square = gpu_take(g, (size_t)m * sizeof *square), *got = check_floats(m);
            double *want = check_alloc(m, sizeof *want);
            size_t mark = lx_arena_mark(g->scratch);
            e.square = square;
            gpu_ok(lx_linear(&g->x, &p.d_in, &p.d_w, &e, &y, err));
            assert_int_equal(lx_arena_mark(g->scratch), mark);
            gpu_get(g, got, square, (size_t)m * sizeof *got);
            float *rows = gpu_mat_get(g, &y);
            for (int64_t i = 0; i < m * 320; i++)
                want[i / 320] += (double)rows[i] * (double)rows[i];
            snprintf(what, sizeof what, "lx_linear of %s, %d rows: squares", p.v.name, (int)m);
            check_squares(what, got, want, m, 2e-3);
            free(got), free(want), free(rows), free(zeros);
            destroy(g, &p);
        }
}

/* --- largest magnitudes ---------------------------------------------------------------------- */

/* Of the rows as they were written, to the bit: beside a residual too, and of F16. */
static void design_maxima(gpu *g, const problem *p, const finish *f, int design)
{
    char what[96];
    const size_t size = lx_dtype_size(f->out), bytes = (size_t)(p->m * p->n) * size;
    size_t mark = lx_arena_mark(g->store);
    lx_cu_int8 call = call_of(p, f, design);
    call.e.out = (lx_cu_mat){(int)f->out, p->m, p->n, p->n, gpu_take(g, bytes)};
    call.most = gpu_take(g, (size_t)p->m * sizeof *call.most);
    gpu_ok(lx_zero(&g->x, call.most, (size_t)p->m * sizeof *call.most, err));
    if (f->add)
        gpu_ok(lx_upload(&g->x, call.e.out.data, p->out0, bytes, err));
    must(g, launch(g, &call), names[design]);
    unsigned char *out = check_alloc(1, bytes);
    float *told = check_floats(p->m);
    gpu_get(g, out, call.e.out.data, bytes);
    gpu_get(g, told, call.most, (size_t)p->m * sizeof *told);
    snprintf(what, sizeof what, "%s %dx%dx%d%s -> %s: largest", names[design], (int)p->m, (int)p->n,
             (int)p->k, f->add ? " add" : "", lx_dtype_name(f->out));
    for (int64_t i = 0; i < p->m; i++) {
        float largest = 0;
        for (int64_t j = 0; j < p->n; j++)
            largest = fmaxf(largest, fabsf(gpu_widen(out, f->out, i * p->n + j)));
        if (told[i] != largest)
            fail_msg("%s: row %d: %.9g, not %.9g", what, (int)i, (double)told[i], (double)largest);
    }
    printf("  %-64s exact\n", what);
    lx_arena_reset(g->store, mark);
    free(out), free(told);
}

static void test_designs_tell_maxima(void **state)
{
    static const finish all[] = {
        {.bias = true, .out = LX_DTYPE_F32},
        {.bias = true, .gate = true, .add = true, .out = LX_DTYPE_F32},
        {.bias = true, .activation = LX_ACTIVATION_GELU, .out = LX_DTYPE_F16},
        {.bias = true, .gate = true, .out = LX_DTYPE_F16},
    };
    static const int64_t sizes[][3] = {
        {1, 64, 16}, {129, 96, 80}, {300, 320, 144}, {700, 5120, 128}};
    check_rng r = {30};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        problem p =
            make(*state, &r, variants[0], CHECK_RANDOM, sizes[i][0], sizes[i][1], sizes[i][2]);
        p.out0 = random_elements(&r, LX_DTYPE_F32, p.m * p.n, 1);
        for (int design = 0; design < LX_CU_INT8_DESIGNS; design++)
            for (size_t j = 0; j < sizeof all / sizeof *all; j++)
                if (has_design(*state, design, p.n) &&
                    (all[j].out == LX_DTYPE_F32 || LX_CU_INT8_HALF(design, p.n)) &&
                    (!gpu_is_small() || p.m * p.n < 100000))
                    design_maxima(*state, &p, &all[j], design);
        destroy(*state, &p);
    }
}

/* --- codes ----------------------------------------------------------------------------------- */

typedef struct band {
    void *y;
    float *scale;
    uint32_t *most;
    int8_t *codes;
    lx_dtype dtype; /* of y */
} band;

static band take_band(gpu *g, int64_t m, int64_t n, lx_dtype dtype)
{
    band b = {.y = gpu_take(g, (size_t)(m * n) * 4), .scale = gpu_take(g, (size_t)m * 4)};
    b.dtype = dtype;
    b.most = gpu_take(g, (size_t)m * 4);
    b.codes = gpu_take(g, (size_t)(m * n));
    gpu_ok(lx_zero(&g->x, b.most, (size_t)m * 4, err));
    gpu_ok(lx_zero(&g->x, b.codes, (size_t)(m * n), err));
    return b;
}

static lx_cu_codes codes_of(const band *b, int64_t m, int64_t n)
{
    lx_cu_codes c = {m, n, b->y, b->most, b->codes, b->scale, b->dtype == LX_DTYPE_F16, false};
    return c;
}

/* y as it lies on the card. */
static float *get_rows(gpu *g, const band *b, int64_t m, int64_t n)
{
    const size_t bytes = (size_t)(m * n) * lx_dtype_size(b->dtype);
    unsigned char *raw = check_alloc(1, bytes);
    float *y = check_floats(m * n);
    gpu_get(g, raw, b->y, bytes);
    for (int64_t i = 0; i < m * n; i++)
        y[i] = gpu_widen(raw, b->dtype, i);
    free(raw);
    return y;
}

/* Codes, scales and maxima of y as it lies on the card: the definition's bits. */
static void check_band(gpu *g, const char *what, const band *b, int64_t m, int64_t n, bool has_most)
{
    float *y = get_rows(g, b, m, n), *scale = check_floats(m);
    int8_t *codes = check_alloc(m * n, 1);
    uint32_t *most = check_alloc(m, 4);
    lx_act want = {.dtype = LX_DTYPE_I8, .rows = m, .cols = n};
    want.data = check_alloc(m * n, 1);
    want.scale = check_floats(m);
    gpu_get(g, scale, b->scale, (size_t)m * 4);
    gpu_get(g, codes, b->codes, (size_t)(m * n));
    gpu_get(g, most, b->most, (size_t)m * 4);
    lx_quantize_rows_ref(y, &want);
    for (int64_t i = 0; i < m; i++) {
        float largest = 0, told;
        for (int64_t j = 0; j < n; j++)
            largest = fmaxf(largest, fabsf(y[i * n + j]));
        memcpy(&told, &most[i], 4);
        if (has_most && told != largest)
            fail_msg("%s: row %d: the largest is %.9g, told is %.9g", what, (int)i, (double)largest,
                     (double)told);
        if (scale[i] != want.scale[i])
            fail_msg("%s: row %d: scale %.9g, not %.9g", what, (int)i, (double)scale[i],
                     (double)want.scale[i]);
    }
    for (int64_t i = 0; i < m * n; i++)
        if (codes[i] != ((int8_t *)want.data)[i])
            fail_msg("%s: [%d, %d]: code %d, not %d, for %.9g", what, (int)(i / n), (int)(i % n),
                     codes[i], ((int8_t *)want.data)[i], (double)y[i]);
    printf("  %-56s %lld codes exact\n", what, (long long)(m * n));
    free(y), free(scale), free(codes), free(most), free(want.data), free(want.scale);
}

/* One call into band b, which makes codes of another band meanwhile. */
static void call_band(gpu *g, const problem *p, const band *b, int design,
                      const lx_cu_codes *meanwhile)
{
    finish f = {.bias = true, .activation = LX_ACTIVATION_GELU, .out = b->dtype};
    lx_cu_int8 call = call_of(p, &f, design);
    call.e.out = (lx_cu_mat){(int)b->dtype, p->m, p->n, p->n, b->y};
    call.most = b->most;
    if (meanwhile)
        call.codes = *meanwhile;
    must(g, launch(g, &call), names[design]);
}

/* Two bands: the second call makes the first one's codes, one call more the second one's: that for
 * codes alone, or (of F16) a product of another design, which has none of its own for them. */
static void check_codes(gpu *g, check_rng *r, const int64_t shape[3], int design, lx_dtype dtype)
{
    char what[96];
    problem p = make(g, r, variants[0], CHECK_RANDOM, shape[0], shape[1], shape[2]);
    band b[2] = {take_band(g, p.m, p.n, dtype), take_band(g, p.m, p.n, dtype)};
    lx_cu_codes codes[2] = {codes_of(&b[0], p.m, p.n), codes_of(&b[1], p.m, p.n)};
    call_band(g, &p, &b[0], design, NULL);
    call_band(g, &p, &b[1], design, &codes[0]);
    if (dtype == LX_DTYPE_F16) {
        band third = take_band(g, p.m, p.n, LX_DTYPE_F32);
        call_band(g, &p, &third, LX_CU_MMA_128x128, &codes[1]);
    } else {
        must(g, g->cuda->module->linear->codes(g->cuda->dev, &codes[1]), "codes");
    }
    for (int i = 0; i < 2; i++) {
        snprintf(what, sizeof what, "%s %dx%dx%d: codes of %s %s", names[design], (int)p.m,
                 (int)p.n, (int)p.k, lx_dtype_name(dtype), i ? "afterwards" : "meanwhile");
        check_band(g, what, &b[i], p.m, p.n, true);
    }
    destroy(g, &p);
}

static void test_designs_make_codes(void **state)
{
    static const int64_t all[][3] = {
        {1, 32, 16},        {129, 256, 64},  {300, 1536, 64}, {33, 160, 640},     {700, 13824, 128},
        {896, 13824, 1024}, {2000, 64, 128}, {300, 320, 48},  {40, 13824, 13824}, {5, 20000, 32}};
    check_rng r = {25};
    for (int design = 0; design < LX_CU_INT8_DESIGNS; design++)
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (has_design(*state, design, 32) &&
                (!gpu_is_small() || all[i][0] * all[i][1] * all[i][2] <= 50000000)) {
                check_codes(*state, &r, all[i], design, LX_DTYPE_F32);
                if (LX_CU_INT8_HALF(design, all[i][1]))
                    check_codes(*state, &r, all[i], design, LX_DTYPE_F16);
            }
}

/* What F16 in between costs: a code beside the one of F32 now and then, none further off. */
static void test_codes_of_halves_are_near(void **state)
{
    gpu *g = *state;
    const int64_t m = 500, n = 13824, k = 1024;
    const bool has_wgmma = has_design(g, LX_CU_WGMMA_128x256, n);
    const int design = has_wgmma ? LX_CU_WGMMA_128x256 : LX_CU_MMA_192x256;
    check_rng r = {31};
    if (!has_design(g, design, n) || gpu_is_small())
        skip();
    problem p = make(g, &r, variants[0], CHECK_RANDOM, m, n, k);
    int8_t *codes[2];
    for (int i = 0; i < 2; i++) {
        band b = take_band(g, m, n, i ? LX_DTYPE_F16 : LX_DTYPE_F32);
        lx_cu_codes c = codes_of(&b, m, n);
        call_band(g, &p, &b, design, NULL);
        must(g, g->cuda->module->linear->codes(g->cuda->dev, &c), "codes");
        codes[i] = check_alloc(m * n, 1);
        gpu_get(g, codes[i], b.codes, (size_t)(m * n));
    }
    int64_t others = 0;
    for (int64_t i = 0; i < m * n; i++) {
        int off = codes[0][i] - codes[1][i];
        if (off < -1 || off > 1)
            fail_msg("[%d, %d]: code %d of F32, %d of F16", (int)(i / n), (int)(i % n), codes[0][i],
                     codes[1][i]);
        others += off != 0;
    }
    printf("  codes of F16 rows: %.2f %% are neighbours of those of F32\n",
           100.0 * (double)others / (double)(m * n));
    assert_true(others * 20 < m * n);
    free(codes[0]), free(codes[1]);
    destroy(g, &p);
}

/* The model's way to codes, in bands: those of the same rows as f32, rounded to F16, to the bit. */
static void test_linear_to_act_in_bands(void **state)
{
    gpu *g = *state;
    check_rng r = {27};
    int64_t m = 3000, n = 13824, k = 64;
    if (gpu_is_small())
        skip();
    problem p = make(g, &r, variants[0], CHECK_RANDOM, m, n, k);
    finish f = {.bias = true, .activation = LX_ACTIVATION_GELU};
    lx_epilogue e = epilogue_of(&p, &f);
    band b = take_band(g, m, n, LX_DTYPE_F32);
    lx_mat y = {.dtype = LX_DTYPE_F32, .rows = m, .cols = n, .stride = n, .data = b.y};
    lx_act act = {.dtype = LX_DTYPE_I8, .rows = m, .cols = n, .data = b.codes, .scale = b.scale};
    size_t scratch = lx_arena_mark(g->scratch);
    gpu_ok(lx_linear(&g->x, &p.d_in, &p.d_w, &e, &y, err));
    gpu_ok(lx_linear_to_act(&g->x, &p.d_in, &p.d_w, &e, &act, err));
    assert_int_equal(lx_arena_mark(g->scratch), scratch);
    float *rows = get_rows(g, &b, m, n);
    for (int64_t i = 0; i < m * n; i++)
        rows[i] = gpu_rounded(LX_DTYPE_F16, rows[i]);
    gpu_ok(lx_upload(&g->x, b.y, rows, (size_t)(m * n) * 4, err));
    free(rows);
    check_band(g, "lx_linear_to_act in bands", &b, m, n, false);
    destroy(g, &p);
}

/* Rows whose numbers are all zero, and a NaN that must reach its row's scale. */
static void test_codes_of_odd_rows(void **state)
{
    gpu *g = *state;
    enum { M = 6, N = 96 };
    float y[M][N], scale[M];
    uint32_t most[M] = {0};
    band b = take_band(g, M, N, LX_DTYPE_F32);
    for (int i = 0; i < M * N; i++)
        y[i / N][i % N] = i / N == 0 ? 0 : (float)(i % 17 - 8);
    y[2][5] = NAN;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            uint32_t bits;
            float v = fabsf(y[i][j]);
            memcpy(&bits, &v, 4);
            most[i] = bits > most[i] ? bits : most[i];
        }
    gpu_ok(lx_upload(&g->x, b.y, y, sizeof y, err));
    gpu_ok(lx_upload(&g->x, b.most, most, sizeof most, err));
    lx_cu_codes c = codes_of(&b, M, N);
    must(g, g->cuda->module->linear->codes(g->cuda->dev, &c), "codes");
    gpu_get(g, scale, b.scale, sizeof scale);
    assert_true(scale[0] == 0);
    assert_true(scale[1] == 8.0f / 127);
    assert_true(isnan(scale[2]));
}

/* What no design takes is refused, not computed wrongly. */
static void test_designs_refuse(void **state)
{
    gpu *g = *state;
    check_rng r = {26};
    problem p = make(g, &r, variants[0], CHECK_RANDOM, 32, 64, 64);
    finish f = {.out = LX_DTYPE_BF16};
    lx_cu_int8 good = call_of(&p, &f, 0), bad;
    good.e.out = (lx_cu_mat){LX_CU_BF16, 32, 64, 64, gpu_take(g, 32 * 64 * 4)};
    bad = good, bad.k = 40;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.e.n = 40;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.e.add_to_out = true;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.x++;
    assert_int_not_equal(launch(g, &bad), 0);
    bad = good, bad.design = LX_CU_INT8_DESIGNS;
    assert_int_not_equal(launch(g, &bad), 0);
    must(g, launch(g, &good), "what is left");
    destroy(g, &p);
}

/* --- speed ----------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows of a band of codes, as linear_plan.c has them on a card of 132 multiprocessors. */
enum { F32_BAND = 896, F16_BAND = 2816, TALL_BAND = 4224 };

/* Operations a second of mma.sync alone, 1e12. */
static double rate_now(gpu *g, double *by_clocks)
{
    bench b = {0};
    double seconds = gpu_time(g, call_rate, &b), clocks = clocks_of(g, call_rate, &b);
    *by_clocks = clocks > 0 ? b.rate_operations / clocks : 0;
    return 1e-12 * b.rate_operations / seconds;
}

/* The roof is asked for before every line of many rows: a card that is warm or short of power has
 * another clock than before. */
static void bench_line(gpu *g, bench *b, const char *how, shape_kind kind,
                       void (*call)(gpu *g, void *self))
{
    if (b->rate == 0 || b->m >= 4096)
        b->rate = rate_now(g, &b->rate_by_clocks);
    double seconds = gpu_time(g, call, b);
    print_line(b, how, kind, seconds, clocks_of(g, call, b));
}

static void bench_shape(gpu *g, shape_kind kind, int64_t m)
{
    size_t mark = lx_arena_mark(g->store), blas = (size_t)32 << 20;
    bench b = bench_of(g, kind, m);
    b.e.bias = &b.bias;
    b.most = gpu_take(g, (size_t)m * 4);
    for (int i = 0; i < 2; i++)
        b.acc[i] = gpu_take(g, (size_t)(least(m, b.is_act ? TALL_BAND / 2 : 2048) * b.n) * 4);
    for (int design = 0; design < LX_CU_INT8_DESIGNS; design++) {
        b.design = design;
        b.is_half = b.is_act && LX_CU_INT8_HALF(design, b.n);
        int64_t band_m = design >= LX_CU_MMA_192x256 ? TALL_BAND : b.is_half ? F16_BAND : F32_BAND;
        b.rows = b.is_act ? least(band_m, m) : m;
        if (has_design(g, design, b.n))
            bench_line(g, &b, names[design], kind, call_design);
    }
    bench_line(g, &b, "chosen", kind, call_chosen);
    b.rows = least(b.n > 10000 ? 512 : 1664, m); /* of sums that stay in 50 MiB of cache */
    b.product = (lx_cu_product){.dtype = LX_CU_I8, .n = b.n, .k = b.k, .ld = b.n};
    b.product.w = b.w.data;
    b.product.acc = b.acc[0];
    b.product.scratch = gpu_take(g, blas);
    b.product.scratch_bytes = blas;
    bench_line(g, &b, "cuBLASLt", kind, call_blas);
    lx_arena_reset(g->store, mark);
}

/* only: of so many rows alone, or NULL. */
static int bench_all(const char *only)
{
    static const int64_t rows[] = {126, 512, 1024, 4096, 32760};
    bool is_known = !only;
    for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
        is_known |= only && rows[m] == atoll(only);
    if (!is_known) {
        printf("--bench %s: rows may be 126, 512, 1024, 4096 or 32760\n", only);
        return 2;
    }
    gpu g;
    gpu_open(&g, BENCH_BYTES, SCRATCH_BYTES);
    double by_clocks, rate = rate_now(&g, &by_clocks);
    printf("mma.sync m16n8k32 alone: %.1f T operations/s, %.0f a clock\n", rate, by_clocks);
    for (int kind = PLAIN; kind <= SECOND; kind++)
        for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
            if (!only || rows[m] == atoll(only))
                bench_shape(&g, (shape_kind)kind, rows[m]);
    rate = rate_now(&g, &by_clocks);
    printf("mma.sync m16n8k32 alone, again: %.1f T operations/s, %.0f a clock\n", rate, by_clocks);
    gpu_close(&g);
    return 0;
}

static int open_card(void **state)
{
    return gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* a kernel that never ends still leaves the lines before */
    if (gpu_wants_bench(argc, argv))
        return bench_all(argc > 2 ? argv[2] : NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_of_odd_rows),
        cmocka_unit_test(test_designs_refuse),
        cmocka_unit_test(test_designs_over_shapes),
        cmocka_unit_test(test_designs_over_sixteens),
        cmocka_unit_test(test_designs_tell_squares),
        cmocka_unit_test(test_linear_tells_squares),
        cmocka_unit_test(test_designs_tell_maxima),
        cmocka_unit_test(test_designs_make_codes),
        cmocka_unit_test(test_codes_of_halves_are_near),
        cmocka_unit_test(test_linear_to_act_in_bands),
        cmocka_unit_test(test_designs_at_the_ends_of_s32),
        cmocka_unit_test(test_designs_over_model_shapes),
        cmocka_unit_test(test_designs_across_four_gib), /* last: what it takes stays, if it fails */
    };
    return cmocka_run_group_tests(tests, open_card, gpu_end_tests);
}
