"""What the two ends of TLS are configured with: `Server` and `Client`.

Both make a `Session` for each connection. An `ssl.SSLContext` of your own can be used in
place of either.
"""

from __future__ import annotations

import copy
import os
import ssl
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from silly._logs.logger import Logger
from silly._loop import reloading
from silly.net.tls import kinds
from silly.net.tls.certificates import expires_at, state_of_files
from silly.net.tls.failures import explained, text_of

if TYPE_CHECKING:
    from silly.net.tls.kinds import Session

__all__ = [
    "Client",
    "Server",
    "as_client",
    "as_server",
    "default_server",
    "reload_all",
    "use_default",
]

logger = Logger("silly.net")

StrPath = str | os.PathLike[str]

CHECK_INTERVAL: Final = 60.0  # seconds between checks whether files have changed
MAX_SESSIONS: Final = 100  # that a client remembers

# For TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, section 4.2).
# Keys of 128 bits first, as there: they are safe, and cost less (for TLS 1.3 see `_lighter_first`).
_CIPHERS: Final = "ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20"
_LIGHTEST: Final = "TLS_AES_128_GCM_SHA256"  # that all must have (RFC 8446, section 9.1)
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_CERTS: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}

_servers: weakref.WeakSet[Server] = weakref.WeakSet()


class Server:
    """The certificates of a TLS server, and what it demands of its clients.

    ::

        tcp.listen(":8443", handler, tls=tls.Server("cert.pem", "key.pem"))

    The files are read now, and again on `reload`, on SIGHUP, and when they have changed
    (which is checked when a client connects, at most once a minute). If the new files are
    unusable, the previous ones stay in force, and this is logged. Connections that exist are
    not affected.

    TLS 1.2 and 1.3 with cipher suites that have forward secrecy are offered; clients may
    resume sessions (tickets, RFC 8446, section 2.2). Renegotiation and compression are off.

    Args:
        cert: the file with the certificate and the intermediate ones, in PEM format.
        key: the file with the private key; None if *cert* has it, too.
        sni: certificates for other host names that clients may ask for, as
            ``{"b.example": (cert, key)}``; ``"*.b.example"`` stands for each name one level
            below. Clients that ask for another name, or for none, get *cert*.
        alpn: application protocols to agree on (RFC 7301), such as ``("h2", "http/1.1")``,
            the preferred first.
        client_ca: a file (or a directory, as ``openssl rehash`` makes them) of the
            authorities whose clients' certificates are accepted. Revocation lists in it
            are checked.
        client_cert: whether clients must have such a certificate: ``"none"`` (they are not
            asked), ``"optional"`` or ``"required"``.
        min_version: ``"1.2"`` or ``"1.3"``.
        password: of the private keys, if they are encrypted.

    Raises:
        OSError: a file cannot be read; it is named.
        ssl.SSLError: a file is invalid, or the key does not belong to the certificate.
        TypeError, ValueError: an argument has the wrong type or value.
    """

    def __init__(
        self,
        cert: StrPath,
        key: StrPath | None = None,
        *,
        sni: Mapping[str, tuple[StrPath, StrPath | None]] | None = None,
        alpn: Sequence[str] = (),
        client_ca: StrPath | None = None,
        client_cert: str = "none",
        min_version: str = "1.2",
        password: str | bytes | None = None,
    ) -> None:
        self._default = (_path(cert, "cert"), _path_or_none(key, "key"))
        self._by_name = _names(sni)
        self._alpn = _protocols(alpn)
        self._client_ca = _path_or_none(client_ca, "client_ca")
        self._client_cert = _one_of(client_cert, "client_cert", _CLIENT_CERTS)
        if (self._client_cert is ssl.CERT_NONE) != (self._client_ca is None):
            raise ValueError(
                "client_ca and client_cert go together: client_ca='ca.pem', "
                "client_cert='required' (or 'optional')"
            )
        self._min_version = _one_of(min_version, "min_version", _VERSIONS)
        self._password = _password(password)
        self._files = self._all_files()
        self._seen = state_of_files(self._files)
        self._checked = time.monotonic()
        self._complained: object = None
        self._context, self._contexts = self._load()
        self._expires_at = self._first_expiry()
        _servers.add(self)
        reloading.provide(reload_all)

    @property
    def context(self) -> ssl.SSLContext:
        """The `ssl.SSLContext` of new connections; another one after the files are reloaded.

        Those whose clients ask for a name in *sni* have another one.
        """
        return self._context

    @property
    def expires_at(self) -> float | None:
        """When the first of the certificates expires, in seconds since the epoch; None: unknown."""
        return self._expires_at

    def reload(self) -> bool:
        """Read the files again, for connections that come from now on.

        Returns:
            Whether they are usable. If not, the previous ones stay in force, and why is
            logged, once for each state of the files.
        """
        seen = state_of_files(self._files)
        self._checked = time.monotonic()
        try:
            self._context, self._contexts = self._load()
        except (OSError, ValueError) as error:
            if self._complained != seen:
                self._complained = seen
                logger.error(  # noqa: TRY400 - the text says all
                    "TLS: %s; the previous certificate stays in use", error
                )
            return False
        finally:
            self._seen = seen
        self._expires_at = self._first_expiry()
        self._complained = None
        return True

    def new_session(self, name: str | None) -> Session:
        """Return this end of a new connection (a filter), whose client asks for *name*."""
        now = time.monotonic()
        if now - self._checked >= CHECK_INTERVAL:
            self._checked = now
            if state_of_files(self._files) != self._seen:
                self.reload()
        context = self._context
        if self._contexts and name is not None:
            context = self._context_for(name.lower())
        session: Session = kinds.kind(context, is_server=True, server_name=name, is_plain=True)
        return session

    def _context_for(self, name: str) -> ssl.SSLContext:
        contexts = self._contexts
        return contexts.get(name) or contexts.get(f"*.{name.partition('.')[2]}") or self._context

    def __repr__(self) -> str:
        return f"tls.Server({self._default[0]!r})"

    # ----------------------------------------------------------------------- internals

    def _all_files(self) -> tuple[str, ...]:
        pairs = (self._default, *self._by_name.values())
        files = [path for pair in pairs for path in pair if path is not None]
        return (*files, self._client_ca) if self._client_ca is not None else tuple(files)

    def _first_expiry(self) -> float | None:
        try:
            return min(expires_at(cert) for cert, _ in (self._default, *self._by_name.values()))
        except (OSError, ValueError):  # OpenSSL could read them
            return None

    def _load(self) -> tuple[ssl.SSLContext, dict[str, ssl.SSLContext]]:
        """Return contexts made of the files: the default one, and those by name."""
        context = self._context_of(self._default)
        return context, {name: self._context_of(pair) for name, pair in self._by_name.items()}

    def _context_of(self, pair: tuple[str, str | None]) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = self._min_version
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_ciphers(_CIPHERS)
        _lighter_first(context)
        context.num_tickets = 1  # not two, each of which is a tenth of a handshake's work
        if self._alpn:
            context.set_alpn_protocols(self._alpn)
        _load_pair(context, pair, self._password)
        if self._client_ca is not None:
            _load_authorities(context, self._client_ca)
            context.verify_mode = self._client_cert
        return context


class _GivenServer(Server):
    """A server's `ssl.SSLContext` that the program made."""

    def __init__(self, context: ssl.SSLContext) -> None:
        if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError("tls: the SSLContext is for clients: use ssl.PROTOCOL_TLS_SERVER")
        context.options |= ssl.OP_NO_RENEGOTIATION
        self._context = context

    @property
    def expires_at(self) -> float | None:
        return None

    def reload(self) -> bool:
        return True

    def new_session(self, name: str | None) -> Session:
        session: Session = kinds.kind(self._context, is_server=True, server_name=name)
        return session

    def __repr__(self) -> str:
        return f"tls.Server({self._context!r})"


class Client:
    """Whom a TLS client trusts, and how it identifies itself.

    ::

        conn = await tcp.connect("10.0.0.5:8443", tls=tls.Client(ca="ca.pem",
                                                                 server_name="db.internal"))

    Args:
        ca: a file (or a directory) of the authorities to trust; None for the system's.
            Revocation lists in it are checked.
        cert: the file with the client's own certificate, if the server asks for one.
        key: the file with its private key; None if *cert* has it, too.
        alpn: application protocols to offer (RFC 7301), the preferred first.
        verify: whether the server's certificate must be valid and have the right name. If
            not, anybody on the path can read and change everything.
        server_name: the name that the certificate must have, if that is not the host that
            is connected to.
        password: of the private key, if it is encrypted.

    Raises:
        OSError, ssl.SSLError, TypeError, ValueError: as for `Server`.
    """

    def __init__(
        self,
        *,
        ca: StrPath | None = None,
        cert: StrPath | None = None,
        key: StrPath | None = None,
        alpn: Sequence[str] = (),
        verify: bool = True,
        server_name: str | None = None,
        password: str | bytes | None = None,
    ) -> None:
        ca = _path_or_none(ca, "ca")
        password = _password(password)
        context = ssl.create_default_context() if ca is None else _context_trusting(ca)
        if not isinstance(verify, bool):
            raise TypeError(f"verify must be True or False, not {verify!r}")
        if not verify:
            if ca is not None:
                raise ValueError("ca and verify=False contradict each other")
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if protocols := _protocols(alpn):
            context.set_alpn_protocols(protocols)
        if cert is not None:
            _load_pair(context, (_path(cert, "cert"), _path_or_none(key, "key")), password)
        elif key is not None:
            raise ValueError("key needs cert, the file with the certificate")
        self._begin(context, _checked_name(server_name))

    def _begin(self, context: ssl.SSLContext, server_name: str | None) -> None:
        self._context = context
        self.server_name = server_name
        self._sessions: OrderedDict[str, ssl.SSLSession] = OrderedDict()

    @property
    def context(self) -> ssl.SSLContext:
        """The `ssl.SSLContext` of its connections."""
        return self._context

    def separate(self) -> Client:
        """Return a client with the same settings that remembers sessions of its own."""
        other = copy.copy(self)
        other._sessions = OrderedDict()
        return other

    def name_for(self, host: str | None) -> str | None:
        """Return the name that the certificate of *host* must have.

        Raises:
            ValueError: there is none, and it is to be checked.
        """
        name = self.server_name or (host.partition("%")[0].rstrip(".") if host else None)
        if name is None and self._context.check_hostname:
            raise ValueError(
                "tls: no name to check the certificate for: use tls.Client(server_name=...)"
            )
        return name

    def new_session(self, server_name: str | None, place: str) -> Session:
        """Return this end of a new connection (a filter).

        Args:
            server_name: the result of `name_for`.
            place: what is connected to; a session with the same server is continued.

        Raises:
            ValueError: *server_name* is not a host name.
        """
        key = f"{server_name} {place}"

        def remember(session: ssl.SSLSession) -> None:
            self._sessions[key] = session
            if len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)

        # Used once: then connections cannot be linked by it (RFC 8446, appendix C.4).
        earlier = self._sessions.pop(key, None)
        session: Session = kinds.kind(
            self._context,
            is_server=False,
            server_name=server_name,
            resumed_from=earlier,
            remember=remember,
        )
        return session


class _GivenClient(Client):
    """A client's `ssl.SSLContext` that the program made."""

    def __init__(self, context: ssl.SSLContext) -> None:
        if context.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise ValueError("tls: the SSLContext is for servers: use ssl.PROTOCOL_TLS_CLIENT")
        self._begin(context, None)


def reload_all() -> str:
    """Read the files of all servers of this process again; return which, for the log."""
    read: list[str] = []
    unusable: list[str] = []
    for server in list(_servers):
        (read if server.reload() else unusable).append(server._default[0])
    parts = [f"certificates {', '.join(sorted(read))}"] if read else []
    if unusable:
        parts.append(f"not {', '.join(sorted(unusable))}, which cannot be used")
    return ", ".join(parts)


# ------------------------------------------------------------------ what programs give

_default_server: Server | None = None


def use_default(server: Server | None) -> None:
    """Use *server* for all listeners whose ``tls`` is None, from now on."""
    global _default_server  # noqa: PLW0603 - of the process
    _default_server = server


def default_server() -> Server | None:
    """Return what `use_default` has set."""
    return _default_server


_of_context: weakref.WeakKeyDictionary[ssl.SSLContext, Any] = weakref.WeakKeyDictionary()
_default_client: Client | None = None


def as_server(value: object) -> Server:
    """Return the `Server` that *value*, an argument ``tls``, stands for."""
    if isinstance(value, Server):
        return value
    if isinstance(value, ssl.SSLContext):
        return _GivenServer(value)
    raise TypeError(f"tls must be a tls.Server or an ssl.SSLContext, not {_described(value)}")


def as_client(value: object) -> Client:
    """Return the `Client` that *value*, an argument ``tls``, stands for."""
    global _default_client  # noqa: PLW0603 - reading the system's authorities takes long
    if value is True:
        if _default_client is None:
            _default_client = Client()
        return _default_client
    if isinstance(value, Client):
        return value
    if isinstance(value, ssl.SSLContext):
        client: Client | None = _of_context.get(value)
        if client is None:
            client = _of_context[value] = _GivenClient(value)
        return client
    raise TypeError(f"tls must be True, a tls.Client or an ssl.SSLContext, not {_described(value)}")


def _described(value: object) -> str:
    kind = type(value).__name__
    return f"a tls.{kind}" if isinstance(value, Server | Client) else f"{kind} {value!r}"


# ------------------------------------------------------------------ checks of arguments


def _path(value: object, name: str) -> str:
    if not isinstance(value, str | os.PathLike) or not (path := os.fspath(value)):
        raise TypeError(f"{name} must be the path of a file, not {value!r}")
    if isinstance(path, bytes) or "-----BEGIN" in path:
        raise TypeError(f"{name} must be the path of a file, as a str, not its contents")
    return path


def _path_or_none(value: object, name: str) -> str | None:
    return None if value is None else _path(value, name)


def _one_of(value: str, name: str, values: Mapping[str, Any]) -> Any:
    if value not in values:
        *others, last = (repr(each) for each in values)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, not {value!r}")
    return values[value]


def _protocols(alpn: Sequence[str]) -> list[str]:
    if isinstance(alpn, str | bytes):
        raise TypeError(f"alpn must be a tuple of names such as ('http/1.1',), not {alpn!r}")
    for name in alpn:
        if not isinstance(name, str) or not 0 < len(name) < 256 or not name.isascii():
            raise ValueError(f"alpn: a protocol has 1 to 255 ASCII characters, not {name!r}")
    return list(alpn)


def _checked_name(server_name: str | None) -> str | None:
    if server_name is None:
        return None
    if not isinstance(server_name, str) or not server_name:
        raise TypeError(f"server_name must be a host name, not {server_name!r}")
    if _on_the_wire(server_name) is None:
        raise ValueError(f"server_name must be a host name, not {server_name!r}")
    return server_name


def _on_the_wire(name: str) -> str | None:
    """Return a host name as TLS sends it (RFC 5890); None if it is not one."""
    try:
        return name.lower().rstrip(".").encode("idna").decode() or None
    except UnicodeError:
        return None


def _password(value: str | bytes | None) -> str | bytes | None:
    if value is not None and not isinstance(value, str | bytes):
        raise TypeError(f"password must be a str or bytes, not {type(value).__name__}")
    return value


def _lighter_first(context: ssl.SSLContext) -> None:
    """Prefer the lightest cipher suite of TLS 1.3, if this machine allows it."""
    suites = [each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.3"]
    if _LIGHTEST in suites and kinds.set_ciphersuites is not None:
        suites.remove(_LIGHTEST)
        kinds.set_ciphersuites(context, ":".join((_LIGHTEST, *suites)))


def _names(
    sni: Mapping[str, tuple[StrPath, StrPath | None]] | None,
) -> dict[str, tuple[str, str | None]]:
    if sni is None:
        return {}
    if not isinstance(sni, Mapping):
        raise TypeError(f"sni must be a dict such as {{'b.example': (cert, key)}}, not {sni!r}")
    found = {}
    for name, pair in sni.items():
        if not isinstance(name, str) or not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"sni: expected 'b.example': (cert, key), not {name!r}: {pair!r}")
        wire = _on_the_wire(name.removeprefix("*."))
        if wire is None or "*" in wire:
            raise ValueError(f"sni: {name!r} is no host name")
        found[f"*.{wire}" if name.startswith("*.") else wire] = (
            _path(pair[0], f"sni[{name!r}][0]"),
            _path_or_none(pair[1], f"sni[{name!r}][1]"),
        )
    return found


# ----------------------------------------------------------------------- reading files


def _load_pair(
    context: ssl.SSLContext, pair: tuple[str, str | None], password: str | bytes | None
) -> None:
    cert, key = pair
    for path in pair:
        if path is not None:
            Path(path).read_bytes()  # unlike OpenSSL's, its errors name the file

    asked = False

    def ask() -> str | bytes:  # without it, OpenSSL would ask at the terminal
        nonlocal asked
        asked = True
        if password is None:
            raise ValueError(f"{key or cert}: the private key is encrypted: give password=")
        return password

    try:
        context.load_cert_chain(cert, key, ask)
    except ssl.SSLError as error:
        if asked and error.reason != "KEY_VALUES_MISMATCH":
            error.reason = "BAD_DECRYPT"  # which OpenSSL does not always say
        raise _named(error, cert if key is None else f"{cert}, {key}") from None


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    try:
        if Path(path).is_dir():
            context.load_verify_locations(capath=path)
            has_list = any(Path(path).glob("*.r[0-9]*"))
        else:
            Path(path).read_bytes()
            context.load_verify_locations(path)
            has_list = context.cert_store_stats()["crl"] > 0
    except ssl.SSLError as error:
        raise _named(error, path) from None
    if has_list:
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _context_trusting(ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(context, ca)
    return context


_WRONG_FILES: Final = {
    "KEY_VALUES_MISMATCH": "the private key does not belong to the certificate",
    "NO_START_LINE": "not in PEM format",
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is no certificate in it",
    "BAD_DECRYPT": "the password is wrong",
    "EE_KEY_TOO_SMALL": "the key is too short to be safe",
    "PEM lib": "no certificate, or no private key, in PEM format",  # there is no reason
}


def _named(error: ssl.SSLError, files: str) -> ssl.SSLError:
    """Return *error* with the files, and what is wrong with them, in its text."""
    plain = explained(error)
    text = _WRONG_FILES.get(error.reason or text_of(plain), text_of(plain))
    named = type(error)(error.errno, f"{files}: {text}")
    vars(named).update(vars(error))
    return named
