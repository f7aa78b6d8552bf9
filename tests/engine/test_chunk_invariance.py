"""The results of reads depend on the byte stream and the calls, not on the pieces received.

A `Conn` over a fake link receives one stream, cut into arbitrary pieces, with timeouts and
cancellations in between. Its results must equal those of a model that has the whole
stream from the start.
"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.errors import EndOfStream, LimitExceeded
from silly.testing.memory import MemoryConn

pytestmark = pytest.mark.no_engine

NOBODY: Any = SimpleNamespace(conn_closed=lambda _conn: None)


class FakeLink:
    """A link that the test controls."""

    local_sockaddr = ("192.0.2.1", 1)
    remote_sockaddr = ("192.0.2.2", 2)
    remote_ip = bytes((192, 0, 2, 2))
    clock = time.monotonic

    def __init__(self) -> None:
        self.sent = b""
        self.sends = 0
        self.paused = False

    def attach(self, events: object) -> None: ...

    def receive_at_most(self, size: int) -> None: ...

    def send(self, data: bytes) -> None:
        self.sent += data
        self.sends += 1

    def unsent(self) -> int:
        return 0

    def pause(self) -> None:
        assert not self.paused
        self.paused = True

    def resume(self) -> None:
        assert self.paused
        self.paused = False

    def finish(self) -> None: ...

    def set_high_water(self, size: int) -> None: ...

    def call_when_empty(self) -> None: ...

    def in_flight(self) -> int:
        return 0

    def fileno(self) -> int:
        return -1

    def has_unread(self) -> bool:
        return False

    def close(self) -> None: ...

    def abort(self) -> None: ...


Read = tuple[bytes | int, int, str]  # until, limit, disturbance

reads = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([b"\n", b"\r\n", b"aab", b"aa"]),
            st.integers(0, 12),
        ),
        st.integers(4, 16),
        st.sampled_from(["", "cancel", "timeout"]),
    ),
    max_size=12,
)
streams = st.lists(st.sampled_from(b"ab\r\n"), max_size=60).map(bytes)
piece_sizes = st.lists(st.integers(1, 9), min_size=60, max_size=60)


def model_read(stream: bytes, at: int, what: bytes | int, limit: int) -> tuple[str, bytes]:
    """Return the result of one read at offset *at*, with all of *stream* available."""
    held = stream[at:]
    if isinstance(what, int):
        return ("ok", held[:what]) if len(held) >= what else ("end", held)
    found = held.find(what)
    if found >= 0 and found + len(what) <= limit:
        return "ok", held[: found + len(what)]
    best = min(len(held) - k + len(what) for k in range(len(what)) if held.endswith(what[:k]))
    if found >= 0 or best > limit:
        return "limit", b""
    return "end", held


async def run_reads(stream: bytes, cuts: list[int], wanted: list[Read]) -> list[tuple[str, bytes]]:
    link = FakeLink()
    conn = MemoryConn(link, asyncio.get_running_loop(), NOBODY, read_limit=8)
    pieces = []
    at = 0
    for cut in cuts:
        if stream[at : at + cut]:
            pieces.append(stream[at : at + cut])
        at += cut
    results: list[tuple[str, bytes]] = []
    ended = False

    def feed() -> None:
        nonlocal ended
        if link.paused:
            return
        if pieces:
            conn.received(pieces.pop(0))
        elif not ended:
            ended = True
            conn.ended()

    for what, limit, disturbance in wanted:
        options: dict[str, Any] = {} if isinstance(what, int) else {"limit": limit}
        if disturbance == "timeout":
            try:
                results.append(("ok", await conn.read(what, timeout=0, **options)))
                continue
            except (TimeoutError, EndOfStream, LimitExceeded):
                pass
        reader = asyncio.create_task(conn.read(what, **options))
        await asyncio.sleep(0)
        if disturbance == "cancel":
            feed()  # may complete the read, so that the cancellation follows the wake-up
            reader.cancel()
            try:
                results.append(("ok", await reader))
                continue
            except (asyncio.CancelledError, EndOfStream, LimitExceeded):
                pass
            reader = asyncio.create_task(conn.read(what, **options))
        while not reader.done():
            await asyncio.sleep(0)
            if not reader.done():
                feed()
        try:
            results.append(("ok", reader.result()))
        except EndOfStream as error:
            results.append(("end", error.partial))
        except LimitExceeded:
            results.append(("limit", b""))
    while pieces:
        conn.received(pieces.pop(0))
    rest = conn.unread_bytes
    results.append(("rest", await conn.read(rest)))
    conn.abort()
    return results


@given(streams, piece_sizes, reads)
def test_results_equal_those_over_the_whole_stream(
    stream: bytes, cuts: list[int], wanted: list[Read]
) -> None:
    results = asyncio.run(run_reads(stream, cuts, wanted))
    at = 0
    for (what, limit, _), result in zip(wanted, results, strict=False):
        expected = model_read(stream, at, what, limit)
        assert result == expected, (what, limit)
        if result[0] == "ok":
            at += len(result[1])
    assert results[-1] == ("rest", stream[at:])


@pytest.mark.parametrize("lines", [1, 32, 1000])
def test_replies_of_one_turn_are_sent_at_once(lines: int) -> None:
    async def main() -> None:
        link = FakeLink()
        conn = MemoryConn(link, asyncio.get_running_loop(), NOBODY)

        async def echo() -> None:
            async for line in conn:
                await conn.write(line)

        handler = asyncio.create_task(echo())
        await asyncio.sleep(0)
        conn.received(b"0123456789\n" * lines)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert link.sent == b"0123456789\n" * lines
        assert link.sends == 1
        conn.ended()
        await handler

    asyncio.run(main())


def test_writes_are_sent_by_the_next_suspension() -> None:
    async def main() -> None:
        link = FakeLink()
        conn = MemoryConn(link, asyncio.get_running_loop(), NOBODY)
        conn.write(b"a")
        await conn.write([b"b", bytearray(b"c"), memoryview(b"d")])
        assert link.sends == 0
        await asyncio.sleep(0)
        assert (link.sent, link.sends) == (b"abcd", 1)

    asyncio.run(main())
