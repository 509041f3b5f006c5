#!/usr/bin/env python3
"""export.py - from training's checkpoints to the files that users of Wan2.1 have.

SPDX-License-Identifier: Apache-2.0

    export.py --dit dit.pt --vae vae.pt [--tokenizer FOLDER] [--dtype bf16|f32] [--out models/demo]

--dit: training's student.pt or dit.pt, {"flow": state dict of text.* and dit.*}; --vae: its vae.pt,
{"decoder": state dict}. Keys "dit" and "text" do as well, and one file may hold everything. Written
are, under --out,

    distill_models/distill_model.safetensors            the DiT
    distill_models/models_t5_umt5-xxl-enc-bf16.pth      the text encoder (-f32 with --dtype f32)
    distill_models/Wan2.1_VAE.pth                       the decoder; the encoder is not exported
    distill_models/config.json                          dimensions, under Wan's names
    google/umt5-xxl/tokenizer.json                      copied, if --tokenizer is another folder

The same checkpoints give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

import tokenizer as pieces
from dit import HEAD_DIM
from files import write_pth, write_safetensors

State = dict[str, Tensor]
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
HERE = Path(__file__).resolve().parent


def parts_of(checkpoint: dict[str, State]) -> dict[str, State]:
    """The state dicts "dit", "text" and "decoder", as far as a checkpoint has them."""
    parts = {key: state for key, state in checkpoint.items() if key in ("dit", "text", "decoder")}
    for name, tensor in checkpoint.get("flow", {}).items():
        key, _, rest = name.partition(".")
        parts.setdefault(key, {})[rest] = tensor
    return parts


def read_states(paths: list[Path]) -> dict[str, State]:
    """Of one file or of several."""
    found: dict[str, State] = {}
    for path in paths:
        found |= parts_of(torch.load(path, map_location="cpu", weights_only=True))
    missing = [key for key in ("dit", "text", "decoder") if key not in found]
    if missing:
        raise SystemExit(f"no {', '.join(missing)} in {', '.join(map(str, paths))}")
    return found


def share_twins(text: State, tokenizer: pieces.Tokenizer) -> State:
    """Pieces that mean the same as another one get its row: "Red" is "red"."""
    table = text["token_embedding.weight"]
    if len(tokenizer) > table.shape[0]:
        raise SystemExit(f"{len(tokenizer)} pieces, but {table.shape[0]} rows of token_embedding")
    rows = torch.arange(table.shape[0])
    rows[:len(tokenizer)] = torch.tensor(tokenizer.plain)
    return {**text, "token_embedding.weight": table[rows]}


def rounded(state: State, dtype: torch.dtype, path: Path) -> State:
    """All of one type; what is not finite would be refused when it is loaded."""
    for name, tensor in state.items():
        if not torch.isfinite(tensor.to(dtype)).all():
            raise SystemExit(f"{path}: {name} has values that are not finite")
    return {name: tensor.to(dtype) for name, tensor in state.items()}


def config_of(dit: State) -> dict[str, object]:
    """What Wan2.1 writes beside its weights."""
    dim, text_dim = dit["text_embedding.0.weight"].shape
    blocks = {int(name.split(".")[1]) for name in dit if name.startswith("blocks.")}
    return {"_class_name": "WanModel", "model_type": "t2v", "text_len": 512,
            "in_dim": dit["patch_embedding.weight"].shape[1], "dim": dim,
            "ffn_dim": dit["blocks.0.ffn.0.weight"].shape[0],
            "freq_dim": dit["time_embedding.0.weight"].shape[1], "text_dim": text_dim,
            "out_dim": dit["head.head.weight"].shape[0] // 4, "num_heads": dim // HEAD_DIM,
            "num_layers": len(blocks), "eps": 1e-6}


def export(states: dict[str, State], out: Path, tokenizer_folder: Path, dtype: str) -> list[Path]:
    folder, target = out / "distill_models", out / "google" / "umt5-xxl" / "tokenizer.json"
    folder.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = pieces.load(tokenizer_folder)
    target.write_text(pieces.to_json(tokenizer), encoding="utf-8")
    paths = [folder / "distill_model.safetensors",
             folder / f"models_t5_umt5-xxl-enc-{dtype}.pth", folder / "Wan2.1_VAE.pth",
             folder / "config.json", target]
    kind = DTYPES[dtype]
    write_safetensors(paths[0], rounded(states["dit"], kind, paths[0]), {"format": "pt"})
    write_pth(paths[1], rounded(share_twins(states["text"], tokenizer), kind, paths[1]))
    write_pth(paths[2], rounded(states["decoder"], kind, paths[2]))
    paths[3].write_text(json.dumps(config_of(states["dit"]), indent=2) + "\n", encoding="utf-8")
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dit", type=Path, required=True, help="with dit and text")
    parser.add_argument("--vae", type=Path, help="with decoder; absent: it is in --dit")
    parser.add_argument("--tokenizer", type=Path, help="absent: the one under --out")
    parser.add_argument("--out", type=Path, default=HERE.parent)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    args = parser.parse_args()
    states = read_states([args.dit] + ([args.vae] if args.vae else []))
    folder = args.tokenizer or args.out / "google" / "umt5-xxl"
    paths = export(states, args.out, folder, args.dtype)
    for path in paths:
        print(f"{path.stat().st_size:10} {path}")
    print(f"{sum(path.stat().st_size for path in paths):10} in all")


if __name__ == "__main__":
    main()
