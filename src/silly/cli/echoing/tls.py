"""The certificate of ``silly echo``: from files, or thrown away afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from silly._values.extras import install_command
from silly.cli.command import Failure
from silly.cli.tls import server_of
from silly.net.tls.certificates import first_certificate
from silly.net.tls.config import Server
from silly.net.tls.x509 import fingerprint

__all__ = ["Certificate", "certificate"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of a server, which is in the file *cert*."""

    server: Server
    cert: str
    ca: str | None
    """The file with its authority, if both were made for this run."""

    def lines(self, addr: str) -> Iterator[str]:
        """Yield lines for people: what it is, and how to connect to *addr*."""
        yield f"Certificate {self._fingerprint} (SHA-256)"
        if self.ca is None:
            return
        to, of_openssl = addr, f"-connect {addr}"
        if addr.startswith("unix:"):
            to, of_openssl = f"{addr} --server-name localhost", f"-unix {addr[5:]}"
        yield "It is for this run only, and nobody trusts it. To check it nevertheless:"
        yield f"  silly connect {to} --tls --ca {self.ca}"
        yield "Or not to check it:"
        yield f"  silly connect {addr} --tls --insecure"
        yield f"  openssl s_client -quiet {of_openssl}"

    def described(self) -> dict[str, str | None]:
        """Return the same, for JSON."""
        return {"fingerprint": self._fingerprint, "cert": self.cert, "ca": self.ca}

    @property
    def _fingerprint(self) -> str:
        return fingerprint(first_certificate(self.cert))


@contextlib.contextmanager
def certificate(
    addrs: Sequence[str], cert: str | None, key: str | None, *, throw_away: bool
) -> Iterator[Certificate | None]:
    """Yield the certificate that the options ask for; None: there is to be no TLS.

    Raises:
        Failure: they contradict each other, or a file cannot be used.
    """
    if throw_away and (cert or key):
        raise Failure("--tls and --tls-cert: --tls makes a certificate of its own")
    if throw_away:
        try:
            from silly.cli.echoing import certificate as making  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            raise Failure(f"--tls needs trustme: {install_command('tls-dev')}") from None
        with making.throw_away(addrs) as (made, its_key, ca):
            yield Certificate(Server(made, its_key), made, ca)
    elif cert is None and key is None:
        yield None
    else:
        try:
            server = server_of(cert, key)
        except ValueError as error:
            raise Failure(str(error)) from None
        assert cert is not None
        yield Certificate(server, cert, None)
