"""The command line of ``silly FILE.py``: its options, and where the script's arguments begin."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

from silly._values.kinds import FILE, PERIOD, Kind
from silly.cli.options import (
    ADDR,
    DIRECTORY,
    FORMAT,
    GRACE_PERIOD,
    LEVEL,
    LIMITS,
    PROXY_PROTOCOL,
    TLS_FILES,
    UNIX_ADDR,
    WORKERS,
    Option,
)

__all__ = [
    "ENV_FILE",
    "OPTIONS",
    "Parser",
    "add_option",
    "add_options",
    "split",
    "unknown_variables",
]

_PATTERN: Final = Kind("PATTERN", str)
_TABLE: Final = (
    Option("--workers",
           "Run N worker processes and keep them running, or `auto`: one for each processor that "
           "this process may use; SIGHUP restarts them one by one",
           WORKERS),
    Option("--reload", "Restart when a source file changes (extra: silly-net[reload])"),
    Option("--reload-dir", "With --reload: watch this directory; may be given several times",
           DIRECTORY, default_text="that of the program", is_repeatable=True),
    Option("--reload-include", "With --reload: also watch files whose names match this pattern, "
           "such as '*.html', or the files below a directory", _PATTERN, is_repeatable=True),
    Option("--reload-exclude", "With --reload: do not watch files whose names match this pattern, "
           "or files below a directory", _PATTERN, is_repeatable=True),
    Option("--env-file", "Set the environment variables in this file (KEY=VALUE in each line) "
           "that are not set (extra: silly-net[env-file])", FILE),
    GRACE_PERIOD,
    Option("--watchdog",
           "With --workers: kill a worker whose event loop is blocked for longer than this",
           PERIOD),
    Option("--uvloop", "Run on uvloop (extra: silly-net[uvloop])"),
    Option("--debug", "Switch asyncio's debug mode on, and print full tracebacks"),
    Option("--log-level", "debug, info, warning or error", LEVEL,
           default_text="what the program configures; if nothing, warnings and where it listens"),
    Option("--log-format", "text or json, unless the program configures logging", FORMAT, "text"),
    Option("--log-config", "Configure logging as this file says: .json, .yaml (extra: "
           "silly-net[yaml]), or any other name for the format of configparser", FILE),
    *TLS_FILES,
    PROXY_PROTOCOL,
    Option("--access-log", "Log a line to standard error when a connection has ended"),
    Option("--metrics",
           "Serve Prometheus metrics at ADDR, such as 127.0.0.1:9100 "
           "(extra: silly-net[prometheus])",
           ADDR),
    Option("--health",
           "Answer /healthz and /readyz at ADDR, such as 127.0.0.1:9101, over HTTP; the server of "
           "--metrics does so, too",
           ADDR),
    Option("--admin",
           "Open an admin socket at PATH for `silly top` and `nc -U PATH`, where `help` lists its "
           "commands",
           UNIX_ADDR),
)  # fmt: skip

OPTIONS: Final = tuple(
    dataclasses.replace(each, variable=None if each.is_repeatable else f"SILLY_{each.name.upper()}")
    for each in _TABLE
)
ENV_FILE: Final = next(each for each in OPTIONS if each.flag == "--env-file")

_OTHER_VARIABLES: Final = ("SILLY_ENGINE", "SILLY_WORKER", "SILLY_CHANNEL", "SILLY_SESSIONS")
_BUILD_VARIABLES: Final = ("SILLY_BUILD_NATIVE", "SILLY_CFLAGS", "SILLY_LDFLAGS")


def unknown_variables() -> list[str]:
    """Return a warning for each environment variable ``SILLY_…`` that nothing reads."""
    known = [each.variable for each in OPTIONS if each.variable]
    known += [f"SILLY_{each.name.upper()}" for each in LIMITS]
    known += [*_OTHER_VARIABLES, *_BUILD_VARIABLES]
    lines = []
    for name in sorted(os.environ):
        if name.startswith("SILLY_") and name not in known:
            import difflib  # noqa: PLC0415 - rarely needed

            meant = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"; did you mean {meant[0]}?" if meant else ""
            lines.append(f"ignoring {name}: no such variable{hint}")
    return lines


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, which suggests the option that was meant.

    *others* are flags that another parser knows.
    """

    def __init__(self, prog: str, *, others: Iterable[str] = (), **settings: Any) -> None:
        super().__init__(
            prog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **settings,
        )
        self._others = others

    def error(self, message: str) -> NoReturn:
        """Print *message* as one line, and exit."""
        flag = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        meant = []
        if flag.startswith("--"):
            import difflib  # noqa: PLC0415 - rarely needed

            known = [*self._option_string_actions, *self._others]
            meant = difflib.get_close_matches(flag, known, n=1)
        hint = f"did you mean {meant[0]}?" if meant else f"see: {self.prog} --help"
        self.exit(2, f"{self.prog}: {message} ({hint})\n")


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
        add_option(group, option, None)
    for option in OPTIONS:
        try:
            add_option(parser, option, option.from_environment())
        except ValueError as error:
            parser.error(str(error))


def add_option(to: argparse._ActionsContainer, option: Option, default: Any) -> None:
    """Add *option* to *to*, with a default that is parsed already."""
    settings: dict[str, Any] = {"dest": option.name, "help": option.full_help.replace("%", "%%")}
    if option.kind is None:
        settings["action"] = argparse.BooleanOptionalAction if option.has_negation else "store_true"
        to.add_argument(option.flag, default=bool(default), **settings)
    else:
        settings.update(type=_type(option.kind), metavar=option.kind.metavar)
        settings["action"] = "append" if option.is_repeatable else "store"
        names = filter(None, (option.short, option.flag))
        to.add_argument(*names, default=default, **settings)


def _type(kind: Kind) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


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
            at += 1 if equals or flags[flag].kind is None else 2
        elif any_flag and flag.startswith("-") and flag not in {"-", "--"}:
            at += 1  # --help, --version, or an unknown flag
        else:
            break
    return min(at, len(arguments))
