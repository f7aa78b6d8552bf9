"""The parts of ``silly serve``: the options of uvicorn, and finding the application."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from silly._logs.tracebacks import strip
from silly.cli import serve
from silly.cli.arguments import OPTIONS
from silly.cli.options import _SWITCH
from silly.cli.serving.application import Unusable, load
from silly.cli.serving.options import REFUSED, RENAMED, TABLE, WITHOUT_EFFECT, Refusal, split
from silly.net.asgi.middleware import AtMost, Retiring, WithHeaders
from silly.net.asgi.types import Message, Receive, Scope, Send

pytestmark = pytest.mark.no_engine

HOWTO = Path(__file__).parents[2] / "docs" / "howto"

# ------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("given", "ours", "runners"),
    [
        ("m:a :80 --workers 4", "m:a :80", "--workers 4"),
        ("--workers=4 m:a --factory", "m:a --factory", "--workers 4"),
        ("m:a --timeout-keep-alive 5", "m:a", "--keep-alive-timeout 5"),
        ("m:a --timeout-graceful-shutdown=30", "m:a", "--grace 30"),
        ("m:a --h11-max-incomplete-event-size 1000", "m:a", "--max-head-bytes 1000"),
        (
            "m:a --ws-max-size 10 --ws-ping-timeout=5",
            "m:a",
            "--max-message-bytes 10 --ping-timeout 5",
        ),
        ("m:a --log-level critical", "m:a", "--log-level error"),
        ("m:a --log-level=trace --reload", "m:a", "--log-level debug --reload"),
        (
            "m:a --reload-dir a --log-config=log.ini --env-file b --reload-delay 1",
            "m:a --env-file b",
            "--reload-dir a --log-config log.ini",
        ),
        ("m:a --loop auto --http=h11 --ws none --no-use-colors", "m:a", ""),
        ("m:a --loop uvloop :80", "m:a :80", "--uvloop"),
        ("m:a --loop=uvloop", "m:a", "--uvloop"),
        ("m:a --log-format json", "m:a --log-format json", "--log-format json"),
        ("m:a --access-log --host 0.0.0.0", "m:a --access-log --host 0.0.0.0", ""),
        ("m:a --workers", "m:a", "--workers"),
    ],
)
def test_options_go_to_where_they_belong(
    given: str, ours: str, runners: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    assert split(given.split()) == (ours.split(), runners.split())


def test_the_number_of_workers_that_a_platform_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    assert split(["m:a"])[1] == ["--workers", "3"]
    assert split(["m:a", "--workers", "2"])[1] == ["--workers", "2"]
    assert split(["m:a", "--reload"])[1] == ["--reload"]
    monkeypatch.setenv("SILLY_WORKERS", "1")
    assert split(["m:a"])[1] == []


@pytest.mark.parametrize("flag", REFUSED)
def test_what_has_no_place_here_is_said(flag: str) -> None:
    with pytest.raises(Refusal, match=re.escape(f"{flag}: {REFUSED[flag]}")):
        split(["m:a", flag, "x"])


def test_every_option_of_uvicorn_is_understood() -> None:
    uvicorn = pytest.importorskip("uvicorn.main")
    known = {*REFUSED, *RENAMED, *WITHOUT_EFFECT, *serve._parser()._option_string_actions}
    known |= {"--version", *(option.flag for option in OPTIONS)}
    flags = {flag for each in uvicorn.main.params for flag in (*each.opts, *each.secondary_opts)}
    flags = {flag for flag in flags if flag.startswith("--")}
    assert flags - known == set()
    page = HOWTO / "migrate-from-uvicorn.md"
    assert flags - set(re.findall(r"`(--[\w-]+)`", page.read_text())) == set()


def parsed(text: str) -> Any:
    return serve._parser().parse_intermixed_args(text.split())


@pytest.mark.parametrize(
    ("given", "addrs"),
    [
        ("", ["127.0.0.1:8000"]),
        (":80 unix:/a", [":80", "unix:/a"]),
        ("--host 0.0.0.0", ["0.0.0.0:8000"]),
        ("--port 0", ["127.0.0.1:0"]),
        ("--host ::1 --port 80", ["[::1]:80"]),
        ("--host [::] --port 80", ["[::]:80"]),
        ("--uds /run/app", ["unix:/run/app"]),
        ("--uds a --port 1 -b :2 --bind :3 :4", [":4", ":2", ":3", "unix:a", "127.0.0.1:1"]),
    ],
)
def test_where_to_listen(given: str, addrs: list[str]) -> None:
    assert serve._addrs(parsed(f"m:a {given}")) == addrs


def test_values(monkeypatch: pytest.MonkeyPatch) -> None:
    options = parsed(
        "m:a --root-path /site/ --header X-A:1 --header x-b:2:3 --ssl-cert-reqs 2 "
        "--startup-timeout 5m"
    )
    assert options.root_path == "/site"
    assert [parsed(f"m:a --root-path={path}").root_path for path in ("a/b", "/", "")] == [
        "/a/b",
        "",
        "",
    ]
    assert options.header == [(b"x-a", b"1"), (b"x-b", b"2:3")]
    assert (options.ssl_cert_reqs, options.startup_timeout) == ("required", 300)
    everyone = ("0.0.0.0/0", "::/0", "unix")
    assert parsed("m:a --forwarded-allow-ips=*").forwarded_allow_ips == everyone
    assert parsed("m:a --trusted-proxies 10.0.0.0/8,unix").trusted_proxies == ("10.0.0.0/8", "unix")
    assert parsed("m:a").forwarded_allow_ips == ("127.0.0.0/8", "::1/128", "unix")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.1.1.1")
    assert parsed("m:a").forwarded_allow_ips == ("10.1.1.1",)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("--port 65536", "'65536' is not a port"),
        ("--header x", "'x' is not a header field such as"),
        ("--header é:1", "'é:1' is not a header field such as"),
        ("--ssl-cert-reqs 3", "'3' is not one of 'none', 'optional', 'required' (0, 1, 2)"),
        ("--trusted-proxies example.com", "'example.com' does not appear to be"),
        ("--lifespan maybe", "'maybe' is not one of 'auto', 'on', 'off'"),
    ],
)
def test_wrong_values(given: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(f"m:a {given}")
    assert text in capsys.readouterr().err


def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "example.com")
    with pytest.raises(SystemExit):
        parsed("m:a")
    assert "FORWARDED_ALLOW_IPS: 'example.com' does not appear to be" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("Yes", True), ("1", True), ("off", False)])
def test_switches(text: str, value: bool) -> None:
    assert _SWITCH.parse(text) is value


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("--prot 80", "--prot 80 (did you mean --port?)"),
        ("--worker=4", "--worker=4 (did you mean --workers?)"),
        ("--timeout-keepalive 1", "1 (did you mean --timeout-keep-alive?)"),
        ("-p 80", "-p 80 (see: silly serve --help)"),
    ],
)
def test_an_unknown_option_is_one_line_with_a_suggestion(
    given: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(f"m:a {given}")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("silly serve: unrecognized arguments: ")
    assert line.endswith(hint)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", "expected MODULE:APP, such as main:app"),
        ("--workers 4", "expected MODULE:APP, such as main:app"),
        ("main", "expected MODULE:APP, such as main:app, not 'main'"),
        ("main.py", "expected MODULE:APP, such as main:app, not 'main.py'"),
        ("site/main.py:api", "expected MODULE:APP, such as site.main:api, not 'site/main.py:api'"),
        ("m:a --fd 3", f"--fd: {REFUSED['--fd']}"),
        ("m:a --env-file /none", "--env-file: cannot read '/none': No such file or directory"),
        ("m:a --ssl-keyfile x", "TLS: the options --ssl-... need --ssl-certfile"),
        ("m:a --ssl-certfile /none", "TLS: [Errno 2] No such file or directory: '/none'"),
    ],
)
def test_usage_errors_are_one_line(
    given: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(given.split()) == 2
    assert capsys.readouterr().err == f"silly serve: {text}\n"


def test_every_option_is_in_the_help() -> None:
    text = serve._parser().format_help()
    assert all(f"  {option.flag}" in text for option in TABLE if option.short is None)


# ----------------------------------------------------------------------- the application

MODULE = """
class app:
    async def __call__(self, scope, receive, send): ...

async def raw(scope, receive, send): ...
class nested: raw = raw
text = "x"
builtin = max
def make(): return raw
def make_text(): return "x"
async def make_later(): return raw
def make_of(x): return raw
def wsgi(environ, start_response): ...
def other(*, x): ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A directory with a module `made`; what is imported from it is forgotten."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "made.py").write_text(MODULE)
    (tmp_path / "absent.py").write_text("import nothing_of_this_name")
    (tmp_path / "older.py").write_text("from made import nothing")
    (tmp_path / "wrong.py").write_text("def (")
    yield str(tmp_path)
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


@pytest.mark.parametrize("text", ["made:raw", "made:nested.raw", "made:make --factory"])
def test_an_application_is_found(module: str, text: str) -> None:
    text, _, factory = text.partition(" ")
    assert load(text, directory=module, is_factory=bool(factory)).__name__ == "raw"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mad:app", r"there is no module 'mad' in .*; did you mean made\?"),
        ("made.sub:app", "there is no module 'made.sub' in "),
        ("made:rav", r"made has no 'rav'; did you mean made:raw\?"),
        ("made:nested.app", "made has no 'nested.app'"),
        ("made:create", r"made has no 'create'; did you mean made:app\?"),
        ("made:text", "made:text is no application, but of type str"),
        ("made:make", "made:make takes no arguments: if it returns the application, add --factory"),
        ("made:wsgi", "does not take scope, receive and send: a WSGI application, such as"),
        ("made:other", "made:other does not take scope, receive and send$"),
        ("made:text --factory", "made:text is not a function but of type str"),
        ("made:make_text --factory", "what made:make_text returns is no application, but"),
        ("made:make_later --factory", "made:make_later is a coroutine function; it must return"),
        ("made:make_of --factory", "made:make_of needs arguments; it must do without"),
        ("absent:app", r"cannot import absent: No module named 'nothing_of.*absent.py, line 1\)"),
        ("older:app", r"cannot import older: cannot import name 'nothing'.*older.py, line 1\)"),
        ("wrong:app", r"cannot import wrong: invalid syntax \(.*wrong.py, line 1\)"),
    ],
)
def test_what_is_none_is_said_in_a_line(module: str, text: str, why: str) -> None:
    text, _, factory = text.partition(" ")
    with pytest.raises(Unusable, match=why) as raised:
        load(text, directory=module, is_factory=bool(factory))
    assert "\n" not in str(raised.value)


def test_a_function_that_does_not_say_what_it_takes_is_an_application(module: str) -> None:
    assert load("made:builtin", directory=module, is_factory=False) is max


def test_a_failing_module_leaves_its_own_frames_only(module: str) -> None:
    (Path(module) / "failing.py").write_text("raise OSError('a failure of the test')")
    with pytest.raises(OSError, match="a failure of the test") as raised:
        load("failing:app", directory=module, is_factory=False)
    strip(raised.value)
    frames = traceback.extract_tb(raised.value.__traceback__)
    assert [Path(frame.filename).name for frame in frames] == [Path(__file__).name, "failing.py"]


def test_the_extra_is_named_if_it_is_missing(module: str) -> None:
    program = (
        "import sys; sys.modules['httptools'] = None;"
        "from silly.cli import main; sys.exit(main(['serve', 'made:raw', '--log-level', 'error']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=module, capture_output=True, text=True, check=False
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("silly serve: silly.net.http needs httptools: ")
    assert "pip install" in line
    assert done.returncode == 2


# ---------------------------------------------------------------------------- middleware


async def test_fields_are_added_to_responses() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"b", b"2")]})
        await send({"type": "http.response.body"})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await WithHeaders(app, [(b"a", b"1")])({"type": "http"}, send, send)  # type: ignore[arg-type]
    assert sent[0]["headers"] == [(b"a", b"1"), (b"b", b"2")]
    assert len(sent) == 2


async def test_no_more_requests_run_than_there_may() -> None:
    depth = 0

    async def receive() -> Message:
        raise AssertionError

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal depth
        depth += 1
        assert depth <= 2
        await limited(scope, receive, send)  # while this one runs
        depth -= 1
        await send({"type": "end"})

    sent: list[Any] = []

    async def send(message: Message) -> None:
        sent.append(message.get("status") or message.get("code") or message["type"])

    limited = AtMost(app, 2)
    await limited({"type": "http"}, receive, send)
    assert sent == [503, "http.response.body", "end", "end"]
    sent.clear()
    await limited({"type": "websocket"}, receive, send)
    assert sent == [1013, "end", "end"]


async def test_a_worker_retires_after_its_requests() -> None:
    calls: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(scope["type"])

    async def unused() -> Message:
        raise AssertionError

    retiring = Retiring(app, 2, lambda: calls.append("retires"))
    for kind in ("lifespan", "http", "http", "http"):
        await retiring({"type": kind}, unused, unused)  # type: ignore[arg-type]
    assert calls == ["lifespan", "http", "retires", "http", "http"]
