"""dit.py - the diffusion transformer: Wan2.1's for text to video, with its checkpoint's names.

SPDX-License-Identifier: Apache-2.0

Linears and attention follow autocast; the residual, norms, modulation, rotation, the timesteps'
path and the head are float32. The context's padding, which Wan attends to without a mask, is one
key with ln(its number of rows) added to its score: the same softmax with fewer keys.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from text import RowNorm

EPS = 1e-6
HEAD_DIM = 128
MAX_SIDE = 128  # of the grid of tokens, on any axis


@dataclass(frozen=True)
class DitConfig:
    dim: int = 256  # heads are 128 wide
    ffn_dim: int = 1024
    n_layers: int = 6
    freq_dim: int = 256
    text_dim: int = 128
    text_len: int = 512
    channels: int = 16

    @property
    def n_heads(self) -> int:
        return self.dim // HEAD_DIM


class Linear(nn.Linear):
    """One of a block's ten; how it multiplies can be exchanged."""

    @staticmethod
    def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)


class AffineNorm(nn.Module):
    """LayerNorm with gain and bias, in float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, EPS)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without parameters, times 1 + scale, plus shift; float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=EPS) * (1 + scale) + shift


def rope_tables() -> list[Tensor]:
    """[MAX_SIDE, n, 2] of cosines and sines for time, height and width; n is 22, 21, 21 of 64."""
    tables = []
    for n in (22, 21, 21):
        freq = 10000.0 ** (-torch.arange(n, dtype=torch.float64) / n)
        angle = torch.arange(MAX_SIDE, dtype=torch.float64)[:, None] * freq
        tables.append(torch.stack((angle.cos(), angle.sin()), -1).float())
    return tables


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x [N, S, H, 128] float32, angles [S, 1, 64, 2]; pairs are neighbours."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim)
        self.o = Linear(dim, dim)
        self.norm_q = RowNorm(dim)
        self.norm_k = RowNorm(dim)

    @staticmethod
    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, HEAD_DIM))

    @staticmethod
    def joined(x: Tensor, *linears: Linear) -> tuple[Tensor, ...]:
        """Several linears of one input as one product, which reads it once."""
        weight = torch.cat([linear.weight for linear in linears])
        bias = torch.cat([linear.bias for linear in linears])
        return linears[0].product(x, weight, bias).chunk(len(linears), -1)


class SelfAttention(Attention):
    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k, v = self.joined(x, self.q, self.k, self.v)
        q = rotate(self.heads(self.norm_q(q)), angles).to(v.dtype)
        k = rotate(self.heads(self.norm_k(k)), angles).to(v.dtype)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2),
                                             self.heads(v).transpose(1, 2))
        return self.o(out.transpose(1, 2).flatten(2))


class CrossAttention(Attention):
    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        """text [N, L + 1, dim], bias [N, 1, 1, L + 1] to its keys' scores; the keys are so few
        that plain products are quickest."""
        k, v = self.joined(text, self.k, self.v)
        q = self.heads(self.norm_q(self.q(x)) * HEAD_DIM ** -0.5).to(v.dtype).transpose(1, 2)
        k = self.heads(self.norm_k(k)).to(v.dtype).permute(0, 2, 3, 1)
        weights = ((q @ k).float() + bias).softmax(-1).to(v.dtype)
        out = weights @ self.heads(v).transpose(1, 2)
        return self.o(out.transpose(1, 2).flatten(2))

    @torch.no_grad()
    def ignore_padding(self, score: float = 6.0) -> None:
        """A start at which the padding, hundreds of equal keys, weighs about as much as one: their
        key, which is the bias's direction at full length, scores -6 with all queries. Begun with
        zero biases, the words get a twentieth of the attention, and as little of the gradients."""
        along = F.normalize(torch.randn(self.k.bias.numel() // HEAD_DIM, HEAD_DIM), dim=1)
        self.k.bias.copy_(0.02 * HEAD_DIM ** 0.5 * along.flatten())
        self.q.bias.copy_(-score * 2 ** 0.5 * along.flatten())


class Block(nn.Module):
    def __init__(self, config: DitConfig):
        super().__init__()
        dim = config.dim
        self.self_attn = SelfAttention(dim)
        self.norm3 = AffineNorm(dim)
        self.cross_attn = CrossAttention(dim)
        self.ffn = nn.Sequential(Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"),
                                 Linear(config.ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x: Tensor, e0: Tensor, angles: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        """x [N, S, dim] float32, e0 [N, 6, dim]."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (self.modulation + e0).split(1, 1)
        x = x + self.self_attn(modulated(x, shift_a, scale_a), angles).float() * gate_a
        x = x + self.cross_attn(self.norm3(x), text, bias).float()
        return x + self.ffn(modulated(x, shift_f, scale_f)).float() * gate_f


class Head(nn.Module):
    def __init__(self, config: DitConfig):
        super().__init__()
        self.head = nn.Linear(config.dim, 4 * config.channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e.unsqueeze(1)).split(1, 1)
        return self.head(modulated(x, shift, scale))


class DiT(nn.Module):
    """Velocity [N, 16, T, h, w] of normalised latents x of that shape.

    timestep [N] is 1000 times the noise level; context [N, L, text_dim] is the text encoder's, of
    which the first lengths [N] rows of each count.
    """

    def __init__(self, config: DitConfig = DitConfig()):
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.channels, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim),
                                            nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(),
                                            nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.head = Head(config)
        half = config.freq_dim // 2
        freq = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("freq", freq, persistent=False)
        for name, table in zip("thw", rope_tables()):
            self.register_buffer(f"rope_{name}", table, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """The velocity begins at zero, gates at a fifth; everything else keeps variance."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for index in (0, 2):
            nn.init.normal_(self.time_embedding[index].weight, std=0.02)
        nn.init.normal_(self.time_projection[1].weight, std=0.02)
        for block in self.blocks:
            nn.init.normal_(block.modulation, std=0.02)
            block.modulation.data[:, (2, 5)] += 0.2
            block.cross_attn.ignore_padding()
        nn.init.normal_(self.head.modulation, std=0.02)
        nn.init.zeros_(self.head.head.weight)

    def patchify(self, x: Tensor) -> Tensor:
        """[N, C, T, h, w] to rows [N, T * h/2 * w/2, 4 C]; the channel is slowest in a row."""
        n, c, t, h, w = x.shape
        x = x.view(n, c, t, h // 2, 2, w // 2, 2)
        return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(n, t * (h // 2) * (w // 2), 4 * c)

    def unpatchify(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The head's rows: here the channel is fastest."""
        n, c, t, h, w = shape
        x = rows.view(n, t, h // 2, w // 2, 2, 2, c)
        return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(shape)

    def angles(self, t: int, h: int, w: int) -> Tensor:
        """[S, 1, 64, 2] of the grid's tokens."""
        parts = (self.rope_t[:t, None, None].expand(t, h, w, -1, -1),
                 self.rope_h[None, :h, None].expand(t, h, w, -1, -1),
                 self.rope_w[None, None, :w].expand(t, h, w, -1, -1))
        return torch.cat(parts, 3).reshape(t * h * w, 1, HEAD_DIM // 2, 2)

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """e [N, dim] and e0 [N, 6, dim]."""
        angle = timestep.double()[:, None] * self.freq
        e = self.time_embedding(torch.cat((angle.cos(), angle.sin()), 1).float())
        return e, self.time_projection(e).unflatten(1, (6, -1))

    def key_bias(self, lengths: Tensor, n_rows: int) -> Tensor:
        """[N, 1, 1, n_rows + 1]: 0 for real rows, none of the others, ln(padding) for the last.

        No padding at all would be ln(0); then the last key gets the smallest number instead.
        """
        least = torch.finfo(torch.float32).min / 2
        at = torch.arange(n_rows, device=lengths.device)
        rows = torch.where(at[None] < lengths[:, None], 0.0, least)
        padding = (self.config.text_len - lengths).float()
        last = torch.where(padding > 0, padding.clamp_min(1.0).log(), least)
        return torch.cat((rows, last[:, None]), 1)[:, None, None]

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        shape = x.shape
        angles = self.angles(shape[2], shape[3] // 2, shape[4] // 2)
        bias = self.key_bias(lengths, context.shape[1])
        with torch.autocast(x.device.type, enabled=False):
            e, e0 = self.embed_time(timestep)
            text = self.text_embedding(F.pad(context.float(), (0, 0, 0, 1)))
            weight = self.patch_embedding.weight.flatten(1)
            x = F.linear(self.patchify(x.float()), weight, self.patch_embedding.bias)
        for block in self.blocks:
            x = block(x, e0, angles, text, bias)
        with torch.autocast(x.device.type, enabled=False):
            return self.unpatchify(self.head(x, e), shape)


# --- sampling ---------------------------------------------------------------------------------


def schedule(steps: tuple[int, ...] = (1000, 750, 500, 250), shift: float = 5.0) -> list[float]:
    """Noise levels of the step-distilled sampler: 1, 0.9375, 0.8333, 0.625 as it stands."""
    levels = [shift * n / 1000 / (1 + (shift - 1) * n / 1000) for n in steps]
    return torch.tensor(levels, dtype=torch.float64).float().tolist()


@torch.no_grad()
def sample(model: nn.Module, noise: Tensor, context: Tensor, lengths: Tensor,
           levels: list[float] | None = None) -> Tensor:
    """Deterministic Euler steps over the levels and then to 0, as `lx2v-dit` takes them."""
    levels = schedule() if levels is None else levels
    x = noise.float()
    for level, after in zip(levels, levels[1:] + [0.0]):
        timestep = torch.full((x.shape[0],), level * 1000.0, device=x.device)
        v = model(x, timestep, context, lengths).float()
        x = x - level * v + after * v
    return x
