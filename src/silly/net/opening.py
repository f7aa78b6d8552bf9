"""Opens UDP sockets: bound ones receive from anyone, connected ones talk to one peer."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable
from typing import Any, Final, cast

from silly._engine.interface import DatagramLimits
from silly._loop.live import Live
from silly._loop.registry import PerLoop
from silly._values.arguments import seconds_or_none, size
from silly._values.units import in_seconds
from silly.net.addr import TCPAddress
from silly.net.awaitables import Connecting
from silly.net.binding import Group, SocketOptions, find, group, is_everywhere, open_bound, open_to
from silly.net.datagrams import EngineSocket, Socket, address_of
from silly.net.listening import has_source

__all__ = ["bind", "connect", "limits", "totals"]

MAX_DATAGRAM: Final = 65535  # bytes
MAX_QUEUED: Final = 4096  # datagrams in each queue
READ_LIMIT: Final = 4 * 1024 * 1024  # bytes in the receive queue
MAX_UNSENT: Final = 4 * 1024 * 1024  # bytes in the send queue
RECEIVE_BUFFER: Final = 4 * 1024 * 1024  # bytes that the operating system is asked to hold


def limits(
    max_datagram: int = MAX_DATAGRAM,
    max_queued: int = MAX_QUEUED,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    strict: bool = False,
) -> DatagramLimits:
    """Check the bounds of a socket, and return them as engines take them.

    Raises:
        TypeError, ValueError: one of them has the wrong type or value.
    """
    return (
        min(size(max_datagram, "max_datagram", least=1), MAX_DATAGRAM),
        min(size(max_queued, "max_queued", least=1), 1 << 40),
        min(size(read_limit, "read_limit", least=1), 1 << 60),
        min(size(max_unsent, "max_unsent", least=1), 1 << 60),
        bool(strict),
    )


def _groups(multicast: str | Iterable[str] | None) -> tuple[Group, ...]:
    if multicast is None:
        return ()
    return tuple(group(each) for each in ([multicast] if isinstance(multicast, str) else multicast))


class _Sockets:
    """The owner of the sockets of one event loop: counts those that are closed, too."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._live = Live.of(loop)
        self._past: dict[str, Any] = {}

    def socket_closed(self, sock: EngineSocket) -> None:
        self._past = _sum(self._past, sock._counts)
        self._live.socket_closed(sock)

    def totals(self) -> dict[str, Any]:
        totals = self._past
        sockets = cast("set[EngineSocket]", self._live.sockets)
        for sock in list(sockets):
            totals = _sum(totals, sock._counts)
        return {"sockets": len(sockets), **totals}


_sockets: Final = PerLoop("sockets", _Sockets)


def _sum(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of two results of `Datagrams._counts`."""
    sums = dict(first)
    for name, value in second.items():
        if isinstance(value, dict):
            sums[name] = _sum(sums.get(name, {}), value)
        else:
            sums[name] = sums.get(name, 0) + (value or 0)
    return sums


def totals(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    """Return the sums of `SocketStats` of all sockets of *loop*, past and present, by name.

    ``sockets`` is how many are open now.
    """
    return _sockets.of(loop).totals()


def _adopt(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, bounds: DatagramLimits
) -> EngineSocket:
    """Return a `Socket` over *sock*, which belongs to it from now on."""
    owner = _sockets.of(loop)
    try:
        local = sock.getsockname()
        dual = sock.family == socket.AF_INET6 and not sock.getsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
        )
        made = EngineSocket(sock, loop, owner, limits=bounds, answers_from=is_everywhere(local))
    except BaseException:
        sock.close()
        raise
    made._is_dual = dual
    Live.of(loop).add_socket(made)
    return made


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "udp.bind() needs a running event loop: start the script with "
            "`silly FILE.py`, or call it inside silly.run(main())"
        ) from None


def bind(
    addr: str,
    *,
    reuse_port: bool = False,
    multicast: str | Iterable[str] | None = None,
    multicast_hops: int | None = None,
    broadcast: bool = False,
    max_datagram: int = MAX_DATAGRAM,
    max_queued: int = MAX_QUEUED,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    receive_buffer: int | None = RECEIVE_BUFFER,
    strict: bool = False,
) -> Socket:
    """Return a UDP socket that is bound to *addr* and receives from anyone.

    It keeps the program running until it is closed; a signal to stop closes it.

    Args:
        addr: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``":9999"`` (all interfaces, IPv4 and
            IPv6); port 0 picks a free one (`Socket.local_addr`). A host name is resolved
            before this returns, and the first of its addresses that can be bound is used.
        reuse_port: let several sockets have the same address; the kernel distributes the
            peers among them (SO_REUSEPORT, socket(7)). Workers always do, so that each has
            a socket of its own.
        multicast: the group, or the groups, whose datagrams it receives, such as
            ``"239.1.2.3"``, or ``"239.1.2.3%eth0"`` to name the interface. Several programs
            on one machine can then bind the same port.
        multicast_hops: how many routers may forward what it sends to groups: 1, the
            default, is this network only; 0 is this machine.
        broadcast: allow sending to broadcast addresses (SO_BROADCAST).
        max_datagram: bytes; longer datagrams are dropped and counted.
        max_queued: datagrams in each of its two queues, received and to be sent.
        read_limit: bytes in the receive queue; what comes above is dropped and counted.
        max_unsent: bytes in the send queue; see `Socket.send`.
        receive_buffer: bytes that the operating system is asked to hold for the program
            (SO_RCVBUF), which it limits (net.core.rmem_max); None leaves its default.
        strict: `Socket.send` raises `WriteQueueFull` if the queue is full.

    Raises:
        OSError: the address is in use (EADDRINUSE), not available on this machine or
            not permitted, its name cannot be resolved, or the group cannot be joined;
            the error names the address.
        TypeError, ValueError: an argument has the wrong type or value.
        RuntimeError: no event loop is running.
    """
    address = address_of(addr)
    options = SocketOptions(
        reuse_port=reuse_port or has_source(),
        broadcast=broadcast,
        groups=_groups(multicast),
        hops=None if multicast_hops is None else min(size(multicast_hops, "multicast_hops"), 255),
        receive_buffer=_buffer(receive_buffer),
    )
    bounds = limits(max_datagram, max_queued, read_limit, max_unsent, strict)
    loop = _running_loop()
    return _adopt(loop, open_bound(address, options), bounds)


def connect(
    addr: str,
    *,
    timeout: float | None = None,
    bind: str | None = None,
    broadcast: bool = False,
    max_datagram: int = MAX_DATAGRAM,
    max_queued: int = MAX_QUEUED,
    read_limit: int = READ_LIMIT,
    max_unsent: int = MAX_UNSENT,
    receive_buffer: int | None = RECEIVE_BUFFER,
    strict: bool = False,
) -> Connecting[Socket]:
    """Return a UDP socket that talks to *addr* only: ``sock = await udp.connect(addr)``.

    Nothing is sent: whether a program receives there shows only later, as an error of
    `Socket.recv`, and only if its machine reports it. Datagrams from others are not received.

    Args:
        addr: as for `bind`; a host name is resolved, and the first of its addresses that
            there is a route to is used. ``":9999"`` is this machine.
        timeout: seconds for name resolution; None leaves it to the operating system.
        bind: the local address to send from, such as ``"127.0.0.2:0"``.
        broadcast, max_datagram, max_queued, read_limit, max_unsent, receive_buffer, strict:
            see `bind`.

    Returns:
        An object to await for the `Socket`, or to use in ``async with`` directly.

    Raises:
        OSError: the name cannot be resolved (`socket.gaierror`), or there is no route; the
            error names the address.
        TimeoutError: the name was not resolved in time.
        TypeError, ValueError: an argument has the wrong type or value; raised at the call.
    """
    address = address_of(addr, for_peer=True)
    local = None if bind is None else address_of(bind, "bind")
    timeout = seconds_or_none(timeout, "timeout")
    options = SocketOptions(broadcast=broadcast, receive_buffer=_buffer(receive_buffer))
    bounds = limits(max_datagram, max_queued, read_limit, max_unsent, strict)
    return Connecting(_connect(address, local, timeout, options, bounds))


async def _connect(
    address: TCPAddress,
    local: TCPAddress | None,
    timeout: float | None,
    options: SocketOptions,
    bounds: DatagramLimits,
) -> Socket:
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            found = await find(address)
            own = None if local is None else await find(local)
    except TimeoutError:
        if limit.expired():
            what = f"Not resolved within {in_seconds(timeout)}"
            raise TimeoutError(errno.ETIMEDOUT, what, str(address)) from None
        raise
    return _adopt(loop, open_to(address, found, own, options), bounds)


_connect.__qualname__ = "udp.connect"  # for Python's warning if it is never awaited


def _buffer(value: int | None) -> int | None:
    return None if value is None else size(value, "receive_buffer", least=1)
