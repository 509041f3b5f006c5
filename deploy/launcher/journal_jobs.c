/*
 * journal_jobs.c - facts of jobs, there and back
 * SPDX-License-Identifier: Apache-2.0
 */
#include "journal_jobs.h"

#include <stdlib.h>
#include <string.h>

#include "lx_log.h"

#define LONG_AGO 0.001 /* an end whose time is not known: 0 would mean that it has not ended */

/* --- from the file ---------------------------------------------------------------------------- */

typedef struct filling {
    lx_jobs *jobs;
    double now_s;
    uint64_t boot;
} filling;

/* Sizes and prompt are those that were accepted; what this launcher cannot do with them is found
 * out where jobs are admitted. */
static lx_status take_accepted(const filling *f, const journal_fact *fact, lx_err *err)
{
    bool is_known_time = fact->boot == f->boot && f->boot;
    lx_entry *e = lx_jobs_find(f->jobs, fact->job.id);
    if (e && e->list != LX_LIST_ENDED) {
        LX_W("journal: job %s is accepted twice; once counts", e->job->id);
        return LX_OK;
    }
    lx_status status = LX_OK;
    if (e) {
        e->retries++;
        e->attempt++;
        e->begin_s = e->end_s = 0;
        e->error[0] = e->notice[0] = 0;
        e->file_bytes = e->saved_bytes = 0;
        e->end_wall_us = 0;
        e->is_of_old_boot = false;
        for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
            lx_entry_reset_part(e, (lx_stage_kind)kind);
        status = lx_jobs_move(f->jobs, e, LX_JOB_QUEUED, err);
    } else {
        status = lx_jobs_add(f->jobs, &fact->job, f->now_s, &e, err);
    }
    if (status != LX_OK)
        return lx_fail(err, LX_ECONFIG,
                       "it holds more than %d unfinished jobs; raise limits.queue in config.yaml",
                       lx_jobs_max_live(f->jobs));
    e->has_drawn_seed = fact->has_drawn_seed;
    e->owner = e->key = fact->key;
    e->submit_s = is_known_time ? fact->at_s : f->now_s;
    e->submit_wall_us = fact->wall_us;
    return LX_OK;
}

static void take_times(const filling *f, const journal_fact *fact, lx_entry *e)
{
    e->is_of_old_boot = fact->boot != f->boot || !f->boot;
    e->end_wall_us = fact->wall_us;
    e->end_s = e->is_of_old_boot ? LONG_AGO : fact->at_s;
    e->begin_s = e->is_of_old_boot ? 0 : fact->begin_s;
    if (e->is_of_old_boot)
        e->submit_s = 0;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        const journal_part *from = &fact->part[kind];
        lx_part *part = &e->part[kind];
        lx_entry_reset_part(e, (lx_stage_kind)kind);
        part->replica = from->replica;
        part->wait_s = from->wait_s;
        part->peak_bytes = from->peak_bytes;
        if (e->is_of_old_boot || from->start_s < 0)
            continue;
        part->start_s = from->start_s;
        part->end_s = from->end_s;
        part->state = from->end_s >= 0 ? LX_PART_DONE : LX_PART_WAITING;
    }
}

static lx_status take_ended(const filling *f, const journal_fact *fact, lx_entry *e, lx_err *err)
{
    take_times(f, fact, e);
    memcpy(e->error, fact->error, sizeof e->error);
    memcpy(e->notice, fact->notice, sizeof e->notice);
    e->n_tokens = fact->n_tokens;
    e->n_dropped = fact->n_dropped;
    e->n_frames = fact->n_frames;
    e->file_bytes = fact->file_bytes;
    e->retries = fact->retries;
    e->n_step_s = fact->n_step_s;
    memcpy(e->step_s, fact->step_s, sizeof e->step_s);
    e->saved_bytes = 0;
    return lx_jobs_move(f->jobs, e, fact->state, err);
}

static lx_status take_fact(void *self, const journal_fact *fact, lx_err *err)
{
    const filling *f = self;
    if (fact->type == JOURNAL_MARK)
        return LX_OK;
    if (fact->type == JOURNAL_ACCEPTED)
        return take_accepted(f, fact, err);
    lx_entry *e = lx_jobs_find(f->jobs, fact->job.id);
    if (!e || e->list == LX_LIST_ENDED) {
        LX_W("journal: a fact (%s) about job %s, which is not at work, is left out",
             journal_type_name(fact->type), fact->job.id);
        return LX_OK;
    }
    if (fact->type == JOURNAL_ENDED)
        return take_ended(f, fact, e, err);
    e->saved_bytes = fact->latent_bytes;
    e->saved_crc = fact->latent_crc;
    return LX_OK;
}

lx_status journal_jobs_open(journal **out, const char *dir, lx_jobs *jobs, double now_s,
                            lx_err *err)
{
    filling f = {.jobs = jobs, .now_s = now_s, .boot = journal_boot()};
    return journal_open(out, dir, take_fact, &f, err);
}

/* --- to the file ------------------------------------------------------------------------------ */

static void fill_accepted(journal_fact *fact, const lx_job *job, uint64_t key, bool has_drawn_seed,
                          double at_s)
{
    fact->type = JOURNAL_ACCEPTED;
    fact->job = *job;
    fact->key = key;
    fact->has_drawn_seed = has_drawn_seed;
    fact->at_s = at_s;
}

static void fill_latent(journal_fact *fact, const lx_entry *e, double at_s)
{
    fact->type = JOURNAL_LATENT;
    memcpy(fact->job.id, e->job->id, sizeof fact->job.id);
    fact->at_s = at_s;
    fact->latent_bytes = e->saved_bytes;
    fact->latent_crc = e->saved_crc;
}

static void fill_ended(journal_fact *fact, const lx_entry *e)
{
    fact->type = JOURNAL_ENDED;
    memcpy(fact->job.id, e->job->id, sizeof fact->job.id);
    fact->at_s = e->end_s;
    fact->state = e->state;
    fact->begin_s = e->begin_s;
    memcpy(fact->error, e->error, sizeof fact->error);
    memcpy(fact->notice, e->notice, sizeof fact->notice);
    fact->n_tokens = e->n_tokens;
    fact->n_dropped = e->n_dropped;
    fact->n_frames = e->n_frames;
    fact->file_bytes = e->file_bytes;
    fact->retries = e->retries;
    fact->n_step_s = e->n_step_s;
    memcpy(fact->step_s, e->step_s, sizeof fact->step_s);
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++) {
        const lx_part *part = &e->part[kind];
        fact->part[kind] = (journal_part){.replica = part->replica,
                                          .start_s = part->start_s,
                                          .end_s = part->end_s,
                                          .wait_s = part->wait_s,
                                          .peak_bytes = part->peak_bytes};
    }
}

lx_status journal_jobs_accept(journal *j, const lx_jobs *jobs, const lx_job *job, uint64_t key,
                              bool has_drawn_seed, double now_s, lx_err *err)
{
    journal_fact *fact = journal_scratch(j);
    fill_accepted(fact, job, key, has_drawn_seed, now_s);
    return journal_append(j, fact, lx_jobs_live(jobs) + 1, err);
}

lx_status journal_jobs_latent(journal *j, const lx_entry *e, lx_err *err)
{
    journal_fact *fact = journal_scratch(j);
    fill_latent(fact, e, e->part[LX_STAGE_DIT].end_s > 0 ? e->part[LX_STAGE_DIT].end_s : 0);
    return journal_append(j, fact, 0, err);
}

lx_status journal_jobs_end(journal *j, lx_entry *e, lx_err *err)
{
    journal_fact *fact = journal_scratch(j);
    fill_ended(fact, e);
    lx_status status = journal_append(j, fact, 0, err);
    e->end_wall_us = fact->wall_us;
    return status;
}

/* --- all of it again -------------------------------------------------------------------------- */

typedef struct telling { /* the table as facts: ended, running, queued jobs, each list in order */
    const lx_jobs *jobs;
    int list; /* index into `order` */
    const lx_entry *entry;
    bool is_second; /* the entry's second fact is next */
    uint64_t boot;
} telling;

static const lx_job_list order[] = {LX_LIST_ENDED, LX_LIST_RUNNING, LX_LIST_QUEUED};
#define N_LISTS ((int)(sizeof order / sizeof *order))

static void next_entry(telling *t)
{
    t->is_second = false;
    t->entry = t->entry ? t->entry->next : NULL;
    while (!t->entry && t->list + 1 < N_LISTS)
        t->entry = lx_jobs_first(t->jobs, order[++t->list]);
}

static bool next_fact(void *self, journal_fact *fact)
{
    telling *t = self;
    const lx_entry *e = t->entry;
    if (!e)
        return false;
    bool has_ended = e->list == LX_LIST_ENDED;
    memset(fact, 0, sizeof *fact);
    fact->boot = e->is_of_old_boot ? 0 : t->boot;
    fact->wall_us = t->is_second && has_ended ? e->end_wall_us : e->submit_wall_us;
    if (!t->is_second)
        fill_accepted(fact, e->job, e->key, e->has_drawn_seed, e->submit_s);
    else if (has_ended)
        fill_ended(fact, e);
    else
        fill_latent(fact, e, e->submit_s);
    if (!t->is_second && (has_ended || e->saved_bytes))
        t->is_second = true;
    else
        next_entry(t);
    return true;
}

lx_status journal_jobs_rewrite(journal *j, const lx_jobs *jobs, lx_err *err)
{
    telling t = {.jobs = jobs, .list = -1, .boot = journal_boot()};
    next_entry(&t);
    uint64_t before = journal_bytes(j);
    lx_status status = journal_rewrite(j, next_fact, &t, lx_jobs_live(jobs), err);
    if (status == LX_OK)
        LX_I("journal: rewritten bytes=%llu before=%llu", (unsigned long long)journal_bytes(j),
             (unsigned long long)before);
    return status;
}
