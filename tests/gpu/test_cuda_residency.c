/*
 * test_cuda_residency.c - layers come to a card whole, from memory and from disk, and how fast
 * SPDX-License-Identifier: Apache-2.0
 *
 * Usage     test_cuda_residency: the tests
 *           test_cuda_residency --bench [FOLDER [MiB]]: rates with 8 layers of so many MiB (350)
 *           that lie in FOLDER (/tmp): link alone, memory, disk, half of each, by size of the ring.
 *           FOLDER decides which disk is measured; 8 * MiB of space and of memory are taken.
 * Bytes     are taken back from the card after the layer's ready mark and compared with the file's.
 */
#include "gpu.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_process.h"
#include "lx_residency.h"

enum { LAYERS = 8, WEIGHTS = 3 };

typedef struct model {
    char dir[512], path[600];
    lx_weights *in_memory, *weights;
    lx_weight expected[LAYERS * WEIGHTS], listed[LAYERS * WEIGHTS];
    lx_extent extents[LAYERS * WEIGHTS];
    lx_layers layers;
    uint64_t layer_bytes;
} model;

/* Rows of 4000 bytes with a scale each, a bias, and a small rest that ends nowhere near a page. */
static const struct {
    const char *name;
    lx_dtype dtype;
    int64_t cols;
} kind[WEIGHTS] = {
    {"q.weight", LX_DTYPE_I8, 4000}, {"bias", LX_DTYPE_F32, 333}, {"f.weight", LX_DTYPE_I8, 1001}};

static int64_t rows_of(int k, int64_t layer_bytes)
{
    return k == 0   ? layer_bytes * 4 / 5 / kind[k].cols
           : k == 1 ? 1
                    : layer_bytes / 5 / kind[k].cols + 1;
}

static void write_model(const char *path, int64_t layer_bytes)
{
    static char names[LAYERS * 5][64];
    lx_named_tensor list[LAYERS * 5];
    size_t n = 0;
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < LAYERS; i++)
        for (int k = 0; k < WEIGHTS; k++) {
            const int64_t rows = rows_of(k, layer_bytes);
            const size_t bytes = (size_t)(rows * kind[k].cols) * lx_dtype_size(kind[k].dtype);
            unsigned char *data = gpu_malloc((int64_t)bytes + 8, 1);
            for (size_t b = 0; b < bytes; b += 8) {
                random ^= random << 13, random ^= random >> 7, random ^= random << 17;
                uint64_t value =
                    kind[k].dtype == LX_DTYPE_I8 ? random : random & 0x3f3f3f3f3f3f3f3f;
                memcpy(data + b, &value, 8);
            }
            snprintf(names[n], sizeof names[n], "blocks.%d.%s", i, kind[k].name);
            list[n] = (lx_named_tensor){
                names[n],
                {.dtype = kind[k].dtype, .shape = LX_SHAPE(rows, kind[k].cols), .data = data}};
            n++;
            if (kind[k].dtype != LX_DTYPE_I8)
                continue;
            float *scale = gpu_malloc(rows, sizeof *scale);
            for (int64_t s = 0; s < rows; s++)
                scale[s] = (float)(i + 1) + 0.001f * (float)(s % 997);
            snprintf(names[n], sizeof names[n], "blocks.%d.%s_scale", i, kind[k].name);
            list[n] = (lx_named_tensor){
                names[n], {.dtype = LX_DTYPE_F32, .shape = LX_SHAPE(rows, 1), .data = scale}};
            n++;
        }
    lx_err err = {0};
    gpu_must(lx_safetensors_write(path, list, n, &err), &err);
    for (size_t i = 0; i < n; i++)
        free(list[i].tensor.data);
}

/* self: a mask of layers. */
static bool on_disk(const char *name, uint64_t bytes, void *self)
{
    return (*(unsigned *)self >> (name[7] - '0') & 1) && bytes > 65536;
}

static void model_list(model *m, unsigned disk_layers)
{
    lx_err err = {0};
    lx_weights_options options = {.on_disk = on_disk, .self = &disk_layers};
    lx_weights_close(&m->weights);
    gpu_must(lx_weights_open(&m->weights, m->path, &options, &err), &err);
    memset(m->extents, 0, sizeof m->extents);
    for (int i = 0; i < LAYERS * WEIGHTS; i++) {
        char name[64];
        snprintf(name, sizeof name, "blocks.%d.%s", i / WEIGHTS, kind[i % WEIGHTS].name);
        if (!lx_weights_find(m->in_memory, name, &m->expected[i]) ||
            !lx_weights_find(m->weights, name, &m->listed[i]))
            exit(1);
        (void)lx_weights_extent(m->weights, name, &m->extents[i]);
    }
    m->layers = (lx_layers){m->listed, m->extents, LAYERS, WEIGHTS};
    m->layer_bytes = lx_residency_slot_bytes(&m->layers);
}

static void model_open(model *m, const char *folder, int64_t layer_bytes)
{
    lx_err err = {0};
    *m = (model){0};
    snprintf(m->dir, sizeof m->dir, "%.400s/lx2v-test-XXXXXX", folder);
    if (!mkdtemp(m->dir)) {
        printf("%s: no folder can be made there\n", folder);
        exit(1);
    }
    snprintf(m->path, sizeof m->path, "%s/m.safetensors", m->dir);
    write_model(m->path, layer_bytes);
    gpu_must(lx_weights_open(&m->in_memory, m->path, NULL, &err), &err);
}

static void model_close(model *m)
{
    lx_weights_close(&m->weights);
    lx_weights_close(&m->in_memory);
    unlink(m->path);
    rmdir(m->dir);
}

/* --- tests ------------------------------------------------------------------------------------ */

static gpu card;

static void check_bytes(const void *on_card, const void *expected, size_t bytes, const char *what)
{
    unsigned char *got = gpu_malloc((int64_t)bytes, 1);
    gpu_get(&card, got, on_card, bytes);
    const unsigned char *want = expected;
    for (size_t i = 0; i < bytes; i++)
        if (got[i] != want[i])
            fail_msg("%s: byte %zu of %zu is 0x%02x, not 0x%02x", what, i, bytes, got[i], want[i]);
    free(got);
}

static void check_layer(const lx_weight *found, const lx_weight *expected)
{
    for (int k = 0; k < WEIGHTS; k++) {
        uint64_t bytes;
        gpu_ok(lx_shape_bytes(&expected[k].shape, expected[k].dtype, NULL, &bytes, err));
        check_bytes(found[k].data, expected[k].data, (size_t)bytes, expected[k].name);
        if (expected[k].scale)
            check_bytes(found[k].scale, expected[k].scale, (size_t)expected[k].shape.dim[0] * 4,
                        expected[k].name);
    }
}

static void run_plan(model *m, const lx_residency_plan *plan, const int64_t *order, int n)
{
    lx_residency *r = NULL;
    const lx_weight *weights;
    size_t mark = lx_arena_mark(card.scratch);
    gpu_ok(lx_residency_open(&r, &card.x, &m->layers, plan, NULL, err));
    for (int i = 0; i < n; i++) {
        gpu_ok(lx_residency_enter(r, order[i], &weights, err));
        check_layer(weights, m->expected + order[i] * WEIGHTS);
        gpu_ok(lx_residency_leave(r, order[i], err));
    }
    lx_residency_close(&r);
    lx_arena_reset(card.scratch, mark);
}

static void test_bytes_arrive(void **state)
{
    (void)state;
    static const unsigned masks[] = {0, 0xff, 0x55, 0xf0};
    static const lx_residency_plan plans[] = {
        {.n_resident = 0, .n_slots = 2, .ring_bytes = 1},
        {.n_resident = 0, .n_slots = 4, .ring_bytes = 8 << 20, .first_event = LX_RESIDENCY_EVENTS},
        {.n_resident = 3, .n_slots = 2, .ring_bytes = 3 << 20},
        {.n_resident = LAYERS, .n_slots = 2, .ring_bytes = 3 << 20}};
    static const int64_t order[] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 0, 0, 7, 6, 5, 3, 4, 5, 6};
    model m;
    model_open(&m, "/tmp", 2500000);
    for (size_t k = 0; k < sizeof masks / sizeof *masks; k++) {
        model_list(&m, masks[k]);
        for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
            run_plan(&m, &plans[i], order, sizeof order / sizeof *order);
    }
    model_close(&m);
}

static void test_close_while_carrying(void **state)
{
    (void)state;
    model m;
    lx_residency_plan plan = {.n_slots = 2, .ring_bytes = 4 << 20};
    model_open(&m, "/tmp", 2500000);
    model_list(&m, 0xaa);
    for (int i = 0; i < 20; i++)
        run_plan(&m, &plan, (const int64_t[]){0, 1}, i % 3);
    model_close(&m);
}

/* --- rates ------------------------------------------------------------------------------------ */

/* Passes over all layers, no kernels: what the link, the host and the disk give. */
static void bench_plan(model *m, const char *what, uint64_t ring, int passes)
{
    lx_err err = {0};
    lx_residency *r = NULL;
    lx_residency_stats before, after;
    const lx_weight *weights;
    lx_residency_plan plan = {.n_slots = 2, .ring_bytes = ring};
    size_t mark = lx_arena_mark(card.scratch);
    double start_s = 0;
    gpu_must(lx_residency_open(&r, &card.x, &m->layers, &plan, NULL, &err), &err);
    for (int pass = -1; pass < passes; pass++) {
        if (pass == 0) { /* the first pass warms up */
            gpu_must(lx_exec_wait(&card.x, &err), &err);
            lx_residency_stats_of(r, &before);
            start_s = lx_now_s();
        }
        for (int64_t i = 0; i < LAYERS; i++) {
            gpu_must(lx_residency_enter(r, i, &weights, &err), &err);
            gpu_must(lx_residency_leave(r, i, &err), &err);
            gpu_must(lx_exec_pace(&card.x, &err), &err);
        }
    }
    gpu_must(lx_exec_wait(&card.x, &err), &err);
    double s = lx_now_s() - start_s, bytes = (double)m->layer_bytes * LAYERS * passes;
    lx_residency_stats_of(r, &after);
    printf("%-34s ring %5.0f MiB: %6.2f GB/s (%.1f ms a layer), memory %5.1f GB, disk %5.1f GB, "
           "read_s %.2f, link_s %.2f, waited_s %.2f of %.2f\n",
           what, (double)ring / 0x1p20, bytes / s / 1e9, 1e3 * s / LAYERS / passes,
           (double)(after.memory_bytes - before.memory_bytes) / 1e9,
           (double)(after.disk_bytes - before.disk_bytes) / 1e9, after.read_s - before.read_s,
           after.link_s - before.link_s, after.waited_s - before.waited_s, s);
    lx_residency_close(&r);
    lx_arena_reset(card.scratch, mark);
}

/* The roof: one pinned buffer again and again. */
static void bench_link(uint64_t bytes)
{
    lx_err err = {0};
    void *pinned = NULL, *target = NULL;
    const int n = 40;
    size_t mark = lx_arena_mark(card.scratch);
    gpu_must(lx_cuda_pin(card.cuda, bytes, &pinned, &err), &err);
    gpu_must(lx_arena_take(card.scratch, bytes, &target, &err), &err);
    memset(pinned, 1, bytes);
    double start_s = 0;
    for (int i = -4; i < n; i++) {
        if (i == 0) {
            gpu_must(lx_cuda_mark(card.cuda, 0, LX_CUDA_COPY, &err), &err);
            gpu_must(lx_cuda_reached(card.cuda, 0, &err), &err);
            start_s = lx_now_s();
        }
        gpu_must(lx_cuda_copy_in(card.cuda, target, pinned, bytes, &err), &err);
    }
    gpu_must(lx_cuda_mark(card.cuda, 0, LX_CUDA_COPY, &err), &err);
    gpu_must(lx_cuda_reached(card.cuda, 0, &err), &err);
    double s = lx_now_s() - start_s;
    printf("link alone, copies of %llu MiB: %.2f GB/s\n", (unsigned long long)(bytes >> 20),
           (double)bytes * n / s / 1e9);
    lx_cuda_unpin(card.cuda, pinned);
    lx_arena_reset(card.scratch, mark);
}

static void bench(const char *folder, int64_t layer_mib)
{
    static const struct {
        const char *what;
        unsigned mask;
    } mixes[] = {{"memory", 0}, {"disk", 0xff}, {"half memory, half disk", 0x55}};
    static const uint64_t rings[] = {64 << 20, 256 << 20, 1248u << 20};
    model m;
    printf("writing %d layers of %lld MiB to %s\n", LAYERS, (long long)layer_mib, folder);
    model_open(&m, folder, layer_mib << 20);
    model_list(&m, 0);
    gpu_open(&card, 1 << 20, (size_t)(3 * m.layer_bytes + ((uint64_t)256 << 20)));
    bench_link((uint64_t)64 << 20);
    for (size_t k = 0; k < sizeof mixes / sizeof *mixes; k++) {
        model_list(&m, mixes[k].mask);
        for (size_t i = 0; i < sizeof rings / sizeof *rings; i++)
            bench_plan(&m, mixes[k].what, rings[i], mixes[k].mask ? 2 : 5);
        for (int i = 0; i < LAYERS * WEIGHTS; i++)
            if (m.extents[i].disk) {
                printf("  reads of %s are %s\n", lx_disk_path(m.extents[i].disk),
                       lx_disk_is_direct(m.extents[i].disk) ? "direct" : "buffered");
                break;
            }
    }
    gpu_close(&card);
    model_close(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_arrive),
        cmocka_unit_test(test_close_while_carrying),
    };
    gpu_skip_without_card();
    if (gpu_wants_bench(argc, argv)) {
        bench(argc > 2 ? argv[2] : "/tmp", argc > 3 ? atoll(argv[3]) : 350);
        return 0;
    }
    gpu_open(&card, 1 << 20, 128 << 20);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu_close(&card);
    return failed;
}
