"""The options of TLS: what they are, and the `tls.Server` or `tls.Client` that they make.

`Watched` remembers the handshake, so that a verb can show it.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from silly._values.kinds import FILE, Kind
from silly.cli.options import Option, grouped
from silly.net.addr import Address, TCPAddress
from silly.net.tls.config import Client, Server
from silly.net.tls.info import TLSInfo
from silly.net.tls.kinds import Session
from silly.net.tls.x509 import Certificate
from silly.text import printable

__all__ = [
    "CLIENT",
    "Watched",
    "check_name",
    "client_of",
    "described",
    "described_chain",
    "server_of",
]

_NAME: Final = Kind("NAME", str)

CLIENT: Final = grouped(
    "TLS",
    Option("--tls", "Encrypt the connection, and check the server's certificate"),
    Option("--insecure", "Accept any certificate: anybody on the way can read and change all"),
    Option("--ca", "Trust the authorities in FILE, in place of the system's", FILE),
    Option("--server-name", "The name that the certificate must have, and that is asked for (SNI)",
           _NAME, default_text="the host of ADDR"),
    Option("--alpn", "Offer this application protocol (ALPN), such as http/1.1. Repeat it for "
           "several", _NAME, is_repeatable=True),
    Option("--cert", "The client's own certificate, in PEM format", FILE),
    Option("--key", "Its private key, if it is not in the same file", FILE),
)  # fmt: skip
"""The options of a client. They need ``--tls``."""


def server_of(cert: str | None, key: str | None) -> Server:
    """Return the server whose certificate ``--tls-cert`` and ``--tls-key`` give.

    Raises:
        ValueError: a file cannot be used; the message names it.
    """
    if cert is None:
        raise ValueError("--tls-key needs --tls-cert, the file with the certificate")
    with _readable():
        return Server(cert, key)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Turn errors about files into ValueErrors that say all."""
    try:
        yield
    except ssl.SSLError as error:
        raise ValueError(error.strerror or str(error)) from None
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from None


class Watched(Client):
    """A client that remembers its last session."""

    session: Session | None = None

    @property
    def verifies(self) -> bool:
        """Whether it checks certificates."""
        return self.context.verify_mode is not ssl.CERT_NONE

    def new_session(self, server_name: str | None, place: str) -> Session:
        """See `Client.new_session`."""
        self.session = super().new_session(server_name, place)
        return self.session


def client_of(options: Mapping[str, Any]) -> Watched | None:
    """Return the client that the parsed *options* describe; None without ``--tls``.

    Raises:
        ValueError: they contradict each other, or a file cannot be used; the message names it.
    """
    if not options["tls"]:
        for each in CLIENT[1:]:
            if options[each.name]:
                raise ValueError(f"{each.flag} needs --tls")
        return None
    if options["insecure"] and options["ca"]:
        raise ValueError("--insecure and --ca: the certificate is either checked or not")
    if options["key"] and not options["cert"]:
        raise ValueError("--key needs --cert, the file with the certificate")
    with _readable():
        return Watched(
            ca=options["ca"],
            cert=options["cert"],
            key=options["key"],
            alpn=options["alpn"],
            verify=not options["insecure"],
            server_name=options["server_name"],
        )


def check_name(client: Client | None, address: Address) -> None:
    """Raise ValueError if *client* has no name to check the certificate of *address* for."""
    if client is None or isinstance(address, TCPAddress) or client.server_name:
        return
    if client.context.check_hostname:
        raise ValueError("--tls and a Unix socket: --server-name must say which name to check")


# ------------------------------------------------------------------- what was negotiated


def described(info: TLSInfo, chain: tuple[bytes, ...], *, verified: bool) -> Iterator[str]:
    """Yield what was negotiated and the certificates of the peer, as lines for people."""
    protocol = f", ALPN {printable(info.alpn)}" if info.alpn else ""
    continued = ", an earlier session continued" if info.resumed else ""
    yield f"{info.version}, {info.cipher}{protocol}{continued}"
    yield from described_chain(chain, verified=verified)


def described_chain(chain: tuple[bytes, ...], *, verified: bool) -> Iterator[str]:
    """Yield the certificates of the peer, as lines for people."""
    for number, der in enumerate(chain):
        try:
            one = Certificate.parse(der)
        except ValueError as error:
            yield f"certificate: {error}"
            continue
        if number == 0:
            yield f"certificate {'(verified)' if verified else '(NOT verified)'}"
        else:
            yield "next certificate of its chain"
        yield f"  subject      {printable(one.subject) or '(none)'}"
        if one.names:
            yield f"  names        {printable(', '.join(one.names))}"
        yield f"  issuer       {printable(one.issuer) or '(none)'}"
        yield f"  valid        {_date(one.not_before)} to {_date(one.not_after)}"
        yield f"  fingerprint  {one.fingerprint}"


def _date(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError):
        return f"{seconds:g} s"
