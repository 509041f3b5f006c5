#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the trained networks make of held-out captions, in PyTorch, for lx2v_judge and for the eye.

    python evaluate.py --out DIR --into FOLDER [-n 128] [--seeds 2] [--judge lx2v_judge]
                       [--sheet sheet.png] [--kinds vae,teacher,student]

For each kind FOLDER gets KIND.rgb, raw rgb24 clips of 128x128x33 one after another, and
KIND_truths.jsonl in the same order: all prompts with the first seed, then all with the next. "vae"
are the truths' own clips, drawn, encoded and decoded. Latents are kept as KIND_SEED.pt, small
enough to carry to another machine; a run there with --from-latents decodes them, instead of
sampling.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import torch
from torch import Tensor

from flow import sample_student, sample_teacher
from loop import Plan, load_file, lots, result_of, save_file, say, set_up
from pool import open_tokenizer, pad
from train_dit import latent_noise, load_flow
from train_vae import Vae
from world import PROMPTS_SEED, pack, prompts, render, sample_scenes, to_bytes, write_png

KINDS = ("vae", "teacher", "student")
SHEET_FRAMES = (0, 6, 13, 19, 26, 32)


class Evaluation:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.plan = Plan(arguments.out, device=torch.device(arguments.device))
        set_up(self.plan.device)
        self.device, self.into = self.plan.device, arguments.into
        self.into.mkdir(parents=True, exist_ok=True)
        self.rows = prompts()[:arguments.n]
        self.vae = Vae(self.plan)

    def captions(self) -> tuple[Tensor, Tensor, Tensor]:
        """ids and lengths of the prompts, and the empty prompt's ids; as the C tokenizer's."""
        words = open_tokenizer(self.arguments.out)
        ids, lengths = pad([words.encode_for_training(row["prompt"]) for row in self.rows])
        empty = torch.tensor(words.encode_for_training(""))
        return ids.to(self.device), lengths.to(self.device), empty.to(self.device)

    def sample(self, kind: str, seed: int) -> Tensor:
        """Latents [n, ...] in float32, on the CPU; noise follows from the seed and the row."""
        flow = load_flow(self.plan, "dit" if kind == "teacher" else "student")
        ids, lengths, empty = self.captions()
        arguments, done = self.arguments, []
        for first in range(0, len(self.rows), arguments.batch):
            some = slice(first, first + arguments.batch)
            n = ids[some].shape[0]
            noise = torch.cat([latent_noise(1, lots(self.device, "evaluate", seed, first + i))
                               for i in range(n)])
            if kind == "teacher":
                x = sample_teacher(flow, noise, ids[some], lengths[some], empty,
                                   arguments.guidance, arguments.teacher_steps)
            else:
                x = sample_student(flow, noise, ids[some], lengths[some])
            done.append(x.cpu())
        return torch.cat(done)

    def latents(self, kind: str, seed: int) -> Tensor:
        path = self.into / f"{kind}_{seed}.pt"
        if self.arguments.from_latents:
            return load_file(path).float()[:len(self.rows)]
        began = time.monotonic()
        made = self.sample(kind, seed)
        say(f"{kind}: {len(made)} latents in {time.monotonic() - began:.1f} s, "
            f"mean {made.mean():.3f}, deviation {made.std():.3f}")
        save_file(path, made.to(torch.bfloat16))
        return made

    def write(self, kind: str, clips, keep: list[Tensor]) -> Path:
        """All clips of an iterator of [n, 3, 33, 128, 128]; the first few stay for the sheet."""
        path = self.into / f"{kind}.rgb"
        with path.open("wb") as file:
            for clip in clips:
                data = to_bytes(clip).contiguous().cpu()
                file.write(data.numpy().tobytes())
                if len(keep) < self.arguments.rows:
                    keep.extend(data)
        return path

    def decoded(self, kind: str):
        for seed in range(self.arguments.seeds):
            made = self.latents(kind, seed)
            for some in made.split(8):
                yield self.vae.decode(some.to(self.device))

    def reconstructed(self, errors: list[float]):
        scenes = sample_scenes(len(prompts()), PROMPTS_SEED, "held_out")[:self.arguments.n]
        for first in range(0, len(scenes), 8):
            clip = render(pack(scenes[first:first + 8], self.device))
            made = self.vae.decode(self.vae.encode(clip))
            error = ((made - clip) / 2.0).square().mean((1, 2, 3, 4)).clamp_min(1e-10)
            errors += (-10.0 * error.log10()).tolist()
            yield made

    def judge(self, kind: str, path: Path, n_rounds: int) -> None:
        truths = self.into / f"{kind}_truths.jsonl"
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        truths.write_text(lines * n_rounds)
        if not self.arguments.judge:
            return
        command = [self.arguments.judge, "--raw", "128x128x33", "--expect", truths, path]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        (self.into / f"{kind}_judged.jsonl").write_text(found.stdout)
        last = found.stdout.strip().rsplit("\n", 1)[-1]
        say(f"{kind}: {last or found.stderr.strip()}")

    def run(self, kind: str) -> list[Tensor]:
        keep: list[Tensor] = []
        errors: list[float] = []
        is_vae = kind == "vae"
        path = self.write(kind, self.reconstructed(errors) if is_vae else self.decoded(kind), keep)
        if is_vae:
            low = sorted(errors)[len(errors) // 20]
            say(f"vae: PSNR {sum(errors) / len(errors):.2f} dB, 5 % are below {low:.2f} dB")
        self.judge(kind, path, 1 if is_vae else self.arguments.seeds)
        return keep[:self.arguments.rows]


def write_sheet(path: Path, kinds: list[list[Tensor]]) -> None:
    """A row a prompt: some frames of each kind side by side."""
    frames = list(SHEET_FRAMES)
    rows = [torch.cat([f for clip in row for f in clip[frames]], 1) for row in zip(*kinds)]
    sheet = torch.cat(rows).contiguous()
    write_png(str(path), sheet.shape[1], sheet.shape[0], sheet.numpy().tobytes())
    say(f"{path}: {sheet.shape[1]}x{sheet.shape[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="of train.py")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("-n", type=int, default=128, help="prompts, 128 at most")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--teacher-steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--from-latents", action="store_true")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--rows", type=int, default=16, help="of the sheet")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    work = Evaluation(arguments)
    shown = []
    for kind in arguments.kinds.split(","):
        name = {"teacher": "dit", "student": "student", "vae": "vae"}[kind]
        if arguments.from_latents or result_of(work.plan, name).exists():
            shown.append(work.run(kind))
        else:
            say(f"{kind}: {name}.pt is not there yet")
    for row in work.rows[:arguments.rows]:
        print(row["prompt"])
    if arguments.sheet and shown:
        write_sheet(arguments.sheet, shown)


if __name__ == "__main__":
    main()
