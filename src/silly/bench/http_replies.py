"""The replies of an HTTP server: where each one ends, and whether it is right.

Heads are parsed by the client's session of `silly.net.http`. Servers send the same few heads
again and again, so a head that was parsed is remembered, by its bytes.

The kinds of error:

============  ==================================================================
wrong status  the status is none of those expected
wrong body    the body is not the expected one
reordered     the body is the one that another request should have got
invalid       what came is not HTTP, or is framed in an ambiguous way
unasked       a reply came that no request asked for
truncated     the connection ended within a reply
============  ==================================================================

After a wrong status or body, the connection goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from silly.bench.chunks import Chunks
from silly.bench.http_request import IDEMPOTENT, HttpRequest, Requests
from silly.bench.plan import Plan
from silly.bench.recorder import Recorder
from silly.bench.verify import Violation, first_difference, shown
from silly.net.http.client_session import CHUNKED, UNTIL_END, ClientSession
from silly.net.http.errors import ReplyError

__all__ = ["HttpReplies", "factory"]

_END: Final = b"\r\n\r\n"
_MAX_HEAD: Final = 64 * 1024
_MAX_BODY: Final = 64 * 1024 * 1024  # bytes of a body that is compared
_KNOWN: Final = 256  # heads to remember
_NEAR: Final = 64  # requests whose bodies a wrong one is compared with
_BEGINNING: Final = 64  # bytes of a body that came with a wrong status


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a reply says."""

    status: int
    location: str
    length: int
    """Bytes in the body, or how it ends (`silly.net.http.client_session`)."""
    keeps_alive: bool
    is_right: bool
    """Whether the status is an expected one, and the connection goes on."""


class Shared:
    """What all connections of a worker share."""

    def __init__(self, http: HttpRequest, recorder: Recorder) -> None:
        self.http = http
        self.statuses = recorder.statuses
        self.heads: dict[bytes, Head] = {}
        self.pattern = (
            None if http.pattern is None else re.compile(http.pattern.encode(), re.DOTALL)
        )
        self.compares = http.expected is not None or http.pattern is not None

    def expects(self, status: int) -> bool:
        """Return whether *status* is a right one."""
        return any(first <= status <= last for first, last in self.http.statuses)

    def remember(self, data: bytes, head: Head) -> None:
        """Remember that the bytes *data* are *head*."""
        self.statuses.setdefault(head.status, 0)
        if len(self.heads) >= _KNOWN:
            self.heads.clear()
        self.heads[data] = head


def factory(plan: Plan, recorder: Recorder) -> Callable[[int], HttpReplies]:
    """Return what makes the `Replies` of each connection, given its number."""
    assert plan.http is not None
    shared = Shared(plan.http, recorder)
    closes = plan.mode == "reconnect"
    return lambda conn: HttpReplies(shared, Requests(shared.http, conn, closes=closes))


class HttpReplies:
    """Finds the replies in what arrives, and checks them; see `silly.bench.replies.Replies`."""

    cut = "truncated"

    __slots__ = (
        "_body",
        "_chunks",
        "_goes_on",
        "_head",
        "_keeps",
        "_left",
        "_progress",
        "_requests",
        "_rest",
        "_session",
        "_shared",
        "_violation",
        "answered",
        "ends",
        "is_wrong",
        "sent",
    )

    def __init__(self, shared: Shared, requests: Requests) -> None:
        self.sent = self.answered = 0
        self.is_wrong = self.ends = False
        self._shared = shared
        self._requests = requests
        self._rest = b""  # received, and not used: a head that is incomplete, or all after an error
        self._session: ClientSession | None = None  # of a head that follows interim ones
        self._head: Head | None = None  # of the reply whose body is arriving
        self._left = 0  # bytes of that body, if it has a length
        self._chunks: Chunks | None = None
        self._body: list[bytes] = []
        self._keeps = False  # whether the body is kept
        self._progress = 0  # bytes of that reply so far
        self._violation: Violation
        self._goes_on = True

    def request(self, count: int) -> bytes:
        """See `Replies`."""
        first, self.sent = self.sent, self.sent + count
        return self._requests.batch(first, count)

    def receive(self, piece: bytes) -> int:
        """See `Replies`."""
        if self._rest:
            piece, self._rest = self._rest + piece, b""
        before, at, size = self.answered, 0, len(piece)
        heads, statuses = self._shared.heads, self._shared.statuses
        same = self._requests.same  # the body of every reply, if that is known
        compares = self._shared.compares
        while at < size and not (self.is_wrong or self.ends):
            if self._head is not None:
                at = self._receive_body(piece, at)
                continue
            end = piece.find(_END, at)
            if end < 0:
                if size - at > _MAX_HEAD:
                    self._fail("invalid", f"its head has more than {_MAX_HEAD} bytes")
                break
            end += 4
            data = piece[at:end]
            if self.answered == self.sent:
                self._fail("unasked", f"a reply that no request asked for: {shown(data, 0)}")
                break
            head = heads.get(data)
            if head is None and (head := self._parse(data)) is None:
                at = end
                continue
            self._session = None
            stop = end + head.length
            if end <= stop <= size:
                if head.is_right and (not compares or piece[end:stop] == same):  # as a rule
                    statuses[head.status] += 1
                    self.answered += 1
                    at = stop
                    continue
                self._complete(head, piece[end:stop])
                at = stop
            else:
                self._begin_body(head, len(data))
                at = end
        if at < size:
            self._rest = piece[at:]
        return self.answered - before

    # ---------------------------------------------------------------------- heads and bodies

    def _parse(self, data: bytes) -> Head | None:
        """Return the head; None: it is an interim one, or wrong."""
        session = self._session or ClientSession(self._shared.http.method)
        try:
            session.feed(data)
        except ReplyError as error:
            self._fail("invalid", f"{error}; it begins {shown(data, 0)}")
            return None
        if not session.has_head:
            self._session = session
            return None
        location = next((v for name, v in session.raw_headers if name == b"location"), b"")
        head = Head(
            session.status,
            location.decode("latin-1"),
            session.body_length,
            session.keeps_alive,
            session.keeps_alive and self._shared.expects(session.status),
        )
        self._shared.remember(data, head)
        return head

    def _begin_body(self, head: Head, size: int) -> None:
        self._head = head
        self._left = head.length
        self._chunks = Chunks() if head.length == CHUNKED else None
        self._progress = size
        self._keeps = self._shared.compares or not self._shared.expects(head.status)
        self._body = []

    def _receive_body(self, piece: bytes, at: int) -> int:
        """Take what *piece* has of the body, from *at* on; return where that ends."""
        head = self._head
        assert head is not None
        is_complete = False
        if self._chunks is not None:
            try:
                stop = self._chunks.feed(piece, at)
            except ValueError as error:
                self._fail("invalid", f"{error}; there is {shown(piece[at:], 0)}")
                return at
            pieces = self._chunks.take()
            is_complete = self._chunks.is_complete
        elif head.length == UNTIL_END:
            stop = len(piece)
            pieces = [piece[at:]]
        else:
            stop = min(len(piece), at + self._left)
            self._left -= stop - at
            pieces = [piece[at:stop]]
            is_complete = not self._left
        self._progress += stop - at
        if self._keeps:
            self._body += pieces
            self._keeps = self._shared.compares  # else the beginning is enough
            if self._progress > _MAX_BODY:
                self._fail("wrong body", f"it has more than {_MAX_BODY} bytes")
                return stop
        if is_complete:
            self._head = None
            self._complete(head, b"".join(self._body))
        return stop

    def _complete(self, head: Head, body: bytes) -> None:
        """Check a complete reply, and count it."""
        shared = self._shared
        self._progress = 0
        self._body = []
        shared.statuses[head.status] += 1
        self.ends = not head.keeps_alive
        if not shared.expects(head.status):
            text = f"the status is {head.status}"
            text += f", to {head.location!r}" if head.location else ""
            text += f"; the body is {body[:_BEGINNING]!r}" if body else ""
            self._fail("wrong status", text, goes_on=True)
        elif not shared.compares or self._is_right(body):
            self.answered += 1

    def _is_right(self, body: bytes) -> bool:
        """Check the body of the next reply; if it is wrong, say how."""
        if self._shared.pattern is not None:
            if self._shared.pattern.search(body) is None:
                text = f"--expect-match is not found in the body {shown(body, 0)}"
                self._fail("wrong body", text, goes_on=True)
            return not self.is_wrong
        expected = self._requests.expected(self.answered)
        if body == expected:
            return True
        assert expected is not None
        near = range(max(0, self.answered - _NEAR), min(self.sent, self.answered + _NEAR))
        other = next((each for each in near if self._requests.expected(each) == body), None)
        if other is not None:
            self._fail("reordered", f"the body is the one of request {other}", goes_on=True)
            return False
        byte = first_difference(expected, body)
        text = (
            f"byte {byte} of the body is wrong: "
            f"expected {shown(expected, byte)}, got {shown(body, byte)}"
        )
        self._fail("wrong body", text, goes_on=True)
        return False

    # ------------------------------------------------------------------------ wrong replies

    def _fail(self, kind: str, text: str, *, goes_on: bool = False) -> None:
        self.is_wrong = True
        self._goes_on = goes_on
        number = self.answered
        self._violation = Violation(kind, number, 0, f"request {number}: {text}")

    def lacking(self) -> int:
        """See `Replies`: a reply is judged when it is complete."""
        return 0

    def diagnose(self) -> Violation:
        """See `Replies`."""
        return self._violation

    def forgive(self) -> bool:
        """See `Replies`."""
        self.is_wrong = False
        self.answered += 1
        return self._goes_on

    # ------------------------------------------------------------------------------ the end

    def end(self, *, is_cut: bool) -> int:
        """See `Replies`."""
        head = self._head
        if head is None or head.length != UNTIL_END or is_cut:
            return 0
        before, self._head = self.answered, None
        self._complete(head, b"".join(self._body))
        return self.answered - before

    def can_repeat(self) -> bool:
        """See `Replies` (RFC 9112, sections 9.3.1 and 9.6)."""
        if self.ends:
            return True
        has_begun = bool(self._rest) or self._head is not None or self._session is not None
        return self.answered > 0 and not has_begun and self._shared.http.method in IDEMPOTENT

    def farewell(self) -> bytes:
        """See `Replies`: nothing."""
        return b""

    def progress(self) -> tuple[int, int | None]:
        """See `Replies`."""
        head = self._head
        if head is None:
            return len(self._rest), None
        return self._progress, self._progress + self._left if head.length >= 0 else None
