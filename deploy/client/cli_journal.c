/*
 * cli_journal.c - lx2v journal check|repair|export: works on the file, without a launcher
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "journal.h"
#include "lx_config.h"

#define FILE_NAME "journal"

typedef struct place {
    char dir[LX_LIMIT_PATH], file[LX_LIMIT_PATH + 16];
} place;

/* FILE, or the journal of a config. */
static lx_status find_place(place *p, const cli_args *args, lx_err *err)
{
    if (args->n_words > 1) {
        int n = snprintf(p->file, sizeof p->file, "%s", args->words[1]);
        const char *slash = strrchr(args->words[1], '/');
        if (n < 0 || n >= LX_LIMIT_PATH || strcmp(slash ? slash + 1 : args->words[1], FILE_NAME))
            return lx_fail(err, LX_ECONFIG, "%.200s: a file named " FILE_NAME " is accepted",
                           args->words[1]);
        snprintf(p->dir, sizeof p->dir, "%.*s", slash ? (int)(slash - args->words[1]) : 1,
                 slash ? args->words[1] : ".");
        if (slash == args->words[1])
            snprintf(p->dir, sizeof p->dir, "/");
        return LX_OK;
    }
    lx_config *config = malloc(sizeof *config); /* 60 KiB */
    if (!config)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    lx_status status =
        lx_config_load(config, args->common.config ? args->common.config : "config.yaml", err);
    if (status == LX_OK) {
        memcpy(p->dir, config->state.journal, sizeof p->dir);
        snprintf(p->file, sizeof p->file, "%s/" FILE_NAME, p->dir);
    }
    free(config);
    return status;
}

/* Reads without the lock: while a launcher writes, its last record may look torn. */
static lx_status read_all(const place *p, journal_fact_fn on_fact, void *self, journal_scan *scan,
                          lx_err *err)
{
    int fd = open(p->file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return lx_fail(err, LX_ECONFIG, "%s: %s", p->file, strerror(errno));
    journal_fact *fact = malloc(sizeof *fact); /* 20 KiB */
    lx_status status = fact ? journal_read(fd, false, fact, on_fact, self, scan, err)
                            : lx_fail(err, LX_EAGAIN, "out of memory");
    if (status != LX_OK && fact)
        lx_wrap(err, "%s", p->file);
    free(fact);
    close(fd);
    return status;
}

static lx_status damaged(const place *p, const journal_scan *scan, lx_err *err)
{
    return lx_fail(err, LX_ECONFIG,
                   "%s: damaged at offset %" PRIu64 ", after %" PRIu64
                   " good records: %s; `lx2v journal repair %s` saves what can be read",
                   p->file, scan->damage_at, scan->n_records, scan->why, p->file);
}

typedef struct tally {
    uint64_t n[JOURNAL_TYPE_COUNT];
} tally;

static lx_status count_fact(void *self, const journal_fact *fact, lx_err *err)
{
    (void)err;
    ((tally *)self)->n[fact->type]++;
    return LX_OK;
}

static lx_status check(const place *p, bool is_json, lx_err *err)
{
    tally t = {{0}};
    journal_scan scan;
    lx_status status = read_all(p, count_fact, &t, &scan, err);
    if (status != LX_OK)
        return status;
    if (scan.damage_at)
        return damaged(p, &scan, err);
    if (is_json) {
        cli_json_print(json_pack(
            "{s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "file", cli_json_text(p->file), "records",
            (json_int_t)scan.n_records, "bytes", (json_int_t)scan.end, "torn_bytes",
            (json_int_t)scan.cut_bytes, "accepted", (json_int_t)t.n[JOURNAL_ACCEPTED], "latents",
            (json_int_t)t.n[JOURNAL_LATENT], "ended", (json_int_t)t.n[JOURNAL_ENDED]));
        return LX_OK;
    }
    printf("%s: whole: %" PRIu64 " records in %" PRIu64 " bytes; %" PRIu64 " accepted, %" PRIu64
           " latents, %" PRIu64 " ended\n",
           p->file, scan.n_records, scan.end, t.n[JOURNAL_ACCEPTED], t.n[JOURNAL_LATENT],
           t.n[JOURNAL_ENDED]);
    if (scan.cut_bytes)
        printf("a torn end of %" PRIu64 " bytes at offset %" PRIu64
               ": nobody was promised it; the next start cuts it off\n",
               scan.cut_bytes, scan.end);
    return LX_OK;
}

static lx_status repair(const place *p, bool is_json, lx_err *err)
{
    char kept_as[64];
    journal_scan scan;
    lx_status status = journal_repair(p->dir, kept_as, &scan, err);
    if (status != LX_OK)
        return status;
    if (is_json)
        cli_json_print(json_pack("{s:o, s:I, s:I, s:s}", "file", cli_json_text(p->file), "records",
                                 (json_int_t)scan.n_records, "lost", (json_int_t)scan.n_lost,
                                 "kept_as", kept_as));
    else
        printf("%s: %" PRIu64 " records saved, %" PRIu64 " lost; the old file is %s/%s\n", p->file,
               scan.n_records, scan.n_lost, p->dir, kept_as);
    return LX_OK;
}

/* --- export ----------------------------------------------------------------------------------- */

static void export_job(json_t *out, const journal_fact *fact)
{
    const lx_job *job = &fact->job;
    json_t *steps = json_array();
    for (int i = 0; i < job->n_steps; i++)
        json_array_append_new(steps, json_integer(job->steps[i]));
    json_object_set_new(out, "prompt", cli_json_text(job->prompt));
    json_object_set_new(out, "width", json_integer(job->width));
    json_object_set_new(out, "height", json_integer(job->height));
    json_object_set_new(out, "frames", json_integer(job->frames));
    json_object_set_new(out, "fps", json_real(job->fps));
    json_object_set_new(out, "seed", json_integer(job->seed));
    json_object_set_new(out, "sampler", json_string(lx_sampler_name((lx_sampler)job->sampler)));
    json_object_set_new(out, "shift", json_real(job->shift));
    json_object_set_new(out, "steps", steps);
    json_object_set_new(out, "rng", cli_json_text(job->rng));
    json_object_set_new(out, "output", cli_json_text(job->output));
}

static lx_status export_fact(void *self, const journal_fact *fact, lx_err *err)
{
    (void)self;
    if (fact->type == JOURNAL_MARK)
        return LX_OK;
    json_t *out = json_pack("{s:s, s:I, s:f, s:s}", "fact", journal_type_name(fact->type),
                            "sequence", (json_int_t)fact->sequence, "time",
                            (double)fact->wall_us * 1e-6, "id", fact->job.id);
    if (!out)
        return lx_fail(err, LX_EAGAIN, "out of memory");
    if (fact->type == JOURNAL_ACCEPTED) {
        export_job(out, fact);
    } else if (fact->type == JOURNAL_LATENT) {
        json_object_set_new(out, "bytes", json_integer((json_int_t)fact->latent_bytes));
    } else {
        json_object_set_new(out, "state", json_string(lx_job_state_name(fact->state)));
        json_object_set_new(out, "error", cli_json_text(fact->error));
        json_object_set_new(out, "file_bytes", json_integer((json_int_t)fact->file_bytes));
        json_object_set_new(out, "retries", json_integer((json_int_t)fact->retries));
    }
    cli_json_print(out);
    return LX_OK;
}

static lx_status export_all(const place *p, lx_err *err)
{
    journal_scan scan;
    lx_status status = read_all(p, export_fact, NULL, &scan, err);
    return status == LX_OK && scan.damage_at ? damaged(p, &scan, err) : status;
}

lx_status cli_journal(const cli_command *self, int argc, char **argv, lx_err *err)
{
    static const char *const verbs[] = {"check", "repair", "export"};
    cli_args args = {0};
    place *p = calloc(1, sizeof *p);
    bool done = false;
    lx_status status = p ? cli_begin(self, &args, argc, argv, NULL, 0, &done, err)
                         : lx_fail(err, LX_EAGAIN, "out of memory");
    int verb = -1;
    for (int i = 0; i < 3 && args.n_words > 0; i++)
        if (strcmp(args.words[0], verbs[i]) == 0)
            verb = i;
    if (status == LX_OK && !done && (verb < 0 || args.n_words > 2))
        status = lx_fail(err, LX_ECONFIG,
                         "journal: accepted: check, repair or export, and a FILE or --config");
    if (status == LX_OK && !done)
        status = find_place(p, &args, err);
    if (status == LX_OK && !done)
        status = verb == 0   ? check(p, args.common.json, err)
                 : verb == 1 ? repair(p, args.common.json, err)
                             : export_all(p, err);
    free(p);
    free(args.words);
    return status;
}
