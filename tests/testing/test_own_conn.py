"""A kind of connection written by others: it derives from `Conn` and uses nothing private."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from typing import Any

import pytest

from silly.errors import EndOfStream, TruncatedStream
from silly.net.conn import Conn, ConnStats
from silly.testing import CONN_CHECKS, memory_pair, run_check, run_virtual

pytestmark = pytest.mark.no_engine


class Counting(Conn):
    """Passes everything on to another connection, and counts its writes."""

    def __init__(self, inner: Conn) -> None:
        self.inner = inner
        self.writes = 0

    def read(
        self,
        until: bytes | int | None = None,
        *,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Coroutine[Any, Any, bytes]:
        return self.inner.read(until, timeout=timeout, limit=limit)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.inner.__aiter__()

    def __anext__(self) -> Awaitable[bytes]:
        return self.inner.__anext__()

    def write(self, data: bytes | bytearray | memoryview | Iterable[Any]) -> Any:
        self.writes += 1
        return self.inner.write(data)

    def close_write(self) -> None:
        self.inner.close_write()

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    async def wait_closed(self) -> None:
        await self.inner.wait_closed()

    @property
    def local_addr(self) -> str:
        return self.inner.local_addr

    @property
    def remote_addr(self) -> str:
        return self.inner.remote_addr

    @property
    def is_alive(self) -> bool:
        return self.inner.is_alive

    @property
    def unread_bytes(self) -> int:
        return self.inner.unread_bytes

    @property
    def unsent_bytes(self) -> int:
        return self.inner.unsent_bytes

    @property
    def read_limit(self) -> int:
        return self.inner.read_limit

    @read_limit.setter
    def read_limit(self, value: int) -> None:
        self.inner.read_limit = value

    @property
    def max_unsent(self) -> int:
        return self.inner.max_unsent

    @max_unsent.setter
    def max_unsent(self, value: int) -> None:
        self.inner.max_unsent = value

    @property
    def linger(self) -> float:
        return self.inner.linger

    @linger.setter
    def linger(self, value: float) -> None:
        self.inner.linger = value

    @property
    def idle_timeout(self) -> float | None:
        return self.inner.idle_timeout

    @idle_timeout.setter
    def idle_timeout(self, value: float | None) -> None:
        self.inner.idle_timeout = value

    @property
    def stats(self) -> ConnStats:
        return self.inner.stats


async def make_pair() -> tuple[Conn, Conn]:
    one, other = memory_pair()
    return Counting(one), Counting(other)


def test_it_has_no_private_parts() -> None:
    assert not [
        name for name in Conn.__abstractmethods__ if name.startswith("_") and name[1] != "_"
    ]


@pytest.mark.parametrize("check", CONN_CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_connection(check: Any) -> None:
    run_virtual(run_check(check, make_pair))


def test_what_it_does_not_have() -> None:
    async def main() -> None:
        one, other = await make_pair()
        assert one.tls is None
        assert one.proxy is None
        assert one.remote_addr in repr(one)
        other.abort()

    run_virtual(main())


def test_a_frame_that_is_cut_off_raises_in_batches() -> None:
    async def main() -> None:
        for until, error in ((3, EndOfStream), (b"\n", None)):
            one, other = await make_pair()
            other.write(b"abcde")
            other.close()
            batches = one.batches(until)
            if error is None:
                assert [batch async for batch in batches] == [[b"abcde"]]
            else:
                assert await anext(batches) == [b"abc"]
                with pytest.raises(error):
                    await anext(batches)
            one.close()

    run_virtual(main())


def test_a_stream_that_is_cut_off_raises_in_batches() -> None:
    class CutOff(Counting):
        async def read(self, *_: Any, **named: Any) -> bytes:
            raise TruncatedStream("cut off", b"ab")

    async def main() -> None:
        one, other = memory_pair()
        with pytest.raises(TruncatedStream):
            await anext(CutOff(one).batches(b"\n"))
        other.abort()

    run_virtual(main())


def test_it_can_be_bounded() -> None:
    async def main() -> None:
        one, _ = await make_pair()
        one.on_draining(lambda: None)  # it has no listener
        with pytest.raises(ConnectionError), one.deadline(5):
            await one.read()
        assert not one.is_alive
        assert "closed" in repr(one)

    run_virtual(main())


class Loose(Counting):
    """Accepts writes whenever they come."""

    def write(self, data: bytes | bytearray | memoryview | Iterable[Any]) -> Any:
        try:
            return super().write(data)
        except OSError:
            return None


class Late(Counting):
    """Reads nothing that it could not read at once, and never fails."""

    def read(
        self,
        until: bytes | int | None = None,
        *,
        timeout: float | None = None,
        limit: int | None = None,
    ) -> Coroutine[Any, Any, bytes]:
        return self._read(self.inner.read(until, timeout=timeout, limit=limit))

    async def _read(self, read: Coroutine[Any, Any, bytes]) -> bytes:
        try:
            return await read
        except Exception:
            return b""


@pytest.mark.parametrize(
    ("kind", "check", "message"),
    [
        (Loose, "end_of_stream_is_reported", "write after close_write was accepted"),
        (Loose, "close_wakes_and_refuses", "write after close was accepted"),
        (Loose, "abort_resets", "write on a lost connection was accepted"),
        (Late, "nothing_is_lost", "expected TimeoutError, got b''"),
    ],
)
def test_one_that_is_not_as_it_should_be(kind: Any, check: str, message: str) -> None:
    async def make() -> tuple[Conn, Conn]:
        one, other = memory_pair()
        return kind(one), kind(other)

    checks = {each.__name__: each for each in CONN_CHECKS}
    with pytest.raises(AssertionError, match=message):
        run_virtual(run_check(checks[check], make))


def test_a_connection_in_memory_has_no_descriptor() -> None:
    async def main() -> None:
        one, other = memory_pair()
        assert one._fileno == -1  # type: ignore[attr-defined]
        one.max_unsent = 10
        for _ in range(10):
            await one.write(b"x" * 6)
            assert await other.read(6) == b"x" * 6
        one.abort()
        other.abort()

    run_virtual(main())
