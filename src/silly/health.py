"""Is the program alive, is it ready? For load balancers, containers and monitoring.

Open the page with ``silly --health 127.0.0.1:9101 app.py``, or with `serve` in an ordinary
program. The server of `silly.metrics` has it, too.

============  =========================================================================
``/healthz``  200: the event loop runs. If it is blocked, there is no answer in time.
``/readyz``   200 while new connections are welcome; 503 until the program listens, and
              from the moment at which it begins to drain
============  =========================================================================

The body is a line of text with the state. With worker processes, the supervisor answers,
and is ready while at least one worker is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from silly._loop.live import Live
from silly.net import tcp
from silly.net.plain_http import Request, read_request, response

__all__ = ["DRAINING", "PATHS", "READY", "STARTING", "Health", "answer", "current", "serve"]

STARTING: Final = "starting"
READY: Final = "ready"
DRAINING: Final = "draining"

PATHS: Final = ("/healthz", "/readyz")


class Health(NamedTuple):
    """The state of a program."""

    state: str
    """``starting``, ``ready`` or ``draining``."""
    detail: str = ""
    """More of it, for people, such as ``"3 of 4 workers"``."""

    @property
    def is_ready(self) -> bool:
        """True if new connections are welcome."""
        return self.state == READY

    def __str__(self) -> str:
        return f"{self.state}: {self.detail}" if self.detail else self.state


Source = Callable[[], Health]


def current() -> Health:
    """Return the state of the program in the running event loop.

    It is ready when it listens, has a UDP socket bound, or when its main coroutine has
    returned; it drains when it is stopping, or has closed all its listeners.

    Raises:
        RuntimeError: no event loop is running.
    """
    live = Live.of(asyncio.get_running_loop())
    if live.is_stopping:
        return Health(DRAINING)
    listeners = cast("set[tcp.Listener]", live.listeners)
    if any(each.is_accepting for each in listeners) or any(each.is_bound for each in live.sockets):
        return Health(READY)
    if listeners:
        return Health(DRAINING)
    return Health(READY if live.is_ready else STARTING)


def answer(request: Request, source: Source | None = None) -> bytes:
    """Return the response, as it is sent, to a request for one of `PATHS`."""
    head_only = request.method == "HEAD"
    if request.method not in {"GET", "HEAD"}:
        return response("405 Method Not Allowed", b"only GET\n", extra="Allow: GET, HEAD\r\n")
    if request.path not in PATHS:
        return response("404 Not Found", b"see /healthz and /readyz\n", head_only=head_only)
    health = (current if source is None else source)()
    is_well = health.is_ready or request.path == "/healthz"
    status = "200 OK" if is_well else "503 Service Unavailable"
    extra = "Cache-Control: no-store\r\n"
    return response(status, f"{health}\n".encode(), extra=extra, head_only=head_only)


def serve(addr: str, source: Source | None = None) -> tcp.Listener:
    """Answer ``http://ADDR/healthz`` and ``http://ADDR/readyz``.

    This listener does not keep the program running. It closes last, so that a drain can
    be watched. Anyone who can connect can ask.

    Args:
        addr: as for `silly.net.tcp.listen`, such as ``"127.0.0.1:9101"``.
        source: a function that returns the `Health`; `current` if None.

    Returns:
        The listener; close it to stop.

    Raises:
        OSError, TypeError, ValueError, RuntimeError: as for `silly.net.tcp.listen`.
    """

    async def converse(conn: tcp.Conn) -> None:
        request = await read_request(conn)
        if request is not None:
            conn.write(answer(request, source))

    listener = tcp.listen(addr, converse, proxy_protocol=(), tls=False)
    Live.of(asyncio.get_running_loop()).add_auxiliary(listener)
    return listener
