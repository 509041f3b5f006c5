/*
 * share.cu - CUDA IPC: memory and events of another process, and host memory pinned in place
 * SPDX-License-Identifier: Apache-2.0
 */
#include <cstring>
#include <cuda.h>

#include "cu_dev.cuh"
#include "cu_share.h"

static_assert(sizeof(cudaIpcMemHandle_t) == LX_CU_HANDLE, "as it travels in a slot's header");
static_assert(sizeof(cudaIpcEventHandle_t) == LX_CU_HANDLE, "likewise");
static_assert(sizeof(cudaUUID_t) == LX_CU_UUID, "likewise");

/* The code, and nothing that a later launch would take for its own failure. */
static int told(cudaError_t code)
{
    if (code != cudaSuccess)
        (void)cudaGetLastError();
    return (int)code;
}

/* Asks for properties only: no context is made on another card. */
static int share_cards(lx_cuda_dev *dev, int max, lx_cu_card *out, int *n)
{
    int count = 0;
    CU_TRY(told(cudaGetDeviceCount(&count)));
    *n = count < max ? count : max;
    for (int i = 0; i < *n; i++) {
        cudaDeviceProp prop;
        int can = 0;
        CU_TRY(told(cudaGetDeviceProperties(&prop, i)));
        out[i] = lx_cu_card{};
        std::memcpy(out[i].uuid, &prop.uuid, LX_CU_UUID);
        out[i].is_own = i == dev->index;
        if (i != dev->index && told(cudaDeviceCanAccessPeer(&can, dev->index, i)) == 0)
            out[i].can_reach = can != 0;
    }
    return 0;
}

static int memory_export(lx_cuda_dev *, void *memory, unsigned char *handle)
{
    cudaIpcMemHandle_t h;
    CU_TRY(told(cudaIpcGetMemHandle(&h, memory)));
    std::memcpy(handle, &h, sizeof h);
    return 0;
}

/* Also another card's memory: the flag lets the driver connect the two. */
static int memory_open(lx_cuda_dev *, const unsigned char *handle, void **out)
{
    cudaIpcMemHandle_t h;
    std::memcpy(&h, handle, sizeof h);
    return told(cudaIpcOpenMemHandle(out, h, cudaIpcMemLazyEnablePeerAccess));
}

static int memory_bytes(lx_cuda_dev *, void *memory, size_t *out)
{
    typedef CUresult(CUDAAPI * range_fn)(CUdeviceptr *, size_t *, CUdeviceptr);
    cudaDriverEntryPointQueryResult found;
    void *entry = nullptr;
    CUdeviceptr base = 0;
    size_t bytes = 0;
    /* 12.0 is what names the function with 64-bit sizes; the driver is never linked. */
#if CUDART_VERSION >= 12050
    CU_TRY(told(cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &entry, 12000,
                                                 cudaEnableDefault, &found)));
#else
    CU_TRY(
        told(cudaGetDriverEntryPoint("cuMemGetAddressRange", &entry, cudaEnableDefault, &found)));
#endif
    if (found != cudaDriverEntryPointSuccess || !entry)
        return (int)cudaErrorNotSupported;
    CUresult code = ((range_fn)entry)(&base, &bytes, (CUdeviceptr)memory);
    if (code != CUDA_SUCCESS || (CUdeviceptr)memory < base)
        return (int)cudaErrorInvalidValue;
    *out = bytes - (size_t)((CUdeviceptr)memory - base);
    return 0;
}

static int memory_close(lx_cuda_dev *, void *memory)
{
    return told(cudaIpcCloseMemHandle(memory));
}

static int event_make(lx_cuda_dev *, void **event, unsigned char *handle)
{
    cudaEvent_t e;
    cudaIpcEventHandle_t h;
    CU_TRY(told(cudaEventCreateWithFlags(&e, cudaEventDisableTiming | cudaEventInterprocess)));
    int code = told(cudaIpcGetEventHandle(&h, e));
    if (code) {
        (void)cudaEventDestroy(e);
        return code;
    }
    std::memcpy(handle, &h, sizeof h);
    *event = e;
    return 0;
}

static int event_open(lx_cuda_dev *, const unsigned char *handle, void **event)
{
    cudaEvent_t e;
    cudaIpcEventHandle_t h;
    std::memcpy(&h, handle, sizeof h);
    CU_TRY(told(cudaIpcOpenEventHandle(&e, h)));
    *event = e;
    return 0;
}

static int event_mark(lx_cuda_dev *dev, void *event)
{
    return told(cudaEventRecord((cudaEvent_t)event, dev->compute));
}

static int event_query(lx_cuda_dev *, void *event, bool *is_reached)
{
    cudaError_t code = cudaEventQuery((cudaEvent_t)event);
    *is_reached = code == cudaSuccess;
    return code == cudaErrorNotReady ? (told(code), 0) : told(code);
}

static void event_close(lx_cuda_dev *, void *event)
{
    (void)told(cudaEventDestroy((cudaEvent_t)event));
}

static int share_pin(lx_cuda_dev *, void *memory, size_t bytes)
{
    return told(cudaHostRegister(memory, bytes, cudaHostRegisterDefault));
}

static void share_unpin(lx_cuda_dev *, void *memory)
{
    (void)told(cudaHostUnregister(memory));
}

extern "C" {
extern const struct lx_cuda_share_ops lx_cuda_share_table;
const struct lx_cuda_share_ops lx_cuda_share_table = {
    share_cards, memory_export, memory_open, memory_bytes, memory_close, event_make,
    event_open,  event_mark,    event_query, event_close,  share_pin,    share_unpin};
}
