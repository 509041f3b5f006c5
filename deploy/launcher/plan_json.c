/*
 * plan_json.c - a plan as JSON (docs/json.md, `plan`)
 * SPDX-License-Identifier: Apache-2.0
 */
#include <jansson.h>
#include <stdio.h>

#include "plan.h"

static json_int_t number(uint64_t bytes)
{
    return (json_int_t)bytes;
}

static json_t *seconds(double s)
{
    return s > 0 ? json_real(s) : json_null();
}

static json_t *choices_of(const plan *p, const plan_process *q)
{
    json_t *list = json_array();
    for (int i = 0; i < q->need.n_choices; i++) {
        const lx_plan_choice *c = &q->need.choice[i];
        plan_process other = *q;
        if (q->card >= 0 && q->compute_s > 0)
            other.stream_s = (double)c->stream / (p->rig->rates[q->card].pcie_gbs * 1e9);
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:b, s:o}", "what", c->what,
                                              "device_bytes", number(c->device), "host_bytes",
                                              number(c->host), "fits", (int)c->fits, "step_s",
                                              seconds(plan_step_s(&other))));
    }
    return list;
}

static json_t *process_of(const plan *p, const plan_process *q)
{
    const lx_plan_need *n = &q->need;
    char device[16] = "cpu";
    if (q->card >= 0)
        snprintf(device, sizeof device, "cuda:%d", q->card);
    json_t *one = json_pack(
        "{s:s, s:i, s:s, s:s, s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "name",
        lx_stage_kind_name(q->kind), "replica", q->replica, "device", device, "how", n->how, "fits",
        (int)n->fits, "advice", n->advice, "weights_bytes", number(n->weights), "slots_bytes",
        number(n->slots), "activations_bytes", number(n->activations), "context_bytes",
        number(n->context), "device_bytes", number(n->device), "least_bytes", number(n->least));
    json_t *rest =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "host_weights_bytes",
                  number(n->host_weights), "host_bytes", number(n->host), "pinned_bytes",
                  number(n->pinned), "shared_bytes", number(n->shared), "stream_bytes",
                  number(n->stream_bytes), "disk_bytes", number(n->disk_bytes), "step_s",
                  seconds(plan_step_s(q)), "compute_s", seconds(q->compute_s), "stream_s",
                  seconds(q->stream_s), "disk_s", seconds(q->disk_s), "choices", choices_of(p, q));
    if (one && rest)
        json_object_update(one, rest);
    json_decref(rest);
    return one;
}

static json_t *cards_of(const plan *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->rig->cards.n; i++) {
        const lx_card *card = &p->rig->cards.card[i];
        const plan_card *c = &p->card[i];
        const char *policy = c->policy == LX_POLICY_ALTERNATE ? "alternate" : "overlap";
        if (c->n > 0)
            json_array_append_new(
                list, json_pack("{s:i, s:s, s:b, s:I, s:I, s:I, s:s, s:b, s:f}", "index", i, "name",
                                card->name, "display", (int)card->has_display, "vram_bytes",
                                number(card->vram_bytes), "budget_bytes", number(c->budget),
                                "total_bytes", number(c->total), "policy", policy, "fits",
                                (int)c->fits, "pcie_gbs", p->rig->rates[i].pcie_gbs));
    }
    return list;
}

static json_t *host_of(const plan *p)
{
    const plan_host *h = &p->host;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "budget_bytes", number(h->budget),
                     "total_bytes", number(h->total), "weights_bytes", number(h->weights),
                     "pinned_bytes", number(h->pinned), "shared_bytes", number(h->shared),
                     "own_bytes", number(h->own), "runtime_bytes", number(h->runtime), "fits",
                     (int)h->fits);
}

static json_t *links_of(const plan *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->n; k++) {
            const plan_process *from = &p->process[i], *to = &p->process[k];
            if ((int)to->kind != (int)from->kind + 1)
                continue;
            json_array_append_new(
                list, json_pack("{s:s, s:i, s:s, s:i, s:s}", "from", lx_stage_kind_name(from->kind),
                                "from_replica", from->replica, "to", lx_stage_kind_name(to->kind),
                                "to_replica", to->replica, "transport", plan_link(p, from, to)));
        }
    return list;
}

static json_t *advice_of(const plan *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->n_advice; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:b}", "change", p->advice[i].what, "then",
                                        p->advice[i].then, "fits", (int)p->advice[i].fits));
    return list;
}

lx_status plan_print_json(const plan *p, FILE *to, lx_err *err)
{
    json_t *processes = json_array();
    for (int i = 0; i < p->n; i++)
        json_array_append_new(processes, process_of(p, &p->process[i]));
    json_t *root =
        json_pack("{s:b, s:b, s:i, s:i, s:i, s:o, s:o, s:o, s:o, s:o}", "fits", (int)p->fits,
                  "described", (int)p->rig->is_described, "width", p->width, "height", p->height,
                  "frames", p->frames, "cards", cards_of(p), "processes", processes, "host",
                  host_of(p), "links", links_of(p), "advice", advice_of(p));
    bool is_said = root && json_dumpf(root, to, JSON_COMPACT) == 0 && fputc('\n', to) != EOF;
    json_decref(root);
    return is_said ? LX_OK : lx_fail(err, LX_EJOB, "the plan cannot be written");
}
