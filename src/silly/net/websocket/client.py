"""The client's end: `connect`."""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
from collections.abc import Sequence
from typing import Any, Final, Literal

from silly._values.arguments import positive_seconds
from silly.errors import EndOfStream, LimitExceeded
from silly.net import tcp
from silly.net.awaitables import Connecting
from silly.net.conn import StreamConn
from silly.net.http.content import Fields, fields_of
from silly.net.http.fields import TOKEN, Headers
from silly.net.http.url import URL
from silly.net.limits import Limits
from silly.net.tls.config import Client as TLSClient
from silly.net.tls.config import as_client
from silly.net.websocket.connection import WebSocket
from silly.net.websocket.errors import HandshakeFailed
from silly.net.websocket.handshake import Agreement, ClientHandshake, checked_subprotocols

__all__ = ["Opening", "connect"]

_SCHEMES: Final = {"ws": "http", "wss": "https"}
_RESERVED: Final = frozenset(
    ("connection", "upgrade", "content-length", "transfer-encoding", "origin")
)
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_BODY: Final = 1024  # bytes of the body of a refusal that are kept
_BODY_TIME: Final = 1.0  # seconds to wait for them


class Opening(Connecting[WebSocket]):
    """A WebSocket that is being opened: await it, or use it in ``async with``."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"not open yet, so there is no {name!r}: `await` is missing, as in "
            "`ws = await websocket.connect(...)`",
            name=name,
            obj=self,
        )


def connect(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Fields | None = None,
    origin: str | None = None,
    compression: bool = True,
    timeout: float | None = 10.0,
    limits: Limits | None = None,
    tls: TLSClient | ssl.SSLContext | Literal[True] | None = None,
    connect_to: str | None = None,
) -> Opening:
    """Open a WebSocket: ``async with websocket.connect(url) as ws``, or ``await`` it.

    Args:
        url: such as ``"wss://example.com/chat"``; ``ws`` is not encrypted. A user and password
            in it are sent as ``authorization`` (Basic).
        subprotocols: those that this end knows, the best first; `WebSocket.subprotocol` is the
            one that the server has chosen.
        headers: further header fields of the request: by name, or pairs.
        origin: where this client comes from, as browsers say it.
        compression: whether to offer permessage-deflate (RFC 7692).
        timeout: seconds until the WebSocket is open, name resolution and TLS included;
            None leaves it to the operating system (minutes).
        limits: what the server may do: `Limits.max_message_bytes` and what follows it,
            `Limits.read_limit`, `Limits.max_unsent`, `Limits.linger` and the limits of the
            server's response (`Limits.max_head_bytes`, `Limits.max_headers`). None for
            `Limits.from_env`: flags, environment, defaults.
        tls: for ``wss``: a `tls.Client` to trust other authorities, or an `ssl.SSLContext`.
        connect_to: connect to this address, such as ``"unix:/run/app.sock"``, whatever host
            the URL names.

    Returns:
        An object to await for the `WebSocket`, or to use in ``async with`` directly.

    Raises:
        HandshakeFailed: the server does not open a WebSocket, such as with 403 or 404.
        TimeoutError: it was not open in time.
        ssl.SSLError: of TLS; `ssl.SSLCertVerificationError` if the certificate is not valid
            for the host.
        OSError: the server cannot be reached, or the connection was lost.
        TypeError, ValueError: an argument has the wrong type or value; raised at the call,
            before the await.
    """
    parsed, is_encrypted = _parsed(url)
    fields = fields_of(headers, _RESERVED)
    for name, _ in fields:
        if name.startswith("sec-websocket-"):
            raise ValueError(f"{name} is set by the client")
    if origin is not None:
        fields += fields_of({"origin": origin}, frozenset())
    handshake = ClientHandshake(checked_subprotocols(subprotocols), compression=compression)
    given = {name for name, _ in fields}
    lines = [f"GET {parsed.target} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"Host: {parsed.authority}")
    lines += [f"{name}: {value}" for name, value in (*handshake.fields, *fields)]
    if parsed.authorization is not None and "authorization" not in given:
        lines.append(f"Authorization: {parsed.authorization}")
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    limits = Limits.from_env() if limits is None else limits
    timeout = positive_seconds(timeout, "timeout")
    client: Any = False
    if is_encrypted:
        client = True if tls is None or tls is True else as_client(tls)
    opening = _Opening(
        parsed,
        head,
        handshake,
        limits,
        tls=client,
        connect_to=connect_to,
        place=_shown(parsed, is_encrypted=is_encrypted),
    )
    return Opening(opening.open(timeout))


def _parsed(url: str) -> tuple[URL, bool]:
    """Return *url* as one of HTTP, and whether it is encrypted."""
    if not isinstance(url, str):
        raise TypeError(f"url must be a str such as 'wss://example.com/', not {type(url).__name__}")
    scheme, colon, rest = url.partition(":")
    http = _SCHEMES.get(scheme.lower())
    if http is None or not colon:
        raise ValueError(f"url must begin with ws:// or wss://: {url!r}")
    if "#" in rest:
        raise ValueError("url of a WebSocket has no fragment (RFC 6455, section 3)")
    return URL.parse(f"{http}:{rest}"), http == "https"


def _shown(url: URL, *, is_encrypted: bool) -> str:
    return f"{'wss' if is_encrypted else 'ws'}://{url.authority}{url.target}"


class _Opening:
    """The opening handshake over one connection."""

    def __init__(
        self,
        url: URL,
        head: bytes,
        handshake: ClientHandshake,
        limits: Limits,
        *,
        tls: Any,
        connect_to: str | None,
        place: str,
    ) -> None:
        self._url = url
        self._head = head
        self._handshake = handshake
        self._limits = limits
        self._tls = tls
        self._connect_to = connect_to
        self._place = place

    async def open(self, timeout: float | None) -> WebSocket:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._open()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(
                errno.ETIMEDOUT, f"no WebSocket within {timeout:g} seconds", self._place
            ) from error.__cause__

    async def _open(self) -> WebSocket:
        conn = await self._connect()
        try:
            conn.write(self._head)
            agreement = await self._receive(conn)
            websocket = WebSocket(conn, agreement, self._limits, is_client=True)
        except BaseException:
            conn.abort()
            raise
        websocket._start(b"")
        return websocket

    async def _connect(self) -> StreamConn:
        url, limits = self._url, self._limits
        address = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
        conn: Any = await tcp.connect(
            self._connect_to or address,
            read_limit=limits.read_limit,
            max_unsent=limits.max_unsent,
            linger=limits.linger,
            tls=False if self._connect_to else self._tls,
        )
        try:
            if self._connect_to and self._tls is not False:
                await conn.start_tls(self._tls, server_name=url.host)
            if conn.tls is not None and conn.tls.alpn not in (None, "http/1.1"):
                raise ConnectionError(f"the server has chosen {conn.tls.alpn}, not http/1.1")
        except BaseException:
            conn.abort()
            raise
        made: StreamConn = conn
        return made

    async def _receive(self, conn: StreamConn) -> Agreement:
        """Receive the server's response, and check it."""
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
