r"""The client's end of one exchange, without a socket: bytes in, a reply out.

As in `silly.net.http.session`, httptools (llhttp) knows the grammar, and how a message is
framed is decided here, in the strict way. The end of a head is found here, too, so the parser
sees heads and chunks only, and what follows a reply is never taken for a part of it. The
result is the same at whatever places the network has split the bytes.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final

from silly._values.extras import install_command
from silly.net.http.errors import ReplyError

try:
    import httptools
except ImportError:
    raise ImportError(f"silly.net.http needs httptools: {install_command('http')}") from None

__all__ = ["ClientSession"]

CHUNKED: Final = -1  # the body ends with its last chunk,
UNTIL_END: Final = -2  # or with the connection

_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_NOT_IN_TRAILERS: Final = frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"content-encoding")
)
_BODILESS: Final = frozenset((204, 304))


class ClientSession:
    """Parses the reply to one request.

    Attributes:
        has_begun: a byte has arrived.
        has_head: the head is complete: *status* and what follows it are set.
        pieces: of the body; the reader takes them.
        is_complete: no more will come.
        keeps_alive: the connection can carry another exchange.
    """

    __slots__ = (
        "_connection",
        "_head_size",
        "_is_head_parsed",
        "_left",
        "_length",
        "_max_head_bytes",
        "_max_headers",
        "_method",
        "_parser",
        "_reason",
        "_stalled",
        "_tail",
        "_transfer_encoding",
        "has_begun",
        "has_head",
        "is_complete",
        "keeps_alive",
        "pieces",
        "raw_headers",
        "raw_trailers",
        "reason",
        "status",
        "version",
    )

    def __init__(
        self, method: str, *, max_head_bytes: int = 64 * 1024, max_headers: int = 100
    ) -> None:
        """Expect the reply to a request with *method*."""
        self._method = method
        self._max_head_bytes = max_head_bytes
        self._max_headers = max_headers
        self.has_begun = False
        self.has_head = False
        self.is_complete = False
        self.keeps_alive = False
        self.status = 0
        self.reason = ""
        self.version = ""
        self.raw_trailers: list[tuple[bytes, bytes]] = []
        self.pieces: deque[bytes] = deque()
        self._head_size = 0  # bytes, of interim heads, too
        self._left = 0  # bytes of the body, or how it ends
        self._stalled = 0  # bytes since the last piece of a chunked body
        self._parser: Any = None
        self._begin_head()

    def feed(self, data: bytes) -> None:
        """Parse *data*, which was received.

        Raises:
            ReplyError: it is no reply, or the head is too long.
        """
        self.has_begun = True
        while data and not self.has_head:
            data = self._feed_head(data)
        if not data:
            return
        if self.is_complete:  # what follows it belongs to nothing
            self.keeps_alive = False
        elif self._left == CHUNKED:
            self._stalled += len(data)
            self._parse(data)
            if self.is_complete:
                self._parser = None
            if self._stalled > self._max_head_bytes:  # an endless trailer or extension
                raise ReplyError(f"more than {self._max_head_bytes} bytes between two chunks")
        elif self._left == UNTIL_END:
            self.pieces.append(data)
        else:
            self._feed_counted(data)

    @property
    def body_length(self) -> int:
        """Once the head is complete: the bytes of the body that are left, or how it ends.

        `CHUNKED` or `UNTIL_END`.
        """
        return self._left

    def end(self, *, is_cut: bool) -> None:
        """Take the end of the connection within a reply; *is_cut*: the server has not said it.

        Raises:
            ReplyError: the reply is incomplete.
        """
        self.keeps_alive = False
        if not self.has_begun:
            raise ReplyError("the server closed the connection without a reply")
        if not self.has_head:
            raise ReplyError("the server closed the connection within the head of its reply")
        if self._left != UNTIL_END or is_cut:
            raise ReplyError("the server closed the connection within the body of its reply")
        self._complete()

    # ------------------------------------------------------------------------- the head

    def _begin_head(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._is_head_parsed = False
        self._tail = b""  # the last bytes, of which the end of the head may be a continuation
        self._reason = b""
        self._length: bytes | None = None
        self._transfer_encoding: bytes | None = None
        self._connection = b""
        self.raw_headers: list[tuple[bytes, bytes]] = []

    def _feed_head(self, data: bytes) -> bytes:
        """Parse *data* up to the end of the head; return what follows it."""
        known = self._tail + data
        end = known.find(b"\r\n\r\n")
        size = len(data) if end < 0 else end + 4 - len(self._tail)
        self._head_size += size
        if self._head_size > self._max_head_bytes:
            raise ReplyError(f"the head of the reply has more than {self._max_head_bytes} bytes")
        self._parse(data[:size])
        if self._is_head_parsed != (end >= 0):  # pragma: no cover - the parser refuses it, too
            raise ReplyError("not an HTTP reply: the head has no regular end")
        if end < 0:
            self._tail = known[-3:]
        else:
            self._take_head()
        return data[size:]

    def _take_head(self) -> None:
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise ReplyError(f"the reply is of HTTP/{version}")
        if status < 100 or _REASON.fullmatch(self._reason) is None:
            raise ReplyError("not an HTTP reply: invalid status line")
        if status == 101:
            raise ReplyError("the server changed to another protocol, unasked (101)")
        if status < 200:  # interim, such as 100 and 103; another head follows
            self._begin_head()
            return
        self.has_head = True
        self.status, self.version = status, version
        self.reason = self._reason.decode("latin-1")
        has_body = self._method != "HEAD" and status not in _BODILESS
        self._left = self._body_length() if has_body else 0
        options = [each.strip().lower() for each in self._connection.split(b",")]
        self.keeps_alive = (
            self._left != UNTIL_END
            and b"close" not in options
            and (version == "1.1" or b"keep-alive" in options)
        )
        if self._left == 0:
            self._complete()
        elif self._left != CHUNKED:
            self._parser = None  # it is no longer needed

    def _body_length(self) -> int:
        """Decide how the body is framed (RFC 9112, section 6.3)."""
        coding = self._transfer_encoding
        if coding is not None:
            if self.version == "1.0":
                raise ReplyError("Transfer-Encoding in HTTP/1.0 (RFC 9112, section 6.1)")
            if self._length is not None:  # pragma: no cover - the parser refuses it, too
                raise ReplyError("both Transfer-Encoding and Content-Length")
            if coding.strip().lower() != b"chunked":
                raise ReplyError("no transfer coding but chunked is understood")
            return CHUNKED
        return UNTIL_END if self._length is None else int(self._length)

    # ------------------------------------------------------------------------- the body

    def _feed_counted(self, data: bytes) -> None:
        if len(data) > self._left:
            self.keeps_alive = False
            data = data[: self._left]
        self._left -= len(data)
        self.pieces.append(data)
        if not self._left:
            self._complete()

    def _complete(self) -> None:
        self.is_complete = True
        if self._left != CHUNKED:  # else it is the parser that calls this
            self._parser = None

    # ------------------------------------------------------------- called by the parser

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, ReplyError):
                raise error.__context__ from None
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._is_head_parsed and not self.has_head:
                return  # what the parser thinks of the body does not matter
            if not self.is_complete:
                raise ReplyError(f"not a valid HTTP reply: {error}") from None
            self.keeps_alive = False

    def on_message_begin(self) -> None:
        """Begin a reply: the one that is expected, or one that nobody has asked for."""
        if self.is_complete:
            self.keeps_alive = False

    def on_status(self, reason: bytes) -> None:
        """Take the reason phrase, or a part of it."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or one of a trailer."""
        name = name.lower()
        if self.has_head:
            if self.is_complete:
                return
            if name in _NOT_IN_TRAILERS:
                raise ReplyError(f"{name.decode()} in a trailer (RFC 9110, section 6.5.1)")
            fields = self.raw_trailers
        else:
            fields = self.raw_headers
        fields.append((name, value))
        if len(fields) > self._max_headers:
            raise ReplyError(f"the reply has more than {self._max_headers} header fields")
        if self.has_head:
            return
        if name == b"content-length":
            if self._length is not None:  # pragma: no cover - the parser refuses it, too
                raise ReplyError("more than one Content-Length")
            self._length = value
        elif name == b"transfer-encoding":
            earlier = self._transfer_encoding
            self._transfer_encoding = value if earlier is None else earlier + b"," + value
        elif name == b"connection":
            self._connection += b"," + value

    def on_headers_complete(self) -> None:
        """Note that the parser, too, has found the end of the head."""
        if not self.is_complete:
            self._is_head_parsed = True

    def on_body(self, piece: bytes) -> None:
        """Take a piece of a chunked body."""
        if not self.is_complete:
            self._stalled = 0
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        """End a chunked body."""
        if self.has_head:
            self._complete()
