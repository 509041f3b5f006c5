/*
 * weights_internal.h - what the readers of one format hand to the one loader
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      A reader (safetensors.c, pth.c) checks a file's structure and appends one lx_entry per
 *           wanted tensor: where its bytes lie, nothing read yet. weights.c lays memory out, reads
 *           the bytes, folds scales and answers lx_weights.h.
 * Not here  Anything a user of common/weights may include.
 */
#ifndef LX_WEIGHTS_INTERNAL_H
#define LX_WEIGHTS_INTERNAL_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "lx_weights.h"

#define LX_LIMIT_TENSOR_NAME 1024       /* bytes */
#define LX_LIMIT_TENSORS     1000000    /* of one checkpoint */
#define LX_LIMIT_FILES       512        /* of one checkpoint: all stay open while it is read */
#define LX_LIMIT_HEADER      100000000u /* safetensors: a decimal constant, not MiB */

/* A file held open, so that what was checked is what is read. */
typedef struct lx_source {
    char *path; /* owned */
    int fd;     /* owned */
    uint64_t bytes;
    struct stat stat; /* as opened; compared again after reading */
} lx_source;

/** Open a regular file. LX_ECONFIG: missing, unreadable, a directory, empty. */
lx_status lx_source_open(lx_source *out, const char *path, lx_err *err);
void lx_source_close(lx_source *source);
/** Exactly n bytes or LX_ECONFIG ("shrank"); never SIGBUS. */
lx_status lx_source_read(const lx_source *source, uint64_t offset, void *out, uint64_t n,
                         lx_err *err);
/** LX_ECONFIG if size or modification time differ from when it was opened. */
lx_status lx_source_unchanged(const lx_source *source, lx_err *err);

/* A file that is read again later. */
struct lx_disk {
    lx_source source; /* owned */
    int direct;       /* owned: opened with O_DIRECT; -1: refused */
    atomic_bool is_direct;
};

/** source is moved. */
void lx_disk_open(lx_disk *out, lx_source *source);
void lx_disk_close(lx_disk *disk);

/** The hash that a manifest.sha256 beside the file gives; false if there is none (manifest.c). */
bool lx_manifest_hash(const lx_source *source, char hash[65]);
/** Hash the whole file; LX_ECONFIG if it differs. Progress counts the bytes of this file. */
lx_status lx_manifest_check(const lx_source *source, const char *expected,
                            const lx_progress *progress, lx_err *err);

typedef enum lx_magic {
    LX_MAGIC_SAFETENSORS, /* or nothing known: the safetensors reader says what is wrong */
    LX_MAGIC_ZIP,
    LX_MAGIC_OTHER /* recognised as something else: text has what */
} lx_magic;

/** What a file looks like by its first bytes; text: what to tell the user for LX_MAGIC_OTHER. */
lx_status lx_source_sniff(const lx_source *source, lx_magic *out, const char **text, lx_err *err);

/* A tensor as its file declares it. */
typedef struct lx_entry {
    char *name; /* canonical; owned */
    lx_dtype dtype;
    lx_shape shape;
    uint32_t file;   /* index into lx_table.source */
    bool is_strided; /* .pth only: gather with `stride` (elements) instead of one slice */
    bool is_wanted, is_known_dtype;
    uint64_t offset; /* of element 0 in the file */
    uint64_t bytes;  /* packed */
    uint64_t span;   /* strided: bytes from offset to the end of the last element, else = bytes */
    int64_t stride[LX_LIMIT_DIMS];
} lx_entry;

/* Everything one checkpoint consists of. */
typedef struct lx_table {
    const lx_weights_options *options; /* borrowed; may be NULL */
    lx_source *source;                 /* owned [n_sources] */
    size_t n_sources;
    lx_entry *entry; /* owned [n_entries] */
    size_t n_entries, room;
} lx_table;

void lx_table_close(lx_table *table);
/** Open a file and add it; *index is its number. */
lx_status lx_table_add_source(lx_table *table, const char *path, uint32_t *index, lx_err *err);
/** Add an entry; its name is moved on success. */
lx_status lx_table_add(lx_table *table, const lx_entry *entry, lx_err *err);
/** Asks options->wants; NAME.weight_scale goes with NAME.weight. */
bool lx_table_wants(const lx_table *table, const char *name);

/** name without the prefixes that re-packed files put before it. */
const char *lx_canonical_name(const char *name);

/* The map of a sharded checkpoint. */
typedef struct lx_index lx_index;

lx_status lx_index_open(lx_index **out, const char *path, lx_err *err);
void lx_index_close(lx_index **index);
size_t lx_index_shards(const lx_index *index);
const char *lx_index_shard(const lx_index *index, size_t i); /* a plain file name */
/** A shard has a tensor: LX_ECONFIG if the map names another shard for it. name is not canonical.*/
lx_status lx_index_see(lx_index *index, const char *name, size_t shard, lx_err *err);
/** LX_ECONFIG if a mapped tensor was never seen. */
lx_status lx_index_finish(const lx_index *index, lx_err *err);

/** Readers. file: index into table->source. index: may be NULL; shard: the file's number in it. */
lx_status lx_safetensors_scan(lx_table *table, uint32_t file, lx_index *index, size_t shard,
                              lx_err *err);
lx_status lx_pth_scan(lx_table *table, uint32_t file, lx_err *err);

/** Fill a table from a file, a folder or an index (folder.c). */
lx_status lx_table_scan(lx_table *table, const char *path, lx_err *err);

/* --- JSON without a tree --------------------------------------------------------------------- */

/* Walks the members of one JSON object; values are handed out as text. No recursion, no tree of
 * the whole: a header of 100 MB costs nothing beyond itself. */
typedef struct lx_json_walk {
    const char *at, *end;
    int max_depth; /* of the whole text, this object included */
    bool is_started;
} lx_json_walk;

typedef struct lx_json_slice {
    const char *text;
    size_t bytes;
} lx_json_slice;

/** False at the end of the object or on error; *bad then says what is wrong (NULL: nothing). */
bool lx_json_next(lx_json_walk *walk, lx_json_slice *key, lx_json_slice *value, const char **bad);
/** Decode a JSON string slice into out (with terminator); false: syntax, UTF-8, NUL, too long. */
bool lx_json_string(lx_json_slice slice, char *out, size_t room);

/* Index of a weight's first value that is not finite, UINT64_MAX if all are (float types only). */
uint64_t lx_weights_first_bad(const lx_weights *weights, size_t i);

#endif
