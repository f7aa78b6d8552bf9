"""The reply to a request, as a client gets it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol, Self

from silly.errors import SillyError
from silly.net.http.client_session import ClientSession
from silly.net.http.codings import decoder_of
from silly.net.http.errors import ReplyError
from silly.net.http.fields import Headers, charset_of

__all__ = ["HTTPStatusError", "Reply"]


class Source(Protocol):
    """Where the rest of a reply comes from."""

    async def receive(self) -> None:
        """Receive more; raises if the connection fails, or the reply is invalid."""

    async def abort(self) -> None:
        """Reset the connection, if it is in use for this reply."""

    def drop(self) -> None:
        """Do the same without waiting."""


class HTTPStatusError(SillyError):
    """What `Reply.raise_for_status` raises.

    Attributes:
        status: of the reply, 400 or more.
        reply: the `Reply`, whose body can be read as before.
    """

    status: int = 0
    reply: Reply


class Reply:
    """What the server has answered.

    If the request was made with ``stream=True``, the body is received as it is read, and the
    connection belongs to the reply until that is complete or `close` is called; ``async with``
    does that. Otherwise the body is here already.

    Attributes:
        status: such as 200.
        reason: what the server calls it, such as ``"OK"``; may be empty.
        version: of HTTP, ``"1.1"`` or ``"1.0"``.
        headers: by name (see `Headers`).
        url: where it comes from, after redirects, without credentials and fragment.
    """

    def __init__(
        self, method: str, url: str, session: ClientSession, source: Source, max_body_bytes: int
    ) -> None:
        self.method = method
        self.url = url
        self.status = session.status
        self.reason = session.reason
        self.version = session.version
        self.headers = Headers(session.raw_headers)
        self._session = session
        self._source = source
        self._max_body_bytes = max_body_bytes
        self._decoder = decoder_of(self.headers.get("content-encoding", ""))
        self._body: bytes | None = None
        self._is_taken = False  # a piece was taken by an iteration

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    @property
    def trailers(self) -> Headers:
        """The fields that followed the body, once it is complete."""
        return Headers(self._session.raw_trailers)

    def raise_for_status(self) -> Self:
        """Raise `HTTPStatusError` if the status is 400 or more; otherwise return the reply."""
        if self.ok:
            return self
        reason = f" {self.reason}" if self.reason else ""
        error = HTTPStatusError(f"{self.method} {self.url}: {self.status}{reason}")
        error.status = self.status
        error.reply = self
        raise error

    def __repr__(self) -> str:
        return f"<Reply {self.status} of {self.method} {self.url}>"

    # -------------------------------------------------------------------------- the body

    async def body(self) -> bytes:
        """Return the whole body, decompressed. It can be asked for again.

        Raises:
            ReplyError: it is longer than `Client.max_body_bytes`, incomplete or invalid.
            TimeoutError: no byte came for the client's ``read_timeout``.
            OSError: the connection was lost.
            RuntimeError: a part of it was taken by an iteration.
        """
        if self._body is None:
            if self._is_taken:
                raise RuntimeError("a part of the body was taken by an iteration")
            pieces, size = [], 0
            while piece := await self._next_piece():
                pieces.append(piece)
                size += len(piece)
                if size > self._max_body_bytes:
                    await self.close()
                    raise ReplyError(
                        f"the body has more than {self._max_body_bytes} bytes: use stream=True, "
                        "or a client with another max_body_bytes",
                        address=f"{self.method} {self.url}",
                    )
            self._body = b"".join(pieces)
        return self._body

    async def text(self) -> str:
        """Return the body as text, in the charset that its type names, or UTF-8.

        What is not text in that charset becomes U+FFFD. Raises what `body` raises.
        """
        body = await self.body()
        charset = charset_of(self.headers.get("content-type", ""))
        with contextlib.suppress(LookupError, UnicodeError):  # there is no such charset
            return body.decode(charset, "replace")
        return body.decode("utf-8", "replace")

    async def json(self) -> Any:
        """Return the body as JSON (RFC 8259).

        Raises:
            ValueError: it is not JSON (`json.JSONDecodeError`, `UnicodeDecodeError`).

        And what `body` raises.
        """
        return json.loads(await self.body())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, decompressed; raises what `body` raises.

        What was yielded is not in `body`. Another iteration goes on where this one ended.
        """
        if self._body is not None:
            if self._body:
                yield self._body
            return
        while piece := await self._next_piece():
            self._is_taken = True
            yield piece

    async def close(self) -> None:
        """Give up the rest of the body; its connection is closed if there is more of it."""
        await self._source.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __del__(self) -> None:
        source = getattr(self, "_source", None)
        if source is not None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                source.drop()

    # ------------------------------------------------------------------------- internals

    async def _next_piece(self) -> bytes:
        """Return a piece of the body; empty at its end."""
        session, decoder = self._session, self._decoder
        while True:
            if decoder is None:
                if session.pieces:
                    return session.pieces.popleft()
                if session.is_complete:
                    return b""
            else:
                is_last = session.is_complete and not session.pieces
                try:
                    piece = decoder.take(is_last=is_last)
                except ReplyError as error:
                    await self.close()
                    raise ReplyError(str(error), address=f"{self.method} {self.url}") from None
                if piece or is_last:
                    return piece
                if session.pieces:
                    decoder.feed(session.pieces.popleft())
                    continue
            await self._source.receive()
