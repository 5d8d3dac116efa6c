"""Broken GGUF files are refused with a reason, whatever is wrong with them."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from paceline.checkpoint import Store, import_gguf
from paceline.checkpoint.gguf_file import GgufFile
from paceline.types.errors import CheckpointError
from tests.checkpoint.tiny_gguf import small_vocab, tokenizer_gguf


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return tokenizer_gguf(tmp_path / "whole.gguf", small_vocab("spm"))


def leftovers(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_reads_what_the_gguf_package_reads(whole: Path) -> None:
    expected, found = gguf.GGUFReader(whole), GgufFile(whole)
    for key, field in expected.fields.items():
        if not key.startswith("GGUF."):
            assert found.metadata[key] == field.contents(), key
    assert len(found.tensors) == len(expected.tensors)
    for tensor in expected.tensors:
        mine = found.tensors[tensor.name]
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        np.testing.assert_array_equal(found.raw(mine), tensor.data.view(np.uint8).ravel())


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_files_are_refused(share: float, whole: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.gguf: (truncated|the file is empty)"):
        import_gguf(cut, Store(tmp_path / "home"))
    assert leftovers(tmp_path / "home") == []


def test_damaged_headers_never_do_worse_than_an_error(whole: Path, tmp_path: Path) -> None:
    """Whatever bytes are wrong: a checkpoint or a CheckpointError, in bounded time and memory."""
    content, chance = whole.read_bytes(), random.Random(5)
    header = GgufFile(whole).tensors["token_embd.weight"].offset
    refusals = []
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 2, 8))):
            damaged[chance.randrange(header)] = chance.randrange(256)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        try:
            import_gguf(tmp_path / "damaged.gguf", Store(tmp_path / "home"), "damaged")
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all("damaged.gguf" in refusal for refusal in refusals)
    assert leftovers(tmp_path / "home" / "staging") == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model at all")
    with pytest.raises(CheckpointError, match="does not begin with GGUF"):
        GgufFile(tmp_path / "text.gguf")
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        GgufFile(tmp_path / "missing.gguf")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        GgufFile(tmp_path)


_HEADER = struct.Struct("<4sIQQ")
_HUGE = 2**62


def _key(kind: gguf.GGUFValueType, payload: bytes) -> bytes:
    return struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + payload


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_HEADER.pack(b"GGUF", 1, 0, 0), "version 1 is not supported"),
        (_HEADER.pack(b"GGUF", 3, _HUGE, 0), f"claims {_HUGE} tensors"),
        (_HEADER.pack(b"GGUF", 3, 0, _HUGE), f"claims {_HUGE} metadata keys"),
        (
            _HEADER.pack(b"GGUF", 3, 0, 1)
            + _key(gguf.GGUFValueType.ARRAY, struct.pack("<IQ", gguf.GGUFValueType.INT32, _HUGE)),
            "truncated",
        ),
        (
            _HEADER.pack(b"GGUF", 3, 0, 1)
            + _key(gguf.GGUFValueType.ARRAY, struct.pack("<IQ", gguf.GGUFValueType.STRING, _HUGE)),
            "truncated",
        ),
        (
            _HEADER.pack(b"GGUF", 3, 0, 1)
            + _key(gguf.GGUFValueType.STRING, struct.pack("<Q", 2) + b"\xff\xfe"),
            "not UTF-8",
        ),
        (
            _HEADER.pack(b"GGUF", 3, 1, 0)
            + struct.pack("<Q", 1)
            + b"t"
            + struct.pack("<IQQIQ", 2, _HUGE, _HUGE, 0, 0),
            "tensor 't' ends at byte",
        ),
        (
            _HEADER.pack(b"GGUF", 3, 1, 0)
            + struct.pack("<Q", 1)
            + b"t"
            + struct.pack("<IQIQ", 1, 32, 77777, 0),
            "unknown quantisation type, 77777",
        ),
        (
            _HEADER.pack(b"GGUF", 3, 1, 0)
            + struct.pack("<Q", 1)
            + b"t"
            + struct.pack("<IQIQ", 1, 33, gguf.GGMLQuantizationType.Q8_0, 0),
            "not a multiple of 32",
        ),
    ],
)
def test_lies_in_the_header_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "lies.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        GgufFile(path)
