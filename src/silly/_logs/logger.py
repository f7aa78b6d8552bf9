"""The loggers of this package: standard loggers behind a guard.

A user's log handler, filter or formatter may raise (for example, its log server is
down), and messages may contain text that a peer chose. So a `Logger` raises nothing
but the exceptions that end the program, and escapes its arguments (`silly.text`).
Handlers and formatters get ordinary records.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from silly.log import DroppingHandler
from silly.text import printable

__all__ = ["ENDS_PROGRAM", "Logger", "traceback_text"]

ENDS_PROGRAM: Final = (SystemExit, KeyboardInterrupt)
"""Exceptions that are never caught, wherever they are raised."""


class Logger:
    """A guard around the standard logger *name*. Messages are %-formatted."""

    __slots__ = ("_has_failed", "_logger", "is_enabled_for")

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._has_failed = False
        self.is_enabled_for = self._logger.isEnabledFor

    def debug(self, message: str, *args: object) -> None:
        self._log(logging.DEBUG, message, args)

    def info(self, message: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        self._log(logging.INFO, message, args, extra=extra)

    def warning(self, message: str, *args: object) -> None:
        self._log(logging.WARNING, message, args)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self._log(logging.ERROR, message, args, error=exc_info)

    def exception(self, message: str, *args: object) -> None:
        """Log an error with the traceback of the exception being handled."""
        self._log(logging.ERROR, message, args, error=sys.exc_info()[1])

    def log(self, level: int, message: str, *args: object) -> None:
        self._log(level, message, args)

    def _log(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        *,
        error: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        logger = self._logger
        try:
            if not logger.isEnabledFor(level):
                return
            path, line, function, _ = logger.findCaller(stacklevel=3)
            record = logger.makeRecord(
                logger.name,
                level,
                path,
                line,
                message,
                tuple(arg if isinstance(arg, int | float) else _Escaped(arg) for arg in args),
                None if error is None else (type(error), error, error.__traceback__),
                function,
                extra,
            )
            if error is not None and _has_hostile_text(error):
                record.exc_text = traceback_text(error)  # formatters use it unchanged
            logger.handle(record)
        except ENDS_PROGRAM:
            raise
        except BaseException as failure:  # noqa: BLE001 - a user's handler
            self._report_failure(failure)

    def _report_failure(self, failure: BaseException) -> None:
        """Print once, on standard error, that logging fails."""
        if self._has_failed or not logging.raiseExceptions:
            return
        self._has_failed = True
        handler = DroppingHandler()
        try:
            handler.write(
                f"silly: a log handler of {self._logger.name!r} failed; further failures are "
                f"not shown\n{traceback_text(failure)}\n"
            )
        except Exception:  # noqa: BLE001, S110 - there is no other place to report it
            pass
        finally:
            handler.close()


class _Escaped:
    """An argument of a message, escaped when the message is formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return printable(_text(str, self._value))

    def __repr__(self) -> str:
        return printable(_text(repr, self._value))


def _text(convert: Callable[[object], str], value: object) -> str:
    try:
        return convert(value)
    except ENDS_PROGRAM:
        raise
    except BaseException:  # noqa: BLE001 - a user's __str__ or __repr__
        return f"<{type(value).__name__}, whose {convert.__name__}() failed>"


# --------------------------------------------------------------------- tracebacks


def traceback_text(error: BaseException) -> str:
    """Return the traceback of *error*, with its messages, notes and type names escaped."""
    shown = traceback.TracebackException.from_exception(error)
    left = [shown]
    while left:
        each = left.pop()
        for attribute in ("_str", "text", "msg", "filename"):  # the last three of a SyntaxError
            text = getattr(each, attribute, None)
            if isinstance(text, str):
                setattr(each, attribute, printable(text.rstrip("\n")))
        notes = getattr(each, "__notes__", None)
        if isinstance(notes, list | tuple):
            each.__notes__ = [printable(_text(str, note)) for note in notes]
        others = (each.__cause__, each.__context__, *(each.exceptions or ()))
        left += [other for other in others if other is not None]
    formatted = "".join(shown.format()).rstrip("\n")
    for each_error in _with_causes(error):
        for name in _names(each_error):
            if printable(name) != name:
                formatted = formatted.replace(name, printable(name))
    return "\n".join(map(printable, formatted.split("\n")))


def _has_hostile_text(error: BaseException) -> bool:
    """Return whether a traceback of *error* would contain text that must be escaped."""
    for each in _with_causes(error):
        notes = getattr(each, "__notes__", ())
        texts = [*_names(each), _text(str, each)]
        texts += [_text(str, note) for note in (notes if isinstance(notes, list | tuple) else ())]
        if isinstance(each, SyntaxError):
            texts += [_text(str, each.text).rstrip("\n"), _text(str, each.filename)]
        if any(printable(text) != text for text in texts):
            return True
    return False


def _names(error: BaseException) -> tuple[str, str]:
    return str(type(error).__qualname__), str(type(error).__module__)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield *error* and all other exceptions in its traceback."""
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        members = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        others = (each.__cause__, each.__context__, *members)
        left += [other for other in others if other is not None]
