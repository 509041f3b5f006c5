/*
 * test_journal.c - what was committed is read again; what was not is cut; the rest is refused
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "journal.h"
#include "lx_crc32c.h"
#include "world.h"

#define FACTS_MAX 64

typedef struct place {
    char dir[64], file[96];
    journal_fact fact; /* to write */
    journal_fact heard[FACTS_MAX];
    int n_heard, n_all;
} place;

static int set_up(void **state)
{
    place *p = calloc(1, sizeof *p);
    snprintf(p->dir, sizeof p->dir, "/tmp/lx2v-journal-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    snprintf(p->file, sizeof p->file, "%s/journal", p->dir);
    *state = p;
    return 0;
}

static int tear_down(void **state)
{
    place *p = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", p->dir);
    int failed = system(command);
    free(p);
    return failed;
}

static lx_status hear(void *self, const journal_fact *fact, lx_err *err)
{
    (void)err;
    place *p = self;
    p->n_all++;
    if (fact->type != JOURNAL_MARK && p->n_heard < FACTS_MAX)
        p->heard[p->n_heard++] = *fact;
    return LX_OK;
}

static lx_status try_open(place *p, journal **j, lx_err *err)
{
    p->n_heard = p->n_all = 0;
    return journal_open(j, p->dir, hear, p, err);
}

static journal *must_open(place *p)
{
    journal *j = NULL;
    lx_err err = {0};
    if (try_open(p, &j, &err) != LX_OK)
        fail_msg("%s", err.message);
    return j;
}

/* The process is gone without closing: only descriptors end. What was not flushed is lost. */
static void crash(journal **j, const place *p)
{
    char copy[96], command[256];
    snprintf(copy, sizeof copy, "%s.crashed", p->dir);
    snprintf(command, sizeof command, "cp %s %s", p->file, copy);
    assert_int_equal(system(command), 0);
    journal_close(j);
    assert_int_equal(rename(copy, p->file), 0);
}

static void accept(place *p, journal *j, const char *id)
{
    lx_err err = {0};
    p->fact = (journal_fact){.type = JOURNAL_ACCEPTED, .at_s = 12.5, .has_drawn_seed = true};
    p->fact.job = world_job(id);
    p->fact.job.seed = 77;
    if (journal_append(j, &p->fact, 1, &err) != LX_OK)
        fail_msg("%s", err.message);
}

static void end(place *p, journal *j, const char *id, lx_job_state state)
{
    p->fact = (journal_fact){.type = JOURNAL_ENDED,
                             .at_s = 20,
                             .begin_s = 13,
                             .state = state,
                             .file_bytes = 4321,
                             .n_frames = 5,
                             .retries = 1,
                             .n_step_s = 2,
                             .step_s = {0.5, 0.25}};
    snprintf(p->fact.job.id, sizeof p->fact.job.id, "%s", id);
    snprintf(p->fact.error, sizeof p->fact.error, "%s", state == LX_JOB_FAILED ? "why" : "");
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        p->fact.part[kind] =
            (journal_part){.replica = kind, .start_s = 14, .end_s = 15, .peak_bytes = 9};
    assert_int_equal(journal_append(j, &p->fact, 0, NULL), LX_OK);
}

static void commit(journal *j)
{
    lx_err err = {0};
    if (journal_commit(j, &err) != LX_OK)
        fail_msg("%s", err.message);
}

static unsigned char *slurp(const char *path, size_t *n)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    unsigned char *bytes = malloc((size_t)st.st_size + 1);
    int fd = open(path, O_RDONLY);
    assert_int_equal(read(fd, bytes, (size_t)st.st_size), st.st_size);
    close(fd);
    *n = (size_t)st.st_size;
    return bytes;
}

static void spill(const char *path, const unsigned char *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
}

/* Offsets at which records begin, from the bytes themselves. */
static int find_records(const unsigned char *bytes, size_t n, size_t at[FACTS_MAX])
{
    int found = 0;
    journal_record record;
    for (size_t offset = JOURNAL_HEAD_BYTES;
         journal_record_look(bytes + offset, n - offset, &record) == JOURNAL_GOOD;
         offset += record.bytes)
        at[found++] = offset;
    return found;
}

/* --- records ---------------------------------------------------------------------------------- */

static void test_crc_is_castagnoli(void **state)
{
    (void)state;
    assert_int_equal(lx_crc32c(0, "123456789", 9),
                     0xe3069283); /* the check value of the catalogue */
    assert_int_equal(lx_crc32c(lx_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

static void test_record_comes_back_as_it_was(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    accept(p, j, "first-one_1");
    journal_fact latent = {
        .type = JOURNAL_LATENT, .latent_bytes = 8386560, .latent_crc = 0xfeedbeef};
    memcpy(latent.job.id, "first-one_1", 12);
    assert_int_equal(journal_append(j, &latent, 1, NULL), LX_OK);
    end(p, j, "first-one_1", LX_JOB_FAILED);
    journal_close(&j); /* commits, and marks */
    assert_null(j);
    j = must_open(p);
    assert_int_equal(p->n_heard, 3);
    assert_int_equal(p->n_all, 4);
    const journal_fact *f = p->heard;
    lx_job job = world_job("first-one_1");
    job.seed = 77;
    assert_int_equal(f[0].type, JOURNAL_ACCEPTED);
    assert_memory_equal(&f[0].job, &job, sizeof job);
    assert_true(f[0].has_drawn_seed && f[0].at_s == 12.5);
    assert_true(f[0].boot == journal_boot() && f[0].boot != 0);
    assert_true(f[0].wall_us > INT64_C(1600000000000000));
    assert_int_equal(f[1].latent_bytes, 8386560);
    assert_int_equal(f[1].latent_crc, 0xfeedbeef);
    assert_int_equal(f[2].state, LX_JOB_FAILED);
    assert_string_equal(f[2].error, "why");
    assert_true(f[2].n_step_s == 2 && f[2].step_s[1] == 0.25 && f[2].file_bytes == 4321);
    assert_true(f[2].part[3].replica == 3 && f[2].part[3].peak_bytes == 9);
    for (int i = 0; i < 3; i++)
        assert_int_equal(f[i].sequence, i + 1);
    journal_close(&j);
}

/* A key is the last field and may be missing, as in files of launchers that did not keep it. */
static void test_record_without_a_key_is_whole(void **state)
{
    place *p = *state;
    static unsigned char bytes[JOURNAL_RECORD_BYTES + JOURNAL_PAYLOAD_MAX];
    journal_record record;
    lx_err err = {0};
    journal_fact fact = {.type = JOURNAL_ACCEPTED, .job = world_job("x")};
    fact.job.seed = 77;
    size_t n = journal_encode(&fact, 1, 0, bytes);
    assert_int_equal(journal_record_look(bytes, n, &record), JOURNAL_GOOD);
    assert_int_equal(journal_decode(&record, &p->fact, &err), LX_OK);
    assert_true(p->fact.key == 0);
    fact.key = UINT64_C(0x8000000000000001);
    assert_int_equal(journal_encode(&fact, 1, 0, bytes), n + 8);
    assert_int_equal(journal_record_look(bytes, n + 8, &record), JOURNAL_GOOD);
    assert_int_equal(journal_decode(&record, &p->fact, &err), LX_OK);
    assert_true(p->fact.key == fact.key);
    for (record.payload_bytes--; record.payload_bytes > n - JOURNAL_RECORD_BYTES;
         record.payload_bytes--)
        assert_int_equal(journal_decode(&record, &p->fact, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "field key"));
}

static void test_largest_facts_fit(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    accept(p, j, "x");
    lx_job *job = &p->fact.job;
    memset(job->id, 'i', LX_LIMIT_ID);
    memset(job->prompt, 'p', LX_LIMIT_PROMPT);
    memset(job->output, 'o', LX_LIMIT_NAME);
    memcpy(job->rng, "torch-cuda:132x2048", 20);
    p->fact.key = UINT64_MAX;
    job->n_steps = LX_LIMIT_STEPS;
    for (int i = 0; i < LX_LIMIT_STEPS; i++)
        job->steps[i] = 1000 - i;
    static unsigned char bytes[JOURNAL_RECORD_BYTES + JOURNAL_PAYLOAD_MAX];
    assert_int_equal(journal_append(j, &p->fact, 1, NULL), LX_OK);
    journal_fact whole = p->fact;
    end(p, j, whole.job.id, LX_JOB_FAILED);
    memset(p->fact.error, 'e', LX_LIMIT_TEXT - 1);
    memset(p->fact.notice, 'n', LX_LIMIT_TEXT - 1);
    p->fact.n_step_s = LX_LIMIT_STEPS;
    size_t n_end = journal_encode(&p->fact, 1, 0, bytes);
    p->fact.type = JOURNAL_LATENT;
    assert_true(n_end + journal_encode(&p->fact, 1, 0, bytes) <= JOURNAL_RESERVE);
    journal_close(&j);
    j = must_open(p);
    assert_memory_equal(&p->heard[1].job, &whole.job, sizeof whole.job);
    journal_close(&j);
}

/* --- ends ------------------------------------------------------------------------------------- */

/* Cut at every byte of the last record: it starts, and at most that record is gone. */
static void test_torn_end_is_cut_at_every_byte(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    accept(p, j, "a");
    commit(j);
    accept(p, j, "b");
    commit(j);
    crash(&j, p);
    size_t n, at[FACTS_MAX];
    unsigned char *bytes = slurp(p->file, &n);
    assert_int_equal(find_records(bytes, n, at), 2);
    size_t last_bytes = n;
    while (last_bytes > 0 && !bytes[last_bytes - 1])
        last_bytes--;
    for (size_t cut = at[1]; cut < last_bytes; cut++) {
        for (int is_zeroed = 0; is_zeroed < 2; is_zeroed++) { /* short, or full of zeros */
            spill(p->file, bytes, is_zeroed ? n : cut);
            if (is_zeroed) {
                unsigned char *torn = calloc(1, n);
                memcpy(torn, bytes, cut);
                spill(p->file, torn, n);
                free(torn);
            }
            j = must_open(p);
            assert_int_equal(p->n_heard, 1);
            assert_string_equal(p->heard[0].job.id, "a");
            accept(p, j, "c"); /* and it can be gone on with */
            journal_close(&j);
            j = must_open(p);
            assert_int_equal(p->n_heard, 2);
            assert_string_equal(p->heard[1].job.id, "c");
            journal_close(&j);
        }
    }
    free(bytes);
}

/* A power cut may keep a batch's later page and lose the earlier one: still nobody was told. */
static void test_batch_that_was_never_synced_is_cut_as_a_whole(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    accept(p, j, "a");
    commit(j);
    accept(p, j, "b");
    accept(p, j, "c");
    accept(p, j, "d");
    commit(j);
    crash(&j, p);
    size_t n, at[FACTS_MAX];
    unsigned char *bytes = slurp(p->file, &n);
    assert_int_equal(find_records(bytes, n, at), 4);
    memset(bytes + at[1], 0, at[2] - at[1]);
    spill(p->file, bytes, n);
    j = must_open(p);
    assert_int_equal(p->n_heard, 1);
    journal_close(&j);
    free(bytes);
}

/* Every byte of a record in the middle, so every class of byte: length, CRC, sequence, type, back,
 * payload; and of the file's head. */
static void test_flipped_bit_in_the_middle_is_refused_with_its_offset(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    for (int i = 0; i < 3; i++) {
        accept(p, j, (const char *[]){"a", "b", "c"}[i]);
        commit(j);
    }
    journal_close(&j);
    size_t n, at[FACTS_MAX];
    unsigned char *bytes = slurp(p->file, &n);
    assert_int_equal(find_records(bytes, n, at), 4);
    char wanted[64];
    for (size_t offset = at[1]; offset < at[2]; offset++) {
        bytes[offset] ^= (unsigned char)(1u << offset % 8);
        spill(p->file, bytes, n);
        lx_err err = {0};
        assert_int_equal(try_open(p, &j, &err), LX_ECONFIG);
        snprintf(wanted, sizeof wanted, "offset %zu", at[1]);
        assert_non_null(strstr(err.message, wanted));
        assert_non_null(strstr(err.message, p->file));
        assert_non_null(strstr(err.message, "lx2v journal check"));
        assert_non_null(strstr(err.message, "repair"));
        bytes[offset] ^= (unsigned char)(1u << offset % 8);
    }
    for (size_t offset = 0; offset < JOURNAL_HEAD_BYTES; offset++) {
        bytes[offset] ^= 1;
        spill(p->file, bytes, n);
        lx_err err = {0};
        assert_int_equal(try_open(p, &j, &err), LX_ECONFIG);
        bytes[offset] ^= 1;
    }
    size_t n_after;
    spill(p->file, bytes, n);
    lx_err err = {0};
    bytes[at[1]] ^= 0xff;
    spill(p->file, bytes, n);
    assert_int_equal(try_open(p, &j, &err), LX_ECONFIG);
    unsigned char *after = slurp(p->file, &n_after); /* refusing changes nothing */
    assert_true(n_after == n && memcmp(after, bytes, n) == 0);
    free(after);
    free(bytes);
}

static void test_repair_keeps_all_but_the_damaged(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    for (int i = 0; i < 4; i++) {
        accept(p, j, (const char *[]){"a", "b", "c", "d"}[i]);
        commit(j);
    }
    journal_scan scan;
    char kept[64], path[192];
    lx_err err = {0};
    assert_int_equal(journal_repair(p->dir, kept, &scan, &err), LX_ECONFIG); /* it is in use */
    journal_close(&j);
    size_t n, at[FACTS_MAX];
    unsigned char *bytes = slurp(p->file, &n);
    find_records(bytes, n, at);
    bytes[at[1] + 40] ^= 4;
    spill(p->file, bytes, n);
    free(bytes);
    if (journal_repair(p->dir, kept, &scan, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_int_equal(scan.damage_at, at[1]);
    assert_int_equal(scan.n_lost, 1);
    snprintf(path, sizeof path, "%s/%s", p->dir, kept);
    assert_int_equal(access(path, R_OK), 0);
    j = must_open(p);
    assert_int_equal(p->n_heard, 3);
    assert_string_equal(p->heard[0].job.id, "a");
    assert_string_equal(p->heard[1].job.id, "c");
    assert_string_equal(p->heard[2].job.id, "d");
    journal_close(&j);
}

/* --- the file --------------------------------------------------------------------------------- */

static void test_second_launcher_is_refused(void **state)
{
    place *p = *state;
    journal *j = must_open(p), *second = NULL;
    lx_err err = {0};
    assert_int_equal(journal_open(&second, p->dir, NULL, NULL, &err), LX_ECONFIG);
    assert_non_null(strstr(err.message, "running"));
    journal_close(&j);
    struct stat st;
    assert_int_equal(stat(p->file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    chmod(p->dir, 0777);
    assert_int_equal(journal_open(&second, p->dir, NULL, NULL, &err), LX_ECONFIG);
    chmod(p->dir, 0700);
}

static bool keep_second(void *self, journal_fact *out)
{
    place *p = self;
    if (p->n_heard)
        return false;
    out->type = JOURNAL_ACCEPTED;
    out->job = world_job("b");
    out->wall_us = 5;
    p->n_heard = 1;
    return true;
}

static void test_rewriting_keeps_exactly_what_it_is_given(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    accept(p, j, "a");
    accept(p, j, "b");
    end(p, j, "a", LX_JOB_DONE);
    commit(j);
    uint64_t before = journal_bytes(j);
    lx_err err = {0};
    if (journal_rewrite(j, keep_second, p, 1, &err) != LX_OK)
        fail_msg("%s", err.message);
    assert_true(journal_bytes(j) < before);
    accept(p, j, "c");
    commit(j);
    crash(&j, p);
    j = must_open(p);
    assert_int_equal(p->n_heard, 2);
    assert_string_equal(p->heard[0].job.id, "b");
    assert_int_equal(p->heard[0].wall_us, 5); /* as it was told, not of now */
    assert_string_equal(p->heard[1].job.id, "c");
    assert_int_equal(p->heard[1].sequence, 5); /* numbers go on */
    journal_close(&j);
}

/* A disk that fills up: refused before a promise, and what was accepted can still end. */
static void test_full_disk_refuses_and_ends_still_fit(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 128 * 1024; /* stands for the disk: files cannot grow beyond */
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    lx_err err = {0};
    lx_status status = LX_OK;
    int n = 0;
    while (status == LX_OK && n < 100) {
        char id[8];
        snprintf(id, sizeof id, "j%d", n);
        p->fact = (journal_fact){.type = JOURNAL_ACCEPTED, .job = world_job(id)};
        status = journal_append(j, &p->fact, n + 1, &err);
        n += status == LX_OK;
    }
    assert_int_equal(status, LX_EAGAIN);
    assert_true(n > 10 && n < 40);
    assert_non_null(strstr(err.message, "no space: needs"));
    for (int i = 0; i < n; i++) {
        char id[8];
        snprintf(id, sizeof id, "j%d", i);
        end(p, j, id, LX_JOB_FAILED);
        commit(j);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    journal_close(&j);
    j = must_open(p);
    assert_int_equal(p->n_heard, 2 * n);
    journal_close(&j);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_ten_thousand_records_are_read_in_a_second(void **state)
{
    place *p = *state;
    journal *j = must_open(p);
    char id[16];
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof id, "job%d", i);
        accept(p, j, id);
        end(p, j, id, LX_JOB_DONE);
    }
    journal_close(&j);
    double from = now_s();
    j = must_open(p);
    double took = now_s() - from;
    printf("10,000 records, %.1f MiB: %.1f ms\n", (double)journal_bytes(j) / 0x1p20, took * 1e3);
    assert_int_equal(p->n_all, 10001);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(took < 1);
#endif
    journal_close(&j);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_crc_is_castagnoli),
        CASE(test_record_comes_back_as_it_was),
        CASE(test_record_without_a_key_is_whole),
        CASE(test_largest_facts_fit),
        CASE(test_torn_end_is_cut_at_every_byte),
        CASE(test_batch_that_was_never_synced_is_cut_as_a_whole),
        CASE(test_flipped_bit_in_the_middle_is_refused_with_its_offset),
        CASE(test_repair_keeps_all_but_the_damaged),
        CASE(test_second_launcher_is_refused),
        CASE(test_rewriting_keeps_exactly_what_it_is_given),
        CASE(test_full_disk_refuses_and_ends_still_fit),
        CASE(test_ten_thousand_records_are_read_in_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
