"""What a supervisor and its workers say to each other, and how it travels.

One line of JSON for each message, over a Unix stream socket; descriptors ride
along (SCM_RIGHTS, unix(7)). The classes are the messages; nothing else is ever
said. Neither side waits for the other, with one exception: a worker that opens
a listening socket waits for the answer, because `silly.net.tcp.listen` promises
a bound socket on return. The supervisor answers that at once, and never waits.
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

from silly._signals import SLICE

__all__ = [
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

Key = tuple[str, int]
"""A listening address of a program: its text, and which of several with that text."""


# ------------------------------------------------------------ the worker says


@dataclass(frozen=True, slots=True)
class Open:
    """Give me the sockets of this address; answered by `Sockets` or `Refused`."""

    address: str
    index: int
    backlog: int
    reuse_port: bool
    mode: int | None


@dataclass(frozen=True, slots=True)
class Release:
    """I listen there no more, and not because I end."""

    address: str
    index: int


@dataclass(frozen=True, slots=True)
class Running:
    """My main coroutine waits (or, *started*, has returned), and I listen there."""

    started: bool
    listening: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Stopping:
    """I accept no more: I was *told* to stop, or my program has ended."""

    told: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """My event loop turns."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What you asked; *known* is false if nobody provides that here."""

    id: int
    name: str
    known: bool
    value: Any


@dataclass(frozen=True, slots=True)
class Last:
    """I have drained; the last answers to all that could be asked."""

    answers: dict[str, Any]


# -------------------------------------------------------- the supervisor says


@dataclass(frozen=True, slots=True)
class Sockets:
    """The sockets that you wanted, riding along."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The operating system refused to open them (the parts of an `OSError`)."""

    errno: int | None
    text: str
    address: str
    unresolved: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop; handlers have that many seconds."""

    grace: float


@dataclass(frozen=True, slots=True)
class Ask:
    """What is the value of *name*? Answered by `Answer`."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Lend:
    """Accept on these sockets, too: nobody does for slot *slot* just now."""

    address: str
    index: int
    slot: int


@dataclass(frozen=True, slots=True)
class Return:
    """Accept no more on what slot *slot* lent."""

    slot: int


Message = (
    Open
    | Release
    | Running
    | Stopping
    | Heartbeat
    | Answer
    | Last
    | Sockets
    | Refused
    | Drain
    | Ask
    | Lend
    | Return
)

_KINDS: Final[dict[str, type[Message]]] = {kind.__name__: kind for kind in Message.__args__}
_MAX_DESCRIPTORS: Final = 64
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


# --------------------------------------------------------------- how it travels


class Channel:
    """One end of a conversation; nothing here waits, except `converse`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._put_off: list[tuple[Message, list[int]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_all = False
        self.ended = False

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[Message, list[int]], object],
        on_end: Callable[[], object],
    ) -> None:
        """Call *on_message* for each message that comes, and *on_end* after the last."""
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        loop.add_reader(self._sock, self.deliver)

    def deliver(self) -> None:
        """Hand on what has arrived."""
        self._read()
        while self._put_off:
            self._on_message(*self._put_off.pop(0))
        if self._read_all and not self.ended:
            self.ended = True
            if self._loop is not None:
                self._loop.remove_reader(self._sock)
            self._on_end()

    def close(self) -> None:
        """Say and hear nothing more."""
        if self._loop is not None:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
        self.disown()

    def disown(self) -> None:
        """Close this process's end without a word: in a forked child, to whom the loop is not."""
        self.ended = self._read_all = True
        self._loop = None
        self._unsent.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._sock.close()

    # ------------------------------------------------------------------ sending

    @property
    def is_clogged(self) -> bool:
        """True while the other side does not take what it was sent."""
        return bool(self._unsent)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send *message*; what the other side does not take yet is queued.

        The *descriptors* must stay open until the message has left; in a
        message that is queued they are not ours to keep, so such a message is
        not sent at all: its receiver has not read for hundreds of messages.
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
        """Send what is queued, as far as the other side takes it."""
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                sent = self._send(data, descriptors)
            except BlockingIOError:
                return
            except OSError:  # it is gone; reading tells
                self._unsent.clear()
                break
            if sent < len(data):
                self._unsent[0] = (data[sent:], ())
            else:
                self._unsent.popleft()
        if self._loop is not None:
            self._loop.remove_writer(self._sock)

    def send_all(self, timeout: float) -> None:
        """Wait, *timeout* seconds at most, until all that is queued was sent."""
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
        self._put_off += map(self._parse, lines)

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

    def converse(self, question: Message, timeout: float) -> tuple[Message, list[int]]:
        """Send *question* and wait, *timeout* seconds at most, for `Sockets` or `Refused`.

        Other messages that come in between are delivered later.

        Raises:
            TimeoutError: no answer.
            ConnectionAbortedError: the other side is gone.
        """
        self.send(question)
        poll = select.poll()
        deadline = time.monotonic() + timeout
        while True:
            self._read()
            for number, (message, _) in enumerate(self._put_off):
                if isinstance(message, (Sockets, Refused)):
                    answer = self._put_off.pop(number)
                    if self._put_off and self._loop is not None:
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
