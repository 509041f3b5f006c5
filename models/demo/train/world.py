#!/usr/bin/env python3
"""world.py - the demo world: scenes, their captions, their clips.

SPDX-License-Identifier: Apache-2.0

    scenes = sample_scenes(1000, seed=1, split="train")      # or "held_out"
    words = caption(scenes[0], random.Random(5), "train")
    video = render(pack(scenes, "cuda"))                     # [N,3,33,128,128] in [-1,1]

To look at it:   world.py --sheet sheet.png [--split held_out] [--seed 7] [-n 12]
The judge's prompts and truths (models/demo/judge/*.jsonl):   world.py --prompts FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import zlib
from pathlib import Path

from captions import caption
from render import pack, render, to_bytes
from scenes import COLORS, FACTS, FPS, FRAMES, HEIGHT, MOTIONS, SHAPES, SPLITS, WIDTH
from scenes import Scene, Thing, facts, sample_scenes, truths

__all__ = ["COLORS", "FACTS", "FPS", "FRAMES", "HEIGHT", "MOTIONS", "SHAPES", "SPLITS", "WIDTH",
           "Scene", "Thing", "caption", "choose", "facts", "pack", "render", "sample_scenes",
           "to_bytes", "truths"]

PROMPTS_SEED = 20250
PROMPTS, CI_PROMPTS = 128, 12


def write_png(path: str, width: int, height: int, rgb: bytes) -> None:
    """8-bit RGB, no filter."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    rows = b"".join(b"\0" + rgb[i * width * 3 : (i + 1) * width * 3] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
                           + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_sheet(path: str, scenes: list[Scene], columns: int = 8) -> None:
    """One row of frames a clip."""
    video = to_bytes(render(pack(scenes, "cpu")))
    frames = [round(i * (FRAMES - 1) / (columns - 1)) for i in range(columns)]
    sheet = video[:, frames].permute(0, 2, 1, 3, 4).contiguous()
    write_png(path, columns * WIDTH, len(scenes) * HEIGHT, sheet.numpy().tobytes())


def prompts() -> list[dict]:
    """The held-out prompts with their truths; the same at every call."""
    scenes = sample_scenes(PROMPTS, PROMPTS_SEED, "held_out")
    rng = random.Random(PROMPTS_SEED)
    return [{"prompt": caption(s, rng, "held_out"), **truths(s)} for s in scenes]


def choose(rows: list[dict], n: int) -> list[int]:
    """The places of n rows that together show the most motions, shapes, colours, directions."""

    def shown(row: dict) -> set[str]:
        shapes = [thing["shape"] for thing in row["objects"]]
        colors = ["object " + thing["color"] for thing in row["objects"]]
        both = [f"{row['motion']} {shape}" for shape in shapes]
        return {row["direction"], row["relation"], *shapes, *colors, *row["background"], *both}

    chosen: list[int] = []
    seen: set[str] = set()
    motions: set[str] = set()
    while len(chosen) < n:
        left = [i for i in range(len(rows)) if i not in chosen]
        best = max(left, key=lambda i: (rows[i]["motion"] not in motions,
                                        len(shown(rows[i]) - seen)))
        chosen.append(best)
        seen |= shown(rows[best])
        motions.add(rows[best]["motion"])
    return chosen


def write_prompts(folder: str) -> None:
    rows = prompts()
    few = [rows[i] for i in choose(rows, CI_PROMPTS)]
    for name, some in (("held_out", rows), ("ci", few)):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (Path(folder) / f"{name}.jsonl").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="look at the demo world, write its prompts")
    parser.add_argument("--sheet", help="write a PNG: a row of frames for each clip")
    parser.add_argument("--prompts", help="write held_out.jsonl and ci.jsonl into this folder")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-n", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.prompts:
        write_prompts(arguments.prompts)
    if arguments.sheet:
        scenes = sample_scenes(arguments.n, arguments.seed, arguments.split)
        write_sheet(arguments.sheet, scenes)
        rng = random.Random(arguments.seed)
        for scene in scenes:
            print(caption(scene, rng, arguments.split))


if __name__ == "__main__":
    main()
