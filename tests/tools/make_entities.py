#!/usr/bin/env python3
"""make_entities.py - write stages/encoder/entities*.inc from Python's own table.

SPDX-License-Identifier: Apache-2.0

Usage: make_entities.py FOLDER   (needs only Python; the names are the HTML5 standard's)

entities.inc: the HTML5 names, sorted by bytes; the flag says that the name also counts without ';'.
entities_caps.inc: ftfy's additional names: NAME.upper() of every all-lower-case name that HTML5
itself does not know in any form, meaning the upper-case of its characters.
"""

import html
import html.entities
import sys
from pathlib import Path


def row(name, flag, text):
    points = ", ".join(f"0x{ord(c):X}" for c in text)
    return f'{{"{name}", {flag}, {{{points}}}}},'


def write(path, what, rows):
    lines = [
        "/*",
        f" * {path.name} - {what}, sorted by bytes; made by",
        " * tests/tools/make_entities.py",
        " * SPDX-License-Identifier: Apache-2.0",
        " */",
        "/* clang-format off */",
    ]
    line = ""
    for r in rows:
        if line and len(line) + 1 + len(r) > 100:
            lines.append(line)
            line = ""
        line = f"{line} {r}" if line else r
    path.write_text("\n".join(lines + [line, "/* clang-format on */"]) + "\n")


def main():
    folder = Path(sys.argv[1])
    table = html.entities.html5
    names = sorted(n[:-1] for n in table if n.endswith(";"))
    assert all(table[n] == table[n + ";"] for n in table if not n.endswith(";"))
    write(
        folder / "entities.inc",
        "HTML5 character references",
        [row(n, int(n in table), table[n + ";"]) for n in names],
    )
    caps = {}
    for n in names:
        upper = n.upper()
        if n == n.lower() and html.unescape(f"&{upper};") == f"&{upper};":
            caps[upper] = table[n + ";"].upper()
    write(
        folder / "entities_caps.inc",
        "names that ftfy also accepts in capitals",
        [row(n, 0, caps[n]) for n in sorted(caps)],
    )
    print(len(names), "names,", len(caps), "in capitals")


main()
