# SPDX-License-Identifier: Apache-2.0
"""What the DiT learns from: latents of many clips and several captions of each, on the card.

Scenes, captions and their tokens are made by processes beside the first training; clips are drawn
and encoded on the card when the VAE is ready. Both are kept in files of a thousand clips, so that a
call after a stop, or one that was cut off, goes on with what there is.
"""
from __future__ import annotations

import os
import random
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

import tokenizer as tokens
from flow import LATENT
from loop import Plan, load_file, number, result_of, save_file, say
from train_vae import Vae
from world import caption, facts, pack, render, sample_scenes

TEXT_LEN = 47  # with the padding's key 48 keys, a multiple of 8; pad_rows cuts what is longer
SPELLED = 0.01  # of the words, letter by letter
BATCH = 50  # clips drawn at once
# What is learned last is seen more often; the world itself has all motions equally often.
WEIGHTS = {"spin": 2.0, "orbit": 2.0, "bounce": 1.5, "pair": 2.5}


@dataclass
class Texts:
    ids: Tensor  # [N, wordings, TEXT_LEN] int16
    lengths: Tensor  # [N, wordings] uint8
    facts: Tensor  # [N, questions] uint8
    empty: Tensor  # ids of the empty prompt, int64


@dataclass
class Pool:
    texts: Texts
    latents: Tensor  # [N, 16, 9, 16, 16] bf16, normalised


def open_tokenizer(out: Path) -> tokens.Tokenizer:
    """Made at the first call."""
    path = out / "tokenizer.json"
    if not path.exists():
        path.write_text(tokens.to_json(tokens.make(tokens.captions())), encoding="utf-8")
    return tokens.load(path)


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """ids [N, TEXT_LEN] and lengths [N], int64."""
    padded, lengths = tokens.pad_rows(rows, TEXT_LEN)
    return torch.tensor(padded), torch.tensor(lengths)


# --- in processes beside the card ---------------------------------------------------------------


def make_texts(out: Path, seed: int, index: int, n: int, wordings: int) -> None:
    """One file: what render() needs of n scenes, and their captions as tokens."""
    torch.set_num_threads(1)
    words = tokens.load(out / "tokenizer.json")
    scenes = sample_scenes(n, number(seed, "clips", index), "train", WEIGHTS)
    rng = random.Random(number(seed, "captions", index))
    rows = [words.encode_for_training(caption(scene, rng, "train"), rng, SPELLED)
            for scene in scenes for _ in range(wordings)]
    answers = torch.tensor([facts(scene) for scene in scenes], dtype=torch.uint8)
    ids, lengths = pad(rows)
    packs = [pack(scenes[first:first + BATCH], "cpu") for first in range(0, n, BATCH)]
    save_file(texts_path(out, index), {
        "packs": packs,
        "facts": answers,
        "ids": ids.view(n, wordings, TEXT_LEN).to(torch.int16),
        "lengths": lengths.view(n, wordings).to(torch.uint8)})


def texts_path(out: Path, index: int) -> Path:
    return out / "pool" / f"texts_{index:05}.pt"


def latents_path(out: Path, index: int) -> Path:
    return out / "pool" / f"latents_{index:05}.pt"


class Writers:
    """The processes that write captions; they begin at once and nobody waits for them yet."""

    def __init__(self, plan: Plan):
        self.plan, sizes = plan, plan.sizes
        self.counts = [min(sizes.chunk, sizes.clips - first)
                       for first in range(0, sizes.clips, sizes.chunk)]
        open_tokenizer(plan.out)
        missing = [i for i in range(len(self.counts)) if not texts_path(plan.out, i).exists()]
        self.pool = ProcessPoolExecutor(plan.workers, get_context("spawn")) if missing else None
        self.waiting: dict[int, Future] = {
            i: self.pool.submit(make_texts, plan.out, plan.seed, i, self.counts[i], sizes.wordings)
            for i in missing}

    def get(self, index: int) -> dict:
        if index in self.waiting:
            self.waiting.pop(index).result()
        return load_file(texts_path(self.plan.out, index))

    def close(self) -> None:
        if self.pool:
            self.pool.shutdown(wait=True, cancel_futures=True)


# --- on the card --------------------------------------------------------------------------------


def fingerprint(plan: Plan) -> str:
    """Of the VAE and of what is drawn: latents of another one are not used."""
    state = load_file(result_of(plan, "vae_encoder"))["encoder"]
    total = sum(float(value.double().abs().sum()) for value in state.values())
    return f"{total!r} {plan.seed} {plan.sizes.chunk}"


def encode_chunk(plan: Plan, vae: Vae, packs: list[dict]) -> Tensor:
    done = []
    for packed in packs:
        on_card = {name: value.to(plan.device) for name, value in packed.items()}
        done.append(vae.encode(render(on_card)).to(torch.bfloat16))
    return torch.cat(done)


def load_texts(plan: Plan, writers: Writers) -> Texts:
    """Waits for the last of the writers."""
    files = []
    for index in range(len(writers.counts)):
        plan.check_time()
        files.append(writers.get(index))
    writers.close()
    joined = [torch.cat([file[key] for file in files]).to(plan.device)
              for key in ("ids", "lengths", "facts")]
    empty = torch.tensor(open_tokenizer(plan.out).encode_for_training(""))
    return Texts(*joined, empty.to(plan.device))


def load_pool(plan: Plan, writers: Writers, texts: Texts) -> Pool:
    n = sum(writers.counts)
    latents = torch.empty(n, *LATENT, dtype=torch.bfloat16, device=plan.device)
    vae, mark, saver = Vae(plan), fingerprint(plan), ThreadPoolExecutor(1)
    began, n_encoded, at = time.monotonic(), 0, 0
    for index, count in enumerate(writers.counts):
        plan.check_time()
        path = latents_path(plan.out, index)
        known = load_file(path) if path.exists() else {"mark": ""}
        if known["mark"] != mark:
            packs = writers.get(index)["packs"]
            known = {"mark": mark, "latents": encode_chunk(plan, vae, packs).cpu()}
            saver.submit(save_file, path, known)
            n_encoded += count
        latents[at:at + count] = known["latents"].to(plan.device)
        at += count
    saver.shutdown()
    seconds = time.monotonic() - began
    say(f"pool: {n} clips, {n_encoded} drawn and encoded now, in {seconds:.1f} s")
    return Pool(texts, latents)


def drop(ids: Tensor, lengths: Tensor, empty: Tensor, share: float,
         generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The empty prompt in a share of the rows."""
    chosen = torch.rand(ids.shape[0], generator=generator, device=ids.device) < share
    none = torch.zeros_like(ids[0])
    none[:empty.numel()] = empty
    return (torch.where(chosen[:, None], none, ids),
            torch.where(chosen, torch.full_like(lengths, empty.numel()), lengths))


def draw_captions(texts: Texts, n: int,
                  generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clips by lot, and one caption of each."""
    device = texts.ids.device
    clip = torch.randint(texts.ids.shape[0], (n,), generator=generator, device=device)
    wording = torch.randint(texts.ids.shape[1], (n,), generator=generator, device=device)
    return clip, texts.ids[clip, wording].long(), texts.lengths[clip, wording].long()


def default_workers() -> int:
    return max(1, len(os.sched_getaffinity(0)) - 3)
