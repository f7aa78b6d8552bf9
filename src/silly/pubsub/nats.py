"""NATS as a broker, over nats-py.

A client of nats-py makes one connection and never reconnects: connecting again is the bus's
business, which knows what was confirmed. A message is confirmed by a PONG to a PING after it:
the server handles a connection's commands in order.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from silly._values.extras import install_command
from silly.errors import at_address
from silly.net.tls import Client
from silly.net.tls.config import as_client
from silly.pubsub.link import Key, Link, Publication, Receive, Refused, Server
from silly.pubsub.subjects import Pattern

try:
    import nats.errors
    from nats.aio.client import Client as Connection
except ImportError:
    raise ImportError(f"nats:// needs nats-py: {install_command('pubsub-nats')}") from None

__all__ = ["NatsServer"]

_NEVER: Final = 365 * 86400.0  # seconds: the bus asks for signs of life itself
_KIND: Final = "subscription"  # as the server calls it
_DENIED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


class NatsServer(Server):
    """The NATS server, or the servers of one cluster, that a URL names."""

    def __init__(self, url: str, tls: Client | None) -> None:
        self._urls = url.split(",")
        self.address = ",".join(map(_without_secrets, self._urls))
        # Without it, encryption depends on what the server says, in plain text.
        self._tls = as_client(True) if tls is None and url.startswith("tls:") else tls

    async def connect(self, receive: Receive) -> Link:
        """Connect to one of the servers, in random order."""
        error: Exception | None = None
        for url in random.sample(self._urls, len(self._urls)):
            link = NatsLink(receive)
            try:
                await link.open(url, self._tls)
            except (OSError, nats.errors.Error) as failure:
                await link.close()
                kind = type(failure) if isinstance(failure, OSError) else ConnectionError
                if "authorization" in str(failure).lower():
                    kind = PermissionError
                error = _named(failure, kind, _without_secrets(url))
            except BaseException:
                await link.close()
                raise
            else:
                return link
        assert error is not None
        raise error

    def key(self, pattern: Pattern) -> Key:
        """Return the pattern: NATS knows these wildcards."""
        return _KIND, pattern.text


class NatsLink(Link):
    """A connection to a NATS server."""

    def __init__(self, receive: Receive) -> None:
        super().__init__(receive)
        self._connection: Any = _Connection()
        self._subscriptions: dict[Key, Any] = {}
        self._denied: set[tuple[str, str]] = set()  # kind and subject, in lower case
        self._is_open = False

    async def open(self, url: str, tls: Client | None) -> None:
        """Connect to *url*."""
        self._connection.must_encrypt = tls is not None
        await self._connection.connect(
            servers=[url],
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=_NEVER,  # the bus has a deadline
            ping_interval=_NEVER,
            error_cb=self._on_error,
            tls=None if tls is None else tls.context,
            tls_hostname=None if tls is None else tls.server_name,
        )
        self._is_open = True
        # The library does not call back in every case in which it stops reading.
        self._connection._reading_task.add_done_callback(self._reader_ended)

    async def subscribe(self, keys: Sequence[Key]) -> dict[Key, Exception]:
        """See `Link.subscribe`."""
        for key in keys:
            self._subscriptions[key] = await self._subscribe(key)
        await self._confirm()
        refused = [key for key in keys if (_KIND, key[1].lower()) in self._denied]
        for key in refused:
            await self._subscriptions.pop(key).unsubscribe()
        return {key: PermissionError("permissions violation") for key in refused}

    async def _subscribe(self, key: Key) -> Any:
        async def on_message(message: Any) -> None:
            self.deliver(key, message.subject, message.data)

        return await self._connection.subscribe(key[1], cb=on_message)

    async def unsubscribe(self, keys: Sequence[Key]) -> None:
        """See `Link.unsubscribe`."""
        for key in keys:
            await self._subscriptions.pop(key).unsubscribe()

    async def publish(self, batch: Sequence[Publication]) -> None:
        """See `Link.publish`."""
        for each in batch:
            try:
                await self._connection.publish(each.subject, each.data)
            except nats.errors.MaxPayloadError:
                most = self._connection.max_payload
                each.finish(Refused(f"it takes {most} bytes at most (max_payload)"))
        await self._confirm()
        for each in batch:
            if ("publish", each.subject.lower()) in self._denied:
                each.finish(Refused("permissions violation"))

    async def ping(self) -> None:
        """See `Link.ping`."""
        await self._confirm()

    async def _confirm(self) -> None:
        """Wait until the server has handled all commands before this."""
        self._denied.clear()
        await self._connection._flush_pending(force_flush=True)  # `flush` sends its PING at once
        await self._connection.flush(timeout=_NEVER)

    async def close(self) -> None:
        """See `Link.close`."""
        self.lose(ConnectionError("closed"))
        connection = self._connection
        writer = getattr(connection._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        own = (each._wait_for_msgs_task for each in self._subscriptions.values())
        theirs = (
            connection._reading_task,
            connection._ping_interval_task,
            connection._flusher_task,
        )
        tasks = [each for each in (*own, *theirs) if each is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # the socket is closed in the next pass of the loop

    async def _on_error(self, error: Exception) -> None:
        if not self._is_open:
            raise error  # else `connect` tries again, and forgets it
        if found := _DENIED.search(str(error).lower()):
            self._denied.add((found[1], found[2]))
        else:  # also if the library has dropped a message: its own queue is full
            self.lose(error)

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        self.lose(error if isinstance(error, Exception) else ConnectionError("closed"))


class _Connection(Connection):
    """A client that sends no password in plain text where TLS is asked for."""

    must_encrypt = False

    def _connect_command(self) -> bytes:
        if self.must_encrypt and not self._server_info.get("tls_required"):
            raise ssl.SSLError("the server does not encrypt (no tls in its configuration)")
        command: bytes = super()._connect_command()
        return command


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _named(error: Exception, kind: type[Exception], address: str) -> Exception:
    text = str(error) or type(error).__name__
    if kind is type(error) and isinstance(error, OSError) and error.errno is not None:
        return at_address(error, address)
    return kind(f"{address}: {text}")
