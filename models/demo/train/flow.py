# SPDX-License-Identifier: Apache-2.0
"""Text encoder and DiT as one model of velocities, and the ways to sample it.

x_s = (1 - s) x0 + s noise, v = noise - x0; s is the noise level, 1000 s the timestep. All latents
here are normalised.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

from loop import autocast
from nets import DiT, TextEncoder, schedule

LATENT = (16, 9, 16, 16)  # of 33 frames of 128x128
LEVELS = schedule() + [0.0]  # of the four steps: 1, 0.9375, 0.8333, 0.625, 0


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder()
        self.dit = DiT()

    def velocity(self, x: Tensor, level: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        """level [N]; float32 whatever autocast does inside."""
        with autocast(x.device):
            return self.dit(x, 1000.0 * level, context, lengths).float()

    def forward(self, x: Tensor, level: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        return self.velocity(x, level, self.text(ids, lengths), lengths)


class Guided:
    """A teacher with guidance w: v0 + w (v1 - v0), v0 being that of the empty prompt. Both are
    one batch of 2 N."""

    def __init__(self, flow: Flow, ids: Tensor, lengths: Tensor, empty: Tensor, w: float):
        none = torch.zeros_like(ids)
        none[:, :empty.numel()] = empty
        both = torch.cat((ids, none))
        self.lengths = torch.cat((lengths, torch.full_like(lengths, empty.numel())))
        self.flow, self.w = flow, w
        self.context = flow.text(both, self.lengths)

    def __call__(self, x: Tensor, level: float) -> Tensor:
        levels = torch.full((2 * x.shape[0],), level, device=x.device)
        v1, v0 = self.flow.velocity(torch.cat((x, x)), levels, self.context,
                                    self.lengths).chunk(2)
        return v0 + self.w * (v1 - v0)


def between(first: float, last: float, n: int, shift: float = 5.0) -> list[float]:
    """n + 1 noise levels from first to last, evenly spaced before the shift of the schedule."""
    def even(s: float) -> float:
        return s / (shift - (shift - 1.0) * s)

    a, b = even(first), even(last)
    us = [a + (b - a) * i / n for i in range(n + 1)]
    inside = [shift * u / (1.0 + (shift - 1.0) * u) for u in us[1:-1]]
    return [first, *inside, last]


def solve(velocity, x: Tensor, levels: list[float]) -> Tensor:
    """Adams-Bashforth of second order over unequal steps; the first step is Euler's."""
    before, width = None, 0.0
    for level, after in zip(levels, levels[1:]):
        h = after - level
        v = velocity(x, level)
        along = v if before is None else v + (h / (2.0 * width)) * (v - before)
        x = x + h * along
        before, width = v, h
    return x


def euler(velocity, x: Tensor, levels: list[float]) -> Tensor:
    for level, after in zip(levels, levels[1:]):
        x = x + (after - level) * velocity(x, level)
    return x


@torch.no_grad()
def sample_teacher(flow: Flow, noise: Tensor, ids: Tensor, lengths: Tensor, empty: Tensor,
                   guidance: float, steps: int = 50) -> Tensor:
    """Plain Euler, shift 5."""
    guided = Guided(flow, ids, lengths, empty, guidance)
    return euler(guided, noise, between(1.0, 0.0, steps))


@torch.no_grad()
def sample_student(flow: Flow, noise: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """The project's sampler: four Euler steps, no guidance."""
    context = flow.text(ids, lengths)

    def velocity(x: Tensor, level: float) -> Tensor:
        return flow.velocity(x, torch.full((x.shape[0],), level, device=x.device), context, lengths)

    return euler(velocity, noise, LEVELS)
