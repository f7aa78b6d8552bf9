"""The opening handshake on a connection: the client's request, and the server's response."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from silly.errors import EndOfStream, LimitExceeded
from silly.net.conn import StreamConn
from silly.net.http.content import Fields, fields_of
from silly.net.http.fields import TOKEN, Headers
from silly.net.http.url import URL
from silly.net.limits import Limits
from silly.net.websocket.errors import HandshakeFailed
from silly.net.websocket.handshake import Agreement, ClientHandshake, checked_subprotocols

__all__ = ["OpeningHandshake", "WebSocketURL"]

_SCHEMES: Final = {"ws": "http", "wss": "https"}
_RESERVED: Final = frozenset(
    ("connection", "upgrade", "content-length", "transfer-encoding", "origin")
)
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_BODY: Final = 1024  # bytes of the body of a refusal that are kept
_BODY_TIME: Final = 1.0  # seconds to wait for them


class WebSocketURL:
    """A URL that begins with ``ws://`` or ``wss://``; `str` gives it without credentials.

    Raises:
        TypeError, ValueError: it is none.
    """

    def __init__(self, url: str) -> None:
        if not isinstance(url, str):
            raise TypeError(
                f"url must be a str such as 'wss://example.com/', not {type(url).__name__}"
            )
        scheme, colon, rest = url.partition(":")
        http = _SCHEMES.get(scheme.lower())
        if http is None or not colon:
            raise ValueError(f"url must begin with ws:// or wss://: {url!r}")
        if "#" in rest:
            raise ValueError("url of a WebSocket has no fragment (RFC 6455, section 3)")
        self.http = URL.parse(f"{http}:{rest}")
        """The same as a URL of HTTP."""
        self.is_encrypted = http == "https"

    def __str__(self) -> str:
        return f"{'wss' if self.is_encrypted else 'ws'}://{self.http.authority}{self.http.target}"

    @property
    def addr(self) -> str:
        """The address to connect to."""
        host = self.http.host
        return f"[{host}]:{self.http.port}" if ":" in host else f"{host}:{self.http.port}"


class OpeningHandshake:
    """The opening handshake of one client; the arguments are those of `client.connect`.

    Attributes:
        request: the bytes of the request.
    """

    def __init__(
        self,
        url: WebSocketURL,
        subprotocols: Sequence[str],
        headers: Fields | None,
        origin: str | None,
        limits: Limits,
        *,
        compression: bool,
    ) -> None:
        self._place = str(url)
        self._limits = limits
        fields = fields_of(headers, _RESERVED)
        for name, _ in fields:
            if name.startswith("sec-websocket-"):
                raise ValueError(f"{name} is set by the client")
        if origin is not None:
            fields += fields_of({"origin": origin}, frozenset())
        self._handshake = ClientHandshake(
            checked_subprotocols(subprotocols), compression=compression
        )
        given = {name for name, _ in fields}
        lines = [f"GET {url.http.target} HTTP/1.1"]
        if "host" not in given:
            lines.append(f"Host: {url.http.authority}")
        lines += [f"{name}: {value}" for name, value in (*self._handshake.fields, *fields)]
        if url.http.authorization is not None and "authorization" not in given:
            lines.append(f"Authorization: {url.http.authorization}")
        self.request = "\r\n".join((*lines, "", "")).encode("latin-1")

    async def receive(self, conn: StreamConn) -> Agreement:
        """Receive the server's response to `request`, and check it.

        Raises:
            HandshakeFailed: the server does not open a WebSocket.
            OSError: the connection was lost.
        """
        while True:
            try:
                head = await conn.read(b"\r\n\r\n", limit=self._limits.max_head_bytes)
            except LimitExceeded:
                text = f"the response has more than {self._limits.max_head_bytes} bytes"
                raise HandshakeFailed(text, address=self._place) from None
            except EndOfStream:
                text = "the server closed the connection without a whole response"
                raise HandshakeFailed(text, address=self._place) from None
            status, headers = self._parsed(head)
            if status == 101 or status >= 200:
                break  # else it is interim
        if status != 101:
            raise HandshakeFailed(
                f"the server answered {status}, not 101",
                status,
                headers,
                await self._body(conn, headers),
                address=self._place,
            )
        try:
            return self._handshake.check(headers)
        except ValueError as error:
            raise HandshakeFailed(
                f"the server's response is wrong: {error}", status, headers, address=self._place
            ) from None

    def _parsed(self, head: bytes) -> tuple[int, Headers]:
        """Return status and header fields (RFC 9112, sections 4 and 5), in the strict way."""
        line, *lines = head[:-4].split(b"\r\n")
        status = _STATUS.fullmatch(line)
        if status is None:
            raise HandshakeFailed("not a response of HTTP/1.1", address=self._place)
        if len(lines) > self._limits.max_headers:
            text = f"the response has more than {self._limits.max_headers} header fields"
            raise HandshakeFailed(text, address=self._place)
        fields = []
        for each in lines:
            name, colon, value = each.partition(b":")
            if (
                not colon
                or TOKEN.fullmatch(name.decode("latin-1")) is None
                or b"\n" in value
                or b"\r" in value
                or b"\0" in value
            ):
                raise HandshakeFailed("an invalid header field", address=self._place)
            fields.append((name.lower(), value.strip(b" \t")))
        return int(status[1]), Headers(fields)

    async def _body(self, conn: StreamConn, headers: Headers) -> bytes:
        """Return the beginning of a refusal's body, which may say why."""
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return b""
        most = min(_BODY, int(length))
        try:
            async with asyncio.timeout(_BODY_TIME):
                return await conn.read(most)
        except (TimeoutError, EndOfStream):
            return await conn.read(conn.unread_bytes)
        except OSError:
            return b""
