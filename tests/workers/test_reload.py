"""``silly --reload``, as a developer uses it."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import python_path
from tests.workers.harness import ECHO, Running, ask, environment, running, script, who

pytestmark = pytest.mark.no_engine

watchfiles = pytest.importorskip("watchfiles")

LISTENING = r"listening \S+ \d+ (\S+)"
FIRST = 'print("version 1", flush=True)\n'


def change(silly: Running, path: Path, text: str) -> None:
    """Write *text* until it is noticed: watching may start later than the program."""
    for _ in range(100):
        path.write_text(text)
        ready, _, _ = select.select([silly.process.stdout], [], [], 0.3)
        if ready:
            break
    silly.until(f"{path.name} changed: restarting")


def test_program_restarts_after_a_change_and_keeps_its_port(tmp_path: Path) -> None:
    path = script(tmp_path, ECHO + FIRST)
    with running("-m", "silly", path, "--reload") as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("version 1")
        silly.until("is ready")
        _, pid = who(addr)
        change(silly, path, ECHO + FIRST.replace("1", "2"))
        assert silly.until(LISTENING) == [addr]
        silly.until("version 2")
        silly.until("is ready")
        assert who(addr)[1] != pid
        silly.send(signal.SIGHUP)
        assert silly.until(LISTENING) == [addr]
        silly.until("version 2")
        silly.until("is ready")
        silly.send(signal.SIGINT)
        silly.rest()
        assert silly.process.returncode == 0


def test_crash_shows_its_traceback_and_waits_for_the_next_change(tmp_path: Path) -> None:
    path = script(tmp_path, ECHO)
    with running("-m", "silly", "--reload", path) as silly:
        addr = silly.until(LISTENING)[0]
        silly.until("is ready")
        change(silly, path, "1 / 0\n")
        silly.until("ZeroDivisionError: division by zero")
        silly.until("the program ended with exit code 1; waiting for a change")
        change(silly, path, ECHO)
        silly.until("is ready")
        assert ask(addr, b"fine\n") == b"fine\n"
        silly.stop()


def test_program_that_ends_waits_for_a_change_too(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    page = pages / "page.html"
    page.write_text("version 1")
    path = script(tmp_path, f"print(open({str(page)!r}).read(), flush=True)\n")
    watching = ("--reload", "--reload-dir", pages, "--reload-include", "*.html")
    with running("-m", "silly", *watching, path) as silly:
        assert silly.until(r"watching (.*)") == [str(pages)]
        silly.until("version 1")
        silly.until("the program ended with exit code 0; waiting for a change")
        change(silly, page, "version 2")
        silly.until("version 2")
        silly.until("waiting for a change")
        silly.send(signal.SIGTERM)
        silly.rest()
        assert silly.process.returncode == 0


def test_missing_library_is_one_line_that_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "watchfiles.py").write_text("raise ImportError\n")
    done = subprocess.run(
        [sys.executable, "-m", "silly", "--reload", script(tmp_path)],
        env=environment(PYTHONPATH=python_path(tmp_path)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("silly: --reload needs watchfiles: ")
    assert done.stderr.endswith(" -m pip install watchfiles\n")
