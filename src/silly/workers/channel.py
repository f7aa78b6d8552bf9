"""The messages between a supervisor and its workers, and the channel that carries them.

Each message is a line of JSON on a Unix stream socket; descriptors are passed with it
(SCM_RIGHTS, unix(7)). Every kind of message is a class here. Neither side waits for the
other, with one exception: a worker that opens a listening socket waits for the answer,
because `silly.net.tcp.listen` promises a bound socket on return. The supervisor answers
that at once, and never waits.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import dataclasses
import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from silly._loop.signals import SLICE

__all__ = [
    "CHANNEL",
    "Act",
    "Acted",
    "Answer",
    "Ask",
    "Channel",
    "Drain",
    "Heartbeat",
    "Key",
    "Last",
    "Lend",
    "Message",
    "Open",
    "Refused",
    "Release",
    "Return",
    "Running",
    "Sockets",
    "Stopping",
]

CHANNEL: Final = "SILLY_CHANNEL"
"""The variable that a worker starts with: ``DESCRIPTOR:SECONDS`` (between two heartbeats)."""

Key = tuple[str, int]
"""A listening address of a program: its text, and an index among equal texts."""


# ----------------------------------------------------- sent by the worker


@dataclass(frozen=True, slots=True)
class Open:
    """Requests the sockets of an address; answered by `Sockets` or `Refused`."""

    address: str
    index: int
    backlog: int
    reuse_port: bool
    mode: int | None


@dataclass(frozen=True, slots=True)
class Release:
    """The worker has closed this listener, but is not stopping."""

    address: str
    index: int


@dataclass(frozen=True, slots=True)
class Running:
    """The main coroutine waits (or, if *started*, has returned); *listening* lists the keys.

    *encrypted* are the addresses, as text, of those that speak TLS, *datagrams* those of UDP
    sockets, which each worker opens itself.
    """

    started: bool
    listening: list[list[Any]]
    encrypted: list[str]
    datagrams: list[str]


@dataclass(frozen=True, slots=True)
class Stopping:
    """The worker no longer accepts: stopping was *requested*, or its program has ended."""

    requested: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The worker's event loop is running."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to `Ask`; *known* is false if the worker does not provide that name."""

    id: int
    name: str
    known: bool
    value: Any


@dataclass(frozen=True, slots=True)
class Last:
    """The worker has drained; its last answers, by name."""

    answers: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Acted:
    """The answer to `Act`: the value, or, if that could not be done, an error for people."""

    id: int
    value: Any
    error: str | None


# ------------------------------------------------- sent by the supervisor


@dataclass(frozen=True, slots=True)
class Sockets:
    """The requested sockets are passed with this message."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The operating system refused to open the sockets (the parts of an `OSError`)."""

    errno: int | None
    text: str
    address: str
    unresolved: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """Asks the worker to stop; handlers have *grace* seconds. Is another one taking its place?"""

    grace: float
    is_replaced: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """Requests the value of *name*; answered by `Answer`."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Act:
    """Has the worker do *command*, a line as for the admin socket; answered by `Acted`."""

    id: int
    command: str


@dataclass(frozen=True, slots=True)
class Lend:
    """Asks the worker to accept on these sockets, too, while slot *slot* has no worker."""

    address: str
    index: int
    slot: int


@dataclass(frozen=True, slots=True)
class Return:
    """Asks the worker to stop accepting on the sockets lent for slot *slot*."""

    slot: int


Message = (
    Open
    | Release
    | Running
    | Stopping
    | Heartbeat
    | Answer
    | Acted
    | Last
    | Sockets
    | Refused
    | Drain
    | Ask
    | Act
    | Lend
    | Return
)

_KINDS: Final[dict[str, type[Message]]] = {kind.__name__: kind for kind in Message.__args__}
_MAX_DESCRIPTORS: Final = 64
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


# ------------------------------------------------------------- the channel


class Channel:
    """One end of the connection; only `request` and `send_all` wait."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._undelivered: list[tuple[Message, list[int]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_all = False
        self.ended = False

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[Message, list[int]], object],
        on_end: Callable[[], object],
    ) -> None:
        """Call *on_message* for each message, and *on_end* after the last."""
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        loop.add_reader(self._sock, self.deliver)

    def deliver(self) -> None:
        """Pass on the messages that have arrived."""
        self._read()
        while self._undelivered:
            self._on_message(*self._undelivered.pop(0))
        if self._read_all and not self.ended:
            self.ended = True
            if self._loop is not None:
                self._loop.remove_reader(self._sock)
            self._on_end()

    def close(self) -> None:
        """Close the channel."""
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self.disown()

    def disown(self) -> None:
        """Close this end without using the loop, which a forked child must not touch."""
        self.ended = self._read_all = True
        self._loop = None
        self._unsent.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._sock.close()

    # ------------------------------------------------------------------ sending

    @property
    def is_clogged(self) -> bool:
        """True while the other side has not taken all that was sent."""
        return bool(self._unsent)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send *message*; bytes that the other side does not take yet are queued.

        A message with *descriptors* is dropped instead of queued, because they may be
        closed before it is sent. That happens only if the receiver has not read for
        hundreds of messages.
        """
        if self.ended or (descriptors and self._unsent):
            return
        line = {"is": type(message).__name__, "descriptors": len(descriptors)}
        line |= dataclasses.asdict(message)
        self._unsent.append((json.dumps(line).encode() + b"\n", descriptors))
        self.flush()
        if self._unsent and descriptors:
            self._unsent.clear()
        if self._unsent and self._loop is not None:
            self._loop.add_writer(self._sock, self.flush)

    def flush(self) -> None:
        """Send as much of the queue as the other side takes."""
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                sent = self._send(data, descriptors)
            except BlockingIOError:
                return
            except OSError:  # the other side is gone; `_read` notices
                self._unsent.clear()
                break
            if sent < len(data):
                self._unsent[0] = (data[sent:], ())
            else:
                self._unsent.popleft()
        if self._loop is not None:
            self._loop.remove_writer(self._sock)

    def send_all(self, timeout: float) -> None:
        """Wait up to *timeout* seconds until the queue is sent."""
        if not self._unsent:
            return
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        deadline = time.monotonic() + timeout
        while self._unsent and (left := deadline - time.monotonic()) > 0:
            poll.poll(min(left, SLICE) * 1000)
            self.flush()

    def _send(self, data: bytes, descriptors: Sequence[int]) -> int:
        if not descriptors:
            return self._sock.send(data)
        rights = array.array("i", descriptors)
        return self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    # ---------------------------------------------------------------- receiving

    def _read(self) -> None:
        room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
        with contextlib.suppress(BlockingIOError):
            while not self._read_all:
                try:
                    data, ancillary, _, _ = self._sock.recvmsg(1 << 16, room, _CLOEXEC)
                except ConnectionError:
                    data, ancillary = b"", []
                for level, kind, rights in ancillary:
                    if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                        self._take(rights)
                self._received += data
                self._read_all = not data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        self._undelivered += map(self._parse, lines)

    def _take(self, rights: bytes) -> None:
        numbers = array.array("i")
        numbers.frombytes(rights[: len(rights) - len(rights) % numbers.itemsize])
        for number in numbers:
            os.set_inheritable(number, False)
            self._descriptors.append(number)

    def _parse(self, line: bytes | bytearray) -> tuple[Message, list[int]]:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("is")]
        descriptors = [self._descriptors.popleft() for _ in range(fields.pop("descriptors"))]
        return kind(**fields), descriptors

    def request(self, message: Message, timeout: float) -> tuple[Message, list[int]]:
        """Send *message* and wait up to *timeout* seconds for `Sockets` or `Refused`.

        Other messages that arrive meanwhile are delivered later.

        Raises:
            TimeoutError: no answer.
            ConnectionAbortedError: the other side is gone.
        """
        self.send(message)
        poll = select.poll()
        deadline = time.monotonic() + timeout
        while True:
            self._read()
            for number, (received, _) in enumerate(self._undelivered):
                if isinstance(received, (Sockets, Refused)):
                    answer = self._undelivered.pop(number)
                    if self._undelivered and self._loop is not None:
                        self._loop.call_soon(self.deliver)
                    return answer
            if self._read_all:
                raise ConnectionAbortedError
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            poll.poll(min(left, SLICE) * 1000)
            self.flush()
