/*
 * cli_bench_json.c - the figures for a program: docs/json.md
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli.h"
#include "cli_bench.h"

static json_t *bytes_or_null(uint64_t bytes)
{
    return bytes ? json_integer((json_int_t)bytes) : json_null();
}

static json_t *positive_or_null(double x)
{
    return x > 0 ? json_real(x) : json_null();
}

static json_t *spread_json(const bench_spread *s)
{
    return s->n == 0
               ? json_null()
               : json_pack("{s:f, s:f, s:f}", "median", s->median, "min", s->min, "max", s->max);
}

static json_t *stages_json(const bench_result *r)
{
    json_t *list = json_array();
    for (int i = 0; i < LX_CLIENT_STAGES; i++) {
        const bench_stage *s = &r->figures.stage[i];
        json_array_append_new(
            list, json_pack("{s:s, s:i, s:o, s:o, s:o, s:f, s:f}", "name", lx_client_stage_name(i),
                            "replicas", s->n_replicas, "work_s", spread_json(&s->work), "wait_s",
                            spread_json(&s->wait), "queue_s", spread_json(&s->queue), "busy_s",
                            s->busy_s, "busy_share", s->busy_share));
    }
    return list;
}

static json_t *steps_json(const bench_result *r)
{
    const bench_figures *f = &r->figures;
    if (f->steps.n == 0)
        return json_null();
    json_t *all = spread_json(&f->steps), *medians = json_array();
    for (int i = 0; i < f->n_steps; i++)
        json_array_append_new(medians, json_real(f->step[i].median));
    json_object_set_new(all, "n", json_integer((json_int_t)f->steps.n));
    json_object_set_new(all, "medians", medians);
    return all;
}

static json_t *memory_json(const cli_metered *m)
{
    return json_pack("{s:o, s:o, s:o}", "peak_rss_bytes", bytes_or_null(m->peak_rss),
                     "peak_pss_bytes", bytes_or_null(m->peak_pss), "peak_vram_bytes",
                     bytes_or_null(m->peak_vram));
}

static json_t *processes_json(const bench_result *r)
{
    json_t *list = json_array();
    cli_metered launcher = cli_meter_of(&r->meter, -1, -1);
    for (int k = 0; k < r->n_replicas; k++) {
        const bench_replica *p = &r->replica[k];
        cli_metered m = cli_meter_of(&r->meter, p->stage, p->replica);
        json_t *one = json_pack("{s:s, s:i, s:o, s:I, s:I, s:f, s:f, s:I}", "name",
                                lx_client_stage_name(p->stage), "replica", p->replica, "device",
                                cli_json_text(p->device), "pid", (json_int_t)p->pid, "clips",
                                (json_int_t)p->n_clips, "busy_s", p->busy_s, "busy_share",
                                p->busy_share, "restarts", (json_int_t)p->restarts);
        json_t *memory = memory_json(&m);
        json_object_update(one, memory);
        json_decref(memory);
        json_array_append_new(list, one);
    }
    json_t *one = memory_json(&launcher);
    json_object_set_new(one, "name", json_string("launcher"));
    json_object_set_new(one, "pid", json_integer((json_int_t)launcher.pid));
    json_array_append_new(list, one);
    return list;
}

static json_t *laps_json(const uint64_t *bytes, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n && i < CLI_METER_LAPS; i++)
        json_array_append_new(list, bytes_or_null(bytes[i]));
    return list;
}

static json_t *cards_json(const bench_result *r)
{
    json_t *list = json_array();
    size_t n = r->figures.n_done > 1 ? r->figures.n_done - 1 : 1;
    for (int i = 0; i < r->cards.n; i++) {
        const lx_card *card = &r->cards.card[i];
        const cli_metered_card *c = &r->meter.card[i];
        json_array_append_new(
            list,
            json_pack("{s:i, s:o, s:o, s:I, s:o, s:o, s:o, s:o}", "index", i, "name",
                      cli_json_text(card->name), "uuid", cli_json_text(card->uuid), "vram_bytes",
                      (json_int_t)card->vram_bytes, "first_bytes", bytes_or_null(c->first_bytes),
                      "peak_bytes", bytes_or_null(c->peak_bytes), "peak_by_clip_bytes",
                      laps_json(c->lap_bytes, r->meter.n_laps), "joules_per_clip",
                      positive_or_null(c->joules / (double)n)));
    }
    return list;
}

static json_t *machine_json(const bench_result *r)
{
    char line[2048];
    bench_hardware(r, line, sizeof line);
    return json_pack("{s:o, s:o, s:i, s:I, s:o}", "line", cli_json_text(line), "cpu",
                     cli_json_text(r->machine.cpu), "cores", r->machine.n_cores, "ram_bytes",
                     (json_int_t)r->machine.ram_bytes, "driver",
                     *r->cards.driver ? cli_json_text(r->cards.driver) : json_null());
}

json_t *bench_json(const bench_result *r)
{
    const bench_figures *f = &r->figures;
    const lx_client_job *any = &r->jobs[0];
    json_t *jobs = json_array(), *warm_up = json_null();
    for (size_t i = 0; i < r->n_jobs; i++)
        json_array_append_new(jobs, cli_json_job(&r->jobs[i]));
    if (f->warm_up < r->n_jobs && f->n_done > 1)
        warm_up = json_string(r->jobs[f->warm_up].id);
    json_t *all = json_pack(
        "{s:s, s:s, s:o, s:b, s:o, s:i, s:i, s:i, s:I, s:I, s:f, s:o, s:f, s:o}", "version",
        LX2V_VERSION, "backend", LX2V_BACKEND, "machine", machine_json(r), "own", r->is_own,
        "load_s", r->is_own ? json_real(r->load_s) : json_null(), "width", any->width, "height",
        any->height, "frames", any->frames, "clips", (json_int_t)f->n_clips, "done",
        (json_int_t)f->n_done, "wall_s", f->wall_s, "clips_per_hour",
        positive_or_null(f->clips_per_hour), "overlap", f->overlap, "warm_up", warm_up);
    json_object_set_new(all, "stages", stages_json(r));
    json_object_set_new(all, "step_s", steps_json(r));
    json_object_set_new(all, "processes", processes_json(r));
    json_object_set_new(all, "ram_peak_bytes", bytes_or_null(r->meter.peak_pss));
    json_object_set_new(all, "ram_peak_by_clip_bytes",
                        laps_json(r->meter.lap_pss, r->meter.n_laps));
    json_object_set_new(all, "cards", cards_json(r));
    json_object_set_new(all, "cards_trouble",
                        *r->meter.trouble ? cli_json_text(r->meter.trouble) : json_null());
    json_object_set_new(all, "note", *r->note ? cli_json_text(r->note) : json_null());
    json_object_set_new(all, "jobs", jobs);
    return all;
}
