"""Addresses as text: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``"unix:/run/x.sock"``.

One string says everything, the same for listening and for connecting, on the
command line and in a log line. Pure functions: nothing here resolves a name or
opens a socket.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

__all__ = ["Address", "TCPAddress", "UnixAddress", "format_sockaddr", "parse"]

FORMS = (
    "'127.0.0.1:9999', '[::1]:9999', 'localhost:9999', ':9999' (all interfaces) "
    "or 'unix:/run/x.sock'"
)
_UNIX_PATH_MAX = 107  # sun_path of unix(7), less its closing NUL


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A host (a name, an IPv4 or an IPv6 address; ``""`` is every interface) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix-domain socket (unix(7))."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TCPAddress | UnixAddress


def parse(text: str, name: str = "addr") -> Address:
    """Take the text of an address apart.

    Args:
        text: ``"HOST:PORT"``, ``"[IPV6]:PORT"``, ``":PORT"`` or ``"unix:PATH"``.
        name: what the caller calls this argument, for the error message.

    Returns:
        A `TCPAddress` (port 0 to 65535) or a `UnixAddress`.

    Raises:
        TypeError: *text* is not a `str`.
        ValueError: it has none of the accepted forms; the message shows them.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str such as {FORMS}, not {type(text).__name__}")
    if text.startswith("unix:"):
        return _parse_unix(text, name)
    host, colon, port = text.rpartition(":")
    if not text:
        raise _unusable(text, name, "it is empty")
    if not colon or text.endswith("]"):
        raise _unusable(text, name, "it has no port")
    if not (port.isascii() and port.isdigit()):
        raise _unusable(text, name, f"port {port!r} is not a number")
    if len(port) > 5 or int(port) > 65535:
        raise _unusable(text, name, f"port {port} is not in 0 to 65535")
    if host.startswith("[") or host.endswith("]"):
        host = _unbracket(text, host, name)
    elif ":" in host:
        raise _unusable(text, name, "an IPv6 address needs brackets, as in '[::1]:9999'")
    elif host:
        _check_host(text, host, name)
    return TCPAddress(host, int(port))


def _parse_unix(text: str, name: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path:
        raise _unusable(text, name, "the path is empty")
    if "\0" in path:
        raise _unusable(text, name, "the path has a NUL character")
    if len(path.encode("utf-8", "surrogateescape")) > _UNIX_PATH_MAX:
        raise _unusable(text, name, f"the path is longer than {_UNIX_PATH_MAX} bytes")
    return UnixAddress(path)


def _unbracket(text: str, host: str, name: str) -> str:
    inside = host[1:-1]
    try:
        if not (host.startswith("[") and host.endswith("]")):
            raise ValueError
        ipaddress.IPv6Address(inside)
    except ValueError:
        raise _unusable(text, name, f"{host!r} is not an IPv6 address in brackets") from None
    return inside


def _check_host(text: str, host: str, name: str) -> None:
    if any(char.isspace() or char in "/\\[]@?#%\0" for char in host):
        raise _unusable(text, name, f"{host!r} is not a host")
    try:
        host.encode("idna")
    except UnicodeError:
        raise _unusable(text, name, f"{host!r} is not a host name") from None


def _unusable(text: str, name: str, why: str) -> ValueError:
    return ValueError(f"{name} {text!r} is not an address: {why}; expected {FORMS}")


def format_sockaddr(sockaddr: Any) -> str:
    """Return what the `socket` module calls an address as text that `parse` takes.

    IPv4 ``(host, port)``, IPv6 ``(host, port, flow, scope)``, or a Unix path;
    the unnamed end of a Unix connection is ``"unix:"``; None is ``"unknown"``.
    """
    if isinstance(sockaddr, tuple):
        return str(TCPAddress(sockaddr[0], sockaddr[1]))
    if sockaddr is None:  # the peer was gone before it could be asked
        return "unknown"
    if isinstance(sockaddr, bytes):
        sockaddr = sockaddr.decode("utf-8", "surrogateescape")
    return f"unix:{sockaddr or ''}"
