#!/usr/bin/env python3
"""make_unigram.py - train the test's Unigram vocabulary, record what HF makes of fuzzed strings.

SPDX-License-Identifier: Apache-2.0

Usage: pip install tokenizers==0.22.2 && make_unigram.py [--train] tests/golden/tokenizer

--train writes tokenizer.json and spiece.model (the layout and pipeline of UMT5's: 4 specials,
user-defined pieces, 256 byte pieces, trained pieces, 300 extra ids descending). Always writes
ids.fnv: for each block of 100 strings a 64-bit FNV-1a of the texts and one of the ids, little
endian.
"""

import argparse
import json
import struct
from pathlib import Path

import tokenizers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import strings

PINNED = "0.22.2"
PIECES = 9000  # trained ones, before the others are added
STRINGS, BLOCK = 100_000, 100
USER_DEFINED = ["[eod]", "[web]", "[mask]"]


def sentences(n):
    rng = strings.Rng(2024)
    for _ in range(n):
        out = []
        for _ in range(4 + rng.below(12)):
            kind = rng.below(40)
            if kind < 26:  # low numbers are common words
                j = min(rng.below(20000), rng.below(20000), rng.below(20000))
                w = strings.word(j)
                out.append(w.capitalize() if rng.below(8) == 0 else w)
                if rng.below(8) == 0:
                    out[-1] += ".,;!?"[rng.below(5)]
            elif kind < 30:
                out.append(
                    "".join(
                        chr(0x4E00 + min(rng.below(400), rng.below(400)))
                        for _ in range(1 + rng.below(8))
                    )
                )
            elif kind < 32:
                out.append("".join(chr(0x3041 + rng.below(80)) for _ in range(1 + rng.below(6))))
            elif kind < 34:
                out.append("".join(chr(0x430 + rng.below(32)) for _ in range(1 + rng.below(7))))
            elif kind < 36:
                out.append(str(rng.below(10000)))
            elif kind < 37:
                out.append("".join(chr(0xC0 + rng.below(0x80)) for _ in range(1 + rng.below(4))))
            else:
                out.append("x-=.!a_0oz"[rng.below(10)] * (1 + rng.below(8)))
        yield " ".join(out)


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def train():
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " ")])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="\u2581", prepend_scheme="always", split=True
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=PIECES,
        special_tokens=["<unk>"],
        unk_token="<unk>",
        max_piece_length=16,
        show_progress=False,
    )
    tok.train_from_iterator(sentences(60_000), trainer)
    trained = json.loads(tok.to_str())["model"]["vocab"][1:]
    return [(p, f32(s)) for p, s in trained]


def tokenizer_json(pieces):
    vocab = pieces + [(f"<extra_id_{k}>", 0.0) for k in range(299, -1, -1)]
    ids = {p: i for i, (p, _) in enumerate(vocab)}
    special = ["<pad>", "</s>", "<s>", "<unk>"] + [f"<extra_id_{k}>" for k in range(299, -1, -1)]
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[t], "content": t, **flags} for t in special],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}],
        },
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "always",
            "split": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [ids["</s>"]], "tokens": ["</s>"]}},
        },
        "decoder": {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "always",
            "split": True,
        },
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def spiece(pieces):
    out = b""
    for i, (text, score) in enumerate(pieces):
        kind = 3 if i < 3 else 2 if i == 3 else 4 if text in USER_DEFINED else 1
        kind = 6 if text.startswith("<0x") else kind
        data = text.encode()
        body = b"\x0a" + varint(len(data)) + data + b"\x15" + struct.pack("<f", score)
        if kind != 1:
            body += b"\x18" + varint(kind)
        out += b"\x0a" + varint(len(body)) + body
    trainer = b"\x18\x01" + b"\x98\x02\x01"  # model_type = unigram, byte_fallback = true
    normalizer = b"\x0a\x08identity" + b"\x18\x01" + b"\x20\x00" + b"\x28\x01"
    out += b"\x12" + varint(len(trainer)) + trainer
    return out + b"\x1a" + varint(len(normalizer)) + normalizer


def record(folder):
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    out = b""
    for block in range(STRINGS // BLOCK):
        texts = [strings.token_string(block * BLOCK + i) for i in range(BLOCK)]
        text_hash = id_hash = strings.HASH
        for text, encoding in zip(texts, tok.encode_batch(texts)):
            assert len(encoding.ids) <= 512
            text_hash = strings.fnv(text_hash, text.encode() + b"\0")
            id_hash = strings.fnv(
                id_hash, struct.pack(f"<{len(encoding.ids) + 1}i", *encoding.ids, -1)
            )
        out += struct.pack("<QQ", text_hash, id_hash)
    (folder / "ids.fnv").write_bytes(out)
    print(STRINGS, "strings recorded with tokenizers", tokenizers.__version__)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", action="store_true")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if tokenizers.__version__ != PINNED:
        raise SystemExit(f"needs tokenizers=={PINNED}, this is {tokenizers.__version__}")
    if args.train:
        trained = train()
        have = {p for p, _ in trained}
        fixed = (
            ["<pad>", "</s>", "<s>", "<unk>"] + USER_DEFINED + [f"<0x{b:02X}>" for b in range(256)]
        )
        assert not have & set(fixed)
        pieces = [(p, 0.0) for p in fixed] + trained
        (args.folder / "tokenizer.json").write_text(
            json.dumps(tokenizer_json(pieces), ensure_ascii=False, separators=(",", ":"))
        )
        (args.folder / "spiece.model").write_bytes(spiece(pieces))
        print(len(trained), "trained pieces,", len(pieces), "in all")
    record(args.folder)


main()
