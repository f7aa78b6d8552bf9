"""A proxy: real connections through a relay."""

from __future__ import annotations

from typing import Self

from silly.net import addr as addresses
from silly.net import tcp
from silly.net.conn import Conn
from silly.testing.faults.faults import NO_FAULTS, FaultsOf
from silly.testing.faults.relay import WINDOW, Relay, check_arguments
from silly.testing.faults.session import Session, new_session

__all__ = ["Proxy", "proxy"]


class Proxy:
    """Listens and forwards connections with faults; made by `proxy`."""

    def __init__(self, addr: str, upstream: str, up: FaultsOf, down: FaultsOf, window: int) -> None:
        self._addr = addr
        self._upstream = upstream
        self._up = up
        self._down = down
        self._window = window
        self._listener: tcp.Listener | None = None
        self._sessions: list[Session] = []

    @property
    def local_addr(self) -> str:
        """The address it listens on, with the port that was chosen for port 0.

        Raises:
            RuntimeError: the proxy was not entered (``async with``).
        """
        if self._listener is None:
            raise RuntimeError("the proxy listens only inside `async with`")
        return self._listener.local_addr

    @property
    def sessions(self) -> list[Session]:
        """The records of all connections so far, in order of arrival."""
        return self._sessions

    def __repr__(self) -> str:
        return f"<Proxy {self._addr} to {self._upstream}, {len(self._sessions)} sessions>"

    async def __aenter__(self) -> Self:
        self._listener = tcp.listen(
            self._addr, self._relay, read_limit=self._window, proxy_protocol=()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        await self._listener.close(0)

    async def _relay(self, client: Conn) -> None:
        index = len(self._sessions)
        session = new_session(index, self._up, self._down)
        self._sessions.append(session)
        try:
            server = await tcp.connect(self._upstream, read_limit=self._window)
        except OSError:
            session.end = "unreachable"
            client.abort()
            return
        await Relay(session, client, server, self._window).run()


def proxy(
    addr: str,
    upstream: str,
    *,
    up: FaultsOf = NO_FAULTS,
    down: FaultsOf = NO_FAULTS,
    window: int = WINDOW,
) -> Proxy:
    """Return a proxy from *addr* to *upstream*, which listens inside ``async with``::

        async with faults.proxy("127.0.0.1:0", server, down=Faults(latency=0.05)) as proxy:
            conn = await tcp.connect(proxy.local_addr)

    At the end of the block the proxy closes and resets open connections. A client
    is reset if *upstream* cannot be reached.

    Args:
        addr: where to listen; see `silly.net.tcp.listen`.
        upstream: where to connect for each client.
        up: the faults from client to server, or a function that returns them for
            the number of a connection, counted from 0.
        down: the same from server to client.
        window: bytes that each direction holds before it stops reading. The
            buffers of the connections on both sides come on top.

    Raises:
        OSError: from ``async with``; see `silly.net.tcp.listen`.
        TypeError, ValueError: an argument is of the wrong type or value.
    """
    addresses.parse(addr)
    addresses.parse(upstream, "upstream")
    check_arguments(up, down, window)
    return Proxy(addr, upstream, up, down, window)
