/*
 * spiece.c - the vocabulary from SentencePiece's spiece.model, a protobuf message
 * SPDX-License-Identifier: Apache-2.0
 *
 * Layout (sentencepiece_model.proto), the fields that matter:
 *   ModelProto       1: piece (repeated)  2: trainer_spec  3: normalizer_spec
 *   SentencePiece    1: text  2: score (float)  3: type (1 normal, 2 unknown, 3 control, ...)
 *   TrainerSpec      3: model_type (1: unigram)
 *   NormalizerSpec   2: precompiled_charsmap  3: add_dummy_prefix  5: escape_whitespaces
 * The ids above the pieces exist only in the Hugging Face files; they are UMT5's: <extra_id_k> is
 * pieces + 299 - k, descending.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tokenizer_build.h"

#define EOS "</s>"

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_LAST = 6 };
enum { MODEL_UNIGRAM = 1 };

typedef struct reader {
    const unsigned char *at, *end;
    const unsigned char *start; /* of the file: errors name the offset */
} reader;

typedef struct field {
    uint32_t number;
    int wire;
    uint64_t value; /* WIRE_VARINT, WIRE_32, WIRE_64 */
    reader bytes;   /* WIRE_BYTES */
} field;

static lx_status damaged(const reader *r, const char *what, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG, "byte %td: %s; not a spiece.model, or damaged",
                   r->at - r->start, what);
}

static lx_status read_varint(reader *r, uint64_t *out, lx_err *err)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (r->at == r->end)
            return damaged(r, "ends within a number", err);
        unsigned char byte = *r->at++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80)) {
            *out = value;
            return LX_OK;
        }
    }
    return damaged(r, "number of more than ten bytes", err);
}

static lx_status read_fixed(reader *r, int bytes, uint64_t *out, lx_err *err)
{
    if (r->end - r->at < bytes)
        return damaged(r, "ends within a number", err);
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)*r->at++ << (8 * i);
    *out = value;
    return LX_OK;
}

static lx_status read_field(reader *r, field *out, lx_err *err)
{
    uint64_t key = 0, length = 0;
    lx_status status = read_varint(r, &key, err);
    if (status != LX_OK)
        return status;
    out->wire = (int)(key & 7);
    if (key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return damaged(r, "field without number", err);
    out->number = (uint32_t)(key >> 3);
    switch (out->wire) {
    case WIRE_VARINT:
        return read_varint(r, &out->value, err);
    case WIRE_64:
        return read_fixed(r, 8, &out->value, err);
    case WIRE_32:
        return read_fixed(r, 4, &out->value, err);
    case WIRE_BYTES:
        status = read_varint(r, &length, err);
        if (status != LX_OK)
            return status;
        if (length > (uint64_t)(r->end - r->at))
            return damaged(r, "field reaches beyond its message", err);
        out->bytes = (reader){.at = r->at, .end = r->at + length, .start = r->start};
        r->at += length;
        return LX_OK;
    default:
        return damaged(r, "unknown kind of field", err);
    }
}

static lx_status expect_wire(const reader *r, const field *f, int wire, lx_err *err)
{
    return f->wire == wire ? LX_OK : damaged(r, "field of the wrong kind", err);
}

static float score_of(uint64_t bits)
{
    uint32_t word = (uint32_t)bits;
    float score;
    memcpy(&score, &word, sizeof score);
    return score;
}

/* Unknown and control pieces are also literals, as the conversion to tokenizer.json makes them. */
static lx_status take_piece(tokenizer_parts *parts, const reader *text, float score, uint64_t type,
                            lx_err *err)
{
    const char *bytes = (const char *)text->at;
    size_t length = (size_t)(text->end - text->at);
    int32_t id = (int32_t)parts->pieces.n;
    lx_status status = piece_index_add(&parts->pieces, bytes, length, id, (double)score, err);
    if (status != LX_OK || (type != TYPE_UNKNOWN && type != TYPE_CONTROL))
        return status;
    if (type == TYPE_UNKNOWN) {
        if (parts->unk_id >= 0)
            return lx_fail(err, LX_ECONFIG, "pieces %d and %d are both of type unknown",
                           parts->unk_id, id);
        parts->unk_id = id;
    } else if (length == strlen(EOS) && memcmp(bytes, EOS, length) == 0) {
        parts->eos_id = id;
    }
    if (parts->literals.n >= TOKENIZER_LITERALS)
        return lx_fail(err, LX_ECONFIG, "more than %d control pieces", TOKENIZER_LITERALS);
    return piece_index_add(&parts->literals, bytes, length, id, 0, err);
}

static lx_status read_piece(tokenizer_parts *parts, reader r, lx_err *err)
{
    reader text = {.at = r.at, .end = r.at, .start = r.start};
    float score = 0;
    uint64_t type = TYPE_NORMAL;
    while (r.at < r.end) {
        field f = {0};
        lx_status status = read_field(&r, &f, err);
        if (status == LX_OK && f.number >= 1 && f.number <= 3) {
            static const int wires[] = {WIRE_BYTES, WIRE_32, WIRE_VARINT};
            status = expect_wire(&r, &f, wires[f.number - 1], err);
        }
        if (status != LX_OK)
            return status;
        if (f.number == 1)
            text = f.bytes;
        else if (f.number == 2)
            score = score_of(f.value);
        else if (f.number == 3)
            type = f.value;
    }
    if (type < TYPE_NORMAL || type > TYPE_LAST)
        return damaged(&r, "piece of an unknown type", err);
    return take_piece(parts, &text, score, type, err);
}

static lx_status check_trainer(reader r, lx_err *err)
{
    while (r.at < r.end) {
        field f = {0};
        lx_status status = read_field(&r, &f, err);
        if (status != LX_OK)
            return status;
        if (f.number == 3 && (f.wire != WIRE_VARINT || f.value != MODEL_UNIGRAM))
            return lx_fail(err, LX_ECONFIG,
                           "model type %" PRIu64 " is not Unigram (1): the tokenizer of another "
                           "model",
                           f.value);
    }
    return LX_OK;
}

static lx_status check_normalizer(reader r, lx_err *err)
{
    while (r.at < r.end) {
        field f = {0};
        lx_status status = read_field(&r, &f, err);
        if (status != LX_OK)
            return status;
        if (f.number == 2 && f.wire == WIRE_BYTES && f.bytes.at < f.bytes.end)
            return lx_fail(err, LX_ECONFIG,
                           "has a table of character replacements (%td bytes), UMT5 has none: the "
                           "tokenizer of another model",
                           f.bytes.end - f.bytes.at);
        if ((f.number == 3 || f.number == 5) && f.wire == WIRE_VARINT && f.value == 0)
            return lx_fail(err, LX_ECONFIG,
                           "%s is off, UMT5 has it on: the tokenizer of another "
                           "model",
                           f.number == 3 ? "add_dummy_prefix" : "escape_whitespaces");
    }
    return LX_OK;
}

static lx_status add_extra_ids(tokenizer_parts *parts, lx_err *err)
{
    int32_t n = (int32_t)parts->pieces.n;
    for (int k = 0; k < TOKENIZER_EXTRA_IDS; k++) {
        char text[32];
        int length = snprintf(text, sizeof text, "<extra_id_%d>", k);
        const piece *known = piece_index_find(&parts->pieces, text, (size_t)length);
        int32_t id = known ? known->id : n + TOKENIZER_EXTRA_IDS - 1 - k;
        lx_status status = piece_index_add(&parts->literals, text, (size_t)length, id, 0, err);
        if (status != LX_OK)
            return status;
    }
    return piece_index_sort(&parts->literals, err);
}

lx_status tokenizer_read_spiece(tokenizer_parts *parts, const unsigned char *data, size_t bytes,
                                lx_err *err)
{
    reader r = {.at = data, .end = data + bytes, .start = data};
    while (r.at < r.end) {
        field f = {0};
        lx_status status = read_field(&r, &f, err);
        if (status == LX_OK && f.number <= 3)
            status = expect_wire(&r, &f, WIRE_BYTES, err);
        if (status == LX_OK && f.number == 1)
            status = read_piece(parts, f.bytes, err);
        else if (status == LX_OK && f.number == 2)
            status = check_trainer(f.bytes, err);
        else if (status == LX_OK && f.number == 3)
            status = check_normalizer(f.bytes, err);
        if (status != LX_OK)
            return status;
    }
    if (parts->unk_id < 0 || parts->eos_id < 0)
        return lx_fail(err, LX_ECONFIG, "has no %s piece among %zu; not a spiece.model of UMT5",
                       parts->unk_id < 0 ? "unknown" : EOS, parts->pieces.n);
    lx_status status = piece_index_sort(&parts->pieces, err);
    return status == LX_OK ? add_extra_ids(parts, err) : status;
}
