/*
 * encoder_device.c - which card a device name means
 * SPDX-License-Identifier: Apache-2.0
 *
 * Apart from encoder.c, because a card is one thing to those who name it (lx_device.h) and another
 * to those who run on it (lx_cuda.h).
 */
#include "encoder.h"
#include "lx_device.h"

_Static_assert(LX_DEVICE_CPU < 0, "indexes of cards are not");

lx_status encoder_card_of(const char *device, int *index, lx_err *err)
{
    return lx_device_find(index, device ? device : "cpu", err);
}
