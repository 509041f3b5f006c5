/*
 * fuzz_msg.c - hostile control messages; what decodes must encode to one that decodes the same
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "lx_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static lx_msg msg, again;
    static unsigned char wire[2 * LX_LIMIT_MESSAGE];
    size_t n = 0;
    if (lx_msg_decode(&msg, data, size, NULL) != LX_OK)
        return 0;
    if (lx_msg_encode(&msg, wire, sizeof wire, &n, NULL) != LX_OK ||
        lx_msg_decode(&again, wire, n, NULL) != LX_OK || memcmp(&msg, &again, sizeof msg))
        abort();
    return 0;
}
