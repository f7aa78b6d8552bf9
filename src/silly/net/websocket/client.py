"""The client's end: `connect`."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Sequence
from typing import Any, Literal

from silly._values.arguments import positive_seconds
from silly._values.units import in_seconds
from silly.net import tcp
from silly.net.awaitables import Connecting
from silly.net.conn import StreamConn
from silly.net.http.content import Fields
from silly.net.limits import Limits
from silly.net.tls.config import Client as TLSClient
from silly.net.tls.config import as_client
from silly.net.websocket.connection import WebSocket
from silly.net.websocket.opening import OpeningHandshake, WebSocketURL

__all__ = ["Opening", "connect"]


class Opening(Connecting[WebSocket]):
    """A WebSocket that is being opened: await it, or use it in ``async with``."""

    __slots__ = ()

    _missing = "not open"
    _example = "ws = await websocket.connect(...)"


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
    parsed = WebSocketURL(url)
    limits = Limits.from_env() if limits is None else limits
    handshake = OpeningHandshake(
        parsed, subprotocols, headers, origin, limits, compression=compression
    )
    timeout = positive_seconds(timeout, "timeout")
    client: Any = False
    if parsed.is_encrypted:
        client = True if tls is None or tls is True else as_client(tls)
    opening = _Opening(parsed, handshake, limits, tls=client, connect_to=connect_to)
    return Opening(opening.open(timeout))


class _Opening:
    """The opening handshake over one connection."""

    def __init__(
        self,
        url: WebSocketURL,
        handshake: OpeningHandshake,
        limits: Limits,
        *,
        tls: Any,
        connect_to: str | None,
    ) -> None:
        self._url = url
        self._handshake = handshake
        self._limits = limits
        self._tls = tls
        self._connect_to = connect_to

    async def open(self, timeout: float | None) -> WebSocket:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._open()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(
                errno.ETIMEDOUT, f"no WebSocket within {in_seconds(timeout)}", str(self._url)
            ) from error.__cause__

    async def _open(self) -> WebSocket:
        conn = await self._connect()
        try:
            conn.write(self._handshake.request)
            agreement = await self._handshake.receive(conn)
            websocket = WebSocket(conn, agreement, self._limits, is_client=True)
        except BaseException:
            conn.abort()
            raise
        websocket._start(b"")
        return websocket

    async def _connect(self) -> StreamConn:
        limits = self._limits
        conn: Any = await tcp.connect(
            self._connect_to or self._url.addr,
            read_limit=limits.read_limit,
            max_unsent=limits.max_unsent,
            linger=limits.linger,
            tls=False if self._connect_to else self._tls,
        )
        try:
            if self._connect_to and self._tls is not False:
                await conn.start_tls(self._tls, server_name=self._url.http.host)
            if conn.tls is not None and conn.tls.alpn not in (None, "http/1.1"):
                raise ConnectionError(f"the server has chosen {conn.tls.alpn}, not http/1.1")
        except BaseException:
            conn.abort()
            raise
        made: StreamConn = conn
        return made
