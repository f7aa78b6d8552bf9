"""The mistakes of the first five minutes: each gets a one-line answer that helps."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import silly
from silly._engine import portable
from silly.cli import main
from silly.net import addr
from silly.net.limits import Limits
from tests.workers.harness import environment, running, script

pytestmark = pytest.mark.no_engine


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Return the line with which the command fails."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("verb", ["bench", "echo"])
def test_host_and_port_as_two_arguments(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, verb, "localhost", "9999")
    if verb != "echo":  # echo takes several addresses
        assert f"silly {verb} localhost:9999" in line


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("http://localhost:8080/path?q=1", "localhost:8080"),
        ("http://example.com", "example.com:80"),
        ("https://user:word@example.com/", "example.com:443"),
        ("tcp://[::1]:7", "[::1]:7"),
    ],
)
def test_a_url(url: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    verbs = ("connect", "echo") if url.startswith("http") else ("connect", "bench", "echo")
    for verb in verbs:
        assert f"it is a URL, and its host and port are '{meant}'" in said(capsys, verb, url)
    with pytest.raises(ValueError, match=r"it is a URL"):
        addr.parse(url)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bnech", "silly bench"),
        ("conect", "silly connect"),
        ("app", "silly app.py"),
        ("ap.py", "silly app.py"),
    ],
)
def test_a_missing_file_with_a_similar_name(
    typed: str,
    meant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    script(tmp_path, "", name="app.py")
    assert said(capsys, typed, "localhost:1").endswith(f"did you mean: {meant}\n")


def test_a_missing_file_without_a_similar_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "a script (FILE.py), MODULE:FUNCTION or a command" in said(capsys, "xyzzy")


def test_help_as_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["help"])
    assert "silly bench" in capsys.readouterr().out
    assert main(["help", "connect"]) == 0
    assert "Usage: silly connect" in capsys.readouterr().out


def test_help_into_a_pipe_that_closes_early() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "silly", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == b""


def test_a_port_in_use_is_one_line_with_workers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with running("-m", "silly", "--workers", "2", script(tmp_path), address) as silly:
            output = silly.rest()
            assert silly.process.returncode == 1
    line = rf".*worker 1 \(pid \d+\) cannot listen on {address}: Address already in use; .*\n"
    assert re.fullmatch(line, output)


def test_other_errors_of_workers_are_shown(tmp_path: Path) -> None:
    text = """
    import sys
    from silly.net import tcp
    try:
        tcp.listen(sys.argv[1], print)
    except OSError as error:
        raise LookupError("another one") from error
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with running("-m", "silly", "--workers", "1", script(tmp_path, text), address) as silly:
            assert silly.rest().count("LookupError: another one") == 1


# ------------------------------------------------------------- options and variables

PRINTS_LIMITS = """
import json, sys
from silly import metrics
from silly.net import tcp
from silly.net.tcp import Limits

listener = tcp.listen("127.0.0.1:0", print, **eval(sys.argv[1]))
print(json.dumps(metrics.snapshot()["listeners"][listener.local_addr]["limits_set"]))
listener.close(0)
"""


def limits_of(
    tmp_path: Path, *flags: str, code: str = "{}", **variables: str
) -> tuple[dict[str, str], str]:
    """Return what `stats` says about a listener's limits, and the other output."""
    path = script(tmp_path, PRINTS_LIMITS)
    done = subprocess.run(
        [sys.executable, "-m", "silly", *flags, str(path), code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment(**variables),
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_code_overrides_flags_and_flags_override_the_environment(tmp_path: Path) -> None:
    stated, _ = limits_of(
        tmp_path,
        "--idle-timeout",
        "2m",
        "--read-limit=64k",
        "--min-send-rate",
        "1k/s",
        "--accept-rate=none",
        code="{'linger': 3, 'idle_timeout': 5}",
        SILLY_READ_LIMIT="1M",
        SILLY_MAX_CONNECTIONS="10k",
        SILLY_MEMORY_BUDGET="512M",
        SILLY_FIRST_BYTE_TIMEOUT="1500ms",
        SILLY_LINGER="1m",
    )
    assert stated["idle_timeout"] == "5 (code)"
    assert stated["linger"] == "3 (code)"
    assert stated["read_limit"] == "65536 (flag)"
    assert stated["min_send_rate"] == "1024 (flag)"
    assert stated["accept_rate"] == "none (flag)"
    assert stated["max_connections"] == "10000 (environment)"
    assert stated["memory_budget"] == "536870912 (environment)"
    assert stated["first_byte_timeout"] == "1.5 (environment)"
    assert stated["max_unsent"] == "16777216 (default)"


def test_flags_reach_workers(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        from silly.net import tcp
        listener = tcp.listen("127.0.0.1:0", print)
        print("has", listener.limits.max_connections, listener.limits.origins["max_connections"])
        listener.close(0)
        """,
    )
    options = ("--workers", "1", "--max-connections", "2k")
    with running("-m", "silly", *options, path) as silly:
        assert silly.until("^has (.*)") == ["2000 flag"]
        silly.rest()


@pytest.mark.parametrize(
    ("flag", "right", "wrong"),
    [
        ("--grace", "5s", "soon"),
        ("--grace", "1m", "5 parsecs"),
        ("--grace", "inf", "-1"),
        ("--max-connections", "10k", "many"),
        ("--idle-timeout", "none", "0s"),
        ("--linger", "1500ms", "none"),
        ("--exempt-networks", "10.0.0.0/8", "loopback"),
        ("--proxy-protocol", "10.0.0.0/8,unix", "loopback"),
    ],
)
def test_values_are_written_the_same_everywhere(
    flag: str,
    right: str,
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("silly.net.limits._flags", {})
    monkeypatch.setattr("silly.net.proxy.trust._flag", None)
    variable = "SILLY_" + flag.removeprefix("--").replace("-", "_").upper()
    missing = str(tmp_path / "missing.py")
    assert main([flag, right, missing]) == 2
    assert "cannot read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([flag, wrong, missing])
    assert f"argument {flag}: '{wrong}' is not " in capsys.readouterr().err
    monkeypatch.setenv(variable, right)
    Limits.from_env()
    assert main([missing]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_unknown_variables_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SILLY_MAX_CONECTIONS", "7")
    monkeypatch.setenv("SILLY_GRASE", "7s")
    monkeypatch.setenv("SILLY_HILLS", "7")
    for command in ([str(tmp_path / "missing.py")], ["connect", "nonsense"]):
        main(command)
        err = capsys.readouterr().err
        assert "ignoring SILLY_MAX_CONECTIONS: no such variable; did you mean SILLY_MAX_C" in err
        assert "ignoring SILLY_GRASE: no such variable; did you mean SILLY_GRACE?" in err
        assert "ignoring SILLY_HILLS: no such variable\n" in err
        assert err.count("no such variable") == 3


# ------------------------------------------------------------------- what it says of itself

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
STOPS = """
import os, signal
from silly.net import tcp
listener = tcp.listen("127.0.0.1:0", print)
print("at", listener.local_addr, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("engine", sorted({silly.engine(), "portable"}))
def test_a_script_prints_where_it_listens(tmp_path: Path, engine: str) -> None:
    path = script(tmp_path)
    admin = f"unix:{tmp_path}/admin"
    options = ("--admin", admin, path)
    with running("-m", "silly", *options, env=environment(SILLY_ENGINE=engine)) as program:
        (address,) = program.until(
            r"^listening None \d+ (\S+)"
        )  # the script's own line comes first
        (where,) = program.until(rf"^{STAMP} INFO \[\d+\] silly: listening on (.*)$")
        assert where == f"{address} ({engine} engine); Ctrl-C or SIGTERM stops"
        program.stop()
        assert program.output.count("silly: listening on") == 1  # not of the admin socket


def test_a_supervisor_prints_it_once(tmp_path: Path) -> None:
    with running("-m", "silly", "--workers", "2", script(tmp_path)) as program:
        program.until("is ready", times=2)
        program.stop()
        addresses = set(re.findall(r"^listening \d+ \d+ (\S+)", program.output, re.MULTILINE))
        told = re.findall(
            rf"^{STAMP} INFO \[{program.process.pid}\] silly\.workers: listening on (\S+) ",
            program.output,
            re.MULTILINE,
        )
        assert set(told) == addresses
        assert len(told) == 1


@pytest.mark.parametrize(
    ("options", "text", "line"),
    [
        (["--log-level", "warning"], STOPS, ""),
        ([], "import logging; logging.basicConfig(level=30)" + STOPS, ""),
        (
            [],
            "import logging; logging.basicConfig(level=20, format='own: %(message)s')" + STOPS,
            r"own: listening on \S+ .*\n",
        ),
    ],
)
def test_a_program_can_silence_it(tmp_path: Path, options: list[str], text: str, line: str) -> None:
    with running("-m", "silly", *options, script(tmp_path, text)) as program:
        output = program.rest()
        assert program.process.returncode == 0
    assert re.fullmatch(line, re.sub(r"^at .*\n", "", output, flags=re.MULTILINE)), output


CRASHES = """
from silly.net import tcp

async def handler(conn):
    raise ZeroDivisionError("on purpose")

async with tcp.listen("127.0.0.1:0", handler) as listener:
    async with tcp.connect(listener.local_addr) as conn:
        try:
            await conn.read()
        except (EOFError, OSError):
            pass
"""


def test_logs_in_json(tmp_path: Path) -> None:
    options = ("--log-format", "json", "--log-level", "debug")
    with running("-m", "silly", *options, script(tmp_path, CRASHES)) as program:
        records = [json.loads(line) for line in program.rest().splitlines()]
    (crash,) = [each for each in records if each["level"] == "ERROR"]
    assert crash["logger"] == "silly.net"
    assert crash["process"] == program.process.pid
    assert "handler handler failed" in crash["message"]
    assert crash["exception"].endswith("ZeroDivisionError: on purpose")
    assert crash["time"].endswith("Z")


def test_logs_in_text_and_of_workers(tmp_path: Path) -> None:
    for options in ((), ("--workers", "1")):
        with running("-m", "silly", *options, script(tmp_path, CRASHES)) as program:
            output = program.rest()
        crash = rf"^{STAMP} ERROR \[\d+\] silly\.net: \S+: handler handler failed\nTraceback"
        assert len(re.findall(crash, output, re.MULTILINE)) == 1
    assert re.search(rf"^{STAMP} INFO \[\d+\] silly\.workers: worker 1", output, re.MULTILINE)


def test_version_says_why_the_native_engine_is_absent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        with pytest.raises(SystemExit):
            main(["--version"])
        return capsys.readouterr().out

    if silly.engine() == "native":
        assert said().count("\n") == 1
    monkeypatch.setattr("silly._engine.engine", portable)
    monkeypatch.setenv("SILLY_ENGINE", "portable")
    assert "no native engine: SILLY_ENGINE=portable is set" in said()
    monkeypatch.delenv("SILLY_ENGINE")
    monkeypatch.setattr(importlib, "import_module", missing)
    assert "it was not built when silly was installed" in said()
    assert "--no-cache-dir" in said()
    monkeypatch.setattr(importlib, "import_module", broken)
    assert "it cannot be loaded: undefined symbol" in said()


def missing(name: str) -> None:
    raise ModuleNotFoundError(f"No module named '{name}.reactor'", name=f"{name}.reactor")


def broken(_name: str) -> None:
    raise ImportError("undefined symbol: x")
