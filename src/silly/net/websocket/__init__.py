"""WebSockets (RFC 6455), on a server and as a client (extra ``websocket``: httptools).

::

    from silly.net import websocket

    async def echo(ws):
        async for message in ws:                  # str or bytes
            await ws.send(message)

    websocket.listen("127.0.0.1:8080", echo)

::

    async with websocket.connect("wss://example.com/chat") as ws:
        await ws.send("hello")

On one port with HTTP: `accept`, in a handler of `silly.net.http`. One message to many:
`broadcast`.

- `frames`, `frames_native`: the format of frames; the same for the native engine
- `codes`, `kinds`: its numbers; which of the two is used
- `deflate`: compressed messages
- `handshake`, `opening`: how a WebSocket is opened; a client's part of it on a connection
- `session`: one end of a WebSocket, without I/O
- `connection`, `keepalive`, `pings`: `WebSocket`; what keeps it alive; the pings of programs
- `server`, `client`, `broadcast`: what programs call
"""

from __future__ import annotations

from silly.net.websocket.broadcasting import broadcast
from silly.net.websocket.client import connect
from silly.net.websocket.connection import WebSocket
from silly.net.websocket.errors import HandshakeFailed, WebSocketClosed
from silly.net.websocket.server import Handler, accept, listen

__all__ = [
    "Handler",
    "HandshakeFailed",
    "WebSocket",
    "WebSocketClosed",
    "accept",
    "broadcast",
    "connect",
    "listen",
]
