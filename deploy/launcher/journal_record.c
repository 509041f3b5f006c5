/*
 * journal_record.c - fixed fields, one after the other
 * SPDX-License-Identifier: Apache-2.0
 */
#include "journal_record.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "lx_crc32c.h"
#include "lx_utf8.h"

static const char magic[8] = {'L', 'X', '2', 'V', 'J', 'R', 'N', 'L'};

const char *journal_type_name(journal_type type)
{
    static const char *const names[] = {"none", "accepted", "latent", "ended", "mark"};
    _Static_assert(sizeof names / sizeof *names == JOURNAL_TYPE_COUNT, "one name per type");
    return (unsigned)type < JOURNAL_TYPE_COUNT ? names[type] : "unknown";
}

/* --- writing ---------------------------------------------------------------------------------- */

typedef struct writer {
    unsigned char *at, *end;
} writer;

/* The sum of all fields at their longest is below JOURNAL_PAYLOAD_MAX, so this always fits. */
static void put_bytes(writer *w, const void *bytes, size_t n)
{
    assert(n <= (size_t)(w->end - w->at));
    memcpy(w->at, bytes, n);
    w->at += n;
}

static void put(writer *w, uint64_t v, size_t n)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)(v >> 8 * i);
    put_bytes(w, bytes, n);
}

static void put_i32(writer *w, int32_t v)
{
    put(w, (uint32_t)v, 4);
}

static void put_real(writer *w, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put(w, bits, 8);
}

static void put_text(writer *w, const char *text)
{
    size_t n = strlen(text);
    put(w, n, 2);
    put_bytes(w, text, n);
}

static void put_job(writer *w, const journal_fact *f)
{
    const lx_job *job = &f->job;
    put(w, f->has_drawn_seed, 1);
    put_text(w, job->prompt);
    put_i32(w, job->width);
    put_i32(w, job->height);
    put_i32(w, job->frames);
    put_real(w, job->fps);
    put(w, (uint64_t)job->seed, 8);
    put_i32(w, job->sampler);
    put_real(w, job->shift);
    put_i32(w, job->n_steps);
    for (int i = 0; i < job->n_steps; i++)
        put_i32(w, job->steps[i]);
    put_text(w, job->rng);
    put_text(w, job->output);
    if (f->key) /* the last field, and not in files of launchers that did not keep it */
        put(w, f->key, 8);
}

static void put_end(writer *w, const journal_fact *f)
{
    put_i32(w, (int32_t)f->state);
    put_real(w, f->begin_s);
    put_text(w, f->error);
    put_text(w, f->notice);
    put_i32(w, f->n_tokens);
    put_i32(w, f->n_dropped);
    put_i32(w, f->n_frames);
    put(w, f->file_bytes, 8);
    put(w, f->retries, 8);
    put_i32(w, f->n_step_s);
    for (int i = 0; i < f->n_step_s; i++)
        put_real(w, f->step_s[i]);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        const journal_part *part = &f->part[kind];
        put_i32(w, part->replica);
        put_real(w, part->start_s);
        put_real(w, part->end_s);
        put_real(w, part->wait_s);
        put(w, part->peak_bytes, 8);
    }
}

static uint32_t crc_of_head(const unsigned char *head)
{
    uint32_t crc = lx_crc32c(0, head, 12);
    return lx_crc32c(crc, head + 16, JOURNAL_HEAD_BYTES - 16);
}

void journal_head_encode(unsigned char out[JOURNAL_HEAD_BYTES], uint64_t first_sequence)
{
    writer w = {out, out + JOURNAL_HEAD_BYTES};
    put_bytes(&w, magic, sizeof magic);
    put(&w, JOURNAL_VERSION, 4);
    put(&w, 0, 4);
    put(&w, first_sequence, 8);
    put(&w, 0, 8);
    w.at = out + 12;
    put(&w, crc_of_head(out), 4);
}

/* Of the head without the CRC's place, then of the payload. */
static uint32_t crc_of(const unsigned char *record, size_t payload_bytes)
{
    uint32_t crc = lx_crc32c(0, record, 4);
    return lx_crc32c(crc, record + 8, JOURNAL_RECORD_BYTES - 8 + payload_bytes);
}

size_t journal_encode(const journal_fact *f, uint64_t sequence, uint16_t back, unsigned char *out)
{
    unsigned char *payload = out + JOURNAL_RECORD_BYTES;
    writer w = {payload, payload + JOURNAL_PAYLOAD_MAX};
    put(&w, (uint64_t)f->wall_us, 8);
    put(&w, f->boot, 8);
    put_real(&w, f->at_s);
    put_text(&w, f->job.id);
    if (f->type == JOURNAL_ACCEPTED) {
        put_job(&w, f);
    } else if (f->type == JOURNAL_LATENT) {
        put(&w, f->latent_bytes, 8);
        put(&w, f->latent_crc, 4);
    } else if (f->type == JOURNAL_ENDED) {
        put_end(&w, f);
    }
    size_t n = (size_t)(w.at - payload);
    writer head = {out, payload};
    put(&head, n, 4);
    put(&head, 0, 4);
    put(&head, sequence, 8);
    put(&head, (uint64_t)f->type, 2);
    put(&head, back, 2);
    head.at = out + 4;
    put(&head, crc_of(out, n), 4);
    return JOURNAL_RECORD_BYTES + n;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct reader {
    const unsigned char *at;
    size_t left;
    const char *bad; /* the first field that was not what it must be; NULL: none */
} reader;

static uint64_t number_at(const unsigned char *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static void refuse(reader *r, const char *field)
{
    if (!r->bad)
        r->bad = field;
    r->left = 0;
}

static uint64_t get(reader *r, size_t n, const char *field)
{
    if (n > r->left) {
        refuse(r, field);
        return 0;
    }
    uint64_t v = number_at(r->at, n);
    r->at += n;
    r->left -= n;
    return v;
}

static int32_t get_i32(reader *r, int32_t low, int32_t high, const char *field)
{
    uint32_t bits = (uint32_t)get(r, 4, field);
    int32_t v;
    memcpy(&v, &bits, sizeof v);
    if (v < low || v > high) {
        refuse(r, field);
        return low;
    }
    return v;
}

/* Times and such: what a message to a client may carry. */
static double get_real(reader *r, double low, const char *field)
{
    uint64_t bits = get(r, 8, field);
    double v;
    memcpy(&v, &bits, sizeof v);
    if (!isfinite(v) || v < low || v > 1e18) {
        refuse(r, field);
        return low;
    }
    return v;
}

static uint64_t get_count(reader *r, uint64_t high, const char *field)
{
    uint64_t v = get(r, 8, field);
    if (v > high) {
        refuse(r, field);
        return 0;
    }
    return v;
}

static void get_text(reader *r, char *out, size_t room, const char *field)
{
    size_t n = (size_t)get(r, 2, field);
    if (n > r->left || n >= room || memchr(r->at, 0, n) ||
        lx_utf8_bad((const char *)r->at, n) != n) {
        refuse(r, field);
        out[0] = 0;
        return;
    }
    memcpy(out, r->at, n);
    out[n] = 0;
    r->at += n;
    r->left -= n;
}

static void get_job(reader *r, journal_fact *f)
{
    lx_job *job = &f->job;
    f->has_drawn_seed = get(r, 1, "drawn") != 0;
    get_text(r, job->prompt, sizeof job->prompt, "prompt");
    job->width = get_i32(r, 1, LX_LIMIT_SIDE, "width");
    job->height = get_i32(r, 1, LX_LIMIT_SIDE, "height");
    job->frames = get_i32(r, 1, LX_LIMIT_FRAMES, "frames");
    job->fps = get_real(r, 0, "fps");
    job->seed = (int64_t)get_count(r, INT64_MAX, "seed");
    job->sampler = get_i32(r, 0, LX_SAMPLER_COUNT - 1, "sampler");
    job->shift = get_real(r, 0, "shift");
    job->n_steps = get_i32(r, 0, LX_LIMIT_STEPS, "n_steps");
    for (int i = 0; i < job->n_steps; i++)
        job->steps[i] = get_i32(r, 1, 1000, "steps");
    get_text(r, job->rng, sizeof job->rng, "rng");
    get_text(r, job->output, sizeof job->output, "output");
    if (r->left == 0)
        return;
    f->key = get(r, 8, "key");
    if (f->key == 0)
        refuse(r, "key");
}

static void get_end(reader *r, journal_fact *f)
{
    f->state = (lx_job_state)get_i32(r, LX_JOB_DONE, LX_JOB_CANCELLED, "state");
    f->begin_s = get_real(r, 0, "begin");
    get_text(r, f->error, sizeof f->error, "error");
    get_text(r, f->notice, sizeof f->notice, "notice");
    f->n_tokens = get_i32(r, 0, 1000000, "n_tokens");
    f->n_dropped = get_i32(r, 0, 1000000, "n_dropped");
    f->n_frames = get_i32(r, 0, LX_LIMIT_FRAMES, "n_frames");
    f->file_bytes = get_count(r, 1000000000000000, "file_bytes");
    f->retries = get_count(r, 1000000, "retries");
    f->n_step_s = get_i32(r, 0, LX_LIMIT_STEPS, "n_step_s");
    for (int i = 0; i < f->n_step_s; i++)
        f->step_s[i] = get_real(r, 0, "step_s");
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        journal_part *part = &f->part[kind];
        part->replica = get_i32(r, -1, LX_LIMIT_REPLICAS, "replica");
        part->start_s = get_real(r, -1, "start");
        part->end_s = get_real(r, -1, "end");
        part->wait_s = get_real(r, 0, "wait");
        part->peak_bytes = get_count(r, 1000000000000000, "peak");
    }
}

static lx_status check_ids(const journal_fact *f, lx_err *err)
{
    if (f->type == JOURNAL_MARK)
        return LX_OK;
    if (f->type == JOURNAL_ACCEPTED)
        return lx_job_check(&f->job, err) == LX_OK ? LX_OK : LX_ECONFIG;
    size_t n = strlen(f->job.id);
    if (n < 1 || strspn(f->job.id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                   "0123456789_-") != n)
        return lx_fail(err, LX_ECONFIG, "id: no job id");
    return LX_OK;
}

lx_status journal_decode(const journal_record *record, journal_fact *f, lx_err *err)
{
    reader r = {record->payload, record->payload_bytes, NULL};
    if (record->type < JOURNAL_ACCEPTED || record->type >= JOURNAL_TYPE_COUNT)
        return lx_fail(err, LX_ECONFIG, "record of unknown type %u: written by a newer lx2v?",
                       record->type);
    memset(f, 0, sizeof *f);
    f->type = (journal_type)record->type;
    f->sequence = record->sequence;
    f->wall_us = (int64_t)get_count(&r, INT64_MAX, "wall");
    f->boot = get(&r, 8, "boot");
    f->at_s = get_real(&r, 0, "at");
    get_text(&r, f->job.id, sizeof f->job.id, "id");
    if (f->type == JOURNAL_ACCEPTED) {
        get_job(&r, f);
    } else if (f->type == JOURNAL_LATENT) {
        f->latent_bytes = get_count(&r, 1000000000000000, "latent_bytes");
        f->latent_crc = (uint32_t)get(&r, 4, "latent_crc");
    } else if (f->type == JOURNAL_ENDED) {
        get_end(&r, f);
    }
    if (r.bad)
        return lx_fail(err, LX_ECONFIG, "%s record: field %s is not one of ours",
                       journal_type_name(f->type), r.bad);
    if (r.left)
        return lx_fail(err, LX_ECONFIG, "%s record: %zu bytes after its end",
                       journal_type_name(f->type), r.left);
    lx_status status = check_ids(f, err);
    if (status != LX_OK && err) {
        err->status = LX_ECONFIG;
        lx_wrap(err, "%s record", journal_type_name(f->type));
    }
    return status;
}

lx_status journal_head_check(const unsigned char *bytes, size_t n, uint64_t *first_sequence,
                             lx_err *err)
{
    if (n < JOURNAL_HEAD_BYTES || memcmp(bytes, magic, sizeof magic) != 0 ||
        number_at(bytes + 12, 4) != crc_of_head(bytes))
        return lx_fail(err, LX_ECONFIG, "offset 0: its head is not that of a journal");
    uint64_t version = number_at(bytes + 8, 4);
    if (version != JOURNAL_VERSION)
        return lx_fail(err, LX_ECONFIG, "a journal of version %u; this lx2v reads version %d",
                       (unsigned)version, JOURNAL_VERSION);
    *first_sequence = number_at(bytes + 16, 8);
    return LX_OK;
}

bool journal_record_may_be(const unsigned char *bytes, size_t n, uint64_t low, uint64_t high)
{
    if (n < JOURNAL_RECORD_BYTES || number_at(bytes, 4) > JOURNAL_PAYLOAD_MAX)
        return false;
    uint64_t sequence = number_at(bytes + 8, 8);
    return sequence >= low && sequence <= high;
}

static bool is_zero(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i])
            return false;
    return true;
}

journal_look journal_record_look(const unsigned char *bytes, size_t n, journal_record *out)
{
    size_t head = n < JOURNAL_RECORD_BYTES ? n : JOURNAL_RECORD_BYTES;
    if (is_zero(bytes, head))
        return JOURNAL_EMPTY;
    if (n < JOURNAL_RECORD_BYTES)
        return JOURNAL_SHORT;
    uint64_t payload_bytes = number_at(bytes, 4);
    if (payload_bytes > JOURNAL_PAYLOAD_MAX)
        return JOURNAL_BAD;
    if (payload_bytes > n - JOURNAL_RECORD_BYTES)
        return JOURNAL_SHORT;
    if (number_at(bytes + 4, 4) != crc_of(bytes, (size_t)payload_bytes))
        return JOURNAL_BAD;
    *out = (journal_record){.sequence = number_at(bytes + 8, 8),
                            .type = (uint16_t)number_at(bytes + 16, 2),
                            .back = (uint16_t)number_at(bytes + 18, 2),
                            .payload = bytes + JOURNAL_RECORD_BYTES,
                            .payload_bytes = (size_t)payload_bytes,
                            .bytes = JOURNAL_RECORD_BYTES + (size_t)payload_bytes};
    return JOURNAL_GOOD;
}
