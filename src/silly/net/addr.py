"""Addresses as text: ``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``"unix:/run/x.sock"``.

Listening, connecting, the command line and log lines all use the same text. Nothing
here resolves a host name or opens a socket.
"""

from __future__ import annotations

import ipaddress
import os
import re

from silly._values.addresses import TCPAddress, UnixAddress, format_sockaddr, host_of

__all__ = ["Address", "TCPAddress", "UnixAddress", "format_sockaddr", "host_of", "parse"]

FORMS = (
    "'127.0.0.1:9999', '[::1]:9999', 'localhost:9999', ':9999' (all interfaces) "
    "or 'unix:/run/x.sock'"
)
_UNIX_PATH_MAX = (
    107  # sun_path of unix(7), without the final NUL (or the first of an abstract name)
)


Address = TCPAddress | UnixAddress


def parse(text: str, name: str = "addr") -> Address:
    """Parse the text of an address.

    Args:
        text: ``"HOST:PORT"``, ``"[IPV6]:PORT"`` (``"[IPV6%INTERFACE]:PORT"`` for a
            link-local address), ``":PORT"``, ``"unix:PATH"`` or ``"unix:@NAME"``
            (an abstract name: Linux).
        name: the name of the argument in the error message.

    Returns:
        A `TCPAddress` (port 0 to 65535) or a `UnixAddress`.

    Raises:
        TypeError: *text* is not a `str`.
        ValueError: *text* has none of the accepted forms; the message lists them.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str such as {FORMS}, not {type(text).__name__}")
    if text.startswith("unix:"):
        return _parse_unix(text, name)
    if "://" in text:
        raise _unusable(text, name, f"it is a URL, and its host and port are {_in_url(text)!r}")
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
    is_abstract = path.startswith("@")
    if "\0" in path and not is_abstract:
        raise _unusable(text, name, "the path has a NUL character")
    try:
        length = len(os.fsencode(path)) - is_abstract
    except UnicodeEncodeError:
        raise _unusable(text, name, "the path has characters that no file name can have") from None
    if length > _UNIX_PATH_MAX:
        raise _unusable(text, name, f"the path is longer than {_UNIX_PATH_MAX} bytes")
    if is_abstract:
        return UnixAddress("\0" + path[1:])
    return UnixAddress(path[2:] if path.startswith("./@") else path)


def _unbracket(text: str, host: str, name: str) -> str:
    inside = host[1:-1]
    try:
        if not (host.startswith("[") and host.endswith("]")):
            raise ValueError
        ipaddress.IPv6Address(inside)
    except ValueError:
        raise _unusable(text, name, f"{host!r} is not an IPv6 address in brackets") from None
    return inside


def _in_url(text: str) -> str:
    scheme, _, rest = text.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2] or "localhost"
    if re.search(r":\d+$", authority):
        return authority
    return f"{authority}:{443 if scheme in {'https', 'wss'} else 80}"


def _check_host(text: str, host: str, name: str) -> None:
    if any(char.isspace() or char in "/\\[]@?#%\0" for char in host):
        raise _unusable(text, name, f"{host!r} is not a host")
    try:
        host.encode("idna")
    except UnicodeError:
        raise _unusable(text, name, f"{host!r} is not a host name") from None


def _unusable(text: str, name: str, why: str) -> ValueError:
    return ValueError(f"{name} {text!r} is not an address: {why}; expected {FORMS}")
