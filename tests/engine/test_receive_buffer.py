"""Compares the buffer with a simple, slow model that uses plain `bytes`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly._engine.portable import receive_buffer
from silly._engine.portable.receive_buffer import INCOMPLETE, TOO_LONG, ReceiveBuffer

pytestmark = pytest.mark.no_engine

pieces = st.lists(st.binary(min_size=1, max_size=6).map(lambda b: bytes(c % 3 for c in b)))
delimiters = st.binary(min_size=1, max_size=4).map(lambda b: bytes(c % 3 for c in b))


def expected_find(held: bytes, delimiter: bytes, limit: int) -> int:
    """Return what `find` should, by trying the best case of every continuation."""
    at = held.find(delimiter)
    if at >= 0 and at + len(delimiter) <= limit:
        return at + len(delimiter)
    if at >= 0:
        return TOO_LONG
    best = min(
        len(held) - k + len(delimiter)
        for k in range(min(len(delimiter) - 1, len(held)) + 1)
        if held.endswith(delimiter[:k])
    )
    return TOO_LONG if best > limit else INCOMPLETE


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=8).map(lambda b: bytes(c % 3 for c in b)),
            st.tuples(delimiters, st.integers(1, 20)),
            st.integers(0, 12),
        )
    )
)
def test_any_sequence_of_feeds_finds_and_takes(steps: list[Any]) -> None:
    buffer, model = ReceiveBuffer(), b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.feed(step)
            model += step
        elif isinstance(step, tuple):
            end = buffer.find(*step)
            assert end == expected_find(model, *step)
            if end > 0 and step[1] % 2:
                assert buffer.take(end) == model[:end]
                model = model[end:]
        else:
            count = min(step, len(model))
            if count:
                assert buffer.take(count) == model[:count]
                model = model[count:]
        assert len(buffer) == len(model)
        assert buffer.peek() == model


class Counting(bytearray):
    """A bytearray that counts the bytes that its searches scan."""

    scanned = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        Counting.scanned += max(min(end, len(self)) - start, 0)
        return super().find(sub, start, end)


def test_search_scans_each_byte_a_bounded_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receive_buffer, "bytearray", Counting, raising=False)
    monkeypatch.setattr(Counting, "scanned", 0)
    buffer = ReceiveBuffer()
    total = 20_000
    for _ in range(total):
        buffer.feed(b"x")
        assert buffer.find(b"\r\n\r\n", 10**6) == INCOMPLETE
    # Each byte once, and with each piece the three bytes that may start the delimiter.
    assert total < Counting.scanned <= 4 * total + 4


def test_an_empty_buffer_owns_no_memory() -> None:
    buffer = ReceiveBuffer()
    for piece in (b"a" * 5000, b"b" * 5000):
        buffer.feed(piece)
    buffer.take(10_000)
    assert buffer.data == b""
    assert type(buffer.data) is bytes


def test_a_whole_piece_is_not_copied() -> None:
    buffer, piece = ReceiveBuffer(), b"x" * 100 + b"\n"
    buffer.feed(piece)
    assert buffer.take(buffer.find(b"\n", 1000)) is piece
