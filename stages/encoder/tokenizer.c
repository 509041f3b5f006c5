/*
 * tokenizer.c - literals, words, Viterbi
 * SPDX-License-Identifier: Apache-2.0
 *
 * Sums      of float scores are exact in double, so that equal ways to
 *           cut a word stay equal and the first to reach a place wins, as in the reference.
 */
#include "tokenizer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lx_utf8.h"
#include "tokenizer_build.h"
#include "weights/lx_manifest.h"

#define SPACE       "\xE2\x96\x81" /* U+2581, the mark that begins a word */
#define SPACE_BYTES 3
#define UNK_PENALTY 10.0 /* below the lowest score */
#define UNSET       UINT32_MAX
#define FILE_LIMIT  (64u << 20) /* the real tokenizer.json has 17 MB */
#define TEXT_LIMIT  (1 << 24)

struct encoder_tokenizer {
    tokenizer_parts parts;
    double unk_score;
    int32_t max_id;
    size_t max_bytes;
    /* Workspace for one word; index: bytes from its start. */
    char *word;
    double *best;    /* score of the best way to here */
    uint32_t *start; /* where its last piece starts, UNSET: no way yet */
    int32_t *id;     /* and which piece that is */
};

/* Where ids go: the first max_ids - 1 are kept, the rest are counted. */
typedef struct id_sink {
    int32_t *ids;
    size_t n, room, n_dropped;
} id_sink;

static void sink_put(id_sink *sink, int32_t id)
{
    if (sink->n < sink->room)
        sink->ids[sink->n++] = id;
    else
        sink->n_dropped++;
}

/* --- loading ---------------------------------------------------------------------------------- */

static lx_status check_parts(encoder_tokenizer *t, lx_err *err)
{
    const tokenizer_parts *parts = &t->parts;
    if (parts->pieces.n == 0)
        return lx_fail(err, LX_ECONFIG, "the vocabulary is empty");
    double lowest = parts->pieces.at[0].score;
    for (size_t i = 0; i < parts->pieces.n; i++) {
        const piece *p = &parts->pieces.at[i];
        lowest = p->score < lowest ? p->score : lowest;
        t->max_id = p->id > t->max_id ? p->id : t->max_id;
    }
    for (size_t i = 0; i < parts->literals.n; i++)
        if (parts->literals.at[i].id > t->max_id)
            t->max_id = parts->literals.at[i].id;
    if (parts->unk_id < 0 || (size_t)parts->unk_id >= parts->pieces.n)
        return lx_fail(err, LX_ECONFIG, "unknown-token id %d: the vocabulary has %zu pieces",
                       parts->unk_id, parts->pieces.n);
    if (parts->eos_id < 0 || parts->eos_id > t->max_id)
        return lx_fail(err, LX_ECONFIG, "end-of-text id %d: ids go up to %d", parts->eos_id,
                       t->max_id);
    t->unk_score = lowest - UNK_PENALTY;
    return LX_OK;
}

static lx_status take_workspace(encoder_tokenizer *t, size_t max_bytes, lx_err *err)
{
    if (max_bytes > TEXT_LIMIT)
        return lx_fail(err, LX_ECONFIG, "texts of %zu bytes: at most %d are possible", max_bytes,
                       TEXT_LIMIT);
    size_t n = max_bytes + SPACE_BYTES + 1;
    t->max_bytes = max_bytes;
    t->word = malloc(n);
    t->best = malloc(n * sizeof *t->best);
    t->start = malloc(n * sizeof *t->start);
    t->id = malloc(n * sizeof *t->id);
    if (!t->word || !t->best || !t->start || !t->id)
        return lx_fail(err, LX_EAGAIN, "no memory to tokenize texts of %zu bytes", max_bytes);
    return LX_OK;
}

lx_status encoder_tokenizer_parse(encoder_tokenizer **out, const void *data, size_t bytes,
                                  const char *name, size_t max_bytes, lx_err *err)
{
    static const char lfs[] = "version https://git-lfs";
    if (bytes >= sizeof lfs - 1 && memcmp(data, lfs, sizeof lfs - 1) == 0)
        return lx_fail(err, LX_ECONFIG,
                       "%s: only a git-lfs pointer, not the tokenizer; run `git lfs pull` in its "
                       "folder or download the file",
                       name);
    encoder_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return lx_fail(err, LX_EAGAIN, "no memory for a tokenizer");
    t->parts.unk_id = t->parts.eos_id = -1;
    bool is_json = bytes > 0 && *(const char *)data == '{';
    lx_status status = is_json ? tokenizer_read_json(&t->parts, data, bytes, err)
                               : tokenizer_read_spiece(&t->parts, data, bytes, err);
    if (status == LX_OK)
        status = check_parts(t, err);
    if (status == LX_OK)
        status = take_workspace(t, max_bytes, err);
    if (status != LX_OK) {
        encoder_tokenizer_close(&t);
        return lx_wrap(err, "%s", name);
    }
    *out = t;
    return LX_OK;
}

static lx_status read_whole(int fd, size_t bytes, const char *path, char **out, lx_err *err)
{
    char *data = malloc(bytes + 1);
    if (!data)
        return lx_fail(err, LX_EAGAIN, "%s: no memory for its %zu bytes", path, bytes);
    size_t n = 0;
    while (n < bytes) {
        ssize_t got = read(fd, data + n, bytes - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            int error = errno;
            free(data);
            return lx_fail(err, LX_ECONFIG, "%s: ends after %zu of %zu bytes%s%s", path, n, bytes,
                           got < 0 ? ": " : "", got < 0 ? strerror(error) : "");
        }
        n += (size_t)got;
    }
    *out = data;
    return LX_OK;
}

static lx_status open_file(encoder_tokenizer **out, const char *path, size_t max_bytes, lx_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    struct stat st;
    char *data = NULL;
    lx_status status;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        status = lx_fail(err, LX_ECONFIG, "%s: not an ordinary file", path);
    else if (st.st_size < 1 || st.st_size > (off_t)FILE_LIMIT)
        status = lx_fail(err, LX_ECONFIG, "%s: %" PRId64 " bytes; a tokenizer has 1 to %u", path,
                         (int64_t)st.st_size, FILE_LIMIT);
    else
        status = read_whole(fd, (size_t)st.st_size, path, &data, err);
    close(fd);
    if (status == LX_OK && data)
        status = lx_manifest_check_bytes(path, data, (size_t)st.st_size, err);
    if (status == LX_OK && data)
        status = encoder_tokenizer_parse(out, data, (size_t)st.st_size, path, max_bytes, err);
    free(data);
    return status;
}

lx_status encoder_tokenizer_open(encoder_tokenizer **out, const char *path, size_t max_bytes,
                                 lx_err *err)
{
    static const char *const names[] = {"tokenizer.json", "spiece.model"};
    struct stat st;
    if (stat(path, &st) != 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return open_file(out, path, max_bytes, err);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char file[4096];
        int n = snprintf(file, sizeof file, "%s/%s", path, names[i]);
        if (n > 0 && (size_t)n < sizeof file && stat(file, &st) == 0)
            return open_file(out, file, max_bytes, err);
    }
    return lx_fail(err, LX_ECONFIG,
                   "%s: has neither tokenizer.json nor spiece.model; download the model's "
                   "google/umt5-xxl folder, or name the file with model.tokenizer or --tokenizer",
                   path);
}

void encoder_tokenizer_close(encoder_tokenizer **tokenizer)
{
    if (!tokenizer || !*tokenizer)
        return;
    encoder_tokenizer *t = *tokenizer;
    piece_index_free(&t->parts.pieces);
    piece_index_free(&t->parts.literals);
    free(t->word);
    free(t->best);
    free(t->start);
    free(t->id);
    free(t);
    *tokenizer = NULL;
}

int32_t encoder_tokenizer_max_id(const encoder_tokenizer *tokenizer)
{
    return tokenizer->max_id;
}

int32_t encoder_tokenizer_pieces(const encoder_tokenizer *tokenizer)
{
    return (int32_t)tokenizer->parts.pieces.n;
}

/* --- one word --------------------------------------------------------------------------------- */

/* Bytes of the character at p; the text was checked to be UTF-8. */
static size_t char_bytes(const char *p)
{
    unsigned char c = (unsigned char)*p;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* A way to `end` whose last piece starts at `from`: kept if it is the first or strictly better. */
static void offer(encoder_tokenizer *t, size_t end, size_t from, double score, int32_t id)
{
    if (t->start[end] != UNSET && !(score > t->best[end]))
        return;
    t->best[end] = score;
    t->start[end] = (uint32_t)from;
    t->id[end] = id;
}

static void viterbi(encoder_tokenizer *t, size_t n)
{
    const piece_index *pieces = &t->parts.pieces;
    for (size_t i = 0; i <= n; i++)
        t->start[i] = UNSET;
    t->best[0] = 0;
    for (size_t p = 0; p < n;) {
        size_t width = char_bytes(t->word + p);
        bool has_single = false;
        piece_range range = piece_range_start(pieces);
        for (size_t end = p;
             end < n && piece_range_narrow(pieces, &range, (unsigned char)t->word[end]);) {
            const piece *found = piece_range_exact(pieces, &range);
            end++;
            if (!found)
                continue;
            offer(t, end, p, t->best[p] + found->score, found->id);
            has_single |= end - p == width;
        }
        if (!has_single)
            offer(t, p + width, p, t->best[p] + t->unk_score, t->parts.unk_id);
        p += width;
    }
}

/* Cut t->word[0..n) into pieces. Each run of unknown characters becomes one unknown id. */
static void tokenize_word(encoder_tokenizer *t, size_t n, id_sink *sink)
{
    viterbi(t, n);
    /* The way runs backwards: turn it round in place, so that start[] holds where the next ends. */
    uint32_t next = UNSET;
    for (size_t end = n; end > 0;) {
        size_t from = t->start[end];
        t->start[end] = next;
        next = (uint32_t)end;
        end = from;
    }
    bool was_unknown = false;
    for (uint32_t end = next; end != UNSET; end = t->start[end]) {
        bool is_unknown = t->id[end] == t->parts.unk_id;
        if (!is_unknown || !was_unknown)
            sink_put(sink, t->id[end]);
        was_unknown = is_unknown;
    }
}

/* --- one text --------------------------------------------------------------------------------- */

static bool starts_word(const char *p, size_t left)
{
    return *p == ' ' || (left >= SPACE_BYTES && memcmp(p, SPACE, SPACE_BYTES) == 0);
}

/* Text between two literals. A run of spaces is one; each space or typed U+2581 begins a word, and
 * so does the segment itself. */
static void tokenize_segment(encoder_tokenizer *t, const char *text, size_t n, id_sink *sink)
{
    for (size_t i = 0; i < n;) {
        memcpy(t->word, SPACE, SPACE_BYTES);
        size_t length = SPACE_BYTES;
        if (text[i] == ' ')
            while (i < n && text[i] == ' ')
                i++;
        else if (starts_word(text + i, n - i))
            i += SPACE_BYTES;
        while (i < n && !starts_word(text + i, n - i))
            t->word[length++] = text[i++];
        tokenize_word(t, length, sink);
    }
}

static const piece *longest_literal(const piece_index *literals, const char *text, size_t left)
{
    const piece *longest = NULL;
    piece_range range = piece_range_start(literals);
    for (size_t i = 0; i < left && piece_range_narrow(literals, &range, (unsigned char)text[i]);
         i++) {
        const piece *found = piece_range_exact(literals, &range);
        longest = found ? found : longest;
    }
    return longest;
}

static lx_status check_text(const encoder_tokenizer *t, const char *text, size_t bytes, lx_err *err)
{
    if (bytes > t->max_bytes)
        return lx_fail(err, LX_EJOB, "text of %zu bytes: at most %zu were planned for", bytes,
                       t->max_bytes);
    size_t bad = lx_utf8_bad(text, bytes);
    if (bad < bytes)
        return lx_fail(err, LX_EJOB, "text is not UTF-8 at byte %zu of %zu", bad, bytes);
    return LX_OK;
}

lx_status encoder_tokenize(encoder_tokenizer *t, const char *text, size_t bytes, int32_t *ids,
                           size_t max_ids, encoder_token_counts *counts, lx_err *err)
{
    lx_status status = check_text(t, text, bytes, err);
    if (status != LX_OK)
        return status;
    if (max_ids < 1)
        return lx_fail(err, LX_EJOB, "no room for the end-of-text id");
    id_sink sink = {.ids = ids, .room = max_ids - 1};
    size_t segment = 0, i = 0;
    while (i < bytes) {
        const piece *literal = longest_literal(&t->parts.literals, text + i, bytes - i);
        if (!literal) {
            i++;
            continue;
        }
        tokenize_segment(t, text + segment, i - segment, &sink);
        sink_put(&sink, literal->id);
        i += literal->length;
        segment = i;
    }
    tokenize_segment(t, text + segment, bytes - segment, &sink);
    ids[sink.n] = t->parts.eos_id;
    counts->n = (int32_t)sink.n + 1;
    counts->n_dropped = (int32_t)sink.n_dropped;
    return LX_OK;
}
