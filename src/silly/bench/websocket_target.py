"""The WebSocket server that is loaded: how its WebSockets are opened, and the kind of messages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from silly.bench.messages import filled, with_places
from silly.net.limits import Limits

if TYPE_CHECKING:
    from silly.net.websocket.opening import OpeningHandshake, WebSocketURL

__all__ = ["MOST", "WebSocketTarget"]

MOST: Final = 64 * 1024 * 1024  # bytes of a message


@dataclass(frozen=True)
class WebSocketTarget:
    """Where WebSockets are opened, and what is asked for.

    In the URL and the header fields, ``{conn}`` stands for the number of the connection.
    """

    url: str
    is_binary: bool = False
    """Whether messages are binary ones, not text."""
    headers: tuple[tuple[str, str], ...] = ()
    subprotocols: tuple[str, ...] = ()
    compresses: bool = False
    """Whether messages are compressed, if the server agrees."""

    def check(self) -> None:
        """Raise ValueError, with a line that names the option, if it cannot be asked for."""
        self._parsed  # noqa: B018 - raises
        try:
            self.handshake(0)
        except ValueError as error:
            option = "--subprotocol" if "subprotocol" in str(error) else "--header"
            raise ValueError(f"{option}: {error}") from None

    @cached_property
    def _parsed(self) -> WebSocketURL:
        from silly.net.websocket.opening import WebSocketURL  # noqa: PLC0415 - needs an extra

        return WebSocketURL(self.url)

    @cached_property
    def limits(self) -> Limits:
        """What the server may do: as everywhere, but messages may have `MOST` bytes."""
        return replace(Limits.from_env(), max_message_bytes=MOST)

    @property
    def addr(self) -> str:
        """The address to connect to."""
        return self._parsed.addr

    @property
    def is_encrypted(self) -> bool:
        """Whether the URL begins with wss."""
        return self._parsed.is_encrypted

    @property
    def shown_url(self) -> str:
        """The URL without user and password."""
        return with_places(str(self._parsed))

    def handshake(self, conn: int) -> OpeningHandshake:
        """Return the opening handshake of the connection *conn*. Raises ValueError."""
        from silly.net.websocket.opening import OpeningHandshake  # noqa: PLC0415 - see above

        fields = [("user-agent", "silly-bench")]
        if any(name.lower() == "user-agent" for name, _ in self.headers):
            fields = []
        origins = [text for name, text in self.headers if name.lower() == "origin"]
        made = OpeningHandshake(
            self._parsed,
            self.subprotocols,
            [*fields, *(pair for pair in self.headers if pair[0].lower() != "origin")],
            origins[-1] if origins else None,
            self.limits,
            compression=self.compresses,
        )
        request = with_places(made.request.decode("latin-1")).encode("latin-1")
        made.request = filled(request, conn, conn)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return the target as plain data, for the published result, without credentials."""
        return {
            "url": self.shown_url,
            "binary": self.is_binary,
            "headers": [name for name, _ in self.headers],
            "subprotocols": list(self.subprotocols),
            "compression": self.compresses,
        }
