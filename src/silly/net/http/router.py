"""Routing: which handler answers a request, by its method and path.

Patterns are kept in a tree, one level for each segment of a path, so that the time to find a
handler depends on the length of the path and not on the number of routes. Those without
parameters are in a dictionary, too, where they are found at once.

A path is split before it is decoded: ``%2F`` is a character of a segment, not a separator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar
from uuid import UUID

from silly._engine import engine
from silly.net.http.errors import HTTPError
from silly.net.http.request import Request, decoded_path
from silly.net.http.response import Response, as_response, response_of

if TYPE_CHECKING or engine.NAME != "native":
    from silly.net.http.bases import Dispatcher
else:
    from silly.net.http.plain import Dispatcher

__all__ = ["Middleware", "Router"]

Handler = Callable[[Request], Awaitable[Any]]
Middleware = Callable[[Handler], Handler]
Render = Callable[[Request, HTTPError], Response]
H = TypeVar("H", bound=Handler)
M = TypeVar("M", bound=Middleware)

_METHOD: Final = re.compile(r"[A-Z]+(?:-[A-Z]+)*")
_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
_LITERAL: Final = re.compile(r"[^/?#%\x00-\x20\x7f]*")
_INT: Final = re.compile(r"[0-9]{1,1000}")
_FLOAT: Final = re.compile(r"[0-9]{1,1000}(?:\.[0-9]{1,1000})?")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def _int(text: str) -> int | None:
    return int(text) if _INT.fullmatch(text) else None


def _float(text: str) -> float | None:
    if _FLOAT.fullmatch(text) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _uuid(text: str) -> UUID | None:
    return UUID(text) if _UUID.fullmatch(text) else None


def _str(text: str) -> str | None:
    return text or None


# In the order in which they are tried. Each returns None for what it does not take.
_CONVERTERS: Final[dict[str, Callable[[str], Any]]] = {
    "int": _int,
    "float": _float,
    "uuid": _uuid,
    "str": _str,
}
_REST: Final = "path"  # the converter that takes all segments that are left


class _Route(NamedTuple):
    handler: Handler
    pattern: str
    names: tuple[str, ...]
    is_implied: bool  # HEAD, of GET


_Routes = dict[str, _Route]  # by method


class _Mount(NamedTuple):
    prefix: str
    handler: Handler


class _Node:
    """What patterns have at one place: the segments that may follow, and where they end."""

    __slots__ = ("by_kind", "converted", "literal", "mount", "rest", "routes")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.by_kind: dict[str, _Node] = {}
        self.converted: list[tuple[Callable[[str], Any], _Node]] = []  # of these, the last first
        self.routes: _Routes = {}  # of patterns that end here
        self.rest: _Routes = {}  # of patterns that end here with a path
        self.mount: _Mount | None = None

    def child(self, kind: str) -> _Node:
        """Return what follows a parameter of this *kind*."""
        if kind not in self.by_kind:
            self.by_kind[kind] = _Node()
            self.converted = [
                (convert, self.by_kind[each])
                for each, convert in reversed(_CONVERTERS.items())
                if each in self.by_kind
            ]
        return self.by_kind[kind]

    def only(self, segments: list[str]) -> tuple[_Routes, tuple[Any, ...]] | None:
        """Return what matches *segments*, if it is plain that nothing else does; else None."""
        node = self
        values: tuple[Any, ...] = ()
        for segment in segments:
            if node.mount is not None or node.rest:
                return None
            if not node.converted:
                if segment not in node.literal:
                    return None
                node = node.literal[segment]
            elif len(node.converted) > 1 or segment in node.literal:
                return None
            else:
                convert, node = node.converted[0]
                value = convert(segment)
                if value is None:
                    return None
                values = (*values, value)
        return node.routes, values

    def find(self, segments: list[str]) -> Iterator[_Found]:
        """Yield what matches *segments*, the most special first."""
        node, at = self, 0
        values: tuple[Any, ...] = ()
        others: list[tuple[_Node | _Routes | _Mount, int, tuple[Any, ...]]] = []
        while True:
            if node.mount is not None:  # what is to be tried last comes first
                others.append((node.mount, at, values))
            if at < len(segments):
                segment = segments[at]
                if node.rest:
                    others.append((node.rest, at, (*values, "/".join(segments[at:]))))
                for convert, child in node.converted:
                    value = convert(segment)
                    if value is not None:
                        others.append((child, at + 1, (*values, value)))
                if segment in node.literal:
                    node = node.literal[segment]
                    at += 1
                    continue
            elif node.routes:
                yield node.routes, at, values
            while True:
                if not others:
                    return
                found, at, values = others.pop()
                if isinstance(found, _Node):
                    node = found
                    break
                yield found, at, values


_Found = tuple[_Routes | _Mount, int, tuple[Any, ...]]


class Router(Dispatcher):
    r"""A handler that chooses another by the method and the path of the request.

    ::

        routes = http.Router()

        @routes.get("/users/{id:int}")
        async def user(request):
            return http.json(users[request.route_params["id"]])

        http.listen("127.0.0.1:8080", routes)

    A pattern begins with ``/``. A segment of it in braces is a parameter, ``{name}`` or
    ``{name:converter}``; its value is in `Request.route_params`:

    - ``str`` (the default): any segment that is not empty;
    - ``int``, ``float``: decimal digits, without a sign; ``uuid``: its canonical form;
    - ``path``, only at the end: the rest of the path, with its slashes; may be empty.

    Where several patterns match, literal segments come before parameters, and these in the
    order ``int``, ``float``, ``uuid``, ``str``, ``path``. The order of definition does not
    matter.

    A path that no pattern matches is answered with 404. If its patterns have other methods,
    the answer is 405 with the field ``allow``. HEAD is answered by the handler of GET (the
    server leaves out the body), and OPTIONS with 204 and ``allow``, unless they have handlers
    of their own.

    ``/users`` and ``/users/`` are different paths, and nothing is redirected from one to
    the other. ``//`` and ``.`` and ``..`` in a path mean nothing special.

    Args:
        render: makes the response of an `HTTPError`, which this router, its handlers or its
            middleware raised: a function of the request and the error. None: text.
    """

    def __init__(self, *, render: Render | None = None) -> None:
        super().__init__()
        self._root = _Node()
        self._methods: set[str] = set()
        self._middleware: list[Middleware] = []
        self._render = render
        if render is not None:
            self._chain()

    # ----------------------------------------------------------------------- definitions

    def route(self, pattern: str, methods: Iterable[str]) -> Callable[[H], H]:
        """Let the decorated coroutine function handle *methods* of *pattern*.

        Raises:
            TypeError: what is decorated cannot be called, or *methods* is text.
            ValueError: the pattern is malformed, or one of its methods has a handler already.
        """
        if isinstance(methods, str):
            raise TypeError(f"methods must be a list such as ['GET'], not {methods!r}")
        methods = tuple(methods)
        for method in methods:
            if not isinstance(method, str) or _METHOD.fullmatch(method) is None:
                raise ValueError(f"not a method (in upper case): {method!r}")
        if not methods:
            raise ValueError(f"{pattern}: no methods")
        segments = _parsed(pattern)

        def define(handler: H) -> H:
            _check_handler(handler)
            self._define(pattern, segments, methods, handler)
            return handler

        return define

    def get(self, pattern: str) -> Callable[[H], H]:
        """Let the decorated coroutine function handle GET (and HEAD) of *pattern*; see `route`."""
        return self.route(pattern, ("GET",))

    def post(self, pattern: str) -> Callable[[H], H]:
        """Let the decorated coroutine function handle POST of *pattern*; see `route`."""
        return self.route(pattern, ("POST",))

    def put(self, pattern: str) -> Callable[[H], H]:
        """Let the decorated coroutine function handle PUT of *pattern*; see `route`."""
        return self.route(pattern, ("PUT",))

    def patch(self, pattern: str) -> Callable[[H], H]:
        """Let the decorated coroutine function handle PATCH of *pattern*; see `route`."""
        return self.route(pattern, ("PATCH",))

    def delete(self, pattern: str) -> Callable[[H], H]:
        """Let the decorated coroutine function handle DELETE of *pattern*; see `route`."""
        return self.route(pattern, ("DELETE",))

    def head(self, pattern: str) -> Callable[[H], H]:
        """Let the decorated coroutine function handle HEAD of *pattern*; see `route`."""
        return self.route(pattern, ("HEAD",))

    def options(self, pattern: str) -> Callable[[H], H]:
        """Let the decorated coroutine function handle OPTIONS of *pattern*; see `route`."""
        return self.route(pattern, ("OPTIONS",))

    def mount(self, prefix: str, handler: Handler) -> None:
        """Let *handler* answer everything at *prefix* and below, whatever the method.

        The handler finds what is below in `Request.sub_path`; *prefix* is in
        `Request.root_path`. Patterns of a `Router` that is mounted begin at the prefix;
        both ``/prefix`` and ``/prefix/`` are its ``/``. Routes come before mounts.

        Raises:
            TypeError: *handler* cannot be called.
            ValueError: the prefix is malformed, has parameters or is mounted already.
        """
        _check_handler(handler)
        segments = _parsed(prefix)
        if any(kind is not None for _, kind in segments):
            raise ValueError(f"{prefix}: the prefix of a mount has no parameters")
        if segments[-1][0] == "":
            if len(segments) > 1:
                raise ValueError(f"{prefix}: the prefix of a mount does not end with '/'")
            segments = []
        node = self._root
        for text, _ in segments:
            node = node.literal.setdefault(text, _Node())
        if node.mount is not None:
            raise ValueError(f"{prefix}: something is mounted there already")
        node.mount = _Mount(prefix if segments else "", handler)

    def use(self, middleware: M) -> M:
        """Put *middleware* around all handlers of this router, also those that are defined later.

        Middleware is a function that takes a handler and returns one::

            @routes.use
            def timed(handler):
                async def timing(request):
                    begun = time.perf_counter()
                    response = await handler(request)
                    response.add_header("server-timing", f"app;dur={...}")
                    return response
                return timing

        What is used first is outermost. What ``await handler(request)`` returns is always a
        `Response`: also for an `HTTPError`, 404 and 405 included. Other exceptions are raised.
        """
        _check_handler(middleware)
        self._middleware.append(middleware)
        self._chain()
        return middleware

    def _define(
        self,
        pattern: str,
        segments: list[tuple[str, str | None]],
        methods: tuple[str, ...],
        handler: Handler,
    ) -> None:
        node, rest = self._root, False
        for text, kind in segments:
            if kind is None:
                node = node.literal.setdefault(text, _Node())
            elif kind == _REST:
                rest = True
            else:
                node = node.child(kind)
        routes = node.rest if rest else node.routes
        for method in methods:
            other = routes.get(method)
            if other is not None and not other.is_implied:
                also = "" if other.pattern == pattern else f", as {other.pattern}"
                raise ValueError(f"{method} {pattern} has a handler already{also}")
        names = tuple(text for text, kind in segments if kind is not None)
        for method in methods:
            routes[method] = _Route(handler, pattern, names, is_implied=False)
        if "GET" in methods and "HEAD" not in routes:
            routes["HEAD"] = _Route(handler, pattern, names, is_implied=True)
        self._methods.update(routes)
        if not names and pattern.isascii():  # other paths arrive encoded
            self._literal[pattern.encode()] = routes

    def _chain(self) -> None:
        handler = self._caught(self._dispatch)
        for middleware in reversed(self._middleware):
            handler = self._caught(middleware(handler))
        self._handle = handler

    def _caught(self, handler: Handler) -> Handler:
        """Return *handler* such that it returns a `Response` always."""

        async def caught(request: Request) -> Response:
            try:
                return as_response(await handler(request))
            except HTTPError as error:
                if self._render is None:
                    return response_of(error)
                return self._render(request, error)

        return caught

    # --------------------------------------------------------------------------- requests

    def _search(self, request: Request) -> Awaitable[Any]:
        method = request.method
        if request.raw_target == b"*":
            return _allow(self._methods | {"OPTIONS"})
        raw = request.raw_sub_path
        pieces = raw[1:].split("/")
        segments = pieces if "%" not in raw else [decoded_path(piece) for piece in pieces]
        only = self._root.only(segments)
        if only is not None and method in only[0]:
            return _answered(request, only[0][method], only[1])
        allowed: set[str] = set()
        for found, at, values in self._root.find(segments):
            if isinstance(found, _Mount):
                return _descend(request, found, pieces[:at])
            if method in found:
                return _answered(request, found[method], values)
            allowed.update(found)
        if not allowed:
            raise HTTPError(404)
        allowed.add("OPTIONS")
        if method == "OPTIONS":
            return _allow(allowed)
        raise HTTPError(405, headers={"allow": _list(allowed)})


def _answered(request: Request, route: _Route, values: tuple[Any, ...]) -> Awaitable[Any]:
    request.route = request._mount_route + route.pattern
    params = dict(zip(route.names, values, strict=True))
    known = request._route_params
    request._route_params = params if known is None else known | params
    return route.handler(request)


async def _descend(request: Request, mount: _Mount, pieces: list[str]) -> Any:
    before = request._mount_route, request.root_path, request._mounted
    request._mount_route += mount.prefix
    request.route = request._mount_route
    request.descend(sum(len(piece) + 1 for piece in pieces))
    try:
        return await mount.handler(request)
    finally:  # for middleware that calls its handler again
        request._mount_route, request.root_path, request._mounted = before


def _list(methods: Iterable[str]) -> str:
    return ", ".join(sorted(methods))


async def _allow(methods: Iterable[str]) -> Response:
    return Response(b"", 204, {"allow": _list(methods)})


def _check_handler(handler: Any) -> None:
    if not callable(handler):
        raise TypeError(f"expected a function, not {type(handler).__name__}")


def _parsed(pattern: str) -> list[tuple[str, str | None]]:
    """Return the segments of *pattern*: a text and None, or a name and its converter."""
    if not isinstance(pattern, str):
        raise TypeError(f"a pattern is text, not {type(pattern).__name__}")

    def malformed(why: str) -> NoReturn:
        raise ValueError(f"the pattern {pattern!r} {why}")

    if pattern[:1] != "/":
        malformed("does not begin with '/'")
    segments: list[tuple[str, str | None]] = []
    texts = pattern[1:].split("/")
    names: set[str] = set()
    for number, text in enumerate(texts, 1):
        is_last = number == len(texts)
        found = _PARAMETER.fullmatch(text)
        if found is None:
            if not text and not is_last:
                malformed("has an empty segment")
            if "{" in text or "}" in text:
                malformed(f"has {text!r}: a parameter is a whole segment, {{name}} or {{name:int}}")
            if _LITERAL.fullmatch(text) is None:
                malformed(f"has {text!r}: write it decoded, without '%', '?', '#' or spaces")
            segments.append((text, None))
            continue
        name, kind = found[1], found[2] or "str"
        if kind not in _CONVERTERS and kind != _REST:
            known = ", ".join((*_CONVERTERS, _REST))
            malformed(f"has an unknown converter {kind!r}: there are {known}")
        if kind == _REST and not is_last:
            malformed(f"goes on after {text!r}, which takes the rest of the path")
        if name in names:
            malformed(f"has two parameters {name!r}")
        names.add(name)
        segments.append((name, kind))
    return segments
