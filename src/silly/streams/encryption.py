"""TLS of streams: handshakes with an `ssl.SSLContext`, and what `get_extra_info` tells of them."""

from __future__ import annotations

import ssl
from typing import Any, Final

from silly.net.conn import StreamConn
from silly.net.tls.config import as_client, as_server
from silly.net.tls.handshake import start

__all__ = ["HANDSHAKE_TIMEOUT", "Negotiated", "encrypt"]

HANDSHAKE_TIMEOUT: Final = 60.0  # seconds, as asyncio's


async def encrypt(
    conn: StreamConn,
    context: ssl.SSLContext,
    server_hostname: str | None,
    timeout: float | None,
    *,
    is_server: bool,
) -> None:
    """Do a handshake on *conn* with *context*.

    Raises:
        ssl.SSLError, OSError: it failed, and the connection with it.
        ValueError: *context* checks the name, and *server_hostname* is missing.
    """
    timeout = HANDSHAKE_TIMEOUT if timeout is None else timeout
    if is_server:
        await start(conn, as_server(context), None, timeout)
        return
    if not server_hostname and context.check_hostname:
        raise ValueError("check_hostname requires server_hostname")
    await start(conn, as_client(context), server_hostname or None, timeout)


class Negotiated:
    """What programs ask an `ssl.SSLObject` for: ``get_extra_info("ssl_object")``."""

    def __init__(self, conn: StreamConn, context: ssl.SSLContext) -> None:
        info = conn.tls
        assert info is not None
        self._info = info
        self.context = context
        self.server_hostname = info.server_name
        self.session_reused = info.resumed

    def version(self) -> str:
        """Return the version of TLS."""
        return self._info.version

    def cipher(self) -> tuple[str, str, int | None]:
        """Return the name of the cipher suite, the version, and None for the secret bits."""
        return self._info.cipher, self._info.version, None

    def selected_alpn_protocol(self) -> str | None:
        """Return what was negotiated with ALPN."""
        return self._info.alpn

    def compression(self) -> None:
        """Return None: there is none."""

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the certificate of the peer as DER bytes, or None if it sent none.

        Raises:
            NotImplementedError: not *binary_form*.
        """
        if not binary_form and self._info.peer_certificate is not None:
            raise NotImplementedError("silly.streams has certificates as binary_form=True only")
        return self._info.peer_certificate
