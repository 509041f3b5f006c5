/*
 * linear_plan.c - linears on a card: which product, in which bands, with what scratch
 * SPDX-License-Identifier: Apache-2.0
 *
 * Plan      The output is cut into bands of rows so that a band's sums stay in the second-level
 *           cache between the product and the kernel that finishes them. The cut
 *           follows from the card and N alone: a plan needs no card, fewer rows never need more.
 * INT8      With 256 rows and more, sides of multiples of 16 and no factors the sums never leave
 *           the registers: one kernel writes what is wanted. Codes as output need a row's maximum
 *           first: the kernel of a band writes f32 (F16 where LX_CU_INT8_HALF) and maxima, the next
 *           band's kernel makes them codes meanwhile, so there are two bands.
 * FP8, BF16 On Hopper the same kernels serve FP8 of such shapes (fp8_*.cu, has_own_fp8), and
 *           BF16 of 2,048 rows and more, n a multiple of 64, no activation (bf16_wgmma.cu,
 *           has_own_bf16); cuBLASLt serves all else.
 * Weights   I8, BF16 and (8.9 and later) FP8 with a scale are multiplied as they are. Every other
 *           float type is first rounded to BF16, a band of output columns at a time.
 * F32 rows  Up to LX_CU_FEW_ROWS (the time path), and rows of at most LX_CU_SHORT_ROW columns (the
 *           patches), are multiplied in f32: there the work is nothing, and what follows is
 *           quantized, where a small error becomes another code. All else is rounded to BF16.
 * Table     Which kernel, in which bands: a table measured on this card (lx_tune.h) says so
 *           in place of the rule here, within the scratch that the rule's choice takes.
 */
#include "linear_plan.h"

#include "cu_tune.h"

#define SUM_BYTES     ((int64_t)40 << 20) /* of one band: an H100 has 50 MiB of cache */
#define CODE_ROWS     512 /* of a band that becomes codes, so that weights are shared, */
#define CODE_WAVES    9   /* or more rows: so many tiles for each multiprocessor, or for two */
#define WEIGHT_BYTES  ((int64_t)32 << 20) /* of one band of widened weights */
#define ROWS_MOST     16384               /* of a band, where N is small */
#define TILE_M        128                 /* what cuBLASLt gives one multiprocessor at a time, */
#define TILE_N        256                 /* as a rule */
#define PAIR_M        256                 /* rows of two multiprocessors: wgmma */
#define CODE_M        192                 /* rows of a tile that becomes codes: mma.sync */
#define INT8_ROWS     256                 /* below, cuBLASLt cuts K as well */
#define INT8_COLS     ((int64_t)1 << 20)  /* above, a tile's rows of codes are too long to count */
#define OWN_K         ((int64_t)1 << 17)  /* of our own kernels: as INT8's sums may have */
#define BF16_ROWS     2048                /* below, cuBLASLt is quicker */
#define BLAS_BYTES_90 ((size_t)32 << 20)  /* workspace: cuBLAS's own default for Hopper and later */
#define BLAS_BYTES    ((size_t)8 << 20)   /* and before */

/* --- bands ----------------------------------------------------------------------------------- */

static int64_t round_up(int64_t a, int64_t unit)
{
    return (a + unit - 1) / unit * unit;
}

/* Rows of a band: of the sizes that fit the cache, the one that leaves the fewest multiprocessors
 * idle in the product's last wave; the larger of two that are alike. */
static int64_t rows_of_tiles(int64_t tile_m, int64_t at_once, int64_t n, int64_t bytes,
                             int64_t bytes_per_row)
{
    int64_t most = bytes / bytes_per_row / tile_m;
    most = most > ROWS_MOST / tile_m ? ROWS_MOST / tile_m : most < 1 ? 1 : most;
    int64_t best = most;
    double best_share = 0;
    for (int64_t i = (most + 1) / 2; i <= most; i++) {
        int64_t tiles = i * ((n + TILE_N - 1) / TILE_N);
        double share = (double)tiles / (double)round_up(tiles, at_once);
        if (share >= best_share) {
            best = i;
            best_share = share;
        }
    }
    return best * tile_m;
}

static int64_t rows_of_band(const lx_card_kind *card, int64_t n, int64_t bytes,
                            int64_t bytes_per_row)
{
    int64_t n_sm = card->n_sm > 0 ? card->n_sm : 1;
    return rows_of_tiles(TILE_M, n_sm, n, bytes, bytes_per_row);
}

/* Columns of a band: all, or an even share of the widened weight. */
static int64_t cols_of_band(const linear_job *j)
{
    int64_t bytes = 2 * j->k, parts = (j->n * bytes + WEIGHT_BYTES - 1) / WEIGHT_BYTES;
    if (j->kind != LINEAR_BF16 || j->w->dtype == LX_DTYPE_BF16 || parts <= 1)
        return j->n;
    int64_t cols = round_up((j->n + parts - 1) / parts, TILE_M);
    return cols < j->n ? cols : j->n;
}

static bool is_16_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* Checkpoints have no others beside codes; tiles of 192 x 256 read no others. */
static bool has_plain_bias(const linear_job *j)
{
    const lx_weight *bias = j->e->bias;
    return !bias || bias->dtype == LX_DTYPE_F32 || bias->dtype == LX_DTYPE_BF16 ||
           bias->dtype == LX_DTYPE_F16;
}

/* Follows from the operands' shapes; that they are aligned is the arena's promise. */
static bool is_int8(const linear_job *j)
{
    bool is_even =
        j->n % 16 == 0 && j->k % 16 == 0 && is_16_aligned(j->in->data) && is_16_aligned(j->w->data);
    return j->in->dtype == LX_DTYPE_I8 && j->out.dtype != LX_CU_F8_E4M3 && j->m >= INT8_ROWS &&
           j->n <= INT8_COLS && is_even && !j->e->mul && j->e->activation != LX_ACTIVATION_SILU &&
           has_plain_bias(j);
}

/* FP8 and BF16: all by 16 bytes, the output as the copy engine (and mma.sync) can write it.
 * unit: of columns. */
static bool is_in_units(const linear_job *j, int64_t unit)
{
    return j->n % unit == 0 && j->k % 16 == 0 && j->k <= OWN_K && is_16_aligned(j->in->data) &&
           is_16_aligned(j->w->data) && is_16_aligned(j->out.data) && j->out.stride % 8 == 0;
}

/* FP8, as is_int8. */
static bool is_own_fp8(const linear_job *j)
{
    const lx_cuda *c = j->x->cuda;
    return c->has_own_fp8 && j->in->dtype == LX_DTYPE_F8_E4M3 && j->out.dtype != LX_CU_I8 &&
           j->m >= INT8_ROWS && j->n <= INT8_COLS &&
           is_in_units(j, lx_card_has_wgmma(&c->card) ? 64 : 16) && !j->e->mul &&
           j->e->activation != LX_ACTIVATION_SILU;
}

/* BF16 on both sides, likewise. GELU is quicker by cuBLASLt, which finishes it too, and so are
 * fewer rows; codes of BF16 no model asks for. */
static bool is_own_bf16(const linear_job *j)
{
    const lx_cuda *c = j->x->cuda;
    return c->has_own_bf16 && lx_card_has_wgmma(&c->card) && j->in->dtype == LX_DTYPE_BF16 &&
           j->w->dtype == LX_DTYPE_BF16 && !lx_dtype_is_code((lx_dtype)j->out.dtype) &&
           j->m >= BF16_ROWS && is_in_units(j, 64) && !j->e->mul &&
           j->e->activation == LX_ACTIVATION_NONE;
}

/* By block pairs of a Hopper card. */
static bool has_pairs(const linear_job *j)
{
    return lx_card_has_wgmma(&j->x->cuda->card) && j->n % 32 == 0;
}

/* By mma.sync the only tiles for F16 before codes, and for FP8. A Hopper's mma.sync takes 6 clocks:
 * there the making of codes is in its way, and has a kernel of its own. A GeForce's takes 16, and
 * its memory is slow: there codes are made beside the products. So elsewhere; only a Hopper was
 * measured. */
static int design_of_192(const linear_job *j)
{
    const lx_card_kind *card = &j->x->cuda->card;
    const int is = card->is_from ? card->is_from : 10 * card->major + card->minor;
    const bool is_apart = is / 10 == 9 && j->in->dtype == LX_DTYPE_I8;
    return is_apart ? LX_CU_MMA_192x256_APART : LX_CU_MMA_192x256;
}

/* The design for a shape, of those that this card has: the one whose waves of tiles take the least
 * time. Speeds of tiles as measured on one H200 held to 8.6, when the loop of 192 x 256 was the one
 * before: 128 x 256 0.77 to 0.82 of it (on one H100 0.74 to 0.77), 128 x 128 0.90 to 0.93 of
 * that. Taken for all cards. */
static int design_of(const linear_job *j)
{
    static const struct {
        int design, m, n, blocks; /* blocks: on one multiprocessor at a time */
        double speed;
    } mma[] = {{LX_CU_MMA_192x256, 192, 256, 1, 1.0},
               {LX_CU_MMA_128x256, 128, 256, 1, 0.80},
               {LX_CU_MMA_128x128, 128, 128, 2, 0.73}};
    const lx_cuda *c = j->x->cuda;
    int64_t n_sm = c->card.n_sm > 0 ? c->card.n_sm : 1;
    if (has_pairs(j))
        return LX_CU_WGMMA_128x256;
    if (j->whole_rows || j->in->dtype == LX_DTYPE_F8_E4M3)
        return design_of_192(j);
    int best = LX_CU_MMA_192x256;
    double least = 0;
    for (int i = 0; i < (int)(sizeof mma / sizeof *mma); i++) {
        int64_t tiles =
            ((j->band_m + mma[i].m - 1) / mma[i].m) * ((j->n + mma[i].n - 1) / mma[i].n);
        int64_t at_once = n_sm * mma[i].blocks;
        double time = (double)((tiles + at_once - 1) / at_once) * mma[i].m * mma[i].n *
                      mma[i].blocks / mma[i].speed;
        if (i == 0 || time < least) {
            best = mma[i].design;
            least = time;
        }
    }
    return best;
}

int lx_cuda_dtype_before_codes(const linear_job *j)
{
    return LX_CU_INT8_HALF(j->design, j->n) ? LX_CU_F16 : LX_CU_F32;
}

static int64_t bytes_before_codes(const linear_job *j)
{
    return (int64_t)lx_dtype_size((lx_dtype)lx_cuda_dtype_before_codes(j));
}

/* Rows of codes: bands of f32 or F16. Other outputs are written as they are, in one go. */
static void plan_own(linear_job *j)
{
    const lx_card_kind *card = &j->x->cuda->card;
    j->kind = LINEAR_OWN;
    j->whole_rows = lx_dtype_is_code((lx_dtype)j->out.dtype);
    j->band_n = j->n;
    j->band_m = j->m;
    j->design = design_of(j);
    int64_t size = bytes_before_codes(j), per_row = size * j->n;
    int64_t each = has_pairs(j) ? 2 : 1, tile_m = has_pairs(j) ? PAIR_M : CODE_M;
    int64_t at_once = card->n_sm > each ? card->n_sm / each : 1;
    int64_t waves = CODE_WAVES * at_once * size * tile_m * TILE_N, least = CODE_ROWS * per_row;
    int64_t rows = rows_of_tiles(tile_m, at_once, j->n, waves > least ? waves : least, per_row);
    if (j->whole_rows && rows < j->m)
        j->band_m = rows;
}

void lx_cuda_linear_plan(linear_job *j)
{
    if (is_int8(j) || is_own_fp8(j) || is_own_bf16(j)) {
        plan_own(j);
        return;
    }
    j->kind = LINEAR_BF16;
    if (lx_dtype_is_code(j->in->dtype))
        j->kind = LINEAR_CODES;
    else if (j->in->dtype == LX_DTYPE_F32 && j->m <= LX_CU_FEW_ROWS)
        j->kind = LINEAR_FEW;
    else if (j->in->dtype == LX_DTYPE_F32 && j->k <= LX_CU_SHORT_ROW)
        j->kind = LINEAR_SHORT;
    j->whole_rows = lx_dtype_is_code((lx_dtype)j->out.dtype);
    j->band_n = cols_of_band(j);
    bool is_rounded = j->kind == LINEAR_BF16 && j->in->dtype == LX_DTYPE_F32;
    int64_t cols = j->whole_rows ? j->n : j->band_n, per_row = 4 * cols;
    if (is_rounded && 2 * j->k > per_row)
        per_row = 2 * j->k;
    int64_t rows = rows_of_band(&j->x->cuda->card, j->band_n, SUM_BYTES, per_row);
    j->band_m = j->m < rows ? j->m : rows;
}

static size_t blas_bytes(const linear_job *j)
{
    return j->x->cuda->card.major >= 9 ? BLAS_BYTES_90 : BLAS_BYTES;
}

/* What fewer rows take at most, which go through cuBLASLt. */
static size_t bytes_of_fewer(const linear_job *j)
{
    int64_t rows = INT8_ROWS;
    if (j->in->dtype == LX_DTYPE_BF16) {
        int64_t band = rows_of_band(&j->x->cuda->card, j->n, SUM_BYTES, 4 * j->n);
        rows = band < BF16_ROWS ? band : BF16_ROWS;
    }
    return (size_t)(4 * rows * j->n) + blas_bytes(j);
}

/* At least what fewer rows take: a plan is made for the most rows. */
static lx_status take_own_scratch(linear_job *j)
{
    lx_arena *arena = j->x->arena;
    lx_status status = LX_OK;
    void *most = NULL;
    size_t band = (size_t)(j->band_m * j->n * bytes_before_codes(j));
    size_t taken = !j->whole_rows ? 0 : j->band_m < j->m ? 2 * band : band;
    size_t fewer = bytes_of_fewer(j);
    j->room = fewer > taken ? fewer : taken;
    if (j->whole_rows)
        status = lx_arena_take(arena, (size_t)j->m * sizeof *j->most, &most, j->err);
    if (status == LX_OK)
        status = lx_arena_take(arena, j->room, &j->acc, j->err);
    if (status == LX_OK && j->band_m < j->m) /* then bands are of whole tiles, so aligned */
        j->acc2 = (unsigned char *)j->acc + band;
    j->most = most;
    if (status == LX_OK && j->e->square) { /* parts of 64: the design may follow from m */
        uint64_t parts = (uint64_t)(j->n + LX_CU_INT8_PART(LX_CU_MMA_128x256) - 1) /
                         LX_CU_INT8_PART(LX_CU_MMA_128x256);
        status = lx_arena_take_f32(arena, parts * (uint64_t)j->m, &j->squares, j->err);
    }
    return status;
}

lx_status lx_cuda_linear_scratch(linear_job *j)
{
    if (j->kind == LINEAR_OWN)
        return take_own_scratch(j);
    lx_arena *arena = j->x->arena;
    int64_t cols = j->whole_rows ? j->n : j->band_n;
    bool is_bf16 = j->kind == LINEAR_BF16;
    lx_status status = lx_arena_take(arena, (size_t)(4 * j->band_m * cols), &j->acc, j->err);
    j->work_bytes = blas_bytes(j);
    if (status == LX_OK && (is_bf16 || j->kind == LINEAR_CODES))
        status = lx_arena_take(arena, j->work_bytes, &j->blas, j->err);
    if (status == LX_OK && is_bf16 && j->w->dtype != LX_DTYPE_BF16)
        status = lx_arena_take(arena, (size_t)(2 * j->band_n * j->k), &j->w_band, j->err);
    if (status == LX_OK && j->kind == LINEAR_SHORT && j->w->dtype != LX_DTYPE_F32)
        status = lx_arena_take(arena, (size_t)(4 * j->n * j->k), &j->w_band, j->err);
    if (status == LX_OK && is_bf16 && j->in->dtype == LX_DTYPE_F32)
        status = lx_arena_take(arena, (size_t)(2 * j->band_m * j->k), &j->x_band, j->err);
    return status;
}

/* --- what a table says ----------------------------------------------------------------------- */

static const lx_tune_entry *entry_of(const linear_job *j)
{
    const bool is_f32 = j->out.dtype == LX_CU_F32;
    lx_tune_end end = j->whole_rows ? LX_TUNE_CODES : is_f32 ? LX_TUNE_RESIDUAL : LX_TUNE_ROWS;
    lx_activation activation = j->whole_rows ? LX_ACTIVATION_GELU : LX_ACTIVATION_NONE;
    if (j->in->dtype != LX_DTYPE_I8 || j->e->activation != activation ||
        j->e->add_to_out != (end == LX_TUNE_RESIDUAL))
        return NULL; /* nothing that the model asks for, so nothing that was measured */
    return lx_tune_find(j->x->cuda->tune, j->n, j->k, j->m, end);
}

/* cuBLASLt, in bands of sums before a workspace of a quarter of the room. */
static void use_blas(linear_job *j)
{
    size_t quarter = j->room / 4 / 256 * 256;
    j->work_bytes = quarter < blas_bytes(j) ? quarter : blas_bytes(j);
    size_t sums = (j->room - j->work_bytes) / 256 * 256;
    int64_t rows = (int64_t)(sums / (size_t)(4 * j->n));
    rows = rows > TILE_M ? rows / TILE_M * TILE_M : rows;
    j->blas = (unsigned char *)j->acc + sums;
    j->kind = LINEAR_CODES;
    j->band_m = j->m < rows ? j->m : rows;
}

/* Rows that are not codes yet: one band that is all, or two that take turns. */
static void use_band(linear_job *j, int64_t wanted)
{
    const int64_t per_row = bytes_before_codes(j) * j->n, room = (int64_t)j->room;
    int64_t rows = wanted && wanted < j->band_m ? wanted : j->band_m;
    if (rows < j->m || per_row * j->m > room) {
        rows = rows < room / 2 / per_row ? rows : room / 2 / per_row;
        rows = rows > 16 ? rows / 16 * 16 : 16;
        j->acc2 = (unsigned char *)j->acc + rows * per_row;
    }
    j->band_m = rows;
}

void lx_cuda_linear_table(linear_job *j)
{
    bool is_int8_job = j->kind == LINEAR_OWN && j->in->dtype == LX_DTYPE_I8;
    const lx_tune_entry *e = is_int8_job ? entry_of(j) : NULL;
    if (!e || e->design == LX_TUNE_BUILT_IN || !lx_tune_can(&j->x->cuda->card, e->design, j->n))
        return;
    if (e->design == LX_TUNE_BLAS) {
        use_blas(j);
        return;
    }
    j->design = e->design;
    if (j->whole_rows)
        use_band(j, e->band);
}
