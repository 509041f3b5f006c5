/*
 * test_cuda_linear.c - linears on a card against the f64 definition; --bench prints their speed
 * SPDX-License-Identifier: Apache-2.0
 *
 * Every product runs twice: same bits.
 */
#include "gpu_linear_bench.h"

#define STORE_BYTES ((size_t)1 << 30)
#define BENCH_BYTES                                                                                \
    ((size_t)5 << 29) /* 2.5 GiB: 32760 rows of 13824 BF16 and what goes with them */
#define SCRATCH_BYTES ((size_t)512 << 20)

/* --- running --------------------------------------------------------------------------------- */

/* The output's bytes; fails if scratch is kept. */
static unsigned char *run(gpu *g, const problem *p, const finish *f)
{
    size_t bytes, mark = lx_arena_mark(g->store);
    unsigned char *out = out_before(p, f, &bytes);
    lx_mat to = {.dtype = f->out, .rows = p->m, .cols = p->n, .stride = p->n + f->gap};
    to.data = gpu_put(g, out, bytes);
    lx_epilogue e = epilogue_of(p, f);
    size_t scratch = lx_arena_mark(g->scratch);
    gpu_ok(lx_linear(&g->x, &p->d_in, &p->d_w, &e, &to, err));
    assert_int_equal(lx_arena_mark(g->scratch), scratch);
    gpu_get(g, out, to.data, bytes);
    check_gaps(p, f, out);
    lx_arena_reset(g->store, mark);
    return out;
}

/* Whether linear_plan.c may multiply it by a kernel of our own that finishes it too. */
static bool is_one_kernel(const gpu *g, const problem *p)
{
    bool is_fp8 = p->in.dtype == LX_DTYPE_F8_E4M3, is_i8 = p->in.dtype == LX_DTYPE_I8;
    bool has_pairs = lx_card_has_wgmma(&g->x.cuda->card);
    return (is_i8 || (is_fp8 && g->x.cuda->has_own_fp8)) && p->m >= 256 && p->k % 16 == 0 &&
           p->n % (is_fp8 && has_pairs ? 64 : 16) == 0;
}

static double lost_in_sums(const gpu *g, const problem *p)
{
    if (p->in.dtype == LX_DTYPE_I8 || is_in_f32(p))
        return 0;
    if (p->in.dtype == LX_DTYPE_F8_E4M3)
        return is_one_kernel(g, p) ? GPU_SUM_FP8 + GPU_SUM_FP8_OWN(p->k) : GPU_SUM_FP8;
    return GPU_SUM_F32(p->k);
}

static void check_problem(gpu *g, problem *p, const finish *f)
{
    char what[96];
    if (gpu_is_small() && p->m * p->n * p->k > 1000000)
        return;
    name_problem(what, sizeof what, p->v.name, p, f);
    unsigned char *out = run(g, p, f), *again = run(g, p, f);
    check_outs(what, p, f, out, again, lost_in_sums(g, p));
}

/* --- tests ----------------------------------------------------------------------------------- */

static const lx_dtype outs[] = {LX_DTYPE_F32, LX_DTYPE_BF16, LX_DTYPE_F16};

static void test_linear_over_shapes(void **state)
{
    static const int64_t shapes[][3] = {
        {1, 1, 1},      {1, 64, 2049},  {2, 3, 5},       {5, 7, 511},     {7, 193, 513},
        {8, 131, 512},  {9, 131, 512},  {37, 192, 97},   {64, 191, 31},   {3, 97, 1536},
        {16, 16, 16},   {17, 32, 48},   {33, 256, 64},   {126, 384, 160}, {127, 128, 128},
        {129, 144, 80}, {513, 385, 5},  {600, 3, 40},    {8, 64, 1536},   {9, 64, 1536},
        {4, 48, 264},   {1, 129, 2056}, {1000, 17, 257},
    };
    check_rng r = {1};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            if (gpu_is_small() && i % 3 != v % 3) /* each shape with a third of the variants */
                continue;
            problem p = make(*state, &r, variants[v], CHECK_RANDOM, shapes[i][0], shapes[i][1],
                             shapes[i][2]);
            finish f = {
                .bias = i % 2, .out = outs[(v + i) % 3], .gap = i % 3 == 1 ? 8 : (int64_t)i % 3};
            check_problem(*state, &p, &f);
            f.out = LX_DTYPE_F32;
            check_problem(*state, &p, &f);
            destroy(*state, &p);
        }
}

static void test_linear_over_model_shapes(void **state)
{
    if (gpu_is_small())
        skip();
    static const int64_t shapes[][3] = {
        {1, 5120, 5120},     {2, 5120, 5120},    {8, 13824, 5120},   {9, 5120, 5120},
        {126, 4096, 4096},   {126, 10240, 4096}, {512, 5120, 4096},  {1000, 1536, 1536},
        {1000, 8960, 1536},  {1000, 1536, 8960}, {4096, 5120, 5120}, {4096, 13824, 5120},
        {4096, 5120, 13824}, {4096, 64, 5120},   {4096, 5120, 64},
    };
    check_rng r = {2};
    for (size_t v = 0; v < N_MODEL; v++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            problem p = make(*state, &r, variants[v], CHECK_RANDOM, shapes[i][0], shapes[i][1],
                             shapes[i][2]);
            finish f = {.bias = true, .out = LX_DTYPE_BF16, .gap = 2 * p.n};
            if (p.k > p.n) { /* as the second linear of the FFN */
                f = (finish){.bias = true, .gate = true, .add = true, .out = LX_DTYPE_F32};
                p.out0 = random_elements(&r, LX_DTYPE_F32, p.m * p.n, 1);
            }
            check_problem(*state, &p, &f);
            destroy(*state, &p);
        }
    for (size_t v = N_MODEL; v < N_VARIANTS; v++) { /* weights in bands; the time path */
        problem p = make(*state, &r, variants[v], CHECK_RANDOM, v % 2 ? 4 : 300, 5120, 5120);
        finish f = {.bias = true, .activation = LX_ACTIVATION_SILU, .out = LX_DTYPE_F32};
        check_problem(*state, &p, &f);
        destroy(*state, &p);
    }
}

static void test_linear_over_inputs(void **state)
{
    check_rng r = {3};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (int kind = 0; kind < CHECK_KINDS; kind++)
            for (int64_t m = 3; m <= 19; m += 16) {
                if (gpu_is_small() && (size_t)kind != v % CHECK_KINDS)
                    continue;
                problem p = make(*state, &r, variants[v], kind, m, 48, 528);
                finish f = {.bias = true, .out = m == 3 ? LX_DTYPE_F32 : LX_DTYPE_BF16};
                check_problem(*state, &p, &f);
                destroy(*state, &p);
            }
}

/* Sides on and off the wide path, every combination of what may follow a product. */
static void test_linear_over_epilogues(void **state)
{
    static const int64_t shapes[][3] = {{2, 300, 17}, {9, 301, 48}, {37, 320, 64}, {5, 2064, 32}};
    check_rng r = {4};
    for (size_t v = 0; v < N_VARIANTS; v += 2)
        for (int i = 0; i < 4; i++) {
            if (gpu_is_small() && i != (int)(v / 2) % 4)
                continue;
            problem p = make(*state, &r, variants[v], CHECK_RANDOM, shapes[i][0], shapes[i][1],
                             shapes[i][2]);
            add_factors(*state, &r, &p, i % 2 ? LX_DTYPE_F32 : LX_DTYPE_BF16);
            p.out0 = check_input(&r, CHECK_RANDOM, p.m * p.n);
            for (int bits = 0; bits < 48; bits += gpu_is_small() ? 7 : 1) {
                finish f = {.bias = bits & 1,
                            .mul = bits & 2,
                            .gate = bits & 4,
                            .add = bits & 8,
                            .activation = (lx_activation)(bits / 16),
                            .out = bits & 8 ? LX_DTYPE_F32 : outs[bits % 3],
                            .gap = bits % 5 == 0 ? 8 : 0};
                check_problem(*state, &p, &f);
            }
            destroy(*state, &p);
        }
}

/* --- results as activations ------------------------------------------------------------------ */

/* Codes of y [rows, cols]: half a step from y, and the row's scale as defined. is_half: they were
 * F16 before, which is a sixteenth of a step more, and ties are many. */
static void check_codes(const char *what, const lx_act *got, const float *y, bool is_half)
{
    const float near = is_half ? 1.126f : 1.0001f, scale_near = is_half ? 0x1p-11f : 1e-6f;
    lx_act want = {.dtype = got->dtype, .rows = got->rows, .cols = got->cols};
    int64_t n = got->rows * got->cols, n_other = 0;
    want.data = check_alloc(n, 4);
    want.scale = check_floats(got->rows);
    lx_quantize_rows_ref(y, &want);
    for (int64_t i = 0; i < n; i++) {
        float scale = got->scale[i / got->cols], step = scale / 2, v;
        if (!(fabsf(scale - want.scale[i / got->cols]) <= scale_near * scale))
            fail_msg("%s: row %d has scale %.9g, not %.9g", what, (int)(i / got->cols),
                     (double)scale, (double)want.scale[i / got->cols]);
        n_other += ((uint8_t *)got->data)[i] != ((uint8_t *)want.data)[i];
        v = (float)((int8_t *)got->data)[i];
        if (got->dtype == LX_DTYPE_F8_E4M3) {
            v = gpu_widen(got->data, LX_DTYPE_F8_E4M3, i);
            step = fmaxf(fabsf(y[i]) / 16, scale * 0x1p-10f);
        }
        if (!(fabsf(v * scale - y[i]) <= step * near))
            fail_msg("%s: [%d, %d] has %g * %g for %g", what, (int)(i / got->cols),
                     (int)(i % got->cols), (double)v, (double)scale, (double)y[i]);
    }
    printf("  %-56s %lld of %lld codes differ from the definition's\n", what, (long long)n_other,
           (long long)n);
    if (n_other > n / (is_half ? 20 : 100000) + 2) /* ties only: y is the card's own */
        fail_msg("%s: %lld codes differ", what, (long long)n_other);
    free(want.data), free(want.scale);
}

static void get_act(gpu *g, const lx_act *from, lx_act *out)
{
    size_t bytes = (size_t)(from->rows * from->cols) * lx_dtype_size(from->dtype);
    *out = *from;
    out->data = check_alloc(1, bytes);
    out->scale = from->scale ? check_floats(from->rows) : NULL;
    gpu_get(g, out->data, from->data, bytes);
    if (from->scale)
        gpu_get(g, out->scale, from->scale, (size_t)from->rows * sizeof(float));
}

/* linear_plan.c: such products hold rows that become codes of their kind in F16. */
static bool is_half_before_codes(const gpu *g, const problem *p, lx_dtype dtype,
                                 lx_activation activation)
{
    bool has_pairs = lx_card_has_wgmma(&g->x.cuda->card) && p->n % 32 == 0;
    return dtype == p->in.dtype && is_one_kernel(g, p) && activation != LX_ACTIVATION_SILU &&
           LX_CU_INT8_HALF(has_pairs ? LX_CU_WGMMA_128x256 : LX_CU_MMA_192x256, p->n);
}

/* Codes are those of the F32 result. BF16 and F32 are the bits that lx_linear makes in that format,
 * which are compared with the definition: BF16 may leave cuBLASLt finished, with sums and GELU of
 * its own, so it need not be the F32 result rounded. */
static void check_to_act(gpu *g, problem *p, lx_dtype dtype, lx_activation activation)
{
    char what[96];
    bool is_coded = lx_dtype_is_code(dtype);
    bool is_half = is_half_before_codes(g, p, dtype, activation);
    finish f = {.bias = true, .activation = activation, .out = is_coded ? LX_DTYPE_F32 : dtype};
    lx_epilogue e = epilogue_of(p, &f);
    lx_act out = act_on_card(g, dtype, p->m, p->n), got, again;
    snprintf(what, sizeof what, "%s %dx%dx%d to act %s", p->v.name, (int)p->m, (int)p->n, (int)p->k,
             lx_dtype_name(dtype));
    unsigned char *y = run(g, p, &f);
    size_t scratch = lx_arena_mark(g->scratch);
    gpu_ok(lx_linear_to_act(&g->x, &p->d_in, &p->d_w, &e, &out, err));
    assert_int_equal(lx_arena_mark(g->scratch), scratch);
    get_act(g, &out, &got);
    gpu_ok(lx_linear_to_act(&g->x, &p->d_in, &p->d_w, &e, &out, err));
    get_act(g, &out, &again);
    size_t bytes = (size_t)(p->m * p->n) * lx_dtype_size(dtype);
    if (memcmp(got.data, again.data, bytes) != 0)
        fail_msg("%s: other bits the second time", what);
    if (is_coded)
        check_codes(what, &got, (float *)(void *)y, is_half);
    for (int64_t i = 0; i < p->m * p->n && !is_coded; i++)
        if (gpu_widen(got.data, dtype, i) != gpu_widen(y, dtype, i))
            fail_msg("%s: %g for %g at %d", what, (double)gpu_widen(got.data, dtype, i),
                     (double)gpu_widen(y, dtype, i), (int)i);
    if (dtype == LX_DTYPE_BF16)
        check_problem(g, p, &f);
    free(y), free(got.data), free(got.scale), free(again.data), free(again.scale);
}

static void test_linear_to_act(void **state)
{
    static const int64_t shapes[][3] = {
        {1, 1, 1},      {3, 97, 31},    {37, 320, 64},    {130, 1536, 128},
        {9, 5120, 64},  {33, 8960, 64}, {300, 13824, 64}, {700, 13824, 128},
        {5, 14336, 32}, {3, 14344, 32}, {2, 20000, 16},
    };
    static const lx_dtype dtypes[] = {LX_DTYPE_I8, LX_DTYPE_F8_E4M3, LX_DTYPE_BF16, LX_DTYPE_F32};
    static const int which[] = {0, 1, 2, 3, 7}; /* i8, bf16, fp8, widened weights, few rows */
    check_rng r = {5};
    for (size_t v = 0; v < sizeof which / sizeof *which; v++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            problem p = make(*state, &r, variants[which[v]], CHECK_RANDOM, shapes[i][0],
                             shapes[i][1], shapes[i][2]);
            for (int d = 0; d < 4; d++)
                check_to_act(*state, &p, dtypes[d], (lx_activation)((i + (size_t)d) % 3));
            destroy(*state, &p);
        }
}

/* Strided rows of F32 or BF16 into every kind of activation: the definition's bits. */
static void check_quantize(gpu *g, const float *values, lx_dtype from, lx_dtype to, int64_t m,
                           int64_t k, int64_t stride)
{
    char what[96];
    float *rounded = check_floats(m * k);
    for (int64_t i = 0; i < m * k; i++)
        rounded[i] = gpu_rounded(from, values[i]);
    lx_mat in = gpu_mat(g, from, rounded, m, k, stride);
    lx_act out = act_on_card(g, to, m, k), got;
    gpu_ok(lx_quantize_rows(&g->x, &in, &out, err));
    get_act(g, &out, &got);
    snprintf(what, sizeof what, "quantize %s %dx%d -> %s", lx_dtype_name(from), (int)m, (int)k,
             lx_dtype_name(to));
    if (got.scale)
        check_codes(what, &got, rounded, false);
    for (int64_t i = 0; i < m * k && !got.scale; i++)
        if (gpu_widen(got.data, to, i) != gpu_rounded(to, rounded[i]))
            fail_msg("%s: at %d", what, (int)i);
    free(rounded), free(got.data), free(got.scale);
}

static void test_quantize_rows(void **state)
{
    static const int64_t cols[] = {1, 7, 64, 1021, 1536, 2056, 5120, 13824, 14344};
    static const lx_dtype to[] = {LX_DTYPE_I8, LX_DTYPE_F8_E4M3, LX_DTYPE_BF16, LX_DTYPE_F32};
    check_rng r = {6};
    gpu *g = *state;
    for (int kind = 0; kind < CHECK_KINDS; kind++)
        for (size_t c = 0; c < sizeof cols / sizeof *cols; c++) {
            int64_t m = 9, k = cols[c];
            size_t mark = lx_arena_mark(g->store);
            float *in = check_input(&r, kind, m * k);
            for (int64_t i = 0; i < k; i++) {
                in[3 * k + i] = 0;                            /* a zero row among others */
                in[5 * k + i] *= 1e-36f;                      /* tiny */
                in[6 * k + i] = (float)(i % 255) * 0.5f - 63; /* ties */
            }
            for (int d = 0; d < 4; d++) {
                check_quantize(g, in, LX_DTYPE_F32, to[d], m, k, k);
                check_quantize(g, in, LX_DTYPE_BF16, to[d], m, k, k + 8 * (d % 2));
                check_quantize(g, in, LX_DTYPE_F32, to[d], m, k, k + 3);
            }
            lx_arena_reset(g->store, mark);
            free(in);
        }
}

/* A NaN must not be lost in codes: its row's scale has it. */
static void test_quantize_keeps_nonfinite_rows_visible(void **state)
{
    gpu *g = *state;
    float in[2][64] = {{1}, {1}};
    lx_dtype dtypes[] = {LX_DTYPE_I8, LX_DTYPE_F8_E4M3};
    in[1][7] = NAN;
    in[1][9] = HUGE_VALF;
    for (int d = 0; d < 2; d++) {
        lx_mat rows = gpu_mat(g, LX_DTYPE_F32, &in[0][0], 2, 64, 64);
        lx_act out = act_on_card(g, dtypes[d], 2, 64), got;
        gpu_ok(lx_quantize_rows(&g->x, &rows, &out, err));
        get_act(g, &out, &got);
        assert_true(isfinite(got.scale[0]));
        assert_true(isnan(got.scale[1]));
        free(got.data), free(got.scale);
    }
}

/* --- memory ---------------------------------------------------------------------------------- */

static void test_scratch_is_what_was_planned(void **state)
{
    if (gpu_is_small())
        skip();
    static const int64_t shapes[][3] = {{1, 512, 256}, {9, 13824, 5120}, {4000, 5120, 64}};
    gpu *g = *state;
    check_rng r = {7};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (int i = 0; i < 3; i++)
            for (int is_act = 0; is_act < 2; is_act++) {
                problem p = make(g, &r, variants[v], CHECK_RANDOM, shapes[i][0], shapes[i][1],
                                 shapes[i][2]);
                lx_act out = act_on_card(g, is_act ? LX_DTYPE_I8 : LX_DTYPE_F32, p.m, p.n);
                (void)scratch_of(g, &p, &out, SCRATCH_BYTES);
                destroy(g, &p);
            }
}

/* --- speed ----------------------------------------------------------------------------------- */

static void call_product(gpu *g, void *self)
{
    bench *b = self;
    int code = g->cuda->module->linear->product(g->cuda->dev, &b->product);
    if (code)
        printf("product: %s\n", g->cuda->module->error_text(code));
}

static void call_epilogue(gpu *g, void *self)
{
    bench *b = self;
    int code = g->cuda->module->linear->epilogue(g->cuda->dev, &b->epilogue);
    if (code)
        printf("epilogue: %s\n", g->cuda->module->error_text(code));
}

static double roof_for(const gpu *g, lx_dtype dtype)
{
    gpu_roof roof = gpu_roof_of(g);
    return dtype == LX_DTYPE_I8 ? roof.int8 : dtype == LX_DTYPE_F8_E4M3 ? roof.fp8 : roof.bf16;
}

/* A whole linear as the model asks for it: q, k, v; the FFN's first; its second. */
static void bench_linear(gpu *g, variant v, int64_t m, int64_t n, int64_t k)
{
    char what[96];
    size_t mark = lx_arena_mark(g->store);
    bench b = bench_of(g, v, m, n, k);
    b.e.bias = &b.bias;
    bool is_first = n > k, is_second = k > n;
    b.is_act = is_first;
    b.e.activation = is_first ? LX_ACTIVATION_GELU : LX_ACTIVATION_NONE;
    b.e.gate = is_second ? card_random(g, LX_DTYPE_F32, n) : NULL;
    b.e.add_to_out = is_second;
    lx_dtype out = is_first ? b.in.dtype : is_second ? LX_DTYPE_F32 : LX_DTYPE_BF16;
    b.act = act_on_card(g, out, m, n);
    b.out = (lx_mat){.dtype = out, .rows = m, .cols = n, .stride = n, .data = b.act.data};
    if (is_second)
        gpu_ok(lx_zero(&g->x, b.out.data, (size_t)(m * n) * 4, err));
    snprintf(what, sizeof what, "%s M %d N %d K %d%s%s -> %s", v.name, (int)m, (int)n, (int)k,
             is_first ? " gelu" : "", is_second ? " gate add" : "", lx_dtype_name(out));
    gpu_print_rate(what, gpu_time(g, call_linear, &b), 2e-12 * (double)m * (double)n * (double)k,
                   roof_for(g, b.in.dtype));
    lx_arena_reset(g->store, mark);
}

/* The two halves of a band: what a band's size should be. */
static void bench_halves(gpu *g, variant v, int64_t m, int64_t n, int64_t k)
{
    char what[96];
    size_t mark = lx_arena_mark(g->store), scratch_bytes = (size_t)32 << 20;
    bench b = bench_of(g, v, m, n, k);
    bool is_first = n > k;
    b.product = (lx_cu_product){.dtype = (int)b.in.dtype, .m = m, .n = n, .k = k, .ld = n};
    b.product.x = b.in.data;
    b.product.w = b.w.data;
    b.product.acc = gpu_take(g, (size_t)(m * n) * 4);
    b.product.scratch = gpu_take(g, scratch_bytes);
    b.product.scratch_bytes = scratch_bytes;
    b.act = act_on_card(g, is_first ? b.in.dtype : LX_DTYPE_BF16, m, n);
    b.epilogue = (lx_cu_epilogue){.m = m, .n = n, .acc = b.product.acc};
    b.epilogue.acc_is_s32 = b.in.dtype == LX_DTYPE_I8;
    b.epilogue.x_scale = b.in.scale;
    b.epilogue.w_scale = b.w.scale;
    b.epilogue.bias = lx_cu_vec_of(&b.bias);
    b.epilogue.activation = is_first ? LX_CU_GELU : LX_CU_PLAIN;
    b.epilogue.out = (lx_cu_mat){(int)b.act.dtype, m, n, n, b.act.data};
    b.epilogue.out_scale = b.act.scale;
    snprintf(what, sizeof what, "  product %s M %d N %d K %d", v.name, (int)m, (int)n, (int)k);
    gpu_print_rate(what, gpu_time(g, call_product, &b), 2e-12 * (double)m * (double)n * (double)k,
                   roof_for(g, b.in.dtype));
    snprintf(what, sizeof what, "  epilogue %s M %d N %d -> %s", v.name, (int)m, (int)n,
             lx_dtype_name(b.act.dtype));
    gpu_print_bytes(what, gpu_time(g, call_epilogue, &b),
                    (double)(m * n) * (4.0 + (double)lx_dtype_size(b.act.dtype)), 0);
    lx_arena_reset(g->store, mark);
}

static void bench_few(gpu *g, int64_t m, int64_t n, int64_t k)
{
    char what[96];
    size_t mark = lx_arena_mark(g->store);
    bench b = bench_of(g, variants[7], m, n, k);
    b.e.bias = &b.bias;
    b.out = (lx_mat){.dtype = LX_DTYPE_F32, .rows = m, .cols = n, .stride = n};
    b.out.data = gpu_take(g, (size_t)(m * n) * 4);
    snprintf(what, sizeof what, "f32 rows M %d N %d K %d, bf16 weights", (int)m, (int)n, (int)k);
    gpu_print_bytes(what, gpu_time(g, call_linear, &b), 2.0 * (double)n * (double)k,
                    gpu_roof_of(g).gb_per_s);
    lx_arena_reset(g->store, mark);
}

/* Short rows of F32: our own product. */
static void bench_patches(gpu *g)
{
    const int64_t m = 32760, n = 5120, k = 64;
    size_t mark = lx_arena_mark(g->store);
    bench b = bench_of(g, variants[7], m, n, k);
    b.e.bias = &b.bias;
    b.out = (lx_mat){.dtype = LX_DTYPE_F32, .rows = m, .cols = n, .stride = n};
    b.out.data = gpu_take(g, (size_t)(m * n) * 4);
    gpu_print_rate("patches M 32760 N 5120 K 64 in f32", gpu_time(g, call_linear, &b),
                   2e-12 * (double)m * (double)n * (double)k, 0);
    lx_arena_reset(g->store, mark);
}

static void call_quantize(gpu *g, void *self)
{
    bench *b = self;
    lx_err err = {0};
    gpu_must(lx_quantize_rows(&g->x, &b->out, &b->act, &err), &err);
}

static void bench_quantize(gpu *g, lx_dtype from, lx_dtype to, int64_t m, int64_t k)
{
    char what[96];
    size_t mark = lx_arena_mark(g->store);
    bench b = {.act = act_on_card(g, to, m, k)};
    b.out = (lx_mat){.dtype = from, .rows = m, .cols = k, .stride = k};
    b.out.data = card_random(g, from, m * k);
    snprintf(what, sizeof what, "quantize %s [%d, %d] -> %s", lx_dtype_name(from), (int)m, (int)k,
             lx_dtype_name(to));
    gpu_print_bytes(what, gpu_time(g, call_quantize, &b),
                    (double)(m * k) * (double)(lx_dtype_size(from) + lx_dtype_size(to)),
                    gpu_roof_of(g).gb_per_s);
    lx_arena_reset(g->store, mark);
}

static int bench_all(void)
{
    static const int64_t sides[][2] = {{5120, 5120}, {13824, 5120}, {5120, 13824}};
    static const int64_t rows[] = {126, 512, 1024, 4096, 32760};
    static const int64_t bands[] = {256, 512, 768, 1024, 1280, 1664, 2048, 4096};
    gpu g;
    gpu_open(&g, BENCH_BYTES, SCRATCH_BYTES);
    for (int v = 0; v < N_MODEL; v++)
        for (int s = 0; s < 3; s++)
            for (size_t m = 0; m < sizeof rows / sizeof *rows; m++)
                bench_linear(&g, variants[v], rows[m], sides[s][0], sides[s][1]);
    for (int s = 0; s < 2; s++) /* the encoder's */
        bench_linear(&g, variants[1], 126, s ? 10240 : 4096, 4096);
    bench_few(&g, 1, 5120, 256);
    bench_few(&g, 1, 5120, 5120);
    bench_few(&g, 1, 30720, 5120);
    bench_few(&g, 4, 30720, 5120);
    bench_few(&g, 8, 30720, 5120);
    bench_patches(&g);
    bench_quantize(&g, LX_DTYPE_BF16, LX_DTYPE_I8, 32760, 5120);
    bench_quantize(&g, LX_DTYPE_BF16, LX_DTYPE_F8_E4M3, 32760, 5120);
    bench_quantize(&g, LX_DTYPE_F32, LX_DTYPE_BF16, 32760, 5120);
    for (int v = 0; v < N_MODEL; v++)
        for (int s = 0; s < 3; s++)
            for (size_t m = 0; m < sizeof bands / sizeof *bands; m++)
                bench_halves(&g, variants[v], bands[m], sides[s][0], sides[s][1]);
    gpu_close(&g);
    return 0;
}

static int open_card(void **state)
{
    return gpu_begin_tests(state, STORE_BYTES, SCRATCH_BYTES);
}

int main(int argc, char **argv)
{
    if (gpu_wants_bench(argc, argv))
        return bench_all();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize_rows),
        cmocka_unit_test(test_quantize_keeps_nonfinite_rows_visible),
        cmocka_unit_test(test_linear_over_shapes),
        cmocka_unit_test(test_linear_over_epilogues),
        cmocka_unit_test(test_linear_over_inputs),
        cmocka_unit_test(test_linear_to_act),
        cmocka_unit_test(test_linear_over_model_shapes),
        cmocka_unit_test(test_scratch_is_what_was_planned),
    };
    return cmocka_run_group_tests(tests, open_card, gpu_end_tests);
}
