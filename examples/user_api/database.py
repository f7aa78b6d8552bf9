"""A pool of database connections, for any driver.

A connection belongs to one task at a time, and it is lent again only if everything that was asked
on it has been answered. One whose query was cancelled still owes an answer, which the next to
ask would take for its own: such a connection is closed, and the query stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

from silly import task

Row = dict[str, Any]


class DatabaseError(Exception):
    """The database refused a statement."""


class Duplicate(DatabaseError):
    """A value that must be unique is there already."""


class Conflict(DatabaseError):
    """Two transactions were in each other's way, and this one was undone: try it again."""


class Unavailable(DatabaseError):
    """There is no connection to the database, or it was lost, or too many wait for one."""


class Result(NamedTuple):
    """What a statement returned: rows, or how many it affected and the id of a new one."""

    rows: list[Row]
    affected: int = 0
    last_id: int = 0


class Connection:
    """One connection to a database; each kind of database derives its own.

    Attributes:
        is_busy: an answer is outstanding.
        in_transaction: a transaction is open.
        is_lost: it cannot be used any more.
        on_query: called with the text of each statement, without the values, and its seconds.
    """

    FOR_UPDATE = ""  # ends a SELECT whose rows nobody else may change until the commit

    def __init__(self) -> None:
        self.is_busy = self.in_transaction = self.is_lost = False
        self.begun = self.last_used = time.monotonic()
        self.on_query: Callable[[str, float], object] | None = None

    async def query(self, sql: str, *args: object) -> list[Row]:
        """Return the rows of a SELECT; each ``?`` in *sql* stands for one of *args*."""
        return (await self.execute(sql, *args)).rows

    async def execute(self, sql: str, *args: object) -> Result:
        """Run a statement that changes something."""
        assert not self.is_busy, "a connection answers one question after the other"
        self.is_busy = True
        begun = time.perf_counter()
        try:
            result = await self._send(sql, args)
        except Unavailable:
            self.is_lost = True
            raise
        except DatabaseError:
            self.is_busy = False  # an error is an answer
            raise
        finally:
            if self.on_query is not None:
                self.on_query(sql, time.perf_counter() - begun)
        # Not in a `finally`: if this task is cancelled, the answer is still outstanding.
        self.is_busy = False
        return result

    async def begin(self) -> None:
        """Begin a transaction."""
        self.in_transaction = True
        await self.execute("BEGIN")

    async def commit(self) -> None:
        """Make what the transaction did permanent, and visible to all."""
        await self.execute("COMMIT")
        self.in_transaction = False

    async def rollback(self) -> None:
        """Undo what the transaction did."""
        await self.execute("ROLLBACK")
        self.in_transaction = False

    async def _send(self, sql: str, args: tuple[object, ...]) -> Result:
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connection, on which nothing is outstanding."""
        raise NotImplementedError

    async def abandon(self) -> None:
        """Close the connection although an answer is outstanding, and stop the query."""
        raise NotImplementedError


class Pool:
    """At most *size* connections, made when they are needed.

    Args:
        connect: makes a connection.
        size: how many there are at most; who needs one more waits.
        idle: how many are kept while nobody needs them.
        max_idle_time: seconds after which one that was not used is closed.
        max_lifetime: seconds after which one is closed in any case.
        max_waiting: how many may wait for a connection; the next one gets `Unavailable`.
        on_query: as of `Connection`.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        size: int = 10,
        idle: int = 5,
        max_idle_time: float = 600,
        max_lifetime: float = 3600,
        max_waiting: int = 1000,
        on_query: Callable[[str, float], object] | None = None,
    ) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(size)
        self._max_idle, self._max_idle_time, self._max_lifetime = idle, max_idle_time, max_lifetime
        self._max_waiting = max_waiting
        self.on_query = on_query
        self._idle: list[Connection] = []  # the one used last comes first
        self._ending: set[asyncio.Task[None]] = set()
        self.in_use = 0
        self.waiting = 0
        self.is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------ for programs

    async def query(self, sql: str, *args: object) -> list[Row]:
        """Return the rows of a SELECT."""
        return (await self.execute(sql, *args)).rows

    async def execute(self, sql: str, *args: object) -> Result:
        """Run one statement, which is a transaction of its own."""
        async with self.connection() as connection:
            return await connection.execute(sql, *args)

    async def ping(self) -> None:
        """Return if the database answers; else raise `DatabaseError`."""
        await self.query("SELECT 1")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """All or nothing: commit at the end of the block, roll back if it raises.

        If the task is cancelled in the block, the connection is closed, which rolls back, too.
        If it is cancelled during the commit, or the connection is lost, nobody knows which.
        """
        async with self.connection() as connection:
            await connection.begin()
            try:
                yield connection
            except Exception:
                if not connection.is_busy:
                    await connection.rollback()
                raise
            await connection.commit()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection for several statements."""
        if self._places.locked() and self.waiting >= self._max_waiting:
            raise Unavailable("too many wait for a connection")
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.in_use += 1
        connection: Connection | None = None
        caller = asyncio.current_task()
        assert caller is not None
        before = caller.cancelling()
        try:
            connection = await self._take()
            if caller.cancelling() > before:  # Python 3.11's `wait_for`, in a driver, may lose it
                raise asyncio.CancelledError
            yield connection
        finally:
            self._give_back(connection)

    async def close(self) -> None:
        """Close the connections; those in use, when their users are done."""
        self.is_closed = True
        for connection in self._idle:
            self._end(connection.close())
        self._idle.clear()
        while self._ending:
            try:
                await asyncio.wait(self._ending)
            except asyncio.CancelledError:
                await asyncio.wait(self._ending, timeout=0.5)
                raise

    # ----------------------------------------------------------------------- inside

    async def _take(self) -> Connection:
        if self.is_closed:
            raise Unavailable("the pool is closed")
        while self._idle:
            connection = self._idle.pop()
            if self._is_old(connection):
                self._end(connection.close())
                continue
            if time.monotonic() - connection.last_used > 1:
                try:
                    await connection.query("SELECT 1")  # it may be dead by now
                except DatabaseError:
                    self._end(connection.abandon())
                    continue
                except BaseException:
                    self._end(connection.abandon())
                    raise
            return connection
        connection = await self._connect()
        connection.on_query = self.on_query
        return connection

    def _is_old(self, connection: Connection) -> bool:
        now = time.monotonic()
        unused, age = now - connection.last_used, now - connection.begun
        return unused > self._max_idle_time or age > self._max_lifetime

    def _give_back(self, connection: Connection | None) -> None:
        self.in_use -= 1
        if connection is None:
            self._places.release()
        elif connection.is_busy or connection.in_transaction or connection.is_lost:
            if connection.is_lost:  # the others are no better: the server has gone
                while self._idle:
                    self._end(self._idle.pop().abandon())
            # Its place is free when the query has stopped: however many are cancelled, the
            # database never has more to do than there are places.
            self._end(connection.abandon(), self._places.release)
        else:
            connection.last_used = time.monotonic()
            if self.is_closed or len(self._idle) >= self._max_idle:
                self._end(connection.close(), self._places.release)
            else:
                self._idle.append(connection)
                self._places.release()

    def _end(self, ending: Awaitable[None], then: Callable[[], None] = lambda: None) -> None:
        async def end() -> None:
            try:
                await ending
            except (DatabaseError, OSError, TimeoutError):
                pass  # it is gone, one way or the other
            finally:
                then()

        ended = task.fork(end())
        self._ending.add(ended)
        ended.add_done_callback(self._ending.discard)
