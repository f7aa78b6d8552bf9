"""URLs, as a client uses them (RFC 3986): http and https."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote, urljoin, urlsplit

__all__ = ["URL"]

_PORTS: Final = {"http": 80, "https": 443}
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_PATH: Final = "/%:@!$&'()*+,;=~"
_QUERY: Final = _PATH + "?[]"


@dataclass(frozen=True, slots=True)
class URL:
    """The parts of a URL that a request needs; `str` gives it without credentials and fragment."""

    scheme: str
    host: str
    """ASCII; an IPv6 address without its brackets."""
    port: int
    target: str
    """Path and query, as they are sent."""
    authorization: str | None
    """The value of that header field, from the URL's user and password."""

    @classmethod
    def parse(cls, text: str) -> URL:
        """Return the parts of *text*.

        Raises:
            TypeError: *text* is not a `str`.
            ValueError: it is not an absolute URL of http or https.
        """
        if not isinstance(text, str):
            raise TypeError(
                f"url must be a str such as 'https://example.com/', not {type(text).__name__}"
            )
        if _CONTROLS.search(text) is not None:
            raise ValueError(f"url {text!r} has control characters")
        try:
            parts = urlsplit(text)
            port = parts.port
            scheme, host = parts.scheme.lower(), _checked_host(parts.hostname or "")
        except ValueError as error:
            raise ValueError(f"url {_shown(text)!r}: {error}") from None
        if scheme not in _PORTS or not host:
            raise ValueError(
                f"url {_shown(text)!r} must begin with http:// or https://, and a host"
            )
        if port == 0:
            raise ValueError(f"url {_shown(text)!r} has port 0")
        target = _quoted(parts.path, _PATH) or "/"
        if parts.query:
            target += "?" + _quoted(parts.query, _QUERY)
        authorization = None
        if parts.username is not None or parts.password is not None:
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
        return cls(scheme, host, port or _PORTS[scheme], target, authorization)

    def joined(self, location: str) -> URL:
        """Return the URL that *location*, a redirect from here, leads to."""
        return URL.parse(urljoin(str(self), location))

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what may see the same credentials (RFC 6454)."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """The value of ``host``: with the port, unless it is the usual one."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def with_query(self, query: str) -> URL:
        """Return the URL with *query* added."""
        separator = "&" if "?" in self.target else "?"
        return replace(self, target=f"{self.target}{separator}{query}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def _quoted(text: str, safe: str) -> str:
    """Return *text* with what a target cannot have percent-encoded; what is so already stays."""
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", quote(text, safe=safe))


def _checked_host(host: str) -> str:
    if ":" in host:
        host = host.replace("%25", "%")  # before the name of an interface (RFC 6874)
        ipaddress.IPv6Address(host)
        return host
    host = unquote(host)
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if host and re.fullmatch(r"[A-Za-z0-9\-._~!$&'()*+,;=]+", host) is None:
        raise ValueError(f"{host!r} is not a host")
    return host.lower()


def _shown(text: str) -> str:
    """Return *text* without a password."""
    return re.sub(r"//[^/?#]*@", "//", text)
