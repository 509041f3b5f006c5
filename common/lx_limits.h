/*
 * lx_limits.h - every bound on what may come from outside, in one place
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LX_LIMITS_H
#define LX_LIMITS_H

#define LX_LIMIT_MESSAGE  (64 * 1024) /* bytes of one control message */
#define LX_LIMIT_PROMPT   (16 * 1024) /* bytes of one prompt, UTF-8 */
#define LX_LIMIT_ID       40          /* job id: [A-Za-z0-9_-]{1,40} */
#define LX_LIMIT_NAME     128         /* output name: [A-Za-z0-9._-]{1,128} */
#define LX_LIMIT_PATH     4096
#define LX_LIMIT_TEXT     1024  /* an error or a notice */
#define LX_LIMIT_WORD     64    /* names of units, devices, generators */
#define LX_LIMIT_STEPS    64    /* denoising steps */
#define LX_LIMIT_REPLICAS 8     /* of one stage */
#define LX_LIMIT_SIDE     16384 /* pixels; config may only lower it */
#define LX_LIMIT_FRAMES   2001
#define LX_LIMIT_CONFIG   (1024 * 1024) /* bytes of config.yaml */
#define LX_LIMIT_PINNED   (2 << 20) /* least memory.pinned: two rings, an eighth for one of them */
#define LX_LIMIT_QUEUE    100000
#define LX_LIMIT_CLIENTS  1000

/* Architecture of Wan2.1's latents: 8x8 pixels, four frames after the first; patches of 2x2. */
#define LX_VAE_STRIDE      8
#define LX_VAE_STRIDE_TIME 4
#define LX_SIZE_MULTIPLE   16
#define LX_LATENT_CHANNELS 16

#endif
