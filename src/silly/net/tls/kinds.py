"""The kind of `Session` that connections get: the faster one, where it works."""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from silly._engine import engine
from silly.net.tls.session import Session as PlainSession

if TYPE_CHECKING:
    from silly.net.tls.openssl import Session as OpenSSLSession

    Session = PlainSession | OpenSSLSession
else:
    Session = PlainSession

__all__ = ["Session", "available", "kind", "set_ciphersuites"]


def available() -> dict[str, Any]:
    """Return the kinds that work here, by name, the best first."""
    kinds: dict[str, Any] = {"ssl": PlainSession}
    return kinds if (openssl := _openssl()) is None else {"openssl": openssl.Session} | kinds


def _openssl() -> Any:
    """Return the module that uses OpenSSL directly, if that works here."""
    if engine.NAME == "native":
        openssl = importlib.import_module("silly.net.tls.openssl")
        if openssl.REASON is None:
            return openssl
    return None


def _setter() -> Callable[[ssl.SSLContext, str], None] | None:
    setter = getattr(ssl.SSLContext, "set_ciphersuites", None)  # from Python 3.15 on
    return setter or getattr(_openssl(), "set_ciphersuites", None)


kind: Any = next(iter(available().values()))  # the class; see `silly.net.tls.session.Session`
# Sets the cipher suites of TLS 1.3, as SSL_CTX_set_ciphersuites(3); None: that is not possible.
set_ciphersuites: Final = _setter()
