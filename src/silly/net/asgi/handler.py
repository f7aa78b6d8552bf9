"""The handler of requests that asks an ASGI application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from silly._engine import engine
from silly._logs.crashes import Crashes
from silly._logs.logger import Logger
from silly._values.units import counted
from silly.net.asgi.exchange import Exchange
from silly.net.asgi.extensions import extensions_of
from silly.net.asgi.forwarded import Proxies, is_encrypted
from silly.net.asgi.types import Application, Scope
from silly.net.asgi.websocket import WebSocketExchange, is_websocket, websocket_scope
from silly.net.http import Request, Response
from silly.net.networks import Networks

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.asgi.bases import Caller
else:
    from silly.net.asgi.plain import Caller

__all__ = ["ApplicationHandler"]

logger = Logger("silly.asgi")

TEMPLATES: Final = 100  # at most; a proxy may name many addresses


class ApplicationHandler(Caller):
    """Calls *app* for each request.

    Args:
        root_path: where the application is mounted.
        trusted: the proxies who are believed when they say who the client is.
        state: what the application has put into its lifespan's state.

    Attributes:
        running: the tasks of connections whose first task the application keeps.
    """

    def __init__(
        self, app: Application, *, root_path: str, trusted: Networks, state: dict[str, Any]
    ) -> None:
        super().__init__(app, root_path, state)
        self._templates: dict[Any, dict[str, Any]] = {}  # by the server's address
        self._app = app
        self._root_path = root_path
        self._raw_root_path = quote(root_path).encode("ascii")
        self._proxies = Proxies(trusted)
        self._state = state
        self._crash_logs = Crashes(asyncio.get_running_loop(), logger, self._summarize)
        self.running: set[asyncio.Task[None]] = set()
        self.__qualname__ = getattr(app, "__qualname__", type(app).__name__)

    def _call(self, request: Request) -> Awaitable[object]:
        if is_websocket(request):
            return self._run_websocket(request)
        return Exchange(self, self._app, request, self.scope_of(request))

    def hand_over(self, request: Request, outcome: Coroutine[Any, Any, Response]) -> None:
        """Let another task answer *request* with *outcome*."""
        task = request._connection.hand_over(request, outcome)
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def _run_websocket(self, request: Request) -> Response | None:
        exchange = WebSocketExchange(request)
        try:
            return await exchange.run(self._app, websocket_scope(self.scope_of(request), request))
        except Exception as error:
            if exchange.is_over and _is_departure(error):
                return None
            raise

    def log(self, exchange: Exchange, error: BaseException) -> None:
        """Log that the application has failed where no client is told."""
        if not _is_departure(error):
            what = f"{exchange.scope['method']} {exchange.scope['path']}"
            self._crash_logs.log(error, "%s: the application failed", what)

    def _summarize(self, kind: str, number: int) -> None:
        logger.error("the application failed %s: %s", counted(number, "more time"), kind)

    def close(self) -> None:
        """Log the counts that were not logged yet."""
        self._crash_logs.close()

    def scope_of(self, request: Request) -> Scope:
        """Return the connection scope (ASGI HTTP specification 2.4)."""
        connection = request._connection
        if connection.memo is None:
            client = _host_and_port(request.conn._remote_sockaddr)  # type: ignore[attr-defined]
            template = self._template(request)
            connection.memo = template, client, template["extensions"]
        template, client, _ = connection.memo
        scope: dict[str, Any] = template.copy()
        scope["client"] = client
        if (reported := self._proxies.reported(request)) is not None:
            client, scheme = reported
            scope["client"] = client or scope["client"]
            scope["scheme"] = scheme or scope["scheme"]
        path, _, query = request.raw_target.partition(b"?")
        scope["http_version"] = request.version
        scope["method"] = request.method
        scope["path"] = self._root_path + request.path
        scope["raw_path"] = self._raw_root_path + path
        scope["query_string"] = query
        scope["headers"] = request.raw_headers
        scope["state"] = self._state.copy()
        scope["extensions"] = extensions_of(request)
        return scope

    def _template(self, request: Request) -> dict[str, Any]:
        """Return what most scopes of the connection of *request* have in common.

        So have those of other connections to the same address, unless they are encrypted.
        """
        conn: Any = request.conn
        server = _server(conn._local_sockaddr)
        if not is_encrypted(conn) and (template := self._templates.get(server)) is not None:
            return template
        template = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https" if is_encrypted(conn) else "http",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "root_path": self._root_path,
            "headers": [],
            "client": None,
            "server": server,
            "state": {},
            "extensions": extensions_of(request),
        }
        if not is_encrypted(conn) and len(self._templates) < TEMPLATES:
            self._templates[server] = template
        return template


def _is_departure(error: BaseException) -> bool:
    """Return whether *error* says that the client has gone, as those of frameworks do."""
    return isinstance(error, OSError) or type(error).__name__ in {
        "ClientDisconnect",
        "RequestAborted",
        "WebSocketDisconnect",
    }


def _host_and_port(sockaddr: Any) -> tuple[str, int] | None:
    return sockaddr[:2] if isinstance(sockaddr, tuple) else None


def _server(sockaddr: Any) -> tuple[str, int | None] | None:
    """Return host and port, or the path of a Unix socket."""
    if isinstance(sockaddr, tuple):
        return sockaddr[:2]
    return (os.fsdecode(sockaddr), None) if sockaddr else None
