/*
 * lx_device_probe.c - run lx2v-probe, believe nothing
 * SPDX-License-Identifier: Apache-2.0
 *
 * Reads exactly the keys that docs/json.md lists for the probe; others are ignored, so that an
 * older reader gets along with a newer probe.
 */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lx_child.h"
#include "lx_device.h"
#include "lx_utf8.h"

#define JSON_MAX  (256 * 1024)
#define BYTES_MAX ((int64_t)1 << 50)

/* One object being read; the first thing that is wrong ends it. */
typedef struct reader {
    const json_t *object;
    char where[64]; /* "cards[1].pcie" */
    lx_err *err;
    lx_status status;
} reader;

static void wrong(reader *r, const char *key, const char *wanted)
{
    if (r->status == LX_OK)
        r->status = lx_fail(r->err, LX_EJOB, "lx2v-probe: %s%s%s: %s is wanted", r->where,
                            *r->where ? "." : "", key, wanted);
}

static const json_t *get(reader *r, const char *key)
{
    const json_t *value = json_object_get(r->object, key);
    return json_is_null(value) ? NULL : value;
}

static int64_t take_int(reader *r, const char *key, int64_t least, int64_t most)
{
    const json_t *value = get(r, key);
    int64_t n = json_is_integer(value) ? json_integer_value(value) : least - 1;
    if (n >= least && n <= most)
        return n;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a whole number of %" PRId64 " to %" PRId64, least, most);
    wrong(r, key, wanted);
    return least;
}

static double take_real(reader *r, const char *key, double most)
{
    const json_t *value = get(r, key);
    if (!value)
        return 0;
    double x = json_number_value(value);
    if (json_is_number(value) && isfinite(x) && x >= 0 && x <= most)
        return x;
    wrong(r, key, "a number, not negative");
    return 0;
}

static bool take_bool(reader *r, const char *key)
{
    const json_t *value = get(r, key);
    if (!json_is_boolean(value))
        wrong(r, key, "true or false");
    return json_is_true(value);
}

/* null or absent: not checked. */
static lx_check take_check(reader *r, const char *key)
{
    const json_t *value = get(r, key);
    if (!value)
        return LX_CHECK_UNKNOWN;
    if (!json_is_boolean(value))
        wrong(r, key, "true, false or null");
    return json_is_true(value) ? LX_CHECK_OK : LX_CHECK_FAILED;
}

/* Foreign text for our terminal: no control characters; cut to fit. null: "". */
static void take_text(reader *r, const char *key, char *out, size_t out_bytes)
{
    const json_t *value = get(r, key);
    out[0] = 0;
    if (!value)
        return;
    if (!json_is_string(value)) {
        wrong(r, key, "text");
        return;
    }
    lx_utf8_copy(out, out_bytes, json_string_value(value));
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

static reader inside(const reader *r, const json_t *object, const char *where, size_t i)
{
    reader in = {.object = object, .err = r->err, .status = r->status};
    snprintf(in.where, sizeof in.where, "%.30s%s%.12s[%zu]", r->where, *r->where ? "." : "", where,
             i);
    if (!json_is_object(object))
        wrong(&in, "{}", "an object");
    return in;
}

static void read_processes(reader *r, lx_card *card)
{
    const json_t *list = get(r, "processes");
    if (list && !json_is_array(list))
        wrong(r, "processes", "a list");
    for (size_t i = 0; i < json_array_size(list) && i < LX_CARD_PROCESSES_MAX; i++) {
        reader p = inside(r, json_array_get(list, i), "processes", i);
        lx_card_process *process = &card->process[card->n_processes];
        process->pid = take_int(&p, "pid", 1, INT32_MAX);
        take_text(&p, "name", process->name, sizeof process->name);
        if (get(&p, "bytes"))
            process->bytes = (uint64_t)take_int(&p, "bytes", 0, BYTES_MAX);
        card->n_processes++;
        r->status = p.status;
    }
}

static void read_pcie(reader *r, lx_card *card)
{
    reader p = inside(r, get(r, "pcie"), "pcie", 0);
    card->pcie.gen = (int)take_int(&p, "gen", 0, 16);
    card->pcie.width = (int)take_int(&p, "width", 0, 64);
    card->pcie.gen_max = (int)take_int(&p, "gen_max", 0, 16);
    card->pcie.width_max = (int)take_int(&p, "width_max", 0, 64);
    card->pcie.under_load = take_bool(&p, "under_load");
    r->status = p.status;
}

static void read_measured(reader *r, lx_card *card)
{
    const json_t *object = get(r, "measured");
    if (!object)
        return;
    reader m = inside(r, object, "measured", 0);
    card->to_card_gbs = take_real(&m, "to_card_gbs", 1e5);
    card->from_card_gbs = take_real(&m, "from_card_gbs", 1e5);
    card->copies = take_check(&m, "copies");
    card->ipc = take_check(&m, "ipc");
    card->ipc_event = take_check(&m, "ipc_event");
    take_text(&m, "trouble", card->trouble, sizeof card->trouble);
    r->status = m.status;
}

static void read_card(reader *r, lx_card *card)
{
    take_text(r, "name", card->name, sizeof card->name);
    take_text(r, "uuid", card->uuid, sizeof card->uuid);
    take_text(r, "pci", card->pci, sizeof card->pci);
    card->major = (int)take_int(r, "major", 1, 99);
    card->minor = (int)take_int(r, "minor", 0, 9);
    card->multiprocessors = (int)take_int(r, "multiprocessors", 1, 10000);
    card->threads_per_multiprocessor = (int)take_int(r, "threads_per_multiprocessor", 32, 65536);
    card->shared_bytes = (uint64_t)take_int(r, "shared_bytes", 0, 1 << 30);
    card->l2_bytes = (uint64_t)take_int(r, "l2_bytes", 0, INT32_MAX);
    card->vram_bytes = (uint64_t)take_int(r, "vram_bytes", 1, BYTES_MAX);
    card->vram_free_bytes = (uint64_t)take_int(r, "vram_free_bytes", 0, (int64_t)card->vram_bytes);
    card->has_display = take_bool(r, "display");
    card->has_ipc = take_bool(r, "ipc");
    card->has_energy = take_bool(r, "energy");
    card->is_exclusive = take_bool(r, "exclusive");
    card->is_mig = take_bool(r, "mig");
    card->is_integrated = take_bool(r, "integrated");
    card->numa_node = (int)take_int(r, "numa_node", -1, 1024);
    card->power_limit_w = take_real(r, "power_limit_w", 1e5);
    read_pcie(r, card);
    read_processes(r, card);
    read_measured(r, card);
}

static void read_links(reader *r, lx_cards *out)
{
    const json_t *list = get(r, "links");
    if (list && !json_is_array(list))
        wrong(r, "links", "a list");
    for (size_t i = 0; i < json_array_size(list) && r->status == LX_OK; i++) {
        reader l = inside(r, json_array_get(list, i), "links", i);
        int from = (int)take_int(&l, "from", 0, out->n - 1);
        int to = (int)take_int(&l, "to", 0, out->n - 1);
        if (l.status == LX_OK && from == to)
            wrong(&l, "to", "another card");
        if (l.status == LX_OK) {
            lx_card_link *link = &out->link[from][to];
            link->has_access = take_bool(&l, "access");
            link->copies = take_check(&l, "copies");
            link->gbs = take_real(&l, "gbs", 1e5);
        }
        r->status = l.status;
    }
}

static void read_all(reader *r, lx_cards *out)
{
    if (take_int(r, "probe", 0, INT32_MAX) != LX_PROBE_FORMAT) {
        wrong(r, "probe", "format 1 (lx2v-probe of another version?)");
        return;
    }
    take_text(r, "driver", out->driver, sizeof out->driver);
    take_text(r, "reason", out->reason, sizeof out->reason);
    out->cuda = (int)take_int(r, "cuda", 0, 1000000);
    out->cuda_needed = (int)take_int(r, "cuda_needed", 0, 1000000);
    out->has_nvml = take_bool(r, "nvml");
    take_text(r, "hidden_by", out->hidden_by, sizeof out->hidden_by);
    const json_t *cards = get(r, "cards");
    size_t n = json_array_size(cards);
    if (!json_is_array(cards) || n > LX_CARDS_MAX) {
        wrong(r, "cards", "a list of at most 16");
        return;
    }
    for (size_t i = 0; i < n && r->status == LX_OK; i++) {
        reader c = inside(r, json_array_get(cards, i), "cards", i);
        read_card(&c, &out->card[i]);
        r->status = c.status;
    }
    out->n = (int)n;
    if (out->n > 0)
        read_links(r, out);
}

lx_status lx_cards_parse(lx_cards *out, const char *json, size_t bytes, lx_err *err)
{
    json_error_t where;
    if (bytes > JSON_MAX)
        return lx_fail(err, LX_EJOB, "lx2v-probe: %zu bytes of answer; %d are accepted", bytes,
                       JSON_MAX);
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(root)) {
        json_decref(root);
        return lx_fail(err, LX_EJOB, "lx2v-probe: its answer is no JSON object: %s", where.text);
    }
    lx_cards *cards = calloc(1, sizeof *cards);
    if (!cards) {
        json_decref(root);
        return lx_fail(err, LX_EAGAIN, "out of memory");
    }
    reader r = {.object = root, .err = err};
    read_all(&r, cards);
    if (r.status == LX_OK)
        *out = *cards;
    free(cards);
    json_decref(root);
    return r.status;
}

static lx_status run_probe(lx_child *child, const lx_probe_options *o, lx_err *err)
{
    char path[4096];
    char json_flag[] = "--json", measure_flag[] = "--measure";
    if (o->binary)
        snprintf(path, sizeof path, "%s", o->binary);
    else if (lx_child_beside(path, sizeof path, "lx2v-probe", err) != LX_OK)
        return err ? err->status : LX_ESTAGE;
    char *argv[] = {path, json_flag, o->measure ? measure_flag : NULL, NULL};
    child->argv = argv;
    child->timeout_s = o->timeout_s > 0 ? o->timeout_s
                       : o->measure     ? LX_PROBE_MEASURE_S
                                        : LX_PROBE_TIMEOUT_S;
    lx_status status = lx_child_run(child, err);
    child->argv = NULL;
    if (status == LX_OK && child->exit_code != 0)
        status = lx_fail(err, LX_EJOB, "%s: exit code %d%s%s", path, child->exit_code,
                         *child->err ? ": " : "", child->err);
    else if (status == LX_ETIMEOUT)
        status = lx_fail(err, LX_ETIMEOUT,
                         "%s: no answer in %.0f s; the driver may hang (nvidia-smi and dmesg tell)",
                         path, child->timeout_s);
    return status;
}

lx_status lx_device_probe(lx_cards *out, const lx_probe_options *options, lx_err *err)
{
    static const lx_probe_options defaults;
    const lx_probe_options *o = options ? options : &defaults;
    lx_child child = {.out_room = JSON_MAX + 1};
    child.out = malloc(child.out_room);
    if (!child.out)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    lx_status status = run_probe(&child, o, err);
    if (status == LX_OK && child.is_cut)
        status = lx_fail(err, LX_EJOB, "lx2v-probe: its answer is over %d bytes", JSON_MAX);
    if (status == LX_OK)
        status = lx_cards_parse(out, child.out, child.out_bytes, err);
    if (status == LX_OK && o->json)
        *o->json = child.out;
    else
        free(child.out);
    return status;
}

lx_status lx_device_find(int *index, const char *text, lx_err *err)
{
    lx_status status = lx_device_check(text, err);
    if (status != LX_OK)
        return status;
    if (lx_device_index(index, text))
        return LX_OK;
    lx_cards *cards = calloc(1, sizeof *cards);
    if (!cards)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    status = lx_device_probe(cards, NULL, err);
    if (status == LX_OK)
        status = lx_device_resolve(index, text, cards, err);
    free(cards);
    return status;
}
