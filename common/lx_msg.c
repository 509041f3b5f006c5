/*
 * lx_msg.c - one schema table per message, one encoder and one decoder for all of them
 * SPDX-License-Identifier: Apache-2.0
 *
 * msgpack-c packs. Unpacking is ours: a cursor that checks every length against the bytes that are
 * there and writes into the fixed struct, so a hostile message can ask for nothing.
 */
#include "lx_msg.h"

#include <inttypes.h>
#include <math.h>
#include <msgpack.h>
#include <string.h>

#include "lx_share_device.h"
#include "lx_utf8.h"

typedef enum field_type {
    FIELD_I32,
    FIELD_I64,
    FIELD_U64,
    FIELD_F64,
    FIELD_TEXT, /* char[size], NUL-terminated here, a msgpack str there */
    FIELD_MAP,  /* a nested struct with its own table */
} field_type;

typedef struct field {
    const char *key;
    field_type type;
    uint32_t offset, size; /* in the struct; size of one element */
    uint32_t count;        /* elements; > 1: a msgpack array */
    int32_t length_offset; /* >= 0: an int32 here says how many of `count` are used */
    double low, high;      /* numbers: accepted range */
    const struct field *map;
    uint32_t n_map;
} field;

#define MANY              1e18
#define AT(type_, member) offsetof(type_, member), sizeof(((type_ *)0)->member)
#define NUMBER(type_, kind_, key_, member, low_, high_)                                            \
    {                                                                                              \
        key_, FIELD_##kind_, AT(type_, member), 1, -1, low_, high_, NULL, 0                        \
    }
#define TEXT(type_, key_, member)                                                                  \
    {                                                                                              \
        key_, FIELD_TEXT, AT(type_, member), 1, -1, 0, 0, NULL, 0                                  \
    }
#define ARRAY(type_, kind_, key_, member, low_, high_)                                             \
    {                                                                                              \
        key_, FIELD_##kind_, offsetof(type_, member), sizeof(((type_ *)0)->member[0]),             \
            sizeof(((type_ *)0)->member) / sizeof(((type_ *)0)->member[0]), -1, low_, high_, NULL, \
            0                                                                                      \
    }
#define LIST(type_, kind_, key_, member, length, low_, high_)                                      \
    {                                                                                              \
        key_, FIELD_##kind_, offsetof(type_, member), sizeof(((type_ *)0)->member[0]),             \
            sizeof(((type_ *)0)->member) / sizeof(((type_ *)0)->member[0]),                        \
            offsetof(type_, length), low_, high_, NULL, 0                                          \
    }
#define MAP(type_, key_, member, table)                                                            \
    {                                                                                              \
        key_, FIELD_MAP, AT(type_, member), 1, -1, 0, 0, table, sizeof(table) / sizeof(*table)     \
    }

static const field ticket_fields[] = {
    NUMBER(lx_ticket, U64, "serial", serial, 0, MANY),
    NUMBER(lx_ticket, U64, "epoch", epoch, 0, MANY),
    TEXT(lx_ticket, "name", name),
    NUMBER(lx_ticket, I32, "dtype", dtype, 0, LX_DTYPE_COUNT - 1),
    LIST(lx_ticket, I64, "dims", dims, n_dims, 0, 1.1e12),
    NUMBER(lx_ticket, U64, "bytes", bytes, 0, 1e15),
};

/* SUBMIT may leave fields open (0, "" or -1), so ranges begin there; lx_job_check is stricter. */
static const field job_fields[] = {
    TEXT(lx_job, "id", id),
    TEXT(lx_job, "prompt", prompt),
    NUMBER(lx_job, I32, "width", width, 0, LX_LIMIT_SIDE),
    NUMBER(lx_job, I32, "height", height, 0, LX_LIMIT_SIDE),
    NUMBER(lx_job, I32, "frames", frames, 0, LX_LIMIT_FRAMES),
    NUMBER(lx_job, F64, "fps", fps, 0, 1000),
    NUMBER(lx_job, I64, "seed", seed, LX_SEED_DRAW, 9.3e18),
    NUMBER(lx_job, I32, "sampler", sampler, -1, LX_SAMPLER_COUNT - 1),
    NUMBER(lx_job, F64, "shift", shift, 0, 1000),
    LIST(lx_job, I32, "steps", steps, n_steps, 1, 1000),
    TEXT(lx_job, "rng", rng),
    TEXT(lx_job, "output", output),
};

static const field head_fields[] = {
    NUMBER(lx_msg, U64, "req", req, 0, MANY),
    TEXT(lx_msg, "job", job),
    NUMBER(lx_msg, I32, "attempt", attempt, 0, 1000000),
};

static const field hello_fields[] = {
    TEXT(lx_msg, "token", u.hello.token),
    NUMBER(lx_msg, I32, "stage", u.hello.stage, 0, LX_STAGE_COUNT - 1),
    NUMBER(lx_msg, I32, "replica", u.hello.replica, 0, LX_LIMIT_REPLICAS - 1),
    NUMBER(lx_msg, U64, "epoch", u.hello.epoch, 0, MANY),
    NUMBER(lx_msg, I64, "pid", u.hello.pid, 1, 4194304),
    TEXT(lx_msg, "version", u.hello.version),
};

static const field ready_fields[] = {
    NUMBER(lx_msg, F64, "load_s", u.ready.load_s, 0, MANY),
    NUMBER(lx_msg, U64, "weight_bytes", u.ready.weight_bytes, 0, 1e15),
    NUMBER(lx_msg, U64, "arena_bytes", u.ready.arena_bytes, 0, 1e15),
    TEXT(lx_msg, "weights_id", u.ready.weights_id),
};

static const field beat_fields[] = {
    NUMBER(lx_msg, F64, "at_s", u.beat.at_s, 0, MANY),
    NUMBER(lx_msg, U64, "moved", u.beat.moved, 0, MANY),
    TEXT(lx_msg, "unit", u.beat.unit),
    NUMBER(lx_msg, U64, "done", u.beat.done, 0, MANY),
    NUMBER(lx_msg, U64, "total", u.beat.total, 0, MANY),
    NUMBER(lx_msg, U64, "rss_bytes", u.beat.rss_bytes, 0, 1e15),
    NUMBER(lx_msg, U64, "peak_bytes", u.beat.peak_bytes, 0, 1e15),
};

static const field artifact_fields[] = {
    NUMBER(lx_msg, I32, "index", u.artifact.index, 0, LX_LIMIT_FRAMES),
    NUMBER(lx_msg, I32, "is_last", u.artifact.is_last, 0, 1),
    MAP(lx_msg, "ticket", u.artifact.ticket, ticket_fields),
};

static const field lease_fields[] = {
    NUMBER(lx_msg, U64, "serial", u.lease.serial, 0, MANY),
};

static const field done_fields[] = {
    NUMBER(lx_msg, F64, "start_s", u.done.start_s, 0, MANY),
    NUMBER(lx_msg, F64, "end_s", u.done.end_s, 0, MANY),
    NUMBER(lx_msg, F64, "wait_s", u.done.wait_s, 0, MANY),
    NUMBER(lx_msg, U64, "peak_bytes", u.done.peak_bytes, 0, 1e15),
    LIST(lx_msg, F64, "step_s", u.done.step_s, u.done.n_step_s, 0, MANY),
    NUMBER(lx_msg, I32, "n_tokens", u.done.n_tokens, 0, 1e6),
    NUMBER(lx_msg, I32, "n_dropped", u.done.n_dropped, 0, 1e6),
    NUMBER(lx_msg, U64, "saved_bytes", u.done.saved_bytes, 0, 1e15),
    NUMBER(lx_msg, U64, "saved_crc", u.done.saved_crc, 0, UINT32_MAX),
    NUMBER(lx_msg, I32, "n_frames", u.done.n_frames, 0, LX_LIMIT_FRAMES),
    NUMBER(lx_msg, U64, "file_bytes", u.done.file_bytes, 0, 1e15),
    TEXT(lx_msg, "notice", u.done.notice),
};

static const field failed_fields[] = {
    NUMBER(lx_msg, I32, "status", u.failed.status, 0, LX_ECANCEL),
    TEXT(lx_msg, "text", u.failed.text),
    TEXT(lx_msg, "field", u.failed.field),
    NUMBER(lx_msg, I64, "retry_after_ms", u.failed.retry_after_ms, 0, 1e9),
};

static const field work_fields[] = {
    MAP(lx_msg, "work", u.work.job, job_fields),
    MAP(lx_msg, "ticket", u.work.ticket, ticket_fields),
};

static const field order_fields[] = {
    MAP(lx_msg, "work", u.work.job, job_fields),
    MAP(lx_msg, "ticket", u.work.ticket, ticket_fields),
    NUMBER(lx_msg, U64, "saved_bytes", u.work.saved_bytes, 0, 1e15),
    NUMBER(lx_msg, U64, "saved_crc", u.work.saved_crc, 0, UINT32_MAX),
};

static const field query_fields[] = {
    NUMBER(lx_msg, I32, "want_stages", u.query.want_stages, 0, 1),
    NUMBER(lx_msg, I32, "want_jobs", u.query.want_jobs, 0, 1),
};

static const field command_fields[] = {
    NUMBER(lx_msg, I32, "command", u.command.command, 0, LX_COMMAND_COUNT - 1),
};

static const field ok_fields[] = {
    TEXT(lx_msg, "text", u.ok.text),
    NUMBER(lx_msg, I64, "value", u.ok.value, -MANY, MANY),
};

static const field accepted_fields[] = {
    NUMBER(lx_msg, I64, "seed", u.accepted.seed, 0, 9.3e18),
    NUMBER(lx_msg, I64, "ahead", u.accepted.ahead, 0, LX_LIMIT_QUEUE),
    NUMBER(lx_msg, I32, "is_new", u.accepted.is_new, 0, 1),
    TEXT(lx_msg, "output", u.accepted.output),
    TEXT(lx_msg, "notice", u.accepted.notice),
};

static const field job_info_fields[] = {
    NUMBER(lx_msg, I32, "state", u.job_info.state, 0, LX_JOB_STATE_COUNT - 1),
    NUMBER(lx_msg, I64, "seed", u.job_info.seed, 0, 9.3e18),
    NUMBER(lx_msg, I32, "width", u.job_info.width, 0, LX_LIMIT_SIDE),
    NUMBER(lx_msg, I32, "height", u.job_info.height, 0, LX_LIMIT_SIDE),
    NUMBER(lx_msg, I32, "frames", u.job_info.frames, 0, LX_LIMIT_FRAMES),
    TEXT(lx_msg, "output", u.job_info.output),
    TEXT(lx_msg, "error", u.job_info.error),
    TEXT(lx_msg, "prompt", u.job_info.prompt),
    NUMBER(lx_msg, F64, "submit_s", u.job_info.submit_s, 0, MANY),
    NUMBER(lx_msg, F64, "end_s", u.job_info.end_s, 0, MANY),
    NUMBER(lx_msg, I32, "n_tokens", u.job_info.n_tokens, 0, 1e6),
    NUMBER(lx_msg, I32, "n_dropped", u.job_info.n_dropped, 0, 1e6),
    NUMBER(lx_msg, U64, "file_bytes", u.job_info.file_bytes, 0, 1e15),
    ARRAY(lx_msg, I64, "replica", u.job_info.replica, -1, LX_LIMIT_REPLICAS),
    ARRAY(lx_msg, F64, "start_s", u.job_info.start_s, -1, MANY),
    ARRAY(lx_msg, F64, "finish_s", u.job_info.finish_s, -1, MANY),
    ARRAY(lx_msg, F64, "wait_s", u.job_info.wait_s, 0, MANY),
    ARRAY(lx_msg, U64, "peak_bytes", u.job_info.peak_bytes, 0, 1e15),
    LIST(lx_msg, F64, "step_s", u.job_info.step_s, u.job_info.n_step_s, 0, MANY),
    NUMBER(lx_msg, U64, "retries", u.job_info.retries, 0, 1e6),
};

static const field stage_info_fields[] = {
    NUMBER(lx_msg, I32, "stage", u.stage_info.stage, 0, LX_STAGE_COUNT - 1),
    NUMBER(lx_msg, I32, "replica", u.stage_info.replica, 0, LX_LIMIT_REPLICAS - 1),
    TEXT(lx_msg, "state", u.stage_info.state),
    TEXT(lx_msg, "device", u.stage_info.device),
    NUMBER(lx_msg, I64, "pid", u.stage_info.pid, 0, 4194304),
    TEXT(lx_msg, "unit", u.stage_info.unit),
    NUMBER(lx_msg, U64, "done", u.stage_info.done, 0, MANY),
    NUMBER(lx_msg, U64, "total", u.stage_info.total, 0, MANY),
    NUMBER(lx_msg, U64, "rss_bytes", u.stage_info.rss_bytes, 0, 1e15),
    NUMBER(lx_msg, U64, "peak_bytes", u.stage_info.peak_bytes, 0, 1e15),
    NUMBER(lx_msg, U64, "restarts", u.stage_info.restarts, 0, MANY),
    NUMBER(lx_msg, U64, "jobs", u.stage_info.jobs, 0, MANY),
    TEXT(lx_msg, "text", u.stage_info.text),
};

static const field end_fields[] = {
    NUMBER(lx_msg, F64, "now_s", u.end.now_s, 0, MANY),
    NUMBER(lx_msg, I64, "n_queued", u.end.n_queued, 0, LX_LIMIT_QUEUE),
    NUMBER(lx_msg, I64, "n_running", u.end.n_running, 0, LX_LIMIT_QUEUE),
    TEXT(lx_msg, "state", u.end.state),
};

static const field event_fields[] = {
    NUMBER(lx_msg, F64, "now_s", u.event.now_s, 0, MANY),
    NUMBER(lx_msg, I32, "state", u.event.state, 0, LX_JOB_STATE_COUNT - 1),
    NUMBER(lx_msg, I32, "stage", u.event.stage, -1, LX_STAGE_COUNT - 1),
    TEXT(lx_msg, "unit", u.event.unit),
    NUMBER(lx_msg, U64, "done", u.event.done, 0, MANY),
    NUMBER(lx_msg, U64, "total", u.event.total, 0, MANY),
    NUMBER(lx_msg, F64, "elapsed_s", u.event.elapsed_s, 0, MANY),
    NUMBER(lx_msg, F64, "eta_s", u.event.eta_s, -1, MANY),
    TEXT(lx_msg, "text", u.event.text),
};

static const field link_fields[] = {
    NUMBER(lx_msg, U64, "seed", u.link.seed, 0, MANY),
    NUMBER(lx_msg, I32, "transport", u.link.transport, 0, LX_TRANSPORT_COUNT - 1),
    NUMBER(lx_msg, F64, "ms", u.link.ms, 0, MANY),
    MAP(lx_msg, "ticket", u.link.ticket, ticket_fields),
    TEXT(lx_msg, "text", u.link.text),
};

static const field link_info_fields[] = {
    NUMBER(lx_msg, I32, "from", u.link_info.from, 0, LX_STAGE_COUNT - 1),
    NUMBER(lx_msg, I32, "from_replica", u.link_info.from_replica, 0, LX_LIMIT_REPLICAS - 1),
    NUMBER(lx_msg, I32, "to", u.link_info.to, 0, LX_STAGE_COUNT - 1),
    NUMBER(lx_msg, I32, "to_replica", u.link_info.to_replica, 0, LX_LIMIT_REPLICAS - 1),
    NUMBER(lx_msg, I32, "transport", u.link_info.transport, 0, LX_TRANSPORT_COUNT - 1),
    NUMBER(lx_msg, I32, "is_tested", u.link_info.is_tested, 0, 1),
    NUMBER(lx_msg, F64, "ms", u.link_info.ms, 0, MANY),
    TEXT(lx_msg, "text", u.link_info.text),
};

static const field arena_fields[] = {
    NUMBER(lx_msg, U64, "bytes", u.arena.bytes, 0, 1e15),
};

#define BODY(table) table, sizeof(table) / sizeof(*table)
static const struct {
    const char *name;
    const field *fields;
    size_t n;
} schema[LX_MSG_KIND_COUNT] = {
    [LX_MSG_NONE] = {"none", NULL, 0},
    [LX_MSG_HELLO] = {"hello", BODY(hello_fields)},
    [LX_MSG_READY] = {"ready", BODY(ready_fields)},
    [LX_MSG_BEAT] = {"beat", BODY(beat_fields)},
    [LX_MSG_STARTED] = {"started", BODY(beat_fields)},
    [LX_MSG_ARTIFACT] = {"artifact", BODY(artifact_fields)},
    [LX_MSG_RELEASED] = {"released", BODY(lease_fields)},
    [LX_MSG_DONE] = {"done", BODY(done_fields)},
    [LX_MSG_FAILED] = {"failed", BODY(failed_fields)},
    [LX_MSG_JOB] = {"job", BODY(order_fields)},
    [LX_MSG_INPUT] = {"input", BODY(artifact_fields)},
    [LX_MSG_RETIRE] = {"retire", BODY(lease_fields)},
    [LX_MSG_ABORT] = {"abort", NULL, 0},
    [LX_MSG_STOP] = {"stop", NULL, 0},
    [LX_MSG_SUBMIT] = {"submit", BODY(work_fields)},
    [LX_MSG_QUERY] = {"query", BODY(query_fields)},
    [LX_MSG_WATCH] = {"watch", NULL, 0},
    [LX_MSG_COMMAND] = {"command", BODY(command_fields)},
    [LX_MSG_OK] = {"ok", BODY(ok_fields)},
    [LX_MSG_REFUSED] = {"refused", BODY(failed_fields)},
    [LX_MSG_ACCEPTED] = {"accepted", BODY(accepted_fields)},
    [LX_MSG_JOB_INFO] = {"job_info", BODY(job_info_fields)},
    [LX_MSG_STAGE_INFO] = {"stage_info", BODY(stage_info_fields)},
    [LX_MSG_END] = {"end", BODY(end_fields)},
    [LX_MSG_EVENT] = {"event", BODY(event_fields)},
    [LX_MSG_LINK_ASK] = {"link_ask", BODY(link_fields)},
    [LX_MSG_LINK_LENT] = {"link_lent", BODY(link_fields)},
    [LX_MSG_LINK_TEST] = {"link_test", BODY(link_fields)},
    [LX_MSG_LINK_RESULT] = {"link_result", BODY(link_fields)},
    [LX_MSG_LINK_INFO] = {"link_info", BODY(link_info_fields)},
    [LX_MSG_LEASE] = {"lease", BODY(arena_fields)},
    [LX_MSG_RELEASE] = {"release", BODY(arena_fields)},
};

const char *lx_msg_kind_name(lx_msg_kind kind)
{
    return (unsigned)kind < LX_MSG_KIND_COUNT ? schema[kind].name : "unknown";
}

const char *lx_job_state_name(lx_job_state state)
{
    static const char *const names[] = {"queued", "running", "done", "failed", "cancelled"};
    _Static_assert(sizeof names / sizeof *names == LX_JOB_STATE_COUNT, "one name per state");
    return (unsigned)state < LX_JOB_STATE_COUNT ? names[state] : "unknown";
}

/* --- numbers of a field, by type ------------------------------------------------------------- */

typedef union number {
    int64_t i;
    uint64_t u;
    double f;
} number;

static number number_load(const field *f, const unsigned char *at)
{
    number n = {0};
    int32_t small;
    if (f->type == FIELD_I32) {
        memcpy(&small, at, sizeof small);
        n.i = small;
    } else {
        memcpy(&n, at, sizeof n);
    }
    return n;
}

static void number_store(const field *f, unsigned char *at, number n)
{
    int32_t small = (int32_t)n.i;
    if (f->type == FIELD_I32)
        memcpy(at, &small, sizeof small);
    else
        memcpy(at, &n, sizeof n);
}

static bool number_fits(const field *f, number n)
{
    double v = f->type == FIELD_F64 ? n.f : f->type == FIELD_U64 ? (double)n.u : (double)n.i;
    return isfinite(v) && v >= f->low && v <= f->high;
}

static lx_status bad_field(lx_err *err, lx_msg_kind kind, const field *f, const char *what)
{
    return lx_fail(err, LX_EJOB, "message %s: field %s %s", lx_msg_kind_name(kind), f->key, what);
}

/* How many elements of an array field are in use, -1 if the struct holds nonsense. */
static int64_t element_count(const field *f, const unsigned char *base)
{
    if (f->length_offset < 0)
        return f->count;
    int32_t n;
    memcpy(&n, base + f->length_offset, sizeof n);
    return n >= 0 && n <= (int64_t)f->count ? n : -1;
}

/* --- encoding -------------------------------------------------------------------------------- */

typedef struct sink {
    unsigned char *at;
    size_t room, used;
} sink;

static int sink_write(void *data, const char *bytes, size_t n)
{
    sink *s = data;
    if (n > s->room - s->used)
        return -1;
    memcpy(s->at + s->used, bytes, n);
    s->used += n;
    return 0;
}

static int pack_text(msgpack_packer *pk, const char *text, size_t n)
{
    int r = msgpack_pack_str(pk, n);
    return r ? r : msgpack_pack_str_body(pk, text, n);
}

static int pack_number(msgpack_packer *pk, const field *f, number n)
{
    if (f->type == FIELD_F64)
        return msgpack_pack_double(pk, n.f);
    return f->type == FIELD_U64 ? msgpack_pack_uint64(pk, n.u) : msgpack_pack_int64(pk, n.i);
}

static lx_status encode_fields(msgpack_packer *pk, lx_msg_kind kind, const field *fields, size_t n,
                               const unsigned char *base, lx_err *err);

static lx_status encode_value(msgpack_packer *pk, lx_msg_kind kind, const field *f,
                              const unsigned char *base, lx_err *err)
{
    const unsigned char *at = base + f->offset;
    if (f->type == FIELD_MAP) {
        if (msgpack_pack_map(pk, f->n_map))
            return bad_field(err, kind, f, "does not fit");
        return encode_fields(pk, kind, f->map, f->n_map, at, err);
    }
    if (f->type == FIELD_TEXT) {
        size_t length = strnlen((const char *)at, f->size);
        if (length == f->size || lx_utf8_bad((const char *)at, length) != length)
            return bad_field(err, kind, f, "is not a terminated UTF-8 string");
        return pack_text(pk, (const char *)at, length) ? bad_field(err, kind, f, "does not fit")
                                                       : LX_OK;
    }
    int64_t count = element_count(f, base);
    if (count < 0)
        return bad_field(err, kind, f, "has a wrong element count");
    int failed = f->count > 1 ? msgpack_pack_array(pk, (size_t)count) : 0;
    for (int64_t i = 0; i < count && !failed; i++) {
        number v = number_load(f, at + (size_t)i * f->size);
        if (!number_fits(f, v))
            return bad_field(err, kind, f, "is out of range");
        failed = pack_number(pk, f, v);
    }
    return failed ? bad_field(err, kind, f, "does not fit") : LX_OK;
}

static lx_status encode_fields(msgpack_packer *pk, lx_msg_kind kind, const field *fields, size_t n,
                               const unsigned char *base, lx_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (pack_text(pk, fields[i].key, strlen(fields[i].key)))
            return bad_field(err, kind, &fields[i], "does not fit");
        lx_status status = encode_value(pk, kind, &fields[i], base, err);
        if (status != LX_OK)
            return status;
    }
    return LX_OK;
}

#define N_HEAD (sizeof head_fields / sizeof *head_fields)

lx_status lx_msg_encode(const lx_msg *msg, void *buffer, size_t buffer_bytes, size_t *bytes,
                        lx_err *err)
{
    if ((unsigned)msg->kind >= LX_MSG_KIND_COUNT || msg->kind == LX_MSG_NONE)
        return lx_fail(err, LX_EJOB, "message of unknown kind %d", (int)msg->kind);
    sink out = {.at = buffer, .room = buffer_bytes};
    msgpack_packer pk;
    msgpack_packer_init(&pk, &out, sink_write);
    if (msgpack_pack_map(&pk, 1 + N_HEAD + schema[msg->kind].n) || pack_text(&pk, "k", 1) ||
        msgpack_pack_int64(&pk, msg->kind))
        return lx_fail(err, LX_EJOB, "message %s does not fit", lx_msg_kind_name(msg->kind));
    const unsigned char *base = (const unsigned char *)msg;
    lx_status status = encode_fields(&pk, msg->kind, head_fields, N_HEAD, base, err);
    if (status == LX_OK)
        status =
            encode_fields(&pk, msg->kind, schema[msg->kind].fields, schema[msg->kind].n, base, err);
    if (status == LX_OK)
        *bytes = out.used;
    return status;
}

/* --- decoding -------------------------------------------------------------------------------- */

typedef struct cursor {
    const unsigned char *at;
    size_t left;
} cursor;

static bool take(cursor *c, size_t n, const unsigned char **out)
{
    if (n > c->left)
        return false;
    *out = c->at;
    c->at += n;
    c->left -= n;
    return true;
}

static bool take_be(cursor *c, size_t n, uint64_t *out)
{
    const unsigned char *p;
    if (!take(c, n, &p))
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    *out = v;
    return true;
}

/* A container or string header: fix form in `low..low+mask`, then sized forms by opcode. */
static bool take_header(cursor *c, unsigned fix, unsigned fix_mask, unsigned first_op,
                        const unsigned char *sizes, size_t n_sizes, uint64_t *out)
{
    uint64_t op;
    if (!take_be(c, 1, &op))
        return false;
    if ((op & ~(uint64_t)fix_mask) == fix) {
        *out = op & fix_mask;
        return true;
    }
    if (op < first_op || op - first_op >= n_sizes)
        return false;
    return take_be(c, sizes[op - first_op], out);
}

static bool take_map(cursor *c, uint64_t *n)
{
    static const unsigned char sizes[] = {2, 4};
    return take_header(c, 0x80, 0x0f, 0xde, sizes, 2, n);
}

static bool take_array(cursor *c, uint64_t *n)
{
    static const unsigned char sizes[] = {2, 4};
    return take_header(c, 0x90, 0x0f, 0xdc, sizes, 2, n);
}

static bool take_text(cursor *c, const char **text, size_t *length)
{
    static const unsigned char sizes[] = {1, 2, 4};
    uint64_t n;
    const unsigned char *p;
    if (!take_header(c, 0xa0, 0x1f, 0xd9, sizes, 3, &n) || n > c->left || !take(c, (size_t)n, &p))
        return false;
    *text = (const char *)p;
    *length = (size_t)n;
    return true;
}

static bool take_integer(cursor *c, bool is_unsigned, number *out)
{
    uint64_t op, v;
    if (!take_be(c, 1, &op))
        return false;
    if (op < 0x80) {
        out->u = op;
        return true;
    }
    if (op >= 0xe0) {
        out->i = (int64_t)op - 256;
        return !is_unsigned;
    }
    if (op >= 0xcc && op <= 0xcf) {
        if (!take_be(c, (size_t)1 << (op - 0xcc), &v) || (!is_unsigned && v > INT64_MAX))
            return false;
        out->u = v;
        return true;
    }
    if (op < 0xd0 || op > 0xd3 || !take_be(c, (size_t)1 << (op - 0xd0), &v))
        return false;
    int shift = 64 - (8 << (op - 0xd0));
    out->i = (int64_t)(v << shift) >> shift;
    return !is_unsigned || out->i >= 0;
}

static bool take_number(cursor *c, const field *f, number *out)
{
    if (f->type != FIELD_F64)
        return take_integer(c, f->type == FIELD_U64, out);
    uint64_t op, bits;
    if (!take_be(c, 1, &op) || op != 0xcb || !take_be(c, 8, &bits))
        return false;
    memcpy(&out->f, &bits, sizeof out->f);
    return true;
}

static lx_status decode_map(cursor *c, lx_msg_kind kind, const field *fields, size_t n,
                            unsigned char *base, uint64_t entries, lx_err *err);

static lx_status decode_text(cursor *c, lx_msg_kind kind, const field *f, unsigned char *at,
                             lx_err *err)
{
    const char *text;
    size_t length;
    if (!take_text(c, &text, &length))
        return bad_field(err, kind, f, "is not a string, or is cut off");
    if (length >= f->size)
        return bad_field(err, kind, f, "is too long");
    if (memchr(text, 0, length) || lx_utf8_bad(text, length) != length)
        return bad_field(err, kind, f, "is not UTF-8 text");
    memcpy(at, text, length);
    at[length] = 0;
    return LX_OK;
}

static lx_status decode_value(cursor *c, lx_msg_kind kind, const field *f, unsigned char *base,
                              lx_err *err)
{
    unsigned char *at = base + f->offset;
    uint64_t n = 1;
    if (f->type == FIELD_MAP) {
        if (!take_map(c, &n))
            return bad_field(err, kind, f, "is not a map");
        return decode_map(c, kind, f->map, f->n_map, at, n, err);
    }
    if (f->type == FIELD_TEXT)
        return decode_text(c, kind, f, at, err);
    if (f->count > 1 && !take_array(c, &n))
        return bad_field(err, kind, f, "is not an array");
    if (n > f->count || (f->length_offset < 0 && n != f->count))
        return bad_field(err, kind, f, "has a wrong element count");
    for (uint64_t i = 0; i < n; i++) {
        number v = {0};
        if (!take_number(c, f, &v))
            return bad_field(err, kind, f, "has the wrong type, or is cut off");
        if (!number_fits(f, v))
            return bad_field(err, kind, f, "is out of range");
        number_store(f, at + (size_t)i * f->size, v);
    }
    int32_t length = (int32_t)n;
    if (f->length_offset >= 0)
        memcpy(base + f->length_offset, &length, sizeof length);
    return LX_OK;
}

static const field *field_by_key(const field *fields, size_t n, const char *key, size_t length)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(fields[i].key) == length && !memcmp(fields[i].key, key, length))
            return &fields[i];
    return NULL;
}

/* Exactly the table's fields, each once, in any order. */
static lx_status decode_map(cursor *c, lx_msg_kind kind, const field *fields, size_t n,
                            unsigned char *base, uint64_t entries, lx_err *err)
{
    uint64_t seen = 0;
    if (entries != n)
        return lx_fail(err, LX_EJOB, "message %s: %" PRIu64 " fields where %zu belong",
                       lx_msg_kind_name(kind), entries, n);
    for (size_t i = 0; i < n; i++) {
        const char *key;
        size_t length;
        if (!take_text(c, &key, &length))
            return lx_fail(err, LX_EJOB, "message %s is cut off", lx_msg_kind_name(kind));
        const field *f = field_by_key(fields, n, key, length);
        if (!f)
            return lx_fail(err, LX_EJOB, "message %s has an unknown field", lx_msg_kind_name(kind));
        if (seen >> (f - fields) & 1)
            return bad_field(err, kind, f, "comes twice");
        seen |= (uint64_t)1 << (f - fields);
        lx_status status = decode_value(c, kind, f, base, err);
        if (status != LX_OK)
            return status;
    }
    return LX_OK;
}

/* The first entry is always "k": its value selects the table for the rest. */
static lx_status decode_kind(cursor *c, lx_msg_kind *kind, uint64_t *entries, lx_err *err)
{
    const char *key;
    size_t length;
    number v = {0};
    if (!take_map(c, entries) || !take_text(c, &key, &length) || length != 1 || *key != 'k' ||
        !take_integer(c, true, &v))
        return lx_fail(err, LX_EJOB, "not a message of lx2v");
    if (v.u >= LX_MSG_KIND_COUNT || v.u == LX_MSG_NONE)
        return lx_fail(err, LX_EJOB, "message of unknown kind %" PRIu64, v.u);
    *kind = (lx_msg_kind)v.u;
    return LX_OK;
}

lx_status lx_msg_decode(lx_msg *msg, const void *bytes, size_t n, lx_err *err)
{
    if (n > LX_LIMIT_MESSAGE)
        return lx_fail(err, LX_EJOB, "message of %zu bytes, at most %d are allowed", n,
                       LX_LIMIT_MESSAGE);
    cursor c = {bytes, n};
    uint64_t entries = 0;
    lx_msg_kind kind = LX_MSG_NONE;
    lx_status status = decode_kind(&c, &kind, &entries, err);
    if (status != LX_OK)
        return status;
    memset(msg, 0, sizeof *msg);
    msg->kind = kind;
    /* Head and body are one map on the wire: join their tables (both are short). */
    field fields[32];
    _Static_assert(N_HEAD + sizeof job_info_fields / sizeof *job_info_fields <= 32, "room");
    memcpy(fields, head_fields, sizeof head_fields);
    if (schema[kind].n)
        memcpy(fields + N_HEAD, schema[kind].fields, schema[kind].n * sizeof *fields);
    status = decode_map(&c, kind, fields, N_HEAD + schema[kind].n, (unsigned char *)msg,
                        entries - 1, err);
    if (status == LX_OK && c.left)
        return lx_fail(err, LX_EJOB, "message %s: %zu bytes after its end", lx_msg_kind_name(kind),
                       c.left);
    return status;
}
