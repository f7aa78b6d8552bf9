"""`start_server` and `start_unix_server`, and the `Server` that they return."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import CoroutineType
from typing import Any, Final, Self, cast

from silly.net.addr import Address, TCPAddress
from silly.net.conn import StreamConn
from silly.net.course import Handler
from silly.net.limits import Limits
from silly.net.listener import Listener
from silly.net.listening import Opened, Serve, obtain_sockets
from silly.net.proxy.trust import trusted
from silly.net.tcp import handshakes_of, server_of
from silly.streams.client import port_number, unix_address
from silly.streams.reader import DEFAULT_LIMIT, read_limit
from silly.streams.sockets import BorrowedSocket
from silly.streams.writer import MAX_UNSENT, ConnTransport, streams_of

__all__ = ["Server", "start_server", "start_unix_server"]

_start_server: Final = asyncio.start_server  # programs may replace asyncio's
_start_unix_server: Final = asyncio.start_unix_server

_HANDSHAKE_TIMEOUT: Final = 60.0  # seconds, as asyncio's
_BACKLOG: Final = 100  # as asyncio's
_WAITS_FOR_CONNECTIONS: Final = sys.version_info >= (3, 12)  # asyncio's `wait_closed`

Callback = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


async def start_server(
    client_connected_cb: Callback,
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    sock: socket.socket | None = None,
    backlog: int = _BACKLOG,
    reuse_port: bool | None = None,
    start_serving: bool = True,
    **options: Any,
) -> asyncio.AbstractServer:
    """Listen, and call *client_connected_cb* for each connection; as `asyncio.start_server`.

    Args:
        client_connected_cb: a coroutine function, or a function, of the connection's reader
            and writer.
        host: a name or an IP address, or several; None or ``""`` for all interfaces.
        port: a number, or the name of a service; 0 for a free one.
        limit: bytes; the longest line, without its newline.
        sock: a bound socket to listen on, instead of *host* and *port*.
        backlog: how many connections may wait to be accepted (listen(2)).
        reuse_port: let several processes listen on the same port (SO_REUSEPORT).
        start_serving: accept at once, or when `Server.start_serving` is called.
        options: those of `asyncio.loop.create_server`. With ``family``, ``flags`` or
            ``keep_alive``, the server is asyncio's own.

    Returns:
        A `Server`, which is like asyncio's.

    Raises:
        OSError: the address cannot be used; it names the address.
        ValueError: *sock* and *host* or *port* are given, or neither.
    """
    used = {name: value for name, value in options.items() if value and name != "reuse_address"}
    encryption = _take_encryption(used)
    if used or limit <= 0 or (sock is None) == (host is None and port is None):
        return await _start_server(
            client_connected_cb,
            host,
            port,
            limit=limit,
            sock=sock,
            backlog=backlog,
            reuse_port=reuse_port,
            start_serving=start_serving,
            **options,
        )
    hosts: Iterable[str] = [host or ""] if host is None or isinstance(host, str) else host
    addresses = [TCPAddress(each, port_number(port)) for each in hosts]

    def obtain(serve: Serve) -> Opened:
        return _obtain(sock, addresses, backlog, reuse_port=bool(reuse_port), serve=serve)

    return Server(client_connected_cb, obtain, backlog, limit, encryption, start=start_serving)


async def start_unix_server(
    client_connected_cb: Callback,
    path: str | bytes | os.PathLike[str] | None = None,
    *,
    limit: int = DEFAULT_LIMIT,
    sock: socket.socket | None = None,
    backlog: int = _BACKLOG,
    start_serving: bool = True,
    **options: Any,
) -> asyncio.AbstractServer:
    """Listen on a Unix socket at *path*; as `asyncio.start_unix_server`.

    The file is removed when the server closes. The other arguments are those of `start_server`.
    """
    used = {name: value for name, value in options.items() if value and name != "cleanup_socket"}
    encryption = _take_encryption(used)
    if used or limit <= 0 or (sock is None) == (path is None):
        return await _start_unix_server(
            client_connected_cb,
            path,  # type: ignore[arg-type]
            limit=limit,
            sock=sock,
            backlog=backlog,
            start_serving=start_serving,
            **options,
        )
    addresses = [] if path is None else [unix_address(path)]

    def obtain(serve: Serve) -> Opened:
        return _obtain(sock, addresses, backlog, reuse_port=False, serve=serve)

    return Server(client_connected_cb, obtain, backlog, limit, encryption, start=start_serving)


def _take_encryption(options: dict[str, Any]) -> tuple[ssl.SSLContext, float] | None:
    """Take those of TLS out of *options*, unless asyncio is to refuse them."""
    if not isinstance(options.get("ssl"), ssl.SSLContext):
        return None
    options.pop("ssl_shutdown_timeout", None)
    return options.pop("ssl"), options.pop("ssl_handshake_timeout", _HANDSHAKE_TIMEOUT)


def _obtain(
    sock: socket.socket | None,
    addresses: Iterable[Address],
    backlog: int,
    *,
    reuse_port: bool,
    serve: Serve,
) -> Opened:
    """Return sockets that listen on *addresses*, or on *sock*."""
    if sock is not None:
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        sock.setblocking(False)
        sock.listen(backlog)
        return Opened([sock.dup()], sock.close)  # programs go on to use theirs
    with contextlib.ExitStack() as releases:
        sockets = []
        for address in addresses:
            opened = obtain_sockets(address, backlog, reuse_port=reuse_port, mode=None, serve=serve)
            releases.callback(opened.release)
            for each in opened.sockets:
                releases.callback(each.close)
                sockets.append(each)
        kept = releases.pop_all()
    return Opened(sockets, kept.close)


def _limits(limit: int) -> Limits:
    """Return the limits: none that asyncio does not have, but those of flags and environment."""
    limits = Limits.from_env()
    ours = dataclasses.replace(
        Limits.none(), memory_budget=limits.memory_budget, max_unsent=MAX_UNSENT
    )
    origins = limits.origins
    set_by_hand = {name: getattr(limits, name) for name in origins if origins[name] != "default"}
    return dataclasses.replace(ours, **{**set_by_hand, "read_limit": read_limit(limit)})


def _handler(
    callback: Callback,
    limit: int,
    loop: asyncio.AbstractEventLoop,
    context: ssl.SSLContext | None,
) -> Handler:
    """Return what the listener calls for each connection."""

    async def handle(conn: StreamConn) -> None:
        try:
            running = callback(*streams_of(conn, limit, loop, is_server=True, context=context))
            if type(running) is CoroutineType or asyncio.iscoroutine(running):
                await running
            del running
        except asyncio.CancelledError:
            conn.close()
            raise
        except Exception as error:  # noqa: BLE001 - as asyncio
            conn.close()
            loop.call_exception_handler(
                {
                    "message": "Unhandled exception in client_connected_cb",
                    "exception": error,
                    "transport": ConnTransport(conn),
                }
            )
            return
        if not conn._is_closed:  # asyncio's connections outlive their callback
            await conn.wait_closed()

    handle.__qualname__ = getattr(callback, "__qualname__", None) or repr(callback)
    return cast(Handler, handle)


class Server(asyncio.AbstractServer):
    """A server like asyncio's, on a silly `Listener`."""

    def __init__(
        self,
        callback: Callback,
        obtain: Callable[[Serve], Opened],
        backlog: int,
        limit: int,
        encryption: tuple[ssl.SSLContext, float] | None,
        *,
        start: bool,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        limits, server, context = _limits(limit), server_of(None), None
        if encryption is not None:
            context, timeout = encryption
            server = server_of(context)
            limits = dataclasses.replace(limits, handshake_timeout=timeout)
        elif server is not None:  # by --tls-cert
            context = server.context
        handshakes = None if server is None else handshakes_of(loop, server, limits)
        self._serving: asyncio.Future[None] | None = None
        self._is_closed = False
        self._listener = Listener(
            loop,
            _handler(callback, limit, loop, context),
            obtain,
            backlog,
            busy_poll=0,
            limits=limits,
            prefaces=() if handshakes is None else (handshakes,),
            handshakes=handshakes,
            proxies=trusted(None),
            observers=(),
            start=start,
        )

    @property
    def sockets(self) -> tuple[BorrowedSocket, ...]:
        """The listening sockets, for their names and options; none once it is closed."""
        if self._is_closed:
            return ()
        listener = self._listener
        waiting = [BorrowedSocket(_Waiting(sock)) for sock in listener._sockets]
        return (*[BorrowedSocket(server) for server in listener._servers], *waiting)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return its event loop."""
        return self._loop

    def is_serving(self) -> bool:
        """Return whether it accepts connections."""
        return self._listener.is_accepting

    async def start_serving(self) -> None:
        """Accept connections, if it does not yet."""
        if not self._is_closed and self._listener._sockets:
            self._listener._start()

    async def serve_forever(self) -> None:
        """Accept connections until this is cancelled, or `close` is called, which cancels it.

        Raises:
            RuntimeError: it is closed, or is awaited by another task.
        """
        if self._serving is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._is_closed:
            raise RuntimeError(f"server {self!r} is closed")
        await self.start_serving()
        self._serving = self._loop.create_future()
        try:
            await self._serving
        except asyncio.CancelledError:
            try:
                self.close()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving = None

    def close(self) -> None:
        """Stop accepting; open connections stay open."""
        if self._is_closed:
            return
        self._is_closed = True
        serving, self._serving = self._serving, None
        if serving is not None and not serving.done():
            serving.cancel()
        self._listener.close(math.inf)

    async def wait_closed(self) -> None:
        """Wait until it is closed and, as asyncio does from Python 3.12 on, its connections are."""
        if _WAITS_FOR_CONNECTIONS:  # pragma: no cover - from Python 3.12 on
            await self._listener.wait_closed()

    def close_clients(self) -> None:
        """Close all open connections."""
        for conn in self._listener._course.conns():
            conn.close()

    def abort_clients(self) -> None:
        """Reset all open connections."""
        for conn in self._listener._course.conns():
            conn.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def __repr__(self) -> str:
        return f"<Server {self._listener!r}>"


class _Waiting:
    """A socket that is not accepted on yet."""

    def __init__(self, sock: socket.socket) -> None:
        self._fileno = sock.fileno()
