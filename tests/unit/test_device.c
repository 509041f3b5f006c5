/*
 * test_device.c - names of cards, and the reader of the probe's answer
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lx_device.h"
#include "rigs.h"

static lx_cards cards; /* 200 KiB */

static void load(const char *json)
{
    lx_err err = {0};
    if (lx_cards_parse(&cards, json, strlen(json), &err) != LX_OK)
        fail_msg("%s", err.message);
}

/* --- reading ---------------------------------------------------------------------------------- */

static void test_device_reads_a_3060(void **state)
{
    (void)state;
    load(RIG_3060);
    const lx_card *c = &cards.card[0];
    assert_int_equal(cards.n, 1);
    assert_string_equal(cards.driver, "550.54.14");
    assert_string_equal(cards.reason, "");
    assert_int_equal(cards.cuda, 12040);
    assert_int_equal(cards.cuda_needed, 12000);
    assert_true(cards.has_nvml);
    assert_string_equal(c->name, "NVIDIA GeForce RTX 3060");
    assert_string_equal(c->pci, "0000:01:00.0");
    assert_int_equal(c->major * 10 + c->minor, 86);
    assert_int_equal(c->multiprocessors, 28);
    assert_int_equal(c->threads_per_multiprocessor, 1536);
    assert_int_equal(c->shared_bytes, 101376);
    assert_int_equal(c->vram_bytes, 12622168064);
    assert_int_equal(c->vram_free_bytes, 11811160064);
    assert_true(c->has_display && c->has_ipc && c->has_energy);
    assert_false(c->is_exclusive || c->is_mig || c->is_integrated);
    assert_int_equal(c->numa_node, -1);
    assert_true(c->power_limit_w == 170);
    assert_int_equal(c->pcie.width, 4);
    assert_int_equal(c->pcie.width_max, 16);
    assert_false(c->pcie.under_load);
    assert_int_equal(c->n_processes, 2);
    assert_string_equal(c->process[0].name, "Xorg");
    assert_int_equal(c->process[0].bytes, 335544320);
    assert_string_equal(c->process[1].name, "");
    assert_int_equal(c->process[1].bytes, 0);
    assert_int_equal(c->ipc, LX_CHECK_UNKNOWN);
    assert_string_equal(lx_card_family(c->major, c->minor), "Ampere");
}

static void test_device_reads_links_and_measurements(void **state)
{
    (void)state;
    load(RIG_3090_3060);
    assert_int_equal(cards.n, 2);
    assert_false(cards.link[0][1].has_access);
    assert_int_equal(cards.link[0][1].copies, LX_CHECK_OK);
    assert_true(cards.link[0][1].gbs == 2.75);
    assert_true(cards.link[1][0].has_access);
    assert_int_equal(cards.link[1][0].copies, LX_CHECK_FAILED);
    assert_true(cards.link[1][0].gbs == 0);
    load(RIG_H100);
    const lx_card *c = &cards.card[0];
    assert_int_equal(cards.n, 1); /* nothing of the list before is left */
    assert_false(cards.link[1][0].has_access);
    assert_true(c->to_card_gbs == 55.25 && c->from_card_gbs == 54.5);
    assert_true(c->pcie.under_load);
    assert_int_equal(c->copies, LX_CHECK_OK);
    assert_int_equal(c->ipc, LX_CHECK_OK);
    assert_int_equal(c->ipc_event, LX_CHECK_FAILED);
    assert_string_equal(c->trouble, "IPC: a reason");
    assert_string_equal(lx_card_family(9, 0), "Hopper");
    load(RIG_NONE);
    assert_int_equal(cards.n, 0);
    assert_string_equal(cards.driver, "");
    assert_non_null(strstr(cards.reason, "libcuda.so.1"));
}

/* The text of a rig with one part exchanged must be refused, with these words. */
static void refuses(const char *rig, const char *part, const char *instead, const char *words)
{
    static char text[16384];
    lx_err err = {0};
    const char *at = strstr(rig, part);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - rig), rig, instead, at + strlen(part));
    memset(&cards, 0x5a, sizeof cards);
    static lx_cards before;
    memcpy(&before, &cards, sizeof before);
    if (lx_cards_parse(&cards, text, strlen(text), &err) != LX_EJOB || !strstr(err.message, words))
        fail_msg("%s -> %s: wanted \"%s\", got \"%s\"", part, instead, words, err.message);
    assert_memory_equal(&cards, &before, sizeof cards); /* outputs only on success */
}

static void test_device_believes_no_probe(void **state)
{
    (void)state;
    refuses(RIG_3060, "{\"probe\"", "\"probe\"", "no JSON object");
    refuses(RIG_3060, "{\"probe\": 1", "{\"probe\": 2", "probe: format 1");
    refuses(RIG_3060, "\"probe\": 1", "\"probe\": 1, \"probe\": 1", "JSON");
    refuses(RIG_3060, "\"cuda\": 12040", "\"cuda\": -1", "cuda: a whole number of 0");
    refuses(RIG_3060, "\"cuda\": 12040", "\"cuda\": \"12\"", "cuda: a whole number");
    refuses(RIG_3060, "\"cards\": [", "\"cards\": 7, \"x\": [", "cards: a list");
    refuses(RIG_3060, "\"cards\": [", "\"cards\": [7, ", "cards[0].{}: an object");
    refuses(RIG_3060, "\"major\": 8", "\"major\": 800", "cards[0].major: a whole number of 1");
    refuses(RIG_3060, "\"vram_bytes\": 12622168064", "\"vram_bytes\": 0", "cards[0].vram_bytes");
    refuses(RIG_3060, "\"vram_free_bytes\": 11811160064", "\"vram_free_bytes\": 99999999999",
            "vram_free_bytes: a whole number of 0 to 12622168064");
    refuses(RIG_3060, "\"vram_free_bytes\": 11811160064", "\"vram_free_bytes\": 1.5",
            "vram_free_bytes");
    refuses(RIG_3060, "\"display\": true", "\"display\": 1", "cards[0].display: true or false");
    refuses(RIG_3060, "\"name\": \"NVIDIA GeForce RTX 3060\"", "\"name\": 3060",
            "cards[0].name: text");
    refuses(RIG_3060, "\"power_limit_w\": 170", "\"power_limit_w\": -3", "power_limit_w");
    refuses(RIG_3060, "\"pcie\": {", "\"pcie\": null, \"x\": {", "cards[0].pcie[0]");
    refuses(RIG_3060, "\"width\": 4", "\"width\": 400", "pcie[0].width");
    refuses(RIG_3060, "\"pid\": 1234", "\"pid\": 0", "processes[0].pid");
    refuses(RIG_3060, "[{\"pid\"", "[[], {\"pid\"", "processes[0]");
    refuses(RIG_H100, "\"ipc_event\": false", "\"ipc_event\": \"no\"", "ipc_event: true, false or");
    refuses(RIG_H100, "\"to_card_gbs\": 55.25", "\"to_card_gbs\": true", "to_card_gbs");
    refuses(RIG_3090_3060, "\"from\": 0", "\"from\": 2", "links[0].from: a whole number of 0 to 1");
    refuses(RIG_3090_3060, "\"to\": 1", "\"to\": 0", "links[0].to: another card");
    refuses(RIG_3090_3060, "\"from\": 0", "\"from\": -1", "links[0].from");
}

static void test_device_cuts_and_cleans_texts(void **state)
{
    (void)state;
    static char text[16384];
    static const char part[] = "NVIDIA GeForce RTX 3060";
    const char *at = strstr(RIG_3060, part);
    char name[300];
    memset(name, 'x', sizeof name);
    memcpy(name, "\\u001b[31m", 9);
    name[sizeof name - 1] = 0;
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - RIG_3060), RIG_3060, name,
             at + strlen(part));
    load(text);
    assert_int_equal(cards.card[0].name[0], '?'); /* a terminal obeys escapes */
    assert_int_equal(strlen(cards.card[0].name), sizeof cards.card[0].name - 1);
}

static void test_device_limits_the_list(void **state)
{
    (void)state;
    static char text[65536], head[] = RIG_HEAD("1", 1);
    size_t used = (size_t)snprintf(text, sizeof text, "%s", head);
    for (int i = 0; i <= LX_CARDS_MAX; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? "," : "",
                                 RIG_CARD_3090(0, "0000:01:00.0"));
    snprintf(text + used, sizeof text - used, "], \"links\": []}");
    lx_err err = {0};
    assert_int_equal(lx_cards_parse(&cards, text, strlen(text), &err), LX_EJOB);
    assert_non_null(strstr(err.message, "at most 16"));
    char *large = calloc(1, 300000);
    assert_non_null(large);
    assert_int_equal(lx_cards_parse(&cards, large, 300000, &err), LX_EJOB);
    assert_non_null(strstr(err.message, "300000 bytes"));
    free(large);
}

/* --- naming ----------------------------------------------------------------------------------- */

static int resolve(const char *name)
{
    int index = 99;
    lx_err err = {0};
    if (lx_device_resolve(&index, name, &cards, &err) != LX_OK)
        fail_msg("%s: %s", name, err.message);
    return index;
}

static void unresolved(const char *name, const char *words)
{
    int index = 99;
    lx_err err = {0};
    if (lx_device_resolve(&index, name, &cards, &err) != LX_ECONFIG || !strstr(err.message, words))
        fail_msg("%s: wanted \"%s\", got \"%s\"", name, words, err.message);
    assert_int_equal(index, 99);
}

static void test_device_names_of_cards(void **state)
{
    (void)state;
    load(RIG_3090_3060);
    assert_int_equal(resolve("cpu"), LX_DEVICE_CPU);
    assert_int_equal(resolve("cuda"), 0);
    assert_int_equal(resolve("cuda:0"), 0);
    assert_int_equal(resolve("cuda:1"), 1);
    assert_int_equal(resolve("cuda:01"), 1);
    assert_int_equal(resolve("cuda:rtx3060"), 1);
    assert_int_equal(resolve("cuda:RTX 3090"), 0);
    assert_int_equal(resolve("cuda:geforce-rtx-3090"), 0);
    assert_int_equal(resolve("cuda:3060"), 1); /* no index has four digits */
    assert_int_equal(resolve("cuda:GPU-3090bbbb-0000-4000-8000-000000000000"), 0);
    assert_int_equal(resolve("cuda:gpu-3060aaaa"), 1);
    assert_int_equal(resolve("GPU-3060"), 1);
}

static void test_device_names_that_fit_none_or_several(void **state)
{
    (void)state;
    load(RIG_3090_3060);
    unresolved("cuda:2", "there are 2: cuda:0 NVIDIA GeForce RTX 3090 (GPU-3090bbbb...)");
    unresolved("cuda:rtx4090", "no card has that name; there are 2");
    unresolved("cuda:rtx", "2 cards fit; name one by its number or UUID");
    unresolved("cuda:GPU-ffffffff", "no card has that name");
    load(RIG_3060);
    unresolved("cuda:1", "there is 1: cuda:0 NVIDIA GeForce RTX 3060");
    load(RIG_NONE);
    assert_int_equal(resolve("cpu"), LX_DEVICE_CPU);
    unresolved("cuda:0", "libcuda.so.1 is not installed; `lx2v doctor` tells more");
    unresolved("cuda:rtx3060", "no card can be used");
}

static void test_device_refuses_what_is_no_name(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "CPU",
                                      "gpu",
                                      "cuda:",
                                      "cuda:-1",
                                      "cuda:-12",
                                      "cuda: rtx3060",
                                      "cuda:+1",
                                      "cuda: ",
                                      "cuda:x",
                                      "cuda0",
                                      "cuda:0;rm",
                                      "cuda:64",
                                      "cuda:\x1b[31m",
                                      "GPU-",
                                      "GPU-306",
                                      "cuda:/",
                                      "cuda:0x1\xff\n",
                                      "cuda:a/bc",
                                      "cuda:rtx3060,",
                                      "cpu\x01",
                                      "cuda:\xc3(",
                                      "vulkan:0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lx_err err = {0};
        if (lx_device_check(bad[i], &err) != LX_ECONFIG ||
            !strstr(err.message, "is not accepted; accepted: cpu, cuda"))
            fail_msg("\"%s\": %s", bad[i], err.message);
        for (const char *p = err.message; *p; p++)
            assert_true((unsigned char)*p >= 0x20);
    }
    char longest[256];
    memset(longest, 'a', sizeof longest);
    memcpy(longest, "cuda:", 5);
    longest[sizeof longest - 1] = 0;
    assert_int_equal(lx_device_check(longest, NULL), LX_ECONFIG);
    assert_int_equal(lx_device_check("cuda:rtx3060", NULL), LX_OK);
}

static void test_device_index_without_a_list(void **state)
{
    (void)state;
    int index = 99;
    assert_true(lx_device_index(&index, "cpu"));
    assert_int_equal(index, LX_DEVICE_CPU);
    assert_true(lx_device_index(&index, "cuda"));
    assert_int_equal(index, 0);
    assert_true(lx_device_index(&index, "cuda:3"));
    assert_int_equal(index, 3);
    assert_false(lx_device_index(&index, "cuda:rtx3060"));
    assert_false(lx_device_index(&index, "junk"));
    assert_int_equal(index, 3);
    assert_false(lx_device_is_card("cpu"));
    assert_true(lx_device_is_card("cuda:0"));
    /* Needs no probe: there is none beside this test. */
    assert_int_equal(lx_device_find(&index, "cuda:5", NULL), LX_OK);
    assert_int_equal(index, 5);
    lx_err err = {0};
    assert_int_equal(lx_device_find(&index, "cuda:rtx3060", &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "lx2v-probe"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_reads_a_3060),
        cmocka_unit_test(test_device_reads_links_and_measurements),
        cmocka_unit_test(test_device_believes_no_probe),
        cmocka_unit_test(test_device_cuts_and_cleans_texts),
        cmocka_unit_test(test_device_limits_the_list),
        cmocka_unit_test(test_device_names_of_cards),
        cmocka_unit_test(test_device_names_that_fit_none_or_several),
        cmocka_unit_test(test_device_refuses_what_is_no_name),
        cmocka_unit_test(test_device_index_without_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
