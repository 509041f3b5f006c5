"""captions.py - what a clip of the demo world shows, in words.

SPDX-License-Identifier: Apache-2.0

A caption is made of a noun phrase per object, a motion, a background and a frame around them, each
drawn by lot. It says nothing that the clip does not show. Training's captions now and then leave
the background or the motion out; held-out captions say all of it and use at least one phrase or
frame that training never uses, of words that it does.
"""

from __future__ import annotations

import random
import zlib

from scenes import Scene, Thing

# A choice is (what training uses, what is held out).
Choice = tuple[list[str], list[str]]

_SIZE = {"small": ["small", "small", "little", "tiny"], "big": ["big", "big", "large"]}
_NOUN = {
    "circle": ["circle", "circle", "circle", "disc"],
    "square": ["square"],
    "triangle": ["triangle"],
    "star": ["star", "star", "star", "five-pointed star"],
    "ring": ["ring", "ring", "hoop"],
    "cross": ["cross", "cross", "plus sign"],
}
_COLOR = {"gray": ["gray", "grey"], "purple": ["purple", "purple", "violet"]}

# Verbs of going: finite, participle.
_GO = [("moves", "moving"), ("moves", "moving"), ("slides", "sliding"), ("travels", "travelling"),
       ("glides", "gliding"), ("drifts", "drifting"), ("goes", "going"), ("flies", "flying"),
       ("floats", "floating")]
_RISE = [("rises", "rising"), ("climbs", "climbing")]
_FALL = [("falls", "falling"), ("sinks", "sinking"), ("drops", "dropping")]
_WAY = {
    "left": ["left", "to the left", "leftwards", "from right to left", "towards the left",
             "towards the left side"],
    "right": ["right", "to the right", "rightwards", "from left to right", "towards the right",
              "towards the right side"],
    "up": ["up", "upwards", "towards the top", "from bottom to top"],
    "down": ["down", "downwards", "towards the bottom", "from top to bottom"],
}
_OTHER = {  # motions that are not along a line: finite, participle; the last of each is held out
    "bounce": [("bounces", "bouncing"), ("bounces up and down", "bouncing up and down"),
               ("hops up and down", "hopping up and down"), ("hops", "hopping"),
               ("bounces off the floor", "bouncing off the floor"),
               ("jumps", "jumping"),
               ("jumps up and down", "jumping up and down")],
    "grow": [("grows", "growing"), ("gets bigger", "getting bigger"),
             ("becomes larger", "becoming larger"), ("grows larger", "growing larger"),
             ("expands", "expanding"), ("becomes bigger", "becoming bigger"),
             ("gets larger", "getting larger")],
    "shrink": [("shrinks", "shrinking"), ("gets smaller", "getting smaller"),
               ("becomes tiny", "becoming tiny"), ("gets tiny", "getting tiny"),
               ("contracts", "contracting"), ("shrinks", "shrinking"),
               ("becomes smaller", "becoming smaller")],
    "spin": [("spins", "spinning"), ("rotates", "rotating"), ("turns around", "turning around"),
             ("spins in place", "spinning in place"), ("spins around", "spinning around"),
             ("rotates on the spot", "rotating on the spot"),
             ("rotates in place", "rotating in place")],
    "orbit": [("circles around", "circling around"), ("moves in a circle", "moving in a circle"),
              ("travels in a circle", "travelling in a circle"),
              ("goes round in a circle", "going round in a circle"),
              ("goes in circles", "going in circles"), ("flies in circles", "flying in circles"),
              ("moves in circles", "moving in circles")],
    "still": [("stays still", "staying still"), ("does not move", "not moving"),
              ("rests", "resting"), ("stands still", "standing still"),
              ("stays in place", "staying in place"), ("is still", "still"),
              ("rests in place", "resting in place")],
}

_PLAIN: Choice = (
    ["on a {0} background", "on a {0} background", "on a plain {0} background", "on {0}",
     "against a {0} background", "in front of a {0} background", "over a {0} background",
     "with a {0} background", "on a {0} backdrop", "in front of a {0} backdrop", "against {0}"],
    ["against a {0} backdrop", "over a plain {0} background", "in front of a plain {0} backdrop"],
)
_PLAIN_SAID: Choice = (
    ["the background is {0}", "the background is plain {0}", "the backdrop is {0}"],
    ["the backdrop is plain {0}"],
)
# Gradients: {0} is the colour at the top or on the left, {1} at the bottom or on the right.
_FADE: dict[str, Choice] = {
    "down": (
        ["a gradient from {0} at the top to {1} at the bottom",
         "a background that fades from {0} at the top to {1} at the bottom",
         "a {0} to {1} gradient from top to bottom", "a gradient from {0} down to {1}",
         "a vertical gradient from {0} to {1}", "a {0} to {1} fade from top to bottom",
         "a {0} and {1} background, {0} at the top",
         "a background going from {0} at the top to {1} at the bottom",
         "a background going from {1} at the bottom to {0} at the top",
         "a gradient from {1} at the bottom to {0} at the top",
         "a background that is {0} at the top and {1} at the bottom"],
        ["a background that fades from {1} at the bottom to {0} at the top",
         "a {0} to {1} background from top to bottom"],
    ),
    "right": (
        ["a gradient from {0} on the left to {1} on the right",
         "a background that fades from {0} on the left to {1} on the right",
         "a {0} to {1} gradient from left to right",
         "a gradient from {1} on the right to {0} on the left",
         "a horizontal gradient from {0} to {1}", "a {0} to {1} fade from left to right",
         "a {0} and {1} background, {0} on the left",
         "a background going from {0} on the left to {1} on the right",
         "a background going from {1} on the right to {0} on the left",
         "a background that is {0} on the left and {1} on the right"],
        ["a background that fades from {1} on the right to {0} on the left",
         "a {0} to {1} background from left to right"],
    ),
}
_FADE_SAID: dict[str, Choice] = {
    "down": (["the background fades from {0} at the top to {1} at the bottom",
              "the background is {0} at the top and {1} at the bottom"],
             ["the backdrop fades from {0} at the top to {1} at the bottom"]),
    "right": (["the background fades from {0} on the left to {1} on the right",
               "the background is {0} on the left and {1} on the right"],
              ["the backdrop fades from {0} on the left to {1} on the right"]),
}
_BEFORE_FADE = ["on", "over", "against", "in front of"]

# Frames of one object. N noun phrase, M "moves right", G "moving right", B "on a blue background",
# S "the background is blue". K and L: noun phrase and background without articles.
_ONE: Choice = (
    ["{N} {M} {B}", "{N} {M} {B}", "{N} {G} {B}", "{N} {B} {M}", "{B}, {N} {M}", "{B} {N} {M}",
     "{N} that {M} {B}", "{N}, {G}, {B}", "{N} {B}, {G}", "there is {N} that {M} {B}",
     "{N} is {G} {B}", "a video of {N} {G} {B}", "{N} {M}, and {S}", "{N} {M}. {S}",
     "{S}. {N} {M}", "{K}, {G}, {L}", "{K} {G}, {L}", "we see {N} {G} {B}",
     "a clip of {N} that {M} {B}", "{B} there is {N}. it {M}", "{N} {B}. it {M}"],
    ["{B} we see {N} that {M}", "a clip of {N} {B}, {G}", "there is {N} {G}, and {S}",
     "{B}, {N} is {G}", "{S}, and {N} {M}", "a video of {N} {B}. it {M}"],
)
_ONE_NO_BACKGROUND = ["{N} {M}", "{N} {G}", "{N} that {M}", "{N} is {G}", "{K} {G}"]
_ONE_NO_MOTION = ["{N} {B}", "there is {N} {B}", "{N}, {L}", "{B}, {N}"]

# Frames of two. N, O: the objects; R "above", B, S as before; T: that neither moves, or nothing.
_TWO: Choice = (
    ["{N} {R} {O} {B}{T}", "{N} {R} {O} {B}{T}", "{N} is {R} {O} {B}{T}", "{B}, {N} {R} {O}{T}",
     "{B}, {N} is {R} {O}{T}", "there is {N} {R} {O} {B}{T}", "a video of {N} {R} {O} {B}{T}",
     "{N} {B}, {R} {O}{T}", "we see {N} {R} {O} {B}{T}", "{N} {R} {O}{T}. {S}",
     "{K} {R} {J}, {L}"],
    ["{B} there is {N} {R} {O}{T}", "a clip of {N} {R} {O} {B}{T}", "{S}. {N} is {R} {O}{T}"],
)
_TWO_NO_BACKGROUND = ["{N} {R} {O}{T}", "{N} is {R} {O}{T}"]
_PLACE = {
    "above": ["above"],
    "below": ["below", "below", "under"],
    "left": ["to the left of", "left of", "on the left of"],
    "right": ["to the right of", "right of", "on the right of"],
}
_INVERSE = {"above": "below", "below": "above", "left": "right", "right": "left"}
_NEITHER = ["", "", "", "", ", both still", ", both not moving", ". both stay still",
            ". they do not move"]


def _is_held_out(phrase: str) -> bool:
    """One in seven of the composed phrases; their words occur in others."""
    return zlib.crc32(phrase.encode()) % 7 == 0


def _color(name: str, rng: random.Random) -> str:
    return rng.choice(_COLOR[name]) if name in _COLOR else name


def _with_article(words: str, rng: random.Random) -> str:
    article = "an" if words[0] in "aeio" else "a"
    return f"{rng.choice((article, article, article, article, 'the', 'one'))} {words}"


def _bare(thing: Thing, rng: random.Random) -> str:
    size = [rng.choice(_SIZE[thing.size])] if thing.size in _SIZE else []
    return " ".join([*size, _color(thing.color, rng), rng.choice(_NOUN[thing.shape])])


def _ways(motion: str) -> list[tuple[str, str]]:
    """All ways to say a motion along a line: finite, participle."""
    if "_" in motion:
        v, h = motion.split("_")
        high = "upper" if v == "up" else "lower"
        ways = [f"{v} and {h}", f"{v} and to the {h}", f"diagonally {v} and {h}",
                f"diagonally {v} and to the {h}", f"towards the {high} {h}",
                f"diagonally to the {high} {h}", f"to the {high} {h}",
                f"towards the {high} {h} corner", f"{_WAY[v][1]} and to the {h}"]
        verbs = _GO
    else:
        ways = _WAY[motion]
        verbs = _GO + {"up": _RISE, "down": _FALL}.get(motion, [])
    said = [(f"{a} {way}", f"{b} {way}") for a, b in verbs for way in ways]
    if motion in ("up", "down"):
        said += _RISE if motion == "up" else _FALL
    return said


def _motions(motion: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What training says and what is held out."""
    if motion in _OTHER:
        return _OTHER[motion][:-1], _OTHER[motion][-1:]
    said = _ways(motion)
    held = [pair for pair in said if " " in pair[0] and _is_held_out(pair[0])]
    return [pair for pair in said if pair not in held], held


_MOTIONS = {name: _motions(name) for name in
            ("left", "right", "up", "down", "up_left", "up_right", "down_left", "down_right",
             *_OTHER)}


def _background(scene: Scene, held: bool, rng: random.Random) -> dict[str, str]:
    """B, S and L of a frame."""
    colors = [_color(name, rng) for name in scene.background]
    if scene.direction == "plain":
        before = rng.choice(_PLAIN[held])
        return {"B": before.format(*colors), "S": rng.choice(_PLAIN_SAID[held]).format(*colors),
                "L": f"{colors[0]} background"}
    fade = rng.choice(_FADE[scene.direction][held]).format(*colors)
    before = f"{rng.choice(_BEFORE_FADE)} {fade}"
    said = rng.choice(_FADE_SAID[scene.direction][held]).format(*colors)
    return {"B": before, "S": said, "L": fade.removeprefix("a ")}


def _articles(text: str) -> str:
    """a orange -> an orange, where a phrase put an article before a colour."""
    words = text.split(" ")
    for i in range(len(words) - 1):
        if words[i] == "a" and words[i + 1][:6] == "orange":
            words[i] = "an"
    return " ".join(words)


def _finish(text: str, rng: random.Random) -> str:
    """Capital letters and the full stop, or neither."""
    text = _articles(text)
    style = rng.random()
    if style < 0.25:
        return text
    sentences = [s[0].upper() + s[1:] for s in text.split(". ")]
    return ". ".join(sentences) + ("." if style < 0.85 else "")


def _one(scene: Scene, held: set[str], partial: bool, rng: random.Random) -> str:
    bare = _bare(scene.things[0], rng)
    finite, participle = rng.choice(_MOTIONS[scene.motion]["motion" in held])
    words = {"N": _with_article(bare, rng), "K": bare, "M": finite, "G": participle,
             **_background(scene, "background" in held, rng)}
    frames = _ONE["frame" in held]
    if partial:
        frames = rng.choice((_ONE_NO_BACKGROUND, _ONE_NO_MOTION))
    frame = rng.choice(frames)
    if participle == "still" and "is {G}" not in frame:
        words["G"] = "staying still"
    return frame.format(**words)


def _two(scene: Scene, held: set[str], partial: bool, rng: random.Random) -> str:
    things, relation = scene.things, scene.relation
    if rng.random() < 0.3:
        things, relation = things[::-1], _INVERSE[relation]
    bare = [_bare(thing, rng) for thing in things]
    articles = [_with_article(b, rng) for b in bare]
    words = {"N": articles[0], "O": articles[1], "K": bare[0], "J": bare[1],
             "R": rng.choice(_PLACE[relation]), "T": rng.choice(_NEITHER),
             **_background(scene, "background" in held, rng)}
    frames = _TWO_NO_BACKGROUND if partial else _TWO["frame" in held]
    return rng.choice(frames).format(**words)


def caption(scene: Scene, rng: random.Random, split: str) -> str:
    """One wording of a scene; another with every draw."""
    held: set[str] = set()
    if split == "held_out":
        parts = ["frame", "background"] if scene.relation else ["frame", "background", "motion"]
        held = {rng.choice(parts)} | {part for part in parts if rng.random() < 0.4}
    partial = split == "train" and rng.random() < 0.06
    make = _two if scene.relation else _one
    return _finish(make(scene, held, partial, rng), rng)
