"""Responses, without a server: their makers, cookies, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net import http
from silly.net.http import content
from silly.testing import ask

pytestmark = pytest.mark.no_engine


def test_json() -> None:
    response = http.json({"é": [1, None, 1.5]}, 201, {"x-a": "b"})
    assert response.body == '{"é":[1,null,1.5]}'.encode()
    assert (response.status, response.content_type) == (201, "application/json")
    assert response.headers == [("x-a", "b")]
    with pytest.raises(ValueError, match="not JSON compliant"):
        http.json(float("nan"))
    with pytest.raises(TypeError, match="not JSON serializable"):
        http.json({1, 2})
    with pytest.raises(ValueError, match="Circular"):
        circle: list[Any] = []
        circle.append(circle)
        http.json(circle)


def test_json_where_the_interpreter_has_no_encoder_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    assert content._native_encoder() is None
    monkeypatch.setattr(content, "_pieces_of", None)
    assert http.json({"é": [1, None, 1.5]}).body == '{"é":[1,null,1.5]}'.encode()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=10,
    )
)
def test_json_is_that_of_the_standard_library(value: Any) -> None:
    try:
        expected = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        encoded = expected.encode()
    except ValueError:  # infinite, or half of a surrogate pair
        with pytest.raises(ValueError, match=r"."):
            http.json(value)
    else:
        assert http.json(value).body == encoded


def test_bodies_of_other_types_become_text_or_bytes() -> None:
    class Markup(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self

    for body in (Markup("<p>"), bytearray(b"<p>"), memoryview(b"<p>")):
        assert type(http.Response(body).body) in {str, bytes}
    for wrong in ({"a": 1}, 5, None):
        with pytest.raises(TypeError, match="the body of a response is"):
            http.Response(wrong)  # type: ignore[arg-type]


def test_added_fields() -> None:
    response = http.Response("", headers={"X-A": "1"})
    response.add_header("x-a", "2")
    response.add_header("Content-Type", "text/x")
    assert response.headers == [("x-a", "1"), ("x-a", "2")]
    assert response.content_type == "text/x"
    with pytest.raises(ValueError, match="content-length is set by the server"):
        response.add_header("Content-Length", "1")


def test_other_makers() -> None:
    assert http.html("<p>").content_type == "text/html; charset=utf-8"
    response = http.redirect("/elsewhere")
    assert (response.status, response.headers) == (303, [("location", "/elsewhere")])
    for location, sent in (
        ("/é?€=%20 ü", "/%C3%A9?%E2%82%AC=%20 %C3%BC"),
        ("http://a/b#c", "http://a/b#c"),
    ):
        assert http.redirect(location).headers == [("location", sent)]
    with pytest.raises(ValueError, match="status must be 301"):
        http.redirect("/", 200)
    with pytest.raises(ValueError, match="not the value of a header field"):
        http.redirect("/\r\nset-cookie: a=b")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "a=b; Path=/; SameSite=Lax; HttpOnly"),
        ({"max_age": 0, "path": None, "same_site": None, "http_only": False}, "a=b; Max-Age=0"),
        (
            {"domain": "example.com", "secure": True, "same_site": "None", "path": "/x"},
            "a=b; Path=/x; Domain=example.com; SameSite=None; Secure; HttpOnly",
        ),
    ],
)
def test_cookies(options: dict[str, Any], text: str) -> None:
    response = http.Response()
    response.set_cookie("a", "b", **options)
    assert response.headers == [("set-cookie", text)]


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("a b", "x", {}),
        ("", "x", {}),
        ("a", "x;y", {}),
        ("a", "x y", {}),
        ("a", "é", {}),
        ("a", "x\r\n", {}),
        ("a", "x", {"path": "/; Domain=x"}),
        ("a", "x", {"domain": "x\n"}),
    ],
)
def test_cookies_that_are_refused(name: str, value: str, options: dict[str, Any]) -> None:
    response = http.Response()
    with pytest.raises(ValueError, match="cookie"):
        response.set_cookie(name, value, **options)
    assert response.headers == []


def test_cookies_of_a_request() -> None:
    fields = [(b"cookie", b'a=1; b="x y"; bad name=2; c'), (b"cookie", b"d=4=4; a=5")]
    request = http.Request("GET", b"/", "1.1", fields, 0)
    cookies = request.cookies
    assert (cookies["a"], cookies["b"], cookies["d"]) == ("5", "x y", "4=4")


@given(st.text("ab\r\n\0:; é\x7f", max_size=8), st.text("ab\r\n\0: é\x7f", max_size=8))
def test_no_field_can_end_itself(name: str, value: str) -> None:
    response = http.Response("x")
    try:
        response.add_header(name, value)
    except ValueError:
        return
    head = response._head(1, "")
    assert head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r")
    assert head.count(b"\r\n") == http.Response("x")._head(1, "").count(b"\r\n") + 1


@pytest.mark.parametrize("status", [True, "200", 404.0])
def test_statuses_of_another_type(status: Any) -> None:
    with pytest.raises(TypeError, match="status must be an int"):
        http.Response(status=status)


async def test_bodies_that_are_not_what_they_should_be() -> None:
    async def handler(request: http.Request) -> str:
        return await request.text() if request.path == "/text" else str(await request.json())

    for url, body, kind, text in (
        ("/text", b"\xff", "text/plain", "the body is not text in utf-8"),
        ("/text", b"a", "text/plain; charset=none", "the body is not text in none"),
        ("/json", b"{", "application/json", "the body is not valid JSON"),
        ("/json", b"[" * 100_000, "application/json", "the body is not valid JSON"),
    ):
        fields = {"content-type": kind}
        reply = await ask(handler, "POST", url, data=body, headers=fields)
        assert (reply.status, await reply.text()) == (400, f"{text}\n")


async def test_fields_of_a_request_as_a_mapping() -> None:
    async def handler(request: http.Request) -> str:
        headers = request.headers
        assert len(headers) == len(list(headers))
        assert repr(headers) == f"Headers({dict(headers)!r})"
        with pytest.raises(KeyError):
            headers["x-none"]
        return headers["x-one"]

    reply = await ask(handler, "GET", "/", headers={"X-One": "1"})
    assert await reply.text() == "1"


async def test_methods_of_a_client_that_are_refused() -> None:
    async with http.Client() as client:
        with pytest.raises(ValueError, match="CONNECT is for proxies"):
            await client.request("connect", "http://127.0.0.1/")
        with pytest.raises(ValueError, match="method must be a name such as 'GET'"):
            await client.request("GET /", "http://127.0.0.1/")
