"""text.py - the text encoder: UMT5's, with the names of models_t5_umt5-xxl-enc-bf16.pth.

SPDX-License-Identifier: Apache-2.0

Every layer has its own table of relative positions; scores are not scaled; no biases. It is small
here and runs in float32 whatever autocast says.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
MAX_LENGTH = 512
MAX_DISTANCE = 128


@dataclass(frozen=True)
class TextConfig:
    vocab: int = 512
    dim: int = 128
    dim_attn: int = 128
    dim_ffn: int = 256
    n_heads: int = 4
    n_layers: int = 3
    n_buckets: int = 32


def bucket_of(offset: int, n_buckets: int) -> int:
    """Of a key `offset` tokens after the query (before it: negative)."""
    half = n_buckets // 2
    exact = half // 2
    base = half if offset > 0 else 0
    distance = abs(offset)
    if distance < exact:
        return base + distance
    step = math.log(distance / exact) / math.log(MAX_DISTANCE / exact)
    return base + min(half - 1, exact + int(step * (half - exact) + 1e-9))


class RowNorm(nn.Module):
    """x * rsqrt(mean(x^2) + eps) * weight over the last axis, in float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS) * self.weight


class Attention(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.q = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.k = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.v = nn.Linear(config.dim, config.dim_attn, bias=False)
        self.o = nn.Linear(config.dim_attn, config.dim, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """bias [N or 1, heads, L, L] is added to the scores."""
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        weights = (q @ k.transpose(-1, -2) + bias).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        gate = nn.Linear(config.dim, config.dim_ffn, bias=False)
        self.gate = nn.Sequential(gate, nn.GELU(approximate="tanh"))
        self.fc1 = nn.Linear(config.dim, config.dim_ffn, bias=False)
        self.fc2 = nn.Linear(config.dim_ffn, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x) * self.gate(x))


class RelativePositions(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.n_buckets, config.n_heads)

    @torch.no_grad()
    def look_around(self, n_buckets: int) -> None:
        """The first head looks at the word before, the second at the one after, the third at what
        is near, all others at everything."""
        table = self.embedding.weight.zero_()
        for offset in range(-MAX_DISTANCE, MAX_DISTANCE + 1):
            row, far = table[bucket_of(offset, n_buckets)], -0.5 * abs(offset)
            row[0] = 4.0 if offset == -1 else 0.0
            row[1] = 4.0 if offset == 1 else 0.0
            row[2] = far if row[2] == 0.0 else max(float(row[2]), far)

    def forward(self, buckets: Tensor) -> Tensor:
        """buckets [L, L] to [1, heads, L, L]."""
        return self.embedding(buckets).permute(2, 0, 1).unsqueeze(0)


class Block(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.norm1 = RowNorm(config.dim)
        self.attn = Attention(config)
        self.norm2 = RowNorm(config.dim)
        self.ffn = FeedForward(config)
        self.pos_embedding = RelativePositions(config)

    def forward(self, x: Tensor, buckets: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.pos_embedding(buckets) + mask)
        return x + self.ffn(self.norm2(x))


class TextEncoder(nn.Module):
    """ids [N, L] of which the first lengths [N] of each row count, to context [N, L, dim].

    Rows from a length on are zeros, as the DiT's padding is; they change no other row.
    """

    def __init__(self, config: TextConfig = TextConfig()):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RowNorm(config.dim)
        table = [bucket_of(i, config.n_buckets) for i in range(-MAX_LENGTH, MAX_LENGTH + 1)]
        self.register_buffer("bucket_table", torch.tensor(table), persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """T5's: q is small because scores are not scaled. Positions begin with a look at what
        stands before and after a word: from random tables it takes very long to learn whose colour
        a colour is."""
        c = self.config
        nn.init.normal_(self.token_embedding.weight, std=1.0)
        for block in self.blocks:
            nn.init.normal_(block.attn.q.weight, std=(c.dim * c.dim_attn / c.n_heads) ** -0.5)
            for linear in (block.attn.k, block.attn.v, block.ffn.gate[0], block.ffn.fc1):
                nn.init.normal_(linear.weight, std=c.dim ** -0.5)
            nn.init.normal_(block.attn.o.weight, std=c.dim_attn ** -0.5)
            nn.init.normal_(block.ffn.fc2.weight, std=c.dim_ffn ** -0.5)
            block.pos_embedding.look_around(c.n_buckets)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, enabled=False):
            return self.encode(ids, lengths)

    def encode(self, ids: Tensor, lengths: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1], device=ids.device)
        buckets = self.bucket_table[at[None, :] - at[:, None] + MAX_LENGTH]
        is_real = at[None, :] < lengths[:, None]
        mask = torch.zeros_like(is_real, dtype=torch.float32)
        mask = mask.masked_fill(~is_real, torch.finfo(torch.float32).min / 2)[:, None, None]
        x = F.embedding(ids, self.token_embedding.weight).float()
        for block in self.blocks:
            x = block(x, buckets, mask)
        return self.norm(x) * is_real.unsqueeze(-1)
