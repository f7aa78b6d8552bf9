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

__all__ = ["Session", "available", "new_session", "use"]


def available() -> dict[str, Any]:
    """Return the kinds that work here, by name, the best first."""
    kinds: dict[str, Any] = {"ssl": PlainSession}
    if engine.NAME == "native":
        openssl = importlib.import_module("silly.net.tls.openssl")
        if openssl.REASON is None:
            return {"openssl": openssl.Session} | kinds
    return kinds


_kind: Any = next(iter(available().values()))


def use(kind: str) -> None:
    """Use the sessions that `available` has under the name *kind*, for tests."""
    global _kind  # noqa: PLW0603 - one per process
    _kind = available()[kind]


def new_session(*arguments: Any, **options: Any) -> Session:
    """Return a new session; the arguments are those of `silly.net.tls.session.Session`."""
    session: Session = _kind(*arguments, **options)
    return session
