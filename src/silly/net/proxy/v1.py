"""Version 1: a line of text (section 2.1 of the specification)."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from silly.net.proxy.endpoints import Endpoints, HeaderError, inet, inet6, is_inet6, packed

__all__ = ["END", "MAX_LENGTH", "PREFIX", "encode", "parse"]

PREFIX: Final = b"PROXY "
END: Final = b"\r\n"
MAX_LENGTH: Final = 107  # bytes, with `PREFIX` and `END`

_UNKNOWN: Final = b"UNKNOWN"
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


def parse(line: bytes) -> Endpoints | None:
    """Return the addresses in *line*; None if it says that they are unknown.

    *line* is complete, and begins with `PREFIX`.

    Raises:
        HeaderError: it does not match the specification exactly.
    """
    if len(line) > MAX_LENGTH:
        raise HeaderError(f"the line is longer than {MAX_LENGTH} bytes")
    if not line.endswith(END) or line.count(b"\r") + line.count(b"\n") != len(END):
        raise HeaderError("the line does not end with CR LF")
    content = line[len(PREFIX) : -len(END)]
    if content.partition(b" ")[0] == _UNKNOWN:
        return None  # whatever follows is to be ignored
    try:
        protocol, *fields = content.decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise HeaderError("the line is not ASCII text") from None
    if protocol not in {"TCP4", "TCP6"}:
        raise HeaderError(f"{protocol!r} is not TCP4, TCP6 or UNKNOWN")
    if len(fields) != 4:
        raise HeaderError("the line does not have two addresses and two ports")
    hosts = [_address(text, protocol) for text in fields[:2]]
    ports = [_port(text) for text in fields[2:]]
    make = inet if protocol == "TCP4" else inet6
    return make(hosts[0], ports[0]), make(hosts[1], ports[1])


def _address(text: str, protocol: str) -> bytes:
    try:
        # Not inet_pton(3): on some systems it accepts leading zeros.
        if protocol == "TCP4":
            return ipaddress.IPv4Address(text).packed
        if "%" not in text:
            return ipaddress.IPv6Address(text).packed
    except ValueError:
        pass
    raise HeaderError(f"{text!r} is not an address of {protocol}")


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 0xFFFF:
        raise HeaderError(f"{text!r} is not a port")
    return int(text)


def encode(endpoints: Endpoints | None) -> bytes:
    """Return the line for *endpoints*. Only those of IP can be expressed; others are unknown."""
    if endpoints is None or not all(isinstance(each, tuple) for each in endpoints):
        return PREFIX + _UNKNOWN + END
    in_6 = any(map(is_inet6, endpoints))
    hosts = [_text(packed(each, as_inet6=in_6)) for each in endpoints]
    ports = [str(each[1]) for each in endpoints]
    return PREFIX + " ".join(["TCP6" if in_6 else "TCP4", *hosts, *ports]).encode() + END


def _text(address: bytes) -> str:
    if len(address) == 4:
        return inet(address, 0)[0]
    text = inet6(address, 0)[0]
    if "." in text:  # an IPv4 address in IPv6, which has hexadecimal digits here, too
        text = ":".join(address[at : at + 2].hex() for at in range(0, 16, 2))
    return text
