/*
 * lx_jobs.c - fixed arrays, two hash indices, three lists and the order of submission
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_jobs.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lx_hash.h"

#define USUAL_QUEUE 32
#define TOUCHED     0xff /* anything but 0, which the kernel's shared page would serve */

typedef struct job_list {
    lx_entry *first, *last;
    int32_t n;
} job_list;

struct lx_jobs {
    int32_t max_live, history, capacity;
    int32_t n_used; /* entries ever handed out; they are taken in order */
    uint64_t next_serial;
    lx_entry *entry;               /* [capacity]; untouched pages cost nothing */
    lx_job *job;                   /* [capacity] */
    lx_entry **by_id, **by_output; /* [n_buckets] heads of chains */
    uint32_t n_buckets;            /* a power of two */
    job_list list[LX_LIST_COUNT];
    lx_entry *oldest, *youngest;
};

/* Ids come from local clients: a chain made long on purpose slows its maker. */
static uint32_t bucket_of(const lx_jobs *jobs, const char *text)
{
    uint64_t h = lx_hash_add(LX_HASH_START, text, strlen(text));
    return (uint32_t)(h ^ (h >> 32)) & (jobs->n_buckets - 1);
}

lx_status lx_jobs_create(lx_jobs **out, int32_t max_live, int32_t history, lx_err *err)
{
    assert(max_live > 0 && max_live <= LX_LIMIT_QUEUE && history > 0 && history <= LX_LIMIT_QUEUE);
    lx_jobs *jobs = calloc(1, sizeof *jobs);
    if (!jobs)
        return lx_fail(err, LX_EAGAIN, "job table: out of memory");
    jobs->max_live = max_live;
    jobs->history = history;
    jobs->capacity = max_live + history;
    jobs->n_buckets = 16;
    while (jobs->n_buckets < 2 * (uint32_t)jobs->capacity)
        jobs->n_buckets *= 2;
    jobs->entry = calloc((size_t)jobs->capacity, sizeof *jobs->entry);
    jobs->job = calloc((size_t)jobs->capacity, sizeof *jobs->job);
    jobs->by_id = calloc(jobs->n_buckets, sizeof *jobs->by_id);
    jobs->by_output = calloc(jobs->n_buckets, sizeof *jobs->by_output);
    if (!jobs->entry || !jobs->job || !jobs->by_id || !jobs->by_output) {
        lx_jobs_destroy(&jobs);
        return lx_fail(err, LX_EAGAIN, "job table: no memory for %d jobs; lower limits.queue",
                       max_live);
    }
    /* What a service with a short queue will use is there from the start: memory stays flat. */
    int32_t n_usual = history + (max_live < USUAL_QUEUE ? max_live : USUAL_QUEUE);
    memset(jobs->entry, TOUCHED, (size_t)n_usual * sizeof *jobs->entry);
    memset(jobs->job, TOUCHED, (size_t)n_usual * sizeof *jobs->job);
    *out = jobs;
    return LX_OK;
}

void lx_jobs_destroy(lx_jobs **jobs)
{
    if (!jobs || !*jobs)
        return;
    free((*jobs)->entry);
    free((*jobs)->job);
    free((*jobs)->by_id);
    free((*jobs)->by_output);
    free(*jobs);
    *jobs = NULL;
}

/* --- lists ------------------------------------------------------------------------------------ */

static void list_append(lx_jobs *jobs, lx_entry *e, lx_job_list which)
{
    job_list *list = &jobs->list[which];
    e->list = which;
    e->next = NULL;
    e->previous = list->last;
    *(list->last ? &list->last->next : &list->first) = e;
    list->last = e;
    list->n++;
}

static void list_remove(lx_jobs *jobs, lx_entry *e)
{
    job_list *list = &jobs->list[e->list];
    *(e->previous ? &e->previous->next : &list->first) = e->next;
    *(e->next ? &e->next->previous : &list->last) = e->previous;
    list->n--;
}

static void order_append(lx_jobs *jobs, lx_entry *e)
{
    e->younger = NULL;
    e->older = jobs->youngest;
    *(jobs->youngest ? &jobs->youngest->younger : &jobs->oldest) = e;
    jobs->youngest = e;
}

static void order_remove(lx_jobs *jobs, lx_entry *e)
{
    *(e->older ? &e->older->younger : &jobs->oldest) = e->younger;
    *(e->younger ? &e->younger->older : &jobs->youngest) = e->older;
}

/* --- indices ---------------------------------------------------------------------------------- */

static void index_add(lx_jobs *jobs, lx_entry *e)
{
    lx_entry **id = &jobs->by_id[bucket_of(jobs, e->job->id)];
    lx_entry **output = &jobs->by_output[bucket_of(jobs, e->job->output)];
    e->same_id = *id;
    *id = e;
    e->same_output = *output;
    *output = e;
}

static void index_remove(lx_jobs *jobs, lx_entry *e)
{
    lx_entry **at = &jobs->by_id[bucket_of(jobs, e->job->id)];
    while (*at != e)
        at = &(*at)->same_id;
    *at = e->same_id;
    at = &jobs->by_output[bucket_of(jobs, e->job->output)];
    while (*at != e)
        at = &(*at)->same_output;
    *at = e->same_output;
}

lx_entry *lx_jobs_find(const lx_jobs *jobs, const char *id)
{
    lx_entry *e = jobs->by_id[bucket_of(jobs, id)];
    while (e && strcmp(e->job->id, id))
        e = e->same_id;
    return e;
}

lx_entry *lx_jobs_find_output(const lx_jobs *jobs, const char *name)
{
    lx_entry *e = jobs->by_output[bucket_of(jobs, name)];
    while (e && (e->list == LX_LIST_ENDED || strcmp(e->job->output, name)))
        e = e->same_output;
    return e;
}

/* --- life of an entry ------------------------------------------------------------------------- */

/* The entry whose job ended longest ago, once `history` of them are kept; else one never used. */
static lx_entry *take_entry(lx_jobs *jobs)
{
    lx_entry *e = jobs->list[LX_LIST_ENDED].first;
    if (jobs->list[LX_LIST_ENDED].n < jobs->history) {
        /* Live and ended ones together are fewer than max_live + history = capacity. */
        assert(jobs->n_used < jobs->capacity);
        return &jobs->entry[jobs->n_used++];
    }
    list_remove(jobs, e);
    order_remove(jobs, e);
    index_remove(jobs, e);
    return e;
}

void lx_entry_reset_part(lx_entry *entry, lx_stage_kind kind)
{
    entry->part[kind] = (lx_part){.replica = -1, .start_s = -1, .end_s = -1};
}

lx_status lx_jobs_has_room(const lx_jobs *jobs, lx_err *err)
{
    if (lx_jobs_live(jobs) < jobs->max_live)
        return LX_OK;
    return lx_fail(err, LX_EAGAIN, "the queue is full: %d jobs (limits.queue)", jobs->max_live);
}

lx_status lx_jobs_add(lx_jobs *jobs, const lx_job *job, double now_s, lx_entry **out, lx_err *err)
{
    if (lx_jobs_has_room(jobs, err) != LX_OK)
        return LX_EAGAIN;
    lx_entry *e = take_entry(jobs);
    lx_job *copy = &jobs->job[e - jobs->entry];
    *copy = *job;
    memset(e, 0, sizeof *e);
    e->job = copy;
    e->serial = ++jobs->next_serial;
    e->state = LX_JOB_QUEUED;
    e->submit_s = now_s;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        lx_entry_reset_part(e, (lx_stage_kind)kind);
    list_append(jobs, e, LX_LIST_QUEUED);
    order_append(jobs, e);
    index_add(jobs, e);
    *out = e;
    return LX_OK;
}

static lx_job_list list_of(lx_job_state state)
{
    return state == LX_JOB_QUEUED    ? LX_LIST_QUEUED
           : state == LX_JOB_RUNNING ? LX_LIST_RUNNING
                                     : LX_LIST_ENDED;
}

lx_status lx_jobs_move(lx_jobs *jobs, lx_entry *entry, lx_job_state state, lx_err *err)
{
    if (entry->list == LX_LIST_ENDED && list_of(state) != LX_LIST_ENDED &&
        lx_jobs_has_room(jobs, err) != LX_OK)
        return LX_EAGAIN;
    list_remove(jobs, entry);
    entry->state = state;
    list_append(jobs, entry, list_of(state));
    return LX_OK;
}

/* --- reading ---------------------------------------------------------------------------------- */

lx_entry *lx_jobs_first(const lx_jobs *jobs, lx_job_list list)
{
    return jobs->list[list].first;
}

lx_entry *lx_jobs_oldest(const lx_jobs *jobs)
{
    return jobs->oldest;
}

int32_t lx_jobs_count(const lx_jobs *jobs, lx_job_list list)
{
    return jobs->list[list].n;
}

int32_t lx_jobs_live(const lx_jobs *jobs)
{
    return jobs->list[LX_LIST_QUEUED].n + jobs->list[LX_LIST_RUNNING].n;
}

int32_t lx_jobs_live_of(const lx_jobs *jobs, uint64_t owner)
{
    int32_t n = 0;
    for (int list = LX_LIST_QUEUED; list <= LX_LIST_RUNNING; list++)
        for (const lx_entry *e = jobs->list[list].first; e; e = e->next)
            n += e->owner == owner;
    return n;
}

int32_t lx_jobs_max_live(const lx_jobs *jobs)
{
    return jobs->max_live;
}
