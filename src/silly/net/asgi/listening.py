"""Listening for an application: its startup comes first, its shutdown last."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from silly import task
from silly.net import http
from silly.net.asgi.handler import ApplicationHandler
from silly.net.asgi.lifespan import Lifespan
from silly.net.asgi.types import Application
from silly.net.listener import Listener
from silly.net.networks import Networks, checked_networks

__all__ = ["listen"]

LIFESPANS = ("auto", "on", "off")


async def listen(
    addr: str,
    app: Application,
    *,
    lifespan: str = "auto",
    root_path: str = "",
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128"),
    **options: Any,
) -> Listener:
    """Start *app*, then listen on *addr*; return the listener.

    When it is closed, and what the application still does is done, the application is told to
    end. The program waits for that.

    Args:
        addr: as for `silly.net.tcp.listen`.
        app: an ASGI 3 application.
        lifespan: ``"on"``: it must know lifespans; ``"off"``: they are not used;
            ``"auto"``: if it knows them.
        root_path: the path below which a proxy has mounted the application.
        trusted_proxies: the networks of proxies whose ``X-Forwarded-For`` and
            ``X-Forwarded-Proto`` are believed.
        options: those of `silly.net.http.listen`.

    Raises:
        RuntimeError: the application did not start.
        OSError, TypeError, ValueError: as `silly.net.http.listen`.
    """
    if lifespan not in LIFESPANS:
        raise ValueError(f"lifespan must be 'auto', 'on' or 'off', not {lifespan!r}")
    if not callable(app):
        raise TypeError(f"app must be an ASGI application, not {type(app).__name__}")
    trusted = Networks(checked_networks(trusted_proxies, "trusted_proxies", or_unix=True))
    life = Lifespan(app)
    if lifespan != "off":
        await life.startup(is_required=lifespan == "on")
    handler = ApplicationHandler(app, root_path=root_path, trusted=trusted, state=life.state)
    try:
        listener = http.listen(addr, handler, **options)
    except BaseException:
        await life.shutdown()
        raise
    task.fork(_end_after, listener, handler, life)
    return listener


async def _end_after(listener: Listener, handler: ApplicationHandler, life: Lifespan) -> None:
    try:
        await listener.wait_closed()
        await handler.wait_finished()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await life.shutdown()
