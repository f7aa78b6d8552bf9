"""Requests and their expected replies; the diagnosis of wrong replies."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.bench.messages import FRAMINGS, Messages, listed, mixed, numbered, unescape
from silly.bench.sizes import Sizes
from silly.bench.verify import diagnose

pytestmark = pytest.mark.no_engine

framings = st.sampled_from(FRAMINGS)


def parse(framing: str, data: bytes, size: int) -> list[bytes]:
    if framing == "line":
        return data.splitlines(keepends=True)
    lead = 4 if framing == "length-prefix" else 0
    return [data[at : at + lead + size] for at in range(0, len(data), lead + size)]


@given(framings, st.integers(1, 300), st.integers(0, 10**7), st.integers(0, 10**6), st.data())
def test_batches_are_their_messages_joined(
    framing: str, size: int, first: int, conn: int, data: Any
) -> None:
    count = data.draw(st.integers(1, 1500 if size < 20 else 50))
    messages = numbered(framing, size)(conn)
    requests, replies = messages.batch(first, count)
    assert requests == replies
    assert parse(framing, requests, size) == [messages.reply(first + k) for k in range(count)]
    assert len(requests) == count * (messages.reply_size or 0)
    if framing == "length-prefix":
        assert requests[:4] == size.to_bytes(4, "big")


@given(framings, st.integers(19, 300), st.integers(0, 10**9), st.integers(0, 99))
def test_no_two_messages_are_the_same(framing: str, size: int, number: int, conn: int) -> None:
    one = numbered(framing, size)(conn)
    assert one.reply(number) != one.reply(number + 1)
    assert one.reply(number) != one.reply(number + 1000)
    assert one.reply(number) != numbered(framing, size)(conn + 1).reply(number)
    assert one.addressee(one.reply(number)) == conn


@given(framings, st.integers(0, 50), st.integers(1, 1500))
def test_mixed_sizes(framing: str, first: int, count: int) -> None:
    messages = mixed(framing, Sizes.parse("1-90"), 7)(3)
    requests, _ = messages.batch(first, count)
    assert requests == b"".join(messages.reply(first + k) for k in range(count))


def test_replies_of_mixed_sizes_name_their_connection() -> None:
    ours, theirs = (mixed("line", Sizes.parse("30-90"), 7)(conn) for conn in (3, 4))
    ours.reply(0)
    found = diagnose(ours, 0, 1, theirs.reply(0))
    assert (found.kind, "is for connection 4" in found.text) == ("misdelivered", True)


@given(st.integers(0, 1000), st.integers(1, 20))
def test_templates_and_pairs_take_turns(first: int, count: int) -> None:
    pairs = [(b"GET k{seq}\r\n", b"v{seq} of {conn}\r\n"), (b"PING\r\n", b"+PONG\r\n")]
    messages = listed(pairs)(12)
    requests, replies = messages.batch(first, count)
    numbers = range(first, first + count)
    assert requests.split(b"\r\n")[:-1] == [b"PING" if n % 2 else b"GET k%d" % n for n in numbers]
    assert replies.split(b"\r\n")[:-1] == [b"+PONG" if n % 2 else b"v%d of 12" % n for n in numbers]


def test_escapes() -> None:
    assert unescape(r"a\r\n\t\0\\\x41{seq}") == b"a\r\n\t\0\\A{seq}"
    assert unescape("é") == "é".encode()
    for wrong in (r"\q", r"\x4", "a\\"):
        with pytest.raises(ValueError, match="backslash"):
            unescape(wrong)


# ---------------------------------------------------------------- what is wrong

LONG = numbered("line", 64)(7)


def came(*numbers: int, of: Messages = LONG) -> bytes:
    return b"".join(of.reply(number) for number in numbers)


@pytest.mark.parametrize(
    ("received", "kind", "request_", "byte"),
    [
        (came(10, 11, 13, 14), "lost", 12, 9),
        (came(10, 12, 11, 13), "reordered", 11, 9),
        (came(10, 10, 11), "duplicate", 10, 9),
        (came(10, 11, 12, 13, 14, 14), "duplicate", 14, 0),
        (came(10, 11, 12, 13, 14) + b"hello", "unasked", 15, 0),
        (numbered("line", 64)(9).reply(10), "misdelivered", 10, 16),
        (came(10)[:30] + b"!" + came(10)[31:], "corrupt", 10, 30),
        (b"-ERR unknown command\r\n", "corrupt", 10, 0),
        (came(10, 11) + came(12)[:63] + b"\r", "corrupt", 12, 63),
        (came(10) + came(11)[:8], "corrupt", 11, 8),  # the whole reply: a message, for example
    ],
)
def test_errors_are_named(received: bytes, kind: str, request_: int, byte: int) -> None:
    found = diagnose(LONG, 10, 15, received)
    assert (found.kind, found.request, found.byte) == (kind, request_, byte)
    assert f"request {found.request}" in found.text or kind == "unasked"


def test_extra_replies_without_numbers_are_duplicates() -> None:
    pong = listed([(b"PING\r\n", b"+PONG\r\n")])(0)
    found = diagnose(pong, 3, 4, b"+PONG\r\n+PONG\r\n")
    assert found.kind == "duplicate"


@given(
    framings,
    st.integers(19, 200),
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_a_changed_byte_is_found_where_it_is(
    framing: str, size: int, first: int, count: int, seed: int
) -> None:
    rng = random.Random(seed)
    messages = numbered(framing, size)(1)
    stream = bytearray(messages.batch(first, count)[0])
    at = rng.randrange(len(stream))
    stream[at] ^= 1 << rng.randrange(8)
    found = diagnose(messages, first, first + count, bytes(stream))
    number, byte = divmod(at, messages.reply_size or 1)
    # A changed digit may name another request or connection; the diagnosis then says so.
    if found.kind == "corrupt":
        assert (found.request, found.byte) == (first + number, byte)
    else:
        assert found.byte == byte or found.kind in ("lost", "duplicate", "misdelivered")


@given(st.integers(0, 3000), st.integers(2, 30), st.data())
def test_lost_duplicate_and_reordered_replies(first: int, count: int, data: Any) -> None:
    numbers = list(range(first, first + count))
    at = data.draw(st.integers(0, count - 2))
    lost = numbers[:at] + numbers[at + 1 :]
    doubled = numbers[: at + 1] + numbers[at:]
    swapped = [*numbers[:at], numbers[at + 1], numbers[at], *numbers[at + 2 :]]
    for received, kind in ((lost, "lost"), (doubled, "duplicate"), (swapped, "reordered")):
        found = diagnose(LONG, first, first + count, came(*received))
        assert (found.kind, found.request) == (kind, numbers[at])


def test_an_error_after_many_correct_replies() -> None:
    """Diagnosis takes linear time: copying the rest for each reply would take minutes."""
    count = 20_000
    messages = numbered("line", 2000)(1)
    right = messages.batch(0, count)[1]
    found = diagnose(messages, 0, count, right[:-10] + b"?" + right[-9:])
    assert (found.kind, found.request, found.byte) == ("corrupt", count - 1, 1990)
