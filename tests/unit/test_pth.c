/*
 * test_pth.c - checkpoints of torch.save: what is read, and every way a hostile one is refused
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "weights_make.h"

static float six[6] = {1, 2, 3, 4, 5, 6};

static lx_status open_bytes(const bytes *b, lx_weights **w, lx_err *err)
{
    scratch s = scratch_open();
    put_file(in(&s, "x.pth"), b->data, b->n);
    lx_status status = lx_weights_open(w, in(&s, "x.pth"), NULL, err);
    remove_tree(s.dir);
    return status;
}

static void expect_refused(const bytes *b, const char *words)
{
    lx_err err = {0};
    lx_weights *w = NULL;
    lx_status status = open_bytes(b, &w, &err);
    if (status != LX_ECONFIG || !strstr(err.message, words) || !strstr(err.message, "x.pth"))
        fail_msg("status %s, message \"%s\", expected \"%s\"", lx_status_name(status), err.message,
                 words);
}

/* An archive around a pickle: data/0 is six floats, data/1 eight bytes. */
static zip_maker *archive_of(const void *pickle, size_t n)
{
    static const unsigned char codes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    static zip_maker z;
    z = (zip_maker){.n = 0};
    zip_add(&z, "a/data.pkl", pickle, n);
    zip_add(&z, "a/byteorder", "little", 6);
    zip_add(&z, "a/data/0", six, sizeof six);
    zip_add(&z, "a/data/1", codes, sizeof codes);
    zip_add(&z, "a/version", "3\n", 2);
    zip_finish(&z);
    return &z;
}

#define ARCHIVE(literal) archive_of((literal), sizeof(literal) - 1)

static lx_weights *open_ok(const zip_maker *z)
{
    lx_err err = {0};
    lx_weights *w = NULL;
    if (open_bytes(&z->b, &w, &err) != LX_OK)
        fail_msg("%s", err.message);
    return w;
}

/* --- what is read ---------------------------------------------------------------------------- */

static void expect_w(lx_weights *w, const char *name, const float *values, const lx_shape *shape)
{
    lx_weight found;
    uint64_t n;
    assert_true(lx_weights_find(w, name, &found));
    assert_int_equal(found.dtype, LX_DTYPE_F32);
    assert_true(lx_shape_equal(&found.shape, shape));
    lx_shape_bytes(shape, LX_DTYPE_F32, NULL, &n, NULL);
    assert_memory_equal(found.data, values, n);
}

static void test_plain_map(void **state)
{
    (void)state;
    lx_weights *w = open_ok(ARCHIVE(PK_MAP(PK_W)));
    assert_int_equal(lx_weights_count(w), 1);
    expect_w(w, "w", six, &LX_SHAPE(2, 3));
    lx_weights_close(&w);
}

/* Transposed, with an offset, with a stride over one storage: gathered into C order. */
static void test_views_share_a_storage(void **state)
{
    (void)state;
#define VIEW(name, offset, size, stride)                                                           \
    "X\x01\0\0\0" name PK_V2                                                                       \
    "(" PK_STORAGE("FloatStorage", "0", "\x06") "K" offset size stride PK_HOOKS "tR"
    lx_weights *w = open_ok(ARCHIVE(PK_MAP(
        VIEW("t", "\0", "K\x03K\x02\x86", "K\x01K\x03\x86")       /* transpose of [2, 3] */
        VIEW("o", "\x02", "K\x02\x85", "K\x03\x85")               /* column 2 */
        VIEW("s", "\x04", ")", ")")                               /* a scalar */
        VIEW("r", "\x01", "K\x02K\x02\x86", "K\0K\x01\x86")       /* a row, repeated */
        VIEW("e", "\0", "K\0K\x05\x86", "K\x05K\x01\x86")         /* empty */
        VIEW("c", "\x03", "K\x01K\x03\x86", "K\x63K\x01\x86")))); /* stride of a size 1: any */
    assert_int_equal(lx_weights_count(w), 6);
    expect_w(w, "t", (float[]){1, 4, 2, 5, 3, 6}, &LX_SHAPE(3, 2));
    expect_w(w, "o", (float[]){3, 6}, &LX_SHAPE(2));
    expect_w(w, "s", (float[]){5}, &(lx_shape){.n_dims = 0});
    expect_w(w, "r", (float[]){2, 3, 2, 3}, &LX_SHAPE(2, 2));
    expect_w(w, "e", NULL, &LX_SHAPE(0, 5));
    expect_w(w, "c", (float[]){4, 5, 6}, &LX_SHAPE(1, 3));
    lx_weights_close(&w);
}

/* Nested state dicts, state set by BUILD, wrappers around tensors, other leaves. */
static void test_nesting_and_wrappers(void **state)
{
    static const struct {
        const char *pickle;
        size_t n;
    } row[] = {
#define ROW(literal) {literal, sizeof(literal) - 1}
        ROW(PK_MAP("X\x0a\0\0\0state_dict}(" PK_W "u")),
        ROW(PK_MAP("X\x05\0\0\0epochK\x03X\x05\0\0\0model}(" PK_W "u")),
        ROW(PK_MAP("X\x06\0\0\0module}(" PK_W "u")),
        ROW(PK_MAP("X\x0b\0\0\0model_state}(" PK_W "u")),
        ROW(PK_MAP("X\x05\0\0\0model}(X\x06\0\0\0module}(" PK_W "uu")),
        ROW("\x80\x02"
            "ccollections\nOrderedDict\n)R(" PK_W "u}X\x09\0\0\0_metadata}sb."),
        ROW("\x80\x02"
            "ccollections\nOrderedDict\n](" PK_W "\x86"
            "e\x85R."),
        ROW(PK_MAP("X\x01\0\0\0wctorch._utils\n_rebuild_parameter\n(" PK_V2 "(" PK_STORAGE(
            "FloatStorage", "0", "\x06") "K\0K\x02K\x03\x86K\x03K\x01\x86" PK_HOOKS "tR\x88"
                                         "ccollections\nOrderedDict\n)RtR")),
        ROW(PK_MAP("X\x01\0\0\0wctorch._tensor\n_rebuild_from_type_v2\n(" PK_V2
                   "ctorch\nTensor\n(" PK_STORAGE("FloatStorage", "0",
                                                  "\x06") "K\0K\x02K\x03\x86K\x03K\x01\x86" PK_HOOKS
                                                          "t}tR")),
        /* protocol 4 with frames, short strings, STACK_GLOBAL and MEMOIZE; torch.Size */
        ROW("\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94(\x8c\x01w\x94\x8c\x0ctorch._utils\x8c\x12"
            "_rebuild_tensor_v2\x93(" PK_STORAGE(
                "FloatStorage", "0",
                "\x06") "K\0ctorch\nSize\nK\x02K\x03\x86\x85RK\x03K\x01\x86" PK_HOOKS "tRu."),
        /* _rebuild_tensor (v1), offset as LONG1, sizes as BININT and BININT2 */
        ROW(PK_MAP("X\x01\0\0\0wctorch._utils\n_rebuild_tensor\n(" PK_STORAGE(
            "FloatStorage", "0", "\x06") "\x8a\0J\x02\0\0\0M\x03\0\x86K\x03K\x01\x86tR")),
    };
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        lx_weights *w = open_ok(archive_of(row[i].pickle, row[i].n));
        assert_int_equal(lx_weights_count(w), 1);
        expect_w(w, "w", six, &LX_SHAPE(2, 3));
        lx_weights_close(&w);
    }
}

#define V3(class, numel, dtype)                                                                    \
    "X\x01\0\0\0q" PK_V3 "(" PK_STORAGE(class, "1", numel) "K\0K\x02K\x04\x86K\x04K\x01"           \
                                                           "\x86" PK_HOOKS dtype "tR"
#define UNTYPED                                                                                    \
    "(X\x07\0\0\0storagectorch.storage\nUntypedStorage\nX\x01\0\0\0"                               \
    "1"                                                                                            \
    "X\x03\0\0\0"                                                                                  \
    "cpuK\x08tQ"

static void test_eight_bit_types(void **state)
{
    (void)state;
    lx_weight q;
    lx_weights *w = open_ok(
        ARCHIVE(PK_MAP("X\x01\0\0\0q" PK_V3 "(" UNTYPED "K\0K\x02K\x04\x86K\x04K\x01\x86" PK_HOOKS
                       "ctorch\nfloat8_e4m3fn\ntR")));
    assert_true(lx_weights_find(w, "q", &q));
    assert_int_equal(q.dtype, LX_DTYPE_F8_E4M3);
    assert_memory_equal(q.data, "\1\2\3\4\5\6\7\x8", 8);
    lx_weights_close(&w);
    w = open_ok(ARCHIVE(PK_MAP(V3("CharStorage", "\x08", "ctorch\nint8\n"))));
    assert_true(lx_weights_find(w, "q", &q));
    assert_int_equal(q.dtype, LX_DTYPE_I8);
    lx_weights_close(&w);
    w = open_ok(ARCHIVE(PK_MAP("X\x01\0\0\0q" PK_V2 "(" UNTYPED /* v2 + untyped = uint8 */
                               "K\0K\x02K\x04\x86K\x04K\x01\x86" PK_HOOKS "tR")));
    assert_true(lx_weights_find(w, "q", &q));
    assert_int_equal(q.dtype, LX_DTYPE_U8);
    lx_weights_close(&w);
}

/* --- zip: one thing wrong at a time ---------------------------------------------------------- */

static void test_zip_structure(void **state)
{
    (void)state;
    enum { EOCD_DISK = 4, EOCD_N = 10, EOCD_BYTES = 12, EOCD_OFFSET = 16, EOCD_COMMENT = 20 };
    enum { FLAGS = 8, METHOD = 10, CSIZE = 20, USIZE = 24, DISK = 34, LOCAL = 42, NAME = 46 };
    const struct {
        int entry; /* -1: the end record */
        size_t field;
        uint64_t value;
        int n;
        const char *words;
    } row[] = {
        {-1, 0, 0, 4, "no end of central directory"},
        {-1, EOCD_COMMENT, 5, 2, "comment length"},
        {-1, EOCD_DISK, 1, 2, "several parts"},
        {-1, EOCD_N, 4, 2, "several parts"}, /* here and in all differ */
        {-1, EOCD_N - 2, 0x00060006, 4, "fewer directory entries"},
        {-1, EOCD_N - 2, 0x00040004, 4, "more directory entries"},
        {-1, EOCD_N - 2, 0xff00ff00, 4, "cannot fit"},
        {-1, EOCD_BYTES, 0x7fffffff, 4, "outside the file"},
        {-1, EOCD_OFFSET, 0x7fffffff, 4, "outside the file"},
        {-1, EOCD_OFFSET, 0xffffffff, 4, "without a ZIP64 locator"},
        {-1, EOCD_N, 0xffff, 2, "without a ZIP64 locator"},
        {2, 0, 0, 4, "fewer directory entries"},
        {2, 28, 0x4000, 2, "runs past its end"},
        {2, FLAGS, 1, 2, "encrypted"},
        {2, METHOD, 8, 2, "compressed"},
        {2, CSIZE, 23, 4, "its sizes differ"},
        {2, USIZE, 0xffffffff, 4, "ZIP64 sizes are missing"},
        {2, DISK, 1, 2, "several parts"},
        {2, LOCAL, 0x7fffffff, 4, "past the data"},
        {2, LOCAL, 3, 4, "no local header"},
        {3, LOCAL, 0, 4, "overlap"}, /* both at the first record */
        {2, NAME, '/', 1, "not clean"},
        {2, NAME, 'b', 1, "outside the top folder"},
        {2, NAME + 1, '\\', 1, "not clean"},
        {3, NAME + 7, '0', 1, "two records are named"},
        {0, NAME + 2, 'x', 1, "without data.pkl"},
        {0, 16, 1, 4, "damaged (CRC"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        zip_maker *z = ARCHIVE(PK_MAP(PK_W));
        size_t at =
            row[i].entry < 0 ? z->end + row[i].field : zip_field(z, row[i].entry, row[i].field);
        poke(&z->b, at, row[i].value, row[i].n);
        expect_refused(&z->b, row[i].words);
    }
    zip_maker *z = ARCHIVE(PK_MAP(PK_W));
    poke(&z->b, zip_field(z, 2, CSIZE), 5000, 4);
    poke(&z->b, zip_field(z, 2, USIZE), 5000, 4);
    expect_refused(&z->b, "runs past the data");
}

/* Truncated anywhere, it is refused (or, past the last byte that matters, never read wrong). */
static void test_every_truncation(void **state)
{
    (void)state;
    const zip_maker *z = ARCHIVE(PK_MAP(PK_W));
    scratch s = scratch_open();
    for (size_t n = 1; n < z->b.n; n++) {
        lx_err err = {0};
        lx_weights *w = NULL;
        put_file(in(&s, "x.pth"), z->b.data, n);
        assert_int_equal(lx_weights_open(&w, in(&s, "x.pth"), NULL, &err), LX_ECONFIG);
    }
    remove_tree(s.dir);
}

static void test_zip_names(void **state)
{
    (void)state;
    static const struct {
        const char *name, *words;
    } row[] = {{"a/../x", "not clean"},
               {"/a/x", "not clean"},
               {"a//x", "not clean"},
               {"a/./x", "not clean"},
               {"b/x", "outside the top"},
               {"x", "outside the top"},
               {"a/constants.pkl", "TorchScript"},
               {"a/code/x.py", "TorchScript"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        static zip_maker z;
        z = (zip_maker){.n = 0};
        ZIP_PICKLE(&z, PK_MAP(PK_W));
        zip_add(&z, "a/data/0", six, sizeof six);
        zip_add(&z, row[i].name, "x", 1);
        zip_add(&z, "a/version", "3\n", 2);
        zip_finish(&z);
        expect_refused(&z.b, row[i].words);
    }
}

static void test_version_and_byte_order(void **state)
{
    (void)state;
    static const struct {
        const char *version, *order, *words;
    } row[] = {{"3\n", "big", "byte order"},  {"3\n", "middle", "byte order"},
               {"x\n", "little", "version"},  {"0\n", "little", "version"},
               {"11\n", "little", "version"}, {"3.0\n", "little", "version"},
               {"", "little", "version"},     {"3\n", "little", NULL},
               {"10\n", "little", NULL}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        static zip_maker z;
        z = (zip_maker){.n = 0};
        ZIP_PICKLE(&z, PK_MAP(PK_W));
        zip_add(&z, "a/data/0", six, sizeof six);
        zip_add(&z, "a/version", row[i].version, strlen(row[i].version));
        zip_add(&z, "a/byteorder", row[i].order, strlen(row[i].order));
        zip_finish(&z);
        if (row[i].words) {
            expect_refused(&z.b, row[i].words);
            continue;
        }
        lx_weights *w = open_ok(&z);
        lx_weights_close(&w);
    }
}

/* The same archive with all 64-bit records; then each of them broken. */
static void make_zip64(zip_maker *z)
{
    static zip_maker plain;
    plain = *ARCHIVE(PK_MAP(PK_W));
    *z = plain;
    z->b.n = plain.directory;
    z->central.n = 0;
    for (int i = 0; i < plain.n; i++) {
        const unsigned char *c = plain.central.data + plain.at[i].central;
        uint32_t bytes32, local32;
        memcpy(&bytes32, c + 24, 4);
        memcpy(&local32, c + 42, 4);
        size_t name = c[28];
        z->at[i].central = z->central.n;
        put_n(&z->central, c, 20);
        put_le(&z->central, 0xffffffffffffffff, 8);
        put_le(&z->central, name, 2);
        put_le(&z->central, 36, 2); /* another block first: readers must look on */
        put_n(&z->central, c + 32, 10);
        put_le(&z->central, 0xffffffff, 4);
        put_n(&z->central, c + 46, name);
        put_le(&z->central, 0x00040099, 4);
        put_le(&z->central, 0, 4);
        put_le(&z->central, 0x00180001, 4);
        put_le(&z->central, bytes32, 8);
        put_le(&z->central, bytes32, 8);
        put_le(&z->central, local32, 8);
    }
    put_n(&z->b, z->central.data, z->central.n);
    size_t end64 = z->b.n;
    put_le(&z->b, 0x06064b50, 4);
    put_le(&z->b, 44, 8);
    put_le(&z->b, 0x002d002d, 4);
    put_le(&z->b, 0, 8);
    put_le(&z->b, (uint64_t)z->n, 8);
    put_le(&z->b, (uint64_t)z->n, 8);
    put_le(&z->b, z->central.n, 8);
    put_le(&z->b, z->directory, 8);
    put_le(&z->b, 0x07064b50, 4);
    put_le(&z->b, 0, 4);
    put_le(&z->b, end64, 8);
    put_le(&z->b, 1, 4);
    z->end = z->b.n;
    put_le(&z->b, 0x06054b50, 4);
    put_le(&z->b, 0, 4);
    put_le(&z->b, 0xffffffff, 4);
    put_le(&z->b, 0xffffffffffffffff, 8);
    put_le(&z->b, 0, 2);
}

static void test_zip64(void **state)
{
    (void)state;
    static zip_maker z;
    make_zip64(&z);
    lx_weights *w = open_ok(&z);
    expect_w(w, "w", six, &LX_SHAPE(2, 3));
    lx_weights_close(&w);
    const size_t locator = z.end - 20, end64 = z.end - 76, extra = 46 + 8 + 8;
    const struct {
        size_t at;
        uint64_t value;
        int n;
        const char *words;
    } row[] = {
        {locator, 0, 4, "without a ZIP64 locator"},
        {locator + 8, UINT64_MAX, 8, "is outside the file"},
        {locator + 8, end64 + 1, 8, "is outside the file"},
        {locator + 8, end64 - 1, 8, "no ZIP64 end record"},
        {locator + 16, 2, 4, "several parts"},
        {end64 + 16, 1, 4, "several parts"},
        {end64 + 32, 1000001, 8, "several parts"},
        {end64 + 40, UINT64_MAX, 8, "outside the file"},
        {end64 + 48, UINT64_MAX, 8, "outside the file"},
        {zip_field(&z, 2, extra), 0x00100001, 4, "ZIP64 sizes are missing"}, /* too short */
        {zip_field(&z, 2, extra), 0x00180002, 4, "ZIP64 sizes are missing"}, /* not there */
        {zip_field(&z, 2, extra), 0x01000001, 4, "ZIP64 sizes are missing"}, /* past its end */
        {zip_field(&z, 2, extra + 12), UINT64_MAX, 8, "its sizes differ"},
        {zip_field(&z, 2, extra + 20), UINT64_MAX, 8, "past the data"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        make_zip64(&z);
        poke(&z.b, row[i].at, row[i].value, row[i].n);
        expect_refused(&z.b, row[i].words);
    }
    make_zip64(&z);
    poke(&z.b, end64 + 24, 1000001, 8);
    poke(&z.b, end64 + 32, 1000001, 8);
    expect_refused(&z.b, "at most 1000000");
    make_zip64(&z);
    poke(&z.b, zip_field(&z, 2, extra + 4), 0x8000000000000000, 8);
    poke(&z.b, zip_field(&z, 2, extra + 12), 0x8000000000000000, 8);
    expect_refused(&z.b, "runs past the data");
}

/* --- pickle: one thing wrong at a time ------------------------------------------------------- */

#define BAD(literal, words)                                                                        \
    {                                                                                              \
        literal, sizeof(literal) - 1, words                                                        \
    }
static const struct {
    const char *pickle;
    size_t n;
    const char *words;
} bad_pickle[] = {
    BAD("", "without STOP"),
    BAD("\x80\x02}", "without STOP"),
    BAD("\x80\x02}.x", "1 bytes follow STOP"),
    BAD("\x80\x01}.", "protocol 1"),
    BAD("\x80\x06}.", "protocol 6"),
    BAD("\x80\x02"
        "0.",
        "opcode 0x30"),
    BAD("\x80\x02i.", "opcode 0x69"),        /* INST */
    BAD("\x80\x02o.", "opcode 0x6f"),        /* OBJ */
    BAD("\x80\x02\x82\x01.", "opcode 0x82"), /* EXT1 */
    BAD("\x80\x02\xff.", "opcode 0xff"),
    BAD("\x80", "truncated"),
    BAD("\x80\x02J\x01", "truncated"),
    BAD("\x80\x02X\x05\0\0\0ab", "truncated"),
    BAD("\x80\x02X\xff\xff\xff\xff"
        "ab",
        "4294967295 bytes"),
    BAD("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "bytes, at most"),
    BAD("\x80\x02U\x05"
        "ab",
        "truncated"),
    BAD("\x80\x02\x8a\x08\x01", "truncated"),
    BAD("\x80\x02\x8a\x0a\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a.", "10 bytes"),
    BAD("\x80\x02.", "stack underflow"),
    BAD("\x80\x02R.", "stack underflow"),
    BAD("\x80\x02NR.", "stack underflow"),
    BAD("\x80\x02N\x86.", "stack underflow"),
    BAD("\x80\x02N(\x85.", "stack underflow"), /* not across a mark */
    BAD("\x80\x02q\0.", "stack underflow"),
    BAD("\x80\x02(q\0.", "stack underflow"),
    BAD("\x80\x02"
        "b.",
        "stack underflow"),
    BAD("\x80\x02}b.", "stack underflow"),
    BAD("\x80\x02Q.", "stack underflow"),
    BAD("\x80\x02s.", "stack underflow"),
    BAD("\x80\x02t.", "MARK is missing"),
    BAD("\x80\x02}NNu.", "MARK is missing"),
    BAD("\x80\x02"
        "e.",
        "MARK is missing"),
    BAD("\x80\x02h\0.", "was never set"),
    BAD("\x80\x02j\0\0\0\x7f.", "was never set"),
    BAD("\x80\x02Nr\xff\xff\xff\xff.", "memo index"),
    BAD("\x80\x02"
        "ctorch",
        "a name without end"),
    BAD("\x80\x02"
        "ctorch\nSize",
        "a name without end"),
    BAD("\x80\x02NN\x93.", "not a string"),
    BAD("\x80\x02]NNs.", "not a map"),
    BAD("\x80\x02}Na.", "not a list"),
    BAD("\x80\x02}(Nu.", "a key without a value"),
    BAD("\x80\x02N)R.", "not a symbol"),
    BAD("\x80\x02"
        "ctorch\nSize\nNR.",
        "not a tuple"),
    BAD("\x80\x02"
        "ctorch\nSize\n)R.",
        "torch.Size takes one tuple"),
    BAD("\x80\x02"
        "ccollections\nOrderedDict\nN\x85R.",
        "one list of pairs"),
    BAD("\x80\x02"
        "ccollections\nOrderedDict\n](Ne\x85R.",
        "is not a pair"),
    BAD("\x80\x02"
        "cbuiltins\neval\nX\x01\0\0\0"
        "1\x85R.",
        "calls builtins.eval; refused"),
    BAD("\x80\x02"
        "cbuiltins\neval\nX\x01\0\0\0"
        "1\x85\x81.",
        "calls builtins.eval; refused"),
    BAD("\x80\x02"
        "cos\nsystem\n.",
        "names os.system; refused"),
    BAD("\x80\x02\x8c\x05posix\x8c\x06system\x93.", "names posix.system; refused"),
    BAD("\x80\x02"
        "ctorch\nload\n)R.",
        "calls torch.load; refused"),
    BAD("\x80\x02]}b.", "neither a map nor a tensor"),
    BAD("\x80\x02NQ.", "not a storage's 5-tuple"),
    BAD("\x80\x02(X\x01\0\0\0xNNNNtQ.", "not a storage's 5-tuple"),
    BAD("\x80\x02(X\x07\0\0\0storageNX\x01\0\0\0"
        "0NK\x06tQ.",
        "needs a type, a key"),
    BAD("\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"
        "0NJ\xff\xff\xff\xfftQ.",
        "length >= 0"),
    BAD("\x80\x02].", "not a map of tensors"),
    BAD("\x80\x02K\x05.", "not a map of tensors"),
    BAD(PK_MAP(""), "top-level keys: (none)"),
    BAD(PK_MAP("X\x03\0\0\0oneK\x01X\x03\0\0\0twoK\x02"), "top-level keys: one, two"),
    BAD(PK_MAP(PK_W PK_W), "is there twice"),
};

static void test_pickles_that_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_pickle / sizeof *bad_pickle; i++)
        expect_refused(&archive_of(bad_pickle[i].pickle, bad_pickle[i].n)->b, bad_pickle[i].words);
}

#define TENSOR(storage, rest) PK_MAP("X\x01\0\0\0w" PK_V2 "(" storage rest "tR")
#define F6                    PK_STORAGE("FloatStorage", "0", "\x06")

static void test_tensors_that_are_refused(void **state)
{
    static const struct {
        const char *pickle;
        size_t n;
        const char *words;
    } row[] = {
        BAD(TENSOR(PK_STORAGE("FloatStorage", "9", "\x06"), "K\0))" PK_HOOKS), "no record data/9"),
        BAD(TENSOR(PK_STORAGE("FloatStorage", "0", "\x07"), "K\0))" PK_HOOKS),
            "storage of 7 x 4 bytes, its record data/0 has 24"),
        BAD(TENSOR(PK_STORAGE("QInt8Storage", "0", "\x06"), "K\0))" PK_HOOKS), "not supported"),
        BAD(TENSOR(PK_STORAGE("ComplexFloatStorage", "0", "\x01"), "K\0))" PK_HOOKS),
            "not supported"),
        BAD(TENSOR(PK_STORAGE("FloatTensor", "0", "\x06"), "K\0))" PK_HOOKS), "unknown class"),
        BAD(TENSOR(F6, "K\0))"), "rebuilt from 4 arguments"),
        BAD(TENSOR("N", "K\0))" PK_HOOKS), "is not a storage"),
        BAD(TENSOR(F6, "N))" PK_HOOKS), "offset is not an integer"),
        BAD(TENSOR(F6, "J\xff\xff\xff\xff))" PK_HOOKS), "offset is not an integer"),
        BAD(TENSOR(F6, "K\0K\x06\x85)" PK_HOOKS), "1 sizes, but 0 strides"),
        BAD(TENSOR(F6, "K\0J\xff\xff\xff\xff\x85K\x01\x85" PK_HOOKS), "size[0]"),
        BAD(TENSOR(F6, "K\0K\x06\x85J\xff\xff\xff\xff\x85" PK_HOOKS), "stride[0]"),
        BAD(TENSOR(F6, "K\0N\x85K\x01\x85" PK_HOOKS), "size[0]"),
        BAD(TENSOR(F6, "K\0NN" PK_HOOKS), "is not a tuple"),
        BAD(TENSOR(F6, "K\0K\x07\x85K\x01\x85" PK_HOOKS), "runs past its storage"),
        BAD(TENSOR(F6, "K\x01K\x06\x85K\x01\x85" PK_HOOKS), "runs past its storage"),
        BAD(TENSOR(F6, "K\0K\x02K\x03\x86K\x04K\x01\x86" PK_HOOKS), "runs past its storage"),
        BAD(TENSOR(F6, "K\0K\x02\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85" PK_HOOKS),
            "runs past its storage"),
        BAD(TENSOR(F6, "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01\x85K\x01\x85" PK_HOOKS),
            "runs past its storage"),
        BAD(TENSOR(F6, "K\0\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85K\x01\x85" PK_HOOKS),
            "2^40"),
        /* 2^36 repetitions of one float: amplification */
        BAD(TENSOR(F6, "K\0\x8a\x05\0\0\0\0\x10\x85K\0\x85" PK_HOOKS), "repeat stored values"),
        BAD(PK_MAP(V3("CharStorage", "\x08", "ctorch\nfloat8_e4m3fn\n")), "on a CharStorage"),
        BAD(PK_MAP(V3("CharStorage", "\x08", "ctorch\nfloat8_e4m3fnuz\n")), "not supported"),
        BAD(PK_MAP(V3("CharStorage", "\x08", "cx\nint8\n")), "not a torch dtype"),
        BAD(PK_MAP("X\x01\0\0\0wctorch._utils\n_rebuild_parameter\n)R"), "no tensor inside"),
        BAD(PK_MAP("X\x01\0\0\0wctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nload\nN)}tR"),
            "no tensor inside"),
        BAD(PK_MAP(PK_W "X\x01\0\0\0v" PK_V2 "(" PK_STORAGE(
                "FloatStorage", "0", "\x05") "K\0K\x02\x85K\x01\x85" PK_HOOKS "tR"),
            "described in two ways"),
        BAD(PK_MAP(PK_W "X\x01\0\0\0v" PK_V2 "(" PK_STORAGE(
                "IntStorage", "0", "\x06") "K\0K\x02\x85K\x01\x85" PK_HOOKS "tR"),
            "described in two ways"),
        BAD(PK_MAP("X\0\0\0\0" PK_V2 "(" F6 "K\0K\x02\x85K\x01\x85" PK_HOOKS "tR"), "tensor name"),
        BAD(PK_MAP("X\x01\0\0\0\0" PK_V2 "(" F6 "K\0K\x02\x85K\x01\x85" PK_HOOKS "tR"),
            "tensor name"),
        BAD(PK_MAP("X\x01\0\0\0\xff" PK_V2 "(" F6 "K\0K\x02\x85K\x01\x85" PK_HOOKS "tR"),
            "tensor name"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        expect_refused(&archive_of(row[i].pickle, row[i].n)->b, row[i].words);
}

/* Depth, marks and line length; a list that holds itself. */
static void test_depth_is_bounded(void **state)
{
    (void)state;
    static bytes b;
    b = (bytes){.n = 0};
    put_text(&b, "\x80\x02N");
    for (int i = 0; i < 2000; i++)
        put_text(&b, "\x85");
    put_text(&b, ".");
    expect_refused(&archive_of(b.data, b.n)->b, "nested deeper than 1000");
    b.n = 0;
    put_text(&b, "\x80\x02");
    for (int i = 0; i < 2000; i++)
        put_text(&b, "(");
    expect_refused(&archive_of(b.data, b.n)->b, "open marks");
    b.n = 0;
    put_text(&b, "\x80\x02"
                 "c");
    for (int i = 0; i < 2000; i++)
        put_text(&b, "x");
    put_text(&b, "\ny\n.");
    expect_refused(&archive_of(b.data, b.n)->b, "1023 bytes");
    expect_refused(&ARCHIVE("\x80\x02]q\0h\0a.")->b, "not a map of tensors");
    expect_refused(&ARCHIVE("\x80\x02}q\0X\x05\0\0\0modelh\0s.")->b, "top-level keys: model");
}

static void test_verify_checks_every_record(void **state)
{
    (void)state;
    zip_maker *z = ARCHIVE(PK_MAP(PK_W));
    z->b.data[z->at[2].data] ^= 1; /* a weight, not the pickle */
    lx_weights *w = open_ok(z);    /* nobody asked */
    lx_weights_close(&w);
    scratch s = scratch_open();
    lx_err err = {0};
    lx_weights_options options = {.verify = true};
    put_file(in(&s, "x.pth"), z->b.data, z->b.n);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.pth"), &options, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "data/0 is damaged"));
    put_file(in(&s, "x.pth"), "\x80\x04K\1.     ", 10);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.pth"), NULL, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "bare pickle"));
    put_file(in(&s, "x.pth"), "zzzzzzzzzzzzzz", 14);
    assert_int_equal(lx_weights_open(&w, in(&s, "x.pth"), NULL, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "neither a zip archive of torch.save nor safetensors"));
    remove_tree(s.dir);
}

/* CRC-32 of "123456789", the check value of every description of it. */
static void test_crc(void **state)
{
    (void)state;
    assert_int_equal(lx_crc32(0, "123456789", 9), 0xcbf43926);
    assert_int_equal(lx_crc32(lx_crc32(0, "12345", 5), "6789", 4), 0xcbf43926);
}

/* --- the golden files: written by torch itself ------------------------------------------------ */

static void test_golden_files(void **state)
{
    static const struct {
        const char *name;
        size_t count;
        lx_dtype q;
    } row[] = {{"models_t5_umt5-xxl-enc-bf16.pth", 32, LX_DTYPE_BF16},
               {"models_t5_umt5-xxl-enc-int8.pth", 32, LX_DTYPE_I8},
               {"models_t5_umt5-xxl-enc-fp8.pth", 32, LX_DTYPE_F8_E4M3}};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        char path[512];
        lx_err err = {0};
        lx_weights *w = NULL;
        lx_weight q;
        lx_weights_options options = {.verify = true};
        snprintf(path, sizeof path, "%s/tests/golden/%s", LX2V_SOURCE_DIR, row[i].name);
        if (lx_weights_open(&w, path, &options, &err) != LX_OK)
            fail_msg("%s", err.message);
        assert_int_equal(lx_weights_count(w), row[i].count);
        assert_true(lx_weights_find(w, "blocks.0.attn.q.weight", &q));
        assert_int_equal(q.dtype, row[i].q);
        assert_int_equal(q.scale != NULL, i > 0);
        lx_weights_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_map),
        cmocka_unit_test(test_views_share_a_storage),
        cmocka_unit_test(test_nesting_and_wrappers),
        cmocka_unit_test(test_eight_bit_types),
        cmocka_unit_test(test_zip_structure),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_zip_names),
        cmocka_unit_test(test_version_and_byte_order),
        cmocka_unit_test(test_zip64),
        cmocka_unit_test(test_pickles_that_are_refused),
        cmocka_unit_test(test_tensors_that_are_refused),
        cmocka_unit_test(test_depth_is_bounded),
        cmocka_unit_test(test_verify_checks_every_record),
        cmocka_unit_test(test_crc),
        cmocka_unit_test(test_golden_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
