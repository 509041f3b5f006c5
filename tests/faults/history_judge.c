/*
 * history_judge.c - proves promises 1 to 4 and 10 from a history and an output folder
 * SPDX-License-Identifier: Apache-2.0
 *
 *   history_judge HISTORY OUTPUT_DIR
 *
 * HISTORY is what a driver wrote down line by line (tests/faults/fault.h). What must hold:
 *   1  every job that was told "accepted" has an end
 *   2  it has one end: no job ends twice, none ends that was not accepted
 *   3  a done job's file is there and whole (lx2v-mux check); no other file and no part is there
 *   4  an id was newly accepted at most once
 *  10  done jobs of one seed have the same bytes
 * Prints what does not hold, and one line of figures. Exit 0: all holds; 1: not; 2: usage.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOBS_MAX 100000

typedef struct job {
    char id[48], output[136];
    int64_t seed;
    int n_asked, n_new, n_ends;
    bool is_done, was_told, is_found;
    uint64_t hash;
} job;

static job *jobs;
static int n_jobs, n_wrong;

static void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void wrong(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    n_wrong++;
}

static job *find(const char *id)
{
    for (int i = n_jobs - 1; i >= 0; i--)
        if (!strcmp(jobs[i].id, id))
            return &jobs[i];
    if (n_jobs == JOBS_MAX) {
        fprintf(stderr, "more than %d jobs\n", JOBS_MAX);
        exit(2);
    }
    snprintf(jobs[n_jobs].id, sizeof jobs->id, "%s", id);
    return &jobs[n_jobs++];
}

static void read_line(const char *line)
{
    char what[8], id[48], word[16] = "", rest[136] = "";
    if (sscanf(line, "%7s %47s %15s %135s", what, id, word, rest) < 3) {
        wrong("not understood: %s", line);
        return;
    }
    job *j = find(id);
    if (!strcmp(what, "ask")) {
        j->seed = strtoll(word, NULL, 10);
        j->n_asked++;
    } else if (!strcmp(what, "told")) {
        j->n_new += !strcmp(word, "accepted");
        j->was_told = j->was_told || !strcmp(word, "accepted") || !strcmp(word, "again");
    } else if (!strcmp(what, "end")) {
        j->n_ends++;
        j->is_done = !strcmp(word, "done");
        snprintf(j->output, sizeof j->output, "%s", j->is_done ? rest : "");
        if (!j->is_done && !strcmp(word, "failed") && !strcmp(rest, "-"))
            wrong("%s failed without a reason", id);
    } else {
        wrong("not understood: %s", line);
    }
}

static bool hash_file(const char *path, uint64_t *hash)
{
    FILE *file = fopen(path, "rb");
    *hash = UINT64_C(0xcbf29ce484222325);
    for (int c; file && (c = getc(file)) != EOF;)
        *hash = (*hash ^ (uint64_t)c) * UINT64_C(0x100000001b3);
    if (file)
        fclose(file);
    return file != NULL;
}

static void judge_folder(const char *folder)
{
    char path[512], command[1024];
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        job *owner = NULL;
        for (int i = 0; i < n_jobs && !owner; i++)
            if (jobs[i].is_done && !strcmp(jobs[i].output, e->d_name))
                owner = &jobs[i];
        if (!owner) {
            wrong("%s is in the output folder, and no job that is done made it", e->d_name);
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        owner->is_found = hash_file(path, &owner->hash);
        snprintf(command, sizeof command, "'%s' check '%s' >/dev/null 2>&1", LX2V_MUX, path);
        if (system(command))
            wrong("%s is not whole", e->d_name);
    }
    if (!dir)
        wrong("%s is not there", folder);
    else
        closedir(dir);
}

static void judge_jobs(void)
{
    for (int i = 0; i < n_jobs; i++) {
        const job *j = &jobs[i];
        if (j->was_told && j->n_ends == 0)
            wrong("%s was accepted and is lost", j->id);
        if (!j->was_told && j->n_ends > 0)
            wrong("%s ended, and was never accepted", j->id);
        if (j->n_ends > 1)
            wrong("%s ended %d times", j->id, j->n_ends);
        if (j->n_new > 1)
            wrong("%s was new %d times", j->id, j->n_new);
        if (j->is_done && !j->is_found)
            wrong("%s is done, and %s is not there", j->id, j->output);
        for (int k = 0; k < i && j->is_found; k++)
            if (jobs[k].is_found && jobs[k].seed == j->seed) {
                if (jobs[k].hash != j->hash)
                    wrong("%s and %s have the same seed and not the same bytes", j->id, jobs[k].id);
                break;
            }
    }
}

int main(int argc, char **argv)
{
    char line[2048];
    FILE *file = argc == 3 ? fopen(argv[1], "r") : NULL;
    jobs = calloc(JOBS_MAX, sizeof *jobs);
    if (!file || !jobs) {
        fprintf(stderr, "usage: history_judge HISTORY OUTPUT_DIR\n");
        return 2;
    }
    while (fgets(line, sizeof line, file))
        read_line(line);
    fclose(file);
    judge_folder(argv[2]);
    judge_jobs();
    int n_told = 0, n_done = 0;
    for (int i = 0; i < n_jobs; i++) {
        n_told += jobs[i].was_told;
        n_done += jobs[i].is_done;
    }
    printf("jobs=%d accepted=%d done=%d wrong=%d\n", n_jobs, n_told, n_done, n_wrong);
    free(jobs);
    return n_wrong > 0;
}
