/*
 * module.cu - liblx2v_cuda.so: the card, its two queues, memory and copies
 * SPDX-License-Identifier: Apache-2.0
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cu_dev.cuh"

#ifndef LX_CUDA_ARCHS
#define LX_CUDA_ARCHS ""
#endif

#define FULL ((size_t)64 << 20) /* less free memory than cuBLASLt and a few kernels need */

#ifdef LX2V_FAULTS
extern "C" const struct lx_cuda_fault_ops lx_cuda_fault_table;
#define FAULTS (&lx_cuda_fault_table)
#else
#define FAULTS nullptr
#endif

static void clock_close(lx_cuda_dev *dev)
{
    for (int i = 0; i < dev->n_clock; i++)
        cudaEventDestroy(dev->clock[i]);
    std::free(dev->clock);
    dev->clock = nullptr;
    dev->n_clock = 0;
}

static void dev_free(lx_cuda_dev *dev)
{
    clock_close(dev);
    for (cudaEvent_t event : dev->event)
        if (event)
            cudaEventDestroy(event);
    if (dev->blas)
        cublasLtDestroy(dev->blas);
    if (dev->compute)
        cudaStreamDestroy(dev->compute);
    if (dev->copy)
        cudaStreamDestroy(dev->copy);
    std::free(dev);
}

static int dev_make(lx_cuda_dev *dev, int index, lx_cuda_card_facts *facts)
{
    cudaDeviceProp prop;
    CU_TRY(cudaSetDevice(index));
    CU_TRY(cudaGetDeviceProperties(&prop, index));
    *facts = lx_cuda_card_facts{};
    std::snprintf(facts->name, sizeof facts->name, "%.90s", prop.name);
    facts->major = prop.major;
    facts->minor = prop.minor;
    facts->n_sm = prop.multiProcessorCount;
    facts->shared_bytes = (int)prop.sharedMemPerBlockOptin;
    facts->total_bytes = prop.totalGlobalMem;
    dev->index = index;
    dev->major = prop.major;
    dev->minor = prop.minor;
    dev->n_sm = prop.multiProcessorCount;
    CU_TRY(cudaStreamCreateWithFlags(&dev->compute, cudaStreamNonBlocking));
    CU_TRY(cudaStreamCreateWithFlags(&dev->copy, cudaStreamNonBlocking));
    for (cudaEvent_t &event : dev->event)
        CU_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    int code = (int)cublasLtCreate(&dev->blas);
    return code ? LX_CUDA_BLAS + code : 0;
}

/* On a full card what is made after the context fails with codes of its own (cuBLASLt: "not
 * initialized"). All of them mean that others have the memory. */
static int reason_of(int code)
{
    size_t free_now = 0, total = 0;
    bool is_known = cudaMemGetInfo(&free_now, &total) == cudaSuccess;
    (void)cudaGetLastError();
    return is_known && free_now < FULL ? (int)cudaErrorMemoryAllocation : code;
}

static int base_open(int index, lx_cuda_dev **out, lx_cuda_card_facts *facts)
{
    lx_cuda_dev *dev = (lx_cuda_dev *)std::calloc(1, sizeof *dev);
    if (!dev)
        return (int)cudaErrorMemoryAllocation;
    int code = dev_make(dev, index, facts);
    if (code)
        code = reason_of(code);
    if (code)
        dev_free(dev);
    else
        *out = dev;
    return code;
}

static int base_memory(lx_cuda_dev *, uint64_t *free_bytes, uint64_t *total_bytes)
{
    size_t free_now, total;
    CU_TRY(cudaMemGetInfo(&free_now, &total));
    *free_bytes = free_now;
    *total_bytes = total;
    return 0;
}

static int base_alloc(lx_cuda_dev *, size_t bytes, void **out)
{
    int code = (int)cudaMalloc(out, bytes);
    if (code)
        (void)cudaGetLastError(); /* no memory is not sticky: the next call begins clean */
    return code;
}

static void base_free(lx_cuda_dev *, void *memory)
{
    (void)cudaFree(memory);
}

static int base_pin(lx_cuda_dev *, size_t bytes, void **out)
{
    int code = (int)cudaHostAlloc(out, bytes, cudaHostAllocDefault);
    if (code)
        (void)cudaGetLastError();
    return code;
}

static void base_unpin(lx_cuda_dev *, void *memory)
{
    (void)cudaFreeHost(memory);
}

/* From pageable memory the runtime has its own copy when the call returns. */
static int base_upload(lx_cuda_dev *dev, void *dst, const void *src, size_t bytes)
{
    return (int)cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, dev->compute);
}

static int base_download(lx_cuda_dev *dev, void *dst, const void *src, size_t bytes)
{
    CU_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, dev->compute));
    return (int)cudaStreamSynchronize(dev->compute);
}

static int base_copy(lx_cuda_dev *dev, void *dst, const void *src, size_t bytes)
{
    return (int)cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, dev->compute);
}

static int base_zero(lx_cuda_dev *dev, void *dst, size_t bytes)
{
    return (int)cudaMemsetAsync(dst, 0, bytes, dev->compute);
}

static int base_wait(lx_cuda_dev *dev)
{
    return (int)cudaStreamSynchronize(dev->compute);
}

static int base_copy_in(lx_cuda_dev *dev, void *dst, const void *src_pinned, size_t bytes)
{
    /* May be called from a thread that has not chosen a card yet. */
    CU_TRY(cudaSetDevice(dev->index));
    return (int)cudaMemcpyAsync(dst, src_pinned, bytes, cudaMemcpyHostToDevice, dev->copy);
}

static int base_copy_out(lx_cuda_dev *dev, void *dst_pinned, const void *src, size_t bytes)
{
    return (int)cudaMemcpyAsync(dst_pinned, src, bytes, cudaMemcpyDeviceToHost, dev->copy);
}

static cudaStream_t queue_of(const lx_cuda_dev *dev, int queue)
{
    return queue == 0 ? dev->compute : dev->copy;
}

/* These may come from a thread that has not chosen a card yet: without that the runtime would open
 * card 0 for it. */
static int base_mark(lx_cuda_dev *dev, int event, int queue)
{
    CU_TRY(cudaSetDevice(dev->index));
    CU_TRY(cudaEventRecord(dev->event[event], queue_of(dev, queue)));
    dev->is_marked[event] = true;
    return 0;
}

static int base_after(lx_cuda_dev *dev, int event, int queue)
{
    if (!dev->is_marked[event])
        return 0;
    CU_TRY(cudaSetDevice(dev->index));
    return (int)cudaStreamWaitEvent(queue_of(dev, queue), dev->event[event], 0);
}

static int base_reached(lx_cuda_dev *dev, int event)
{
    if (!dev->is_marked[event])
        return 0;
    CU_TRY(cudaSetDevice(dev->index));
    return (int)cudaEventSynchronize(dev->event[event]);
}

static int clock_open(lx_cuda_dev *dev, int n_marks)
{
    clock_close(dev);
    dev->clock = (cudaEvent_t *)std::calloc((size_t)n_marks, sizeof *dev->clock);
    if (!dev->clock)
        return (int)cudaErrorMemoryAllocation;
    for (; dev->n_clock < n_marks; dev->n_clock++)
        CU_TRY(cudaEventCreate(&dev->clock[dev->n_clock]));
    return 0;
}

static int clock_mark(lx_cuda_dev *dev, int mark)
{
    if (mark < 0 || mark >= dev->n_clock)
        return (int)cudaErrorInvalidValue;
    return (int)cudaEventRecord(dev->clock[mark], dev->compute);
}

static int clock_read(lx_cuda_dev *dev, int from, int to, float *ms)
{
    if (from < 0 || to <= from || to >= dev->n_clock)
        return (int)cudaErrorInvalidValue;
    CU_TRY(cudaEventSynchronize(dev->clock[to]));
    return (int)cudaEventElapsedTime(ms, dev->clock[from], dev->clock[to]);
}

static const lx_cuda_base_ops base_ops = {
    base_open,   dev_free,      base_memory,   base_alloc, base_free,   base_pin,     base_unpin,
    base_upload, base_download, base_copy,     base_zero,  base_wait,   base_copy_in, base_mark,
    base_after,  base_reached,  base_copy_out, clock_open, clock_close, clock_mark,   clock_read};

static const char *error_text(int code)
{
    if (code >= LX_CUDA_BLAS)
        return cublasLtGetStatusString((cublasStatus_t)(code - LX_CUDA_BLAS));
    return cudaGetErrorString((cudaError_t)code);
}

static bool is_memory(int code)
{
    return code == (int)cudaErrorMemoryAllocation ||
           code == LX_CUDA_BLAS + (int)CUBLAS_STATUS_ALLOC_FAILED;
}

extern "C" {
extern const struct lx_cuda_linear_ops lx_cuda_linear_table;
extern const struct lx_cuda_rows_ops lx_cuda_rows_table;
extern const struct lx_cuda_attention_ops lx_cuda_attention_table;
extern const struct lx_cuda_conv_ops lx_cuda_conv_table;
extern const struct lx_cuda_share_ops lx_cuda_share_table;

__attribute__((visibility("default"))) const lx_cuda_module *lx_cuda_module_get(void)
{
    static const lx_cuda_module module = {LX_CUDA_ABI,
                                          LX_CUDA_ARCHS,
                                          error_text,
                                          is_memory,
                                          &base_ops,
                                          &lx_cuda_linear_table,
                                          &lx_cuda_rows_table,
                                          &lx_cuda_attention_table,
                                          &lx_cuda_conv_table,
                                          &lx_cuda_share_table,
                                          FAULTS};
    return &module;
}
}
