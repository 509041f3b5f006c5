/*
 * plan.c - sharing out cards and host memory
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lx_process.h"
#include "plan_ask.h"

#define TRY(call)                                                                                  \
    do {                                                                                           \
        lx_status status_ = (call);                                                                \
        if (status_ != LX_OK)                                                                      \
            return status_;                                                                        \
    } while (0)

#define VAE_TRIES 4 /* from the VAE's usual size towards its least, in quarters */
/* Of a card's peaks, what our kernels reach: guesses for a GeForce card until one is measured; on
 * an H100 attention by mma.sync has 0.62 of that instruction's rate. docs/performance.md. */
#define LINEAR_SHARE    0.7
#define ATTENTION_SHARE 0.6
#define MEMORY_SHARE    0.85
/* Host memory of a process beside what it plans: libraries, heap, messages; with CUDA also the
 * driver's. An estimate. */
#define RUNTIME_CPU  ((uint64_t)32 << 20)
#define RUNTIME_CARD ((uint64_t)256 << 20)

typedef struct maker {
    plan *p;
    const lx_config *config; /* with the advice that is being tried in it */
    const char *config_path; /* of the file that stages read */
    const rig *rig;
    plan_asker *asker;
} maker;

/* --- asking ----------------------------------------------------------------------------------- */

static lx_status ask(const maker *m, plan_process *q, uint64_t vram, uint64_t ram, lx_err *err)
{
    const lx_config *c = m->config;
    lx_plan_question question = {
        .config = m->config_path,
        .replica = q->replica,
        .vram = vram,
        .ram = ram,
        .width = c->limits.width,
        .height = c->limits.height,
        .frames = c->limits.frames,
        .is_residency_auto = c->stage[q->kind].replica[q->replica].residency == LX_RESIDENCY_AUTO};
    if (q->card >= 0)
        rig_kind(m->rig, q->card, &question);
    else if (q->kind == LX_STAGE_DIT || q->kind == LX_STAGE_VAE)
        question.ram = c->memory.ram; /* on the CPU: for its activations */
    return plan_ask(m->asker, q->kind, &question, &q->need, err);
}

/* --- one card --------------------------------------------------------------------------------- */

/* The processes of one card, by kind. */
typedef struct sharers {
    int n_encoders, n_dits, n_vaes;
    plan_process *encoder[LX_LIMIT_REPLICAS], *dit[LX_LIMIT_REPLICAS], *vae[LX_LIMIT_REPLICAS];
} sharers;

static void find_sharers(plan *p, int card, sharers *out)
{
    memset(out, 0, sizeof *out);
    for (int i = 0; i < p->n; i++) {
        plan_process *q = &p->process[i];
        if (q->card != card)
            continue;
        if (q->kind == LX_STAGE_ENCODER)
            out->encoder[out->n_encoders++] = q;
        else if (q->kind == LX_STAGE_DIT)
            out->dit[out->n_dits++] = q;
        else if (q->kind == LX_STAGE_VAE)
            out->vae[out->n_vaes++] = q;
    }
}

static uint64_t sum_device(plan_process *const *list, int n)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += list[i]->need.device;
    return sum;
}

/* What does not fit in any way is told with the least that would. */
static void keep_least(lx_plan_need *need)
{
    uint64_t rest = need->weights + need->slots + need->context;
    if (need->device > need->least && need->least > need->context) {
        if (rest > need->least) { /* resident weights are not part of its least */
            need->weights = 0;
            rest = need->slots + need->context;
        }
        need->device = need->least;
        need->activations = need->least > rest ? need->least - rest : 0;
        snprintf(need->how, sizeof need->how, "at the least");
    }
    need->fits = false;
}

/* Each of n may have `each` bytes. *all_fit: every one can. */
static lx_status ask_each(const maker *m, plan_process *const *list, int n, uint64_t each,
                          bool *all_fit, lx_err *err)
{
    *all_fit = true;
    for (int i = 0; i < n; i++) {
        bool is_hopeless = each < list[i]->need.least; /* 0: not asked yet */
        list[i]->vram = is_hopeless ? 0 : each ? each : 1;
        TRY(ask(m, list[i], list[i]->vram, 0, err));
        if (is_hopeless)
            keep_least(&list[i]->need);
        *all_fit &= list[i]->need.fits;
    }
    return LX_OK;
}

/* The VAEs between least and usual, the DiTs with what is left: the first sharing that works. */
static lx_status share_two(const maker *m, const sharers *s, uint64_t room, bool *fits, lx_err *err)
{
    uint64_t usual[LX_LIMIT_REPLICAS] = {0}, least[LX_LIMIT_REPLICAS] = {0};
    for (int i = 0; i < s->n_vaes; i++) {
        TRY(ask(m, s->vae[i], 0, 0, err));
        least[i] = s->vae[i]->need.least;
        usual[i] = s->vae[i]->need.device > least[i] ? s->vae[i]->need.device : least[i];
    }
    *fits = false;
    for (int k = VAE_TRIES; k > 0 && !*fits; k--) {
        bool vaes_fit = true, one;
        for (int i = 0; i < s->n_vaes; i++) {
            uint64_t share = least[i] + (usual[i] - least[i]) / VAE_TRIES * (uint64_t)k;
            TRY(ask_each(m, &s->vae[i], 1, share, &one, err));
            vaes_fit &= one;
        }
        uint64_t taken = sum_device(s->vae, s->n_vaes);
        uint64_t left = room > taken ? room - taken : 0;
        TRY(ask_each(m, s->dit, s->n_dits, left / (uint64_t)s->n_dits, fits, err));
        *fits &= vaes_fit && taken <= room;
    }
    return LX_OK;
}

/* All DiTs have all they can use: what is left makes the VAE's tiles larger. */
static lx_status give_rest(const maker *m, const sharers *s, uint64_t room, lx_err *err)
{
    uint64_t taken = sum_device(s->vae, s->n_vaes) + sum_device(s->dit, s->n_dits);
    bool all_fit;
    for (int i = 0; i < s->n_dits; i++)
        if (s->dit[i]->need.stream_bytes)
            return LX_OK;
    if (s->n_vaes != 1 || taken >= room)
        return LX_OK;
    return ask_each(m, s->vae, 1, s->vae[0]->need.device + (room - taken), &all_fit, err);
}

/* Everything at once. */
static lx_status overlap(const maker *m, int card, const sharers *s, lx_err *err)
{
    plan_card *c = &m->p->card[card];
    bool fits = true;
    c->policy = LX_POLICY_OVERLAP;
    for (int i = 0; i < s->n_encoders; i++) {
        TRY(ask(m, s->encoder[i], 0, 0, err));
        if (s->encoder[i]->need.device >
            s->encoder[i]->need.least) /* "partial": the DiT is first */
            TRY(ask(m, s->encoder[i], s->encoder[i]->need.least, 0, err));
    }
    uint64_t fixed = sum_device(s->encoder, s->n_encoders);
    uint64_t room = c->budget > fixed ? c->budget - fixed : 0;
    if (s->n_dits > 0) {
        TRY(share_two(m, s, room, &fits, err));
        if (fits)
            TRY(give_rest(m, s, room, err));
    } else if (s->n_vaes > 0) {
        TRY(ask_each(m, s->vae, s->n_vaes, room / (uint64_t)s->n_vaes, &fits, err));
    }
    c->total = fixed + sum_device(s->dit, s->n_dits) + sum_device(s->vae, s->n_vaes);
    c->fits = fits && c->total <= c->budget;
    return LX_OK;
}

/* Contexts stay, arenas come in turn. */
static lx_status alternate(const maker *m, int card, const sharers *s, lx_err *err)
{
    plan_card *c = &m->p->card[card];
    plan_process *const *lists[] = {s->encoder, s->vae, s->dit};
    const int counts[] = {s->n_encoders, s->n_vaes, s->n_dits};
    uint64_t contexts = 0, largest = 0;
    bool fits = true, all_fit;
    c->policy = LX_POLICY_ALTERNATE;
    for (int l = 0; l < 3; l++)
        for (int i = 0; i < counts[l]; i++)
            contexts += lists[l][i]->need.context; /* known from overlap() */
    for (int l = 0; l < 3; l++)
        for (int i = 0; i < counts[l]; i++) {
            const lx_plan_need *need = &lists[l][i]->need;
            uint64_t others = contexts - need->context;
            uint64_t room = c->budget > others ? c->budget - others : 0;
            TRY(ask_each(m, lists[l] + i, 1, room, &all_fit, err));
            fits &= all_fit;
            uint64_t phase = need->device - need->context;
            largest = phase > largest ? phase : largest;
            if (l == 1) /* its checkpoint, twice as large as packed, stays to be packed again */
                lists[l][i]->need.host_weights = 2 * need->weights;
        }
    c->total = contexts + largest;
    c->fits = fits && c->total <= c->budget;
    return LX_OK;
}

static lx_status share_card(const maker *m, int card, lx_err *err)
{
    plan_card *c = &m->p->card[card];
    lx_memory_policy wanted = m->config->memory.policy;
    sharers s;
    find_sharers(m->p, card, &s);
    TRY(rig_vram(m->rig, m->config, card, &c->budget, err));
    TRY(overlap(m, card, &s, err));
    bool is_alone = c->n < 2;
    if (wanted == LX_POLICY_ALTERNATE ? !is_alone
                                      : wanted == LX_POLICY_AUTO && !c->fits && !is_alone)
        TRY(alternate(m, card, &s, err));
    return LX_OK;
}

/* --- the host --------------------------------------------------------------------------------- */

static void add_up_host(plan *p)
{
    plan_host *h = &p->host;
    uint64_t weights[LX_STAGE_COUNT] = {0};
    h->weights = h->pinned = h->shared = h->own = h->runtime = 0;
    for (int i = 0; i < p->n; i++) {
        const plan_process *q = &p->process[i];
        if (q->need.host_weights > weights[q->kind]) /* replicas share one copy */
            weights[q->kind] = q->need.host_weights;
        h->pinned += q->need.pinned;
        h->shared += q->need.shared;
        h->own += q->need.host;
        h->runtime += q->card >= 0 ? RUNTIME_CARD : RUNTIME_CPU;
    }
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        h->weights += weights[kind];
    h->total = h->weights + h->pinned + h->shared + h->own + h->runtime;
    h->fits = h->total <= h->budget;
}

/* Blocks of the DiT to disk, as many as needed: every replica on a card is told the same, because
 * they share the copy. */
static lx_status share_host(const maker *m, lx_err *err)
{
    plan *p = m->p;
    plan_host *h = &p->host;
    h->budget = rig_ram(m->rig, m->config);
    add_up_host(p);
    if (h->fits)
        return LX_OK;
    uint64_t least = UINT64_MAX, over = h->total - h->budget;
    for (int i = 0; i < p->n; i++) {
        const lx_plan_need *n = &p->process[i].need;
        if (p->process[i].kind != LX_STAGE_DIT)
            continue;
        if (p->process[i].card < 0)
            return LX_OK; /* a DiT on the CPU reads its weights where they are */
        uint64_t has = n->host_weights + n->host + n->pinned + n->shared;
        uint64_t may = has > over ? has - over : 1;
        least = may < least ? may : least;
    }
    bool fits = true;
    for (int i = 0; i < p->n; i++) {
        plan_process *q = &p->process[i];
        if (q->kind != LX_STAGE_DIT)
            continue;
        q->ram = least;
        TRY(ask(m, q, q->vram, least, err));
        fits &= q->need.fits;
    }
    add_up_host(p);
    h->fits &= fits;
    return LX_OK;
}

/* --- the whole -------------------------------------------------------------------------------- */

static lx_status list_processes(const maker *m, lx_err *err)
{
    plan *p = m->p;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < m->config->stage[kind].n_replicas; i++) {
            plan_process *q = &p->process[p->n++];
            *q = (plan_process){.kind = (lx_stage_kind)kind, .replica = i, .card = LX_DEVICE_CPU};
            const char *device = m->config->stage[kind].replica[i].device;
            if (kind != LX_STAGE_MUX && lx_device_resolve(&q->card, device, &m->rig->cards, err))
                return lx_wrap(err, "stages.%s", lx_stage_kind_name(q->kind));
            if (q->card >= 0)
                p->card[q->card].n++;
        }
    return LX_OK;
}

/* One step: linears and attention at their shares of the peaks, all else at the memory's rate. The
 * bytes of products take less than their operations on every known card. Parts that an answer tells
 * wrongly count as none. */
static double seconds_of(const lx_plan_need *n, const rig_rates *r)
{
    double part8 = (double)(n->attention8 < n->ops8 ? n->attention8 : n->ops8);
    double part16 = (double)(n->attention16 < n->ops16 ? n->attention16 : n->ops16);
    double quick = (double)n->short16 < part16 ? (double)n->short16 : part16;
    double linears =
        ((double)n->ops8 - part8) / r->tops8 + ((double)n->ops16 - part16) / r->tflops16;
    double attention = part8 / r->tops8 + (part16 - quick / 2) / r->tflops16;
    double rows = (double)n->row_bytes / (r->memory_gbs * 1e9) / MEMORY_SHARE;
    return (linears / LINEAR_SHARE + attention / ATTENTION_SHARE) / 1e12 + rows;
}

static void predict(const plan *p, plan_process *q)
{
    if (q->kind != LX_STAGE_DIT || q->card < 0 || !q->need.fits)
        return;
    const rig_rates *r = &p->rig->rates[q->card];
    q->compute_s = seconds_of(&q->need, r);
    q->stream_s = (double)q->need.stream_bytes / (r->pcie_gbs * 1e9);
    if (p->rig->disk_gbs > 0)
        q->disk_s = (double)q->need.disk_bytes / (p->rig->disk_gbs * 1e9);
}

static lx_status fill(const maker *m, lx_err *err)
{
    plan *p = m->p;
    p->rig = m->rig;
    p->config = m->config;
    p->width = m->config->limits.width;
    p->height = m->config->limits.height;
    p->frames = m->config->limits.frames;
    TRY(list_processes(m, err));
    for (int i = 0; i < p->n; i++)
        if (p->process[i].card < 0)
            TRY(ask(m, &p->process[i], 0, 0, err));
    p->fits = true;
    for (int card = 0; card < m->rig->cards.n; card++)
        if (p->card[card].n > 0) {
            TRY(share_card(m, card, err));
            p->fits &= p->card[card].fits;
        }
    TRY(share_host(m, err));
    p->fits &= p->host.fits;
    for (int i = 0; i < p->n; i++) {
        plan_process *q = &p->process[i];
        if (q->card < 0)
            p->fits &= q->need.fits;
        else if (!q->need.stream_bytes || q->kind != LX_STAGE_DIT)
            /* No more than was counted. A DiT that streams may have the rest: its choice of blocks
             * is made for all of it. */
            q->vram = q->need.device;
        predict(p, q);
    }
    return LX_OK;
}

/* --- advice ----------------------------------------------------------------------------------- */

/* A change of the config that makes less of something: written into text; false: nothing to change
 * there. In the order that costs a person least. */
typedef bool (*change_fn)(lx_config *config, char *text, size_t bytes);

static bool more_offload(lx_config *c, char *text, size_t bytes)
{
    bool is_new = false;
    snprintf(text, bytes, "residency: auto");
    for (int kind = LX_STAGE_ENCODER; kind <= LX_STAGE_DIT; kind++)
        for (int i = 0; i < c->stage[kind].n_replicas; i++) {
            lx_replica_config *r = &c->stage[kind].replica[i];
            is_new |= r->residency != LX_RESIDENCY_AUTO;
            r->residency = LX_RESIDENCY_AUTO;
        }
    return is_new;
}

static bool in_turn(lx_config *c, char *text, size_t bytes)
{
    snprintf(text, bytes, "memory.policy: auto");
    bool is_new = c->memory.policy == LX_POLICY_OVERLAP;
    c->memory.policy = LX_POLICY_AUTO;
    return is_new;
}

static bool encoder_on_cpu(lx_config *c, char *text, size_t bytes)
{
    bool is_new = false;
    snprintf(text, bytes, "stages.encoder.device: cpu");
    for (int i = 0; i < c->stage[LX_STAGE_ENCODER].n_replicas; i++) {
        char *device = c->stage[LX_STAGE_ENCODER].replica[i].device;
        is_new |= lx_device_is_card(device);
        snprintf(device, LX_LIMIT_WORD, "cpu");
    }
    return is_new;
}

static bool fewer_frames(lx_config *c, char *text, size_t bytes)
{
    snprintf(text, bytes, "limits.frames: 49");
    bool is_new = c->limits.frames > 49;
    c->limits.frames = is_new ? 49 : c->limits.frames;
    return is_new;
}

static bool smaller_size(lx_config *c, char *text, size_t bytes)
{
    static const int32_t sizes[][2] = {{832, 480}, {480, 272}};
    int64_t now = (int64_t)c->limits.width * c->limits.height;
    for (int i = 0; i < 2; i++)
        if (now > (int64_t)sizes[i][0] * sizes[i][1]) {
            c->limits.width = sizes[i][0];
            c->limits.height = sizes[i][1];
            snprintf(text, bytes, "limits.size: %dx%d", sizes[i][0], sizes[i][1]);
            return true;
        }
    return false;
}

static const change_fn changes[] = {more_offload, in_turn, encoder_on_cpu, fewer_frames,
                                    smaller_size};
#define N_CHANGES ((int)(sizeof changes / sizeof *changes))

/* What is fullest: "cuda:0 would hold 6.10 GiB of 6.83". */
static void say_then(const plan *p, char *text, size_t bytes)
{
    char has[32], of[32], where[16] = "the host";
    uint64_t total = p->host.total, budget = p->host.budget;
    for (int i = 0; i < p->rig->cards.n; i++) {
        const plan_card *c = &p->card[i];
        if (c->n == 0 ||
            (double)c->total / (double)(c->budget + 1) <= (double)total / (double)(budget + 1))
            continue;
        total = c->total;
        budget = c->budget;
        snprintf(where, sizeof where, "cuda:%d", i);
    }
    snprintf(text, bytes, "%s would hold %s of %s", where, lx_bytes_text(total, has, sizeof has),
             lx_bytes_text(budget, of, sizeof of));
}

/* Plan with these changes (bits) and keep the result as one more advice, unless bits are empty. */
static lx_status try_changes(const maker *m, unsigned bits, plan *other, lx_config *with,
                             lx_err *err)
{
    plan_advice *a = &m->p->advice[m->p->n_advice];
    char text[64];
    bool is_new = false;
    *with = *m->config;
    a->what[0] = 0;
    for (int i = 0; i < N_CHANGES; i++)
        if (bits >> i & 1u && changes[i](with, text, sizeof text)) {
            size_t n = strlen(a->what);
            snprintf(a->what + n, sizeof a->what - n, "%s%s", n ? ", " : "", text);
            is_new = true;
        }
    if (!is_new)
        return LX_OK;
    memset(other, 0, sizeof *other);
    maker try = *m;
    try.p = other;
    try.config = with;
    TRY(fill(&try, err));
    say_then(other, a->then, sizeof a->then);
    a->fits = other->fits;
    m->p->n_advice++;
    return LX_OK;
}

/* Each change alone until one is enough; where none is, more and more of them together. */
static lx_status advise(const maker *m, lx_err *err)
{
    plan *p = m->p, *other = calloc(1, sizeof *other);
    lx_config *with = malloc(sizeof *with);
    lx_status status = other && with ? LX_OK : lx_fail(err, LX_EAGAIN, "out of memory for a plan");
    bool is_enough = false;
    for (int i = 0; i < 2 * N_CHANGES - 1 && status == LX_OK && !is_enough; i++) {
        bool is_single = i < N_CHANGES;
        unsigned bits = is_single ? 1u << i : (4u << (i - N_CHANGES)) - 1u;
        int n = p->n_advice;
        if (n == PLAN_ADVICE)
            break;
        status = try_changes(m, bits, other, with, err);
        if (p->n_advice == n)
            continue;
        is_enough = p->advice[n].fits;
        if (!is_single && !is_enough) /* only the set that is enough is worth a line */
            p->n_advice = n;
    }
    free(other);
    free(with);
    return status;
}

/* --- making ----------------------------------------------------------------------------------- */

lx_status plan_make(plan **out, const plan_request *r, lx_err *err)
{
    plan *p = calloc(1, sizeof *p);
    maker m = {.p = p, .config = r->config, .config_path = r->config->path, .rig = r->rig};
    if (!p)
        return lx_fail(err, LX_EAGAIN, "out of memory for a plan");
    lx_status status = plan_asker_open(&m.asker, r->binary_dir, err);
    if (status == LX_OK)
        status = fill(&m, err);
    if (status == LX_OK && !p->fits)
        status = advise(&m, err);
    plan_asker_close(&m.asker);
    if (status != LX_OK)
        plan_destroy(&p);
    else
        *out = p;
    return status;
}

void plan_destroy(plan **p)
{
    if (!p || !*p)
        return;
    free(*p);
    *p = NULL;
}

/* --- questions -------------------------------------------------------------------------------- */

bool plan_has_card(const plan *p)
{
    for (int i = 0; i < p->n; i++)
        if (p->process[i].card >= 0)
            return true;
    return false;
}

const plan_process *plan_of(const plan *p, lx_stage_kind kind, int replica)
{
    for (int i = 0; i < p->n; i++)
        if (p->process[i].kind == kind && p->process[i].replica == replica)
            return &p->process[i];
    return NULL;
}

double plan_step_s(const plan_process *q)
{
    double most = q->compute_s;
    most = q->stream_s > most ? q->stream_s : most;
    return q->disk_s > most ? q->disk_s : most;
}

const char *plan_link(const plan *p, const plan_process *from, const plan_process *to)
{
    lx_transport_wish wish = lx_config_wish(p->config, from->kind);
    if (from->card < 0 && to->card < 0)
        return "shared memory";
    if (from->card < 0 || to->card < 0 || wish == LX_WISH_RING)
        return "pinned ring";
    const lx_card *card = &p->rig->cards.card[from->card];
    const lx_card_link *link = &p->rig->cards.link[from->card][to->card];
    if (from->card == to->card)
        return card->has_ipc && card->ipc != LX_CHECK_FAILED ? "CUDA IPC" : "pinned ring";
    return link->has_access && link->copies != LX_CHECK_FAILED ? "peer copy" : "pinned ring";
}
