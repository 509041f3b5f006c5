# SPDX-License-Identifier: Apache-2.0
"""What the trainings share: a run whose length is seconds, checkpoints, moving averages.

A training has a budget of wall-clock seconds. Its progress p, the part of them that is spent, goes
from 0 to 1 and drives every schedule, so that a quicker or slower card gives a complete training of
more or fewer steps. Seconds spent on compiling are told but not counted. What is drawn by lot
follows from (seed, what for, step); how many steps fit does not.
"""
from __future__ import annotations

import copy
import math
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CHECKPOINT_SECONDS = 60.0
LOG_SECONDS = 5.0
QUEUED_STEPS = 3  # how far the CPU may run ahead of the card: keeps the clock honest


class Stopped(Exception):
    """The time of this call is over and everything is saved; another call goes on from here."""


@dataclass
class Sizes:
    """How much of everything at scale 1, chosen for one H100 with 80 GB."""
    crop: int = 64  # side of the VAE's crops
    crop_frames: int = 17
    vae_crops: int = 48  # crops a step; as many pixels as 6 whole clips
    vae_clips: int = 8
    vae_conv: str = "3d"  # or "fold": vae.py
    clips: int = 64_000  # latents of 73,728 bytes each
    chunk: int = 1000  # clips a file
    wordings: int = 6  # captions a clip
    text_batch: int = 1024
    dit_batch: int = 128  # whole clips; more of shorter ones
    capacity: int = 16_384  # trajectories kept for the distillation, 590 kB each
    first_rollouts: int = 6144  # of these, made before its first step
    rollout: int = 256  # trajectories made at once
    distill_batch: int = 128

    def scaled(self, scale: float) -> Sizes:
        if scale >= 1.0:
            return self
        least = {"chunk": 8, "clips": 16, "capacity": 8, "first_rollouts": 4, "vae_clips": 1}
        names = ("vae_crops", "vae_clips", "clips", "chunk", "text_batch", "dit_batch",
                 "capacity", "first_rollouts", "rollout", "distill_batch")
        small = copy.copy(self)
        for name in names:
            setattr(small, name, max(least.get(name, 2), int(getattr(self, name) * scale)))
        return small


@dataclass
class Plan:
    """One call of train.py."""
    out: Path
    seed: int = 1
    device: torch.device = torch.device("cpu")
    stop_at: float = math.inf  # time.monotonic()
    compile: bool = True
    workers: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    seconds: dict[str, float] = field(default_factory=dict)  # of each training
    teacher_steps: int = 24
    guidance: float = 2.0
    int8_from: float = 0.6  # progress of the distillation from which linears are as in INT8
    dit_from: Path | None = None  # dit.pt of an earlier run

    def check_time(self) -> None:
        if time.monotonic() >= self.stop_at:
            raise Stopped


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# --- device -----------------------------------------------------------------------------------


def set_up(device: torch.device) -> None:
    """Numbers: bf16 where autocast says so, TF32 for what stays float32."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = device.type == "cuda"


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a card; on a CPU, where it is slow, nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gibibytes(device: torch.device) -> float:
    """The most that was allocated at once."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def compile_parts(module: nn.Module, kinds: tuple[type, ...], wanted: bool) -> None:
    """Compile the submodules of some kinds in place: one graph serves all blocks of a network, so
    this takes seconds where a whole network takes a minute. Names in state dicts do not change."""
    if not wanted:
        return
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.suppress_errors = True  # without a working compiler: eager, with a notice
    for part in module.modules():
        if isinstance(part, kinds):
            part.compile(dynamic=False)


# --- lots -------------------------------------------------------------------------------------


def number(*words: Any) -> int:
    """A seed that depends on all the words."""
    return zlib.crc32(" ".join(map(str, words)).encode())


def lots(device: torch.device, *words: Any) -> torch.Generator:
    generator = torch.Generator(device)
    generator.manual_seed(number(*words))
    return generator


def uniform(n: int, generator: torch.Generator) -> Tensor:
    """n numbers in 0..1, one in each n-th of it, in random order: less noise in a batch's mean."""
    device = generator.device
    places = torch.randperm(n, generator=generator, device=device)
    return (places + torch.rand(n, generator=generator, device=device)) / n


def normal(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


# --- optimisation -----------------------------------------------------------------------------


def learning_rate(p: float, peak: float, warm_up: float = 0.02, hold: float = 0.5) -> float:
    """Up to the peak in the first part, there until `hold`, then down to nearly 0 in a line."""
    if p < warm_up:
        return peak * max(p / warm_up, 0.02)
    return peak * max(min((1.0 - p) / (1.0 - hold), 1.0), 0.002)


def orthogonal(matrices: Tensor) -> Tensor:
    """[n, rows, columns] with all singular values brought near 1 (0.7 to 1.2): five steps of a
    Newton-Schulz iteration with the coefficients of Muon."""
    x = matrices.to(torch.bfloat16)
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.float32)
             .to(x.dtype) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * (square @ square) - 4.7750 * square) @ x
    return x.mT if is_tall else x


class Muon:
    """For matrices (of a convolution: outputs by all the rest): momentum whose singular values
    are all made 1, scaled so that its entries move about as far as Adam's would."""

    def __init__(self, parameters: list[nn.Parameter], decay: float, momentum: float = 0.95):
        self.decay, self.momentum = decay, momentum
        by_size: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in parameters:
            by_size.setdefault(tuple(p.flatten(1).shape), []).append(p)
        self.groups = list(by_size.items())
        self.means = [torch.zeros(len(group), *size, device=group[0].device)
                      for size, group in self.groups]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for (size, group), mean in zip(self.groups, self.means):
            grads = torch.stack([p.grad.flatten(1) for p in group]).float()
            mean.lerp_(grads, 1.0 - self.momentum)
            update = orthogonal(grads.lerp(mean, self.momentum)).float()
            changes = [u.reshape(p.shape) for u, p in zip(update, group)]
            torch._foreach_mul_(group, 1.0 - self.decay * rate)
            torch._foreach_add_(group, changes, alpha=-0.2 * max(size) ** 0.5 * rate)


@dataclass
class Rates:
    """Peaks of the learning rate."""
    adam: float
    muon: float = 0.0  # 0: Adam has them all
    hold: float = 0.5  # progress from which they fall


class Optimizer:
    """Muon for the matrices that are named for it, AdamW for all else; decay of whatever has more
    than one axis, and gradients' norm cut at 1."""

    def __init__(self, modules: list[nn.Module], rates: Rates, betas: tuple[float, float],
                 decay: float, matrices: list[nn.Parameter] | None = None):
        self.parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.rates = rates
        self.muon = Muon(matrices if matrices and rates.muon else [], decay)
        mine = {id(p) for _, group in self.muon.groups for p in group}
        rest = [p for p in self.parameters if id(p) not in mine]
        groups = [{"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
                  {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}]
        fused = self.parameters[0].device.type == "cuda"
        self.adam = torch.optim.AdamW(groups, lr=rates.adam, betas=betas, eps=1e-8, fused=fused)

    def step(self, loss: Tensor, p: float) -> Tensor:
        """Returns the norm of the gradients."""
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(p, self.rates.adam, hold=self.rates.hold)
        self.adam.zero_grad(set_to_none=True)
        for _, group in self.muon.groups:
            for parameter in group:
                parameter.grad = None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.step()
        self.muon.step(learning_rate(p, self.rates.muon, hold=self.rates.hold))
        return norm

    def state_dict(self) -> dict:
        return {"adam": self.adam.state_dict(), "means": self.muon.means}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        for mean, saved in zip(self.muon.means, state["means"]):
            mean.copy_(saved)


class Average:
    """Moving average of a module's weights over about the last 4 % of the steps so far."""

    def __init__(self, module: nn.Module):
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        mine, other = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(mine, other, 1.0 / (0.04 * step + 1.0))

    def state_dict(self) -> dict:
        return self.module.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.module.load_state_dict(state)


# --- files ------------------------------------------------------------------------------------


def save_file(path: Path, content: Any) -> None:
    """Whole or not at all, also if the process is killed meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(content, part)
    os.replace(part, path)


def load_file(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def as_bf16(module: nn.Module) -> dict[str, Tensor]:
    """Weights as they are shipped; what follows trains on just these."""
    return {name: value.detach().to("cpu", torch.bfloat16).contiguous()
            for name, value in module.state_dict().items()}


# --- the loop ---------------------------------------------------------------------------------


class Training:
    """Runs a step again and again until its seconds are spent, and goes on after a stop.

    `parts` are what a checkpoint holds: name -> anything with state_dict and load_state_dict.
    """

    def __init__(self, name: str, plan: Plan, parts: dict[str, Any]):
        self.name, self.plan, self.parts = name, plan, parts
        self.seconds = plan.seconds[name]
        self.path = plan.out / f"{name}.checkpoint"
        self.step, self.spent = 0, 0.0
        if self.path.exists():
            saved = load_file(self.path)
            for key, part in parts.items():
                part.load_state_dict(saved["parts"][key])
            self.step, self.spent = saved["step"], saved["spent"]
            say(f"{name}: goes on from step {self.step}, {self.spent:.0f} s of {self.seconds:.0f}")

    @property
    def progress(self) -> float:
        return self.spent / self.seconds

    def save(self) -> None:
        states = {key: part.state_dict() for key, part in self.parts.items()}
        save_file(self.path, {"parts": states, "step": self.step, "spent": self.spent})

    def warm_up(self, call: Callable[[], Any]) -> None:
        """Something that compiles what steps use; it is timed, but is no part of the budget."""
        began = time.monotonic()
        call()
        synchronize(self.plan.device)
        seconds = time.monotonic() - began
        say(f"{self.name}: compiled and warmed up in {seconds:.1f} s (not counted)")

    def run(self, step: Callable[[int, float], dict[str, Tensor]]) -> None:
        """step(number, progress) returns losses, which the log gets as means."""
        last = saved = time.monotonic()
        log = Log(self.name, self.step)
        events: list[torch.cuda.Event] = []
        while self.progress < 1.0:
            if last >= self.plan.stop_at:
                self.save()
                say(f"{self.name}: stopped at step {self.step}, {100 * self.progress:.0f} %, saved")
                raise Stopped
            log.add(step(self.step, self.progress))
            self.step += 1
            self.keep_pace(events)
            now = time.monotonic()
            self.spent, last = self.spent + now - last, now
            log.line(self.step, self.progress, self.progress >= 1.0)
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = now
        synchronize(self.plan.device)

    def keep_pace(self, events: list[torch.cuda.Event]) -> None:
        if self.plan.device.type != "cuda":
            return
        events.append(torch.cuda.Event())
        events[-1].record()
        if len(events) > QUEUED_STEPS:
            events.pop(0).synchronize()

    def finish(self, content: dict) -> None:
        """The result, which also says that this training is done; the checkpoint goes."""
        save_file(result_of(self.plan, self.name), content)
        self.path.unlink(missing_ok=True)
        say(f"{self.name}: done, {self.step} steps in {self.spent:.0f} s, "
            f"{gibibytes(self.plan.device):.1f} GiB at most")


def result_of(plan: Plan, name: str) -> Path:
    return plan.out / f"{name}.pt"


class Log:
    """Means of losses since the last line; reading them waits for the card: not at every step."""

    def __init__(self, name: str, step: int):
        self.name, self.sums, self.counts = name, {}, {}
        self.step, self.at = step, time.monotonic()

    def add(self, losses: dict[str, Tensor]) -> None:
        for key, value in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + value.detach().float()
            self.counts[key] = self.counts.get(key, 0) + 1

    def line(self, step: int, p: float, is_last: bool) -> None:
        now = time.monotonic()
        if now - self.at < LOG_SECONDS and not is_last:
            return
        means = " ".join(f"{key} {float(total) / self.counts[key]:.5f}"
                         for key, total in self.sums.items())
        rate = (step - self.step) / max(now - self.at, 1e-9)
        say(f"{self.name}: {100 * p:5.1f} % step {step} {means} ({rate:.2f} steps/s)")
        self.sums, self.counts, self.step, self.at = {}, {}, step, now
