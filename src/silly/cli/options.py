"""The options of ``silly FILE.py``, each defined once: flag, variable, default, help."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from silly._values import units
from silly._values.arguments import size
from silly.log import FORMATS
from silly.net import addr as addresses
from silly.net.limits import Limits
from silly.runtime import GRACE

__all__ = [
    "LIMITS",
    "OPTIONS",
    "Option",
    "add_options",
    "limit_flags",
    "metavar",
    "split",
    "unknown_variables",
]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Without *parse* it is a flag, which takes no value."""

    flag: str
    help: str
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    default: Any = None

    @property
    def name(self) -> str:
        """The name of the parsed value, such as ``log_level``."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it if the flag is not given."""
        return f"SILLY_{self.name.upper()}"

    def from_environment(self) -> Any:
        """Return the parsed value of the variable, or the default.

        Raises:
            ArgumentTypeError: the variable has a bad value.
        """
        text = os.environ.get(self.variable, "")
        if not text:
            return self.default
        try:
            return (self.parse or _switch)(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{self.variable}: {error}") from None


def _switch(text: str) -> bool:
    if text.lower() not in {"1", "0", "true", "false", "yes", "no", "on", "off"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or 0")
    return text.lower() in {"1", "true", "yes", "on"}


def _duration(text: str) -> float:
    if text.strip().lower() == "inf":
        return float("inf")
    try:
        return units.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _period(text: str) -> float:
    if not 0 < (period := _duration(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration above 0")
    return period


def _count(text: str) -> int:
    try:
        return size(units.count(text), "it", least=1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more") from None


def _level(text: str) -> int:
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not debug, info, warning or error")
    return logging.getLevelNamesMapping()[text.upper()]


def _format(text: str) -> str:
    if text.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} is not {' or '.join(FORMATS)}")
    return text.lower()


def _address(text: str) -> str:
    try:
        addresses.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("addr ")) from None
    return text


def _unix_address(text: str) -> str:
    if not text.startswith("unix:") or text.startswith("unix:@"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the path of a Unix socket such as 'unix:/run/app.sock'"
        )
    return _address(text)


OPTIONS: Final = (
    Option(
        "--workers",
        "run N worker processes and keep them running; SIGHUP restarts them one by one",
        _count,
        "N",
    ),
    Option("--reload", "restart when a source file changes (extra: silly-net[reload])"),
    Option(
        "--grace",
        "time for handlers to finish after a signal to stop: 500ms, 30s, 1m (default: 5s)",
        _duration,
        "DURATION",
        GRACE,
    ),
    Option(
        "--watchdog",
        "with --workers: kill a worker whose event loop is blocked for longer than this",
        _period,
        "DURATION",
    ),
    Option("--uvloop", "run on uvloop (extra: silly-net[uvloop])", default=False),
    Option("--debug", "asyncio's debug mode, and full tracebacks", default=False),
    Option(
        "--log-level",
        "debug, info, warning or error (default: what the program configures; if nothing, "
        "warnings and where it listens)",
        _level,
        "LEVEL",
    ),
    Option(
        "--log-format",
        "text or json, unless the program configures logging (default: text)",
        _format,
        "FORMAT",
        "text",
    ),
    Option(
        "--access-log",
        "log a line to standard error when a connection has ended",
        default=False,
    ),
    Option(
        "--metrics",
        "serve Prometheus metrics at ADDR, such as 127.0.0.1:9100 (extra: silly-net[prometheus])",
        _address,
        "ADDR",
    ),
    Option(
        "--admin",
        "open an admin socket at PATH; connect with `nc -U PATH`, and `help` lists its commands",
        _unix_address,
        "unix:PATH",
    ),
)


def limit_flags(options: argparse.Namespace) -> dict[str, str]:
    """Return the limits that the command line sets, as text, by field."""
    given = {each.name: getattr(options, each.name) for each in Limits.fields()}
    return {name: text for name, text in given.items() if text is not None}


def _limit(flag: str) -> Callable[[str], str]:
    field = next(each for each in Limits.fields() if each.flag == flag)

    def check(text: str) -> str:
        try:
            field.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{flag}: ")) from None
        return text

    return check


_METAVARS: Final = {"seconds": "DURATION", "bytes": "SIZE", "networks": "NETWORKS"}


def metavar(unit: str) -> str:
    """Return what help texts call the value of a limit in *unit*."""
    return _METAVARS.get(unit, "RATE" if unit.endswith("/second") else "N")


LIMITS: Final = tuple(
    Option(
        each.flag,
        f"{each.unit} {each.help} (default: {each.default_text})".replace("%", "%%"),
        _limit(each.flag),
        metavar(each.unit),
    )
    for each in Limits.fields()
)
"""The limits of `silly.net.limits`, for listeners whose code does not set them."""

_OTHER_VARIABLES: Final = ("SILLY_ENGINE", "SILLY_WORKER", "SILLY_CHANNEL", "SILLY_SESSIONS")
_BUILD_VARIABLES: Final = ("SILLY_BUILD_NATIVE", "SILLY_CFLAGS", "SILLY_LDFLAGS")


def unknown_variables() -> list[str]:
    """Return a warning for each environment variable ``SILLY_…`` that nothing reads."""
    known = [each.variable for each in (*OPTIONS, *LIMITS)]
    known += [*_OTHER_VARIABLES, *_BUILD_VARIABLES]
    lines = []
    for name in sorted(os.environ):
        if name.startswith("SILLY_") and name not in known:
            meant = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            lines.append(f"ignoring {name}: no such variable{hint}")
    return lines


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all options to *parser*, with values from the environment as defaults."""
    group = parser.add_argument_group(
        "limits",
        "These apply to listeners whose code does not set them; `none` turns one off. A flag\n"
        "overrides the environment (SILLY_MAX_CONNECTIONS=500), and code overrides both;\n"
        "`stats` of the admin socket shows each value and where it was set. Write sizes as\n"
        "64k or 1M, durations as 500ms, 30s or 1m, rates (per second) as 100 or 10k.",
    )
    for option in LIMITS:
        group.add_argument(
            option.flag,
            dest=option.name,
            type=option.parse or str,
            metavar=option.metavar,
            help=option.help,
        )
    for option in OPTIONS:
        try:
            default = option.from_environment()
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
        if option.parse is None:
            parser.add_argument(
                option.flag, action="store_true", default=bool(default), help=option.help
            )
        else:
            parser.add_argument(
                option.flag,
                type=option.parse,
                metavar=option.metavar,
                default=default,
                help=option.help,
            )


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split *arguments* into ours, which include FILE, and the script's.

    Our long options may also follow FILE; the script's arguments begin at the first
    other word, or after ``--``.
    """
    before = _end_of_options(arguments, 0, any_flag=True)
    if before == len(arguments):
        return list(arguments), []
    after = _end_of_options(arguments, before + 1, any_flag=False)
    begins = after + (list(arguments[after : after + 1]) == ["--"])
    return list(arguments[:after]), list(arguments[begins:])


def _end_of_options(arguments: Sequence[str], at: int, *, any_flag: bool) -> int:
    """Return the index of the first argument, from *at* on, that is not one of our options."""
    flags = {option.flag: option for option in (*OPTIONS, *LIMITS)}
    while at < len(arguments):
        flag, equals, _ = arguments[at].partition("=")
        if flag in flags:
            at += 1 if equals or flags[flag].parse is None else 2
        elif any_flag and flag.startswith("-") and flag not in {"-", "--"}:
            at += 1  # --help, --version, or an unknown flag
        else:
            break
    return min(at, len(arguments))
