/*
 * test_tune.c - tables of designs: written and read back, hostile ones refused, what is chosen
 * SPDX-License-Identifier: Apache-2.0
 */
#include <sys/stat.h>
#include <unistd.h>

#include "../../deploy/tune/tune.h"
#include "check.h"
#include "lx_cache.h"

#define MODULE "0123456789abcdef0123456789abcdef01234567"

static const lx_card_kind rtx3090 = {
    "NVIDIA GeForce RTX 3090", -1, 8, 6, 82, 101376, 24ull << 30, 0};
static const lx_card_kind h100 = {"NVIDIA H100 80GB HBM3", -1, 9, 0, 132, 232448, 80ull << 30, 0};

static int design_of(const char *name)
{
    for (int i = 0; i < lx_tune_designs(); i++)
        if (!strcmp(lx_tune_design_name(i), name))
            return i;
    fail_msg("no design %s", name);
    return 0;
}

static lx_tune_table table_of_three(void)
{
    return (lx_tune_table){
        .n = 3,
        .entry = {{5120, 5120, 4096, LX_TUNE_ROWS, design_of("mma-192x256"), 0, 0.25},
                  {13824, 5120, 4096, LX_TUNE_CODES, design_of("mma-128x128"), 1152, 0.5},
                  {5120, 13824, 1024, LX_TUNE_RESIDUAL, LX_TUNE_BUILT_IN, 0, 0}}};
}

static void assert_same(const lx_tune_table *a, const lx_tune_table *b)
{
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++) {
        const lx_tune_entry *x = &a->entry[i], *y = &b->entry[i];
        assert_true(x->n == y->n && x->k == y->k && x->rows == y->rows && x->band == y->band);
        assert_true(x->end == y->end && x->design == y->design);
        assert_true(fabs(x->ms - y->ms) <= 1e-5 * y->ms);
    }
}

static void test_text_is_read_back(void **state)
{
    (void)state;
    lx_tune_table table = table_of_three(), back;
    lx_err err = {0};
    char *text = lx_tune_text(&table, &rtx3090, MODULE);
    assert_non_null(text);
    if (lx_tune_parse(&back, text, strlen(text), &rtx3090, MODULE, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_same(&back, &table);
    free(text);
    table.n = LX_TUNE_ENTRIES; /* as large as can be: every entry another linear */
    for (int i = 0; i < table.n; i++)
        table.entry[i] =
            (lx_tune_entry){16 * (i + 1), 1 << 17, 1 << 24, LX_TUNE_CODES, 0, 1 << 24, 123456.789};
    text = lx_tune_text(&table, &rtx3090, MODULE);
    assert_true(strlen(text) <= LX_TUNE_FILE_MOST);
    assert_int_equal(lx_tune_parse(&back, text, strlen(text), &rtx3090, MODULE, &err), LX_OK);
    assert_same(&back, &table);
    free(text);
}

#define HEAD                                                                                       \
    "{\"lx2v_tune\": 1, \"card\": \"NVIDIA GeForce RTX 3090\", \"compute\": \"8.6\", "             \
    "\"multiprocessors\": 82, \"module\": \"" MODULE "\", \"linears\": "
#define GOOD                                                                                       \
    "{\"n\": 5120, \"k\": 5120, \"rows\": 4096, \"end\": \"rows16\", \"design\": "                 \
    "\"mma-192x256\", \"band\": 0, \"ms\": 0.2}"
#define WITH(change) HEAD "[" GOOD ", " change "]}"
#define OTHER(n, k, rows, end, design, band, ms)                                                   \
    "{\"n\": " n ", \"k\": " k ", \"rows\": " rows ", \"end\": " end ", \"design\": " design       \
    ", \"band\": " band ", \"ms\": " ms "}"

static const struct {
    const char *text, *told;
} hostile[] = {
    {"", "no JSON"},
    {"{", "no JSON"},
    {"[]", "the file: an object"},
    {"null", "no JSON"},
    {HEAD "[" GOOD "]", "no JSON"},           /* truncated */
    {HEAD "[" GOOD "]} x", "no JSON"},        /* and what follows */
    {HEAD "[], \"linears\": []}", "no JSON"}, /* a key twice */
    {HEAD "{}}", "linears: a list"},
    {HEAD "[1]}", "linears[0]. an object"},
    {HEAD "[], \"linear\": 1}", "linear: there is no such key"},
    {HEAD "[], \"\\u001b[2J\": 1}", "?[2J: there is no such key"}, /* no control characters */
    {"{\"lx2v_tune\": 2}", "lx2v_tune: 2: a whole number of 1 to 1"},
    {"{\"lx2v_tune\": 1}", "card: absent"},
    {"{\"lx2v_tune\": 1, \"card\": \"NVIDIA GeForce RTX 4090\"}", "card: \"NVIDIA GeForce RTX 4"},
    {WITH(OTHER("64", "64", "64", "\"rows16\"", "\"mma-1x1\"", "0", "0")),
     "linears[1].design: \"mma-1x1\": mma-128x256, mma-128x128, "},
    {WITH(OTHER("64", "64", "64", "\"rows16\"", "\"wgmma-128x256\"", "0", "0")),
     "linears[1].design: \"wgmma-128x256\": a design that an sm_86 has"},
    {WITH(OTHER("64", "64", "64", "\"rows16\"", "3", "0", "0")), "linears[1].design: 3: "},
    {WITH(OTHER("64", "64", "64", "\"gelu\"", "\"cublaslt\"", "0", "0")),
     "linears[1].end: \"gelu\""},
    {WITH(OTHER("0", "64", "64", "\"codes\"", "\"cublaslt\"", "0", "0")), "linears[1].n: 0: "},
    {WITH(OTHER("65", "64", "64", "\"codes\"", "\"cublaslt\"", "0", "0")),
     "linears[1].n: 65: a mul"},
    {WITH(OTHER("1048592", "64", "64", "\"codes\"", "\"cublaslt\"", "0", "0")), "linears[1].n: "},
    {WITH(OTHER("64", "131088", "64", "\"codes\"", "\"cublaslt\"", "0", "0")), "linears[1].k: "},
    {WITH(OTHER("64", "64", "-1", "\"codes\"", "\"cublaslt\"", "0", "0")), "linears[1].rows: -1"},
    {WITH(OTHER("64", "64", "9223372036854775807", "\"codes\"", "\"cublaslt\"", "0", "0")),
     "linears[1].rows: 9223372036854775807"},
    {WITH(OTHER("64", "64", "92233720368547758070", "\"codes\"", "\"cublaslt\"", "0", "0")),
     "no JSON"},
    {WITH(OTHER("64", "64", "64.5", "\"codes\"", "\"cublaslt\"", "0", "0")),
     "linears[1].rows: 64.5"},
    {WITH(OTHER("64", "64", "64", "\"codes\"", "\"cublaslt\"", "-128", "0")),
     "linears[1].band: -128"},
    {WITH(OTHER("64", "64", "64", "\"codes\"", "\"cublaslt\"", "1", "0")),
     "linears[1].band: 1: 0, or"},
    {WITH(OTHER("64", "64", "64", "\"rows16\"", "\"cublaslt\"", "128", "0")),
     "linears[1].band: 128: 0, where"},
    {WITH(OTHER("64", "64", "64", "\"codes\"", "\"cublaslt\"", "0", "-1")), "linears[1].ms: -1"},
    {WITH(OTHER("64", "64", "64", "\"codes\"", "\"cublaslt\"", "0", "\"fast\"")),
     "linears[1].ms: "},
    {WITH(GOOD), "linears[1].rows: 4096: a linear that was not there before"},
    {WITH("{\"n\": 64, \"cols\": 1}"), "linears[1].cols: there is no such key"},
    {WITH("{\"n\": 64}"), "linears[1].k: absent"},
};

static void test_hostile_text_is_refused(void **state)
{
    (void)state;
    lx_tune_table table;
    lx_err err = {0};
    assert_int_equal(lx_tune_parse(&table, HEAD "[" GOOD "]}", strlen(HEAD "[" GOOD "]}"), &rtx3090,
                                   MODULE, &err),
                     LX_OK);
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        const char *text = hostile[i].text;
        lx_err_clear(&err);
        if (lx_tune_parse(&table, text, strlen(text), &rtx3090, MODULE, &err) != LX_ECONFIG ||
            !strstr(err.message, hostile[i].told))
            fail_msg("%s\nsaid \"%s\", not \"%s\"", text, err.message, hostile[i].told);
    }
}

/* Any prefix of a good text, and any byte of it changed: refused, or what it says is in range. */
static void test_damage_is_refused(void **state)
{
    (void)state;
    lx_tune_table table = table_of_three(), back;
    lx_err err = {0};
    char *text = lx_tune_text(&table, &rtx3090, MODULE);
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(lx_tune_parse(&back, text, i, &rtx3090, MODULE, &err), LX_ECONFIG);
    for (size_t i = 0; i < n; i++) {
        char kept = text[i];
        text[i] = (char)(kept ^ 1);
        if (lx_tune_parse(&back, text, n, &rtx3090, MODULE, &err) == LX_OK)
            for (int e = 0; e < back.n; e++)
                assert_true(lx_tune_can(&rtx3090, back.entry[e].design, back.entry[e].n));
        text[i] = kept;
    }
    free(text);
}

static void test_huge_text_is_refused(void **state)
{
    (void)state;
    lx_tune_table table;
    lx_err err = {0};
    size_t n = LX_TUNE_FILE_MOST + 1;
    char *text = check_alloc((int64_t)n, 1);
    memset(text, ' ', n);
    assert_int_equal(lx_tune_parse(&table, text, n, &rtx3090, MODULE, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "bytes"));
    memset(text, '[', n - 1); /* as deep as can be */
    assert_int_equal(lx_tune_parse(&table, text, n - 1, &rtx3090, MODULE, &err), LX_ECONFIG);
    memcpy(text, HEAD "[", strlen(HEAD "["));
    for (size_t i = strlen(HEAD "["); i + 4 < n; i += 3)
        memcpy(text + i, "{},", 3);
    memcpy(text + (n - 4) / 3 * 3, "{}]}", 4);
    assert_int_equal(lx_tune_parse(&table, text, n - 1, &rtx3090, MODULE, &err), LX_ECONFIG);
    free(text);
}

/* A table is of one card and one build. */
static void test_other_cards_and_modules_are_refused(void **state)
{
    (void)state;
    lx_tune_table table = table_of_three(), back;
    lx_err err = {0};
    char *text = lx_tune_text(&table, &rtx3090, MODULE);
    const size_t n = strlen(text);
    lx_card_kind card = rtx3090;
    assert_int_equal(lx_tune_parse(&back, text, n, &h100, MODULE, &err), LX_ECONFIG);
    card.n_sm = 68;
    assert_int_equal(lx_tune_parse(&back, text, n, &card, MODULE, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "multiprocessors: 82"));
    card = rtx3090;
    card.minor = 9;
    assert_int_equal(lx_tune_parse(&back, text, n, &card, MODULE, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "compute: \"8.6\""));
    assert_int_equal(lx_tune_parse(&back, text, n, &rtx3090, "00", &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "module: "));
    free(text);
}

static void test_the_nearest_rows_are_found(void **state)
{
    (void)state;
    static lx_tune_table t = {.n = 4,
                              .entry = {{5120, 5120, 1024, LX_TUNE_ROWS, 0, 0, 0},
                                        {5120, 5120, 4096, LX_TUNE_ROWS, 1, 0, 0},
                                        {5120, 5120, 4096, LX_TUNE_RESIDUAL, 2, 0, 0},
                                        {5120, 5120, 16384, LX_TUNE_ROWS, 3, 0, 0}}};
    const struct {
        int64_t n, k, rows;
        lx_tune_end end;
        int found; /* -1: none */
    } all[] = {{5120, 5120, 4096, LX_TUNE_ROWS, 1},   {5120, 5120, 4088, LX_TUNE_ROWS, 1},
               {5120, 5120, 2048, LX_TUNE_ROWS, 0},   {5120, 5120, 2049, LX_TUNE_ROWS, 1},
               {5120, 5120, 512, LX_TUNE_ROWS, 0},    {5120, 5120, 511, LX_TUNE_ROWS, -1},
               {5120, 5120, 32768, LX_TUNE_ROWS, 3},  {5120, 5120, 32769, LX_TUNE_ROWS, -1},
               {5120, 5120, 4096, LX_TUNE_CODES, -1}, {5120, 5120, 4096, LX_TUNE_RESIDUAL, 2},
               {5120, 1024, 4096, LX_TUNE_ROWS, -1},  {1024, 5120, 4096, LX_TUNE_ROWS, -1},
               {5120, 5120, 0, LX_TUNE_ROWS, -1}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const lx_tune_entry *e = lx_tune_find(&t, all[i].n, all[i].k, all[i].rows, all[i].end);
        assert_int_equal(e ? e->design : -1, all[i].found);
    }
    assert_null(lx_tune_find(NULL, 5120, 5120, 4096, LX_TUNE_ROWS));
}

static void test_bands_are_of_whole_tiles(void **state)
{
    (void)state;
    const lx_card_kind *const cards[] = {&rtx3090, &h100};
    for (int c = 0; c < 2; c++)
        for (int design = -1; design <= lx_tune_designs(); design++)
            for (int64_t n = 16; n < 1 << 20; n = n * 3 + 16) {
                int64_t bands[LX_TUNE_BANDS];
                int found = lx_tune_bands(cards[c], design, n, bands);
                assert_in_range(found, 0, LX_TUNE_BANDS);
                for (int i = 0; i < found; i++) {
                    assert_true(bands[i] >= 128 && bands[i] % 64 == 0);
                    assert_true(i == 0 || bands[i] < bands[i - 1]);
                }
            }
    int64_t bands[LX_TUNE_BANDS]; /* what linear_plan.c plans is the first */
    assert_true(lx_tune_bands(&h100, design_of("mma-192x256"), 13824, bands) > 1);
    assert_int_equal(bands[0], 4224);
    assert_true(lx_tune_bands(&h100, design_of("wgmma-128x256"), 13824, bands) > 1);
    assert_int_equal(bands[0], 2816);
}

/* --- what the tuner does ---------------------------------------------------------------------- */

static void test_chunks_are_those_of_plans(void **state)
{
    (void)state;
    int64_t rows[TUNE_ROWS];
    lx_card_kind small = rtx3090;
    small.n_sm = 28;
    assert_int_equal(tune_chunks(&small, 5120, rows), 4); /* 32 waves: 2,867 tokens */
    assert_int_equal(rows[0], 512);
    assert_int_equal(rows[3], 4096);
    assert_int_equal(tune_chunks(&rtx3090, 5120, rows), 6); /* 8,396 */
    assert_int_equal(rows[5], 16384);
    assert_int_equal(tune_chunks(&h100, 5120, rows), 6); /* 13,516 */
    assert_in_range(tune_chunks(&h100, 16, rows), 4, TUNE_ROWS);
}

static void test_ways_are_those_of_the_card(void **state)
{
    (void)state;
    tune_way ways[TUNE_WAYS];
    tune_linear linears[TUNE_LINEARS];
    tune_linears(5120, 13824, linears);
    const int wgmma = design_of("wgmma-128x256");
    for (int c = 0; c < 2; c++)
        for (int l = 0; l < TUNE_LINEARS; l++) {
            int n = tune_ways(c ? &h100 : &rtx3090, &linears[l], 4096, ways), n_wgmma = 0;
            assert_in_range(n, lx_tune_designs(), TUNE_WAYS - 1);
            assert_int_equal(ways[0].design, LX_TUNE_BUILT_IN);
            for (int i = 0; i < n; i++) {
                n_wgmma += ways[i].design == wgmma;
                assert_true(ways[i].band == 0 || linears[l].end == LX_TUNE_CODES);
                assert_true(ways[i].band < 4096);
            }
            assert_int_equal(n_wgmma > 0, c);
        }
}

/* Of a DiT as wide as its hidden layer two linears are one: what is written must be read again. */
static void test_no_linear_is_there_twice(void **state)
{
    (void)state;
    tune_linear linears[TUNE_LINEARS];
    lx_tune_table *table = check_alloc(2, sizeof *table), *read = table + 1;
    tune_linears(1024, 1024, linears);
    for (int l = 0; l < TUNE_LINEARS; l++)
        for (int twice = 0; twice < 2; twice++)
            if (!tune_has(table, &linears[l], 512))
                table->entry[table->n++] = (lx_tune_entry){.n = linears[l].n,
                                                           .k = linears[l].k,
                                                           .rows = 512,
                                                           .end = linears[l].end,
                                                           .design = LX_TUNE_BUILT_IN,
                                                           .ms = 1};
    assert_int_equal(table->n, 3);
    assert_false(tune_has(table, &linears[0], 256));
    char *text = lx_tune_text(table, &h100, MODULE);
    check_ok(lx_tune_parse(read, text, strlen(text), &h100, MODULE, err));
    assert_int_equal(read->n, 3);
    free(text), free(table);
}

static void test_the_median_chooses(void **state)
{
    (void)state;
    tune_way ways[3] = {{.design = LX_TUNE_BUILT_IN, .n = 3, .ms = {1.01, 1.00, 9}},
                        {.design = 0, .n = 3, .ms = {0.99, 5, 0.5}},
                        {.design = 1, .n = 4, .ms = {0.97, 0.01, 0.97, 7}}};
    assert_int_equal(tune_choose(ways, 3), 2);
    assert_true(ways[0].median == 1.01 && ways[1].median == 0.99 && ways[2].median == 0.97);
    assert_int_equal(tune_choose(ways, 2), 0); /* too little to change anything for */
    assert_int_equal(tune_choose(ways, 1), 0);
}

/* --- files ------------------------------------------------------------------------------------ */

static void test_files_are_read_back(void **state)
{
    (void)state;
    char dir[] = "/tmp/lx2v-tune-XXXXXX", path[512], command[128];
    lx_tune_table table = table_of_three(), back;
    lx_err why = {0};
    struct stat st;
    assert_non_null(mkdtemp(dir));
    setenv("XDG_CACHE_HOME", dir, 1);
    check_ok(lx_tune_path(path, sizeof path, &rtx3090, MODULE, err));
    assert_non_null(strstr(path, "/lx2v/tune/NVIDIA_GeForce_RTX_3090-86-82-0123456789abcdef.json"));
    assert_int_equal(lx_tune_read(&back, path, &rtx3090, MODULE, &why), LX_EAGAIN);
    check_ok(lx_tune_write(path, &table, &rtx3090, MODULE, err));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    check_ok(lx_tune_read(&back, path, &rtx3090, MODULE, err));
    assert_same(&back, &table);
    check_ok(lx_cache_write(path, "{\"lx2v_tune\": 7}", 16, err));
    assert_int_equal(lx_tune_read(&back, path, &rtx3090, MODULE, &why), LX_ECONFIG);
    assert_ptr_equal(strstr(why.message, path), why.message); /* file, key, value */
    assert_non_null(strstr(why.message, "lx2v_tune: 7"));
    assert_int_equal(lx_tune_path(path, sizeof path, &rtx3090, "", &why), LX_ECONFIG);
    assert_non_null(strstr(why.message, "build id"));
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

/* A name of the driver's cannot leave the folder. */
static void test_names_stay_in_the_folder(void **state)
{
    (void)state;
    lx_card_kind card = {"../../etc/passwd %s", -1, 8, 6, 1, 0, 0, 0};
    char path[512];
    setenv("XDG_CACHE_HOME", "/x", 1);
    check_ok(lx_tune_path(path, sizeof path, &card, MODULE, err));
    assert_string_equal(path, "/x/lx2v/tune/______etc_passwd__s-86-1-0123456789abcdef.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_read_back),
        cmocka_unit_test(test_hostile_text_is_refused),
        cmocka_unit_test(test_damage_is_refused),
        cmocka_unit_test(test_huge_text_is_refused),
        cmocka_unit_test(test_other_cards_and_modules_are_refused),
        cmocka_unit_test(test_the_nearest_rows_are_found),
        cmocka_unit_test(test_bands_are_of_whole_tiles),
        cmocka_unit_test(test_chunks_are_those_of_plans),
        cmocka_unit_test(test_ways_are_those_of_the_card),
        cmocka_unit_test(test_no_linear_is_there_twice),
        cmocka_unit_test(test_the_median_chooses),
        cmocka_unit_test(test_files_are_read_back),
        cmocka_unit_test(test_names_stay_in_the_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
