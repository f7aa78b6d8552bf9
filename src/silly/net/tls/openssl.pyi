import ssl
from collections.abc import Callable

from silly._engine.native.records import Records
from silly.net.tls.info import TLSInfo

REASON: str | None

def set_ciphersuites(context: ssl.SSLContext, names: str) -> None: ...

class Session(Records):
    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        is_server: bool,
        server_name: str | None = None,
        resumed_from: ssl.SSLSession | None = None,
        remember: Callable[[ssl.SSLSession], None] | None = None,
    ) -> None: ...
    def open(self, wire: bytes) -> bytes: ...
    def seal(self, plaintext: bytes) -> bytes: ...
    def pending(self) -> bytes: ...
    def finish(self) -> bytes: ...
    @property
    def info(self) -> TLSInfo | None: ...
    @property
    def unopened(self) -> int: ...
    @property
    def peer_chain(self) -> tuple[bytes, ...]: ...
