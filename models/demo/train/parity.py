#!/usr/bin/env python3
"""parity.py - are nets.py's three networks those that the C programs run?

SPDX-License-Identifier: Apache-2.0

    parity.py --bin build/release/bin [--dit student.pt --vae vae.pt] [--captions 1000]

Exports float32 files (of random weights where no checkpoint is given) into a temporary folder,
gives the same inputs to PyTorch and to `lx2v-encoder run`, `lx2v-dit run` and `lx2v-vae run`, and
prints the relative L2 distance of what comes out, also of four whole sampling steps. Token ids must
be equal. Exit 1 if anything is farther away than float32 can explain.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import tokenizer as pieces
from export import export, read_states
from files import read_safetensors, write_safetensors
from nets import (DiT, DitConfig, TextConfig, TextEncoder, VaeConfig, VaeDecoder, denormalise,
                  sample, schedule)

LIMIT = 2e-5
HERE = Path(__file__).resolve().parent
PROMPTS = ("a red circle moves right on a blue background", "", "Zwölf Boxkämpfer \u266b jagen",
           "There is a GREEN star, spinning in place, and the backdrop is plain white. " * 4)


@dataclass
class Bench:
    """The C programs and a folder to exchange files in."""
    programs: Path
    folder: Path
    threads: int
    n_failed: int = 0

    def run(self, stage: str, *arguments: str) -> dict[str, Tensor]:
        out = self.folder / "out.safetensors"
        command = [str(self.programs / f"lx2v-{stage}"), "run", "--weights",
                   str(self.folder / "model"), "--output", str(out), "--threads",
                   str(self.threads), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
        return read_safetensors(out)

    def give(self, tensors: dict[str, Tensor]) -> str:
        path = self.folder / "in.safetensors"
        write_safetensors(path, tensors)
        return str(path)

    def judge(self, what: str, got: Tensor, want: Tensor) -> None:
        got, want = got.double().flatten(), want.double().flatten()
        same_size = got.shape == want.shape
        far = ((got - want).norm() / want.norm()).item() if same_size else float("inf")
        most = (got - want).abs().max().item() if same_size else float("inf")
        ok = far <= LIMIT
        self.n_failed += not ok
        print(f"{what:44} {far:10.2e} {most:10.2e}   {'ok' if ok else 'FAILED'}")


# --- weights ----------------------------------------------------------------------------------


def stir(module: torch.nn.Module) -> None:
    """Nothing stays zero or one: else a part that is left out would not be seen."""
    for name, parameter in module.named_parameters():
        if name.endswith(("bias", "modulation")):
            torch.nn.init.normal_(parameter, std=0.1)
        elif name.endswith("gamma") or "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    if isinstance(module, DiT):
        torch.nn.init.normal_(module.head.head.weight, std=0.05)


def random_states(vocab: int) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(7)
    nets = {"dit": DiT(), "text": TextEncoder(TextConfig(vocab=vocab)), "decoder": VaeDecoder()}
    for net in nets.values():
        stir(net)
    return {key: net.state_dict() for key, net in nets.items()}


def build(states: dict[str, dict[str, Tensor]]) -> tuple[DiT, TextEncoder, VaeDecoder]:
    """Networks of the sizes that the state dicts have."""
    d, t, v = states["dit"], states["text"], states["decoder"]
    layers = {"d": max(int(n.split(".")[1]) for n in d if n.startswith("blocks.")) + 1,
              "t": max(int(n.split(".")[1]) for n in t if n.startswith("blocks.")) + 1}
    dim, text_dim = d["text_embedding.0.weight"].shape
    dit = DiT(DitConfig(dim=dim, ffn_dim=d["blocks.0.ffn.0.weight"].shape[0],
                        n_layers=layers["d"], freq_dim=d["time_embedding.0.weight"].shape[1],
                        text_dim=text_dim))
    vocab, width = t["token_embedding.weight"].shape
    n_buckets, n_heads = t["blocks.0.pos_embedding.embedding.weight"].shape
    text = TextEncoder(TextConfig(vocab=vocab, dim=width, n_layers=layers["t"], n_heads=n_heads,
                                  dim_attn=t["blocks.0.attn.q.weight"].shape[0],
                                  dim_ffn=t["blocks.0.ffn.fc1.weight"].shape[0],
                                  n_buckets=n_buckets))
    vae = VaeDecoder(VaeConfig(dim=v["decoder.head.0.gamma"].shape[0]))
    for net, state in ((dit, d), (text, t), (vae, v)):
        net.load_state_dict(state)
        net.eval()
    return dit, text, vae


# --- the comparisons --------------------------------------------------------------------------


def compare_ids(bench: Bench, tokenizer: pieces.Tokenizer, n: int) -> None:
    """Ids of captions, of both splits, and of what the vocabulary does not know."""
    from world import caption, sample_scenes

    rng = random.Random(11)
    texts = list(PROMPTS)
    for split, share in (("train", n // 2), ("held_out", n - n // 2)):
        texts += [caption(s, rng, split) for s in sample_scenes(share, 11, split)]
    for text in texts[len(PROMPTS)::4]:  # words that are nearly known
        letters = list(text)
        letters[rng.randrange(len(letters))] = rng.choice("xqZ-\"(é9")
        texts.append("".join(letters))
    bad = [text for text in texts
           if bench.run("encoder", "--prompt", text)["ids"].tolist() != tokenizer.encode(text)]
    bench.n_failed += len(bad)
    print(f"{f'token ids of {len(texts)} texts':44} {len(bad)} differ{'':12}  "
          f"{'FAILED: ' + repr(bad[0]) if bad else 'ok'}")


def compare_text(bench: Bench, net: TextEncoder, tokenizer: pieces.Tokenizer) -> Tensor:
    rows = [tokenizer.encode(text) for text in PROMPTS]
    ids, lengths = pieces.pad_rows(rows, max(map(len, rows)))
    context = net(torch.tensor(ids), torch.tensor(lengths))
    for row, mine in zip(rows, context):
        given = bench.give({"ids": torch.tensor(row, dtype=torch.int32)})
        got = bench.run("encoder", "--input", given)["context"]
        bench.judge(f"text encoder, {len(row)} tokens (a padded batch)", got, mine[:len(row)])
    return context[0, :lengths[0]]


def compare_steps(bench: Bench, net: DiT, noise: Tensor, context: Tensor) -> Tensor:
    """The four steps: each one's velocity, and what they lead to."""
    rows, t, h, w = context.shape[0], *noise.shape[1:]
    got = bench.run("dit", "--input", bench.give({"latent": noise, "context": context}),
                    "--seed", "1")
    lengths, x = torch.tensor([rows]), noise[None]
    for i, (level, after) in enumerate(zip(schedule(), [*schedule()[1:], 0.0])):
        v = net(x, torch.tensor([1000.0 * level]), context[None], lengths)
        name = f"dit {t}x{h}x{w}, {rows} rows, velocity {i + 1} of 4"
        bench.judge(name, got["velocity"][i], v[0])
        x = x + (after - level) * v
    latent = sample(net, noise[None], context[None], lengths)[0]
    bench.judge(f"dit {t}x{h}x{w}, {rows} rows, latent after 4 steps", got["latent"], latent)
    return latent


def compare_dit(bench: Bench, net: DiT, context: Tensor) -> Tensor:
    """Odd sizes, no padding at all, and a clip of the demo's size, whose latent is returned."""
    compare_steps(bench, net, torch.randn(16, 1, 4, 6), context)
    compare_steps(bench, net, torch.randn(16, 2, 6, 4), torch.randn(512, context.shape[1]))
    return compare_steps(bench, net, torch.randn(16, 9, 16, 16), context)


def compare_vae(bench: Bench, net: VaeDecoder, latent: Tensor) -> None:
    for part in (latent[:, :1, :4, :6], latent):
        part = part.contiguous()
        got = bench.run("vae", "--input", bench.give({"latent": part}))["frames"]
        mine = net(denormalise(part[None]))[0].clamp(-1, 1)
        frames = got if got.shape[0] == 3 else got.transpose(0, 1)
        size = "x".join(map(str, mine.shape[1:]))
        bench.judge(f"vae decoder, {size}", frames, mine)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bin", type=Path, required=True, help="folder of lx2v-encoder and others")
    parser.add_argument("--dit", type=Path, help="checkpoint; absent: random weights")
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=HERE.parent / "google" / "umt5-xxl")
    parser.add_argument("--captions", type=int, default=100, help="to compare the ids of")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    tokenizer = pieces.load(args.tokenizer)
    states = read_states([args.dit] + ([args.vae] if args.vae else [])) if args.dit \
        else random_states(len(tokenizer))
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        bench = Bench(args.bin, Path(folder), args.threads)
        export(states, Path(folder) / "model", args.tokenizer, "f32")
        dit, text, vae = build(states)
        text.token_embedding.weight.copy_(
            text.token_embedding.weight[torch.tensor(tokenizer.plain)])
        print(f"{'':44} {'relative':>10} {'largest':>10}")
        context = compare_text(bench, text, tokenizer)
        compare_vae(bench, vae, compare_dit(bench, dit, context))
        compare_ids(bench, tokenizer, args.captions)
    return 1 if bench.n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
