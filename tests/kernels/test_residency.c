/*
 * test_residency.c - layers come whole, in time and in any order, from memory and from disk
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "fake_card.h"

enum { LAYERS = 9, WEIGHTS = 5 };

/* Sizes that are no multiples of anything, one far larger than the smallest buffer (16 KiB). */
static const struct {
    const char *name;
    lx_dtype dtype;
    int64_t rows, cols;
} kind[WEIGHTS] = {{"q.weight", LX_DTYPE_I8, 37, 1501},
                   {"bias", LX_DTYPE_F32, 1, 77},
                   {"ffn.weight", LX_DTYPE_I8, 3, 5003},
                   {"norm", LX_DTYPE_BF16, 1, 3},
                   {"wide.weight", LX_DTYPE_BF16, 3, 9001}};

typedef struct model {
    char dir[64], path[128];
    lx_weights *in_memory, *weights; /* the second with tensors on disk */
    lx_weight expected[LAYERS * WEIGHTS], listed[LAYERS * WEIGHTS];
    lx_extent extents[LAYERS * WEIGHTS];
    lx_layers layers;
} model;

/* --- a checkpoint ----------------------------------------------------------------------------- */

/* The first weight's rows are as many times as many. */
static void write_checkpoint(const char *path, int64_t times)
{
    static char names[LAYERS * (WEIGHTS + 2)][64];
    lx_named_tensor list[LAYERS * (WEIGHTS + 2)];
    size_t n = 0;
    uint32_t random = 1;
    for (int i = 0; i < LAYERS; i++)
        for (int k = 0; k < WEIGHTS; k++) {
            const int64_t rows = k == 0 ? times * kind[k].rows : kind[k].rows;
            lx_shape shape = LX_SHAPE(rows, kind[k].cols);
            uint64_t bytes;
            assert_int_equal(lx_shape_bytes(&shape, kind[k].dtype, NULL, &bytes, NULL), LX_OK);
            unsigned char *data = malloc(bytes);
            assert_non_null(data);
            for (uint64_t b = 0; b < bytes; b++) {
                random = random * 1664525u + 1013904223u;
                data[b] = kind[k].dtype == LX_DTYPE_I8 ? (unsigned char)(random >> 24)
                                                       : (unsigned char)(random >> 24 & 0x3f);
            }
            snprintf(names[n], sizeof names[n], "blocks.%d.%s", i, kind[k].name);
            list[n] =
                (lx_named_tensor){names[n], {.dtype = kind[k].dtype, .shape = shape, .data = data}};
            n++;
            if (kind[k].dtype != LX_DTYPE_I8)
                continue;
            float *scale = malloc((size_t)rows * sizeof *scale);
            assert_non_null(scale);
            for (int64_t s = 0; s < rows; s++)
                scale[s] = (float)(i * 100 + k * 10) + 0.25f * (float)(s + 1);
            snprintf(names[n], sizeof names[n], "blocks.%d.%s_scale", i, kind[k].name);
            list[n] = (lx_named_tensor){
                names[n], {.dtype = LX_DTYPE_F32, .shape = LX_SHAPE(rows, 1), .data = scale}};
            n++;
        }
    lx_err err = {0};
    if (lx_safetensors_write(path, list, n, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < n; i++)
        free(list[i].tensor.data);
}

/* self: a mask of layers. The small ones stay in memory in odd layers. */
static bool on_disk(const char *name, uint64_t bytes, void *self)
{
    int layer = -1;
    assert_int_equal(sscanf(name, "blocks.%d.", &layer), 1);
    return (*(unsigned *)self >> layer & 1) && (bytes > 1000 || layer % 2 == 0);
}

/* Open the file, with tensors of those layers on disk. */
static void list_layers(model *m, unsigned disk_layers)
{
    lx_err err = {0};
    lx_weights_options options = {.on_disk = on_disk, .self = &disk_layers};
    if (lx_weights_open(&m->weights, m->path, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < LAYERS * WEIGHTS; i++) {
        char name[64];
        snprintf(name, sizeof name, "blocks.%d.%s", i / WEIGHTS, kind[i % WEIGHTS].name);
        assert_true(lx_weights_find(m->in_memory, name, &m->expected[i]));
        assert_true(lx_weights_find(m->weights, name, &m->listed[i]));
        bool is_there = lx_weights_extent(m->weights, name, &m->extents[i]);
        assert_int_equal(is_there, m->listed[i].data == NULL);
    }
    m->layers = (lx_layers){m->listed, m->extents, LAYERS, WEIGHTS};
}

static model *model_open_of(unsigned disk_layers, int64_t times)
{
    model *m = calloc(1, sizeof *m);
    lx_err err = {0};
    assert_non_null(m);
    snprintf(m->dir, sizeof m->dir, "/tmp/lx2v-test-XXXXXX");
    assert_non_null(mkdtemp(m->dir));
    snprintf(m->path, sizeof m->path, "%s/m.safetensors", m->dir);
    write_checkpoint(m->path, times);
    if (lx_weights_open(&m->in_memory, m->path, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    list_layers(m, disk_layers);
    return m;
}

static model *model_open(unsigned disk_layers)
{
    return model_open_of(disk_layers, 1);
}

static void model_close(model *m)
{
    lx_weights_close(&m->in_memory);
    lx_weights_close(&m->weights);
    unlink(m->path);
    rmdir(m->dir);
    free(m);
}

/* --- a residency on a card -------------------------------------------------------------------- */

typedef struct rig {
    fake_card *card;
    lx_arena *arena;
    lx_residency *r;
    model *m;
    lx_err err;
    uint64_t n_run; /* kernels queued */
} rig;

static lx_status rig_open(rig *g, model *m, const lx_residency_plan *plan, int delay_us,
                          const lx_progress *progress)
{
    *g = (rig){.card = fake_open(delay_us), .m = m};
    size_t bytes = LX_RESIDENCY_SLOTS * lx_residency_slot_bytes(&m->layers) +
                   lx_residency_total_bytes(&m->layers) + 65536;
    assert_int_equal(lx_arena_create(&g->arena, bytes, &g->err), LX_OK);
    lx_residency_device device = {&fake_ops, g->card, g->arena};
    return lx_residency_open_on(&g->r, &device, &m->layers, plan, progress, &g->err);
}

static void rig_must_open(rig *g, model *m, const lx_residency_plan *plan, int delay_us)
{
    if (rig_open(g, m, plan, delay_us, NULL) != LX_OK)
        fail_msg("%s", g->err.message);
}

static lx_status run_layer(rig *g, int64_t i)
{
    const lx_weight *weights;
    lx_status status = lx_residency_enter(g->r, i, &weights, &g->err);
    if (status != LX_OK)
        return status;
    fake_check(g->card, weights, g->m->expected + i * WEIGHTS, WEIGHTS);
    g->n_run++;
    return lx_residency_leave(g->r, i, &g->err);
}

/* Closes, and every kernel must have seen the right bytes. */
static void rig_close(rig *g)
{
    lx_residency_close(&g->r);
    fake_wait(g->card);
    if (g->card->n_wrong)
        fail_msg("%d weights were wrong, the last %s", (int)g->card->n_wrong, g->card->wrong);
    assert_int_equal(g->card->n_checked, g->n_run);
    fake_close(g->card);
    lx_arena_destroy(&g->arena);
}

static void run_passes(model *m, const lx_residency_plan *plan, int delay_us, int n_passes)
{
    rig g;
    lx_residency_stats stats;
    rig_must_open(&g, m, plan, delay_us);
    for (int pass = 0; pass < n_passes; pass++)
        for (int64_t i = 0; i < LAYERS; i++)
            if (run_layer(&g, i) != LX_OK)
                fail_msg("%s", g.err.message);
    lx_residency_stats_of(g.r, &stats);
    if (plan->n_resident < LAYERS)
        assert_true(stats.memory_bytes + stats.disk_bytes > 0);
    rig_close(&g);
}

/* --- tests ------------------------------------------------------------------------------------ */

static const unsigned mixes[] = {0, 0x1ff, 0x155, 0x1c0, 0x00f, 0x010};

static void test_bytes_arrive_from_everywhere(void **state)
{
    (void)state;
    static const lx_residency_plan plans[] = {
        {.n_resident = 0, .n_slots = 2, .ring_bytes = 1},
        {.n_resident = 3, .n_slots = 2, .ring_bytes = 700000},
        {.n_resident = 4, .n_slots = 4, .ring_bytes = 0},
        {.n_resident = 7, .n_slots = 2, .ring_bytes = 1, .first_event = 24},
        {.n_resident = 8, .n_slots = 3, .ring_bytes = 4000000},
        {.n_resident = 9, .n_slots = 2, .ring_bytes = 1},
    };
    for (size_t k = 0; k < sizeof mixes / sizeof *mixes; k++) {
        model *m = model_open(mixes[k]);
        for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
            run_passes(m, &plans[i], 0, 3);
        model_close(m);
    }
}

/* Runs of more than one piece (4 MiB), read by several threads at a time. */
static void test_large_weights(void **state)
{
    (void)state;
    model *m = model_open_of(0x0aa, 90); /* 5 MB */
    run_passes(m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = 100 << 20}, 0, 2);
    run_passes(m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = 10 << 20}, 0, 1);
    model_close(m);
}

/* A card that lags behind: nothing is overwritten before it was read. */
static void test_slow_card(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof mixes / sizeof *mixes; k++) {
        model *m = model_open(mixes[k]);
        run_passes(m, &(lx_residency_plan){.n_resident = 1, .n_slots = 2, .ring_bytes = 1}, 300, 2);
        run_passes(m, &(lx_residency_plan){.n_slots = 3, .ring_bytes = 900000}, 300, 2);
        model_close(m);
    }
}

/* Jobs that end early, single layers again and again, backwards, leaps. */
static void test_any_order(void **state)
{
    (void)state;
    static const int64_t order[] = {0, 1, 2, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0, 5,
                                    6, 7, 8, 0, 1, 4, 4, 8, 8, 0, 1, 2, 3, 4, 5, 6};
    const size_t n = sizeof order / sizeof *order;
    for (size_t k = 0; k < sizeof mixes / sizeof *mixes; k++) {
        model *m = model_open(mixes[k]);
        for (int slots = 2; slots <= 4; slots++) {
            lx_residency_plan plan = {
                .n_resident = slots - 2, .n_slots = slots, .ring_bytes = slots == 3 ? 2000000 : 1};
            rig g;
            rig_must_open(&g, m, &plan, slots == 2 ? 50 : 0);
            for (size_t i = 0; i < n; i++)
                if (run_layer(&g, order[i]) != LX_OK)
                    fail_msg("%s", g.err.message);
            rig_close(&g);
        }
        model_close(m);
    }
}

static void test_two_layers_may_be_in_use(void **state)
{
    (void)state;
    model *m = model_open(0x155);
    rig g;
    const lx_weight *a, *b, *c;
    rig_must_open(&g, m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = 1}, 0);
    assert_int_equal(lx_residency_enter(g.r, 3, &a, &g.err), LX_OK);
    assert_int_equal(lx_residency_enter(g.r, 4, &b, &g.err), LX_OK);
    assert_int_equal(lx_residency_enter(g.r, 5, &c, &g.err), LX_ESTAGE);
    fake_check(g.card, a, m->expected + 3 * WEIGHTS, WEIGHTS);
    fake_check(g.card, b, m->expected + 4 * WEIGHTS, WEIGHTS);
    g.n_run += 2;
    assert_int_equal(lx_residency_leave(g.r, 3, &g.err), LX_OK);
    assert_int_equal(lx_residency_leave(g.r, 3, &g.err), LX_ESTAGE);
    assert_int_equal(lx_residency_leave(g.r, 4, &g.err), LX_OK);
    assert_int_equal(run_layer(&g, 5), LX_OK);
    rig_close(&g);
    model_close(m);
}

/* The file is cut or written to while layers are read from it: the message names it. */
static void test_changed_file(void **state)
{
    (void)state;
    for (int cut = 0; cut < 2; cut++) {
        model *m = model_open(0x1ff);
        rig g;
        int64_t i = 0;
        rig_must_open(&g, m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = 1}, 0);
        assert_int_equal(run_layer(&g, 0), LX_OK);
        if (cut)
            assert_int_equal(truncate(m->path, 100000), 0);
        else
            assert_int_equal(
                utimensat(AT_FDCWD, m->path, (struct timespec[]){{.tv_sec = 9}, {.tv_sec = 9}}, 0),
                0);
        lx_status status = LX_OK;
        for (i = 1; i < 3 * LAYERS && status == LX_OK; i++)
            status = run_layer(&g, i % LAYERS);
        assert_int_equal(status, LX_ECONFIG);
        assert_non_null(strstr(g.err.message, m->path));
        memset(&g.err, 0, sizeof g.err);
        assert_int_equal(run_layer(&g, 1), LX_ECONFIG); /* and it stays so */
        assert_non_null(strstr(g.err.message, m->path));
        rig_close(&g);
        model_close(m);
    }
}

static void test_card_that_fails(void **state)
{
    (void)state;
    model *m = model_open(0x155);
    for (int n = 1; n < 200; n += 23) {
        rig g;
        rig_must_open(&g, m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = 1}, 0);
        pthread_mutex_lock(&g.card->lock);
        g.card->fail_copy = g.card->n_copies + n;
        pthread_mutex_unlock(&g.card->lock);
        lx_status status = LX_OK;
        for (int i = 0; i < 6 * LAYERS && status == LX_OK; i++)
            status = run_layer(&g, i % LAYERS);
        assert_int_equal(status, LX_ESTAGE);
        assert_non_null(strstr(g.err.message, "fell off"));
        rig_close(&g);
    }
    model_close(m);
}

static void test_close_at_any_moment(void **state)
{
    (void)state;
    model *m = model_open(0x155);
    for (int n = 0; n < 12; n++) {
        rig g;
        rig_must_open(&g, m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = n % 2 ? 1 : 3000000},
                      n * 40);
        for (int i = 0; i < n; i++)
            assert_int_equal(run_layer(&g, i % LAYERS), LX_OK);
        if (n > 2)
            nanosleep(&(struct timespec){.tv_nsec = n * 50000L}, NULL);
        rig_close(&g);
    }
    model_close(m);
}

/* A carrier that goes to sleep as it is told to end must hear it: it hung once in thousands. */
static void test_close_as_the_carrier_turns_to_sleep(void **state)
{
    (void)state;
    static const unsigned char bytes[64];
    lx_weight w[4];
    for (int i = 0; i < 4; i++)
        w[i] =
            (lx_weight){.name = "w", .dtype = LX_DTYPE_I8, .shape = LX_SHAPE(1, 64), .data = bytes};
    const lx_layers layers = {.weights = w, .n_layers = 4, .n_weights = 1};
    const lx_residency_plan plan = {.n_slots = 2, .ring_bytes = 1 << 16};
    fake_card *card = fake_open(0);
    for (int n = 0; n < 3000; n++) {
        lx_arena *arena = NULL;
        lx_residency *r = NULL;
        const lx_weight *found;
        assert_int_equal(lx_arena_create(&arena, 1 << 14, NULL), LX_OK);
        lx_residency_device device = {&fake_ops, card, arena};
        assert_int_equal(lx_residency_open_on(&r, &device, &layers, &plan, NULL, NULL), LX_OK);
        assert_int_equal(lx_residency_enter(r, 0, &found, NULL), LX_OK);
        assert_int_equal(lx_residency_leave(r, 0, NULL), LX_OK);
        for (volatile int k = n * 7919 % 20000; k > 0; k--)
            ;
        lx_residency_close(&r);
        lx_arena_destroy(&arena);
    }
    fake_close(card);
}

static lx_status count_steps(void *self, const char *unit, uint64_t done, uint64_t total,
                             lx_err *err)
{
    int *n = self;
    assert_string_equal(unit, "byte");
    assert_true(done <= total);
    return ++*n == 3 ? lx_fail(err, LX_ECANCEL, "told to stop") : LX_OK;
}

static void test_loading_hears_cancel(void **state)
{
    (void)state;
    model *m = model_open(0x00f);
    rig g;
    int n = 0;
    lx_progress progress = {count_steps, &n};
    lx_residency_plan plan = {.n_resident = 6, .n_slots = 2, .ring_bytes = 1};
    assert_int_equal(rig_open(&g, m, &plan, 0, &progress), LX_ECANCEL);
    assert_null(g.r);
    assert_int_equal(n, 3);
    rig_close(&g);
    model_close(m);
}

/* Write one element of a tensor on disk, and open the file again. Returns what was there. */
static uint16_t spoil(model *m, const char *name, int64_t element, uint16_t bits)
{
    lx_extent extent;
    uint16_t before;
    assert_true(lx_weights_extent(m->weights, name, &extent));
    const off_t at = (off_t)extent.offset + element * (off_t)sizeof bits;
    int fd = open(m->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &before, sizeof before, at), sizeof before);
    assert_int_equal(pwrite(fd, &bits, sizeof bits, at), sizeof bits);
    close(fd);
    lx_weights_close(&m->weights);
    list_layers(m, 0x1ff);
    return before;
}

/* Nobody looks at values on disk before they are wanted: then one that is no number is named. */
static void test_values_from_disk_are_looked_at(void **state)
{
    (void)state;
    enum { LAYER = 4, LAST = 3 * 9001 - 1 };
    static const char name[] = "blocks.4.wide.weight";
    static const uint16_t bits[] = {0x7fc0, 0x7f80, 0xff80}; /* BF16: NaN, both infinities */
    /* Around the ends of the smallest buffers, too. */
    static const int64_t elements[] = {0, 1, 6000, 8190, 8191, 8192, 8193, 16383, 16384, LAST};
    model *m = model_open(0x1ff);
    for (size_t i = 0; i < sizeof elements / sizeof *elements; i++)
        for (int resident = 0; resident <= LAYER + 1; resident += LAYER + 1) {
            const lx_residency_plan plan = {
                .n_resident = resident, .n_slots = 2, .ring_bytes = LX_RING_LEAST};
            char words[96];
            rig g;
            uint16_t before = spoil(m, name, elements[i], bits[i % 3]);
            lx_status status = rig_open(&g, m, &plan, 0, NULL);
            for (int64_t k = 0; k < LAYERS && status == LX_OK; k++) {
                status = run_layer(&g, k);
                assert_true(k <= LAYER);
            }
            assert_int_equal(status, LX_ECONFIG);
            snprintf(words, sizeof words, "%s: element %d is not finite", name, (int)elements[i]);
            if (!strstr(g.err.message, words) || !strstr(g.err.message, m->path))
                fail_msg("%s", g.err.message);
            rig_close(&g);
            (void)spoil(m, name, elements[i], before);
        }
    run_passes(m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = 1}, 0, 2);
    model_close(m);
}

static void test_pinned_memory_is_bounded(void **state)
{
    (void)state;
    const uint64_t ring = 2 << 20;
    for (size_t k = 0; k < sizeof mixes / sizeof *mixes; k++) {
        model *m = model_open(mixes[k]);
        rig g;
        rig_must_open(&g, m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = ring}, 0);
        assert_true(g.card->pinned_most > ring / 2 && g.card->pinned_most <= ring);
        rig_close(&g);
        rig_must_open(&g, m, &(lx_residency_plan){.n_slots = 2, .ring_bytes = LX_RING_LEAST}, 0);
        assert_true(g.card->pinned_most <= LX_RING_LEAST);
        rig_close(&g);
        lx_residency_plan plan = {.n_slots = 2, .ring_bytes = ring};
        g = (rig){.card = fake_open(0), .m = m};
        g.card->fail_pin = ring / 2;
        assert_int_equal(lx_arena_create(&g.arena, 4 << 20, &g.err), LX_OK);
        lx_residency_device device = {&fake_ops, g.card, g.arena};
        assert_int_equal(lx_residency_open_on(&g.r, &device, &m->layers, &plan, NULL, &g.err),
                         LX_EAGAIN);
        rig_close(&g);
        model_close(m);
    }
}

/* A dry run takes the same memory of the card and touches nothing, headers are enough for it. */
static void test_dry_run_is_the_plan(void **state)
{
    (void)state;
    model *m = model_open(0x155);
    for (int64_t n = 0; n <= LAYERS; n += 3) {
        rig g;
        lx_residency_plan plan = {.n_resident = n, .n_slots = 2, .ring_bytes = 1};
        lx_weight headers[LAYERS * WEIGHTS];
        memcpy(headers, m->listed, sizeof headers);
        for (int i = 0; i < LAYERS * WEIGHTS; i++)
            headers[i].data = NULL;
        lx_layers layers = {headers, NULL, LAYERS, WEIGHTS};
        lx_arena *arena = NULL;
        lx_residency *r = NULL;
        const lx_weight *weights;
        lx_err err = {0};
        assert_int_equal(lx_arena_create_dry(&arena, &err), LX_OK);
        lx_residency_device device = {&fake_ops, NULL, arena};
        assert_int_equal(lx_residency_open_on(&r, &device, &layers, &plan, NULL, &err), LX_OK);
        for (int64_t i = 0; i < LAYERS; i++) {
            assert_int_equal(lx_residency_enter(r, i, &weights, &err), LX_OK);
            assert_int_equal(lx_residency_leave(r, i, &err), LX_OK);
        }
        rig_must_open(&g, m, &plan, 0);
        assert_int_equal(lx_arena_peak(arena), lx_arena_peak(g.arena));
        rig_close(&g);
        lx_residency_close(&r);
        lx_arena_destroy(&arena);
    }
    model_close(m);
}

static void test_on_the_cpu_weights_are_used_where_they_are(void **state)
{
    (void)state;
    lx_arena *arena = NULL;
    lx_exec x;
    lx_err err = {0};
    lx_residency *r = NULL;
    const lx_weight *weights;
    lx_residency_plan plan = {0};
    assert_int_equal(lx_arena_create(&arena, 4096, &err), LX_OK);
    assert_int_equal(lx_exec_open_cpu(&x, arena, 1, &err), LX_OK);
    model *m = model_open(0);
    assert_int_equal(lx_residency_open(&r, &x, &m->layers, &plan, NULL, &err), LX_OK);
    assert_int_equal(lx_residency_enter(r, 4, &weights, &err), LX_OK);
    assert_ptr_equal(weights, m->listed + 4 * WEIGHTS);
    assert_int_equal(lx_residency_leave(r, 4, &err), LX_OK);
    lx_residency_close(&r);
    model_close(m);
    m = model_open(0x100);
    assert_int_equal(lx_residency_open(&r, &x, &m->layers, &plan, NULL, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "blocks.8."));
    model_close(m);
    lx_arena_destroy(&arena);
}

static void test_impossible_plans(void **state)
{
    (void)state;
    static const lx_residency_plan plans[] = {
        {.n_resident = -1, .n_slots = 2},  {.n_resident = LAYERS + 1, .n_slots = 2},
        {.n_resident = 2, .n_slots = 1},   {.n_resident = 2, .n_slots = 5},
        {.n_slots = 2, .first_event = -1}, {.n_slots = 2, .first_event = 60}};
    model *m = model_open(0);
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        rig g;
        assert_int_equal(rig_open(&g, m, &plans[i], 0, NULL), LX_EJOB);
        rig_close(&g);
    }
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_arrive_from_everywhere),
        cmocka_unit_test(test_large_weights),
        cmocka_unit_test(test_slow_card),
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_two_layers_may_be_in_use),
        cmocka_unit_test(test_changed_file),
        cmocka_unit_test(test_card_that_fails),
        cmocka_unit_test(test_close_at_any_moment),
        cmocka_unit_test(test_close_as_the_carrier_turns_to_sleep),
        cmocka_unit_test(test_loading_hears_cancel),
        cmocka_unit_test(test_values_from_disk_are_looked_at),
        cmocka_unit_test(test_pinned_memory_is_bounded),
        cmocka_unit_test(test_dry_run_is_the_plan),
        cmocka_unit_test(test_on_the_cpu_weights_are_used_where_they_are),
        cmocka_unit_test(test_impossible_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
