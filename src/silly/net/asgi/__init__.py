"""ASGI 3 applications on silly's HTTP server: Starlette, FastAPI, Django and others.

::

    from silly.net import asgi

    listener = await asgi.listen("127.0.0.1:8000", app)

``silly serve MODULE:APP`` does that from the command line, with everything that
``silly FILE.py`` has: workers, reload, limits, metrics, TLS.

HTTP, WebSocket and lifespan are served.
"""

from __future__ import annotations

from silly.net.asgi.lifespan import StartupError
from silly.net.asgi.listening import listen
from silly.net.asgi.types import Application

__all__ = ["Application", "StartupError", "listen"]
