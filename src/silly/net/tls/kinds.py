"""The kind of `Session` that connections get: the faster one, where it works."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from silly._engine import engine
from silly.net.tls.session import Session as PlainSession

if TYPE_CHECKING:
    from silly.net.tls.openssl import Session as OpenSSLSession

    Session = PlainSession | OpenSSLSession
else:
    Session = PlainSession

__all__ = ["Session", "available", "kind"]


def available() -> dict[str, Any]:
    """Return the kinds that work here, by name, the best first."""
    kinds: dict[str, Any] = {"ssl": PlainSession}
    if engine.NAME == "native":
        openssl = importlib.import_module("silly.net.tls.openssl")
        if openssl.REASON is None:
            return {"openssl": openssl.Session} | kinds
    return kinds


kind: Any = next(iter(available().values()))  # the class; see `silly.net.tls.session.Session`
