"""What requests, responses and sessions stand on.

The native engine has its own (plain.pyx), which recognise most requests without the parser, and
encode most responses in one step. These here leave all to the parser and to `Response`. Which of
them are used makes no difference but for the time it takes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Final

from silly._engine.filter import UNABLE

if TYPE_CHECKING:
    from silly.net.http.errors import HTTPError
    from silly.net.limits import Limits

__all__ = [
    "CACHED_ONLY",
    "SENT",
    "UNASKED",
    "Answer",
    "Body",
    "Counts",
    "Descriptor",
    "Dispatcher",
    "FilePart",
    "Handling",
    "Head",
    "Headers",
    "OpenFile",
    "PlainRequests",
    "encoded",
    "plain_file",
]

UNASKED: Final = object()
SENT: Final = 1024 * 1024  # bytes of a file that the kernel is asked to send at a time
CACHED_ONLY: Final = getattr(os, "RWF_NOWAIT", 0)

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
Body = str | bytes | bytearray | memoryview | Iterable[bytes | str] | AsyncIterable[bytes | str]


class Head:
    """The head of a request, and what is known of its body; the base of `Request`."""

    conn: Any
    _connection: Any
    _body: bytes | None = None
    route = ""
    root_path = ""

    def __init__(
        self,
        method: str,
        raw_target: bytes,
        version: str,
        raw_headers: list[tuple[bytes, bytes]],
        content_length: int,
    ) -> None:
        self.method = method
        self.raw_target = raw_target
        self.version = version
        self.raw_headers = raw_headers
        self.content_length = content_length
        self.is_plain = self.is_complete = not content_length
        if not content_length:
            self._body = b""

    @property
    def target(self) -> str:
        """What the client asked for, undecoded: path and query."""
        return self.raw_target.decode("ascii")

    def _join_fields(self) -> None:
        """Keep the fields in little memory: as they are (see plain.pyx)."""

    def _compact(self) -> None:
        """Keep no more than the head, in one piece; it was not for a handler to add anything."""
        for name in ("_headers", "_path", "_successor", "_continuation", "upgrade"):
            self.__dict__.pop(name, None)


class Dispatcher:
    """Finds the handlers of paths without parameters; the base of `Router`."""

    def __init__(self) -> None:
        # By path, and then by method: a handler, and its pattern.
        self._literal: dict[bytes, dict[str, Any]] = {}
        self._handle: Any = None  # calls `_dispatch` within middleware; None: there is none

    def __call__(self, request: Any) -> Awaitable[Any]:
        """Answer *request*.

        Raises:
            HTTPError: 404 or 405, if there is neither middleware nor `render`.
        """
        answer: Awaitable[Any] = (self._handle or self._dispatch)(request)
        return answer

    def _dispatch(self, request: Any) -> Awaitable[Any]:
        if not request.root_path:
            target = request.raw_target
            routes = self._literal.get(target)
            if routes is None and b"?" in target:
                routes = self._literal.get(target.partition(b"?")[0])
            if routes is not None:
                route = routes.get(request.method)
                if route is not None:
                    handler, request.route = route[:2]
                    answer: Awaitable[Any] = handler(request)
                    return answer
        return self._search(request)

    def _search(self, request: Any) -> Awaitable[Any]:
        """Answer *request*, whose path may have parameters."""
        raise NotImplementedError


class PlainRequests:
    """The part of a session that recognises plain requests; the base of `ServerSession`."""

    __slots__ = (
        "_max_pipelined",
        "_receiving",
        "ends",
        "error",
        "in_head",
        "is_draining",
        "is_paused",
        "is_waiting",
        "requests",
        "taken",
    )

    def __init__(self, kind: type[Any], limits: Limits) -> None:  # noqa: ARG002 - see plain.pyx
        self._max_pipelined = limits.max_pipelined
        self.requests: list[Any] = []
        self.error: HTTPError | None = None
        self.ends = self.is_paused = self.in_head = self.is_draining = False
        self._receiving: Any = None
        self.is_waiting = False
        self.taken = 0

    def feed(self, data: bytes) -> None:
        """Parse *data*, which was received."""
        if self.error is None:
            self._feed(data)
            if len(self.requests) > self._max_pipelined:
                self._refuse_pipelined()

    def _feed(self, data: bytes) -> None:
        """Parse *data* with the parser."""
        raise NotImplementedError

    def _refuse_pipelined(self) -> None:
        """Refuse what has come beyond the requests that may wait."""
        raise NotImplementedError

    @property
    def pending(self) -> int:
        """How many requests can be taken."""
        return len(self.requests)

    def take(self, conn: Any, connection: Any) -> Any:
        """Remove and return the next request, which belongs to *connection*.

        None: there is none, and the session waits for it. False: it does not simply wait.
        """
        if not self.requests:
            self.is_waiting = not self.in_head and not self.ends and self.error is None
            return None if self.is_waiting else False
        request = self.requests.pop(0)
        request.conn = conn
        request._connection = connection
        self.is_waiting = False
        self.taken += 1
        return request


class Handling:
    """Deals with the requests of one connection, until one needs something special.

    Awaiting it returns that request. In place of it, None: the connection is idle, and draining.
    False: its session does not simply wait for a request.

    Attributes:
        request: which is not answered yet.
        response: what its handler has returned. `UNASKED`: the handler was not called: here
            always; natively, while somebody observes requests.
        error: what its handler has raised.
    """

    __slots__ = ("_conn", "_connection", "_session", "error", "request", "response")

    def __init__(
        self,
        connection: Any,
        conn: Any,
        session: PlainRequests,
        service: Any,  # noqa: ARG002 - see handling.pyx
        observers: list[Any],  # noqa: ARG002
    ) -> None:
        self._connection = connection
        self._conn = conn
        self._session = session
        self.request: Any = None
        self.response: Any = UNASKED
        self.error: Exception | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        session = self._session
        self.request = None
        while True:
            request = session.take(self._conn, self._connection)
            if request is not None or (session.is_draining and session.taken):
                self.request = request or None
                return request
            session.feed((yield from self._conn.read().__await__()))


class Answer:
    """What a response consists of; the base of `Response`."""

    _fields: Sequence[tuple[str, str]] = ()

    def __init__(
        self,
        body: Body = b"",
        status: int = 200,
        headers: Headers = (),
        content_type: str | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        if not (
            (type(body) is bytes or type(body) is str)
            and status == 200
            and not headers
            and content_type is None
        ):
            self._check(headers)

    def _check(self, headers: Headers) -> None:
        """Check all of it, and add *headers*."""
        raise NotImplementedError


def encoded(
    request: Head,  # noqa: ARG001 - see plain.pyx
    response: Any,  # noqa: ARG001
    counts: Counts,  # noqa: ARG001
) -> bytes | None:
    """Count a plain response to *request*, and return all of it, encoded.

    None: it must be encoded in another way, and counted.
    """
    return None


class Counts:
    """How many responses were sent, by method and status."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}

    def add(self, method: str, status: int) -> None:
        """Count a response."""
        key = method, status
        self._counts[key] = self._counts.get(key, 0) + 1

    def items(self) -> dict[tuple[str, int], int]:
        """Return all counts."""
        return self._counts.copy()


# -------------------------------------------------------------------------------- files


class Descriptor:
    """A descriptor that is closed when nothing refers to it any more.

    A thread may still be in a system call when the task that waited for it has been cancelled,
    and the descriptor's number must not be used again before the call has ended.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class OpenFile:
    """An open file; the base of `DiskFile`. It is closed when nothing refers to it any more."""

    __slots__ = ("_descriptor", "modified")

    def __init__(self, number: int) -> None:
        """Own the descriptor *number*."""
        self.modified = 0  # what `status` said when it was opened, if that was asked
        self._descriptor: Descriptor | None = Descriptor(number)

    @property
    def _open(self) -> Descriptor:
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def close(self) -> None:
        """Close the file, once no thread uses it."""
        self._descriptor = None

    def status(self) -> tuple[bool, int, int]:
        """Return whether it is a regular file, its size in bytes, and when it has changed.

        The time is in nanoseconds since 1970.
        """
        found = os.fstat(self._open.number)
        return stat.S_ISREG(found.st_mode), found.st_size, found.st_mtime_ns


class FilePart:
    """A part of a file; the base of `FilePieces`.

    Attributes:
        file: whose part it is.
        at: the offset of what is to be sent next.
        left: how many bytes are left to be sent.
        size: how many it had.
        is_begun: whether the head of its response has been sent, and perhaps some of the part.
    """

    __slots__ = ("_cold_until", "at", "file", "is_begun", "left", "size")

    def __init__(self, file: OpenFile, start: int, size: int) -> None:
        self.file = file
        self.at = start
        self.size = self.left = size
        self.is_begun = False
        self._cold_until = 0  # an offset: what is before it was not in memory

    def send(self, conn: Any) -> int:
        """Have the kernel send some of what is left, if that is in memory.

        Return what `Filtered._send_file` returns. What is not in memory is not sent so, because
        that would block.
        """
        number = self.file._open.number
        count = min(self.left, SENT)
        # The last byte: what comes before it was read by the system, too. It is asked for only
        # once, since the system then reads it, and it alone.
        if self.at < self._cold_until:
            return UNABLE
        if not _is_cached(number, self.at + count - 1):
            self._cold_until = self.at + count
            return UNABLE
        sent: int = conn._send_file(number, self.at, count)
        if sent > 0:
            self.at += sent
            self.left -= sent
        return sent


def plain_file(path: str, flags: int) -> Any:  # noqa: ARG001 - see parts.pyx
    """Return a response with the file at *path*; None: it must be opened in another way."""
    return None


def _is_cached(number: int, offset: int) -> bool:
    """Return whether the system has this byte of a file in memory, if the file system can tell."""
    try:
        return bool(CACHED_ONLY) and os.preadv(number, [bytearray(1)], offset, CACHED_ONLY) == 1
    except OSError:
        return False
