/*
 * cli_submit.c - lx2v submit: prompts become jobs, and with --wait or -o clips
 * SPDX-License-Identifier: Apache-2.0
 *
 * Everything that can be wrong with the command line is found before the launcher is spoken to, so
 * a mistake in line 50 of a file submits nothing.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "cli.h"
#include "lx_config.h"

typedef struct submission {
    cli_args args;
    const char *count, *file, *out, *image;
    const char *size, *frames, *seed, *steps, *shift, *sampler, *rng, *fps, *id, *name;
    bool wait, force;
    int64_t n_each;         /* -n */
    cli_requests requests;  /* owned */
    cli_followed *followed; /* owned, one per request */
    size_t n_sent;          /* accepted before one was not */
    lx_client *client;      /* owned */
} submission;

/* --- the command line becomes requests -------------------------------------------------------- */

/* What every job of this submission has in common. */
static lx_status common_fields(const submission *s, cli_request *base, lx_err *err)
{
    const struct {
        const char *field, *text;
    } fields[] = {
        {"size", s->size},   {"frames", s->frames},   {"seed", s->seed}, {"steps-list", s->steps},
        {"shift", s->shift}, {"sampler", s->sampler}, {"rng", s->rng},   {"fps", s->fps},
        {"id", s->id},       {"name", s->name},
    };
    *base = (cli_request){.seed = LX_SEED_DRAW};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].text && cli_request_set(base, fields[i].field, fields[i].text, err) != LX_OK)
            return lx_fail(err, LX_ECONFIG, "--%s", err->message);
    return LX_OK;
}

/* "clip.mp4" -> "clip-2.mp4": names and ids of a series differ by its number. */
static lx_status number_text(char *text, size_t text_bytes, int64_t number, lx_err *err)
{
    char full[256];
    if (!*text)
        return LX_OK;
    const char *dot = strrchr(text, '.');
    int stem = dot ? (int)(dot - text) : (int)strlen(text);
    int n = snprintf(full, sizeof full, "%.*s-%" PRId64 "%s", stem, text, number, dot ? dot : "");
    if (n < 0 || (size_t)n >= text_bytes)
        return lx_fail(err, LX_ECONFIG, "\"%s\" is too long to be numbered", text);
    memcpy(text, full, (size_t)n + 1);
    return LX_OK;
}

/* -n: each job becomes n_each, with seeds s, s+1, ... if one was given. */
static lx_status multiply(submission *s, lx_err *err)
{
    if (s->n_each == 1)
        return LX_OK;
    cli_requests many = {0};
    lx_status status = LX_OK;
    for (size_t i = 0; i < s->requests.n && status == LX_OK; i++) {
        const cli_request *one = &s->requests.list[i];
        for (int64_t k = 0; k < s->n_each && status == LX_OK; k++) {
            cli_request *copy = NULL;
            if (one->seed >= 0 && one->seed > INT64_MAX - k)
                status = lx_fail(err, LX_ECONFIG, "--seed: %" PRId64 " + %" PRId64 " is too large",
                                 one->seed, k);
            if (status == LX_OK)
                status = cli_requests_add(&many, one, one->prompt, &copy, err);
            if (status != LX_OK)
                break;
            copy->seed = one->seed < 0 ? one->seed : one->seed + k;
            status = number_text(copy->output, sizeof copy->output, k + 1, err);
            if (status == LX_OK)
                status = number_text(copy->id, sizeof copy->id, k + 1, err);
        }
    }
    cli_requests_free(&s->requests);
    s->requests = many;
    return status;
}

static lx_status make_requests(submission *s, lx_err *err)
{
    cli_request base;
    lx_status status = common_fields(s, &base, err);
    if (status != LX_OK)
        return status;
    if (s->count && (!lx_parse_i64(s->count, &s->n_each) || s->n_each < 1 || s->n_each > 10000))
        return lx_fail(err, LX_ECONFIG, "-n: \"%.32s\" is not accepted; accepted: 1 to 10000",
                       s->count);
    if (s->file && s->args.n_words > 0)
        return lx_fail(err, LX_ECONFIG, "a prompt and --file exclude each other");
    if (!s->file && s->args.n_words != 1)
        return lx_fail(err, LX_ECONFIG,
                       s->args.n_words ? "%d prompts; put the prompt in quotes, or use --file"
                                       : "no prompt (%d words); lx2v submit \"a red ball\"",
                       s->args.n_words);
    if (s->file && (s->id || s->name))
        return lx_fail(err, LX_ECONFIG,
                       "--%s and --file exclude each other; give it in the lines of a .jsonl file",
                       s->id ? "id" : "name");
    status = s->file ? cli_requests_read(&s->requests, s->file, &base, err)
                     : cli_requests_add(&s->requests, &base, s->args.words[0], NULL, err);
    if (status == LX_OK)
        status = multiply(s, err);
    for (size_t i = 0; i < s->requests.n && status == LX_OK; i++) {
        lx_client_request view = cli_request_view(&s->requests.list[i]);
        status = lx_client_check(&view, err);
    }
    return status;
}

/* --- what a person should know before it takes minutes ---------------------------------------- */

static void note_size(int32_t width, int32_t height)
{
    static const int32_t trained[][2] = {{832, 480}, {480, 832}, {1280, 720}, {720, 1280}};
    if (width == 0)
        return;
    if (height > width)
        cli_say("%dx%d is portrait: %d wide, %d high", width, height, width, height);
    for (size_t i = 0; i < sizeof trained / sizeof *trained; i++)
        if (width == trained[i][0] && height == trained[i][1])
            return;
    cli_say("%dx%d is no size the model was trained on (832x480, 480x832, 1280x720, 720x1280): "
            "expect lower quality",
            width, height);
}

static void note_sizes(const cli_requests *all)
{
    for (size_t i = 0; i < all->n; i++) {
        const cli_request *r = &all->list[i];
        if (i == 0 || r->width != r[-1].width || r->height != r[-1].height)
            note_size(r->width, r->height);
    }
}

/* --- -o --------------------------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
    struct stat st;
    size_t n = strlen(path);
    return (n > 0 && path[n - 1] == '/') || (stat(path, &st) == 0 && S_ISDIR(st.st_mode));
}

/* Replaces {i}, {id} and {seed} in a pattern. */
static lx_status expand(const char *pattern, size_t i, const lx_client_job *job, char *out,
                        size_t out_bytes, lx_err *err)
{
    size_t used = 0;
    for (const char *p = pattern; *p && used < out_bytes;) {
        int n;
        if (strncmp(p, "{i}", 3) == 0) {
            n = snprintf(out + used, out_bytes - used, "%zu", i + 1);
            p += 3;
        } else if (strncmp(p, "{id}", 4) == 0) {
            n = snprintf(out + used, out_bytes - used, "%s", job->id);
            p += 4;
        } else if (strncmp(p, "{seed}", 6) == 0) {
            n = snprintf(out + used, out_bytes - used, "%" PRId64, job->seed);
            p += 6;
        } else {
            n = snprintf(out + used, out_bytes - used, "%c", *p++);
        }
        used += (size_t)n;
    }
    return used < out_bytes ? LX_OK : lx_fail(err, LX_ECONFIG, "-o: the path becomes too long");
}

/* Where the user's copy of job i goes. */
static lx_status copy_place(const submission *s, size_t i, const lx_client_job *job, char *out,
                            size_t out_bytes, lx_err *err)
{
    if (!is_folder(s->out))
        return expand(s->out, i, job, out, out_bytes, err);
    size_t n = strlen(s->out);
    int used =
        snprintf(out, out_bytes, "%s%s%s", s->out, s->out[n - 1] == '/' ? "" : "/", job->output);
    return used >= 0 && (size_t)used < out_bytes
               ? LX_OK
               : lx_fail(err, LX_ECONFIG, "-o: the path becomes too long");
}

/* Before anything is submitted: can the copies be written? */
static lx_status check_out(const submission *s, lx_err *err)
{
    if (!s->out)
        return LX_OK;
    static const char *const other[] = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".webm"};
    const char *dot = strrchr(s->out, '.');
    for (size_t i = 0; dot && i < sizeof other / sizeof *other && !is_folder(s->out); i++)
        if (strcasecmp(dot, other[i]) == 0)
            return lx_fail(err, LX_ECONFIG, "-o %s: clips are mp4 files; give a name with .mp4",
                           s->out);
    bool has_place = strstr(s->out, "{i}") || strstr(s->out, "{id}") || strstr(s->out, "{seed}");
    if (s->requests.n > 1 && !is_folder(s->out) && !has_place)
        return lx_fail(err, LX_ECONFIG,
                       "-o %s: one file for %zu clips; give a folder, or a pattern with {i}, {id} "
                       "or {seed}",
                       s->out, s->requests.n);
    if (s->requests.n == 1 && !has_place && !is_folder(s->out))
        return cli_copy_check(s->out, s->force, err);
    char path[LX_LIMIT_PATH];
    lx_client_job example = {.id = "x", .output = "x"};
    lx_status status = copy_place(s, 0, &example, path, sizeof path, err);
    return status == LX_OK ? cli_copy_check(path, true, err) : status;
}

/* --- talking to the launcher ------------------------------------------------------------------ */

/* What was accepted stays so; say where to go on. */
static void say_where(const submission *s, size_t i, lx_err *err)
{
    char line[48] = "";
    if (s->requests.list[i].line > 0)
        snprintf(line, sizeof line, ", line %d of the file", s->requests.list[i].line);
    lx_wrap(err, "job %zu of %zu%s (the %zu before it are accepted; go on from this one)", i + 1,
            s->requests.n, line, i);
}

static lx_status send_all(submission *s, json_t *list, lx_err *err)
{
    for (size_t i = 0; i < s->requests.n; i++) {
        lx_client_request view = cli_request_view(&s->requests.list[i]);
        lx_client_accepted got;
        lx_status status = lx_client_submit(s->client, &view, &got, err);
        if (status != LX_OK && s->requests.n > 1)
            say_where(s, i, err);
        if (status != LX_OK)
            s->n_sent = i;
        if (status == LX_EJOB) /* refused: nothing was begun that could have failed */
            return err->status = LX_EAGAIN;
        if (status != LX_OK)
            return status;
        memcpy(s->followed[i].job.id, got.id, sizeof got.id);
        s->followed[i].job.seed = got.seed;
        if (*got.notice)
            cli_say("%s: %s", got.id, got.notice);
        if (list)
            json_array_append_new(list,
                                  json_pack("{s:s, s:I, s:s, s:I, s:b}", "id", got.id, "seed",
                                            (json_int_t)got.seed, "output", got.output, "ahead",
                                            (json_int_t)got.ahead, "is_new", got.is_new));
        else
            cli_say("%s accepted: seed %" PRId64 ", %" PRId64 " before it%s", got.id, got.seed,
                    got.ahead, got.is_new ? "" : " (it had been accepted before)");
    }
    return LX_OK;
}

/* One job has ended: tell it, and make the user's copy. */
static lx_status on_ended(void *self, const lx_client_job *job, lx_err *err)
{
    submission *s = self;
    char from[2 * LX_LIMIT_PATH], to[LX_LIMIT_PATH];
    if (job->state != LX_CLIENT_DONE) {
        cli_say("%s %s%s%s", job->id, lx_client_state_name(job->state), *job->error ? ": " : "",
                job->error);
        return LX_OK;
    }
    cli_clip_path(s->client, job, from, sizeof from);
    if (s->out) {
        size_t i = 0;
        while (i + 1 < s->requests.n && strcmp(s->followed[i].job.id, job->id) != 0)
            i++;
        lx_status status = copy_place(s, i, job, to, sizeof to, err);
        if (status == LX_OK)
            status = cli_copy(from, to, s->force, err);
        if (status != LX_OK)
            return lx_wrap(err, "%s is done and in %s, but its copy failed", job->id, from);
    }
    const char *where = s->out ? to : from;
    cli_report(job, where);
    if (!s->args.common.json) {
        printf("%s\n", where); /* for scripts: stdout has the clips and nothing else */
        fflush(stdout);
    }
    return LX_OK;
}

static lx_status wait_for_all(submission *s, lx_err *err)
{
    const cli_common *common = &s->args.common;
    cli_follow follow = {.client = s->client,
                         .jobs = s->followed,
                         .n_jobs = s->requests.n,
                         .timeout_s = common->timeout_s,
                         .quiet = common->json,
                         .plain = common->no_color,
                         .ended = on_ended,
                         .self = s};
    cli_catch_interrupt();
    lx_status status = cli_follow_all(&follow, err);
    if (status == LX_ECANCEL)
        return lx_fail(err, status, "interrupted; the job goes on (lx2v wait %s, lx2v cancel %s)",
                       s->followed[0].job.id, s->followed[0].job.id);
    return status == LX_OK ? cli_verdict(s->followed, s->requests.n, err) : status;
}

static lx_status talk(submission *s, lx_err *err)
{
    bool as_json = s->args.common.json, wait = s->wait || s->out;
    json_t *list = as_json ? json_array() : NULL;
    lx_status status = cli_connect(&s->client, &s->args.common, err);
    if (status == LX_OK && s->out && !*lx_client_output_dir(s->client))
        status = lx_fail(err, LX_ECONFIG,
                         "-o: clips stay on the launcher's machine, in its output directory; "
                         "--name says how they are called there");
    if (status == LX_OK)
        status = send_all(s, list, err);
    if (list && (status == LX_OK ? !wait : json_array_size(list) > 0))
        cli_json_print(json_pack("{s:O}", "jobs", list));
    json_decref(list);
    if (status != LX_OK || !wait) {
        size_t n = status == LX_OK ? s->requests.n : s->n_sent;
        for (size_t i = 0; i < n && !as_json && !wait; i++)
            printf("%s\n", s->followed[i].job.id);
        return status;
    }
    status = wait_for_all(s, err);
    if (as_json) {
        json_t *jobs = json_array();
        for (size_t i = 0; i < s->requests.n; i++)
            json_array_append_new(jobs, cli_json_job(&s->followed[i].job));
        cli_json_print(
            json_pack("{s:s, s:o}", "output_dir", lx_client_output_dir(s->client), "jobs", jobs));
    }
    return status;
}

lx_status cli_submit(const cli_command *self, int argc, char **argv, lx_err *err)
{
    submission s = {.n_each = 1};
    const cli_flag flags[] = {
        {"size", 0, "WxH", "832x480, 480p, 720p, ...: multiples of 16", &s.size, NULL},
        {"frames", 0, "N", "4n+1: 1, 5, ... 81", &s.frames, NULL},
        {"seed", 0, "S", "same seed, same clip; -1: drawn", &s.seed, NULL},
        {"count", 'n', "N", "this many clips, with seeds S, S+1, ...", &s.count, NULL},
        {"file", 0, "FILE", "one job a line: text, or objects in a .jsonl file; - is stdin",
         &s.file, NULL},
        {"wait", 0, NULL, "stay until the clips are there", NULL, &s.wait},
        {"output", 'o', "PATH", "copy the clip there (implies --wait)", &s.out, NULL},
        {"force", 0, NULL, "let -o replace a file", NULL, &s.force},
        {"steps-list", 0, "LIST", "such as 1000,750,500,250", &s.steps, NULL},
        {"shift", 0, "S", "sample_shift", &s.shift, NULL},
        {"sampler", 0, "NAME", "euler or lcm", &s.sampler, NULL},
        {"rng", 0, "NAME", "lx2v, torch-cpu, torch-cuda:132x2048", &s.rng, NULL},
        {"fps", 0, "F", "frames per second of the file", &s.fps, NULL},
        {"id", 0, "ID", "your own job id; the same again is the same job", &s.id, NULL},
        {"name", 0, "NAME", "file name in the output directory", &s.name, NULL},
        {"image", 0, "FILE", "not for this model", &s.image, NULL},
    };
    bool done = false;
    lx_status status = cli_begin(self, &s.args, argc, argv, flags,
                                 (int)(sizeof flags / sizeof *flags), &done, err);
    if (status == LX_OK && !done && s.image)
        status = lx_fail(err, LX_ECONFIG,
                         "--image: this is a text-to-video model: it takes a prompt and no image");
    if (status == LX_OK && !done)
        status = make_requests(&s, err);
    if (status == LX_OK && !done)
        status = check_out(&s, err);
    if (status == LX_OK && !done) {
        note_sizes(&s.requests);
        s.followed = calloc(s.requests.n, sizeof *s.followed);
        status = s.followed ? talk(&s, err) : lx_fail(err, LX_EAGAIN, "out of memory");
    }
    lx_client_close(&s.client);
    cli_requests_free(&s.requests);
    free(s.followed);
    free(s.args.words);
    return status;
}
