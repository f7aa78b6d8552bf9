"""The connections of a client: which are open, idle or in use, and who waits for one."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from silly.errors import SillyError
from silly.net.conn import Conn

__all__ = ["Pool"]

K = TypeVar("K", bound=Hashable)


class _Idle(NamedTuple):
    conn: Conn
    timer: asyncio.TimerHandle


class _Waiting(NamedTuple, Generic[K]):
    key: K
    turn: asyncio.Future[None]


class Pool(Generic[K]):
    """Connections by key: what is at their other end.

    Args:
        connect: opens one.
        max_per_key: connections with one key, in use or idle.
        max_connections: with all keys together.
        idle_timeout: seconds after which an idle one is closed.
    """

    def __init__(
        self,
        connect: Callable[[K], Awaitable[Conn]],
        *,
        max_per_key: int,
        max_connections: int,
        idle_timeout: float,
    ) -> None:
        self._connect = connect
        self._max_per_key = max_per_key
        self._max_connections = max_connections
        self._idle_timeout = idle_timeout
        self._used: Counter[K] = Counter()  # also those that are being opened
        self._all_used = 0
        self._idle: dict[K, list[_Idle]] = {}  # the longest first, in both
        self._waiting: deque[_Waiting[K]] = deque()
        self._open: set[Conn] = set()
        self.is_closed = False

    async def acquire(self, key: K, *, fresh: bool = False) -> tuple[Conn, bool]:
        """Return a connection, and whether it was used before. Waiting is first come, first served.

        Args:
            fresh: open a new one.

        Raises:
            RuntimeError: the pool is closed.

        And whatever connecting raises. Give it back by `release` or `discard`.
        """
        await self._wait_for_place(key)
        try:
            conn = None if fresh else await self._take_usable(key)
            was_used = conn is not None
            if conn is None:
                self._make_room(key)
                conn = await self._connect(key)
            if self.is_closed:
                conn.abort()
                raise _closed()
        except BaseException:
            self._leave(key)
            raise
        self._open.add(conn)
        return conn, was_used

    def release(self, key: K, conn: Conn) -> None:
        """Give back a connection that can be used again: it is open, and so is the pool."""
        timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._expire, key, conn)
        self._idle.setdefault(key, []).append(_Idle(conn, timer))
        self._leave(key)

    def discard(self, key: K, conn: Conn, *, at_once: bool = False) -> None:
        """Give back a connection that cannot, and close or (*at_once*) reset it."""
        self._open.discard(conn)
        self._leave(key)
        if at_once:
            conn.abort()
        else:
            conn.close()

    async def close(self) -> None:
        """Close all connections, also those in use, and wait until that is done."""
        self.is_closed = True
        conns = list(self._open)
        self._open.clear()
        for each in self._waiting:
            if not each.turn.done():
                each.turn.set_exception(_closed())
        self._waiting.clear()
        for idle in self._idle.values():
            for conn, timer in idle:
                timer.cancel()
                conn.close()
        self._idle.clear()
        for conn in conns:
            if conn.is_alive:  # it is in use
                conn.abort()
        for conn in conns:
            await conn.wait_closed()

    # -------------------------------------------------------------------------- places

    def _has_place(self, key: K) -> bool:
        return self._all_used < self._max_connections and self._used[key] < self._max_per_key

    def _enter(self, key: K) -> None:
        self._used[key] += 1
        self._all_used += 1

    def _leave(self, key: K) -> None:
        """Free a place, and give it to the first who waits for one."""
        self._all_used -= 1
        self._used[key] -= 1
        if not self._used[key]:
            del self._used[key]
        for each in self._waiting:
            if self._has_place(each.key) and not each.turn.done():  # else it was cancelled just now
                self._waiting.remove(each)
                self._enter(each.key)
                each.turn.set_result(None)
                return

    async def _wait_for_place(self, key: K) -> None:
        if self.is_closed:
            raise _closed()
        if self._has_place(key):  # so nobody waits for it
            self._enter(key)
            return
        waiting = _Waiting(key, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.turn.cancelled() and waiting.turn.exception() is None:
                self._leave(key)  # it came at the same time
            raise

    # ---------------------------------------------------------------------------- idle

    async def _take_usable(self, key: K) -> Conn | None:
        """Take the connection that became idle last, of which an end is the least probable."""
        while idle := self._idle.get(key):
            conn, timer = idle.pop()
            timer.cancel()
            if not idle:
                del self._idle[key]
            self._open.discard(conn)
            if await self._is_usable(conn):
                return conn
        return None

    async def _is_usable(self, conn: Conn) -> bool:
        """Return whether an idle connection is open and silent; otherwise, close it."""
        try:
            await conn.read(timeout=0)
        except TimeoutError:
            if conn.is_alive:
                return True
        except (SillyError, OSError):
            pass
        except BaseException:
            conn.abort()
            raise
        conn.close()
        return False

    def _make_room(self, key: K) -> None:
        """Close idle connections, so that there are not too many with a new one."""
        idle = self._idle.get(key, [])
        while idle and self._used[key] + len(idle) > self._max_per_key:
            self._close_first(key)
        while (
            self._idle
            and self._all_used + sum(map(len, self._idle.values())) > self._max_connections
        ):
            self._close_first(next(iter(self._idle)))

    def _close_first(self, key: K) -> None:
        idle = self._idle[key]
        conn, timer = idle.pop(0)
        if not idle:
            del self._idle[key]
        timer.cancel()
        self._open.discard(conn)
        conn.close()

    def _expire(self, key: K, conn: Conn) -> None:
        idle = self._idle[key]
        idle[:] = [each for each in idle if each.conn is not conn]
        if not idle:
            del self._idle[key]
        self._open.discard(conn)
        conn.close()


def _closed() -> RuntimeError:
    return RuntimeError("the client is closed")
