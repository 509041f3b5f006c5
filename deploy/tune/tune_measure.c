/*
 * tune_measure.c - lx2v-tune on the card
 * SPDX-License-Identifier: Apache-2.0
 *
 * Operands  random codes of all sizes, as a card's power, and so its clock, follows from them.
 *           Times are between two moments of the compute queue.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "lx_copy.h"
#include "lx_process.h"
#include "tune.h"

#define BLOCK     ((size_t)4 << 20) /* of random bytes, made on the host */
#define SPAN_S    4e-3              /* of one measurement */
#define CALLS     64                /* in it, at most */
#define WARM_S    0.3               /* of mma.sync alone, before all: clocks rise */
#define SCALE_ONE 1e-3f /* about what scales are: sums of 10^4 codes become numbers about 1 */

/* All that is on the card: enough for the largest linear, used by each. */
typedef struct bench {
    lx_cuda *cuda;
    lx_exec x;
    lx_arena *arena, *host;
    void *codes_in, *codes_out, *codes_w, *rows, *bias;
    float *scale_in, *scale_out, *scale_w, *gate, *square;
    /* the linear at work */
    tune_linear linear;
    int64_t m;
    double rate; /* of mma.sync alone, at the beginning */
} bench;

/* --- operands -------------------------------------------------------------------------------- */

typedef struct sizes {
    uint64_t m, n, k, nk; /* the largest of each, and of products n x k */
    uint64_t rows_out;    /* bytes of rows, not codes */
} sizes;

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static sizes sizes_of(const tune_linear *linears, int64_t rows)
{
    sizes s = {.m = (uint64_t)rows};
    for (int i = 0; i < TUNE_LINEARS; i++) {
        uint64_t n = (uint64_t)linears[i].n, k = (uint64_t)linears[i].k;
        s.n = most(s.n, n);
        s.k = most(s.k, k);
        s.nk = most(s.nk, n * k);
        s.rows_out = most(s.rows_out, linears[i].end == LX_TUNE_CODES ? 0 : 4 * n * s.m);
    }
    return s;
}

static lx_status take(bench *b, void *out, uint64_t bytes, lx_err *err)
{
    return lx_arena_take(b->x.arena, (size_t)bytes, out, err);
}

/* Also dry: then it only counts. */
static lx_status take_all(bench *b, const sizes *s, lx_err *err)
{
    const struct {
        void *where;
        uint64_t bytes;
    } all[] = {{&b->codes_in, s->m * s->k}, {&b->codes_out, s->m * s->n}, {&b->codes_w, s->nk},
               {&b->rows, s->rows_out},     {&b->bias, s->n * 2},         {&b->scale_in, s->m * 4},
               {&b->scale_out, s->m * 4},   {&b->scale_w, s->n * 4},      {&b->gate, s->n * 4},
               {&b->square, s->m * 4}};
    lx_status status = LX_OK;
    for (size_t i = 0; i < sizeof all / sizeof *all && status == LX_OK; i++)
        status = take(b, all[i].where, all[i].bytes, err);
    return status;
}

/* `bytes` of what `block` begins with, over and over. */
static lx_status fill(bench *b, void *dst, uint64_t bytes, const void *block, lx_err *err)
{
    uint64_t done = bytes < BLOCK ? bytes : BLOCK;
    lx_status status = lx_upload(&b->x, dst, block, (size_t)done, err);
    while (done < bytes && status == LX_OK) {
        uint64_t n = bytes - done < done ? bytes - done : done;
        status = lx_copy(&b->x, (unsigned char *)dst + done, dst, (size_t)n, err);
        done += n;
    }
    return status;
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 32);
}

static lx_status fill_all(bench *b, const sizes *s, lx_err *err)
{
    unsigned char *block = malloc(BLOCK);
    uint64_t state = 1;
    if (!block)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    for (size_t i = 0; i < BLOCK; i++)
        block[i] = (unsigned char)(int8_t)((int)(next_random(&state) % 255) - 127);
    lx_status status = fill(b, b->codes_in, s->m * s->k, block, err);
    if (status == LX_OK)
        status = fill(b, b->codes_w, s->nk, block, err);
    float *numbers = (float *)(void *)block; /* malloc's: aligned */
    for (size_t i = 0; i < BLOCK / sizeof *numbers; i++)
        numbers[i] = SCALE_ONE * (0.5f + (float)(next_random(&state) >> 8) * 0x1p-24f);
    if (status == LX_OK)
        status = fill(b, b->scale_in, s->m * 4, block, err);
    if (status == LX_OK)
        status = fill(b, b->scale_w, s->n * 4, block, err);
    if (status == LX_OK)
        status = fill(b, b->gate, s->n * 4, block, err);
    if (status == LX_OK)
        status = lx_zero(&b->x, b->bias, (size_t)s->n * 2, err);
    if (status == LX_OK)
        status = lx_zero(&b->x, b->rows, (size_t)s->rows_out, err);
    free(block);
    return status;
}

/* --- one linear ------------------------------------------------------------------------------ */

/* As stages/dit asks for it. */
static lx_status call(lx_exec *x, void *self, lx_err *err)
{
    const bench *b = self;
    const tune_linear *l = &b->linear;
    const lx_weight w = {"w", LX_DTYPE_I8, {2, {l->n, l->k}}, b->codes_w, b->scale_w};
    const lx_weight bias = {"bias", LX_DTYPE_BF16, {1, {l->n}}, b->bias, NULL};
    const lx_act in = {LX_DTYPE_I8, b->m, l->k, b->codes_in, b->scale_in};
    lx_epilogue e = {.bias = &bias};
    if (l->end == LX_TUNE_CODES) {
        lx_act out = {LX_DTYPE_I8, b->m, l->n, b->codes_out, b->scale_out};
        e.activation = LX_ACTIVATION_GELU;
        return lx_linear_to_act(x, &in, &w, &e, &out, err);
    }
    lx_mat out = {x->rows, b->m, l->n, l->n, b->rows};
    if (l->end == LX_TUNE_RESIDUAL) {
        out.dtype = LX_DTYPE_F32;
        e.gate = b->gate;
        e.add_to_out = true;
    } else {
        e.square = b->square;
    }
    return lx_linear(x, &in, &w, &e, &out, err);
}

static lx_status force(bench *b, const tune_way *way, lx_err *err)
{
    lx_tune_table *one = calloc(1, sizeof *one);
    if (!one)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    const tune_linear *l = &b->linear;
    one->n = 1;
    one->entry[0] = (lx_tune_entry){.n = l->n, .k = l->k, .rows = b->m, .end = l->end};
    one->entry[0].design = way->design;
    one->entry[0].band = way->band;
    lx_status status = lx_cuda_tune_use(b->cuda, one, err);
    free(one);
    return status;
}

static lx_status time_way(bench *b, tune_way *way, int calls, double *s, lx_err *err)
{
    lx_status status = force(b, way, err);
    if (status == LX_OK && lx_interrupted())
        status = lx_fail(err, LX_ECANCEL, "interrupted");
    if (status == LX_OK)
        status = lx_cuda_time(&b->x, call, b, calls, s, err);
    return status == LX_OK ? status : lx_wrap(err, "%s", lx_tune_design_name(way->design));
}

static lx_status time_ways(bench *b, tune_way *ways, int n, int repeats, lx_err *err)
{
    int calls[TUNE_WAYS];
    lx_status status = LX_OK;
    for (int i = 0; i < n && status == LX_OK; i++) {
        double s = 0;
        status = time_way(b, &ways[i], 1, &s, err);
        calls[i] = s * CALLS < SPAN_S ? CALLS : s < SPAN_S ? (int)(SPAN_S / s) : 1;
    }
    for (int r = 0; r < repeats && status == LX_OK; r++)
        for (int i = 0; i < n && status == LX_OK; i++) {
            tune_way *way = &ways[(i + r) % n]; /* each comes after each other one in turn */
            double s = 0;
            status = time_way(b, way, calls[(i + r) % n], &s, err);
            way->ms[way->n++] = 1e3 * s;
        }
    return status;
}

static void print_way(const bench *b, const tune_way *way, bool is_chosen)
{
    const tune_linear *l = &b->linear;
    double tera = 2e-12 * (double)b->m * (double)l->n * (double)l->k, s = way->median / 1e3;
    char band[32] = "";
    if (way->band)
        snprintf(band, sizeof band, "band %" PRId64, way->band);
    printf("  %c %-18s %-10s %9.4f ms %8.1f T/s %6.1f %% of mma.sync\n", is_chosen ? '*' : ' ',
           lx_tune_design_name(way->design), band, way->median, tera / s,
           1e14 * tera / s / b->rate);
}

static lx_status measure(bench *b, const tune_options *o, const tune_linear *l, int64_t rows,
                         lx_tune_entry *out, lx_err *err)
{
    tune_way *ways = calloc(TUNE_WAYS, sizeof *ways);
    if (!ways)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    int n = tune_ways(lx_cuda_card(b->cuda), l, rows, ways);
    b->linear = *l;
    b->m = rows;
    lx_status status = time_ways(b, ways, n, o->repeats, err);
    if (status == LX_OK) {
        int best = tune_choose(ways, n);
        if (!o->is_quiet)
            printf("%5" PRId64 " -> %5" PRId64 "  %-8s  %6" PRId64 " rows\n", l->k, l->n,
                   lx_tune_end_name(l->end), rows);
        for (int i = 0; i < n && !o->is_quiet; i++)
            print_way(b, &ways[i], i == best);
        *out = (lx_tune_entry){.n = l->n, .k = l->k, .rows = rows, .end = l->end};
        out->design = ways[best].design;
        out->band = ways[best].band;
        out->ms = ways[best].median;
    }
    free(ways);
    return status;
}

/* --- all ------------------------------------------------------------------------------------- */

/* What the linears take beside their operands, by a plan for this card. */
static lx_status plan_scratch(const lx_card_kind *card, const tune_linear *linears, const sizes *s,
                              size_t *bytes, lx_err *err)
{
    bench dry = {.m = (int64_t)s->m};
    lx_status status = lx_arena_create_dry(&dry.arena, err);
    if (status == LX_OK)
        status = lx_arena_create_dry(&dry.host, err);
    if (status == LX_OK)
        status = lx_exec_plan_cuda(&dry.x, card, dry.arena, dry.host, err);
    if (status == LX_OK)
        status = take_all(&dry, s, err);
    for (int i = 0; i < TUNE_LINEARS && status == LX_OK; i++) {
        dry.linear = linears[i];
        status = call(&dry.x, &dry, err);
    }
    *bytes = status == LX_OK ? lx_arena_peak(dry.arena) : 0;
    lx_exec_plan_done(&dry.x);
    lx_arena_destroy(&dry.arena);
    lx_arena_destroy(&dry.host);
    return status;
}

static lx_status open_bench(bench *b, const tune_linear *linears, const sizes *s, lx_err *err)
{
    size_t bytes = 0;
    lx_status status = plan_scratch(lx_cuda_card(b->cuda), linears, s, &bytes, err);
    if (status == LX_OK)
        status = lx_cuda_arena(b->cuda, bytes, &b->arena, err);
    if (status == LX_OK)
        status = lx_arena_create(&b->host, BLOCK, err);
    if (status == LX_OK)
        status = lx_exec_open_cuda(&b->x, b->cuda, b->arena, b->host, err);
    if (status == LX_OK)
        status = take_all(b, s, err);
    return status == LX_OK ? fill_all(b, s, err) : status;
}

static lx_status warm(bench *b, lx_err *err)
{
    lx_status status = LX_OK;
    for (double from = lx_now_s(); lx_now_s() - from < WARM_S && status == LX_OK;)
        status = lx_cuda_int8_rate(&b->x, &b->rate, err);
    return status;
}

static lx_status measure_all(bench *b, const tune_options *o, const tune_linear *linears,
                             lx_tune_table *out, lx_err *err)
{
    double again = 0;
    lx_status status = warm(b, err);
    if (status == LX_OK && !o->is_quiet)
        printf("mma.sync m16n8k32 alone: %.1f T operations/s\n", 1e-12 * b->rate);
    for (int i = 0; i < TUNE_LINEARS; i++)
        for (int r = 0; r < o->n_rows && status == LX_OK; r++)
            if (!tune_has(out, &linears[i], o->rows[r]))
                status = measure(b, o, &linears[i], o->rows[r], &out->entry[out->n++], err);
    if (status == LX_OK)
        status = lx_cuda_int8_rate(&b->x, &again, err);
    if (status == LX_OK && !o->is_quiet)
        printf("mma.sync m16n8k32 alone, again: %.1f T operations/s\n", 1e-12 * again);
    return status;
}

lx_status tune_measure(lx_cuda *cuda, const tune_options *o, lx_tune_table *out, lx_err *err)
{
    bench b = {.cuda = cuda};
    tune_linear linears[TUNE_LINEARS];
    int64_t rows = 0;
    out->n = 0;
    tune_linears(o->width, o->hidden, linears);
    for (int i = 0; i < o->n_rows; i++)
        rows = o->rows[i] > rows ? o->rows[i] : rows;
    sizes s = sizes_of(linears, rows);
    lx_status status = open_bench(&b, linears, &s, err);
    if (status == LX_OK)
        status = measure_all(&b, o, linears, out, err);
    lx_arena_destroy(&b.arena);
    lx_arena_destroy(&b.host);
    return status;
}
