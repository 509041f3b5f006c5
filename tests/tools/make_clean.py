#!/usr/bin/env python3
"""make_clean.py - record what ftfy, html.unescape and the white-space rule make of fuzzed strings.

SPDX-License-Identifier: Apache-2.0

Usage: pip install ftfy==6.3.1 regex && make_clean.py tests/golden/tokenizer

Writes clean.fnv: for each block of 100 strings a 64-bit FNV-1a of the texts and one of the cleaned
texts. ftfy's guess at wrongly decoded text (fix_encoding) is off: lx2v leaves it out and warns.
"""

import html
import struct
import sys
from pathlib import Path

import ftfy
import regex

import strings

PINNED = "6.3.1"
STRINGS, BLOCK = 40_000, 100
CONFIG = ftfy.TextFixerConfig(explain=False, fix_encoding=False)


def clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text, CONFIG))).strip()
    return regex.sub(r"\s+", " ", text).strip()


def main():
    if ftfy.__version__ != PINNED:
        raise SystemExit(f"needs ftfy=={PINNED}, this is {ftfy.__version__}")
    out = b""
    for block in range(STRINGS // BLOCK):
        texts = [strings.clean_string(block * BLOCK + i) for i in range(BLOCK)]
        before = after = strings.HASH
        for text in texts:
            before = strings.fnv(before, text.encode() + b"\0")
            after = strings.fnv(after, clean(text).encode() + b"\0")
        out += struct.pack("<QQ", before, after)
    (Path(sys.argv[1]) / "clean.fnv").write_bytes(out)
    print(STRINGS, "strings recorded with ftfy", ftfy.__version__)


main()
