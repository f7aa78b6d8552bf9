"""Every example of HTTP is run as a user would run it; curl and a browser are the clients."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import test_examples
from tests.test_examples import EXAMPLES, Running

pytestmark = pytest.mark.no_engine


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


def curl(url: str, *options: str) -> Answer:
    command = ["curl", "-sS", "-i", "-m", "60", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)
    head, _, body = done.stdout.partition("\n\n")
    while re.match(r"HTTP/1.1 1\d\d", head):
        head, _, body = body.partition("\n\n")
    status, *lines = head.splitlines()
    fields = dict(line.split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), fields, body)


def post(value: Any) -> tuple[str, ...]:
    return ("-X", "POST", "-H", "content-type: application/json", "-d", json.dumps(value))


@contextmanager
def serving(name: str, port: int, directory: Path) -> Iterator[str]:
    """Run a copy of an example on another port than 8080."""
    text = (EXAMPLES / name).read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    path = directory / name
    path.write_text(text + '\nprint("ready", flush=True)\n')
    shutil.copytree(EXAMPLES / "static", directory / "static", dirs_exist_ok=True)
    example = Running(str(path))  # an absolute path stays as it is
    try:
        assert (line := example.line()) == "ready\n", line + example.rest()
        yield f"http://127.0.0.1:{port}"
        example.stop()
    finally:
        example.end()


def test_hello(port: int, tmp_path: Path) -> None:
    with serving("http_hello.py", port, tmp_path) as url:
        answer = curl(f"{url}/any/path?x=1")
        assert (answer.status, answer.body) == (200, "Hello, World!\n")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["content-length"] == "14"


def test_routes(port: int, tmp_path: Path) -> None:
    with serving("http_routes.py", port, tmp_path) as url:
        assert curl(f"{url}/").body == "Welcome to the home page\n"
        assert curl(f"{url}/about").body == "About us\n"
        assert curl(f"{url}/contact").body == "Contact us\n"
        assert curl(f"{url}/greet/J%C3%B6rg").body == "Hello, Jörg!\n"
        answer = curl(f"{url}/no/where")
        assert (answer.status, answer.body) == (404, "Not found: /no/where\n")
        answer = curl(f"{url}/about", "-X", "POST")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_api(port: int, tmp_path: Path) -> None:
    with serving("http_api.py", port, tmp_path) as url:
        assert [user["name"] for user in curl(f"{url}/api/users").json] == ["Alice", "Bob"]
        assert [user["id"] for user in curl(f"{url}/api/users?name=Bob").json] == [2]
        answer = curl(f"{url}/api/users", *post({"name": "Carol", "age": 41}))
        assert (answer.status, answer.json) == (201, {"id": 3, "name": "Carol", "age": 41})
        assert curl(f"{url}/api/users?name=Carol").json == [answer.json]
        wrong: list[Any] = [{"name": "Dan"}, {"age": 1}, {"name": 5, "age": 1}, [], "text"]
        for value in (*wrong, {"name": "", "age": 1}, {"name": "x", "age": True}):
            answer = curl(f"{url}/api/users", *post(value))
            assert (answer.status, "required" in answer.json["error"]) == (400, True)
        answer = curl(f"{url}/api/users", "-X", "POST", "-d", "{")
        assert (answer.status, answer.json["error"]) == (400, "the body is not valid JSON")
        assert curl(f"{url}/nothing").json == {"error": "Not Found"}


def test_pages(port: int, tmp_path: Path) -> None:
    with serving("http_pages.py", port, tmp_path) as url:
        for path, title in (("/", "Home"), ("/about", "About")):
            answer = curl(url + path)
            assert f"<h1>{title}</h1>" in answer.body
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert curl(f"{url}/api/status").json["uptime"] >= 0
        answer = curl(f"{url}/static/style.css")
        assert answer.body == (EXAMPLES / "static" / "style.css").read_text()
        assert answer.headers["content-type"] == "text/css; charset=utf-8"
        tag = answer.headers["etag"]
        assert curl(f"{url}/static/style.css", "-H", f"If-None-Match: {tag}").status == 304
        assert curl(f"{url}/static/style.css", "-r", "0-3").body == "body"
        for path in ("/static/../http_pages.py", "/static/%2e%2e/http_pages.py", "/nothing"):
            answer = curl(url + path, "--path-as-is")
            assert (answer.status, "<h1>404" in answer.body) == (404, True)


def test_the_complete_program() -> None:
    with test_examples.running("http_server.py", "127.0.0.1:0") as example:
        url = f"http://{re.search(r'127[^/]+', example.line())[0]}"  # type: ignore[index]
        lines = [example.line(), example.line()]
        assert re.fullmatch(r"\[[-\d]+ [:\d]+\] GET /api/status\n", lines[0])
        assert lines[1].startswith("Self-test passed: silly ")
        assert "<h1>HTTP server</h1>" in curl(f"{url}/").body
        assert "Made with silly" in curl(f"{url}/about").body
        assert len(curl(f"{url}/api/users").json) == 2
        answer = curl(f"{url}/api/users", *post({"name": "Carol", "age": 41}))
        assert (answer.status, answer.json["email"]) == (201, "carol@example.com")
        answer = curl(f"{url}/api/users", *post({"name": "Dan", "age": 1, "email": "d@x"}))
        assert answer.json == {"id": 4, "name": "Dan", "age": 1, "email": "d@x"}
        assert curl(f"{url}/api/users", *post({"name": 5, "age": 1})).status == 400
        assert curl(f"{url}/api/users?name=Carol").json[0]["age"] == 41
        status = curl(f"{url}/api/status").json
        assert (status["users_count"], status["protocol"]) == (4, "HTTP/1.1")
        answer = curl(f"{url}/nowhere?x=%1b")
        assert answer.status == 404
        assert answer.json == {"error": "Not Found", "path": "/nowhere", "method": "GET"}
        assert example.stop().endswith("GET /nowhere?x=%1b\n")


def test_users_are_changed_and_deleted(port: int, tmp_path: Path) -> None:
    with serving("http_users.py", port, tmp_path) as url:
        answer = curl(f"{url}/api/users", *post({"name": "Carol", "age": 41}))
        assert (answer.status, answer.headers["location"]) == (201, "/api/users/3")
        changed = {"name": "Caroline", "age": 42}
        answer = curl(f"{url}/api/users/3", *post(changed), "-X", "PUT")
        assert (answer.status, answer.json) == (200, {"id": 3, **changed})
        assert curl(f"{url}/api/users/3").json["name"] == "Caroline"
        answer = curl(f"{url}/api/users/3", "-X", "DELETE")
        assert (answer.status, answer.body) == (204, "")
        for options in ((), ("-X", "DELETE"), (*post(changed), "-X", "PUT")):
            assert curl(f"{url}/api/users/3", *options).status == 404
        assert curl(f"{url}/api/users", *post(changed)).json["id"] == 4  # not 3 again
        assert curl(f"{url}/api/users/1", *post({"name": 1}), "-X", "PUT").status == 400
        answer = curl(f"{url}/api/users/1", "-X", "PATCH")
        assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS, PUT")


def test_middleware(port: int, tmp_path: Path) -> None:
    with serving("http_middleware.py", port, tmp_path) as url:
        assert curl(f"{url}/").status == 200
        answer = curl(f"{url}/api/secrets")
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        for token in ("wrong", "sécret"):
            assert curl(f"{url}/api/secrets", "--oauth2-bearer", token).status == 401
        assert curl(f"{url}/api/nothing").status == 401  # what there is, is not told
        answer = curl(f"{url}/api/secrets", "--oauth2-bearer", "secret")
        assert answer.json == ["the answer is 42"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_long(port: int, tmp_path: Path, is_chunked: bool) -> None:
    path = tmp_path / "body"
    how = ("--data-binary", f"@{path}", *["-H", "Transfer-Encoding: chunked"][: 2 * is_chunked])
    with serving("http_body_limit.py", port, tmp_path) as url:
        path.write_bytes(b"x" * 1024 * 1024)
        assert curl(f"{url}/upload", *how).json == {"bytes": 1024 * 1024}
        path.write_bytes(b"x" * (1024 * 1024 + 1))
        assert curl(f"{url}/upload", *how).status == 413


def test_cors(port: int, tmp_path: Path) -> None:
    with serving("http_cors.py", port, tmp_path) as url:
        preflight = ("-X", "OPTIONS", "-H", "Access-Control-Request-Method: GET")
        answer = curl(f"{url}/api/status", "-H", "Origin: https://example.com", *preflight)
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://example.com"
        assert "GET" in answer.headers["access-control-allow-methods"]
        answer = curl(f"{url}/api/status", "-H", "Origin: https://evil.example")
        assert (answer.status, answer.headers["vary"]) == (200, "origin")
        assert "access-control-allow-origin" not in answer.headers
        answer = curl(f"{url}/nothing", "-H", "Origin: https://example.com")
        assert (answer.status, answer.headers["vary"]) == (404, "origin")
        assert answer.headers["access-control-allow-origin"] == "https://example.com"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    with test_examples.running("http_server.py", "127.0.0.1:0") as example:
        url = f"http://{re.search(r'127[^/]+', example.line())[0]}/"  # type: ignore[index]
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path}", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert "<h1>HTTP server</h1>" in done.stdout, done.stderr
        example.stop()
