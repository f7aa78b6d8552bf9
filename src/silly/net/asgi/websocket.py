"""A WebSocket of an application (ASGI WebSocket specification 2.5).

The application runs in the task of the connection. Before it accepts, it may answer with a
response instead (extension ``websocket.http.response``); a mere ``websocket.close`` is 403.
"""

from __future__ import annotations

from typing import Any, Final

from silly.net.asgi.exchange import UNSENT, RawResponse
from silly.net.asgi.extensions import checked_fields
from silly.net.asgi.types import Application, Message, Scope
from silly.net.http import Request
from silly.net.websocket import WebSocket, WebSocketClosed, accept
from silly.net.websocket.errors import checked_close
from silly.net.websocket.handshake import answer

__all__ = ["WebSocketExchange", "is_websocket", "websocket_scope"]

_LOST: Final = 1006


def is_websocket(request: Request) -> bool:
    """Return whether *request* asks for a WebSocket."""
    return request.upgrade is not None and request.upgrade.lower() == "websocket"


def websocket_scope(scope: Scope, request: Request) -> Scope:
    """Return the connection scope of a WebSocket, made of *scope*, which is one of HTTP."""
    del scope["method"]
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    if "tls" in scope["extensions"]:
        extensions["tls"] = scope["extensions"]["tls"]
    asked = ",".join(request.headers.get_all("sec-websocket-protocol")).split(",")
    scope.update(
        type="websocket",
        asgi={"version": "3.0", "spec_version": "2.5"},
        scheme="wss" if scope["scheme"] == "https" else "ws",
        subprotocols=[name for each in asked if (name := each.strip())],
        extensions=extensions,
    )
    return scope


class WebSocketExchange:
    """What the application sees as ``receive`` and ``send``.

    Raises:
        HTTPError: *request* is not valid.
    """

    def __init__(self, request: Request) -> None:
        answer(request)
        self._request = request
        self._is_connected = False
        self._websocket: WebSocket | None = None
        self._denial: RawResponse | None = None
        self._is_complete = False  # what the client gets instead of a WebSocket

    async def run(self, app: Application, scope: Scope) -> RawResponse | None:
        """Run *app*; return its response, if it did not accept."""
        await app(scope, self.receive, self.send)
        if self._websocket is not None:
            return None
        if not self._is_complete:
            raise RuntimeError("the ASGI application returned before it accepted or closed")
        return self._denial

    @property
    def is_over(self) -> bool:
        """Whether the WebSocket is closed."""
        return self._websocket is not None and not self._websocket.is_open

    async def receive(self) -> Message:
        """Return the next message, then how the WebSocket ended."""
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        if self._websocket is None:
            if not self._is_complete:
                await self._request._wait_for_end()
            return {"type": "websocket.disconnect", "code": _LOST, "reason": ""}
        try:
            message = await self._websocket.recv()
        except WebSocketClosed as end:
            return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}
        kind = "text" if isinstance(message, str) else "bytes"
        return {"type": "websocket.receive", kind: message}

    async def send(self, message: Message) -> None:
        """Do what the application wants.

        Raises:
            OSError: the WebSocket is closed.
            RuntimeError: this is not its turn.
            TypeError, ValueError: it is invalid.
        """
        kind = message["type"]
        if self._websocket is not None:
            await self._send(kind, message, self._websocket)
        elif self._is_complete:
            raise RuntimeError(f"ASGI: {kind} after the connection was refused")
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            self._denial = RawResponse(403, [])
            self._is_complete = True
        elif kind == "websocket.http.response.start":
            if self._denial is not None:
                raise RuntimeError(f"ASGI: a second {kind}")
            self._denial = RawResponse(int(message["status"]), checked_fields(message["headers"]))
        elif kind == "websocket.http.response.body" and self._denial is not None:
            self._denial.body += bytes(message.get("body", b""))
            if len(self._denial.body) > UNSENT:
                raise RuntimeError(f"ASGI: a refusal of more than {UNSENT} bytes")
            self._is_complete = not message.get("more_body", False)
        else:
            raise RuntimeError(f"ASGI: {kind!r} before websocket.accept")

    async def _accept(self, message: Message) -> None:
        subprotocol = message.get("subprotocol")
        fields = checked_fields(message.get("headers") or ())
        self._websocket = await accept(
            self._request,
            () if subprotocol is None else (subprotocol,),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields],
        )

    async def _send(self, kind: str, message: Message, websocket: WebSocket) -> None:
        if kind == "websocket.send":
            data = message.get("text")
            await websocket.send(message["bytes"] if data is None else data)
        elif kind == "websocket.close":
            code, reason = message.get("code", 1000), message.get("reason") or ""
            checked_close(code, reason)
            websocket._begin_close(code, reason)
        else:
            raise RuntimeError(f"ASGI: {kind!r} after websocket.accept")
