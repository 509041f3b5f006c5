/*
 * lx_tune.h - which design computes a linear on a card, as measured there
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      lx2v-tune measures every design that a card has on a checkpoint's INT8 linears and
 *           keeps the fastest in a file, one for each kind of card and build of the module:
 *           CACHE/tune/NAME-CAPABILITY-MULTIPROCESSORS-MODULE.json, mode 0600, where CACHE is
 *           lx_cache_folder's. A stage reads it when it opens the card (lx_cuda_tune).
 * Promise   The file is hostile until checked. Whatever is wrong with it costs one warning with
 *           file, key and value, and the built-in choices are used. A table changes no plan: what
 *           it chooses finds room in the scratch that is planned without one (cuda/linear_plan.c).
 * Bits      follow from the design: with another table other bits may come.
 * Tests     tests/kernels/test_tune.c, tests/fuzz/fuzz_tune.c, tests/gpu/test_cuda_tune.c
 */
#ifndef LX_TUNE_H
#define LX_TUNE_H

#include "lx_cuda.h"

#define LX_TUNE_FORMAT    1
#define LX_TUNE_ENTRIES   512
#define LX_TUNE_FILE_MOST (256 << 10) /* bytes */
#define LX_TUNE_ID        41          /* a module's number in hexadecimal digits, and a 0 */
#define LX_TUNE_BUILT_IN  (-1)        /* a design: what is chosen without a table */
#define LX_TUNE_BANDS     4

/* What becomes of the sums: 16-bit rows; added to F32 rows, times a gate or not; gelu, then codes
 * for the next linear. */
typedef enum lx_tune_end {
    LX_TUNE_ROWS,
    LX_TUNE_RESIDUAL,
    LX_TUNE_CODES,
    LX_TUNE_ENDS
} lx_tune_end;

/* One measured linear: x [rows, k] times w [n, k]. */
typedef struct lx_tune_entry {
    int64_t n, k, rows;
    lx_tune_end end;
    int design;   /* lx_tune_design_name's number, or LX_TUNE_BUILT_IN */
    int64_t band; /* codes: rows of a band; 0: as built in. Never more than is planned */
    double ms;
} lx_tune_entry;

typedef struct lx_tune_table {
    int n;
    lx_tune_entry entry[LX_TUNE_ENTRIES];
} lx_tune_table;

/* --- tables: tune.c, no card and no file ------------------------------------------------------ */

/** How many designs there are, and their names: "mma-128x256" ... "cublaslt"; "built-in". */
int lx_tune_designs(void);
const char *lx_tune_design_name(int design);
const char *lx_tune_end_name(lx_tune_end end); /* "rows16", "residual", "codes" */

/** Can this card run that design for n outputs? */
bool lx_tune_can(const lx_card_kind *card, int design, int64_t n);
/** Rows of bands worth trying, the largest first: of few whole waves each. Returns how many. */
int lx_tune_bands(const lx_card_kind *card, int design, int64_t n, int64_t out[LX_TUNE_BANDS]);

/** The entry for a linear: of equal n, k and end that of the nearest number of rows, up to twice
 *  as many or as few. NULL: none; table may be NULL. */
const lx_tune_entry *lx_tune_find(const lx_tune_table *table, int64_t n, int64_t k, int64_t rows,
                                  lx_tune_end end);

/** LX_ECONFIG: key, value and what is accepted. out is undefined then. */
lx_status lx_tune_parse(lx_tune_table *out, const char *text, size_t bytes,
                        const lx_card_kind *card, const char *module, lx_err *err);
/** What lx_tune_parse reads; NULL: no memory. Owned by the caller: free(). */
char *lx_tune_text(const lx_tune_table *table, const lx_card_kind *card, const char *module);

/* --- files: tune_card.c ----------------------------------------------------------------------- */

/** Where the table of this card and module lies. LX_ECONFIG: no folder for it. */
lx_status lx_tune_path(char *out, size_t room, const lx_card_kind *card, const char *module,
                       lx_err *err);
/** The whole table under its name, or nothing; makes the folders. */
lx_status lx_tune_write(const char *path, const lx_tune_table *table, const lx_card_kind *card,
                        const char *module, lx_err *err);
/** LX_EAGAIN: there is none. LX_ECONFIG: not to be believed; the message begins with the path. */
lx_status lx_tune_read(lx_tune_table *out, const char *path, const lx_card_kind *card,
                       const char *module, lx_err *err);

/* --- a card's table: tune_card.c -------------------------------------------------------------- */

/** The module's number, which follows from all that is in it; "": it has none. */
const char *lx_cuda_module_id(const lx_cuda *cuda);
/** Read this card's table, if there is one and LX2V_TUNE is not "off". Never fails: what is wrong
 *  is one warning. What is used is one line of the log. */
void lx_cuda_tune(lx_cuda *cuda);
/** Use a copy of this table from now on; NULL: the built-in choices. LX_EAGAIN: no memory. */
lx_status lx_cuda_tune_use(lx_cuda *cuda, const lx_tune_table *table, lx_err *err);
/** The table in use; NULL: the built-in choices. */
const lx_tune_table *lx_cuda_tuned(const lx_cuda *cuda);
/** What lx_cuda_tune would use for a card that need not be opened: "PATH, 18 linears" or why the
 *  built-in choices. Loads the module. */
void lx_cuda_tune_tell(const lx_card_kind *card, char *out, size_t room);

#endif
