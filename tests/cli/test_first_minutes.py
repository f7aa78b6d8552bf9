"""The mistakes of the first five minutes: each is answered with one line that helps."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from silly.cli import main
from silly.net import addr
from tests.workers.harness import running, script


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line with which the command is refused."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("verb", ["connect", "bench", "echo"])
def test_host_and_port_apart(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said(capsys, verb, "localhost", "9999")
    if verb != "echo":  # which takes several addresses
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
    for verb in ("connect", "bench", "echo"):
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
def test_a_name_that_is_no_file(
    typed: str,
    meant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    script(tmp_path, "", name="app.py")
    assert said(capsys, typed, "localhost:1").endswith(f"did you mean: {meant}\n")


def test_a_name_like_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "a script (FILE.py), MODULE:FUNCTION or a verb" in said(capsys, "xyzzy")


def test_help_is_a_word_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["help"])
    assert "silly bench" in capsys.readouterr().out
    assert main(["help", "connect"]) == 0
    assert "Usage: silly connect" in capsys.readouterr().out


def test_help_that_is_not_read_to_its_end() -> None:
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


def test_another_error_than_the_refusal_is_shown(tmp_path: Path) -> None:
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
