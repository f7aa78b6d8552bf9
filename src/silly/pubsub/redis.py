"""Redis as a broker, over redis-py.

A link has two connections, because one that has subscriptions takes no other commands in
RESP2: one publishes, the other subscribes and receives. If one is lost, so is the link.

Redis matches channels with globs (PSUBSCRIBE), in which ``*`` stands for any text with dots
in it. So a pattern is translated to a glob that matches at least as much, and the bus compares
each message with the pattern.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from silly._loop.live import INTERNAL_TASK
from silly._values.extras import install_command
from silly.net.tls import Client
from silly.net.tls.config import as_client
from silly.pubsub.link import Key, Link, Publication, Receive, Refused, Server
from silly.pubsub.subjects import Pattern

try:
    from redis.asyncio.connection import Connection, SSLConnection, parse_url
    from redis.exceptions import AuthenticationError, RedisError, ResponseError
except ImportError:
    raise ImportError(f"redis:// needs redis: {install_command('pubsub-redis')}") from None

__all__ = ["RedisServer"]

_SPECIAL: Final = re.compile(r"[\\*?\[\]]")
_SUBSCRIBE: Final = {"": "SUBSCRIBE", "P": "PSUBSCRIBE"}


class RedisServer(Server):
    """The Redis server that a URL names."""

    def __init__(self, url: str, tls: Client | None) -> None:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self.address = f"{parts.scheme}://{host or ''}{port}{parts.path}"
        try:
            self._options: dict[str, Any] = dict(parse_url(url))
            self._kind: Any = self._options.pop("connection_class", Connection)
            # Deadlines, and connecting again, are the bus's business.
            self._options |= {"socket_timeout": None, "health_check_interval": 0, "protocol": 2}
            own = [each for each in self._options if each.startswith("ssl_")]
            if tls is not None and own:
                raise ValueError(f"tls= and {own[0]} contradict each other")
            if self._kind is SSLConnection and own:
                self._options.setdefault("ssl_check_hostname", True)
            elif self._kind is SSLConnection:
                self._kind = _Encrypted
                self._options["tls"] = as_client(True) if tls is None else tls
            self._kind(**self._options)
        except (TypeError, ValueError, RedisError) as error:
            raise ValueError(f"the URL of the bus is invalid for redis-py: {error}") from None

    async def connect(self, receive: Receive) -> Link:
        """See `Server.connect`."""
        link = RedisLink(receive, self._kind(**self._options), self._kind(**self._options))
        try:
            await link.open()
        except AuthenticationError as error:
            await link.close()
            raise PermissionError(f"{self.address}: {error}") from None
        except RedisError as error:
            await link.close()
            kind = PermissionError if "NOAUTH" in str(error) else ConnectionError
            raise kind(f"{self.address}: {error}") from None
        except BaseException:
            await link.close()
            raise
        return link

    def key(self, pattern: Pattern) -> Key:
        """Return which command, and its argument."""
        if pattern.is_subject:
            return "", pattern.text
        return "P", ".".join(map(_glob, pattern.tokens))


def _glob(token: str) -> str:
    return "*" if token in {"*", ">"} else _SPECIAL.sub(r"\\\g<0>", token)


class _Encrypted(SSLConnection):
    """A connection with TLS as a `Client` says."""

    def __init__(self, tls: Client, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "ssl": self._tls.context,
            "server_hostname": self._tls.server_name,
        }


class RedisLink(Link):
    """Two connections to a Redis server."""

    def __init__(self, receive: Receive, publishing: Any, receiving: Any) -> None:
        super().__init__(receive)
        self._publishing = publishing
        self._receiving = receiving
        self._reader: asyncio.Task[None] | None = None
        self._answers: deque[asyncio.Future[Exception | None]] = deque()

    async def open(self) -> None:
        """Connect both."""
        await self._publishing.connect()
        await self._command(self._publishing, "PING")  # whether a password is missing
        await self._receiving.connect()
        self._reader = asyncio.get_running_loop().create_task(
            self._read(), name=f"{INTERNAL_TASK}pubsub reader"
        )
        self._reader.add_done_callback(self._reader_ended)

    async def subscribe(self, keys: Sequence[Key]) -> dict[Key, Exception]:
        """See `Link.subscribe`."""
        outcomes = await self._ask([(_SUBSCRIBE[kind], name) for kind, name in keys])
        return {key: why for key, why in zip(keys, outcomes, strict=True) if why is not None}

    async def unsubscribe(self, keys: Sequence[Key]) -> None:
        """See `Link.unsubscribe`."""
        await self._ask([(f"{kind}UNSUBSCRIBE", name) for kind, name in keys])

    async def publish(self, batch: Sequence[Publication]) -> None:
        """See `Link.publish`."""
        connection = self._publishing
        await connection.send_packed_command(
            connection.pack_commands([("PUBLISH", each.subject, each.data) for each in batch])
        )
        for each in batch:
            try:
                await connection.read_response()
            except ResponseError as error:
                each.finish(Refused(error))
            else:
                each.finish()

    async def ping(self) -> None:
        """See `Link.ping`."""
        await self._command(self._publishing, "PING")
        await self._ask([("PING",)])

    async def close(self) -> None:
        """See `Link.close`."""
        self.lose(ConnectionError("closed"))
        if self._reader is not None:
            self._reader.cancel()
        for connection in (self._publishing, self._receiving):
            if (writer := connection._writer) is not None:
                writer.transport.abort()
                await connection.disconnect(nowait=True)
        if self._reader is not None:
            await asyncio.wait((self._reader,))

    async def _command(self, connection: Any, *command: str) -> Any:
        await connection.send_command(*command)
        return await connection.read_response()

    async def _ask(self, commands: list[tuple[str, ...]]) -> list[Exception | None]:
        """Send *commands* on the receiving connection; return which of them were refused, why."""
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in commands]
        self._answers += answers
        connection = self._receiving
        await connection.send_packed_command(connection.pack_commands(commands))
        return [await answer for answer in answers]

    async def _read(self) -> None:
        """Read what comes on the receiving connection: messages, and answers in their order."""
        while True:
            outcome = None
            try:
                found = await self._receiving.read_response(disconnect_on_error=False)
            except ResponseError as error:
                found, outcome = None, error
            match found:
                case [b"message", channel, data]:
                    name = _text(channel)
                    self.deliver(("", name), name, data)
                case [b"pmessage", pattern, channel, data]:
                    self.deliver(("P", _text(pattern)), _text(channel), data)
                case _:
                    answer = self._answers.popleft()
                    if not answer.done():
                        answer.set_result(outcome)

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        self.lose(error if isinstance(error, Exception) else ConnectionError("closed"))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
