"""WebSockets on a server: `accept` in a handler of HTTP requests, `listen` for nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from silly.net.conn import StreamConn
from silly.net.http.errors import HTTPError
from silly.net.http.fields import check_field
from silly.net.http.request import Request
from silly.net.http.server import listen as http_listen
from silly.net.listener import Listener
from silly.net.websocket.connection import WebSocket
from silly.net.websocket.handshake import answer, checked_subprotocols

__all__ = ["Handler", "accept", "listen"]

Handler = Callable[[WebSocket], Awaitable[object]]
Fields = Mapping[str, str] | Iterable[tuple[str, str]]

_OURS = ("upgrade", "connection", "content-length", "transfer-encoding", "date")


async def accept(
    request: Request,
    subprotocols: Sequence[str] = (),
    origins: Sequence[str | None] | None = None,
    *,
    compression: bool = True,
    headers: Fields = (),
) -> WebSocket:
    """Open the WebSocket that *request* asks for; for handlers of `silly.net.http`.

    ::

        @routes.get("/chat")
        async def chat(request):
            ws = await websocket.accept(request)
            async for message in ws:
                await ws.send(message)

    The handler may return when it is done: what it leaves open is closed with 1000; with 1011
    if it fails. When it ends by the `WebSocketClosed` of its own WebSocket, it has not failed.

    Args:
        subprotocols: those that this end knows, the best first. The first that the client
            has asked for is chosen, if there is one.
        origins: the origins, such as ``"https://example.com"``, of the pages that may open
            it; a None among them admits clients that are no browsers and send none. None: all.
            Browsers let any page open a WebSocket to any server, with its cookies (RFC 6455,
            section 10.2): without a list, check who it is in another way.
        compression: whether to agree to permessage-deflate (RFC 7692).
        headers: further header fields of the response, such as ``set-cookie``.

    Raises:
        HTTPError: the request does not open a WebSocket: it is invalid (400), of another
            method (405) or version (426), asks for none (426), or is from another origin (403).
            Not catching it answers the client.
        TypeError, ValueError: an argument is of another type, or invalid.
        RuntimeError: the WebSocket of this request was opened before.
    """
    fields = _checked_fields(headers)
    if isinstance(origins, str):
        raise TypeError("origins must be a sequence of origins, not a str")
    if request._successor is not None:
        raise RuntimeError("the WebSocket of this request was opened before")
    agreement = answer(
        request, checked_subprotocols(subprotocols), origins, compression=compression
    )
    conn = request.conn
    assert isinstance(conn, StreamConn)
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"{name}: {value}" for name, value in (*agreement.fields, *fields)]
    rest, limits = request._connection.switch(request)
    websocket = WebSocket(conn, agreement, limits, is_client=False, request=request)
    request._successor = websocket
    request._headers = None  # an idle WebSocket would keep what they take
    request._join_fields()
    conn.write("\r\n".join((*lines, "", "")).encode("latin-1"))
    websocket._start(rest)
    return websocket


def _checked_fields(headers: Fields) -> list[tuple[str, str]]:
    fields = list(headers.items() if isinstance(headers, Mapping) else headers)
    for name, value in fields:
        check_field(name, value)
        if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"{name} is set by the server")
    return fields


def listen(
    addr: str,
    handler: Handler,
    path: str = "/",
    *,
    subprotocols: Sequence[str] = (),
    origins: Sequence[str | None] | None = None,
    compression: bool = True,
    **options: Any,
) -> Listener:
    """Listen on *addr*, and run ``handler(ws)`` for each WebSocket that is opened at *path*.

    ::

        async def echo(ws):
            async for message in ws:
                await ws.send(message)

        websocket.listen("127.0.0.1:8080", echo)

    Requests for other paths are answered with 404. See `accept` about how a handler ends. While
    the listener closes, WebSockets are closed with 1001.

    Args:
        addr: as for `silly.net.tcp.listen`.
        handler: a coroutine function of one argument, the `WebSocket`.
        path: where it is, such as ``"/chat"``.
        subprotocols, origins, compression: as for `accept`.
        options: those of `silly.net.http.listen`, such as ``limits=`` and ``tls=``.

    Raises:
        OSError, TypeError, ValueError, RuntimeError: as `silly.net.tcp.listen`.
    """
    if not callable(handler):
        raise TypeError(
            f"handler must be a coroutine function taking the WebSocket, "
            f"not {type(handler).__name__}"
        )
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f"path must begin with '/', not {path!r}")
    known = checked_subprotocols(subprotocols)
    if isinstance(origins, str):
        raise TypeError("origins must be a sequence of origins, not a str")

    async def serve(request: Request) -> None:
        if request.path != path:
            raise HTTPError(404)
        await accept(request, known, origins, compression=compression)
        request._continuation = handler

    serve.__qualname__ = getattr(handler, "__qualname__", None) or type(handler).__name__
    return http_listen(addr, serve, **options)
