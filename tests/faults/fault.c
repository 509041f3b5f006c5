/*
 * fault.c - arming, counting, writing down
 * SPDX-License-Identifier: Apache-2.0
 */
#include "fault.h"

#include <dirent.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#define SETTLE_S 2.0 /* descriptors of a peer that left are closed by a thread of libzmq's */

/* --- arming ----------------------------------------------------------------------------------- */

static void ledger_path(const rig *r, char path[128])
{
    snprintf(path, 128, "%s/faults", r->root);
}

void fault_arm(const rig *r, const char *rules)
{
    char path[128];
    ledger_path(r, path);
    unlink(path);
    setenv("LX2V_FAULT", rules ? rules : "", 1);
    setenv("LX2V_FAULT_LEDGER", path, 1);
}

void fault_open(rig *r)
{
    lx_err err = {0};
    lx_client_close(&r->client);
    if (lx_client_open(&r->client, r->endpoint, 10, &err) != LX_OK)
        fail_msg("%s", err.message);
}

void fault_wait_running(rig *r, const char *id)
{
    double until = rig_now_s() + 30 * RIG_SLACK;
    while (rig_job(r, id).state == LX_CLIENT_QUEUED && rig_now_s() < until)
        rig_sleep(0.001);
    assert_int_equal(rig_job(r, id).state, LX_CLIENT_RUNNING);
}

void fault_start(rig *r, const char *rules, const char *config)
{
    rig_make(r, config);
    fault_arm(r, rules);
    rig_launch(r, 0);
    fault_open(r);
}

fault_visits fault_seen(const rig *r, const char *name)
{
    static lx_fault_count lines[LX_FAULT_NAMES];
    char path[128];
    fault_visits found = {0};
    ledger_path(r, path);
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(lines, sizeof *lines, LX_FAULT_NAMES, file) : 0;
    if (file)
        fclose(file);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(lines[i].name, name))
            found = (fault_visits){lines[i].visits, lines[i].fired};
    return found;
}

/* --- other programs --------------------------------------------------------------------------- */

static void path_of(const rig *r, const char *name, char path[160])
{
    snprintf(path, 160, "%s/%s", r->bin, name);
    unlink(path);
}

void fault_link(rig *r, const char *name, const char *target)
{
    char path[160];
    path_of(r, name, path);
    assert_int_equal(symlink(target, path), 0);
}

void fault_script(rig *r, const char *name, const char *text)
{
    char path[160];
    path_of(r, name, path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s", text);
    fclose(file);
    assert_int_equal(chmod(path, 0700), 0);
}

void fault_programs(rig *r)
{
    char target[512], command[1024];
    snprintf(r->bin, sizeof r->bin, "%s/bin", r->root);
    assert_int_equal(mkdir(r->bin, 0700), 0);
    snprintf(command, sizeof command, "cp %s/lx2v-launch %s", LX2V_BIN_DIR, r->bin);
    assert_int_equal(system(command), 0);
    for (int stage = ENCODER; stage <= MUX; stage++) {
        char name[32];
        snprintf(name, sizeof name, "lx2v-%s", lx_client_stage_name(stage));
        snprintf(target, sizeof target, "%s/%s", LX2V_BIN_DIR, name);
        fault_link(r, name, target);
    }
}

/* --- what leaks ------------------------------------------------------------------------------- */

static int count_in(const char *folder, const char *prefix)
{
    int n = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
             !strncmp(e->d_name, prefix, strlen(prefix));
    if (dir)
        closedir(dir);
    return n;
}

static int count_fds(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    return count_in(path, "");
}

static int count_children(pid_t pid)
{
    char path[96];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    FILE *file = fopen(path, "r");
    for (int child; file && fscanf(file, "%d", &child) == 1;)
        n++;
    if (file)
        fclose(file);
    return n;
}

/* The spool is made for the first latent and stays; what lies in it must not. */
static int count_state(const rig *r)
{
    char spool[128];
    snprintf(spool, sizeof spool, "%s/spool", r->state);
    return count_in(r->state, "") - (access(spool, F_OK) == 0) + count_in(spool, "");
}

leak_ledger leak_count(rig *r)
{
    char prefix[64];
    snprintf(prefix, sizeof prefix, "lx2v.%s.", r->instance);
    leak_ledger l = {.shm_names = count_in("/dev/shm", prefix),
                     .children = count_children(r->pid),
                     .parts = count_in(r->output, "."),
                     .state_files = count_state(r)};
    l.fds[0] = count_fds(r->pid);
    for (int stage = ENCODER; stage <= MUX; stage++)
        l.fds[1 + stage] = count_fds(rig_stage_pid(r, stage));
    return l;
}

static const char *grown(const leak_ledger *a, const leak_ledger *b, int *from, int *to)
{
    static const char *const names[] = {
        "shared memory names", "children",         "part files",
        "files in state.dir",  "launcher's files", "encoder's files",
        "dit's files",         "vae's files",      "mux's files"};
    const int was[] = {a->shm_names, a->children, a->parts,  a->state_files, a->fds[0],
                       a->fds[1],    a->fds[2],   a->fds[3], a->fds[4]};
    const int is[] = {b->shm_names, b->children, b->parts,  b->state_files, b->fds[0],
                      b->fds[1],    b->fds[2],   b->fds[3], b->fds[4]};
    for (size_t i = 0; i < sizeof was / sizeof *was; i++)
        if (is[i] > was[i]) {
            *from = was[i];
            *to = is[i];
            return names[i];
        }
    return NULL;
}

void leak_check(rig *r, const leak_ledger *before)
{
    const char *what;
    int from = 0, to = 0;
    double until = rig_now_s() + SETTLE_S * RIG_SLACK;
    for (;;) {
        leak_ledger now = leak_count(r);
        what = grown(before, &now, &from, &to);
        if (!what)
            return;
        if (rig_now_s() > until)
            fail_msg("leaked: %s, %d before and %d after", what, from, to);
        rig_sleep(0.05);
    }
}

/* --- history ---------------------------------------------------------------------------------- */

void history_open(history *h, const rig *r)
{
    snprintf(h->path, sizeof h->path, "%s/history", r->root);
    h->file = fopen(h->path, "ae");
    assert_non_null(h->file);
}

bool history_submit(history *h, rig *r, const char *id, int64_t seed)
{
    lx_err err = {0};
    lx_client_accepted accepted;
    lx_client_request request = rig_request(id);
    request.seed = seed;
    fprintf(h->file, "ask %s %" PRId64 "\n", id, seed);
    fflush(h->file);
    lx_status status = lx_client_submit(r->client, &request, &accepted, &err);
    /* No answer: the job may exist or not, and asking again with the same id settles it. */
    const char *word = status == LX_OK         ? accepted.is_new ? "accepted" : "again"
                       : status == LX_ETIMEOUT ? "nothing"
                                               : "refused";
    fprintf(h->file, "told %s %s %s\n", id, word, status == LX_OK ? "-" : err.message);
    fflush(h->file);
    return status == LX_OK;
}

lx_client_state history_end(history *h, rig *r, const char *id, double seconds)
{
    lx_client_state state = rig_wait(r, id, seconds);
    lx_client_job job = rig_job(r, id);
    fprintf(h->file, "end %s %s %s\n", id, lx_client_state_name(state),
            state == LX_CLIENT_DONE ? job.output
            : job.error[0]          ? job.error
                                    : "-");
    fflush(h->file);
    return state;
}

void history_check(history *h, const rig *r)
{
    static char text[8192];
    char command[512];
    fclose(h->file);
    h->file = NULL;
    snprintf(command, sizeof command, "%s %s %s 2>&1", LX2V_HISTORY_JUDGE, h->path, r->output);
    FILE *judge = popen(command, "r");
    assert_non_null(judge);
    text[fread(text, 1, sizeof text - 1, judge)] = 0;
    if (pclose(judge))
        fail_msg("%s", text);
}
