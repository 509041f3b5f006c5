# SPDX-License-Identifier: Apache-2.0
"""The second training: text encoder and DiT together, by flow matching on normalised latents.

Noise levels are uniform and then shifted: a clip's latents repeat themselves so much that what it
shows is decided where the noise is strong, and the samplers spend their steps there.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dit import Block
from flow import LATENT, Flow
from loop import (Adam, Average, Plan, Training, as_bf16, compile_parts, load_file, lots, normal,
                  number, result_of, uniform)
from pool import Pool, draw_captions, drop

PEAK = 1.5e-3
SHIFT = 4.0
DROPPED = 0.1  # captions replaced by the empty prompt


def new_flow(plan: Plan) -> Flow:
    torch.manual_seed(number(plan.seed, "flow"))
    return Flow().to(plan.device)


def compile_flow(flow: Flow, plan: Plan) -> None:
    compile_parts(flow, (Block,), plan.compile)


def flow_loss(flow: Flow, pool: Pool, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The loss, and how much of it is at strong noise (s above 0.9)."""
    clip, ids, lengths = draw_captions(pool, n, generator)
    x0 = pool.latents[clip].float()
    empty = torch.rand(n, generator=generator, device=x0.device) < DROPPED
    ids, lengths = drop(ids, lengths, pool.empty, empty)
    u = uniform(n, generator)
    s = SHIFT * u / (1.0 + (SHIFT - 1.0) * u)
    noise = normal(x0.shape, generator)
    level = s.view(-1, 1, 1, 1, 1)
    v = flow((1.0 - level) * x0 + level * noise, s, ids, lengths)
    each = F.mse_loss(v, noise - x0, reduction="none").mean((1, 2, 3, 4))
    strong = (s > 0.9).float()
    return each.mean(), (each.detach() * strong).sum() / strong.sum().clamp_min(1.0)


def run(plan: Plan, pool: Pool) -> None:
    if result_of(plan, "dit").exists():
        return
    flow = new_flow(plan)
    adam = Adam([flow], PEAK, (0.9, 0.98), 0.01)
    average = Average(flow)
    training = Training("dit", plan, {"flow": flow, "adam": adam, "mean": average})
    compile_flow(flow, plan)

    def loss_of(step: int) -> tuple[Tensor, Tensor]:
        generator = lots(plan.device, plan.seed, "dit", step)
        return flow_loss(flow, pool, plan.sizes.dit_batch, generator)

    def step(number_: int, p: float) -> dict[str, Tensor]:
        loss, strong = loss_of(number_)
        norm = adam.step(loss, p)
        average.update(flow, number_)
        return {"loss": loss, "strong": strong, "norm": norm}

    training.warm_up(lambda: loss_of(0)[0].backward())
    training.run(step)
    training.finish({"flow": as_bf16(average.module)})


def load_flow(plan: Plan, name: str) -> Flow:
    """A result: "dit" is the teacher, "student" what is shipped."""
    flow = Flow()
    flow.load_state_dict(load_file(result_of(plan, name))["flow"])
    return flow.to(plan.device).eval().requires_grad_(False)


def latent_noise(n: int, generator: torch.Generator) -> Tensor:
    return normal((n, *LATENT), generator)
