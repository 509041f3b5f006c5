/*
 * lx_config_keys.c - the table of keys, their defaults, and how one value is read
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_config_keys.h"

#include <arpa/inet.h>
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "lx_device.h"
#include "lx_process.h"
#include "lx_utf8.h"

static const char *const samplers[] = {"euler", "lcm", NULL};
static const char *const metadata[] = {"full", "no-prompt", "off", NULL};
static const char *const formats[] = {"mp4", "png", NULL};
static const char *const policies[] = {"auto", "overlap", "alternate", NULL};
static const char *const transports[] = {"auto", "ipc", "peer", "ring", NULL};
static const char *const link_transports[] = {"auto", "ipc", "peer", "ring", "same", NULL};
static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
/* libx264's own names. */
static const char *const presets[] = {"ultrafast", "superfast", "veryfast", "faster",
                                      "fast",      "medium",    "slow",     "slower",
                                      "veryslow",  "placebo",   NULL};

const char *const lx_residency_names[] = {"auto", "resident", "partial", "host", "disk", NULL};
const char *const lx_attention_names[] = {"auto", "int8-fp16", "int8-fp8", "bf16", NULL};
const char *const lx_accumulate_names[] = {"auto", "fp32", "fp16", NULL};

#define AT(field) offsetof(lx_config, field)
#define SECTION(p)                                                                                 \
    {                                                                                              \
        .path = p, .type = LX_KEY_SECTION                                                          \
    }
#define PATH_AT(p, field)                                                                          \
    {                                                                                              \
        .path = p, .type = LX_KEY_PATH, .offset = AT(field)                                        \
    }
#define BOOL_AT(p, field)                                                                          \
    {                                                                                              \
        .path = p, .type = LX_KEY_BOOL, .offset = AT(field)                                        \
    }
#define INT_AT(p, field, low, high)                                                                \
    {                                                                                              \
        .path = p, .type = LX_KEY_INT, .offset = AT(field), .min = low, .max = high                \
    }
#define REAL_AT(p, field, low, high)                                                               \
    {                                                                                              \
        .path = p, .type = LX_KEY_REAL, .offset = AT(field), .min = low, .max = high               \
    }
#define ONE_OF(p, t, field, list)                                                                  \
    {                                                                                              \
        .path = p, .type = t, .offset = AT(field), .choices = list                                 \
    }
#define STAGE(p, kind)                                                                             \
    {                                                                                              \
        .path = p, .type = LX_KEY_STAGE, .offset = AT(stage), .number = kind                       \
    }

const lx_config_key lx_config_keys[] = {
    {.path = "model", .type = LX_KEY_MODEL, .offset = AT(model.dir)},
    PATH_AT("model.dir", model.dir),
    PATH_AT("model.dit", model.dit),
    PATH_AT("model.text", model.text),
    PATH_AT("model.vae", model.vae),
    PATH_AT("model.tokenizer", model.tokenizer),
    SECTION("output"),
    PATH_AT("output.dir", output.dir),
    BOOL_AT("output.overwrite", output.overwrite),
    SECTION("state"),
    PATH_AT("state.dir", state.dir),
    PATH_AT("state.journal", state.journal),
    SECTION("listen"),
    {.path = "listen.tcp", .type = LX_KEY_TCP, .offset = AT(listen.tcp)},
    PATH_AT("listen.keys", listen.keys),
    BOOL_AT("listen.allow_any", listen.allow_any),
    SECTION("weights"),
    BOOL_AT("weights.require_manifest", weights.require_manifest),
    SECTION("defaults"),
    {.path = "defaults.size", .type = LX_KEY_SIZE, .offset = AT(defaults.width)},
    INT_AT("defaults.frames", defaults.frames, 1, LX_LIMIT_FRAMES),
    REAL_AT("defaults.fps", defaults.fps, LX_JOB_FPS_MIN, LX_JOB_FPS_MAX),
    {.path = "defaults.seed", .type = LX_KEY_I64, .offset = AT(defaults.seed)},
    SECTION("sampling"),
    ONE_OF("sampling.sampler", LX_KEY_CHOICE, sampling.sampler, samplers),
    REAL_AT("sampling.sample_shift", sampling.shift, LX_JOB_SHIFT_MIN, LX_JOB_SHIFT_MAX),
    {.path = "sampling.denoising_step_list", .type = LX_KEY_STEPS, .offset = AT(sampling.steps)},
    {.path = "sampling.sample_guide_scale",
     .type = LX_KEY_GUIDE,
     .offset = AT(sampling.guide_scale)},
    {.path = "sampling.rng", .type = LX_KEY_RNG, .offset = AT(sampling.rng)},
    SECTION("stages"),
    STAGE("stages.encoder", LX_STAGE_ENCODER),
    STAGE("stages.dit", LX_STAGE_DIT),
    STAGE("stages.vae", LX_STAGE_VAE),
    STAGE("stages.mux", LX_STAGE_MUX),
    SECTION("encoder"),
    INT_AT("encoder.cache_entries", encoder.cache_entries, 0, 1024),
    SECTION("vae"),
    INT_AT("vae.chunk", vae.chunk, 1, 501), /* latent frames of the longest clip */
    {.path = "vae.tile", .type = LX_KEY_TILE, .offset = AT(vae.tile_h)},
    SECTION("mux"),
    INT_AT("mux.crf", mux.crf, 0, 51),
    ONE_OF("mux.preset", LX_KEY_WORD, mux.preset, presets),
    ONE_OF("mux.metadata", LX_KEY_CHOICE, mux.metadata, metadata),
    ONE_OF("mux.format", LX_KEY_CHOICE, mux.format, formats),
    SECTION("links"),
    INT_AT("links.depth", links.depth, 1, 8),
    ONE_OF("links.transport", LX_KEY_CHOICE, links.transport, transports),
    ONE_OF("links.context", LX_KEY_CHOICE, links.context, link_transports),
    ONE_OF("links.latent", LX_KEY_CHOICE, links.latent, link_transports),
    SECTION("limits"),
    {.path = "limits.size", .type = LX_KEY_SIZE, .offset = AT(limits.width)},
    INT_AT("limits.frames", limits.frames, 1, LX_LIMIT_FRAMES),
    INT_AT("limits.prompt_bytes", limits.prompt_bytes, 1, LX_LIMIT_PROMPT),
    INT_AT("limits.queue", limits.queue, 1, LX_LIMIT_QUEUE),
    INT_AT("limits.clients", limits.clients, 1, LX_LIMIT_CLIENTS),
    INT_AT("limits.per_client", limits.per_client, 1, LX_LIMIT_QUEUE),
    SECTION("spool"),
    BOOL_AT("spool.latents", spool.latents),
    SECTION("memory"),
    {.path = "memory.ram", .type = LX_KEY_BYTES, .offset = AT(memory.ram)},
    {.path = "memory.pinned",
     .type = LX_KEY_BYTES,
     .offset = AT(memory.pinned),
     .min = LX_LIMIT_PINNED},
    {.path = "memory.vram", .type = LX_KEY_VRAM, .offset = AT(memory.vram)},
    ONE_OF("memory.policy", LX_KEY_CHOICE, memory.policy, policies),
    SECTION("supervision"),
    REAL_AT("supervision.beat_s", supervision.beat_s, 0.1, 60),
    REAL_AT("supervision.hang_s", supervision.hang_s, 1, 86400),
    REAL_AT("supervision.stop_s", supervision.stop_s, 0.1, 600),
    ONE_OF("log_level", LX_KEY_CHOICE, log_level, levels),
};
const int lx_config_n_keys = (int)(sizeof lx_config_keys / sizeof *lx_config_keys);
static_assert(sizeof lx_config_keys / sizeof *lx_config_keys <= LX_CONFIG_KEYS_MAX,
              "the loader keeps one line number per key");
static_assert(sizeof(lx_memory_policy) == sizeof(int) && sizeof(lx_transport_wish) == sizeof(int),
              "a choice is stored as int");
static_assert(sizeof(lx_sampler) == sizeof(int) && sizeof(lx_log_level) == sizeof(int) &&
                  sizeof(lx_residency_choice) == sizeof(int),
              "a choice is stored as int");

int lx_config_find(const char *path)
{
    for (int i = 0; i < lx_config_n_keys; i++)
        if (strcmp(lx_config_keys[i].path, path) == 0)
            return i;
    return -1;
}

void lx_config_defaults(lx_config *c)
{
    *c = (lx_config){
        .defaults = {.width = 832, .height = 480, .frames = 81, .fps = 16, .seed = LX_SEED_DRAW},
        .sampling = {.sampler = LX_SAMPLER_EULER,
                     .shift = 5,
                     .n_steps = 4,
                     .steps = {1000, 750, 500, 250},
                     .guide_scale = 1,
                     .rng = "lx2v"},
        .encoder = {.cache_entries = 8},
        .vae = {.chunk = 1},
        /* crf 18: no difference to the source is seen at normal distance; as `lx2v-mux run`. */
        .mux = {.crf = 18, .preset = "medium"},
        .links = {.depth = 2, .context = LX_WISH_SAME, .latent = LX_WISH_SAME},
        .limits = {.prompt_bytes = LX_LIMIT_PROMPT, .queue = 1000, .clients = 64},
        .spool = {.latents = true},
        .supervision = {.beat_s = 1, .hang_s = 60, .stop_s = 10},
        .log_level = LX_LOG_INFO,
    };
    for (int i = 0; i < LX_STAGE_COUNT; i++)
        c->stage[i] = (lx_stage_config){.n_replicas = 1, .replica[0] = {.device = "cpu"}};
}

/* --- values ----------------------------------------------------------------------------------- */

void lx_config_show(const char *value, char *text, size_t text_bytes)
{
    size_t n = lx_utf8_cut(value, strlen(value), text_bytes - 1 < 80 ? text_bytes - 1 : 80);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)value[i];
        text[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    text[n] = 0;
}

static lx_status not_accepted(const char *text, const char *accepted, lx_err *err)
{
    char shown[96];
    lx_config_show(text, shown, sizeof shown);
    return lx_fail(err, LX_ECONFIG, "\"%s\" is not accepted; accepted: %s", shown, accepted);
}

static bool number_of(const char *text, bool quoted, double *out)
{
    return !quoted && lx_parse_real(text, out);
}

lx_status lx_config_set_int(int *out, const char *text, bool quoted, int min, int max, lx_err *err)
{
    int64_t value;
    if (quoted || !lx_parse_i64(text, &value) || value < min || value > max) {
        char accepted[96];
        snprintf(accepted, sizeof accepted, "a whole number of %d to %d%s", min, max,
                 quoted ? ", without quotes" : "");
        return not_accepted(text, accepted, err);
    }
    *out = (int)value;
    return LX_OK;
}

static lx_status set_bool(bool *out, const char *text, bool quoted, lx_err *err)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (int i = 0; !quoted && i < 6; i++)
        if (strcasecmp(text, words[i]) == 0) {
            *out = i % 2;
            return LX_OK;
        }
    return not_accepted(text, quoted ? "true or false, without quotes" : "true or false", err);
}

static lx_status set_choice(void *out, const lx_config_key *key, const char *text, lx_err *err)
{
    char accepted[256] = "";
    size_t n = 0, used = 0;
    for (; key->choices[n]; n++) {
        if (strcmp(text, key->choices[n]) == 0) {
            if (key->type == LX_KEY_CHOICE)
                memcpy(out, &(int){(int)n}, sizeof(int));
            else
                snprintf(out, LX_LIMIT_WORD, "%s", text);
            return LX_OK;
        }
        used += (size_t)snprintf(accepted + used, sizeof accepted - used, "%s%s", n ? ", " : "",
                                 key->choices[n]);
    }
    const char *near = lx_nearest(text, key->choices, n);
    if (near && used < sizeof accepted)
        snprintf(accepted + used, sizeof accepted - used, "; did you mean %s?", near);
    return not_accepted(text, accepted, err);
}

lx_status lx_config_set_residency(lx_residency_choice *out, const char *text, lx_err *err)
{
    const lx_config_key key = {.type = LX_KEY_CHOICE, .choices = lx_residency_names};
    return set_choice(out, &key, text, err);
}

lx_status lx_config_set_attention(lx_attention_choice *out, const char *text, lx_err *err)
{
    const lx_config_key key = {.type = LX_KEY_CHOICE, .choices = lx_attention_names};
    return set_choice(out, &key, text, err);
}

lx_status lx_config_set_accumulate(lx_accumulate_choice *out, const char *text, lx_err *err)
{
    const lx_config_key key = {.type = LX_KEY_CHOICE, .choices = lx_accumulate_names};
    return set_choice(out, &key, text, err);
}

/* Sizes and steps have their own sentences, shared with the command line. */
static lx_status set_size(int32_t *out, const char *text, lx_err *err)
{
    int32_t width, height;
    if (lx_parse_size(text, &width, &height, err) != LX_OK)
        return LX_ECONFIG;
    if (lx_job_check_size(width, height, 1, err) != LX_OK)
        return err ? (err->status = LX_ECONFIG) : LX_ECONFIG;
    out[0] = width;
    out[1] = height;
    return LX_OK;
}

static lx_status set_tile(int *out, const char *text, lx_err *err)
{
    int32_t height, width;
    if (strcasecmp(text, "off") == 0) {
        out[0] = out[1] = 0;
        return LX_OK;
    }
    /* Smaller tiles would be all halo (7 latents on each side). */
    if (lx_parse_size(text, &height, &width, NULL) != LX_OK || height < 8 || width < 8 ||
        height > LX_LIMIT_SIDE / LX_VAE_STRIDE || width > LX_LIMIT_SIDE / LX_VAE_STRIDE ||
        strchr(text, 'p'))
        return not_accepted(text, "off, or HEIGHTxWIDTH in latents, each 8 to 2048", err);
    out[0] = height;
    out[1] = width;
    return LX_OK;
}

static lx_status set_guide(double *out, const char *text, bool quoted, lx_err *err)
{
    double value;
    if (!number_of(text, quoted, &value) || value != 1)
        return not_accepted(text,
                            "1: these checkpoints are distilled without classifier-free guidance; "
                            "there is no unconditional branch to scale",
                            err);
    *out = 1;
    return LX_OK;
}

/* IP:PORT or [IP]:PORT; bytes: of the address, those of IPv4 first and then zero. */
static bool parse_tcp(const char *text, unsigned char bytes[16])
{
    char ip[LX_LIMIT_WORD];
    int64_t port;
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    bool is_v6 = n > 2 && text[0] == '[' && text[n - 1] == ']';
    memset(bytes, 0, 16);
    if (!n || strlen(text) >= LX_LIMIT_WORD)
        return false;
    snprintf(ip, sizeof ip, "%.*s", (int)(is_v6 ? n - 2 : n), text + is_v6);
    return lx_parse_i64(colon + 1, &port) && port >= 0 && port <= 65535 &&
           inet_pton(is_v6 ? AF_INET6 : AF_INET, ip, bytes) == 1;
}

bool lx_config_is_any(const char *tcp)
{
    static const unsigned char none[16], mapped[16] = {[10] = 0xff, [11] = 0xff};
    unsigned char bytes[16];
    return parse_tcp(tcp, bytes) && (!memcmp(bytes, none, 16) || !memcmp(bytes, mapped, 16));
}

/* Addresses and no names, so that nobody listens elsewhere than where he thinks. */
static lx_status set_tcp(char *out, const char *text, lx_err *err)
{
    unsigned char bytes[16];
    if (strcasecmp(text, "off") == 0) {
        out[0] = 0;
        return LX_OK;
    }
    if (!parse_tcp(text, bytes))
        return not_accepted(text, "off, or IP:PORT, such as 192.168.1.5:7421 or [fd00::5]:7421",
                            err);
    snprintf(out, LX_LIMIT_WORD, "%s", text);
    return LX_OK;
}

static lx_status set_path(char *out, const char *text, lx_err *err)
{
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return not_accepted(text, "a path without control characters", err);
    if (!*text || strlen(text) >= LX_LIMIT_PATH)
        return not_accepted(text, "a path of 1 to 4095 bytes", err);
    snprintf(out, LX_LIMIT_PATH, "%s", text);
    return LX_OK;
}

static lx_status set_rng(char *out, const char *text, lx_err *err)
{
    if (lx_job_check_rng(text, err) != LX_OK)
        return err ? (err->status = LX_ECONFIG) : LX_ECONFIG;
    snprintf(out, LX_LIMIT_WORD, "%s", text);
    return LX_OK;
}

static lx_status set_real(double *out, const lx_config_key *key, const char *text, bool quoted,
                          lx_err *err)
{
    double value;
    if (!number_of(text, quoted, &value) || value < key->min || value > key->max) {
        char accepted[96];
        snprintf(accepted, sizeof accepted, "a number of %g to %g%s", key->min, key->max,
                 quoted ? ", without quotes" : "");
        return not_accepted(text, accepted, err);
    }
    *out = value;
    return LX_OK;
}

static lx_status set_seed(int64_t *out, const char *text, bool quoted, lx_err *err)
{
    int64_t value;
    if (quoted || !lx_parse_i64(text, &value) || value < LX_SEED_DRAW)
        return not_accepted(text, "0 to 9223372036854775807, or -1 to draw one for each job", err);
    *out = value;
    return LX_OK;
}

static lx_status set_bytes(uint64_t *out, const char *text, double least, lx_err *err)
{
    uint64_t bytes = 0;
    bool is_auto = strcmp(text, "auto") == 0;
    lx_status status = is_auto ? LX_OK : lx_parse_bytes(text, &bytes, err);
    if (status != LX_OK)
        return status;
    if (!is_auto && (double)bytes < least) {
        char accepted[96], bound[32];
        snprintf(accepted, sizeof accepted, "auto, or %s and more",
                 lx_bytes_text((uint64_t)least, bound, sizeof bound));
        return not_accepted(text, accepted, err);
    }
    *out = bytes;
    return LX_OK;
}

lx_status lx_config_set_vram(lx_vram_config *vram, const char *device, const char *text,
                             lx_err *err)
{
    if (!device)
        return set_bytes(&vram->every, text, 0, err);
    if (lx_device_check(device, err) != LX_OK)
        return LX_ECONFIG;
    if (!lx_device_is_card(device))
        return not_accepted(device, "a card, such as cuda:0 or cuda:rtx3060", err);
    if (vram->n == LX_VRAM_CARDS)
        return not_accepted(device, "no more than 8 cards", err);
    lx_status status = set_bytes(&vram->card[vram->n].bytes, text, 0, err);
    if (status == LX_OK)
        snprintf(vram->card[vram->n++].device, LX_LIMIT_WORD, "%s", device);
    return status;
}

lx_status lx_config_set(lx_config *config, const lx_config_key *key, const char *text, bool quoted,
                        lx_err *err)
{
    void *at = (char *)config + key->offset;
    switch (key->type) {
    case LX_KEY_MODEL:
    case LX_KEY_PATH:
        return set_path(at, text, err);
    case LX_KEY_BOOL:
        return set_bool(at, text, quoted, err);
    case LX_KEY_INT:
        return lx_config_set_int(at, text, quoted, (int)key->min, (int)key->max, err);
    case LX_KEY_I64:
        return set_seed(at, text, quoted, err);
    case LX_KEY_REAL:
        return set_real(at, key, text, quoted, err);
    case LX_KEY_CHOICE:
    case LX_KEY_WORD:
        return set_choice(at, key, text, err);
    case LX_KEY_SIZE:
        return set_size(at, text, err);
    case LX_KEY_TILE:
        return set_tile(at, text, err);
    case LX_KEY_BYTES:
        return set_bytes(at, text, key->min, err);
    case LX_KEY_VRAM:
        return lx_config_set_vram(at, NULL, text, err);
    case LX_KEY_STEPS:
        return lx_parse_steps(text, config->sampling.steps, &config->sampling.n_steps, err);
    case LX_KEY_RNG:
        return set_rng(at, text, err);
    case LX_KEY_GUIDE:
        return set_guide(at, text, quoted, err);
    case LX_KEY_TCP:
        return set_tcp(at, text, err);
    case LX_KEY_SECTION:
    case LX_KEY_STAGE:
        break;
    }
    return not_accepted(text, "a mapping of keys", err);
}

lx_status lx_config_set_device(char device[LX_LIMIT_WORD], const char *text, lx_err *err)
{
    lx_status status = lx_device_check(text, err);
    if (status != LX_OK)
        return status;
    snprintf(device, LX_LIMIT_WORD, "%s", text);
    return LX_OK;
}

lx_status lx_config_check_build(const lx_config *config, lx_err *err)
{
    if (strcmp(LX2V_BACKEND, "cuda") == 0)
        return LX_OK;
    for (int kind = 0; kind < LX_STAGE_COUNT; kind++)
        for (int i = 0; i < config->stage[kind].n_replicas; i++)
            if (lx_device_is_card(config->stage[kind].replica[i].device))
                return lx_fail(err, LX_ECONFIG,
                               "%s: stages.%s: device \"%s\": this build has no CUDA (lx2v "
                               "--version says cpu); use cpu, or build with -DLX2V_CUDA=ON on a "
                               "machine with the CUDA toolkit",
                               config->path, lx_stage_kind_name((lx_stage_kind)kind),
                               config->stage[kind].replica[i].device);
    return LX_OK;
}

lx_transport_wish lx_config_wish(const lx_config *config, lx_stage_kind lender)
{
    lx_transport_wish own = lender == LX_STAGE_ENCODER ? config->links.context
                            : lender == LX_STAGE_DIT   ? config->links.latent
                                                       : LX_WISH_RING;
    return own == LX_WISH_SAME ? config->links.transport : own;
}

/* --- unknown keys ----------------------------------------------------------------------------- */

/* Words that people bring from LightX2V's own configuration and from other tools. */
static const struct {
    const char *theirs, *ours;
} foreign[] = {
    {"target_height", "defaults.size: WIDTHxHEIGHT"},
    {"target_width", "defaults.size: WIDTHxHEIGHT"},
    {"width", "defaults.size: WIDTHxHEIGHT"},
    {"height", "defaults.size: WIDTHxHEIGHT"},
    {"target_video_length", "defaults.frames"},
    {"num_frames", "defaults.frames"},
    {"infer_steps", "sampling.denoising_step_list; its length is the number of steps"},
    {"num_inference_steps", "sampling.denoising_step_list; its length is the number of steps"},
    {"steps", "sampling.denoising_step_list"},
    {"shift", "sampling.sample_shift"},
    {"guide_scale", "sampling.sample_guide_scale"},
    {"guidance_scale", "sampling.sample_guide_scale"},
    {"enable_cfg", "nothing to set: these checkpoints run without guidance"},
    {"model_path", "model"},
    {"dit_quantized_ckpt", "model.dit"},
    {"t5_quantized_ckpt", "model.text"},
    {"dit_quant_scheme", "nothing to set: read from the checkpoint"},
    {"save_result_path", "output.dir"},
    {"use_tiling_vae", "vae.tile"},
    {"threads", "stages.STAGE.threads"},
    {"device", "stages.STAGE.device"},
    {"endpoint", "state.dir: the endpoint is a socket in it"},
};

static const char *last_word(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* The part of `path` below `prefix`, NULL if it is not a direct child. */
static const char *child_of(const char *prefix, const char *path)
{
    size_t n = strlen(prefix);
    if (n > 0 && (strncmp(path, prefix, n) != 0 || path[n] != '.'))
        return NULL;
    const char *rest = path + n + (n > 0);
    return strchr(rest, '.') ? NULL : rest;
}

void lx_config_hint(const char *prefix, const char *name, char *text, size_t text_bytes)
{
    const char *here[LX_CONFIG_KEYS_MAX], *all[LX_CONFIG_KEYS_MAX];
    size_t n_here = 0;
    char list[512] = "";
    size_t used = 0;
    for (int i = 0; i < lx_config_n_keys; i++) {
        all[i] = last_word(lx_config_keys[i].path);
        const char *child = child_of(prefix, lx_config_keys[i].path);
        if (!child)
            continue;
        here[n_here++] = child;
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s",
                                     n_here > 1 ? ", " : "", child);
    }
    const char *near = lx_nearest(name, here, n_here);
    if (near) {
        snprintf(text, text_bytes, "did you mean %s? Known here: %s", near, list);
        return;
    }
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strcasecmp(name, foreign[i].theirs) == 0) {
            snprintf(text, text_bytes, "here this is %s", foreign[i].ours);
            return;
        }
    near = lx_nearest(name, all, (size_t)lx_config_n_keys);
    for (int i = 0; near && i < lx_config_n_keys; i++)
        if (all[i] == near) {
            snprintf(text, text_bytes, "did you mean %s? Known here: %s", lx_config_keys[i].path,
                     list);
            return;
        }
    snprintf(text, text_bytes, "known here: %s", list);
}
