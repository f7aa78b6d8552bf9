"""The handler of requests that asks an ASGI application."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

from silly._logs.crashes import Crashes
from silly._logs.logger import Logger
from silly._values.units import counted
from silly.net.asgi.exchange import Exchange
from silly.net.asgi.types import Application, Scope
from silly.net.http import Request, Response
from silly.net.networks import Networks

__all__ = ["ApplicationHandler"]

logger = Logger("silly.asgi")


class ApplicationHandler:
    """Calls *app* for each request.

    Args:
        root_path: where the application is mounted.
        trusted: the proxies whose ``X-Forwarded-For`` and ``-Proto`` are believed.
        state: what the application has put into its lifespan's state.
    """

    def __init__(
        self, app: Application, *, root_path: str, trusted: Networks, state: dict[str, Any]
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._trusted = trusted
        self._state = state
        self._crash_logs = Crashes(asyncio.get_running_loop(), logger, self._summarize)
        self._running: set[asyncio.Task[None]] = set()
        self.__qualname__ = getattr(app, "__qualname__", type(app).__name__)

    async def __call__(self, request: Request) -> Response:
        """Return the application's response to *request*."""
        loop = asyncio.get_running_loop()
        exchange = Exchange(request, loop)
        task = loop.create_task(self._run(exchange, self.scope_of(request)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            response = await exchange.first
        except BaseException:
            await exchange.close()
            task.cancel()
            raise
        if type(response.body) is bytes:
            await exchange.close()
        return response

    async def _run(self, exchange: Exchange, scope: Scope) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - it is logged, here or by the server
            if exchange.is_complete:  # such as an error page, or a background task
                what = f"{scope['method']} {scope['path']}"
                self._crash_logs.log(error, "%s: the application failed", what)
            exchange.ended(error)
        except BaseException as error:
            exchange.ended(error)
            raise
        else:
            exchange.ended(None)

    def _summarize(self, kind: str, number: int) -> None:
        logger.error("the application failed %s: %s", counted(number, "more time"), kind)

    async def wait_finished(self) -> None:
        """Wait until all requests, and what the application does after them, are done."""
        while self._running:
            await asyncio.wait(self._running)
        self._crash_logs.close()

    def scope_of(self, request: Request) -> Scope:
        """Return the connection scope (ASGI HTTP specification 2.4)."""
        conn: Any = request.conn
        client, scheme = _host_and_port(conn._remote_sockaddr), "https" if conn.tls else "http"
        if request.headers.get("x-forwarded-for") and self._trusted.covers(conn._client):
            client, scheme = self._forwarded(request, client, scheme)
        path, _, query = request.raw_target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.version,
            "method": request.method,
            "scheme": scheme,
            "path": self._root_path + request.path,
            "raw_path": self._root_path.encode() + path,
            "query_string": query,
            "root_path": self._root_path,
            "headers": request.raw_headers,
            "client": client,
            "server": _host_and_port(conn._local_sockaddr),
            "state": self._state.copy(),
            "extensions": {},
        }

    def _forwarded(self, request: Request, client: Any, scheme: str) -> tuple[Any, str]:
        """Return client and scheme as the proxies report them, up to the last that we trust."""
        hops = [hop.strip() for hop in request.headers["x-forwarded-for"].split(",")]
        for hop in reversed(hops):
            try:
                address = ipaddress.ip_address(hop.strip("[]"))
            except ValueError:
                break  # it is no address: whoever is before it is not known
            client = (str(address), 0)
            if not self._trusted.covers(address.packed):
                break
        proto = request.headers.get("x-forwarded-proto", scheme).rpartition(",")[2].strip()
        return client, proto if proto in {"http", "https"} else scheme


def _host_and_port(sockaddr: Any) -> tuple[str, int] | None:
    return sockaddr[:2] if isinstance(sockaddr, tuple) else None
