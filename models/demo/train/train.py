#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo model: VAE, text encoder, DiT, then the four-step student.

    python train.py --out DIR [--seed 1] [--stop-after SECONDS]

Run the same command again after a stop: it goes on where it was, and says so when all is done
(exit status 0; 75 after a stop). Results in DIR: vae.pt, text.pt, dit.pt (the teacher, with its
text encoder), student.pt, each written when its training is done, and tokenizer.json. A training
whose result is there is not run. DIR/pool holds what can be made again: 5 GB.
`--scale 0.01` rehearses all of it on a CPU, with less of everything.
"""
from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

BEGAN = time.monotonic()

import torch  # noqa: E402  (its import is part of a call's time)

import distill  # noqa: E402
import train_dit  # noqa: E402
import train_text  # noqa: E402
import train_vae  # noqa: E402
from loop import Plan, Sizes, Stopped, result_of, say, set_up  # noqa: E402
from pool import Writers, default_workers, load_pool, load_texts  # noqa: E402

STOPPED = 75
TRAININGS = ("vae", "text", "dit", "student")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.
                                     RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes-vae", type=float, default=5.0)
    parser.add_argument("--minutes-text", type=float, default=0.75)
    parser.add_argument("--minutes-dit", type=float, default=10.25)
    parser.add_argument("--minutes-distill", type=float, default=4.0)
    parser.add_argument("--dit-from", type=Path, metavar="FILE",
                        help="dit.pt of an earlier run, to go on from")
    parser.add_argument("--until", choices=TRAININGS, default="student", help="the last training")
    parser.add_argument("--stop-after", type=float, default=math.inf, metavar="SECONDS")
    parser.add_argument("--scale", type=float, default=1.0, help="of minutes, batches, clips")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction,
                        default=torch.cuda.is_available())
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--teacher-steps", type=int, default=24, help="of one trajectory")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--int8-from", type=float, default=0.6, metavar="P",
                        help="progress of the distillation from which it computes as INT8 will; "
                             "1: never")
    for name in vars(Sizes()):
        kind = type(getattr(Sizes(), name))
        parser.add_argument("--" + name.replace("_", "-"), type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def sizes_of(arguments: argparse.Namespace) -> Sizes:
    sizes = Sizes().scaled(arguments.scale)
    for name in vars(sizes):
        if getattr(arguments, name) is not None:
            setattr(sizes, name, getattr(arguments, name))
    return sizes


def plan_of(arguments: argparse.Namespace) -> Plan:
    minutes = (arguments.minutes_vae, arguments.minutes_text, arguments.minutes_dit,
               arguments.minutes_distill)
    seconds = {name: 60.0 * m * arguments.scale for name, m in zip(TRAININGS, minutes)}
    return Plan(out=arguments.out, seed=arguments.seed, device=torch.device(arguments.device),
                stop_at=BEGAN + arguments.stop_after, compile=arguments.compile,
                workers=arguments.workers, sizes=sizes_of(arguments), seconds=seconds,
                dit_from=arguments.dit_from,
                teacher_steps=arguments.teacher_steps, guidance=arguments.guidance,
                int8_from=arguments.int8_from)


def train(plan: Plan, until: str) -> None:
    wanted = TRAININGS[:TRAININGS.index(until) + 1]
    if all(result_of(plan, name).exists() for name in wanted):
        return
    writers = Writers(plan) if until != "vae" else None
    try:
        train_vae.run(plan)
        if until == "vae":
            return
        texts = load_texts(plan, writers)
        if not result_of(plan, "dit").exists():
            train_text.run(plan, texts)
            if until == "text":
                return
            train_dit.run(plan, load_pool(plan, writers, texts))
        if until == "student":
            distill.run(plan, texts)
    finally:
        if writers:
            writers.close()


def main() -> int:
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    plan = plan_of(arguments)
    set_up(plan.device)
    try:
        train(plan, arguments.until)
    except Stopped:
        say(f"stopped after {time.monotonic() - BEGAN:.0f} s; the same command goes on from here")
        return STOPPED
    say(f"all done; this call took {time.monotonic() - BEGAN:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
