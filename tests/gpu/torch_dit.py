#!/usr/bin/env python3
"""The DiT's forward pass in plain PyTorch, to judge `lx2v-dit run` by: how far is ours from float32,
and how far is PyTorch's own bf16 on the same weights?

    torch_dit.py MODEL.safetensors INPUT.safetensors OUTPUT.safetensors

MODEL is a float checkpoint (F32 or BF16) small enough to lie on the card whole, INPUT what the run was
given (context and latent), OUTPUT what it wrote with --steps-list 1000 and, if wanted, --dump blocks.N.
Prints relative L2 of ours and of PyTorch's bf16 against PyTorch's float32; exit 1 if ours is more than
twice PyTorch's. Not part of the normal tests: it needs PyTorch and a card.
"""
import math
import sys

import torch
from safetensors.torch import load_file

HEAD = 128
TEXT_LEN = 512


def rope(x, grid, angles):
    """x [S, H, D]; pairs (2j, 2j+1); axes t, h, w have D/2 - 2 (D/6), D/6, D/6 pairs."""
    a = x.double().view(*x.shape[:-1], -1, 2)
    cos, sin = angles[0][:, None], angles[1][:, None]
    even, odd = a[..., 0], a[..., 1]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def rope_angles(grid, dim, device):
    side = dim // 6
    pairs = (dim // 2 - 2 * side, side, side)
    tables = []
    for axis, n in enumerate(pairs):
        freq = 10000.0 ** (-torch.arange(n, dtype=torch.float64, device=device) / n)
        tables.append(torch.arange(grid[axis], dtype=torch.float64, device=device)[:, None] * freq)
    t, h, w = grid
    full = torch.cat((tables[0][:, None, None].expand(t, h, w, -1),
                      tables[1][None, :, None].expand(t, h, w, -1),
                      tables[2][None, None].expand(t, h, w, -1)), -1).reshape(t * h * w, -1)
    return full.cos(), full.sin()


class Dit:
    def __init__(self, weights, dtype):
        self.w = weights
        self.dtype = dtype

    def linear(self, name, x):
        weight = self.w[name + ".weight"].to(self.dtype).flatten(1)
        return torch.nn.functional.linear(x.to(self.dtype), weight, self.w[name + ".bias"].to(self.dtype))

    def rms(self, name, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * \
            self.w[name + ".weight"].to(x.dtype)

    def attention(self, q, k, v):
        """[S, H, D] each; float32 by rows of queries, bf16 by PyTorch's own kernel."""
        q, k, v = (z.transpose(0, 1) for z in (q, k, v))
        if self.dtype != torch.float32:
            out = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
            return out.transpose(0, 1).flatten(1)
        out = torch.empty_like(q)
        for h in range(q.shape[0]):
            for at in range(0, q.shape[1], 4096):
                s = q[h, at:at + 4096] @ k[h].T / math.sqrt(q.shape[-1])
                out[h, at:at + 4096] = s.softmax(-1) @ v[h]
        return out.transpose(0, 1).flatten(1)

    def heads(self, x):
        return x.view(x.shape[0], -1, HEAD)

    def block(self, n, x, e0, context, grid, angles):
        p = f"blocks.{n}."
        m = (self.w[p + "modulation"].float() + e0).squeeze(0)
        norm = lambda z: torch.nn.functional.layer_norm(z.float(), z.shape[-1:], eps=1e-6)
        a = (norm(x) * (1 + m[1]) + m[0]).to(self.dtype)
        s = p + "self_attn."
        q = rope(self.heads(self.rms(s + "norm_q", self.linear(s + "q", a))), grid, angles)
        k = rope(self.heads(self.rms(s + "norm_k", self.linear(s + "k", a))), grid, angles)
        y = self.linear(s + "o", self.attention(q, k, self.heads(self.linear(s + "v", a))))
        x = (x.float() + y.float() * m[2]).to(self.dtype)
        s = p + "cross_attn."
        b = (norm(x) * self.w[p + "norm3.weight"].float() + self.w[p + "norm3.bias"].float()).to(self.dtype)
        q = self.heads(self.rms(s + "norm_q", self.linear(s + "q", b)))
        k = self.heads(self.rms(s + "norm_k", self.linear(s + "k", context)))
        y = self.linear(s + "o", self.attention(q, k, self.heads(self.linear(s + "v", context))))
        x = x + y
        f = (norm(x) * (1 + m[4]) + m[3]).to(self.dtype)
        y = torch.nn.functional.gelu(self.linear(p + "ffn.0", f), approximate="tanh")
        y = self.linear(p + "ffn.2", y)
        return (x.float() + y.float() * m[5]).to(self.dtype)

    def forward(self, latent, context, timestep):
        c, t, h, w = latent.shape
        grid = (t, h // 2, w // 2)
        rows = latent.view(c, t, h // 2, 2, w // 2, 2).permute(1, 2, 4, 0, 3, 5).reshape(-1, 4 * c)
        x = self.linear("patch_embedding", rows)
        half = 128
        angle = timestep * 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
        f32 = Dit(self.w, torch.float32)  # the time path is float32 in Wan2.1 too
        e = f32.linear("time_embedding.2", torch.nn.functional.silu(
            f32.linear("time_embedding.0", torch.cat((angle.cos(), angle.sin())).float()[None])))
        e0 = f32.linear("time_projection.1", torch.nn.functional.silu(e)).view(1, 6, -1)
        full = torch.zeros(TEXT_LEN, context.shape[1], device=x.device, dtype=self.dtype)
        full[:context.shape[0]] = context.to(self.dtype)
        ctx = self.linear("text_embedding.2", torch.nn.functional.gelu(
            self.linear("text_embedding.0", full), approximate="tanh"))
        angles = rope_angles(grid, HEAD, x.device)
        seen = {}
        n = 0
        while f"blocks.{n}.modulation" in self.w:
            x = self.block(n, x, e0, ctx, grid, angles)
            seen[f"blocks.{n}"] = x
            n += 1
        m = self.w["head.modulation"].float() + e.unsqueeze(1)
        y = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=1e-6) * (1 + m[0, 1]) + m[0, 0]
        y = self.linear("head.head", y.to(self.dtype))
        y = y.view(t, h // 2, w // 2, 2, 2, c).permute(5, 0, 1, 3, 2, 4).reshape(c, t, h, w)
        seen["velocity"] = y
        return seen


def distance(got, want):
    got, want = got.double().flatten(), want.double().flatten()
    return ((got - want).norm() / want.norm()).item()


def main():
    torch.backends.cuda.matmul.allow_tf32 = False
    weights = {k: v.cuda() for k, v in load_file(sys.argv[1]).items()}
    given = load_file(sys.argv[2])
    ours = load_file(sys.argv[3])
    latent, context = given["latent"].cuda(), given["context"].cuda()
    with torch.inference_mode():
        exact = Dit(weights, torch.float32).forward(latent, context, 1000.0)
        rounded = Dit(weights, torch.bfloat16).forward(latent, context, 1000.0)
    failed = False
    for name, want in exact.items():
        if name not in ours:
            continue
        mine = ours[name][0] if name == "velocity" else ours[name]
        a, b = distance(mine.cuda().view_as(want), want), distance(rounded[name], want)
        verdict = "ok" if a <= 2 * b else "FAILED"
        failed |= a > 2 * b
        print(f"{name:12} tokens {latent[0].numel() // 4}: ours {a:.3g}, PyTorch bf16 {b:.3g}, "
              f"ratio {a / b:.2f} (at most 2) {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
