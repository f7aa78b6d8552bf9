"""The options of ``silly bench``: the kinds of their values, and those that its verbs share."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from silly._values import units
from silly._values.kinds import COUNT, DURATION, FILE, NUMBER, RATE, Kind, choice
from silly.bench.asserts import Claim
from silly.bench.encryption import Encryption
from silly.bench.http_request import statuses
from silly.bench.messages import FRAMINGS, unescape
from silly.bench.plan import MODES, Plan
from silly.bench.schedule import Stage
from silly.bench.sizes import Sizes
from silly.cli.options import Option, grouped
from silly.cli.tls import CLIENT

__all__ = [
    "CHECKS",
    "CLAIM",
    "COMMON",
    "DEFAULTS",
    "LOAD",
    "OUT",
    "SHARE",
    "STAGE",
    "START_RATE",
    "UDP_TIMEOUT",
]


def _fraction(text: str) -> float:
    value = units.number(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a share such as 0.5 or 50%")
    return value


def _share(text: str) -> float:
    value = units.number(text)
    if not 0 < value < 1:
        raise ValueError(f"{text!r} is not a share such as 5%")
    return value


def _content(text: str) -> bytes:
    """Return the text, or the content of the file that ``@`` precedes."""
    if not text.startswith("@"):
        return unescape(text)
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {text[1:]!r}: {error.strerror}") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"{text!r} is not a header field such as 'Accept: text/html'")
    return name.strip(), value.strip()


def _depth(text: str) -> int:
    """Return the number; for a duration, which other load testers call ``-d``, name our option."""
    try:
        return units.count(text)
    except ValueError as error:
        try:
            units.duration(text)
        except ValueError:
            raise error from None
        raise ValueError(f"{error}; for a duration, use -t {text}") from None


LOAD, CHECKS, OUT = "Load", "Checks", "Output"
_SIZES: Final = Kind("SIZE", Sizes.parse, text=lambda sizes: units.exact_size(sizes.one))
STAGE: Final = Kind("TIME:LEVEL", Stage.parse)
CLAIM: Final = Kind("CLAIM", Claim.parse)
_BYTES: Final = Kind("TEXT", unescape)
_TEXT: Final = Kind("TEXT|@FILE", _content)
_HEADER: Final = Kind("'NAME: VALUE'", _header)
SHARE: Final = Kind("SHARE", _share, units.exact_share)
_DEPTH: Final = Kind("N", _depth, units.exact_count)
START_RATE: Final = Kind("RATE", units.rate)  # a ramp may begin at 0
_FRACTION: Final = Kind("SHARE", _fraction, units.exact_share)
UDP_TIMEOUT: Final = 1.0  # seconds: each lost request occupies its socket for this long
DEFAULTS: Final[dict[str, Any]] = {each.name: each.default for each in fields(Plan)}

COMMON: Final = (
    *grouped(
        LOAD,
        Option("--connections", "Number of connections", NUMBER, short="-c",
               default_text=units.exact_count(DEFAULTS["connections"])),
        Option("--depth", "Requests in flight on each connection", _DEPTH, DEFAULTS["depth"],
               short="-d"),
        Option("--mode",
               "keep: connections stay open; reconnect: each request has a new connection; "
               "hold: connections are idle, and each has one request at the end",
               choice("MODE", *MODES), DEFAULTS["mode"]),
        Option("--udp",
               "Load a UDP server: each request and each reply is a datagram. Losses, duplicates "
               "and reordering are figures, not errors; a request without a reply within "
               f"--timeout (with --udp: {UDP_TIMEOUT:g}s) is lost"),
        Option("--connect-rate", "New connections per second", RATE,
               default_text="all before the start"),
        Option("--warmup", "Load the server for this long before measuring", DURATION,
               DEFAULTS["warmup"]),
        Option("--workers", "Processes that share the load", COUNT, DEFAULTS["workers"],
               short="-w"),
        Option("--busy-poll",
               "Poll instead of sleeping: on time to a few µs, but each worker takes a whole core",
               default_text="only with --rate", has_negation=True),
    ),
    *grouped(
        "Messages",
        Option("--framing",
               "line: each payload ends with a newline; fixed: all have one size; "
               "length-prefix: a 4-byte big-endian length comes first; raw: just bytes",
               choice("FRAMING", *FRAMINGS), DEFAULTS["framing"]),
        Option("--size",
               "Bytes in a payload: 64, 64-1024 or 64:90%,4096:10%. The newline of a line counts, "
               "a length prefix does not",
               _SIZES, DEFAULTS["sizes"], short="-s", dest="sizes"),
        Option("--template",
               "The payload; {seq} and {conn} stand for the numbers of the request and the "
               r"connection, \r \n \t \xNN for bytes",
               _BYTES),
        Option("--data", "Each line of FILE is a payload (in other framings: the whole file)",
               FILE),
        Option("--send",
               "A request for a server that does not echo, sent as it is; needs --expect. "
               "Repeat both for several requests, which take turns",
               _BYTES, is_repeatable=True),
        Option("--expect", "The expected reply", _BYTES, is_repeatable=True),
        Option("--seed", "Seed for random sizes", NUMBER, DEFAULTS["seed"]),
    ),
    *grouped(
        "HTTP",
        Option("--method", "The method of each request", Kind("METHOD", str),
               default_text="GET; POST with a --body", short="-X"),
        Option("--header", "A header field of each request (WebSocket: of the one that opens it); "
               "Host and User-Agent can be replaced. Repeat it for several", _HEADER,
               short="-H", dest="headers", is_repeatable=True),
        Option("--body", r"The body of each request; {seq}, {conn} and \r \n \t \xNN as in "
               "--template, which also go into the path and the header fields", _TEXT),
        Option("--expect-status", "Statuses that are right, such as 201, 3xx or 200,404; redirects "
               "are not followed", Kind("STATUS", statuses), default_text="2xx"),
        Option("--expect-body", "The body that each reply must have; with {seq}, replies in the "
               "wrong order are found", _TEXT),
        Option("--expect-match", "A regular expression that the body of each reply must match "
               "somewhere", Kind("REGEX", str)),
    ),
    *grouped(
        "WebSocket",
        Option("--binary", "Send binary messages; without it, text", dest="is_binary"),
        Option("--subprotocol", "A subprotocol to ask for. Repeat it for several, the best first",
               Kind("NAME", str), dest="subprotocols", is_repeatable=True),
        Option("--compression", "Offer permessage-deflate; if the server agrees, messages of 128 "
               "bytes or more are compressed", dest="compresses"),
        Option("--fan-out",
               "One more connection sends, and each of the --connections must receive every "
               "message once, in order; --depth and --rate are those of the messages, latencies "
               "those of deliveries"),
    ),
    *CLIENT,
    *grouped(
        "TLS",
        Option("--resume",
               "How many of the connections continue an earlier session, if the server lets them: "
               "from 0 (only full handshakes) to 1. Both kinds are counted and timed apart",
               _FRACTION, Encryption().resume),
    ),
    *grouped(
        CHECKS,
        Option("--timeout", "Time limit for each reply, and for connecting", DURATION,
               DEFAULTS["timeout"]),
        Option("--max-errors", "Stop after this many errors in one worker", NUMBER,
               DEFAULTS["max_errors"]),
    ),
)  # fmt: skip
