"""The access log: one line for each connection, when it is over.

The lines are standard `logging` records of level ``INFO`` on the logger
``silly.access``. ``tcp.listen(..., access_log=True)`` turns them on for one
listener, ``silly --access-log FILE.py`` for all.

Each record also has the line's values as attributes (as with logging's
``extra``), for formatters that write JSON: `FIELDS` lists them. Text that the peer
chose (the name of a Unix socket) is escaped in both: see `silly.text`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from silly._logs.logger import Logger
from silly.net.conn import Conn
from silly.net.observer import Ending, ObservedListener
from silly.text import printable

__all__ = ["FIELDS", "AccessLog"]

logger = Logger("silly.access")

FIELDS: Final = MappingProxyType(
    {
        "peer": "the peer's address, such as `127.0.0.1:53124`",
        "local": "this end's address",
        "listener": "the address that the listener listens on",
        "tls": "the version of TLS, such as `TLSv1.3`, or `None`",
        "server_name": "the host name that the client asked for in the handshake, or `None`",
        "duration": "seconds from accepting to the end, including lingering",
        "bytes_in": "bytes received",
        "bytes_out": "bytes sent",
        "ending": "how it ended, such as `peer_finished`",
        "error": "the type of the exception that the handler raised, or `None` if it returned",
    }
)
"""The attributes of a record, and their meaning."""


def _encryption(fields: Mapping[str, Any]) -> str:
    if fields["tls"] is None:
        return ""
    name = fields["server_name"]
    return f" ({fields['tls']}, {name})" if name else f" ({fields['tls']})"


class AccessLog:
    """The observer that writes the access log; pass it to `silly.net.observer.register`."""

    __slots__ = ()

    def opened(self, conn: Conn, listener: ObservedListener) -> None:
        """Do nothing: the line is written at the end."""

    def closed(self, conn: Conn, listener: ObservedListener, ending: Ending) -> None:
        """Write the line."""
        if not logger.is_enabled_for(logging.INFO):
            return
        stats, tls = conn.stats, conn.tls
        fields: dict[str, Any] = {
            "peer": printable(conn.remote_addr),
            "local": printable(conn.local_addr),
            "listener": printable(listener.local_addr),
            "tls": tls and tls.version,
            "server_name": tls and tls.server_name and printable(tls.server_name),
            "duration": round(ending.seconds, 6),
            "bytes_in": stats.bytes_in,
            "bytes_out": stats.bytes_out,
            "ending": ending.how,
            "error": None if ending.error is None else printable(type(ending.error).__name__),
        }
        logger.info(
            "%s to %s%s: %s%s, %.3f s, %d bytes in, %d bytes out",
            fields["peer"],
            fields["local"],
            _encryption(fields),
            ending.how,
            f" {fields['error']}" if ending.error is not None else "",
            ending.seconds,
            stats.bytes_in,
            stats.bytes_out,
            extra=fields,
        )
