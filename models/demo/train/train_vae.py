# SPDX-License-Identifier: Apache-2.0
"""The first training: the VAE, on clips that are drawn as it goes and never seen twice.

Most steps see crops around the objects, where the detail is: 48 crops of 64x64 and 17 frames have
the pixels of 6 clips. The last part sees whole clips only, as do some steps before, because the
middle attention sees all of a frame and the history of a frame is longer in them. The decoder gets
latents with noise of up to a tenth of their deviation: what the DiT makes is off by about so much
and has to decode cleanly. Where a patch is flat its colour says it all, and the encoder's other
channels are drawn to zero: latents that differ only where something is are easier to make.
"""
from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loop import (Average, Optimizer, Plan, Rates, Training, as_bf16, autocast, compile_parts,
                  load_file, lots, normal, number, result_of, save_file, say)
from nets import VaeConfig, VaeDecoder, VaeEncoder, denormalise, fold_statistics, normalise
from vae import N_COLORS, ChannelNorm
from world import FRAMES, WIDTH, Scene, pack, render, sample_scenes

RATES = Rates(adam=1.5e-3, muon=3e-3)
KL_WEIGHT = 1e-4
FLAT_WEIGHT = 0.02
FLAT_RANGE = 0.25  # of a patch's values: gradients change less in a patch, objects' edges more
NOISE = 0.1  # most noise added to latents, of their deviation
WHOLE_FROM = 0.75  # progress from which only whole clips are seen
WHOLE_EVERY = 5  # before: every so many draws
DRAWN = 8  # steps whose clips are drawn at once: drawing is many small calls
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


def is_hard(scene: Scene) -> bool:
    """What turns, bends its way or has sharp points is learned last."""
    is_star = any(thing.shape == "star" for thing in scene.things)
    return is_star or scene.motion in ("spin", "orbit", "bounce")


def draw(plan: Plan, n: int, index: int, whole: bool) -> Tensor:
    """n clips [n, 3, F, H, W]; crops are half of what is hard, which is a third of all."""
    seed = number(plan.seed, "vae", index)
    if whole:
        return render(pack(sample_scenes(n, seed, "train"), plan.device))
    scenes = sorted(sample_scenes(n + n // 2, seed, "train"), key=is_hard, reverse=True)[:n]
    random.Random(seed).shuffle(scenes)
    packed = pack(scenes, plan.device)
    rng = random.Random(number(plan.seed, "crop", index))
    side, frames = plan.sizes.crop, plan.sizes.crop_frames
    origin = torch.tensor([crop_origin(scene, side, frames, rng) for scene in scenes])
    return render(packed, origin.to(plan.device), (frames, side, side))


class Drawings:
    """The clips of a few steps, drawn when the first of them asks."""

    def __init__(self, plan: Plan):
        self.plan, self.index, self.whole = plan, -1, False
        self.clips: tuple[Tensor, ...] = ()

    def get(self, step: int, p: float) -> tuple[Tensor, bool]:
        """A step's clips, and whether they are whole ones."""
        index, at = divmod(step, DRAWN)
        if index != self.index:
            self.index, self.clips = index, ()
            self.whole = p >= WHOLE_FROM or index % WHOLE_EVERY == WHOLE_EVERY - 1
            sizes = self.plan.sizes
            n = sizes.vae_clips if self.whole else sizes.vae_crops
            self.clips = draw(self.plan, n * DRAWN, index, self.whole).split(n)
        return self.clips[at], self.whole


def differences(x: Tensor) -> list[Tensor]:
    return [x.diff(dim=2), x.diff(dim=3), x.diff(dim=4)]


def picture_loss(made: Tensor, clip: Tensor) -> Tensor:
    """Mean absolute error, and that of differences to the next frame, row and column: edges and
    motion are few pixels but what one sees."""
    edges = sum(F.l1_loss(a, b) for a, b in zip(differences(made), differences(clip)))
    return F.l1_loss(made, clip) + 0.5 * edges + 0.5 * F.mse_loss(made, clip)


def is_flat(clip: Tensor) -> Tensor:
    """[N, 1, T, H/8, W/8]: which patches of the encoder show one colour, or nearly."""
    patches = VaeEncoder.patches(clip)
    spread = patches.amax((4, 6)) - patches.amin((4, 6))
    return (spread.amax(4) < FLAT_RANGE).unsqueeze(1)


def losses(encoder: VaeEncoder, decoder: VaeDecoder, clip: Tensor,
           generator: torch.Generator) -> dict[str, Tensor]:
    """The picture's; the latents' divergence from unit normals, in nats a number; the share of the
    power of the channels beside the colours that is in flat patches."""
    with autocast(clip.device):
        mean, logvar = encoder(clip)
        mean, logvar = mean.float(), logvar.float()
        deviation = mean.detach().std((0, 2, 3, 4), keepdim=True)
        level = NOISE * torch.rand(clip.shape[0], 1, 1, 1, 1, generator=generator,
                                   device=clip.device)
        z = mean + (0.5 * logvar).exp() * normal(mean.shape, generator)
        z = z + level * deviation * normal(mean.shape, generator)
        made = decoder(z).float()
    nats = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    power = mean[:, N_COLORS:].square()
    flat = (power * is_flat(clip)).mean() / power.detach().mean().clamp_min(1e-6)
    return {"picture": picture_loss(made, clip), "nats": nats, "flat": flat}


def total(parts: dict[str, Tensor]) -> Tensor:
    return parts["picture"] + KL_WEIGHT * parts["nats"] + FLAT_WEIGHT * parts["flat"]


def matrices(encoder: VaeEncoder, decoder: VaeDecoder) -> list[nn.Parameter]:
    """Muon's: all convolutions but those that read or write pixels or latents."""
    inner = [encoder.conv1, encoder.blocks, decoder.decoder.middle, decoder.decoder.upsamples]
    return [module.weight for part in inner for module in part.modules()
            if isinstance(module, (nn.Conv2d, nn.Conv3d))]


@torch.no_grad()
def statistics(plan: Plan, encoder: VaeEncoder) -> tuple[Tensor, Tensor]:
    """Mean and deviation [16] of what the encoder makes of training clips."""
    n, batch = min(STATISTICS_CLIPS, plan.sizes.clips), plan.sizes.vae_clips
    sums = torch.zeros(2, 16, dtype=torch.float64, device=plan.device)
    count = 0
    for first in range(0, n, batch):
        with autocast(plan.device):
            mean, _ = encoder(draw(plan, batch, -1 - first, True))
        rows = mean.double().transpose(0, 1).flatten(1)
        sums += torch.stack((rows.sum(1), rows.square().sum(1)))
        count += rows.shape[1]
    mean = sums[0] / count
    return mean, (sums[1] / count - mean.square()).sqrt()


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
    optimizer = Optimizer([encoder, decoder], RATES, (0.9, 0.95), 0.01,
                          matrices(encoder, decoder))
    averages = Average(encoder), Average(decoder)
    training = Training("vae", plan, {"encoder": encoder, "decoder": decoder,
                                      "optimizer": optimizer, "mean encoder": averages[0],
                                      "mean decoder": averages[1]})
    drawings = Drawings(plan)
    for module in (encoder, decoder):
        compile_parts(module, (ChannelNorm,), plan.compile)

    def warm_up() -> None:
        for n, whole in ((plan.sizes.vae_crops, False), (plan.sizes.vae_clips, True)):
            clip = draw(plan, n, 0, whole)
            total(losses(encoder, decoder, clip, lots(plan.device, plan.seed))).backward()

    def step(number_: int, p: float) -> dict[str, Tensor]:
        clip, whole = drawings.get(number_, p)
        generator = lots(plan.device, plan.seed, "vae noise", number_)
        parts = losses(encoder, decoder, clip, generator)
        norm = optimizer.step(total(parts), p)
        averages[0].update(encoder, number_)
        averages[1].update(decoder, number_)
        parts["whole" if whole else "crop"] = parts.pop("picture")
        return parts | {"norm": norm}

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
