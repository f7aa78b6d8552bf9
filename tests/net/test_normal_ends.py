"""A handler that ends only because its own connection ended has not crashed.

This holds for every errno of the loss, and however the connection's exception was
wrapped. An error of the handler itself is a crash, even if it follows from the loss; so
is the loss of any other connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest

from silly._engine import stream_errors
from silly.errors import ConnectionClosed, EndOfStream, LimitExceeded
from silly.net import tcp
from silly.net.observer import Ending
from silly.net.tcp import Conn, Limits, Listener

ANY: Final = "127.0.0.1:0"
ERRNOS: Final = [
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.EPIPE,
    errno.EPROTO,
    errno.EACCES,
    errno.EIO,
]

Handler = Callable[[Conn], Coroutine[Any, Any, object]]


def aborts(conn: Conn) -> None:
    conn.abort()


def closes(conn: Conn) -> None:
    conn.close()


class Endings:
    """An observer that records how the connection ended."""

    def __init__(self) -> None:
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def opened(self, conn: Conn, listener: Listener) -> None: ...

    def closed(self, conn: Conn, listener: Listener, ending: Ending) -> None:
        self.ending.set_result(ending)


class Wrapped(Exception):  # noqa: N818 - only for this test
    """An exception that wraps another one."""


# --------------------------------------------------- handlers that end with the loss


async def reads(conn: Conn) -> None:
    await conn.read(b"\n")


async def iterates(conn: Conn) -> None:
    async for _ in conn:
        pass


async def writes(conn: Conn) -> None:
    await conn.wait_closed()
    await conn.write(b"x")


async def waits_to_write(conn: Conn) -> None:
    while True:
        await conn.write(b"x" * 100_000)
        await asyncio.sleep(0)


async def reads_again(conn: Conn) -> None:
    with contextlib.suppress(OSError):
        await conn.read(b"\n")
    await conn.read(b"\n")


async def reads_in_a_group(conn: Conn) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(conn.read(b"\n"))
        group.create_task(asyncio.Event().wait())


async def both_in_nested_groups(conn: Conn) -> None:
    async def deeper() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(conn.read(b"\n"))
            group.create_task(writes(conn))

    async with asyncio.TaskGroup() as group:
        group.create_task(deeper())


async def raises_from(conn: Conn) -> None:
    try:
        await conn.read(b"\n")
    except OSError as error:
        raise Wrapped from error


async def raises_from_a_group(conn: Conn) -> None:
    try:
        await reads_in_a_group(conn)
    except* OSError as group:
        raise Wrapped from group


async def raises_a_group_from(conn: Conn) -> None:
    try:
        await conn.read(b"\n")
    except OSError as error:
        raise ExceptionGroup("more", [Wrapped()]) from error


async def wraps_twice(conn: Conn) -> None:
    try:
        await raises_from(conn)
    except Wrapped as error:
        raise KeyError("x") from error


async def wraps_the_same_error_in_two_tasks(conn: Conn) -> None:
    failing = asyncio.ensure_future(raises_from(conn))
    results = await asyncio.gather(failing, asyncio.shield(failing), return_exceptions=True)
    raise BaseExceptionGroup("both", [each for each in results if isinstance(each, Wrapped)])


async def raises_the_error_of_another_task(conn: Conn) -> None:
    await asyncio.gather(conn.read(b"\n"), asyncio.sleep(0))


async def fails_to_say_goodbye(conn: Conn) -> None:
    try:
        await conn.read(b"\n")
    finally:
        await conn.write(b"goodbye\n")


LOSERS: Final[list[Handler]] = [
    reads,
    iterates,
    writes,
    waits_to_write,
    reads_again,
    reads_in_a_group,
    both_in_nested_groups,
    raises_from,
    raises_from_a_group,
    raises_a_group_from,
    wraps_twice,
    wraps_the_same_error_in_two_tasks,
    raises_the_error_of_another_task,
    fails_to_say_goodbye,
]

# --------------------------------------------------------------- handlers that crash


async def crash_while_cleaning_up(conn: Conn) -> None:
    try:
        await conn.read(b"\n")
    finally:
        raise ZeroDivisionError


async def crash_in_the_except_block(conn: Conn) -> None:
    try:
        await conn.read(b"\n")
    except OSError:
        raise ZeroDivisionError  # noqa: B904 - on purpose


async def crash_instead_of_it(conn: Conn) -> None:
    try:
        await conn.read(b"\n")
    except OSError:
        raise ZeroDivisionError from None


async def crash_after_it(conn: Conn) -> None:
    with contextlib.suppress(OSError):
        await conn.read(b"\n")
    raise ZeroDivisionError


async def crash_beside_it(conn: Conn) -> None:
    async def defect() -> None:
        try:
            await conn.wait_closed()
        finally:
            raise ZeroDivisionError

    async with asyncio.TaskGroup() as group:
        group.create_task(conn.read(b"\n"))
        group.create_task(defect())


async def raises_its_own_reset(conn: Conn) -> None:
    await conn.wait_closed()
    raise ConnectionResetError(errno.ECONNRESET, "of my own", conn.remote_addr)


async def raises_its_own_end(conn: Conn) -> None:
    await conn.wait_closed()
    raise EndOfStream("of my own", address=conn.remote_addr)


async def times_out_after_it(conn: Conn) -> None:
    await conn.wait_closed()
    async with asyncio.timeout(0.001):
        await asyncio.Event().wait()


async def circular_chain(conn: Conn) -> None:
    await conn.wait_closed()
    one, other = Wrapped(), Wrapped()
    one.__cause__ = ExceptionGroup("other", [other])
    other.__cause__ = one
    raise one


async def endless_chain(conn: Conn) -> None:
    await conn.wait_closed()
    error: Exception = Wrapped()
    for _ in range(3000):
        longer = Wrapped()
        longer.__cause__, error = error, longer
    raise error


async def error_that_fails(conn: Conn) -> None:
    class Evil(Exception):  # noqa: N818
        def __getattribute__(self, name: str) -> Any:
            if name == "_conn":
                raise ZeroDivisionError
            return super().__getattribute__(name)

    await conn.wait_closed()
    raise Evil


CRASHERS: Final[list[Handler]] = [
    crash_while_cleaning_up,
    crash_in_the_except_block,
    crash_instead_of_it,
    crash_after_it,
    crash_beside_it,
    raises_its_own_reset,
    raises_its_own_end,
    times_out_after_it,
    circular_chain,
    error_that_fails,
]


async def lose(handler: Handler, how: Callable[[Conn], object]) -> tuple[Listener, Ending]:
    """End a connection to *handler*; return the listener and the recorded ending."""
    endings = Endings()
    async with tcp.listen(ANY, handler, observer=endings) as listener:
        conn = await tcp.connect(listener.local_addr)
        while not listener.stats.accepted:
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        how(conn)
        async with asyncio.timeout(20):
            ending = await endings.ending
        conn.abort()
        await conn.wait_closed()
    return listener, ending


@pytest.mark.parametrize("handler", LOSERS, ids=lambda handler: handler.__name__)
@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ECONNRESET])
async def test_a_wrapped_loss_is_a_normal_end(
    handler: Handler, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        stream_errors, "cause_of_loss", lambda _: OSError(number, os.strerror(number))
    )
    listener, ending = await lose(handler, aborts)
    assert ending.how == ("reset" if number == errno.ECONNRESET else "lost")
    assert listener.stats.handler_errors == 0
    assert not [record for record in caplog.records if record.name == "silly.net"]


@pytest.mark.heavy
@pytest.mark.parametrize("handler", [writes, reads_in_a_group])
@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
async def test_every_errno_is_a_normal_end(
    handler: Handler, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        stream_errors, "cause_of_loss", lambda _: OSError(number, os.strerror(number))
    )
    listener, ending = await lose(handler, aborts)
    assert ending.how in ("reset", "lost")
    assert listener.stats.handler_errors == 0
    assert not [record for record in caplog.records if record.name == "silly.net"]


@pytest.mark.parametrize("handler", [reads, raises_from, reads_in_a_group, fails_to_say_goodbye])
async def test_the_end_of_the_stream_and_closing_are_normal_ends(handler: Handler) -> None:
    async def wraps(conn: Conn) -> None:
        try:
            await handler(conn)
        except (EOFError, ConnectionError) as error:
            raise Wrapped from error

    for each in (handler, wraps):
        listener, ending = await lose(each, closes)
        assert ending.how in ("peer_finished", "reset")
        assert listener.stats.handler_errors == 0


async def test_the_server_may_close_it() -> None:
    async def handler(conn: Conn) -> None:
        conn.close()
        try:
            await conn.read(b"\n")
        except ConnectionClosed as error:
            raise ExceptionGroup("closed", [error]) from None

    listener, ending = await lose(handler, lambda _: None)
    assert ending.how == "closed_here"
    assert listener.stats.handler_errors == 0


@pytest.mark.parametrize("handler", CRASHERS, ids=lambda handler: handler.__name__)
async def test_a_crash_beside_the_loss_is_a_crash(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    listener, ending = await lose(handler, aborts)
    assert ending.how == "handler_error"
    assert listener.stats.handler_errors == 1
    assert listener.connections == 0
    (record,) = [record for record in caplog.records if record.name == "silly.net"]
    assert record.exc_info


@pytest.mark.heavy
async def test_a_chain_of_any_length_does_not_keep_the_connection() -> None:
    listener, ending = await lose(endless_chain, aborts)
    assert ending.how == "handler_error"
    assert listener.stats.handler_errors_by_type == {"Wrapped": 1}


# ------------------------------------------------------------------- other connections


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("end", [aborts, closes])
async def test_the_loss_of_an_upstream_is_a_crash(
    kind: str, end: Callable[[Conn], None], tmp_path: Path
) -> None:
    async def upstream(conn: Conn) -> None:
        await conn.read(b"\n")
        end(conn)

    async def relay(conn: Conn) -> None:
        async with await tcp.connect(back.local_addr) as behind:
            behind.write(await conn.read(b"\n"))
            await conn.write(await behind.read(b"\n"))

    async with tcp.listen(ANY if kind == "tcp" else f"unix:{tmp_path}/back", upstream) as back:
        listener, ending = await lose(relay, lambda conn: conn.write(b"question\n"))
    assert ending.how == "handler_error"
    (error,) = listener.stats.handler_errors_by_type
    assert error in ("ConnectionResetError", "EndOfStream", "BrokenPipeError")


@pytest.mark.parametrize("end", [aborts, closes])
async def test_the_loss_of_a_client_of_the_same_name_is_a_crash(
    end: Callable[[Conn], None], tmp_path: Path
) -> None:
    """Clients of a Unix socket have no names, so the connection itself is compared."""
    conns: list[Conn] = []

    async def handler(conn: Conn) -> None:
        conns.append(conn)
        if len(conns) == 1:
            await conn.wait_closed()
        else:
            await conns[0].read(b"\n")

    async with tcp.listen(f"unix:{tmp_path}/chat", handler) as listener:
        first = await tcp.connect(listener.local_addr)
        while not conns:
            await asyncio.sleep(0)
        async with await tcp.connect(listener.local_addr) as second:
            while len(conns) < 2:
                await asyncio.sleep(0)
            assert conns[0].remote_addr == conns[1].remote_addr == "unix:"
            end(first)
            with pytest.raises((EndOfStream, OSError)):
                await second.read()
        first.abort()
        while not listener.stats.handler_errors:
            await asyncio.sleep(0)
        await listener.close(0)
        assert listener.stats.handler_errors == 1


# ------------------------------------------------------------------------------ limits


@pytest.mark.parametrize("wrapped", ["not", "in a group", "from"])
async def test_a_wrapped_limit_counts_as_a_limit(wrapped: str) -> None:
    async def handler(conn: Conn) -> None:
        try:
            await conn.read(b"\n")
        except LimitExceeded as error:
            if wrapped == "in a group":
                raise ExceptionGroup("group", [error]) from None
            if wrapped == "from":
                raise Wrapped from error
            raise

    async with tcp.listen(ANY, handler, limits=Limits(read_limit=10)) as listener:
        async with await tcp.connect(listener.local_addr) as conn:
            conn.write(b"x" * 100)
            with pytest.raises((EndOfStream, OSError)):
                await conn.read()
        while listener.connections:
            await asyncio.sleep(0)
        assert listener.stats.ended == {"read_limit": 1}
        assert listener.stats.handler_errors == 0
