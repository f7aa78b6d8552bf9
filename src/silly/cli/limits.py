"""Flags for the limits of a listener, derived from the fields of `silly.net.limits.Limits`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from silly.cli.command import Failure, Parsed, option
from silly.cli.options import metavar
from silly.net.limits import LimitField, Limits

__all__ = ["limit_flags", "limits_of"]

_GROUP = "Limits"


def limit_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each limit, such as ``--max-connections``."""
    for each in reversed(Limits.fields()):
        function = option(
            _GROUP, each.flag, each.name,
            type=Parsed(each.unit, _parser(each)), metavar=metavar(each.unit),
            help=f"{each.unit.capitalize()} {each.help} (default: {each.default_text}).",
        )(function)  # fmt: skip
    return function


def limits_of(options: dict[str, Any]) -> Limits:
    """Remove the limits from *options* and return them; the environment sets those without a flag.

    Raises Failure.
    """
    try:
        limits = Limits.from_env()
    except ValueError as error:
        raise Failure(str(error)) from None
    given = {each.name: options.pop(each.name) for each in Limits.fields()}
    values = {name: getattr(limits, name) for name in given}
    for name, value in given.items():
        if value is not None:
            values[name] = None if value is _OFF else value
    return Limits(**values)


_OFF = object()  # an option's None is "not given"


def _parser(limit: LimitField) -> Callable[[str], object]:
    def parse(text: str) -> object:
        try:
            value = limit.parse(text)
        except ValueError as error:
            raise ValueError(str(error).removeprefix(f"{limit.flag}: ")) from None
        return _OFF if value is None else value

    return parse
