"""The progress of a run on a pseudo-terminal, as a user sees it."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from silly._terminal.graph import sparkline
from silly.bench.plan import Plan
from silly.bench.recorder import AFTER, Interval
from silly.bench.schedule import Stage
from silly.bench.view import View
from tests.bench import servers
from tests.bench.servers import serving
from tests.cli.terminal import python_path

pytestmark = pytest.mark.no_engine


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with serving(servers.echo) as addr:
        yield addr


class Terminal:
    """A process on a pseudo-terminal of a given width."""

    def __init__(self, columns: int, *args: str, **env: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.before = termios.tcgetattr(theirs)
        unwanted = {"NO_COLOR", "COLUMNS", "LINES"}
        kept = {name: value for name, value in os.environ.items() if name not in unwanted}
        kept |= {"TERM": "xterm-256color", **env}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "silly", "bench", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=kept,
            start_new_session=True,
        )
        self.theirs = theirs
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a piece may end in a character

    def read_until(self, pattern: str) -> None:
        while not re.search(pattern, self.text):
            piece = os.read(self.ours, 65536)
            assert piece, self.text
            self.text += self._decoder.decode(piece)

    def end(self) -> str:
        """Wait for the end, check the terminal's state, and return all output."""
        after = termios.tcgetattr(self.theirs)
        os.close(self.theirs)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(self.ours, 65536):
                self.text += self._decoder.decode(piece)
        os.close(self.ours)
        self.process.wait(30)
        assert after == self.before
        # The cursor is restored, and the live view is gone.
        assert self.text.count("\x1b[?25l") == self.text.count("\x1b[?25h")
        assert "Traceback" not in self.text
        return self.text


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("columns", [80, 59, 30])
def test_live_view(echo: str, columns: int) -> None:
    terminal = Terminal(columns, echo, "-t", "400ms", "--interval", "50ms", "--warmup", "100ms")
    text = terminal.end()
    assert terminal.process.returncode == 0
    live, _, summary = plain(text).rpartition("closed loop")
    assert f"silly bench {echo}"[: columns - 1] in live
    assert "left" in live
    assert re.search("[▁▂▃▄▅▆▇█]", live)
    assert "every reply was right" in summary
    for line in re.split(r"[\r\n]+", live):
        assert len(line) <= columns, line


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_respected(echo: str, env: dict[str, str], coloured: bool) -> None:
    terminal = Terminal(80, echo, "-t", "200ms", "--interval", "50ms", **env)
    text = terminal.end()
    assert bool(re.search(r"\x1b\[(?:\d;)*3[0-9]", text)) is coloured


def test_a_dumb_terminal_gets_no_escapes(echo: str) -> None:
    terminal = Terminal(80, echo, "-t", "200ms", "--interval", "50ms", TERM="dumb")
    assert "\x1b" not in terminal.end()


def test_without_rich_one_line_says_what_to_do(echo: str, tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError('there is none', name='rich')")
    terminal = Terminal(80, echo, PYTHONPATH=python_path(tmp_path))
    text = " ".join(terminal.end().split())
    assert terminal.process.returncode == 2
    assert text.startswith("silly bench: the live view needs rich: ")
    assert text.endswith(" (or --quiet)")


def test_an_interrupted_run_restores_the_terminal_and_prints_the_summary(echo: str) -> None:
    terminal = Terminal(80, echo, "-t", "60s", "--interval", "50ms")
    terminal.read_until("[▁▂▃▄▅▆▇█]")
    os.killpg(terminal.process.pid, signal.SIGINT)  # like Ctrl-C: to the whole process group
    text = plain(terminal.end())
    assert terminal.process.returncode == 130
    assert re.search(r"requests +\d.*, interrupted", text)
    assert "every reply was right" in text


# ----------------------------------------------------------------- the picture itself


def shown(plan: Plan, *intervals: Interval, seconds: float, width: int = 80) -> str:
    console = Console(width=width, height=24, force_terminal=False, record=False)
    view = View(console, "silly bench 127.0.0.1:9999")
    view._plan = plan
    view._seconds = seconds
    for interval in intervals:
        view.interval(interval)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def an_interval(index: int, count: int, latency: int, errors: int = 0) -> Interval:
    made = Interval(index)
    made.length = 1.0
    made.latency.record(latency, count)
    if errors:
        made.errors["lost"] = errors
    return made


def test_progress_and_remaining_time() -> None:
    addr = "127.0.0.1:9999"
    timed = Plan(addr, duration=90, warmup=10)
    assert "warm-up, 6 s left" in shown(timed, seconds=4)
    assert "50%  45 s left" in shown(timed, seconds=55)
    assert "11%  1:20 left" in shown(timed, seconds=20)
    assert "100%  0 s left" in shown(timed, seconds=1000)
    counted = Plan(addr, requests=400)
    assert "0%" in shown(counted, seconds=1)
    text = shown(counted, an_interval(0, 100, 5_000_000), seconds=2)
    assert "25%  about 6 s left" in text
    hours = Plan(addr, stages=(Stage(7200, 5),))
    assert "50%  1:00:00 left" in shown(hours, seconds=3600)
    assert "connecting" in shown(None, seconds=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_figures(width: int) -> None:
    intervals = [an_interval(n, 100 * n, 1_000_000, errors=n == 3) for n in range(1, 5)]
    intervals[-1].connections = 12
    after = an_interval(AFTER, 7, 9_000_000)
    text = shown(Plan("x:1"), *intervals, after, seconds=5, width=width)
    assert max(map(len, text.splitlines())) <= width
    if width >= 60:
        assert re.search(r"requests +errors +connections\n", text)
        assert re.search(r"^total +1 007 +1 +12 *$", text, re.MULTILINE)
        assert re.search(r"^ +p50 +p90 +p99 +max\nlast 1 s( +1 ms){4}", text, re.MULTILINE)
        assert re.search("▂+▄+▆+█+", text)
        assert "400 /s" in text


def test_figures_of_an_open_loop() -> None:
    interval = an_interval(0, 100, 1_000_000)
    interval.late, interval.max_lag = 7, 30_000_000
    text = shown(Plan("x:1", rate=500.0), interval, seconds=1)
    assert re.search(r"sent late\ntotal .* 7 *\n", text)
    assert re.search(r"target .* behind\nlast 1 s +500 /s .* 30 ms", text)
    ramp = Plan("x:1", rate=0.0, stages=(Stage(10, 1000),), warmup=2)
    assert "500 /s" in shown(ramp, seconds=7)


def test_a_stalled_server_is_shown() -> None:
    before = an_interval(0, 100, 4_000_000)
    text = shown(Plan("x:1"), before, Interval(1), an_interval(2, 0, 1), seconds=3)
    assert re.search(r"^last 1 s( +-){4} *$", text, re.MULTILINE)
    assert "no reply for 1 s" in text
    assert re.search(r"^rate +0 /s +█+▁+$", text, re.MULTILINE)
    assert re.search(r"^p99 +- +█+ *$", text, re.MULTILINE)
    again = shown(
        Plan("x:1"), before, an_interval(1, 0, 1), an_interval(2, 50, 4_000_000), seconds=3
    )
    assert "no reply" not in again
    assert re.search(r"^p99 +4 ms +█+ +█+$", again, re.MULTILINE)


def test_first_figures_are_early() -> None:
    view = View(Console(width=80, height=24), "title")
    view.started(Plan("x:1"))
    first = an_interval(0, 25, 1_000_000)
    first.length = 0.25
    view.early(first)
    with view._console.capture() as capture:
        view._console.print(view)
    assert "last 250 ms" in capture.get()
    assert "100 /s" in capture.get()


def test_a_large_terminal_has_large_graphs() -> None:
    console = Console(width=140, height=40, force_terminal=False)
    view = View(console, "title")
    view.started(Plan("x:1"))
    for number in range(10):
        view.interval(an_interval(number, number + 1, 1_000_000))
    with console.capture() as capture:
        console.print(view)
    graphs = [line for line in capture.get().splitlines() if "█" in line]
    assert len(graphs) >= 8
    assert max(map(len, graphs)) > 120


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([0, 1, 2, 4, 8]) == "▁▁▂▄█"
    assert sparkline([None, 8, None, 4]) == " █ ▄"
