"""Fuzzes the parsing of WebSocket frames: ``make fuzz [SECONDS=1200]``.

The invariant: the native parser and its Python twin understand the same bytes alike, in whatever
pieces they come, never return more than the limits allow, and raise nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["silly.net.websocket"]):
    from tests.net.websocket.frames import understand

    from silly.net.websocket.kinds import available

KINDS = list(available().values())
LIMIT = 200  # bytes of a message


def test_one(data: bytes) -> None:
    options, data = data[0] if data else 0, data[1:]
    settings: Any = {
        "is_masked": bool(options & 1),
        "is_deflated": bool(options & 2),
        "keeps_window": bool(options & 4),
        "max_message": LIMIT,
        "max_fragments": 5,
    }
    size = 1 + (options >> 3)
    cuts = range(size, len(data), size)
    results = [understand(kind, data, each, **settings) for kind in KINDS for each in ((), cuts)]
    if settings["is_deflated"]:  # zlib finds an error later, if it gets more at once
        results = [each._replace(failure=each.failure and (0, "", None)) for each in results]
    assert all(each == results[0] for each in results), results
    for message in results[0].messages:
        size = len(message) if isinstance(message, bytes) else len(message.encode())
        assert size <= LIMIT


atheris.Setup(sys.argv, test_one)
atheris.Fuzz()
