r"""TCP (and Unix-socket) services and clients: one coroutine for each connection.

`listen` runs a handler for every incoming connection; `connect` opens one.
Both use a `Conn`::

    async def echo(conn):
        async for line in conn:
            await conn.write(line)

    tcp.listen("127.0.0.1:9999", echo)
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import errno
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from silly._engine import engine
from silly._engine.interface import HANDSHAKE_TIMEOUT, LINGER, MAX_UNSENT, READ_LIMIT
from silly._values.arguments import positive_seconds, seconds, seconds_or_none, size
from silly._values.units import in_seconds
from silly.net import addr as addresses
from silly.net.access_log import AccessLog
from silly.net.addr import TCPAddress, UnixAddress
from silly.net.awaitables import Connecting
from silly.net.broadcasting import broadcast
from silly.net.clients import attach
from silly.net.conn import Conn, ConnStats, StreamConn
from silly.net.course import Handler
from silly.net.dialing import dial
from silly.net.limits import Limits
from silly.net.listener import Listener, ListenerState, ListenerStats
from silly.net.listening import obtain_sockets
from silly.net.observer import Observer, checked
from silly.net.preface import Preface
from silly.net.proxy.forwarding import Greeting, greeting_of
from silly.net.proxy.header import ProxyHeader, check_version
from silly.net.proxy.trust import trusted

if TYPE_CHECKING:
    import ssl

    from silly.net.tls.config import Client as TLSClient
    from silly.net.tls.config import Server as TLSServer
    from silly.net.tls.kinds import Session
    from silly.net.tls.preface import Handshakes

__all__ = [
    "Conn",
    "ConnStats",
    "Limits",
    "Listener",
    "ListenerState",
    "ListenerStats",
    "broadcast",
    "connect",
    "listen",
]

BACKLOG: Final = 128


def _running_loop(what: str) -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            f"tcp.{what}() needs a running event loop: start the script with "
            "`silly FILE.py`, or call it inside silly.run(main())"
        ) from None


class _Unset(enum.Enum):
    FROM_LIMITS = "from limits"

    def __repr__(self) -> str:
        return "FROM_LIMITS"


FROM_LIMITS: Final = _Unset.FROM_LIMITS


def _checked_limits(limits: Limits | None, **overrides: Any) -> Limits:
    if limits is None:
        limits = Limits.from_env()
    elif not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits or None, not {type(limits).__name__}")
    given = {name: value for name, value in overrides.items() if value is not FROM_LIMITS}
    return dataclasses.replace(limits, **given) if given else limits


def listen(
    addr: str,
    handler: Handler,
    backlog: int = BACKLOG,
    *,
    limits: Limits | None = None,
    read_limit: int | _Unset = FROM_LIMITS,
    max_unsent: int | _Unset = FROM_LIMITS,
    linger: float | _Unset = FROM_LIMITS,
    idle_timeout: float | _Unset | None = FROM_LIMITS,
    reuse_port: bool = False,
    mode: int | None = None,
    busy_poll: float = 0,
    access_log: bool = False,
    observer: Observer | None = None,
    preface: Preface | None = None,
    tls: TLSServer | ssl.SSLContext | Literal[False] | None = None,
    proxy_protocol: Sequence[str] | None = None,
) -> Listener:
    """Listen on *addr* and run ``handler(conn)`` in a task of its own for each connection.

    When this returns, the socket is bound and connections are queued; port 0 has
    been replaced by a free one (`Listener.local_addr`). When a handler returns
    or raises, its connection is closed. An exception that comes from the end or loss of
    that connection is a normal end of the handler, even if it is wrapped (in a group, or
    by ``raise X from error``). Any other exception, including the loss of another
    connection, is counted, logged with the peer's address (at a bounded rate), and does
    not affect other connections.

    Args:
        addr: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``":9999"`` (all interfaces,
            IPv4 and IPv6), ``"localhost:9999"``, ``"unix:/run/x.sock"`` or
            ``"unix:@name"`` (an abstract name: Linux). A host name is resolved
            before this returns; a signal to stop interrupts that
            (`asyncio.CancelledError`). An existing Unix socket file is replaced if
            no process has it open; closing the listener removes its file.
        handler: a coroutine function of one argument, the `Conn`.
        backlog: how many connections may wait to be accepted (listen(2)).
        limits: the resources that its clients may use; None for
            `Limits.from_env`: flags, environment, defaults.
        read_limit: bytes, overriding *limits*; see `Conn.read_limit`.
        max_unsent: bytes, likewise; see `Conn.max_unsent`.
        linger: seconds, likewise; see `Conn.linger`.
        idle_timeout: seconds, or None for no timeout, likewise; see `Limits`.
        reuse_port: let several processes listen on the same port (SO_REUSEPORT,
            socket(7)).
        mode: permissions of a Unix socket's file, such as ``0o660``, regardless of
            the umask; None for what the umask leaves (in a worker, the
            supervisor's). Clients need write permission to connect.
        busy_poll: seconds for which the event loop keeps polling after each event
            before it sleeps. This spends processor time to save the time of waking
            up, which is most of a round trip with few connections. 0.0001 is a good
            value on a dedicated core. The largest value among the listeners of a
            loop counts. The portable engine ignores it.
        access_log: log a line for each connection when it is over, to the logger
            ``silly.access``; see `silly.net.access_log`.
        observer: an object to notify of each connection; see `silly.net.observer`.
        preface: a coroutine function of the connection, to be done before observers and
            the handler know of it, within `Limits.handshake_timeout`; what it raises
            refuses the connection. See `silly.net.preface`.
        tls: encrypt the connections with these certificates: a `tls.Server`, or an
            `ssl.SSLContext` of your own. The handler starts after the handshake. None: do
            so only if the program is run with ``--tls-cert``; False: never. See
            `silly.net.tls`.
        proxy_protocol: the networks of proxies and load balancers, such as
            ``("10.0.0.0/8", "unix")``; ``"unix"`` is all clients of Unix sockets. From
            these, a header of the PROXY protocol is required and believed; from all others
            it is neither. None for what the flag ``--proxy-protocol`` or the variable
            ``SILLY_PROXY_PROTOCOL`` sets, ``()`` for none. See `silly.net.proxy`.

    Raises:
        OSError: the address is in use (EADDRINUSE), not available on this machine or
            not permitted, or its name cannot be resolved; the error names the address.
        TypeError, ValueError: an argument or an environment variable has the wrong
            type or value.
        RuntimeError: no event loop is running.
    """
    address = addresses.parse(addr)
    if not callable(handler):
        raise TypeError(
            f"handler must be a coroutine function taking the connection, "
            f"not {type(handler).__name__}"
        )
    if preface is not None and not callable(preface):
        raise TypeError(
            f"preface must be a coroutine function taking the connection, "
            f"not {type(preface).__name__}"
        )
    size(backlog, "backlog", least=1)
    if mode is not None:
        if not isinstance(address, UnixAddress) or address.is_abstract:
            raise ValueError(f"mode needs the file of a Unix socket, and {addr!r} has none")
        if size(mode, "mode", least=0) > 0o777:
            raise ValueError(f"mode must be permissions, 0 to 0o777, not {mode:#o}")
    busy_poll = seconds(busy_poll, "busy_poll")
    limits = _checked_limits(
        limits,
        read_limit=read_limit,
        max_unsent=max_unsent,
        linger=linger,
        idle_timeout=idle_timeout,
    )
    observers = () if observer is None else (checked(observer),)
    if access_log:
        observers = (*observers, AccessLog())
    server = server_of(tls)
    loop = _running_loop("listen")
    prefaces = () if preface is None else (preface,)
    handshakes = None
    if server is not None:
        handshakes = handshakes_of(loop, server, limits)
        prefaces = (*prefaces, handshakes)
    return Listener(
        loop,
        handler,
        lambda serve: obtain_sockets(
            address, backlog, reuse_port=reuse_port, mode=mode, serve=serve
        ),
        backlog,
        busy_poll=busy_poll,
        limits=limits,
        prefaces=prefaces,
        proxies=trusted(proxy_protocol),
        observers=observers,
        handshakes=handshakes,
    )


def server_of(tls: object) -> TLSServer | None:
    """Return the server for *tls*, an argument of `listen`; None: not encrypted."""
    if tls is None:
        config = sys.modules.get("silly.net.tls.config")  # else there is no default
        return None if config is None else config.default_server()
    return None if tls is False else _tls_config().as_server(tls)


def handshakes_of(loop: asyncio.AbstractEventLoop, server: TLSServer, limits: Limits) -> Handshakes:
    """Return the preface that encrypts the connections of a listener."""
    if engine.NAME == "native":  # see `_tls_config`
        from silly.net.tls.native.preface import Handshakes  # noqa: PLC0415
    else:
        from silly.net.tls.preface import Handshakes  # noqa: PLC0415
    return Handshakes(loop, server, limits)


def _tls_config() -> Any:
    """Return the module of the TLS configurations; most programs need not load OpenSSL."""
    from silly.net.tls import config  # noqa: PLC0415

    return config


def connect(
    addr: str,
    *,
    timeout: float | None = None,
    bind: str | None = None,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    linger: float = LINGER,
    idle_timeout: float | None = None,
    tls: TLSClient | ssl.SSLContext | bool = False,
    proxy_header: Conn | ProxyHeader | None = None,
    proxy_version: int = 2,
) -> Connecting[Conn]:
    """Connect to *addr*: ``async with tcp.connect(addr) as conn``, or ``await tcp.connect(addr)``.

    If a name has several addresses, they are raced: a new attempt starts every 250 ms,
    alternating between address families (RFC 8305), and the first to succeed is used.

    Args:
        addr: as for `listen`; ``":9999"`` is this machine.
        timeout: seconds for everything, including name resolution; None leaves it to
            the operating system (minutes).
        bind: the local address to connect from, such as ``"127.0.0.2:0"``.
        read_limit: bytes; see `Conn.read_limit`.
        max_unsent: bytes; see `Conn.max_unsent`.
        linger: seconds; see `Conn.linger`.
        idle_timeout: seconds, or None; see `Conn.idle_timeout`.
        tls: True to encrypt the connection, and to check that the peer has a certificate for
            the host in *addr*, from an authority that this machine trusts; a `tls.Client`
            to trust others, or an `ssl.SSLContext` of your own.
        proxy_header: send a header of the PROXY protocol first, for a peer that requires
            one: that of a `ProxyHeader`, or one about the client of a `Conn`.
        proxy_version: the version of that header: 1 or 2.

    Returns:
        An object to await for the `Conn`, or to use in ``async with`` directly.
        `asyncio.create_task` also accepts it.

    Raises:
        ConnectionRefusedError: no program listens on *addr*.
        TimeoutError: not connected in time; with *tls*, its handshake must be complete
            within 10 seconds if there is no *timeout*.
        ssl.SSLCertVerificationError: the peer's certificate is not valid for the host.
        ssl.SSLError: the handshake failed.
        OSError: unreachable, unresolvable (`socket.gaierror`), and so on; the error
            names the address. If several addresses were tried, it is the error of
            the first, with a note for each attempt.
        TypeError, ValueError: an argument has the wrong type or value; raised
            at the call, before the await.
    """
    address = addresses.parse(addr)
    if isinstance(address, TCPAddress) and address.port == 0:
        raise ValueError(
            f"addr {addr!r} has port 0, which is only for listening: give the peer's port"
        )
    local: TCPAddress | None = None
    if bind is not None:
        parsed = addresses.parse(bind, "bind")
        if not isinstance(parsed, TCPAddress) or not isinstance(address, TCPAddress):
            raise ValueError(f"bind {bind!r} to {addr!r}: only TCP connections can be bound")
        local = parsed
    timeout = seconds_or_none(timeout, "timeout")
    host = address.host or "localhost" if isinstance(address, TCPAddress) else None
    session = None
    if tls is not False and tls is not None:
        client = _tls_config().as_client(tls)
        session = client.new_session(client.name_for(host), str(address))
    options = {
        "host": host,
        "read_limit": size(read_limit, "read_limit", least=1),
        "max_unsent": size(max_unsent, "max_unsent", least=1),
        "linger": seconds(linger, "linger"),
        "idle_timeout": positive_seconds(idle_timeout, "idle_timeout"),
    }
    check_version(proxy_version)
    greeting = None
    if proxy_header is not None:
        greeting = greeting_of(proxy_header, proxy_version, address)
    return Connecting(
        _connect(address, timeout, local, options, greeting=greeting, session=session)
    )


async def _connect(
    address: addresses.Address,
    timeout: float | None,
    bind: TCPAddress | None,
    options: dict[str, Any],
    *,
    greeting: Greeting | None,
    session: Session | None,
) -> Conn:
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(timeout)
    stage = "Not connected"
    try:
        async with limit:
            sock = await dial(loop, address, bind)
            conn = await attach(loop, sock, **options)
            if greeting is not None:
                conn.write(greeting(conn._remote_sockaddr))
            if session is not None:
                if timeout is None:
                    timeout = HANDSHAKE_TIMEOUT
                    limit.reschedule(loop.time() + timeout)
                stage = "Connected, but no TLS"
                await _encrypt(conn, session, str(address))
                limit.reschedule(None)
            return conn
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(
                errno.ETIMEDOUT, f"{stage} within {in_seconds(timeout)}", str(address)
            ) from None
        raise


async def _encrypt(conn: StreamConn, session: Session, named: str) -> None:
    from silly.net.tls.handshake import request  # noqa: PLC0415 - see `_tls_config`

    try:
        await request(conn, session, named)
    except OSError:
        conn.close()  # what is queued, an alert, is still sent
        raise
    except BaseException:
        conn.abort()
        raise


_connect.__qualname__ = "tcp.connect"  # for Python's warning if it is never awaited
