"""``silly echo --http``: what it answers, on a good network and a bad one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from silly.cli.echoing import web
from silly.cli.echoing.impairment import Impairment
from silly.cli.echoing.log import Log
from silly.cli.echoing.meter import Meter
from silly.net.limits import Limits
from silly.testing import memory_pair, run_virtual
from tests.cli.terminal import DEADLINE, SILLY, Echo, environment, misused
from tests.net.http import wire
from tests.net.http.wire import Reply
from tests.net.tls import certificates

pytestmark = pytest.mark.no_engine

GOOD = Impairment()
HEAD = b"HTTP/1.1\r\nhost: server.test:81\r\n"


class Said(Log):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def answered(request: bytes, bad: Impairment = GOOD) -> tuple[Reply | None, float, Meter, Said]:
    """Return the answer, if there is one, how long it took, and what was counted and said."""
    meter, said = Meter(0.0), Said()

    async def main() -> tuple[Reply | None, float]:
        ours, theirs = memory_pair()
        loop = asyncio.get_running_loop()
        service = web.service(Limits(), bad, meter, said)
        service.begin(loop, "memory")
        serving = asyncio.ensure_future(service(theirs))
        began = loop.time()
        await ours.write(request)
        if bad.drop:
            assert await wire.rest(ours) == b""
            got = None
        else:
            got = await wire.reply(ours, request.split()[0].decode())
        took = loop.time() - began
        ours.close()
        await asyncio.wait([serving])
        return got, took

    got, took = run_virtual(main())
    return got, took, meter, said


def described(request: bytes) -> dict[str, Any]:
    got = answered(request)[0]
    assert got is not None
    assert (got.status, got.headers["content-type"]) == (200, "application/json")
    return dict(json.loads(got.body))


def test_a_request_is_described() -> None:
    got = described(b"PUT /a%20b?x=1&y=&x=2 " + HEAD + b'content-length: 8\r\nX: y\r\n\r\n{"a": 1}')
    assert got == {
        "method": "PUT",
        "url": "http://server.test:81/a%20b?x=1&y=&x=2",
        "args": {"x": ["1", "2"], "y": ""},
        "headers": {"Host": "server.test:81", "Content-Length": "8", "X": "y"},
        "origin": "memory",
        "data": '{"a": 1}',
        "form": {},
        "files": {},
        "json": {"a": 1},
    }


def test_forms_files_and_bytes() -> None:
    form = b"a=1&b=%C3%A9&a=2"
    kind = b"content-type: application/x-www-form-urlencoded\r\n"
    got = described(b"POST / " + HEAD + kind + b"content-length: %d\r\n\r\n" % len(form) + form)
    assert (got["form"], got["data"]) == ({"a": ["1", "2"], "b": "é"}, "")
    parts = (
        b'--x\r\ncontent-disposition: form-data; name="f"; filename="n"\r\n\r\n\xff\r\n'
        b'--x\r\ncontent-disposition: form-data; name="t"\r\n\r\ntext\r\n--x--\r\n'
    )
    kind = b"content-type: multipart/form-data; boundary=x\r\n"
    got = described(b"POST / " + HEAD + kind + b"content-length: %d\r\n\r\n" % len(parts) + parts)
    assert got["files"] == {"f": "data:application/octet-stream;base64,/w=="}
    assert got["form"] == {"t": "text"}
    got = described(b"POST / " + HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n\xfe\r\n0\r\n\r\n")
    assert got["data"] == "data:application/octet-stream;base64,/g=="


@pytest.mark.parametrize(
    ("path", "status", "size"),
    [
        ("/status/204", 204, 0),
        ("/status/503", 503, 0),
        ("/status/302", 302, 0),
        ("/status/99", 400, None),
        ("/status/x", 400, None),
        ("/bytes/1000", 200, 1000),
        ("/bytes/-1", 400, None),
        ("/bytes/999999999999", 400, None),
        ("/delay/-1", 400, None),
        ("/delay/nan", 400, None),
        ("/status/200/more", 200, None),
        ("/anything", 200, None),
    ],
)
def test_other_paths(path: str, status: int, size: int | None) -> None:
    got = answered(f"GET {path} ".encode() + HEAD + b"\r\n")[0]
    assert got is not None
    assert got.status == status
    assert size is None or len(got.body) == size
    assert ("location" in got.headers) == (status == 302)


def test_what_is_sent_in_pieces() -> None:
    got, took, _, _ = answered(b"GET /stream/3 " + HEAD + b"\r\n")
    assert got is not None
    assert [json.loads(line)["id"] for line in got.body.splitlines()] == [0, 1, 2]
    got, took, _, _ = answered(b"GET /sse/3 " + HEAD + b"\r\n")
    assert got is not None
    assert got.body.count(b"event: tick\n") == 3
    assert took == pytest.approx(2)
    assert answered(b"GET /delay/2.5 " + HEAD + b"\r\n")[1] == pytest.approx(2.5)


def test_a_bad_network() -> None:
    request = b"GET /bytes/1000 " + HEAD + b"\r\n"
    assert answered(request, Impairment(delay=3.0))[1] == pytest.approx(3)
    got, took, _, _ = answered(request, Impairment(max_rate=100.0))
    assert got is not None
    assert len(got.body) == 1000
    assert took == pytest.approx(10, rel=0.05)
    got, took, _, _ = answered(b"GET /stream/3 " + HEAD + b"\r\n", Impairment(max_rate=100.0))
    assert got is not None
    assert [json.loads(line)["id"] for line in got.body.splitlines()] == [0, 1, 2]
    assert took == pytest.approx(len(got.body) / 100, rel=0.1)
    got, _, meter, _ = answered(request, Impairment(drop=1.0))
    assert (got, meter.dropped) == (None, 1)


def test_requests_are_counted_and_shown() -> None:
    _, _, meter, said = answered(b"GET /status/404?%7F " + HEAD + b"\r\n")
    assert meter.answers == 1
    assert said.texts == ["memory:1 GET /status/404?%7F 404"]


def test_the_command_with_tls_and_the_proxy_protocol() -> None:
    cert, key = certificates.pair()
    args = ("--http", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key)
    with Echo(*args, "--proxy-protocol", "127.0.0.0/8") as echo:
        done = subprocess.run(
            [*SILLY, "connect", echo.addr, "--tls", "--insecure", "--proxy-header", "192.0.2.7:81"],
            input=b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            capture_output=True, check=False, timeout=DEADLINE, env=environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout.partition(b"\r\n\r\n")[2])
        assert (body["url"], body["origin"]) == ("https://a/x", "192.0.2.7")
        summary = echo.stop()
    assert (summary["answers"], summary["mode"]) == (1, "http")


def test_without_the_extra_it_says_so() -> None:
    code = "import sys; sys.modules['httptools'] = None; from silly.cli import main; "
    assert "--http: silly.net.http needs httptools: " in subprocess.run(
        [sys.executable, "-c", f"{code} sys.exit(main(['echo', '--http']))"],
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    ).stderr  # fmt: skip
    assert "--http and --udp" in misused("echo", "--http", "--udp")
