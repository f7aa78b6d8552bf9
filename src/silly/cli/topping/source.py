"""The answers of an admin socket, as ``silly top`` asks for them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final, NamedTuple

from silly.net import tcp

__all__ = ["Answers", "Source"]

_COMMANDS: Final = ("processes", "stats", "health")
_LONGEST: Final = 64 * 1024 * 1024  # bytes of an answer


class Answers(NamedTuple):
    """What a program said of itself."""

    at: float
    """Seconds of the clock `time.monotonic`."""
    processes: list[dict[str, Any]]
    stats: dict[str, Any]
    health: dict[str, Any]


class Source:
    """A connection to an admin socket."""

    def __init__(self, conn: tcp.Conn) -> None:
        self._conn = conn
        self._is_asked = False
        self._received: list[Any] = []

    async def ask(self, timeout: float) -> Answers | None:
        """Return the numbers of now; None if they do not come in *timeout* seconds.

        Then a later call returns them.

        Raises:
            EOFError, OSError: the program has ended.
            ValueError: this is no admin socket of silly, or an older one.
        """
        if not self._is_asked:
            self._is_asked = True
            self._conn.write("".join(f"{each}\n" for each in _COMMANDS).encode())
        deadline = asyncio.get_running_loop().time() + timeout
        while len(self._received) < len(_COMMANDS):
            left = deadline - asyncio.get_running_loop().time()
            try:
                line = await self._conn.read(b"\n", limit=_LONGEST, timeout=max(0.001, left))
            except TimeoutError:
                return None
            self._received.append(_parse(line))
        answers = Answers(time.monotonic(), *self._received)
        self._received = []
        self._is_asked = False
        return answers


def _parse(line: bytes) -> Any:
    try:
        answer = json.loads(line)
    except ValueError:
        raise ValueError("it does not answer as an admin socket does") from None
    if isinstance(answer, dict) and set(answer) == {"error"}:
        raise ValueError(str(answer["error"]))
    return answer
