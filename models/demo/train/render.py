"""render.py - draw scenes of the demo world, many at once, on any device.

SPDX-License-Identifier: Apache-2.0

pack() turns scenes into a few tensors; render() draws them: each shape is a signed distance in
pixels (negative inside), its edge one pixel wide. A window of clips can be drawn alone, which is
what training on crops needs. No step waits for the device.
"""

from __future__ import annotations

import math

import torch

from scenes import COLORS, FRAMES, HEIGHT, SHAPES, WIDTH, Scene

_PATH = ("x0", "y0", "x1", "y1", "size0", "size1", "spin", "orbit", "turns", "hop", "hops", "phase")


def _signed(color: str) -> list[float]:
    return [c / 127.5 - 1 for c in COLORS[color]]


def pack(scenes: list[Scene], device: torch.device | str) -> dict[str, torch.Tensor]:
    """The scenes as tensors: first, last [N,3] and axis [N,2] of the backgrounds; of the first
    objects and of the second ones (which some clips lack) a list a shape: clip [M], path [M,12],
    color [M,3]."""
    axes = {"plain": (0.0, 0.0), "down": (0.0, 1.0), "right": (1.0, 0.0)}
    packed = {
        "first": torch.tensor([_signed(s.background[0]) for s in scenes]),
        "last": torch.tensor([_signed(s.background[-1]) for s in scenes]),
        "axis": torch.tensor([axes[s.direction] for s in scenes]),
    }
    for slot in (0, 1):
        for shape in SHAPES:
            rows = [(i, s.things[slot]) for i, s in enumerate(scenes)
                    if len(s.things) > slot and s.things[slot].shape == shape]
            if rows:
                name = f"{slot}.{shape}."
                packed[name + "clip"] = torch.tensor([i for i, _ in rows])
                packed[name + "path"] = torch.tensor(
                    [[float(getattr(thing, key)) for key in _PATH] for _, thing in rows])
                packed[name + "color"] = torch.tensor([_signed(thing.color) for _, thing in rows])
    return {name: value.to(device) for name, value in packed.items()}


# --- shapes: distance of (u, v) from the edge, v downwards, for an object of a size ---------------


def _circle(u, v, size):
    return torch.hypot(u, v) - size


def _square(u, v, size):
    return torch.maximum(u.abs(), v.abs()) - 0.855 * size


def _triangle(u, v, size):
    side = u.abs() * (math.sqrt(3) / 2) - v * 0.5
    return torch.maximum(side, v) - 0.65 * size


def _star(u, v, size):
    """Five points at 1.3 of the size, the corners between them at 0.46 of that."""
    tip, inner, half = 1.3, 1.3 * 0.46, math.pi / 5
    away = torch.hypot(u, v)
    turn = torch.atan2(u, -v)
    turn = (turn - torch.round(turn / (2 * half)) * (2 * half)).abs()
    # The edge runs from the tip at (tip, 0) to the inner corner.
    dx, dy = inner * math.cos(half) - tip, inner * math.sin(half)
    length = math.hypot(dx, dy)
    nx, ny = dy / length, -dx / length
    return away * (torch.cos(turn) * nx + torch.sin(turn) * ny) - size * (tip * nx)


def _ring(u, v, size):
    return (torch.hypot(u, v) - 0.815 * size).abs() - 0.265 * size


def _cross(u, v, size):
    a, b = u.abs(), v.abs()
    longer, shorter = torch.maximum(a, b), torch.minimum(a, b)
    return torch.maximum(longer - 1.12 * size, shorter - 0.38 * size)


_DISTANCE = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star,
             "ring": _ring, "cross": _cross}


# --- drawing --------------------------------------------------------------------------------------


def _coverage(shape: str, path: torch.Tensor, t, y, x) -> torch.Tensor:
    """How much of each pixel an object covers, [M,T,H,W]. t [M,T], y [M,H], x [M,W]."""
    p = {key: path[:, i : i + 1] for i, key in enumerate(_PATH)}
    turn = 2 * math.pi * (p["phase"] + p["turns"] * t)
    u = torch.frac(p["phase"] + p["hops"] * t)
    cx = p["x0"] + (p["x1"] - p["x0"]) * t + p["orbit"] * torch.cos(turn)
    cy = p["y0"] + (p["y1"] - p["y0"]) * t + p["orbit"] * torch.sin(turn)
    cy = cy - p["hop"] * 4 * u * (1 - u)
    size = (p["size0"] * (p["size1"] / p["size0"]) ** t)[:, :, None, None]
    angle = (2 * math.pi * p["spin"] * t)[:, :, None, None]
    dx = (x[:, None, :] - cx[:, :, None])[:, :, None, :]
    dy = (y[:, None, :] - cy[:, :, None])[:, :, :, None]
    if shape in ("circle", "ring"):
        distance = _DISTANCE[shape](dx, dy, size)
    else:
        c, s = torch.cos(angle), torch.sin(angle)
        distance = _DISTANCE[shape](c * dx + s * dy, c * dy - s * dx, size)
    return (0.5 - distance).clamp_(0, 1)


def _background(packed, y, x) -> torch.Tensor:
    """[N,3,1,H,W]: it does not change with time."""
    axis = packed["axis"]
    part = (axis[:, 0:1] * x / WIDTH)[:, None, :] + (axis[:, 1:2] * y / HEIGHT)[:, :, None]
    first, last = (packed[key][:, :, None, None] for key in ("first", "last"))
    return (first + (last - first) * part[:, None])[:, :, None]


@torch.no_grad()
def render(
    packed: dict[str, torch.Tensor],
    origin: torch.Tensor | None = None,
    window: tuple[int, int, int] = (FRAMES, HEIGHT, WIDTH),
) -> torch.Tensor:
    """[N,3,T,H,W] in [-1,1]. `origin` [N,3]: first frame, row, column of each clip's window."""
    n, device = packed["first"].shape[0], packed["first"].device
    if origin is None:
        origin = torch.zeros(n, 3, device=device)
    t, y, x = (origin[:, i : i + 1].to(device=device, dtype=torch.float32)
               + torch.arange(window[i], device=device, dtype=torch.float32) for i in range(3))
    t, y, x = t / (FRAMES - 1), y + 0.5, x + 0.5
    video = _background(packed, y, x).expand(-1, -1, window[0], -1, -1).contiguous()
    for slot in (0, 1):
        for shape in SHAPES:
            name = f"{slot}.{shape}."
            if name + "clip" not in packed:
                continue
            clip = packed[name + "clip"]
            cover = _coverage(shape, packed[name + "path"], t[clip], y[clip], x[clip])
            color = packed[name + "color"][:, :, None, None, None]
            below = video[clip]
            video[clip] = below + cover[:, None] * (color - below)
    return video


def to_bytes(video: torch.Tensor) -> torch.Tensor:
    """[N,3,T,H,W] in [-1,1] as the pipeline rounds it: [N,T,H,W,3] of bytes."""
    return ((video + 1) * 127.5 + 0.5).floor().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)
