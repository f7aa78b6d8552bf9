r"""TLS: encrypted connections, and certificates that say who the other end is.

A connection with TLS is a `Conn` like any other::

    from silly.net import tcp, tls

    tcp.listen(":8443", handler, tls=tls.Server("cert.pem", "key.pem"))

    conn = await tcp.connect("example.com:443", tls=True)

    await conn.start_tls(tls.Client())  # STARTTLS, on a connection that exists

`Conn.tls` tells what was negotiated (`TLSInfo`). The end of the stream is authentic: if the
peer did not announce it (close_notify, RFC 8446, section 6.1), reading raises
`TruncatedStream`.

The defaults are those of RFC 9325: TLS 1.2 and 1.3, forward secrecy, authenticated encryption.
A client checks the certificate and its name.
"""

from __future__ import annotations

import ssl
from typing import Any

from silly.net import tcp
from silly.net.awaitables import Connecting
from silly.net.conn import Conn
from silly.net.course import Handler
from silly.net.listener import Listener
from silly.net.tls.config import Client, Server
from silly.net.tls.info import TLSInfo

__all__ = ["Client", "Server", "TLSInfo", "connect", "listen"]


def listen(
    addr: str, handler: Handler, backlog: int = 128, *, tls: Server | ssl.SSLContext, **options: Any
) -> Listener:
    """Call `silly.net.tcp.listen` with *tls*, which must be given."""
    return tcp.listen(addr, handler, backlog, tls=tls, **options)


def connect(
    addr: str, *, tls: Client | ssl.SSLContext | bool = True, **options: Any
) -> Connecting[Conn]:
    """Call `silly.net.tcp.connect` with *tls*, which is on."""
    return tcp.connect(addr, tls=tls, **options)
