#!/usr/bin/env python3
"""tokenizer.py - the demo model's Unigram tokenizer: made from the captions, used in training.

SPDX-License-Identifier: Apache-2.0

    tokenizer.py FOLDER        writes FOLDER/tokenizer.json, the same bytes every time

The layout is UMT5's (ids 0 <pad>, 1 </s>, 2 <s>, 3 <unk>, then pieces with U+2581 for a space), and
encode() makes the ids that the C encoder makes. Pieces are whole words of the captions with the
logarithm of their share as score, and single characters, far below, for words that nobody taught.

Words also exist with a capital letter and, while there is room, without the mark of a space before
them. Such a piece means what the plain word means: training only ever sees the plain one
(canonical()), and the export gives both the same row of the embedding table.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import struct
from collections import Counter
from pathlib import Path

PAD, EOS, BOS, UNK = range(4)
SPECIALS = ["<pad>", "</s>", "<s>", "<unk>"]
SPACE = "\u2581"
MAX_PIECES = 512
MAX_IDS = 512  # the end of the text included
UNK_PENALTY = 10.0
SEED, SCENES, WORDINGS = 4, 4000, 5
PUNCTUATION = ".,;:!?"


def canonical_text(piece: str) -> str:
    """The plain word that a piece stands for; itself if it is a mark or a letter."""
    word = piece.removeprefix(SPACE).lower()
    return SPACE + word if len(word) > 1 or piece.startswith(SPACE) else word


class Tokenizer:
    """Pieces and scores; words that were seen before are looked up."""

    def __init__(self, pieces: list[tuple[str, float]]):
        self.pieces = pieces
        self.id = {piece: i for i, (piece, _) in enumerate(pieces)}
        self.longest = max(len(piece) for piece, _ in pieces)
        self.unk_score = min(score for _, score in pieces) - UNK_PENALTY
        self.known: dict[str, list[int]] = {}
        self.plain = [self._plain_id(i) for i in range(len(pieces))]

    def _plain_id(self, i: int) -> int:
        return i if i <= UNK else self.id.get(canonical_text(self.pieces[i][0]), i)

    def __len__(self) -> int:
        return len(self.pieces)

    def _cut(self, word: str) -> list[int]:
        """Viterbi; of equal ways the one found first stays."""
        best: list[tuple[float, int, int] | None] = [None] * (len(word) + 1)
        best[0] = (0.0, 0, 0)

        def offer(end: int, start: int, score: float, piece: int) -> None:
            if best[end] is None or score > best[end][0]:
                best[end] = (score, start, piece)

        for at in range(len(word)):
            here = best[at][0]
            for end in range(at + 1, min(len(word), at + self.longest) + 1):
                piece = self.id.get(word[at:end])
                if piece is not None:
                    offer(end, at, here + self.pieces[piece][1], piece)
            if word[at] not in self.id:
                offer(at + 1, at, here + self.unk_score, UNK)
        ids: list[int] = []
        end = len(word)
        while end:
            _, start, piece = best[end]
            if piece != UNK or not ids or ids[-1] != UNK:
                ids.append(piece)
            end = start
        return ids[::-1]

    def word(self, word: str) -> list[int]:
        if word not in self.known:
            self.known[word] = self._cut(SPACE + word)
        return self.known[word]

    def encode(self, text: str) -> list[int]:
        """Ids with the end of text, as lx2v-encoder's for plain text without <specials>."""
        ids = [i for word in text.replace(SPACE, " ").split() for i in self.word(word)]
        return ids[:MAX_IDS - 1] + [EOS]

    def canonical(self, ids: list[int]) -> list[int]:
        return [self.plain[i] for i in ids]

    def spell(self, word: str) -> list[int]:
        """A word as if it were not known."""
        return [self.id.get(c, UNK) for c in SPACE + word]

    def encode_for_training(self, text: str, rng: random.Random | None = None,
                            spelled: float = 0.0) -> list[int]:
        """Plain pieces only; each word is spelled by letters with the given chance, so that the
        network has seen what stands for words it does not know."""
        if not spelled:
            return self.canonical(self.encode(text))
        ids: list[int] = []
        for word in text.split():
            ids += self.spell(word) if rng.random() < spelled else self.word(word)
        return self.canonical(ids[:MAX_IDS - 1] + [EOS])


def pad_rows(rows: list[list[int]], length: int) -> tuple[list[list[int]], list[int]]:
    """Rows of one length, and how much of each counts; what is too long loses its middle, not its
    end of text."""
    cut = [row if len(row) <= length else row[:length - 1] + [EOS] for row in rows]
    return [row + [PAD] * (length - len(row)) for row in cut], [len(row) for row in cut]


# --- making it --------------------------------------------------------------------------------


def captions() -> list[str]:
    from world import caption, sample_scenes  # only here: drawing needs PyTorch

    rng = random.Random(SEED)
    scenes = sample_scenes(SCENES, SEED, "train")
    return [caption(scene, rng, "train") for scene in scenes for _ in range(WORDINGS)]


def parts_of(text: str) -> list[str]:
    """Words with the mark of their space; punctuation at their ends by itself."""
    parts: list[str] = []
    for word in text.split():
        tail: list[str] = []
        while len(word) > 1 and word[-1] in PUNCTUATION:
            tail.insert(0, word[-1])
            word = word[:-1]
        parts += [SPACE + word, *tail]
    return parts


def to_float32(x: float) -> float:
    return struct.unpack("<f", struct.pack("<f", x))[0]


def make(texts: list[str]) -> Tokenizer:
    counts = Counter(part for text in texts for part in parts_of(text))
    total = sum(counts.values())
    plain: Counter = Counter()
    for part, n in counts.items():
        plain[canonical_text(part)] += n
    order = sorted(plain, key=lambda part: (-plain[part], part))
    words = [part for part in order if part.startswith(SPACE)]
    capitals = [SPACE + part[1:].capitalize() for part in words if part[1].islower()]
    letters = [chr(c) for c in range(0x21, 0x7F)]
    chosen = [part for part in order] + capitals
    chosen += [c for c in letters if c not in plain]
    bare = [part[1:] for part in words if len(part) > 2]
    room = MAX_PIECES - len(SPECIALS) - 1 - len(chosen)
    if room < 0:
        raise SystemExit(f"the captions have too many words: {-room} pieces more than {MAX_PIECES}")
    chosen += bare[:room]

    def score(part: str) -> float:
        rare = 0.01 if len(part) == 1 else 0.5  # letters lose against any word
        return to_float32(math.log(max(counts[part], rare) / total))

    pieces = [(name, 0.0) for name in SPECIALS] + [(SPACE, to_float32(math.log(0.01 / total)))]
    made = Tokenizer(pieces + [(part, score(part)) for part in chosen])
    for part in chosen:  # a word that is there is one piece
        if part.startswith(SPACE) and made.word(part[1:]) != [made.id[part]]:
            raise SystemExit(f"{part} is cut in pieces: {made.word(part[1:])}")
    return made


# --- tokenizer.json ---------------------------------------------------------------------------


def to_json(tokenizer: Tokenizer) -> str:
    """Hugging Face's layout, UMT5's pipeline; one piece a line."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    space = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    text = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    head = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": s, **flags} for i, s in enumerate(SPECIALS)],
        "normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        "pre_tokenizer": space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text[0], end],
            "pair": [text[0], end, text[1], end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [EOS], "tokens": ["</s>"]}},
        },
        "decoder": space,
    }
    lines = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
    vocab = ",\n".join("    " + json.dumps(list(p), ensure_ascii=False) for p in tokenizer.pieces)
    model = (f'  "model": {{"type": "Unigram", "unk_id": {UNK}, "byte_fallback": false, '
             f'"vocab": [\n{vocab}\n  ]}}')
    return "{\n" + ",\n".join([*lines, model]) + "\n}\n"


def load(path: str | Path) -> Tokenizer:
    """From tokenizer.json or its folder."""
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    vocab = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    return Tokenizer([(piece, float(score)) for piece, score in vocab])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where tokenizer.json goes")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make(captions())
    (folder / "tokenizer.json").write_text(to_json(tokenizer), encoding="utf-8")
    print(f"{folder}/tokenizer.json: {len(tokenizer)} pieces, "
          f"{len(set(tokenizer.plain))} of them are not another one's twin")


if __name__ == "__main__":
    main()
