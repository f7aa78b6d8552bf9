"""The handler of requests that asks an ASGI application."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import quote

from silly._logs.crashes import Crashes
from silly._logs.logger import Logger
from silly._values.units import counted
from silly.net.asgi.exchange import Exchange
from silly.net.asgi.extensions import extensions_of
from silly.net.asgi.forwarded import Proxies
from silly.net.asgi.types import Application, Scope
from silly.net.http import Request, Response
from silly.net.networks import Networks

__all__ = ["ApplicationHandler"]

logger = Logger("silly.asgi")


class ApplicationHandler:
    """Calls *app* for each request.

    Args:
        root_path: where the application is mounted.
        trusted: the proxies who are believed when they say who the client is.
        state: what the application has put into its lifespan's state.

    Attributes:
        running: the tasks of the application, some of which are done with their response.
    """

    def __init__(
        self, app: Application, *, root_path: str, trusted: Networks, state: dict[str, Any]
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._raw_root_path = quote(root_path).encode("ascii")
        self._proxies = Proxies(trusted)
        self._state = state
        self._crash_logs = Crashes(asyncio.get_running_loop(), logger, self._summarize)
        self.running: set[asyncio.Task[None]] = set()
        self.__qualname__ = getattr(app, "__qualname__", type(app).__name__)

    async def __call__(self, request: Request) -> Response:
        """Return the application's response to *request*."""
        if request.upgrade is not None and request.upgrade.lower() == "websocket":
            return Response("WebSocket is not served here\n", 501)
        loop = asyncio.get_running_loop()
        exchange = Exchange(request, loop)
        task = loop.create_task(self._run(exchange, self.scope_of(request)))
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        try:
            response = await exchange.first
        except asyncio.CancelledError:
            task.cancel()
            await exchange.close()
            raise
        except BaseException:
            await exchange.close()
            raise
        if type(response.body) is bytes:
            await exchange.close()
        return response

    async def _run(self, exchange: Exchange, scope: Scope) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - it is logged, here or by the server
            if not exchange.ended(error) and not _is_departure(error):
                what = f"{scope['method']} {scope['path']}"
                self._crash_logs.log(error, "%s: the application failed", what)
        except BaseException as error:
            exchange.ended(error)
            raise
        else:
            exchange.ended(None)

    def _summarize(self, kind: str, number: int) -> None:
        logger.error("the application failed %s: %s", counted(number, "more time"), kind)

    def close(self) -> None:
        """Log the counts that were not logged yet."""
        self._crash_logs.close()

    def scope_of(self, request: Request) -> Scope:
        """Return the connection scope (ASGI HTTP specification 2.4)."""
        conn: Any = request.conn
        client, scheme = _host_and_port(conn._remote_sockaddr), "https" if conn.tls else "http"
        if (reported := self._proxies.reported(request)) is not None:
            client, scheme = reported[0] or client, reported[1] or scheme
        path, _, query = request.raw_target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.version,
            "method": request.method,
            "scheme": scheme,
            "path": self._root_path + request.path,
            "raw_path": self._raw_root_path + path,
            "query_string": query,
            "root_path": self._root_path,
            "headers": request.raw_headers,
            "client": client,
            "server": _server(conn._local_sockaddr),
            "state": self._state.copy(),
            "extensions": extensions_of(request),
        }


def _is_departure(error: Exception) -> bool:
    """Return whether *error* says that the client has gone, as those of frameworks do."""
    return isinstance(error, OSError) or type(error).__name__ in {
        "ClientDisconnect",
        "RequestAborted",
    }


def _host_and_port(sockaddr: Any) -> tuple[str, int] | None:
    return sockaddr[:2] if isinstance(sockaddr, tuple) else None


def _server(sockaddr: Any) -> tuple[str, int | None] | None:
    """Return host and port, or the path of a Unix socket."""
    if isinstance(sockaddr, tuple):
        return sockaddr[:2]
    return (os.fsdecode(sockaddr), None) if sockaddr else None
