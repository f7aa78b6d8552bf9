"""The server's end of an HTTP/1 connection, without a socket: bytes in, requests out.

httptools (llhttp) knows the grammar. What it leaves open is decided here, and always in the
strict way, because two servers that understand the same bytes differently can be played off
against each other (request smuggling, RFC 9112, section 11.2): how a message is framed, what a
target may be, how long a head may be. A request is refused before a handler sees it, at
whatever place the network has split it.

The session parses whatever it is given. Its requests wait, in their order, until they are taken;
those that were complete before an error are still answered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import httptools

from silly._engine import engine
from silly.net.http.errors import HTTPError
from silly.net.http.request import Request
from silly.net.limits import Limits

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import PlainRequests
else:
    from silly.net.http.plain import PlainRequests

__all__ = ["ServerSession"]

# What a server decides by. Trailers cannot change it any more (RFC 9110, section 6.5.1);
# other fields in trailers do no harm, because they are kept apart.
_DECISIVE: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade")
)
_LISTS: Final = frozenset((b"connection", b"expect", b"upgrade"))
# A second one that is no list is ambiguous, also of the type of the body (section 8.3).
_SPECIAL: Final = _DECISIVE | {b"content-type"}
_TARGET: Final = re.compile(rb"[!-\"$-~]+")  # printable ASCII, and no fragment
_ORIGIN: Final = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
# reg-name or IP-literal, and a port (RFC 9110, section 7.2; RFC 3986, section 3.2.2)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]*|\[[0-9A-Fa-f:.%a-z]+\])(?::[0-9]*)?")
# The parser knows these, CONNECT, and methods of other protocols (RTSP, ICE).
_METHODS: Final = {
    name.encode(): name
    for name in """
        GET HEAD POST PUT DELETE OPTIONS TRACE PATCH QUERY
        ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY
        PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE
    """.split()  # noqa: SIM905 - a table
}


class ServerSession(PlainRequests):
    """Parses the requests of one connection.

    Attributes:
        is_waiting: the last `take` has found that all has been answered.
        taken: how many requests were taken.
        in_head: a head has begun, and is incomplete.
        error: why nothing more is parsed.
        limit: the field of `Limits` that was met, if it is that.
        ends: nothing more will come: the client said so.
        is_paused: at a request that asks for another protocol: see `continue_after`.
        rest: what followed that request.
    """

    __slots__ = (
        "_fed",
        "_fields",
        "_head_size",
        "_known_host",
        "_limits",
        "_parser",
        "_special",
        "_stalled",
        "_url",
        "_with_body",
        "limit",
        "rest",
    )

    def __init__(self, limits: Limits) -> None:
        super().__init__(Request, limits)
        self._limits = limits
        self._parser: Any = None  # until it is needed
        self.rest = b""
        self.limit: str | None = None
        self._with_body: Request | None = None  # one with a body that asks for another protocol
        self._fed = 0  # bytes of the piece that is being parsed
        self._head_size = 0  # bytes of the pieces that the head, so far, came in
        self._stalled = 0  # bytes of a chunked body since its last piece
        self._known_host = b""  # one that is valid
        self._url = b""

    def _feed(self, data: bytes) -> None:
        if self.ends and self._receiving is None:
            return
        if self._parser is None:
            self._begin()
        self._fed = size = len(data)
        if self.in_head:  # also of a line that is incomplete, which the parser holds
            self._head_size += size
        elif self._receiving is not None and self._receiving.content_length < 0:
            self._stalled += size  # unless a piece of the body comes out of it
        self._parse(data)
        if self.in_head:
            self._check_unfinished_head()
        if self._stalled > self._limits.max_head_bytes:  # an endless trailer or extension
            most = self._limits.max_head_bytes
            self._fail(431, f"more than {most} bytes between chunks", "max_head_bytes")

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._special: dict[bytes, bytes] = {}

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._with_body is not None:
                self._parse_body(self._with_body, rest)
            else:
                self.is_paused = True
                self.rest = rest
        except httptools.HttpParserInvalidMethodError:
            self._fail(400, "invalid or unknown method")
        except httptools.HttpParserInvalidURLError:
            self._fail(400, "invalid target")
        except httptools.HttpParserCallbackError as error:
            if self.error is None:
                raise error.__context__ or error from None
        except httptools.HttpParserError as error:
            if not self.ends or self._receiving is not None:  # else it follows the last request
                self._fail(505 if "HTTP version" in str(error) else 400, str(error))

    def _parse_body(self, request: Request, data: bytes) -> None:
        """Parse the body of *request*, which asks for another protocol.

        The parser takes what follows its head for that protocol. To another one, we present
        the body behind a head that asks for nothing.
        """
        self._with_body = None
        length = request.content_length
        framing = b"Content-Length: %d" % length if length >= 0 else b"Transfer-Encoding: chunked"
        connection = b"keep-alive" if request.keeps_alive else b"close"
        self._parser = httptools.HttpRequestParser(self)
        self._parse(
            b"POST / HTTP/1.1\r\nHost:\r\nConnection: %b\r\n%b\r\n\r\n" % (connection, framing)
        )
        if self.error is None:
            self.requests.pop()
            self._receiving = request
            self._fields = request._raw_trailers
            self._parse(data)

    def continue_after(self, request: Request) -> None:
        """Go on with HTTP, although *request* asked for another protocol."""
        request.upgrade = None
        if self.is_paused:
            self.is_paused = False
            rest, self.rest = self.rest, b""
            self._parser = httptools.HttpRequestParser(self)
            if rest:
                self.feed(rest)

    @property
    def expects_more(self) -> bool:
        """Whether the client is in the middle of a request, or sends what is refused.

        Not for one that was too slow: it has had its time.
        """
        if self.error is not None:
            return self.error.status != 408
        return self._receiving is not None or self.in_head

    def retire(self) -> bytes:
        """Give up HTTP: return what followed the request that asked for another protocol."""
        rest, self.rest = self.rest, b""
        self.ends = True
        self._parser = None
        return rest

    def _fail(self, status: int, text: str, limit: str | None = None) -> None:
        if self.error is not None:
            return
        self.error = HTTPError(status, text)
        self.limit = limit
        if self._receiving is not None:
            self._receiving._broken(self.error)
            self._receiving = None

    # ------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.in_head = True
        self._head_size = self._fed

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        self._url = self._url + url if self._url else url
        if len(self._url) > self._limits.max_target_bytes:
            most = self._limits.max_target_bytes
            self._refuse(414, f"more than {most} bytes", "max_target_bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or one of a trailer."""
        name = name.lower()
        value = value.rstrip()  # the parser leaves trailing white space
        self._fields.append((name, value))
        if name in _SPECIAL:
            self._note(name, value)

    def on_headers_complete(self) -> None:
        """Decide how the request is understood, and let it be handled."""
        self.in_head = False
        parser, special, url, fields = self._parser, self._special, self._url, self._fields
        method, version = _METHODS.get(parser.get_method()), parser.get_http_version()
        if method is None:
            self._refuse(501, "method not implemented")
        if self._head_size > self._limits.max_head_bytes:
            self._check_size(len(url), fields)
        self._url = b""
        self._fields = []
        if len(fields) > self._limits.max_headers:
            most = self._limits.max_headers
            self._refuse(431, f"more than {most} header fields", "max_headers")
        if not (url.startswith(b"/") and url.isascii()) or b"#" in url or b"\x7f" in url:
            url = self._unusual_target(method, url, fields)
        host = special.pop(b"host", None)
        if host != self._known_host or version != "1.1":
            self._check_version_and_host(version, host)
        if special or version != "1.1":
            self._special = {}
            request = Request(method, url, version, fields, self._body_length(version, special))
            self._note_options(request, special)
            if request.content_length and parser.should_upgrade():
                self._with_body = request
            elif request.content_length:
                self._receiving = request
                self._fields = request._raw_trailers
        else:
            request = Request(method, url, version, fields, 0)
        self.requests.append(request)

    def on_body(self, piece: bytes) -> None:
        """Take a piece of a body."""
        self._stalled = 0
        request = self._receiving
        if request is not None and not request._receive(piece, self._limits.max_body_bytes):
            self._refuse_body()

    def on_message_complete(self) -> None:
        """End a request."""
        request = self._receiving
        if request is not None:
            self._check_trailers(request._raw_trailers)
            self._special = {}
            self._fields = []
            self._stalled = 0
            self._receiving = None
            request.is_complete = True

    # ----------------------------------------------------------------------- decisions

    def _refuse(self, status: int, text: str, limit: str | None = None) -> NoReturn:
        """Refuse the request, and stop the parser; *limit*: which of `Limits` it has met."""
        self._fail(status, text, limit)
        raise _Refused

    def _refuse_body(self) -> None:
        most = self._limits.max_body_bytes
        self._refuse(413, f"more than {most} bytes", "max_body_bytes")

    def _refuse_pipelined(self) -> None:
        """Refuse what has come beyond the requests that may wait."""
        most = self._limits.max_pipelined
        del self.requests[most - self.pending :]  # the last ones
        self._fail(429, f"more than {most} requests at once", "max_pipelined")

    def _note(self, name: bytes, value: bytes) -> None:
        """Note a field that decides how the request is understood."""
        special = self._special
        if name not in special:
            special[name] = value
        elif name in _LISTS:
            special[name] += b"," + value
        else:
            self._refuse(400, f"more than one {name.decode()}")

    def _check_size(self, size: int, fields: list[tuple[bytes, bytes]]) -> None:
        """Refuse *fields*, with *size* bytes beside them, if they are too long without padding."""
        size += sum(len(name) + len(value) + 4 for name, value in fields)
        if size > self._limits.max_head_bytes:
            most = self._limits.max_head_bytes
            self._refuse(431, f"more than {most} bytes", "max_head_bytes")

    def _check_unfinished_head(self) -> None:
        """Refuse a head that is too long already.

        It is not known where in its first piece the head began, and a line that the parser
        holds may be padding. So the pieces may be twice as long as a head.
        """
        most = self._limits.max_head_bytes
        if len(self._fields) > self._limits.max_headers:
            most = self._limits.max_headers
            self._fail(431, f"more than {most} header fields", "max_headers")
        elif self._head_size == self._fed:
            self._head_size = min(self._head_size, most)
        elif self._head_size > 2 * most:
            self._fail(431, f"more than {most} bytes", "max_head_bytes")

    def _check_trailers(self, trailers: list[tuple[bytes, bytes]]) -> None:
        if len(trailers) > self._limits.max_headers:
            most = self._limits.max_headers
            self._refuse(431, f"more than {most} trailer fields", "max_headers")
        self._check_size(0, trailers)
        for name, _ in trailers:
            if name in _DECISIVE:
                self._refuse(400, f"{name.decode()} in a trailer (RFC 9110, section 6.5.1)")

    def _unusual_target(self, method: str, url: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
        """Return the target in origin form (RFC 9112, section 3.2), or refuse the request."""
        if url == b"*" and method == "OPTIONS":
            return url
        origin = _ORIGIN.fullmatch(url)
        if origin is None or _TARGET.fullmatch(url) is None:
            self._refuse(400, "invalid target")
        host, rest = origin.groups()
        if not host or _HOST.fullmatch(host) is None:
            self._refuse(400, "invalid host in the target")
        # It takes the place of Host (section 3.2.2).
        fields[:] = [(b"host", host), *(field for field in fields if field[0] != b"host")]
        return rest if rest[:1] == b"/" else b"/" + rest

    def _note_options(self, request: Request, special: dict[bytes, bytes]) -> None:
        """Note what the client wants beside an answer."""
        request.is_plain = False
        if b"expect" in special:
            self._expect(request, special[b"expect"])
        # It is ignored beside a body (the server may: RFC 9110, section 7.8), and in HTTP/1.0.
        if self._parser.should_upgrade() and request.is_complete and request.version == "1.1":
            request.upgrade = special[b"upgrade"].decode("latin-1")
        is_closed = request.version == "1.0" and b"close" in special.get(b"connection", b"").lower()
        if is_closed or not self._parser.should_keep_alive():
            request.keeps_alive = False
            self.ends = True

    def _check_version_and_host(self, version: str, host: bytes | None) -> None:
        if version != "1.1" and version != "1.0":  # noqa: PLR1714 - no set to search
            self._refuse(505, f"HTTP/{version}")
        if host is None:
            if version == "1.1":
                self._refuse(400, "no Host (RFC 9112, section 3.2)")
        elif _HOST.fullmatch(host) is None:
            self._refuse(400, "invalid Host")
        else:
            self._known_host = host

    def _body_length(self, version: str, special: dict[bytes, bytes]) -> int:
        """Return the length of the body (RFC 9112, section 6.3); -1: up to its last chunk."""
        coding = special.get(b"transfer-encoding")
        if coding is not None:
            if version == "1.0":
                self._refuse(400, "Transfer-Encoding in HTTP/1.0 (RFC 9112, section 6.1)")
            if b"content-length" in special:  # pragma: no cover - the parser refuses it, too
                self._refuse(400, "both Transfer-Encoding and Content-Length")
            self._check_coding(coding)
            return -1
        length = int(special.get(b"content-length", b"0"))  # digits: the parser checks it
        if length > self._limits.max_body_bytes:
            self._refuse_body()
        return length

    def _check_coding(self, coding: bytes) -> None:
        if coding.strip().lower() != b"chunked":
            codings = [each.strip() for each in coding.lower().split(b",")]
            known = codings[-1] == b"chunked" and codings.count(b"chunked") == 1
            self._refuse(501 if known else 400, "no transfer coding but chunked is understood")

    def _expect(self, request: Request, expected: bytes) -> None:
        if request.version == "1.0":
            return  # RFC 9110, section 10.1.1
        if expected.strip().lower() != b"100-continue":
            self._refuse(417, "only 100-continue can be expected")
        request.expects_continue = True


class _Refused(Exception):  # noqa: N818
    """Stops the parser; `ServerSession.error` says why."""
