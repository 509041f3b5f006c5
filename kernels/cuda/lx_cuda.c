/*
 * lx_cuda.c - finding the module, opening a card, and the card's table of op families
 * SPDX-License-Identifier: Apache-2.0
 */
#include <assert.h>
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cu_fault.h"
#include "lx_cuda_priv.h"
#include "lx_fault.h"
#include "lx_plan.h"
#include "lx_process.h"

static_assert((int)LX_DTYPE_F32 == LX_CU_F32 && (int)LX_DTYPE_F16 == LX_CU_F16 &&
                  (int)LX_DTYPE_BF16 == LX_CU_BF16 && (int)LX_DTYPE_F8_E4M3 == LX_CU_F8_E4M3 &&
                  (int)LX_DTYPE_F8_E5M2 == LX_CU_F8_E5M2 && (int)LX_DTYPE_I8 == LX_CU_I8 &&
                  (int)LX_DTYPE_F64 == LX_CU_F64 && (int)LX_DTYPE_U8 == LX_CU_U8,
              "the module counts element types as lx_tensor.h does");

#define NO_DEVICE 100 /* cudaErrorNoDevice: what a card that fell off its bus looks like */

lx_status lx_cuda_status(const lx_cuda *cuda, int code, const char *what, lx_err *err)
{
    if (!code)
        return LX_OK;
    const char *text = cuda->module->error_text(code);
    if (cuda->module->is_memory(code))
        return lx_fail(err, LX_EAGAIN, "%s: %s: no device memory at this moment (%s, error %d)",
                       cuda->card.name, what, text, code);
    return lx_fail(err, LX_ESTAGE, "%s: %s: %s (error %d)", cuda->card.name, what, text, code);
}

lx_card_kind lx_card_of_plan(const lx_plan_question *q)
{
    lx_card_kind card = {.index = -1,
                         .major = q->kind.major,
                         .minor = q->kind.minor,
                         .n_sm = q->kind.n_sm,
                         .shared_bytes = q->kind.shared_bytes,
                         .total_bytes = q->kind.total_bytes};
    snprintf(card.name, sizeof card.name, "%s", q->kind.name);
    (void)lx_card_limit(&card, NULL); /* a word that is no limit is told by lx_exec_plan_cuda */
    return card;
}

/* --- opening --------------------------------------------------------------------------------- */

/* Beside the program, in ../lib of it, then where the loader looks. */
static void *load_library(const char *path, char *reason, size_t reason_bytes)
{
    char self[4096], tried[2][4200] = {"", ""};
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    snprintf(tried[0], sizeof tried[0], "%s/../lib/liblx2v_cuda.so", self);
    snprintf(tried[1], sizeof tried[1], "%s/liblx2v_cuda.so", self);
    const char *const candidates[] = {tried[0], tried[1], "liblx2v_cuda.so"};
    size_t first = path ? 2 : 0;
    for (size_t i = first; i < 3; i++) {
        const char *name = path ? path : candidates[i];
        bool is_there = strchr(name, '/') == NULL || access(name, R_OK) == 0;
        void *library = is_there ? dlopen(name, RTLD_NOW | RTLD_LOCAL) : NULL;
        if (library)
            return library;
        if (is_there) {
            const char *text = dlerror();
            snprintf(reason, reason_bytes, "%s", text ? text : name);
            if (i < 2)
                break; /* it is there and does not load: that is the news */
        }
    }
    return NULL;
}

lx_status lx_cuda_load(lx_cuda *c, const char *path, lx_err *err)
{
    char reason[512] = "not found";
    lx_cuda_module_fn get;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!driver)
        return lx_fail(err, LX_ECONFIG,
                       "no NVIDIA driver (libcuda.so.1): install it, or use device: cpu");
    dlclose(driver);
    c->library = load_library(path, reason, sizeof reason);
    if (!c->library)
        return lx_fail(err, LX_ECONFIG,
                       "liblx2v_cuda.so cannot be loaded: %s; build with -DLX2V_CUDA=ON, or use "
                       "device: cpu",
                       reason);
    void *symbol = dlsym(c->library, LX_CUDA_MODULE_SYMBOL);
    if (symbol) {
        memcpy(&get, &symbol, sizeof get);
        c->module = get();
    }
    if (!c->module || c->module->abi != LX_CUDA_ABI)
        return lx_fail(err, LX_ECONFIG,
                       "liblx2v_cuda.so is of another version of lx2v (interface %" PRIu32
                       ", needed is %d): build both together",
                       c->module ? c->module->abi : 0, LX_CUDA_ABI);
    return LX_OK;
}

static lx_status open_card(lx_cuda *c, int index, lx_err *err)
{
    lx_cuda_card_facts facts = {0};
    int code = LX_FAULT("cuda.open") ? NO_DEVICE : c->module->base->open(index, &c->dev, &facts);
    if (code && c->module->is_memory(code))
        return lx_fail(err, LX_EAGAIN, "cuda:%d: no device memory for a context at this moment",
                       index);
    if (code)
        return lx_fail(err, LX_ECONFIG,
                       "cuda:%d cannot be opened: %s (error %d); lx2v doctor says more", index,
                       c->module->error_text(code), code);
    c->card = (lx_card_kind){.index = index,
                             .major = facts.major,
                             .minor = facts.minor,
                             .n_sm = facts.n_sm,
                             .shared_bytes = facts.shared_bytes,
                             .total_bytes = facts.total_bytes};
    memcpy(c->card.name, facts.name, sizeof c->card.name);
    if (facts.major < 8)
        return lx_fail(
            err, LX_ECONFIG,
            "cuda:%d is a %s with compute capability %d.%d: 8.0 is needed (RTX 30 series "
            "or later)",
            index, facts.name, facts.major, facts.minor);
    lx_card_hold_to_archs(&c->card, c->module->archs);
    return LX_OK;
}

static void describe_card(lx_cuda *c)
{
    const lx_card_kind *card = &c->card;
    const char *fp8 = lx_card_has_fp8(card) ? "native" : "widened to bf16";
    int n = snprintf(c->text, sizeof c->text, "%.64s sm_%d%d, bf16 and int8 tensor cores, fp8 %s",
                     card->name, card->major, card->minor, fp8);
    if (card->is_from)
        snprintf(c->text + n, sizeof c->text - (size_t)n, ", an sm_%d held to sm_%d%d",
                 card->is_from, card->major, card->minor);
}

lx_status lx_cuda_open(lx_cuda **out, int index, const char *module, lx_err *err)
{
    lx_cuda *c = calloc(1, sizeof *c);
    if (!c)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a card");
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1); /* cards count as the slots do */
    /* cuBLASLt alone has hundreds of MiB of kernels: only what the self-test runs is loaded. */
    setenv("CUDA_MODULE_LOADING", "LAZY", 1);
    lx_status status = lx_cuda_load(c, module, err);
    if (status == LX_OK)
        status = open_card(c, index, err);
    if (status == LX_OK)
        status = lx_card_limit(&c->card, err);
    if (status != LX_OK) {
        lx_cuda_close(&c);
        return status;
    }
    c->has_own_fp8 = c->has_own_bf16 = lx_card_has_wgmma(&c->card);
    describe_card(c);
    *out = c;
    return LX_OK;
}

void lx_cuda_close(lx_cuda **cuda)
{
    if (!cuda || !*cuda)
        return;
    lx_cuda_clock_close(*cuda);
    if ((*cuda)->dev)
        (*cuda)->module->base->close((*cuda)->dev);
    /* The library stays: CUDA's own threads may still be in it. */
    free((*cuda)->tune);
    free(*cuda);
    *cuda = NULL;
}

const lx_card_kind *lx_cuda_card(const lx_cuda *cuda)
{
    return &cuda->card;
}

/* --- memory ---------------------------------------------------------------------------------- */

lx_status lx_cuda_memory(lx_cuda *c, uint64_t *free_bytes, uint64_t *total_bytes, lx_err *err)
{
    return lx_cuda_status(c, c->module->base->memory(c->dev, free_bytes, total_bytes),
                          "asking for free memory", err);
}

static void release_device(void *self, void *memory)
{
    lx_cuda *c = self;
    c->module->base->free(c->dev, memory);
}

lx_status lx_cuda_arena(lx_cuda *c, size_t bytes, lx_arena **out, lx_err *err)
{
    void *memory = NULL;
    uint64_t free_bytes = 0, total = 0;
    char needs[32], has[32];
    int code = c->module->base->alloc(c->dev, bytes ? bytes : 1, &memory);
    if (code && c->module->is_memory(code)) {
        (void)c->module->base->memory(c->dev, &free_bytes, &total);
        return lx_fail(err, LX_EAGAIN, "%s: %s of device memory are needed, %s are free",
                       c->card.name, lx_bytes_text(bytes, needs, sizeof needs),
                       lx_bytes_text(free_bytes, has, sizeof has));
    }
    lx_status status = lx_cuda_status(c, code, "taking device memory", err);
    if (status == LX_OK)
        status = lx_arena_create_on(out, memory, bytes, release_device, c, err);
    if (status != LX_OK && memory)
        c->module->base->free(c->dev, memory);
    return status;
}

lx_status lx_cuda_pin(lx_cuda *c, size_t bytes, void **out, lx_err *err)
{
    char needs[32];
    int code = c->module->base->pin(c->dev, bytes, out);
    if (code && !c->module->is_memory(code))
        return lx_cuda_status(c, code, "pinning host memory", err);
    if (code)
        return lx_fail(err, LX_EAGAIN, "%s of pinned host memory cannot be had: %s (memory.pinned)",
                       lx_bytes_text(bytes, needs, sizeof needs), c->module->error_text(code));
    return LX_OK;
}

void lx_cuda_unpin(lx_cuda *c, void *memory)
{
    if (memory)
        c->module->base->unpin(c->dev, memory);
}

/* --- queues ---------------------------------------------------------------------------------- */

lx_status lx_cuda_copy_in(lx_cuda *c, void *dst, const void *src_pinned, size_t bytes, lx_err *err)
{
    return lx_cuda_status(c, c->module->base->copy_in(c->dev, dst, src_pinned, bytes),
                          "copying weights", err);
}

lx_status lx_cuda_copy_out(lx_cuda *c, void *dst_pinned, const void *src, size_t bytes, lx_err *err)
{
    return lx_cuda_status(c, c->module->base->copy_out(c->dev, dst_pinned, src, bytes),
                          "copying from the card", err);
}

lx_status lx_cuda_mark(lx_cuda *c, int event, lx_cuda_queue queue, lx_err *err)
{
    return lx_cuda_status(c, c->module->base->mark(c->dev, event, (int)queue), "marking", err);
}

lx_status lx_cuda_after(lx_cuda *c, int event, lx_cuda_queue queue, lx_err *err)
{
    return lx_cuda_status(c, c->module->base->after(c->dev, event, (int)queue), "ordering", err);
}

lx_status lx_cuda_reached(lx_cuda *c, int event, lx_err *err)
{
    return lx_cuda_status(c, c->module->base->reached(c->dev, event), "computing", err);
}

static const char *describe(const lx_exec *x)
{
    return x->cuda->text;
}

static lx_status upload(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err)
{
    if (x->is_dry || !bytes)
        return LX_OK;
    return lx_cuda_status(x->cuda, x->cuda->module->base->upload(x->cuda->dev, dst, src, bytes),
                          "copying to the card", err);
}

static lx_status download(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err)
{
    if (x->is_dry || !bytes)
        return LX_OK;
    return lx_cuda_status(x->cuda, x->cuda->module->base->download(x->cuda->dev, dst, src, bytes),
                          "copying from the card", err);
}

static lx_status copy(lx_exec *x, void *dst, const void *src, size_t bytes, lx_err *err)
{
    if (x->is_dry || !bytes || dst == src)
        return LX_OK;
    return lx_cuda_status(x->cuda, x->cuda->module->base->copy(x->cuda->dev, dst, src, bytes),
                          "copying on the card", err);
}

static lx_status zero(lx_exec *x, void *dst, size_t bytes, lx_err *err)
{
    if (x->is_dry || !bytes)
        return LX_OK;
    return lx_cuda_status(x->cuda, x->cuda->module->base->zero(x->cuda->dev, dst, bytes),
                          "clearing memory", err);
}

static lx_status wait(lx_exec *x, lx_err *err)
{
    if (x->is_dry)
        return LX_OK;
    return lx_cuda_status(x->cuda, x->cuda->module->base->wait(x->cuda->dev), "computing", err);
}

/* Where a test says so, a kernel that fails is queued among those of a job. */
static lx_status break_card(lx_cuda *c, lx_err *err)
{
    const lx_cuda_fault_ops *faults = c->module->faults;
    int code = 0;
    if (LX_FAULT("cuda.illegal") && faults)
        code = faults->read_nowhere(c->dev);
    if (!code && LX_FAULT("cuda.spin") && faults)
        code = faults->spin(c->dev);
    return lx_cuda_status(c, code, "breaking it for a test", err);
}

/* Two marks in turn: waits for the older, then moves it here. */
static lx_status pace(lx_exec *x, lx_err *err)
{
    lx_cuda *c = x->cuda;
    if (x->is_dry)
        return LX_OK;
    int event = LX_CUDA_PACE_EVENT + c->pace;
    lx_status status = break_card(c, err);
    if (status == LX_OK)
        status = lx_cuda_reached(c, event, err);
    if (status == LX_OK)
        status = lx_cuda_mark(c, event, LX_CUDA_COMPUTE, err);
    c->pace = !c->pace;
    return status;
}

/* --- execs ----------------------------------------------------------------------------------- */

static const lx_backend backend_cuda = {.name = "cuda",
                                        .describe = describe,
                                        .upload = upload,
                                        .download = download,
                                        .copy = copy,
                                        .zero = zero,
                                        .mat_widen = lx_cuda_mat_widen,
                                        .wait = wait,
                                        .pace = pace,
                                        .act_dtype = lx_cuda_act_dtype,
                                        .quantize_rows = lx_cuda_quantize_rows,
                                        .linear = lx_cuda_linear,
                                        .norm_rows = lx_cuda_norm_rows,
                                        .rope_table_build = lx_cuda_rope_table_build,
                                        .qk_norm_rope = lx_cuda_qk_norm_rope,
                                        .kv_prepare = lx_cuda_kv_prepare,
                                        .attention = lx_cuda_attention,
                                        .silu = lx_cuda_silu,
                                        .axpby = lx_cuda_axpby,
                                        .widen = lx_cuda_widen,
                                        .patchify = lx_cuda_patchify,
                                        .unpatchify = lx_cuda_unpatchify,
                                        .find_nonfinite = lx_cuda_find_nonfinite,
                                        .conv = &lx_conv_ops_cuda};

static lx_exec exec_on(lx_cuda *cuda, lx_arena *arena, lx_arena *host)
{
    return (lx_exec){.backend = &backend_cuda,
                     .arena = arena,
                     .host = host,
                     .n_threads = 1,
                     .is_dry = lx_arena_is_dry(arena),
                     .rows = LX_DTYPE_BF16,
                     .value = LX_DTYPE_F16,
                     .cuda = cuda};
}

lx_status lx_exec_open_cuda(lx_exec *out, lx_cuda *cuda, lx_arena *arena, lx_arena *host,
                            lx_err *err)
{
    (void)err;
    *out = exec_on(cuda, arena, host);
    return LX_OK;
}

lx_status lx_exec_plan_cuda(lx_exec *out, const lx_card_kind *card, lx_arena *arena, lx_arena *host,
                            lx_err *err)
{
    lx_card_kind limited = *card;
    lx_status status = lx_card_limit(&limited, err);
    lx_cuda *c = status == LX_OK ? calloc(1, sizeof *c) : NULL;
    if (status != LX_OK)
        return status;
    if (!c)
        return lx_fail(err, LX_EAGAIN, "out of memory for the record of a card");
    c->card = limited;
    c->has_own_fp8 = c->has_own_bf16 = lx_card_has_wgmma(&c->card);
    describe_card(c);
    *out = exec_on(c, arena, host);
    return LX_OK;
}

void lx_exec_plan_done(lx_exec *x)
{
    free(x->cuda);
    x->cuda = NULL;
}
