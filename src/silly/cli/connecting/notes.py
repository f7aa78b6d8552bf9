"""What ``silly connect`` says on standard error."""

from __future__ import annotations

import sys

from silly.cli.tls import Watched, described, described_chain
from silly.net.tcp import Conn
from silly.text import printable

__all__ = ["say", "say_refused", "say_tls"]


def say(text: str) -> None:
    """Print a line."""
    print(printable(text), file=sys.stderr, flush=True)


def say_tls(conn: Conn, client: Watched) -> None:
    """Show what TLS has negotiated, and the certificates of the server."""
    assert conn.tls is not None
    assert client.session is not None
    for line in described(conn.tls, client.session.peer_chain, verified=client.verifies):
        say(line)


def say_refused(client: Watched | None) -> None:
    """Show the certificates that were not accepted."""
    if client is not None and client.session is not None:
        for line in described_chain(client.session.peer_chain, verified=False):
            say(line)
