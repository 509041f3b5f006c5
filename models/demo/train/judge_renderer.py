#!/usr/bin/env python3
"""judge_renderer.py - is the judge right about clips whose truth is known?

SPDX-License-Identifier: Apache-2.0

    judge_renderer.py --judge BUILD/tests/lx2v_judge [-n 500] [--seed 1] [--split train]

Draws clips, codes each as H.264 (as lx2v-mux does: crf 18, 4:2:0, BT.709, limited range; --raw:
not at all), runs the judge on them and prints its shares. --spoil makes the clips as a small net
might: blurred, tinted, noisy, flickering. --keep FOLDER leaves clips and truths there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from world import (FPS, FRAMES, HEIGHT, WIDTH, choose, pack, render, sample_scenes, to_bytes,
                   truths)

BATCH = 20
X264 = ("-vf scale=out_color_matrix=bt709:out_range=tv -c:v libx264 -crf 18 -pix_fmt yuv420p "
        "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv -threads 1 "
        "-fflags +bitexact -flags:v +bitexact -map_metadata -1").split()


def spoil(video: torch.Tensor, seed: int) -> torch.Tensor:
    """Blur of 1.2 pixels, tints of up to 8 %, noise, and brightness that flickers."""
    lots = torch.Generator().manual_seed(seed)
    n, c, t, h, w = video.shape
    taps = torch.exp(-(torch.arange(-3, 4) ** 2) / (2 * 1.2**2))
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    flat = F.pad(video.reshape(-1, 1, h, w), (3, 3, 3, 3), mode="replicate")
    video = F.conv2d(flat, kernel).reshape(n, c, t, h, w)
    video = video + 0.16 * (torch.rand(n, c, 1, 1, 1, generator=lots) - 0.5)
    video = video + 0.03 * torch.randn(n, 1, t, 1, 1, generator=lots)
    return (video + 0.05 * torch.randn(video.shape, generator=lots)).clamp(-1, 1)


def encode(rgb: bytes, path: Path) -> None:
    source = f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r {FPS} -i -".split()
    command = ["ffmpeg", "-v", "error", "-y", *source, *X264, str(path)]
    subprocess.run(command, input=rgb, check=True)


def write_clips(scenes: list, folder: Path, spoil_seed: int | None, raw: bool) -> None:
    for start in range(0, len(scenes), BATCH):
        video = render(pack(scenes[start : start + BATCH], "cpu"))
        if spoil_seed is not None:
            video = spoil(video, spoil_seed + start)
        clips = to_bytes(video).contiguous().numpy()
        if raw:
            (folder / f"{start:05d}.rgb").write_bytes(clips.tobytes())
            continue
        for i, clip in enumerate(clips):
            encode(clip.tobytes(), folder / f"{start + i:05d}.mp4")


def main() -> None:
    parser = argparse.ArgumentParser(description="is the judge right about rendered clips?")
    parser.add_argument("--judge", required=True, help="the program lx2v_judge")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--raw", action="store_true", help="rgb24 instead of H.264")
    parser.add_argument("--spoil", action="store_true", help="blur, tint, noise, flicker")
    parser.add_argument("--at-least", default="all=0.99", help="as lx2v_judge has it")
    parser.add_argument("--cover", action="store_true", help="the n of 20 n that show the most")
    parser.add_argument("--keep", help="a folder for the clips and truths.jsonl")
    arguments = parser.parse_args()
    scenes = sample_scenes(arguments.n * (20 if arguments.cover else 1), arguments.seed,
                           arguments.split)
    if arguments.cover:
        scenes = [scenes[i] for i in choose([truths(scene) for scene in scenes], arguments.n)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        truth = folder / "truths.jsonl"
        truth.write_text("".join(json.dumps(truths(scene)) + "\n" for scene in scenes))
        write_clips(scenes, folder, arguments.seed if arguments.spoil else None, arguments.raw)
        clips = sorted(str(path) for path in folder.iterdir() if path.suffix in (".mp4", ".rgb"))
        size = ["--raw", f"{WIDTH}x{HEIGHT}x{FRAMES}"] if arguments.raw else []
        command = [arguments.judge, *size, "--wrong", "--expect", str(truth), "--at-least",
                   arguments.at_least, *clips]
        raise SystemExit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
