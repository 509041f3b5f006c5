/*
 * test_rig.c - machines in words, and what lx2v may have of them
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "../unit/rigs.h"
#include "rig.h"

#define GIB ((uint64_t)1 << 30)

static rig machine;
static lx_config config;

static void parse(const char *text)
{
    lx_err err = {0};
    if (rig_parse(&machine, text, &err) != LX_OK)
        fail_msg("%s: %s", text, err.message);
}

static void refused(const char *text, const char *word)
{
    lx_err err = {0};
    assert_int_equal(rig_parse(&machine, text, &err), LX_ECONFIG);
    if (!strstr(err.message, word))
        fail_msg("\"%s\" is missing in: %s", word, err.message);
}

static void read_config(const char *memory)
{
    char text[512];
    lx_err err = {0};
    snprintf(text, sizeof text, "model: m\nmemory: {%s}\n", memory);
    if (lx_config_parse(&config, text, strlen(text), "/tmp/rig.yaml", &err) != LX_OK)
        fail_msg("%s", err.message);
}

static uint64_t vram(int card)
{
    uint64_t bytes = 0;
    lx_err err = {0};
    if (rig_vram(&machine, &config, card, &bytes, &err) != LX_OK)
        fail_msg("%s", err.message);
    return bytes;
}

static void test_rig_one_card_in_words(void **state)
{
    (void)state;
    parse("rtx3060:12GiB,display,pcie=3x4,ram=32GiB,cpu=6,disk=3.5");
    const lx_card *c = &machine.cards.card[0];
    assert_int_equal(machine.cards.n, 1);
    assert_string_equal(c->name, "NVIDIA GeForce RTX 3060");
    assert_true(c->major == 8 && c->minor == 6 && c->multiprocessors == 28 && c->has_display);
    assert_true(c->vram_bytes == 12 * GIB / 48 * 47); /* 11.75 GiB, as CUDA tells of that card */
    assert_true(c->pcie.gen == 3 && c->pcie.width == 4);
    assert_true(machine.rates[0].pcie_gbs > 3 && machine.rates[0].pcie_gbs < 3.94);
    assert_true(machine.ram_bytes == 32 * GIB && machine.n_cores == 6 && machine.disk_gbs == 3.5);
    assert_true(machine.is_described);
}

static void test_rig_several_cards_and_orders(void **state)
{
    (void)state;
    parse("rtx3090 + 3060,display ; h100,ram=64GiB");
    assert_int_equal(machine.cards.n, 3);
    assert_string_equal(machine.cards.card[1].name, "NVIDIA GeForce RTX 3060");
    assert_true(!machine.cards.card[0].has_display && machine.cards.card[1].has_display);
    assert_true(machine.rates[2].tops8 > 1900);
    parse("cpu=16,ram=64GiB");
    assert_true(machine.cards.n == 0 && machine.n_cores == 16);
    parse("ram=16GiB,rtx4060"); /* the machine first */
    assert_true(machine.cards.n == 1 && machine.cards.card[0].pcie.width == 8);
    parse("rtx6000:48GiB,cc=8.9,sm=142"); /* not listed: its facts */
    assert_true(machine.cards.card[0].minor == 9 && machine.rates[0].tflops16 > 100);
    parse("rtx3060ti");
    assert_string_equal(machine.cards.card[0].name, "NVIDIA GeForce RTX 3060 Ti");
    assert_true(machine.rates[0].tops8 > 120);
}

static void test_rig_words_that_are_refused(void **state)
{
    (void)state;
    refused("rtx9999", "rtx9999");
    refused("rtx3060:12", "1GiB to 1TiB");
    refused("rtx3060:much", "no amount of memory");
    refused("rtx3060,pcie=9x4", "pcie=9x4");
    refused("rtx3060,pcie=3", "pcie=3");
    refused("rtx3060,cc=7.5", "cc=7.5");
    refused("rtx3060,sm=0", "sm=0");
    refused("rtx3060,disk=fast", "disk=fast");
    refused("rtx3060,cpu=0", "cpu=0");
    refused("display", "display"); /* of which card? */
    refused("rtx3060,rtx3070", "rtx3070");
    char many[512] = "rtx3060";
    for (int i = 0; i < LX_CARDS_MAX; i++)
        strcat(many, "+rtx3060");
    refused(many, "more than 16 cards");
    char longest[2000];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    refused(longest, "1023 characters");
}

static void test_rig_budgets(void **state)
{
    (void)state;
    parse("rtx3060,display+rtx3090,ram=32GiB");
    read_config("");
    assert_true(vram(0) == 12 * GIB / 48 * 47 - GIB);
    assert_true(vram(1) == 24 * GIB / 48 * 47 - GIB * 3 / 10);
    assert_true(rig_ram(&machine, &config) == 30 * GIB);
    read_config("ram: 12GiB, vram: 6GiB");
    assert_true(vram(0) == 6 * GIB && vram(1) == 6 * GIB);
    assert_true(rig_ram(&machine, &config) == 12 * GIB);
    read_config("vram: {\"cuda:rtx3060\": 5GiB}");
    assert_true(vram(0) == 5 * GIB && vram(1) > 23 * GIB);
    read_config("vram: 500GiB"); /* there is no more than there is */
    assert_true(vram(0) == machine.cards.card[0].vram_bytes);
    read_config("vram: {\"cuda:7\": 5GiB}");
    uint64_t bytes;
    lx_err err = {0};
    assert_int_equal(rig_vram(&machine, &config, 0, &bytes, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "memory.vram"));
}

/* Of this machine's cards what is free now counts, and links are as fast as they were measured. */
static void test_rig_budget_is_of_what_is_free(void **state)
{
    (void)state;
    lx_err err = {0};
    memset(&machine, 0, sizeof machine);
    assert_int_equal(lx_cards_parse(&machine.cards, RIG_3060, strlen(RIG_3060), &err), LX_OK);
    read_config("");
    assert_true(vram(0) == UINT64_C(11811160064) - GIB);
}

static void test_rig_looks_at_this_machine(void **state)
{
    (void)state;
    lx_err err = {0};
    assert_int_equal(rig_look(&machine, false, &err), LX_OK);
    assert_true(machine.ram_bytes > GIB / 4 && machine.ram_free_bytes <= machine.ram_bytes);
    assert_true(machine.n_cores >= 1 && machine.cards.n == 0 && !machine.is_described);
}

static void test_rig_question_for_a_card(void **state)
{
    (void)state;
    parse("rtx3060");
    strcpy(machine.cards.card[0].name, "a;b=c");
    lx_plan_question q = {.config = "c"};
    char text[192];
    rig_kind(&machine, 0, &q);
    lx_plan_kind_text(&q, text, sizeof text);
    assert_string_equal(text, "a b c;cc=8.6;sm=28;shared=101376;vram=12616466432");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rig_one_card_in_words),
        cmocka_unit_test(test_rig_several_cards_and_orders),
        cmocka_unit_test(test_rig_words_that_are_refused),
        cmocka_unit_test(test_rig_budgets),
        cmocka_unit_test(test_rig_budget_is_of_what_is_free),
        cmocka_unit_test(test_rig_looks_at_this_machine),
        cmocka_unit_test(test_rig_question_for_a_card),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
