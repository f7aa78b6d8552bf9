r"""The HTTP client.

::

    async with http.Client() as client:
        reply = await client.get("https://example.com/users", params={"name": "Ann"})
        users = await reply.json()

    reply = await http.get("https://example.com/")                  # for a single request

Errors that have to do with the network or the server are `OSError`\ s (`TimeoutError`,
`ConnectionError`, `ssl.SSLError`, `ReplyError`), and name the request.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, Self, TypedDict, Unpack

from silly._values.arguments import positive_seconds, size
from silly._values.units import in_seconds
from silly.net import addr as addresses
from silly.net import tcp
from silly.net.awaitables import Connecting
from silly.net.conn import Conn
from silly.net.http.client_session import ClientSession
from silly.net.http.codings import accepted
from silly.net.http.content import (
    Content,
    Data,
    Fields,
    Pairs,
    content_of,
    fields_of,
    query_of,
)
from silly.net.http.errors import ReplyError
from silly.net.http.exchange import Exchange, at_request
from silly.net.http.fields import TOKEN
from silly.net.http.pool import Pool
from silly.net.http.reply import Reply
from silly.net.http.url import URL
from silly.net.tls.config import Client as TLSClient
from silly.net.tls.config import as_client

__all__ = ["Client", "Requesting", "get", "post", "request"]

REDIRECTS: Final = 10  # followed, if any are
DISCARDED: Final = 64 * 1024  # bytes of the body of a redirect, before the connection is closed

_RESERVED: Final = frozenset(("connection", "content-length", "transfer-encoding", "upgrade"))
_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
_WITH_BODY: Final = frozenset(("POST", "PUT", "PATCH"))
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_FOR_ONE_ORIGIN: Final = frozenset(("authorization", "cookie", "host", "proxy-authorization"))

_DEFAULTS: Final = (("accept", "*/*"), ("accept-encoding", accepted), ("user-agent", "silly"))

Origin = tuple[str, str, int]
_UNSET: Final[Any] = ...


class Options(TypedDict, total=False):
    """The options of a request; `Client.request` explains them."""

    params: Pairs | None
    headers: Fields | None
    data: Data | None
    json: Any
    timeout: float | None
    follow_redirects: bool | int
    stream: bool


class Requesting(Connecting[Reply]):
    """A request: await it, or use it in ``async with``."""

    __slots__ = ()

    _missing = "no reply"
    _example = "reply = await client.get(...)"


class _Request(NamedTuple):
    """What is to be sent; a redirect makes another one of it."""

    method: str
    url: URL
    fields: list[tuple[str, str]]
    content: Content

    @property
    def place(self) -> str:
        return f"{self.method} {self.url}"

    def head(self) -> bytes:
        """Return the encoded head."""
        given = {name for name, _ in self.fields}
        lines = [f"{self.method} {self.url.target} HTTP/1.1"]
        if "host" not in given:
            lines.append(f"host: {self.url.authority}")
        lines += [f"{name}: {value}" for name, value in self.fields]
        if self.content.content_type is not None and "content-type" not in given:
            lines.append(f"content-type: {self.content.content_type}")
        if self.url.authorization is not None and "authorization" not in given:
            lines.append(f"authorization: {self.url.authorization}")
        body = self.content.body
        if not isinstance(body, bytes):
            lines.append("transfer-encoding: chunked")
        elif body or self.method in _WITH_BODY:
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")

    def redirected(self, status: int, location: str) -> _Request:
        """Return what to send to *location* (RFC 9110, section 15.4)."""
        url = self.url.joined(location)
        method, fields, content = self.method, self.fields, self.content
        if status in (301, 302, 303) and method != "HEAD":
            method, content = "GET", Content()
            fields = [each for each in fields if not each[0].startswith("content-")]
        elif not content.can_repeat:
            raise ReplyError("a redirect, but the body cannot be sent again")
        authorization = self.url.authorization
        if url.origin != self.url.origin:
            authorization = None
            fields = [each for each in fields if each[0] not in _FOR_ONE_ORIGIN]
        url = replace(url, authorization=authorization)
        return _Request(method, url, fields, content)


class Client:
    r"""Makes requests, and keeps connections open between them.

    ``async with http.Client() as client`` closes the connections at the end; so does `close`.
    A client can be used by many tasks at the same time, in one event loop.

    Certificates are verified. A request that got no reply because the server closed a
    connection which had been idle is sent again, once, on a new one, if its method is
    idempotent or nothing of it was sent. Bodies in gzip and deflate are decompressed; in br and
    zstd if a library for that is installed (`silly.net.http.codings`). Cookies are not stored,
    and proxies not used.

    Args:
        timeout: seconds for a whole request, with its reply; without the body of the reply
            if it is made with ``stream=True``. None: no limit.
        connect_timeout: seconds until a connection is open, TLS included. None: no limit.
        read_timeout: seconds without a byte in either direction. None: no limit.
        max_per_host: connections with one host and port, at most; further requests wait,
            within *timeout*.
        max_connections: with all hosts together.
        idle_timeout: seconds for which a connection without a request is kept open.
        max_head_bytes: of the head of a reply.
        max_headers: header fields of a reply.
        max_body_bytes: of a body, decompressed, that is not streamed.
        tls: for ``https``: a `tls.Client` to trust other authorities, or an `ssl.SSLContext`.
        base_url: what URLs begin with that have no scheme, such as
            ``"https://example.com/api"``.
        headers: sent with each request, unless that has others of the same name.
        follow_redirects: whether, or how many; True for 10. 301, 302 and 303 lead to a GET,
            307 and 308 to the same request; another origin gets no ``authorization``
            and no ``cookie``.
        connect_to: connect to this address, such as ``"unix:/run/app.sock"``, whatever host
            the URL names.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    def __init__(
        self,
        *,
        timeout: float | None = 60.0,
        connect_timeout: float | None = 10.0,
        read_timeout: float | None = 30.0,
        max_per_host: int = 10,
        max_connections: int = 100,
        idle_timeout: float = 30.0,
        max_head_bytes: int = 64 * 1024,
        max_headers: int = 100,
        max_body_bytes: int = 64 * 1024 * 1024,
        tls: TLSClient | ssl.SSLContext | Literal[True] | None = None,
        base_url: str = "",
        headers: Fields | None = None,
        follow_redirects: bool | int = False,
        connect_to: str | None = None,
    ) -> None:
        self._timeout = positive_seconds(timeout, "timeout")
        self._connect_timeout = positive_seconds(connect_timeout, "connect_timeout")
        self._read_timeout = positive_seconds(read_timeout, "read_timeout")
        self._max_head_bytes = size(max_head_bytes, "max_head_bytes", least=1)
        self._max_headers = size(max_headers, "max_headers")
        self.max_body_bytes = size(max_body_bytes, "max_body_bytes")
        self._tls = True if tls is None or tls is True else as_client(tls)
        if base_url:
            URL.parse(base_url)
        self._base_url = base_url
        self._fields = fields_of(headers, _RESERVED)
        self._redirects = _checked_redirects(follow_redirects)
        if connect_to is not None:
            addresses.parse(connect_to, "connect_to")
        self._connect_to = connect_to
        idle = positive_seconds(idle_timeout, "idle_timeout")
        if idle is None:
            raise ValueError("idle_timeout must be a number of seconds")
        self._pool: Pool[Origin] = Pool(
            self._connect,
            max_per_key=size(max_per_host, "max_per_host", least=1),
            max_connections=size(max_connections, "max_connections", least=1),
            idle_timeout=idle,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; requests that are running fail (`ConnectionError`)."""
        await self._pool.close()

    # -------------------------------------------------------------------------- requests

    def get(self, url: str, **options: Unpack[Options]) -> Requesting:
        """Make a GET request; see `request`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[Options]) -> Requesting:
        """Make a HEAD request; see `request`."""
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Unpack[Options]) -> Requesting:
        """Make an OPTIONS request; see `request`."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Unpack[Options]) -> Requesting:
        """Make a POST request; see `request`."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Unpack[Options]) -> Requesting:
        """Make a PUT request; see `request`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Unpack[Options]) -> Requesting:
        """Make a PATCH request; see `request`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Unpack[Options]) -> Requesting:
        """Make a DELETE request; see `request`."""
        return self.request("DELETE", url, **options)

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Pairs | None = None,
        headers: Fields | None = None,
        data: Data | None = None,
        json: Any = None,
        timeout: float | None = _UNSET,
        follow_redirects: bool | int | None = None,
        stream: bool = False,
    ) -> Requesting:
        """Make a request: ``reply = await client.request(...)``.

        Args:
            method: such as ``"GET"``.
            url: of http or https, or what follows the client's *base_url*. A user and password
                in it are sent as ``authorization`` (Basic). What is not ASCII is encoded.
            params: added to the query: a mapping, or pairs; values are text, numbers, or lists
                of them. None is left out.
            headers: by name, or pairs; they replace the client's of the same name.
            data: the body: bytes; `str` (sent as UTF-8); a mapping or list of pairs (sent as
                a form, application/x-www-form-urlencoded); or an asynchronous iterable of
                bytes (sent in chunks, at the pace of the server).
            json: the body, as JSON.
            timeout: seconds, in place of the client's.
            follow_redirects: in place of the client's.
            stream: leave the body of the reply to be received as it is read; use
                ``async with client.get(url, stream=True) as reply``, or close the reply.

        Returns:
            An object to await for the `Reply`, or to use in ``async with`` directly.

        Raises:
            ReplyError: the reply is invalid, incomplete, or longer than the client's limits;
                there are too many redirects.
            TimeoutError: one of the timeouts passed.
            ssl.SSLError: of TLS; `ssl.SSLCertVerificationError` if the certificate is not
                valid for the host.
            OSError: the server cannot be reached, or the connection was lost.
            RuntimeError: the client is closed.
            TypeError, ValueError: an argument has the wrong type or value; raised at the
                call, before the await. A header field with line breaks is one.

        When a request is cancelled, its connection is closed.
        """
        if not isinstance(method, str) or TOKEN.fullmatch(method) is None:
            raise ValueError(f"method must be a name such as 'GET', not {method!r}")
        method = method.upper()
        if method == "CONNECT":
            raise ValueError("method CONNECT is for proxies, which are not supported")
        parsed = self._url(url)
        if query := query_of(params):
            parsed = parsed.with_query(query)
        fields = fields_of(headers, _RESERVED)
        for layer in (self._fields, _DEFAULTS):
            given = {name for name, _ in fields}
            fields += [each for each in layer if each[0] not in given]
        content = content_of(data, json)
        most = self._redirects if follow_redirects is None else _checked_redirects(follow_redirects)
        limit = self._timeout if timeout is _UNSET else positive_seconds(timeout, "timeout")
        return Requesting(
            self._request(
                _Request(method, parsed, fields, content), limit, most, is_streamed=stream
            )
        )

    def _url(self, url: str) -> URL:
        if self._base_url and isinstance(url, str) and "://" not in url.partition("?")[0]:
            url = f"{self._base_url.rstrip('/')}/{url.lstrip('/')}" if url else self._base_url
        return URL.parse(url)

    async def _request(
        self, request: _Request, timeout: float | None, redirects: int, *, is_streamed: bool
    ) -> Reply:
        limit = asyncio.timeout(timeout)
        first = request.place
        try:
            async with limit:
                reply = await self._exchange(request)
                followed = 0
                while redirects and reply.status in _REDIRECTS and "location" in reply.headers:
                    if followed == redirects:
                        await reply.close()
                        raise ReplyError(f"more than {redirects} redirects", address=first)
                    followed += 1
                    request = await self._redirected(request, reply)
                    reply = await self._exchange(request)
                if not is_streamed:
                    await self._read_whole(reply)
                return reply
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(
                errno.ETIMEDOUT, f"no whole reply within {in_seconds(timeout)}", first
            ) from error.__cause__

    async def _read_whole(self, reply: Reply) -> None:
        try:
            await reply.body()
        except BaseException:
            await reply.close()
            raise

    async def _redirected(self, request: _Request, reply: Reply) -> _Request:
        """Return the request that *reply* redirects to; give back the connection."""
        received = 0
        try:
            request = request.redirected(reply.status, _location(reply))
            async for piece in reply:
                received += len(piece)
                if received > DISCARDED:
                    break
        except (ReplyError, ValueError) as error:
            raise ReplyError(f"redirect: {error}", address=request.place) from None
        finally:
            await reply.close()
        return request

    async def _exchange(self, request: _Request) -> Reply:
        """Send *request* and return the reply, whose body is to be received."""
        origin = request.url.origin
        head = request.head()
        is_repeated = False
        while True:
            try:
                conn, was_used = await self._pool.acquire(origin, fresh=is_repeated)
            except OSError as error:
                raise at_request(error, request.place) from error
            session = ClientSession(
                request.method,
                max_head_bytes=self._max_head_bytes,
                max_headers=self._max_headers,
            )
            exchange = Exchange(
                conn,
                self._pool,
                origin,
                session,
                place=request.place,
                read_timeout=self._read_timeout,
            )
            try:
                exchange.send(head, request.content.body)
                while not session.has_head:
                    await exchange.receive()
            except BaseException as error:
                await exchange.abort()
                if (
                    was_used
                    and isinstance(error, ConnectionError)
                    and not session.has_begun
                    and not self._pool.is_closed
                    and _can_repeat(request, exchange)
                ):
                    is_repeated = True
                    continue
                raise
            return Reply(request.method, str(request.url), session, exchange, self.max_body_bytes)

    async def _connect(self, origin: Origin) -> Conn:
        scheme, host, port = origin
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        tls: Any = self._tls if scheme == "https" else False
        if self._connect_to is None:
            conn = await tcp.connect(address, timeout=self._connect_timeout, tls=tls)
        else:
            conn = await tcp.connect(self._connect_to, timeout=self._connect_timeout)
            if tls is not False:
                await conn.start_tls(tls, server_name=host, timeout=self._connect_timeout)
        if conn.tls is not None and conn.tls.alpn not in (None, "http/1.1"):
            conn.abort()
            raise ConnectionError(f"the server has chosen {conn.tls.alpn}, not http/1.1")
        return conn


def _can_repeat(request: _Request, exchange: Exchange) -> bool:
    if not exchange.has_sent:
        return True
    return request.method in _IDEMPOTENT and request.content.can_repeat


def _location(reply: Reply) -> str:
    """Return where *reply* redirects to; what is not ASCII should be UTF-8."""
    raw = dict(reply.headers.raw)[b"location"]
    return raw.decode("utf-8", "replace")


def _checked_redirects(value: bool | int) -> int:
    if isinstance(value, bool):
        return REDIRECTS if value else 0
    return size(value, "follow_redirects")


# --------------------------------------------------------------------- a single request


def get(url: str, **options: Unpack[Options]) -> Requesting:
    """Make one GET request, and close its connection; see `Client.request`."""
    return request("GET", url, **options)


def post(url: str, **options: Unpack[Options]) -> Requesting:
    """Make one POST request, and close its connection; see `Client.request`."""
    return request("POST", url, **options)


def request(method: str, url: str, **options: Unpack[Options]) -> Requesting:
    """Make one request, and close its connection; see `Client.request`.

    Raises:
        ValueError: with ``stream=True``, which needs a `Client`.
    """
    if options.get("stream"):
        raise ValueError("stream=True needs a client: async with http.Client() as client")
    client = Client()
    return Requesting(_once(client, client.request(method, url, **options)))


async def _once(client: Client, requesting: Requesting) -> Reply:
    async with client:
        return await requesting
