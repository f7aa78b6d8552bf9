"""From ``MODULE:APP`` to the application, or to one line that says what is wrong."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from silly._logs.tracebacks import is_internal

__all__ = ["Unusable", "load"]

_WSGI: Final = (
    "a WSGI application, such as one of Flask, needs a wrapper: "
    "asgiref.wsgi.WsgiToAsgi, or a2wsgi.WSGIMiddleware"
)

_USUAL: Final = ("app", "application", "api")  # names of applications


class Unusable(Exception):  # noqa: N818 - named by what the application is
    """There is no such application; the message is for the user."""


def load(text: str, *, directory: str, is_factory: bool) -> Any:
    """Return the application *text*, ``MODULE:APP``, of a module in *directory*.

    Raises:
        Unusable: there is none, or it cannot be imported.
        Exception: what the module or the factory raises, unless it is an `ImportError`.
    """
    name, _, path = text.partition(":")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    found = _import(name, directory)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            names = vars(found) if hasattr(found, "__dict__") else ()
            meant = _suggestion(attribute, names)
            meant = meant or next((each for each in _USUAL if each in names), "")
            raise Unusable(f"{name} has no {path!r}{meant and f'; did you mean {name}:{meant}?'}")
        found = getattr(found, attribute)
    if is_factory:
        found = _made(text, found)
    _check(text, found, is_factory=is_factory)
    return found


def _import(name: str, directory: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            names = [path.stem for path in Path(directory).glob("*.py")]
            meant = _suggestion(name, names)
            where = "here" if directory == os.getcwd() else f"in {directory}"  # noqa: PTH109
            hint = f"; did you mean {meant}?" if meant else ""
            raise Unusable(f"there is no module {name!r} {where}{hint}") from None
        raise Unusable(_failed(name, error)) from error
    except (ImportError, SyntaxError) as error:
        raise Unusable(_failed(name, error)) from error


def _failed(name: str, error: Exception) -> str:
    """Return why the module *name* cannot be imported, and which line of the program asked."""
    if isinstance(error, SyntaxError):
        return f"cannot import {name}: {error.msg} ({error.filename}, line {error.lineno})"
    trace = traceback.extract_tb(error.__traceback__)
    frames = [each for each in trace if not is_internal(each.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"cannot import {name}: {error}{place}"


def _suggestion(name: str, names: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, names, n=1)), "")


def _made(text: str, factory: Any) -> Any:
    if not callable(factory):
        raise Unusable(f"{text} is not a function but of type {type(factory).__name__}")
    if not _takes(factory, 0):
        raise Unusable(f"--factory: {text} needs arguments; it must do without")
    app = factory()
    if inspect.isawaitable(app):
        if inspect.iscoroutine(app):
            app.close()
        raise Unusable(f"--factory: {text} is a coroutine function; it must return the application")
    return app


def _check(text: str, app: Any, *, is_factory: bool) -> None:
    what = f"what {text} returns" if is_factory else text
    if not callable(app):
        raise Unusable(f"{what} is no application, but of type {type(app).__name__}")
    if _takes(app, 3):
        return
    if _takes(app, 0) and not inspect.isclass(app):
        raise Unusable(f"{what} takes no arguments: if it returns the application, add --factory")
    hint = f": {_WSGI}" if _takes(app, 2) else ""
    raise Unusable(f"{what} does not take scope, receive and send{hint}")


def _takes(function: Any, count: int) -> bool:
    """Return whether *function* can be called with *count* arguments, as far as it says."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # it does not say
        return count == 3
    return True
