/*
 * test_encoder_card_plan.c - what the encoder would take of a card, planned without one
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "encoder.h"
#include "encoder_helpers.h"

static const lx_card_kind ampere = {.name = "a card of 12 GiB",
                                    .index = -1,
                                    .major = 8,
                                    .minor = 6,
                                    .n_sm = 28,
                                    .shared_bytes = 99 << 10,
                                    .total_bytes = (uint64_t)12 << 30};

typedef struct need {
    size_t device, host;
} need;

static need plan(const umt5 *model, const lx_card_kind *card, int64_t n, int64_t n_layers,
                 lx_run *run)
{
    lx_arena *device = NULL, *host = NULL;
    lx_exec x;
    lx_err err = {0};
    float *context = NULL;
    const encoder_options options = {.residency = LX_RESIDENCY_HOST};
    const encoder_memory all_travel = {0};
    umt5_request request = {.n = n, .n_layers = n_layers, .run = run};
    uint64_t values = (uint64_t)(n * umt5_dims(model)->dim);
    if (lx_arena_create_dry(&device, &err) != LX_OK || lx_arena_create_dry(&host, &err) != LX_OK ||
        lx_arena_take_f32(host, values, &context, &err) != LX_OK ||
        lx_exec_plan_cuda(&x, card, device, host, &err) != LX_OK ||
        encoder_open_layers(&request.layers, &x, model, &all_travel, &options, &err) != LX_OK)
        fail_msg("%s", err.message);
    size_t standing = lx_arena_mark(device);
    if (umt5_encode(model, &x, &request, context, &err) != LX_OK)
        fail_msg("%s", err.message);
    lx_residency_close(&request.layers);
    assert_true(x.is_dry && !lx_exec_is_host(&x));
    assert_int_equal(lx_arena_mark(device), standing);
    need out = {lx_arena_peak(device), lx_arena_peak(host)};
    lx_exec_plan_done(&x);
    lx_arena_destroy(&device);
    lx_arena_destroy(&host);
    return out;
}

static umt5 *open_model(const char *path)
{
    umt5 *model = NULL;
    lx_err err = {0};
    if (umt5_open(&model, path, NULL, &err) != LX_OK)
        fail_msg("%s", err.message);
    return model;
}

static void test_every_checkpoint_has_a_plan(void **state)
{
    (void)state;
    static const char *const weights[] = {T5("bf16"), T5("int8"), T5("fp8")};
    lx_card_kind ada = ampere, hopper = ampere;
    ada.minor = 9;
    hopper.major = 9;
    hopper.minor = 0;
    const lx_card_kind *const cards[] = {&ampere, &ada, &hopper};
    for (int w = 0; w < 3; w++)
        for (int c = 0; c < 3; c++) {
            umt5 *model = open_model(weights[w]);
            const int64_t row = umt5_dims(model)->dim * (int64_t)sizeof(float);
            need small = plan(model, cards[c], 1, 0, NULL);
            need large = plan(model, cards[c], 512, 0, NULL);
            print_message("%s on %d.%d: %.2f MiB, host %.2f MiB\n", weights[w] + sizeof GOLDEN,
                          cards[c]->major, cards[c]->minor, (double)large.device / 0x1p20,
                          (double)large.host / 0x1p20);
            /* The residual; the context and the rows of the table on their way. */
            assert_true(large.device >= small.device + (size_t)(511 * row));
            assert_true(large.host >= (size_t)(2 * 512 * row));
            umt5_close(&model);
        }
}

/* However many layers: weights of two are there at a time, and the table never is. */
static void test_weights_of_two_layers_at_a_time(void **state)
{
    (void)state;
    umt5 *model = open_model(T5("bf16"));
    need one = plan(model, &ampere, 64, 1, NULL), all = plan(model, &ampere, 64, 0, NULL);
    assert_true(umt5_dims(model)->n_layers > 1);
    assert_int_equal(one.device, all.device);
    assert_int_equal(one.host, all.host);
    umt5_close(&model);
}

/* Resident costs its layers and no ring; partial keeps to its bounds; disk takes as host does. */
static void test_residency_is_measured(void **state)
{
    (void)state;
    umt5 *model = open_model(T5("bf16"));
    const lx_layers layers = umt5_layers(model);
    encoder_options o = {.max_tokens = 16, .residency = LX_RESIDENCY_HOST};
    encoder_memory host, resident, disk, partial;
    lx_err err = {0};
    assert_int_equal(encoder_measure(model, &ampere, &o, &host, &err), LX_OK);
    o.residency = LX_RESIDENCY_DISK;
    assert_int_equal(encoder_measure(model, &ampere, &o, &disk, &err), LX_OK);
    assert_int_equal(encoder_measure(model, NULL, &o, &disk, &err), LX_ECONFIG);
    o.residency = LX_RESIDENCY_RESIDENT;
    assert_int_equal(encoder_measure(model, &ampere, &o, &resident, &err), LX_OK);
    assert_int_equal(host.n_resident, 0);
    assert_int_equal(host.weights, 0);
    assert_int_equal(host.slots, 2 * lx_residency_slot_bytes(&layers));
    assert_int_equal(disk.device, host.device);
    assert_true(disk.pinned > host.pinned && host.pinned > 0);
    assert_int_equal(resident.n_resident, layers.n_layers);
    assert_int_equal(resident.weights, lx_residency_total_bytes(&layers));
    assert_true(resident.slots == 0 && resident.pinned == 0);
    assert_int_equal(resident.device - resident.weights, host.device - host.slots);
    o.residency = LX_RESIDENCY_PARTIAL;
    o.max_bytes = host.device + lx_residency_slot_bytes(&layers);
    assert_int_equal(encoder_measure(model, &ampere, &o, &partial, &err), LX_OK);
    /* With fewer layers than slots beside those that stay there are fewer slots. */
    assert_true(partial.device <= o.max_bytes && partial.n_resident >= 1);
    umt5_close(&model);
}

/* Intermediate tensors pass through memory that the plan has. */
static void test_dumps_are_planned(void **state)
{
    (void)state;
    umt5 *model = open_model(T5("int8"));
    lx_run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    run->n_dumps = 2;
    strcpy(run->dump_names[0], "blocks.0.ffn.fc1");
    strcpy(run->dump_names[1], "blocks.1.attn.nothing");
    need plain = plan(model, &ampere, 512, 0, NULL), dumped = plan(model, &ampere, 512, 0, run);
    assert_true(run->is_known[0] && !run->is_known[1]);
    assert_true(dumped.host > plain.host && dumped.device >= plain.device);
    free(run);
    umt5_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_checkpoint_has_a_plan),
        cmocka_unit_test(test_weights_of_two_layers_at_a_time),
        cmocka_unit_test(test_residency_is_measured),
        cmocka_unit_test(test_dumps_are_planned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
