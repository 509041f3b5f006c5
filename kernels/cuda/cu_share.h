/*
 * cu_share.h - the module's functions for memory that two processes use
 * SPDX-License-Identifier: Apache-2.0
 *
 * A failure of these leaves no error behind: what is sticky shows in the next wait on the queue.
 */
#ifndef CU_SHARE_H
#define CU_SHARE_H

#include "lx_cuda_module.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LX_CU_HANDLE 64 /* bytes of cudaIpcMemHandle_t and cudaIpcEventHandle_t */
#define LX_CU_UUID   16

/* One card of the machine, as seen from the open one. */
typedef struct lx_cu_card {
    unsigned char uuid[LX_CU_UUID];
    bool is_own, can_reach; /* can_reach: the driver claims peer access */
} lx_cu_card;

typedef struct lx_cuda_share_ops {
    int (*cards)(lx_cuda_dev *dev, int max, lx_cu_card *out, int *n);
    int (*memory_export)(lx_cuda_dev *dev, void *memory, unsigned char *handle);
    int (*memory_open)(lx_cuda_dev *dev, const unsigned char *handle, void **out);
    /* Bytes from `memory` to the end of its allocation, as the driver knows it. */
    int (*memory_bytes)(lx_cuda_dev *dev, void *memory, size_t *out);
    int (*memory_close)(lx_cuda_dev *dev, void *memory);
    int (*event_make)(lx_cuda_dev *dev, void **event, unsigned char *handle);
    int (*event_open)(lx_cuda_dev *dev, const unsigned char *handle, void **event);
    int (*event_mark)(lx_cuda_dev *dev, void *event); /* where the compute queue is */
    int (*event_query)(lx_cuda_dev *dev, void *event, bool *is_reached);
    void (*event_close)(lx_cuda_dev *dev, void *event);
    int (*pin)(lx_cuda_dev *dev, void *memory, size_t bytes); /* host memory that exists */
    void (*unpin)(lx_cuda_dev *dev, void *memory);
} lx_cuda_share_ops;

#ifdef __cplusplus
}
#endif

#endif
