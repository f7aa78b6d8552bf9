"""One end of a WebSocket without I/O: bytes in, messages out; control frames are answered here.

=============  ======================================================================
state          what it means
=============  ======================================================================
open           messages go both ways
ending         the peer's close frame was received, or a fault of the peer was found:
               `settle` answers, when the messages before it have been dealt with
closing        this end has sent its close frame, and waits for the peer's; what the
               peer still sends is dropped
over           the peer's close frame was received and answered; or the peer was at
               fault, and was told; or the connection was lost
=============  ======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Final

from silly.net.limits import Limits
from silly.net.websocket.codes import CLOSE, FIN, PING, PONG, RSV1, Failure
from silly.net.websocket.deflate import LEAST, Deflate
from silly.net.websocket.errors import is_sendable
from silly.net.websocket.frames import plain
from silly.net.websocket.kinds import Parser, frame, new_key

__all__ = ["PLAIN", "Encoder", "Message", "Session"]

Message = str | bytes

PLAIN: Final = "plain"

_NO_CODE: Final = 1005
_LOST: Final = 1006


class Session:
    """Parses what is received, and makes what is to be sent.

    Args:
        is_client: whether this end is the client: it masks what it sends.
        clock: returns the time, in seconds.

    Attributes:
        parser: returns the messages in what is received; what else it has found, `take` takes.
        encoding: how messages are framed, if as on all others with the same: `PLAIN`, or compressed
            by this `Deflate`; None: each is masked with a key of its own, or no more can be sent.
        outgoing: what is to be sent now; the user takes it away.
        pongs: the payloads of pongs that were received; likewise.
        has_news: one of them, or `is_over`, may have changed; the user clears it.
        end_received: what there is to settle: the payload of the peer's close frame, or its fault.
        is_closing: the close frame was sent.
        is_over: no message will come any more ...
        has_failed: ... because of the peer's fault.
        code, reason: how it ended, once it is over; before, how this end closes it.
        limit: the field of `Limits` that the peer exceeded.
    """

    __slots__ = (
        "_clock",
        "_control_count",
        "_control_since",
        "_deflate",
        "_max_control_rate",
        "code",
        "encoding",
        "end_received",
        "has_failed",
        "has_news",
        "is_client",
        "is_closing",
        "is_over",
        "limit",
        "outgoing",
        "parser",
        "pongs",
        "reason",
    )

    def __init__(
        self,
        limits: Limits,
        deflate: Deflate | None,
        *,
        is_client: bool,
        clock: Callable[[], float],
    ) -> None:
        self.is_client = is_client
        self.encoding: Hashable | None = None if is_client else deflate or PLAIN
        self._clock = clock
        self._deflate = deflate
        self.parser = Parser(
            not is_client,
            limits.max_message_bytes,
            limits.max_fragments,
            None if deflate is None else deflate.inflater(),
        )
        self._max_control_rate = limits.max_control_rate
        self._control_since: float | None = None  # when the present second began ...
        self._control_count = 0  # ... and how many pings and pongs have come in it
        self.outgoing = b""
        self.pongs: list[bytes] | None = None
        self.has_news = self.is_closing = self.is_over = False
        self.has_failed = False
        self.end_received: bytes | Failure | None = None
        self.code = 0
        self.reason = ""
        self.limit: str | None = None

    # --------------------------------------------------------------------------- receiving

    def receive(self, data: bytes) -> list[Message]:
        """Return the messages that *data*, which was received, completes."""
        return self.take(self.parser.receive(data))

    def take(self, messages: list[Message]) -> list[Message]:
        """Return those of *messages* that count; take what else the parser has found with them."""
        parser, is_closing = self.parser, self.is_closing
        if parser.controls is not None:
            self._take_controls(parser.controls)
        if parser.failure is not None and not self.is_over:
            self._fail(parser.failure)
        if is_closing:
            messages.clear()
        return messages

    @property
    def received(self) -> int:
        """How many messages have been received."""
        return int(self.parser.received)

    def settle(self) -> None:
        """Answer the close frame that was received, or tell the peer about its fault."""
        end, self.end_received = self.end_received, None
        if self.is_over:
            return
        if isinstance(end, bytes):
            self._take_close(end)
        elif end is not None:
            self._tell(end)

    @property
    def is_ending(self) -> bool:
        """Whether there is something to settle."""
        return self.end_received is not None

    @property
    def is_partial(self) -> bool:
        """Whether a message has begun, and is incomplete."""
        return bool(self.parser.is_partial)

    def _take_controls(self, controls: list[tuple[int, bytes]]) -> None:
        self.parser.controls = None
        self.has_news = True
        if self._exceed_rate(sum(opcode != CLOSE for opcode, _ in controls)):
            text = f"more than {self._max_control_rate:g} control frames in a second"
            self._fail(Failure(1008, text, "max_control_rate"))
            return
        replies = []
        for opcode, payload in controls:
            if opcode == PING:
                if not self.is_closing:
                    replies.append(self._frame(FIN | PONG, payload))
            elif opcode == PONG:
                self.pongs = [*(self.pongs or ()), payload]
            else:  # it is the last frame
                self.end_received = payload
        self.outgoing += b"".join(replies)

    def _exceed_rate(self, number: int) -> bool:
        most = self._max_control_rate
        if most is None:
            return False
        now = self._clock()
        if self._control_since is None or now - self._control_since >= 1:
            self._control_since = now
            self._control_count = 0
        self._control_count += number
        return self._control_count > most

    def _take_close(self, payload: bytes) -> None:
        """Take the peer's close frame, and answer it unless this end had sent one before."""
        if not payload:
            self._answer_close(b"")
            self._end(_NO_CODE, "")
            return
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not is_sendable(code):
            self._tell(Failure(1002, "invalid close frame"))
            return
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            self._tell(Failure(1007, "a reason that is not UTF-8"))
            return
        if self.is_closing and code == self.code:  # it is an answer, which repeats no reason
            reason = reason or self.reason
        self._answer_close(payload[:2])
        self._end(code, reason)

    def _answer_close(self, payload: bytes) -> None:
        if not self.is_closing:
            self.is_closing = True
            self.encoding = None
            self.outgoing += self._frame(FIN | CLOSE, payload)

    def _fail(self, failure: Failure) -> None:
        self.has_news = True
        self.end_received = failure

    def _tell(self, failure: Failure) -> None:
        """Tell the peer what is wrong with what it sent (section 7.1.7)."""
        if not self.is_closing:
            self.outgoing += self.close(failure.code, failure.reason)
        self.limit = failure.limit
        self.has_failed = True
        self._end(failure.code, failure.reason)

    def lose(self) -> None:
        """Note that the connection ended."""
        self.parser.close()
        if not self.is_over:
            self._end(_LOST, "")

    def _end(self, code: int, reason: str) -> None:
        self.is_over = self.has_news = True
        self.encoding = None
        self.code, self.reason = code, reason

    # ----------------------------------------------------------------------------- sending

    def _frame(self, first: int, payload: Message) -> bytes:
        made: bytes = frame(first, payload, new_key() if self.is_client else None)
        return made

    def message(self, message: Any) -> bytes:
        """Return the frame of *message*.

        Raises:
            TypeError: it is neither a `str` nor bytes-like.
            UnicodeEncodeError: it has surrogates.
        """
        message, first = plain(message)
        if self._deflate is not None and len(message) >= LEAST:
            data = message.encode() if isinstance(message, str) else message
            return self._frame(first | RSV1, self._deflate.compress(data))
        return self._frame(first, message)

    def encoded(self, encoder: Encoder) -> bytes:
        """Return the frame of the message in *encoder*."""
        if self.encoding is None:
            return self.message(encoder.message)
        return encoder.frame(self.encoding)

    def ping(self, payload: bytes) -> bytes:
        """Return a ping frame."""
        return self._frame(FIN | PING, payload)

    def close(self, code: int, reason: str = "") -> bytes:
        """Return the close frame, and begin to close."""
        self.is_closing = True
        self.encoding = None
        self.code, self.reason = code, reason
        return self._frame(FIN | CLOSE, code.to_bytes(2, "big") + reason.encode())


class Encoder:
    """The frames of one message for many sessions: one for each way to compress it.

    Raises:
        TypeError: it is neither a `str` nor bytes-like.
        UnicodeEncodeError: it has surrogates.
    """

    __slots__ = ("_first", "_frames", "message")

    def __init__(self, message: Any) -> None:
        self.message, self._first = plain(message)
        self._frames: dict[Hashable, bytes] = {PLAIN: frame(self._first, self.message)}

    def frame(self, encoding: Hashable) -> bytes:
        """Return the frame for sessions with this *encoding*."""
        if len(self.message) < LEAST:
            encoding = PLAIN
        found = self._frames.get(encoding)
        if found is None:
            assert isinstance(encoding, Deflate)
            message = self.message
            data = message.encode() if isinstance(message, str) else message
            found = frame(self._first | RSV1, encoding.compress(data))
            self._frames[encoding] = found
        return found
