"""What the verbs share: options for click, in groups, and one-line errors.

A verb raises `Failure` with a message and one of the exit codes in its help; `run`
prints the message as one line, ``silly VERB: …``, and returns the code.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar, cast

import click

from silly import stdio
from silly._values.kinds import Kind
from silly.cli.options import Option
from silly.text import printable

__all__ = [
    "INTERRUPTED",
    "USAGE_ERROR",
    "Failure",
    "GroupedCommand",
    "run",
    "with_options",
]

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130  # 128 and the number of SIGINT


class Failure(Exception):  # noqa: N818 - named by what happened
    """An error to report in one line, with the exit code for it."""

    def __init__(self, message: str, code: int = USAGE_ERROR) -> None:
        super().__init__(message)
        self.code = code


if TYPE_CHECKING:  # generic in recent versions of click only
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType


_Command = TypeVar("_Command", bound=click.Command)


class _Type(_ParamType):
    """A `Kind` for click."""

    def __init__(self, kind: Kind) -> None:
        self.name = kind.metavar.lower()
        self._parse = kind.parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Return *value* parsed, or as it is if it is not a string."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Option(click.Option):
    """An `Option` for click."""

    def __init__(self, option: Option) -> None:
        self.option = option
        negation = f"/--no-{option.flag.removeprefix('--')}" if option.has_negation else ""
        settings: dict[str, Any] = {"is_flag": True, "default": option.default}
        if option.kind is not None:
            settings.update(is_flag=False, type=_Type(option.kind), metavar=option.kind.metavar)
        elif not option.has_negation:
            settings["default"] = bool(option.default)
        super().__init__(
            [*filter(None, (option.short,)), option.flag + negation, option.name],
            multiple=option.is_repeatable,
            required=option.is_required,
            help=option.full_help,
            **settings,
        )


def with_options(*table: Option) -> Callable[[_Command], _Command]:
    """Return a decorator that gives a command the options in *table*."""

    def decorate(command: _Command) -> _Command:
        command.params += map(_Option, table)
        return command

    return decorate


class GroupedCommand(click.Command):
    """A command whose help shows the options in groups, and the epilog unwrapped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument):
                continue  # described in the command's text
            record = param.get_help_record(ctx)
            if record is not None:
                heading = param.option.group if isinstance(param, _Option) else None
                groups.setdefault(heading or "Other", []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=26)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the epilog as it is: examples must not be wrapped."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}")


def run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Run *command* as ``silly NAME …`` and return the exit code; print errors as one line.

    Writes to standard output wait for the reader and are complete; writes to standard
    error never wait.
    """
    with _standard_streams():
        try:
            code = _run(command, name, arguments)
            sys.stdout.flush()
        except stdio.OutputLost as error:
            return USAGE_ERROR if error.is_unwanted else _fail(name, str(error), USAGE_ERROR)
        except KeyboardInterrupt:
            return _fail(name, "interrupted", INTERRUPTED)
        return code


@contextlib.contextmanager
def _standard_streams() -> Iterator[None]:
    before = sys.stdout
    with stdio.nonblocking_errors():
        if before is None or stdio.descriptor_of(before) is not None:
            sys.stdout = cast("TextIO", stdio.data_stream(before, "standard output"))
        try:
            yield
        finally:
            sys.stdout = before


def _run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    try:
        code = command.main(args=list(arguments), prog_name=f"silly {name}", standalone_mode=False)
    except click.UsageError as error:
        hint = _address_hint(name, arguments) or f"see: silly {name} --help"
        return _fail(name, f"{error.format_message()} ({hint})", USAGE_ERROR)
    except Failure as failure:
        return _fail(name, str(failure), failure.code)
    except (KeyboardInterrupt, click.Abort):
        return _fail(name, "interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _address_hint(name: str, arguments: Sequence[str]) -> str | None:
    """Return a hint if host and port were given as two arguments, as for netcat."""
    for host, port in itertools.pairwise(arguments):
        if port.isdigit() and not host.startswith("-") and ":" not in host:
            return f"write host and port as one argument: silly {name} {host}:{port}"
    return None


def _fail(name: str, message: str, code: int) -> int:
    print(f"silly {name}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
