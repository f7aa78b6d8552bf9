"""`silly repl`: on a terminal as somebody types, and in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal

pytestmark = pytest.mark.no_engine


KILL = "import os, signal\nos.kill(os.getpid(), signal."


def piped(text: str, *args: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "silly", "repl", *args],
        input=text,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
    )


def test_in_a_pipe_each_statement_runs_and_shows_its_value(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import sys, contextvars\n"
        "var = contextvars.ContextVar('var')\n"
        "async def echo(conn):\n"
        "    async for line in conn: await conn.write(line)\n"
        "listener = tcp.listen('127.0.0.1:0', echo)\n"
        "await asyncio.sleep(0)\n"
        "print(sys.argv == [__file__], __name__)\n"
    )
    text = """
from __future__ import annotations
1 + 1
await asyncio.sleep(0, "slept")
async with tcp.connect(listener.local_addr) as conn:
    await conn.write(b"hello\\n")
    print(await conn.read(b"\\n"))
x: Nowhere = None
_ = var.set(3)
var.get()
silly.engine() in ("native", "portable")
def f():
    raise LookupError("shown with its line")

f()
print("not reached")
"""
    done = piped(text, str(tmp_path / "app.py"), tmp_path=tmp_path)
    assert done.stdout == "True __main__\n2\n'slept'\nb'hello\\n'\n3\nTrue\n"
    assert "LookupError: shown with its line" in done.stderr
    assert 'File "<stdin>", line 13, in f' in done.stderr
    assert "silly/" not in done.stderr  # no frames of the framework
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("text", "code", "error"),
    [
        ("", 0, ""),
        ("exit(3)", 3, ""),
        ("exit('words')", 1, "words"),
        ("def", 1, "SyntaxError"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nawait asyncio.sleep(99)",
            130,
            "K",
        ),
        (f"{KILL}SIGINT)\nawait asyncio.sleep(99)", 130, "KeyboardInterrupt"),
        (f"{KILL}SIGTERM)\nawait asyncio.sleep(99)", 0, ""),
    ],
)
def test_exit_codes_in_a_pipe(text: str, code: int, error: str, tmp_path: Path) -> None:
    done = piped(text, tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert error in done.stderr
    assert error or not done.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = piped("", "nowhere.py", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "silly repl: cannot read 'nowhere.py'" in done.stderr


def test_on_a_terminal(tmp_path: Path) -> None:
    with Terminal("repl", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.wait_for("^>>>")
        terminal.type("await asyncio.sleep(0, 'slept')\r")
        terminal.wait_for("^'slept'")
        terminal.type("if True:\r")
        terminal.wait_for(r"^\.\.\.")
        terminal.type("    print('in', 'side')\r\r")
        terminal.wait_for("^in side")
        terminal.type("print('waiting'); await asyncio.sleep(1000)\r")
        terminal.wait_for("^waiting")
        terminal.type("\x03")
        terminal.wait_for("^KeyboardInterrupt")
        terminal.type("1/0\r")
        terminal.wait_for("^ZeroDivisionError: division by zero")
        terminal.type("asyncio.get_runn\t")
        terminal.wait_for("asyncio.get_running_loop")
        terminal.type("\x03")
        terminal.type("print('spin'); all(iter(lambda: 1, 0))\r")
        terminal.wait_for("^spin")
        terminal.type("\x03")
        terminal.wait_for("KeyboardInterrupt\n(.*\n)*KeyboardInterrupt")
        terminal.type("l = tcp.listen('127.0.0.1:0', print); l\r")
        terminal.wait_for("<Listener 127.0.0.1")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    history = tmp_path / "silly" / "repl_history"
    assert "await asyncio.sleep(0, 'slept')" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600
