"""The options of ``silly FILE.py``, each defined once: flag, variable, default, help."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from silly import _units
from silly._arguments import size
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
    "split",
    "unknown_variables",
]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Without *parse* it takes no value: it is there or not."""

    flag: str
    help: str
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    default: Any = None

    @property
    def name(self) -> str:
        """What the parsed value is called."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that stands for it where it is not given."""
        return f"SILLY_{self.name.upper()}"

    def from_environment(self) -> Any:
        """Return the value of the variable, or the default.

        Raises:
            ArgumentTypeError: the variable has a value that does not fit.
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
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0")
    return text.lower() in {"1", "true", "yes", "on"}


def _duration(text: str) -> float:
    if text.strip().lower() == "inf":
        return float("inf")
    try:
        return _units.duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _period(text: str) -> float:
    if not 0 < (period := _duration(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration above 0")
    return period


def _count(text: str) -> int:
    try:
        return size(_units.count(text), "it", least=1)
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
            f"{text!r} is not the path of a Unix socket; expected such as 'unix:/run/app.sock'"
        )
    return _address(text)


OPTIONS: Final = (
    Option(
        "--workers",
        "run N worker processes and keep them running; SIGHUP restarts them one by one",
        _count,
        "N",
    ),
    Option("--reload", "run it afresh when a source file changes (extra: silly-net[reload])"),
    Option(
        "--grace",
        "how long handlers may go on after a signal, such as 500ms, 30s or 1m (default: 5s)",
        _duration,
        "DURATION",
        GRACE,
    ),
    Option(
        "--watchdog",
        "with --workers: kill a worker whose event loop is stuck for longer",
        _period,
        "DURATION",
    ),
    Option("--uvloop", "run on uvloop (extra: silly-net[uvloop])", default=False),
    Option("--debug", "asyncio's debug mode, and whole tracebacks", default=False),
    Option(
        "--log-level",
        "what to log: debug, info, warning or error (default: what the program configures, "
        "or warnings, and where it listens)",
        _level,
        "LEVEL",
    ),
    Option(
        "--log-format",
        "how, where the program does not configure it: text or json (default: text)",
        _format,
        "FORMAT",
        "text",
    ),
    Option(
        "--access-log",
        "write a line for each connection to standard error when it is over",
        default=False,
    ),
    Option(
        "--metrics",
        "serve metrics for Prometheus there, such as 127.0.0.1:9100 (extra: silly-net[prometheus])",
        _address,
        "ADDR",
    ),
    Option(
        "--admin",
        "open an admin socket there; `nc -U PATH` and `help` tell what it answers",
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


def _metavar(unit: str) -> str:
    return _METAVARS.get(unit, "RATE" if unit.endswith("/second") else "N")


LIMITS: Final = tuple(
    Option(
        each.flag,
        f"{each.unit} {each.help} (default: {each.default_text})".replace("%", "%%"),
        _limit(each.flag),
        _metavar(each.unit),
    )
    for each in Limits.fields()
)
"""The limits of `silly.net.limits`, for listeners whose code does not set them."""

_OTHER_VARIABLES: Final = ("SILLY_ENGINE", "SILLY_WORKER", "SILLY_CHANNEL", "SILLY_SESSIONS")
_OF_BUILDING: Final = ("SILLY_BUILD_NATIVE", "SILLY_CFLAGS", "SILLY_LDFLAGS")


def unknown_variables() -> list[str]:
    """Return a line for each variable ``SILLY_…`` of the environment that nothing reads."""
    known = [each.variable for each in (*OPTIONS, *LIMITS)]
    known += [*_OTHER_VARIABLES, *_OF_BUILDING]
    lines = []
    for name in sorted(os.environ):
        if name.startswith("SILLY_") and name not in known:
            meant = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f": did you mean {meant[0]}?" if meant else ""
            lines.append(f"the variable {name} is not known, and ignored{hint}")
    return lines


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give *parser* all options, with the environment's values as defaults."""
    group = parser.add_argument_group(
        "limits",
        "They count for listeners whose code does not set them; `none` switches one off. A\n"
        "flag wins over the environment (SILLY_MAX_CONNECTIONS=500), the code over both;\n"
        "`stats` of the admin socket shows each value and who set it. Sizes are 64k or 1M,\n"
        "durations 500ms, 30s or 1m, rates 100 or 10k for each second.",
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
    """Return the arguments up to FILE with our options that follow it, and the script's.

    Right behind FILE, our long options are still ours; the script's begin at
    the first other word, or after ``--``.
    """
    before = _ours(arguments, 0, any_flag=True)
    if before == len(arguments):
        return list(arguments), []
    after = _ours(arguments, before + 1, any_flag=False)
    begins = after + (list(arguments[after : after + 1]) == ["--"])
    return list(arguments[:after]), list(arguments[begins:])


def _ours(arguments: Sequence[str], at: int, *, any_flag: bool) -> int:
    """Return where, from *at* on, our options end."""
    flags = {option.flag: option for option in (*OPTIONS, *LIMITS)}
    while at < len(arguments):
        flag, equals, _ = arguments[at].partition("=")
        if flag in flags:
            at += 1 if equals or flags[flag].parse is None else 2
        elif any_flag and flag.startswith("-") and flag not in {"-", "--"}:
            at += 1  # --help, --version, or a mistake
        else:
            break
    return min(at, len(arguments))
