"""Fuzzes the parsing of HTTP requests: ``make fuzz [SECONDS=1200]``.

The invariant: what silly accepts, h11 accepts, and understands alike, but for the reasons that
tests/net/http/differential.py names; and how the bytes are split makes no difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["silly.net.http", "h11"]):
    from tests.net.http.differential import check, check_splits

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


def likely(data: bytes) -> bytes:
    """Return bytes that come close to requests more often than *data* itself does."""
    kind, data = data[0] % 4 if data else 0, data[1:]
    if kind == 0:
        return data
    data = data.replace(b"\n", b"\r\n")
    if kind == 1:
        return b"GET " + data
    if kind == 2:
        return HEAD + data
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + data


def test_one(data: bytes) -> None:
    size = 1 + (data[0] if data else 0) // 4 % 32
    requests = likely(data)
    check(requests)
    check_splits(requests, list(range(size, len(requests), size)))


atheris.Setup(sys.argv, test_one)
atheris.Fuzz()
