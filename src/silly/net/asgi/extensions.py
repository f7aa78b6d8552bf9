"""The extensions of ASGI that are offered (https://asgi.readthedocs.io/en/latest/extensions.html).

``http.response.early_hint``, ``http.response.pathsend`` and ``http.response.trailers`` are, and
``tls`` on encrypted connections. Informational responses and trailers are for HTTP/1.1 only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

from silly.net.asgi.types import Message
from silly.net.http import Request
from silly.net.http.disk import DiskFile

__all__ = ["Fields", "checked_fields", "early_hint", "extensions_of", "opened", "takes_trailers"]

Fields = list[tuple[bytes, bytes]]

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # which a FIFO would block without


def extensions_of(request: Request) -> dict[str, Any]:
    """Return the extensions that are offered for *request*."""
    offered: dict[str, Any] = {"http.response.pathsend": {}}
    if request.version != "1.0":
        offered["http.response.early_hint"] = {}
        offered["http.response.trailers"] = {}
    if request.conn.tls is not None:
        from silly.net.asgi.tls_extension import tls_scope  # noqa: PLC0415 - only if needed

        offered["tls"] = tls_scope(request.conn)
    return offered


def checked_fields(pairs: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Return header fields as bytes.

    Raises:
        ValueError: one has a line break, which a client could have put there.
    """
    fields = [(bytes(name), bytes(value)) for name, value in pairs]
    for name, value in fields:
        if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
            raise ValueError(f"a header field with a line break: {name!r}: {value!r}")
    return fields


def encoded(fields: Fields) -> bytes:
    """Return *fields* as they are sent, each with its line break."""
    return b"".join(b"%b: %b\r\n" % field for field in fields)


def early_hint(message: Message) -> bytes:
    """Return an informational response (RFC 8297) that names what the page will need."""
    fields = checked_fields((b"link", link) for link in message["links"])
    return b"HTTP/1.1 103 Early Hints\r\n" + encoded(fields) + b"\r\n"


def opened(message: Message) -> tuple[DiskFile, int]:
    """Return the file that ``http.response.pathsend`` names, and its size in bytes.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no file, or its path is not absolute.
    """
    path = message["path"]
    if not os.path.isabs(path):  # noqa: PTH117 - any kind of path
        raise ValueError(f"ASGI: pathsend needs an absolute path, not {path!r}")
    file = DiskFile(os.open(path, _FLAGS))
    is_regular, size, _ = file.status()
    if not is_regular:
        file.close()
        raise ValueError(f"ASGI: pathsend needs a file, which {path!r} is not")
    return file, size


def takes_trailers(request: Request) -> bool:
    """Return whether the client says that it does not discard trailers (RFC 9110, 10.1.4)."""
    codings = request.headers.get("te", "").lower().split(",")
    return request.version != "1.0" and "trailers" in map(str.strip, codings)
