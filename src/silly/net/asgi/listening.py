"""Listening for an application: its startup comes first, its shutdown last."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from silly._values.arguments import positive_seconds
from silly.net import http
from silly.net.asgi.handler import ApplicationHandler
from silly.net.asgi.lifespan import lifespan_of
from silly.net.asgi.types import Application
from silly.net.listener import Listener
from silly.net.networks import Networks, checked_networks

__all__ = ["LIFESPANS", "STARTUP_TIMEOUT", "TRUSTED_PROXIES", "listen"]

LIFESPANS: Final = ("auto", "on", "off")
STARTUP_TIMEOUT: Final = 60.0  # seconds
TRUSTED_PROXIES: Final = ("127.0.0.0/8", "::1/128", "unix")


async def listen(
    addr: str,
    app: Application,
    *,
    lifespan: str = "auto",
    root_path: str = "",
    trusted_proxies: tuple[str, ...] = TRUSTED_PROXIES,
    startup_timeout: float = STARTUP_TIMEOUT,
    **options: Any,
) -> Listener:
    """Start *app*, then listen on *addr*; return the listener.

    An application that several listeners serve is started once, by the first. When the last of
    them is closed, and what the application still does is done, it is told to end; closing
    the listener includes that. For both the application has the grace period, and for its end at
    least 5 seconds.

    Args:
        addr: as for `silly.net.tcp.listen`.
        app: an ASGI 3 application.
        lifespan: ``"on"``: it must know lifespans; ``"off"``: they are not used;
            ``"auto"``: if it knows them.
        root_path: the path below which a proxy has mounted the application, such as ``"/shop"``.
        trusted_proxies: the networks of proxies who are believed when they say who the
            client is, in ``X-Forwarded-For`` and ``X-Forwarded-Proto``, or in ``Forwarded``;
            ``"unix"`` stands for Unix sockets.
        startup_timeout: seconds in which the application must start.
        options: those of `silly.net.http.listen`.

    Raises:
        StartupError: the application did not start.
        OSError, TypeError, ValueError: as `silly.net.http.listen`.
    """
    if lifespan not in LIFESPANS:
        raise ValueError(f"lifespan must be 'auto', 'on' or 'off', not {lifespan!r}")
    if root_path and not root_path.startswith("/"):
        raise ValueError(f"root_path must begin with '/', not {root_path!r}")
    if not callable(app):
        raise TypeError(f"app must be an ASGI application, not {type(app).__name__}")
    trusted = Networks(checked_networks(trusted_proxies, "trusted_proxies", or_unix=True))
    positive_seconds(startup_timeout, "startup_timeout")
    life = None if lifespan == "off" else lifespan_of(app)
    if life is not None:
        await life.join(is_required=lifespan == "on", timeout=startup_timeout)
    state = {} if life is None else life.state
    root_path = root_path.rstrip("/")
    try:
        handler = ApplicationHandler(app, root_path=root_path, trusted=trusted, state=state)
        listener = http.listen(addr, handler, **options)
    except BaseException:
        if life is not None:
            await _although_cancelled(life.leave())
        raise

    async def end() -> None:
        handler.close()
        if life is not None:
            await life.leave()

    listener._extend(handler.running, end)
    return listener


async def _although_cancelled(leaving: Coroutine[Any, Any, None]) -> None:
    """Await *leaving* to its end although this task is cancelled meanwhile, as by a stop; once."""
    task = asyncio.ensure_future(leaving)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
