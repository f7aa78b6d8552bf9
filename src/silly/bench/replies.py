"""The replies that a connection owes, and how much of them has arrived.

A lane sends what `request` returns, and hands over what arrives. `Replies` finds the complete
replies and checks them; here for replies whose bytes are known before, in
`silly.bench.http_replies` for those of HTTP, in `silly.bench.websocket_replies` for messages.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from silly.bench.messages import Messages
from silly.bench.verify import Violation, correct_replies, diagnose

__all__ = ["ByteReplies", "Replies"]


class Replies(Protocol):
    """What one connection has to answer."""

    sent: int
    """How many requests were sent,"""
    answered: int
    """and how many of them were answered, whether the reply was right or wrong."""
    is_wrong: bool
    """A reply is wrong; it is the one after those that `receive` has returned."""
    cut: str
    """The kind of error that the end of the connection within a reply is."""
    ends: bool
    """The server has said that it answers no more on this connection."""

    def request(self, count: int) -> bytes:
        """Return the next *count* requests; from now on their replies are expected."""

    def receive(self, piece: bytes) -> int:
        """Take what has arrived; return how many right replies that completes, up to a wrong one.

        If a reply was wrong and `forgive` has been called, an empty *piece* goes on after it.
        """

    def end(self, *, is_cut: bool) -> int:
        """Take the end of the connection; return how many right replies that completes.

        *is_cut*: TLS has not confirmed that it is the end.
        """

    def lacking(self) -> int:
        """Return how many more bytes would help to diagnose the wrong reply."""

    def diagnose(self) -> Violation:
        """Return what is wrong."""

    def forgive(self) -> bool:
        """Count the wrong reply as answered; return False if what follows it is lost, too."""

    def can_repeat(self) -> bool:
        """Return whether the server has surely not acted on the requests in flight.

        They can be sent on another connection then, and it is no error that this one has ended.
        """

    def farewell(self) -> bytes:
        """Return what is sent before the connection is closed from this end."""

    def progress(self) -> tuple[int, int | None]:
        """Return how many bytes of the next reply have arrived, and of how many, if known."""


class ByteReplies:
    """Compares replies with the bytes that they must have, as they arrive."""

    cut = "closed"

    __slots__ = (
        "_at",
        "_expected",
        "_messages",
        "_received",
        "_sizes",
        "_wrong",
        "answered",
        "ends",
        "is_wrong",
        "sent",
    )

    def __init__(self, messages: Messages) -> None:
        self.sent = self.answered = 0
        self.is_wrong = self.ends = False
        self._messages = messages
        # The expected replies; those before `_at` have arrived. A bytearray if replies are
        # always outstanding: appending, and deleting at the front, are cheap.
        self._expected: bytes | bytearray = b""
        self._at = self._received = 0
        self._sizes: deque[int] = deque()  # sizes of the expected replies, if they differ
        self._wrong = bytearray()  # from the first wrong reply on

    def request(self, count: int) -> bytes:
        """See `Replies`."""
        number = self.sent
        requests, replies = self._messages.batch(number, count)
        if self._messages.reply_size is None:
            self._sizes.extend(len(self._messages.reply(number + k)) for k in range(count))
        self.sent = number + count
        if expected := self._expected:
            if isinstance(expected, bytes):
                self._expected = expected = bytearray(expected)
            del expected[: self._at]
            expected += replies
            self._at = 0
        else:
            self._expected = replies
        return requests

    def receive(self, piece: bytes) -> int:
        """See `Replies`."""
        if not self._expected.startswith(piece, self._at):
            return self._receive_wrong(piece)
        size = len(piece)
        self._at += size
        self._received += size
        if self._at == len(self._expected):
            self._expected = b""
            self._at = 0
        reply_size = self._messages.reply_size
        if reply_size is not None:
            count = self._received // reply_size - self.answered
        else:
            count = self._count_answered()
        self.answered += count
        return count

    def _count_answered(self) -> int:
        """Return how many replies are now complete, if their sizes differ."""
        count, sizes = 0, self._sizes
        while sizes and self._received >= sizes[0]:
            self._received -= sizes.popleft()
            count += 1
        return count

    def _receive_wrong(self, piece: bytes) -> int:
        if self.is_wrong:
            self._wrong += piece
            return 0
        self.is_wrong = True
        partial = self.progress()[0]
        self._wrong += (self._messages.reply(self.answered)[:partial] if partial else b"") + piece
        count, size = correct_replies(self._messages, self.answered, self.sent, self._wrong)
        del self._wrong[:size]
        self.answered += count
        return count

    def end(self, *, is_cut: bool) -> int:  # noqa: ARG002 - all bytes are known
        """See `Replies`."""
        return 0

    def lacking(self) -> int:
        """See `Replies`."""
        owed = sum(len(self._messages.reply(n)) for n in range(self.answered, self.sent))
        return owed + 1 - len(self._wrong)

    def diagnose(self) -> Violation:
        """See `Replies`."""
        return diagnose(self._messages, self.answered, self.sent, bytes(self._wrong))

    def forgive(self) -> bool:
        """See `Replies`: nobody can tell where the next reply begins."""
        return False

    def can_repeat(self) -> bool:
        """See `Replies`: the protocol is not known."""
        return False

    def farewell(self) -> bytes:
        """See `Replies`: nothing."""
        return b""

    def progress(self) -> tuple[int, int | None]:
        """See `Replies`."""
        size = self._messages.reply_size
        partial = self._received if size is None else self._received - self.answered * size
        return partial, len(self._messages.reply(self.answered))
