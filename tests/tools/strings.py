"""strings.py - the same fuzzed strings as tests/stages/encoder_strings.h, for making goldens.

SPDX-License-Identifier: Apache-2.0
"""

M = (1 << 64) - 1


class Rng:
    def __init__(self, state):
        self.state = state & M

    def next(self):  # splitmix64
        self.state = (self.state + 0x9E3779B97F4A7C15) & M
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n


def word(j):
    w = Rng(j)
    out = []
    for _ in range(1 + w.below(4)):
        out.append("bcdfghklmnprstvwxz"[w.below(18)])
        out.append("aeiouy"[w.below(6)])
        out.append("nrslt "[w.below(6)].strip())
    return "".join(out)


def from_range(rng, r):
    first, count, most = r
    return "".join(chr(first + rng.below(count)) for _ in range(1 + rng.below(most)))


TOKEN_RANGES = [
    (0x20, 95, 6),
    (0x4E00, 600, 6),
    (0x4E00, 20000, 4),
    (0x3041, 86, 6),
    (0x430, 32, 8),
    (0xC0, 0x180, 4),
    (0xAC00, 11172, 3),
    (0x1F300, 0x300, 3),
    (0x20000, 999, 3),
    (0x30, 10, 6),
    (0x2010, 0x30, 2),
    (0x2581, 1, 2),
    (0x20, 1, 4),
    (0x300, 32, 2),
    (0x09, 2, 1),
    (0x61, 26, 10),
]
LITERALS = [
    "</s>",
    "<pad>",
    "<s>",
    "<unk>",
    "<extra_id_0>",
    "<extra_id_42>",
    "<extra_id_299>",
    "<extra_id_300>",
    "</s",
    "<extra_id_",
    "<0x0A>",
    "[web]",
    "[eod]",
    "<<s>>",
    "<unk",
    "pad>",
]


def token_part(rng):
    kind = rng.below(32)
    if kind < 16:
        return from_range(rng, TOKEN_RANGES[kind])
    if kind < 26:
        return word(rng.below(20000))
    if kind < 28:
        return LITERALS[rng.below(16)]
    if kind < 30:
        c = "x-=.!a_0oz"[rng.below(10)]
        return c * (1 + rng.below(20))
    return word(rng.below(500)) + (",", ".")[kind - 30]


def token_string(i):
    rng = Rng(0x746F6B656E000000 + i)
    out = []
    for _ in range(rng.below(12)):
        out.append(token_part(rng))
        if rng.below(3) != 0:
            out.append(" ")
    return "".join(out)


CLEAN_RANGES = [
    (0x20, 95, 6),
    (0x01, 0xFF, 2),
    (0x2000, 0x70, 2),
    (0xFF00, 0xF0, 4),
    (0x300, 0x50, 3),
    (0x1100, 0x100, 3),
    (0x3000, 0x100, 2),
    (0x4E00, 20000, 4),
    (0xC0, 0x180, 3),
    (0x900, 0x80, 3),
    (0xF900, 0x100, 2),
    (0xFB00, 7, 2),
    (0x1F0, 4, 1),
    (0x61, 26, 6),
]
SNIPPETS = [
    "&amp;",
    "&amp;amp;",
    "&lt;",
    "&#x26;",
    "&amp;#38;",
    "&#59;",
    "&#0;",
    "&#13;",
    "&#x85;",
    "&#129;",
    "&#xD800;",
    "&#x110000;",
    "&#11;",
    "&#65",
    "&#x41",
    "&#x;",
    "&#;",
    "&;",
    "&",
    "&#",
    "&#12a;",
    "&#99999999999;",
    "&notit;",
    "&notin",
    "&ampx;",
    "&amp",
    "&nGt;",
    "&NTILDE;",
    "&SZLIG;",
    "&fjlig;",
    "&nbsp;",
    "&NewLine;",
    "&Tab;",
    "&#xFFFE;",
    "&#xfdd0;",
    "&#28;",
    "&AMP;amp;lt;",
    "&eacute;",
    "&EACUTE;",
    "&hellip",
    "<",
    "<b>",
    "\r\n",
    "\r",
    "\n",
    "\n",
    " ",
    "  ",
    "\t",
    "\x1b[31m",
    "\x1b[0m",
    "\x1b[",
    "\x1b[1;2",
    "e\u0301",
    "A\u030a",
    "\ufeff",
    "\u201c",
    "\u2019",
]


def clean_string(i):
    rng = Rng(0x636C65616E000000 + i)
    out = []
    for _ in range(rng.below(14)):
        kind = rng.below(28)
        out.append(
            from_range(rng, CLEAN_RANGES[kind]) if kind < 14 else SNIPPETS[rng.below(len(SNIPPETS))]
        )
    return "".join(out)


HASH = 0xCBF29CE484222325


def fnv(h, data):
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & M
    return h
