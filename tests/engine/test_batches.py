"""Batches are what single reads return, however the network splits the stream.

The stream is cut into arbitrary pieces. Joined, the batches equal a model that has
the whole stream from the start, and end as it says.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silly.errors import ConcurrentRead, ConnectionClosed, EndOfStream, LimitExceeded
from silly.net import tcp
from silly.net.batches import ReadBatches
from silly.net.tcp import Conn
from silly.testing import memory_pair, run_virtual
from tests.engine.test_chunk_invariance import model_read

ANY = "127.0.0.1:0"


def model(stream: bytes, until: bytes | int, limit: int) -> tuple[list[bytes], str, bytes]:
    """Return the items of an iteration, how it ends, and the bytes that are left unread."""
    items: list[bytes] = []
    at = 0
    while True:
        outcome, item = model_read(stream, at, until, limit)
        if outcome == "limit":
            return items, "limit", stream[at:]
        if outcome == "end":
            if isinstance(until, int):
                return items, "partial" if item else "end", item
            return items + [item] * bool(item), "end", b""
        items.append(item)
        at += len(item)


async def collect(
    conn: Conn, batches: Any, most: int, pauses: bool
) -> tuple[list[bytes], str, bytes]:
    items: list[bytes] = []
    end = "end"
    try:
        async for batch in batches:
            assert 1 <= len(batch) <= most
            items += batch
            if pauses:  # more pieces arrive, for a longer batch
                await asyncio.sleep(0)
                await asyncio.sleep(0)
    except LimitExceeded:
        end = "limit"
    except EndOfStream as error:
        return items, "partial", error.partial
    rest = b""
    try:
        while True:
            rest += await conn.read()
    except EndOfStream:
        return items, end, rest


streams = st.lists(st.sampled_from(b"ab\r\n\n"), max_size=80).map(bytes)
cuts = st.lists(st.integers(1, 12), max_size=8)
untils = st.one_of(st.sampled_from([b"\n", b"\r\n", b"aab", b"aa"]), st.integers(1, 9))


@settings(max_examples=150)
@given(streams, cuts, untils, st.integers(2, 20), st.integers(1, 6), st.booleans())
def test_batches_are_what_single_reads_return(
    stream: bytes, pieces: list[int], until: bytes | int, limit: int, most: int, pauses: bool
) -> None:
    outcomes = []

    async def handler(conn: Conn) -> None:
        outcomes.append(await collect(conn, conn.batches(until, most=most), most, pauses))

    async def main() -> None:
        listener = tcp.listen(ANY, handler, read_limit=limit)
        async with await tcp.connect(listener.local_addr) as conn:
            at = 0
            for size in [*pieces, len(stream)]:
                await conn.write(stream[at : at + size])
                at += size
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            conn.close_write()
            async with asyncio.timeout(20):
                with pytest.raises(EndOfStream):
                    await conn.read(1)
        await listener.close()
        assert not listener.stats.handler_errors_by_type

    asyncio.run(main())
    assert outcomes == [model(stream, until, limit)]


@pytest.mark.no_engine
@given(streams, cuts, untils, st.integers(2, 20), st.integers(1, 6), st.booleans())
def test_so_are_those_of_other_kinds_of_connections(
    stream: bytes, pieces: list[int], until: bytes | int, limit: int, most: int, pauses: bool
) -> None:
    async def main() -> None:
        conn, peer = memory_pair(read_limit=limit)

        async def send() -> None:
            at = 0
            for size in [*pieces, len(stream)]:
                await peer.write(stream[at : at + size])
                at += size
                await asyncio.sleep(0)
            peer.close_write()

        sending = asyncio.create_task(send())
        batches = ReadBatches(conn, until, most, None)
        assert await collect(conn, batches, most, pauses) == model(stream, until, limit)
        await sending
        conn.abort()

    run_virtual(main())


async def test_all_that_has_arrived_is_one_batch() -> None:
    async def handler(conn: Conn) -> None:
        async for lines in conn.batches(b"\r\n"):
            await conn.write([b"%d" % len(lines), *lines])

    async with (
        tcp.listen(ANY, handler) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        conn.write(b"one\r\ntwo\r\nthr")
        assert await conn.read(11) == b"2one\r\ntwo\r\n"
        conn.write(b"ee\r\n")
        assert await conn.read(8) == b"1three\r\n"


async def test_a_batch_is_bounded_by_the_read_limit() -> None:
    total = 0
    frames = b"frame..." * 100_000

    async def handler(conn: Conn) -> None:
        nonlocal total
        async for batch in conn.batches(8, most=1_000_000):
            total += 8 * len(batch)
            assert len(batch) * 8 <= 2 * 4096
            assert conn.unread_bytes < 8

    async with (
        tcp.listen(ANY, handler, read_limit=4096) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        await conn.write(frames)
        conn.close_write()
        with pytest.raises(EndOfStream):
            await conn.read()
        assert total == len(frames)
        assert not listener.stats.handler_errors_by_type


async def test_a_cancelled_or_timed_out_batch_loses_nothing() -> None:
    async def handler(conn: Conn) -> None:
        await conn.write(b"one\ntw")
        await conn.read(1)
        await conn.write(b"o\nthree\n")

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        batches = conn.batches(timeout=0)
        while conn.unread_bytes < 6:
            await asyncio.sleep(0)
        assert await anext(batches) == [b"one\n"]
        with pytest.raises(TimeoutError, match="within 0 seconds"):
            await anext(batches)
        waiting = asyncio.ensure_future(anext(conn.batches()))
        await asyncio.sleep(0)
        conn.write(b"x")
        while not (waiting.done() or conn.unread_bytes == 10):
            await asyncio.sleep(0)
        waiting.cancel()  # it was woken, or is about to be
        lines = [] if (await asyncio.wait([waiting])) and waiting.cancelled() else waiting.result()
        while len(lines) < 2:
            lines += [await conn.read(b"\n")]
        assert lines == [b"two\n", b"three\n"]
        with pytest.raises(EndOfStream):
            await conn.read(1)


@pytest.mark.no_engine
def test_each_batch_has_its_own_timeout() -> None:
    async def main() -> None:
        conn, peer = memory_pair()
        loop = asyncio.get_running_loop()
        batches = conn.batches(timeout=3)
        for _ in range(3):
            loop.call_later(2, peer.write, b"a\nb\n")
            assert await anext(batches) == [b"a\n", b"b\n"]
        assert loop.time() == 6
        with pytest.raises(TimeoutError):
            await anext(batches)
        assert loop.time() == 9
        peer.write(b"late\n")
        assert await anext(batches) == [b"late\n"]
        conn.abort()

    run_virtual(main())


async def test_batches_and_other_reads_take_turns() -> None:
    async def handler(conn: Conn) -> None:
        async for header in conn.batches(most=1):
            body = await conn.read(int(header[0]))
            await conn.write([*header, body])

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        conn.write(b"3\na\nb2\n\n\n")
        assert await conn.read(9) == b"3\na\nb2\n\n\n"


async def test_a_second_reader_is_refused_and_the_first_goes_on() -> None:
    async def handler(conn: Conn) -> None:
        await conn.read(1)
        await conn.write(b"line\n")

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        batches = conn.batches()
        first = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        for second in (anext(batches), anext(conn.batches(4)), conn.read()):
            with pytest.raises(ConcurrentRead):
                await second
        conn.write(b"x")
        assert await first == [b"line\n"]


async def test_lines_before_a_loss_are_delivered() -> None:
    async def handler(conn: Conn) -> None:
        conn.write(b"one\ntwo\nthr")
        await conn.read(1)
        conn.abort()

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        while conn.unread_bytes < 11:
            await asyncio.sleep(0)
        conn.write(b"x")
        while conn.is_alive:
            await asyncio.sleep(0)
        batches = conn.batches()
        assert await anext(batches) == [b"one\n", b"two\n"]
        with pytest.raises(ConnectionResetError):
            await anext(batches)
        conn.close()
        with pytest.raises(ConnectionClosed):
            await anext(batches)


async def test_a_deadline_ends_the_wait_for_a_batch() -> None:
    async def handler(conn: Conn) -> None:
        with pytest.raises(TimeoutError), conn.deadline(0.01):
            async for lines in conn.batches():
                assert lines == [b"one\n"]
        ended.set()

    ended = asyncio.Event()
    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        conn.write(b"one\ntw")
        await ended.wait()


@pytest.mark.parametrize("most", [1, 100, 1024])
async def test_other_tasks_get_turns(most: int) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def handler(conn: Conn) -> None:
        while conn.unread_bytes < 16_384:
            await asyncio.sleep(0)
        counting = asyncio.create_task(count_turns())
        async for lines in conn.batches(most=most):
            if b"\r\n" in lines:
                break
        counting.cancel()
        conn.close()

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        await conn.write(b"\n" * 16_382 + b"\r\n")
        with pytest.raises(EndOfStream):
            await conn.read()
        assert turns >= 8
        assert not listener.stats.handler_errors_by_type


async def test_every_iterable_of_pieces_is_written_as_if_joined() -> None:
    class Derived(bytes):
        pass

    long = b"x" * 20_000
    iterables: list[Any] = [
        [],
        (),
        [b"one"],
        [Derived(b"one"), b""],
        [b"a", b"b\n", long],
        (b"a", b"", b"c"),
        [b"a", bytearray(b"b"), memoryview(b"cdef")[::2]],
        (piece for piece in [b"a", b"b"]),
        {b"key": 1},
    ]
    expected = b"".join([b"oneone", b"ab\n" + long, b"ac", b"abce", b"ab", b"key"])

    async def handler(conn: Conn) -> None:
        for pieces in iterables:
            await conn.write(pieces)
        wrong: Any
        for wrong in (["text"], (b"x", 1), [conn.read()], "text", 5):
            with pytest.raises(TypeError):
                conn.write(wrong)
            if isinstance(wrong, list):
                getattr(wrong[0], "close", list)()
        conn.close()

    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        assert await conn.read(len(expected)) == expected
        with pytest.raises(EndOfStream):
            await conn.read()
        assert not listener.stats.handler_errors_by_type


async def test_arguments_are_checked_at_the_call() -> None:
    async with (
        tcp.listen(ANY, lambda conn: conn.read(1)) as listener,
        tcp.connect(listener.local_addr) as conn,
    ):
        batches: Any = conn.batches
        wrong: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"until": b""}, ValueError),
            ({"until": 0}, ValueError),
            ({"until": None}, TypeError),
            ({"until": "x"}, TypeError),
            ({"until": True}, TypeError),
            ({"most": 0}, ValueError),
            ({"most": 1.5}, TypeError),
            ({"timeout": -1}, ValueError),
            ({"timeout": "1"}, TypeError),
        ]
        for arguments, kind in wrong:
            with pytest.raises(kind):
                batches(**arguments)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("until", [b"\n", 20])
async def test_what_a_handler_keeps_of_batches_stays_as_it_was(
    seed: int, until: bytes | int
) -> None:
    """What nobody refers to may be used again for later batches; nothing else is."""
    rng = random.Random(seed)
    kept: list[tuple[Any, Any]] = []  # an object, and a copy of what it was
    received: list[bytes] = []

    def keep(batch: list[Any]) -> None:
        how = rng.randrange(7)
        if how == 0:
            kept.append((batch, [bytes(bytearray(item)) for item in batch]))
        elif how == 1:
            item = rng.choice(batch)
            kept.append((item, bytes(bytearray(item))))
        elif how == 2:
            item = rng.choice(batch)
            kept.append((memoryview(item), bytes(bytearray(item))))
        elif how == 3:
            assert len({*batch}) >= 1  # their hashes are computed
        elif how == 4:
            batch.clear()
        elif how == 5:
            batch[0] = object()
            batch.append("no bytes")

    async def handler(conn: Conn) -> None:
        async for batch in conn.batches(until, most=40):
            count = len(batch)
            received.extend(bytes(bytearray(item)) for item in batch)
            if rng.random() < 0.5:
                assert all({item: 1}[bytes(bytearray(item))] for item in batch)
            else:
                keep(batch)
            await conn.write(b"." * count)

    sent: list[bytes] = []
    async with tcp.listen(ANY, handler) as listener, tcp.connect(listener.local_addr) as conn:
        for _ in range(300):
            count = rng.randrange(1, 50)
            width = rng.choice((19, 19, 19, rng.randrange(100)))
            items = [bytes(rng.choices(b"ab", k=width)) + b"\n" for _ in range(count)]
            if isinstance(until, int):
                items = [item[:1] * until for item in items]
            sent += items
            await conn.write(items)
            assert await conn.read(count, timeout=10) == b"." * count
    assert received == sent
    for it, copy in kept:
        assert it == copy
