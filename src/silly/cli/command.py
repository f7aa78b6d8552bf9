"""What the verbs share: options in groups, values with units, and one line for each error.

A verb raises `Failure` for what went wrong, with the exit code that its help
documents; `run` prints it as one line, ``silly VERB: …``, and returns the code.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import click

from silly import _units, stdio
from silly.text import printable

__all__ = [
    "COUNT",
    "DURATION",
    "INTERRUPTED",
    "RATE",
    "USAGE_ERROR",
    "Failure",
    "GroupedCommand",
    "Parsed",
    "option",
    "run",
]

USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130  # 128 and the number of SIGINT


class Failure(Exception):  # noqa: N818 - named by what happened
    """What went wrong, in one line, and the exit code for it."""

    def __init__(self, message: str, code: int = USAGE_ERROR) -> None:
        super().__init__(message)
        self.code = code


if TYPE_CHECKING:  # generic in click's newest versions, where nothing else changed
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType


class Parsed(_ParamType):
    """A value that a function makes of its text; the function raises ValueError."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Return what *value* stands for; what is parsed already stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION: Final = Parsed("duration", _units.duration)
COUNT: Final = Parsed("number", _units.count)
RATE: Final = Parsed("rate", _units.rate)


class _GroupedOption(click.Option):
    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


def option(
    group: str, *declarations: str, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return `click.option` for an option that the help shows under *group*."""
    return click.option(*declarations, cls=_GroupedOption, group=group, **settings)


class GroupedCommand(click.Command):
    """A command whose help has its options in groups, and its epilog as it was written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument):
                continue  # the text says what they are
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "group", "Other"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records, col_max=26)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the epilog line by line: it has examples, which must not be wrapped."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}")


def run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Run *command* as ``silly NAME …`` and return the exit code; errors become one line.

    What it prints to standard output waits until it is read, and is whole; what it prints
    to standard error never waits.
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
        hint = _apart(name, arguments) or f"see: silly {name} --help"
        return _fail(name, f"{error.format_message()} ({hint})", USAGE_ERROR)
    except click.ClickException as error:
        return _fail(name, error.format_message(), USAGE_ERROR)
    except Failure as failure:
        return _fail(name, str(failure), failure.code)
    except (KeyboardInterrupt, click.Abort):
        return _fail(name, "interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _apart(name: str, arguments: Sequence[str]) -> str | None:
    """Return what was meant where host and port are two arguments, as of netcat."""
    for host, port in itertools.pairwise(arguments):
        if port.isdigit() and not host.startswith("-") and ":" not in host:
            return f"host and port are one argument: silly {name} {host}:{port}"
    return None


def _fail(name: str, message: str, code: int) -> int:
    print(f"silly {name}: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
