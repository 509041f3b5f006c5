/*
 * probe_json.c - the answer; docs/json.md describes it, common/lx_device_probe.c reads it
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "lx_utf8.h"
#include "probe.h"

/* null for "". */
static json_t *text(const char *from)
{
    char clean[512];
    lx_utf8_copy(clean, sizeof clean, from);
    return *clean ? json_string(clean) : json_null();
}

static json_t *check(lx_check value)
{
    return value == LX_CHECK_UNKNOWN ? json_null() : json_boolean(value == LX_CHECK_OK);
}

static json_t *number_or_null(double x)
{
    return x > 0 && isfinite(x) ? json_real(x) : json_null();
}

static json_t *processes_json(const lx_card *card)
{
    json_t *list = json_array();
    for (int i = 0; i < card->n_processes; i++) {
        const lx_card_process *p = &card->process[i];
        json_t *bytes = p->bytes ? json_integer((json_int_t)p->bytes) : json_null();
        json_array_append_new(list, json_pack("{s:I, s:o, s:o}", "pid", (json_int_t)p->pid, "name",
                                              text(p->name), "bytes", bytes));
    }
    return list;
}

static json_t *measured_json(const lx_card *card)
{
    if (card->copies == LX_CHECK_UNKNOWN && !*card->trouble)
        return json_null();
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o}", "to_card_gbs", number_or_null(card->to_card_gbs),
        "from_card_gbs", number_or_null(card->from_card_gbs), "copies", check(card->copies), "ipc",
        check(card->ipc), "ipc_event", check(card->ipc_event), "trouble", text(card->trouble));
}

static json_t *card_json(const lx_card *card, int index)
{
    json_t *pcie = json_pack("{s:i, s:i, s:i, s:i, s:b}", "gen", card->pcie.gen, "width",
                             card->pcie.width, "gen_max", card->pcie.gen_max, "width_max",
                             card->pcie.width_max, "under_load", card->pcie.under_load);
    json_t *json = json_pack(
        "{s:i, s:o, s:o, s:o, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I}", "index", index, "uuid",
        text(card->uuid), "name", text(card->name), "pci", text(card->pci), "major", card->major,
        "minor", card->minor, "multiprocessors", card->multiprocessors,
        "threads_per_multiprocessor", card->threads_per_multiprocessor, "shared_bytes",
        (json_int_t)card->shared_bytes, "l2_bytes", (json_int_t)card->l2_bytes, "vram_bytes",
        (json_int_t)card->vram_bytes, "vram_free_bytes", (json_int_t)card->vram_free_bytes);
    json_t *rest = json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:i, s:o, s:o, s:o, s:o}", "display",
                             card->has_display, "ipc", card->has_ipc, "energy", card->has_energy,
                             "exclusive", card->is_exclusive, "mig", card->is_mig, "integrated",
                             card->is_integrated, "numa_node", card->numa_node, "power_limit_w",
                             number_or_null(card->power_limit_w), "pcie", pcie, "processes",
                             processes_json(card), "measured", measured_json(card));
    json_object_update(json, rest);
    json_decref(rest);
    return json;
}

static json_t *links_json(const lx_cards *cards)
{
    json_t *list = json_array();
    for (int i = 0; i < cards->n; i++)
        for (int k = 0; k < cards->n; k++) {
            const lx_card_link *link = &cards->link[i][k];
            if (i != k)
                json_array_append_new(list, json_pack("{s:i, s:i, s:b, s:o, s:o}", "from", i, "to",
                                                      k, "access", link->has_access, "copies",
                                                      check(link->copies), "gbs",
                                                      number_or_null(link->gbs)));
        }
    return list;
}

json_t *probe_json(const lx_cards *cards)
{
    json_t *list = json_array();
    for (int i = 0; i < cards->n; i++)
        json_array_append_new(list, card_json(&cards->card[i], i));
    return json_pack("{s:i, s:o, s:o, s:i, s:i, s:b, s:o, s:o, s:o}", "probe", LX_PROBE_FORMAT,
                     "driver", text(cards->driver), "reason", text(cards->reason), "cuda",
                     cards->cuda, "cuda_needed", cards->cuda_needed, "nvml", cards->has_nvml,
                     "hidden_by", text(cards->hidden_by), "cards", list, "links",
                     links_json(cards));
}
