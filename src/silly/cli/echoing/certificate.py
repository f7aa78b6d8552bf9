"""A throw-away certificate for tests, of an authority made for it. Needs trustme."""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import trustme

from silly.net import addr as addresses

__all__ = ["throw_away"]

_TCP: Final = addresses.TCPAddress
_WHO: Final = "silly echo"
_WHAT: Final = "throw-away"
_NAME: Final = re.compile(r"[A-Za-z0-9.:-]+")  # others cannot be in a certificate


@contextlib.contextmanager
def throw_away(addrs: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Make a certificate for servers at *addrs*, and remove it after the block.

    Returns:
        The files of the certificate, of its key and of the authority.
    """
    hosts = [each.host for each in map(addresses.parse, addrs) if isinstance(each, _TCP)]
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    names += [host.partition("%")[0] for host in hosts if host]
    names = [each for each in dict.fromkeys(names) if _NAME.fullmatch(each)]
    authority = trustme.CA(organization_name=_WHO, organization_unit_name=_WHAT)
    issued = authority.issue_cert(*names, organization_name=_WHO, organization_unit_name=_WHAT)
    with tempfile.TemporaryDirectory(prefix="silly-echo-") as directory:
        cert, key, ca = (str(Path(directory, name)) for name in ("cert.pem", "key.pem", "ca.pem"))
        Path(cert).write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        authority.cert_pem.write_to_path(ca)
        yield cert, key, ca
