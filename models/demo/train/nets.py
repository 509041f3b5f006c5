"""nets.py - the three networks of the demo model under one roof.

SPDX-License-Identifier: Apache-2.0

    VaeEncoder(video [N, 3, F, H, W]) -> mean, logvar [N, 16, T, H/8, W/8],  F = 4(T-1)+1
    VaeDecoder(raw [N, 16, T, h, w]) -> video [N, 3, F, 8h, 8w]
    TextEncoder(ids [N, L], lengths [N]) -> context [N, L, 128]
    DiT(x [N, 16, T, h, w], timestep [N], context, lengths) -> velocity like x

Names in their state dicts are those of the published checkpoints; parity.py compares the numbers
with those of the C programs.
"""
from dit import DiT, DitConfig, sample, schedule
from text import TextConfig, TextEncoder
from vae import (LATENT_MEAN, LATENT_STD, VaeConfig, VaeDecoder, VaeEncoder, denormalise,
                 fold_statistics, normalise)

__all__ = ["DiT", "DitConfig", "LATENT_MEAN", "LATENT_STD", "TextConfig", "TextEncoder",
           "VaeConfig", "VaeDecoder", "VaeEncoder", "denormalise", "fold_statistics", "normalise",
           "sample", "schedule"]
