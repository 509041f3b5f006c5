/*
 * lx_card.c - what a card may use
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_card.h"

#include <stdlib.h>

bool lx_card_has_fp8(const lx_card_kind *card)
{
    return card->major > 8 || (card->major == 8 && card->minor >= 9);
}

bool lx_card_has_wgmma(const lx_card_kind *card)
{
    return card->major == 9 && (!card->is_from || card->is_from / 10 == 9);
}

bool lx_card_has_slow_f32_sums(const lx_card_kind *card)
{
    int is = card->is_from ? card->is_from : 10 * card->major + card->minor;
    return is != 80 && is != 90;
}

/* Shared memory that a block may have at most. CUDA C++ programming guide, compute capabilities. */
static int shared_of(int capability)
{
    return capability == 80                       ? 163 << 10
           : capability < 90 || capability >= 120 ? 99 << 10
                                                  : 227 << 10;
}

static lx_status limit_of_environment(int *most, lx_err *err)
{
    const char *text = getenv("LX2V_ARCH_MAX");
    if (!text || !*text)
        return LX_OK;
    char *end;
    long said = strtol(text, &end, 10);
    if (*end || said < 80 || said > 999)
        return lx_fail(err, LX_ECONFIG,
                       "LX2V_ARCH_MAX=%.40s: a compute capability is needed, as in 86", text);
    *most = said < *most ? (int)said : *most;
    return LX_OK;
}

void lx_card_hold_to_archs(lx_card_kind *card, const char *archs)
{
    int best = 0, is = 10 * card->major + card->minor;
    for (const char *at = archs; *at;) {
        char *end;
        long arch = strtol(at, &end, 10);
        if (end == at) { /* the letter of 90a, a space */
            at++;
            continue;
        }
        if (arch / 10 == card->major && arch <= is && arch > best)
            best = (int)arch;
        at = end;
    }
    if (!best || best == is)
        return;
    card->is_from = card->is_from ? card->is_from : is;
    card->minor = best % 10;
}

lx_status lx_card_limit(lx_card_kind *card, lx_err *err)
{
    int most = LX2V_ARCH_MAX, is = 10 * card->major + card->minor;
    lx_status status = limit_of_environment(&most, err);
    if (status != LX_OK || is <= most)
        return status;
    if (!card->is_from)
        card->is_from = is;
    card->major = most / 10;
    card->minor = most % 10;
    int shared = shared_of(most);
    card->shared_bytes = card->shared_bytes < shared ? card->shared_bytes : shared;
    return LX_OK;
}
