"""Routing, without a server: requests are made by hand."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net import http

pytestmark = pytest.mark.no_engine


def request_for(method: str, target: str) -> http.Request:
    return http.Request(method, target.encode(), "1.1", [], 0)


async def awaited(value: Awaitable[Any]) -> Any:
    return await value


def ask(routes: http.Router, method: str, target: str) -> Any:
    """What the handler returned, or the status and Allow of the error."""
    request = request_for(method, target)
    try:
        return asyncio.run(awaited(routes(request)))
    except http.HTTPError as error:
        return error.status, error.headers.get("allow")


def echoing(routes: http.Router, *patterns: str) -> None:
    for pattern in patterns:

        @routes.get(pattern)
        async def handler(request: http.Request, pattern: str = pattern) -> Any:
            assert request.route == pattern
            return pattern, request.route_params


def test_converters() -> None:
    routes = http.Router()
    echoing(routes, "/i/{n:int}", "/f/{x:float}", "/u/{id:uuid}", "/s/{name}", "/p/{rest:path}")
    assert ask(routes, "GET", "/i/007") == ("/i/{n:int}", {"n": 7})
    assert ask(routes, "GET", "/f/1.5") == ("/f/{x:float}", {"x": 1.5})
    text = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    assert ask(routes, "GET", f"/u/{text}") == ("/u/{id:uuid}", {"id": UUID(text)})
    assert ask(routes, "GET", "/s/J%C3%B6rg%2Fx?q=/") == ("/s/{name}", {"name": "Jörg/x"})
    assert ask(routes, "GET", "/p/a/b%20c//") == ("/p/{rest:path}", {"rest": "a/b c//"})
    assert ask(routes, "GET", "/p/") == ("/p/{rest:path}", {"rest": ""})
    for target in (
        *("/i/-1", "/i/1_0", "/i/x", "/i/", "/i", "/i/%D9%A1", "/i/1/", "/f/nan", "/f/1e3"),
        *(f"/f/{'9' * 500}", f"/i/{'9' * 5000}", "/s/", "/s/a/b", "/u/6ba7b8109dad11d180b400c0"),
        *("/p", "//", "/"),
    ):
        assert ask(routes, "GET", target) == (404, None)
    assert ask(routes, "GET", "/s/%ff") == (400, None)


def test_the_more_special_pattern_wins_whatever_the_order() -> None:
    patterns = [
        "/{a:path}",
        "/{a}/x",
        "/{a}/{b}",
        "/{a:int}/{b}",
        "/me/{b}",
        "/me/x",
        "/me/{b:int}",
    ]
    for order in (patterns, patterns[::-1]):
        routes = http.Router()
        echoing(routes, *order)
        expected = {
            "/me/x": "/me/x",
            "/me/1": "/me/{b:int}",
            "/me/y": "/me/{b}",
            "/1/x": "/{a:int}/{b}",
            "/q/x": "/{a}/x",
            "/q/y": "/{a}/{b}",
            "/me": "/{a:path}",
            "/me/x/": "/{a:path}",
            "/": "/{a:path}",
            "/m%65/x": "/me/x",
        }
        assert {target: ask(routes, "GET", target)[0] for target in expected} == expected


def test_methods() -> None:
    routes = http.Router()

    @routes.get("/users")
    async def users(request: http.Request) -> Any:
        return request.method

    @routes.post("/users")
    async def add(request: http.Request) -> Any:
        return "added"

    @routes.route("/users/{id}", methods=["PUT", "DELETE"])
    async def change(request: http.Request) -> Any:
        return request.method

    @routes.patch("/users/me")
    @routes.head("/users/me")
    @routes.options("/users/me")
    async def me(request: http.Request) -> Any:
        return "me"

    assert ask(routes, "GET", "/users") == "GET"
    assert ask(routes, "HEAD", "/users") == "HEAD"
    assert ask(routes, "POST", "/users") == "added"
    assert ask(routes, "DELETE", "/users") == (405, "GET, HEAD, OPTIONS, POST")
    assert ask(routes, "PUT", "/users/me") == "PUT"  # the other pattern has this method
    assert ask(routes, "GET", "/users/me") == (405, "DELETE, HEAD, OPTIONS, PATCH, PUT")
    assert ask(routes, "OPTIONS", "/users/me") == "me"
    answer = ask(routes, "OPTIONS", "/users")
    assert (answer.status, answer.headers) == (204, [("allow", "GET, HEAD, OPTIONS, POST")])
    assert ask(routes, "OPTIONS", "/nothing") == (404, None)
    answer = ask(routes, "OPTIONS", "*")
    assert answer.headers == [("allow", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")]


def test_a_handler_of_head_replaces_that_of_get() -> None:
    routes = http.Router()

    @routes.get("/x")
    async def get(request: http.Request) -> Any:
        return "get"

    @routes.head("/x")
    async def head(request: http.Request) -> Any:
        return "head"

    assert (ask(routes, "GET", "/x"), ask(routes, "HEAD", "/x")) == ("get", "head")
    with pytest.raises(ValueError, match="HEAD /x has a handler already"):
        routes.head("/x")(head)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("users", "does not begin with '/'"),
        ("", "does not begin with '/'"),
        ("/a//b", "has an empty segment"),
        ("/{a}/{a:int}", "has two parameters 'a'"),
        ("/{a:integer}", "unknown converter 'integer': there are int, float, uuid, str, path"),
        ("/{a:path}/x", "goes on after '{a:path}'"),
        ("/x{a}", "a parameter is a whole segment"),
        ("/{1}", "a parameter is a whole segment"),
        ("/a b", "write it decoded"),
        ("/a%20b", "write it decoded"),
        ("/a?b=1", "write it decoded"),
    ],
)
def test_malformed_patterns(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        http.Router().get(pattern)


async def nothing(request: http.Request) -> str:
    return ""


def test_what_cannot_be_defined() -> None:
    routes = http.Router()
    routes.get("/users/{id}")(nothing)
    with pytest.raises(ValueError, match=r"GET /users/\{name\} has .* already, as /users/\{id\}"):
        routes.route("/users/{name}", ["POST", "GET"])(nothing)
    assert ask(routes, "POST", "/users/7") == (405, "GET, HEAD, OPTIONS")  # nothing of it remained
    routes.get("/users/{id:int}")(nothing)  # another set of paths
    with pytest.raises(TypeError, match="methods must be a list"):
        routes.route("/x", "GET")
    with pytest.raises(ValueError, match="not a method"):
        routes.route("/x", ["get"])
    with pytest.raises(ValueError, match="no methods"):
        routes.route("/x", [])
    with pytest.raises(TypeError, match="a pattern is text, not bytes"):
        routes.get(b"/x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a function, not str"):
        routes.get("/x")("text")  # type: ignore[type-var]
    routes.mount("/m", nothing)
    for prefix, why in (("/m", "already"), ("/m/", "end with"), ("/{a}", "parameters")):
        with pytest.raises(ValueError, match=why):
            routes.mount(prefix, nothing)


def test_mounts() -> None:
    async def below(request: http.Request) -> Any:
        return request.root_path, request.sub_path, request.route

    inner = http.Router()
    inner.mount("/deep", below)

    @inner.get("/{id:int}")
    @inner.get("/")
    async def handler(request: http.Request) -> Any:
        return request.route, request.route_params, request.path

    routes = http.Router()
    routes.mount("/é", below)
    routes.mount("/api", inner)
    routes.mount("/", below)
    routes.get("/api/own")(nothing)
    assert ask(routes, "GET", "/api/7") == ("/api/{id:int}", {"id": 7}, "/api/7")
    assert ask(routes, "GET", "/api") == ("/api/", {}, "/api")
    assert ask(routes, "GET", "/api/") == ("/api/", {}, "/api/")
    assert ask(routes, "POST", "/api/7") == (405, "GET, HEAD, OPTIONS")
    assert ask(routes, "GET", "/api/x") == (404, None)
    assert ask(routes, "GET", "/api/own") == ""
    assert ask(routes, "GET", "/api/deep/a%2Fb/") == ("/api/deep", "/a/b/", "/api/deep")
    assert ask(routes, "GET", "/%c3%a9/x") == ("/é", "/x", "/é")
    assert ask(routes, "PATCH", "/apixyz") == ("", "/apixyz", "")


def test_middleware_sees_a_response_for_everything() -> None:
    routes = http.Router()
    seen: list[Any] = []

    @routes.use
    def outer(handler: http.Handler) -> http.Handler:
        async def handle(request: http.Request) -> http.Response:
            response = await handler(request)
            seen.append((request.route, response.status))
            response.add_header("x-outer", "1")
            return response  # type: ignore[no-any-return]

        return handle

    @routes.use
    def inner(handler: http.Handler) -> http.Handler:
        async def handle(request: http.Request) -> Any:
            if "secret" in request.path:
                raise http.HTTPError(401)
            return await handler(request)

        return handle

    @routes.get("/text")
    async def text(request: http.Request) -> str:
        return "text"

    @routes.get("/error")
    async def error(request: http.Request) -> str:
        raise http.HTTPError(409, "no")

    @routes.get("/crash")
    async def crash(request: http.Request) -> str:
        raise ZeroDivisionError

    for target in ("/text", "/error", "/nothing", "/secret"):
        assert ("x-outer", "1") in ask(routes, "GET", target).headers
    assert ("allow", "GET, HEAD, OPTIONS") in ask(routes, "POST", "/text").headers
    with pytest.raises(ZeroDivisionError):
        ask(routes, "GET", "/crash")
    assert seen == [("/text", 200), ("/error", 409), ("", 404), ("", 401), ("", 405)]


def test_errors_can_be_rendered() -> None:
    def render(request: http.Request, error: http.HTTPError) -> http.Response:
        body = {"error": error.text, "path": request.path}
        return http.json(body, error.status, error.headers)

    routes = http.Router(render=render)
    routes.get("/x")(nothing)
    inner = http.Router()
    routes.mount("/inner", inner)
    assert ask(routes, "GET", "/y").body == b'{"error":"Not Found","path":"/y"}'
    assert ask(routes, "GET", "/inner/y").body == b'{"error":"Not Found","path":"/inner/y"}'
    answer = ask(routes, "PUT", "/x")
    assert (answer.status, answer.headers) == (405, [("allow", "GET, HEAD, OPTIONS")])


# --------------------------------------------------------------- against a plain reference

SEGMENTS = ("a", "b", "1", "1.5", "é")
PARAMETERS = ("{%s:int}", "{%s:float}", "{%s}", "{%s:path}")
RANKS = {"int": 1, "float": 2, "str": 3, "path": 4}


@st.composite
def patterns(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.sampled_from(SEGMENTS + PARAMETERS), max_size=3))
    path_at = next((i for i, part in enumerate(parts) if "path" in part), len(parts))
    named = [part % f"p{i}" if "%" in part else part for i, part in enumerate(parts[: path_at + 1])]
    ends_with_slash = draw(st.booleans()) and path_at == len(parts)
    return "/" + "/".join(named) + ("/" if ends_with_slash and named else "")


def kind_of(part: str) -> str | None:
    if part[:1] != "{":
        return None
    return part[1:-1].partition(":")[2] or "str"


def matches(pattern: str, path: str) -> bool:
    forms = {"int": "[0-9]+", "float": r"[0-9]+(\.[0-9]+)?", "str": "[^/]+", "path": ".*"}
    parts = [forms.get(kind_of(part) or "", re.escape(part)) for part in pattern.split("/")]
    return re.fullmatch("/".join(parts), path) is not None


def rank(pattern: str) -> list[int]:
    return [RANKS.get(kind_of(part) or "", 0) for part in pattern.split("/")]


@given(
    st.lists(patterns(), unique=True, max_size=12),
    st.lists(st.sampled_from((*SEGMENTS, "", "c")), max_size=4),
    st.booleans(),
)
def test_the_tree_finds_what_trying_all_patterns_finds(
    defined: list[str], segments: list[str], encodes: bool
) -> None:
    routes = http.Router()
    by_shape = {re.sub(r"p\d", "p", pattern): pattern for pattern in defined}
    echoing(routes, *by_shape.values())
    path = "/" + "/".join(segments)
    expected = sorted((p for p in by_shape.values() if matches(p, path)), key=rank)
    target = quote(path)
    if encodes:
        target = target.replace("1", "%31").replace("a", "%61")
    found = ask(routes, "GET", target)
    assert found == (404, None) if not expected else found[0] == expected[0]


def test_middleware_may_call_its_handler_twice() -> None:
    routes, inner = http.Router(), http.Router()
    seen: list[tuple[str, str, str, int]] = []

    @inner.get("/users/{id:int}")
    async def user(request: http.Request) -> http.Response:
        params = request.route_params["id"]
        seen.append((request.route, request.root_path, request.sub_path, params))
        return http.Response("ok")

    def again(handler: http.Handler) -> http.Handler:
        async def twice(request: http.Request) -> Any:
            await handler(request)
            return await handler(request)

        return twice

    routes.use(again)
    inner.use(again)
    routes.mount("/api", inner)
    request = request_for("GET", "/api/users/7")
    assert asyncio.run(awaited(routes(request))).status == 200
    assert seen == [("/api/users/{id:int}", "/api", "/users/7", 7)] * 4
    assert request.route == "/api/users/{id:int}"
