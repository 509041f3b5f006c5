/*
 * cuda_api.h - the few functions of the CUDA driver that the probe calls
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      Own prototypes for libcuda.so.1, found at run time: the probe starts, and says what is
 *           missing, on a machine without a driver. Names with a suffix (_v2) are the entry points
 *           that every driver since CUDA 11 exports under that ABI.
 * Source    CUDA Driver API reference: signatures, and the values of the attributes below.
 */
#ifndef CUDA_API_H
#define CUDA_API_H

#include <stddef.h>

typedef void *cu_context; /* opaque to us, like streams and events */
typedef void *cu_stream;
typedef void *cu_event;
typedef unsigned long long cu_pointer; /* device address */

typedef struct cu_uuid {
    unsigned char bytes[16];
} cu_uuid;

typedef struct cu_ipc { /* memory or event; passed by value */
    char bytes[64];
} cu_ipc;

enum { CU_SUCCESS = 0, CU_NOT_READY = 600 };
enum { CU_PEER_ALREADY_ENABLED = 704 };

enum cu_attribute {
    CU_MULTIPROCESSORS = 16,
    CU_KERNEL_TIMEOUT = 17, /* a watchdog ends long kernels: a display hangs on the card */
    CU_INTEGRATED = 18,
    CU_COMPUTE_MODE = 20, /* 0: any number of processes, 2: none, 3: one */
    CU_L2_BYTES = 38,
    CU_THREADS_PER_MULTIPROCESSOR = 39,
    CU_UNIFIED_ADDRESSING = 41,
    CU_MAJOR = 75,
    CU_MINOR = 76,
    CU_SHARED_BYTES_OPTIN = 97,
    CU_IPC_EVENTS = 125
};

#define CU_STREAM_NON_BLOCKING  1u
#define CU_EVENT_DISABLE_TIMING 2u
#define CU_EVENT_INTERPROCESS   4u
#define CU_IPC_LAZY_PEER_ACCESS 1u

/* field, symbol, is it required?, parameters; all return CUresult, an int */
#define CU_FUNCTIONS(X)                                                                            \
    X(init, "cuInit", 1, (unsigned flags))                                                         \
    X(driver_version, "cuDriverGetVersion", 1, (int *version))                                     \
    X(error_name, "cuGetErrorName", 1, (int code, const char **text))                              \
    X(error_string, "cuGetErrorString", 1, (int code, const char **text))                          \
    X(count, "cuDeviceGetCount", 1, (int *n))                                                      \
    X(device, "cuDeviceGet", 1, (int *device, int ordinal))                                        \
    X(name, "cuDeviceGetName", 1, (char *text, int bytes, int device))                             \
    X(uuid, "cuDeviceGetUuid", 1, (cu_uuid * uuid, int device))                                    \
    X(uuid_mig, "cuDeviceGetUuid_v2", 0, (cu_uuid * uuid, int device))                             \
    X(total_bytes, "cuDeviceTotalMem_v2", 1, (size_t * bytes, int device))                         \
    X(attribute, "cuDeviceGetAttribute", 1, (int *value, int attribute, int device))               \
    X(pci, "cuDeviceGetPCIBusId", 1, (char *text, int bytes, int device))                          \
    X(can_access, "cuDeviceCanAccessPeer", 1, (int *can, int device, int peer))                    \
    X(retain, "cuDevicePrimaryCtxRetain", 1, (cu_context * context, int device))                   \
    X(release, "cuDevicePrimaryCtxRelease_v2", 1, (int device))                                    \
    X(set_current, "cuCtxSetCurrent", 1, (cu_context context))                                     \
    X(synchronize, "cuCtxSynchronize", 1, (void))                                                  \
    X(enable_peer, "cuCtxEnablePeerAccess", 1, (cu_context peer, unsigned flags))                  \
    X(memory_info, "cuMemGetInfo_v2", 1, (size_t * free_bytes, size_t * total_bytes))              \
    X(alloc, "cuMemAlloc_v2", 1, (cu_pointer * address, size_t bytes))                             \
    X(free, "cuMemFree_v2", 1, (cu_pointer address))                                               \
    X(host_alloc, "cuMemHostAlloc", 1, (void **address, size_t bytes, unsigned flags))             \
    X(host_free, "cuMemFreeHost", 1, (void *address))                                              \
    X(set_bytes, "cuMemsetD8_v2", 1, (cu_pointer to, unsigned char value, size_t bytes))           \
    X(to_card, "cuMemcpyHtoDAsync_v2", 1,                                                          \
      (cu_pointer to, const void *from, size_t bytes, cu_stream stream))                           \
    X(from_card, "cuMemcpyDtoHAsync_v2", 1,                                                        \
      (void *to, cu_pointer from, size_t bytes, cu_stream stream))                                 \
    X(to_peer, "cuMemcpyPeerAsync", 1,                                                             \
      (cu_pointer to, cu_context to_context, cu_pointer from, cu_context from_context,             \
       size_t bytes, cu_stream stream))                                                            \
    X(stream_create, "cuStreamCreate", 1, (cu_stream * stream, unsigned flags))                    \
    X(stream_destroy, "cuStreamDestroy_v2", 1, (cu_stream stream))                                 \
    X(stream_query, "cuStreamQuery", 1, (cu_stream stream))                                        \
    X(stream_wait_event, "cuStreamWaitEvent", 1,                                                   \
      (cu_stream stream, cu_event event, unsigned flags))                                          \
    X(stream_synchronize, "cuStreamSynchronize", 1, (cu_stream stream))                            \
    X(event_create, "cuEventCreate", 1, (cu_event * event, unsigned flags))                        \
    X(event_destroy, "cuEventDestroy_v2", 1, (cu_event event))                                     \
    X(event_record, "cuEventRecord", 1, (cu_event event, cu_stream stream))                        \
    X(event_ms, "cuEventElapsedTime", 1, (float *ms, cu_event from, cu_event to))                  \
    X(ipc_memory, "cuIpcGetMemHandle", 1, (cu_ipc * handle, cu_pointer address))                   \
    X(ipc_open_memory, "cuIpcOpenMemHandle_v2", 1,                                                 \
      (cu_pointer * address, cu_ipc handle, unsigned flags))                                       \
    X(ipc_close_memory, "cuIpcCloseMemHandle", 1, (cu_pointer address))                            \
    X(ipc_event, "cuIpcGetEventHandle", 1, (cu_ipc * handle, cu_event event))                      \
    X(ipc_open_event, "cuIpcOpenEventHandle", 1, (cu_event * event, cu_ipc handle))

typedef struct cu_api {
#define X(field, symbol, required, parameters) int(*field) parameters;
    CU_FUNCTIONS(X)
#undef X
} cu_api;

#endif
