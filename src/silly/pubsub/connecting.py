"""From a URL to a bus."""

from __future__ import annotations

import re
import ssl
from typing import Final
from urllib.parse import urlsplit

from silly.net.awaitables import Connecting
from silly.net.tls import Client
from silly.net.tls.config import as_client
from silly.pubsub.broker import BrokerBus
from silly.pubsub.bus import Bus
from silly.pubsub.limits import DEFAULTS, Limits
from silly.pubsub.link import Server
from silly.pubsub.memory import MemoryBus

__all__ = ["connect"]

_EXPECTED: Final = "memory:, redis://HOST:PORT, rediss://HOST:PORT (TLS) or nats://HOST:PORT"


def connect(
    url: str = "memory:",
    *,
    tls: bool | Client | ssl.SSLContext | None = None,
    limits: Limits | None = None,
) -> Connecting[Bus]:
    """Connect to a bus: ``bus = await pubsub.connect(url)``, or ``async with`` it.

    Args:
        url: ``"memory:"``, inside this process; ``"redis://HOST:6379"``; or
            ``"nats://HOST:4222"``, also several of one cluster, with commas between them. A
            user name and a password go before the host: ``"redis://user:secret@HOST"``.
            ``rediss://`` and ``tls://`` encrypt. What follows ``?`` in a URL of Redis are
            options of redis-py.
        tls: encrypt, and only send anything if the server does, too: True to trust the
            system's authorities, or a `silly.net.tls.Client` (or an `ssl.SSLContext`) that says
            whom to trust, and which certificate to show. With ``redis://`` it is an error.
        limits: what the bus may hold, and how long anything may take.

    Returns:
        An object to await for the `Bus`, or to use in ``async with`` directly.

    Raises:
        OSError: the broker cannot be reached; the error has its address. It is not tried
            again: only a connection that is lost later is made anew.
        TimeoutError: it did not answer within `Limits.connect_timeout`.
        PermissionError: it refused the user name or the password.
        ssl.SSLError: its certificate is not valid, or it does not encrypt.
        ImportError: the library is missing; the error names the command that installs it.
        TypeError, ValueError: an argument has the wrong type or value; raised at the call.
    """
    if limits is None:
        limits = DEFAULTS
    elif not isinstance(limits, Limits):
        raise TypeError(f"limits must be a pubsub.Limits, not {type(limits).__name__}")
    if not isinstance(url, str):
        raise TypeError(f"url must be a str such as 'memory:', not {type(url).__name__}")
    kind = url.partition(":")[0]
    client = None if tls is None or tls is False else as_client(tls)
    if kind == "memory":
        if url != "memory:":
            raise ValueError("the URL of a bus in memory is memory:, with nothing after it")
        if client is not None:
            raise ValueError("tls: a bus in memory is not encrypted")
        return Connecting(_connect_memory(limits))
    if kind not in {"redis", "rediss", "nats", "tls"}:
        raise ValueError(f"the URL of a bus is {_EXPECTED}; this one begins with {kind[:40]!r}")
    for each in url.split(",") if kind in {"nats", "tls"} else [url]:
        _check_url(each, kind)
    if kind == "redis" and client is not None:
        raise ValueError("tls: redis:// is not encrypted; use rediss://")
    return Connecting(_connect_broker(_server(kind, url, client), limits))


def _check_url(url: str, kind: str) -> None:
    """Check one URL; errors do not show it, because it may have a password."""
    if not url.startswith(f"{kind}://"):
        raise ValueError(f"the URL of a bus is {_EXPECTED}; this is not {kind}://HOST:PORT")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("the URL of a bus has no whitespace")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"the URL of the bus is invalid: {error}") from None
    if not host:
        raise ValueError(f"the URL of the bus has no host: {kind}://HOST:PORT")


def _server(kind: str, url: str, client: Client | None) -> Server:
    if kind.startswith("redis"):
        from silly.pubsub.redis import RedisServer  # noqa: PLC0415 - needs a library

        return RedisServer(url, client)
    from silly.pubsub.nats import NatsServer  # noqa: PLC0415 - needs a library

    return NatsServer(url, client)


async def _connect_memory(limits: Limits) -> Bus:
    return MemoryBus(limits)


async def _connect_broker(server: Server, limits: Limits) -> Bus:
    bus = BrokerBus(server, limits)
    await bus.connect()
    return bus


for _each in (_connect_memory, _connect_broker):
    _each.__qualname__ = "pubsub.connect"  # for Python's warning if it is never awaited
