"""scenes.py - the demo world's scenes: what can be in a clip, and how one is drawn by lot.

SPDX-License-Identifier: Apache-2.0

A clip is 128x128 pixels, 33 frames, 16 a second, and shows one moving object or two that rest.
A Scene holds all numbers of one clip: what its caption says (shape, colour, background, motion)
and what the caption leaves open (where, how fast, how big exactly), which is random. Some of it is
not: what turns or goes around does so clockwise, an orbit begins at its top, and on an axis that it
does not move along an object lies about the middle. A small model draws the mean of what it cannot
tell apart, and a mean of angles is blur.

Every path is one formula with t from 0 (first frame) to 1 (last):
    x = x0 + (x1 - x0) t + orbit cos(2 pi (phase + turns t))
    y = y0 + (y1 - y0) t + orbit sin(2 pi (phase + turns t)) - hop 4 u (1 - u)
    size = size0 (size1 / size0)^t,  angle = 2 pi spin t,  u = fraction of (phase + hops t)

Held out: about 6 % of the combinations of what is shown, chosen by a hash, never occur in "train".
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

WIDTH = HEIGHT = 128
FRAMES = 33
FPS = 16

COLORS = {
    "red": (220, 20, 30),
    "orange": (255, 135, 0),
    "yellow": (255, 230, 40),
    "green": (30, 160, 50),
    "cyan": (40, 210, 225),
    "blue": (20, 70, 230),
    "purple": (150, 30, 175),
    "pink": (255, 135, 195),
    "white": (250, 250, 250),
    "black": (12, 12, 12),
    "gray": (130, 130, 130),
    "brown": (120, 65, 20),
}
OBJECT_COLORS = [name for name in COLORS if name not in ("gray", "brown")]
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross"]
STRAIGHT = {  # a motion along a line: its direction, y downwards
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up_left": (-1, -1),
    "up_right": (1, -1),
    "down_left": (-1, 1),
    "down_right": (1, 1),
}
MOTIONS = [*STRAIGHT, "bounce", "grow", "shrink", "spin", "orbit", "still"]
RELATIONS = ["above", "below", "left", "right"]
SPLITS = ("train", "held_out")

# The farthest point of a shape from its centre, in units of its size: shapes of one size have
# about the same area.
REACH = {"circle": 1.0, "square": 1.21, "triangle": 1.3, "star": 1.3, "ring": 1.08, "cross": 1.2}
SIZES = {"small": (12.5, 14.5), "medium": (17.0, 21.0), "big": (26.0, 29.0)}  # pixels
MARGIN = 3.0  # pixels between any object and the border
FROM_MIDDLE = 22.0  # pixels: how far from an axis' middle what does not move along it may lie
TRAVEL = 44.0  # least way of what moves, pixels: a third of the width
HELD_OUT_PERMILLE = 60


@dataclass
class Thing:
    """One object and its path; all lengths in pixels, angles in turns."""

    shape: str
    color: str
    size: str  # small, medium, big; "" where it grows or shrinks
    x0: float = 0.0
    y0: float = 0.0
    x1: float = 0.0
    y1: float = 0.0
    size0: float = 0.0
    size1: float = 0.0
    spin: float = 0.0
    orbit: float = 0.0
    turns: float = 0.0
    hop: float = 0.0
    hops: float = 0.0
    phase: float = 0.0


@dataclass
class Scene:
    """All of one clip. background: one colour, or two and the way from the first to the second."""

    things: list[Thing]
    background: list[str]
    direction: str  # "plain", "down" (top to bottom), "right" (left to right)
    motion: str
    relation: str = ""  # of the first to the second: above, below, left, right; "" if alone


def truths(scene: Scene) -> dict:
    """What a judge must find in the clip."""
    return {
        "objects": [{"shape": thing.shape, "color": thing.color} for thing in scene.things],
        "background": list(scene.background),
        "direction": scene.direction,
        "motion": scene.motion,
        "relation": scene.relation,
    }


def _choices(*names: str) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


# What a caption can say, as numbers: a question and its answers.
FACTS = {
    "shape": _choices(*SHAPES),
    "color": _choices(*OBJECT_COLORS),
    "size": _choices("", *SIZES),
    "second shape": _choices("", *SHAPES),
    "second color": _choices("", *OBJECT_COLORS),
    "second size": _choices("", *SIZES),
    "first background": _choices(*COLORS),
    "last background": _choices(*COLORS),
    "direction": _choices("plain", "down", "right"),
    "motion": _choices(*MOTIONS),
    "relation": _choices("", "above", "left"),
}


def facts(scene: Scene) -> list[int]:
    """The answers to FACTS. Of two objects the first is the upper or the left one, however it is
    said, so that one picture has one answer."""
    things, relation = scene.things, scene.relation
    if relation in ("below", "right"):
        things, relation = things[::-1], "above" if relation == "below" else "left"
    first, second = things[0], things[-1]
    pair = [second.shape, second.color, second.size] if relation else ["", "", ""]
    answers = [first.shape, first.color, first.size, *pair, scene.background[0],
               scene.background[-1], scene.direction, scene.motion, relation]
    return [choices[answer] for choices, answer in zip(FACTS.values(), answers)]


# --- colours that go together ---------------------------------------------------------------------


def _lab(rgb: tuple[float, ...]) -> tuple[float, float, float]:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in
              (c / 255 for c in rgb)]
    r, g, b = linear
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _apart(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float]:
    """How far two colours lie apart: in RGB and in CIE Lab."""
    la, lb = _lab(a), _lab(b)
    return (
        sum((p - q) ** 2 for p, q in zip(a, b)) ** 0.5,
        sum((p - q) ** 2 for p, q in zip(la, lb)) ** 0.5,
    )


def _is_clear(a: tuple[float, ...], b: tuple[float, ...], rgb: float, lab: float) -> bool:
    d_rgb, d_lab = _apart(a, b)
    return d_rgb >= rgb and d_lab >= lab


def _goes(color: str, background: list[str]) -> bool:
    """Whether an object of that colour is clearly seen everywhere on a background."""
    a, b = COLORS[background[0]], COLORS[background[-1]]
    steps = [tuple(p + (q - p) * i / 8 for p, q in zip(a, b)) for i in range(9)]
    return all(_is_clear(COLORS[color], step, 125.0, 45.0) for step in steps)


def _backgrounds() -> list[list[str]]:
    plain = [[name] for name in COLORS]
    pairs = [[a, b] for a in COLORS for b in COLORS
             if a != b and _is_clear(COLORS[a], COLORS[b], 150.0, 60.0)]
    return plain + pairs


_FITTING = {  # (colours of a background): the object colours that are clear on it
    tuple(names): [c for c in OBJECT_COLORS if _goes(c, names)] for names in _backgrounds()
}
_PLAIN = [names for names, fit in _FITTING.items() if len(names) == 1 and len(fit) >= 2]
_GRADIENT = [names for names, fit in _FITTING.items() if len(names) == 2 and len(fit) >= 2]


# --- one scene ------------------------------------------------------------------------------------


def is_held_out(scene: Scene) -> bool:
    """Whether what the scene shows is one of the combinations that training never sees."""
    shown = [f"{thing.shape} {thing.color}" for thing in scene.things]
    key = "|".join([*shown, *scene.background, scene.direction, scene.motion, scene.relation])
    return zlib.crc32(key.encode()) % 1000 < HELD_OUT_PERMILLE


def _draw_content(rng: random.Random) -> Scene:
    """What is shown: everything that a caption may say but the sizes."""
    is_plain = rng.random() < 0.7
    background = rng.choice(_PLAIN if is_plain else _GRADIENT)
    direction = "plain" if is_plain else rng.choice(("down", "right"))
    is_pair = rng.random() < 0.15
    motion = "still" if is_pair else rng.choice(MOTIONS)
    colors = rng.sample(_FITTING[background], 2)
    if is_pair and not _is_clear(COLORS[colors[0]], COLORS[colors[1]], 100.0, 45.0):
        return _draw_content(rng)
    shapes = [s for s in SHAPES if motion != "spin" or s not in ("circle", "ring")]
    things = [Thing(rng.choice(shapes), color, "") for color in colors[: 1 + is_pair]]
    relation = rng.choice(RELATIONS) if is_pair else ""
    return Scene(things, list(background), direction, motion, relation)


def _between(rng: random.Random, a: float, b: float) -> float:
    return round(rng.uniform(a, b), 2)


def _room(thing: Thing, size: float) -> tuple[float, float]:
    """The least and greatest coordinate that the centre may have."""
    away = REACH[thing.shape] * size + MARGIN
    return away, WIDTH - away


def _set_size(thing: Thing, rng: random.Random, words: list[str]) -> None:
    thing.size = rng.choice(words)
    thing.size0 = thing.size1 = _between(rng, *SIZES[thing.size])


def _about_middle(thing: Thing, size: float) -> tuple[float, float]:
    """Bounds of where something stays on an axis. With all of the room, four steps may draw it in
    two places."""
    least, most = _room(thing, size)
    return max(least, WIDTH / 2 - FROM_MIDDLE), min(most, WIDTH / 2 + FROM_MIDDLE)


def _rest(thing: Thing, rng: random.Random, size: float) -> None:
    least, most = _about_middle(thing, size)
    thing.x0 = thing.x1 = _between(rng, least, most)
    thing.y0 = thing.y1 = _between(rng, least, most)


def _go_straight(thing: Thing, rng: random.Random, motion: str) -> None:
    least, most = _room(thing, thing.size0)
    ends = []
    way = _between(rng, TRAVEL, min(most - least, 84.0))
    for step in STRAIGHT[motion]:
        # On a diagonal both ways are about equal.
        part = min(max(way * rng.uniform(0.9, 1.1), TRAVEL), most - least) if step else 0.0
        low, high = (least, most) if step else _about_middle(thing, thing.size0)
        start = _between(rng, low, high - part)
        ends.append((start, start + part) if step >= 0 else (start + part, start))
    (thing.x0, thing.x1), (thing.y0, thing.y1) = ends


def _change_size(thing: Thing, rng: random.Random, grows: bool) -> None:
    little, much = _between(rng, 11.0, 12.5), _between(rng, 26.0, 29.0)
    thing.size0, thing.size1 = (little, much) if grows else (much, little)
    _rest(thing, rng, much)


def _bounce(thing: Thing, rng: random.Random) -> None:
    _set_size(thing, rng, ["small", "medium", "medium", "big"])
    least, most = _room(thing, thing.size0)
    thing.x0 = thing.x1 = _between(rng, *_about_middle(thing, thing.size0))
    thing.y0 = thing.y1 = round(most, 2)
    thing.hop = _between(rng, 32.0, min(most - least, 52.0))
    thing.hops = _between(rng, 1.75, 1.95)
    thing.phase = 0.5  # it begins at the top


def _orbit(thing: Thing, rng: random.Random) -> None:
    _set_size(thing, rng, ["small", "medium", "medium"])
    thing.orbit = _between(rng, 26.0, 29.0)
    least, most = _room(thing, thing.size0)
    thing.x0 = thing.x1 = _between(rng, least + thing.orbit, most - thing.orbit)
    thing.y0 = thing.y1 = _between(rng, least + thing.orbit, most - thing.orbit)
    thing.turns = _between(rng, 0.72, 0.78)
    thing.phase = 0.75


def _place_pair(first: Thing, second: Thing, relation: str, rng: random.Random) -> None:
    """Both rest, one clearly beside the other; `relation` is the first's place."""
    for thing in (first, second):
        _set_size(thing, rng, ["small", "medium"])
    before, after = (first, second) if relation in ("above", "left") else (second, first)
    least, most = _room(before, before.size0)[0], _room(after, after.size0)[1]
    gap = REACH[before.shape] * before.size0 + REACH[after.shape] * after.size0 + 4.0
    apart = _between(rng, gap, min(gap + 14.0, most - least))
    start = min(max((WIDTH - apart) / 2 + _between(rng, -8.0, 8.0), least), most - apart)
    middle = WIDTH / 2 + _between(rng, -9.0, 9.0)
    for thing, along in ((before, round(start, 2)), (after, round(start + apart, 2))):
        low, high = _room(thing, thing.size0)
        across = min(max(middle + _between(rng, -4.0, 4.0), low), high)
        x, y = (across, along) if relation in ("above", "below") else (along, across)
        thing.x0, thing.x1, thing.y0, thing.y1 = x, x, y, y


def _draw_numbers(scene: Scene, rng: random.Random) -> None:
    """What a caption leaves open, so that everything it says is true."""
    thing = scene.things[0]
    if scene.relation:
        _place_pair(*scene.things, scene.relation, rng)
    elif scene.motion in STRAIGHT:
        _set_size(thing, rng, ["small", "medium", "medium", "big"])
        _go_straight(thing, rng, scene.motion)
    elif scene.motion in ("grow", "shrink"):
        _change_size(thing, rng, scene.motion == "grow")
    elif scene.motion == "bounce":
        _bounce(thing, rng)
    elif scene.motion == "orbit":
        _orbit(thing, rng)
    else:
        _set_size(thing, rng, ["small", "medium", "medium", "big"])
        _rest(thing, rng, thing.size0)
        if scene.motion == "spin":
            thing.spin = _between(rng, 0.42, 0.46)


def sample_scenes(n: int, seed: int, split: str,
                  weights: dict[str, float] | None = None) -> list[Scene]:
    """n scenes of a split ("train" or "held_out"); the same for the same seed. `weights` are of
    motions, and of "pair" for two objects; what is not named has 1."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {SPLITS}")
    rng = random.Random(f"{seed} {split}")
    most = max(1.0, *weights.values()) if weights else 1.0
    scenes: list[Scene] = []
    while len(scenes) < n:
        scene = _draw_content(rng)
        kind = "pair" if scene.relation else scene.motion
        if weights and rng.random() * most >= weights.get(kind, 1.0):
            continue
        if is_held_out(scene) == (split == "held_out"):
            _draw_numbers(scene, rng)
            scenes.append(scene)
    return scenes
