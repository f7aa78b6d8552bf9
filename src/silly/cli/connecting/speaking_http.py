"""How to speak HTTP by hand, for people who have connected to a server that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from silly.net import addr as addresses

__all__ = ["Hint"]

_PORTS: Final = frozenset((80, 443, 8080))
_ENCRYPTED: Final = 443


class Hint:
    """Says it once: at the start if the port is one of HTTP, else when the server answers in it."""

    def __init__(self, addr: str, *, has_crlf: bool, has_tls: bool, is_wanted: bool = True) -> None:
        address = addresses.parse(addr)
        self._host, self._port = "localhost", 0
        if isinstance(address, addresses.TCPAddress):
            self._host, self._port = address.host or self._host, address.port
        self._has_crlf = has_crlf
        self._has_tls = has_tls or self._port != _ENCRYPTED
        self._is_said = not is_wanted

    def begin(self, say: Callable[[str], None]) -> None:
        """Say it, if the port is one where HTTP is spoken as a rule."""
        if self._port in _PORTS:
            self._say(say)

    def notice(self, data: bytes, say: Callable[[str], None]) -> None:
        """Say it, if *data*, the first bytes that came, begin a reply of HTTP."""
        if data.startswith(b"HTTP/1."):
            self._say(say)

    def _say(self, say: Callable[[str], None]) -> None:
        if not self._is_said:
            self._is_said = True
            for line in self._lines():
                say(line)

    def _lines(self) -> Iterator[str]:
        yield "To speak HTTP by hand, type these lines, and an empty one:"
        yield "  GET / HTTP/1.1"
        yield f"  Host: {f'[{self._host}]' if ':' in self._host else self._host}"
        yield "  Connection: close"
        wrong = {
            "--crlf": "" if self._has_crlf else "its lines end with CR LF",
            "--tls": "" if self._has_tls else "this port is one of TLS",
        }
        flags = " ".join(flag for flag, why in wrong.items() if why)
        if flags:
            why = ", and ".join(filter(None, wrong.values()))
            yield f"But first leave, and connect again with {flags}: {why}"
