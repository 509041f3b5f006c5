# SPDX-License-Identifier: Apache-2.0
"""The third training: the DiT, by flow matching on normalised latents, with the text encoder as
the second training left it.

First it sees only the clips' first frames, then their beginnings, then whole clips. A frame has a
ninth of a clip's tokens, and what most captions speak of, colours, shapes, places, is learned from
many pictures sooner than from few clips. Muon takes fewer steps than Adam, and larger ones.

Noise levels are uniform and then shifted: a clip's latents repeat themselves so much that what it
shows is decided where the noise is strong, and the samplers spend their steps there.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit import Block
from flow import LATENT, Flow
from loop import (Average, Optimizer, Plan, Rates, Training, as_bf16, compile_parts, load_file,
                  lots, normal, number, result_of, uniform)
from pool import Pool, draw_captions, drop
from train_text import load_text

RATES = Rates(adam=1.5e-3, muon=4e-3)
RATES_ON = Rates(adam=7.5e-4, muon=2e-3, hold=0.3)  # going on from an earlier run
DROPPED = 0.1  # captions replaced by the empty prompt


@dataclass(frozen=True)
class Stage:
    until: float  # progress
    frames: int  # of a clip's latents, from the first
    batch: int  # in units of Sizes.dit_batch
    shift: float  # of the noise levels


STAGES = (Stage(0.20, 1, 6, 2.0), Stage(0.35, 3, 3, 3.0), Stage(1.0, 9, 1, 4.0))


def stage_at(p: float, plan: Plan) -> Stage:
    """What goes on from an earlier run sees whole clips alone."""
    if plan.dit_from:
        return STAGES[-1]
    return next((stage for stage in STAGES if p < stage.until), STAGES[-1])


def new_flow(plan: Plan) -> Flow:
    torch.manual_seed(number(plan.seed, "flow"))
    flow = Flow()
    if plan.dit_from:
        flow.load_state_dict(load_file(plan.dit_from)["flow"])
    else:
        flow.text.load_state_dict(load_text(plan))
    flow.text.requires_grad_(False)
    return flow.to(plan.device)


def compile_flow(flow: Flow, plan: Plan) -> None:
    compile_parts(flow, (Block,), plan.compile)


def new_optimizer(flow: Flow, rates: Rates, decay: float) -> Optimizer:
    """Muon's are the blocks' linears and the text's way into them."""
    parts = [flow.dit.blocks, flow.dit.text_embedding]
    matrices = [module.weight for part in parts for module in part.modules()
                if isinstance(module, nn.Linear)]
    return Optimizer([flow], rates, (0.9, 0.98), decay, matrices)


def flow_loss(flow: Flow, pool: Pool, stage: Stage, n: int,
              generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The loss, and how much of it is at strong noise (s above 0.9)."""
    clip, ids, lengths = draw_captions(pool.texts, n, generator)
    x0 = pool.latents[clip, :, :stage.frames].float()
    ids, lengths = drop(ids, lengths, pool.texts.empty, DROPPED, generator)
    u = uniform(n, generator)
    s = stage.shift * u / (1.0 + (stage.shift - 1.0) * u)
    noise = normal(x0.shape, generator)
    level = s.view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        context = flow.text(ids, lengths)
    v = flow.velocity((1.0 - level) * x0 + level * noise, s, context, lengths)
    each = F.mse_loss(v, noise - x0, reduction="none").mean((1, 2, 3, 4))
    strong = (s > 0.9).float()
    return each.mean(), (each.detach() * strong).sum() / strong.sum().clamp_min(1.0)


def run(plan: Plan, pool: Pool) -> None:
    if result_of(plan, "dit").exists():
        return
    flow = new_flow(plan)
    optimizer = new_optimizer(flow, RATES_ON if plan.dit_from else RATES, 0.01)
    average = Average(flow)
    training = Training("dit", plan, {"flow": flow, "optimizer": optimizer, "mean": average})
    compile_flow(flow, plan)

    def loss_of(step: int, stage: Stage) -> tuple[Tensor, Tensor]:
        generator = lots(plan.device, plan.seed, "dit", step)
        return flow_loss(flow, pool, stage, stage.batch * plan.sizes.dit_batch, generator)

    def warm_up() -> None:
        for stage in STAGES[-1:] if plan.dit_from else STAGES:
            if training.progress < stage.until:
                loss_of(0, stage)[0].backward()

    def step(number_: int, p: float) -> dict[str, Tensor]:
        stage = stage_at(p, plan)
        loss, strong = loss_of(number_, stage)
        norm = optimizer.step(loss, p)
        average.update(flow, number_)
        return {f"loss{stage.frames}": loss, f"strong{stage.frames}": strong, "norm": norm}

    training.warm_up(warm_up)
    training.run(step)
    training.finish({"flow": as_bf16(average.module)})


def load_flow(plan: Plan, name: str) -> Flow:
    """A result: "dit" is the teacher, "student" what is shipped."""
    flow = Flow()
    flow.load_state_dict(load_file(result_of(plan, name))["flow"])
    return flow.to(plan.device).eval().requires_grad_(False)


def latent_noise(n: int, generator: torch.Generator) -> Tensor:
    return normal((n, *LATENT), generator)
