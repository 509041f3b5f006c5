# SPDX-License-Identifier: Apache-2.0
"""The first training: the VAE, on clips that are drawn as it goes and never seen twice.

Most steps see crops around the objects, where the detail is: 32 crops of 64x64 and 17 frames cost
what 4 clips do. The last part sees whole clips only, as do some steps before, because the middle
attention sees all of a frame and the history of a frame is longer in them. The decoder gets latents
with noise of up to a tenth of their deviation: what the DiT makes is off by about so much and has
to decode cleanly.
"""
from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loop import (Adam, Average, Plan, Training, as_bf16, autocast, compile_parts, load_file, lots,
                  normal, number, result_of, save_file, say)
from nets import VaeConfig, VaeDecoder, VaeEncoder, denormalise, fold_statistics, normalise
from vae import ChannelNorm
from world import FRAMES, WIDTH, Scene, pack, render, sample_scenes

PEAK = 1.5e-3
KL_WEIGHT = 1e-4
NOISE = 0.1  # most noise added to latents, of their deviation
WHOLE_FROM = 0.75  # progress from which only whole clips are seen
WHOLE_EVERY = 5  # before: every so many steps
STATISTICS_CLIPS = 1024


def crop_origin(scene: Scene, side: int, frames: int, rng: random.Random) -> list[float]:
    """[frame, row, column] of a window that often has an object's edge in it."""
    thing = rng.choice(scene.things)
    first = rng.randint(0, FRAMES - frames)
    t = (first + rng.uniform(0, frames - 1)) / (FRAMES - 1)
    x = thing.x0 + (thing.x1 - thing.x0) * t + rng.uniform(-1, 1) * (24 + thing.orbit)
    y = thing.y0 + (thing.y1 - thing.y0) * t + rng.uniform(-1, 1) * 24 - thing.hop * rng.random()
    away = [min(max(at - side / 2, 0.0), WIDTH - side) for at in (y, x)]
    return [float(first), *(float(int(at)) for at in away)]


def draw(plan: Plan, step: int, whole: bool) -> Tensor:
    """Clips [N, 3, F, H, W] of one step."""
    sizes = plan.sizes
    n = sizes.vae_clips if whole else sizes.vae_crops
    scenes = sample_scenes(n, number(plan.seed, "vae", step), "train")
    packed = pack(scenes, plan.device)
    if whole:
        return render(packed)
    rng = random.Random(number(plan.seed, "crop", step))
    side, frames = sizes.crop, sizes.crop_frames
    origin = torch.tensor([crop_origin(scene, side, frames, rng) for scene in scenes])
    return render(packed, origin.to(plan.device), (frames, side, side))


def differences(x: Tensor) -> list[Tensor]:
    return [x.diff(dim=2), x.diff(dim=3), x.diff(dim=4)]


def picture_loss(made: Tensor, clip: Tensor) -> Tensor:
    """Mean absolute error, and that of differences to the next frame, row and column: edges and
    motion are few pixels but what one sees."""
    edges = sum(F.l1_loss(a, b) for a, b in zip(differences(made), differences(clip)))
    return F.l1_loss(made, clip) + 0.5 * edges + 0.5 * F.mse_loss(made, clip)


def losses(encoder: VaeEncoder, decoder: VaeDecoder, clip: Tensor,
           generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The picture's, and the latents' divergence from unit normals in nats a number."""
    with autocast(clip.device):
        mean, logvar = encoder(clip)
        mean, logvar = mean.float(), logvar.float()
        deviation = mean.detach().std((0, 2, 3, 4), keepdim=True)
        level = NOISE * torch.rand(clip.shape[0], 1, 1, 1, 1, generator=generator,
                                   device=clip.device)
        z = mean + (0.5 * logvar).exp() * normal(mean.shape, generator)
        z = z + level * deviation * normal(mean.shape, generator)
        made = decoder(z).float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    return picture_loss(made, clip), divergence


@torch.no_grad()
def statistics(plan: Plan, encoder: VaeEncoder) -> tuple[Tensor, Tensor]:
    """Mean and deviation [16] of what the encoder makes of training clips."""
    n, batch = min(STATISTICS_CLIPS, plan.sizes.clips), plan.sizes.vae_clips
    total = torch.zeros(2, 16, dtype=torch.float64, device=plan.device)
    count = 0
    for first in range(0, n, batch):
        with autocast(plan.device):
            mean, _ = encoder(draw(plan, -1 - first, True))
        rows = mean.double().transpose(0, 1).flatten(1)
        total += torch.stack((rows.sum(1), rows.square().sum(1)))
        count += rows.shape[1]
    mean = total[0] / count
    return mean, (total[1] / count - mean.square()).sqrt()


def channels_last(module: nn.Module) -> nn.Module:
    """The layout in memory that convolutions are quickest with."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])
    return module


def run(plan: Plan) -> None:
    if result_of(plan, "vae").exists():
        return
    torch.manual_seed(number(plan.seed, "vae"))
    config = VaeConfig(conv=plan.sizes.vae_conv)
    encoder, decoder = (channels_last(m.to(plan.device))
                        for m in (VaeEncoder(config), VaeDecoder(config)))
    adam = Adam([encoder, decoder], PEAK, (0.9, 0.95), 0.01)
    averages = Average(encoder), Average(decoder)
    training = Training("vae", plan, {"encoder": encoder, "decoder": decoder, "adam": adam,
                                      "mean encoder": averages[0], "mean decoder": averages[1]})
    for module in (encoder, decoder):
        compile_parts(module, (ChannelNorm,), plan.compile)

    def loss_of(step: int, whole: bool) -> tuple[Tensor, Tensor]:
        generator = lots(plan.device, plan.seed, "vae noise", step)
        return losses(encoder, decoder, draw(plan, step, whole), generator)

    def warm_up() -> None:
        for whole in (False, True):
            sum(loss_of(0, whole)).backward()

    def step(number_: int, p: float) -> dict[str, Tensor]:
        whole = p >= WHOLE_FROM or number_ % WHOLE_EVERY == 0
        picture, divergence = loss_of(number_, whole)
        norm = adam.step(picture + KL_WEIGHT * divergence, p)
        averages[0].update(encoder, number_)
        averages[1].update(decoder, number_)
        return {"whole" if whole else "crop": picture, "nats": divergence, "norm": norm}

    training.warm_up(warm_up)
    training.run(step)
    encoder, decoder = averages[0].module, averages[1].module
    mean, std = statistics(plan, encoder)
    say("vae: deviations before folding " + " ".join(f"{s:.3f}" for s in std.tolist()))
    fold_statistics(encoder, decoder, mean, std)
    save_file(result_of(plan, "vae_encoder"), {"encoder": as_bf16(encoder)})
    training.finish({"decoder": as_bf16(decoder)})


class Vae:
    """The trained one, in and out of normalised latents; decode() needs no encoder's file."""

    def __init__(self, plan: Plan):
        config = VaeConfig(conv=plan.sizes.vae_conv)
        state = load_file(result_of(plan, "vae"))
        if result_of(plan, "vae_encoder").exists():
            state |= load_file(result_of(plan, "vae_encoder"))
        self.encoder, self.decoder = VaeEncoder(config), VaeDecoder(config)
        for module, key in ((self.encoder, "encoder"), (self.decoder, "decoder")):
            if key in state:
                module.load_state_dict(state[key])
            channels_last(module.to(plan.device)).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, clip: Tensor) -> Tensor:
        with autocast(clip.device):
            return normalise(self.encoder(clip)[0].float())

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        with autocast(latent.device):
            return self.decoder(denormalise(latent)).float().clamp(-1.0, 1.0)
