"""TLS in a run: the settings, and which connections continue an earlier session."""

from __future__ import annotations

from dataclasses import dataclass

from silly.net.tls.config import Client

__all__ = ["Encryption", "Sessions"]


@dataclass(frozen=True, slots=True)
class Encryption:
    """How connections are encrypted; see `silly.net.tls.Client`."""

    insecure: bool = False
    ca: str | None = None
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    cert: str | None = None
    key: str | None = None
    resume: float = 0.5
    """The share of connections that continue an earlier session, if the server lets them."""

    def client(self) -> Client:
        """Return a client with these settings. Raises OSError, ssl.SSLError, ValueError."""
        return Client(
            ca=self.ca,
            cert=self.cert,
            key=self.key,
            alpn=self.alpn,
            verify=not self.insecure,
            server_name=self.server_name,
        )


class Sessions:
    """The sessions of one lane, whose connections follow each other."""

    __slots__ = ("_client", "_due", "_share")

    def __init__(self, client: Client, share: float) -> None:
        self._client = client.separate()
        self._share = share
        self._due = 1.0  # the first connection gets a session for those that continue one

    def next(self) -> Client:
        """Return the client for the next connection: one that has a session, or has none."""
        if self._due < 1:
            self._due += self._share
            return self._client.separate()
        self._due += self._share - 1
        return self._client
