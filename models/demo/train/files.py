"""files.py - safetensors and .pth files, the same bytes every time.

SPDX-License-Identifier: Apache-2.0

torch.save's archives differ between versions of PyTorch, and the package `safetensors` is not
everywhere; both layouts are simple. A .pth is a zip of uncompressed records: data.pkl, a pickle
that says what each tensor is, and one record per tensor. Dates are fixed; names are sorted.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor

ALIGN = 64  # of a tensor's bytes in either file
DATE = (1980, 1, 1, 0, 0, 0)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8,
          "U8": torch.uint8, "I32": torch.int32, "I64": torch.int64}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
STORAGES = {torch.float32: "FloatStorage", torch.float16: "HalfStorage",
            torch.bfloat16: "BFloat16Storage", torch.int8: "CharStorage"}


def bytes_of(tensor: Tensor) -> bytes:
    """Little-endian, in the order of the shape."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


# --- safetensors ------------------------------------------------------------------------------


def write_safetensors(path: str | Path, tensors: dict[str, Tensor],
                      metadata: dict[str, str] | None = None) -> None:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at, parts = 0, []
    for name in sorted(tensors):
        data = bytes_of(tensors[name])
        header[name] = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape),
                        "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    data = Path(path).read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, end = (start + offset for offset in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(data[first:end]), dtype=DTYPES[entry["dtype"]]) \
            if end > first else torch.empty(0, dtype=DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


# --- .pth -------------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    if value < 256:
        return b"K" + struct.pack("<B", value)
    return b"M" + struct.pack("<H", value) if value < 65536 else b"J" + struct.pack("<i", value)


def _numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_number(v) for v in values) + b"t"


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)


def _pickle(tensors: dict[str, Tensor]) -> bytes:
    """Protocol 2: name to _rebuild_tensor_v2(storage, 0, size, stride, False, {})."""
    out = b"\x80\x02}("
    for key, name in enumerate(sorted(tensors)):
        tensor = tensors[name]
        shape = tuple(tensor.shape)
        storage = (b"(" + _text("storage") + b"ctorch\n" + STORAGES[tensor.dtype].encode() + b"\n"
                   + _text(str(key)) + _text("cpu") + _number(tensor.numel()) + b"tQ")
        out += (_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(0)
                + _numbers(shape) + _numbers(_strides(shape)) + b"\x89"
                + b"ccollections\nOrderedDict\n)RtR")
    return out + b"u."


def _put(archive: zipfile.ZipFile, out: io.BytesIO, name: str, data: bytes) -> None:
    """One record, its data at a multiple of 64: padding is an extra field of its header."""
    info = zipfile.ZipInfo(name, DATE)
    info.create_system = 0
    used = out.tell() + 30 + len(name) + 4
    fill = -used % ALIGN
    info.extra = b"FB" + struct.pack("<H", fill) + b"Z" * fill
    archive.writestr(info, data)


def write_pth(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """What torch.load and the C reader take; the folder in it is named after the file."""
    root, out = Path(path).stem, io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _put(archive, out, f"{root}/data.pkl", _pickle(tensors))
        _put(archive, out, f"{root}/byteorder", b"little")
        for key, name in enumerate(sorted(tensors)):
            _put(archive, out, f"{root}/data/{key}", bytes_of(tensors[name]))
        _put(archive, out, f"{root}/version", b"3\n")
    Path(path).write_bytes(out.getvalue())
