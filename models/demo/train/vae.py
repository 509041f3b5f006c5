"""vae.py - the video VAE: Wan2.1's decoder, and an encoder of our own that only training needs.

SPDX-License-Identifier: Apache-2.0

The decoder's state dict has the names of Wan2.1_VAE.pth, so that an export is a dump. It is written
for a whole clip at once; the C code decodes the same function frame by frame. A clip's first frame
stands alone: it bypasses the temporal upsampling and is not in its history.

Layout: tensors are [N, C, T, H, W]; in memory channels come last (`channels_last_3d`) where that is
quicker, which makes frames [N * T, C, H, W] a view.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Z_DIM = 16
N_COLORS = 3  # of the encoder's channels

# Of normalised latents; fixed in Wan2.1 and in the C code.
LATENT_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
               0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
LATENT_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


@dataclass(frozen=True)
class VaeConfig:
    """Widths of the decoder are dim * (4, 4, 4, 2, 1): after conv1, then of the four stages."""
    dim: int = 16
    n_blocks: int = 3  # residual blocks per stage
    encoder_width: int = 160
    encoder_blocks: int = 3
    conv: str = "3d"  # or "fold": three frames as channels of a 2-D convolution; same numbers

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.dim * n for n in (4, 4, 4, 2, 1))


def channel_constants(like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation as [1, 16, 1, 1, 1]."""
    shape = (1, Z_DIM, 1, 1, 1)
    mean = torch.tensor(LATENT_MEAN, dtype=torch.float32, device=like.device).view(shape)
    return mean, torch.tensor(LATENT_STD, dtype=torch.float32, device=like.device).view(shape)


def denormalise(latent: Tensor) -> Tensor:
    """What the sampler makes, to what the decoder reads."""
    mean, std = channel_constants(latent)
    return latent * std + mean


def normalise(raw: Tensor) -> Tensor:
    mean, std = channel_constants(raw)
    return (raw - mean) / std


# --- parts ------------------------------------------------------------------------------------


class ChannelNorm(nn.Module):
    """x / max(|x|, 1e-12) * sqrt(C) * gamma over the channels of each pixel, in float32."""

    def __init__(self, channels: int, n_dims: int = 3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * n_dims))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        length = wide.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        gain = self.gamma.float() * self.gamma.shape[0] ** 0.5
        return (wide / length * gain).to(x.dtype)


class NormSilu(ChannelNorm):
    """ChannelNorm and SiLU with one rounding."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        length = wide.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        gain = self.gamma.float() * self.gamma.shape[0] ** 0.5
        return F.silu(wide / length * gain).to(x.dtype)


def as_frames(x: Tensor) -> Tensor:
    """[N, C, T, H, W] to [N * T, C, H, W]; a view where channels come last."""
    return x.transpose(1, 2).flatten(0, 1)


def as_clips(x: Tensor, n: int) -> Tensor:
    """The way back."""
    return x.unflatten(0, (n, -1)).transpose(1, 2)


class CausalConv3d(nn.Conv3d):
    """Zeros around each frame; before the first two frames of zeros, after the last none."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int] = (3, 3, 3),
                 form: str = "3d"):
        super().__init__(c_in, c_out, kernel)
        self.side = (kernel[1] - 1) // 2
        self.history = kernel[0] - 1
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        if self.history == 0:
            return F.conv3d(x, self.weight, self.bias)
        padded = F.pad(x, (0, 0, 0, 0, self.history, 0))
        if self.form == "fold":
            return self.folded(padded, x.shape[2])
        return F.conv3d(padded, self.weight, self.bias, padding=(0, self.side, self.side))

    def folded(self, padded: Tensor, n_frames: int) -> Tensor:
        shifted = [padded[:, :, i:i + n_frames] for i in range(self.history + 1)]
        frames = as_frames(torch.cat(shifted, 1))
        kernel = self.weight.transpose(1, 2).flatten(1, 2)  # [out, time * in, kh, kw]
        return as_clips(F.conv2d(frames, kernel, self.bias, padding=self.side), padded.shape[0])


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, form: str):
        super().__init__()
        self.residual = nn.Sequential(
            NormSilu(c_in), nn.Identity(), CausalConv3d(c_in, c_out, form=form),
            NormSilu(c_out), nn.Identity(), nn.Identity(), CausalConv3d(c_out, c_out, form=form))
        self.shortcut = CausalConv3d(c_in, c_out, (1, 1, 1)) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class AttentionBlock(nn.Module):
    """One head over all pixels of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = as_frames(x)
        rows = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).unsqueeze(1)
        q, k, v = rows.chunk(3, -1)  # [N * T, 1, H * W, C]
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed.squeeze(1).transpose(1, 2).reshape(frames.shape)
        return x + as_clips(self.proj(mixed), x.shape[0])


class Double(nn.Module):
    """Twice the height and width by copying; frames [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Upsample(nn.Module):
    """First in time (not the clip's first frame), then in height and width; half the channels."""

    def __init__(self, channels: int, in_time: bool, form: str):
        super().__init__()
        self.resample = nn.Sequential(Double(), nn.Conv2d(channels, channels // 2, 3, padding=1))
        if in_time:
            self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1), form)
        self.in_time = in_time

    def lengthen(self, x: Tensor) -> Tensor:
        if x.shape[2] == 1:
            return x
        pairs = self.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))  # [N, 2, C, T - 1, H, W]
        later = pairs.movedim(1, 3).flatten(2, 3)
        return torch.cat((x[:, :, :1], later.to(x.dtype)), 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_time:
            x = self.lengthen(x)
        return as_clips(self.resample(as_frames(x)), x.shape[0])


# --- decoder ----------------------------------------------------------------------------------


class DecoderBody(nn.Module):
    """All that is below `decoder.` in the checkpoint."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        widths, form = config.widths, config.conv
        self.conv1 = CausalConv3d(Z_DIM, widths[0], form=form)
        self.middle = nn.Sequential(ResidualBlock(widths[0], widths[0], form),
                                    AttentionBlock(widths[0]),
                                    ResidualBlock(widths[0], widths[0], form))
        layers: list[nn.Module] = []
        c_in = widths[0]
        for stage, c_out in enumerate(widths[1:]):
            for _ in range(config.n_blocks):
                layers.append(ResidualBlock(c_in, c_out, form))
                c_in = c_out
            if stage < 3:
                layers.append(Upsample(c_out, stage < 2, form))
                c_in = c_out // 2
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(NormSilu(c_in), nn.Identity(), CausalConv3d(c_in, 3, form=form))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class VaeDecoder(nn.Module):
    """Raw latents [N, 16, T, h, w] to frames [N, 3, 4(T-1)+1, 8h, 8w] around -1..1, unclamped."""

    def __init__(self, config: VaeConfig = VaeConfig()):
        super().__init__()
        self.config = config
        self.conv2 = CausalConv3d(Z_DIM, Z_DIM, (1, 1, 1))
        self.decoder = DecoderBody(config)
        self.apply(initialise)

    def forward(self, raw: Tensor) -> Tensor:
        raw = raw.contiguous(memory_format=torch.channels_last_3d)
        return self.decoder(self.conv2(raw))


def initialise(module: nn.Module) -> None:
    """Variance kept by convolutions; a residual branch adds little at first."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        nn.init.zeros_(module.bias)
    if isinstance(module, ResidualBlock):
        module.residual[6].weight.data *= 0.3
    if isinstance(module, EncoderBlock):
        module.residual[3].weight.data *= 0.3
    if isinstance(module, AttentionBlock):
        module.proj.weight.data *= 0.3


# --- encoder ----------------------------------------------------------------------------------


class EdgeConv3d(CausalConv3d):
    """Copies of the outermost pixels around each frame and of the first frame before it, so that
    what does not change in space or time has the same latents everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x[:, :, :1],) * self.history + (x,), 2)
        for axis in (3, 4):
            last = x.shape[axis] - 1
            x = torch.cat((x.narrow(axis, 0, 1), x, x.narrow(axis, last, 1)), axis)
        return F.conv3d(x, self.weight, self.bias)


class EncoderBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.residual = nn.Sequential(NormSilu(width), EdgeConv3d(width, width),
                                      NormSilu(width), EdgeConv3d(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


class VaeEncoder(nn.Module):
    """Frames [N, 3, 4(T-1)+1, H, W] to mean and log-variance [N, 16, T, H/8, W/8] of raw latents.

    Not Wan's: a patch of 8x8 pixels by 4 frames (the first frame four times) becomes one vector,
    and all convolutions run at the latents' size. Causal in groups of 4 frames, as the decoder is.
    The first three channels are the patch's mean colour, as it is: what a DiT has to place first
    is plain to see, and the other channels are left for what a patch has of edges. Its weights are
    not exported.
    """

    def __init__(self, config: VaeConfig = VaeConfig()):
        super().__init__()
        width = config.encoder_width
        self.patch = nn.Conv3d(4 * 3 * 64, 2 * width, 1)
        self.conv1 = EdgeConv3d(2 * width, width)
        self.blocks = nn.Sequential(*(EncoderBlock(width) for _ in range(config.encoder_blocks)))
        self.norm = NormSilu(width)
        self.head = EdgeConv3d(width, 2 * Z_DIM - N_COLORS)
        self.register_buffer("color_gain", torch.full((N_COLORS,), 2.0))
        self.register_buffer("color_shift", torch.zeros(N_COLORS))
        self.apply(initialise)
        nn.init.constant_(self.head.bias[Z_DIM - N_COLORS:], -4.0)  # begin with little noise

    @staticmethod
    def patches(video: Tensor) -> Tensor:
        """[N, T, h, w, 4, 3, 64]."""
        n, c, frames, height, width = video.shape
        first = video[:, :, :1].expand(-1, -1, 4, -1, -1)
        video = torch.cat((first, video[:, :, 1:]), 2)
        x = video.view(n, c, (frames + 3) // 4, 4, height // 8, 8, width // 8, 8)
        return x.permute(0, 2, 4, 6, 3, 1, 5, 7).flatten(6)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patches(video)
        color = patches.float().mean((4, 6)) * self.color_gain + self.color_shift
        x = self.conv1(F.silu(self.patch(patches.flatten(4).movedim(4, 1))))
        made = self.head(self.norm(self.blocks(x))).float()
        detail, logvar = made.split((Z_DIM - N_COLORS, Z_DIM), 1)
        return torch.cat((color.movedim(4, 1), detail), 1), logvar.clamp(-20.0, 4.0)


@torch.no_grad()
def fold_statistics(encoder: VaeEncoder, decoder: VaeDecoder, mean: Tensor, std: Tensor) -> None:
    """Move to the fixed constants: given [16] of what the encoder makes now, change its head so
    that it makes LATENT_MEAN and LATENT_STD, and conv2 so that the decoder takes them as before."""
    constants = channel_constants(mean)
    want_mean, want_std = constants[0].view(-1).double(), constants[1].view(-1).double()
    scale = want_std / std.double()
    shift = want_mean - scale * mean.double()
    n, weight, bias = Z_DIM - N_COLORS, encoder.head.weight, encoder.head.bias
    encoder.color_gain.mul_(scale[:N_COLORS])
    encoder.color_shift.mul_(scale[:N_COLORS]).add_(shift[:N_COLORS])
    weight[:n] = weight[:n] * scale[N_COLORS:].view(-1, 1, 1, 1, 1)
    bias[:n] = bias[:n] * scale[N_COLORS:] + shift[N_COLORS:]
    bias[n:] += 2 * scale.log()
    weight, bias = decoder.conv2.weight, decoder.conv2.bias
    narrowed = weight.double() / scale.view(1, -1, 1, 1, 1)
    bias -= (narrowed * shift.view(1, -1, 1, 1, 1)).sum((1, 2, 3, 4))
    weight.copy_(narrowed)
