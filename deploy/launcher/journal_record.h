/*
 * journal_record.h - a fact about a job as bytes, and back
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Form of the journal's file: a head of 32 bytes, then records. Nothing here touches a
 *           file. All numbers are little-endian.
 *             head    "LX2VJRNL", version u32, CRC-32C of the rest u32, first sequence u64, 0 u64
 *             record  payload bytes u32, CRC u32 (of all but itself), sequence u64, type u16,
 *                     back u16, payload
 *           back counts the records before this one that were written since the last sync: a bad
 *           record that a good one refers back to had never been promised to anybody, a bad one
 *           before a sync had (journal_replay.c tells a torn end from damage by it).
 * Promise   Decoding hostile bytes never reads past them; a decoded job has passed lx_job_check.
 * Tests     tests/launcher/test_journal.c, tests/fuzz/fuzz_journal.c
 */
#ifndef JOURNAL_RECORD_H
#define JOURNAL_RECORD_H

#include "lx_msg.h"

#define JOURNAL_HEAD_BYTES   32
#define JOURNAL_RECORD_BYTES 20 /* before the payload */
#define JOURNAL_PAYLOAD_MAX  (20 * 1024)
#define JOURNAL_VERSION      1

typedef enum journal_type {
    JOURNAL_ACCEPTED = 1, /* a job is ours; a second time for an ended one: it was retried */
    JOURNAL_LATENT,       /* its latent lies in the spool */
    JOURNAL_ENDED,        /* done, failed or cancelled */
    JOURNAL_MARK,         /* no job: the file was opened or closed in order */
    JOURNAL_TYPE_COUNT
} journal_type;

const char *journal_type_name(journal_type type); /* "accepted", "latent", "ended", "mark" */

typedef struct journal_part { /* of an ended job: what one stage's part took */
    int32_t replica;
    double start_s, end_s, wait_s;
    uint64_t peak_bytes;
} journal_part;

typedef struct journal_fact {
    journal_type type;
    uint64_t sequence; /* of the record; 0 when it is to be written */
    int64_t wall_us;   /* since 1970 */
    uint64_t boot;     /* of the machine: monotonic times of another boot mean nothing */
    double at_s;       /* monotonic: when it was accepted, saved, ended */
    lx_job job;        /* ACCEPTED: complete; LATENT and ENDED: its id alone */

    /* ACCEPTED */
    bool has_drawn_seed;
    uint64_t key; /* lx_peer's of whose job it is; 0: nobody's that would be known again */

    /* LATENT */
    uint64_t latent_bytes;
    uint32_t latent_crc;

    /* ENDED */
    lx_job_state state;
    double begin_s;
    char error[LX_LIMIT_TEXT], notice[LX_LIMIT_TEXT];
    int32_t n_tokens, n_dropped, n_frames, n_step_s;
    double step_s[LX_LIMIT_STEPS];
    uint64_t file_bytes, retries;
    journal_part part[LX_STAGE_COUNT];
} journal_fact;

/* Room that an ended and a latent record of one job may take: kept free since its acceptance. */
#define JOURNAL_RESERVE 4096

void journal_head_encode(unsigned char out[JOURNAL_HEAD_BYTES], uint64_t first_sequence);
/** LX_ECONFIG: not a journal, damaged, or of another version. */
lx_status journal_head_check(const unsigned char *bytes, size_t n, uint64_t *first_sequence,
                             lx_err *err);

/** One record into at least JOURNAL_RECORD_BYTES + JOURNAL_PAYLOAD_MAX bytes; returns its size. */
size_t journal_encode(const journal_fact *fact, uint64_t sequence, uint16_t back,
                      unsigned char *out);

typedef struct journal_record {
    uint64_t sequence;
    uint16_t type, back;
    const unsigned char *payload; /* borrowed from the bytes that were looked at */
    size_t payload_bytes, bytes;  /* bytes: with the head */
} journal_record;

typedef enum journal_look {
    JOURNAL_GOOD,  /* whole, and its CRC holds */
    JOURNAL_EMPTY, /* zeros: never written */
    JOURNAL_SHORT, /* more bytes are needed to tell */
    JOURNAL_BAD
} journal_look;

/** What begins here? n: bytes that are there; records are at most RECORD_BYTES + PAYLOAD_MAX. */
journal_look journal_record_look(const unsigned char *bytes, size_t n, journal_record *out);

/** Could a record with a sequence of low..high begin here? Cheap, for searching byte by byte. */
bool journal_record_may_be(const unsigned char *bytes, size_t n, uint64_t low, uint64_t high);

/** The fact in a good record. LX_ECONFIG: says which field. */
lx_status journal_decode(const journal_record *record, journal_fact *out, lx_err *err);

#endif
