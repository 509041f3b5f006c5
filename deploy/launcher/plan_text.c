/*
 * plan_text.c - a plan for people: a table, a few log lines, one line why not
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lx_log.h"
#include "lx_process.h"
#include "plan.h"

static double gib(uint64_t bytes)
{
    return (double)bytes / 0x1p30;
}

static const char *policy_word(lx_memory_policy policy)
{
    return policy == LX_POLICY_ALTERNATE ? "in turn" : "at once";
}

/* "dit[0]" */
static const char *name_of(const plan_process *q, char *text, size_t bytes)
{
    snprintf(text, bytes, "%s[%d]", lx_stage_kind_name(q->kind), q->replica);
    return text;
}

/* --- cards ------------------------------------------------------------------------------------ */

static void print_process(const plan_process *q, FILE *to)
{
    char name[32];
    const lx_plan_need *n = &q->need;
    fprintf(to, "  %-10s %7.2f %7.2f %7.2f %7.2f %8.2f   %s%s\n", name_of(q, name, sizeof name),
            gib(n->weights), gib(n->slots), gib(n->activations), gib(n->context), gib(n->device),
            n->how, n->fits ? "" : "  DOES NOT FIT");
}

static void print_card(const plan *p, int index, FILE *to)
{
    const lx_card *card = &p->rig->cards.card[index];
    const plan_card *c = &p->card[index];
    fprintf(to, "cuda:%d  %s, %.2f GiB%s; %.2f GiB for lx2v; PCIe %.1f GB/s%s\n", index, card->name,
            gib(card->vram_bytes), card->has_display ? " with a display" : "", gib(c->budget),
            p->rig->rates[index].pcie_gbs, p->rig->rates[index].is_measured ? ", measured" : "");
    fprintf(to, "  %-10s %7s %7s %7s %7s %8s   GiB\n", "process", "weights", "slots", "activ.",
            "context", "total");
    for (int i = 0; i < p->n; i++)
        if (p->process[i].card == index)
            print_process(&p->process[i], to);
    fprintf(to, "  %-10s %40.2f   of %.2f, %s: %s\n", "in all", gib(c->total), gib(c->budget),
            policy_word(c->policy), c->fits ? "fits" : "DOES NOT FIT");
}

/* --- host ------------------------------------------------------------------------------------- */

static void print_host(const plan *p, FILE *to)
{
    const plan_host *h = &p->host;
    char name[32];
    fprintf(to, "host    %.1f GiB for lx2v (memory.ram)\n", gib(h->budget));
    for (int i = 0; i < p->n; i++) {
        const plan_process *q = &p->process[i];
        const lx_plan_need *n = &q->need;
        fprintf(to, "  %-10s", name_of(q, name, sizeof name));
        if (n->host_weights && q->replica == 0)
            fprintf(to, " weights %.2f,", gib(n->host_weights));
        fprintf(to, " own %.2f", gib(n->host));
        if (n->pinned)
            fprintf(to, ", pinned %.2f", gib(n->pinned));
        if (n->shared)
            fprintf(to, ", lent %.2f", gib(n->shared));
        fprintf(to, "%s%s\n", q->card < 0 ? "   on the CPU, " : "", q->card < 0 ? n->how : "");
    }
    fprintf(to,
            "  in all     %.2f GiB of %.2f: weights %.2f, pinned %.2f, lent %.2f, own %.2f, "
            "libraries and driver about %.2f: %s\n",
            gib(h->total), gib(h->budget), gib(h->weights), gib(h->pinned), gib(h->shared),
            gib(h->own), gib(h->runtime), h->fits ? "fits" : "DOES NOT FIT");
    if (p->rig->shm_free_bytes && h->shared > p->rig->shm_free_bytes)
        fprintf(to, "  /dev/shm has %.2f GiB free, lent tensors need %.2f: links.depth\n",
                gib(p->rig->shm_free_bytes), gib(h->shared));
}

/* --- the rest --------------------------------------------------------------------------------- */

static void print_links(const plan *p, FILE *to)
{
    fprintf(to, "links ");
    for (int kind = 0; kind + 1 < LX_STAGE_COUNT; kind++) {
        const plan_process *from = plan_of(p, (lx_stage_kind)kind, 0);
        const plan_process *dest = plan_of(p, (lx_stage_kind)(kind + 1), 0);
        fprintf(to, "%s %s to %s: %s", kind ? ";" : "", lx_stage_kind_name(from->kind),
                lx_stage_kind_name(dest->kind), plan_link(p, from, dest));
    }
    fprintf(to, "; tested at start\n");
}

static void print_speed(const plan *p, const plan_process *q, FILE *to)
{
    char name[32];
    if (q->compute_s <= 0)
        return;
    fprintf(to,
            "%s: a step of %dx%d with %d frames takes about %.1f s, predicted from data sheets:\n"
            "  computing %.1f s, blocks over PCIe %.1f s",
            name_of(q, name, sizeof name), p->width, p->height, p->frames, plan_step_s(q),
            q->compute_s, q->stream_s);
    if (q->need.disk_bytes && q->disk_s > 0)
        fprintf(to, ", from disk %.1f s", q->disk_s);
    else if (q->need.disk_bytes)
        fprintf(to, ", %.2f GiB from disk (lx2v doctor --measure tells its rate)",
                gib(q->need.disk_bytes));
    fprintf(to, "; the longest counts\n");
}

/* Seconds of a step with other bytes to stream. */
static double step_with(const plan *p, const plan_process *q, const lx_plan_choice *c)
{
    plan_process other = *q;
    other.stream_s = (double)c->stream / (p->rig->rates[q->card].pcie_gbs * 1e9);
    return plan_step_s(&other);
}

static void print_choices(const plan *p, const plan_process *q, FILE *to)
{
    char name[32];
    for (int i = 0; i < q->need.n_choices; i++) {
        const lx_plan_choice *c = &q->need.choice[i];
        double more = gib(c->device) - gib(q->need.device);
        fprintf(to, "  %-10s %-40s %7.2f GiB (%+.2f)", i ? "" : name_of(q, name, sizeof name),
                c->what, gib(c->device), more);
        if (q->compute_s > 0)
            fprintf(to, ", about %.1f s a step", step_with(p, q, c));
        fputc('\n', to);
    }
}

static void print_advice(const plan *p, FILE *to)
{
    for (int i = 0; i < p->n_advice; i++)
        fprintf(to, "%s %-44s %s: %s\n", i ? "    or" : "advice", p->advice[i].what,
                p->advice[i].then, p->advice[i].fits ? "fits" : "not enough");
    if (p->n_advice == 0 || !p->advice[p->n_advice - 1].fits)
        fprintf(to, "%s no change of this config is enough: more memory, or another card\n",
                p->n_advice ? "      " : "advice");
}

void plan_print(const plan *p, FILE *to)
{
    bool has_choices = false;
    fprintf(to, "plan    for clips up to %dx%d with %d frames%s\n", p->width, p->height, p->frames,
            p->rig->is_described ? ", on the machine described" : "");
    for (int i = 0; i < p->rig->cards.n; i++)
        if (p->card[i].n > 0)
            print_card(p, i, to);
    print_host(p, to);
    print_links(p, to);
    for (int i = 0; i < p->n; i++) {
        print_speed(p, &p->process[i], to);
        has_choices |= p->process[i].card >= 0 && p->process[i].need.n_choices > 0;
    }
    if (has_choices)
        fprintf(to, "other ways, and what they would take of the card\n");
    for (int i = 0; i < p->n; i++)
        if (p->process[i].card >= 0)
            print_choices(p, &p->process[i], to);
    if (!p->fits)
        print_advice(p, to);
}

/* --- log -------------------------------------------------------------------------------------- */

void plan_log(const plan *p)
{
    for (int i = 0; i < p->rig->cards.n; i++) {
        const plan_card *c = &p->card[i];
        if (c->n > 0)
            LX_I("plan device=cuda:%d card=\"%s\" total_mib=%.0f of_mib=%.0f policy=%s", i,
                 p->rig->cards.card[i].name, (double)c->total / 0x1p20, (double)c->budget / 0x1p20,
                 c->policy == LX_POLICY_ALTERNATE ? "alternate" : "overlap");
    }
    for (int i = 0; i < p->n; i++) {
        const plan_process *q = &p->process[i];
        char device[16] = "cpu", step[48] = "";
        if (q->card >= 0)
            snprintf(device, sizeof device, "cuda:%d", q->card);
        if (q->compute_s > 0)
            snprintf(step, sizeof step, " predicted_step_s=%.1f", plan_step_s(q));
        LX_I("plan stage=%s replica=%d device=%s device_mib=%.0f host_mib=%.0f%s how=\"%s\"",
             lx_stage_kind_name(q->kind), q->replica, device, (double)q->need.device / 0x1p20,
             (double)(q->need.host + q->need.pinned + q->need.shared) / 0x1p20, step, q->need.how);
    }
    LX_I("plan host_mib=%.0f of_mib=%.0f weights_mib=%.0f pinned_mib=%.0f",
         (double)p->host.total / 0x1p20, (double)p->host.budget / 0x1p20,
         (double)p->host.weights / 0x1p20, (double)p->host.pinned / 0x1p20);
}

/* --- why not ---------------------------------------------------------------------------------- */

static const plan_process *first_that_does_not_fit(const plan *p)
{
    for (int i = 0; i < p->n; i++)
        if (!p->process[i].need.fits)
            return &p->process[i];
    return NULL;
}

lx_status plan_refuse(const plan *p, lx_err *err)
{
    char needs[32], has[32], where[16] = "host", advice[320] = "", list[256] = "", name[32];
    uint64_t total = p->host.total, budget = p->host.budget;
    for (int i = p->rig->cards.n - 1; i >= 0; i--)
        if (p->card[i].n > 0 && !p->card[i].fits) {
            total = p->card[i].total;
            budget = p->card[i].budget;
            snprintf(where, sizeof where, "cuda:%d", i);
        }
    for (int i = 0; i < p->n; i++) {
        const plan_process *q = &p->process[i];
        size_t n = strlen(list);
        if (q->card >= 0)
            snprintf(list + n, sizeof list - n, "%s%s %.2f", n ? ", " : "",
                     name_of(q, name, sizeof name), gib(q->need.device));
    }
    if (p->n_advice > 0) {
        const plan_advice *a = &p->advice[p->n_advice - 1];
        snprintf(advice, sizeof advice, "; %s %s: %s", a->fits ? "with" : "even with", a->what,
                 a->then);
    }
    const plan_process *q = first_that_does_not_fit(p);
    return lx_fail(err, LX_EAGAIN,
                   "clips of %dx%d with %d frames do not fit: %s would need %s, %s are for lx2v%s%s"
                   "%s%s%s; lx2v plan prints the table",
                   p->width, p->height, p->frames, where, lx_bytes_text(total, needs, sizeof needs),
                   lx_bytes_text(budget, has, sizeof has), list[0] ? " (GiB: " : "", list,
                   list[0] ? ")" : "", q && q->card < 0 ? ": " : "",
                   q && q->card < 0 ? q->need.advice : advice);
}
