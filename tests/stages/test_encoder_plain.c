/*
 * test_encoder_plain.c - other dimensions and long prompts, against the formulas in plain f64
 * SPDX-License-Identifier: Apache-2.0
 *
 * The goldens have 37 tokens of one small model; here the far position buckets, one token, and
 * widths that are no multiple of anything are met too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "encoder.h"
#include "encoder_helpers.h"

#define FILE_NAME LX2V_BUILD_DIR "/test_encoder_plain.safetensors"
#define LAYERS    2
#define PARTS     10
#define MOST      520

typedef struct dims {
    int64_t vocab, dim, attn, ffn, heads;
} dims;

typedef struct plain { /* one model: its tensors, f32 and as written */
    dims d;
    lx_named_tensor tensor[2 + LAYERS * PARTS];
    char name[2 + LAYERS * PARTS][64];
    int n;
} plain;

static uint64_t seed = 1;

static double uniform(void) /* -1..1 */
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) * 0x1p-52 - 1;
}

/* n_dims 1: [rows]; values around `centre`, as far as `spread`. */
static void add(plain *m, const char *name, int64_t rows, int64_t cols, double centre,
                double spread)
{
    uint64_t n = (uint64_t)rows * (uint64_t)(cols ? cols : 1);
    float *data = malloc(n * sizeof *data);
    for (uint64_t i = 0; i < n; i++)
        data[i] = (float)(centre + spread * uniform());
    snprintf(m->name[m->n], sizeof m->name[0], "%s", name);
    lx_shape shape = cols ? LX_SHAPE(rows, cols) : LX_SHAPE(rows);
    m->tensor[m->n] = (lx_named_tensor){
        .name = m->name[m->n], .tensor = {.dtype = LX_DTYPE_F32, .shape = shape, .data = data}};
    m->n++;
}

static const float *part(const plain *m, int layer, int k)
{
    return m->tensor[2 + layer * PARTS + k].tensor.data;
}

enum { NORM1, Q, K, V, O, BIAS, NORM2, GATE, FC1, FC2 };

static plain *make(dims d)
{
    plain *m = calloc(1, sizeof *m);
    m->d = d;
    add(m, "token_embedding.weight", d.vocab, d.dim, 0, 1);
    add(m, "norm.weight", d.dim, 0, 1, 0.2);
    const struct {
        const char *name;
        int64_t rows, cols;
        double centre, spread;
    } parts[PARTS] = {
        [NORM1] = {"norm1", d.dim, 0, 1, 0.2},
        [Q] = {"attn.q", d.attn, d.dim, 0, 0.15},
        [K] = {"attn.k", d.attn, d.dim, 0, 0.15},
        [V] = {"attn.v", d.attn, d.dim, 0, 0.2},
        [O] = {"attn.o", d.dim, d.attn, 0, 0.2},
        [BIAS] = {"pos_embedding.embedding", 32, d.heads, 0, 3},
        [NORM2] = {"norm2", d.dim, 0, 1, 0.2},
        [GATE] = {"ffn.gate.0", d.ffn, d.dim, 0, 0.2},
        [FC1] = {"ffn.fc1", d.ffn, d.dim, 0, 0.2},
        [FC2] = {"ffn.fc2", d.dim, d.ffn, 0, 0.2},
    };
    for (int layer = 0; layer < LAYERS; layer++)
        for (int k = 0; k < PARTS; k++) {
            char name[64];
            snprintf(name, sizeof name, "blocks.%d.%s.weight", layer, parts[k].name);
            add(m, name, parts[k].rows, parts[k].cols, parts[k].centre, parts[k].spread);
        }
    return m;
}

static void discard(plain *m)
{
    for (int i = 0; i < m->n; i++)
        free(m->tensor[i].tensor.data);
    free(m);
}

/* --- the formulas of Wan2.1's t5.py ----------------------------------------------------------- */

static void rms(const double *x, const float *gain, int64_t n, int64_t dim, double *out)
{
    for (int64_t i = 0; i < n; i++) {
        double squares = 0;
        for (int64_t c = 0; c < dim; c++)
            squares += x[i * dim + c] * x[i * dim + c];
        for (int64_t c = 0; c < dim; c++)
            out[i * dim + c] =
                (double)gain[c] * x[i * dim + c] / sqrt(squares / (double)dim + 1e-6);
    }
}

/* out [n, rows] += x [n, cols] w^T */
static void product(const double *x, const float *w, int64_t n, int64_t rows, int64_t cols,
                    double *out)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t c = 0; c < cols; c++)
                sum += x[i * cols + c] * (double)w[r * cols + c];
            out[i * rows + r] += sum;
        }
}

static int64_t bucket(int64_t r)
{
    int64_t d = llabs(r), base = r > 0 ? 16 : 0;
    if (d < 8)
        return base + d;
    static const int64_t first[] = {12, 16, 23, 32, 46, 64, 91};
    int64_t b = 8;
    for (int k = 0; k < 7; k++)
        b += d >= first[k];
    return base + b;
}

static void attend(const plain *m, const double *q, const double *k, const double *v,
                   const float *bias, int64_t n, double *out)
{
    const int64_t width = m->d.attn, heads = m->d.heads, size = width / heads;
    static double s[MOST];
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < n; i++) {
            double most = -INFINITY, sum = 0;
            for (int64_t j = 0; j < n; j++) {
                s[j] = (double)bias[bucket(j - i) * heads + h];
                for (int64_t c = h * size; c < (h + 1) * size; c++)
                    s[j] += q[i * width + c] * k[j * width + c];
                most = fmax(most, s[j]);
            }
            for (int64_t j = 0; j < n; j++)
                sum += s[j] = exp(s[j] - most);
            for (int64_t j = 0; j < n; j++)
                for (int64_t c = h * size; c < (h + 1) * size; c++)
                    out[i * width + c] += s[j] / sum * v[j * width + c];
        }
}

static double gelu(double u)
{
    return 0.5 * u * (1 + tanh(0.7978845608028654 * (u + 0.044715 * u * u * u)));
}

static void forward(const plain *m, const int32_t *ids, int64_t n, float *context)
{
    const dims d = m->d;
    const size_t most = (size_t)n * (size_t)(d.attn + d.ffn + d.dim);
    double *x = calloc(most, sizeof *x), *h = calloc(most, sizeof *h), *t[4];
    for (int64_t i = 0; i < n * d.dim; i++)
        x[i] = (double)((float *)m->tensor[0].tensor.data)[ids[i / d.dim] * d.dim + i % d.dim];
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int k = 0; k < 4; k++)
            t[k] = calloc(most, sizeof *t[k]);
        rms(x, part(m, layer, NORM1), n, d.dim, h);
        for (int k = 0; k < 3; k++)
            product(h, part(m, layer, Q + k), n, d.attn, d.dim, t[k]);
        attend(m, t[0], t[1], t[2], part(m, layer, BIAS), n, t[3]);
        product(t[3], part(m, layer, O), n, d.dim, d.attn, x);
        for (int k = 0; k < 2; k++)
            memset(t[k], 0, most * sizeof *t[k]);
        rms(x, part(m, layer, NORM2), n, d.dim, h);
        product(h, part(m, layer, GATE), n, d.ffn, d.dim, t[0]);
        product(h, part(m, layer, FC1), n, d.ffn, d.dim, t[1]);
        for (int64_t i = 0; i < n * d.ffn; i++)
            t[1][i] *= gelu(t[0][i]);
        product(t[1], part(m, layer, FC2), n, d.dim, d.ffn, x);
        for (int k = 0; k < 4; k++)
            free(t[k]);
    }
    rms(x, m->tensor[1].tensor.data, n, d.dim, h);
    for (int64_t i = 0; i < n * d.dim; i++)
        context[i] = (float)h[i];
    free(x);
    free(h);
}

/* --- comparison ------------------------------------------------------------------------------- */

static void compare(dims d, const int64_t *lengths, size_t n_lengths)
{
    plain *m = make(d);
    encoder *e = NULL;
    lx_err err = {0};
    int32_t ids[MOST];
    for (int i = 0; i < MOST; i++)
        ids[i] = (int32_t)((i * 7 + 3) % d.vocab);
    if (lx_safetensors_write(FILE_NAME, m->tensor, (size_t)m->n, &err) != LX_OK)
        fail_msg("%s", err.message);
    encoder_options options = {.weights = FILE_NAME, .n_threads = 2, .max_tokens = MOST};
    if (encoder_open(&e, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    unlink(FILE_NAME);
    for (size_t i = 0; i < n_lengths; i++) {
        const int64_t n = lengths[i];
        const size_t values = (size_t)(n * d.dim);
        float *expected = malloc(values * sizeof *expected);
        encoder_context context;
        forward(m, ids, n, expected);
        if (encoder_encode(e, ids, n, &context, &err) != LX_OK)
            fail_msg("%s", err.message);
        double distance = relative_l2(context.rows, expected, values);
        print_message("dim %d, %d tokens: %.2g\n", (int)d.dim, (int)n, distance);
        assert_true(distance <= 1e-5);
        free(expected);
    }
    encoder_close(&e);
    discard(m);
}

static void test_long_prompts(void **state)
{
    (void)state;
    compare((dims){.vocab = 300, .dim = 32, .attn = 32, .ffn = 48, .heads = 2},
            (const int64_t[]){1, 2, 93, 512, 520}, 5);
}

static void test_odd_dimensions(void **state)
{
    (void)state;
    compare((dims){.vocab = 77, .dim = 48, .attn = 96, .ffn = 80, .heads = 3},
            (const int64_t[]){1, 9, 200}, 3);
    compare((dims){.vocab = 41, .dim = 37, .attn = 55, .ffn = 23, .heads = 5},
            (const int64_t[]){3, 100}, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_prompts),
        cmocka_unit_test(test_odd_dimensions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
