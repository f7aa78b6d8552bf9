"""The options of ``silly serve``, and what it makes of those of uvicorn.

An option of uvicorn is either one of `TABLE` with the same meaning, or another name of an option
of ``silly FILE.py`` (`RENAMED`), or has nothing to choose here (`WITHOUT_EFFECT`), or something
else takes its place (`REFUSED`, which says what).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from silly._values.kinds import COUNT, FILE, NUMBER, PERIOD, Kind, choice
from silly.cli.arguments import ENV_FILE, OPTIONS
from silly.cli.options import ADDR, LIMITS, Option
from silly.net.networks import NETWORKS, checked_networks

__all__ = ["KNOWN_ELSEWHERE", "TABLE", "Refusal", "split"]

ALL_NETWORKS: Final = ("0.0.0.0/0", "::/0", "unix")


def _read_proxies(text: str) -> tuple[str, ...]:
    if text.strip() == "*":
        return ALL_NETWORKS
    networks = NETWORKS.read(text)
    try:
        return checked_networks(networks, "", or_unix=True)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(": ")) from None


def _read_header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    try:
        if colon and name.strip():
            return name.strip().lower().encode("ascii"), value.strip().encode("latin-1")
    except UnicodeEncodeError:
        pass
    raise ValueError(f"{text!r} is not a header field such as 'X-Frame-Options: DENY'")


def _read_port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def _read_certificates(text: str) -> str:
    """Return whether clients need certificates, of the number that the `ssl` module gives it."""
    by_text = {"0": "none", "1": "optional", "2": "required"}
    if text in by_text.values():
        return text
    if text not in by_text:
        raise ValueError(f"{text!r} is not one of 'none', 'optional', 'required' (0, 1, 2)")
    return by_text[text]


_PROXIES: Final = Kind("NETWORKS", _read_proxies, ",".join)

TABLE: Final = (
    Option("--bind", "Listen on ADDR, too", ADDR, is_repeatable=True, short="-b"),
    Option("--host", "Listen on this host", Kind("HOST", str), default_text="127.0.0.1"),
    Option("--port", "Listen on this port", Kind("PORT", _read_port), default_text="8000"),
    Option("--uds", "Listen on a Unix socket with this path", FILE),
    Option("--factory", "APP is a function that returns the application"),
    Option("--app-dir", "Look for MODULE in this directory", FILE, default_text="the current one"),
    Option("--lifespan", "Whether the application has one: auto, on or off",
           choice("LIFESPAN", "auto", "on", "off"), "auto"),
    Option("--startup-timeout", "Time for the application to start", PERIOD, 60.0),
    Option("--root-path", "The path below which a proxy has mounted the application",
           Kind("PATH", lambda text: f"/{text.strip('/')}".rstrip("/")), ""),
    Option("--proxy-headers", "Believe proxies when they say who the client is, in "
           "X-Forwarded-For and -Proto or in Forwarded", default=True, has_negation=True),
    Option("--forwarded-allow-ips", "Those proxies: addresses, networks, unix, or * for all",
           _PROXIES, ("127.0.0.0/8", "::1/128", "unix"), variable="FORWARDED_ALLOW_IPS"),
    Option("--trusted-proxies", "Another name of --forwarded-allow-ips", _PROXIES),
    Option("--header", "Add this header field to all responses",
           Kind("NAME:VALUE", _read_header), is_repeatable=True),
    Option("--server-header", "Add `server: silly`", has_negation=True),
    Option("--limit-concurrency", "Answer 503 while this many requests are running, in each worker",
           COUNT),
    Option("--limit-max-requests", "Stop after this many requests; with --workers, another worker "
           "takes the place", COUNT),
    Option("--limit-max-requests-jitter", "Add up to this many to it, at random, so that not all "
           "workers stop together", NUMBER, 0),
    Option("--backlog", "Connections that may wait to be accepted", COUNT, 2048),
    Option("--access-log", "Log a line for each request (silly.access)", has_negation=True),
    Option("--ssl-certfile", "As --tls-cert", FILE),
    Option("--ssl-keyfile", "As --tls-key", FILE),
    Option("--ssl-keyfile-password", "The password of that key", Kind("PASSWORD", str)),
    Option("--ssl-ca-certs", "The authorities of clients' certificates", FILE),
    Option("--ssl-cert-reqs", "Whether clients need a certificate: none, optional or required, "
           "or 0, 1, 2", Kind("WHETHER", _read_certificates), "none"),
    ENV_FILE,
)  # fmt: skip

RENAMED: Final = MappingProxyType(
    {
        "--timeout-keep-alive": "--keep-alive-timeout",
        "--timeout-graceful-shutdown": "--grace",
        "--h11-max-incomplete-event-size": "--max-head-bytes",
        "--ws-max-size": "--max-message-bytes",
        "--ws-ping-interval": "--ping-interval",
        "--ws-ping-timeout": "--ping-timeout",
    }
)

WITHOUT_EFFECT: Final = MappingProxyType(
    {
        "--date-header": 0,
        "--http": 1,
        "--interface": 1,
        "--loop": 1,
        "--no-use-colors": 0,
        "--reload-delay": 1,
        "--reset-contextvars": 0,
        "--timeout-worker-healthcheck": 1,
        "--use-colors": 0,
        "--ws": 1,
        "--ws-max-queue": 1,
        "--ws-per-message-deflate": 1,
    }
)
"""How many values each has. There is one HTTP parser, and no colour; the kernel tells when a file
changes. Of loops there are two: ``--loop uvloop`` is ``--uvloop``."""

_CIPHERS: Final = "TLS 1.2 and 1.3 with forward secrecy are offered; for others, pass an SSLContext"
REFUSED: Final = MappingProxyType(
    {
        "--fd": "sockets are inherited as systemd passes them (LISTEN_FDS); give their addresses",
        "--http2": "HTTP/2 is not served; a proxy in front can",
        "--no-date-header": "an origin server sends its date (RFC 9110, section 6.6.1)",
        "--ssl-ciphers": f"{_CIPHERS} to asgi.listen(tls=...)",
        "--ssl-version": f"{_CIPHERS} to asgi.listen(tls=...)",
    }
)
KNOWN_ELSEWHERE: Final = (*RENAMED, *(each.flag for each in (*OPTIONS, *LIMITS)))
"""The flags, besides those of `TABLE`, that `split` understands."""
_LEVELS: Final = MappingProxyType({"critical": "error", "trace": "debug"})


class Refusal(ValueError):  # noqa: N818 - named by what it is
    """An option of uvicorn that `silly serve` does not have; the text says what to do."""


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our arguments, and the options of ``silly FILE.py``, which may be anywhere.

    Raises:
        Refusal: there is an option of uvicorn that has no place here.
    """
    runners = {option.flag: option for option in (*OPTIONS, *LIMITS)}
    del runners["--access-log"]  # of requests instead of connections
    del runners["--env-file"]  # read already
    ours: list[str] = []
    others: list[str] = []
    at = 0
    while at < len(arguments):
        flag, equals, value = arguments[at].partition("=")
        flag = RENAMED.get(flag, flag)
        given = arguments[at + 1 : at + 2] if not equals else [value]
        at += 1
        if flag in REFUSED:
            raise Refusal(f"{flag}: {REFUSED[flag]}")
        if flag in WITHOUT_EFFECT:
            if (flag, given) == ("--loop", ["uvloop"]):
                others.append("--uvloop")
            at += bool(WITHOUT_EFFECT[flag]) and not equals
        elif flag not in runners:
            ours.append(arguments[at - 1])
        elif runners[flag].kind is None:
            others.append(flag)
        else:
            at += not equals
            text = given[0] if given else ""
            if flag == "--log-level":
                text = _LEVELS.get(text.lower(), text)
            if flag == "--log-format":
                ours += ["--log-format", text]
            others += [flag, text] if given else [flag]
    return ours, [*_from_environment(os.environ, others), *others]


def _from_environment(environ: Mapping[str, str], given: Sequence[str]) -> list[str]:
    """Return the option that ``WEB_CONCURRENCY``, which platforms set, stands for."""
    text = environ.get("WEB_CONCURRENCY", "")
    decided = "SILLY_WORKERS" in environ or {"--workers", "--reload"} & set(given)
    return ["--workers", text] if text and not decided else []
