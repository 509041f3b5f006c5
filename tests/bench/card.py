#!/usr/bin/env python3
"""card.py - a step of the 14B and its parts on this card, beside what PyTorch takes for the same

SPDX-License-Identifier: Apache-2.0

    tests/bench/card.py [BUILD]      BUILD: build/cuda, or a bundle's folder
    --parts attention,linears,steps  only these
    --models DIR                     where the 14B with random weights is made; else a folder that goes away

Prints one table: milliseconds (a step: seconds), of what PyTorch took in the same run, the share of
the roof: for linears what mma.sync of INT8 reaches alone in the same run, by time and by clocks, for
attention what the data sheet says of its products. PyTorch's columns stay empty where there is none.
Times are of 832x480 in 81 frames unless the line says otherwise: 32,760 tokens.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

TOKENS, HEADS, HEAD_DIM = 32760, 40, 128
SHAPES = [(5120, 5120), (5120, 13824), (13824, 5120)]
PARTS = ["attention", "linears", "steps"]
HELD = {"LX2V_ARCH_MAX": "86"}  # only what a GeForce of the 30 series would run


# --- PyTorch, in a process of its own: its memory is free again when it ends ------------------------


def torch_ms(torch, call, n):
    """The median of n calls, after one."""
    call()
    torch.cuda.synchronize()
    times = []
    for _ in range(n):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def torch_linears(torch, times):
    for k, n in SHAPES:
        x, w, bias = (torch.randn(*size, device="cuda", dtype=torch.bfloat16) for size in ((TOKENS, k), (n, k), (n,)))
        times[f"{k}-{n}"] = torch_ms(torch, lambda: torch.nn.functional.linear(x, w, bias), 5)


def torch_attention(torch, times):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (torch.randn(1, HEADS, TOKENS, HEAD_DIM, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        try:
            with sdpa_kernel(backend):
                times[name] = torch_ms(torch, lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), 3)
        except RuntimeError as why:  # not every card and build has every one
            print(f"{name}: {why}", file=sys.stderr)


def print_torch(parts):
    import torch

    times = {}
    if "linears" in parts:
        torch_linears(torch, times)
    if "attention" in parts:
        torch_attention(torch, times)
    print(json.dumps(times))


def torch_times(parts):
    """Milliseconds by name; nothing of what could not be timed."""
    child = [sys.executable, os.path.abspath(__file__), "--torch-only", "--parts", ",".join(parts)]
    done = subprocess.run(child, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in done.stderr.strip().splitlines()[-3:]:
        print(f"PyTorch: {line}")
    return json.loads(done.stdout) if done.returncode == 0 else {}


# --- ours -------------------------------------------------------------------------------------------


def run(command, more=None):
    """What a program of ours prints; it must end well."""
    env = dict(os.environ, **(more or {}))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"card: {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def line(work, ours, of="", share=""):
    print(f"{work:68}{ours:>22}  {of:30}{share}", flush=True)


def of_peer(ms, times, peer, what):
    return f"{ms / times[peer]:.2f} of {what} {times[peer]:.1f}" if peer in times else ""


RATE = re.compile(r"^(.{60}) +([\d.]+) ms +([\d.]+) T/s(?: +([\d.]+) %)?$", re.M)


def attention(bench, times, work, of, peer, what):
    """Of a bench's lines the kernel alone, and with its keys' preparation."""
    rates = RATE.findall(run([bench, "--bench", of]))
    if not rates:
        return  # this card has no such kernel
    (_, alone, _, share), both = rates[0], rates[0]
    if len(rates) > 1 and rates[1][0].strip() == "both":
        both = rates[1]
    ms = float(both[1])
    line(work, f"{ms:.2f} ({float(alone):.2f} alone)", of_peer(ms, times, peer, what), f"{share} %" if share else "")


def attentions(build, times):
    bench = f"{build}/tests/gpu/test_cuda_attention"
    attention(bench, times, "attention int8-fp8, from BF16", "int8-fp8 the same", "cudnn", "cuDNN")
    attention(bench, times, "attention int8-fp16, from BF16", "int8 32760 x 32760", "cudnn", "cuDNN")
    attention(bench, times, "attention int8-fp16 by mma.sync, from BF16", "int8 by mma.sync", "flash", "FlashAttention 2")


LINEAR = re.compile(
    r"^(\S.*?) +M +\d+ +(\d+) -> +(\d+) (.+?) +([\d.]+) ms +[\d.]+ T/s +([\d.]+) % of \d+ by mma.sync"
    r"(?:, ([\d.]+) % by clocks)?",
    re.M,
)


def linears(build, times, work, designs, more):
    """Of each shape the quickest of these designs."""
    best = {}
    printed = run([f"{build}/tests/gpu/test_cuda_linear_int8", "--bench", str(TOKENS)], more)
    for design, k, n, end, ms, by_time, by_clocks in LINEAR.findall(printed):
        key = (int(k), int(n), end.strip())
        if design.strip() in designs and (key not in best or float(ms) < best[key][0]):
            best[key] = (float(ms), by_time, by_clocks)
    for (k, n, end), (ms, by_time, by_clocks) in best.items():
        share = f"{by_time} %" + (f", {by_clocks} % by clocks" if by_clocks else "")
        line(f"INT8 linear {work}, {k} -> {n} {end}", f"{ms:.2f}", of_peer(ms, times, f"{k}-{n}", "BF16"), share)


def step(build, model, work, size, choice, more=None):
    printed = run([f"{build}/tests/gpu/test_cuda_dit", "--bench", model, size, "81", "0", choice], more)
    seconds = [float(s) for s in re.findall(r"^ +step \d+: ([\d.]+) s", printed, re.M)]
    shares = re.findall(r"([\d.]+) % of a step: all of \"(attention|linear|other)\"", printed)
    if seconds:
        line(f"step {work}, {size}, {choice}", f"{statistics.median(seconds):.3f} s", "",
             ", ".join(f"{name} {share} %" for share, name in shares))


def steps(build, models):
    make = [f"{build}/bin/lx2v-mkmodel", "--preset", "14b", "--t5", "none", "--vae", "none", "--repeat-blocks"]
    int8, bf16 = f"{models}/int8", f"{models}/bf16"
    run(make[:1] + [int8] + make[1:])
    step(build, int8, "INT8", "832x480", "auto")
    step(build, int8, "INT8", "832x480", "int8-fp8")
    step(build, int8, "INT8, held to 8.6", "832x480", "auto", HELD)
    step(build, int8, "INT8", "1280x720", "int8-fp8")
    run(make[:1] + [bf16] + make[1:] + ["--dit", "bf16"])
    step(build, bf16, "BF16", "832x480", "auto")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", nargs="?", default="build/cuda")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--models")
    parser.add_argument("--torch-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    parts = args.parts.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"--parts {unknown[0]}: known are {', '.join(PARTS)}")
    if args.torch_only:
        return print_torch(parts)
    if not os.path.isdir(f"{args.build}/tests/gpu"):
        parser.error(f"no tests of a card in {args.build}: build them with cmake --preset cuda && cmake --build --preset cuda")
    times = torch_times(parts) if parts != ["steps"] else {}
    line("", "ms", "of PyTorch's, ms", "share of the roof")
    if "attention" in parts:
        attentions(args.build, times)
    if "linears" in parts:
        linears(args.build, times, "as chosen", {"chosen"}, {})
        linears(args.build, times, "by mma.sync", {"mma 192x256", "mma 192 apart"}, dict(HELD, LX2V_TEST_DESIGNS="34"))
    if "steps" in parts:
        with tempfile.TemporaryDirectory(dir=args.models, prefix="lx2v-card-") as models:
            steps(args.build, models)


if __name__ == "__main__":
    main()
