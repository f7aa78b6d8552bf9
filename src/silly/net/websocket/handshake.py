"""The opening handshake (RFC 6455, section 4), without I/O: what each end sends and checks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from silly.net.http.errors import HTTPError
from silly.net.http.fields import TOKEN, Headers
from silly.net.http.request import Request
from silly.net.websocket import deflate
from silly.net.websocket.deflate import Deflate

__all__ = ["Agreement", "ClientHandshake", "answer", "checked_subprotocols", "tokens_of"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION: Final = "13"
_ADVICE: Final = {"upgrade": "websocket", "sec-websocket-version": _VERSION}


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the two ends agreed on."""

    subprotocol: str | None
    deflate: Deflate | None
    fields: tuple[tuple[str, str], ...] = ()
    """What a server answers."""


def tokens_of(values: Iterable[str]) -> list[str]:
    """Return the tokens of a header field that is a list, in lower case."""
    return [token for each in ",".join(values).split(",") if (token := each.strip().lower())]


def _accept_of(key: str) -> str:
    """Return the value of ``Sec-WebSocket-Accept`` (section 4.2.2)."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def checked_subprotocols(subprotocols: Sequence[str]) -> tuple[str, ...]:
    """Return *subprotocols*, checked: names, without repetitions."""
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a sequence of names, such as ('chat',), not a str")
    names = tuple(subprotocols)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"subprotocols must be of type str, not {type(name).__name__}")
        if TOKEN.fullmatch(name) is None:
            raise ValueError(f"not the name of a subprotocol: {name!r}")
    if len(set(names)) != len(names):
        raise ValueError("the same subprotocol is given twice")
    return names


# ------------------------------------------------------------------------------ server


def answer(
    request: Request,
    subprotocols: Sequence[str] = (),
    origins: Sequence[str | None] | None = None,
    *,
    compression: bool = True,
) -> Agreement:
    """Return what to agree on with the client that sent *request*.

    Raises:
        HTTPError: it is no valid request for a WebSocket (400, 405, 426), or from a page of
            another origin (403).
    """
    headers = request.headers
    if request.method != "GET":
        raise HTTPError(405, "a WebSocket is opened with GET", {"allow": "GET"})
    if "websocket" not in tokens_of(headers.get_all("upgrade")):
        raise HTTPError(426, "this is a WebSocket: Upgrade must be websocket", _ADVICE)
    if "upgrade" not in tokens_of(headers.get_all("connection")):
        raise HTTPError(400, "Connection must name upgrade")
    if request.version != "1.1":
        raise HTTPError(400, "a WebSocket is opened with HTTP/1.1")
    key = _only(headers, "Sec-WebSocket-Key")
    try:
        is_valid = len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        is_valid = False
    if not is_valid:
        raise HTTPError(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    if _only(headers, "Sec-WebSocket-Version") != _VERSION:
        raise HTTPError(426, "the version of the protocol must be 13", _ADVICE)
    _check_origin(headers, origins)
    if request.upgrade is None:
        raise HTTPError(400, "a request for a WebSocket has no body")
    fields = [("Sec-WebSocket-Accept", _accept_of(key))]
    chosen = _chosen(headers, subprotocols)
    if chosen is not None:
        fields.append(("Sec-WebSocket-Protocol", chosen))
    offers = headers.get_all("sec-websocket-extensions")
    accepted = deflate.accept(offers) if offers and compression else None
    if accepted is not None:
        fields.append(("Sec-WebSocket-Extensions", accepted[1]))
    return Agreement(chosen, None if accepted is None else accepted[0], tuple(fields))


def _only(headers: Headers, name: str) -> str:
    values = headers.get_all(name)
    if len(values) != 1:
        raise HTTPError(400, f"{'no' if not values else 'more than one'} {name}")
    return values[0].strip()


def _check_origin(headers: Headers, origins: Sequence[str | None] | None) -> None:
    """Refuse pages of other origins (section 10.2)."""
    if origins is None:
        return
    found = headers.get_all("origin")
    if len(found) > 1:
        raise HTTPError(400, "more than one Origin")
    origin = found[0].lower() if found else None
    if origin not in [each.lower() if each else None for each in origins]:
        raise HTTPError(403, "not from this origin")


def _chosen(headers: Headers, subprotocols: Sequence[str]) -> str | None:
    """Return the first of *subprotocols* that the client has asked for."""
    asked = headers.get_all("sec-websocket-protocol")
    if not asked or not subprotocols:
        return None
    names = {name.strip() for name in ",".join(asked).split(",")}
    return next((name for name in subprotocols if name in names), None)


# ------------------------------------------------------------------------------ client


class ClientHandshake:
    """What a client asks for, and whether a server has agreed."""

    __slots__ = ("_compression", "_key", "_subprotocols")

    def __init__(self, subprotocols: Sequence[str], *, compression: bool) -> None:
        self._key = base64.b64encode(os.urandom(16)).decode("ascii")
        self._subprotocols = subprotocols
        self._compression = compression

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The header fields of the request."""
        fields = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", _VERSION),
        ]
        if self._subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(self._subprotocols)))
        if self._compression:
            fields.append(("Sec-WebSocket-Extensions", deflate.OFFER))
        return fields

    def check(self, headers: Headers) -> Agreement:
        """Return what the server, which answered 101, agrees to (section 4.1).

        Raises:
            ValueError: it does not.
        """
        if tokens_of(headers.get_all("upgrade")) != ["websocket"]:
            raise ValueError("Upgrade is not websocket")
        if "upgrade" not in tokens_of(headers.get_all("connection")):
            raise ValueError("Connection does not name upgrade")
        if headers.get_all("sec-websocket-accept") != [_accept_of(self._key)]:
            raise ValueError("Sec-WebSocket-Accept does not match the key")
        chosen = headers.get_all("sec-websocket-protocol")
        if len(chosen) > 1 or (chosen and chosen[0] not in self._subprotocols):
            raise ValueError("a subprotocol that was not asked for")
        answers = headers.get_all("sec-websocket-extensions")
        if answers and not self._compression:
            raise ValueError("an extension that was not asked for")
        return Agreement(chosen[0] if chosen else None, deflate.agreed(answers))
