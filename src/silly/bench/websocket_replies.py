"""The messages that a WebSocket server sends back, each of which is checked.

Frames are made and parsed by the sessions of `silly.net.websocket`, and control frames are
answered by them. The kinds of error are those of `silly.bench.verify`, and:

============  ==================================================================
refused 403   the server did not open a WebSocket, but answered with this status
handshake     its response was none, or a wrong one
closed 1011   the server closed the WebSocket, with this code
closed        it closed the connection, without a close frame
truncated     it did that within a message
invalid       what came breaks the protocol, or is beyond a limit
============  ==================================================================

A wrong message ends its connection: nobody can tell which request the next one answers.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from silly._values.units import counted
from silly.bench.messages import Messages
from silly.bench.plan import Plan
from silly.bench.verify import Violation, correct_replies, diagnose
from silly.bench.websocket_target import WebSocketTarget
from silly.net.websocket.codes import BINARY, FIN, TEXT
from silly.net.websocket.errors import HandshakeFailed, WebSocketClosed
from silly.net.websocket.kinds import frame, new_key
from silly.net.websocket.session import Message, Session
from silly.text import printable

__all__ = ["Channel", "Opener", "Refused", "WebSocketReplies", "as_bytes", "opener"]

_NORMAL: Final = 1000


class Refused(OSError):  # noqa: N818 - named by what happened
    """No WebSocket was opened; *kind* is the kind of the error."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Opener:
    """Opens the WebSockets of a worker."""

    def __init__(self, plan: Plan, target: WebSocketTarget) -> None:
        self._target = target
        self._messages = plan.factory()
        self._limits = target.limits

    async def open(self, conn: Any, number: int) -> WebSocketReplies:
        """Open a WebSocket on *conn*, the connection *number*.

        Raises:
            Refused: the server does not open one.
            OSError: the connection was lost.
        """
        handshake = self._target.handshake(number)
        conn.write(handshake.request)
        try:
            agreement = await handshake.receive(conn)
        except HandshakeFailed as error:
            if error.status in (None, 101):
                raise Refused("handshake", str(error).removeprefix(f"{error.address}: ")) from None
            text = f"the server answered {error.status}"
            if error.body:
                text += f": {printable(error.body.decode('utf-8', 'replace').strip())[:100]}"
            raise Refused(f"refused {error.status}", text) from None
        deflate = agreement.deflate
        session = Session(self._limits, deflate, is_client=True, clock=monotonic)
        channel = Channel(
            session,
            conn.write,
            is_binary=self._target.is_binary,
            compresses=deflate is not None,
        )
        return WebSocketReplies(channel, self._messages(number))


def opener(plan: Plan) -> Opener:
    """Return what opens WebSockets, and makes the `Replies` of each."""
    assert plan.websocket is not None
    return Opener(plan, plan.websocket)


class Channel:
    """One WebSocket: frames out, messages in; control frames are answered.

    Args:
        session: what makes and parses frames.
        write: sends bytes: what the session answers to control frames.
        is_binary: whether messages are binary ones, not text.
        compresses: whether they are compressed, as the session has agreed.
    """

    __slots__ = ("_compresses", "_first", "_write", "end", "is_binary", "session")

    def __init__(
        self,
        session: Session,
        write: Callable[[bytes], Any],
        *,
        is_binary: bool,
        compresses: bool = False,
    ) -> None:
        self.session = session
        self._write = write
        self.is_binary = is_binary
        self._compresses = compresses
        self._first = FIN | (BINARY if is_binary else TEXT)  # of each frame
        self.end: tuple[str, str] | None = None
        """The kind of error that ended it, and a description."""

    def frame(self, payload: bytes) -> bytes:
        """Return the frame of a message."""
        if self._compresses:
            return self.session.message(payload if self.is_binary else payload.decode())
        made: bytes = frame(self._first, payload, new_key())
        return made

    def receive(self, piece: bytes) -> list[Message]:
        """Return the messages that *piece*, which was received, completes."""
        messages = self.session.receive(piece)
        if self.session.has_news:
            self._take_news()
        return messages

    def _take_news(self) -> None:
        """Answer control frames, and note the end."""
        session = self.session
        session.has_news = False
        session.pongs = None
        if session.is_ending:
            session.settle()
        outgoing, session.outgoing = session.outgoing, b""
        if outgoing:
            with contextlib.suppress(OSError):  # the lane, which waits in a read, records it
                self._write(outgoing)
        if session.is_over and self.end is None:
            if session.has_failed:
                self.end = "invalid", f"the server broke the protocol: {session.reason}"
            else:
                ended = str(WebSocketClosed(session.code, session.reason))
                text = f"the server closed the WebSocket: {ended.removeprefix('closed: ')}"
                self.end = f"closed {session.code}", text

    def farewell(self) -> bytes:
        """Return a close frame, once."""
        return b"" if self.session.is_closing else self.session.close(_NORMAL)


class WebSocketReplies:
    """Compares messages with those that must come; see `silly.bench.replies.Replies`."""

    cut = "truncated"

    __slots__ = (
        "_expected",
        "_messages",
        "_partial",
        "_violation",
        "_wrong",
        "_wrong_size",
        "answered",
        "channel",
        "ends",
        "is_wrong",
        "sent",
    )

    def __init__(self, channel: Channel, messages: Messages) -> None:
        self.sent = self.answered = 0
        self.is_wrong = self.ends = False
        self.channel = channel
        self._messages = messages
        self._expected: deque[Message] = deque()
        self._partial = 0  # bytes that have come since the last complete message
        self._violation: Violation | None = None
        self._wrong = b""  # the payloads from the first wrong message on ...
        self._wrong_size = 0  # ... and the size of that one

    def request(self, count: int) -> bytes:
        """See `Replies`."""
        number, self.sent = self.sent, self.sent + count
        batch, expected, framed = self._messages.batch, self._expected, self.channel.frame
        is_binary = self.channel.is_binary
        frames = []
        for each in range(number, self.sent):
            request, reply = batch(each, 1)
            expected.append(reply if is_binary else reply.decode())
            frames.append(framed(request))
        return frames[0] if count == 1 else b"".join(frames)

    def receive(self, piece: bytes) -> int:
        """See `Replies`."""
        channel, expected = self.channel, self._expected
        messages = channel.receive(piece)
        if channel.session.is_partial:
            self._partial = (0 if messages else self._partial) + len(piece)
        else:
            self._partial = 0
        count = 0
        if self.is_wrong:
            self._wrong += b"".join([as_bytes(message) for message in messages])
        else:
            for message in messages:
                if not expected or message != expected[0]:
                    self.answered += count
                    self._receive_wrong(messages[count:])
                    break
                expected.popleft()
                count += 1
            else:
                self.answered += count
        if channel.end is not None and not self.ends:
            self.ends = True
            if not self.is_wrong:
                self._fail(*channel.end)
        return count

    # ------------------------------------------------------------------------ wrong replies

    def _fail(self, kind: str, text: str) -> None:
        if self._expected:
            text += f"; request {self.answered} was unanswered"
        self.is_wrong = True
        self._violation = Violation(kind, self.answered, 0, text)

    def _receive_wrong(self, messages: list[Message]) -> None:
        if self._expected and isinstance(messages[0], bytes) != self.channel.is_binary:
            kinds = ("a text message", "a binary one")
            came, wanted = kinds if self.channel.is_binary else kinds[::-1]
            self._fail("corrupt", f"the reply is {came}, not {wanted}")
            return
        self.is_wrong = True
        payloads = [as_bytes(message) for message in messages]
        self._wrong, self._wrong_size = b"".join(payloads), len(payloads[0])

    def lacking(self) -> int:
        """See `Replies`."""
        if self._violation is not None or self.ends:
            return 0
        owed = sum(len(self._messages.reply(n)) for n in range(self.answered, self.sent))
        return owed + 1 - len(self._wrong)

    def diagnose(self) -> Violation:
        """See `Replies`."""
        if self._violation is not None:
            return self._violation
        messages, number, sent, wrong = self._messages, self.answered, self.sent, self._wrong
        if correct_replies(messages, number, sent, wrong)[0]:  # the right bytes, in others
            size, expected = counted(self._wrong_size, "byte"), len(messages.reply(number))
            text = f"request {number}: a message of {size} came, not one of {expected}"
            return Violation("corrupt", number, 0, text)
        return diagnose(messages, number, sent, wrong)

    def forgive(self) -> bool:
        """See `Replies`."""
        return False

    # ------------------------------------------------------------------------------ the end

    def farewell(self) -> bytes:
        """See `Replies`: a close frame."""
        return self.channel.farewell()

    def end(self, *, is_cut: bool) -> int:  # noqa: ARG002 - frames have a length
        """See `Replies`."""
        return 0

    def can_repeat(self) -> bool:
        """See `Replies`: nobody can tell what the server has done."""
        return False

    def progress(self) -> tuple[int, int | None]:
        """See `Replies`: at least as many bytes, with those of frames."""
        return self._partial, None


def as_bytes(message: Message) -> bytes:
    """Return the payload of *message*."""
    return message.encode() if isinstance(message, str) else message
