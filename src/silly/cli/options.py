"""One way to define options, for ``silly FILE.py`` and for each verb.

An `Option` is defined once, in a table. The parsers derive from it: argparse's for
``silly FILE.py`` (`silly.cli.arguments`), which must not need an extra, and click's for
the verbs (`silly.cli.command`). So do the help and its defaults. What a value is, how it
is written and what its error says, is the option's `Kind`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from silly._values import units
from silly._values.kinds import COUNT, DURATION, FILE, Kind, choice
from silly._values.processors import usable
from silly.log import FORMATS
from silly.net import addr as addresses
from silly.net.limits import LimitField, Limits, set_flags
from silly.net.proxy.trust import PROXY_NETWORKS
from silly.runtime import GRACE

__all__ = [
    "ADDR",
    "DIRECTORY",
    "FORMAT",
    "GRACE_PERIOD",
    "LEVEL",
    "LIMITS",
    "PROXY_PROTOCOL",
    "TLS_FILES",
    "UNIX_ADDR",
    "WORKERS",
    "Option",
    "grouped",
    "set_limits",
]


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Without *kind* it is a switch, which takes no value."""

    flag: str
    help: str
    """Sentences; the last one without its full stop, before which the default is shown."""
    kind: Kind | None = None
    default: Any = None
    """What the option is if it is not given; None: it is off, or depends on others."""
    default_text: str = ""
    """What the default is, in words, where *default* does not say it."""
    short: str | None = None
    dest: str | None = None
    """The name of the parsed value, if it is not the flag's."""
    group: str | None = None
    """The heading in the help of a verb."""
    variable: str | None = None
    """The environment variable that sets it if the flag is not given."""
    is_repeatable: bool = False
    """True if it may be given several times; the value is a tuple."""
    is_required: bool = False
    has_negation: bool = False
    """True if the switch can also be given as ``--no-…``."""

    @property
    def name(self) -> str:
        """The name of the parsed value, such as ``log_level``."""
        return self.dest or self.flag.removeprefix("--").replace("-", "_")

    @property
    def full_help(self) -> str:
        """The help with the default."""
        text = self.default_text
        if not text and self.kind is not None and self.default is not None:
            text = self.kind.text(self.default)
        return f"{self.help} (default: {text})." if text else f"{self.help}."

    def parse(self, text: str) -> Any:
        """Return the value that *text* stands for; raise ValueError if it is invalid."""
        return (self.kind or _SWITCH).parse(text)

    def from_environment(self) -> Any:
        """Return the parsed value of the variable, or the default.

        Raises:
            ValueError: the variable has a bad value; the message names it.
        """
        text = os.environ.get(self.variable, "") if self.variable else ""
        try:
            return self.parse(text) if text else self.default
        except ValueError as error:
            raise ValueError(f"{self.variable}: {error}") from None

    def arguments(self, value: Any) -> list[str]:
        """Return the command-line arguments that give *value*; none for None and False."""
        if value is None or value is False:
            return []
        return [self.flag if self.kind is None else f"{self.flag}={self.kind.text(value)}"]


def grouped(heading: str, *table: Option) -> tuple[Option, ...]:
    """Return *table* with the options under *heading*."""
    return tuple(replace(each, group=heading) for each in table)


# --------------------------------------------------------------- kinds of the command


def _read_switch(text: str) -> bool:
    if text.lower() not in {"1", "0", "true", "false", "yes", "no", "on", "off"}:
        raise ValueError(text)
    return text.lower() in {"1", "true", "yes", "on"}


def _read_grace(text: str) -> float:
    return float("inf") if text.strip().lower() == "inf" else units.duration(text)


def _read_address(text: str) -> str:
    try:
        addresses.parse(text)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("addr ")) from None
    return text


def _read_directory(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError(f"{text!r} is not a directory")
    return text


def _read_unix_address(text: str) -> str:
    if not text.startswith("unix:") or text.startswith("unix:@"):
        raise ValueError(f"{text!r} is not the path of a Unix socket such as 'unix:/run/app.sock'")
    return _read_address(text)


_LEVELS: Final = choice("LEVEL", "debug", "info", "warning", "error")

ADDR: Final = Kind("ADDR", _read_address)
UNIX_ADDR: Final = Kind("unix:PATH", _read_unix_address)
DIRECTORY: Final = Kind("DIR", _read_directory)
FORMAT: Final = choice("FORMAT", *FORMATS)
LEVEL: Final = replace(
    _LEVELS,
    read=lambda text: logging.getLevelNamesMapping()[_LEVELS.read(text).upper()],
    text=lambda level: logging.getLevelName(level).lower(),
)
WORKERS: Final = replace(
    COUNT,
    read=lambda text: usable() if text.lower() == "auto" else COUNT.read(text),
    expected="a number of 1 or more, or auto",
)
_SWITCH: Final = Kind("", _read_switch, expected="1 or 0")


# ------------------------------------------------------- options that verbs share

GRACE_PERIOD: Final = Option(
    "--grace",
    "Time for handlers to finish after a signal to stop: 500ms, 30s, 1m, or inf",
    replace(DURATION, read=_read_grace),
    GRACE,
)

TLS_FILES: Final = (
    Option("--tls-cert", "Encrypt connections (TLS), with the certificate in FILE (PEM)", FILE),
    Option("--tls-key", "Its private key, if it is not in the same file", FILE),
)

PROXY_PROTOCOL: Final = Option(
    "--proxy-protocol",
    "Require a header of the PROXY protocol, versions 1 and 2, from these networks of load "
    "balancers, such as 10.0.0.0/8,unix; it has the client's address. From others it is "
    "neither looked for nor believed",
    PROXY_NETWORKS,
)


def _limit(field: LimitField) -> Option:
    """Return the option for the limit *field*. Its value is the checked text."""

    def read(text: str) -> str:
        field.kind.parse(text)
        return text

    return Option(
        field.flag,
        f"{field.unit.capitalize()} {field.help}",
        Kind(field.kind.metavar, read),
        default_text=field.kind.text(field.default),
    )


LIMITS: Final = grouped("Limits", *map(_limit, Limits.fields()))
"""The limits of a listener. `Limits.from_env` reads their variables."""


def set_limits(options: Mapping[str, Any]) -> None:
    """Set the limits that the parsed *options* give; they override the environment."""
    given = [each for each in Limits.fields() if options[each.name] is not None]
    set_flags({each.name: each.parse(options[each.name]) for each in given})
