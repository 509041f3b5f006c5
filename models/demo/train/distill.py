# SPDX-License-Identifier: Apache-2.0
"""The last training: a student that goes the teacher's way in four Euler steps without guidance.

From a state at each of the four noise levels the teacher (with guidance, several small steps a
level) is followed to the next level; the student learns the mean velocity of that way, so that one
Euler step of its lands where the teacher does. Trajectories begin as the teacher's own; later, the
states between are more and more the student's, so that it learns to go on from where it really is.
Every target is a function of the state it is for, so the student has nothing to average over.

The text encoder stays the teacher's.
"""
from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dit import Linear
from flow import LATENT, LEVELS, Flow, Guided, between, solve
from loop import (Average, Plan, Rates, Training, as_bf16, lots, result_of, say, synchronize,
                  uniform)
from pool import Texts, draw_captions
from train_dit import compile_flow, latent_noise, load_flow, new_optimizer

RATES = Rates(adam=5e-4, muon=1.2e-3, hold=0.1)
N_LEVELS = len(LEVELS) - 1
SHARES = (0.2, 0.2, 0.25, 0.35)  # of a batch for each level; the last one makes the picture sharp
# Progress from and to which the share of states that are the student's grows, and to how much.
OWN_FROM, OWN_FULL, OWN_MOST = 0.15, 0.5, 0.8
MAKING = 0.5  # of the time after the first of them goes into new trajectories


@dataclass
class Store:
    """Trajectories: the state at each level and the velocity wanted there; the oldest go first."""
    states: Tensor  # [capacity, 4, 16, 9, 16, 16] bf16
    targets: Tensor
    ids: Tensor  # [capacity, TEXT_LEN] int16
    lengths: Tensor  # [capacity] uint8
    n: int = 0
    at: int = 0

    @staticmethod
    def empty(capacity: int, text_len: int, device: torch.device) -> Store:
        states = torch.empty(capacity, N_LEVELS, *LATENT, dtype=torch.bfloat16, device=device)
        return Store(states, torch.empty_like(states),
                     torch.empty(capacity, text_len, dtype=torch.int16, device=device),
                     torch.empty(capacity, dtype=torch.uint8, device=device))

    def add(self, states: Tensor, targets: Tensor, ids: Tensor, lengths: Tensor) -> None:
        capacity = self.states.shape[0]
        where = (torch.arange(states.shape[0], device=states.device) + self.at) % capacity
        self.states[where], self.targets[where] = states, targets
        self.ids[where], self.lengths[where] = ids.to(torch.int16), lengths.to(torch.uint8)
        self.at = (self.at + states.shape[0]) % capacity
        self.n = min(self.n + states.shape[0], capacity)


# --- as INT8 will compute it --------------------------------------------------------------------


def rounded(x: Tensor) -> Tensor:
    """To 255 steps of each row's largest magnitude; gradients pass as if nothing happened."""
    with torch.no_grad():
        wide = x.float()
        step = wide.abs().amax(-1, keepdim=True).clamp_min(1e-5) / 127.0
        change = ((wide / step).round() * step - wide).to(x.dtype)
    return x + change


class RoundedLinear(Linear):
    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(rounded(x), rounded(weight), bias)


def set_int8(flow: Flow, is_on: bool) -> None:
    """The ten linears of every block compute with rounded inputs and weights, or plainly."""
    for block in flow.dit.blocks:
        for part in block.modules():
            if isinstance(part, Linear):
                part.__class__ = RoundedLinear if is_on else Linear


# --- trajectories -------------------------------------------------------------------------------


@torch.no_grad()
def make_trajectories(plan: Plan, teacher: Flow, student: Flow, texts: Texts, own: float,
                      generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, targets, ids, lengths. `own` is the share whose states are the student's."""
    n = plan.sizes.rollout
    _, ids, lengths = draw_captions(texts, n, generator)
    guided = Guided(teacher, ids, lengths, texts.empty, plan.guidance)
    context = guided.context[:n]
    is_own = (torch.rand(n, generator=generator, device=ids.device) < own).view(-1, 1, 1, 1, 1)
    x = latent_noise(n, generator)
    states, targets = [], []
    for level, after in zip(LEVELS, LEVELS[1:]):
        x = x.to(torch.bfloat16).float()  # what the store keeps
        end = solve(guided, x, between(level, after, plan.teacher_steps // N_LEVELS))
        states.append(x)
        targets.append((x - end) / (level - after))
        if own > 0.0 and after > 0.0:
            levels = torch.full((n,), level, device=x.device)
            mine = x + (after - level) * student.velocity(x, levels, context, lengths)
            end = torch.where(is_own, mine, end)
        x = end
    return (torch.stack(states, 1).to(torch.bfloat16), torch.stack(targets, 1).to(torch.bfloat16),
            ids, lengths)


def own_share(p: float) -> float:
    return OWN_MOST * min(max((p - OWN_FROM) / (OWN_FULL - OWN_FROM), 0.0), 1.0)


def student_loss(plan: Plan, student: Flow, store: Store,
                 generator: torch.Generator) -> dict[str, Tensor]:
    """The mean squared error of velocities, in all ("loss") and at each level."""
    n, device = plan.sizes.distill_batch, plan.device
    which = torch.randint(store.n, (n,), generator=generator, device=device)
    edges = torch.tensor(SHARES, device=device).cumsum(0)[:-1]
    index = torch.bucketize(uniform(n, generator), edges)
    level = torch.tensor(LEVELS, device=device)[index]
    ids, lengths = store.ids[which].long(), store.lengths[which].long()
    with torch.no_grad():
        context = student.text(ids, lengths)
    v = student.velocity(store.states[which, index].float(), level, context, lengths)
    each = F.mse_loss(v, store.targets[which, index].float(), reduction="none").mean((1, 2, 3, 4))
    parts = {"loss": each.mean()}
    for i in range(N_LEVELS):
        mine = (index == i).float()
        parts[f"at{i}"] = (each.detach() * mine).sum() / mine.sum().clamp_min(1.0)
    return parts


class Distillation:
    """The student, its store, and the two things that take turns."""

    def __init__(self, plan: Plan, texts: Texts):
        self.plan, self.texts = plan, texts
        self.teacher, self.student = load_flow(plan, "dit"), load_flow(plan, "dit")
        self.student.dit.requires_grad_(True)
        self.average = Average(self.student)
        self.optimizer = new_optimizer(self.student, RATES, 0.0)
        self.store = Store.empty(plan.sizes.capacity, texts.ids.shape[2], plan.device)
        self.made = 0
        self.making, self.learning_since = 0.0, 0.0  # seconds in make(); since when the rest
        self.is_int8 = False

    def state_dict(self) -> dict:
        return {"made": self.made}

    def load_state_dict(self, state: dict) -> None:
        self.made = state["made"]

    def compile(self) -> None:
        for flow in (self.teacher, self.student):
            compile_flow(flow, self.plan)

    def set_int8(self, is_on: bool) -> None:
        self.is_int8 = is_on
        for flow in (self.student, self.average.module):
            set_int8(flow, is_on)

    def make(self, p: float) -> None:
        generator = lots(self.plan.device, self.plan.seed, "rollout", self.made)
        self.store.add(*make_trajectories(self.plan, self.teacher, self.average.module, self.texts,
                                          own_share(p), generator))
        self.made += 1

    def loss(self, step: int) -> dict[str, Tensor]:
        generator = lots(self.plan.device, self.plan.seed, "distill", step)
        return student_loss(self.plan, self.student, self.store, generator)

    def make_more(self, p: float) -> None:
        """New trajectories, as long as less than their share of the time went into them."""
        now = time.monotonic()
        if self.learning_since == 0.0:
            self.learning_since = now
            while self.store.n < min(self.plan.sizes.first_rollouts, self.plan.sizes.capacity):
                self.make(p)
            synchronize(self.plan.device)
            say(f"student: {self.store.n} trajectories in {time.monotonic() - now:.1f} s")
            self.learning_since = time.monotonic()
        elif self.making < MAKING * (now - self.learning_since):
            synchronize(self.plan.device)
            began = time.monotonic()
            self.make(p)
            synchronize(self.plan.device)
            self.making += time.monotonic() - began

    def step(self, number: int, p: float) -> dict[str, Tensor]:
        if not self.is_int8 and p >= self.plan.int8_from:
            self.set_int8(True)
        self.make_more(p)
        parts = self.loss(number)
        self.optimizer.step(parts["loss"], p)
        self.average.update(self.student, number)
        return parts

    def warm_up(self) -> None:
        """All that will be compiled, INT8's rounding as well."""
        made = self.made
        self.make(1.0)
        for is_on in ((True, False) if self.plan.int8_from < 1.0 else (False,)):
            self.set_int8(is_on)
            self.loss(0)["loss"].backward()
        self.made, self.store.n, self.store.at = made, 0, 0


def run(plan: Plan, texts: Texts) -> None:
    if result_of(plan, "student").exists():
        return
    work = Distillation(plan, texts)
    training = Training("student", plan, {"flow": work.student, "mean": work.average,
                                          "optimizer": work.optimizer, "work": work})
    work.compile()
    training.warm_up(work.warm_up)
    training.run(work.step)
    say(f"student: {work.made * plan.sizes.rollout} trajectories")
    training.finish({"flow": as_bf16(work.average.module)})
