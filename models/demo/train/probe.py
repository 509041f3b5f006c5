#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times every part of the trainings on this card, so that batch sizes can be chosen.

    python probe.py [--seconds 90]

Prints a line for each measurement as it is made and stops when the seconds are over. A step is a
whole one: drawing, forward, backward, optimiser. "compiled" says how long compiling took; a later
run on the same machine finds it cached.
"""
from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

import distill
import tokenizer as tokens
import train_dit
import train_text
import train_vae
from flow import LATENT, Flow, Guided
from loop import (Average, Optimizer, Plan, autocast, compile_parts, gibibytes, lots, say, set_up,
                  synchronize)
from nets import VaeConfig, VaeDecoder, VaeEncoder
from pool import BATCH, SPELLED, TEXT_LEN, Pool, Texts, pad
from vae import ChannelNorm
from world import caption, facts, pack, render, sample_scenes


class Probe:
    def __init__(self, seconds: float, device: torch.device):
        self.until = time.monotonic() + seconds
        self.plan = Plan(Path("."), device=device)
        self.device = device

    def measure(self, name: str, units: float, unit: str, call: Callable[[], object],
                seconds: float = 1.0) -> None:
        """One line: the first call's time, then the mean of calls of about so many seconds."""
        if time.monotonic() > self.until:
            say(f"{name}: no time left")
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            began = time.monotonic()
            call()
            synchronize(self.device)
            first = time.monotonic() - began
            n, began = 0, time.monotonic()
            while n < 2 or time.monotonic() - began < seconds:
                call()
                n += 1
                if n % 3 == 0:
                    synchronize(self.device)
            synchronize(self.device)
            each = (time.monotonic() - began) / n
        except torch.OutOfMemoryError:
            say(f"{name}: out of memory")
            return
        say(f"{name}: {1000 * each:.2f} ms, {units / each:.0f} {unit}/s, first {first:.1f} s, "
            f"{gibibytes(self.device):.1f} GiB")


def probe_vae(probe: Probe, compiled: bool, conv: str, batches: list[tuple[int, int]]) -> None:
    """batches: (crops, whole clips), one of them 0."""
    config = VaeConfig(conv=conv)
    encoder, decoder = (train_vae.channels_last(m.to(probe.device))
                        for m in (VaeEncoder(config), VaeDecoder(config)))
    optimizer = Optimizer([encoder, decoder], train_vae.RATES, (0.9, 0.95), 0.01,
                          train_vae.matrices(encoder, decoder))
    averages = Average(encoder), Average(decoder)
    for module in (encoder, decoder):
        compile_parts(module, (ChannelNorm,), compiled)

    def step() -> None:
        clip, _ = drawings.get(next(steps), 0.0 if probe.plan.sizes.vae_crops else 1.0)
        parts = train_vae.losses(encoder, decoder, clip, lots(probe.device, 1))
        optimizer.step(train_vae.total(parts), 0.5)
        averages[0].update(encoder, 1)
        averages[1].update(decoder, 1)

    name = f"VAE step, {'compiled norms' if compiled else 'eager'}, conv {conv}"
    for crops, clips in batches:
        probe.plan.sizes.vae_crops, probe.plan.sizes.vae_clips = crops, clips
        drawings = train_vae.Drawings(probe.plan)
        steps = itertools.cycle(range(4 * train_vae.DRAWN))  # crops if p is 0
        unit = "crops" if crops else "whole clips"
        probe.measure(f"{name}, {crops + clips} {unit}", crops + clips, unit, step)


def probe_world(probe: Probe) -> None:
    scenes = sample_scenes(BATCH, 1, "train")
    packed = pack(scenes, probe.device)
    probe.measure(f"draw {BATCH} clips", BATCH, "clips", lambda: render(packed))
    encoder = train_vae.channels_last(VaeEncoder().to(probe.device))

    @torch.no_grad()
    def encode() -> None:
        with autocast(probe.device):
            encoder(render(packed))

    probe.measure(f"draw and encode {BATCH} clips", BATCH, "clips", encode)


def make_pool(probe: Probe, n: int = 512) -> Pool:
    """Noise as latents, true captions."""
    words, rng = tokens.make(tokens.captions()), random.Random(1)
    began = time.monotonic()
    scenes = sample_scenes(n, 1, "train")
    rows = [words.encode_for_training(caption(s, rng, "train"), rng, SPELLED) for s in scenes]
    ids, lengths = pad(rows)
    say(f"scenes, captions, tokens in one process: {n / (time.monotonic() - began):.0f}/s, "
        f"{max(map(len, rows))} tokens at most of {TEXT_LEN}")
    latents = torch.randn(n, *LATENT, device=probe.device).to(torch.bfloat16)
    texts = Texts(ids[:, None].to(probe.device), lengths[:, None].to(probe.device),
                  torch.tensor([facts(s) for s in scenes], device=probe.device),
                  torch.tensor(words.encode_for_training(""), device=probe.device))
    return Pool(texts, latents)


def probe_text(probe: Probe, pool: Pool, n: int) -> None:
    reader = train_text.Reader().to(probe.device)
    optimizer = train_text.new_optimizer(reader)

    def step() -> None:
        generator = lots(probe.device, 1)
        loss = train_text.reading_loss(reader, pool.texts, n, generator)["loss"]
        optimizer.step(loss, 0.5)

    probe.measure(f"text step, batch {n}", n, "captions", step)


def new_flow(probe: Probe) -> Flow:
    """The text encoder untrained; it is no part of the training."""
    flow = Flow().to(probe.device)
    flow.text.requires_grad_(False)
    return flow


def probe_dit(probe: Probe, pool: Pool, compiled: bool, stages: list[train_dit.Stage],
              n_of_stage: int) -> None:
    flow = new_flow(probe)
    optimizer = train_dit.new_optimizer(flow, train_dit.RATES, 0.01)
    average = Average(flow)
    probe.plan.compile = compiled
    train_dit.compile_flow(flow, probe.plan)
    name = "compiled" if compiled else "eager"

    def step(stage: train_dit.Stage, n: int) -> None:
        loss, _ = train_dit.flow_loss(flow, pool, stage, n, lots(probe.device, 1))
        optimizer.step(loss, 0.5)
        average.update(flow, 1)

    for stage in stages:
        n = stage.batch * n_of_stage
        probe.measure(f"DiT step, {name}, {stage.frames} latent frames, batch {n}", n, "clips",
                      lambda stage=stage, n=n: step(stage, n))


def probe_teacher(probe: Probe, pool: Pool, compiled: bool, n: int) -> None:
    flow = new_flow(probe).requires_grad_(False)
    probe.plan.compile = compiled
    train_dit.compile_flow(flow, probe.plan)
    _, ids, lengths = train_dit.draw_captions(pool.texts, n, lots(probe.device, 1))
    x = train_dit.latent_noise(n, lots(probe.device, 2))

    @torch.no_grad()
    def call() -> None:
        guided = Guided(flow, ids, lengths, pool.texts.empty, 2.0)
        for _ in range(8):
            guided(x, 0.5)

    name = "compiled" if compiled else "eager"
    probe.measure(f"8 teacher's velocities with guidance, {name}, {n} clips", 8 * n, "velocities",
                  call)


def probe_int8(probe: Probe, pool: Pool, n: int) -> None:
    flow = new_flow(probe)
    distill.set_int8(flow, True)
    optimizer = train_dit.new_optimizer(flow, distill.RATES, 0.0)
    probe.plan.compile = True
    train_dit.compile_flow(flow, probe.plan)
    whole = train_dit.STAGES[-1]

    def step() -> None:
        loss, _ = train_dit.flow_loss(flow, pool, whole, n, lots(probe.device, 1))
        optimizer.step(loss, 0.5)

    probe.measure(f"DiT step, compiled, INT8's rounding, batch {n}", n, "clips", step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128, help="of the DiT; others follow from it")
    parser.add_argument("--crops", type=int, default=48, help="of the VAE")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    set_up(device)
    probe = Probe(arguments.seconds, device)
    say(f"PyTorch {torch.__version__} on "
        + (torch.cuda.get_device_name() if device.type == "cuda" else "a CPU"))
    n, crops = arguments.batch, arguments.crops
    clips = max(1, crops // 6)
    probe_world(probe)
    pool = make_pool(probe)
    stages = list(train_dit.STAGES)
    probe_dit(probe, pool, True, stages[::-1], n)
    probe_vae(probe, True, "3d", [(crops, 0), (0, clips)])
    probe_text(probe, pool, 8 * n)
    probe_teacher(probe, pool, True, 2 * n)
    probe_dit(probe, pool, False, stages[-1:], n)
    probe_vae(probe, True, "3d", [(2 * crops, 0)])
    probe_vae(probe, True, "fold", [(crops, 0)])
    probe_dit(probe, pool, True, stages[-1:], 2 * n)
    probe_int8(probe, pool, n)


if __name__ == "__main__":
    main()
