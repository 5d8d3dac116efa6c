from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.transport.errors import ChecksumMismatch, FrameDamaged, ProtocolMismatch
from paceline.transport.frames import (
    DATA_PROTOCOL,
    ITEM_BYTES,
    Beat,
    Frame,
    Hello,
    Kind,
    Tensor,
    decode,
    encode,
)
from paceline.types.errors import TransportError
from paceline.types.ids import Epoch
from paceline.types.step import Admission, Sampled, SampledToken, Span, Step
from paceline.types.stream import SamplingParams

naturals = st.integers(0, 2**31)
reals = st.floats(allow_nan=False, width=64)
ids = st.lists(naturals, max_size=5).map(tuple)
top = st.lists(st.tuples(naturals, reals), max_size=3).map(tuple)

params = st.builds(
    SamplingParams,
    max_tokens=naturals,
    seed=st.integers(0, 2**63 - 1),
    temperature=reals,
    logit_bias=st.dictionaries(naturals, reals, max_size=3),
    logprobs=st.none() | st.integers(0, 20),
    stop_token_ids=ids,
)
steps = st.builds(
    Step,
    number=naturals,
    freed=ids,
    admitted=st.lists(
        st.builds(Admission, slot=naturals, params=params, prompt_ids=ids, emitted_ids=ids),
        max_size=2,
    ).map(tuple),
    spans=st.lists(
        st.builds(Span, naturals, naturals, naturals, ids, st.booleans()), max_size=3
    ).map(tuple),
)
sampled = st.builds(
    Sampled,
    number=naturals,
    tokens=st.lists(
        st.builds(SampledToken, naturals, naturals, naturals, st.none() | reals, top), max_size=3
    ).map(tuple),
)
bodies = st.one_of(
    st.builds(Hello, naturals, st.booleans(), st.booleans()), st.just(Beat()), steps, sampled
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = math.prod(shape) * ITEM_BYTES[dtype]
    return Tensor(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


frames = st.builds(
    Frame, st.builds(Epoch, naturals, naturals), naturals, bodies, st.none() | tensors()
)


def joined(frame: Frame) -> list[bytes]:
    return [bytes(part) for part in encode(frame)]


@given(frames)
def test_a_frame_comes_out_as_it_went_in(frame: Frame) -> None:
    found = decode(joined(frame))
    assert (found.epoch, found.sequence, found.body) == (frame.epoch, frame.sequence, frame.body)
    assert found.kind is frame.kind
    if frame.tensor is None:
        assert found.tensor is None
    else:
        assert found.tensor is not None
        assert found.tensor.dtype == frame.tensor.dtype
        assert found.tensor.shape == frame.tensor.shape
        assert bytes(found.tensor.data) == frame.tensor.data


@given(frames, st.data())
def test_a_changed_byte_never_passes(frame: Frame, data: st.DataObject) -> None:
    parts = joined(frame)
    which = data.draw(st.integers(0, len(parts) - 1).filter(lambda i: len(parts[i]) > 0))
    where = data.draw(st.integers(0, len(parts[which]) - 1))
    changed = bytearray(parts[which])
    changed[where] ^= data.draw(st.integers(1, 255))
    parts[which] = bytes(changed)
    with pytest.raises(FrameDamaged):
        decode(parts)


@given(frames, st.data())
def test_a_cut_frame_never_passes(frame: Frame, data: st.DataObject) -> None:
    parts = joined(frame)
    which = data.draw(st.integers(0, len(parts) - 1).filter(lambda i: len(parts[i]) > 0))
    parts[which] = parts[which][: data.draw(st.integers(0, len(parts[which]) - 1))]
    with pytest.raises(FrameDamaged):
        decode(parts)


@given(st.lists(st.binary(max_size=64), max_size=3))
def test_noise_is_a_typed_error(parts: list[bytes]) -> None:
    with pytest.raises(TransportError):
        decode(parts)


def test_the_parts_may_not_be_mixed_up() -> None:
    with_tensor = joined(Frame(Epoch(1, 1), 1, Beat(), Tensor("int8", (2,), b"ab")))
    without = joined(Frame(Epoch(1, 1), 1, Beat()))
    for parts in (with_tensor[:1], [*without, b""], [*without, b"ab"], [*with_tensor, b""], []):
        with pytest.raises(FrameDamaged):
            decode(parts)


def test_another_protocol_is_named() -> None:
    head = msgspec.msgpack.encode([DATA_PROTOCOL + 1, "whatever", {"that": "version"}, b"holds"])
    with pytest.raises(ProtocolMismatch, match=rf"protocol {DATA_PROTOCOL + 1}, this process"):
        decode([head + b"sums"])


def test_a_changed_tensor_is_named() -> None:
    parts = joined(Frame(Epoch(1, 1), 1, Beat(), Tensor("int8", (2,), b"ab")))
    with pytest.raises(ChecksumMismatch):
        decode([parts[0], b"ac"])


def test_token_ids_stay_at_home() -> None:
    step = Step(number=3, spans=(Span(0, 0, 2, (5,), True),), token_ids=(11, 12))
    found = decode(joined(Frame(Epoch(1, 1), 1, step)))
    assert found.kind is Kind.STEP
    assert found.body == msgspec.structs.replace(step, token_ids=())


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (Tensor("float32", (2, 3), bytes(20)), "has 24 bytes, these are 20"),
        (Tensor("complex64", (1,), bytes(8)), "'complex64' does not travel"),
        (Tensor("int8", (1,) * 5, bytes(1)), "at most 4 dimensions"),
        (Tensor("int8", (-1, -1), bytes(1)), "no shape"),
        (Tensor("int8", (2,), memoryview(b"abcd")[::2]), "contiguous"),
    ],
)
def test_a_tensor_that_is_none_does_not_leave(tensor: Tensor, sentence: str) -> None:
    with pytest.raises(FrameDamaged, match=sentence):
        encode(Frame(Epoch(1, 1), 1, Beat(), tensor))


def test_a_tensor_is_viewed_not_copied() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    frame = Frame(Epoch(1, 1), 1, Beat(), Tensor("float32", (2, 3), array.data))
    head, data = encode(frame)
    found = decode([head, data]).tensor
    assert found is not None
    array[0, 0] = 7
    assert np.frombuffer(data, np.float32)[0] == 7
    assert np.frombuffer(found.data, np.float32)[0] == 7
