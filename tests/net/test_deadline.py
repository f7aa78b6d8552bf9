"""`conn.deadline`: a peer that keeps an exchange open is ended, however it spreads its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from silly.errors import EndOfStream
from silly.net import tcp
from silly.net.conn import StreamConn
from silly.net.tcp import Conn, Limits
from silly.testing import faults, memory_pair, run_virtual
from silly.testing.faults import Faults

ANY = "127.0.0.1:0"


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test on the virtual clock."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        run_virtual(test(*arguments, **named))

    return run


async def frames(conn: Conn) -> None:
    while True:
        await conn.read(1)
        with conn.deadline(10):
            size = int.from_bytes(await conn.read(3), "big")
            conn.write(await conn.read(size))


async def header(conn: Conn) -> None:
    await conn.read(b"\r\n")
    with conn.deadline(10):
        while await conn.read(b"\r\n") != b"\r\n":
            pass
    await conn.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def answer(conn: Conn) -> None:
    """Send more than the client reads."""
    await conn.read(b"\n")
    with conn.deadline(10):
        await conn.write(b"x" * 4_000_000)


async def silent(conn: Conn) -> None:
    await conn.write(b"\0\0\3\xe8")


async def drip_headers(conn: Conn) -> None:
    await conn.write(b"GET / HTTP/1.1\r\n")
    while True:
        await conn.write(b"X-a: b\r\n")
        await asyncio.sleep(3)


async def ask_and_not_read(conn: Conn) -> None:
    conn.read_limit = 1
    await conn.write(b"\n")


@pytest.mark.parametrize(
    ("handler", "attack"),
    [(frames, silent), (header, drip_headers), (answer, ask_and_not_read)],
)
def test_evasions_end_at_the_deadline(
    handler: Callable[[Conn], Coroutine[Any, Any, None]],
    attack: Callable[[Conn], Coroutine[Any, Any, None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        errors: list[BaseException] = []

        async def observed(conn: Conn) -> None:
            try:
                await handler(conn)
            except BaseException as error:
                errors.append(error)
                raise

        async with (
            tcp.listen(ANY, observed, limits=Limits.none()) as listener,
            await tcp.connect(listener.local_addr) as conn,
        ):
            begun = loop.time()
            attacking = asyncio.create_task(attack(conn))
            while not errors:
                await asyncio.sleep(0.1)
            assert 10 <= loop.time() - begun <= 13
            assert isinstance(errors[0], TimeoutError)
            assert "deadline of 10 seconds" in str(errors[0])
            while listener.connections:
                await asyncio.sleep(0.1)
            assert listener.stats.ended == {"deadline": 1}
            assert listener.stats.handler_errors == 0
            attacking.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await attacking
            conn.abort()

    caplog.set_level(logging.INFO, "silly.net")
    run_virtual(main())
    assert "deadline (the exchange was not finished in time)" in caplog.text


@virtual
async def test_an_exchange_in_time_is_not_ended() -> None:
    a, b = memory_pair()
    for _ in range(100):
        with a.deadline(1):
            b.write(b"x\n")
            assert await a.read(b"\n") == b"x\n"
            await asyncio.sleep(0.5)
    await asyncio.sleep(100)
    assert a.is_alive
    a.abort()
    b.abort()


@virtual
async def test_the_earliest_deadline_counts() -> None:
    loop = asyncio.get_running_loop()
    for outer, inner in ((10, 100), (100, 10)):
        a, b = memory_pair()
        begun = loop.time()
        with a.deadline(outer), a.deadline(inner), pytest.raises(TimeoutError, match="of 10 sec"):
            await a.read()
        assert 10 <= loop.time() - begun <= 13
        b.abort()
        a.abort()


@virtual
async def test_an_outer_deadline_continues_after_an_inner_one() -> None:
    loop = asyncio.get_running_loop()
    a, b = memory_pair()
    begun = loop.time()
    with a.deadline(20):
        with a.deadline(5):
            await asyncio.sleep(4)
        with pytest.raises(TimeoutError):
            await a.read()
    assert 20 <= loop.time() - begun <= 26
    b.abort()
    a.abort()


@virtual
async def test_moving_bytes_extend_the_deadline() -> None:
    loop = asyncio.get_running_loop()
    a, b = memory_pair()

    async def send() -> None:
        for _ in range(100):
            await b.write(b"x" * 1000)
            await asyncio.sleep(1)

    sending = asyncio.create_task(send())
    begun = loop.time()
    with a.deadline(5, rate=1000):  # each 1000 bytes extend it by a second
        await a.read(100_000)
    assert loop.time() - begun >= 99
    await sending
    begun = loop.time()
    sending = asyncio.create_task(send())
    with a.deadline(5, rate=4000), pytest.raises(TimeoutError):
        await a.read(100_000)
    assert loop.time() - begun <= 10
    sending.cancel()
    b.abort()
    a.abort()


@virtual
async def test_a_task_that_is_not_reading_gets_the_error_at_its_next_read() -> None:
    a, b = memory_pair()
    with a.deadline(1):
        await asyncio.sleep(10)
    assert not a.is_alive
    with pytest.raises(TimeoutError, match="deadline"):
        await a.read()
    with pytest.raises(TimeoutError, match="deadline"):
        a.write(b"x")
    b.abort()


@virtual
async def test_the_deadline_of_a_closed_connection_ends() -> None:
    a, b = memory_pair()
    with a.deadline(1):
        a.close()
        b.close()
        await asyncio.sleep(10)
    await a.wait_closed()


@virtual
async def test_none_means_no_deadline() -> None:
    a, b = memory_pair()
    with a.deadline(None):
        await asyncio.sleep(1e6)
    assert a.is_alive
    b.abort()
    a.abort()


@virtual
async def test_a_deadline_cannot_be_entered_twice() -> None:
    a, b = memory_pair()
    deadline = a.deadline(1)
    with deadline, pytest.raises(RuntimeError, match="has already begun"), deadline:
        pass
    with deadline:  # it ended
        pass
    b.abort()
    a.abort()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "seconds must be"),
        ((-1,), ValueError, "seconds must be"),
        (("10",), TypeError, "seconds must be"),
        ((1, 0), ValueError, "rate must be a finite number above 0"),
        ((1, "fast"), TypeError, "rate must be a number"),
        ((1, True), TypeError, "rate must be a number"),
        ((1, float("nan")), ValueError, "rate must be a finite number above 0"),
        ((1, float("inf")), ValueError, "rate must be a finite number above 0"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    async def main() -> None:
        a, b = memory_pair()
        with pytest.raises(error, match=message):
            a.deadline(arguments[0], rate=arguments[1] if len(arguments) > 1 else None)
        a.abort()
        b.abort()

    asyncio.run(main())


@virtual
async def test_slow_links_are_spared() -> None:
    """A client that finishes the exchange over a slow link is not ended."""
    slow = Faults(slice=7, latency=1, bandwidth=200)
    async with (
        tcp.listen(ANY, frames) as listener,
        faults.proxy(ANY, listener.local_addr, up=slow, down=slow) as proxy,
        await tcp.connect(proxy.local_addr) as conn,
    ):
        for size in (1, 100, 1000):
            await conn.write(b"\0" + size.to_bytes(3, "big") + b"x" * size)
            assert await conn.read(size) == b"x" * size
        assert not listener.stats.ended


@virtual
async def test_bytes_in_the_kernel_count_as_not_taken() -> None:
    """An answer in the kernel's buffers has not been taken by the peer yet."""
    handled: list[Conn] = []

    async def handler(conn: Conn) -> None:
        handled.append(conn)
        await conn.read(b"\n")
        await conn.write(b"x" * 200_000)
        with contextlib.suppress(EndOfStream):
            await conn.read(b"\n")

    limits = Limits(min_send_rate=500, send_window=100)
    async with tcp.listen(ANY, handler, limits=limits) as listener:
        host, port = listener.local_addr.rsplit(":", 1)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect((host, int(port)))
            client.send(b"\n")
            while not handled or handled[0].stats.bytes_out < 200_000:
                await asyncio.sleep(0.001)
            assert handled[0].unsent_bytes == 0
            while listener.connections:
                await asyncio.sleep(1)
            assert listener.stats.ended == {"min_send_rate": 1}
            with pytest.raises(ConnectionResetError):
                while client.recv(100_000):
                    pass


@virtual
async def test_a_slow_client_that_takes_everything_is_not_ended() -> None:
    """Some bytes are always on their way to the client, which takes them all, slowly."""
    a, b = memory_pair(window=100)

    async def take() -> None:
        for _ in range(400):
            await b.read(50)
            await asyncio.sleep(1)

    taking = asyncio.create_task(take())
    deadlines = (1e9, 1e9, 1e9, 500.0, 120.0)
    stream = cast(StreamConn, a)
    for _ in range(40):
        await a.write(b"x" * 500)
        await asyncio.sleep(10)
        stream._check_deadlines(asyncio.get_running_loop().time(), deadlines)
    assert stream._ended_by is None
    taking.cancel()
    a.abort()
    b.abort()
